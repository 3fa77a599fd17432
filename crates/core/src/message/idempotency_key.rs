//! Idempotency keys: base64 of the position.

use super::record_key::RecordKey;
use base64::{Engine, prelude::BASE64_STANDARD};
use std::fmt::Display;
use std::io::Write;

/// As Sequin derives it (Sequin source, `slot_producer/processor.ex`).
pub fn key_of_position(position: (impl Display, impl Display)) -> String {
    let (key, length) = encoded(position);
    String::from_utf8(key[..length].to_vec()).unwrap_or_default()
}

/// The same as comparing with it.
pub fn is_key_of_position(key: &str, position: (i64, i32)) -> bool {
    let (encoded, length) = encoded(position);
    &encoded[..length] == key.as_bytes()
}

/// The key and its length, without memory of its own: it is made for every change. A position has at most 31
/// characters.
fn encoded((lsn, idx): (impl Display, impl Display)) -> ([u8; 44], usize) {
    let (mut position, mut key) = ([0; 31], [0; 44]);
    let mut room = position.as_mut_slice();
    let length = write!(room, "{lsn}:{idx}").map_or(0, |()| 31 - room.len());
    let length = BASE64_STANDARD.encode_slice(&position[..length], &mut key).unwrap_or(0);
    (key, length)
}

/// Ours, where Sequin sent none: the position of a `read` is unknown.
pub fn key_of_read(key: Option<&RecordKey>) -> String {
    let values = key.into_iter().flat_map(RecordKey::without_empty);
    BASE64_STANDARD.encode(values.fold("read".into(), |all: String, value| all + ":" + value))
}
