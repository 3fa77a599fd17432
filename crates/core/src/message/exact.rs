//! What a change's images do not hold. Sequin writes a value into the message although `jsonb` does not take it, or
//! forgets something of it. Its text is kept beside the image then.

use super::change::Change;
use super::image::Image;
use super::texts::{Texts, joined};
use crate::encoding::Held;
use crate::json::object::Object;
use crate::json::{jsonb, jsonb_forgets, jsonb_takes, push_string, string as json_string};
use std::borrow::Cow;

/// A change's images on their way into the log.
#[derive(Debug)]
pub struct Told<'c> {
    pub old_values: Option<ToldImage<'c>>,
    pub new_values: Option<ToldImage<'c>>,
    /// JSON: texts by column, of each side. `None`, as nearly always: the images hold everything.
    pub exact_values: Option<Cow<'c, str>>,
}

#[derive(Debug)]
pub enum ToldImage<'c> {
    /// The bytes of a `jsonb`.
    Jsonb(Cow<'c, [u8]>),
    /// JSON, for `jsonb_in`.
    Text(Cow<'c, str>),
}

impl Change<'_> {
    pub fn told(&self) -> Told<'_> {
        let (old_values, old) = self.old_values.map(image).unzip();
        let (new_values, new) = self.new_values.map(image).unzip();
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let said = self.sent.exact_values;
        let exact_values = if old.is_empty() && new.is_empty() {
            said.map(Cow::Borrowed)
        } else {
            Some(joined(said, old, new).into())
        };
        Told { old_values, new_values, exact_values }
    }

    /// The row as it came, as JSON that `jsonb` takes, with what its image does not hold.
    pub fn spelled_row(&self) -> Option<Cow<'_, str>> {
        self.without_masks().spelled()
    }

    fn spelled(&self) -> Option<Cow<'_, str>> {
        let row = self.new_values.and_then(Image::text)?;
        let (text, texts) = held_image(row);
        // what `jsonb` only forgets, who delivers `jsonb` has forgotten too
        let texts = if matches!(text, Cow::Owned(_)) { texts } else { Texts::new() };
        Some(match (self.sent.exact_values, texts.is_empty()) {
            (None, true) => text,
            (said, _) => format!("[{text},{}]", joined(said, Texts::new(), texts)).into(),
        })
    }
}

fn image(image: Image) -> (ToldImage, Texts) {
    match image {
        Image::Jsonb(bytes) => (ToldImage::Jsonb(bytes.into()), Texts::new()),
        Image::Text(text) => match jsonb(text) {
            Some(bytes) => (ToldImage::Jsonb(bytes.into()), Texts::new()),
            None => {
                let (text, texts) = held_image(text);
                (ToldImage::Text(text), texts)
            }
        },
    }
}

/// The image that `jsonb` takes, and the texts of what it does not hold.
fn held_image(image: &str) -> (Cow<'_, str>, Texts<'_>) {
    let mut texts = Texts::new();
    let Some(row) = Object::parse(image) else { return (image.into(), texts) };
    let mut has_nothing = false;
    for (column, text) in row.members() {
        let held = held(text);
        has_nothing |= held == Held::Nothing;
        // of a column that stands twice the last counts
        match held {
            Held::Whole => drop(texts.remove(column)),
            _ => drop(texts.insert(column.clone(), json_string(text).into())),
        }
    }
    if !has_nothing {
        return (image.into(), texts);
    }
    let mut json = String::with_capacity(image.len());
    for (column, text) in row.members() {
        json.push(if json.is_empty() { '{' } else { ',' });
        push_string(&mut json, column);
        json.push(':');
        json.push_str(if held(text) == Held::Nothing { "null" } else { text });
    }
    json.push('}');
    (json.into(), texts)
}

/// How much of a member of a message stays in the image. How it is spelled is Sequin's, and need not stay.
fn held(json: &str) -> Held {
    if !jsonb_takes(json) {
        Held::Nothing
    } else if jsonb_forgets(json) || looks_marked(json) {
        Held::Meaning
    } else {
        Held::Whole
    }
}

/// A value that would be taken for one that is marked (`json::told`).
fn looks_marked(json: &str) -> bool {
    let object = json.starts_with('{').then(|| Object::parse(json)).flatten();
    object.is_some_and(|object| object.keys().all(str::is_empty) && object.last("").is_some_and(|v| v.starts_with('[')))
}

#[cfg(test)]
mod tests {
    use super::super::texts::exact_values;
    use super::*;
    use crate::message::RawMessage;

    fn told(old: &str, new: &str, more: &str) -> (Option<String>, Option<String>, Option<String>) {
        let text = format!(
            r#"{{"action":"update","changes":{old},"record":{new},"metadata":{{"commit_idx":1,"commit_lsn":6,{more}
            "commit_timestamp":"2026-11-22T21:09:42.850944Z","database":{{"id":"d1"}},"record_pks":["1"],
            "table_name":"t","table_schema":"public"}}}}"#
        );
        let change = Change::parse(RawMessage { text: &text, position: 1 }).expect("a good message");
        let told = change.told();
        let text = |image: Option<ToldImage>| match image {
            Some(ToldImage::Text(text)) => Some(text.into_owned()),
            Some(ToldImage::Jsonb(_)) => None,
            None => panic!("no image"),
        };
        (text(told.old_values), text(told.new_values), told.exact_values.map(Cow::into_owned))
    }

    #[test]
    fn usual_images_have_nothing_beside_them() {
        assert_eq!(told(r#"{"a":null}"#, r#"{"id":1,"a":{"b":[1.50,"x"]}}"#, ""), (None, None, None));
        let unusual = r#"{"id":1,"a":"\u00e4","b":1e5}"#;
        assert_eq!(told("{}", unusual, ""), (None, Some(unusual.into()), None));
    }

    #[test]
    fn what_jsonb_does_not_take_stands_beside_the_image() {
        let (old, new, exact) = told(r#"{"a":-0.0}"#, r#"{"id":1,"a":{"x": "\u0000"},"b":{"c":1,"c":2}}"#, "");
        assert_eq!(old.as_deref(), Some(r#"{"a":-0.0}"#));
        assert_eq!(new.as_deref(), Some(r#"{"id":1,"a":null,"b":{"c":1,"c":2}}"#));
        let beside = r#"{"new":{"a":"{\"x\": \"\\u0000\"}","b":"{\"c\":1,\"c\":2}"},"old":{"a":"-0.0"}}"#;
        assert_eq!(exact.as_deref(), Some(beside));
    }

    #[test]
    fn what_a_message_says_itself_counts() {
        let said = r#""exact_values":{"new":{"a":"null","b":"x"}},"#;
        let (_, _, exact) = told("{}", r#"{"id":1,"a":null,"b":-0}"#, said);
        assert_eq!(exact.as_deref(), Some(r#"{"new":{"a":"null","b":"x"}}"#));
        for wrong in ["[]", r#"{"other":{}}"#, r#"{"new":{"a":1}}"#, r#"{"new":{"a":"\u0000"}}"#] {
            assert!(exact_values(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_that_looks_marked_is() {
        for json in [r#"{"":["1",1]}"#, r#"{ "" : ["1", 1]}"#] {
            assert_eq!(held(json), Held::Meaning, "{json}");
        }
        for json in [r#"{"a":""}"#, r#"{"":["1",1],"a":1}"#, r#"{"":{}}"#, "{}"] {
            assert_eq!(held(json), Held::Whole, "{json}");
        }
    }
}
