//! Row types by which somebody asks for a table.

use crate::pg::{Call, ErrorReport, RowType, relation_of_type};
use pgrx::prelude::*;

#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.relation_of(row_type oid) RETURNS oid
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn relation_of(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Oid> {
    let relation = Call::new(fcinfo).oid(0).and_then(relation_of_type);
    if relation.is_none() {
        let message = "first argument must be of a row type";
        ErrorReport::new(PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH, message, "relation_of")
            .set_hint("Name a table: NULL::public.users.")
            .report(PgLogLevel::ERROR);
    }
    relation
}

#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.columns_of(row_type oid) RETURNS text[]
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn columns_of(fcinfo: pg_sys::FunctionCallInfo) -> Option<Vec<String>> {
    Call::new(fcinfo).oid(0).and_then(RowType::columns_of)
}
