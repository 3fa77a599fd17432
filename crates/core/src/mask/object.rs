//! JSON objects, written member by member. Nothing is one without members.

use crate::json::push_string;

pub(super) fn push_member(json: &mut String, name: &str, value: &str) {
    json.push(if json.is_empty() { '{' } else { ',' });
    push_string(json, name);
    json.push(':');
    json.push_str(value);
}

pub(super) fn closed(mut json: String) -> String {
    if json.is_empty() {
        json.push('{');
    }
    json.push('}');
    json
}
