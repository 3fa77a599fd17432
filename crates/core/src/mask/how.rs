//! What becomes of one value.

use crate::json::object::string as read_string;
use crate::json::string;
use crate::message::{Digest, hex};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::borrow::Cow;

pub const SECRET_BYTES: usize = 32;

/// The key of all hashes. Whoever lacks it cannot try values.
#[derive(Clone, Copy)]
pub struct MaskSecret(pub [u8; SECRET_BYTES]);

/// What hides values.
#[derive(Clone, Copy)]
pub struct Masker {
    pub secret: MaskSecret,
    /// It was masked before: what looks like a mask is one, and is left as it is. Of others a writer might have made it
    /// up.
    pub was_masked: bool,
}

/// The first keeps least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// Nothing stands in the value's place.
    Omit,
    /// A keyed hash: equal values stay equal.
    Hash,
    /// The last characters of a long value.
    Partial,
}

const HASH: &str = "hmac-sha256:";
const HASH_LENGTH: usize = HASH.len() + 64;
const STARS: &str = "***";
const KEPT: usize = 4;
/// Of a value with fewer characters nothing is kept.
const LEAST: usize = 12;

impl How {
    pub fn parse(label: &str) -> Option<Self> {
        [Self::Omit, Self::Hash, Self::Partial].into_iter().find(|how| how.label() == label)
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Omit => "omit",
            Self::Hash => "hash",
            Self::Partial => "partial",
        }
    }

    /// What stands in the place of a JSON value, as JSON; `None`: nothing.
    pub fn masked(self, json: &str, masker: &Masker) -> Option<String> {
        let text = text_of(json);
        match self {
            Self::Omit => None,
            _ if json == "null" => Some("null".into()),
            Self::Hash if masker.was_masked && is_hash(&text) => Some(json.into()),
            Self::Hash => Some(string(&hash(&text, &masker.secret))),
            Self::Partial if masker.was_masked && is_partial(&text) => Some(json.into()),
            Self::Partial => Some(string(&partial(json, &text))),
        }
    }
}

/// A value's characters, without JSON's quotes and escapes.
pub(super) fn text_of(json: &str) -> Cow<'_, str> {
    match json.strip_prefix('"') {
        Some(_) => read_string(json, "").unwrap_or(Cow::Borrowed(json)),
        None => Cow::Borrowed(json),
    }
}

pub(super) fn hash(text: &str, secret: &MaskSecret) -> String {
    format!("{HASH}{}", hex(&mac(b"value", text.as_bytes(), secret)))
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == HASH_LENGTH
        && text.strip_prefix(HASH).is_some_and(|hex| hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

fn is_partial(text: &str) -> bool {
    text.strip_prefix(STARS).is_some_and(|kept| kept.chars().count() <= KEPT)
}

fn partial(json: &str, text: &str) -> String {
    let count = text.chars().count();
    let is_plain = !json.starts_with(['{', '[', 't', 'f']);
    let kept = if is_plain && count >= LEAST { text.chars().skip(count - KEPT).collect() } else { String::new() };
    format!("{STARS}{kept}")
}

/// A digest that was made of masked values, too: nobody can try values against it.
pub fn hidden_digest(digest: &Digest, secret: &MaskSecret) -> Digest {
    let mut hidden = Digest::default();
    hidden.copy_from_slice(&mac(b"digest", digest, secret)[..16]);
    hidden
}

fn mac(of: &[u8], bytes: &[u8], secret: &MaskSecret) -> [u8; 32] {
    // a key that is shorter than a block is filled up with zeros (RFC 2104, section 2)
    let mut key = [0; 64];
    key[..SECRET_BYTES].copy_from_slice(&secret.0);
    let mut mac = Hmac::<Sha256>::new(&key.into());
    for part in [of, b":", bytes] {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Masker = Masker { secret: MaskSecret([7; 32]), was_masked: false };

    #[test]
    fn nothing_stands_for_what_is_omitted() {
        for json in ["null", "\"a\"", "1", "{}"] {
            assert_eq!(How::Omit.masked(json, &SECRET), None);
        }
    }

    #[test]
    fn it_is_hmac_sha256() {
        // as Python's hmac has it, over "value:a"
        let expected = "\"hmac-sha256:c60144b2f0cd36b1e9593065e64fac5967dc729086618a1c42d32ec18c0c9dc6\"";
        let masked = How::Hash.masked("\"a\"", &SECRET);
        assert_eq!(masked.as_deref(), Some(expected));
    }

    #[test]
    fn equal_values_have_equal_hashes_and_null_stays_null() {
        let hash = |json| How::Hash.masked(json, &SECRET);
        assert_eq!(hash("\"ada\""), hash("\"\\u0061da\""));
        assert_eq!(hash("12"), hash("\"12\""));
        assert_ne!(hash("\"ada\""), hash("\"Ada\""));
        assert_eq!(hash("null").as_deref(), Some("null"));
        assert_ne!(How::Hash.masked("1", &Masker { secret: MaskSecret([8; 32]), ..SECRET }), hash("1"));
    }

    #[test]
    fn what_looks_like_a_mask_is_masked_unless_it_is_one() {
        let again = Masker { was_masked: true, ..SECRET };
        for (how, made_up) in [(How::Hash, How::Hash.masked("1", &SECRET)), (How::Partial, Some("\"***1111\"".into()))]
        {
            let made_up = made_up.unwrap_or_default();
            assert_eq!(how.masked(&made_up, &again), Some(made_up.clone()));
            assert_ne!(how.masked(&made_up, &SECRET), Some(made_up));
        }
    }

    #[test]
    fn the_end_of_a_long_value_is_kept() {
        let partial = |json| How::Partial.masked(json, &SECRET).unwrap_or_default();
        assert_eq!(partial("\"4111111111111111\""), "\"***1111\"");
        assert_eq!(partial("123456789012"), "\"***9012\"");
        assert_eq!(partial("\"éééééééééééé\""), "\"***éééé\"");
        for short in ["\"12345678901\"", "1", "true", "\"\"", "{\"a\":\"123456789012\"}"] {
            assert_eq!(partial(short), "\"***\"");
        }
        assert_eq!(partial("null"), "null");
    }
}
