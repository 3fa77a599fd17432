//! What happened to a record, as the log tells it.

use super::image::Image;

/// Where an event stands among those of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// A run ends where positions run backwards: the source was restored then.
    pub run: i32,
    pub lsn: i64,
    pub idx: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Insert,
    Update,
    Delete,
    /// A backfill found the row so.
    Read,
    /// The row has another key from here on.
    Moved,
    /// The table was emptied, or lost its name.
    Truncate,
    /// A backfill has met every row there is, and not this one.
    Complete,
}

impl Action {
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "insert" => Self::Insert,
            "update" => Self::Update,
            "delete" => Self::Delete,
            "read" => Self::Read,
            "moved" => Self::Moved,
            "truncate" => Self::Truncate,
            "complete" => Self::Complete,
            _ => return None,
        })
    }
}

/// Which key the row had before an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyBefore {
    Unknown,
    Same,
    Other,
}

/// An event of one key. An update that gives another key is an event of both: [`Action::Moved`] for the old one.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// Of the entry; below zero: of the schema change by which the table lost its name.
    pub id: i64,
    pub place: Place,
    /// No: a read without position of its own.
    pub is_placed: bool,
    /// How often the table was truncated up to here.
    pub truncates: i32,
    pub action: Action,
    pub key_before: KeyBefore,
    /// The row after it, without what is unknown; of [`Action::Moved`] under its new key.
    pub after: Option<Image<'a>>,
    /// Columns that are not in `after` although the table has them.
    pub unknown: Vec<String>,
    /// Those of them that the change left as they were.
    pub carried: Vec<String>,
    /// What it tells of the row before: of an update the columns that changed.
    pub old: Option<Image<'a>>,
    /// Columns of the row before that are unknown; none: whatever is not in [`Event::before`].
    pub unknown_before: Option<Vec<String>>,
    /// The row left those that a row filter publishes: later changes of it are not captured.
    pub has_left: bool,
}

impl Event<'_> {
    /// What is known of the row before; none: there was none.
    #[must_use]
    pub fn before(&self) -> Option<Image<'_>> {
        match (self.action, &self.unknown_before, &self.old) {
            (Action::Update | Action::Moved, None, _) => Some(Image::empty()),
            (Action::Update | Action::Moved, Some(unknown), old) => {
                let after = self.after.as_ref()?;
                Some(old.as_ref().map_or_else(|| after.clone(), |old| after.overlaid(old)).without(unknown))
            }
            (Action::Delete, _, Some(old)) => Some(old.clone().without(&self.unknown)),
            (Action::Complete, _, old) => old.clone(),
            _ => None,
        }
    }

    /// Does the row come to this key from another one?
    #[must_use]
    pub fn arrives(&self) -> bool {
        self.action == Action::Update && self.key_before == KeyBefore::Other
    }

    /// Does it tell the row without the life before it, if no other row has the key?
    #[must_use]
    pub fn stands_alone(&self) -> bool {
        match self.action {
            Action::Insert => true,
            Action::Update => !self.arrives() && self.carried.is_empty(),
            Action::Read => self.is_placed && self.unknown.is_empty(),
            _ => false,
        }
    }

    #[must_use]
    pub fn into_owned(self) -> Event<'static> {
        Event { after: self.after.map(Image::into_owned), old: self.old.map(Image::into_owned), ..self }
    }
}
