//! This database as a source: what its catalogs say now.

use super::decode::{Catalog, Keys, Kind};
use crate::pg::{BuiltinOid, as_extension, kind_of_type};
use crate::statement::Statement;
use pgrx::prelude::*;
use std::collections::HashSet;

thread_local! {
    static KEYS: Statement = const { Statement::new(
        "SELECT ARRAY(SELECT a.attname::text FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                      WHERE i.indrelid = $1 AND i.indisprimary ORDER BY a.attnum),
                ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                      WHERE a.attrelid = $1 AND a.attgenerated <> '' AND NOT a.attisdropped ORDER BY a.attnum)", &[BuiltinOid::OIDOID]) };

    static DATABASE: Statement = const { Statement::new("SELECT audit_cdc_internal.this_database()::text", &[]) };

    static TARGETS: Statement = const { Statement::new(
        "SELECT relation FROM audit_cdc_internal.projection_targets", &[]) };
}

pub struct Source {
    database: String,
    targets: HashSet<u32>,
}

impl Source {
    pub fn here() -> Self {
        as_extension(|| Self {
            database: DATABASE
                .with(|database| database.run(Vec::new, |rows| rows.first().get_one()))
                .unwrap_or_default(),
            targets: TARGETS.with(|targets| {
                targets.run(Vec::new, |rows| {
                    rows.map(|row| Ok(row.get::<pg_sys::Oid>(1)?.map_or(0, pg_sys::Oid::to_u32))).collect()
                })
            }),
        })
    }
}

impl Catalog for Source {
    fn kind(&self, type_oid: u32) -> Kind {
        kind_of_type(type_oid)
    }

    fn keys(&self, relation: u32) -> Keys {
        let relation = pg_sys::Oid::from(relation);
        let (primary_key, generated) =
            KEYS.with(|keys| keys.run(|| vec![relation.into()], |rows| rows.first().get_two()));
        Keys { primary_key: primary_key.unwrap_or_default(), generated: generated.unwrap_or_default() }
    }

    fn is_of_the_log(&self, schema: &str, relation: u32) -> bool {
        schema == "audit_cdc_internal" || self.targets.contains(&relation)
    }

    fn database(&self) -> &str {
        &self.database
    }
}
