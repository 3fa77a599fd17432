//! What masks need that no SQL may: their secret.

use crate::pg::{self, ErrorReport};
use pgrx::prelude::*;

/// Until the transaction ends nobody else has DDL under way.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.lock_ddl() RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn lock_ddl() {
    pg::lock_ddl();
}

/// True: there was none.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.make_mask_secret() RETURNS boolean
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn make_mask_secret() -> Result<bool, ErrorReport> {
    pg::make_mask_secret().map_err(|error| {
        let message = "the secret of masks cannot be read or written";
        ErrorReport::new(PgSqlErrorCode::ERRCODE_IO_ERROR, message, "make_mask_secret")
            .set_detail(format!("File \"audit_cdc_mask_secret\" of the data directory: {error}."))
    })
}
