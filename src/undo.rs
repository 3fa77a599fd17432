//! Undo and redo run statements, with whose rights is decided here. All else of them is SQL (`sql/undo`).

use crate::pg::{
    BoundStatement, Meaning, covers, current_user, locked_owner, owner, restricted, setting, with_settings,
};
use pgrx::prelude::*;

/// Is the caller somebody else than the table's owner and has all the owner's rights, as a superuser has? Then
/// statements of undo and redo run as the owner, so that the owner's triggers and domains get no other rights.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.is_run_as_owner(relation oid) RETURNS boolean
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn is_run_as_owner(relation: pg_sys::Oid) -> bool {
    owner(relation).is_some_and(covers)
}

/// Runs a statement of undo or redo and tells how many rows it has met. Its operators are PostgreSQL's own,
/// whatever stands before them in the caller's search_path; for triggers the rest of it holds as always.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.run_statement(relation oid, statement text) RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn run_statement(relation: Option<pg_sys::Oid>, statement: &str) -> i64 {
    let path =
        format!("pg_catalog, {}", setting("search_path").filter(|path| !path.is_empty()).unwrap_or("\"\"".into()));
    let settings = [("search_path", Some(path.as_str()))];
    let relation = relation.unwrap_or(pg_sys::InvalidOid);
    let owner = locked_owner(relation).unwrap_or_else(current_user);
    let run = || BoundStatement::prepare(statement, Meaning::of_table(relation, owner)).run() as i64;
    if covers(owner) { restricted(owner, &settings, run) } else { with_settings(&settings, run) }
}
