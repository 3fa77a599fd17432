//! What a record is after each of its events.

use super::event::{Action, Event, KeyBefore, Place};
use super::image::Image;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    Alive,
    Ended,
    /// Two rows had the key for a time, as a deferrable key allows. Which one stayed no change has told since.
    Unclear,
}

/// What is known of a key after some event of it. Before its first event there is none.
#[derive(Clone, Debug)]
pub struct State {
    pub existence: Existence,
    /// The row, without what is unknown.
    pub known: Image<'static>,
    /// Columns that are not in `known` although the table has them.
    pub unknown: Vec<String>,
    /// No: only reads without position tell of it.
    pub by_change: bool,
    pub run: i32,
    pub truncates: i32,
    /// Of the last event that told something.
    pub event_id: i64,
    pub place: Place,
    pub has_left: bool,
}

impl State {
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.existence == Existence::Alive
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.existence == Existence::Ended
    }

    /// Is the record as it was here, unless a change is missing, when the event comes?
    #[must_use]
    pub fn goes_on_to(&self, event: &Event) -> bool {
        let truncates_before = event.truncates - i32::from(event.action == Action::Truncate);
        self.is_alive() && self.run == event.place.run && self.truncates == truncates_before
    }
}

/// The state after an event.
#[must_use]
pub fn next(state: Option<State>, event: &Event) -> State {
    // of a source that was restored nothing is known
    let mut state = state.filter(|state| state.run == event.place.run);
    if let Some(state) = state.as_mut().filter(|state| state.truncates < event.truncates) {
        state.existence = Existence::Ended;
        state.by_change = true;
    }
    let existence = state.as_ref().map(|state| state.existence);
    let was_changed = state.as_ref().is_some_and(|state| state.by_change);
    let is_unclear = was_changed && existence == Some(Existence::Unclear);
    match event.action {
        Action::Update if event.arrives() && (existence == Some(Existence::Alive) || is_unclear) => {
            without_row(Existence::Unclear, event)
        }
        Action::Delete | Action::Moved if is_unclear => without_row(Existence::Unclear, event),
        Action::Delete | Action::Moved | Action::Truncate | Action::Complete => without_row(Existence::Ended, event),
        Action::Read if !event.is_placed => match state {
            Some(state) if was_changed => filled(state, event),
            state => with_row(state.as_ref(), event),
        },
        Action::Insert | Action::Update | Action::Read => with_row(state.as_ref(), event),
    }
}

fn without_row(existence: Existence, event: &Event) -> State {
    State {
        existence,
        known: Image::empty(),
        unknown: Vec::new(),
        by_change: true,
        run: event.place.run,
        truncates: event.truncates,
        event_id: event.id,
        place: event.place,
        has_left: false,
    }
}

/// What the event tells, and what it does not as it was.
fn with_row(before: Option<&State>, event: &Event) -> State {
    let after = event.after.clone().unwrap_or_else(Image::empty);
    let mut unknown = event.unknown.clone();
    let carried = if event.action == Action::Read { &event.unknown } else { &event.carried };
    let known = before.filter(|before| before.is_alive() && !unknown.is_empty() && !carried.is_empty());
    // where it contradicts the event, the log misses a change
    let known = known.filter(|before| !before.is_contradicted(event)).map(|before| before.known.only(carried.iter()));
    let known = match known.filter(|known| !known.is_empty()) {
        None => after.into_owned(),
        Some(known) => {
            unknown.retain(|column| !known.has(column));
            after.overlaid(&known)
        }
    };
    State {
        existence: Existence::Alive,
        known,
        unknown,
        by_change: event.is_placed,
        run: event.place.run,
        truncates: event.truncates,
        event_id: event.id,
        place: event.place,
        has_left: event.has_left,
    }
}

/// A read without position fills only what no change says.
fn filled(mut state: State, event: &Event) -> State {
    if let Some(after) = event.after.as_ref().filter(|_| state.is_alive()) {
        let new = after.clone().without(&state.known.columns());
        state.unknown.retain(|column| !new.has(column));
        state.known = state.known.overlaid(&new);
    }
    state.truncates = event.truncates;
    state.place = state.place.max(event.place);
    state
}

impl State {
    /// Does the event say that the row was another one?
    #[must_use]
    pub fn is_contradicted(&self, event: &Event) -> bool {
        self.by_change && event.before().is_some_and(|before| self.known.contradicts(&before))
    }
}

/// Does the log miss a change between the state and the event? A read without position tells nothing of it.
#[must_use]
pub fn is_gap(before: Option<&State>, event: &Event) -> bool {
    let Some(before) = before else { return false };
    let follows = before.goes_on_to(event);
    match event.action {
        Action::Insert => follows,
        Action::Read => {
            let after = event.after.as_ref();
            follows && event.is_placed && before.by_change && after.is_some_and(|after| before.known.contradicts(after))
        }
        Action::Truncate | Action::Complete => false,
        Action::Update | Action::Delete | Action::Moved => {
            let needs_row = event.action == Action::Delete || event.key_before == KeyBefore::Same;
            needs_row && !before.is_alive() && before.run == event.place.run || follows && before.is_contradicted(event)
        }
    }
}
