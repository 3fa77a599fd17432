//! Which JSON `jsonb` can hold (PostgreSQL source, `jsonapi.c`, `jsonb_util.c`, `numeric.c`).

/// `jsonb` holds at most 256 MB of elements (PostgreSQL source, `jsonb.h`, `JENTRY_OFFLENMASK`).
pub const LONGEST_IMAGE: usize = 0x0FFF_FFFF;
/// PostgreSQL's parser recurses, up to `max_stack_depth`: several times as deep under its default.
pub(super) const DEEPEST: usize = 1_000;
/// At most so much does an element take beside its text. It also bounds how many elements there are.
const ELEMENT: usize = 16;
/// Decimal digits of a `numeric` before and after the point.
pub(super) const MOST_WHOLE: i64 = 131_072;
pub(super) const MOST_FRACTION: i64 = 16_383;

/// Does `jsonb` take this valid JSON? Never wrongly yes.
pub fn jsonb_takes(json: &str) -> bool {
    let bytes = json.as_bytes();
    // at least what it takes as jsonb, and as text again
    let (mut size, mut depth, mut at) = (json.len(), 0, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => match string_end(bytes, at) {
                Some(end) => at = end,
                None => return false,
            },
            b'[' | b'{' => {
                depth += 1;
                if depth > DEEPEST {
                    return false;
                }
                size += ELEMENT;
            }
            b']' | b'}' => depth -= 1,
            b',' | b':' => size += ELEMENT,
            b'-' | b'0'..=b'9' => {
                let start = at - 1;
                let is_of_number = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E');
                at = start + bytes[start..].iter().take_while(is_of_number).count();
                match numeric_digits(&json[start..at]) {
                    Some(digits) => size += digits,
                    None => return false,
                }
            }
            _ => {} // of a literal or white space
        }
    }
    size <= LONGEST_IMAGE
}

/// Would PostgreSQL's parser recurse too deep into this valid JSON?
pub fn is_too_deep(json: &str) -> bool {
    // most is too short for that
    json.len() > 2 * DEEPEST && {
        let (mut depth, mut is_string, mut is_escaped) = (0_usize, false, false);
        json.bytes().any(|byte| {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_string = !is_string,
                b'[' | b'{' if !is_string => depth += 1,
                b']' | b'}' if !is_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth > DEEPEST
        })
    }
}

/// Of the string whose first character stands at `at`. `None`: it holds `\u0000` or half a surrogate pair.
fn string_end(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += json.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += match utf16_unit(json, at) {
            None => 2, // another escape
            Some(0 | 0xDC00..=0xDFFF) => return None,
            Some(0xD800..=0xDBFF) => {
                utf16_unit(json, at + 6).filter(|low| matches!(low, 0xDC00..=0xDFFF))?;
                12
            }
            Some(_) => 6,
        }
    }
}

/// What is escaped as `\uXXXX`.
fn utf16_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// How many a number adds when its exponent is written out. `None`: it is beyond `numeric`.
fn numeric_digits(number: &str) -> Option<usize> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i64 = exponent.parse().ok().filter(|exponent: &i64| exponent.unsigned_abs() < 1 << 32)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches('-').len() as i64 + exponent;
    let fraction = fraction.len() as i64 - exponent;
    (whole <= MOST_WHOLE && fraction <= MOST_FRACTION).then_some(exponent.unsigned_abs() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jsonb_takes_and_what_not() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        for taken in [
            r#"{"a": "\\u0000", "b": "\ud83d\ude00 \" \u00e4", "c": [true, null, -1.50e-3, 1e400]}"#,
            "1e131071",
            "1e-16383",
            &nested(DEEPEST),
        ] {
            assert!(jsonb_takes(taken), "{taken}");
        }
        for refused in [
            r#""\u0000""#,
            r#"{"\u0000": 1}"#,
            r#""\\\u0000""#,
            r#""\ud83d""#,
            r#""\ud83d\n""#,
            r#""\ud83dx""#,
            r#""\ude00""#,
            r#""\ud83d\ud83d""#,
            "1e131072",
            "[1e-16384]",
            "1e99999999999999999999",
            "-10.0E+131071",
            &nested(DEEPEST + 1),
        ] {
            assert!(!jsonb_takes(refused), "{refused}");
        }
    }

    #[test]
    fn what_would_be_too_large_as_jsonb_or_as_text() {
        let list = |element: &str, count: usize| format!("[{}{element}]", format!("{element},").repeat(count - 1));
        assert!(jsonb_takes(&list("1", 1_000_000)));
        assert!(!jsonb_takes(&list("[1,1]", 1 << 23)));
        assert!(!jsonb_takes(&list("1e100000", 3_000)));
    }
}
