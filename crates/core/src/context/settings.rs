//! Annotations: those that a session's settings make, and what they lack.

use crate::json::object::Object;
use crate::json::{jsonb_takes, push_string};
use serde_json::value::RawValue;

/// A JSON object that `jsonb` takes.
pub fn is_object(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok_and(|json| json.get().starts_with('{') && jsonb_takes(json.get()))
}

/// As JSON, with metadata as it is. An empty text counts as absent, and `None` is all of them absent.
pub fn annotations_of_settings(
    username: Option<&str>,
    source: Option<&str>,
    request_id: Option<&str>,
    metadata: Option<&str>,
) -> Option<String> {
    let mut json = String::from("{");
    let begin = |json: &mut String, name: &str| {
        if json.len() > 1 {
            json.push_str(", ");
        }
        push_string(json, name);
        json.push_str(": ");
    };
    for (name, value) in [("username", username), ("source", source), ("request_id", request_id)] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            begin(&mut json, name);
            push_string(&mut json, value);
        }
    }
    if let Some(metadata) = metadata.filter(|metadata| !metadata.is_empty()) {
        begin(&mut json, "metadata");
        json.push_str(metadata.trim());
    }
    json.push('}');
    (json.len() > 2).then_some(json)
}

/// The fields that annotations lack, or have null or empty.
pub fn missing<'f>(annotations: Option<&str>, fields: &'f [String]) -> Vec<&'f str> {
    let annotations = annotations.and_then(Object::parse).unwrap_or_default();
    let is_missing = |field: &&String| matches!(annotations.last(field), None | Some("\"\""));
    fields.iter().filter(is_missing).map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_annotates() {
        assert_eq!(annotations_of_settings(None, Some(""), None, Some("")), None);
        assert_eq!(
            annotations_of_settings(Some("ada \"1\""), None, Some("r1"), Some(" {\"why\": 1}")).as_deref(),
            Some(r#"{"username": "ada \"1\"", "request_id": "r1", "metadata": {"why": 1}}"#)
        );
    }

    #[test]
    fn of_objects_those_that_jsonb_takes() {
        assert!(is_object(" {\"why\": {}}\n"));
        for other in ["", "[]", "1", "{", "{\"a\": \"\\u0000\"}", "{} {}", "{\"a\": 1e999999}"] {
            assert!(!is_object(other), "{other}");
        }
    }

    #[test]
    fn what_is_null_or_empty_is_missing() {
        let fields = ["username", "source"].map(str::to_owned);
        assert_eq!(missing(None, &fields), ["username", "source"]);
        assert_eq!(missing(Some(r#"{"username": "ada", "source": ""}"#), &fields), ["source"]);
        assert_eq!(missing(Some(r#"{"source": 7, "username": null}"#), &fields), ["username"]);
        assert!(missing(None, &[]).is_empty());
    }
}
