//! A message whose writer knows what it says: capture. It is not read again, but for what is unusual.

use super::action::Action;
use super::annotations::{Annotations, Large};
use super::body::Parsed;
use super::change::{Change, Sent};
use super::image::{Image, MOST_KEYS};
use super::original::Original;
use super::raw_message::RawMessage;
use super::record_key::RecordKey;
use super::source_table::SourceTable;
use super::who::Who;
use crate::json::object::{Object, string, strings};
use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;

pub struct Written {
    /// Without large annotations: null stands for them.
    pub text: String,
    /// `None`: it must be read.
    pub known: Option<Known>,
    pub large: Option<LargePart>,
}

/// Annotations that many messages share, and where they stand in this one.
pub struct LargePart {
    pub range: Range<usize>,
    pub annotations: Rc<Large<'static>>,
}

/// What a message says. The ranges are the parts of its text that are not null.
pub struct Known {
    pub about: Rc<About>,
    pub action: Action,
    pub commit_lsn: i64,
    pub commit_idx: Option<i32>,
    pub commit_microseconds: i64,
    pub idempotency_key: Range<usize>,
    pub record_pks: Option<Range<usize>>,
    pub annotations: Option<Range<usize>>,
    pub record: Option<Range<usize>>,
    pub changes: Option<Range<usize>>,
    pub unknown_columns: Range<usize>,
    pub unknown_old_columns: Range<usize>,
    pub notes: Option<Range<usize>>,
    pub exact_values: Option<Range<usize>>,
    pub who: Who,
}

/// What every message of a table says alike.
pub struct About {
    table: SourceTable<'static>,
    replica_identity: Option<i8>,
}

impl About {
    /// Of metadata that holds at least this. `None`: no message with it is a change.
    pub fn parse(metadata: &str) -> Option<Self> {
        let mut metadata = Object::parse(metadata)?;
        let SourceTable { database_id, database_name, schema, name } = SourceTable::parse(&mut metadata).ok()?;
        let owned = |name: Cow<str>| Cow::Owned(name.into_owned());
        let table = SourceTable {
            database_id: owned(database_id),
            database_name: database_name.map(owned),
            schema: owned(schema),
            name: owned(name),
        };
        Some(Self { table, replica_identity: Sent::parse(&metadata).ok()?.replica_identity })
    }

    pub fn table(&self) -> SourceTable<'_> {
        let SourceTable { database_id, database_name, schema, name } = &self.table;
        SourceTable {
            database_id: Cow::Borrowed(database_id),
            database_name: database_name.as_deref().map(Cow::Borrowed),
            schema: Cow::Borrowed(schema),
            name: Cow::Borrowed(name),
        }
    }

    pub fn replica_identity(&self) -> Option<i8> {
        self.replica_identity
    }
}

impl Written {
    pub fn parsed(&self, position: i32) -> Parsed<'_> {
        let message = RawMessage { text: &self.text, position };
        let parsed = match self.known.as_ref().and_then(|known| known.change(message)) {
            Some(change) => Ok(change),
            None => message.parsed(),
        };
        match &self.large {
            Some(LargePart { annotations, .. }) => {
                parsed.map(|change| Change { annotations: Some(Annotations::Large(Rc::clone(annotations))), ..change })
            }
            None => parsed,
        }
    }

    /// The text with all annotations.
    pub fn whole(&self) -> Cow<'_, str> {
        match &self.large {
            Some(LargePart { range, annotations }) => {
                Cow::Owned([&self.text[..range.start], &annotations.text, &self.text[range.end..]].concat())
            }
            None => Cow::Borrowed(&self.text),
        }
    }
}

#[cfg(test)]
impl Written {
    /// It is a change without being read.
    pub fn is_known(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.change(RawMessage::alone(&self.text)).is_some())
    }
}

impl Known {
    /// `None`: something may be refused.
    fn change<'a>(&'a self, message: RawMessage<'a>) -> Option<Change<'a>> {
        if message.text.len() as u64 > u64::from(MOST_KEYS) {
            return None;
        }
        let part = |range: &Range<usize>| &message.text[range.clone()];
        let (record, changes) = (self.record.as_ref().map(part), self.changes.as_ref().map(part));
        let (old_values, new_values) = self.action.images(record, changes);
        Some(Change {
            original: Original::Message(message),
            table: self.about.table(),
            action: self.action,
            commit_lsn: Some(self.commit_lsn),
            commit_idx: self.commit_idx,
            commit_microseconds: self.commit_microseconds,
            idempotency_key: string(part(&self.idempotency_key), "").ok().filter(|key| !key.is_empty())?,
            key: self.record_pks.as_ref().map(part).map(RecordKey::parse).transpose().ok()?,
            old_values: old_values.map(Image::Text),
            new_values: new_values.map(Image::Text),
            changes_key: None,
            annotations: self.annotations.as_ref().map(part).map(Annotations::of_member),
            sent: Sent {
                replica_identity: self.about.replica_identity(),
                unknown_columns: Some(strings(part(&self.unknown_columns), "").ok()?),
                unknown_old_columns: Some(strings(part(&self.unknown_old_columns), "").ok()?),
                notes: self.notes.as_ref().map(part),
                exact_values: self.exact_values.as_ref().map(part),
            },
            who: self.who.clone(),
            unmasked: None,
        })
    }
}
