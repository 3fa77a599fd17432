//! Who may write to the extension's tables.

use super::{Call, ErrorReport};
use pgrx::{PgSqlErrorCode, pg_sys};
use std::ffi::CStr;

/// For a statement trigger of one of the extension's tables: an error unless the table's owner, a superuser or the
/// capture worker writes.
pub fn foreign_writer(call: Call) -> Result<(), ErrorReport> {
    let Some((owner, name)) = call.trigger_table() else {
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
    let message = format!("permission denied for table {name}");
    Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message, "writer")
        .set_detail("Only audit_cdc itself writes to its tables, whatever rights a role has."))
}

impl Call {
    /// Owner and name of the table whose trigger is called.
    fn trigger_table(self) -> Option<(pg_sys::Oid, String)> {
        // SAFETY: the context of a call is null or a node; a trigger's holds its relation.
        unsafe {
            let context = self.context();
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            let relation = (*(*context.cast::<pg_sys::TriggerData>()).tg_relation).rd_rel;
            let name = CStr::from_ptr((*relation).relname.data.as_ptr()).to_string_lossy();
            Some(((*relation).relowner, name.into_owned()))
        }
    }
}
