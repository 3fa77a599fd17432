//! The statements that write the log.

use super::lines::{COLUMNS, lines};
use super::names::AuditedTable;
use crate::message::{Change, Identity};
use crate::pg::{BuiltinOid, ErrorReport, copy_in, log_rows};
use crate::projection::{Projection, feed};
use crate::statement::Statement;
use pgrx::Uuid;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::collections::BTreeMap;

use crate::pg::BuiltinOid::{
    CHARARRAYOID, INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZOID, UUIDARRAYOID,
};

/// From so many entries on, COPY is faster than INSERT. What another session added meanwhile makes it fail as a whole with
/// 23505: then it is tried again in halves, which look anew, down to where INSERT passes over what is there.
const FEWEST_COPIED: usize = 16;

/// PostgreSQL counts time from 2000-01-01 (PostgreSQL source, `timestamp.h`).
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

macro_rules! insert {
    () => {
        "INSERT INTO audit_cdc_internal.log
           (commit_lsn, commit_timestamp, identity, audited_table, commit_idx, action, replica_identity,
            idempotency_key, record_id, record_pks, annotations, old_values, new_values, unknown_columns, unknown_old_columns)
         SELECT n.commit_lsn, n.commit_timestamp, n.identity, n.audited_table, n.commit_idx,
                n.action::audit_cdc_internal.action, n.replica_identity, n.idempotency_key, n.record_id, n.record_pks::text[], n.annotations::jsonb, n.old_values::jsonb, n.new_values::jsonb,
                n.unknown_columns::text[], n.unknown_old_columns::text[]
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
              AS n(commit_timestamp, identity, audited_table, commit_lsn, commit_idx, action, replica_identity, idempotency_key,
                   record_id, record_pks, annotations, old_values, new_values, unknown_columns, unknown_old_columns)
         ON CONFLICT DO NOTHING"
    };
}

const INSERTED: &[BuiltinOid] = &[
    TIMESTAMPTZARRAYOID,
    UUIDARRAYOID,
    INT4ARRAYOID,
    INT8ARRAYOID,
    INT4ARRAYOID,
    TEXTARRAYOID,
    CHARARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
];

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

    static PROBE: Statement = const { Statement::new(
        "SELECT n.place, l.conflict
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) WITH ORDINALITY
              AS n(commit_timestamp, identity, action, commit_lsn, commit_idx, record_id, record_pks, keyed, place)
         CROSS JOIN LATERAL (
           SELECT NOT (l.action = n.action::audit_cdc_internal.action
                       AND (l.action = 'read' OR l.commit_lsn = n.commit_lsn AND l.commit_idx = n.commit_idx)
                       AND (n.keyed = 0 OR l.record_pks IS NULL AND l.record_id IS NULL
                            OR array_remove(coalesce(l.record_pks, ARRAY[l.record_id]), '')
                             = array_remove(coalesce(n.record_pks::text[], ARRAY[n.record_id]), ''))) AS conflict
           FROM audit_cdc_internal.log AS l
           WHERE l.commit_timestamp = n.commit_timestamp AND l.identity = n.identity
             AND l.commit_timestamp BETWEEN $9 AND $10
           LIMIT 1) AS l",
        &[TIMESTAMPTZARRAYOID, UUIDARRAYOID, TEXTARRAYOID, INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID,
          TIMESTAMPTZOID, TIMESTAMPTZOID]) };

    static INSERT: Statement = const { Statement::new(
        concat!("WITH added AS (", insert!(), " RETURNING audited_table, commit_timestamp)
         SELECT audited_table, count(*), max(commit_timestamp) FROM added GROUP BY audited_table"), INSERTED) };

    static INSERT_AND_FEED: Statement = const { Statement::new(concat!(insert!(), " RETURNING log.*"), INSERTED) };

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

    fn commit_timestamp(&self) -> TimestampWithTimeZone {
        timestamp(self.change.commit_microseconds)
    }
}

/// What a statement did with its entries.
#[derive(Default)]
pub struct Stored<'c, 'a> {
    /// By audited table: how many, and the last commit.
    by_table: ByTable,
    pub duplicates: i64,
    conflicts: Vec<Entry<'c, 'a>>,
}

impl<'c, 'a> Stored<'c, 'a> {
    pub fn inserted(&self) -> i64 {
        self.by_table.values().map(|(count, _)| count).sum()
    }

    /// Adds the counts of `part` and returns its conflicts.
    pub fn add(&mut self, part: Self) -> Vec<Entry<'c, 'a>> {
        for (table, (count, last)) in part.by_table {
            let total = self.by_table.entry(table).or_insert((0, last));
            *total = (total.0 + count, total.1.max(last));
        }
        self.duplicates += part.duplicates;
        part.conflicts
    }
}

/// Looks which entries are there already, and adds the others. Another session may add the same ones meanwhile:
/// the unique index decides, and a second look tells what it refused.
pub fn store<'c, 'a>(entries: &[Entry<'c, 'a>], projections: &[Projection]) -> Stored<'c, 'a> {
    let mut stored = Stored::default();
    let mut fresh = Vec::with_capacity(entries.len());
    for (entry, known) in entries.iter().zip(probe(entries)) {
        match known {
            None => fresh.push(*entry),
            Some(Known::Same) => stored.duplicates += 1,
            Some(Known::Conflict) => stored.conflicts.push(*entry),
        }
    }
    if fresh.is_empty() {
        return stored;
    }
    stored.by_table = insert(&fresh, projections);
    let mut refused = fresh.len() as i64 - stored.inserted();
    if refused > 0 {
        for (entry, known) in fresh.iter().zip(probe(&fresh)) {
            match known {
                Some(Known::Same) => {}
                Some(Known::Conflict) => {
                    stored.conflicts.push(*entry);
                    refused -= 1;
                }
                None => neither_stored_nor_found(),
            }
        }
        stored.duplicates += refused;
    }
    stored
}

fn neither_stored_nor_found() {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
        "an entry was neither stored nor found in the log",
        "store",
    )
    .set_hint("A trigger on the log may have suppressed it.")
    .report(PgLogLevel::ERROR);
}

/// What the log holds under an entry's identity.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Same,
    Conflict,
}

fn probe(entries: &[Entry]) -> Vec<Option<Known>> {
    let times = || entries.iter().map(Entry::commit_timestamp);
    let mut known = vec![None; entries.len()];
    PROBE.with(|probe| {
        probe.run(
            || {
                vec![
                    times().collect::<Vec<_>>().into(),
                    column(entries, |e| Uuid::from_bytes(e.identity)),
                    column(entries, |e| e.change.action.as_str()),
                    column(entries, |e| e.change.commit_lsn),
                    column(entries, |e| e.change.commit_idx),
                    column(entries, |e| record_id(e)),
                    column(entries, |e| record_pks(e)),
                    column(entries, |e| i32::from(e.change.key.is_some())),
                    times().min().into(),
                    times().max().into(),
                ]
            },
            |rows| {
                for row in rows {
                    let (place, conflict) = (row.get::<i64>(1)?.unwrap_or(0), row.get::<bool>(2)?.unwrap_or(false));
                    if let Some(slot) = usize::try_from(place - 1).ok().and_then(|place| known.get_mut(place)) {
                        *slot = Some(if conflict { Known::Conflict } else { Known::Same });
                    }
                }
                Ok(())
            },
        );
    });
    known
}

type ByTable = BTreeMap<i32, (i64, TimestampWithTimeZone)>;

fn insert(entries: &[Entry], projections: &[Projection]) -> ByTable {
    let arguments = || {
        vec![
            column(entries, Entry::commit_timestamp),
            column(entries, |e| Uuid::from_bytes(e.identity)),
            column(entries, |e| e.table.number),
            column(entries, |e| e.change.commit_lsn),
            column(entries, |e| e.change.commit_idx),
            column(entries, |e| e.change.action.as_str()),
            column(entries, |e| e.change.sent.replica_identity),
            column(entries, |e| e.change.idempotency_key.as_ref()),
            column(entries, |e| record_id(e)),
            column(entries, |e| record_pks(e)),
            column(entries, |e| e.change.annotations),
            column(entries, |e| e.change.old_values),
            column(entries, |e| e.change.new_values),
            column(entries, |e| e.change.sent.unknown_columns.as_deref()),
            column(entries, |e| e.change.sent.unknown_old_columns.as_deref()),
        ]
    };
    let mut by_table = ByTable::new();
    if projections.is_empty() && entries.len() >= FEWEST_COPIED {
        let copied = copy_in(COLUMNS, &lines(entries));
        if copied != entries.len() as u64 {
            neither_stored_nor_found();
        }
        for entry in entries {
            let (count, last) = by_table.entry(entry.table.number).or_insert((0, entry.commit_timestamp()));
            (*count, *last) = (*count + 1, (*last).max(entry.commit_timestamp()));
        }
    } else if projections.is_empty() {
        INSERT.with(|insert| {
            insert.run(arguments, |rows| {
                for row in rows {
                    if let (Some(table), Some(count), Some(last)) = (row.get(1)?, row.get(2)?, row.get(3)?) {
                        by_table.insert(table, (count, last));
                    }
                }
                Ok(())
            });
        });
    } else {
        INSERT_AND_FEED.with(|insert| {
            insert.run(arguments, |rows| {
                let rows = log_rows(rows);
                for row in &rows {
                    let (count, last) = by_table.entry(row.audited_table).or_insert((0, row.commit_timestamp));
                    (*count, *last) = (*count + 1, (*last).max(row.commit_timestamp));
                }
                feed(projections, &rows);
                Ok(())
            });
        });
    }
    by_table
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
                    totals().map(|(_, last)| *last).collect::<Vec<_>>().into(),
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
                        column(entries, |e| record_pks(e)),
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

/// One time of each month suffices.
pub fn ensure_partitions(entries: &[Entry]) {
    const SHORTEST_MONTH: i64 = 28 * 86_400_000_000;
    let mut times: Vec<i64> = Vec::new();
    for entry in entries {
        let time = entry.change.commit_microseconds;
        if times.last().is_none_or(|last| time - last >= SHORTEST_MONTH || month(time) != month(*last)) {
            times.push(time);
        }
    }
    if !times.is_empty() {
        let months: Vec<_> = times.into_iter().map(timestamp).collect();
        PARTITIONS.with(|partitions| partitions.run(|| vec![months.into()], |_| Ok(())));
        crate::pg::notice_new_tables();
    }
}

fn month(microseconds: i64) -> Option<(i16, i8)> {
    let time = jiff::Timestamp::from_microsecond(microseconds).ok()?;
    let day = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    Some((day.year(), day.month()))
}

fn timestamp(unix_microseconds: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(unix_microseconds - EPOCH_MICROSECONDS)
        .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity())
}

pub fn record_id<'e>(entry: &'e Entry) -> Option<&'e str> {
    entry.change.key.as_ref()?.record_id()
}

pub fn record_pks<'e>(entry: &'e Entry) -> Option<&'e str> {
    entry.change.key.as_ref()?.array_literal()
}

fn column<'e, 'd, 'c, 'a, T>(entries: &'e [Entry<'c, 'a>], value: impl Fn(&'e Entry<'c, 'a>) -> T) -> DatumWithOid<'d>
where
    T: IntoDatum + 'e,
    Vec<T>: IntoDatum,
    DatumWithOid<'d>: From<Vec<T>>,
{
    entries.iter().map(value).collect::<Vec<T>>().into()
}
