//! This database as a source among others.

use crate::pg::{database, system_identifier};
use pgrx::prelude::*;
use serde_json::json;

/// A physical copy of the server has the same id.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.this_database() RETURNS json
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn this_database() -> String {
    let (_, name) = database();
    json!({ "id": database_id(), "name": name }).to_string()
}

/// As in the log.
pub fn database_id() -> String {
    let (oid, _) = database();
    format!("{}.{oid}", system_identifier())
}
