//! The statements that write the log.

use super::month::months;
use super::names::AuditedTable;
use super::store::Stored;
use crate::message::{Change, Identity, array_literal};
use crate::pg::is_partition;
use crate::statement::Statement;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::borrow::Cow;

use crate::pg::BuiltinOid::{INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID};

/// PostgreSQL counts time from 2000-01-01 (PostgreSQL source, `timestamp.h`).
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

thread_local! {
    static LOCK: Statement = const { Statement::new("LOCK TABLE ONLY audit_cdc_internal.log IN ROW EXCLUSIVE MODE", &[]) };

    static UNCHANGED: Statement = const { Statement::new("SELECT FROM audit_cdc_internal.ingest_reads FOR SHARE", &[]) };

    static RECORD_KEYS: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.keep_record_keys($1, $2, $3, $4)", &[INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID]) };

    static DIGESTS: Statement = const { Statement::new(
        "SELECT encode(sha256(convert_to(image::jsonb::text, 'UTF8')), 'hex')
         FROM unnest($1) WITH ORDINALITY AS i(image, place) ORDER BY place", &[TEXTARRAYOID]) };

    static PARTITIONS: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.ensure_partitions($1)", &[TIMESTAMPTZARRAYOID]) };

    static TALLY: Statement = const { Statement::new(
        "WITH n AS (
           SELECT * FROM unnest($1, $2, $3) AS n(audited_table, stored, last_commit)
         ), counted AS (
           UPDATE audit_cdc_internal.tallies AS y
           SET stored = y.stored + n.stored, last_commit = greatest(y.last_commit, n.last_commit), last_arrival = now()
           FROM n CROSS JOIN LATERAL (
             SELECT id FROM audit_cdc_internal.tallies WHERE audited_table = n.audited_table
             LIMIT 1 FOR UPDATE SKIP LOCKED) AS free
           WHERE y.id = free.id
           RETURNING y.audited_table
         )
         INSERT INTO audit_cdc_internal.tallies (audited_table, stored, last_commit, last_arrival)
         SELECT audited_table, stored, last_commit, now() FROM n WHERE audited_table NOT IN (SELECT audited_table FROM counted)",
        &[INT4ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID]) };
}

/// What ingest reads besides the log (projections, key types) does not change from here until the transaction ends.
pub fn lock() {
    LOCK.with(|lock| lock.run(Vec::new, |_| Ok(())));
    if crate::pg::snapshot_is_fixed() {
        UNCHANGED.with(|unchanged| unchanged.run(Vec::new, |_| Ok(())));
    }
}

/// A change on its way into the log.
#[derive(Clone, Copy)]
pub struct Entry<'c, 'a> {
    pub change: &'c Change<'a>,
    pub identity: Identity,
    pub table: &'c AuditedTable,
}

impl Entry<'_, '_> {
    /// The unique key of the log, and the order in which every session writes.
    pub fn place(&self) -> (i64, Identity) {
        (self.change.commit_microseconds, self.identity)
    }

    /// The commit time, since 2000-01-01 00:00 UTC.
    pub fn postgres_time(&self) -> i64 {
        self.change.commit_microseconds - EPOCH_MICROSECONDS
    }
}

pub fn tally(stored: &Stored) {
    if stored.by_table.is_empty() {
        return;
    }
    let totals = || stored.by_table.values();
    TALLY.with(|tally| {
        tally.run(
            || {
                vec![
                    stored.by_table.keys().copied().collect::<Vec<i32>>().into(),
                    totals().map(|(count, _)| *count).collect::<Vec<i64>>().into(),
                    totals().map(|(_, last)| timestamp(*last)).collect::<Vec<_>>().into(),
                ]
            },
            |_| Ok(()),
        );
    });
}

/// Keys that may be spelled in several ways.
pub fn keep_record_keys(entries: &[Entry]) {
    let spelled: Vec<_> =
        entries.iter().filter(|e| e.table.key_types.is_some() && record_id(e).is_some()).copied().collect();
    for entries in spelled.chunks(10_000) {
        RECORD_KEYS.with(|keys| {
            keys.run(
                || {
                    vec![
                        column(entries, |e| e.table.number),
                        column(entries, |e| record_id(e)),
                        column(entries, |e| record_pks(e).map(array_literal)),
                        column(entries, |e| e.table.key_types.as_deref()),
                    ]
                },
                |_| Ok(()),
            );
        });
    }
}

/// Of each read's image, in `jsonb`'s own spelling.
pub fn image_digests(reads: &[&Change]) -> Vec<String> {
    DIGESTS.with(|digests| {
        digests.run(
            || vec![reads.iter().map(|read| read.new_values).collect::<Vec<_>>().into()],
            |rows| rows.map(|row| Ok(row.get(1)?.unwrap_or_default())).collect(),
        )
    })
}

pub fn ensure_partitions(entries: &[Entry]) {
    let missing: Vec<_> = months(entries, |entry| entry.change.commit_microseconds)
        .filter(|(month, _)| !is_partition(&month.partition()))
        .map(|(_, entries)| timestamp(entries[0].change.commit_microseconds))
        .collect();
    if !missing.is_empty() {
        PARTITIONS.with(|partitions| partitions.run(|| vec![missing.into()], |_| Ok(())));
        crate::pg::notice_new_tables();
    }
}

fn timestamp(unix_microseconds: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(unix_microseconds - EPOCH_MICROSECONDS)
        .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity())
}

pub fn record_id<'e>(entry: &'e Entry) -> Option<&'e str> {
    entry.change.key.as_ref()?.record_id()
}

pub fn record_pks<'e>(entry: &'e Entry) -> Option<&'e [Cow<'e, str>]> {
    entry.change.key.as_ref()?.whole()
}

fn column<'e, 'd, 'c, 'a, T>(entries: &'e [Entry<'c, 'a>], value: impl Fn(&'e Entry<'c, 'a>) -> T) -> DatumWithOid<'d>
where
    T: IntoDatum + 'e,
    Vec<T>: IntoDatum,
    DatumWithOid<'d>: From<Vec<T>>,
{
    entries.iter().map(value).collect::<Vec<T>>().into()
}
