//! Undo and redo: the core's plan for SQL, and with whose rights its statements run. The rest is SQL (`sql/undo`).

use crate::pg::{
    BoundStatement, ErrorReport, Meaning, covers, current_user, first_texts, locked_owner, owner, read_shape,
    restricted, setting, with_settings,
};
use audit_core::undo::{Change, Direction, Event, Statement, Table, plan};
use pgrx::prelude::*;
use serde::Deserialize;

/// The steps of undo or redo. tables: as table_facts() gives them; changes: with the places of their tables, from 0.
/// alone: of many changes, each by itself. Rows without a step come last: queries for the changes whose rows are not
/// as they should be then.
#[expect(clippy::type_complexity, reason = "the columns of a table")]
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.planned(is_redo boolean, tables text[], changes text[])
  RETURNS TABLE (step integer, relation oid, table_name text, change_ids bigint[], record_ids text[], problem text,
    statement text, lock text, alone text[], alone_locks text[])
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn planned(
    is_redo: bool,
    tables: Vec<String>,
    changes: Vec<String>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(step, Option<i32>),
            name!(relation, Option<pg_sys::Oid>),
            name!(table_name, String),
            name!(change_ids, Vec<i64>),
            name!(record_ids, Vec<Option<String>>),
            name!(problem, Option<String>),
            name!(statement, Option<String>),
            name!(lock, Option<String>),
            name!(alone, Vec<String>),
            name!(alone_locks, Vec<Option<String>>),
        ),
    >,
    ErrorReport,
> {
    let tables = tables.iter().map(|table| read_table(table)).collect::<Result<Vec<_>, _>>()?;
    let changes = changes.iter().map(|change| read::<Change>(change)).collect::<Result<Vec<_>, _>>()?;
    let direction = if is_redo { Direction::Redo } else { Direction::Undo };
    let (steps, checks) = plan(&tables, &changes, direction);
    let relation = |relation: u32| (relation != 0).then(|| pg_sys::Oid::from(relation));
    let steps = steps.into_iter().zip(1..).map(|(step, number)| {
        let ids = step.changes.iter().map(|place| changes[*place].change_id).collect();
        let record = |place: &usize| changes[*place].record_id.as_deref().map(str::to_owned);
        let records = step.changes.iter().map(record).collect();
        let (problem, statement, alone) = match step.work {
            Ok(work) => (None, Some(work.statement), work.alone),
            Err(problem) => (Some(problem), None, Vec::new()),
        };
        let (text, lock) = statement.map_or((None, None), |Statement { text, lock }| (Some(text), lock));
        let (alone, locks) = alone.into_iter().map(|Statement { text, lock }| (text, lock)).unzip();
        (Some(number), relation(step.relation), step.table_name, ids, records, problem, text, lock, alone, locks)
    });
    let checks = checks.into_iter().map(|check| {
        let (ids, records, alone, locks) = Default::default();
        (None, relation(check.relation), String::new(), ids, records, None, Some(check.text), None, alone, locks)
    });
    let rows: Vec<_> = steps.chain(checks).collect();
    Ok(TableIterator::new(rows))
}

/// An event of the log as SQL that makes it elsewhere.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.replayed(facts text, event text) RETURNS SETOF text
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn replayed(facts: &str, event: &str) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let statements = audit_core::undo::replayed(&read_table(facts)?, &read::<Event>(event)?);
    Ok(SetOfIterator::new(statements))
}

fn read_table(json: &str) -> Result<Table, ErrorReport> {
    Table::read(json, read_shape).ok_or_else(unreadable)
}

fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, ErrorReport> {
    serde_json::from_str(json).map_err(|_| unreadable())
}

fn unreadable() -> ErrorReport {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "no such description of a change", "planned")
}

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
    run(relation, statement, |statement| statement.run() as i64)
}

/// The same for a query of numbers: it gives them.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.run_query(relation oid, query text) RETURNS bigint[]
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn run_query(relation: Option<pg_sys::Oid>, query: &str) -> Vec<i64> {
    let numbers = run(relation, query, first_texts);
    numbers.iter().flatten().filter_map(|number| number.parse().ok()).collect()
}

fn run<T>(relation: Option<pg_sys::Oid>, statement: &str, work: impl FnOnce(&BoundStatement) -> T) -> T {
    let path =
        format!("pg_catalog, {}", setting("search_path").filter(|path| !path.is_empty()).unwrap_or("\"\"".into()));
    let settings = [("search_path", Some(path.as_str()))];
    let relation = relation.unwrap_or(pg_sys::InvalidOid);
    let owner = locked_owner(relation).unwrap_or_else(current_user);
    let run = || work(&BoundStatement::prepare(statement, Meaning::of_table(relation, owner)));
    if covers(owner) { restricted(owner, &settings, run) } else { with_settings(&settings, run) }
}
