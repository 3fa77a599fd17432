//! A change as people read it: with the row before and after, and what does not fit.

use super::event::{Action, Event, KeyBefore};
use super::image::Image;
use super::state::{State, is_gap};

#[derive(Debug)]
pub struct Line<'a> {
    /// None: there was none.
    pub old_row: Option<Image<'a>>,
    pub new_row: Option<Image<'a>>,
    /// Columns of the row before whose value is unknown, by name.
    pub unknown_old_columns: Vec<String>,
    pub unknown_columns: Vec<String>,
    pub note: Option<Note>,
}

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    Gap,
    NotMet,
    Restored,
    KeyUnknown,
    KeyNotSent,
    KeyBefore,
}

impl Note {
    /// `other_key`: which the row had before the change.
    #[must_use]
    pub fn text(self, other_key: &str) -> String {
        match self {
            Self::Gap => "the log misses a change before this one",
            Self::NotMet => "gone: a backfill did not meet it, and the log does not tell how it ended",
            Self::Restored => "the source was restored before this one: positions ran backwards",
            Self::KeyUnknown => "the key before this change is unknown",
            Self::KeyNotSent => "the key before this change was not sent: old_row is the row that had this one",
            Self::KeyBefore => return format!("key before: {other_key}"),
        }
        .into()
    }
}

/// An event between the states of its key before and after it. Without them it tells only what it says itself.
#[must_use]
pub fn line<'a>(before: Option<&'a State>, event: &'a Event, after: Option<&'a State>) -> Line<'a> {
    let is_gap = is_gap(before, event);
    let old_row = has_row_before(event.action).then(|| {
        let told = event.before();
        // a row that comes from another key is not the one that was there
        let goes_on = |before: &&State| before.goes_on_to(event) && !is_gap && !event.arrives();
        let known = before.filter(goes_on).map(|before| &before.known);
        match (known, told) {
            // what the log knows of a truncated row, it knows from before
            (Some(known), None) => known.clone(),
            (None, told) => told.unwrap_or_else(Image::empty),
            (Some(known), Some(told)) => left_open(known, event).overlaid(&told),
        }
    });
    let new_row = match (event.action, after.filter(|_| !is_gap)) {
        (Action::Delete | Action::Moved | Action::Truncate | Action::Complete, _) => None,
        (_, Some(after)) if after.is_alive() => Some(after.known.clone()),
        (_, Some(after)) if after.has_ended() => None,
        // what it tells itself, although the state of its key may be in doubt
        (Action::Insert | Action::Update | Action::Read, _) => event.after.clone(),
    };
    Line {
        unknown_old_columns: old_row.as_ref().map(|row| unknown_old(before, event, row)).unwrap_or_default(),
        unknown_columns: new_row.as_ref().map(|row| row.missing(bytes(&event.unknown))).unwrap_or_default(),
        note: note(before, event, is_gap),
        old_row,
        new_row,
    }
}

/// What is known of the columns that the event leaves open. Others that were known may be no more.
fn left_open(known: &Image<'static>, event: &Event) -> Image<'static> {
    match &event.unknown_before {
        Some(unknown) => known.only(event.unknown.iter().chain(unknown)),
        None => known.clone(),
    }
}

fn has_row_before(action: Action) -> bool {
    matches!(action, Action::Update | Action::Delete | Action::Truncate | Action::Complete)
}

fn unknown_old(before: Option<&State>, event: &Event, old_row: &Image) -> Vec<String> {
    let of_table = event.after.as_ref().map(Image::names).unwrap_or_default();
    let unknown = match event.action {
        Action::Truncate | Action::Complete => before.map(|before| &before.unknown),
        _ => event.unknown_before.as_ref(),
    };
    let unknown = bytes(&event.unknown).chain(unknown.into_iter().flat_map(|unknown| bytes(unknown)));
    old_row.missing(of_table.into_iter().chain(unknown))
}

fn bytes(columns: &[String]) -> impl Iterator<Item = &[u8]> {
    columns.iter().map(String::as_bytes)
}

fn note(before: Option<&State>, event: &Event, is_gap: bool) -> Option<Note> {
    let is_update = event.action == Action::Update;
    if is_gap {
        return Some(Note::Gap);
    }
    if event.action == Action::Complete {
        return Some(Note::NotMet);
    }
    if before.is_some_and(|before| before.run < event.place.run) {
        return Some(Note::Restored);
    }
    match event.key_before {
        KeyBefore::Unknown if is_update && before.is_some_and(State::is_alive) => Some(Note::KeyNotSent),
        KeyBefore::Unknown if is_update => Some(Note::KeyUnknown),
        KeyBefore::Other if is_update => Some(Note::KeyBefore),
        _ => None,
    }
}

/// Does a life begin with the event? `before`: the state before it.
#[must_use]
pub fn begins(before: Option<&State>, event: &Event) -> bool {
    before.is_none_or(|before| before.has_ended() || before.run < event.place.run)
        || event.action == Action::Insert
        || event.arrives()
}
