//! Tables are named once; entries of the log carry a number.

use super::sql::Statement;
use crate::message::Change;
use pgrx::prelude::*;
use std::collections::BTreeMap;

/// Database id and name, schema, table.
pub type TableName<'a> = (&'a str, Option<&'a str>, &'a str, &'a str);

const NAMES: &[PgBuiltInOids] = &[
    PgBuiltInOids::TEXTARRAYOID,
    PgBuiltInOids::TEXTARRAYOID,
    PgBuiltInOids::TEXTARRAYOID,
    PgBuiltInOids::TEXTARRAYOID,
];

thread_local! {
    static FIND: Statement = const { Statement::new(
        "SELECT t.id
         FROM unnest($1, $2, $3, $4) WITH ORDINALITY AS n(database_id, database_name, table_schema, table_name, place)
         LEFT JOIN audit_cdc_internal.audited_tables AS t
           ON t.database_id = n.database_id AND t.table_schema = n.table_schema AND t.table_name = n.table_name
          AND t.database_name IS NOT DISTINCT FROM n.database_name
         ORDER BY n.place", NAMES) };
    static ADD: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.audited_tables (database_id, database_name, table_schema, table_name)
         SELECT * FROM unnest($1, $2, $3, $4) ON CONFLICT DO NOTHING", NAMES) };
}

pub fn name<'a>(change: &'a Change) -> TableName<'a> {
    (&change.database_id, change.database_name.as_deref(), &change.table_schema, &change.table_name)
}

/// The number of every table that `changes` name; unknown ones are added, in one order in every session.
pub fn numbers<'a>(changes: impl Iterator<Item = &'a Change<'a>>) -> BTreeMap<TableName<'a>, i32> {
    let mut numbers: BTreeMap<TableName, Option<i32>> = changes.map(|change| (name(change), None)).collect();
    find(&mut numbers);
    if numbers.values().any(Option::is_none) {
        ADD.with(|add| add.run(|| columns(&numbers), |_| Ok(())));
        find(&mut numbers);
    }
    numbers.into_iter().filter_map(|(name, number)| Some((name, number?))).collect()
}

fn find(numbers: &mut BTreeMap<TableName, Option<i32>>) {
    if numbers.is_empty() {
        return;
    }
    let found: Vec<Option<i32>> =
        FIND.with(|find| find.run(|| columns(numbers), |rows| rows.map(|row| row.get(1)).collect()));
    for (number, found) in numbers.values_mut().zip(found) {
        *number = found;
    }
}

fn columns<'a>(numbers: &BTreeMap<TableName<'a>, Option<i32>>) -> Vec<pgrx::datum::DatumWithOid<'a>> {
    let names = || numbers.keys();
    vec![
        names().map(|n| n.0).collect::<Vec<&str>>().into(),
        names().map(|n| n.1).collect::<Vec<Option<&str>>>().into(),
        names().map(|n| n.2).collect::<Vec<&str>>().into(),
        names().map(|n| n.3).collect::<Vec<&str>>().into(),
    ]
}
