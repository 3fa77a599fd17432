//! One pass: what is pending in the captured slot goes into the log. The caller commits, and advances the slot when
//! that is on disk.

use super::chain::Link;
use super::schema_changes::{note_positions, note_truncated_partitions, settle_gaps};
use super::slot::{Read, Slot};
use crate::ingest::{capturing, make_months_ahead, take_captured};
use crate::pg::{self, BuiltinOid, ErrorReport, Isolation, Pass, Statement};
use audit_core::message::Origin;
use audit_core::wire::Captured;
use pgrx::prelude::*;
use std::ffi::CString;

use BuiltinOid::{INT8OID, TIMESTAMPTZOID};

/// The next pass begins to read where a list of running transactions was logged last. PostgreSQL logs one every 15
/// seconds.
const FAR: u64 = 16 << 20;

/// Where nothing is to be stored, what was read is noted only when it is so much: each note is WAL itself.
const WORTH_A_NOTE: u64 = 1 << 20;

thread_local! {
    static OLDEST: Statement = const { Statement::new(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint", &[]) };

    static FORGET: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.forget_projecting_transactions($1)", &[INT8OID]) };

    static CAPTURED: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.note_captured($1, $2, $3, $4, $5)",
        &[INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID]) };
}

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.capture_pass(
    upto_nchanges integer, is_asked boolean DEFAULT false)
  RETURNS TABLE (captured bigint, reached pg_lsn, is_complete boolean)
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET work_mem = '32MB' SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
  SET enable_hashjoin = off SET enable_mergejoin = off
  SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn capture_pass(
    upto_nchanges: Option<i32>,
    is_asked: Option<bool>,
) -> Result<TableIterator<'static, (name!(captured, i64), name!(reached, i64), name!(is_complete, bool))>, ErrorReport>
{
    pg::pinned(|| pass(upto_nchanges, is_asked == Some(true))).map(TableIterator::once)
}

/// How many changes are new in the log, the position that was reached, and whether that is all.
fn pass(upto_nchanges: Option<i32>, is_asked: bool) -> Result<(i64, i64, bool), ErrorReport> {
    if pg::snapshot_is_fixed() {
        // it might not show that a table is captured again
        let message = "a pass of capture runs under READ COMMITTED only";
        return Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION, message, "capture_pass"));
    }
    let began_at = pg::now();
    let slot = Slot::captured()?;
    let link = Link::before(&slot)?;
    if link.distance > FAR {
        pg::log_running_transactions();
    }
    // who is older has committed, so that what he wrote is read below
    let oldest = OLDEST.with(|oldest| oldest.read(Vec::new, |rows| rows.first().get_one::<i64>()));
    pg::flush_wal();
    let flushed = pg::flushed_lsn();
    let (captured, has_positions, read) = capturing(|isolation| take_pending(&slot, upto_nchanges, isolation))?;
    let is_complete = upto_nchanges.is_none_or(|upto| read.count < i64::from(upto));
    let reached = if is_complete { read.end_lsn.max(flushed) } else { read.end_lsn };
    let skipped_to = link.note_skipped(&slot, &read);
    if has_positions || link.is_unsettled {
        settle_gaps();
    }
    let is_far = link.distance > FAR || reached > link.read_to.max(link.confirmed) + WORTH_A_NOTE;
    let mut read_to = link.read_to.min(reached);
    if captured > 0 || skipped_to.is_some() || is_asked || is_far || !is_complete {
        let time = |time| TimestampWithTimeZone::try_from(time).ok();
        let last = read.last.filter(|_| captured > 0);
        let (lsn, last_commit) = (last.map(|last| last.lsn as i64), last.and_then(|last| time(last.time)));
        let read_to_time = if is_complete { time(began_at) } else { read.last.and_then(|last| time(last.time)) };
        let noted = reached.max(skipped_to.unwrap_or(0));
        let arguments =
            || vec![captured.into(), lsn.into(), last_commit.into(), (noted as i64).into(), read_to_time.into()];
        CAPTURED.with(|statement| statement.run(arguments, |_| Ok(())));
        read_to = reached;
    }
    make_months_ahead();
    // who asks relies on it; the next pass goes on from where the slot has followed to, else it reads all of it again
    if is_asked || !is_complete {
        pg::commit_to_disk();
    }
    if is_complete {
        FORGET.with(|forget| forget.read(|| vec![oldest.into()], |_| Ok(())));
    }
    pg::note_read(Pass { slot: CString::new(slot.slot).unwrap_or_default(), read_to });
    Ok((captured, reached as i64, is_complete))
}

/// How many changes are new in the log, whether places of DDL were found, and what was read.
fn take_pending(
    slot: &Slot,
    upto_nchanges: Option<i32>,
    isolation: Isolation,
) -> Result<(i64, bool, Read), ErrorReport> {
    let (mut captured, mut has_positions) = (0, false);
    let read = slot.read(upto_nchanges, |decoded| {
        has_positions |= !decoded.schema_changes.is_empty();
        note_positions(&std::mem::take(&mut decoded.schema_changes));
        note_truncated_partitions(&std::mem::take(&mut decoded.truncated_partitions));
        captured += take_parts(&std::mem::take(&mut decoded.changes), isolation);
    })?;
    Ok((captured, has_positions, read))
}

/// Changes that rules have caused go their own way.
fn take_parts(changes: &[Captured], isolation: Isolation) -> i64 {
    changes
        .chunk_by(|one, two| one.is_of_a_rule() == two.is_of_a_rule())
        .map(|part| take_captured(part, Origin::Capture, isolation))
        .sum()
}
