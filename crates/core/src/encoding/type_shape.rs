//! What of a type decides how its values are encoded.

/// Sequin's encodings differ by these; every other type travels as its own text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Text,
    /// `json`, `jsonb`: the value itself.
    Json,
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
        element: Box<Shape>,
        delimiter: char,
    },
}
