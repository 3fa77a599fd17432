//! This database as a source: what its catalogs say now.

use crate::pg::{BuiltinOid, Statement, as_extension, wait_for_commits, with_new_snapshot};
use audit_core::wire::Catalog;
use pgrx::prelude::*;
use std::collections::HashMap;
use std::ops::Range;

thread_local! {
    static DATABASE: Statement = const { Statement::new("SELECT audit_cdc_internal.this_database()::text", &[]) };

    static RAN_RULES: Statement = const { Statement::new(
        "SELECT EXISTS (SELECT FROM audit_cdc_internal.projecting_transactions
         WHERE xid::text::bigint & 4294967295 = $1)",
        &[BuiltinOid::INT8OID]) };

    static EXCLUDED: Statement = const { Statement::new(
        "SELECT relation, (from_lsn - '0/0')::bigint, (until_lsn - '0/0')::bigint
         FROM audit_cdc_internal.excluded_tables AS e
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
    fn left_out(&self, relation: u32) -> Vec<Range<u64>> {
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
