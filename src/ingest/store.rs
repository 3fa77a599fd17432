//! Entries that are not in the log yet go into its partitions.

use super::elsewhere;
use super::entry::{Entry, record_id, record_pks};
use super::numbers::Numbers;
use super::partitions::by_partition;
use crate::pg::{ErrorReport, Found, Key, LogRow, LogValue, is_elsewhere, new_rows, with_partition};
use crate::projection::{Projection, feed};
use audit_core::message::{Action, Annotations, Logged, Told, ToldImage};
use pgrx::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::CStr;

/// In the order in which [`row`] gives them. The first two are the unique key.
const COLUMNS: &[&CStr] = &[
    c"commit_timestamp",
    c"identity",
    c"action",
    c"commit_lsn",
    c"commit_idx",
    c"record_id",
    c"record_pks",
    c"id",
    c"created_at",
    c"audited_table",
    c"replica_identity",
    c"idempotency_key",
    c"annotations",
    c"large_annotations",
    c"old_values",
    c"new_values",
    c"unknown_columns",
    c"unknown_old_columns",
    c"may_change_key",
    c"origin",
    c"notes",
    c"exact_values",
    c"server_context",
    c"transaction_start",
    c"attested",
];
const ACTION: usize = 2;
const COMMIT_LSN: usize = 3;
const COMMIT_IDX: usize = 4;
const RECORD_ID: usize = 5;
const RECORD_PKS: usize = 6;
const NOTES: usize = 20;

/// What became of entries.
#[derive(Default)]
pub struct Stored<'c, 'a> {
    /// By audited table: how many, and the last commit.
    pub by_table: BTreeMap<i32, (i64, i64)>,
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

/// Looks which entries are there already, and adds the others. Where another session adds the same ones meanwhile,
/// the unique index raises 23505.
pub fn store<'c, 'a>(entries: &[Entry<'c, 'a>], projections: &[Projection]) -> Stored<'c, 'a> {
    let (mut stored, numbers) = (Stored::default(), Numbers::begin());
    for (name, entries) in by_partition(entries) {
        let added = |fresh: &[Entry<'c, 'a>], (count, rows): (u64, Vec<LogRow>), stored: &mut Stored| {
            if count != fresh.len() as u64 {
                neither_stored_nor_found();
            }
            for entry in fresh {
                let time = entry.change.commit_microseconds;
                let (count, last) = stored.by_table.entry(entry.table.number).or_insert((0, time));
                (*count, *last) = (*count + 1, (*last).max(time));
            }
            // that a backfill is complete is no change
            let is_fed = |entry: &Entry| entry.change.action != Action::Complete;
            let fed = rows.iter().zip(fresh).filter(|(_, entry)| is_fed(entry)).map(|(row, _)| *row);
            feed(projections, &fed.collect::<Vec<_>>());
        };
        if is_elsewhere(&name) {
            let fresh = fresh(entries, &mut stored, |keys, met| elsewhere::look_up(&name, keys, met));
            let rows = new_rows(COLUMNS, fresh.iter().map(|entry| row(entry, &numbers)));
            added(&fresh, (elsewhere::insert(&name, &rows), rows), &mut stored);
            continue;
        }
        with_partition(&name, COLUMNS, |partition| {
            let fresh = fresh(entries, &mut stored, |keys, met| {
                partition.look_up(keys.iter().map(|(key, _)| *key), |index, found| {
                    met(index, logged(found, keys[index].1));
                });
            });
            let new = partition.insert(fresh.iter().map(|entry| row(entry, &numbers)), !projections.is_empty());
            added(&fresh, new, &mut stored);
        });
    }
    stored
}

/// Those that the partition does not hold. `look_up` is given keys, each with the action of its change, and tells
/// what it finds with their indexes.
fn fresh<'c, 'a>(
    entries: &[Entry<'c, 'a>],
    stored: &mut Stored<'c, 'a>,
    look_up: impl FnOnce(&[(Key, Action)], &mut dyn FnMut(usize, Logged)),
) -> Vec<Entry<'c, 'a>> {
    let mut known = vec![false; entries.len()];
    // reads of tables with masks may be there under another identity
    let twice: Vec<usize> = (0..entries.len()).filter(|index| entries[*index].other_identity.is_some()).collect();
    let key = |entry: &Entry, identity| ((entry.postgres_time(), identity), entry.change.action);
    let others = twice.iter().map(|index| &entries[*index]).filter_map(|entry| Some(key(entry, entry.other_identity?)));
    let keys: Vec<_> = entries.iter().map(|entry| key(entry, entry.identity)).chain(others).collect();
    look_up(&keys, &mut |index, found| {
        let index = if index < entries.len() { index } else { twice[index - entries.len()] };
        if std::mem::replace(&mut known[index], true) {
            return;
        }
        if entries[index].change.agrees_with_logged(&found) {
            stored.duplicates += 1;
        } else {
            stored.conflicts.push(entries[index]);
        }
    });
    entries.iter().zip(known).filter(|(_, known)| !known).map(|(entry, _)| *entry).collect()
}

fn logged(found: &Found, action: Action) -> Logged {
    // the key of what was erased may be a pseudonym
    let is_erased = found.get::<pgrx::JsonB>(NOTES).is_some_and(|notes| notes.0.get("erased").is_some());
    Logged {
        has_same_action: found.has_action(ACTION, action.label()),
        commit_lsn: found.get(COMMIT_LSN),
        commit_idx: found.get(COMMIT_IDX),
        key: if is_erased { None } else { logged_key(found) },
    }
}

fn logged_key(found: &Found) -> Option<Vec<String>> {
    match found.get::<Vec<Option<String>>>(RECORD_PKS) {
        Some(key) => Some(key.into_iter().flatten().collect()),
        None => found.get::<String>(RECORD_ID).map(|id| vec![id]),
    }
}

fn row<'e>(entry: &'e Entry, numbers: &Numbers) -> Vec<LogValue<'e>> {
    let change = entry.change;
    let sent = &change.sent;
    let Told { old_values, new_values, exact_values } = change.told();
    let (annotations, large_annotations) = match &change.annotations {
        None => (LogValue::Null, LogValue::Null),
        Some(Annotations::Text(text)) => (LogValue::Annotations(text), LogValue::Null),
        Some(Annotations::Jsonb(bytes)) => (LogValue::Jsonb((*bytes).into()), LogValue::Null),
        Some(Annotations::Large(large)) => {
            let lifted = large.lifted.as_deref().map(Cow::Borrowed);
            (lifted.map_or(LogValue::Null, LogValue::Json), LogValue::Uuid(&large.id))
        }
    };
    vec![
        LogValue::Time(entry.postgres_time()),
        LogValue::Uuid(&entry.identity),
        LogValue::Action(change.action.label()),
        change.commit_lsn.map_or(LogValue::Null, LogValue::Bigint),
        change.commit_idx.map_or(LogValue::Null, LogValue::Integer),
        record_id(entry).map_or(LogValue::Null, LogValue::Text),
        record_pks(entry).map_or(LogValue::Null, LogValue::Texts),
        LogValue::Bigint(numbers.next()),
        LogValue::Now,
        LogValue::Integer(entry.table.number),
        sent.replica_identity.map_or(LogValue::Null, LogValue::Char),
        change.own_key().map_or(LogValue::Null, LogValue::Text),
        annotations,
        large_annotations,
        image(old_values),
        image(new_values),
        sent.unknown_columns.as_deref().map_or(LogValue::Null, LogValue::Texts),
        sent.unknown_old_columns.as_deref().map_or(LogValue::Null, LogValue::Texts),
        if change.may_change_key() { LogValue::Boolean(true) } else { LogValue::Null },
        LogValue::Char(entry.origin.letter()),
        sent.notes.map_or(LogValue::Null, |notes| LogValue::Json(notes.into())),
        exact_values.map_or(LogValue::Null, LogValue::Json),
        change.who.context.as_ref().map_or(LogValue::Null, |context| LogValue::Uuid(&context.id)),
        change.who.transaction_start.map_or(LogValue::Null, LogValue::Time),
        change.who.attested.map_or(LogValue::Null, LogValue::Boolean),
    ]
}

fn image(image: Option<ToldImage>) -> LogValue {
    match image {
        None => LogValue::Null,
        Some(ToldImage::Jsonb(bytes)) => LogValue::Jsonb(bytes),
        Some(ToldImage::Text(text)) => LogValue::Json(text),
    }
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
