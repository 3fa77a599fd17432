//! What a record is after each of its events.

use super::event::{Action, Event, KeyBefore, Place};
use super::image::Image;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    Alive,
    Ended,
    /// Two rows have the key, as a deferrable key allows for a time, and no change has told since which one stays.
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
    pub place: Place,
    pub has_left: bool,
    /// The rows that have the key, if it is unclear which one, and each was told whole. A commit leaves one of them.
    pub rivals: Vec<Image<'static>>,
}

impl State {
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.existence == Existence::Alive
    }

    /// Are the event and the last one of the same transaction?
    fn is_within(&self, event: &Event) -> bool {
        (self.place.run, self.place.lsn) == (event.place.run, event.place.lsn)
    }

    /// Has a transaction left two rows that the log knows? None does.
    fn has_two_rows_at(&self, event: &Event) -> bool {
        !self.rivals.is_empty()
            && !self.is_within(event)
            && (self.run, self.truncates) == (event.place.run, event.truncates)
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
            unclear(rivals(state, event), event)
        }
        Action::Delete | Action::Moved if is_unclear => unclear(without_one(state, event), event),
        Action::Update if is_unclear && leaves_one(state.as_ref(), event) => {
            let mut rivals = without_one(state, event);
            rivals.extend(event.after.clone().map(Image::into_owned));
            State { rivals, ..without_row(Existence::Unclear, event) }
        }
        Action::Delete | Action::Moved | Action::Truncate | Action::Complete => without_row(Existence::Ended, event),
        Action::Read if !event.is_placed => match state {
            Some(state) if was_changed => filled(state, event),
            state => with_row(state.as_ref(), event),
        },
        Action::Insert | Action::Update | Action::Read => with_row(state.as_ref(), event),
    }
}

/// The rows that have the key once another one has come to it; none if they are not known whole.
fn rivals(state: Option<State>, event: &Event) -> Vec<Image<'static>> {
    let Some(comes) = event.after.clone().filter(|_| event.unknown.is_empty()) else { return Vec::new() };
    let mut rivals = match state {
        Some(state) if state.is_alive() && state.unknown.is_empty() => vec![state.known],
        Some(state) if state.is_within(event) => state.rivals,
        _ => Vec::new(),
    };
    if !rivals.is_empty() {
        rivals.push(comes.into_owned());
    }
    rivals
}

/// Which of the rows that have the key the event was of.
fn rival_of(state: &State, event: &Event) -> Option<usize> {
    state.rivals.iter().position(|rival| is_of(rival, event)).filter(|_| state.is_within(event))
}

/// Does the event tell whole that this was the row before it?
pub(super) fn is_of(row: &Image, event: &Event) -> bool {
    let unknown = if event.action == Action::Delete { Some(&event.unknown) } else { event.unknown_before.as_ref() };
    let before = event.before().filter(|_| unknown.is_some_and(Vec::is_empty));
    before.is_some_and(|before| !row.contradicts(&before))
}

fn leaves_one(state: Option<&State>, event: &Event) -> bool {
    event.unknown.is_empty() && state.is_some_and(|state| rival_of(state, event).is_some())
}

/// The rows that have the key after the event took one of them away.
fn without_one(state: Option<State>, event: &Event) -> Vec<Image<'static>> {
    let Some(mut state) = state else { return Vec::new() };
    let Some(index) = rival_of(&state, event) else { return Vec::new() };
    state.rivals.remove(index);
    state.rivals
}

/// Of two rows, one stays once the other has gone.
fn unclear(mut rivals: Vec<Image<'static>>, event: &Event) -> State {
    if rivals.len() == 1 {
        let known = rivals.remove(0);
        return State { known, ..without_row(Existence::Alive, event) };
    }
    State { rivals, ..without_row(Existence::Unclear, event) }
}

fn without_row(existence: Existence, event: &Event) -> State {
    State {
        existence,
        known: Image::empty(),
        unknown: Vec::new(),
        by_change: true,
        run: event.place.run,
        truncates: event.truncates,
        place: event.place,
        has_left: false,
        rivals: Vec::new(),
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
        place: event.place,
        has_left: event.has_left,
        rivals: Vec::new(),
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
        Action::Insert => follows || before.has_two_rows_at(event),
        Action::Read => {
            let after = event.after.as_ref();
            follows && event.is_placed && before.by_change && after.is_some_and(|after| before.known.contradicts(after))
        }
        Action::Truncate | Action::Complete => false,
        // what was there may go in the same transaction: see the next one
        Action::Update if event.arrives() => false,
        Action::Update | Action::Delete | Action::Moved => {
            let needs_row = event.action == Action::Delete || event.key_before == KeyBefore::Same;
            needs_row && before.has_ended() && before.run == event.place.run
                || follows && before.is_contradicted(event)
                || before.has_two_rows_at(event)
        }
    }
}
