//! What `audit_history` and undo ask the log for: entries that fit, as lines.

use super::told::{Form, column, entry, images, put, stand};
use super::told_tables::{ToldTable, ToldTables, passed_text};
use crate::pg::{BuiltinOid, Cursor, PassedRow, ResultSet, Row, Rows, passed_bigint};
use audit_core::lives::{Before, Stand};
use audit_core::question::{Question, TOLD};
use pgrx::datum::{DatumWithOid, IntoDatum};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::sync::LazyLock;

use BuiltinOid::{INT8ARRAYOID, INT8OID, TIMESTAMPTZOID};

/// Entries are read so many at a time, each of these lots with the entries before them.
const LOT: i64 = 256;

/// Which tables are meant, and which are this database's own. $1: what was asked for; $2: the database_id, if named.
const SCOPE: &CStr = c"
    SELECT coalesce(
             ($1).numbers,
             CASE WHEN d.id IS NOT NULL THEN ARRAY(
               SELECT t.id
               FROM audit_cdc_internal.databases_of(d.id) AS o
               JOIN audit_cdc_internal.audited_tables AS t ON t.database_id = ANY (o.ids)) END),
           ARRAY(SELECT t.id FROM audit_cdc_internal.audited_tables AS t WHERE t.database_id = ANY (own.ids)), d.id
    FROM audit_cdc_internal.own_databases() AS own
    CROSS JOIN LATERAL (
      SELECT coalesce($2, CASE WHEN ($1).table_name IS NOT NULL THEN ($1).database_id END)) AS d(id)";

/// The entries of records $1 of a table, up to a time.
static OF_RECORDS: LazyLock<CString> = LazyLock::new(|| {
    let text = format!(
        "SELECT {TOLD} FROM audit_cdc_internal.log AS l
         WHERE l.record_id = ANY ($1) AND l.audited_table = ANY ($2) AND (NOT $3 OR l.origin <> 'i')
           AND l.commit_timestamp <= $4"
    );
    CString::new(text).unwrap_or_default()
});

/// The line of an entry whose record's life has to be read.
const LINE_OF: &CStr = c"SELECT l.* FROM audit_cdc_internal.line_of($1, $2, $3, $4) AS l";
/// Of a line.
pub const COLUMNS: usize = 23;
/// old_row, new_row, changed.
const IMAGES: [usize; 3] = [13, 14, 15];
const EXACT_VALUES: usize = 20;

/// What is asked for; null is not.
pub struct Page {
    pub table: PassedRow,
    pub id: DatumWithOid<'static>,
    pub username: DatumWithOid<'static>,
    pub request: DatumWithOid<'static>,
    pub commit: DatumWithOid<'static>,
    pub since: Option<i64>,
    pub until: Option<i64>,
    pub database: Option<String>,
    /// Where the line stands after which the page begins.
    pub after: Option<Vec<i64>>,
    pub newest_first: bool,
    pub most: Option<u64>,
}

impl Page {
    /// In bounded memory, but for the lines.
    pub fn put(self, form: Form, rows: &mut ResultSet) {
        let mut scope = None;
        Cursor::planned_once(SCOPE, &[self.table.passed(), passed_text(self.database.clone())])
            .fetch_rows(1, |row, _| scope = Some((row.integers(0), row.integers(1), row.text(2))));
        let Some((numbers, own, database)) = scope else { return };
        let mut tables = ToldTables::of(database);
        let (question, arguments) = self.asked(numbers, own);
        let Ok(statement) = CString::new(question.statement()) else { return };
        let mut cursor = Cursor::kept(&statement, &arguments);
        while cursor.fetch_together(LOT, |lot| put_lot(lot, &mut tables, form, rows)) {}
    }

    fn asked(self, tables: Option<Vec<i32>>, own: Option<Vec<i32>>) -> (Question, [DatumWithOid<'static>; 10]) {
        let (mut since, mut until) = (self.since, self.until);
        // the index of time finds where a page goes on
        if let Some(time) =
            self.after.as_ref().and_then(|after| after.first()).map(|time| time.saturating_sub(SINCE_1970))
        {
            let behind = time.saturating_add(1);
            if self.newest_first {
                until = Some(until.map_or(behind, |until| until.min(behind)));
            } else {
                since = Some(since.map_or(time, |since| since.max(time)));
            }
        }
        let is_given = |argument: &DatumWithOid| argument.datum().is_some();
        let question = Question {
            id: is_given(&self.id),
            tables: tables.is_some(),
            username: is_given(&self.username),
            request: is_given(&self.request),
            commit: is_given(&self.commit),
            since: since.is_some(),
            until: until.is_some(),
            after: self.after.is_some(),
            newest_first: self.newest_first,
            most: self.most,
        };
        let numbers = |numbers: Option<Vec<i32>>| numbers.unwrap_or_default().into();
        let after = self.after.map_or_else(|| DatumWithOid::null_oid(INT8ARRAYOID.value()), DatumWithOid::from);
        let most = self.most.map(|most| most as i64);
        let arguments = [
            self.id,
            numbers(tables),
            self.username,
            self.request,
            self.commit,
            passed_bigint(since, TIMESTAMPTZOID),
            passed_bigint(until, TIMESTAMPTZOID),
            after,
            numbers(own),
            passed_bigint(most, INT8OID),
        ];
        (question, arguments)
    }
}

/// Microseconds from 1970, from which cursors count, to 2000.
const SINCE_1970: i64 = 946_684_800_000_000;

fn put_lot(lot: Rows, tables: &mut ToldTables, form: Form, rows: &mut ResultSet) -> bool {
    let mut asked: BTreeMap<i32, Vec<(Vec<u8>, Stand)>> = BTreeMap::new();
    let is_there = lot.each(|row, _| {
        let entries = asked.entry(number(row)).or_default();
        entries.extend(row.bytes(column::RECORD).map(|record| (record.to_vec(), stand(row))));
    });
    let before: BTreeMap<_, _> = asked
        .into_iter()
        .map(|(number, entries)| {
            let record = entries.iter().map(|(record, _)| record).min();
            tables.read(number, record.map(|record| String::from_utf8_lossy(record).into_owned()));
            (number, tables.told(number).map(|table| before(table, entries)))
        })
        .collect();
    lot.each(|row, _| {
        let number = number(row);
        let Some(table) = tables.told(number) else { return };
        let before = row
            .bytes(column::RECORD)
            .and_then(|record| before.get(&number)?.as_ref()?.find(record, stand(row)).and_then(Option::as_ref));
        take(row, before, table, form, rows);
    });
    is_there
}

fn number(row: &Row) -> i32 {
    row.integer(column::TABLE).unwrap_or(0)
}

/// The entries before these, each of its record.
fn before(table: &ToldTable, entries: Vec<(Vec<u8>, Stand)>) -> Before<Option<Row>> {
    let last = entries.iter().map(|(_, at)| at.time).max();
    let mut before = Before::of(entries);
    let records: Vec<_> = before.records().map(|record| String::from_utf8_lossy(record).into_owned()).collect();
    if records.is_empty() {
        return before;
    }
    let arguments =
        [records.into(), table.numbers().into(), table.is_own().into(), passed_bigint(last, TIMESTAMPTZOID)];
    let mut cursor = Cursor::planned_once(OF_RECORDS.as_c_str(), &arguments);
    while cursor.fetch_together(1000, |rows| {
        let mut index = 0;
        rows.each(|row, _| {
            before.offer(row.bytes(column::RECORD).unwrap_or_default(), stand(row), || rows.kept(index));
            index += 1;
        })
    }) {}
    before
}

fn take(row: &Row, before: Option<&Row>, table: &ToldTable, form: Form, rows: &mut ResultSet) {
    let before = before.and_then(entry);
    let told = entry(row).filter(|entry| entry.needs_no_life(before.as_ref(), &table.facts));
    match told {
        Some(entry) => put(row, (table.named(), cursor(row).into_datum()), (&entry.event(), None), form, rows),
        None => put_of_life(row, table, form, rows),
    }
}

/// For the parameter after.
fn cursor(row: &Row) -> String {
    let Stand { time, lsn, idx, id } = stand(row);
    format!("{}.{lsn}.{idx}.{id}", time.saturating_add(SINCE_1970))
}

fn put_of_life(row: &Row, table: &ToldTable, form: Form, rows: &mut ResultSet) {
    let Some(audited) = table.audited() else { return };
    let text = |column| passed_text(row.text(column));
    let id = row.bigint(column::ID).unwrap_or(0);
    let arguments = [audited.passed(), id.into(), text(column::RECORD), cursor(row).into()];
    Cursor::reading(LINE_OF, &arguments).fetch_rows(1, |line, _| {
        let mut values: Vec<_> = (0..COLUMNS).map(|column| line.datum(column)).collect();
        let told = IMAGES.map(|column| line.jsonb(column));
        let [old, new, changed, exact] = images(told, form);
        (values[IMAGES[0]], values[IMAGES[1]], values[IMAGES[2]]) = (old, new, changed);
        values[EXACT_VALUES] = exact;
        rows.put(&values);
    });
}
