//! Annotations that are too large to stand in each entry: each is stored once.

use crate::pg::BuiltinOid::{TEXTOID, UUIDOID};
use crate::pg::Statement;
use audit_core::message::{Annotations, Change, Digest, Large};
use pgrx::Uuid;
use std::collections::BTreeMap;
use std::rc::Rc;

thread_local! {
    // what is there already is not read as jsonb again
    static STORE: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.large_annotations (id, annotations)
         SELECT $1, $2::jsonb WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.large_annotations WHERE id = $1)
         ON CONFLICT DO NOTHING", &[UUIDOID, TEXTOID]) };
}

/// By the digest of what was sent.
pub type LargeAnnotations<'a> = BTreeMap<Digest, Rc<Large<'a>>>;

/// Those of `changes`. Changes with equal ones share them from here on.
pub fn large_annotations<'a>(changes: &mut [Change<'a>]) -> LargeAnnotations<'a> {
    let mut found = LargeAnnotations::new();
    for change in changes {
        let Some(annotations) = &mut change.annotations else { continue };
        if let Annotations::Large(large) = annotations {
            found.entry(large.id).or_insert_with(|| Rc::clone(large));
        } else if let Some((id, text)) = annotations.large_text(&change.table.database_id) {
            let large = found.entry(id).or_insert_with(|| Rc::new(Large::of_text(id, text)));
            *annotations = Annotations::Large(Rc::clone(large));
        }
    }
    found
}

/// In one order in every session.
pub fn store(annotations: &LargeAnnotations) {
    let by_id: BTreeMap<Digest, &Rc<Large>> = annotations.values().map(|large| (large.id, large)).collect();
    for (id, large) in by_id {
        STORE.with(|store| store.run(|| vec![Uuid::from_bytes(id).into(), (&*large.text).into()], |_| Ok(())));
    }
}
