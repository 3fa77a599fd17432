//! DDL is in the log: event triggers note what a command did to captured tables, in its own transaction.
//! sql/schema_changes.sql decides what is noted.

use crate::pg::{self, BuiltinOid, Call, ErrorReport, Event, as_extension, pinned, with_latest_snapshot};
use crate::statement::Statement;
use pgrx::fn_call::{Arg, fn_call};
use pgrx::prelude::*;

use BuiltinOid::TEXTOID;

pgrx::extension_sql_file!("../../sql/schema_states.sql", name = "schema_states", requires = ["gaps", "capture"]);
pgrx::extension_sql_file!(
    "../../sql/schema_changes.sql",
    name = "schema_changes",
    requires = ["schema_states", note_schema_change]
);

thread_local! {
    static RECORD: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.record_schema_changes($1, $2::name, $3::jsonb)", &[TEXTOID, TEXTOID, TEXTOID]) };

    static REWRITE: Statement = const { Statement::new("SELECT audit_cdc_internal.record_rewrite()", &[]) };
}

/// Whoever runs the command, this writes with the rights of the extension's owner. It takes nothing from the caller but
/// the fact of the command.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.note_schema_change() RETURNS event_trigger
  LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn note_schema_change(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    let Some(event) = Call::new(fcinfo).event() else {
        let message = "note_schema_change() must be called as an event trigger";
        let code = PgSqlErrorCode::ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED;
        return Err(ErrorReport::new(code, message, "note_schema_change"));
    };
    if !pg::has_capture() {
        return Ok(());
    }
    let user = pg::role_name(pg::current_user()).unwrap_or_default();
    as_extension(|| {
        pinned(|| {
            if event.name == "table_rewrite" {
                REWRITE.with(|rewrite| rewrite.run(Vec::new, |_| Ok(())));
                return Ok(());
            }
            if let Some(differences) = differences(&event)? {
                let arguments = || vec![event.tag.as_str().into(), user.as_str().into(), differences.into()];
                RECORD.with(|record| record.run(arguments, |_| Ok(())));
            }
            Ok(())
        })
    })
}

/// What is another now, as all others see it too. Not through SPI: in a transaction that has written, it looks as the
/// transaction's own statements do.
fn differences(event: &Event) -> Result<Option<String>, ErrorReport> {
    let (name, tag) = (Arg::Value(event.name.as_str()), Arg::Value(event.tag.as_str()));
    with_latest_snapshot(|| fn_call("audit_cdc_internal.differences_after", &[&name, &tag])).map_err(|error| {
        let message = format!("cannot tell what a command has changed: {error}");
        ErrorReport::new(PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION, message, "differences")
    })
}
