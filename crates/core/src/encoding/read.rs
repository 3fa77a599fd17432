//! From a value as Sequin encodes it to the text that its type's input function reads.
//!
//! Every rule that is not PostgreSQL's is Sequin's (source, `lib/sequin/runtime/slot_processor`, `…/table_reader`,
//! `lib/sequin/postgres/value_caster`), which decodes changes and backfills differently.

use super::type_shape::TypeShape;
use super::{MOST_DIMENSIONS, time};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// `value` is valid JSON without surrounding space. `None` is NULL. What nothing is known about is passed as it
/// is: the input function decides.
pub fn input_text<'a>(value: &'a str, shape: &TypeShape) -> Option<Cow<'a, str>> {
    let text = match (value.as_bytes().first(), shape) {
        (Some(b'n'), _) => return None,
        (_, TypeShape::Json | TypeShape::Jsonb) => None,
        (Some(b'"'), _) => serde_json::from_str(value).ok().map(|Text(string)| of_string(string, value, shape)),
        (Some(b'['), TypeShape::Array { element, delimiter }) => array(value, element, *delimiter, 1).map(Cow::Owned),
        (Some(b'['), TypeShape::TsVector) if value == "[]" => Some("".into()),
        (Some(b'{'), TypeShape::Interval) => time::interval(value).map(Cow::Owned),
        (Some(b'{'), TypeShape::Hstore) => hstore(value).map(Cow::Owned),
        (Some(b'-' | b'0'..=b'9'), TypeShape::Timestamp) => time::from_unix_microseconds(value).map(Cow::Owned),
        (Some(b'-' | b'0'..=b'9'), TypeShape::TimestampTz) => {
            time::from_unix_microseconds(value).map(|time| Cow::Owned(time + "+00"))
        }
        _ => None,
    };
    Some(text.unwrap_or(Cow::Borrowed(value)))
}

/// The same of the text that stands beside an image: it is read as it is, but for an array that Sequin has written.
pub fn exact_text<'a>(text: &'a str, shape: &TypeShape) -> Cow<'a, str> {
    match shape {
        TypeShape::Array { element, delimiter } if text.starts_with('[') => {
            array(text, element, *delimiter, 1).map_or(Cow::Borrowed(text), Cow::Owned)
        }
        _ => Cow::Borrowed(text),
    }
}

fn of_string<'a>(string: Cow<'a, str>, value: &'a str, shape: &TypeShape) -> Cow<'a, str> {
    match shape {
        // a backfill sends the value itself
        TypeShape::JsonInString if serde_json::from_str::<IgnoredAny>(&string).is_err() => value.into(),
        TypeShape::Date | TypeShape::Timestamp | TypeShape::TimestampTz => time::date_or_timestamp(string),
        TypeShape::TimeTz => time::with_offset(string),
        TypeShape::DateRange => date_range(string),
        TypeShape::Bytea if !is_bytea_text(&string) => hex(string.as_bytes()).into(),
        _ => string,
    }
}

/// An array literal (PostgreSQL documentation, "Array Input and Output Syntax").
fn array(value: &str, element: &TypeShape, delimiter: char, dimension: usize) -> Option<String> {
    if dimension > MOST_DIMENSIONS {
        return None;
    }
    let elements: Vec<&RawValue> = serde_json::from_str(value).ok()?;
    if delimiter != ','
        && let Some(literal) = split_at_commas(&elements)
    {
        return Some(literal);
    }
    let mut literal = String::with_capacity(value.len() + 2);
    literal.push('{');
    for (index, raw) in elements.iter().map(|raw| raw.get()).enumerate() {
        if index > 0 {
            literal.push(delimiter);
        }
        let is_inner_dimension = raw.starts_with('[')
            && match element {
                TypeShape::Json | TypeShape::Jsonb | TypeShape::JsonInString | TypeShape::Array { .. } => false,
                TypeShape::TsVector => raw != "[]",
                _ => true,
            };
        if is_inner_dimension {
            literal.push_str(&array(raw, element, delimiter, dimension + 1)?);
        } else {
            match input_text(raw, element) {
                None => literal.push_str("NULL"),
                Some(text) => quote(&mut literal, &text),
            }
        }
    }
    literal.push('}');
    Some(literal)
}

/// Sequin splits box[] at its commas, though `;` delimits the elements; the pieces joined are the literal again.
fn split_at_commas(elements: &[&RawValue]) -> Option<String> {
    let pieces: Vec<_> = elements.iter().map(|raw| input_text(raw.get(), &TypeShape::Text)).collect();
    let unbalanced = |piece: &str| piece.matches('(').count() != piece.matches(')').count();
    pieces.iter().flatten().any(|piece| unbalanced(piece)).then(|| {
        format!("{{{}}}", pieces.iter().map(|piece| piece.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(","))
    })
}

fn quote(literal: &mut String, text: &str) {
    literal.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            literal.push('\\');
        }
        literal.push(character);
    }
    literal.push('"');
}

/// As `hstore_in` reads it (PostgreSQL documentation, "hstore External Representation").
fn hstore(value: &str) -> Option<String> {
    let members: BTreeMap<Cow<str>, &RawValue> = serde_json::from_str(value).ok()?;
    let mut literal = String::with_capacity(value.len());
    for (key, raw) in members {
        if !literal.is_empty() {
            literal.push(',');
        }
        quote(&mut literal, &key);
        literal.push_str("=>");
        match input_text(raw.get(), &TypeShape::Text) {
            None => literal.push_str("NULL"),
            Some(text) => quote(&mut literal, &text),
        }
    }
    Some(literal)
}

/// Backfills spell out what PostgreSQL leaves out, and write the bounds as they write dates.
fn date_range(text: Cow<str>) -> Cow<str> {
    let bounds = |text: &str| {
        let (open, rest) = text.split_at_checked(1)?;
        let (rest, close) = rest.split_at_checked(rest.len().checked_sub(1)?)?;
        let (lower, upper) = rest.split_once(',')?;
        if (lower, upper) == ("empty", "empty") {
            return Some("empty".to_owned());
        }
        let bound = |text| if text == "unbound" { "".into() } else { time::date_or_timestamp(Cow::Borrowed(text)) };
        Some(format!("{open}{},{}{close}", bound(lower), bound(upper)))
    };
    bounds(&text).map_or(text, Cow::Owned)
}

/// Is this what `bytea_out` writes, in either format? A backfill sends bytes that begin with `\x` as they are.
fn is_bytea_text(text: &str) -> bool {
    if let Some(digits) = text.strip_prefix("\\x") {
        return digits.len() % 2 == 0 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    }
    let mut parts = text.split('\\');
    parts.next();
    while let Some(after) = parts.next() {
        match after.as_bytes() {
            [b'0'..=b'3', b'0'..=b'7', b'0'..=b'7', ..] => {}
            [] if parts.next().is_some() => {}
            _ => return false,
        }
    }
    true
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn array_of(element: TypeShape) -> TypeShape {
        TypeShape::Array { element: Box::new(element), delimiter: ',' }
    }

    fn text(value: &str, shape: TypeShape) -> String {
        input_text(value, &shape).map_or("NULL".into(), Cow::into_owned)
    }

    #[test]
    fn tokens_are_kept_to_the_digit() {
        for token in ["true", "9223372036854775807", "1.10", "12345678901234567890123.456", "-0.0"] {
            assert_eq!(text(token, TypeShape::Text), token);
        }
        assert_eq!(text("null", TypeShape::Text), "NULL");
        assert_eq!(text("null", TypeShape::Json), "NULL");
        assert_eq!(text(r#""a\n\"b\" \u00e9""#, TypeShape::Text), "a\n\"b\" é");
        assert_eq!(text("[1, 2.5, 3]", TypeShape::Text), "[1, 2.5, 3]", "as pgvector's input function reads it");
    }

    #[test]
    fn json_is_the_value_itself() {
        assert_eq!(text(r#""text""#, TypeShape::Json), r#""text""#);
        assert_eq!(text(r#"{"a": 1.10}"#, TypeShape::Jsonb), r#"{"a": 1.10}"#);
        assert_eq!(text(r#""{\"a\": 1}""#, TypeShape::JsonInString), r#"{"a": 1}"#);
        assert_eq!(text(r#""plain""#, TypeShape::JsonInString), r#""plain""#);
        assert_eq!(text(r#"{"a": 1}"#, TypeShape::JsonInString), r#"{"a": 1}"#);
    }

    #[test]
    fn a_text_beside_an_image_is_read_as_it_is() {
        for literal in [r#"{"null",NULL}"#, r#"[0:1]={"null",NULL}"#] {
            assert_eq!(exact_text(literal, &array_of(TypeShape::Jsonb)), literal);
        }
        assert_eq!(exact_text(r#"["\u0000"]"#, &array_of(TypeShape::Json)), r#"{"\"\\u0000\""}"#);
        assert_eq!(exact_text("[1,  2]", &TypeShape::Json), "[1,  2]");
    }

    #[test]
    fn arrays_nest_and_hold_nulls() {
        assert_eq!(
            text(r#"[["a,b",null],["\"{}\\",""]]"#, array_of(TypeShape::Text)),
            r#"{{"a,b",NULL},{"\"{}\\",""}}"#
        );
        assert_eq!(text("[]", array_of(TypeShape::Text)), "{}");
        assert_eq!(
            text(r#"[{"a": [1]}, [2], null, "s"]"#, array_of(TypeShape::Json)),
            r#"{"{\"a\": [1]}","[2]",NULL,"\"s\""}"#
        );
        assert_eq!(
            text("[[1],[2]]", array_of(array_of(TypeShape::Text))),
            r#"{"{\"1\"}","{\"2\"}"}"#,
            "a domain over an array"
        );
        assert_eq!(text(r#""{1,2}""#, array_of(TypeShape::Text)), "{1,2}", "a type that Sequin does not know");
        assert_eq!(text(r#"[["a"],["b"]]"#, array_of(TypeShape::TsVector)), r#"{{"a"},{"b"}}"#);
        let deep = "[".repeat(50_000) + &"]".repeat(50_000);
        assert_eq!(text(&deep, array_of(TypeShape::Text)), deep, "more dimensions than PostgreSQL has: its own error");
    }

    #[test]
    fn boxes_split_at_the_wrong_place_are_joined() {
        let boxes = TypeShape::Array { element: Box::new(TypeShape::Text), delimiter: ';' };
        assert_eq!(text(r#"["(1","1)","(0","0);(3","3)","(2","2)"]"#, boxes.clone()), "{(1,1),(0,0);(3,3),(2,2)}");
        assert_eq!(text(r#"["(1,1),(0,0)",null]"#, boxes.clone()), r#"{"(1,1),(0,0)";NULL}"#);
        assert_eq!(text("[null]", boxes), "{NULL}");
    }

    #[test]
    fn hstore_as_an_object() {
        assert_eq!(text(r#"{"c d": "e\"f", "b": null}"#, TypeShape::Hstore), r#""b"=>NULL,"c d"=>"e\"f""#);
        assert_eq!(text("{}", TypeShape::Hstore), "");
        assert_eq!(text(r#""\"a\"=>\"1\"""#, TypeShape::Hstore), r#""a"=>"1""#);
    }

    #[test]
    fn bytea_in_either_format_or_raw() {
        for as_it_is in [r"\xdead", r"\x", r"a\\b\001", "plain"] {
            assert_eq!(of_string(as_it_is.into(), "", &TypeShape::Bytea), as_it_is);
        }
        assert_eq!(of_string(r"\x41-".into(), "", &TypeShape::Bytea), r"\x5c7834312d");
        assert_eq!(of_string(r"a\9".into(), "", &TypeShape::Bytea), r"\x615c39");
    }

    #[test]
    fn date_ranges_of_backfills() {
        assert_eq!(text(r#""[2024-01-01,unbound)""#, TypeShape::DateRange), "[2024-01-01,)");
        assert_eq!(text(r#""(empty,empty)""#, TypeShape::DateRange), "empty");
        assert_eq!(text(r#""[-0043-03-15,5881610-07-11)""#, TypeShape::DateRange), "[0044-03-15 BC,infinity)");
        for as_postgresql_writes in ["empty", "[2024-01-01,)", "(,)", r#"["0044-03-15 BC",2024-01-01)"#, ""] {
            assert_eq!(date_range(as_postgresql_writes.into()), as_postgresql_writes);
        }
    }

    /// What `array_in` makes of a one-dimensional literal in which every element is quoted.
    fn read_back(literal: &str) -> Vec<Option<String>> {
        let mut elements = Vec::new();
        let mut rest =
            literal.strip_prefix('{').and_then(|l| l.strip_suffix('}')).unwrap_or_default().chars().peekable();
        while let Some(character) = rest.next() {
            match character {
                ',' => {}
                'N' => {
                    elements.push(None);
                    rest.by_ref().nth(2);
                }
                _ => {
                    let mut element = String::new();
                    while let Some(character) = rest.next().filter(|c| *c != '"') {
                        element.push(if character == '\\' { rest.next().unwrap_or_default() } else { character });
                    }
                    elements.push(Some(element));
                }
            }
        }
        elements
    }

    proptest! {
        #[test]
        fn any_strings_survive_in_an_array(elements: Vec<Option<String>>) {
            let json = serde_json::to_string(&elements).unwrap_or_default();
            prop_assert_eq!(read_back(&text(&json, array_of(TypeShape::Text))), elements);
        }

        #[test]
        fn any_bytes_of_a_backfill_stay(text in "\\PC*") {
            let read = of_string(text.clone().into(), "", &TypeShape::Bytea);
            if !is_bytea_text(&text) {
                let bytes = (2..read.len()).step_by(2).map(|at| u8::from_str_radix(&read[at..at + 2], 16));
                prop_assert_eq!(bytes.collect::<Result<Vec<_>, _>>(), Ok(text.into_bytes()));
            } else {
                prop_assert_eq!(read, text);
            }
        }

        #[test]
        fn no_value_of_any_shape_is_a_panic(value in "[-\\[\\]{}\",:0-9a-z\\\\ ]*") {
            for shape in [TypeShape::Text, TypeShape::Json, TypeShape::JsonInString, TypeShape::Date,
                          TypeShape::DateRange, TypeShape::Timestamp, TypeShape::TimestampTz, TypeShape::TimeTz,
                          TypeShape::Interval, TypeShape::Bytea, TypeShape::TsVector, TypeShape::Hstore,
                          array_of(TypeShape::Interval)] {
                input_text(&value, &shape);
                input_text(&serde_json::to_string(&value).unwrap_or_default(), &shape);
            }
        }
    }
}
