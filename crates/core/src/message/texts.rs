//! Texts that stand beside images, as a message and the log have them: by column, of each side.

use crate::Reject;
use crate::json::object::{Object, string, wrong_type};
use crate::json::push_string;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// JSON strings by column.
pub type Texts<'c> = BTreeMap<Cow<'c, str>, Cow<'c, str>>;

/// What the message says of each side, and what was found.
pub fn joined<'c>(said: Option<&'c str>, mut old: Texts<'c>, mut new: Texts<'c>) -> String {
    if let Some(mut said) = said.and_then(Object::parse) {
        for (side, texts) in [("old", &mut old), ("new", &mut new)] {
            for (column, text) in said.object(side).ok().flatten().unwrap_or_default().members() {
                texts.insert(column.clone(), text.into());
            }
        }
    }
    let mut json = String::from("{");
    for (side, texts) in [("new", new), ("old", old)] {
        if texts.is_empty() {
            continue;
        }
        json.push_str(if json.len() > 1 { ",\"" } else { "\"" });
        json.extend([side, "\":{"]);
        for (place, (column, text)) in texts.iter().enumerate() {
            json.push_str(if place == 0 { "" } else { "," });
            push_string(&mut json, column);
            json.extend([":", text]);
        }
        json.push('}');
    }
    json.push('}');
    json
}

/// As a message may say it: texts by column, of each side.
pub fn exact_values(json: &str) -> Result<&str, Reject> {
    let wrong = || wrong_type("exact_values", "an object of texts by column, for \"old\" and \"new\"");
    let mut sides = Object::parse(json).ok_or_else(wrong)?.unambiguous()?;
    if sides.keys().any(|side| !matches!(side, "old" | "new")) {
        return Err(wrong());
    }
    for side in ["old", "new"] {
        for (_, text) in sides.object(side)?.unwrap_or_default().members() {
            string(text, "exact_values")?;
        }
    }
    Ok(json)
}
