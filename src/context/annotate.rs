//! What `audit_annotate` (sql/annotate.sql) needs of the extension, and SQL alone can only guess.

use crate::pg::{ErrorReport, in_restricted_operation};
use audit_core::context::is_object;
use pgrx::prelude::*;

#[pg_extern(
    sql = r#"CREATE OR REPLACE FUNCTION @extschema@.audit_in_transaction_block() RETURNS boolean
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["annotate"]
)]
fn audit_in_transaction_block() -> bool {
    crate::pg::in_transaction_block()
}

#[pg_extern(
    sql = r#"CREATE OR REPLACE FUNCTION @extschema@.audit_annotation_in_force() RETURNS text
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["annotate"]
)]
fn audit_annotation_in_force() -> Option<String> {
    super::in_force()
}

/// Needs no right to `pg_logical_emit_message`. Code that runs on another's behalf, such as a projection's rule, must
/// not sign what that one does next.
#[pg_extern(
    sql = r#"CREATE OR REPLACE FUNCTION @extschema@.audit_tell_annotation(annotation text) RETURNS text
  LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["annotate"]
)]
fn audit_tell_annotation(annotation: Option<String>) -> Result<Option<String>, ErrorReport> {
    if in_restricted_operation() {
        let message = "cannot annotate within security-restricted operation";
        let code = PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE;
        return Err(ErrorReport::new(code, message, "audit_tell_annotation")
            .set_detail("It would annotate the later changes of who has the transaction."));
    }
    if annotation.as_deref().is_some_and(|annotation| !is_object(annotation)) {
        let message = "annotation is not a JSON object that jsonb takes";
        let code = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
        return Err(ErrorReport::new(code, message, "audit_tell_annotation"));
    }
    super::annotate(annotation.as_deref());
    Ok(annotation)
}
