//! Which tables capture leaves out. Only who owns a table and is an admin decides that, and it is on record.

use crate::arguments::given;
use crate::operations;
use crate::pg::{self, BuiltinOid, ErrorReport, Statement, as_extension, current_user};
use pgrx::prelude::*;
use serde_json::json;

use BuiltinOid::{OIDOID, TEXTOID};

thread_local! {
    /// Is it a table, and may the caller decide?
    static PERMITTED: Statement = const { Statement::new(
        "SELECT relkind IN ('r', 'p'), pg_has_role($2, relowner, 'USAGE')
         AND pg_has_role($2, 'audit_cdc_admin', 'USAGE'), $1::regclass::text
         FROM pg_class WHERE oid = $1", &[OIDOID, OIDOID]) };

    static TREE: Statement = const { Statement::new(
        "SELECT array_agg(t.relation ORDER BY t.relation)
         FROM (SELECT $1 UNION SELECT relid FROM pg_partition_tree($1)) AS t(relation)", &[OIDOID]) };

    static EXCLUDE: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.excluded_tables (relation, table_schema, table_name, reason, excluded_by)
         SELECT c.oid, n.nspname, c.relname, $3, pg_get_userbyid($2)
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.oid = $1 OR c.oid IN (SELECT relid FROM pg_partition_tree($1))
         ON CONFLICT (relation) WHERE until_lsn IS NULL DO NOTHING RETURNING relation", &[OIDOID, OIDOID, TEXTOID]) };

    static INCLUDE: Statement = const { Statement::new(
        "WITH included AS (
           UPDATE audit_cdc_internal.excluded_tables
           SET included_reason = $3, included_by = pg_get_userbyid($2), included_at = clock_timestamp(),
           until_lsn = pg_current_wal_insert_lsn()
           WHERE (relation = $1 OR relation IN (SELECT relid FROM pg_partition_tree($1))) AND until_lsn IS NULL
           RETURNING relation, from_lsn, until_lsn, excluded_at)
         SELECT audit_cdc_internal.note_exclusion(relation, from_lsn, until_lsn, excluded_at) FROM included",
         &[OIDOID, OIDOID, TEXTOID]) };
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_exclude_table(relation regclass, reason text)
  RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn audit_exclude_table(relation: Option<pg_sys::Oid>, reason: Option<&str>) -> Result<(), ErrorReport> {
    let (relation, reason, table) = checked(relation, reason)?;
    if write(&EXCLUDE, relation, reason) {
        operations::note("audit_exclude_table", &json!({ "relation": table }), None, Some(reason));
        return Ok(());
    }
    let message = format!("table \"{table}\" is excluded already");
    Err(report(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, message))
}

/// A pass that is under way would leave out what it finds committed, and never read it again: it is waited for. So is
/// who has noted something of the table or its partitions, which may be a gap from now on.
#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_include_table(relation regclass, reason text)
  RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn audit_include_table(relation: Option<pg_sys::Oid>, reason: Option<&str>) -> Result<(), ErrorReport> {
    let (relation, reason, table) = checked(relation, reason)?;
    pg::lock_capture();
    pg::lock_states(&tree(relation));
    if write(&INCLUDE, relation, reason) {
        operations::note("audit_include_table", &json!({ "relation": table }), None, Some(reason));
        return Ok(());
    }
    let message = format!("table \"{table}\" is not excluded");
    Err(report(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message))
}

/// Excludes a table that this transaction has made, if the caller may. Nobody's changes are in it but the caller's own.
pub fn exclude_new_table(relation: pg_sys::Oid, reason: &str) -> bool {
    pg::is_new_table(relation) && checked(Some(relation), Some(reason)).is_ok() && write(&EXCLUDE, relation, reason)
}

fn checked(relation: Option<pg_sys::Oid>, reason: Option<&str>) -> Result<(pg_sys::Oid, &str, String), ErrorReport> {
    let (relation, reason) = (given(relation, "relation")?, given(reason, "reason")?);
    if reason.trim().is_empty() {
        return Err(report(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "reason must not be empty".into()));
    }
    if pg::snapshot_is_fixed() {
        let message = "what is excluded can be changed under READ COMMITTED only".into();
        return Err(report(PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION, message));
    }
    let name = require_owner_and_admin(relation)?;
    Ok((relation, reason, name))
}

/// An error unless it is a table, and the caller owns it and is an admin; its name.
pub fn require_owner_and_admin(relation: pg_sys::Oid) -> Result<String, ErrorReport> {
    let caller = current_user();
    let (is_table, is_permitted, name) = as_extension(|| {
        PERMITTED.with(|permitted| {
            permitted.read(
                || vec![relation.into(), caller.into()],
                |rows| rows.first().get_three::<bool, bool, String>().or(Ok((None, None, None))),
            )
        })
    });
    let name = name.unwrap_or_default();
    if is_table != Some(true) {
        return Err(report(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("\"{name}\" is not a table")));
    }
    if is_permitted != Some(true) {
        let message = format!("must be owner of table {name} and a member of audit_cdc_admin");
        return Err(report(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message));
    }
    Ok(name)
}

/// A table and its partitions, in rising order.
pub fn tree(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    as_extension(|| TREE.with(|tree| tree.read(|| vec![relation.into()], |rows| rows.first().get_one())))
        .unwrap_or_default()
}

fn write(statement: &'static std::thread::LocalKey<Statement>, relation: pg_sys::Oid, reason: &str) -> bool {
    let caller = current_user();
    as_extension(|| {
        statement.with(|statement| {
            statement.run(|| vec![relation.into(), caller.into(), reason.into()], |rows| Ok(!rows.is_empty()))
        })
    })
}

fn report(code: PgSqlErrorCode, message: String) -> ErrorReport {
    ErrorReport::new(code, message, "exclude")
}
