//! What is to be known of a table before lines are told from its entries alone (`audit_core::lives::Table`).

use crate::pg::{Cursor, PassedRow, Row};
use audit_core::lives::Table;
use pgrx::datum::{DatumWithOid, IntoDatum};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::LazyLock;

/// A condition on a table, `$1` or an expression. Nobody described it, and its keys have one spelling. Nothing came to
/// all of its records at once or gave one another key.
pub fn undisturbed(table: &str) -> String {
    UNDISTURBED.replace("$1", table)
}

const UNDISTURBED: &str = "($1).key_types IS NULL AND cardinality(($1).databases) = 1
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

/// $2: whether lines of records are wanted.
const FACTS: &CStr = c"
    SELECT t.is_described, t.told_from, ($1).key_types IS NOT NULL, cardinality(($1).databases) > 1, t.first_break,
           t.last_break, t.first_rekeyed, t.last_rekeyed
    FROM audit_cdc_internal.told_of($1, $2) AS t";

/// In the columns of [`FACTS`].
fn table(row: &Row) -> Table {
    let span = |first| row.bigint(first).zip(row.bigint(first + 1));
    Table {
        is_described: row.boolean(0),
        told_from: row.bigint(1),
        is_spelled: row.boolean(2),
        goes_on: row.boolean(3),
        breaks: span(4),
        rekeyed: span(6),
    }
}

/// What is to be known of a table.
pub fn facts(audited: PassedRow, has_keys: bool) -> Table {
    if Cursor::planned_once(IS_UNDISTURBED.as_c_str(), &[audited.passed()]).fetch_rows(1, |_, _| ()) {
        return Table::default();
    }
    let mut facts = Table::default();
    Cursor::reading(FACTS, &[audited.passed(), has_keys.into()]).fetch_rows(1, |row, _| facts = table(row));
    facts
}

/// By its number, $1. If a database_id was asked for, it is $2. A record that lines are wanted of is $3; null if none
/// has a key.
const TABLE: &CStr = c"
    SELECT f.database_id, (f.audited).table_schema, (f.audited).table_name, (f.audited).numbers, (f.audited).is_own,
           f.audited
    FROM (
      SELECT t.database_id,
             audit_cdc_internal.table_named(
               format('%I.%I', t.table_schema, t.table_name),
               CASE WHEN coalesce($2, h.id) = h.id
                      AND t.database_id = ANY ((SELECT o.ids FROM audit_cdc_internal.own_databases() AS o)::text[])
                    THEN h.id ELSE t.database_id END, NULL, $3) AS audited
      FROM audit_cdc_internal.audited_tables AS t
      CROSS JOIN (SELECT audit_cdc_internal.this_database() ->> 'id') AS h(id)
      WHERE t.id = $1
      OFFSET 0
    ) AS f";

/// database_id, table_schema and table_name.
pub type Named = [Option<pg_sys::Datum>; 3];

/// A table of whose entries some are wanted.
pub struct ToldTable {
    pub facts: Table,
    has_keys: bool,
    /// As [`TABLE`] gives it.
    row: Row,
}

impl ToldTable {
    /// As its entries name it.
    pub fn named(&self) -> Named {
        [0, 1, 2].map(|column| self.row.datum(column))
    }

    pub fn numbers(&self) -> Vec<i32> {
        self.row.integers(3).unwrap_or_default()
    }

    pub fn is_own(&self) -> bool {
        self.row.boolean(4)
    }

    pub fn audited(&self) -> Option<PassedRow> {
        self.row.row(5)
    }
}

/// Those of a page, each read once.
pub struct ToldTables {
    database: Option<String>,
    tables: HashMap<i32, ToldTable>,
}

impl ToldTables {
    /// `database`: the one that is asked for, if one is.
    pub fn of(database: Option<String>) -> Self {
        Self { database, tables: HashMap::new() }
    }

    pub fn told(&self, number: i32) -> Option<&ToldTable> {
        self.tables.get(&number)
    }

    /// `record`: one that lines are wanted of, if any has a key.
    pub fn read(&mut self, number: i32, record: Option<String>) {
        let has_keys = record.is_some();
        if self.tables.get(&number).is_some_and(|table| table.has_keys || !has_keys) {
            return;
        }
        let arguments = [number.into(), passed_text(self.database.clone()), passed_text(record)];
        let row = Cursor::planned_once(TABLE, &arguments).fetch_together(1, |rows| rows.kept(0));
        let Some(row) = row else { return };
        let facts = row.row(5).map(|audited| facts(audited, has_keys)).unwrap_or_default();
        self.tables.insert(number, ToldTable { facts, has_keys, row });
    }
}

pub fn passed_text(text: Option<String>) -> DatumWithOid<'static> {
    text.map_or_else(|| DatumWithOid::null_oid(String::type_oid()), DatumWithOid::from)
}
