//! What a transaction says of its changes. It never refuses them: what `jsonb` cannot hold is kept as text.

use super::digest::{Digest, annotations_digest, hex, hex_digest_of};
use super::origin::Origin;
use crate::json::jsonb_takes;
use crate::json::object::{Object, string};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::rc::Rc;

/// Bytes of annotations that stand in each entry. Larger ones are stored once.
const MOST_IN_ENTRY: usize = 2_000;
/// Bytes of an unreadable text that are kept.
pub const MOST_KEPT: usize = 2_000;
/// Members that the log's indexes and views lift, as text up to so many bytes (sql/log/log.sql, `lifted`).
const LIFTED: [&str; 3] = ["username", "source", "request_id"];
const MOST_LIFTED: usize = 2_000;

#[derive(Clone, Debug)]
pub enum Annotations<'a> {
    /// Valid JSON, as it was sent.
    Text(Cow<'a, str>),
    /// The bytes of a `jsonb`.
    Jsonb(&'a [u8]),
    Large(Rc<Large<'a>>),
}

/// Annotations that are stored once, not in each entry.
#[derive(Debug)]
pub struct Large<'a> {
    pub id: Digest,
    /// JSON that `jsonb` takes.
    pub text: Cow<'a, str>,
    /// What is lifted of them, as an object: it stands in each entry.
    pub lifted: Option<String>,
}

impl Annotations<'static> {
    /// Of a logical message. `None`: it says nothing.
    pub fn of_content(content: &[u8]) -> Option<Self> {
        let kept = match json(content) {
            Some("null") => return None,
            Some(json) => kept(json),
            None => Cow::Owned(unreadable(content)),
        };
        Some(Self::of_kept(kept))
    }

    /// Of a logical message that is too large to carry: its beginning, and what is known of the whole.
    pub fn of_omitted(beginning: &[u8], bytes: u64, sha256: &[u8; 32]) -> Self {
        Self::of_kept(unreadable_whole(beginning, bytes, &hex(sha256)).into())
    }

    fn of_kept(kept: Cow<str>) -> Self {
        if kept.len() > MOST_IN_ENTRY {
            let id = annotations_digest(Origin::Capture, "", kept.as_bytes());
            Self::Large(Rc::new(Large::new(id, Cow::Owned(kept.into_owned()))))
        } else {
            Self::Text(Cow::Owned(kept.into_owned()))
        }
    }
}

impl<'a> Annotations<'a> {
    /// Of a message's member.
    pub fn of_member(json: &'a str) -> Self {
        Self::Text(Cow::Borrowed(json))
    }

    /// The identity of those that are too large for an entry and still stand in their message, which is of this
    /// database.
    pub fn large_text(&self, database_id: &str) -> Option<(Digest, Cow<'a, str>)> {
        match self {
            Self::Text(text) if text.len() > MOST_IN_ENTRY => {
                Some((annotations_digest(Origin::Ingest, database_id, text.as_bytes()), text.clone()))
            }
            _ => None,
        }
    }
}

impl<'a> Large<'a> {
    /// Of JSON with this digest, whether or not `jsonb` takes it.
    pub fn of_text(digest: Digest, text: Cow<'a, str>) -> Self {
        if jsonb_takes(&text) {
            return Self::new(digest, text);
        }
        Self::new(digest, Cow::Owned(unreadable(text.as_bytes())))
    }

    fn new(id: Digest, text: Cow<'a, str>) -> Self {
        Self { id, lifted: lifted(&text), text }
    }
}

/// Valid JSON as it is if `jsonb` takes it, or else in its place an object that holds it as text.
pub fn kept(json: &str) -> Cow<'_, str> {
    if jsonb_takes(json) { Cow::Borrowed(json) } else { Cow::Owned(unreadable(json.as_bytes())) }
}

fn json(content: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(content).ok()?;
    serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get)
}

fn unreadable(content: &[u8]) -> String {
    if content.len() > MOST_KEPT {
        unreadable_whole(content, content.len() as u64, &hex_digest_of(content))
    } else {
        format!("{{\"unreadable\": {}}}", beginning(content))
    }
}

fn unreadable_whole(content: &[u8], bytes: u64, sha256: &str) -> String {
    format!("{{\"unreadable\": {}, \"bytes\": {bytes}, \"sha256\": \"{sha256}\"}}", beginning(content))
}

/// As much as is kept of it, without half a character.
fn beginning(content: &[u8]) -> String {
    let is_start = |at: &usize| content.get(*at).is_some_and(|byte| byte & 0xC0 != 0x80);
    let is_cut = content.len() > MOST_KEPT;
    let end =
        if is_cut { (MOST_KEPT - 3..=MOST_KEPT).rev().find(is_start).unwrap_or(MOST_KEPT) } else { content.len() };
    quoted(&String::from_utf8_lossy(&content[..end]).replace('\0', "\\u0000"))
}

/// Of members that stand twice the last counts, as in `jsonb`.
fn lifted(json: &str) -> Option<String> {
    let object = Object::parse(json)?;
    let member = |name: &str| {
        let value = object.last(name)?;
        let value = match string(value, name) {
            Ok(text) => Some(text).filter(|text| text.len() <= MOST_LIFTED).map(|text| quoted(&text).into()),
            Err(_) => Some(Cow::Borrowed(value)).filter(|value| value.len() <= MOST_LIFTED),
        };
        value.map(|value| format!("\"{name}\":{value}"))
    };
    let members: Vec<String> = LIFTED.into_iter().filter_map(member).collect();
    (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content: &[u8]) -> Option<(String, Option<String>)> {
        Annotations::of_content(content).map(|annotations| match annotations {
            Annotations::Text(text) => (text.into_owned(), None),
            Annotations::Jsonb(_) => unreachable!("it was text"),
            Annotations::Large(large) => {
                (large.text.clone().into_owned(), Some(large.lifted.clone().unwrap_or_default()))
            }
        })
    }

    #[test]
    fn what_jsonb_takes_is_kept_as_it_is() {
        for json in [r#"{"username": "ada"}"#, "[1, 2]", "\"ada\"", "7", r#"{"n": 1e400}"#] {
            assert_eq!(of(format!(" {json}\n").as_bytes()), Some((json.to_owned(), None)));
        }
        assert_eq!(of(b" null "), None);
    }

    #[test]
    fn anything_else_is_kept_as_text() {
        for (content, text) in [
            (&b"not json"[..], "not json"),
            (b"", ""),
            (b"\xff\0a\xc3", "\u{fffd}\\\\u0000a\u{fffd}"),
            (br#"{"username": "\u0000"}"#, r#"{\"username\": \"\\u0000\"}"#),
            (b"{\"n\": 1e999999}", r#"{\"n\": 1e999999}"#),
            ("\u{a0}1".as_bytes(), "\u{a0}1"),
        ] {
            assert_eq!(of(content), Some((format!("{{\"unreadable\": \"{text}\"}}"), None)));
        }
    }

    #[test]
    fn of_a_long_one_the_beginning_is_kept() {
        let (text, lifted) = of(&[b"x".repeat(1_999), "ä".repeat(9).into_bytes()].concat()).expect("annotations");
        let kept = "x".repeat(1_999);
        assert!(text.starts_with(&format!("{{\"unreadable\": \"{kept}\", \"bytes\": 2017, \"sha256\": \"")), "{text}");
        assert_eq!(lifted.as_deref(), Some(""));
    }

    #[test]
    fn of_a_large_one_the_entry_has_what_is_lifted() {
        let blob = "x".repeat(2_000);
        let long = "y".repeat(2_001);
        let spelled = "\\u0061".repeat(500);
        for (members, lifted) in [
            (
                r#""username": "eve", "request_id": 7, "username": "ada""#,
                r#"{"username":"ada","request_id":7}"#.to_owned(),
            ),
            (r#""metadata": {"username": "eve"}"#, String::new()),
            (&format!("\"username\": \"{long}\", \"source\": null"), String::new()),
            (&format!("\"source\": \"{spelled}\""), format!("{{\"source\":\"{}\"}}", "a".repeat(500))),
        ] {
            let json = format!("{{{members}, \"blob\": \"{blob}\"}}");
            assert_eq!(of(json.as_bytes()), Some((json, Some(lifted))));
        }
        let list = format!("[\"{blob}\", \"username\"]");
        assert_eq!(of(list.as_bytes()), Some((list, Some(String::new()))));
    }
}
