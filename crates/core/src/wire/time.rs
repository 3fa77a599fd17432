//! When a transaction was committed.

use crate::json::string;
use crate::message::{EPOCH_MICROSECONDS, commit_time_of};
use jiff::Timestamp;

/// Of microseconds since 2000-01-01; empty for what has no place in a timestamp.
pub fn rfc3339(microseconds: i64) -> String {
    CommitTime::of(microseconds).text()
}

/// Microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct CommitTime(i64);

impl CommitTime {
    /// Of microseconds since 2000-01-01.
    pub fn of(microseconds: i64) -> Self {
        Self(microseconds.saturating_add(EPOCH_MICROSECONDS))
    }

    /// A JSON string; what has no place in a timestamp is empty.
    pub fn json(self) -> String {
        string(&self.text())
    }

    fn text(self) -> String {
        Timestamp::from_microsecond(self.0).map_or(String::new(), |time| format!("{time:.6}"))
    }

    /// `None`: it is none for the log.
    pub fn of_log(self) -> Option<i64> {
        commit_time_of(self.0)
    }
}
