//! Who may write to the extension's tables.

use super::trigger::TriggerEvent;
use super::{Call, ErrorReport};
use pgrx::{PgSqlErrorCode, pg_sys};

/// For a statement trigger of one of the extension's tables: an error unless the table's owner, a superuser or the
/// capture worker writes.
pub fn foreign_writer(call: Call) -> Result<(), ErrorReport> {
    let Some(TriggerEvent { owner, table, .. }) = call.trigger() else {
        let message = "own_writers_only() must be called as a trigger";
        return Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, message, "writer"));
    };
    // SAFETY: reads backend-local state and the catalogs' caches.
    let is_ours = unsafe {
        let user = pg_sys::GetUserId();
        user == owner || pg_sys::superuser() || user == pg_sys::get_role_oid(c"audit_cdc_worker".as_ptr(), true)
    };
    if is_ours {
        return Ok(());
    }
    let message = format!("permission denied for table {table}");
    Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message, "writer")
        .set_detail("Only audit_cdc itself writes to its tables, whatever rights a role has."))
}
