//! What a change was read from.

use super::raw_message::RawMessage;
use std::borrow::Cow;
use std::fmt::Debug;

#[derive(Clone, Copy, Debug)]
pub enum Original<'a> {
    Message(RawMessage<'a>),
    /// At this place of its batch, from 1.
    Captured(&'a dyn Tellable, i32),
}

/// A change that came as no message, and can be told as one: where somebody is to read it.
pub trait Tellable: Debug {
    /// Without large annotations: null stands for them.
    fn message(&self) -> String;

    /// About so many bytes.
    fn length(&self) -> usize;

    /// Names of the columns of its key, as they were; `None`: not all of them are sent.
    fn key_columns(&self) -> Option<Vec<String>>;
}

impl<'a> Original<'a> {
    pub fn position(self) -> i32 {
        match self {
            Self::Message(message) => message.position,
            Self::Captured(_, position) => position,
        }
    }

    /// In a batch that comes after so many others.
    pub fn after(self, earlier: i32) -> Self {
        match self {
            Self::Message(message) => Self::Message(RawMessage { position: earlier + message.position, ..message }),
            Self::Captured(change, position) => Self::Captured(change, earlier + position),
        }
    }

    /// The message.
    pub fn text(self) -> Cow<'a, str> {
        match self {
            Self::Message(message) => Cow::Borrowed(message.text),
            Self::Captured(change, _) => Cow::Owned(change.message()),
        }
    }

    /// `None`: it does not say.
    pub fn key_columns(self) -> Option<Vec<String>> {
        match self {
            Self::Message(_) => None,
            Self::Captured(change, _) => change.key_columns(),
        }
    }

    pub fn length(self) -> usize {
        match self {
            Self::Message(message) => message.text.len(),
            Self::Captured(change, _) => change.length(),
        }
    }
}
