//! What `audit_history` and undo ask the log for: entries that fit, as lines.

use super::told::{Form, column, entry, images, put, table};
use crate::pg::{BuiltinOid, Call, Cursor, ResultSet, Row};
use audit_core::question::Question;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

use BuiltinOid::{INT4ARRAYOID, INT8ARRAYOID, INT8OID, TEXTOID, TIMESTAMPTZOID};

/// Parameters of the statement.
const PARAMETERS: [BuiltinOid; 11] = [
    INT8OID,
    INT4ARRAYOID,
    TEXTOID,
    TEXTOID,
    INT8OID,
    TIMESTAMPTZOID,
    TIMESTAMPTZOID,
    INT8ARRAYOID,
    INT4ARRAYOID,
    TEXTOID,
    INT8OID,
];

/// The line of an entry whose record's life has to be read.
const LINE_OF: &CStr = c"SELECT l.* FROM audit_cdc_internal.line_of($1, $2, $3, $4) AS l";
const COLUMNS: usize = 21;
/// old_row, new_row, changed; the last column is exact_values.
const IMAGES: [usize; 3] = [13, 14, 15];

/// The first arguments are the statement's, null where they are not asked for. Then comes the direction, and how rows
/// stand in the lines.
#[pg_extern(
    sql = r#"CREATE FUNCTION audit_cdc_internal.page_of_lines(
    of_id bigint, tables integer[], of_user text, of_request text, of_commit bigint, since timestamptz,
    until timestamptz, after bigint[], own_tables integer[], of_database text, max_rows bigint, newest_first boolean,
    is_plain boolean)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["history_told"]
)]
fn page_of_lines(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let mut rows = ResultSet::new(call);
    let is_given = |index| call.argument(index).is_some();
    let question = Question {
        id: is_given(0),
        tables: is_given(1),
        username: is_given(2),
        request: is_given(3),
        commit: is_given(4),
        since: is_given(5),
        until: is_given(6),
        after: is_given(7),
        most: call.argument(10).map(|most| most.value() as u64),
        newest_first: call.argument(11).is_some_and(|newest_first| newest_first.value() != 0),
    };
    let Ok(statement) = CString::new(question.statement()) else { return };
    let arguments: Vec<_> = PARAMETERS.iter().enumerate().map(|(index, oid)| call.passed(index, *oid)).collect();
    let form = Form::of(call, 12);
    let mut cursor = Cursor::kept(&statement, &arguments);
    while cursor.fetch_rows(100, |row, _| take(row, form, &mut rows)) {}
}

fn take(row: &Row, form: Form, rows: &mut ResultSet) {
    let before = entry(row, column::BEFORE);
    let told =
        entry(row, column::ENTRY).filter(|entry| entry.needs_no_life(before.as_ref(), &table(row, column::TABLE)));
    match told {
        Some(entry) => put(row, &entry.event(), None, form, rows),
        None => put_of_life(row, form, rows),
    }
}

fn put_of_life(row: &Row, form: Form, rows: &mut ResultSet) {
    let Some(audited) = row.row(column::AUDITED) else { return };
    let text = |column| row.text(column).map_or_else(|| DatumWithOid::null_oid(TEXTOID.value()), DatumWithOid::from);
    let id = row.bigint(column::ID).unwrap_or(0);
    let arguments = [audited.passed(), id.into(), text(column::RECORD), text(column::CURSOR)];
    Cursor::reading(LINE_OF, &arguments).fetch_rows(1, |line, _| {
        let mut values: Vec<_> = (0..COLUMNS).map(|column| line.datum(column)).collect();
        let told = IMAGES.map(|column| line.jsonb(column));
        let [old, new, changed, exact] = images(told, form);
        (values[IMAGES[0]], values[IMAGES[1]], values[IMAGES[2]]) = (old, new, changed);
        values[COLUMNS - 1] = exact;
        rows.put(&values);
    });
}
