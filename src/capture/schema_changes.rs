//! DDL is in the log: event triggers note what a command did to captured tables, in its own transaction.
//! sql/capture/ddl.sql decides what is noted.

use crate::ingest::{LargeAnnotations, store_large_annotations};
use crate::latest::seen_by_all;
use crate::masking;
use crate::pg::{self, BuiltinOid, Call, DdlEvent, ErrorReport, Statement, as_extension, pinned};
use audit_core::message::Annotations;
use audit_core::wire::{SchemaChange, TruncatedPartition};
use pgrx::Uuid;
use pgrx::fn_call::{Arg, FnCallArg};
use pgrx::prelude::*;
use std::rc::Rc;

use BuiltinOid::{INT8OID, OIDARRAYOID, TEXTOID, TIMESTAMPTZOID, UUIDOID};

thread_local! {
    static RECORD: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.record_schema_changes($1, $2::name, $3::jsonb, $4)",
        &[TEXTOID, TEXTOID, TEXTOID, OIDARRAYOID]) };

    static RECORD_START: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.record_schema_changes('audit_capture_start', session_user, $1::jsonb, $2)",
        &[TEXTOID, OIDARRAYOID]) };

    static POSITION: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.schema_change_positions VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7::xid[])
         ON CONFLICT DO NOTHING",
        &[INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, TEXTOID, UUIDOID, TEXTOID]) };

    static TRUNCATED: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.note_truncated_partition($1, $2, $3, $4)",
        &[BuiltinOid::OIDOID, TEXTOID, INT8OID, TIMESTAMPTZOID]) };

    static SETTLE: Statement = const { Statement::new("SELECT audit_cdc_internal.settle_gaps()", &[]) };

    static REWRITE: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.record_rewrite($1, $2)", &[BuiltinOid::OIDOID, OIDARRAYOID]) };
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
    // whose functions may not be there just now; it leaves captured tables alone
    if pg::runs_own_script() {
        return Ok(());
    }
    pg::share_ddl();
    let (is_captured, has_masks) = (pg::has_capture(), pg::has_masks());
    if !is_captured && !has_masks {
        return Ok(());
    }
    pg::require_agreement();
    let user = pg::role_name(pg::current_user()).unwrap_or_default();
    as_extension(|| {
        pinned(|| {
            if event.name == "ddl_command_end" {
                masking::follow()?;
            }
            if !is_captured {
                return Ok(());
            }
            if event.name == "table_rewrite" {
                if let Some(table) = seen_by_all::<pg_sys::Oid>("audit_cdc_internal.rewritten", &[])? {
                    let excluded = excluded_now()?;
                    REWRITE.with(|rewrite| rewrite.run(|| vec![table.into(), excluded.into()], |_| Ok(())));
                }
                return Ok(());
            }
            if let Some(differences) = differences(&event)? {
                let (tag, excluded) = (event.tag.as_str(), excluded_now()?);
                let arguments = || vec![tag.into(), user.as_str().into(), differences.into(), excluded.into()];
                RECORD.with(|record| record.run(arguments, |_| Ok(())));
            }
            Ok(())
        })
    })
}

/// What is another now. Who has noted something of the same tables is waited for.
fn differences(event: &DdlEvent) -> Result<Option<String>, ErrorReport> {
    let (name, tag) = (Arg::Value(event.name.as_str()), Arg::Value(event.tag.as_str()));
    let arguments: [&dyn FnCallArg; 3] = [&name, &tag, &Arg::Value(event.alters_types)];
    let Some(tables) = seen_by_all::<Vec<pg_sys::Oid>>("audit_cdc_internal.touched_tables", &arguments)? else {
        return Ok(None);
    };
    pg::lock_states(&tables);
    seen_by_all("audit_cdc_internal.differences_after", &arguments)
}

/// Tables as they are when capture starts. DDL that began before, and did not know of it, is waited for.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.record_tables() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn record_tables() -> Result<(), ErrorReport> {
    pg::lock_ddl();
    masking::follow()?;
    if let Some(differences) = seen_by_all::<String>("audit_cdc_internal.differences_at_start", &[])? {
        let excluded = excluded_now()?;
        RECORD_START.with(|record| record.run(|| vec![differences.into(), excluded.into()], |_| Ok(())));
    }
    Ok(())
}

fn excluded_now() -> Result<Vec<pg_sys::Oid>, ErrorReport> {
    Ok(seen_by_all("audit_cdc_internal.excluded_now", &[])?.unwrap_or_default())
}

/// Capture has found entries in the WAL. Each is noted once, however often it is found.
pub fn note_positions(found: &[SchemaChange]) {
    let large: LargeAnnotations = found
        .iter()
        .filter_map(|change| match &change.annotations {
            Some(Annotations::Large(large)) => Some((large.id, Rc::clone(large))),
            _ => None,
        })
        .collect();
    store_large_annotations(&large);
    for SchemaChange { id, commit_lsn, commit_idx, commit_time, annotations, beside } in found {
        let (annotations, large) = match annotations {
            // of the stream, in which they are text
            None | Some(Annotations::Jsonb(_)) => (None, None),
            Some(Annotations::Text(text)) => (Some(&**text), None),
            Some(Annotations::Large(large)) => (large.lifted.as_deref(), Some(Uuid::from_bytes(large.id))),
        };
        let time = time(*commit_time);
        let beside: Vec<_> = beside.iter().map(u32::to_string).collect();
        let beside = format!("{{{}}}", beside.join(","));
        let arguments = || {
            let (lsn, idx, beside) = (*commit_lsn as i64, i64::from(*commit_idx), beside.as_str());
            vec![(*id).into(), lsn.into(), idx.into(), time.into(), annotations.into(), large.into(), beside.into()]
        };
        POSITION.with(|position| position.run(arguments, |_| Ok(())));
    }
}

/// Capture has found that rows of roots went with partitions.
pub fn note_truncated_partitions(found: &[TruncatedPartition]) {
    for TruncatedPartition { root, partition, commit_lsn, commit_time } in found {
        let arguments = || {
            let (root, lsn) = (pg_sys::Oid::from(*root), *commit_lsn as i64);
            vec![root.into(), partition.as_str().into(), lsn.into(), time(*commit_time).into()]
        };
        TRUNCATED.with(|truncated| truncated.run(arguments, |_| Ok(())));
    }
}

/// Ends the gaps whose end is known by now.
pub fn settle_gaps() {
    SETTLE.with(|settle| settle.run(Vec::new, |_| Ok(())));
}

fn time(microseconds: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(microseconds).unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity())
}
