//! Is JSON written as `jsonb` writes it? Then its `jsonb` gives the text back (PostgreSQL source, `jsonb.c`, `json.c`,
//! `numeric.c`).

use super::holdable::{DEEPEST, MOST_FRACTION, MOST_WHOLE};
use super::jsonb::key_order_of;
use std::cmp::Ordering;

enum Open<'a> {
    Array,
    /// With its last key.
    Object(&'a [u8]),
}

/// Never wrongly yes.
pub fn is_canonical(json: &str) -> bool {
    Reader { rest: json.as_bytes() }.is_canonical().is_some()
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// `None`: it is not.
    fn is_canonical(&mut self) -> Option<()> {
        let mut open = Vec::new();
        loop {
            if !self.value(&mut open)? {
                continue;
            }
            loop {
                match open.last_mut() {
                    None => return self.rest.is_empty().then_some(()),
                    Some(Open::Array) if self.takes(b"]") => drop(open.pop()),
                    Some(Open::Object(_)) if self.takes(b"}") => drop(open.pop()),
                    Some(container) => {
                        self.pass(b", ")?;
                        if let Open::Object(last) = container {
                            let key = self.key()?;
                            if key_order_of(last, key) != Ordering::Less {
                                return None;
                            }
                            *last = key;
                        }
                        break;
                    }
                }
            }
        }
    }

    /// A value, or the beginning of one that holds others: whether it has ended.
    fn value(&mut self, open: &mut Vec<Open<'a>>) -> Option<bool> {
        match self.rest.first()? {
            b'"' => self.string()?,
            b'{' if self.takes(b"{}") => {}
            b'[' if self.takes(b"[]") => {}
            begins @ (b'{' | b'[') => {
                self.rest = &self.rest[1..];
                let container = if *begins == b'{' { Open::Object(self.key()?) } else { Open::Array };
                open.push(container);
                return (open.len() < DEEPEST).then_some(false);
            }
            b't' => self.pass(b"true")?,
            b'f' => self.pass(b"false")?,
            b'n' => self.pass(b"null")?,
            _ => self.number()?,
        }
        Some(true)
    }

    fn takes(&mut self, token: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn pass(&mut self, token: &[u8]) -> Option<()> {
        self.takes(token).then_some(())
    }

    /// With the colon. One that is written with escapes is unusual: then nothing is said.
    fn key(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.strip_prefix(b"\"")?;
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        self.rest = &rest[end..];
        self.pass(b"\": ")?;
        Some(&rest[..end])
    }

    fn string(&mut self) -> Option<()> {
        let mut rest = self.rest.strip_prefix(b"\"")?;
        loop {
            let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
            let (special, after) = rest[end..].split_first()?;
            rest = after;
            match special {
                b'"' => break,
                b'\\' => rest = escaped(after)?,
                _ => return None,
            }
        }
        self.rest = rest;
        Some(())
    }

    /// Digits as they are shown, without exponent; nothing is less than zero that is zero.
    fn number(&mut self) -> Option<()> {
        let is_negative = self.takes(b"-");
        let digits = |bytes: &[u8]| bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let whole = digits(self.rest);
        let has_zero_first = self.rest.first() == Some(&b'0');
        let point = self.rest.get(whole) == Some(&b'.');
        let fraction = if point { digits(&self.rest[whole + 1..]) } else { 0 };
        let is_number = (1..=MOST_WHOLE as usize).contains(&whole)
            && (whole == 1 || !has_zero_first)
            && point == (fraction > 0)
            && fraction <= MOST_FRACTION as usize;
        if !is_number {
            return None;
        }
        let (number, rest) = self.rest.split_at(whole + usize::from(point) + fraction);
        self.rest = rest;
        (!is_negative || number.iter().any(|byte| matches!(byte, b'1'..=b'9'))).then_some(())
    }
}

/// What follows an escape that `escape_json` writes.
fn escaped(after: &[u8]) -> Option<&[u8]> {
    match after.split_first()? {
        (b'b' | b'f' | b'n' | b'r' | b't' | b'"' | b'\\', rest) => Some(rest),
        (b'u', rest) => {
            let (digits, rest) = rest.split_at_checked(4)?;
            let is_control = matches!(
                digits,
                [b'0', b'0', b'0', b'0'..=b'7' | b'b' | b'e' | b'f']
                    | [b'0', b'0', b'1', b'0'..=b'9' | b'a'..=b'f']
            );
            (is_control && digits != b"0000").then_some(rest)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::jsonb::jsonb;
    use super::super::members::members;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_jsonb_writes_it_and_not() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for json in [
            "1",
            "-1.50",
            "0.0",
            r#""a\n\u0001\u001f é""#,
            "[]",
            "{}",
            r#"{"a": 1, "b": [true, null, "x"], "aa": {"": {}}}"#,
            &nested(DEEPEST),
        ] {
            assert!(is_canonical(json), "{json}");
        }
        for json in [
            "",
            " 1",
            "1 ",
            "-0",
            "-0.00",
            "1e2",
            "01",
            "1.",
            r#""\u0000""#,
            r#""\u000A""#,
            r#""\u0008""#,
            r#""\/""#,
            r#""\u00e4""#,
            "[1,2]",
            "[1 ]",
            r#"{"a":1}"#,
            r#"{"aa": 1, "b": 2}"#,
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": 1,  "b": 1}"#,
            "nul",
            &nested(DEEPEST + 1),
        ] {
            assert!(!is_canonical(json), "{json}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_text_is_what_jsonb_gives_back(json in r#"[-0-9.eE]{1,6}|[\[\]{}", :ab01\\nu]{0,12}"#) {
            if is_canonical(&json) {
                let whole = jsonb(&format!("{{\"v\":{json}}}"));
                let text = whole.map(|bytes| members(&bytes).first().and_then(|(_, value)| value.text()));
                let told = if json.starts_with('"') { serde_json::from_str(&json).ok() } else { Some(json.clone()) };
                prop_assert!(json == "null" || text.is_none_or(|text| text == told.map(String::into_bytes)), "{json}");
            }
        }
    }
}
