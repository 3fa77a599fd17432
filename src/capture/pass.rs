//! One pass: what is pending in the captured slot goes into the log. The caller commits, and then advances the slot.

use super::decode::Commit;
use super::schema_changes::note_positions;
use super::slot::{Read, Slot};
use crate::ingest::{capturing, make_months_ahead, take_captured};
use crate::isolate::Isolation;
use crate::message::{Origin, Written};
use crate::pg::{self, BuiltinOid, ErrorReport, Pass};
use crate::statement::Statement;
use pgrx::prelude::*;
use std::ffi::CString;

/// At most so much is handed to ingest at once.
const MOST_CHANGES: usize = 1_000;
const MOST_BYTES: usize = 8 << 20;

/// The next pass begins to read where a list of running transactions was logged last. PostgreSQL logs one every 15 seconds.
const FAR: u64 = 16 << 20;

thread_local! {
    static DISTANCE: Statement = const { Statement::new(
        "SELECT (pg_current_wal_flush_lsn() - restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $1", &[BuiltinOid::TEXTOID]) };

    static OLDEST: Statement = const { Statement::new(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint", &[]) };

    static FORGET: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.forget_projecting_transactions($1)", &[BuiltinOid::INT8OID]) };

    static CAPTURED: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.note_captured($1, $2, $3)", &[BuiltinOid::INT8OID, BuiltinOid::INT8OID, BuiltinOid::TIMESTAMPTZOID]) };
}

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.capture_pass(upto_nchanges integer)
  RETURNS TABLE (captured bigint, reached pg_lsn, is_complete boolean)
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  SET work_mem = '32MB' SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
  SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn capture_pass(
    upto_nchanges: Option<i32>,
) -> Result<TableIterator<'static, (name!(captured, i64), name!(reached, i64), name!(is_complete, bool))>, ErrorReport>
{
    pg::pinned(|| pass(upto_nchanges))
        .map(|(captured, pass)| TableIterator::once((captured, pass.reached as i64, pass.is_complete)))
}

/// How many changes are new in the log.
fn pass(upto_nchanges: Option<i32>) -> Result<(i64, Pass), ErrorReport> {
    let began_at = pg::now();
    let slot = Slot::captured()?;
    let far = DISTANCE
        .with(|distance| distance.read(|| vec![slot.slot.as_str().into()], |rows| rows.first().get_one::<i64>()));
    if far.is_some_and(|distance| distance as u64 > FAR) {
        pg::log_running_transactions();
    }
    // who is older has committed, so that what he wrote is read below
    let oldest = OLDEST.with(|oldest| oldest.read(Vec::new, |rows| rows.first().get_one::<i64>()));
    pg::flush_wal();
    let flushed = pg::flushed_lsn();
    let (captured, read) = capturing(|isolation| take_pending(&slot, upto_nchanges, isolation))?;
    if let (1.., Some(Commit { lsn, time, .. })) = (captured, read.last) {
        let time = TimestampWithTimeZone::try_from(time).unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity());
        CAPTURED
            .with(|statement| statement.run(|| vec![captured.into(), (lsn as i64).into(), time.into()], |_| Ok(())));
    }
    make_months_ahead();
    // where the slot is advanced to may be on disk sooner
    pg::commit_to_disk();
    let is_complete = !read.is_cut && upto_nchanges.is_none_or(|upto| read.count < i64::from(upto));
    if is_complete {
        FORGET.with(|forget| forget.read(|| vec![oldest.into()], |_| Ok(())));
    }
    let reached = if is_complete { read.end_lsn.max(flushed) } else { read.end_lsn };
    let pass = Pass { slot: CString::new(slot.slot).unwrap_or_default(), reached, began_at, is_complete };
    pg::note_read(pass.clone());
    Ok((captured, pass))
}

/// How many changes are new in the log, and what was read.
fn take_pending(slot: &Slot, upto_nchanges: Option<i32>, isolation: Isolation) -> Result<(i64, Read), ErrorReport> {
    let (mut captured, mut bytes) = (0, 0);
    let mut waiting: Vec<Written> = Vec::new();
    let read = slot.read(upto_nchanges, |decoded| {
        note_positions(&std::mem::take(&mut decoded.schema_changes));
        bytes += Written::bytes(&decoded.changes);
        waiting.append(&mut decoded.changes);
        if waiting.len() >= MOST_CHANGES || bytes >= MOST_BYTES {
            captured += take_parts(&std::mem::take(&mut waiting), isolation);
            bytes = 0;
        }
    })?;
    captured += take_parts(&waiting, isolation);
    Ok((captured, read))
}

/// Changes that rules have caused go their own way.
fn take_parts(changes: &[Written], isolation: Isolation) -> i64 {
    changes
        .chunk_by(|one, two| one.is_of_a_rule == two.is_of_a_rule)
        .map(|part| take_captured(part, Origin::Capture, isolation))
        .sum()
}
