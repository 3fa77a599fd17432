//! How much of a value stays in its image. What does not stay is kept beside it, as text.

use super::literal::{Part, array_parts};
use super::type_shape::{TypeShape, is_json};
use crate::json::{is_canonical, is_marked, is_too_deep, jsonb_takes};
use crate::message::jsonb_holds;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// The image alone gives the value back.
    Whole,
    /// The image has what the text means; how it is written it has not, or whether it is null.
    Meaning,
    /// `jsonb` takes no such value: null stands in its place.
    Nothing,
}

/// Of a value's text, as PostgreSQL writes it.
pub fn held(text: &str, kind: &TypeShape) -> Held {
    match kind {
        TypeShape::Json | TypeShape::Jsonb if text == "null" || is_marked(text) => Held::Meaning,
        TypeShape::Jsonb if is_too_deep(text) || !jsonb_holds(text) => Held::Nothing,
        TypeShape::Json if is_canonical(text) || !is_json(text) => Held::Whole,
        TypeShape::Json if jsonb_takes(text) => Held::Meaning,
        TypeShape::Json => Held::Nothing,
        TypeShape::Array { element, delimiter } if element.holds_json() => array_held(text, element, *delimiter),
        _ => Held::Whole,
    }
}

/// Of an array that holds JSON. One of several dimensions would be an array of JSON that is an array.
fn array_held(text: &str, element: &TypeShape, delimiter: char) -> Held {
    let (mut least, mut dimension) = (Held::Whole, 0);
    let walked = array_parts(text, delimiter, &mut |part| match part {
        Part::Opens => {
            dimension += 1;
            if dimension > 1 {
                least = least.max(Held::Meaning);
            }
        }
        Part::Closes => dimension -= 1,
        Part::Next | Part::Null => {}
        Part::Element(text) => least = least.max(held(text, element)),
    });
    // otherwise the text itself is the image
    walked.map_or(Held::Whole, |()| least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array_of(element: TypeShape) -> TypeShape {
        TypeShape::Array { element: Box::new(element), delimiter: ',' }
    }

    #[test]
    fn what_an_image_holds() {
        let deep = "[".repeat(5_000) + &"]".repeat(5_000);
        for (text, kind, expected) in [
            (r#"{"a": [1.50, null], "bb": "\n"}"#, TypeShape::Json, Held::Whole),
            (r#"{"a": 1}"#, TypeShape::Jsonb, Held::Whole),
            (r#""null""#, TypeShape::Jsonb, Held::Whole),
            ("null", TypeShape::Json, Held::Meaning),
            ("null", TypeShape::Jsonb, Held::Meaning),
            ("null", TypeShape::Text, Held::Whole),
            (" null", TypeShape::Json, Held::Meaning),
            (r#"{"a":1}"#, TypeShape::Json, Held::Meaning),
            (r#"{"a": 1, "a": 2}"#, TypeShape::Json, Held::Meaning),
            ("1e5", TypeShape::Json, Held::Meaning),
            ("-0.0", TypeShape::Json, Held::Meaning),
            (r#"{"": ["1", 1]}"#, TypeShape::Jsonb, Held::Meaning),
            (r#"{"": ["1", 1], "a": 2}"#, TypeShape::Jsonb, Held::Whole),
            (r#"{"": [1, "1"]}"#, TypeShape::Jsonb, Held::Whole),
            (r#""\u0000""#, TypeShape::Json, Held::Nothing),
            (r#"["\ud800"]"#, TypeShape::Json, Held::Nothing),
            ("1e200000", TypeShape::Json, Held::Nothing),
            (&deep, TypeShape::Json, Held::Nothing),
            (&deep, TypeShape::Jsonb, Held::Nothing),
            (r#"{"{\"a\": 1}",NULL}"#, array_of(TypeShape::Jsonb), Held::Whole),
            (r#"{"null",NULL}"#, array_of(TypeShape::Jsonb), Held::Meaning),
            (r#"{{1},{"\"\\u0000\""}}"#, array_of(TypeShape::Json), Held::Nothing),
            (r#"{"{\"a\":1}"}"#, array_of(array_of(TypeShape::Json)), Held::Whole),
            ("{{1},{2}}", array_of(TypeShape::Jsonb), Held::Meaning),
            ("{{1},{2}}", array_of(TypeShape::Integer), Held::Whole),
            (r#"[0:1]={"null",NULL}"#, array_of(TypeShape::Jsonb), Held::Whole),
            (r#"{"null",NULL}"#, array_of(TypeShape::Text), Held::Whole),
        ] {
            assert_eq!(held(text, &kind), expected, "{text:.60} {kind:?}");
        }
    }
}
