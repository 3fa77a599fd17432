//! Reading the envelope of a message: objects one level deep, members as raw text.

use crate::Reject;
use crate::SqlState;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The members of a JSON object, in order.
#[derive(Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Member<'a>)>);

enum Member<'a> {
    Text(&'a str),
    /// Read along with the object that holds it.
    Object(Object<'a>),
}

/// So many are compared with each other faster than they are sorted.
const FEW_KEYS: usize = 32;

#[derive(serde::Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl<'a> Object<'a> {
    /// `None` when the text is not an object, or a key of it is not a valid string.
    pub fn parse(text: &'a str) -> Option<Self> {
        if !text.starts_with('{') {
            return None;
        }
        serde_json::from_str(text).ok()
    }

    /// Refuses a key that stands twice: whichever was taken, the other would be lost.
    pub fn unambiguous(self) -> Result<Self, Reject> {
        let twice = if self.0.len() <= FEW_KEYS {
            self.keys().enumerate().any(|(index, key)| self.keys().take(index).any(|earlier| earlier == key))
        } else {
            let mut keys: Vec<&str> = self.keys().collect();
            keys.sort_unstable();
            keys.windows(2).any(|pair| pair[0] == pair[1])
        };
        if twice {
            return Err(Reject::new(
                SqlState::DUPLICATE_JSON_OBJECT_KEY_VALUE,
                "a key stands twice in one JSON object",
            ));
        }
        Ok(self)
    }

    /// The member's text; a JSON `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        match self.0.iter().find(|(k, _)| k == key)? {
            (_, Member::Text(text)) => Some(*text).filter(|text| *text != "null"),
            (_, Member::Object(_)) => None,
        }
    }

    /// Of members that stand twice the last; a JSON `null` counts as absent.
    pub fn last(&self, key: &str) -> Option<&'a str> {
        match self.0.iter().rfind(|(k, _)| k == key)? {
            (_, Member::Text(text)) => Some(*text).filter(|text| *text != "null"),
            (_, Member::Object(_)) => None,
        }
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_ref())
    }

    /// Each with its text, but for what was read along.
    pub fn members(&self) -> impl Iterator<Item = (&Cow<'a, str>, &'a str)> {
        self.0.iter().filter_map(|(key, member)| match member {
            Member::Text(text) => Some((key, *text)),
            Member::Object(_) => None,
        })
    }

    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    pub fn string(&self, key: &'static str) -> Result<Option<Cow<'a, str>>, Reject> {
        self.get(key).map(|text| string(text, key)).transpose()
    }

    /// Takes what was read along.
    pub fn object(&mut self, key: &'static str) -> Result<Option<Object<'a>>, Reject> {
        if let Some((_, Member::Object(object))) = self.0.iter_mut().find(|(k, _)| k == key) {
            return std::mem::take(object).unambiguous().map(Some);
        }
        self.get(key)
            .map(|text| Object::parse(text).ok_or_else(|| wrong_type(key, "an object"))?.unambiguous())
            .transpose()
    }

    pub fn strings(&self, key: &'static str) -> Result<Option<Vec<Cow<'a, str>>>, Reject> {
        self.get(key).map(|text| strings(text, key)).transpose()
    }

    /// A non-negative integer, to the digit.
    pub fn integer<T: TryFrom<u64>>(&self, key: &'static str) -> Result<Option<T>, Reject> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong_type(key, "an integer"));
        }
        text.parse::<u64>()
            .ok()
            .and_then(|n| T::try_from(n).ok())
            .map(Some)
            .ok_or_else(|| Reject::new(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, format!("\"{key}\" is out of range")))
    }
}

/// The values of an array of such strings as [`string`] reads.
pub fn strings<'a>(text: &'a str, key: &str) -> Result<Vec<Cow<'a, str>>, Reject> {
    if let Some(plain) = plain_strings(text) {
        return Ok(plain);
    }
    let elements: Vec<&'a RawValue> = serde_json::from_str(text).map_err(|_| wrong_type(key, "an array of strings"))?;
    elements.into_iter().map(|element| string(element.get(), key)).collect()
}

/// The same for valid JSON without escapes and white space. `None`: it is something else.
pub fn plain_strings(text: &str) -> Option<Vec<Cow<'_, str>>> {
    if text == "[]" {
        return Some(Vec::new());
    }
    let inner = text.strip_prefix("[\"")?.strip_suffix("\"]")?;
    if inner.contains('\\') {
        return None;
    }
    // there may be many lists at once: no more room than they need
    let mut values = Vec::with_capacity(inner.matches("\",\"").count() + 1);
    for value in inner.split("\",\"") {
        if value.contains('"') {
            return None;
        }
        values.push(Cow::Borrowed(value));
    }
    Some(values)
}

/// The value of a JSON string that can stand in a column of type `text`.
pub fn string<'a>(text: &'a str, key: &str) -> Result<Cow<'a, str>, Reject> {
    if !text.starts_with('"') {
        return Err(wrong_type(key, "a string"));
    }
    let Text(value) = serde_json::from_str(text).map_err(|_| {
        Reject::new(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("\"{key}\" holds an invalid Unicode escape sequence"),
        )
    })?;
    if value.contains('\0') {
        return Err(Reject::new(
            SqlState::UNTRANSLATABLE_CHARACTER,
            format!("\"{key}\" holds \\u0000, which PostgreSQL's text cannot"),
        ));
    }
    Ok(value)
}

/// Has some array or object of this JSON more elements than fit?
pub fn has_container_over(text: &str, most_elements: u32, most_keys: u32) -> bool {
    let mut open: Vec<(u32, u32)> = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            b'[' => open.push((1, most_elements)),
            b'{' => open.push((1, most_keys)),
            b']' | b'}' => drop(open.pop()),
            b',' => {
                if let Some((count, most)) = open.last_mut() {
                    *count += 1;
                    if count > most {
                        return true;
                    }
                }
            }
            _ => {}
        }
    }
    false
}

pub fn required<T>(field: Option<T>, name: &'static str) -> Result<T, Reject> {
    field.ok_or_else(|| missing(name))
}

pub fn missing(key: &str) -> Reject {
    Reject::new(SqlState::SQL_JSON_MEMBER_NOT_FOUND, format!("message has no \"{key}\""))
}

pub fn wrong_type(key: &str, expected: &str) -> Reject {
    Reject::new(SqlState::INVALID_PARAMETER_VALUE, format!("\"{key}\" is not {expected}"))
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Members { along: &[] }.deserialize(deserializer)
    }
}

/// Reads an object, and along with it the one that stands in it under the first key of `along`, and so on.
struct Members {
    along: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for Members {
    type Value = Object<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object<'de>, M::Error> {
        let mut members = Vec::with_capacity(16);
        while let Some(Text(key)) = map.next_key()? {
            let member = match self.along.split_first() {
                Some((inner, along)) if key == *inner => Member::Object(map.next_value_seed(Members { along })?),
                _ => Member::Text(map.next_value::<&RawValue>()?.get()),
            };
            members.push((key, member));
        }
        Ok(Object(members))
    }
}

/// A message, its metadata and the database therein, all read at once.
pub struct Envelope<'a>(Object<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Envelope<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Members { along: &["metadata", "database"] }.deserialize(deserializer).map(Self)
    }
}

impl<'a> Envelope<'a> {
    /// `None` when the text is no object, or what should be metadata or database is none.
    pub fn parse(text: &'a str) -> Option<Object<'a>> {
        serde_json::from_str::<Self>(text).ok().map(|envelope| envelope.0)
    }

    /// The object and its text, which is part of `body`. `None` where an object is empty, or its first key is
    /// written with escapes.
    fn within(self, body: &'a str) -> Option<(&'a str, Object<'a>)> {
        let Cow::Borrowed(key) = &self.0.0.first()?.0 else { return None };
        let start = body[..offset(body, key)].rfind('{')?;
        Some((&body[start..self.0.end(body)?], self.0))
    }
}

/// Calls `take` with each element of `{"data":[…]}`. `None`: the body is something else, has other members, or one
/// of its elements is no object or hides where it stands.
pub fn batch_of_envelopes<'a, T>(body: &'a str, take: impl FnMut(&'a str, Object<'a>) -> T) -> Option<Vec<T>> {
    let mut deserializer = serde_json::Deserializer::from_str(body);
    let taken = deserializer.deserialize_map(Batch { body, take }).ok()?;
    deserializer.end().ok()?;
    Some(taken)
}

/// Visits the batch, and then the list in it.
struct Batch<'a, F> {
    body: &'a str,
    take: F,
}

impl<'a, T, F: FnMut(&'a str, Object<'a>) -> T> Visitor<'a> for Batch<'a, F> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a batch of objects")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<Vec<T>, M::Error> {
        let other = || M::Error::custom("another member");
        map.next_key::<&str>()?.filter(|key| *key == "data").ok_or_else(other)?;
        let taken = map.next_value_seed(self)?;
        map.next_key::<&str>()?.map_or(Ok(taken), |_| Err(other()))
    }

    fn visit_seq<S: SeqAccess<'a>>(mut self, mut elements: S) -> Result<Vec<T>, S::Error> {
        let mut taken = Vec::new();
        while let Some(envelope) = elements.next_element::<Envelope>()? {
            let (text, object) = envelope.within(self.body).ok_or_else(|| S::Error::custom("not within"))?;
            taken.push((self.take)(text, object));
        }
        Ok(taken)
    }
}

impl<'a, T, F: FnMut(&'a str, Object<'a>) -> T> DeserializeSeed<'a> for Batch<'a, F> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl Object<'_> {
    /// Where it ends in `body`.
    fn end(&self, body: &str) -> Option<usize> {
        let last = match &self.0.last()?.1 {
            Member::Text(text) => offset(body, text) + text.len(),
            Member::Object(object) => object.end(body)?,
        };
        Some(last + body[last..].find('}')? + 1)
    }
}

/// Where `part` stands in the text that it was taken from.
fn offset(body: &str, part: &str) -> usize {
    part.as_ptr().addr() - body.as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_counted_one_by_one() {
        for (text, over) in [
            ("[1,2,3]", false),
            ("[1,2,3,4]", true),
            (r#"{"a":[1,2,3],"b":[1,2,3]}"#, false),
            (r#"{"a":1,"b":2,"c":3}"#, true),
            (r#"[",,,,\\",",,\",,"]"#, false),
        ] {
            assert_eq!(has_container_over(text, 3, 2), over, "{text}");
        }
    }
}
