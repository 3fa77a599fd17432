//! A record's key as the message gives it: `metadata.record_pks`.

use super::digest::hex_digest;
use crate::Reject;
use crate::json::object::{plain_strings, string, wrong_type};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// `record_id` is indexed, and a b-tree entry holds at most about 2,700 bytes (PostgreSQL documentation, "B-Tree
/// Indexes"). A longer key is named by its digest; `record_pks` has it whole.
const LONGEST_RECORD_ID: usize = 2_000;

/// What stands before such a digest. A key that begins so itself is named by its digest too: it must not pass for
/// another.
const DIGEST: &str = "sha256:";

/// The key's values as text, in the order of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordKey<'a> {
    values: Vec<Cow<'a, str>>,
    record_id: Option<Cow<'a, str>>,
}

impl<'a> RecordKey<'a> {
    /// Strings as they stand; a number or boolean by its token, so that no digit is lost.
    pub fn parse(text: &'a str) -> Result<Self, Reject> {
        if let Some(values) = plain_strings(text) {
            return Ok(Self::of(values));
        }
        let elements: Vec<&'a RawValue> = Some(text)
            .filter(|text| text.starts_with('['))
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| wrong_type("record_pks", "an array"))?;
        // there may be many keys at once: no more room than they need
        let mut values = Vec::with_capacity(elements.len());
        for element in elements {
            values.push(match element.get() {
                text if text.starts_with('"') => string(text, "record_pks")?,
                text if text.starts_with(['{', '[', 'n']) => {
                    return Err(wrong_type("record_pks", "an array of strings"));
                }
                token => Cow::Borrowed(token),
            });
        }
        Ok(Self::of(values))
    }

    pub fn of(values: Vec<Cow<'a, str>>) -> Self {
        Self { record_id: named(&values), values }
    }

    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(Cow::as_ref)
    }

    /// For comparing: after a restart Sequin leaves empty strings out.
    pub fn without_empty(&self) -> impl Iterator<Item = &str> {
        self.values().filter(|value| !value.is_empty())
    }

    /// The key as one text: the value itself, or, of several values, a JSON array of them.
    /// `None` for a table without a key.
    pub fn record_id(&self) -> Option<&str> {
        self.record_id.as_deref()
    }

    /// The values, where [`Self::record_id`] alone does not tell them.
    pub fn whole(&self) -> Option<&[Cow<'a, str>]> {
        match self.values.as_slice() {
            [single] if !needs_digest(single) => None,
            values => Some(values),
        }
    }
}

fn named<'a>(values: &[Cow<'a, str>]) -> Option<Cow<'a, str>> {
    let id = match values {
        [] => return None,
        [single] => single.clone(),
        several => serde_json::to_string(several).unwrap_or_default().into(),
    };
    Some(if needs_digest(&id) { format!("{DIGEST}{}", hex_digest(&id)).into() } else { id })
}

fn needs_digest(id: &str) -> bool {
    id.len() > LONGEST_RECORD_ID || id.starts_with(DIGEST)
}

/// PostgreSQL documentation, "Array Input and Output Syntax".
pub fn array_literal(values: &[Cow<str>]) -> String {
    let quoted: Vec<String> =
        values.iter().map(|value| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> RecordKey<'_> {
        RecordKey::parse(text).expect(text)
    }

    #[test]
    fn one_value_is_its_own_id() {
        assert_eq!(key(r#"["0.00000001"]"#).record_id(), Some("0.00000001"));
        assert_eq!(key(r#"[1.10]"#).record_id(), Some("1.10"));
        assert_eq!(key(r#"[""]"#).record_id(), Some(""));
        assert_eq!(key("[]").record_id(), None);
        assert_eq!(key(r#"["7"]"#).whole(), None);
    }

    #[test]
    fn composite_keys_do_not_collide() {
        assert_ne!(key(r#"["a:b","c"]"#).record_id(), key(r#"["a","b:c"]"#).record_id());
        assert_eq!(key(r#"["a","b"]"#).record_id(), Some(r#"["a","b"]"#));
        assert_eq!(key(r#"["a\"","\\b",""]"#).whole().map(array_literal).as_deref(), Some(r#"{"a\"","\\b",""}"#));
        assert_eq!(key("[]").whole().map(array_literal).as_deref(), Some("{}"));
    }

    #[test]
    fn a_long_key_has_a_short_id_and_is_kept_whole() {
        let text = format!("[\"{}\"]", "k".repeat(5000));
        assert_eq!(key(&text).record_id().map(|id| id.len()), Some("sha256:".len() + 64));
        assert!(key(&text).whole().is_some_and(|values| values[0].len() == 5000));
    }

    #[test]
    fn no_key_passes_for_the_digest_of_another() {
        let long = format!("[\"{}\"]", "k".repeat(5000));
        let named = key(&long).record_id().expect("an id").to_owned();
        let spelled_so = format!("[\"{named}\"]");
        assert_ne!(key(&spelled_so).record_id(), Some(named.as_str()));
        assert_eq!(key(&spelled_so).whole().map(|values| values[0].as_ref()), Some(named.as_str()));
    }

    #[test]
    fn keys_are_lists_of_scalars() {
        for text in ["{}", "7", "\"a\"", "[null]", "[[1]]", "[{}]", r#"["\u0000"]"#] {
            assert!(RecordKey::parse(text).is_err(), "{text}");
        }
    }
}
