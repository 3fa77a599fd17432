//! What the stream has said so far, and the changes of its transactions.

use super::pgoutput::{Malformed, Message, Relation, ReplicaIdentity, message};
use super::table::{Column, CommitTime, Position, Table};
use super::value::{Kind, string};
use crate::message::{Annotations, Written, known_time};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

/// PostgreSQL counts time from 2000-01-01 (PostgreSQL source, `timestamp.h`).
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
const SET: &str = "sequin:transaction_annotations.set";
/// Says that a rule of a projection is about to run in the transaction. Anybody may write such a message, so the catalog is asked.
const RULE: &str = "audit_cdc.rule";
const CLEAR: &str = "sequin:transaction_annotations.clear";

/// What the stream does not say of tables and types: the source's catalogs do, as they are now.
pub trait Catalog {
    fn kind(&self, type_oid: u32) -> Kind;
    fn keys(&self, relation: u32) -> Keys;
    /// Of the log itself, or excluded: what commits in one of these is left out.
    fn left_out(&self, schema: &str, relation: u32) -> Vec<Range<u64>>;
    /// Did rules of projections run in a committed transaction? Of those that wait to be captured no two have the same 32 bits.
    fn ran_rules(&self, xid: u32) -> bool;
    /// `{"id":…,"name":…}`
    fn database(&self) -> &str;
}

/// Names of columns.
#[derive(Default)]
pub struct Keys {
    pub primary_key: Vec<String>,
    pub generated: Vec<String>,
}

pub struct Decoder<C> {
    catalog: C,
    /// By number; with each the positions of commits whose changes are left out.
    tables: HashMap<u32, (Table, Vec<Range<u64>>)>,
    transaction: Option<Transaction>,
    /// The last change's position and idempotency key.
    key: (String, String),
}

struct Transaction {
    xid: u32,
    lsn: u64,
    commit_time: i64,
    time: CommitTime,
    /// Counts changes, truncates and logical messages.
    next_idx: u32,
    annotations: Option<Annotations<'static>>,
    has_changes: bool,
    /// From here on.
    is_of_a_rule: bool,
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    pub lsn: u64,
    pub end_lsn: u64,
    /// Microseconds since 2000-01-01.
    pub time: i64,
    /// For the log.
    pub has_changes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Malformed(Malformed),
    /// A change of a table that the stream has not described, or outside of a transaction.
    OutOfPlace,
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl<C: Catalog> Decoder<C> {
    pub fn new(catalog: C) -> Self {
        Self { catalog, tables: HashMap::new(), transaction: None, key: Default::default() }
    }

    /// Appends the changes that one message of the stream stands for, each as a message, and tells whether it ends a transaction.
    pub fn decode(&mut self, bytes: &[u8], changes: &mut Vec<Written>) -> Result<Option<Commit>, Failure> {
        match message(bytes)? {
            Message::Begin { commit_lsn: lsn, commit_time, xid } => {
                let time = CommitTime::of(commit_time);
                self.transaction = Some(Transaction {
                    xid,
                    lsn,
                    commit_time,
                    time,
                    next_idx: 0,
                    annotations: None,
                    has_changes: false,
                    is_of_a_rule: false,
                });
            }
            Message::Commit { end_lsn, .. } => {
                let Transaction { lsn, commit_time, has_changes, .. } =
                    self.transaction.take().ok_or(Failure::OutOfPlace)?;
                return Ok(Some(Commit { lsn, end_lsn, time: commit_time, has_changes }));
            }
            Message::Relation(relation) => {
                let left_out = self.catalog.left_out(&relation.schema, relation.oid);
                self.tables.insert(relation.oid, (self.table(&relation), left_out));
            }
            Message::Logical { transactional: true, prefix, content } => {
                let transaction = self.transaction.as_mut().ok_or(Failure::OutOfPlace)?;
                transaction.next_idx += 1;
                match prefix {
                    SET => transaction.annotations = Annotations::of_content(content),
                    CLEAR => transaction.annotations = None,
                    RULE if !transaction.is_of_a_rule => {
                        transaction.is_of_a_rule = self.catalog.ran_rules(transaction.xid);
                    }
                    _ => {}
                }
            }
            // not of any transaction: it explains nobody's changes
            Message::Logical { transactional: false, .. } | Message::Origin | Message::Type => {}
            Message::Insert { relation, new } => {
                self.change(&[relation], changes, |table, at| table.inserted(at, &new))?;
            }
            Message::Update { relation, old, new } => {
                self.change(&[relation], changes, |table, at| table.updated(at, old.as_ref(), &new))?;
            }
            Message::Delete { relation, old } => {
                self.change(&[relation], changes, |table, at| table.deleted(at, &old))?;
            }
            Message::Truncate { relations } => self.change(&relations, changes, |table, at| table.truncated(at))?,
        }
        Ok(None)
    }

    fn table(&self, relation: &Relation) -> Table {
        let Relation { oid, schema, name, identity, .. } = relation;
        let Keys { mut primary_key, mut generated } = self.catalog.keys(*oid);
        // the identity is of the change's own time, the catalogs are of now
        if *identity == ReplicaIdentity::Default {
            let is_identity = relation.columns.iter().filter(|column| column.is_identity);
            primary_key = is_identity.map(|column| column.name.clone()).collect();
        }
        generated.retain(|name| relation.columns.iter().all(|column| column.name != *name));
        let columns = relation.columns.iter();
        let columns =
            columns.map(|column| Column::new(&column.name, self.catalog.kind(column.type_oid), column.is_identity));
        Table::new(self.catalog.database(), (schema, name), *identity, columns.collect(), &primary_key, &generated)
    }

    /// One change for each of `relations` (a TRUNCATE may name several), all at the next place of the transaction, which those that are
    /// not to be logged take too.
    fn change(
        &mut self,
        relations: &[u32],
        changes: &mut Vec<Written>,
        change: impl Fn(&Table, &Position) -> Written,
    ) -> Result<(), Failure> {
        let transaction = self.transaction.as_mut().ok_or(Failure::OutOfPlace)?;
        let idx = transaction.next_idx;
        transaction.next_idx += 1;
        let (place, idempotency_key) = &mut self.key;
        place.clear();
        let _ = write!(place, "{}:{idx}", transaction.lsn);
        idempotency_key.clear();
        idempotency_key.push('"');
        BASE64_STANDARD.encode_string(place, idempotency_key);
        idempotency_key.push('"');
        let position = Position {
            lsn: transaction.lsn,
            idx: Some(idx),
            time: &transaction.time,
            idempotency_key,
            annotations: transaction.annotations.as_ref(),
        };
        let before = changes.len();
        for relation in relations {
            let (table, left_out) = self.tables.get(relation).ok_or(Failure::OutOfPlace)?;
            if !left_out.iter().any(|left_out| left_out.contains(&position.lsn)) {
                changes.push(Written { is_of_a_rule: transaction.is_of_a_rule, ..change(table, &position) });
            }
        }
        transaction.has_changes |= changes.len() > before;
        Ok(())
    }
}

impl CommitTime {
    /// Of microseconds since 2000-01-01; what has no place in a timestamp is empty.
    pub fn of(microseconds: i64) -> Self {
        let time = Timestamp::from_microsecond(microseconds.saturating_add(EPOCH_MICROSECONDS));
        let json = string(&time.map_or(String::new(), |time| format!("{time:.6}")));
        Self { microseconds: known_time(&json), json }
    }
}
