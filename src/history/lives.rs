//! The lives of one key: its events in order, each with the rows before and after it, for `sql/history/lines.sql`.

use super::event_rows::{action, column, event, place};
use crate::pg::{Call, Cursor, ResultSet, Row, jsonb_datum};
use audit_core::lives::{Action, State, begins, line, next};
use pgrx::prelude::*;
use std::ffi::CStr;

use crate::pg::BuiltinOid::{INT8OID, TEXTOID};

/// What an event has in the columns of [`column`], and then: the event itself, and the key that the row had before it.
const LIFE: &CStr = c"
    SELECT e.record_key, e.id, e.run, e.lsn, e.idx, e.is_placed, true, e.truncates, e.action,
           CASE WHEN e.other_key <> e.record_key THEN 'o'
                WHEN e.other_key = e.record_key OR e.record_key IS NULL THEN 's' ELSE 'u' END::\"char\",
           CASE e.action WHEN 'complete' THEN e.before ELSE e.changed END, e.after, e.unknown, e.carried,
           e.unknown_before, e.has_left, e, e.other_key
    FROM audit_cdc_internal.events(
           $1, CASE WHEN $2::text IS NULL THEN '{}' ELSE audit_cdc_internal.record_ids($1, $2) END, $3) AS e
    WHERE CASE WHEN $2::text IS NULL THEN e.id = $3 AND e.action <> 'moved'
               ELSE e.record_key = (SELECT audit_cdc_internal.spelled($2, $1)) OR e.action = 'truncate' END
    ORDER BY e.run, e.lsn, e.idx, e.commit_timestamp, e.id, e.action = 'moved' DESC";

const EVENT: usize = column::HERE;
const OTHER_KEY: usize = EVENT + 1;

/// Of a key, or of the entry `lone` by itself.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.lives(
    audited audit_cdc_internal.audited, key text, lone bigint,
    OUT life bigint, OUT event audit_cdc_internal.event, OUT old_row jsonb, OUT new_row jsonb,
    OUT unknown_old_columns text[], OUT unknown_columns text[], OUT note text)
  RETURNS SETOF record
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["history_events"])]
fn lives(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let mut rows = ResultSet::new(call);
    let Some(table) = call.row(0) else { return };
    let mut cursor = Cursor::reading(LIFE, &[table.passed(), call.passed(1, TEXTOID), call.passed(2, INT8OID)]);
    let is_lone = call.argument(1).is_none();
    let (mut number, mut state) = (0_i64, None);
    while cursor.fetch_rows(100, |row, _| {
        let Some(action) = action(row) else { return };
        put(row, action, is_lone, (&mut number, &mut state), &mut rows);
    }) {}
}

fn put(
    row: &Row,
    action: Action,
    is_lone: bool,
    (number, state): (&mut i64, &mut Option<State>),
    rows: &mut ResultSet,
) {
    let event = event(row, action, place(row), row.integer(column::TRUNCATES).unwrap_or(0));
    let before = state.take();
    let after = next(before.clone(), &event);
    // of a key, a truncate ends what is there
    if action != Action::Truncate || is_lone || before.as_ref().is_some_and(State::is_alive) {
        *number += i64::from(begins(before.as_ref(), &event));
        let line = line(before.as_ref(), &event, Some(&after));
        let other_key = || row.text(OTHER_KEY).unwrap_or_default();
        rows.put(&[
            (*number).into_datum(),
            row.datum(EVENT),
            line.old_row.as_ref().and_then(|image| jsonb_datum(image.bytes())),
            line.new_row.as_ref().and_then(|image| jsonb_datum(image.bytes())),
            line.unknown_old_columns.into_datum(),
            line.unknown_columns.into_datum(),
            line.note.map(|note| note.text(&other_key())).into_datum(),
        ]);
    }
    *state = Some(after);
}
