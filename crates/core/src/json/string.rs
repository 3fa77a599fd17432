//! Strings as JSON writes them.

use std::fmt::Write;

/// A JSON string (RFC 8259, section 7).
pub fn push_string(json: &mut String, text: &str) {
    json.push('"');
    let mut rest = text;
    while let Some(at) = first_special(rest.as_bytes()) {
        let (plain, special) = rest.split_at(at);
        json.push_str(plain);
        match special.as_bytes()[0] {
            b'\n' => json.push_str("\\n"),
            b'\t' => json.push_str("\\t"),
            byte @ (b'"' | b'\\') => json.extend(['\\', char::from(byte)]),
            control => drop(write!(json, "\\u{control:04x}")),
        }
        rest = &special[1..];
    }
    json.push_str(rest);
    json.push('"');
}

/// Of what cannot stand in a JSON string as it is. Most is passed in steps that the processor takes at once.
fn first_special(text: &[u8]) -> Option<usize> {
    const STEP: usize = 16;
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let is_plain = |step: &&[u8]| !step.iter().fold(false, |any, byte| any | is_special(byte));
    let passed = text.chunks_exact(STEP).take_while(is_plain).count() * STEP;
    text[passed..].iter().position(is_special).map(|at| passed + at)
}

pub fn string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    push_string(&mut json, text);
    json
}
