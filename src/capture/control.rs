//! What starting a capture and watching it needs beyond SQL.

use crate::pg;
use pgrx::prelude::*;
use std::ffi::CStr;

/// Who has it reads the slot of the capture, or moves it. Until the transaction ends.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.lock_capture() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn lock_capture() {
    pg::lock_capture();
}

/// A slot that `audit_capture_start` has just created; a rolled back start takes it along.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.drop_slot_if_rolled_back(slot name) RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn drop_slot_if_rolled_back(slot: &CStr) {
    pg::drop_slot_if_rolled_back(slot);
}

/// What a pass has read until there and committed is not sent again.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.confirm_slot(slot name, reached pg_lsn) RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn confirm_slot(slot: &CStr, reached: i64) {
    pg::confirm_slot(slot, reached as u64);
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
