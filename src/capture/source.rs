//! This database as a source: what its catalogs say now.

use super::decode::{Catalog, Keys, Kind};
use crate::pg::{BuiltinOid, as_extension, kind_of_type, wait_for_commits, with_new_snapshot};
use crate::statement::Statement;
use pgrx::prelude::*;
use pgrx::spi::SpiHeapTupleData;
use std::collections::HashMap;

thread_local! {
    static KEYS: Statement = const { Statement::new(
        "SELECT ARRAY(SELECT a.attname::text FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                      WHERE i.indrelid = $1 AND i.indisprimary ORDER BY a.attnum),
                ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                      WHERE a.attrelid = $1 AND a.attgenerated <> '' AND NOT a.attisdropped ORDER BY a.attnum)
         FROM pg_class WHERE oid = $1", &[BuiltinOid::OIDOID]) };

    static DATABASE: Statement = const { Statement::new("SELECT audit_cdc_internal.this_database()::text", &[]) };

    static TARGETS: Statement = const { Statement::new(
        "SELECT relation, NULL FROM audit_cdc_internal.projection_targets
         UNION ALL SELECT relation, (until - '0/0')::bigint FROM audit_cdc_internal.former_targets ORDER BY 2", &[]) };
}

pub struct Source {
    database: String,
    /// With the position until which each was one.
    targets: HashMap<u32, u64>,
}

impl Source {
    pub fn here() -> Self {
        as_extension(|| Self {
            database: DATABASE
                .with(|database| database.read(Vec::new, |rows| rows.first().get_one()))
                .unwrap_or_default(),
            targets: TARGETS.with(|targets| {
                targets.read(Vec::new, |rows| {
                    let until = |until: Option<i64>| until.map_or(u64::MAX, |until| until as u64);
                    rows.map(|row| Ok((row.get::<pg_sys::Oid>(1)?.map_or(0, pg_sys::Oid::to_u32), until(row.get(2)?))))
                        .collect()
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

    fn is_of_the_log_until(&self, schema: &str, relation: u32) -> u64 {
        if schema == "audit_cdc_internal" { u64::MAX } else { self.targets.get(&relation).copied().unwrap_or(0) }
    }

    fn database(&self) -> &str {
        &self.database
    }
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
