//! What masks need that no SQL may: their secret, and what all others see while a command gives tables other names.

use crate::latest::seen_by_all;
use crate::pg::BuiltinOid::TEXTOID;
use crate::pg::{self, ErrorReport, Statement};
use pgrx::prelude::*;

thread_local! {
    static FOLLOW: Statement = const {
        Statement::new("SELECT audit_cdc_internal.follow_masks($1::jsonb)", &[TEXTOID]) };
}

/// Masks of tables and columns that have other names by now are set by these too.
pub fn follow() -> Result<(), ErrorReport> {
    let news = || seen_by_all::<String>("audit_cdc_internal.news_of_masks", &[]);
    if !pg::has_masks() || news()?.is_none() {
        return Ok(());
    }
    pg::lock_masks(); // whoever gave other names at the same time has ended
    if let Some(news) = news()? {
        FOLLOW.with(|follow| follow.run(|| vec![news.into()], |_| Ok(())));
    }
    Ok(())
}

/// What the client sent, unless a mask is set: nobody can tell which values stand in it.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.kept_statement() RETURNS text
  LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn kept_statement() -> Result<Option<String>, ErrorReport> {
    if pg::has_masks() && seen_by_all("audit_cdc_internal.has_masks_here", &[])? == Some(true) {
        return Ok(None);
    }
    seen_by_all("pg_catalog.current_query", &[])
}

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
