//! What the stream has said so far, and the changes of its transactions.

use super::captured::{Captured, Circumstances};
use super::images::Event;
use super::protocol::{Malformed, Message, Relation, message};
use super::relation::{Column, Table};
use super::time::CommitTime;
use crate::context::Declaration;
use crate::message::{Annotations, ServerContext, sha256};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::slice;

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
    tables: HashMap<u32, (Rc<Table>, Vec<Range<u64>>)>,
    transaction: Option<Transaction>,
    /// Told last: a session tells the same again and again.
    context: Option<Rc<ServerContext>>,
}

struct Transaction {
    xid: u32,
    commit_time: i64,
    has_changes: bool,
    /// From here on.
    now: Rc<Circumstances>,
    sealed: Sealed,
}

/// What the server has said of a transaction.
#[derive(Default)]
struct Sealed {
    /// Of its last declaration.
    number: u64,
    /// Its last declaration of annotations.
    of_annotations: Option<String>,
}

/// What the stream has told, in the order of commits; who reads it takes it out.
#[derive(Default)]
pub struct Decoded {
    pub changes: Vec<Captured>,
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

impl Sealed {
    fn says(&self, what: impl FnOnce(&Declaration) -> bool) -> bool {
        self.of_annotations.as_deref().and_then(Declaration::parse).is_some_and(|declaration| what(&declaration))
    }
}

impl<C: Catalog> Decoder<C> {
    pub fn new(catalog: C) -> Self {
        Self { catalog, tables: HashMap::new(), transaction: None, context: None }
    }

    /// Appends what one message of the stream stands for, and tells what it ends.
    pub fn decode(&mut self, bytes: &[u8], decoded: &mut Decoded) -> Result<Option<Commit>, Failure> {
        let message = message(bytes)?;
        match &message {
            Message::Begin { commit_lsn, commit_time, xid } => {
                let now = Rc::new(Circumstances::new(*commit_lsn, CommitTime::of(*commit_time)));
                self.transaction = Some(Transaction {
                    xid: *xid,
                    commit_time: *commit_time,
                    has_changes: false,
                    now,
                    sealed: Sealed::default(),
                });
            }
            Message::Commit { end_lsn } => {
                let Transaction { commit_time: time, has_changes, now, .. } =
                    self.transaction.take().ok_or(Failure::OutOfPlace)?;
                return Ok(Some(Commit { lsn: now.lsn, end_lsn: *end_lsn, time, has_changes }));
            }
            Message::Relation(relation) => {
                let left_out = self.catalog.left_out(relation.oid);
                self.tables.insert(relation.number, (Rc::new(self.table(relation)), left_out));
            }
            Message::Sealed(declaration) => self.hear(declaration)?,
            Message::SetAnnotations(content) => {
                let is_true = self.transaction()?.sealed.says(|declaration| declaration.announces(&sha256(content)));
                self.annotate(is_true, || Annotations::of_content(content))?;
            }
            Message::SetOmittedAnnotations(omitted, beginning) => {
                let is_true = self.transaction()?.sealed.says(|declaration| declaration.announces(omitted.sha256));
                let annotations = || Annotations::of_omitted(beginning, omitted.bytes, omitted.sha256);
                self.annotate(is_true, || Some(annotations()))?;
            }
            Message::ClearAnnotations => {
                let is_true = self.transaction()?.sealed.says(|declaration| declaration.clears());
                self.annotate(is_true, || None)?;
            }
            Message::Rule => {
                let Transaction { xid, now, .. } = self.transaction()?;
                let (xid, is_of_a_rule) = (*xid, now.is_of_a_rule);
                if !is_of_a_rule && self.catalog.ran_rules(xid) {
                    let transaction = self.transaction()?;
                    transaction.now = Rc::new(transaction.now.of_a_rule());
                }
            }
            Message::SchemaChange { idx, id, beside } => {
                let Transaction { commit_time, now, .. } = self.transaction()?;
                decoded.schema_changes.push(SchemaChange {
                    id: *id,
                    commit_lsn: now.lsn,
                    commit_idx: *idx,
                    commit_time: *commit_time,
                    annotations: now.annotations().cloned(),
                    beside: beside.clone(),
                });
            }
            Message::PartitionTruncated { root, partition } => {
                let left_out = self.catalog.left_out(*root);
                let Transaction { commit_time, now, .. } = self.transaction()?;
                if !left_out.iter().any(|left_out| left_out.contains(&now.lsn)) {
                    decoded.truncated_partitions.push(TruncatedPartition {
                        root: *root,
                        partition: (*partition).to_owned(),
                        commit_lsn: now.lsn,
                        commit_time: *commit_time,
                    });
                }
            }
            Message::Insert { relation, .. } | Message::Update { relation, .. } | Message::Delete { relation, .. } => {
                self.change(&message, slice::from_ref(relation), bytes, decoded)?;
            }
            Message::Truncate { relations, .. } => self.change(&message, relations, bytes, decoded)?,
        }
        Ok(None)
    }

    fn transaction(&mut self) -> Result<&mut Transaction, Failure> {
        self.transaction.as_mut().ok_or(Failure::OutOfPlace)
    }

    fn table(&self, relation: &Relation) -> Table {
        let Relation { schema, name, identity, columns, key, never_sent, .. } = relation;
        let key: Vec<String> =
            key.iter().filter_map(|index| columns.get(usize::from(*index))).map(|column| column.name.clone()).collect();
        let columns = columns.iter().map(|c| Column::new(&c.name, c.shape.clone(), c.is_identity)).collect();
        Table::new(self.catalog.database(), (schema, name), *identity, columns, &key, never_sent)
    }

    /// What is not true never takes the place of what is.
    fn annotate(
        &mut self,
        is_true: bool,
        annotations: impl FnOnce() -> Option<Annotations<'static>>,
    ) -> Result<(), Failure> {
        let transaction = self.transaction()?;
        let now = &transaction.now;
        let next = match now.who.attested {
            Some(true) if !is_true => now.contested(),
            _ => now.with_annotations(annotations(), is_true),
        };
        transaction.now = Rc::new(next);
        Ok(())
    }

    /// What the server says. What it said before, somebody may only have repeated.
    fn hear(&mut self, text: &str) -> Result<(), Failure> {
        let context = self.context.clone();
        let transaction = self.transaction()?;
        let Some(declaration) = Declaration::parse(text).filter(|said| said.number >= transaction.sealed.number) else {
            return Ok(());
        };
        transaction.sealed.number = declaration.number;
        if declaration.is_of_annotations() {
            transaction.sealed.of_annotations = Some(text.to_owned());
        }
        if let Some(told) = declaration.context.map(RawValue::get) {
            let context =
                context.filter(|context| context.text == told).unwrap_or_else(|| Rc::new(ServerContext::of_text(told)));
            transaction.now = Rc::new(transaction.now.with_context(Rc::clone(&context), declaration.transaction_start));
            self.context = Some(context);
        }
        Ok(())
    }

    /// One change for each of `relations` (a TRUNCATE may name several), all at one place of the transaction.
    fn change(
        &mut self,
        message: &Message,
        relations: &[u32],
        bytes: &[u8],
        decoded: &mut Decoded,
    ) -> Result<(), Failure> {
        let transaction = self.transaction.as_mut().ok_or(Failure::OutOfPlace)?;
        let (idx, event) = Event::of(message).ok_or(Failure::OutOfPlace)?;
        let now = &transaction.now;
        for relation in relations {
            let (table, left_out) = self.tables.get(relation).ok_or(Failure::OutOfPlace)?;
            if !left_out.iter().any(|left_out| left_out.contains(&now.lsn)) {
                transaction.has_changes = true;
                decoded.changes.push(Captured::new(table, now, (idx, event), bytes));
            }
        }
        Ok(())
    }
}
