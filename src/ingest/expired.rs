//! Messages from before the horizon of their table: retention has removed what was there, and it is not stored again.

use super::entry::{Entry, timestamp};
use super::month::{Month, months};
use crate::pg::BuiltinOid::{INT4OID, INT8OID, TIMESTAMPTZOID};
use crate::pg::Statement;
use audit_core::message::Origin;
use std::collections::BTreeMap;

thread_local! {
    static CAME_AGAIN: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.removals AS r (audited_table, month, entries, came_again)
         VALUES ($1, ($2 AT TIME ZONE 'UTC')::date, 0, $3)
         ON CONFLICT (audited_table, month) DO UPDATE SET came_again = r.came_again + excluded.came_again",
        &[INT4OID, TIMESTAMPTZOID, INT8OID]) };
}

/// Takes them out of `entries`, which are in the order of commits, and counts them. Capture brings nothing twice.
pub fn take_expired(entries: &mut Vec<Entry>) -> i64 {
    let is_expired = |entry: &Entry| {
        let commit = || timestamp(entry.change.commit_microseconds);
        entry.origin == Origin::Ingest && entry.table.horizon.is_some_and(|horizon| commit() < horizon)
    };
    let expired: Vec<Entry> = entries.extract_if(.., |entry| is_expired(entry)).collect();
    let mut counts: BTreeMap<(i32, Month), i64> = BTreeMap::new();
    for (month, entries) in months(&expired, |entry| entry.change.commit_microseconds) {
        for entry in entries {
            *counts.entry((entry.table.number, month)).or_default() += 1;
        }
    }
    for ((table, month), count) in &counts {
        let arguments = || vec![(*table).into(), timestamp(month.start()).into(), (*count).into()];
        CAME_AGAIN.with(|came_again| came_again.run(arguments, |_| Ok(())));
    }
    expired.len() as i64
}
