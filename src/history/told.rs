//! Entries that tell their whole rows, as lines (`audit_core::lives::Entry`).

use super::told_tables::{Named, facts};
use crate::pg::BuiltinOid::TEXTOID;
use crate::pg::{Call, Cursor, PassedRow, ResultSet, Row, jsonb_datum};
use audit_core::json::{self, Value};
use audit_core::lives::{Action, Entry, Event, Image, Stand, State, Table, changed, line, next};
use audit_core::question::{SIGNED, TOLD};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};
use std::sync::LazyLock;

/// What [`TOLD`], [`SIGNED`] and the statements give, in this order.
pub mod column {
    /// Its number.
    pub const TABLE: usize = 0;
    pub const ACTION: usize = 1;
    pub const LSN: usize = 2;
    pub const IDX: usize = 3;
    pub const TIME: usize = 4;
    pub const OLD: usize = 5;
    pub const NEW: usize = 6;
    pub const UNKNOWN: usize = 7;
    pub const UNKNOWN_OLD: usize = 8;
    pub const ID: usize = 9;
    pub const RECORD: usize = 10;
    pub const MAY_CHANGE_KEY: usize = 11;
    pub const USERNAME: usize = 12;
    pub const SOURCE: usize = 13;
    pub const REQUEST: usize = 14;
    pub const METADATA: usize = 15;
    pub const SERVER_CONTEXT: usize = 16;
    pub const ATTESTED: usize = 17;
    // of a record's entries only
    pub const CURSOR: usize = 18;
    pub const DATABASE: usize = 19;
    pub const SCHEMA: usize = 20;
    pub const NAME: usize = 21;
}

/// Did some update bring another record to the record $2, or was the source restored?
const DISTURBED: &CStr =
    c"SELECT true WHERE audit_cdc_internal.is_rekeyed($1, $2) OR audit_cdc_internal.was_restored($1, $2)";

/// The entries of a record by time. $1: the table, $2: the record.
static OF_RECORD: LazyLock<CString> = LazyLock::new(|| {
    let text = format!(
        "SELECT {TOLD}, {SIGNED}, format('1.%s.%s.%s', l.commit_lsn + ($1).positions_before[1],
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
    put_record((audited, facts(audited, true)), call.passed(1, TEXTOID), Form::of(call, 2), &mut rows);
}

/// The same, of a table and what is to be known of it. No line: its life has to be read.
pub fn put_record(
    (audited, facts): (PassedRow, Table),
    record: DatumWithOid<'static>,
    form: Form,
    rows: &mut ResultSet,
) -> bool {
    let arguments = [audited.passed(), record];
    let is_disturbed = || Cursor::reading(DISTURBED, &arguments).fetch_rows(1, |_, _| ());
    if facts.is_spelled || facts.goes_on || facts.rekeyed.is_some() && is_disturbed() {
        return false;
    }
    let mut cursor = Cursor::planned_once(OF_RECORD.as_c_str(), &arguments);
    let mut last: Option<State> = None;
    let mut is_told = true;
    while is_told
        && cursor.fetch_rows(100, |row, _| {
            is_told = is_told
                && entry(row).is_some_and(|entry| {
                    let event = entry.event();
                    let follows = match &last {
                        Some(last) => last.place < event.place,
                        None => facts.breaks.is_none_or(|(_, last)| last < entry.time),
                    };
                    let named = [column::DATABASE, column::SCHEMA, column::NAME].map(|column| row.datum(column));
                    put(row, (named, row.datum(column::CURSOR)), (&event, last.as_ref()), form, rows);
                    last = Some(next(last.take(), &event));
                    follows && entry.tells_row(&facts) && entry.lsn.is_some()
                });
        })
    {}
    if !is_told {
        rows.clear();
    }
    is_told && last.is_some()
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

/// The line of an entry that tells its row. `before`: the state before it, where that matters.
pub fn put(
    row: &Row,
    ([database, schema, name], cursor): (Named, Option<pg_sys::Datum>),
    (event, before): (&Event, Option<&State>),
    form: Form,
    rows: &mut ResultSet,
) {
    let line = line(before, event, None);
    let (old, new) = (line.old_row.as_ref(), line.new_row.as_ref());
    let changed = changed(event.action, old, new);
    let [old, new, changed, exact] = images([old, new, changed.as_ref()].map(|image| image.map(Image::bytes)), form);
    rows.put(&[
        row.datum(column::ID),
        database,
        schema,
        name,
        row.datum(column::RECORD),
        row.datum(column::ACTION),
        row.datum(column::LSN),
        row.datum(column::IDX).filter(|_| event.action != Action::Read),
        row.datum(column::TIME),
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
        cursor,
        exact,
        row.datum(column::SERVER_CONTEXT),
        row.datum(column::ATTESTED),
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

/// The entry of a row of [`TOLD`]; none where there is none.
pub fn entry(row: &Row) -> Option<Entry<'_>> {
    let lacks = |column| (!row.is_null(column)).then(|| !row.is_empty_array(column));
    Some(Entry {
        table: row.integer(column::TABLE)?,
        action: std::str::from_utf8(row.bytes(column::ACTION)?).ok().and_then(Action::named)?,
        lsn: row.bigint(column::LSN),
        idx: row.integer(column::IDX).unwrap_or(i32::MAX),
        time: row.bigint(column::TIME).unwrap_or(0),
        old: row.jsonb(column::OLD).map(Image::new),
        new: row.jsonb(column::NEW).map(Image::new),
        lacks: lacks(column::UNKNOWN),
        lacks_old: lacks(column::UNKNOWN_OLD),
        has_key: !row.is_null(column::RECORD),
        may_change_key: row.boolean(column::MAY_CHANGE_KEY),
    })
}

/// Where it stands.
pub fn stand(row: &Row) -> Stand {
    Stand {
        time: row.bigint(column::TIME).unwrap_or(0),
        lsn: row.bigint(column::LSN).unwrap_or(0),
        idx: row.integer(column::IDX).unwrap_or(i32::MAX),
        id: row.bigint(column::ID).unwrap_or(0),
    }
}
