//! What an entry needs around its row: the lock, its partition, its record key, the tallies.

use super::limits::Limits;
use super::month::{Month, months};
use super::names::AuditedTable;
use super::numbers::last_number;
use super::store::Stored;
use crate::pg::{BuiltinOid, Statement, is_partition, lock_log, try_lock_partitions};
use audit_core::message::{Change, Identity, Origin, array_literal};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::borrow::Cow;

use BuiltinOid::{INT4ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID};

/// PostgreSQL counts time from 2000-01-01 (PostgreSQL source, `timestamp.h`).
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

thread_local! {
    static UNCHANGED: Statement = const { Statement::new(
        "SELECT FROM audit_cdc_internal.ingest_reads FOR SHARE", &[]) };

    static RECORD_KEYS: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.keep_record_keys($1, $2, $3, $4)",
        &[INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID]) };

    static DIGESTS: Statement = const { Statement::new(
        "SELECT encode(sha256(convert_to(image::jsonb::text, 'UTF8')), 'hex')
         FROM unnest($1) WITH ORDINALITY AS i(image, place) ORDER BY place", &[TEXTARRAYOID]) };

    static COUNT_MONTHS: Statement = const { Statement::new(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_cdc_internal.log'::regclass", &[]) };

    static PARTITIONS: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.ensure_partitions($1)", &[TIMESTAMPTZARRAYOID]) };

    static ADD_TO_TALLY: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.tallies
         SET stored = stored + $2, last_commit = greatest(last_commit, $3), last_arrival = now(),
         last_id = greatest(last_id, $4)
         WHERE id = (SELECT id FROM audit_cdc_internal.tallies WHERE audited_table = $1 LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING id", TALLIED) };

    static NEW_TALLY: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.tallies (audited_table, stored, last_commit, last_arrival, last_id)
         VALUES ($1, $2, $3, now(), $4)",
        TALLIED) };
}

const TALLIED: &[BuiltinOid] =
    &[BuiltinOid::INT4OID, BuiltinOid::INT8OID, BuiltinOid::TIMESTAMPTZOID, BuiltinOid::INT8OID];

/// What ingest reads besides the log (projections, key types) does not change from here until the transaction ends.
pub fn lock() {
    lock_log();
    if crate::pg::snapshot_is_fixed() {
        UNCHANGED.with(|unchanged| unchanged.run(Vec::new, |_| Ok(())));
    }
}

/// A change on its way into the log.
#[derive(Clone, Copy)]
pub struct Entry<'c, 'a> {
    pub change: &'c Change<'a>,
    pub identity: Identity,
    pub origin: Origin,
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
    for (table, (count, last)) in &stored.by_table {
        let values = || vec![(*table).into(), (*count).into(), timestamp(*last).into(), last_number().into()];
        let is_counted = ADD_TO_TALLY.with(|tally| tally.run(values, |rows| Ok(!rows.is_empty())));
        if !is_counted {
            NEW_TALLY.with(|tally| tally.run(values, |_| Ok(())));
        }
    }
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
pub fn image_digests<'c, 'a: 'c>(reads: impl Iterator<Item = &'c Change<'a>>) -> Vec<String> {
    DIGESTS.with(|digests| {
        digests.run(
            || vec![reads.map(|read| read.new_values).collect::<Vec<_>>().into()],
            |rows| rows.map(|row| Ok(row.get(1)?.unwrap_or_default())).collect(),
        )
    })
}

/// Returns the months of `entries` that stay without a partition, since the limits are reached.
pub fn ensure_partitions(entries: &[Entry], limits: Option<&Limits>) -> Vec<Month> {
    let present = Month::present();
    let named = || months(entries, |entry| entry.change.commit_microseconds);
    if named().any(|(month, _)| month == present) {
        make_months_ahead();
    }
    let mut missing: Vec<_> = named()
        .filter(|(month, _)| !is_partition(&month.partition()))
        .map(|(month, entries)| (month, timestamp(entries[0].change.commit_microseconds)))
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let mut refused = Vec::new();
    if let Some(limits) = limits {
        let names: Vec<_> = missing.iter().map(|(month, _)| *month).collect();
        let in_log = COUNT_MONTHS.with(|count| count.read(Vec::new, |rows| rows.first().get_one::<i64>()));
        let made = limits.take_months(&names, present, in_log.unwrap_or_default() as usize);
        refused = names.into_iter().filter(|month| !made.contains(month)).collect();
        missing.retain(|(month, _)| made.contains(month));
    }
    if !missing.is_empty() {
        let times: Vec<_> = missing.into_iter().map(|(_, time)| time).collect();
        PARTITIONS.with(|partitions| partitions.run(|| vec![times.into()], |_| Ok(())));
        crate::pg::notice_new_tables();
    }
    refused
}

/// Makes the present month and the next, unless somebody is just making others. So who needs them later waits for
/// nobody.
pub fn make_months_ahead() {
    let present = Month::present();
    let missing = [present, present.next()].into_iter().filter(|month| !is_partition(&month.partition()));
    let starts: Vec<_> = missing.map(|month| timestamp(month.start())).collect();
    if !starts.is_empty() && try_lock_partitions() {
        PARTITIONS.with(|partitions| partitions.run(|| vec![starts.into()], |_| Ok(())));
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
