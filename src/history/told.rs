//! Entries that tell their whole rows, as lines (`audit_core::lives::Entry`).

use crate::pg::BuiltinOid::TEXTOID;
use crate::pg::{Call, Cursor, ResultSet, Row, jsonb_datum};
use audit_core::json::{self, Value};
use audit_core::lives::{Action, Entry, Event, Image, State, Table, changed, line, next};
use audit_core::question::ENTRY;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};
use std::sync::LazyLock;

/// What [`ENTRY`] and the page's statement give, in this order.
pub mod column {
    /// Of the entry: table, action, lsn, idx, time, values and what was not sent of them.
    pub const ENTRY: usize = 0;
    pub const ID: usize = 9;
    pub const RECORD: usize = 10;
    pub const MAY_CHANGE_KEY: usize = 11;
    pub const USERNAME: usize = 12;
    pub const SOURCE: usize = 13;
    pub const REQUEST: usize = 14;
    pub const METADATA: usize = 15;
    pub const CURSOR: usize = 16;
    pub const DATABASE: usize = 17;
    pub const SCHEMA: usize = 18;
    pub const NAME: usize = 19;
    /// As of the entry.
    pub const BEFORE: usize = 20;
    pub const TABLE: usize = 29;
    pub const AUDITED: usize = 37;
}

/// A condition on the table $1. Nobody described it, and its keys have one spelling. Nothing came to all of its records
/// at once or gave one another key.
pub const UNDISTURBED: &str = "($1).key_types IS NULL AND cardinality(($1).databases) = 1
      AND NOT EXISTS (SELECT FROM audit_cdc_internal.log AS l
                      WHERE l.record_id IS NULL AND l.audited_table = ANY (($1).numbers))
      AND NOT EXISTS (SELECT FROM audit_cdc_internal.log AS l
                      WHERE l.may_change_key AND l.audited_table = ANY (($1).numbers))
      AND NOT EXISTS (SELECT FROM audit_cdc_internal.losses_of($1))
      AND NOT EXISTS (SELECT FROM audit_cdc_internal.described_tables AS d
                      WHERE d.database_id = ANY (($1).databases)
                        AND (d.table_schema, d.table_name) = (($1).table_schema, ($1).table_name))";

static IS_UNDISTURBED: LazyLock<CString> =
    LazyLock::new(|| CString::new(format!("SELECT true WHERE {UNDISTURBED}")).unwrap_or_default());

const FACTS: &CStr = c"
    SELECT t.is_described, t.told_from, ($1).key_types IS NOT NULL, cardinality(($1).databases) > 1, t.first_break,
           t.last_break, t.first_rekeyed, t.last_rekeyed,
           t.first_rekeyed IS NOT NULL
             AND (audit_cdc_internal.is_rekeyed($1, $2) OR audit_cdc_internal.was_restored($1, $2))
    FROM audit_cdc_internal.told_of($1, true) AS t";
const IS_DISTURBED: usize = 8;

/// The entries of a record by time. $1: the table, $2: the record.
static OF_RECORD: LazyLock<CString> = LazyLock::new(|| {
    let text = format!(
        "SELECT {ENTRY}, format('1.%s.%s.%s', l.commit_lsn + ($1).positions_before[1],
                coalesce(l.commit_idx, 2147483647), l.id), ($1).database_id, ($1).table_schema, ($1).table_name
         FROM audit_cdc_internal.log AS l
         WHERE l.record_id = $2 AND l.audited_table = ANY (($1).numbers) AND (NOT ($1).is_own OR l.origin <> 'i')
         ORDER BY l.commit_timestamp, l.commit_lsn, coalesce(l.commit_idx, 2147483647), l.id"
    );
    CString::new(text).unwrap_or_default()
});

/// The lines of a record each of whose entries tells its row, if nothing came between that names no record; else none.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.told_lines(
    audited audit_cdc_internal.audited, record text, is_plain boolean)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["history_told"])]
fn told_lines(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let mut rows = ResultSet::new(call);
    let Some(audited) = call.row(0) else { return };
    let arguments = || [audited.passed(), call.passed(1, TEXTOID)];
    let form = Form::of(call, 2);
    let mut facts = Table::default();
    let mut is_told = true;
    if !Cursor::reading(IS_UNDISTURBED.as_c_str(), &[audited.passed()]).fetch_rows(1, |_, _| ()) {
        Cursor::reading(FACTS, &arguments()).fetch_rows(1, |row, _| {
            facts = table(row, 0);
            is_told = !row.boolean(IS_DISTURBED);
        });
    }
    if !is_told || facts.is_spelled || facts.goes_on {
        return;
    }
    let mut cursor = Cursor::reading(OF_RECORD.as_c_str(), &arguments());
    let mut last: Option<State> = None;
    while is_told
        && cursor.fetch_rows(100, |row, _| {
            is_told = is_told
                && entry(row, column::ENTRY).is_some_and(|entry| {
                    let event = entry.event();
                    let follows = match &last {
                        Some(last) => last.place < event.place,
                        None => facts.breaks.is_none_or(|(_, last)| last < entry.time),
                    };
                    put(row, &event, last.as_ref(), form, &mut rows);
                    last = Some(next(last.take(), &event));
                    follows && entry.tells_row(&facts) && entry.lsn.is_some()
                });
        })
    {}
    if !is_told {
        rows.clear();
    }
}

/// How rows stand in lines.
#[derive(Clone, Copy)]
pub enum Form {
    /// Exact values stand in them.
    Told,
    /// For who reads them: exact values stand beside them.
    Plain,
}

impl Form {
    /// As the argument is_plain says.
    pub fn of(call: Call, index: usize) -> Self {
        if call.argument(index).is_some_and(|is_plain| is_plain.value() != 0) { Self::Plain } else { Self::Told }
    }
}

/// The line of an entry that tells its row.
pub fn put(row: &Row, event: &Event, before: Option<&State>, form: Form, rows: &mut ResultSet) {
    let line = line(before, event, None);
    let place = |column| row.datum(column::ENTRY + column);
    let (old, new) = (line.old_row.as_ref(), line.new_row.as_ref());
    let changed = changed(event.action, old, new);
    let [old, new, changed, exact] = images([old, new, changed.as_ref()].map(|image| image.map(Image::bytes)), form);
    rows.put(&[
        row.datum(column::ID),
        row.datum(column::DATABASE),
        row.datum(column::SCHEMA),
        row.datum(column::NAME),
        row.datum(column::RECORD),
        place(1),
        place(2),
        place(3).filter(|_| event.action != Action::Read),
        place(4),
        row.datum(column::USERNAME),
        row.datum(column::SOURCE),
        row.datum(column::REQUEST),
        row.datum(column::METADATA),
        old,
        new,
        changed,
        line.unknown_old_columns.into_datum(),
        line.unknown_columns.into_datum(),
        line.note.map(|note| note.text("")).into_datum(),
        row.datum(column::CURSOR),
        exact,
    ]);
}

/// The rows before and after a change, what changed, and the exact values that stand beside them.
pub fn images([old, new, changed]: [Option<&[u8]>; 3], form: Form) -> [Option<pg_sys::Datum>; 4] {
    let texts = match form {
        Form::Told => [None, None],
        Form::Plain => [new, old].map(|row| row.and_then(json::texts)),
    };
    if texts.iter().all(Option::is_none) {
        let [old, new, changed] = [old, new, changed].map(|image| image.and_then(jsonb_datum));
        return [old, new, changed, None];
    }
    let sides = [b"new".as_slice(), b"old"].into_iter().zip(&texts);
    let exact: Vec<_> =
        sides.filter_map(|(side, texts)| texts.as_ref().map(|texts| (side, Value::Container(texts)))).collect();
    let plain = |row: Option<&[u8]>| row.and_then(|row| jsonb_datum(&json::plain(row).unwrap_or_else(|| row.to_vec())));
    let changed = changed.and_then(|changed| jsonb_datum(&json::plain_diff(changed)));
    [plain(old), plain(new), changed, jsonb_datum(&json::object(&exact))]
}

/// The entry whose columns begin at `at`; none where there is none.
pub fn entry(row: &Row, at: usize) -> Option<Entry<'_>> {
    let lacks = |column| (!row.is_null(column)).then(|| !row.is_empty_array(column));
    let of_entry = at == column::ENTRY;
    Some(Entry {
        table: row.integer(at)?,
        action: std::str::from_utf8(row.bytes(at + 1)?).ok().and_then(Action::named)?,
        lsn: row.bigint(at + 2),
        idx: row.integer(at + 3).unwrap_or(i32::MAX),
        time: row.bigint(at + 4).unwrap_or(0),
        old: row.jsonb(at + 5).map(Image::new),
        new: row.jsonb(at + 6).map(Image::new),
        lacks: lacks(at + 7),
        lacks_old: lacks(at + 8),
        has_key: !of_entry || !row.is_null(column::RECORD),
        may_change_key: of_entry && row.boolean(column::MAY_CHANGE_KEY),
    })
}

/// What is to be known of the table, in the columns that begin at `at`.
pub fn table(row: &Row, at: usize) -> Table {
    let span = |first| row.bigint(first).zip(row.bigint(first + 1));
    Table {
        is_described: row.boolean(at),
        told_from: row.bigint(at + 1),
        is_spelled: row.boolean(at + 2),
        goes_on: row.boolean(at + 3),
        breaks: span(at + 4),
        rekeyed: span(at + 6),
    }
}
