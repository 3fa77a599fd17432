//! What JSON says that `jsonb` forgets, although it takes the text: members that stand twice in an object, the sign of
//! zero.

use super::object::Text;
use std::borrow::Cow;

/// Of valid JSON.
pub fn jsonb_forgets(json: &str) -> bool {
    let bytes = json.as_bytes();
    // of each object that is open its keys; none of an array
    let mut open: Vec<Option<Vec<Cow<str>>>> = Vec::new();
    let (mut at, mut is_key) = (0, false);
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                if let (true, Some(Some(keys))) = (is_key, open.last_mut()) {
                    match json.get(start..at).and_then(|key| serde_json::from_str(key).ok()) {
                        Some(Text(key)) => keys.push(key),
                        None => return true,
                    }
                    is_key = false;
                }
            }
            b'{' | b'[' => {
                is_key = *byte == b'{';
                open.push(is_key.then(Vec::new));
            }
            b',' => is_key = matches!(open.last(), Some(Some(_))),
            b'}' | b']' => {
                is_key = false;
                if open.pop().flatten().is_some_and(has_twice) {
                    return true;
                }
            }
            b'-' => {
                let mantissa = bytes[at..].iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'.'));
                if mantissa.into_iter().all(|byte| !matches!(byte, b'1'..=b'9')) {
                    return true;
                }
            }
            // an exponent has a sign of its own
            b'0'..=b'9' => {
                let is_of_number = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E');
                at += bytes[at..].iter().take_while(is_of_number).count();
            }
            _ => {}
        }
    }
    false
}

fn has_twice(mut keys: Vec<Cow<str>>) -> bool {
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

/// Of the string whose first character stands at `at`.
fn string_end(json: &[u8], mut at: usize) -> usize {
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_and_what_not() {
        for json in [
            "-0",
            "[1, -0.00]",
            "-0e5",
            r#"{"a":1,"b":{"c":1,"c":1}}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"a":[{"b":1}],"a":2}"#,
        ] {
            assert!(jsonb_forgets(json), "{json}");
        }
        for json in [
            "0",
            "-1",
            "-0.5",
            "1e-0",
            "-10",
            r#"{"a":"a","b":["a","-0"],"c":{"a":1}}"#,
            r#"[{"a":1},{"a":1}]"#,
            r#""-0""#,
            "{}",
        ] {
            assert!(!jsonb_forgets(json), "{json}");
        }
    }
}
