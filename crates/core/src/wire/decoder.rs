//! What the stream has said so far, and the changes of its transactions.

use super::protocol::{Malformed, Message, Relation, message};
use super::relation::{Column, CommitTime, Position, Table};
use crate::encoding::write::string;
use crate::message::{Annotations, Written, known_time};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;

/// PostgreSQL counts time from 2000-01-01 (PostgreSQL source, `timestamp.h`).
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// What the stream does not say: the source's catalogs do, as they are now.
pub trait Catalog {
    /// Excluded: what commits in one of these is left out.
    fn left_out(&self, relation: u32) -> Vec<Range<u64>>;
    /// Did rules of projections run in a committed transaction? Of those that wait to be captured no two have the
    /// same 32 bits.
    fn ran_rules(&self, xid: u32) -> bool;
    /// `{"id":…,"name":…}`
    fn database(&self) -> &str;
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
    annotations: Option<Annotations<'static>>,
    has_changes: bool,
    /// From here on.
    is_of_a_rule: bool,
}

/// What the stream has told, in the order of commits; who reads it takes it out.
#[derive(Default)]
pub struct Decoded {
    pub changes: Vec<Written>,
    pub schema_changes: Vec<SchemaChange>,
    pub truncated_partitions: Vec<TruncatedPartition>,
}

/// Rows of a root went with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TruncatedPartition {
    pub root: u32,
    pub partition: String,
    pub commit_lsn: u64,
    /// Microseconds since 2000-01-01.
    pub commit_time: i64,
}

/// A row of `audit_cdc_internal.schema_changes` was committed.
#[derive(Debug)]
pub struct SchemaChange {
    pub id: i64,
    pub commit_lsn: u64,
    /// Its place among the changes of the transaction.
    pub commit_idx: u32,
    /// Microseconds since 2000-01-01.
    pub commit_time: i64,
    pub annotations: Option<Annotations<'static>>,
    /// Other transactions that were open then, and had changes.
    pub beside: Vec<u32>,
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

    /// Appends what one message of the stream stands for, each change as a message, and tells what it ends.
    pub fn decode(&mut self, bytes: &[u8], decoded: &mut Decoded) -> Result<Option<Commit>, Failure> {
        let changes = &mut decoded.changes;
        match message(bytes)? {
            Message::Begin { commit_lsn: lsn, commit_time, xid } => {
                let time = CommitTime::of(commit_time);
                self.transaction = Some(Transaction {
                    xid,
                    lsn,
                    commit_time,
                    time,
                    annotations: None,
                    has_changes: false,
                    is_of_a_rule: false,
                });
            }
            Message::Commit { end_lsn } => {
                let Transaction { lsn, commit_time, has_changes, .. } =
                    self.transaction.take().ok_or(Failure::OutOfPlace)?;
                return Ok(Some(Commit { lsn, end_lsn, time: commit_time, has_changes }));
            }
            Message::Relation(relation) => {
                let left_out = self.catalog.left_out(relation.oid);
                self.tables.insert(relation.number, (self.table(&relation), left_out));
            }
            Message::SetAnnotations(content) => self.transaction()?.annotations = Annotations::of_content(content),
            Message::SetOmittedAnnotations(omitted, beginning) => {
                let annotations = Annotations::of_omitted(beginning, omitted.bytes, omitted.sha256);
                self.transaction()?.annotations = Some(annotations);
            }
            Message::ClearAnnotations => self.transaction()?.annotations = None,
            Message::Rule => {
                let Transaction { xid, is_of_a_rule, .. } = *self.transaction()?;
                self.transaction()?.is_of_a_rule = is_of_a_rule || self.catalog.ran_rules(xid);
            }
            Message::SchemaChange { idx, id, beside } => {
                let transaction = self.transaction()?;
                decoded.schema_changes.push(SchemaChange {
                    id,
                    commit_lsn: transaction.lsn,
                    commit_idx: idx,
                    commit_time: transaction.commit_time,
                    annotations: transaction.annotations.clone(),
                    beside,
                });
            }
            Message::PartitionTruncated { root, partition } => {
                let left_out = self.catalog.left_out(root);
                let Transaction { lsn: commit_lsn, commit_time, .. } = *self.transaction()?;
                if !left_out.iter().any(|left_out| left_out.contains(&commit_lsn)) {
                    let partition = partition.to_owned();
                    decoded.truncated_partitions.push(TruncatedPartition { root, partition, commit_lsn, commit_time });
                }
            }
            Message::Insert { idx, relation, new } => {
                self.change(idx, &[relation], changes, |table, at| table.inserted(at, &new))?;
            }
            Message::Update { idx, relation, filter, old, new } => {
                self.change(idx, &[relation], changes, |table, at| table.updated(at, filter, old.as_ref(), &new))?;
            }
            Message::Delete { idx, relation, old } => {
                self.change(idx, &[relation], changes, |table, at| table.deleted(at, &old))?;
            }
            Message::Truncate { idx, relations } => {
                self.change(idx, &relations, changes, |table, at| table.truncated(at))?;
            }
        }
        Ok(None)
    }

    fn transaction(&mut self) -> Result<&mut Transaction, Failure> {
        self.transaction.as_mut().ok_or(Failure::OutOfPlace)
    }

    fn table(&self, relation: &Relation) -> Table {
        let Relation { schema, name, identity, columns, key, never_sent, .. } = relation;
        let key: Vec<String> =
            key.iter().filter_map(|place| columns.get(usize::from(*place))).map(|column| column.name.clone()).collect();
        let columns = columns.iter().map(|c| Column::new(&c.name, c.kind.clone(), c.is_identity)).collect();
        Table::new(self.catalog.database(), (schema, name), *identity, columns, &key, never_sent)
    }

    /// One change for each of `relations` (a TRUNCATE may name several), all at one place of the transaction.
    fn change(
        &mut self,
        idx: u32,
        relations: &[u32],
        changes: &mut Vec<Written>,
        change: impl Fn(&Table, &Position) -> Written,
    ) -> Result<(), Failure> {
        let transaction = self.transaction.as_mut().ok_or(Failure::OutOfPlace)?;
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
