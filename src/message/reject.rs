//! Why a message cannot be taken: a SQLSTATE and a reason for people, never a value of the row.

use std::borrow::Cow;
use std::fmt;

/// A five-character SQLSTATE (PostgreSQL documentation, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    pub const NUMERIC_VALUE_OUT_OF_RANGE: Self = Self(*b"22003");
    pub const INVALID_DATETIME_FORMAT: Self = Self(*b"22007");
    pub const DATETIME_FIELD_OVERFLOW: Self = Self(*b"22008");
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    pub const DUPLICATE_JSON_OBJECT_KEY_VALUE: Self = Self(*b"22030");
    pub const INVALID_TEXT_REPRESENTATION: Self = Self(*b"22P02");
    pub const UNTRANSLATABLE_CHARACTER: Self = Self(*b"22P05");
    pub const SQL_JSON_MEMBER_NOT_FOUND: Self = Self(*b"2203A");
    pub const UNIQUE_VIOLATION: Self = Self(*b"23505");
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
        .hint("Look whether two replication slots, or a server and its restored copy, are configured in Sequin as one database.")
    }
}
