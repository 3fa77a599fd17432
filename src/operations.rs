//! What is done to the log is on record: `audit_operations`.

use crate::context;
use crate::pg::BuiltinOid::TEXTOID;
use crate::pg::{Statement, as_extension};
use pgrx::prelude::*;
use serde_json::Value;

thread_local! {
    static NOTE: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.note_operation($1, $2::jsonb, $3::jsonb, $4)",
        &[TEXTOID, TEXTOID, TEXTOID, TEXTOID]) };
}

/// Within the transaction of what was done.
pub fn note(operation: &str, arguments: &Value, counts: Option<&Value>, reason: Option<&str>) {
    let (arguments, counts) = (arguments.to_string(), counts.map(Value::to_string));
    as_extension(|| {
        NOTE.with(|note| {
            note.run(
                || vec![operation.into(), arguments.as_str().into(), counts.as_deref().into(), reason.into()],
                |_| Ok(()),
            )
        })
    });
}

/// Of this session, whatever function runs.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.server_context() RETURNS json
  LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn server_context() -> String {
    context::of_session()
}
