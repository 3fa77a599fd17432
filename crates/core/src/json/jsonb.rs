//! JSON text, and members that are known one by one, as the bytes of PostgreSQL's `jsonb` (PostgreSQL source,
//! `jsonb.h`, `jsonb_util.c`, `numeric.c`). They are what `jsonb_in` makes of them, byte for byte, in a third of the
//! time. Whatever is unusual is left to `jsonb_in`.

use std::borrow::Cow;
use std::cmp::Ordering;

/// Deeper, and PostgreSQL looks after its stack.
const DEEPEST: usize = 64;
/// Larger, and an entry's length might not fit.
pub const LONGEST: usize = 1 << 24;

pub(super) const ARRAY: u32 = 0x4000_0000;
pub(super) const OBJECT: u32 = 0x2000_0000;
/// Each entry of so many holds where it ends, the others how long they are.
const STRIDE: usize = 32;
pub(super) const HAS_OFFSET: u32 = 0x8000_0000;
pub(super) const LENGTH: u32 = 0x0FFF_FFFF;
pub(super) const IS_STRING: u32 = 0;
pub(super) const IS_NUMERIC: u32 = 0x1000_0000;
pub(super) const IS_FALSE: u32 = 0x2000_0000;
pub(super) const IS_TRUE: u32 = 0x3000_0000;
pub(super) const IS_NULL: u32 = 0x4000_0000;
pub(super) const IS_CONTAINER: u32 = 0x5000_0000;

enum Json<'a> {
    Null,
    Boolean(bool),
    Number(&'a str),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// The bytes that follow the length in a `jsonb` datum, of a valid JSON array or object. `None`: ask `jsonb_in`.
pub fn jsonb(text: &str) -> Option<Vec<u8>> {
    if cfg!(target_endian = "big") || text.len() > LONGEST {
        return None;
    }
    let value = Reader { text, at: 0 }.value(0)?;
    let mut bytes = Vec::with_capacity(text.len() * 2);
    match &value {
        Json::Array(_) | Json::Object(_) => write(&mut bytes, &value)?,
        _ => return None,
    };
    Some(bytes)
}

/// Reads what is known to be valid.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no white space, which is passed.
    fn token(&mut self) -> Option<u8> {
        loop {
            let byte = self.byte()?;
            self.at += 1;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
        }
    }

    fn value(&mut self, depth: usize) -> Option<Json<'a>> {
        if depth > DEEPEST {
            return None;
        }
        match self.token()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Json::String),
            b't' => self.passed(3, Json::Boolean(true)),
            b'f' => self.passed(4, Json::Boolean(false)),
            b'n' => self.passed(3, Json::Null),
            _ => {
                let start = self.at - 1;
                while self.byte().is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E')) {
                    self.at += 1;
                }
                Some(Json::Number(&self.text[start..self.at]))
            }
        }
    }

    fn passed(&mut self, bytes: usize, value: Json<'a>) -> Option<Json<'a>> {
        self.at += bytes;
        Some(value)
    }

    fn array(&mut self, depth: usize) -> Option<Json<'a>> {
        let mut elements = Vec::new();
        if self.token()? == b']' {
            return Some(Json::Array(elements));
        }
        self.at -= 1;
        loop {
            elements.push(self.value(depth + 1)?);
            if self.token()? == b']' {
                return Some(Json::Array(elements));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json<'a>> {
        let mut members = Vec::with_capacity(16);
        if self.token()? == b'}' {
            return Some(Json::Object(members));
        }
        loop {
            let key = self.string()?;
            self.token()?;
            members.push((key, self.value(depth + 1)?));
            if self.token()? == b'}' {
                break;
            }
            self.token()?;
        }
        // shorter keys first; of equal ones the last counts
        members.sort_by(|(one, _), (two, _)| key_order(one, two));
        if members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            if depth > 0 {
                return None; // which is forgotten must be noticed
            }
            members.reverse();
            members.dedup_by(|later, kept| later.0 == kept.0);
            members.reverse();
        }
        // a column's value that looks as if it was marked (`told`), which must be noticed
        let is_marked = depth == 1 && matches!(members.as_slice(), [(key, Json::Array(_))] if key.is_empty());
        (!is_marked).then_some(Json::Object(members))
    }

    /// Behind the opening quote.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        let plain = self.text.as_bytes()[start..].iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        self.at += plain + 1;
        let plain = &self.text[start..start + plain];
        if self.text.as_bytes()[self.at - 1] == b'"' {
            return Some(Cow::Borrowed(plain));
        }
        let mut string = plain.to_owned();
        loop {
            string.push(match self.byte()? {
                b'n' => '\n',
                b't' => '\t',
                b'r' => '\r',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                byte @ (b'"' | b'\\' | b'/') => byte.into(),
                b'u' => self.control()?,
                _ => return None,
            });
            let start = self.at + 1;
            let plain = self.text.as_bytes()[start..].iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            string.push_str(&self.text[start..start + plain]);
            self.at = start + plain + 1;
            if self.text.as_bytes()[self.at - 1] == b'"' {
                return Some(Cow::Owned(string));
            }
        }
    }

    /// At the `u` of an escape, goes to its last digit. Only characters of ASCII are the same in each encoding.
    fn control(&mut self) -> Option<char> {
        let digits = self.text.get(self.at + 1..self.at + 5)?;
        let code = u8::from_str_radix(digits.strip_prefix("00")?, 16).ok()?;
        self.at += 4;
        Some(char::from(code)).filter(|control| control.is_ascii() && *control != '\0')
    }
}

/// In which `jsonb` has the members of an object.
pub fn key_order(one: &str, two: &str) -> Ordering {
    key_order_of(one.as_bytes(), two.as_bytes())
}

/// The same of keys as bytes.
pub fn key_order_of(one: &[u8], two: &[u8]) -> Ordering {
    one.len().cmp(&two.len()).then_with(|| one.cmp(two))
}

/// An object whose members are known one by one.
pub struct ObjectWriter {
    bytes: Vec<u8>,
    entries: Entries,
}

impl ObjectWriter {
    /// The keys are in [`key_order`], each once; a value for each follows in that order. All in all they are no longer
    /// than [`LONGEST`]. `None`: this machine's numbers are not as ours.
    pub fn new<'k>(keys: impl Iterator<Item = &'k str> + Clone, room: usize) -> Option<Self> {
        if cfg!(target_endian = "big") {
            return None;
        }
        let mut bytes = Vec::with_capacity(room);
        let count = keys.clone().count();
        let mut entries = Entries::begin(&mut bytes, OBJECT, count, 2 * count);
        for key in keys {
            bytes.extend_from_slice(key.as_bytes());
            entries.add(&mut bytes, IS_STRING | key.len() as u32);
        }
        Some(Self { bytes, entries })
    }

    pub fn null(&mut self) {
        self.add(IS_NULL);
    }

    pub fn boolean(&mut self, value: bool) {
        self.add(if value { IS_TRUE } else { IS_FALSE });
    }

    /// A string of these parts.
    pub fn string(&mut self, parts: &[&str]) {
        let start = self.bytes.len();
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part.as_bytes()));
        self.add(IS_STRING | (self.bytes.len() - start) as u32);
    }

    /// A number as JSON writes it. `None`: ask `jsonb_in`.
    pub fn number(&mut self, token: &str) -> Option<()> {
        let entry = write(&mut self.bytes, &Json::Number(token))?;
        self.add(entry);
        Some(())
    }

    /// Any valid JSON. `None`: ask `jsonb_in`.
    pub fn json(&mut self, text: &str) -> Option<()> {
        let value = Reader { text, at: 0 }.value(1)?;
        let entry = write(&mut self.bytes, &value)?;
        self.add(entry);
        Some(())
    }

    fn add(&mut self, entry: u32) {
        self.entries.add(&mut self.bytes, entry);
    }

    /// The bytes that follow the length in the datum.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Appends a value and returns its entry. A container's and a number's length counts the padding before it.
fn write(bytes: &mut Vec<u8>, value: &Json) -> Option<u32> {
    let start = bytes.len();
    let kind = match value {
        Json::Null => return Some(IS_NULL),
        Json::Boolean(true) => return Some(IS_TRUE),
        Json::Boolean(false) => return Some(IS_FALSE),
        Json::String(text) => {
            bytes.extend_from_slice(text.as_bytes());
            IS_STRING
        }
        Json::Number(token) => {
            pad(bytes);
            write_numeric(bytes, token)?;
            IS_NUMERIC
        }
        Json::Array(elements) => {
            let mut entries = Entries::begin(bytes, ARRAY, elements.len(), elements.len());
            for element in elements {
                let entry = write(bytes, element)?;
                entries.add(bytes, entry);
            }
            IS_CONTAINER
        }
        Json::Object(members) => {
            let mut entries = Entries::begin(bytes, OBJECT, members.len(), 2 * members.len());
            for (key, _) in members {
                bytes.extend_from_slice(key.as_bytes());
                entries.add(bytes, IS_STRING | key.len() as u32);
            }
            for (_, value) in members {
                let entry = write(bytes, value)?;
                entries.add(bytes, entry);
            }
            IS_CONTAINER
        }
    };
    Some(kind | (bytes.len() - start) as u32)
}

pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The entries of a container, which stand before what they tell of.
pub(super) struct Entries {
    at: usize,
    count: usize,
    total: u32,
}

impl Entries {
    pub(super) fn begin(bytes: &mut Vec<u8>, kind: u32, count: usize, entries: usize) -> Self {
        pad(bytes);
        bytes.extend_from_slice(&(kind | count as u32).to_ne_bytes());
        let at = bytes.len();
        bytes.resize(at + 4 * entries, 0);
        Self { at, count: 0, total: 0 }
    }

    pub(super) fn add(&mut self, bytes: &mut [u8], mut entry: u32) {
        self.total += entry & LENGTH;
        if self.count.is_multiple_of(STRIDE) {
            entry = entry & !LENGTH | self.total | HAS_OFFSET;
        }
        let at = self.at + 4 * self.count;
        bytes[at..at + 4].copy_from_slice(&entry.to_ne_bytes());
        self.count += 1;
    }
}

/// In the short form, which holds up to 63 digits after the point. Base 10,000, without zeros at the ends.
fn write_numeric(bytes: &mut Vec<u8>, token: &str) -> Option<()> {
    const MOST_DIGITS: usize = 60;
    let (is_negative, digits) = token.strip_prefix('-').map_or((false, token), |digits| (true, digits));
    if digits.len() > MOST_DIGITS || digits.contains(['e', 'E']) {
        return None;
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let group = |digits: &[u8]| digits.iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
    let (mut groups, mut count) = ([0_u16; MOST_DIGITS], 0);
    let whole_groups = whole.as_bytes().rchunks(4).rev().map(group);
    let fraction_groups =
        fraction.as_bytes().chunks(4).map(|digits| group(digits) * 10_u16.pow(4 - digits.len() as u32));
    for group in whole_groups.chain(fraction_groups) {
        groups[count] = group;
        count += 1;
    }
    let groups = &groups[..count];
    let first = groups.iter().position(|group| *group != 0).unwrap_or(count);
    let last = groups.iter().rposition(|group| *group != 0).map_or(first, |last| last + 1);
    let groups = &groups[first..last];
    let (mut weight, mut sign) = (whole.len().div_ceil(4) as i32 - 1 - first as i32, is_negative);
    if groups.is_empty() {
        if is_negative {
            return None; // its sign is forgotten, which must be noticed
        }
        (weight, sign) = (0, false);
    }
    let negative_weight = if weight < 0 { 0x40 } else { 0 };
    let header =
        0x8000 | u16::from(sign) << 13 | (fraction.len() as u16) << 7 | negative_weight | (weight & 0x3F) as u16;
    let length = 4 + 2 + 2 * groups.len() as u32;
    bytes.extend_from_slice(&(length << 2).to_ne_bytes());
    bytes.extend_from_slice(&header.to_ne_bytes());
    for group in groups {
        bytes.extend_from_slice(&group.to_ne_bytes());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // that the bytes are PostgreSQL's own is tested on a server (tests/e2e/test_jsonb.py)

    #[test]
    fn what_is_unusual_is_left_to_postgresql() {
        let deep = "[".repeat(100) + &"]".repeat(100);
        let digits = format!("[{}]", "1".repeat(100));
        for text in ["1", "\"a\"", "null", r#"["\u00e4"]"#, "[1e2]", "[1E-2]", &deep, &digits] {
            assert!(jsonb(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_object_in_bytes() {
        let bytes = jsonb(r#" { "b" : true , "a" : 10.50 } "#).expect("an object");
        let words: Vec<u32> =
            bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().expect("4 bytes"))).collect();
        assert_eq!(words[..5], [OBJECT | 2, HAS_OFFSET | 1, 1, IS_NUMERIC | (2 + 10), IS_TRUE]);
        assert_eq!(bytes[20..22], *b"ab");
        // its own length, header (two digits after the point, weight 0), 10, 5000
        assert_eq!(words[6], 10 << 2);
        assert_eq!(words[7], 10 << 16 | 0x8000 | 2 << 7);
        assert_eq!(bytes[32..], 5000_u16.to_ne_bytes());
    }

    #[test]
    fn of_equal_keys_the_last_counts() {
        assert_eq!(jsonb(r#"{"a":1,"b":2,"a":3,"a":4}"#), jsonb(r#"{"b":2,"a":4}"#));
    }
}
