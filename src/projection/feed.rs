//! New entries, and those that waited, on their way to the projections.

use super::run::{LONGEST_LOCK, NotTaken, Patience, Projection, is_passing, judge, run_text};
use super::settle::{is_filled_here, last_log_id};
use super::unprojected::{ids, note_refused, note_waiting};
use crate::elsewhere;
use crate::pg::{
    BuiltinOid, LogRow, Statement, lock_table, log_rows, never_had_rows, notice_new_tables, return_fed_rows,
    rolled_back, subtransaction, try_keep_schema_name, try_lock_table, try_share_projection, with_settings,
};
use crate::settings::rule_timeout;
use audit_core::Reject;
use audit_core::SqlState;
use pgrx::prelude::*;
use std::time::Instant;

use BuiltinOid::{INT4OID, INT8ARRAYOID, INT8OID};

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.new_log() RETURNS SETOF audit_cdc_internal.log
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["log"])]
fn new_log(fcinfo: pg_sys::FunctionCallInfo) {
    return_fed_rows(fcinfo);
}

const LOOP: &str =
    "the change comes from a transaction in which projections were filled: fed again, it might never end";

thread_local! {
    static TARGETS: Statement = const { Statement::new(
        "SELECT target::oid FROM audit_cdc_internal.projections WHERE fed_to IS NULL", &[]) };

    static ACTIVE: Statement = const { Statement::new(
        "SELECT * FROM audit_cdc_internal.runnable_projections WHERE fed_to IS NULL ORDER BY id", &[]) };

    static REACHED: Statement = const { Statement::new(
        "DELETE FROM audit_cdc_internal.unprojected WHERE projection = $1 AND log_id = ANY ($2)",
        &[INT4OID, INT8ARRAYOID]) };

    static NOT_FOUND: Statement = const { Statement::new(
        concat!("SELECT array_agg(log_id) FROM ", not_found!()), &[INT4OID]) };

    static GONE: Statement = const { Statement::new(
        concat!("DELETE FROM ", not_found!(), " AND log_id = ANY ($2)"), &[INT4OID, INT8ARRAYOID]) };

    static WAITING: Statement = const { Statement::new(
        concat!(keys_of!(), unprojected!("sqlstate IS NULL"), entries_of!()), &[INT4OID, INT8OID, INT8OID]) };

    static FAILED: Statement = const { Statement::new(
        concat!(keys_of!(), unprojected!("true"), entries_of!()), &[INT4OID, INT8OID, INT8OID]) };
}

macro_rules! not_found {
    () => {
        "audit_cdc_internal.unprojected AS u
         WHERE projection = $1
           AND NOT EXISTS (SELECT FROM audit_cdc_internal.log
           WHERE commit_timestamp = u.commit_timestamp AND identity = u.identity)"
    };
}
macro_rules! unprojected {
    ($condition:literal) => {
        concat!(
            "SELECT log_id, commit_timestamp, identity FROM audit_cdc_internal.unprojected
                 WHERE projection = $1 AND log_id > $2 AND log_id <= $3 AND ",
            $condition,
            " ORDER BY log_id LIMIT 1000 FOR UPDATE SKIP LOCKED"
        )
    };
}
macro_rules! keys_of {
    () => {
        "SELECT l.* FROM (SELECT array_agg(u.commit_timestamp) AS times, array_agg(u.identity) AS identities FROM ("
    };
}
macro_rules! entries_of {
    () => {
        ") AS u) AS n CROSS JOIN LATERAL audit_cdc_internal.entries_of_keys(n.times, n.identities) AS l
         ORDER BY l.id"
    };
}
use {entries_of, keys_of, not_found, unprojected};

/// The enabled projections. They stay so while the caller holds its lock on the log.
pub fn active(is_of_a_rule: bool) -> Vec<Projection> {
    // most logs have none, and to look for one is cheap
    if never_had_rows(c"projections") {
        return Vec::new();
    }
    let targets: Vec<pg_sys::Oid> = TARGETS.with(|targets| {
        targets.run(Vec::new, |rows| rows.map(|row| Ok(row.get(1)?.unwrap_or(pg_sys::Oid::INVALID))).collect())
    });
    if targets.is_empty() {
        return Vec::new();
    }
    // what is read of a target now holds until the transaction ends
    let start = Instant::now();
    let locked: Vec<pg_sys::Oid> = targets.into_iter().filter(|target| is_locked(*target, start)).collect();
    let mut active = ACTIVE.with(|active| active.run(Vec::new, Projection::read_all));
    for projection in &mut active {
        projection.is_looping = is_of_a_rule;
        let is_filled_here = is_filled_here(projection.id);
        projection.is_free =
            !is_filled_here && locked.contains(&projection.target) && try_share_projection(projection.id);
        let may_catch_up = projection.is_free && projection.is_waiting && !projection.is_slow.get();
        if may_catch_up && has_time(start) {
            // in steps, so that no ingest has to do it all
            let step = || catch_up_step(projection, false, 0, i64::MAX, Patience::Short);
            match subtransaction(step) {
                Err(error) if elsewhere::refusal(&error).is_none() => error.rethrow(),
                // what waits may be of a month on a server that is away: then it waits on
                _ => {}
            }
        }
    }
    active
}

/// Feeds new entries to each of `projections`.
pub fn feed(projections: &[Projection], entries: &[LogRow]) {
    let start = Instant::now();
    for projection in projections {
        if projection.is_free && projection.is_looping {
            let reject = Reject::new(SqlState::TRIGGERED_DATA_CHANGE_VIOLATION, LOOP);
            note_refused(projection, entries.iter().map(|entry| (*entry, reject.clone())).collect());
        } else if projection.is_free && !projection.is_slow.get() && has_time(start) {
            let NotTaken { refused, postponed } = projection.run(entries, Patience::Short);
            note_refused(projection, refused);
            note_waiting(projection, &postponed);
        } else {
            note_waiting(projection, entries);
        }
    }
}

/// Locks a target, and its schema's name, unless somebody holds it for longer than an ingest waits.
fn is_locked(target: pg_sys::Oid, start: Instant) -> bool {
    is_table_locked(target, start) && try_keep_schema_name(target)
}

fn is_table_locked(target: pg_sys::Oid, start: Instant) -> bool {
    let wait = || with_settings(&[("lock_timeout", Some(LONGEST_LOCK))], || lock_table(target));
    if try_lock_table(target) || !has_time(start) {
        return try_lock_table(target);
    }
    match subtransaction(wait) {
        Ok(()) => true,
        Err(error) if judge(&error).is_some_and(|reject| is_passing(reject.sqlstate)) => false,
        Err(error) => error.rethrow(),
    }
}

/// Many rules that are just in time take long together: what comes after the time of one of them waits.
fn has_time(start: Instant) -> bool {
    rule_timeout().is_none_or(|timeout| start.elapsed() < timeout)
}

/// Feeds what waits now, and what failed too if `failed`. Returns how many entries the rule has taken.
pub fn catch_up(projection: &Projection, failed: bool) -> i64 {
    forget_gone(projection);
    let up_to = last_log_id();
    let (mut taken, mut after) = (0, 0);
    while let Some((count, last)) = catch_up_step(projection, failed, after, up_to, Patience::Endless) {
        (taken, after) = (taken + count, last);
    }
    taken
}

/// At most 1,000 entries of those after `after`, up to `up_to`. Returns how many the rule has taken, and the last.
fn catch_up_step(
    projection: &Projection,
    failed: bool,
    after: i64,
    up_to: i64,
    patience: Patience,
) -> Option<(i64, i64)> {
    let unprojected = if failed { &FAILED } else { &WAITING };
    unprojected.with(|unprojected| {
        unprojected.run(
            || vec![projection.id.into(), after.into(), up_to.into()],
            |result| {
                let entries = log_rows(result);
                let NotTaken { refused, postponed } = projection.run(&entries, patience);
                let last = entries.last().map(|entry| entry.id);
                let left: Vec<i64> =
                    refused.iter().map(|(entry, _)| entry.id).chain(postponed.iter().map(|entry| entry.id)).collect();
                let mut reached = ids(&entries);
                reached.retain(|id| !left.contains(id));
                let taken = reached.len() as i64;
                REACHED.with(|statement| statement.run(|| vec![projection.id.into(), reached.into()], |_| Ok(())));
                note_refused(projection, refused);
                Ok(last.map(|last| (taken, last)))
            },
        )
    })
}

/// Entries whose month has been dropped. A statement may be planned before another session adds a month, and run after
/// it. It sees what waits of that month, and not the month. So it looks twice, and waits in between for who adds one.
fn forget_gone(projection: &Projection) {
    let not_found: Option<Vec<i64>> =
        NOT_FOUND.with(|not_found| not_found.run(|| vec![projection.id.into()], |rows| rows.first().get_one()));
    let Some(not_found) = not_found else { return };
    rolled_back(|| run_text("LOCK TABLE ONLY audit_cdc_internal.log IN SHARE UPDATE EXCLUSIVE MODE"));
    notice_new_tables();
    GONE.with(|gone| gone.run(|| vec![projection.id.into(), not_found.into()], |_| Ok(())));
}
