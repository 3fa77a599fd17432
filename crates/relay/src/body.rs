//! Bytes of a source as text that PostgreSQL can take.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What is no UTF-8, or holds a zero byte, is no JSON either. It becomes an object that holds it as base64, so that the
/// database keeps it among its rejects.
pub fn text(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text,
        Ok(text) => in_base64(text.as_bytes()),
        Err(error) => in_base64(error.as_bytes()),
    }
}

fn in_base64(bytes: &[u8]) -> String {
    format!(r#"{{"not_text_base64":"{}"}}"#, STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_as_it_is() {
        for body in ["", "{}", "ärger \u{feff}\u{1}", "no JSON"] {
            assert_eq!(text(body.as_bytes().to_vec()), body);
        }
    }

    #[test]
    fn what_is_no_text_is_kept_to_the_byte() {
        assert_eq!(text(vec![0xff, 0x00]), r#"{"not_text_base64":"/wA="}"#);
        assert_eq!(text(vec![b'a', 0]), r#"{"not_text_base64":"YQA="}"#);
    }
}
