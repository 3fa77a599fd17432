//! `audit_history()`, and what undo asks the log for.

use super::page::{COLUMNS, Page};
use super::told::{Form, put_record};
use super::told_tables::{facts, undisturbed};
use crate::here::database_id;
use crate::pg::{BuiltinOid, Call, Cursor, ErrorReport, PassedRow, ResultSet, passed_bigint};
use audit_core::lives::Table;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};
use std::sync::LazyLock;

use BuiltinOid::{BOOLOID, INT8ARRAYOID, INT8OID, OIDOID, TEXTOID, TIMESTAMPTZOID};

/// Of a table `f.audited`. Are there signs of doubt for somebody who reads, $5? If the record $3 is asked for, is its
/// table undisturbed too? $6: this database.
const ABOUT: &str = "f.audited,
           $5 AND EXISTS (
             SELECT FROM audit_cdc_internal.signs_of_doubt(
               CASE WHEN (f.audited).table_name IS NOT NULL
                    THEN ARRAY[format('%I.%I', (f.audited).table_schema, (f.audited).table_name)] END, $6)),
           $5 AND $3 IS NOT NULL";

/// Mostly the log has one table of the name $1, a captured one.
static ONLY_ONE: LazyLock<CString> = LazyLock::new(|| {
    let text = format!(
        "
    SELECT {ABOUT} AND {}
    FROM (
      SELECT o AS audited
      FROM audit_cdc_internal.only_table_named(string_to_array($1, '.'), $6, $2, $4 IS NOT NULL) AS o
      WHERE $1 ~ '^[a-z_][a-z0-9_]*(\\.[a-z_][a-z0-9_]*)?$' AND coalesce($4, $6) = $6
    ) AS f",
        undisturbed("f.audited")
    );
    CString::new(text).unwrap_or_default()
});

/// Which one it is otherwise; without name, row type $2 and key any.
static MEANT: LazyLock<CString> = LazyLock::new(|| {
    let text = format!(
        "
    SELECT {ABOUT} AND {}
    FROM (
      SELECT CASE WHEN $1 IS NULL AND $2 IS NULL AND $3 IS NULL THEN audit_cdc_internal.any_table($4)
                  ELSE audit_cdc_internal.table_named($1, $4, $2, $3) END AS audited
      OFFSET 0
    ) AS f",
        undisturbed("f.audited")
    );
    CString::new(text).unwrap_or_default()
});
const NO_CHANGES: &CStr = c"SELECT audit_cdc_internal.warn_of_no_changes()";

/// What makes the answer about $1 from $2 up to $3 doubtful.
const SAY_DOUBTS: &CStr = c"SELECT audit_cdc_internal.say_doubts($1, $2, $3, NULL, true)";
const SAY_IF_UNSETTLED: &CStr = c"SELECT audit_cdc_internal.say_if_unsettled($1, $2)";

const RECORD_ID: &CStr = c"SELECT audit_cdc_internal.as_record_id($2, $1)";

/// The lines of the record $2 that fit.
const OF_RECORD: &CStr = c"
    SELECT l.*
    FROM audit_cdc_internal.record_lines($1, $2, true) AS l
    CROSS JOIN LATERAL (SELECT string_to_array(l.cursor, '.')::bigint[] AS place) AS p
    WHERE ($3 IS NULL OR l.username = $3)
      AND ($4 IS NULL OR l.request_id = $4)
      AND ($5 IS NULL OR l.commit_lsn = $5)
      AND ($6 IS NULL OR l.commit_timestamp >= $6)
      AND ($7 IS NULL OR l.commit_timestamp < $7)
      AND ($8 IS NULL OR CASE WHEN $9 THEN p.place < $8 ELSE p.place > $8 END)
    ORDER BY CASE WHEN $9 THEN NULL ELSE p.place END, p.place DESC
    LIMIT $10";

/// Arguments of `history`.
mod argument {
    pub const TABLE: usize = 0;
    pub const RELATION: usize = 1;
    pub const KEY: usize = 2;
    pub const USERNAME: usize = 3;
    pub const REQUEST: usize = 4;
    pub const COMMIT: usize = 5;
    pub const SINCE: usize = 6;
    pub const UNTIL: usize = 7;
    pub const DATABASE: usize = 8;
    pub const AFTER: usize = 9;
    pub const NEWEST_FIRST: usize = 10;
    pub const MAX_ROWS: usize = 11;
}

#[pg_extern(
    sql = r#"CREATE FUNCTION audit_cdc_internal.history(
    of_table text, relation oid, key text, of_user text, of_request text, of_commit bigint, since timestamptz,
    until timestamptz, of_database text, after text, newest_first boolean, max_rows integer)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["history_asked"]
)]
fn history(fcinfo: pg_sys::FunctionCallInfo) {
    use argument::*;
    let call = Call::new(fcinfo);
    let mut rows = ResultSet::new(call);
    let text = |argument| call.passed(argument, TEXTOID);
    let time = |argument| call.passed(argument, TIMESTAMPTZOID);
    check_asked(call);
    let after = call.text(AFTER).map(|after| cursor_place(&after));
    let named = [text(TABLE), call.passed(RELATION, OIDOID), text(KEY), text(DATABASE), true.into(), here()];
    let Some(Meant { table, may_doubt, is_undisturbed }) = meant(&named) else { return };
    if may_doubt {
        say(SAY_DOUBTS, &[table.passed(), time(SINCE), time(UNTIL)]);
    }
    if call.argument(UNTIL).is_some() {
        say(SAY_IF_UNSETTLED, &[table.passed(), time(UNTIL)]);
    }
    if call.argument(KEY).is_some() {
        put_record_lines(call, (table, is_undisturbed), after, &mut rows);
        return;
    }
    let page = Page {
        table,
        id: passed_bigint(None, INT8OID),
        username: text(USERNAME),
        request: text(REQUEST),
        commit: call.passed(COMMIT, INT8OID),
        since: bigint(call, SINCE),
        until: bigint(call, UNTIL),
        database: call.text(DATABASE),
        after,
        newest_first: boolean(call, NEWEST_FIRST),
        most: most(call, MAX_ROWS),
    };
    page.put(Form::Plain, &mut rows);
}

/// Lines of entries that fit. Nothing is a reading's doubt here.
#[pg_extern(
    sql = r#"CREATE FUNCTION audit_cdc_internal.lines(
    of_id bigint, of_table text, of_user text, of_request text, of_commit bigint, since timestamptz,
    until timestamptz, of_database text, after bigint[], newest_first boolean, max_rows integer)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["history_asked"]
)]
fn lines(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let mut rows = ResultSet::new(call);
    let text = |argument| call.passed(argument, TEXTOID);
    let none = || DatumWithOid::null_oid(TEXTOID.value());
    let named = [text(1), DatumWithOid::null_oid(OIDOID.value()), none(), text(7), false.into(), here()];
    let Some(Meant { table, .. }) = meant(&named) else { return };
    let page = Page {
        table,
        id: call.passed(0, INT8OID),
        username: text(2),
        request: text(3),
        commit: call.passed(4, INT8OID),
        since: bigint(call, 5),
        until: bigint(call, 6),
        database: call.text(7),
        after: call.bigints(8),
        newest_first: boolean(call, 9),
        most: most(call, 10),
    };
    page.put(Form::Told, &mut rows);
}

/// The table that is meant, as [`ABOUT`] tells of it.
struct Meant {
    table: PassedRow,
    may_doubt: bool,
    is_undisturbed: bool,
}

/// None: the log has no change of it, as is said.
fn meant(named: &[DatumWithOid<'static>; 6]) -> Option<Meant> {
    let ask = |statement: &'static CStr| Cursor::planned_once(statement, named).fetch_together(1, |rows| rows.kept(0));
    let has_name = named[0].datum().is_some();
    let only_one = has_name.then(|| ask(ONLY_ONE.as_c_str())).flatten();
    let row = only_one.or_else(|| ask(MEANT.as_c_str()))?;
    let Some(table) = row.row(0) else {
        say(NO_CHANGES, &[]);
        return None;
    };
    Some(Meant { table, may_doubt: row.boolean(1), is_undisturbed: row.boolean(2) })
}

fn here() -> DatumWithOid<'static> {
    database_id().into()
}

fn say(query: &'static CStr, arguments: &[DatumWithOid]) {
    Cursor::reading(query, arguments).fetch_rows(1, |_, _| ());
}

/// Of one record, also under the keys that it had before and got later.
fn put_record_lines(
    call: Call,
    (table, is_undisturbed): (PassedRow, bool),
    after: Option<Vec<i64>>,
    rows: &mut ResultSet,
) {
    use argument::*;
    let is_any = (USERNAME..=UNTIL).chain([AFTER, MAX_ROWS]).all(|argument| call.argument(argument).is_none());
    if is_any && !boolean(call, NEWEST_FIRST) {
        let mut id = call.text(KEY).unwrap_or_default();
        if id.starts_with('[') {
            Cursor::reading(RECORD_ID, &[table.passed(), call.passed(KEY, TEXTOID)])
                .fetch_rows(1, |row, _| id = row.text(0).unwrap_or_default());
        }
        let facts = if is_undisturbed { Table::default() } else { facts(table, true) };
        if put_record((table, facts), id.into(), Form::Plain, rows) {
            return;
        }
    }
    let arguments = [
        table.passed(),
        call.passed(KEY, TEXTOID),
        call.passed(USERNAME, TEXTOID),
        call.passed(REQUEST, TEXTOID),
        call.passed(COMMIT, INT8OID),
        call.passed(SINCE, TIMESTAMPTZOID),
        call.passed(UNTIL, TIMESTAMPTZOID),
        after.map_or_else(|| DatumWithOid::null_oid(INT8ARRAYOID.value()), DatumWithOid::from),
        call.passed(NEWEST_FIRST, BOOLOID),
        passed_bigint(most(call, MAX_ROWS).map(u64::cast_signed), INT8OID),
    ];
    let mut cursor = Cursor::reading(OF_RECORD, &arguments);
    while cursor.fetch_rows(100, |row, _| {
        rows.put(&(0..COLUMNS).map(|column| row.datum(column)).collect::<Vec<_>>());
    }) {}
}

fn bigint(call: Call, index: usize) -> Option<i64> {
    call.argument(index).map(|datum| datum.value() as i64)
}

fn most(call: Call, index: usize) -> Option<u64> {
    bigint(call, index).map(|most| u64::try_from(most).unwrap_or(0))
}

fn boolean(call: Call, index: usize) -> bool {
    call.argument(index).is_some_and(|value| value.value() != 0)
}

fn check_asked(call: Call) {
    use argument::*;
    let is_asked = (TABLE..=UNTIL).any(|argument| call.argument(argument).is_some());
    if !is_asked {
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "no record, user, request, transaction or time is given",
            "audit_history",
        )
        .set_hint("Name a table and a key, a username, a request_id, a commit_lsn or a time.")
        .report(PgLogLevel::ERROR);
    }
    if call.argument(NEWEST_FIRST).is_none() {
        refuse(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "newest_first must not be null");
    }
    if call.argument(MAX_ROWS).is_some_and(|most| (most.value() as i32) < 0) {
        refuse(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "max_rows must not be negative");
    }
}

/// Where the line stands whose cursor this is.
fn cursor_place(after: &str) -> Vec<i64> {
    let place: Option<Vec<i64>> = after.split('.').map(|part| part.parse().ok()).collect();
    match place.filter(|place| place.len() == 4 && (0..=10_000_000_000_000_000).contains(&place[0])) {
        Some(place) => place,
        None => {
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "after is not a cursor that audit_history() has given",
            );
            Vec::new()
        }
    }
}

fn refuse(sqlstate: PgSqlErrorCode, message: &'static str) {
    ErrorReport::new(sqlstate, message, "audit_history").report(PgLogLevel::ERROR);
}
