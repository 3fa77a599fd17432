//! What a transaction says of itself in one logical message, before it is sealed.

use crate::message::hex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Bytes that a declaration needs at most beside its context.
const AROUND: usize = 192;

/// What becomes of annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Annotated {
    /// The message that follows holds what has this SHA-256.
    Set([u8; 32]),
    Cleared,
}

#[derive(Serialize, Deserialize)]
pub struct Declaration<'a> {
    /// Grows within a transaction: one that is told once more later counts for nothing.
    pub number: u64,
    /// An object, of what the server knows of the session.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub context: Option<&'a RawValue>,
    /// Microseconds since 2000-01-01.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_start: Option<i64>,
    /// SHA-256 of annotations in hex, empty for none. Absent: nothing becomes of them.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    annotations: Option<Cow<'a, str>>,
}

impl<'a> Declaration<'a> {
    pub fn new(
        number: u64,
        context: Option<&'a RawValue>,
        transaction_start: Option<i64>,
        annotations: Option<Annotated>,
    ) -> Self {
        let annotations = annotations.map(|annotations| match annotations {
            Annotated::Set(sha256) => hex(&sha256),
            Annotated::Cleared => String::new(),
        });
        Self { number, context, transaction_start, annotations: annotations.map(Cow::Owned) }
    }

    pub fn text(&self) -> String {
        let context = self.context.map_or(0, |context| context.get().len());
        let mut text = Vec::with_capacity(context + AROUND);
        let written = serde_json::to_writer(&mut text, self);
        written.ok().and_then(|()| String::from_utf8(text).ok()).unwrap_or_default()
    }

    pub fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// That annotations are none from here on.
    pub fn clears(&self) -> bool {
        self.annotations.as_deref() == Some("")
    }

    /// That these follow.
    pub fn announces(&self, sha256: &[u8; 32]) -> bool {
        self.annotations.as_deref().is_some_and(|announced| announced == hex(sha256))
    }

    pub fn is_of_annotations(&self) -> bool {
        self.annotations.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::sha256;

    #[test]
    fn what_is_told_is_understood() {
        let context = r#"{"session_user":"ada"}"#;
        let told = serde_json::from_str(context).expect("JSON");
        let text = Declaration::new(3, Some(told), Some(-7), Some(Annotated::Set(sha256(b"{}")))).text();
        let declaration = Declaration::parse(&text).expect("a declaration");
        assert_eq!((declaration.number, declaration.transaction_start), (3, Some(-7)));
        assert_eq!(declaration.context.map(RawValue::get), Some(context));
        assert!(
            declaration.announces(&sha256(b"{}")) && !declaration.announces(&sha256(b"{ }")) && !declaration.clears()
        );
    }

    #[test]
    fn what_is_not_told_is_absent() {
        assert_eq!(Declaration::new(0, None, None, None).text(), r#"{"number":0}"#);
        let text = Declaration::new(1, None, None, Some(Annotated::Cleared)).text();
        let declaration = Declaration::parse(&text).expect("a declaration");
        assert!(declaration.clears() && !declaration.announces(&sha256(b"")));
    }
}
