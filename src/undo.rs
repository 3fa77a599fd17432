//! Undo and redo: the core's plan for SQL, and with whose rights its statements run. The rest is SQL (`sql/undo`).

use crate::arguments::{all_given, given};
use crate::latest::seen_by_all;
use crate::pg::{
    BoundStatement, ErrorReport, Meaning, as_extension, covers, current_user, first_texts, has_rights_of, lock_family,
    lock_table, lock_to_read, locked_owner, may_write, owner, read_shape, restricted, setting, with_settings,
};
use audit_core::undo::{Change, Direction, Event, Statement, Table, checks, plan};
use pgrx::fn_call::Arg;
use pgrx::prelude::*;
use serde::Deserialize;
use std::collections::HashSet;

/// The steps of undo or redo. tables: as table_facts() gives them; changes: with the places of their tables, from 0.
/// alone: of many changes, each by itself.
#[expect(clippy::type_complexity, reason = "the columns of a table")]
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.planned(is_redo boolean, tables text[], changes text[])
  RETURNS TABLE (step integer, relation oid, table_name text, change_ids bigint[], record_ids text[], problem text,
    statement text, lock text, alone text[], alone_locks text[])
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn planned(
    is_redo: bool,
    tables: Vec<Option<String>>,
    changes: Vec<Option<String>>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(step, i32),
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
    let (tables, changes) = (read_tables(tables)?, all_given(changes, "changes")?);
    let changes = read_changes(&changes)?;
    let steps = plan(&tables, &changes, direction(is_redo)).into_iter().zip(1..).map(|(step, number)| {
        let ids = step.changes.iter().map(|place| changes[*place].change_id).collect();
        let record = |place: &usize| changes[*place].record_id.as_deref().map(str::to_owned);
        let records = step.changes.iter().map(record).collect();
        let (problem, statement, alone) = match step.work {
            Ok(work) => (None, Some(work.statement), work.alone),
            Err(problem) => (Some(problem), None, Vec::new()),
        };
        let (text, lock) = statement.map_or((None, None), |Statement { text, lock }| (Some(text), lock));
        let (alone, locks) = alone.into_iter().map(|Statement { text, lock }| (text, lock)).unzip();
        (number, known(step.relation), step.table_name, ids, records, problem, text, lock, alone, locks)
    });
    Ok(TableIterator::new(steps.collect::<Vec<_>>()))
}

/// Of changes that were done, those whose rows are not as they should be; a WARNING counts them.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.changes_that_differ(
    is_redo boolean, tables text[], changes text[], done bigint[]) RETURNS bigint[]
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn changes_that_differ(
    is_redo: bool,
    tables: Vec<Option<String>>,
    changes: Vec<Option<String>>,
    done: Vec<Option<i64>>,
) -> Result<Vec<i64>, ErrorReport> {
    let (tables, changes) = (read_tables(tables)?, all_given(changes, "changes")?);
    let changes = read_changes(&changes)?;
    let checks = checks(&tables, &changes, direction(is_redo), &done.into_iter().flatten().collect());
    let found: Vec<_> = checks.iter().flat_map(|check| run(known(check.relation), &check.text, first_texts)).collect();
    let found: Vec<_> = found.iter().flatten().filter_map(|number| number.parse().ok()).collect();
    if !found.is_empty() {
        let message = format!("rows are not as they should be: {}", found.len());
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "changes_that_differ")
            .set_detail("A trigger has changed them.")
            .set_hint("Disable the trigger for the undo, or mend the rows.")
            .report(PgLogLevel::WARNING);
    }
    Ok(found)
}

/// An event of the log as SQL that makes it elsewhere.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.replayed(facts text, event text) RETURNS SETOF text
  LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn replayed(facts: &str, event: &str) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let statements = audit_core::undo::replayed(&read_table(facts)?, &read::<Event>(event)?);
    Ok(SetOfIterator::new(statements))
}

fn direction(is_redo: bool) -> Direction {
    if is_redo { Direction::Redo } else { Direction::Undo }
}

fn known(relation: u32) -> Option<pg_sys::Oid> {
    (relation != 0).then(|| pg_sys::Oid::from(relation))
}

fn read_tables(tables: Vec<Option<String>>) -> Result<Vec<Table>, ErrorReport> {
    all_given(tables, "tables")?.iter().map(|table| read_table(table)).collect()
}

fn read_changes(changes: &[String]) -> Result<Vec<Change<'_>>, ErrorReport> {
    changes.iter().map(|change| read(change)).collect()
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

/// Would code run with rights that whoever owns it lacks, when the table is written? Whatever is found, nobody brings
/// such code to it until the transaction ends: what would do so waits for our locks.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.runs_strangers_code(relation oid) RETURNS boolean
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["undo_strangers"])]
fn runs_strangers_code(relation: pg_sys::Oid) -> Result<bool, ErrorReport> {
    let owner = locked_owner(relation).unwrap_or_else(current_user);
    let runner = if covers(owner) { owner } else { current_user() };
    let mut locked = HashSet::new();
    // who may not write it runs no statement that does
    while may_write(relation) {
        let along = || seen_by_all::<Vec<_>>("audit_cdc_internal.written_along", &[&Arg::Value(relation)]);
        let mut along = as_extension(along)?.unwrap_or_default();
        along.retain(|table| locked.insert(*table));
        if along.is_empty() {
            break;
        }
        along.into_iter().for_each(|table| lock_as_it_is(table, runner));
    }
    let (relation, runner) = (Arg::Value(relation), Arg::Value(runner));
    let found = as_extension(|| seen_by_all("audit_cdc_internal.has_strangers_code", &[&relation, &runner]))?;
    Ok(found.unwrap_or(true))
}

/// Would rows of a stranger's table go along, by a foreign key that came after the statements were made? None comes
/// until the transaction ends.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.is_referred_since(relation oid, known bigint[]) RETURNS boolean
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["undo_strangers"])]
fn is_referred_since(relation: pg_sys::Oid, known: Vec<Option<i64>>) -> Result<bool, ErrorReport> {
    let known = all_given(known, "known")?;
    lock_to_read(relation);
    if may_write(relation) {
        lock_table(relation);
    }
    let (relation, known) = (Arg::Value(relation), Arg::Value(known));
    let found = as_extension(|| seen_by_all("audit_cdc_internal.strangers_refer", &[&relation, &known]))?;
    Ok(found.unwrap_or(true))
}

/// A stranger may also attach tables to its own.
fn lock_as_it_is(table: pg_sys::Oid, runner: pg_sys::Oid) {
    lock_table(table);
    if owner(table).is_some_and(|owner| !has_rights_of(owner, runner)) {
        lock_family(table);
    }
}

/// Runs a statement of undo or redo and tells how many rows it has met. Its operators are PostgreSQL's own,
/// whatever stands before them in the caller's search_path; for triggers the rest of it holds as always.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.run_statement(relation oid, statement text) RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn run_statement(relation: Option<pg_sys::Oid>, statement: Option<&str>) -> Result<i64, ErrorReport> {
    Ok(run(relation, given(statement, "statement")?, |statement| statement.run() as i64))
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
