//! Lives, told by hand.

use super::*;
use crate::json::jsonb;

fn image(json: &str) -> Image<'static> {
    Image::new(&jsonb(json).expect("JSON")).into_owned()
}

pub(super) fn names(columns: &str) -> Vec<String> {
    columns.split_whitespace().map(str::to_owned).collect()
}

/// An event of the record at this position.
fn event(lsn: i64, action: Action) -> Event<'static> {
    Event {
        id: lsn,
        place: Place { run: 1, lsn, idx: 0 },
        is_placed: true,
        truncates: 0,
        action,
        key_before: KeyBefore::Same,
        after: None,
        unknown: Vec::new(),
        carried: Vec::new(),
        old: None,
        unknown_before: Some(Vec::new()),
        has_left: false,
    }
}

pub(super) fn insert(lsn: i64, row: &str) -> Event<'static> {
    Event { after: Some(image(row)), ..event(lsn, Action::Insert) }
}

pub(super) fn update(lsn: i64, old: &str, row: &str) -> Event<'static> {
    Event { old: Some(image(old)), after: Some(image(row)), ..event(lsn, Action::Update) }
}

pub(super) fn delete(lsn: i64, row: &str) -> Event<'static> {
    Event { old: Some(image(row)), ..event(lsn, Action::Delete) }
}

fn read(lsn: i64, row: &str) -> Event<'static> {
    Event { after: Some(image(row)), ..event(lsn, Action::Read) }
}

fn unplaced(event: Event<'static>) -> Event<'static> {
    Event { is_placed: false, ..event }
}

fn from_other_key(event: Event<'static>) -> Event<'static> {
    Event { key_before: KeyBefore::Other, ..event }
}

/// A value that was stored out of line and not changed.
pub(super) fn carrying(columns: &str, event: Event<'static>) -> Event<'static> {
    Event { unknown: names(columns), carried: names(columns), ..event }
}

fn after(events: &[Event]) -> State {
    events.iter().fold(None, |state, event| Some(next(state, event))).expect("an event")
}

fn known(events: &[Event]) -> (Existence, String, Vec<String>) {
    let state = after(events);
    (state.existence, shown(&state.known), state.unknown)
}

/// As PostgreSQL would show it.
fn shown(image: &Image) -> String {
    let columns = image.columns();
    let value =
        |column: &String| image.text(column).map_or("null".into(), |text| String::from_utf8(text).expect("UTF-8"));
    columns.iter().map(|column| format!("{column}={}", value(column))).collect::<Vec<_>>().join(" ")
}

fn alive(row: &str, unknown: &str) -> (Existence, String, Vec<String>) {
    (Existence::Alive, row.into(), names(unknown))
}

#[test]
fn an_event_that_tells_its_whole_row_needs_no_life() {
    let first = insert(1, r#"{"id":1,"a":"x"}"#);
    let last = update(9, r#"{"a":"y"}"#, r#"{"id":1,"a":"z"}"#);
    assert_eq!(known(&[first, last.clone()]), alive("a=z id=1", ""));
    assert_eq!(known(&[last]), alive("a=z id=1", ""));
}

#[test]
fn what_an_update_left_as_it_was_is_taken_over() {
    let first = insert(1, r#"{"id":1,"doc":"long"}"#);
    let second = carrying("doc", update(2, "{}", r#"{"id":1}"#));
    assert_eq!(known(&[first.clone(), second.clone()]), alive("id=1 doc=long", ""));
    assert_eq!(known(std::slice::from_ref(&second)), alive("id=1", "doc"));
    assert_eq!(known(&[first.clone(), delete(2, "{}"), second.clone()]), alive("id=1", "doc"));
    // not if the log misses a change in between
    let other = carrying("doc", update(3, r#"{"a":"seen"}"#, r#"{"id":1,"a":"b"}"#));
    let before = insert(1, r#"{"id":1,"a":"other","doc":"long"}"#);
    assert!(is_gap(Some(&after(std::slice::from_ref(&before))), &other));
    assert_eq!(known(&[before, other]), alive("a=b id=1", "doc"));
    // nor from before a truncate, or a restore
    let emptied = Event { truncates: 1, ..second.clone() };
    assert_eq!(known(&[first.clone(), emptied]), alive("id=1", "doc"));
    let restored = Event { place: Place { run: 2, lsn: 1, idx: 0 }, ..second };
    assert_eq!(known(&[first, restored]), alive("id=1", "doc"));
}

#[test]
fn a_read_without_position_fills_only_what_no_change_says() {
    let change = Event { unknown: names("b"), ..update(1, "{}", r#"{"id":1,"a":"new"}"#) };
    let late = unplaced(read(2, r#"{"id":1,"a":"old","b":"read"}"#));
    assert_eq!(known(&[change, late.clone()]), alive("a=new b=read id=1", ""));
    assert_eq!(known(&[late.clone(), late.clone()]), alive("a=old b=read id=1", ""));
    assert_eq!(known(&[delete(1, "{}"), late]), (Existence::Ended, String::new(), Vec::new()));
}

#[test]
fn two_rows_with_one_key_are_unclear_until_a_change_tells() {
    let there = insert(1, r#"{"id":1,"a":"there"}"#);
    let comes = from_other_key(update(2, r#"{"id":2}"#, r#"{"id":1,"a":"comes"}"#));
    let unclear = [there, comes];
    assert_eq!(after(&unclear).existence, Existence::Unclear);
    let goes = event(3, Action::Moved);
    assert_eq!(after(&[unclear.as_slice(), &[goes]].concat()).existence, Existence::Unclear);
    let told = update(4, r#"{"a":"x"}"#, r#"{"id":1,"a":"y"}"#);
    assert_eq!(known(&[unclear.as_slice(), &[told]].concat()), alive("a=y id=1", ""));
    let emptied = Event { truncates: 1, ..event(5, Action::Truncate) };
    assert_eq!(after(&[unclear.as_slice(), &[emptied]].concat()).existence, Existence::Ended);
}

#[test]
fn of_two_rows_the_one_stays_that_its_transaction_did_not_take_away() {
    let moved = |old: &str, row: &str| Event { action: Action::Moved, ..from_other_key(update(2, old, row)) };
    let there = insert(1, r#"{"id":2,"a":"there"}"#);
    let comes = from_other_key(update(2, r#"{"id":1}"#, r#"{"id":2,"a":"comes"}"#));
    let shifts = moved(r#"{"id":2}"#, r#"{"id":3,"a":"there"}"#);
    assert_eq!(known(&[there.clone(), comes.clone(), shifts]), alive("a=comes id=2", ""));
    // the one that came goes on
    let goes_on = moved(r#"{"id":2}"#, r#"{"id":3,"a":"comes"}"#);
    assert_eq!(known(&[there.clone(), comes.clone(), goes_on]), alive("a=there id=2", ""));
    // one of them changes meanwhile
    let changes = update(2, r#"{"a":"there"}"#, r#"{"id":2,"a":"new"}"#);
    let gone = delete(2, r#"{"id":2,"a":"comes"}"#);
    let both = [there.clone(), comes.clone()];
    assert!(!is_gap(Some(&after(&both)), &changes) && !is_gap(Some(&after(&both)), &gone));
    assert_eq!(known(&[there.clone(), comes.clone(), changes, gone]), alive("a=new id=2", ""));
    // a delete that tells only the key may be of either
    let of_either = Event { unknown: names("a"), ..delete(2, r#"{"id":2}"#) };
    assert_eq!(after(&[there.clone(), comes.clone(), of_either]).existence, Existence::Unclear);
    // no commit leaves two rows: the log misses a change
    let later = delete(3, r#"{"id":2,"a":"comes"}"#);
    assert!(is_gap(Some(&after(&both)), &later));
    assert!(!is_gap(Some(&after(std::slice::from_ref(&there))), &comes));
    // where rows are not told whole, one of them may have gone
    let partly = from_other_key(Event { unknown: names("a"), ..update(2, r#"{"id":1}"#, r#"{"id":2}"#) });
    assert!(!is_gap(Some(&after(&[there.clone(), partly])), &update(3, "{}", r#"{"id":2,"a":"y"}"#)));
    assert_eq!(after(&[there, comes, later]).existence, Existence::Unclear);
}

#[test]
fn what_comes_to_a_key_is_no_gap_if_its_transaction_takes_away_what_was_there() {
    let there = insert(1, r#"{"id":2,"a":"there"}"#);
    let comes = from_other_key(update(2, r#"{"id":1}"#, r#"{"id":2,"a":"comes"}"#));
    let doubt = |leaves: Event| {
        let mut record = Record { state: Some(after(std::slice::from_ref(&there))), next: None };
        record.take(comes.clone(), false);
        record.take(leaves, false);
        record.doubt(&Moment { run: 1, ..Moment::default() }, |_| false, |_| false)
    };
    assert_eq!(doubt(delete(2, r#"{"id":2,"a":"there"}"#)), None);
    assert_eq!(doubt(delete(2, r#"{"id":2,"a":"comes"}"#)), Some(Reason::Gap));
    assert_eq!(doubt(delete(3, r#"{"id":2,"a":"there"}"#)), Some(Reason::Gap));
    assert_eq!(doubt(Event { unknown: names("a"), ..delete(2, r#"{"id":2}"#) }), Some(Reason::Gap));
}

#[test]
fn a_gap_shows_in_what_does_not_follow() {
    let there = after(&[insert(1, r#"{"id":1,"a":"x","n":1.0}"#)]);
    let gone = after(&[insert(1, r#"{"id":1}"#), delete(2, r#"{"id":1}"#)]);
    let row = r#"{"id":1,"a":"y","n":2}"#;
    for (before, event, expected) in [
        (&there, insert(3, row), true),
        (&gone, insert(3, row), false),
        (&there, update(3, r#"{"a":"x","n":1}"#, row), false),
        // the column has another type by now
        (&there, update(3, r#"{"a":"x","n":"1.0"}"#, row), false),
        (&there, update(3, r#"{"a":"z"}"#, row), true),
        (&gone, update(3, r#"{"a":"x"}"#, row), true),
        (&gone, from_other_key(update(3, r#"{"id":2}"#, row)), false),
        (&there, delete(3, r#"{"id":1,"a":"x"}"#), false),
        (&there, delete(3, r#"{"id":1,"a":"y"}"#), true),
        (&gone, delete(3, r#"{"id":1}"#), true),
        (&there, read(3, r#"{"id":1,"a":"x"}"#), false),
        (&there, read(3, row), true),
        (&there, unplaced(read(3, row)), false),
        (&there, event(3, Action::Complete), false),
    ] {
        assert_eq!(is_gap(Some(before), &event), expected, "{event:?}");
        assert!(!is_gap(None, &event));
    }
}

#[test]
fn a_life_begins_where_a_row_comes() {
    let there = after(&[insert(1, r#"{"id":1}"#)]);
    let gone = after(&[delete(1, r#"{"id":1}"#)]);
    let change = update(2, "{}", r#"{"id":1}"#);
    assert!(begins(None, &change) && begins(Some(&gone), &change) && !begins(Some(&there), &change));
    assert!(begins(Some(&there), &insert(2, r#"{"id":1}"#)));
    assert!(begins(Some(&there), &from_other_key(change)));
}

#[test]
fn a_line_tells_the_row_before_and_after() {
    let there = after(&[insert(1, r#"{"id":1,"a":"x","doc":"long"}"#)]);
    let change = carrying("doc", update(2, r#"{"a":"x"}"#, r#"{"id":1,"a":"y"}"#));
    let then = next(Some(there.clone()), &change);
    let told = line(Some(&there), &change, Some(&then));
    assert_eq!(told.old_row.as_ref().map(shown).as_deref(), Some("a=x id=1 doc=long"));
    assert_eq!(told.new_row.as_ref().map(shown).as_deref(), Some("a=y id=1 doc=long"));
    assert!(told.unknown_old_columns.is_empty() && told.unknown_columns.is_empty() && told.note.is_none());
    // a column that it would tell, if there were one, is no more
    let dropped = delete(2, r#"{"id":1,"a":"x"}"#);
    assert_eq!(line(Some(&there), &dropped, None).old_row.as_ref().map(shown).as_deref(), Some("a=x id=1"));
    // by itself it does not know what it left as it was
    let alone = line(None, &change, None);
    assert_eq!(alone.new_row.as_ref().map(shown).as_deref(), Some("a=y id=1"));
    assert_eq!((alone.unknown_old_columns, alone.unknown_columns), (names("doc"), names("doc")));
    // what does not fit is not taken over
    let other = carrying("doc", update(2, r#"{"a":"seen"}"#, r#"{"id":1,"a":"y"}"#));
    let then = next(Some(there.clone()), &other);
    let told = line(Some(&there), &other, Some(&then));
    assert_eq!(told.old_row.as_ref().map(shown).as_deref(), Some("a=seen id=1"));
    assert_eq!(told.note, Some(Note::Gap));
    // which of two rows stays is in doubt, and not what the event tells of its own
    let comes = from_other_key(update(2, r#"{"id":2}"#, r#"{"id":1,"a":"comes"}"#));
    let then = next(Some(there.clone()), &comes);
    let told = line(Some(&there), &comes, Some(&then));
    assert_eq!(told.new_row.as_ref().map(shown).as_deref(), Some("a=comes id=1"));
    let partly = Event { unknown_before: Some(names("a")), ..comes };
    assert_eq!(line(Some(&there), &partly, None).old_row.as_ref().map(shown).as_deref(), Some("id=2"));
    let emptied = Event { truncates: 1, ..event(3, Action::Truncate) };
    let told = line(Some(&there), &emptied, None);
    assert_eq!((told.old_row.as_ref(), told.new_row), (Some(&there.known), None));
}

#[test]
fn a_line_notes_what_does_not_fit() {
    let there = after(&[insert(1, r#"{"id":1}"#)]);
    let change = update(2, "{}", r#"{"id":1}"#);
    let of_key = |key_before| Event { key_before, ..change.clone() };
    let note = |before, event: &Event| line(before, event, None).note;
    assert_eq!(note(Some(&there), &change), None);
    assert_eq!(note(Some(&there), &insert(2, "{}")), Some(Note::Gap));
    assert_eq!(note(Some(&there), &of_key(KeyBefore::Unknown)), Some(Note::KeyNotSent));
    assert_eq!(note(None, &of_key(KeyBefore::Unknown)), Some(Note::KeyUnknown));
    assert_eq!(note(None, &of_key(KeyBefore::Other)), Some(Note::KeyBefore));
    assert_eq!(note(Some(&there), &event(2, Action::Complete)), Some(Note::NotMet));
    let restored = Event { place: Place { run: 2, lsn: 1, idx: 0 }, ..change };
    assert_eq!(note(Some(&there), &restored), Some(Note::Restored));
    assert_eq!(Note::KeyBefore.text("7"), "key before: 7");
}

/// Why the record that has had these events is unknown at a moment before the next one.
fn doubt(past: &[Event<'static>], next: Option<Event<'static>>) -> Option<Reason> {
    doubt_at(Moment { run: 1, ..Moment::default() }, past, next)
}

fn doubt_at(moment: Moment, past: &[Event<'static>], next: Option<Event<'static>>) -> Option<Reason> {
    let state = (!past.is_empty()).then(|| after(past));
    Record { state, next }.doubt(&moment, |_| false, |_| false)
}

#[test]
fn a_record_is_unknown_for_a_reason() {
    let row = r#"{"id":1,"a":"x"}"#;
    let there = [insert(1, row)];
    let gone = [insert(1, row), delete(2, row)];
    let change = update(5, r#"{"a":"x"}"#, r#"{"id":1,"a":"y"}"#);
    let emptied = Moment { run: 1, truncates: 1, ..Moment::default() };
    let stray = |lsn| Some(Place { run: 1, lsn, idx: 0 });
    for (past, next) in [
        (there.as_slice(), None),
        (&there, Some(change.clone())),
        (&there, Some(delete(5, row))),
        (&gone, None),
        (&gone, Some(insert(5, row))),
        (&[], Some(insert(5, row))),
        (&[], Some(from_other_key(change.clone()))),
    ] {
        assert_eq!(doubt(past, next), None);
    }
    assert_eq!(doubt(&there, Some(insert(5, row))), Some(Reason::Gap));
    assert_eq!(doubt(&there, Some(update(5, r#"{"a":"z"}"#, row))), Some(Reason::Gap));
    assert_eq!(doubt(&there, Some(read(5, r#"{"id":1,"a":"y"}"#))), Some(Reason::Gap));
    assert_eq!(doubt(&gone, Some(change.clone())), Some(Reason::Gap));
    assert_eq!(doubt(&gone, Some(read(5, row))), Some(Reason::Gap));
    assert_eq!(doubt(&there, Some(event(5, Action::Complete))), Some(Reason::NotMet));
    assert_eq!(doubt(&gone, Some(event(5, Action::Complete))), None);
    assert_eq!(doubt(&[], Some(change.clone())), Some(Reason::NothingBefore));
    assert_eq!(doubt(&[], None), Some(Reason::OnlyLaterRead));
    assert_eq!(doubt(&[Event { has_left: true, ..change.clone() }], None), Some(Reason::HasLeft));
    let arrives = from_other_key(change);
    assert_eq!(doubt(&[insert(1, row), arrives], None), Some(Reason::TwoRows));
    assert_eq!(doubt_at(Moment { run: 2, ..Moment::default() }, &there, None), Some(Reason::Restored));
    assert_eq!(doubt_at(emptied, &there, Some(insert(5, row))), None);
    let since = |lsn| Moment { run: 1, last_stray: stray(lsn), next_stray: stray(lsn), ..Moment::default() };
    assert_eq!(doubt_at(since(3), &there, None), Some(Reason::Stray));
    assert_eq!(doubt_at(since(3), &gone, None), None);
    assert_eq!(doubt_at(since(3), &[], Some(insert(5, row))), Some(Reason::Stray));
    assert_eq!(doubt_at(since(9), &[], Some(insert(5, row))), None);
    let record = Record { state: Some(after(&there)), next: None };
    assert_eq!(record.doubt(&since(1), |_| true, |_| false), Some(Reason::FormerKey));
    let record = Record { state: Some(after(&there)), next: Some(event(5, Action::Complete)) };
    assert_eq!(record.doubt(&since(1), |_| false, |_| true), None);
}

#[test]
fn a_backfill_that_has_met_all_ends_what_it_did_not_meet() {
    let place = |lsn| Place { run: 1, lsn, idx: 0 };
    let completes = [
        Complete { id: 1, place: place(10), began: None, truncates: 0, is_past: true },
        Complete { id: 2, place: place(20), began: Some((1, 15)), truncates: 0, is_past: true },
        Complete { id: 3, place: place(30), began: Some((1, 25)), truncates: 1, is_past: true },
    ];
    let ended = |last, truncates, next: Option<i64>| {
        ended_by(&completes, place(last), truncates, next.map(place)).map(|complete| complete.id)
    };
    assert_eq!(ended(5, 0, None), Some(2));
    assert_eq!(ended(15, 0, None), None);
    assert_eq!(ended(5, 0, Some(20)), None);
    assert_eq!(ended(5, 0, Some(21)), Some(2));
    assert_eq!(ended(22, 1, None), Some(3));
}
