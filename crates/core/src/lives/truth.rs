//! Any life, beside what really was.

use super::tests::{carrying, delete, insert, names, update};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What really happens to a row of three columns, and how much of it the log is told.
#[derive(Clone, Debug)]
enum Step {
    Insert([u8; 3]),
    /// The columns that change; is the last column sent although it does not?
    Update([Option<u8>; 3], bool),
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let value = 0..4_u8;
    prop_oneof![
        [value.clone(), value.clone(), value.clone()].prop_map(Step::Insert),
        (proptest::array::uniform3(proptest::option::of(value)), any::<bool>()).prop_map(|(c, s)| Step::Update(c, s)),
        Just(Step::Delete),
    ]
}

fn json_of(row: &BTreeMap<usize, u8>) -> String {
    let members: Vec<_> = row.iter().map(|(column, value)| format!("\"c{column}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// Any event that may follow another one of its key, with images that tell two columns or one.
fn any_event() -> impl Strategy<Value = Event<'static>> {
    let actions = [Action::Insert, Action::Update, Action::Delete, Action::Read, Action::Moved, Action::Truncate];
    let keys_before = [KeyBefore::Same, KeyBefore::Same, KeyBefore::Other, KeyBefore::Unknown];
    let shape = (proptest::sample::select(actions.to_vec()), proptest::sample::select(keys_before.to_vec()));
    (shape, [0..3_u8, 0..3_u8], 0..3_u8, any::<[bool; 3]>()).prop_map(|((action, key_before), [a, b], old, told)| {
        let [is_placed, is_carried, is_whole] = told;
        let update = update(1, &format!(r#"{{"a":{old}}}"#), &format!(r#"{{"id":1,"a":{a},"b":{b}}}"#));
        let unknown = if is_whole { Vec::new() } else { names("c") };
        let carried = if is_carried && action == Action::Update { unknown.clone() } else { Vec::new() };
        Event { action, key_before, is_placed: is_placed || action != Action::Read, unknown, carried, ..update }
    })
}

proptest! {
    /// Whatever happens, what is known is true; and once an insert has told the row, all of it is known.
    #[test]
    fn what_is_known_is_what_was(
        steps in proptest::collection::vec(step(), 1..30),
        misses in proptest::collection::vec(any::<bool>(), 30),
    ) {
        let mut row: Option<[u8; 3]> = None;
        let mut state: Option<State> = None;
        let (mut was_told, mut was_missed) = (false, false);
        for (lsn, step) in steps.into_iter().enumerate() {
            let at = lsn as i64 + 1;
            let event = match (step, row) {
                (Step::Insert(new), None) => {
                    row = Some(new);
                    insert(at, &json_of(&new.into_iter().enumerate().collect()))
                }
                (Step::Update(changes, sends_all), Some(old)) => {
                    let new: [u8; 3] = std::array::from_fn(|c| changes[c].unwrap_or(old[c]));
                    row = Some(new);
                    let is_carried = !sends_all && new[2] == old[2];
                    let sent = new.into_iter().enumerate().filter(|(c, _)| *c < 2 || !is_carried).collect();
                    let changed = old.into_iter().enumerate().filter(|(c, value)| new[*c] != *value).collect();
                    let told = update(at, &json_of(&changed), &json_of(&sent));
                    if is_carried { carrying("c2", told) } else { told }
                }
                (Step::Delete, Some(old)) => {
                    row = None;
                    delete(at, &json_of(&old.into_iter().enumerate().collect()))
                }
                _ => continue,
            };
            // the log may begin late
            if misses[lsn] && state.is_none() {
                was_missed = true;
                continue;
            }
            was_told |= event.stands_alone();
            prop_assert!(!is_gap(state.as_ref(), &event));
            let now = next(state, &event);
            prop_assert_eq!(now.is_alive(), row.is_some());
            if let Some(row) = row {
                for (column, value) in row.into_iter().enumerate() {
                    let name = format!("c{column}");
                    match now.known.text(&name) {
                        Some(known) => prop_assert_eq!(known, value.to_string().into_bytes()),
                        None => prop_assert!(now.unknown.contains(&name) && was_missed && !was_told),
                    }
                }
            } else {
                was_told = true;
            }
            state = Some(now);
        }
    }

    /// What a later event replaces need not be looked at.
    #[test]
    fn skipping_what_is_replaced_changes_nothing(events in proptest::collection::vec((any_event(), 1..4_i64), 1..20)) {
        let mut lsn = 0;
        let mut truncates = 0;
        let events: Vec<_> = events.into_iter().map(|(event, step)| {
            lsn += step / 2;  // some are of one transaction
            truncates += i32::from(event.action == Action::Truncate);
            Event { place: Place { run: 1, lsn, idx: 0 }, truncates, ..event }
        }).collect();
        let (mut all, mut some) = (Record::default(), Record::default());
        for (index, event) in events.iter().enumerate() {
            all.take(event.clone(), true);
            let next = events.get(index + 1);
            if !next.is_some_and(|next| some.can_skip(event, next)) {
                some.take(event.clone(), true);
                prop_assert_eq!(format!("{:?}", some.state), format!("{:?}", all.state));
            }
        }
    }
}
