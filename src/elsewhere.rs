//! Months on other servers: who may move them, and what those servers say. `sql/elsewhere` does it.

use crate::pg::BuiltinOid::{OIDOID, TEXTOID};
use crate::pg::{self, CaughtError, Statement, as_extension, current_user};
use audit_core::{Reject, SqlState};
use pgrx::prelude::*;

thread_local! {
    static START: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.start_move($1, $2, $3)", &[TEXTOID, TEXTOID, OIDOID]) };
}

/// The caller needs the rights that who makes a foreign table needs. Null where others write to the log.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.begin_move(name text, server text) RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn begin_move(name: Option<&str>, server: Option<&str>) -> Option<i64> {
    let caller = current_user();
    as_extension(|| {
        START.with(|start| {
            start.run(|| vec![name.into(), server.into(), caller.into()], |rows| rows.first().get_one::<i64>())
        })
    })
}

/// The transaction's commit waits for the disk, whatever its caller's synchronous_commit says.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.commit_to_disk() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn commit_to_disk() {
    pg::commit_to_disk();
}

/// The errors of a server that is away, or does not take what it should: these messages wait, and no other. A trigger
/// there may raise any. A cancel and a deadlock are none of these, nor is what a message's own data cause.
pub fn refusal(error: &CaughtError) -> Option<Reject> {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else { return None };
    let sqlstate = SqlState::unpacked(report.sql_error_code() as i32);
    if &sqlstate.0 == b"55000" {
        let reason = "the month of this change is on another server, and belongs to another database";
        let hint = "If that one is gone for good, call audit_take_over_months(), then audit_retry_rejects().";
        return Some(Reject::new(sqlstate, reason).hint(hint));
    }
    let is_of_server = !matches!(sqlstate.class(), b"22" | b"23" | b"40" | b"54") && &sqlstate.0 != b"57014";
    is_of_server.then(|| {
        Reject::new(sqlstate, "the month of this change is on another server, which does not take it now")
            .hint("Call audit_retry_rejects() when it does.")
    })
}
