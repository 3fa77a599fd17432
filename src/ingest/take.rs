//! One body: understood, ordered, stored.

use super::contexts;
use super::counts::Counts;
use super::delivery::Delivery;
use super::elsewhere;
use super::entry::Entry;
use super::expired::take_expired;
use super::large;
use super::limits::{too_many_months, too_many_tables};
use super::lock::lock;
use super::masks::{MaskedTexts, Masks};
use super::month::Month;
use super::names::{self, AuditedTable};
use super::partitions::ensure_partitions;
use super::rejects::{Rejected, refusal, set_aside};
use super::spelling::{image_digests, keep_record_keys};
use super::store::{self, Stored};
use super::tally::tally;
use crate::pg::{
    Isolation, at_once_or_isolated, check_for_interrupts, isolated, keep_freed_memory, snapshot_is_fixed,
    subtransaction,
};
use crate::projection::{self, Projection};
use audit_core::Reject;
use audit_core::SqlState;
use audit_core::message::{self, Action, Change, Digest, Origin, Parsed, RawMessage, SourceTable, Who};
use audit_core::wire::Captured;
use pgrx::prelude::*;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// At most so much is stored in one subtransaction: its memory is freed before the next.
const CHUNK_MESSAGES: usize = 2_000;
const CHUNK_BYTES: usize = 8 << 20;
/// Where others have a hand in it: rules of projections, other servers, PostgreSQL's reading of images.
const SMALL_CHUNK_MESSAGES: usize = 1_000;

pub struct Taken<'a> {
    pub counts: Counts,
    pub rejected: Vec<Rejected<'a>>,
}

/// Stores what can be stored of some bodies and says what cannot. Messages are counted through all of them. `texts`
/// keeps what masks make of them.
pub fn take<'a>(bodies: impl IntoIterator<Item = &'a str>, delivery: &Delivery, texts: &'a MaskedTexts) -> Taken<'a> {
    let (mut changes, mut rejected, mut earlier) = (Vec::new(), Vec::new(), 0);
    for body in bodies {
        check_for_interrupts();
        match message::changes(body) {
            Ok(parsed) => {
                let count = parsed.len() as i32;
                // collected in the place of what was parsed
                let mut understood: Vec<Change> = understood(parsed, earlier, delivery, &mut rejected).collect();
                if changes.is_empty() {
                    changes = understood;
                } else {
                    changes.append(&mut understood);
                }
                earlier += count;
            }
            Err(reject) => rejected.push(Rejected::body(body, reject)),
        }
    }
    take_changes(changes, delivery, rejected, texts)
}

/// The same for the text of one message.
pub fn take_message<'a>(text: &'a str, delivery: &Delivery, texts: &'a MaskedTexts) -> Taken<'a> {
    let mut rejected = Vec::new();
    let parsed = vec![RawMessage::alone(text).parsed()];
    let changes: Vec<Change> = understood(parsed, 0, delivery, &mut rejected).collect();
    take_changes(changes, delivery, rejected, texts)
}

/// Changes of capture or its backfill, all or none of which rules have caused: what cannot be taken is set aside
/// in any case. Returns how many are new in the log.
pub fn take_captured(captured: &[Captured], origin: Origin, isolation: Isolation) -> i64 {
    let (mut rejected, texts) = (Vec::new(), MaskedTexts::new());
    let is_of_a_rule = captured.first().is_some_and(Captured::is_of_a_rule);
    let delivery = Delivery { is_of_a_rule, ..Delivery::captured(origin, isolation) };
    let parsed = captured.iter().zip(1..).map(|(change, position)| change.parsed(position));
    let changes: Vec<Change> = understood(parsed, 0, &delivery, &mut rejected).collect();
    let Taken { counts, rejected } = take_changes(changes, &delivery, rejected, &texts);
    let (with_large, others): (Vec<_>, Vec<_>) = rejected
        .into_iter()
        .map(|rejected| (with_large_annotations(captured, &rejected), rejected))
        .partition(|(change, _)| change.is_some());
    set_aside(others.into_iter().map(|(_, rejected)| rejected).collect(), &delivery);
    // whole, one at a time: together they may be too much
    for (change, rejected) in with_large {
        let whole = change.map(|change| rejected.with_text(change.whole().into()));
        set_aside(whole.into_iter().collect(), &delivery);
    }
    counts.inserted
}

/// The change with large annotations that was rejected.
fn with_large_annotations<'c>(captured: &'c [Captured], rejected: &Rejected) -> Option<&'c Captured> {
    let index = usize::try_from(rejected.position? - 1).ok()?;
    captured.get(index).filter(|change| change.large_annotations().is_some())
}

/// Runs `work`, which calls [`take_captured`] many times.
pub fn capturing<R>(work: impl FnMut(Isolation) -> R) -> R {
    at_once_or_isolated(refusal, work)
}

/// Those that are changes, and of a source that may be delivered. Places are counted on from `earlier`.
fn understood<'r, 'a: 'r>(
    parsed: impl IntoIterator<Item = Parsed<'a>, IntoIter: 'r>,
    earlier: i32,
    delivery: &'r Delivery,
    rejected: &'r mut Vec<Rejected<'a>>,
) -> impl Iterator<Item = Change<'a>> + 'r {
    parsed.into_iter().filter_map(move |parsed| match parsed {
        Ok(change) => {
            // who delivers a change knows nothing of who made it
            let who = if delivery.origin == Origin::Capture { change.who } else { Who::default() };
            let change = Change { original: change.original.after(earlier), who, ..change };
            let says_masked = || change.sent.notes_have("masked");
            let invented = delivery.origin == Origin::Ingest && !delivery.has_masks && says_masked();
            match delivery.sources.refusal(&change.table.database_id).or_else(|| invented.then(masks_are_ours)) {
                None => Some(change),
                Some(reject) => {
                    rejected.push(Rejected::change(&change, reject));
                    None
                }
            }
        }
        Err((message, reject)) => {
            rejected.push(Rejected::message(RawMessage { position: earlier + message.position, ..message }, reject));
            None
        }
    })
}

/// Who masks says so itself.
fn masks_are_ours() -> Reject {
    Reject::new(SqlState::INVALID_PARAMETER_VALUE, "\"notes\" must not have \"masked\"")
}

fn take_changes<'a>(
    mut changes: Vec<Change<'a>>,
    delivery: &Delivery,
    mut rejected: Vec<Rejected<'a>>,
    texts: &'a MaskedTexts,
) -> Taken<'a> {
    if changes.is_empty() {
        return Taken { counts: Counts::default(), rejected };
    }
    keep_freed_memory();
    lock();
    let masks = Masks::read();
    if let Some(masks) = &masks {
        let refused = masks.put_on(&mut changes, texts, delivery.has_masks);
        let masked = |(message, reject)| Rejected::message(message, reject).of_masked();
        rejected.extend(refused.into_iter().map(masked));
    }
    let large_annotations = large::large_annotations(&mut changes);
    let tables = names::audited_tables(&changes, delivery.limits);
    large::store(&large_annotations);
    contexts::store(&changes);
    let mut waiting = identified(&changes, &tables, delivery, masks.as_ref(), &mut rejected);
    waiting.sort_by_key(|entry| (entry.key(), entry.change.original.position()));
    let expired = if delivery.was_rejected { 0 } else { take_expired(&mut waiting) };
    let refused = ensure_partitions(&waiting, delivery.limits);
    if !refused.is_empty() {
        waiting.retain(|entry| {
            let has_month = !refused.contains(&Month::of(entry.change.commit_microseconds));
            if !has_month {
                rejected.push(Rejected::change(entry.change, too_many_months()));
            }
            has_month
        });
    }
    keep_record_keys(&waiting);
    let projections = if waiting.is_empty() { Vec::new() } else { projection::active(delivery.is_of_a_rule) };
    let mut all = Stored::default();
    while !waiting.is_empty() {
        let (mut firsts, copies) = first_copies(waiting);
        // every session writes in the order of commits
        firsts.sort_by_key(|entry| {
            (entry.change.commit_microseconds, entry.change.commit_lsn, entry.change.commit_idx, entry.identity)
        });
        let refused = store(&firsts, &projections, delivery.isolation, &mut all);
        // a copy of what was refused may differ from it where it matters
        waiting = Vec::new();
        for copy in copies {
            match refused.get(&copy.key()) {
                None => all.duplicates += 1,
                Some(refused) => {
                    match refused.iter().find(|(first, _)| first.original.text() == copy.change.original.text()) {
                        Some((_, reject)) => rejected.push(Rejected::change(copy.change, reject.clone())),
                        None => waiting.push(copy),
                    }
                }
            }
        }
        rejected.extend(refused.into_values().flatten().map(|(change, reject)| Rejected::change(change, reject)));
    }
    tally(&all);
    let counts = Counts { inserted: all.inserted(), duplicates: all.duplicates + expired, rejected: 0 };
    Taken { counts, rejected }
}

/// The identity of a read needs its image as PostgreSQL reads it, so that spelling does not matter.
fn identified<'c, 'a>(
    changes: &'c [Change<'a>],
    tables: &'c BTreeMap<&'c SourceTable<'a>, AuditedTable>,
    delivery: &Delivery,
    masks: Option<&Masks>,
    rejected: &mut Vec<Rejected<'a>>,
) -> Vec<Entry<'c, 'a>> {
    let entry = |(change, table): (&'c Change<'a>, &'c AuditedTable), digest: Option<&str>| {
        let came = change.identity(delivery.origin, digest);
        let (identity, other_identity) = masks.map_or((came, None), |masks| masks.identities(change, came));
        Entry { change, identity, other_identity, origin: delivery.origin, table }
    };
    let (mut reads, mut entries) = (Vec::new(), Vec::with_capacity(changes.len()));
    for change in changes {
        match tables.get(&change.table) {
            None => rejected.push(Rejected::change(change, too_many_tables())),
            Some(table) if change.action == Action::Read => reads.push((change, table)),
            Some(table) => entries.push(entry((change, table), None)),
        }
    }
    let mut digests = Vec::new();
    for reads in reads.chunks(SMALL_CHUNK_MESSAGES) {
        isolated(
            delivery.isolation,
            reads,
            &refusal,
            &mut |reads| {
                reads.iter().copied().zip(image_digests(reads.iter().map(|(read, _)| *read))).collect::<Vec<_>>()
            },
            &mut digests,
            &mut |(read, _), reject| rejected.push(Rejected::change(read, reject)),
        );
    }
    entries.extend(digests.into_iter().flatten().map(|(read, digest)| entry(read, Some(&digest))));
    entries
}

/// Each change once, and further copies of it. Entries that contradict each other are no copies: the log may hold
/// one of them already.
fn first_copies<'c, 'a>(entries: Vec<Entry<'c, 'a>>) -> (Vec<Entry<'c, 'a>>, Vec<Entry<'c, 'a>>) {
    let (mut firsts, mut copies) = (Vec::with_capacity(entries.len()), Vec::new());
    for same_key in entries.chunk_by(|one, two| one.key() == two.key()) {
        let [first, others @ ..] = same_key else { continue };
        firsts.push(*first);
        let mut contradicting = BTreeSet::new();
        for other in others {
            if first.change.agrees_with(other.change) || !contradicting.insert(other.change.reject_digest()) {
                copies.push(*other);
            } else {
                firsts.push(*other);
            }
        }
    }
    (firsts, copies)
}

/// What was refused, by its key in the log, and why.
type Refused<'c, 'a> = BTreeMap<(i64, Digest), Vec<(&'c Change<'a>, Reject)>>;

fn store<'c, 'a>(
    entries: &[Entry<'c, 'a>],
    projections: &[Projection],
    isolation: Isolation,
    all: &mut Stored<'c, 'a>,
) -> Refused<'c, 'a> {
    let mut refused = Refused::new();
    let mut refuse = |entry: &Entry<'c, 'a>, reject| {
        refused.entry(entry.key()).or_default().push((entry.change, reject));
    };
    let mut stored = Vec::new();
    let mut work = |chunk: &[Entry<'c, 'a>]| store::store(chunk, projections);
    let most = if projections.is_empty() { CHUNK_MESSAGES } else { SMALL_CHUNK_MESSAGES };
    // what another session has added meanwhile is found when it is looked for again
    let mut again = Vec::new();
    let (there, here) = elsewhere::divided(entries);
    let here = if there.is_empty() { Cow::Borrowed(entries) } else { Cow::Owned(here.concat()) };
    for chunk in chunks(&here, most) {
        isolated(isolation, chunk, &refusal, &mut work, &mut stored, &mut |entry, reject| match reject.sqlstate {
            SqlState::UNIQUE_VIOLATION => again.push(*entry),
            _ => refuse(entry, reject),
        });
    }
    for chunk in chunks(&again, most) {
        isolated(isolation, chunk, &refusal, &mut work, &mut stored, &mut |entry, reject| {
            if reject.sqlstate == SqlState::UNIQUE_VIOLATION && snapshot_is_fixed() {
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                    "could not serialize access: another transaction has stored one of these changes"
                );
            }
            refuse(entry, reject)
        });
    }
    for month in there {
        store_elsewhere(month, &mut work, &mut stored, &mut refuse);
    }
    for conflict in stored.into_iter().flat_map(|part| all.add(part)) {
        refuse(&conflict, Reject::conflict());
    }
    refused
}

/// Whatever the isolation: what another server does not take holds up nothing that is stored here.
fn store_elsewhere<'c, 'a>(
    month: &[Entry<'c, 'a>],
    work: &mut impl FnMut(&[Entry<'c, 'a>]) -> Stored<'c, 'a>,
    stored: &mut Vec<Stored<'c, 'a>>,
    refuse: &mut impl FnMut(&Entry<'c, 'a>, Reject),
) {
    let mut away: Option<Reject> = None;
    for chunk in chunks(month, SMALL_CHUNK_MESSAGES) {
        // one look is enough: a server that is away may not answer for long
        if away.is_none() {
            match subtransaction(|| work(chunk)) {
                Ok(part) => {
                    stored.push(part);
                    continue;
                }
                Err(error) => match (crate::elsewhere::refusal(&error), refusal(&error)) {
                    (Some(reject), _) => away = Some(reject),
                    (None, None) => error.rethrow(),
                    (None, Some(_)) => {
                        let judge = |error: &_| refusal(error).or_else(|| crate::elsewhere::refusal(error));
                        isolated(Isolation::Each, chunk, &judge, work, stored, refuse);
                        continue;
                    }
                },
            }
        }
        for entry in chunk {
            refuse(entry, away.clone().unwrap_or_else(Reject::conflict));
        }
    }
}

/// Of at most so many.
fn chunks<'e, 'c, 'a>(mut entries: &'e [Entry<'c, 'a>], most: usize) -> impl Iterator<Item = &'e [Entry<'c, 'a>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |entry: &Entry| {
            bytes += entry.change.original.length();
            bytes <= CHUNK_BYTES
        };
        let length = entries.iter().take(most).map(fits).take_while(|fits| *fits).count();
        let chunk;
        (chunk, entries) = entries.split_at(length.max(1).min(entries.len()));
        Some(chunk).filter(|chunk| !chunk.is_empty())
    })
}
