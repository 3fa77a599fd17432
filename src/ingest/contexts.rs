//! What the server knew of sessions: the same for many changes, each is stored once.

use crate::pg::BuiltinOid::{TEXTARRAYOID, UUIDARRAYOID};
use crate::pg::Statement;
use audit_core::message::{Change, Digest};
use pgrx::Uuid;
use std::collections::BTreeMap;

thread_local! {
    static STORE: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.server_contexts (id, context)
         SELECT n.id, n.context::jsonb FROM unnest($1, $2) AS n (id, context)
         WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.server_contexts AS s WHERE s.id = n.id)
         ON CONFLICT DO NOTHING", &[UUIDARRAYOID, TEXTARRAYOID]) };
}

/// Those of `changes`, in one order in every session.
pub fn store(changes: &[Change]) {
    let contexts: BTreeMap<Digest, &str> = changes
        .iter()
        .filter_map(|change| change.who.context.as_ref())
        .map(|context| (context.id, context.text.as_str()))
        .collect();
    if !contexts.is_empty() {
        let ids: Vec<Uuid> = contexts.keys().copied().map(Uuid::from_bytes).collect();
        let texts: Vec<&str> = contexts.into_values().collect();
        STORE.with(|store| store.run(|| vec![ids.clone().into(), texts.clone().into()], |_| Ok(())));
    }
}
