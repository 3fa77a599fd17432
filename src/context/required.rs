//! Tables whose changes must be annotated. Only who owns a table and is an admin decides that.

use super::told;
use crate::arguments::{all_given, given};
use crate::capture::{require_owner_and_admin, tree};
use crate::operations;
use crate::pg::{BuiltinOid, Call, ErrorReport, Statement, as_extension, lock_schema_name, lock_to_read};
use audit_core::context::missing;
use pgrx::datum::AnyElement;
use pgrx::prelude::*;
use serde_json::json;

use BuiltinOid::{OIDOID, TEXTARRAYOID};

thread_local! {
    static REQUIRE: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.require_annotation($1, $2)", &[OIDOID, TEXTARRAYOID]) };
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_require_annotation(
  relation regclass, fields text[] DEFAULT '{username}')
  RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn audit_require_annotation(
    relation: Option<pg_sys::Oid>,
    fields: Option<Vec<Option<String>>>,
) -> Result<(), ErrorReport> {
    let (relation, fields) = (given(relation, "relation")?, all_given(given(fields, "fields")?, "fields")?);
    require_owner_and_admin(relation)?;
    // commands of ours name them
    for table in tree(relation) {
        lock_to_read(table);
        lock_schema_name(table);
    }
    let table = require_owner_and_admin(relation)?;
    as_extension(|| REQUIRE.with(|require| require.run(|| vec![relation.into(), fields.clone().into()], |_| Ok(()))));
    operations::note("audit_require_annotation", &json!({ "relation": table, "fields": fields }), None, None);
    Ok(())
}

/// For a trigger whose arguments are the fields.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.refuse_unannotated() RETURNS trigger
  LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn refuse_unannotated(fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<AnyElement>, ErrorReport> {
    let report = |code, message: String| ErrorReport::new(code, message, "refuse_unannotated");
    let Some(event) = Call::new(fcinfo).trigger() else {
        let message = "refuse_unannotated() must be called as a trigger".to_owned();
        return Err(report(PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, message));
    };
    let annotations = told();
    let missing = missing(annotations.as_deref(), &event.arguments);
    if missing.is_empty() {
        return Ok(event.unchanged());
    }
    let message = format!("a change of table \"{}\" must be annotated", event.table);
    let names = missing.join(", ");
    Err(report(PgSqlErrorCode::ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION, message)
        .set_detail(format!("The transaction does not say: {names}."))
        .set_hint("Call audit_annotate() before the change, or set audit_cdc.username and the like."))
}
