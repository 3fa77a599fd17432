//! Tables are named once; entries of the log carry a number.

use crate::message::{Change, Table};
use crate::pg::BuiltinOid;
use crate::statement::Statement;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::collections::BTreeMap;

pub struct AuditedTable {
    pub number: i32,
    /// An array literal; `None` where a key's text is the same wherever it comes from.
    pub key_types: Option<String>,
}

type Known<'c, 'a> = BTreeMap<&'c Table<'a>, Option<AuditedTable>>;

const NAMES: &[BuiltinOid] =
    &[BuiltinOid::TEXTARRAYOID, BuiltinOid::TEXTARRAYOID, BuiltinOid::TEXTARRAYOID, BuiltinOid::TEXTARRAYOID];

thread_local! {
    static FIND: Statement = const { Statement::new(
        "SELECT t.id, k.key_types::text
         FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS n(database_id, database_name, table_schema, table_name, place)
         LEFT JOIN audit_cdc_internal.audited_tables AS t
           ON t.database_id = n.database_id AND t.table_schema = n.table_schema AND t.table_name = n.table_name
          AND t.database_name IS NOT DISTINCT FROM n.database_name
         LEFT JOIN LATERAL (
           SELECT d.key_types FROM audit_cdc_internal.described_tables AS d
           WHERE d.database_id = n.database_id AND d.table_schema = n.table_schema AND d.table_name = n.table_name
           ORDER BY d.valid_from DESC LIMIT 1) AS k ON true
         ORDER BY n.place", NAMES) };
    static ADD: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.audited_tables (database_id, database_name, table_schema, table_name)
         SELECT * FROM unnest($1, $2, $3, $4) ON CONFLICT DO NOTHING", NAMES) };
}

/// The number of every table that `changes` name; unknown ones are added, in one order in every session.
pub fn audited_tables<'c, 'a>(changes: &'c [Change<'a>]) -> BTreeMap<&'c Table<'a>, AuditedTable> {
    let mut tables: Known = changes.iter().map(|change| (&change.table, None)).collect();
    find(&mut tables);
    if tables.values().any(Option::is_none) {
        ADD.with(|add| add.run(|| columns(&tables), |_| Ok(())));
        find(&mut tables);
    }
    let count = tables.len();
    let known: BTreeMap<_, _> = tables.into_iter().filter_map(|(table, number)| Some((table, number?))).collect();
    if known.len() < count {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "could not read the number of an audited table that was just added"
        );
    }
    known
}

fn find(tables: &mut Known) {
    if tables.is_empty() {
        return;
    }
    let found: Vec<Option<AuditedTable>> = FIND.with(|find| {
        find.run(
            || columns(tables),
            |rows| {
                rows.map(|row| {
                    let key_types = row.get(2)?;
                    Ok(row.get(1)?.map(|number| AuditedTable { number, key_types }))
                })
                .collect()
            },
        )
    });
    for (known, found) in tables.values_mut().zip(found) {
        *known = found;
    }
}

fn columns<'c>(tables: &Known<'c, '_>) -> Vec<DatumWithOid<'c>> {
    let names = || tables.keys().copied();
    vec![
        names().map(|table| &*table.database_id).collect::<Vec<&str>>().into(),
        names().map(|table| table.database_name.as_deref()).collect::<Vec<Option<&str>>>().into(),
        names().map(|table| &*table.schema).collect::<Vec<&str>>().into(),
        names().map(|table| &*table.name).collect::<Vec<&str>>().into(),
    ]
}
