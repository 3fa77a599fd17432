//! A change of the stream, as ingest takes it: understood, or, where it is unusual, as a message that is to be read.

use super::images::{Event, Images};
use super::protocol::message;
use super::relation::Table;
use super::spelled::Metadata;
use super::time::CommitTime;
use crate::json::jsonb;
use crate::message::{
    About, Action, Annotations, Change, Image, Large, Original, Parsed, RecordKey, Sent, ServerContext, Tellable, Who,
    Written, key_of_position,
};
use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

/// A message of the stream may have more bytes: then the change is looked at more closely, as a message.
const MOST_BYTES: usize = 1 << 20;

/// What changes that follow each other in a transaction have alike.
#[derive(Clone)]
pub struct Circumstances {
    pub lsn: u64,
    pub time: CommitTime,
    annotations: Option<Annotations<'static>>,
    /// Those that stand in each entry, as bytes of a `jsonb`. `None`: ask `jsonb_in`.
    annotations_jsonb: Option<Vec<u8>>,
    pub who: Who,
    /// The transaction had run rules of projections before: the changes must not be fed to projections again.
    pub is_of_a_rule: bool,
}

impl Circumstances {
    pub fn new(lsn: u64, time: CommitTime) -> Self {
        Self { lsn, time, annotations: None, annotations_jsonb: None, who: Who::default(), is_of_a_rule: false }
    }

    pub fn with_annotations(&self, annotations: Option<Annotations<'static>>, attested: bool) -> Self {
        let annotations_jsonb = match &annotations {
            Some(Annotations::Text(text)) => jsonb(text),
            _ => None,
        };
        let attested = annotations.is_some().then_some(attested);
        Self { annotations, annotations_jsonb, who: Who { attested, ..self.who.clone() }, ..*self }
    }

    pub fn with_context(&self, context: Rc<ServerContext>, transaction_start: Option<i64>) -> Self {
        let who = Who { context: Some(context), transaction_start, ..self.who.clone() };
        Self { who, ..self.clone() }
    }

    pub fn contested(&self) -> Self {
        Self { who: Who { is_contested: true, ..self.who.clone() }, ..self.clone() }
    }

    pub fn of_a_rule(&self) -> Self {
        Self { is_of_a_rule: true, ..self.clone() }
    }

    pub fn annotations(&self) -> Option<&Annotations<'static>> {
        self.annotations.as_ref()
    }

    /// As an entry has them.
    fn told_annotations(&self) -> Option<Annotations<'_>> {
        match (&self.annotations_jsonb, self.annotations.as_ref()?) {
            (Some(jsonb), _) => Some(Annotations::Jsonb(jsonb)),
            (None, annotations) => Some(annotations.clone()),
        }
    }
}

pub enum Captured {
    Typed(Typed),
    Message { message: Written, is_of_a_rule: bool },
}

/// A change whose values are bytes of a `jsonb`.
pub struct Typed {
    table: Rc<Table>,
    at: Rc<Circumstances>,
    about: Rc<About>,
    commit_lsn: i64,
    commit_idx: i32,
    commit_microseconds: i64,
    action: Action,
    /// The stream's message.
    wire: Vec<u8>,
    idempotency_key: String,
    key: Option<Vec<String>>,
    old_values: Option<Vec<u8>>,
    new_values: Option<Vec<u8>>,
    changes_key: bool,
    unknown: Vec<usize>,
    unknown_old: Vec<usize>,
    /// There is a row before, or after, the change.
    has_rows: (bool, bool),
    /// JSON text.
    notes: Option<String>,
    exact_values: Option<String>,
}

impl Captured {
    /// What the stream's message `wire` tells, and `event` says, of a table.
    pub fn new(table: &Rc<Table>, at: &Rc<Circumstances>, (idx, event): (u32, Event), wire: &[u8]) -> Self {
        let images = Images::of(table, event);
        match Typed::new(table, at, (idx, &images), wire) {
            Some(typed) => Self::Typed(typed),
            None => {
                let key = key_of_position((at.lsn, idx));
                let message = table.written(&at.metadata(idx, &key), &images);
                Self::Message { message, is_of_a_rule: at.is_of_a_rule }
            }
        }
    }

    pub fn parsed(&self, position: i32) -> Parsed<'_> {
        match self {
            Self::Typed(typed) => Ok(typed.change(position)),
            Self::Message { message, .. } => message.parsed(position),
        }
    }

    pub fn is_of_a_rule(&self) -> bool {
        match self {
            Self::Typed(typed) => typed.at.is_of_a_rule,
            Self::Message { is_of_a_rule, .. } => *is_of_a_rule,
        }
    }

    /// The message with all annotations.
    pub fn whole(&self) -> String {
        match self {
            Self::Typed(typed) => typed.written().map_or_else(String::new, |message| message.whole().into_owned()),
            Self::Message { message, .. } => message.whole().into_owned(),
        }
    }

    /// Annotations that are stored apart from it.
    pub fn large_annotations(&self) -> Option<&Rc<Large<'static>>> {
        match self {
            Self::Typed(typed) => match typed.at.annotations() {
                Some(Annotations::Large(large)) => Some(large),
                _ => None,
            },
            Self::Message { message, .. } => message.large.as_ref().map(|large| &large.annotations),
        }
    }
}

impl From<Written> for Captured {
    fn from(message: Written) -> Self {
        Self::Message { message, is_of_a_rule: false }
    }
}

impl Circumstances {
    fn metadata<'a>(&'a self, idx: u32, idempotency_key: &'a str) -> Metadata<'a> {
        Metadata {
            lsn: self.lsn,
            idx: Some(idx),
            time: self.time,
            idempotency_key,
            annotations: self.annotations.as_ref(),
            who: &self.who,
        }
    }
}

impl Typed {
    /// `None`: something may be refused, or is not understood here.
    fn new(table: &Rc<Table>, at: &Rc<Circumstances>, (idx, images): (u32, &Images), wire: &[u8]) -> Option<Self> {
        if wire.len() > MOST_BYTES {
            return None;
        }
        let (commit_lsn, commit_idx) = (i64::try_from(at.lsn).ok()?, i32::try_from(idx).ok()?);
        let commit_microseconds = at.time.of_log()?;
        let jsonb = |image: Option<Option<Vec<u8>>>| image.map_or(Some(None), |bytes| bytes.map(Some));
        let record = images.record.as_ref().map(|row| table.jsonb(|index| row.get(index).copied()));
        let changes = images.changes.as_ref().map(|old| table.jsonb(|index| old.get(index).copied().flatten()));
        let (old_values, new_values) = images.action.images(jsonb(record)?, jsonb(changes)?);
        let key = images.key(table).map(|values| values.map(str::to_owned).collect());
        let changes_key = || {
            let (key, changes) = table.key.as_ref().zip(images.changes.as_ref())?;
            Some(key.iter().any(|index| changes.get(*index).is_some_and(Option::is_some)))
        };
        Some(Self {
            changes_key: key.is_some() && changes_key() == Some(true),
            idempotency_key: key_of_position((commit_lsn, commit_idx)),
            about: table.about.clone()?,
            table: Rc::clone(table),
            at: Rc::clone(at),
            commit_lsn,
            commit_idx,
            commit_microseconds,
            action: images.action,
            wire: wire.to_vec(),
            key,
            old_values,
            new_values,
            unknown: images.unknown.clone(),
            unknown_old: images.unknown_old.clone(),
            has_rows: (images.has_old_row(), images.has_row()),
            notes: table.notes(&images.notes, &at.who),
            exact_values: images.exact_values.clone(),
        })
    }

    fn change<'c>(&'c self, position: i32) -> Change<'c> {
        let names = |indexes: &'c [usize], has_row| {
            Some(self.table.names_at(indexes, has_row).map(|name| Cow::Borrowed(name.text.as_str())).collect())
        };
        let (has_old_row, has_row) = self.has_rows;
        let about = &self.about;
        let key = |values: &'c Vec<String>| RecordKey::of(values.iter().map(|value| Cow::Borrowed(&**value)).collect());
        Change {
            original: Original::Captured(self, position),
            table: about.table(),
            action: self.action,
            commit_lsn: Some(self.commit_lsn),
            commit_idx: Some(self.commit_idx),
            commit_microseconds: self.commit_microseconds,
            idempotency_key: Cow::Borrowed(&self.idempotency_key),
            key: self.key.as_ref().map(key),
            old_values: self.old_values.as_deref().map(Image::Jsonb),
            new_values: self.new_values.as_deref().map(Image::Jsonb),
            changes_key: Some(self.changes_key),
            annotations: self.at.told_annotations(),
            sent: Sent {
                replica_identity: about.replica_identity(),
                unknown_columns: names(&self.unknown, has_row),
                unknown_old_columns: names(&self.unknown_old, has_old_row),
                notes: self.notes.as_deref(),
                exact_values: self.exact_values.as_deref(),
            },
            who: self.at.who.clone(),
            unmasked: None,
        }
    }

    /// As a message, of what the stream has said.
    pub(super) fn written(&self) -> Option<Written> {
        let message = message(&self.wire).ok()?;
        let (idx, event) = Event::of(&message)?;
        Some(self.table.message(&self.at.metadata(idx, &self.idempotency_key), event))
    }
}

impl Tellable for Typed {
    fn message(&self) -> String {
        self.written().map_or_else(String::new, |message| message.text)
    }

    fn length(&self) -> usize {
        self.wire.len()
    }

    fn key_columns(&self) -> Option<Vec<String>> {
        let places = self.table.key.as_ref()?;
        places.iter().map(|place| Some(self.table.columns.get(*place)?.name.text.clone())).collect()
    }
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message())
    }
}
