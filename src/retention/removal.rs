//! What retention does that no SQL may: it drops months, and removes rows of tables that are append-only.

use crate::pg;
use crate::pg::Call;
use pgrx::prelude::*;

/// The month goes with all that is in it.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.drop_month(partition regclass) RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn drop_month(partition: pg_sys::Oid) {
    pg::drop_month(partition);
}

/// Rows of one of the extension's tables, by where they stand. No trigger runs.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.remove_rows(rows tid[], relation regclass) RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn remove_rows(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    if let (Some(rows), Some(relation)) = (call.argument(0), call.argument(1)) {
        pg::remove_rows(pg_sys::Oid::from(relation.value() as u32), rows);
    }
}
