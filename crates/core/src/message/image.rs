//! A row, and whether it is one that `jsonb` can hold.

use crate::Reject;
use crate::SqlState;
use crate::json::LONGEST_IMAGE;
use crate::json::object::{Object, has_container_over, wrong_type};

#[derive(Clone, Copy, Debug)]
pub enum Image<'a> {
    /// JSON.
    Text(&'a str),
    /// The bytes of a `jsonb` (`json::jsonb`).
    Jsonb(&'a [u8]),
}

impl<'a> Image<'a> {
    /// If it came as that.
    pub fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Jsonb(_) => None,
        }
    }
}

/// While it reads JSON, PostgreSQL doubles the memory of a container of 32-byte elements or 72-byte pairs. An
/// allocation ends at 1 GB (PostgreSQL source, `jsonb_util.c`, `memutils.h`).
pub const MOST_ELEMENTS: u32 = 1 << 24;
pub(super) const MOST_KEYS: u32 = 1 << 23;

pub fn image<'a>(envelope: &Object<'a>, key: &'static str) -> Result<Option<&'a str>, Reject> {
    match envelope.get(key) {
        Some(text) if !text.starts_with('{') => Err(wrong_type(key, "an object")),
        text => sized(text, key),
    }
}

/// Is JSON small enough for `jsonb`?
pub fn jsonb_holds(json: &str) -> bool {
    json.len() <= LONGEST_IMAGE
        && (json.len() as u64 <= u64::from(MOST_KEYS) || !has_container_over(json, MOST_ELEMENTS, MOST_KEYS))
}

fn sized<'a>(text: Option<&'a str>, key: &str) -> Result<Option<&'a str>, Reject> {
    match text {
        Some(text) if !jsonb_holds(text) => Err(Reject::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("\"{key}\" is larger than PostgreSQL's jsonb can hold"),
        )),
        text => Ok(text),
    }
}
