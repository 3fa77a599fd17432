//! Idempotency keys: base64 of the position.

use super::record_key::RecordKey;
use base64::{Engine, prelude::BASE64_STANDARD};
use std::fmt::Display;
use std::io::Write;

/// As Sequin derives it (Sequin source, `slot_producer/processor.ex`).
pub fn key_of_position((lsn, idx): (impl Display, impl Display)) -> String {
    BASE64_STANDARD.encode(format!("{lsn}:{idx}"))
}

/// The same as comparing with it, which is done for every change.
pub fn is_key_of_position(key: &str, (lsn, idx): (i64, i32)) -> bool {
    let (mut position, mut encoded) = ([0; 32], [0; 44]);
    let mut room = position.as_mut_slice();
    let written = write!(room, "{lsn}:{idx}").map(|()| 32 - room.len());
    let length = written.ok().and_then(|length| BASE64_STANDARD.encode_slice(&position[..length], &mut encoded).ok());
    length.is_some_and(|length| &encoded[..length] == key.as_bytes())
}

/// Ours, where Sequin sent none: the position of a `read` is unknown.
pub fn key_of_read(key: Option<&RecordKey>) -> String {
    let values = key.into_iter().flat_map(RecordKey::without_empty);
    BASE64_STANDARD.encode(values.fold("read".into(), |all: String, value| all + ":" + value))
}
