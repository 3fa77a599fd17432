//! What a relay hands over, split into messages: `{"data":[…]}`, a bare array, one message, or
//! the reply of Sequin Stream's `receive`, whose elements wrap a message as `{"ack_id":…,"data":…}`.

use super::json::Object;
use super::reject::{Reject, SqlState};
use serde_json::value::RawValue;

/// One element of a body.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The message's own text, without a wrapper's.
    pub text: &'a str,
    /// Place in the batch, from 1.
    pub position: i32,
}

/// `Err`: the body as a whole cannot be read. A byte order mark is ignored (RFC 8259, section 8.1).
pub fn messages(body: &str) -> Result<Vec<Message<'_>>, Reject> {
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    let whole: &RawValue = serde_json::from_str(body).map_err(|error| {
        Reject::new(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("body is not valid JSON at line {}, column {}", error.line(), error.column()),
        )
    })?;
    let whole = whole.get();
    let list = match Object::parse(whole) {
        Some(object) if !is_message(&object) => object.unambiguous()?.get("data").filter(|data| data.starts_with('[')),
        Some(_) => None,
        None => Some(whole).filter(|text| text.starts_with('[')),
    };
    let elements = match list {
        Some(list) => serde_json::from_str::<Vec<&RawValue>>(list)
            .map_err(|_| Reject::new(SqlState::INVALID_TEXT_REPRESENTATION, "body is not valid JSON"))?
            .into_iter()
            .map(RawValue::get)
            .collect(),
        None => vec![whole],
    };
    Ok(elements.into_iter().zip(1..).map(|(text, position)| Message { text: unwrapped(text), position }).collect())
}

fn is_message(object: &Object) -> bool {
    ["action", "record", "metadata"].iter().any(|key| object.has(key))
}

fn unwrapped(element: &str) -> &str {
    match Object::parse(element) {
        Some(object) if !is_message(&object) => {
            let wrapped = object.unambiguous().ok().and_then(|object| object.get("data"));
            wrapped.filter(|data| data.starts_with('{')).unwrap_or(element)
        }
        _ => element,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str) -> Vec<&str> {
        messages(body).map(|found| found.iter().map(|m| m.text).collect()).unwrap_or_default()
    }

    #[test]
    fn every_shape_of_body() {
        assert_eq!(texts(r#"{"data":[{"action":1},{"action":2}]}"#), [r#"{"action":1}"#, r#"{"action":2}"#]);
        assert_eq!(texts(r#" [ {"action":1} , 7 ] "#), [r#"{"action":1}"#, "7"]);
        assert_eq!(texts(r#"{"action":1}"#), [r#"{"action":1}"#]);
        assert_eq!(texts(r#"{"data":[{"ack_id":"x","data":{"action":1}}]}"#), [r#"{"action":1}"#]);
        assert_eq!(texts(r#"{"data":{"action":1},"attributes":{}}"#), [r#"{"action":1}"#]);
        assert!(texts("[]").is_empty() && texts(r#"{"data":[]}"#).is_empty());
    }

    #[test]
    fn a_message_may_hold_a_key_called_data() {
        let message = r#"{"action":"insert","data":[1,2]}"#;
        assert_eq!(texts(message), [message]);
    }

    #[test]
    fn what_is_no_message_still_counts_as_one() {
        for body in ["7", "null", "\"x\"", "{}", r#"{"data":5}"#] {
            assert_eq!(texts(body).len(), 1, "{body}");
        }
    }

    #[test]
    fn no_json_is_refused_as_a_whole() {
        for body in ["", "{", "[1,]", "{\"data\":[}", "[] []", "\u{feff}\u{feff}[]"] {
            let refused = messages(body).map(|_| ()).expect_err(body);
            assert_eq!(refused.sqlstate, SqlState::INVALID_TEXT_REPRESENTATION);
        }
    }

    #[test]
    fn no_message_hides_behind_a_key_that_stands_twice() {
        let refused = messages(r#"{"data":[{"action":1}],"data":[]}"#).map(|_| ()).expect_err("two lists");
        assert_eq!(refused.sqlstate, SqlState::DUPLICATE_JSON_OBJECT_KEY_VALUE);
        let twice = r#"{"ack_id":"x","data":{"action":1},"data":{"action":2}}"#;
        assert_eq!(texts(&format!("[{twice}]")), [twice]);
    }

    #[test]
    fn a_byte_order_mark_is_ignored() {
        assert_eq!(texts("\u{feff}[1]"), ["1"]);
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(texts(&deep).len(), 1);
    }
}
