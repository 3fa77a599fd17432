//! SQLSTATEs, as text and as PostgreSQL keeps them.

use std::fmt;

/// A five-character SQLSTATE (PostgreSQL documentation, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    pub const NUMERIC_VALUE_OUT_OF_RANGE: Self = Self(*b"22003");
    pub const INVALID_DATETIME_FORMAT: Self = Self(*b"22007");
    pub const DATETIME_FIELD_OVERFLOW: Self = Self(*b"22008");
    pub const INVALID_CHARACTER_VALUE_FOR_CAST: Self = Self(*b"22018");
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    pub const DUPLICATE_JSON_OBJECT_KEY_VALUE: Self = Self(*b"22030");
    pub const INVALID_TEXT_REPRESENTATION: Self = Self(*b"22P02");
    pub const UNTRANSLATABLE_CHARACTER: Self = Self(*b"22P05");
    pub const SQL_JSON_MEMBER_NOT_FOUND: Self = Self(*b"2203A");
    pub const UNIQUE_VIOLATION: Self = Self(*b"23505");
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    pub const TRIGGERED_DATA_CHANGE_VIOLATION: Self = Self(*b"27000");
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");

    /// PostgreSQL keeps it as five six-bit characters (PostgreSQL source, `elog.h`, `MAKE_SQLSTATE`).
    pub fn unpacked(code: i32) -> Self {
        Self(std::array::from_fn(|i| ((code >> (6 * i)) & 0x3F) as u8 + b'0'))
    }

    pub fn packed(self) -> i32 {
        self.0.iter().rev().fold(0, |code, byte| (code << 6) | i32::from((byte - b'0') & 0x3F))
    }

    pub fn class(&self) -> &[u8] {
        &self.0[..2]
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_and_back() {
        for code in [*b"22P05", *b"54001", *b"2203A", *b"XX000"] {
            assert_eq!(SqlState::unpacked(SqlState(code).packed()), SqlState(code));
        }
    }
}
