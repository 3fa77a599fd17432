//! Tables are named once; entries of the log carry a number.

use super::limits::Limits;
use crate::pg::{BuiltinOid, Statement};
use audit_core::message::{Change, SourceTable};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::SpiHeapTupleData;
use std::collections::{BTreeMap, BTreeSet};

pub struct AuditedTable {
    pub number: i32,
    /// An array literal; `None` where a key's text is the same wherever it comes from.
    pub key_types: Option<String>,
    /// Of what was committed before, retention has removed what nobody held.
    pub horizon: Option<TimestampWithTimeZone>,
}

const NAMES: &[BuiltinOid] = &[BuiltinOid::TEXTOID, BuiltinOid::TEXTOID, BuiltinOid::TEXTOID, BuiltinOid::TEXTOID];

thread_local! {
    static FIND: Statement = const { Statement::new(
        "SELECT t.id, (SELECT d.key_types::text FROM audit_cdc_internal.described_tables AS d
                       WHERE d.database_id = t.database_id AND d.table_schema = t.table_schema
                       AND d.table_name = t.table_name
                       ORDER BY d.valid_from DESC LIMIT 1),
                (SELECT max(h.before) FROM audit_cdc_internal.horizons AS h
                 JOIN audit_cdc_internal.audited_tables AS o ON o.id = h.audited_table
                 WHERE o.database_id = t.database_id AND o.table_schema = t.table_schema
                 AND o.table_name = t.table_name)
         FROM audit_cdc_internal.audited_tables AS t
         WHERE t.database_id = $1 AND t.table_schema = $3 AND t.table_name = $4
         AND t.database_name IS NOT DISTINCT FROM $2",
         NAMES) };
    static ADD: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.audited_tables (database_id, database_name, table_schema, table_name)
         VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", NAMES) };
}

/// The number of every table that `changes` name; unknown ones are added, in one order in every session. Those
/// beyond the limit are missing.
pub fn audited_tables<'c, 'a>(
    changes: &'c [Change<'a>],
    limits: Option<&Limits>,
) -> BTreeMap<&'c SourceTable<'a>, AuditedTable> {
    let named: BTreeSet<_> = changes.iter().map(|change| &change.table).collect();
    let known = named.into_iter().filter_map(|table| {
        let known = find(table).or_else(|| limits.is_none_or(Limits::takes_table).then(|| added(table)))?;
        Some((table, known))
    });
    known.collect()
}

fn added(table: &SourceTable) -> AuditedTable {
    ADD.with(|add| add.run(|| names(table), |_| Ok(())));
    find(table).unwrap_or_else(|| {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            "could not read the number of an audited table that was just added"
        );
    })
}

fn find(table: &SourceTable) -> Option<AuditedTable> {
    FIND.with(|find| {
        find.run(
            || names(table),
            |mut rows| {
                let row = rows.next();
                let found = |row: SpiHeapTupleData| {
                    let number = row.get(1)?.unwrap_or_default();
                    Ok(AuditedTable { number, key_types: row.get(2)?, horizon: row.get(3)? })
                };
                row.map(found).transpose()
            },
        )
    })
}

fn names<'t>(table: &'t SourceTable) -> Vec<DatumWithOid<'t>> {
    vec![
        (&*table.database_id).into(),
        table.database_name.as_deref().into(),
        (&*table.schema).into(),
        (&*table.name).into(),
    ]
}
