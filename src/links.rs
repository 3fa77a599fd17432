//! Other audit databases that are read together with this one; `sql/log/links.sql` does it.

use crate::arguments::given;
use crate::pg::{self, BuiltinOid, ErrorReport, Statement, as_extension, current_user};
use crate::settings;
use pgrx::prelude::*;

use BuiltinOid::{OIDOID, TEXTOID};

/// This database, as audit_all_logs names it.
const HERE: &str = "here";

thread_local! {
    static LINK: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.link($1, coalesce($2, $1), coalesce($3, (
           SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
           WHERE e.extname = 'audit_cdc')::text), $4)", &[TEXTOID, TEXTOID, TEXTOID, OIDOID]) };

    static UNLINK: Statement = const { Statement::new("SELECT audit_cdc_internal.unlink($1)", &[TEXTOID]) };

    static CONNECTS: Statement = const { Statement::new("SELECT audit_cdc_internal.connects($1)", &[TEXTOID]) };
}

/// The caller needs the rights that who makes a foreign table needs: those of the extension's owner would lend any
/// server.
#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_link(
    node text, server text DEFAULT NULL, schema text DEFAULT NULL)
  RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn audit_link(node: Option<&str>, server: Option<&str>, schema: Option<&str>) -> Result<(), ErrorReport> {
    let node = checked(node)?;
    let caller = current_user();
    as_extension(|| {
        LINK.with(|link| link.run(|| vec![node.into(), server.into(), schema.into(), caller.into()], |_| Ok(())));
    });
    Ok(())
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_unlink(node text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn audit_unlink(node: Option<&str>) -> Result<(), ErrorReport> {
    let node = checked(node)?;
    as_extension(|| UNLINK.with(|unlink| unlink.run(|| vec![node.into()], |_| Ok(()))));
    Ok(())
}

/// An older snapshot would not show what others have linked meanwhile, and the view would lose it.
fn checked(node: Option<&str>) -> Result<&str, ErrorReport> {
    let node = given(node, "node")?;
    if pg::snapshot_is_fixed() {
        let message = "nodes can be linked and unlinked under READ COMMITTED only";
        return Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION, message, "links"));
    }
    Ok(node)
}

/// The node itself, or null: then its rows are left out. The planner calls it, as it does what is immutable, and plans
/// no scan of that node: when a scan begins, it is too late. No plan of it outlives its transaction.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.node_to_read(node text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1 AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn node_to_read(node: &str) -> Option<&str> {
    // what is left out in silence would be missing
    if node == HERE || !settings::skip_missing_nodes() || !pg::warnings_are_shown() {
        return Some(node);
    }
    pg::forget_plans_after_transaction();
    let connects = CONNECTS.with(|connects| connects.read(|| vec![node.into()], |rows| rows.first().get_one::<bool>()));
    connects.unwrap_or(true).then_some(node)
}
