//! Which values of a row are too large to carry: as JSON the row would be more than `jsonb` can hold.

use crate::encoding::TypeShape;
use crate::message::{MOST_ELEMENTS, jsonb_holds};

/// Of one row, in bytes of JSON. `jsonb` holds 256 MiB; names of columns are not counted.
pub const MOST_CARRIED: usize = 255 << 20;
/// Nothing in a row of so much text can be too large.
pub const SURELY_CARRIED: usize = 8 << 20;

/// Places among `values` of those that are left out: what no `jsonb` holds by itself, then the largest, until the
/// others fit.
pub fn too_large(values: &[(&TypeShape, &str)]) -> Vec<usize> {
    let lengths: Vec<Option<usize>> = values.iter().map(|(kind, text)| json_length(text, kind)).collect();
    let mut left_out: Vec<usize> = (0..values.len()).filter(|index| lengths[*index].is_none()).collect();
    let mut sum: usize = lengths.iter().flatten().sum();
    let mut largest: Vec<(usize, usize)> =
        lengths.iter().enumerate().filter_map(|(index, length)| Some(((*length)?, index))).collect();
    largest.sort_unstable();
    while sum > MOST_CARRIED
        && let Some((length, index)) = largest.pop()
    {
        left_out.push(index);
        sum -= length;
    }
    left_out
}

/// At most so long is the value's JSON; `None`: too long, or with too many elements, for any row.
fn json_length(text: &str, kind: &TypeShape) -> Option<usize> {
    let as_string = || text.bytes().map(written_length).sum::<usize>() + 2;
    let (length, is_holdable) = match kind {
        TypeShape::Json | TypeShape::Jsonb => (text.len(), jsonb_holds(text)),
        TypeShape::Array { delimiter, .. } => {
            let elements = text.bytes().filter(|byte| char::from(*byte) == *delimiter).count();
            (as_string() + 2 * elements, elements < MOST_ELEMENTS as usize)
        }
        TypeShape::Text => (as_string(), true),
        _ => (as_string() + 64, true), // a time, an interval
    };
    Some(length).filter(|length| is_holdable && *length <= MOST_CARRIED)
}

/// Of a byte in a JSON string.
fn written_length(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::push_json;
    use proptest::prelude::*;

    fn array() -> TypeShape {
        TypeShape::Array { element: Box::new(TypeShape::Text), delimiter: ',' }
    }

    #[test]
    fn the_largest_are_left_out_until_the_others_fit() {
        let (large, larger) = ("x".repeat(100 << 20), "x".repeat(120 << 20));
        let texts = [large.as_str(), "small", &larger, &large];
        let values: Vec<(&TypeShape, &str)> = texts.iter().map(|text| (&TypeShape::Text, *text)).collect();
        assert_eq!(too_large(&values[..3]), [0; 0]);
        assert_eq!(too_large(&values), [2]);
    }

    #[test]
    fn what_is_written_longer_counts_as_it_is_written() {
        let control = "\u{1}".repeat(50 << 20);
        let elements = format!("{{{}1}}", "1,".repeat(1 << 24));
        let json = format!("[{}1]", "1,".repeat(1 << 24));
        let values = [
            (&TypeShape::Text, control.as_str()),
            (&array(), &elements),
            (&TypeShape::Json, &json),
            (&TypeShape::Text, &elements),
        ];
        assert_eq!(too_large(&values), [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn no_value_is_written_longer(text in "[\\u{0}-\\u{7f}é]{0,9}", array_text in "\\{[a\\u{1}\",\\\\]{0,9}\\}") {
            let length = |text: &str, kind: &TypeShape| {
                let mut json = String::new();
                push_json(&mut json, text, kind);
                json.len()
            };
            for kind in [TypeShape::Text, TypeShape::Integer, TypeShape::Timestamp, TypeShape::Interval] {
                prop_assert!(json_length(&text, &kind) >= Some(length(&text, &kind)), "{text:?} {kind:?}");
            }
            prop_assert!(json_length(&array_text, &array()) >= Some(length(&array_text, &array())), "{array_text:?}");
        }
    }
}
