//! Nobody but the extension writes to its tables, and removing them is done on purpose.

use crate::operations;
use crate::pg::{
    Call, ErrorReport, allow_removal, foreign_writer, is_in_recovery, is_preloaded, is_superuser, refuse_early,
    replace_secret,
};
use pgrx::prelude::*;
use serde_json::json;

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.own_writers_only() RETURNS trigger
  LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn own_writers_only(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    foreign_writer(Call::new(fcinfo))
}

/// To call it loads the library, whose hook looks at what is dropped.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.before_removal() RETURNS event_trigger
  LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn before_removal(fcinfo: pg_sys::FunctionCallInfo) {
    refuse_early(Call::new(fcinfo));
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_allow_removal() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn audit_allow_removal() -> Result<(), ErrorReport> {
    if !is_superuser() {
        let message = "permission denied to allow that the audit log is removed";
        return Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message, "audit_allow_removal")
            .set_hint("Only a superuser may."));
    }
    allow_removal();
    operations::note("audit_allow_removal", &json!({}), None, None);
    Ok(())
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_rotate_secret() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn audit_rotate_secret() -> Result<(), ErrorReport> {
    let error = |code, message: String| ErrorReport::new(code, message, "audit_rotate_secret");
    if !is_superuser() {
        let message = "permission denied to replace the secret of the audit log".to_owned();
        return Err(error(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message).set_hint("Only a superuser may."));
    }
    if !is_preloaded() {
        let message = "the server has no secret: audit_cdc is not preloaded".to_owned();
        let hint = "Add audit_cdc to shared_preload_libraries, and restart the server.";
        return Err(error(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).set_hint(hint));
    }
    if is_in_recovery() {
        let message = "cannot replace the secret of the audit log during recovery".to_owned();
        let hint = "Replace it on the primary, and copy its file.";
        return Err(error(PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION, message).set_hint(hint));
    }
    replace_secret().map_err(|reason| {
        let message = "could not replace the secret of the audit log".to_owned();
        error(PgSqlErrorCode::ERRCODE_IO_ERROR, message).set_detail(format!("The file cannot be written: {reason}."))
    })?;
    operations::note("audit_rotate_secret", &json!({}), None, None);
    Ok(())
}
