//! May an update have changed its row's key? A message names no key columns, so this compares values. What was changed
//! to something that stands in the key may be a column of it. Never wrongly no.

use super::record_key::RecordKey;
use crate::json::object::Object;

/// `old_values`: the changed columns, all of them in the row, with their old values; `new_values`: the row; `key`:
/// its key now.
pub fn may_change_key(old_values: &str, new_values: &str, key: &RecordKey) -> bool {
    let has_spellings = key.values().any(has_spellings);
    if has_spellings || old_values.contains('\\') || new_values.contains('\\') {
        return may_change_spelled_key(old_values, new_values, key, has_spellings);
    }
    // without an escape, a value stands in the row as it does in the key
    key.values().any(|part| new_values.match_indices(part).any(|(start, _)| is_of(old_values, new_values, start, part)))
}

/// Is what stands there the whole value of a column that `old_values` names?
fn is_of(old_values: &str, new_values: &str, start: usize, value: &str) -> bool {
    let (before, after) = (&new_values[..start], &new_values[start + value.len()..]);
    let before = match before.strip_suffix('"') {
        Some(before) if after.starts_with('"') => before,
        None if after.trim_start().starts_with([',', '}', ']']) => before,
        _ => return false,
    };
    let name = before.trim_end().strip_suffix(':').map(str::trim_end).filter(|name| name.ends_with('"'));
    let quoted = name.and_then(|name| name[..name.len() - 1].rfind('"').map(|open| &name[open..]));
    quoted.is_some_and(|quoted| old_values.contains(quoted))
}

fn may_change_spelled_key(old_values: &str, new_values: &str, key: &RecordKey, has_spellings: bool) -> bool {
    let Some(changed) = Object::parse(old_values) else { return false };
    changed.keys().any(|column| {
        let values = values_of(column, new_values);
        has_spellings || values.is_empty() || values.iter().any(|value| is_in(value, key))
    })
}

/// In a key, times, floating-point numbers and the like stand otherwise than in the row.
fn has_spellings(value: &str) -> bool {
    let is_integer = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let starts_as_number = value.trim_start_matches(['-', '+']).starts_with(|first: char| first.is_ascii_digit());
    matches!(value, "t" | "f" | "true" | "false" | "NaN" | "Infinity" | "-Infinity" | "inf" | "-inf")
        || value.contains([':', ' ', '{', '\\'])
        || starts_as_number && value.contains(['.', 'e', 'E']) && !value.split('-').all(is_hexadecimal)
        || value.is_empty()
        || is_integer(value) && value.len() > 1 && value.starts_with('0')
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whatever stands in `json` after the name; also in what is nested. Nothing where the name is written otherwise.
fn values_of<'j>(column: &str, json: &'j str) -> Vec<&'j str> {
    let name = serde_json::to_string(column).unwrap_or_default();
    let ends = json.match_indices(&name).map(|(start, name)| start + name.len());
    ends.filter_map(|end| Some(json[end..].trim_start().strip_prefix(':')?.trim_start())).collect()
}

fn is_in(value: &str, key: &RecordKey) -> bool {
    match value.strip_prefix('"') {
        Some(text) => {
            let text = &text[..text.find('"').unwrap_or(text.len())];
            text.contains('\\') || key.values().any(|part| part == text)
        }
        None => {
            let token = &value[..value.find([',', '}', ']', ' ', '\n', '\t', '\r']).unwrap_or(value.len())];
            key.values().any(|part| part == token)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn may(old_values: &str, new_values: &str, key: &str) -> bool {
        may_change_key(old_values, new_values, &RecordKey::parse(key).expect(key))
    }

    #[test]
    fn a_changed_key_is_seen() {
        assert!(may(r#"{"id":1}"#, r#"{"id":2,"v":"x"}"#, r#"["2"]"#));
        assert!(may(r#"{"id" : "a"}"#, r#"{"v":1, "id" : "b"}"#, r#"["b"]"#));
        assert!(may(r#"{"b":1}"#, r#"{"a":1,"b":2}"#, r#"["1","2"]"#));
        assert!(may(
            r#"{"at":"2024-05-01T10:00:00Z"}"#,
            r#"{"at":"2024-05-01T10:00:00.5Z"}"#,
            r#"["2024-05-01 10:00:00.5+00"]"#
        ));
        assert!(may(r#"{"on":false}"#, r#"{"on":true}"#, r#"["t"]"#));
        assert!(may(r#"{"x":1}"#, r#"{"x":1.0e20}"#, r#"["1e+20"]"#));
        assert!(may(r#"{"é":1}"#, r#"{"\u00e9":2}"#, r#"["2"]"#));
        assert!(may(r#"{"a\"b":1}"#, r#"{"c":{"a\"b":0},"a\"b":2}"#, r#"["2"]"#));
    }

    #[test]
    fn another_column_is_not_taken_for_the_key() {
        assert!(!may(
            r#"{"status":"paid","total":"1.50"}"#,
            r#"{"id":17,"status":"sent","total":"2.50"}"#,
            r#"["17"]"#
        ));
        assert!(!may(
            r#"{"v":1}"#,
            r#"{"id":"5a3c0e9a-51e1-4c0e-9a51-0d9f3a1c0001","v":2}"#,
            r#"["5a3c0e9a-51e1-4c0e-9a51-0d9f3a1c0001"]"#
        ));
        assert!(!may("{}", r#"{"id":17}"#, r#"["17"]"#));
    }

    proptest! {
        #[test]
        fn the_fast_way_says_no_only_where_the_other_does(
            columns in prop::collection::btree_map("[a-c]{1,2}", "[0-9a-c:, ]{1,3}", 1..5),
            place in 0_usize..5,
            part in "[0-9a-c]{1,2}",
            is_number: bool,
        ) {
            let value = |text: &String| match text.parse::<u32>() {
                Ok(number) if is_number => number.into(),
                _ => serde_json::Value::from(text.clone()),
            };
            let row: serde_json::Map<_, _> = columns.iter().map(|(name, text)| (name.clone(), value(text))).collect();
            let changed = columns.keys().nth(place % columns.len()).cloned().unwrap_or_default();
            let old = serde_json::json!({ changed: "was" }).to_string();
            let new = serde_json::Value::Object(row).to_string();
            let key = serde_json::to_string(&[&part]).expect("strings");
            let key = RecordKey::parse(&key).expect("a key");
            prop_assert!(!may_change_spelled_key(&old, &new, &key, false) || may_change_key(&old, &new, &key));
        }

        #[test]
        fn never_wrongly_no(
            columns in prop::collection::vec(("[a-z\"\\\\é]{1,4}", "[0-9a-z \"\\\\:.é-]{0,6}"), 1..6),
            place in 0_usize..6,
        ) {
            let place = place % columns.len();
            let row: serde_json::Map<_, _> =
                columns.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
            let (name, _) = &columns[place];
            let key = serde_json::to_string(&[row[name].as_str()]).expect("strings");
            let old = serde_json::json!({ name.clone(): "was" }).to_string();
            prop_assert!(may(&old, &serde_json::Value::Object(row).to_string(), &key));
        }
    }
}
