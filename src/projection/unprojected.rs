//! Notes of entries that a projection has not got: they wait, or its rule could not take them.

use super::run::Projection;
use crate::pg::BuiltinOid::{INT4OID, INT8ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, UUIDARRAYOID};
use crate::pg::{LogRow, Statement};
use audit_core::Reject;
use pgrx::Uuid;
use pgrx::prelude::*;

thread_local! {
    static WAIT: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.unprojected (projection, log_id, commit_timestamp, identity)
         SELECT $1, n.* FROM unnest($2, $3, $4) AS n", &[INT4OID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, UUIDARRAYOID]) };

    static REFUSED: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.unprojected AS u (projection, log_id, commit_timestamp, identity, sqlstate,
         reason)
         SELECT $1, n.* FROM unnest($2, $3, $4, $5, $6) AS n
         ON CONFLICT ON CONSTRAINT unprojected_pkey DO UPDATE
           SET sqlstate = excluded.sqlstate, reason = excluded.reason,
           retries = u.retries + (u.sqlstate IS NOT NULL)::integer,
               last_retried_at = CASE WHEN u.sqlstate IS NOT NULL THEN now() END",
        &[INT4OID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID]) };
}

pub fn note_waiting(projection: &Projection, entries: &[LogRow]) {
    if !entries.is_empty() {
        WAIT.with(|wait| {
            wait.run(
                || vec![projection.id.into(), ids(entries).into(), times(entries).into(), identities(entries).into()],
                |_| Ok(()),
            );
        });
    }
}

/// Notes the entries that the rule could not take.
pub fn note_refused(projection: &Projection, refused: Vec<(LogRow, Reject)>) {
    if refused.is_empty() {
        return;
    }
    let (entries, rejects): (Vec<LogRow>, Vec<Reject>) = refused.into_iter().unzip();
    REFUSED.with(|statement| {
        statement.run(
            || {
                vec![
                    projection.id.into(),
                    ids(&entries).into(),
                    times(&entries).into(),
                    identities(&entries).into(),
                    rejects.iter().map(|reject| reject.sqlstate.as_str()).collect::<Vec<_>>().into(),
                    rejects.iter().map(|reject| reject.reason.as_ref()).collect::<Vec<_>>().into(),
                ]
            },
            |_| Ok(()),
        );
    });
}

pub fn ids(entries: &[LogRow]) -> Vec<i64> {
    entries.iter().map(|entry| entry.id).collect()
}

fn times(entries: &[LogRow]) -> Vec<TimestampWithTimeZone> {
    entries.iter().map(|entry| entry.commit_timestamp).collect()
}

fn identities(entries: &[LogRow]) -> Vec<Uuid> {
    entries.iter().map(|entry| Uuid::from_bytes(entry.identity)).collect()
}
