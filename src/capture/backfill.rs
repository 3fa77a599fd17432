//! `audit_backfill`: the rows that are there, as `read` entries between the changes.
//!
//! A batch is read just after a position of the WAL of which is known that the reader sees all that was committed
//! before it. A row that was committed after it is left out: its change is in the log by itself. So each `read` is
//! exact at its position.
//!
//! When all is read, and what changed meanwhile is captured, an entry says that the table is complete: what was not
//! met is gone.

use super::source::Source;
use crate::ingest::take_captured;
use crate::pg::{
    BoundStatement, BuiltinOid, ErrorReport, Isolation, Moment, Statement, TextRow, as_owner_of, lock_to_read, pinned,
    snapshot_is_fixed, text_rows, written_shape,
};
use crate::projection::temporary_types;
use audit_core::message::{Origin, Who, Written};
use audit_core::wire::{Captured, Catalog, Column, CommitTime, Event, Metadata, ReplicaIdentity, Table, Value};
use base64::{Engine, prelude::BASE64_STANDARD};
use pgrx::Uuid;
use pgrx::prelude::*;
use pgrx::spi::{SpiHeapTupleData, SpiResult};

use BuiltinOid::{BOOLOID, INT4OID, INT8OID, OIDOID, TEXTARRAYOID, UUIDOID};

thread_local! {
    static NEXT: Statement = const { Statement::new(
        "SELECT table_schema, table_name, replica_identity, columns, types, key_columns, query, restarts
         FROM audit_cdc_internal.next_batch($1, $2, $3)",
        &[UUIDOID, OIDOID, INT4OID]) };

    static PARTS: Statement = const { Statement::new(
        "SELECT array_agg(relid::oid) FROM pg_partition_tree($1)", &[OIDOID]) };

    static NOTE: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.note_batch($1, $2, $3, $4, $5, $6, $7)",
        &[UUIDOID, OIDOID, INT4OID, TEXTARRAYOID, INT8OID, INT8OID, BOOLOID]) };

    static COMPLETION: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.completion($1, $2)", &[UUIDOID, OIDOID]) };
}

/// What is to be read next.
struct Batch {
    table: Table,
    /// Columns of the key; 0: the table has none, and is read block by block.
    key: usize,
    query: String,
    /// How often the table was begun again: places may be others' then.
    restarts: i32,
}

impl Batch {
    fn next(source: &Source, (backfill_id, relation, size): (Uuid, pg_sys::Oid, i32)) -> Option<Self> {
        NEXT.with(|next| {
            next.run(
                || vec![backfill_id.into(), relation.into(), size.into()],
                |mut rows| rows.next().map(|row| Self::read(source, &row)).transpose(),
            )
        })
    }

    fn read(source: &Source, row: &SpiHeapTupleData) -> SpiResult<Self> {
        let text = |column| row.get::<String>(column).map(Option::unwrap_or_default);
        let texts = |column| {
            let texts = row.get::<Vec<Option<String>>>(column)?.unwrap_or_default();
            Ok::<Vec<String>, pgrx::spi::Error>(texts.into_iter().flatten().collect())
        };
        let types: Vec<pg_sys::Oid> = row.get(5)?.unwrap_or_default();
        let columns = texts(4)?;
        let columns =
            columns.iter().zip(types).map(|(name, kind)| Column::new(name, written_shape(kind.to_u32()), false));
        let identity = row.get::<i8>(3)?.and_then(|letter| ReplicaIdentity::of(letter as u8));
        let (schema, name, key) = (text(1)?, text(2)?, texts(6)?);
        let identity = identity.unwrap_or(ReplicaIdentity::Nothing);
        let table = Table::new(source.database(), (&schema, &name), identity, columns.collect(), &key, &[]);
        Ok(Self { table, key: key.len(), query: text(7)?, restarts: row.get(8)?.unwrap_or_default() })
    }

    /// Of a row: its ctid, its key, its columns.
    fn split<'r>(&self, row: &'r TextRow) -> (Option<&'r str>, &'r [Option<String>], &'r [Option<String>]) {
        let (ctid, values) =
            row.values.split_first().map_or((None, &[][..]), |(ctid, values)| (ctid.as_deref(), values));
        let (key, columns) = values.split_at(self.key.min(values.len()));
        (ctid, key, columns)
    }
}

/// Its partitions, if it has any.
fn parts(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let parts = PARTS.with(|parts| parts.read(|| vec![relation.into()], |rows| rows.first().get_one()));
    parts.unwrap_or_default()
}

/// Reads the next rows. False: there are none.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.backfill_batch(
    backfill_id uuid, relation oid, batch_size integer)
  RETURNS boolean
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn backfill_batch(backfill_id: Uuid, relation: pg_sys::Oid, batch_size: i32) -> Result<bool, ErrorReport> {
    pinned(|| batch(backfill_id, relation, batch_size))
}

fn batch(backfill_id: Uuid, relation: pg_sys::Oid, batch_size: i32) -> Result<bool, ErrorReport> {
    // what code of the table's owner names must not be found among them
    if temporary_types() > 0 {
        let message = "a backfill does not run in a session that has temporary objects";
        return Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, message, "backfill_batch")
            .set_hint("Call it in a new session."));
    }
    if snapshot_is_fixed() {
        let message = "a backfill reads under READ COMMITTED only";
        return Err(ErrorReport::new(PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION, message, "backfill_batch")
            .set_hint("SET default_transaction_isolation = 'read committed'."));
    }
    let source = Source::here();
    // nothing is rewritten between the look at the catalogs and the reading
    lock_to_read(relation);
    for part in parts(relation) {
        lock_to_read(part);
    }
    let Some(batch) = Batch::next(&source, (backfill_id, relation, batch_size)) else { return Ok(false) };
    let moment = Moment::now();
    let rows = as_owner_of(relation, |meaning| text_rows(&BoundStatement::prepare(&batch.query, meaning)));
    let time = CommitTime::of(moment.time);
    let mut messages = Vec::with_capacity(rows.len());
    for row in rows.iter().filter(|row| moment.is_after(row.xmin)) {
        let (ctid, key, columns) = batch.split(row);
        let key: Vec<&str> = key.iter().map(|value| value.as_deref().unwrap_or_default()).collect();
        let named = if key.is_empty() { ctid.unwrap_or_default().to_owned() } else { key.join(":") };
        let idempotency_key = BASE64_STANDARD.encode(format!("{backfill_id}:{}:{named}", batch.restarts));
        let at = Metadata {
            // what was committed before is before it, what is committed later is after it
            lsn: moment.lsn - 1,
            idx: None,
            time,
            idempotency_key: &idempotency_key,
            annotations: None,
            who: &Who::default(),
        };
        let columns: Vec<Value> =
            columns.iter().map(|value| value.as_deref().map_or(Value::Null, Value::Text)).collect();
        messages.push(Captured::from(batch.table.message(&at, Event::Read(&columns))));
    }
    take_captured(&messages, Origin::Backfill, Isolation::Each);
    let after: Option<Vec<Option<String>>> =
        rows.last().filter(|_| batch.key > 0).map(|row| batch.split(row).1.to_vec());
    let is_last = (batch.key > 0).then_some((rows.len() as i64) < i64::from(batch_size));
    let (read, passed_over) = (messages.len() as i64, (rows.len() - messages.len()) as i64);
    NOTE.with(|note| {
        let arguments = || {
            vec![
                backfill_id.into(),
                relation.into(),
                batch_size.into(),
                after.into(),
                read.into(),
                passed_over.into(),
                is_last.into(),
            ]
        };
        note.run(arguments, |_| Ok(()))
    });
    Ok(true)
}

/// Ends the backfill of a table, all of which is read.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.complete_backfill(backfill_id uuid, relation oid) RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn complete_backfill(backfill_id: Uuid, relation: pg_sys::Oid) {
    pinned(|| {
        let text = COMPLETION.with(|completion| {
            completion.run(|| vec![backfill_id.into(), relation.into()], |rows| rows.first().get_one::<String>())
        });
        let message = text.map(|text| Captured::from(Written { text, known: None, large: None }));
        take_captured(message.as_slice(), Origin::Backfill, Isolation::Each);
    });
}
