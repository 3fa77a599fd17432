//! What may be spelled in several ways: record keys, and the images of reads.

use super::entry::{Entry, record_id, record_pks};
use crate::pg::BuiltinOid::{INT4ARRAYOID, TEXTARRAYOID};
use crate::pg::Statement;
use audit_core::message::{Change, array_literal};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::borrow::Cow;

thread_local! {
    static RECORD_KEYS: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.keep_record_keys($1, $2, $3, $4)",
        &[INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID]) };

    static DIGESTS: Statement = const { Statement::new(
        "SELECT encode(sha256(convert_to(image::jsonb::text, 'UTF8')), 'hex')
         FROM unnest($1) WITH ORDINALITY AS i(image, place) ORDER BY place", &[TEXTARRAYOID]) };
}

/// Keys that may be spelled in several ways.
pub fn keep_record_keys(entries: &[Entry]) {
    let spelled: Vec<_> =
        entries.iter().filter(|e| e.table.key_types.is_some() && record_id(e).is_some()).copied().collect();
    for entries in spelled.chunks(10_000) {
        RECORD_KEYS.with(|keys| {
            keys.run(
                || {
                    vec![
                        column(entries, |e| e.table.number),
                        column(entries, |e| record_id(e)),
                        column(entries, |e| record_pks(e).map(array_literal)),
                        column(entries, |e| e.table.key_types.as_deref()),
                    ]
                },
                |_| Ok(()),
            );
        });
    }
}

/// Of each read's image, in `jsonb`'s own spelling.
pub fn image_digests<'c, 'a: 'c>(reads: impl Iterator<Item = &'c Change<'a>>) -> Vec<String> {
    DIGESTS.with(|digests| {
        digests.run(
            || vec![reads.map(|read| read.spelled_row().map(Cow::into_owned)).collect::<Vec<_>>().into()],
            |rows| rows.map(|row| Ok(row.get(1)?.unwrap_or_default())).collect(),
        )
    })
}

fn column<'e, 'd, 'c, 'a, T>(entries: &'e [Entry<'c, 'a>], value: impl Fn(&'e Entry<'c, 'a>) -> T) -> DatumWithOid<'d>
where
    T: IntoDatum + 'e,
    Vec<T>: IntoDatum,
    DatumWithOid<'d>: From<Vec<T>>,
{
    entries.iter().map(value).collect::<Vec<T>>().into()
}
