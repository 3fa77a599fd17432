//! Rows as history tells them: an image each, in which a value that `jsonb` does not hold whole is marked. It stands as
//! `{"": [its text, what of it the image has]}`. So whatever is made of images, the text goes with the value.
//!
//! A value that looks like that by itself is marked too.

use super::jsonb::{ARRAY, Entries, IS_STRING, OBJECT, key_order_of};
use super::members::{Member, Value, elements, members, object, push_value};
use super::object::Text;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Does a value's text, as `jsonb` writes it, look like that of one that is marked?
pub fn is_marked(text: &str) -> bool {
    marked_text(text).is_some()
}

/// The image, and in it the texts that stand beside it: a `jsonb` object of texts by column.
#[must_use]
pub fn told(image: &[u8], texts: &[u8]) -> Vec<u8> {
    let texts = members(texts);
    let mut marked: Vec<(usize, Vec<u8>)> = Vec::with_capacity(texts.len());
    let mut all = members(image);
    for (column, text) in &texts {
        if let (Ok(place), Value::String(text)) = (all.binary_search_by(|(key, _)| key_order_of(key, column)), text) {
            marked.push((place, mark(text, &all[place].1)));
        }
    }
    for (place, value) in &marked {
        all[*place].1 = Value::Container(value);
    }
    object(&all)
}

fn mark(text: &[u8], value: &Value) -> Vec<u8> {
    let mut pair = Vec::with_capacity(text.len() + 64);
    let mut entries = Entries::begin(&mut pair, ARRAY, 2, 2);
    for value in [&Value::String(text), value] {
        push_value(&mut pair, &mut entries, value);
    }
    let mut bytes = Vec::with_capacity(pair.len() + 16);
    let mut entries = Entries::begin(&mut bytes, OBJECT, 1, 2);
    entries.add(&mut bytes, IS_STRING);
    push_value(&mut bytes, &mut entries, &Value::Container(&pair));
    bytes
}

/// Of a value that is marked its text, and what of it the image has.
#[must_use]
pub fn marked<'a>(value: &Value<'a>) -> Option<(&'a [u8], Value<'a>)> {
    let Value::Container(container) = value else { return None };
    // an object with one member
    if container.get(..4)? != (OBJECT | 1).to_ne_bytes() {
        return None;
    }
    match members(container).as_slice() {
        [(b"", Value::Container(pair))] => match elements(pair).as_slice() {
            [Value::String(text), value] => Some((text, *value)),
            _ => None,
        },
        _ => None,
    }
}

/// The image of a row that is told, if some of its values are marked.
#[must_use]
pub fn plain(told: &[u8]) -> Option<Vec<u8>> {
    let mut all = members(told);
    let mut is_plain = true;
    for (_, value) in &mut all {
        if let Some((_, of_image)) = marked(value) {
            (*value, is_plain) = (of_image, false);
        }
    }
    (!is_plain).then(|| object(&all))
}

/// The texts of its values that are marked, by column.
#[must_use]
pub fn texts(told: &[u8]) -> Option<Vec<u8>> {
    let texts: Vec<Member> = members(told)
        .into_iter()
        .filter_map(|(column, value)| marked(&value).map(|(text, _)| (column, Value::String(text))))
        .collect();
    (!texts.is_empty()).then(|| object(&texts))
}

/// What differs between rows that are told (`crate::lives::changed`), for who reads it: texts stand beside the values.
#[must_use]
pub fn plain_diff(diff: &[u8]) -> Vec<u8> {
    let columns: Vec<(&[u8], Vec<u8>)> = members(diff)
        .into_iter()
        .filter_map(|(column, sides)| match sides {
            Value::Container(sides) => Some((column, plain_sides(sides))),
            _ => None,
        })
        .collect();
    object(&columns.iter().map(|(column, sides)| (*column, Value::Container(sides))).collect::<Vec<_>>())
}

fn plain_sides(sides: &[u8]) -> Vec<u8> {
    let shown = plain(sides).unwrap_or_else(|| sides.to_vec());
    let Some(texts) = texts(sides) else { return shown };
    let mut all = members(&shown);
    all.push((b"exact", Value::Container(&texts)));
    object(&all)
}

/// The same of a member's JSON, as `jsonb` writes it: its text, and what of it the image has.
pub fn marked_text(value: &str) -> Option<(Cow<'_, str>, &str)> {
    let pair = value.strip_prefix("{\"\":")?.strip_suffix('}')?;
    let [text, of_image]: [&RawValue; 2] = serde_json::from_str(pair).ok()?;
    let Text(text) = serde_json::from_str(text.get()).ok()?;
    Some((text, of_image.get()))
}

#[cfg(test)]
mod tests {
    use super::super::jsonb::jsonb;
    use super::*;

    fn object_of(json: &str) -> Vec<u8> {
        jsonb(json).expect(json)
    }

    #[test]
    fn what_is_marked_comes_out_again() {
        let image = object_of(r#"{"a":1,"b":null,"cc":{"x":[1.50]},"dd":"z"}"#);
        let texts_beside = object_of(r#"{"b":"null","cc":"{\"x\":[1.50]}","gone":"1"}"#);
        let row = told(&image, &texts_beside);
        let all = members(&row);
        assert!(marked(&all[0].1).is_none() && marked(&all[3].1).is_none());
        assert_eq!(marked(&all[2].1).map(|(text, _)| text), Some(br#"{"x":[1.50]}"#.as_slice()));
        let text = all[2].1.text().and_then(|text| String::from_utf8(text).ok()).expect("text");
        assert_eq!(marked_text(&text), Some((r#"{"x":[1.50]}"#.into(), r#"{"x": [1.50]}"#)));
        assert_eq!(plain(&row), Some(image.clone()));
        assert_eq!(texts(&row), Some(object_of(r#"{"b":"null","cc":"{\"x\":[1.50]}"}"#)));
        assert_eq!((plain(&image), texts(&image)), (None, None));
    }

    #[test]
    fn what_differs_has_the_texts_beside_it() {
        let side = |json: &str, text: &str| {
            let row = told(&object_of(&format!(r#"{{"v":{json}}}"#)), &object_of(&format!(r#"{{"v":"{text}"}}"#)));
            members(&row)[0].1.text().and_then(|text| String::from_utf8(text).ok()).expect("text")
        };
        let diff = format!(r#"{{"a":{{"new":1,"old":2}},"b":{{"new":{},"old":3}}}}"#, side("null", "null"));
        let shown = r#"{"a":{"new":1,"old":2},"b":{"new":null,"old":3,"exact":{"new":"null"}}}"#;
        assert_eq!(plain_diff(&object_of(&diff)), object_of(shown));
        assert_eq!(plain_diff(&object_of("{}")), object_of("{}"));
    }

    #[test]
    fn others_are_not_marked() {
        for value in ["[]", "{}", r#"{"a":["t",1]}"#, r#"["t",1]"#] {
            let row = object_of(&format!("{{\"v\":{value}}}"));
            assert!(marked(&members(&row)[0].1).is_none(), "{value}");
            assert!(marked_text(value).is_none(), "{value}");
        }
    }
}
