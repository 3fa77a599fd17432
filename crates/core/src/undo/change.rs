//! Changes of the log, and in which direction they are to be made.

use super::image::Image;
use serde::Deserialize;
use std::borrow::Cow;

/// A change of the log, with the row before and after it.
#[derive(Deserialize)]
pub struct Change<'a> {
    pub change_id: i64,
    /// Its place in the list of tables.
    pub table: usize,
    #[serde(borrow)]
    pub record_id: Option<Cow<'a, str>>,
    pub action: Action,
    pub commit_lsn: Option<i64>,
    pub commit_idx: Option<i32>,
    #[serde(borrow)]
    pub old_row: Option<Image<'a>>,
    #[serde(borrow)]
    pub new_row: Option<Image<'a>>,
    pub unknown_old_columns: Option<Vec<String>>,
    pub unknown_columns: Option<Vec<String>>,
    /// Of what was before it, the message itself had not these; `None`: it had nothing.
    pub not_sent_before: Option<Vec<String>>,
    /// Why it cannot be taken back or made again, whatever it says.
    pub doubt: Option<Cow<'a, str>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Insert,
    Update,
    Delete,
    Read,
    Truncate,
    /// A backfill did not meet the record.
    Complete,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Undo,
    Redo,
}

impl Direction {
    /// From which row to which.
    pub(super) fn rows<T>(self, old: T, new: T) -> (T, T) {
        match self {
            Self::Undo => (new, old),
            Self::Redo => (old, new),
        }
    }
}
