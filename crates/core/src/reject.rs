//! Why a message cannot be taken: a SQLSTATE and a reason for people, never a value of the row.

use crate::SqlState;
use std::borrow::Cow;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub sqlstate: SqlState,
    pub reason: Cow<'static, str>,
    pub hint: Option<Cow<'static, str>>,
}

impl Reject {
    pub fn new(sqlstate: SqlState, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { sqlstate, reason: reason.into(), hint: None }
    }

    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// One key and commit time, but another action, position or record: neither of the two is dropped or overwritten.
    pub fn conflict() -> Self {
        Self::new(
            SqlState::UNIQUE_VIOLATION,
            "another change has this idempotency key and commit time, with another action, position or record key",
        )
        .hint(
            "Look whether two replication slots, or a server and its restored copy, are configured in Sequin \
            as one database.",
        )
    }
}
