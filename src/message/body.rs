//! What a relay hands over, split into messages: `{"data":[…]}`, a bare array, one message, or
//! the reply of Sequin Stream's `receive`, whose elements wrap a message as `{"ack_id":…,"data":…}`.

use super::json::{Envelope, Object};
use super::reject::Reject;
use crate::sqlstate::SqlState;
use serde_json::value::RawValue;

/// One element of a body.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub text: &'a str,
    /// Place in the batch, from 1; where a call has several bodies, counted through all of them.
    pub position: i32,
}

impl<'a> Message<'a> {
    /// A message that was taken out of its batch before.
    pub fn alone(text: &'a str) -> Self {
        Self { text, position: 1 }
    }

    /// Without a wrapper such as Sequin Stream's, whose `ack_id` is another on each delivery.
    pub fn unwrapped(self) -> Self {
        Self { text: unwrapped(self.text), ..self }
    }
}

/// What Sequin sends: nothing but a list of objects. Anything else takes a closer look.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(borrow)]
    data: Vec<Envelope<'a>>,
}

/// A message, and its envelope if that was read along with the body.
pub type Received<'a> = (Message<'a>, Option<Object<'a>>);

/// `Err`: the body as a whole cannot be read. A byte order mark is ignored (RFC 8259, section 8.1).
pub fn messages(body: &str) -> Result<Vec<Received<'_>>, Reject> {
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    let elements = match batch_at_once(body) {
        Some(elements) => elements.into_iter().map(|(text, envelope)| (text, Some(envelope))).collect(),
        None => elements(body)?.into_iter().map(|text| (text, None)).collect::<Vec<_>>(),
    };
    Ok(elements
        .into_iter()
        .zip(1..)
        .map(|((text, envelope), position)| (Message { text, position }, envelope))
        .collect())
}

fn batch_at_once(body: &str) -> Option<Vec<(&str, Object<'_>)>> {
    // serde would take an array for the struct, too
    let batch: Batch = if body.starts_with('{') { serde_json::from_str(body).ok()? } else { return None };
    batch.data.into_iter().map(|envelope| envelope.within(body)).collect()
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

/// The elements of `{"data":[…]}`. Beside other keys, `data` may as well be a column of a row that came
/// without its envelope: then it counts only if it holds messages.
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
mod tests {
    use super::*;

    fn texts(body: &str) -> Vec<&str> {
        messages(body).map(|found| found.iter().map(|(m, _)| m.unwrapped().text).collect()).unwrap_or_default()
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
            let refused = messages(body).map(|_| ()).expect_err(body);
            assert_eq!(refused.sqlstate, SqlState::INVALID_TEXT_REPRESENTATION);
        }
    }

    #[test]
    fn no_message_hides_behind_a_key_that_stands_twice() {
        let refused = messages(r#"{"data":[{"action":1,"metadata":1}],"data":[]}"#).map(|_| ()).expect_err("two lists");
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

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(texts(&deep).len(), 1);
    }
}
