//! What a relay hands over, split into messages. It is `{"data":[…]}`, a bare array, one message, or the reply of
//! Sequin Stream's `receive`. The elements of that wrap a message as `{"ack_id":…,"data":…}`.

use super::change::Change;
use super::raw_message::RawMessage;
use crate::Reject;
use crate::SqlState;
use crate::json::object::{Object, batch_of_envelopes};
use serde_json::value::RawValue;

/// A message as a change; or why not, of what was found in its wrapper if it has one.
pub type Parsed<'a> = Result<Change<'a>, (RawMessage<'a>, Reject)>;

/// `Err`: the body as a whole cannot be read. A byte order mark is ignored (RFC 8259, section 8.1).
pub fn changes(body: &str) -> Result<Vec<Parsed<'_>>, Reject> {
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    match at_once(body) {
        Some(changes) => Ok(changes),
        None => one_by_one(body),
    }
}

/// What Sequin sends: nothing but a list of objects. Each byte is passed once. `None`: anything else, which takes a
/// closer look.
fn at_once(body: &str) -> Option<Vec<Parsed<'_>>> {
    let mut position = 0;
    batch_of_envelopes(body, |text, envelope| {
        position += 1;
        let message = RawMessage { text, position };
        parsed(message, Change::of(message, envelope))
    })
}

fn one_by_one(body: &str) -> Result<Vec<Parsed<'_>>, Reject> {
    let messages = elements(body)?.into_iter().zip(1..).map(|(text, position)| RawMessage { text, position });
    Ok(messages.map(RawMessage::parsed).collect())
}

impl<'a> RawMessage<'a> {
    /// Without a wrapper such as Sequin Stream's, whose `ack_id` is another on each delivery.
    fn unwrapped(self) -> Self {
        Self { text: unwrapped(self.text), ..self }
    }

    pub fn parsed(self) -> Parsed<'a> {
        parsed(self, Change::parse(self))
    }
}

/// Most come without a wrapper: it is looked for in what is no change as it stands.
fn parsed<'a>(message: RawMessage<'a>, change: Result<Change<'a>, Reject>) -> Parsed<'a> {
    change.or_else(|reject| {
        let inner = message.unwrapped();
        if inner.text == message.text {
            Err((message, reject))
        } else {
            Change::parse(inner).map_err(|reject| (inner, reject))
        }
    })
}

fn elements(body: &str) -> Result<Vec<&str>, Reject> {
    let whole: &RawValue = serde_json::from_str(body).map_err(|error| {
        Reject::new(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("body is not valid JSON at line {}, column {}", error.line(), error.column()),
        )
    })?;
    let whole = whole.get();
    let elements = match Object::parse(whole) {
        Some(object) if !is_message(&object) => batch(&object.unambiguous()?),
        Some(_) => None,
        None => list(whole),
    };
    Ok(elements.unwrap_or_else(|| vec![whole]))
}

fn is_message(object: &Object) -> bool {
    object.has("action") && object.has("metadata")
}

fn list(text: &str) -> Option<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(elements.into_iter().map(RawValue::get).collect())
}

/// The elements of `{"data":[…]}`. Beside other keys, `data` may as well be a column of a row that came without its
/// envelope. Then it counts only if it holds messages.
fn batch<'a>(object: &Object<'a>) -> Option<Vec<&'a str>> {
    let elements = list(object.get("data")?)?;
    let holds_messages =
        || !elements.is_empty() && elements.iter().all(|e| Object::parse(unwrapped(e)).is_some_and(|o| is_message(&o)));
    (object.keys().eq(["data"]) || holds_messages()).then_some(elements)
}

fn unwrapped(element: &str) -> &str {
    let Some(wrapper) = Object::parse(element).filter(|object| !is_message(object)) else { return element };
    let Ok(wrapper) = wrapper.unambiguous() else { return element };
    let Some(wrapped) = wrapper.get("data") else { return element };
    match Object::parse(wrapped) {
        Some(inner) if is_message(&inner) || wrapper.has("ack_id") && wrapper.keys().count() == 2 => wrapped,
        _ => element,
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::original::Original;
    use super::*;

    fn texts(body: &str) -> Vec<&str> {
        fn text(parsed: Parsed<'_>) -> &str {
            match parsed {
                Ok(Change { original: Original::Message(message), .. }) | Err((message, _)) => message.text,
                Ok(_) => unreachable!("a body holds messages"),
            }
        }
        changes(body).map(|found| found.into_iter().map(text).collect()).unwrap_or_default()
    }

    #[test]
    fn every_shape_of_body() {
        assert_eq!(
            texts(r#"{"data":[{"action":1,"metadata":1},{"action":2,"metadata":2}]}"#),
            [r#"{"action":1,"metadata":1}"#, r#"{"action":2,"metadata":2}"#]
        );
        assert_eq!(texts(r#" [ {"action":1,"metadata":1} , 7 ] "#), [r#"{"action":1,"metadata":1}"#, "7"]);
        assert_eq!(texts(r#"{"action":1,"metadata":1}"#), [r#"{"action":1,"metadata":1}"#]);
        assert_eq!(
            texts(r#"{"data":[{"ack_id":"x","data":{"action":1,"metadata":1}}]}"#),
            [r#"{"action":1,"metadata":1}"#]
        );
        assert_eq!(texts(r#"{"data":{"action":1,"metadata":1},"attributes":{}}"#), [r#"{"action":1,"metadata":1}"#]);
        assert!(texts("[]").is_empty() && texts(r#"{"data":[]}"#).is_empty());
    }

    #[test]
    fn a_message_may_hold_a_key_called_data() {
        let message = r#"{"action":"insert","metadata":1,"data":[1,2]}"#;
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
            let refused = changes(body).map(|_| ()).expect_err(body);
            assert_eq!(refused.sqlstate, SqlState::INVALID_TEXT_REPRESENTATION);
        }
    }

    #[test]
    fn no_message_hides_behind_a_key_that_stands_twice() {
        let refused = changes(r#"{"data":[{"action":1,"metadata":1}],"data":[]}"#).map(|_| ()).expect_err("two lists");
        assert_eq!(refused.sqlstate, SqlState::DUPLICATE_JSON_OBJECT_KEY_VALUE);
        let twice = r#"{"ack_id":"x","data":{"action":1,"metadata":1},"data":{"action":2,"metadata":2}}"#;
        assert_eq!(texts(&format!("[{twice}]")), [twice]);
    }

    #[test]
    fn a_row_with_a_column_called_data_is_kept_whole() {
        for row in [
            r#"{"data":[1,2],"id":5}"#,
            r#"{"data":[],"id":5}"#,
            r#"{"data":{"action":"click"},"id":5}"#,
            r#"{"data":[{"action":"click"}],"id":5}"#,
        ] {
            assert_eq!(texts(row), [row]);
            assert_eq!(texts(&format!("[{row}]")), [row]);
        }
        assert_eq!(texts(r#"{"data":[{"action":1,"metadata":1}],"next":null}"#), [r#"{"action":1,"metadata":1}"#]);
        assert_eq!(texts(r#"[{"ack_id":"x","data":{"id":5}}]"#), [r#"{"id":5}"#]);
    }

    #[test]
    fn a_byte_order_mark_is_ignored() {
        assert_eq!(texts("\u{feff}[1]"), ["1"]);
    }

    /// Bodies of every kind, in which at_once takes what it can.
    pub fn taken_alike(body: &str) -> bool {
        match (changes(body), one_by_one(body.strip_prefix('\u{feff}').unwrap_or(body))) {
            (Ok(found), Ok(expected)) => format!("{found:?}") == format!("{expected:?}"),
            (found, expected) => {
                found.map(|_| ()).err().map(|reject| reject.reason)
                    == expected.map(|_| ()).err().map(|reject| reject.reason)
            }
        }
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(texts(&deep).len(), 1);
    }
}
