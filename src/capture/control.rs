//! What starting a capture and watching it needs beyond SQL.

use crate::pg::{self, BuiltinOid};
use crate::statement::Statement;
use pgrx::prelude::*;
use std::ffi::CStr;

/// Who has it reads the slot of the capture, or moves it. Until the transaction ends.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.lock_capture() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn lock_capture() {
    pg::lock_capture();
}

/// Makes a slot of ours; a rolled back start takes it along. Returns the position from which on it can be read.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.new_slot(slot name) RETURNS pg_lsn
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn new_slot(slot: &CStr) -> i64 {
    pg::new_slot(slot) as i64
}

thread_local! {
    static IS_BEHIND: Statement = const { Statement::new(
        "SELECT EXISTS (SELECT FROM audit_cdc_internal.captures AS c JOIN pg_replication_slots AS s ON s.slot_name = c.slot
                        WHERE c.slot = $1::name AND s.confirmed_flush_lsn < '0/0'::pg_lsn + $2)",
        &[BuiltinOid::TEXTOID, BuiltinOid::INT8OID]) };

    static LOOKED: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.captures SET looked_at = $1", &[BuiltinOid::TIMESTAMPTZOID]) };
}

/// What this session's last pass has read is not sent again. Nobody can name another position, nor let go of what is not committed.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.advance_capture() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn advance_capture() {
    pg::lock_capture();
    let Some(pass) = pg::stored_pass() else { return };
    let slot = pass.slot.to_string_lossy();
    let arguments = || vec![(&*slot).into(), (pass.reached as i64).into()];
    if IS_BEHIND.with(|is_behind| is_behind.read(arguments, |rows| rows.first().get_one())) == Some(true) {
        pg::confirm_slot(&pass.slot, pass.reached);
    }
}

/// For `audit_capture_status()`, where no worker tells it in shared memory: when this session's last pass began, if it left nothing pending.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.note_look() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn note_look() {
    let Some(pass) = pg::stored_pass().filter(|pass| pass.is_complete) else { return };
    if let Ok(began_at) = TimestampWithTimeZone::try_from(pass.began_at) {
        LOOKED.with(|looked| looked.run(|| vec![began_at.into()], |_| Ok(())));
    }
}

/// Who has it makes partitions of the log. Until the transaction ends.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.lock_partitions() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn lock_partitions() {
    pg::lock_partitions();
}

/// Settings under which code of ours runs that has more rights than its caller.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.pinned_settings() RETURNS TABLE (name text, value text)
  LANGUAGE c STABLE PARALLEL SAFE ROWS 20 AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn pinned_settings() -> TableIterator<'static, (name!(name, &'static str), name!(value, &'static str))> {
    TableIterator::new(pg::pinned_settings())
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

/// When the worker saw last that nothing is pending, and whether somebody has committed since.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.last_look()
  RETURNS TABLE (looked_at timestamptz, has_commits boolean)
  LANGUAGE c VOLATILE PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn last_look()
-> TableIterator<'static, (name!(looked_at, Option<TimestampWithTimeZone>), name!(has_commits, Option<bool>))> {
    let desk = pg::desk();
    let looked_at = desk.and_then(|desk| TimestampWithTimeZone::try_from(desk.last_look()?).ok());
    TableIterator::once((looked_at, desk.map(|desk| desk.has_commits())))
}
