//! This database as a source: what its catalogs say now.

use super::decode::{Catalog, Keys, Kind};
use crate::pg::{BuiltinOid, as_extension, kind_of_type, wait_for_commits, with_new_snapshot};
use crate::statement::Statement;
use pgrx::prelude::*;
use pgrx::spi::SpiHeapTupleData;
use std::collections::HashMap;
use std::ops::Range;

thread_local! {
    static KEYS: Statement = const { Statement::new(
        "SELECT ARRAY(SELECT a.attname::text FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                      WHERE i.indrelid = $1 AND i.indisprimary ORDER BY a.attnum),
                ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                      WHERE a.attrelid = $1 AND a.attgenerated <> '' AND NOT a.attisdropped ORDER BY a.attnum)
         FROM pg_class WHERE oid = $1", &[BuiltinOid::OIDOID]) };

    static DATABASE: Statement = const { Statement::new("SELECT audit_cdc_internal.this_database()::text", &[]) };

    static RAN_RULES: Statement = const { Statement::new(
        "SELECT EXISTS (SELECT FROM audit_cdc_internal.projecting_transactions WHERE xid::text::bigint & 4294967295 = $1)",
        &[BuiltinOid::INT8OID]) };

    static EXCLUDED: Statement = const { Statement::new(
        "SELECT relation, (from_lsn - '0/0')::bigint, (until_lsn - '0/0')::bigint FROM audit_cdc_internal.excluded_tables AS e
         WHERE NOT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                           WHERE c.oid = e.relation AND (c.relname, n.nspname) <> (e.table_name, e.table_schema))",
        &[]) };
}

pub struct Source {
    database: String,
    /// Positions of commits whose changes are left out.
    excluded: HashMap<u32, Vec<Range<u64>>>,
}

impl Source {
    pub fn here() -> Self {
        as_extension(|| Self {
            database: DATABASE
                .with(|database| database.read(Vec::new, |rows| rows.first().get_one()))
                .unwrap_or_default(),
            excluded: EXCLUDED.with(|excluded| {
                excluded.read(Vec::new, |rows| {
                    let mut excluded: HashMap<u32, Vec<Range<u64>>> = HashMap::new();
                    for row in rows {
                        let relation = row.get::<pg_sys::Oid>(1)?.map_or(0, pg_sys::Oid::to_u32);
                        let (from, until): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
                        let until = until.map_or(u64::MAX, |until| until as u64);
                        excluded.entry(relation).or_default().push(from.unwrap_or(0) as u64..until);
                    }
                    Ok(excluded)
                })
            }),
        })
    }
}

impl Catalog for Source {
    fn kind(&self, type_oid: u32) -> Kind {
        kind_of_type(type_oid)
    }

    /// The WAL may already hold changes of a table that was made after this transaction began, or whose making others do not see yet.
    fn keys(&self, relation: u32) -> Keys {
        keys_now(relation)
            .or_else(|| {
                wait_for_commits();
                keys_now(relation)
            })
            .unwrap_or_default()
    }

    fn left_out(&self, schema: &str, relation: u32) -> Vec<Range<u64>> {
        if schema == "audit_cdc_internal" {
            return std::iter::once(0..u64::MAX).collect();
        }
        self.excluded.get(&relation).cloned().unwrap_or_default()
    }

    fn ran_rules(&self, xid: u32) -> bool {
        ran_rules(xid) || {
            wait_for_commits();
            ran_rules(xid)
        }
    }

    fn database(&self) -> &str {
        &self.database
    }
}

fn ran_rules(xid: u32) -> bool {
    let found =
        || RAN_RULES.with(|ran| ran.read(|| vec![i64::from(xid).into()], |rows| rows.first().get_one::<bool>()));
    as_extension(|| with_new_snapshot(found)) == Some(true)
}

/// `None`: there is no such table.
fn keys_now(relation: u32) -> Option<Keys> {
    let relation = pg_sys::Oid::from(relation);
    with_new_snapshot(|| {
        KEYS.with(|keys| {
            keys.read(
                || vec![relation.into()],
                |mut rows| {
                    let columns = |row: &SpiHeapTupleData, place| row.get(place).map(Option::unwrap_or_default);
                    rows.next()
                        .map(|row| Ok(Keys { primary_key: columns(&row, 1)?, generated: columns(&row, 2)? }))
                        .transpose()
                },
            )
        })
    })
}
