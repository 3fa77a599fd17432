//! Masked members within a JSON value.

use super::how::{How, Masker};
use crate::json::object::Object;
use crate::json::push_string;
use serde_json::value::RawValue;

/// Arrays are passed through. Of what is nested deeper nothing is kept.
const DEEPEST: usize = 100;

/// Names that lead to a masked member from here, and what becomes of it.
pub(super) type Rule<'r> = (&'r [String], How, Masker);

/// The value with masks in the place of members. Where nobody can tell its members, null.
pub(super) fn masked_members(json: &str, rules: &[Rule]) -> String {
    let mut written = String::with_capacity(json.len());
    push(&mut written, json, rules, 0);
    written
}

fn push(written: &mut String, json: &str, rules: &[Rule], depth: usize) {
    match json.as_bytes().first() {
        Some(b'{') => match Object::parse(json) {
            Some(object) if depth < DEEPEST => push_object(written, &object, rules, depth),
            _ => written.push_str("null"),
        },
        Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(json) {
            Ok(elements) if depth < DEEPEST => {
                for (place, element) in elements.iter().enumerate() {
                    written.push(if place == 0 { '[' } else { ',' });
                    push(written, element.get(), rules, depth + 1);
                }
                written.push_str(if elements.is_empty() { "[]" } else { "]" });
            }
            _ => written.push_str("null"),
        },
        // what a string holds, such as JSON or a row of a composite type, nobody looks into
        Some(b'"') => written.push_str("null"),
        _ => written.push_str(json),
    }
}

fn push_object(written: &mut String, object: &Object, rules: &[Rule], depth: usize) {
    written.push('{');
    let start = written.len();
    for (name, value) in object.members() {
        let below: Vec<Rule> = rules
            .iter()
            .filter_map(|(path, how, masker)| {
                path.split_first().filter(|(first, _)| *first == name).map(|(_, rest)| (rest, *how, *masker))
            })
            .collect();
        let member = match below.iter().find(|(rest, ..)| rest.is_empty()) {
            Some((_, how, masker)) => how.masked(value, masker),
            None if below.is_empty() => Some(value.to_owned()),
            None => {
                let mut inner = String::new();
                push(&mut inner, value, &below, depth + 1);
                Some(inner)
            }
        };
        if let Some(member) = member {
            if written.len() > start {
                written.push(',');
            }
            push_string(written, name);
            written.push(':');
            written.push_str(&member);
        }
    }
    written.push('}');
}

#[cfg(test)]
mod tests {
    use super::super::how::MaskSecret;
    use super::*;

    fn omitted(json: &str, path: &[&str]) -> String {
        let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
        masked_members(json, &[(&path, How::Omit, Masker { secret: MaskSecret([1; 32]), was_masked: false })])
    }

    #[test]
    fn a_member_goes_wherever_its_path_leads() {
        assert_eq!(omitted(r#"{"a":1,"b":2}"#, &["a"]), r#"{"b":2}"#);
        assert_eq!(omitted(r#"{"a":{"b":1,"c":2},"b":3}"#, &["a", "b"]), r#"{"a":{"c":2},"b":3}"#);
        assert_eq!(omitted(r#"[{"a":1},[{"a":2,"b":[]}], 7]"#, &["a"]), r#"[{},[{"b":[]}],7]"#);
        assert_eq!(omitted(r#"{"a":1,"a":2,"\u0061":3}"#, &["a"]), "{}");
    }

    #[test]
    fn what_has_no_such_member_stays() {
        for json in ["null", "7", "true", "[]", "{}", r#"{"b":{"a":1}}"#] {
            assert_eq!(omitted(json, &["a"]), json);
        }
    }

    #[test]
    fn nothing_is_kept_where_members_cannot_be_told() {
        let deep = format!("{}{{\"a\":1}}{}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(!omitted(&deep, &["a"]).contains('1'));
        assert_eq!(omitted(r#"{"x":1,"\ud800":{"a":1}}"#, &["a"]), "null");
        for text in [r#"" {\"a\":1}""#, r#""(main,12)""#, "\"text\""] {
            assert_eq!(omitted(text, &["a"]), "null");
        }
        assert_eq!(omitted(r#"{"a":"text","b":"text"}"#, &["a", "b"]), r#"{"a":null,"b":"text"}"#);
    }
}
