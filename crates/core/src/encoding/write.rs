//! A value's text, as PostgreSQL writes it, encoded as Sequin does. Where Sequin loses something (fractions of
//! times, intervals of 100 hours, numbers in json), nothing is lost here; `audit_cast` reads both.
//!
//! The text is written under DateStyle ISO, IntervalStyle iso_8601 and TimeZone UTC.

use super::literal::{Part, array_parts};
use super::type_shape::{TypeShape, is_json};
use crate::json::{ObjectWriter, push_string};

/// Appends the value to an object of `jsonb`, as [`push_json`] writes it. `None`: ask `jsonb_in`.
pub fn push_jsonb(object: &mut ObjectWriter, text: &str, kind: &TypeShape) -> Option<()> {
    match (kind, text) {
        (TypeShape::Boolean, "t" | "f") => object.boolean(text == "t"),
        (TypeShape::Integer | TypeShape::Float, _) if is_jsonb_number(text) => object.number(text.trim())?,
        (TypeShape::Json | TypeShape::Jsonb, _) if is_json(text) => object.json(text)?,
        (TypeShape::Timestamp | TypeShape::TimestampTz, _) => match timestamp(text, kind) {
            Some(parts) => object.string(&parts),
            None => push_jsonb_string(object, text)?,
        },
        (TypeShape::Interval | TypeShape::Array { .. }, _) => {
            let mut json = String::with_capacity(text.len() + 32);
            push_json(&mut json, text, kind);
            object.json(&json)?;
        }
        _ => push_jsonb_string(object, text)?,
    }
    Some(())
}

/// `jsonb` holds no zero byte.
fn push_jsonb_string(object: &mut ObjectWriter, text: &str) -> Option<()> {
    if text.as_bytes().contains(&0) {
        return None;
    }
    object.string(&[text]);
    Some(())
}

/// Appends the JSON text.
pub fn push_json(json: &mut String, text: &str, kind: &TypeShape) {
    let plain = match kind {
        TypeShape::Boolean => match text {
            "t" => Some("true"),
            "f" => Some("false"),
            _ => None,
        },
        TypeShape::Integer | TypeShape::Float => Some(text).filter(|text| is_jsonb_number(text)),
        TypeShape::Json | TypeShape::Jsonb => Some(text).filter(|text| is_json(text)).map(str::trim),
        TypeShape::Timestamp | TypeShape::TimestampTz => match timestamp(text, kind) {
            Some(parts) => {
                json.push('"');
                json.extend(parts);
                return json.push('"');
            }
            None => None,
        },
        TypeShape::Interval => match interval(text) {
            Some(interval) => return json.push_str(&interval),
            None => None,
        },
        TypeShape::Array { element, delimiter } => {
            let before = json.len();
            if push_array(json, text, element, *delimiter).is_some() {
                return;
            }
            json.truncate(before);
            None
        }
        _ => None,
    };
    match plain {
        Some(plain) => json.push_str(plain),
        None => push_string(json, text),
    }
}

/// `jsonb` has no negative zero.
fn is_jsonb_number(text: &str) -> bool {
    is_number(text) && text != "-0"
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    match digits {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => true,
        [b'0'..=b'9', ..] => is_json(text),
        _ => false,
    }
}

/// With T and six decimals, and Z for the offset of UTC. `None`: what has no place in that form (infinity, years
/// before Christ and of more than four digits) stays as PostgreSQL writes it.
fn timestamp<'t>(text: &'t str, kind: &TypeShape) -> Option<[&'t str; 7]> {
    let (offset, zone) = if *kind == TypeShape::TimestampTz { ("+00", "Z") } else { ("", "") };
    let (date, time) = text.strip_suffix(offset)?.split_once(' ')?;
    let is_date = date.len() == 10 && date.bytes().all(|b| matches!(b, b'0'..=b'9' | b'-'));
    let is_time = time.len() >= 8 && time.bytes().all(|b| matches!(b, b'0'..=b'9' | b':' | b'.'));
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    let zeros = "000000".get(fraction.len()..).unwrap_or("");
    (is_date && is_time).then_some([date, "T", seconds, ".", fraction, zeros, zone])
}

/// `P1Y2M3DT4H5M6.789S` (PostgreSQL documentation, "Interval Output"); each field has a sign of its own.
fn interval(text: &str) -> Option<String> {
    let (mut months, mut days, mut microseconds) = (0_i64, 0_i64, 0_i64);
    let mut rest = text.strip_prefix('P')?;
    let mut is_time = false;
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            (is_time, rest) = (true, time);
            continue;
        }
        let length = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = (&rest[..length], rest.as_bytes()[length]);
        rest = &rest[length + 1..];
        let whole = || number.parse::<i64>().ok();
        match (is_time, unit) {
            (false, b'Y') => months = months.checked_add(whole()?.checked_mul(12)?)?,
            (false, b'M') => months = months.checked_add(whole()?)?,
            (false, b'D') => days = whole()?,
            (true, b'H') => microseconds = microseconds.checked_add(whole()?.checked_mul(3_600_000_000)?)?,
            (true, b'M') => microseconds = microseconds.checked_add(whole()?.checked_mul(60_000_000)?)?,
            (true, b'S') => microseconds = microseconds.checked_add(seconds(number)?)?,
            _ => return None,
        }
    }
    Some(format!("{{\"months\":{months},\"days\":{days},\"microseconds\":{microseconds}}}"))
}

fn seconds(number: &str) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let microseconds: i64 = format!("{fraction:0<6}").parse().ok()?;
    let whole_microseconds = whole.parse::<i64>().ok()?.checked_mul(1_000_000)?;
    if number.starts_with('-') {
        whole_microseconds.checked_sub(microseconds)
    } else {
        whole_microseconds.checked_add(microseconds)
    }
}

/// An array literal as nested JSON arrays. `None`: it stays as it is, and what was appended is of no use.
fn push_array(json: &mut String, text: &str, element: &TypeShape, delimiter: char) -> Option<()> {
    array_parts(text, delimiter, &mut |part| match part {
        Part::Opens => json.push('['),
        Part::Closes => json.push(']'),
        Part::Next => json.push(','),
        Part::Null => json.push_str("null"),
        Part::Element(text) => push_json(json, text, element),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::string;
    use proptest::prelude::*;

    fn json(text: &str, kind: &TypeShape) -> String {
        let mut json = String::new();
        push_json(&mut json, text, kind);
        json
    }

    fn array_of(element: TypeShape) -> TypeShape {
        TypeShape::Array { element: Box::new(element), delimiter: ',' }
    }

    #[test]
    fn values() {
        for (text, kind, expected) in [
            ("t", TypeShape::Boolean, "true"),
            ("9223372036854775807", TypeShape::Integer, "9223372036854775807"),
            ("1e+300", TypeShape::Float, "1e+300"),
            ("-Infinity", TypeShape::Float, "\"-Infinity\""),
            ("-0", TypeShape::Float, "\"-0\""),
            ("{\"a\": 1.10}", TypeShape::Json, "{\"a\": 1.10}"),
            ("1.50", TypeShape::Text, "\"1.50\""),
            ("2024-01-02 03:04:05.5+00", TypeShape::TimestampTz, "\"2024-01-02T03:04:05.500000Z\""),
            ("2024-01-02 03:04:05", TypeShape::Timestamp, "\"2024-01-02T03:04:05.000000\""),
            ("0044-03-15 12:00:00 BC", TypeShape::Timestamp, "\"0044-03-15 12:00:00 BC\""),
            ("10000-01-01 00:00:00+00", TypeShape::TimestampTz, "\"10000-01-01 00:00:00+00\""),
            ("infinity", TypeShape::TimestampTz, "\"infinity\""),
            ("P1Y2M3DT4H5M6.789S", TypeShape::Interval, "{\"months\":14,\"days\":3,\"microseconds\":14706789000}"),
            (
                "P-1Y-2M3DT-4H-5M-6.789S",
                TypeShape::Interval,
                "{\"months\":-14,\"days\":3,\"microseconds\":-14706789000}",
            ),
            ("PT-0.5S", TypeShape::Interval, "{\"months\":0,\"days\":0,\"microseconds\":-500000}"),
            ("PT0S", TypeShape::Interval, "{\"months\":0,\"days\":0,\"microseconds\":0}"),
            ("PT100H", TypeShape::Interval, "{\"months\":0,\"days\":0,\"microseconds\":360000000000}"),
            ("infinity", TypeShape::Interval, "\"infinity\""),
            ("{1,NULL,3}", array_of(TypeShape::Integer), "[1,null,3]"),
            (
                "{{a,\"b,c\"},{\"NULL\",\"\\\"\\\\\"}}",
                array_of(TypeShape::Text),
                "[[\"a\",\"b,c\"],[\"NULL\",\"\\\"\\\\\"]]",
            ),
            ("{}", array_of(TypeShape::Text), "[]"),
            ("[0:1]={1,2}", array_of(TypeShape::Integer), "\"[0:1]={1,2}\""),
        ] {
            assert_eq!(json(text, &kind), expected, "{text} {kind:?}");
        }
        let boxes = TypeShape::Array { element: Box::new(TypeShape::Text), delimiter: ';' };
        assert_eq!(json("{(1,1),(0,0);(3,3),(2,2)}", &boxes), "[\"(1,1),(0,0)\",\"(3,3),(2,2)\"]");
    }

    proptest! {
        #[test]
        fn any_string_is_its_own(text: String) {
            prop_assert_eq!(serde_json::from_str::<String>(&string(&text)).expect("JSON"), text);
        }

        #[test]
        fn any_text_of_any_kind_is_json(text in "[-\\[\\]{}\",:PTYMDHS0-9.a-f\\\\ ]*") {
            for kind in [TypeShape::Text, TypeShape::Boolean, TypeShape::Integer, TypeShape::Float, TypeShape::Json,
                         TypeShape::Timestamp, TypeShape::TimestampTz, TypeShape::Interval,
                         array_of(TypeShape::Text), array_of(TypeShape::Interval)] {
                prop_assert!(is_json(&json(&text, &kind)), "{text} {kind:?}");
            }
        }
    }
}
