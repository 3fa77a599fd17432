//! What is known of a record at a moment, from its events up to then and the next one.

use super::event::{Action, Event, KeyBefore, Place};
use super::state::{Existence, State, is_of, next};

/// What is the same for all records of the table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    pub run: i32,
    /// How often the table was truncated up to then.
    pub truncates: i32,
    /// The last change before it, and the first one after it, that any row of the table may have been.
    pub last_stray: Option<Place>,
    pub next_stray: Option<Place>,
}

/// A record at a moment.
#[derive(Debug, Default)]
pub struct Record {
    /// None: the log has no event of it up to then.
    pub state: Option<State>,
    /// Its next event that has a place of its own.
    pub next: Option<Event<'static>>,
}

/// Why nobody can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Restored,
    TwoRows,
    OnlyLaterRead,
    Stray,
    NothingBefore,
    Gap,
    NotMet,
    HasLeft,
    FormerKey,
}

impl Reason {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Restored => "the source was restored since: positions ran backwards",
            Self::TwoRows => "two rows had this key at a time",
            Self::OnlyLaterRead => "only a later backfill tells of it",
            Self::Stray => "a change that does not tell its old key may have been of it",
            Self::NothingBefore => "the log has no insert or backfill of it up to then",
            Self::Gap => "a gap: its next change does not follow",
            Self::NotMet => "a gap: a later backfill did not meet it",
            Self::HasLeft => "it left the rows that are published",
            Self::FormerKey => "the table has another key by now",
        }
    }
}

impl Record {
    /// The record's next event, which is in the past at the moment or not.
    pub fn take(&mut self, event: Event, is_past: bool) {
        if is_past {
            self.state = Some(next(self.state.take(), &event));
        } else if self.next.is_none() && (event.is_placed || event.action != Action::Read) || self.goes_on_with(&event)
        {
            self.next = Some(event.into_owned());
        }
    }

    /// Does the event leave nothing that the record's next one does not replace? Then it need not be looked at, if both
    /// are past.
    #[must_use]
    pub fn can_skip(&self, event: &Event, next: &Event) -> bool {
        let is_unclear = self.state.as_ref().is_some_and(|state| state.existence == Existence::Unclear);
        !is_unclear && !event.arrives() && next.stands_alone()
    }

    /// Another row came to the key first: is the event of the one that was there, in the same transaction?
    fn goes_on_with(&self, event: &Event) -> bool {
        let (Some(next), Some(state)) = (&self.next, &self.state) else { return false };
        next.arrives()
            && (next.place.run, next.place.lsn) == (event.place.run, event.place.lsn)
            && !event.arrives()
            && state.is_alive()
            && is_of(&state.known, event)
    }

    /// The state in which the row is there, as far as anybody can tell.
    #[must_use]
    pub fn row(&self, moment: &Moment) -> Option<&State> {
        self.state.as_ref().filter(|state| state.is_alive() && state.truncates == moment.truncates)
    }

    /// Why it is unknown whether the row is there. `has_former_key`: was another column the key when it was last
    /// changed? `is_before_gap`: is the moment before a gap in which it may have ended?
    pub fn doubt(
        &self,
        moment: &Moment,
        has_former_key: impl FnOnce(&State) -> bool,
        is_before_gap: impl FnOnce(&State) -> bool,
    ) -> Option<Reason> {
        let coming = self.next.as_ref();
        let is_here = |event: &&Event| event.place.run == moment.run && event.truncates == moment.truncates;
        let Some(state) = &self.state else {
            return match coming {
                None => Some(Reason::OnlyLaterRead),
                Some(next) if is_here(&next) && (next.action == Action::Insert || next.arrives()) => {
                    moment.next_stray.filter(|stray| *stray < next.place).map(|_| Reason::Stray)
                }
                Some(_) => Some(Reason::NothingBefore),
            };
        };
        if state.run < moment.run {
            return Some(Reason::Restored);
        }
        if state.truncates < moment.truncates {
            return None;
        }
        if !state.is_alive() && !state.has_ended() && state.run == moment.run {
            return Some(Reason::TwoRows);
        }
        if coming.filter(is_here).is_some_and(|next| does_not_follow(state, next)) {
            return Some(Reason::Gap);
        }
        if !state.is_alive() {
            return None;
        }
        let is_not_met = |next: &Event| next.action == Action::Complete && next.truncates == moment.truncates;
        if coming.is_some_and(is_not_met) && !is_before_gap(state) {
            return Some(Reason::NotMet);
        }
        if state.has_left {
            return Some(Reason::HasLeft);
        }
        if moment.last_stray.is_some_and(|stray| state.place < stray) {
            return Some(Reason::Stray);
        }
        has_former_key(state).then_some(Reason::FormerKey)
    }
}

/// Does the event say that the record was in another state?
fn does_not_follow(state: &State, next: &Event) -> bool {
    if !state.is_alive() {
        return match next.action {
            Action::Delete | Action::Moved | Action::Read => true,
            Action::Update => next.key_before == KeyBefore::Same,
            _ => false,
        };
    }
    if next.action == Action::Insert || next.arrives() {
        return true;
    }
    let told = if next.action == Action::Read { next.after.clone() } else { next.before() };
    state.by_change && told.is_some_and(|told| state.known.contradicts(&told))
}
