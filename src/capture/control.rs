//! What starting a capture and watching it needs beyond SQL.

use crate::pg::{self, BuiltinOid, Desk, ErrorReport, Statement};
use crate::settings;
use audit_core::SqlState;
use pgrx::prelude::*;
use std::ffi::CStr;

/// Who has it reads the slot of the capture, or moves it. Until the transaction ends.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.lock_capture() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn lock_capture() -> Result<(), ErrorReport> {
    if pg::is_in_recovery() {
        let message = "capture does not run on a standby";
        return Err(ErrorReport::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            message,
            "lock_capture",
        )
        .set_hint("It runs on the primary, and its log comes to the standby."));
    }
    pg::lock_capture();
    Ok(())
}

/// Makes a slot of ours; a rolled back start takes it along. Returns the position from which on it can be read.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.new_slot(slot name) RETURNS pg_lsn
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn new_slot(slot: &CStr) -> i64 {
    pg::new_slot(slot, settings::capture_failover()) as i64
}

thread_local! {
    static IS_BEHIND: Statement = const { Statement::new(
        "SELECT EXISTS (SELECT
         FROM audit_cdc_internal.captures AS c JOIN pg_replication_slots AS s ON s.slot_name = c.slot
                        WHERE c.slot = $1::name AND s.confirmed_flush_lsn < '0/0'::pg_lsn + $2
                        AND c.read_to >= '0/0'::pg_lsn + $2)",
        &[BuiltinOid::TEXTOID, BuiltinOid::INT8OID]) };
}

/// What the log says that this session's last pass has read is not sent again. Nobody can name another position,
/// nor let go of what is not committed.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.advance_capture() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn advance_capture() {
    pg::lock_capture();
    let Some(pass) = pg::stored_pass() else { return };
    let slot = pass.slot.to_string_lossy();
    let arguments = || vec![(&*slot).into(), (pass.read_to as i64).into()];
    if IS_BEHIND.with(|is_behind| is_behind.read(arguments, |rows| rows.first().get_one())) == Some(true) {
        pg::confirm_slot(&pass.slot, pass.read_to);
    }
}

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.is_preloaded() RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn is_preloaded() -> bool {
    pg::is_preloaded()
}

/// False: `max_worker_processes` leaves no room.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.start_capture_worker() RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn start_capture_worker() -> bool {
    pg::start_capture_worker()
}

/// The worker of this database looks at once, also if it has failed and waits. False: there is none that could be
/// called.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.call_capture_worker() RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn call_capture_worker() -> bool {
    pg::desk().map(|desk| desk.call()).is_some()
}

type Time = Option<TimestampWithTimeZone>;

/// What the worker tells in shared memory; nulls: there is no worker, or it does not know. `looked_at` and `looked_to`:
/// what was committed before, by time and by position, is captured. `is_behind`: something has been committed since,
/// the first of it at `behind_since`.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.last_look()
  RETURNS TABLE (looked_at timestamptz, looked_to pg_lsn, is_behind boolean, behind_since timestamptz)
  LANGUAGE c VOLATILE PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn last_look() -> TableIterator<
    'static,
    (name!(looked_at, Time), name!(looked_to, Option<i64>), name!(is_behind, Option<bool>), name!(behind_since, Time)),
> {
    let time = |time: i64| TimestampWithTimeZone::try_from(time).ok();
    let seen = pg::desk().map(|desk| desk.seen());
    let seen = seen.as_ref();
    TableIterator::once((
        seen.and_then(|seen| time(seen.looked_at?)),
        seen.and_then(|seen| Some(seen.looked_to? as i64)),
        seen.map(|seen| seen.is_behind),
        seen.and_then(|seen| time(seen.behind_since?)),
    ))
}

/// Since the worker has its place; null: there is no worker.
/// `None`: the library is not preloaded, or a standby has no need to.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.can_seal() RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn can_seal() -> Option<bool> {
    (pg::is_preloaded() && !pg::is_in_recovery()).then(|| pg::with_sealer(|_| ()).is_some())
}

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.lost_annotations() RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn lost_annotations() -> Option<i64> {
    pg::desk().map(Desk::lost_annotations)
}

/// The worker's last failure, which shared memory keeps also where nothing can be written.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.last_failure()
  RETURNS TABLE (failed_at timestamptz, failure text)
  LANGUAGE c VOLATILE PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn last_failure() -> TableIterator<'static, (name!(failed_at, Time), name!(failure, Option<String>))> {
    let failure = pg::desk().and_then(|desk| desk.seen().failure);
    TableIterator::once((
        failure.and_then(|(at, _)| TimestampWithTimeZone::try_from(at).ok()),
        failure.map(|(_, sqlstate)| SqlState::unpacked(sqlstate).as_str().to_owned()),
    ))
}
