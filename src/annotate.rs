//! What `audit_annotate` (sql/annotate.sql) needs of the extension, and SQL alone can only guess.

use pgrx::prelude::*;

#[pg_extern(
    sql = r#"CREATE OR REPLACE FUNCTION @extschema@.audit_in_transaction_block() RETURNS boolean
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["annotate"]
)]
fn audit_in_transaction_block() -> bool {
    crate::pg::in_transaction_block()
}
