//! How much each audited table has in the log, counted as it is stored.

use super::entry::timestamp;
use super::numbers::last_number;
use super::store::Stored;
use crate::pg::BuiltinOid::{INT4OID, INT8OID, TIMESTAMPTZOID};
use crate::pg::{BuiltinOid, Statement};

const TALLIED: &[BuiltinOid] = &[INT4OID, INT8OID, TIMESTAMPTZOID, INT8OID];

thread_local! {
    static ADD_TO_TALLY: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.tallies
         SET stored = stored + $2, last_commit = greatest(last_commit, $3), last_arrival = now(),
         last_id = greatest(last_id, $4)
         WHERE id = (SELECT id FROM audit_cdc_internal.tallies WHERE audited_table = $1 LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING id", TALLIED) };

    static NEW_TALLY: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.tallies (audited_table, stored, last_commit, last_arrival, last_id)
         VALUES ($1, $2, $3, now(), $4)",
        TALLIED) };
}

pub fn tally(stored: &Stored) {
    for (table, (count, last)) in &stored.by_table {
        let values = || vec![(*table).into(), (*count).into(), timestamp(*last).into(), last_number().into()];
        let is_counted = ADD_TO_TALLY.with(|tally| tally.run(values, |rows| Ok(!rows.is_empty())));
        if !is_counted {
            NEW_TALLY.with(|tally| tally.run(values, |_| Ok(())));
        }
    }
}
