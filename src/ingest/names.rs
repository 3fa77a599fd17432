//! Tables are named once; entries of the log carry a number.

use crate::message::{Change, Table};
use crate::pg::BuiltinOid;
use crate::statement::Statement;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::collections::BTreeMap;

type Numbers<'c, 'a> = BTreeMap<&'c Table<'a>, Option<i32>>;

const NAMES: &[BuiltinOid] =
    &[BuiltinOid::TEXTARRAYOID, BuiltinOid::TEXTARRAYOID, BuiltinOid::TEXTARRAYOID, BuiltinOid::TEXTARRAYOID];

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

/// The number of every table that `changes` name; unknown ones are added, in one order in every session.
pub fn numbers<'c, 'a>(changes: &'c [Change<'a>]) -> BTreeMap<&'c Table<'a>, i32> {
    let mut numbers: Numbers = changes.iter().map(|change| (&change.table, None)).collect();
    find(&mut numbers);
    if numbers.values().any(Option::is_none) {
        ADD.with(|add| add.run(|| columns(&numbers), |_| Ok(())));
        find(&mut numbers);
    }
    let count = numbers.len();
    let known: BTreeMap<_, _> = numbers.into_iter().filter_map(|(table, number)| Some((table, number?))).collect();
    if known.len() < count {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "could not read the number of an audited table that was just added"
        );
    }
    known
}

fn find(numbers: &mut Numbers) {
    if numbers.is_empty() {
        return;
    }
    let found: Vec<Option<i32>> =
        FIND.with(|find| find.run(|| columns(numbers), |rows| rows.map(|row| row.get(1)).collect()));
    for (number, found) in numbers.values_mut().zip(found) {
        *number = found;
    }
}

fn columns<'c>(numbers: &Numbers<'c, '_>) -> Vec<DatumWithOid<'c>> {
    let names = || numbers.keys().copied();
    vec![
        names().map(|table| &*table.database_id).collect::<Vec<&str>>().into(),
        names().map(|table| table.database_name.as_deref()).collect::<Vec<Option<&str>>>().into(),
        names().map(|table| &*table.schema).collect::<Vec<&str>>().into(),
        names().map(|table| &*table.name).collect::<Vec<&str>>().into(),
    ]
}
