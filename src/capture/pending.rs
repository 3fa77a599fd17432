//! `audit_changes`: what a slot holds, as Sequin would write it, without consuming it.

use super::decoder::{Catalog, Decoder, Failure};
use super::value::Kind;
use crate::pg::{BuiltinOid, ErrorReport, kind_of_type};
use crate::statement::{Statement, succeeded};
use pgrx::prelude::*;

pgrx::extension_sql_file!("../../sql/capture.sql", name = "capture", requires = [audit_changes]);

thread_local! {
    static KEY: Statement = const { Statement::new(
        "SELECT ARRAY(SELECT a.attname::text FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                      WHERE i.indrelid = $1 AND i.indisprimary ORDER BY a.attnum)", &[BuiltinOid::OIDOID]) };

    static DATABASE: Statement = const { Statement::new(
        "SELECT format('%s.%s', s.system_identifier, d.oid), d.datname::text
         FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database()", &[]) };
}

// src/capture/value.rs reads what these settings make the types' output functions write.
#[pg_extern(
    sql = r#"CREATE FUNCTION @extschema@.audit_changes(slot name, publication name, upto_nchanges integer DEFAULT NULL)
  RETURNS SETOF json LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000
  SET search_path = pg_catalog, pg_temp
  SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'iso_8601' SET TimeZone = 'UTC' SET extra_float_digits = 1 SET bytea_output = 'hex'
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#
)]
fn audit_changes(
    slot: Option<&std::ffi::CStr>,
    publication: Option<&std::ffi::CStr>,
    upto_nchanges: Option<i32>,
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let name = |argument: Option<&std::ffi::CStr>, called: &str| {
        argument.map(|name| name.to_string_lossy().into_owned()).ok_or_else(|| {
            let message = format!("{called} must not be null");
            ErrorReport::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, message, "audit_changes")
        })
    };
    let (slot, publication) = (name(slot, "slot")?, name(publication, "publication")?);
    let mut decoder = Decoder::new(Source::here());
    let mut messages = Vec::new();
    let decoded = succeeded(Spi::connect(|client| {
        let pending = client.select(
            "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, $2, 'proto_version', '1', 'publication_names', quote_ident($3), 'messages', 'true')",
            None,
            &[slot.as_str().into(), upto_nchanges.into(), publication.as_str().into()],
        )?;
        for row in pending {
            let bytes: Vec<u8> = row.get(1)?.unwrap_or_default();
            match decoder.decode(&bytes) {
                Ok(changes) => messages.extend(changes),
                Err(failure) => return Ok(Err(failure)),
            }
        }
        Ok(Ok(()))
    }));
    decoded.map_err(|failure| report(&slot, failure))?;
    Ok(SetOfIterator::new(messages))
}

fn report(slot: &str, failure: Failure) -> ErrorReport {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
        format!("cannot decode the changes of replication slot \"{slot}\""),
        "audit_changes",
    )
    .set_detail(format!("The output plugin's message is not understood: {failure:?}."))
}

/// The catalogs of this database, as they are now.
struct Source {
    database_id: String,
    database_name: String,
}

impl Source {
    fn here() -> Self {
        let (id, name) =
            DATABASE.with(|database| database.run(Vec::new, |rows| rows.first().get_two::<String, String>()));
        Self { database_id: id.unwrap_or_default(), database_name: name.unwrap_or_default() }
    }
}

impl Catalog for Source {
    fn kind(&self, type_oid: u32) -> Kind {
        kind_of_type(type_oid)
    }

    fn key(&self, relation: u32) -> Vec<String> {
        let relation = pg_sys::Oid::from(relation);
        KEY.with(|key| key.run(|| vec![relation.into()], |rows| rows.first().get_one())).unwrap_or_default()
    }

    fn database_id(&self) -> &str {
        &self.database_id
    }

    fn database_name(&self) -> &str {
        &self.database_name
    }
}
