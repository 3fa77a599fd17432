//! One body: understood, ordered, stored.

use super::Counts;
use super::isolate::isolated;
use super::log::{self, Entry, Stored};
use super::names;
use super::rejects::Rejected;
use crate::message::{Action, Change, Reject, messages};
use crate::pg::check_for_interrupts;
use std::collections::BTreeSet;

/// At most so much is handed to one statement: its memory is freed before the next.
const CHUNK_MESSAGES: usize = 1_000;
const CHUNK_BYTES: usize = 8 << 20;

pub struct Taken<'a> {
    pub counts: Counts,
    pub rejected: Vec<Rejected<'a>>,
}

/// Stores what can be stored and says what cannot.
pub fn take(body: &str) -> Taken<'_> {
    let mut rejected = Vec::new();
    let changes = understood(body, &mut rejected);
    let entries = identified(&changes, &mut rejected);
    let (entries, mut counts) = settled(entries);
    log::ensure_partitions(&entries);
    let mut stored = Vec::new();
    for chunk in chunks(&entries) {
        isolated(chunk, &mut log::store, &mut stored, &mut |entry, reject| {
            rejected.push(Rejected::change(entry.change, reject));
        });
    }
    let mut all = Stored::default();
    stored.into_iter().for_each(|part| all.add(part));
    log::tally(&all);
    counts.inserted = all.inserted();
    counts.duplicates += all.duplicates;
    rejected.extend(all.conflicts.into_iter().map(|change| Rejected::change(change, Reject::conflict())));
    Taken { counts, rejected }
}

fn understood<'a>(body: &'a str, rejected: &mut Vec<Rejected<'a>>) -> Vec<Change<'a>> {
    let messages = match messages(body) {
        Ok(messages) => messages,
        Err(reject) => {
            rejected.push(Rejected::body(body, reject));
            return Vec::new();
        }
    };
    let mut changes = Vec::with_capacity(messages.len());
    for message in messages {
        check_for_interrupts();
        match Change::parse(message) {
            Ok(change) => changes.push(change),
            Err(reject) => rejected.push(Rejected::message(message, reject)),
        }
    }
    changes
}

/// The identity of a read needs its image as PostgreSQL reads it, so that spelling does not matter.
fn identified<'c, 'a>(changes: &'c [Change<'a>], rejected: &mut Vec<Rejected<'a>>) -> Vec<Entry<'c, 'a>> {
    let numbers = names::numbers(changes);
    let entry = |change: &'c Change<'a>, digest: Option<&str>| Entry {
        change,
        identity: change.identity(digest),
        table: numbers[&change.table],
    };
    let (reads, changes): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.action == Action::Read);
    let mut entries: Vec<_> = changes.into_iter().map(|change| entry(change, None)).collect();
    let mut digests = Vec::new();
    for reads in reads.chunks(CHUNK_MESSAGES) {
        isolated(
            reads,
            &mut |reads| reads.iter().copied().zip(log::image_digests(reads)).collect::<Vec<_>>(),
            &mut digests,
            &mut |read, reject| rejected.push(Rejected::change(read, reject)),
        );
    }
    entries.extend(digests.into_iter().flatten().map(|(read, digest)| entry(read, Some(&digest))));
    entries
}

/// In the one order of all sessions, each delivery once. Entries that contradict each other stay: the log may hold
/// one of them already.
fn settled<'c, 'a>(mut entries: Vec<Entry<'c, 'a>>) -> (Vec<Entry<'c, 'a>>, Counts) {
    let mut counts = Counts::default();
    entries.sort_by_key(|entry| (entry.place(), entry.change.message.position));
    let mut once: Vec<Entry> = Vec::with_capacity(entries.len());
    for same_place in entries.chunk_by(|one, two| one.place() == two.place()) {
        let [first, others @ ..] = same_place else { continue };
        once.push(*first);
        let mut contradicting = BTreeSet::new();
        for other in others {
            if first.change.agrees_with(other.change) || !contradicting.insert(other.change.reject_digest()) {
                counts.duplicates += 1;
            } else {
                once.push(*other);
            }
        }
    }
    (once, counts)
}

fn chunks<'e, 'c, 'a>(mut entries: &'e [Entry<'c, 'a>]) -> impl Iterator<Item = &'e [Entry<'c, 'a>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |entry: &Entry| {
            bytes += entry.change.message.text.len();
            bytes <= CHUNK_BYTES
        };
        let length = entries.iter().take(CHUNK_MESSAGES).map(fits).take_while(|fits| *fits).count();
        let chunk;
        (chunk, entries) = entries.split_at(length.max(1).min(entries.len()));
        Some(chunk).filter(|chunk| !chunk.is_empty())
    })
}
