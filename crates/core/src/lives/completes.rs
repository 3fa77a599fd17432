//! Backfills that have met every row there is: a record of which nothing is told since one began has ended.

use super::event::{Action, Event, KeyBefore, Place};

#[derive(Clone, Debug)]
pub struct Complete {
    pub id: i64,
    pub place: Place,
    /// Run and position at which it began; none: nobody can tell.
    pub began: Option<(i32, i64)>,
    pub truncates: i32,
    /// At the moment that is asked for.
    pub is_past: bool,
}

impl Complete {
    /// By which a record ended that it did not meet.
    #[must_use]
    pub fn event(&self) -> Event<'static> {
        Event {
            id: self.id,
            place: self.place,
            is_placed: true,
            truncates: self.truncates,
            action: Action::Complete,
            key_before: KeyBefore::Same,
            after: None,
            unknown: Vec::new(),
            carried: Vec::new(),
            old: None,
            unknown_before: None,
            has_left: false,
        }
    }
}

/// By which of them, in order, a record has ended whose last event stands at `last`. `next`: its next event. None of
/// them began after its own place.
#[must_use]
pub fn ended_by(completes: &[Complete], last: Place, truncates: i32, next: Option<Place>) -> Option<&Complete> {
    let of_last = (last.run, last.lsn);
    let later = completes.partition_point(|complete| (complete.place.run, complete.place.lsn) <= of_last);
    completes[later..]
        .iter()
        .take_while(|complete| complete.truncates <= truncates && next.is_none_or(|next| complete.place < next))
        .find(|complete| complete.truncates == truncates && complete.began.is_some_and(|began| of_last < began))
}
