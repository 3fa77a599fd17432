//! What happened to a row.

use crate::{Reject, SqlState};
use std::ffi::CStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Insert,
    Update,
    Delete,
    /// A row as a backfill found it.
    Read,
    /// All rows of the table are gone.
    Truncate,
    /// A backfill has met every row that the table has: records of which nothing is told since it began are gone.
    Complete,
}

impl Action {
    pub(super) fn parse(text: &str) -> Result<Self, Reject> {
        Ok(match text {
            "insert" => Self::Insert,
            "update" => Self::Update,
            "delete" => Self::Delete,
            "read" => Self::Read,
            "truncate" => Self::Truncate,
            "complete" => Self::Complete,
            _ => {
                return Err(Reject::new(SqlState::INVALID_PARAMETER_VALUE, "unknown action")
                    .hint("Sequin sends \"insert\", \"update\", \"delete\" and \"read\"."));
            }
        })
    }

    /// The row before and after, of the record and the changes.
    pub fn images<T>(self, record: Option<T>, changes: Option<T>) -> (Option<T>, Option<T>) {
        match self {
            Self::Insert | Self::Read => (None, record),
            Self::Update => (changes, record),
            Self::Delete => (record, None),
            Self::Truncate | Self::Complete => (None, None),
        }
    }

    pub fn label(self) -> &'static CStr {
        match self {
            Self::Insert => c"insert",
            Self::Update => c"update",
            Self::Delete => c"delete",
            Self::Read => c"read",
            Self::Truncate => c"truncate",
            Self::Complete => c"complete",
        }
    }

    /// It tells of one row.
    pub(super) fn has_record(self) -> bool {
        !matches!(self, Self::Truncate | Self::Complete)
    }

    /// It is a change, which has its place in a transaction.
    pub(super) fn is_change(self) -> bool {
        !matches!(self, Self::Read | Self::Complete)
    }
}
