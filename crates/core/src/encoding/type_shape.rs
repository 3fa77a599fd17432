//! What of a type decides how its values are encoded.

use serde_json::value::RawValue;

/// Sequin's encodings differ by these; every other type travels as its own text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeShape {
    Text,
    Boolean,
    Integer,
    Float,
    /// `json`: the value itself, whose text matters.
    Json,
    /// `jsonb`: the value itself, in its one spelling.
    Jsonb,
    /// `json` or `jsonb` behind two domains: from the WAL a string that holds JSON.
    JsonInString,
    Date,
    DateRange,
    Timestamp,
    TimestampTz,
    TimeTz,
    Interval,
    Bytea,
    TsVector,
    Hstore,
    /// The delimiter is `;` for `box`, a comma for all others.
    Array {
        element: Box<TypeShape>,
        delimiter: char,
    },
}

impl TypeShape {
    /// Those that are written otherwise than as text, but for arrays, and the letters by which the WAL's stream
    /// names them.
    const LETTERS: [(u8, Self); 9] = [
        (b't', Self::Text),
        (b'b', Self::Boolean),
        (b'i', Self::Integer),
        (b'f', Self::Float),
        (b'j', Self::Json),
        (b'J', Self::Jsonb),
        (b's', Self::Timestamp),
        (b'z', Self::TimestampTz),
        (b'v', Self::Interval),
    ];

    pub(crate) fn of_letter(letter: u8) -> Option<Self> {
        Self::LETTERS.into_iter().find(|(known, _)| *known == letter).map(|(_, shape)| shape)
    }

    /// Whatever has none has that of text.
    pub(crate) fn letter(&self) -> u8 {
        Self::LETTERS.iter().find(|(_, known)| known == self).map_or(b't', |(letter, _)| *letter)
    }

    /// Is it `json`, `jsonb`, or an array of them?
    pub fn holds_json(&self) -> bool {
        match self {
            Self::Json | Self::Jsonb => true,
            Self::Array { element, .. } => element.holds_json(),
            _ => false,
        }
    }

    /// As values are written: text where their own text is written.
    pub fn as_written(self) -> Self {
        match self {
            Self::Array { .. } => self,
            plain => Self::of_letter(plain.letter()).unwrap_or(Self::Text),
        }
    }
}

pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}
