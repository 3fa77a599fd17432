//! Keys of tables that are here.

use crate::pg::{Call, ResultSet, primary_key_of};
use audit_core::encoding;
use pgrx::prelude::*;

/// Has the text of a type's values several spellings? type: as format_type() gives it.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.is_spelled(type text) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn is_spelled(name: &str) -> bool {
    encoding::is_spelled(name)
}

/// No row: there is none. types: null if the key's text is the same wherever it comes from, as spelled_types() gives
/// them.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.primary_key(
    relation oid, OUT columns text[], OUT types text[])
  RETURNS SETOF record
  LANGUAGE c STABLE ROWS 1 AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn primary_key(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let mut rows = ResultSet::new(call);
    if let Some((columns, types)) = call.oid(0).and_then(primary_key_of) {
        let has_several = types.iter().any(|name| encoding::is_spelled(name));
        rows.put(&[columns.into_datum(), has_several.then_some(types).into_datum()]);
    }
}
