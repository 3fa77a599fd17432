//! The members of a `jsonb` object, read where they stand, and objects put together of them (PostgreSQL source,
//! `jsonb.h`, `numeric.c`). Of bytes that are no object nothing is read.

use super::jsonb::{
    Entries, HAS_OFFSET, IS_CONTAINER, IS_FALSE, IS_NULL, IS_NUMERIC, IS_STRING, IS_TRUE, LENGTH, OBJECT, pad,
};
use std::fmt::Write;

/// A value as it stands in `jsonb`.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Null,
    Boolean(bool),
    /// In the database's encoding.
    String(&'a [u8]),
    /// A `numeric` with its length.
    Number(&'a [u8]),
    /// An array or object.
    Container(&'a [u8]),
}

/// A key and its value.
pub type Member<'a> = (&'a [u8], Value<'a>);

/// The members of an object, in the order of [`super::jsonb::key_order`].
#[must_use]
pub fn members(object: &[u8]) -> Vec<Member<'_>> {
    read_members(object).unwrap_or_default()
}

fn read_members(object: &[u8]) -> Option<Vec<Member<'_>>> {
    let header = word(object, 0)?;
    if header & OBJECT == 0 {
        return None;
    }
    let count = (header & LENGTH) as usize;
    let mut values = Elements::new(object, 2 * count)?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        keys.push((values.next_bytes()?, Value::Null));
    }
    for member in &mut keys {
        member.1 = values.next_value()?;
    }
    Some(keys)
}

/// What stands in a container, one after the other.
struct Elements<'a> {
    bytes: &'a [u8],
    index: usize,
    start: usize,
    end: usize,
}

impl<'a> Elements<'a> {
    fn new(bytes: &'a [u8], count: usize) -> Option<Self> {
        let start = 4 + 4 * count;
        (start <= bytes.len()).then_some(Self { bytes, index: 0, start, end: start })
    }

    /// The next one's entry and bytes.
    fn next(&mut self) -> Option<(u32, &'a [u8])> {
        let entry = word(self.bytes, 4 + 4 * self.index)?;
        let length = (entry & LENGTH) as usize;
        let from = self.end;
        self.end = if entry & HAS_OFFSET == 0 { from + length } else { self.start + length };
        self.index += 1;
        let is_aligned = matches!(entry & KIND, IS_NUMERIC | IS_CONTAINER);
        let from = if is_aligned { from.next_multiple_of(4) } else { from };
        Some((entry & KIND, self.bytes.get(from..self.end)?))
    }

    fn next_bytes(&mut self) -> Option<&'a [u8]> {
        self.next().map(|(_, bytes)| bytes)
    }

    fn next_value(&mut self) -> Option<Value<'a>> {
        Some(match self.next()? {
            (IS_NULL, _) => Value::Null,
            (IS_FALSE, _) => Value::Boolean(false),
            (IS_TRUE, _) => Value::Boolean(true),
            (IS_NUMERIC, bytes) => Value::Number(bytes),
            (IS_CONTAINER, bytes) => Value::Container(bytes),
            (_, bytes) => Value::String(bytes),
        })
    }
}

const KIND: u32 = 0x7000_0000;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The object of these members, which are in order, each key once.
#[must_use]
pub fn object(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(members.iter().map(|(key, _)| key.len() + 24).sum());
    let mut entries = Entries::begin(&mut bytes, OBJECT, members.len(), 2 * members.len());
    for (key, _) in members {
        bytes.extend_from_slice(key);
        entries.add(&mut bytes, IS_STRING | key.len() as u32);
    }
    for (_, value) in members {
        push_value(&mut bytes, &mut entries, value);
    }
    bytes
}

/// Appends a value to the container of these entries.
pub(super) fn push_value(bytes: &mut Vec<u8>, entries: &mut Entries, value: &Value) {
    let start = bytes.len();
    let kind = match value {
        Value::Null => IS_NULL,
        Value::Boolean(false) => IS_FALSE,
        Value::Boolean(true) => IS_TRUE,
        Value::String(text) => {
            bytes.extend_from_slice(text);
            IS_STRING
        }
        Value::Number(aligned) | Value::Container(aligned) => {
            pad(bytes);
            bytes.extend_from_slice(aligned);
            if matches!(value, Value::Number(_)) { IS_NUMERIC } else { IS_CONTAINER }
        }
    };
    let length = (bytes.len() - start) as u32;
    entries.add(bytes, kind | length);
}

impl Value<'_> {
    /// Are they equal as `jsonb` compares them? 1.0 is 1.00.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Boolean(one), Self::Boolean(two)) => one == two,
            (Self::String(one), Self::String(two)) => one == two,
            (Self::Number(one), Self::Number(two)) => one == two || number(one) == number(two),
            (Self::Container(one), Self::Container(two)) => one == two || equal_containers(one, two),
            _ => false,
        }
    }

    /// As `->>` gives it; nothing for null.
    #[must_use]
    pub fn text(&self) -> Option<Vec<u8>> {
        match self {
            Self::Null => None,
            Self::String(text) => Some(text.to_vec()),
            _ => {
                let mut text = Vec::new();
                self.write(&mut text);
                Some(text)
            }
        }
    }

    /// As `jsonb_out` writes it.
    fn write(&self, text: &mut Vec<u8>) {
        match self {
            Self::Null => text.extend(b"null"),
            Self::Boolean(value) => text.extend(value.to_string().as_bytes()),
            Self::String(value) => write_string(value, text),
            Self::Number(value) => text.extend(number(value).text().as_bytes()),
            Self::Container(bytes) => write_container(bytes, text),
        }
    }
}

pub(super) fn elements(container: &[u8]) -> Vec<Value<'_>> {
    let count = word(container, 0).unwrap_or(0) & LENGTH;
    let Some(mut elements) = Elements::new(container, count as usize) else { return Vec::new() };
    (0..count).map_while(|_| elements.next_value()).collect()
}

fn is_object(container: &[u8]) -> bool {
    word(container, 0).is_some_and(|header| header & OBJECT != 0)
}

fn equal_containers(one: &[u8], two: &[u8]) -> bool {
    if is_object(one) != is_object(two) {
        return false;
    }
    if is_object(one) {
        let (one, two) = (members(one), members(two));
        return one.len() == two.len() && one.iter().zip(&two).all(|(a, b)| a.0 == b.0 && a.1.equals(&b.1));
    }
    let (one, two) = (elements(one), elements(two));
    one.len() == two.len() && one.iter().zip(&two).all(|(a, b)| a.equals(b))
}

fn write_container(container: &[u8], text: &mut Vec<u8>) {
    if is_object(container) {
        text.push(b'{');
        for (index, (key, value)) in members(container).iter().enumerate() {
            text.extend(if index == 0 { b"".as_slice() } else { b", " });
            write_string(key, text);
            text.extend(b": ");
            value.write(text);
        }
        text.push(b'}');
    } else {
        text.push(b'[');
        for (index, value) in elements(container).iter().enumerate() {
            text.extend(if index == 0 { b"".as_slice() } else { b", " });
            value.write(text);
        }
        text.push(b']');
    }
}

/// A JSON string, escaped as `escape_json` does it.
pub fn write_string(value: &[u8], text: &mut Vec<u8>) {
    text.push(b'"');
    for byte in value {
        match byte {
            0x08 => text.extend(b"\\b"),
            0x0c => text.extend(b"\\f"),
            b'\n' => text.extend(b"\\n"),
            b'\r' => text.extend(b"\\r"),
            b'\t' => text.extend(b"\\t"),
            b'"' => text.extend(b"\\\""),
            b'\\' => text.extend(b"\\\\"),
            0..0x20 => text.extend(format!("\\u{byte:04x}").as_bytes()),
            _ => text.push(*byte),
        }
    }
    text.push(b'"');
}

/// A `numeric`, taken apart. Equal ones differ at most in how many digits are shown after the point.
struct Number {
    is_negative: bool,
    weight: i32,
    /// Base 10,000, without zeros at the ends.
    groups: Vec<u16>,
    shown: usize,
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.groups == other.groups
            && (self.groups.is_empty() || (self.is_negative, self.weight) == (other.is_negative, other.weight))
    }
}

fn number(numeric: &[u8]) -> Number {
    let halves: Vec<u16> =
        numeric.get(4..).unwrap_or_default().chunks_exact(2).map(|two| u16::from_ne_bytes([two[0], two[1]])).collect();
    let header = halves.first().copied().unwrap_or(0x8000);
    if header & 0xC000 == 0x8000 {
        let low = i32::from(header & 0x3F);
        return Number {
            is_negative: header & 0x2000 != 0,
            weight: if header & 0x40 == 0 { low } else { low - 0x40 },
            groups: halves.get(1..).unwrap_or_default().to_vec(),
            shown: usize::from(header >> 7 & 0x3F),
        };
    }
    Number {
        is_negative: header & 0xC000 == 0x4000,
        weight: halves.get(1).map_or(0, |weight| i32::from(*weight as i16)),
        groups: halves.get(2..).unwrap_or_default().to_vec(),
        shown: usize::from(header & 0x3FFF),
    }
}

impl Number {
    fn text(&self) -> String {
        let group = |at: i32| usize::try_from(at).ok().and_then(|at| self.groups.get(at)).copied().unwrap_or(0);
        let mut text = String::from(if self.is_negative { "-" } else { "" });
        if self.weight < 0 {
            text.push('0');
        }
        for at in 0..=self.weight {
            let _ = if at == 0 { write!(text, "{}", group(0)) } else { write!(text, "{:04}", group(at)) };
        }
        if self.shown > 0 {
            text.push('.');
            let end = text.len() + self.shown;
            let mut at = self.weight + 1;
            while text.len() < end {
                let _ = write!(text, "{:04}", group(at));
                at += 1;
            }
            text.truncate(end);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::jsonb::jsonb;
    use super::*;

    fn value(json: &str) -> Vec<u8> {
        jsonb(&format!("{{\"v\":{json}}}")).expect("JSON")
    }

    fn text(json: &str) -> Option<String> {
        members(&value(json))[0].1.text().map(|text| String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn members_are_read_and_written_as_they_stood() {
        let many: Vec<String> = (0..100).map(|n| format!("\"c{n}\":[{n},\"x\",{{\"a\":{n}.50}}]")).collect();
        for json in [
            "{}",
            r#"{"a":1}"#,
            r#"{"a":1,"bb":"x","c":null,"d":true,"e":false,"f":[1,2,[3]],"g":{"h":1.50},"i":-0.001}"#,
            &format!("{{{}}}", many.join(",")),
        ] {
            let bytes = jsonb(json).expect("JSON");
            assert_eq!(object(&members(&bytes)), bytes, "{json}");
        }
        assert!(members(b"").is_empty() && members(&[0xFF; 7]).is_empty());
    }

    #[test]
    fn values_as_text() {
        for number in ["0", "1", "-1", "10000", "123456789.000100", "0.5", "0.00005", "100000000", "1.50", "-0.10"] {
            assert_eq!(text(number).as_deref(), Some(number));
        }
        assert_eq!(text("null"), None);
        assert_eq!(text("true").as_deref(), Some("true"));
        assert_eq!(text(r#""a\"b""#).as_deref(), Some("a\"b"));
        let nested = r#"{"a": [1, "x\ny", null], "b": {"c": true}}"#;
        assert_eq!(text(nested).as_deref(), Some(nested));
    }

    #[test]
    fn values_are_compared_as_jsonb_does() {
        for (one, two, equal) in [
            ("1.0", "1.00", true),
            ("1", "1.000", true),
            ("0", "0.00", true),
            ("1", "-1", false),
            ("1", "10000", false),
            ("1", "\"1\"", false),
            ("[1,{\"a\":2.0}]", "[1.0,{\"a\":2}]", true),
            ("[1]", "[1,2]", false),
            ("{\"a\":1}", "{\"b\":1}", false),
            ("[]", "{}", false),
            ("null", "null", true),
        ] {
            let (one, two) = (value(one), value(two));
            assert_eq!(members(&one)[0].1.equals(&members(&two)[0].1), equal);
        }
    }
}
