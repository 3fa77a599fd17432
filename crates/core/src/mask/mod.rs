//! Masking at the door: what becomes of values that must not be stored. A message of a table with masks is written anew
//! before anything of it is stored. Nothing behind the door ever sees such a value.
//!
//! A masked column is in no image. Of its value only `metadata.notes.masked` tells, as far as its mask lets it:
//! `{"email": {"how": "hash", "new": "hmac-sha256:…", "old": …, "changed": true}}`. Of a `json` column with masked
//! members the rest stays in the images: `{"profile": {"members": {"ssn": "omit"}}}`.

mod how;
mod message;
mod object;
mod row;
mod rules;
#[cfg(test)]
mod tests;
mod value;

pub use how::{How, MaskSecret, Masker, SECRET_BYTES, hidden_digest};
pub use message::masked_message;
pub use rules::TableMasks;
