//! Entries that tell their whole rows, as those of REPLICA IDENTITY FULL do: their lines need no record's life.
//!
//! Such an entry's row after it is `new_values`, and the row before it that with `old_values` laid over. Whether the
//! log misses a change before it tells the entry before it of its record. So that must tell its row too, and stand
//! before it by position as it does by time. Nothing may have come between that names no record.

use super::event::{Action, Event, KeyBefore, Place};
use super::image::Image;
use super::state::{State, is_gap, next};
use crate::json::{Value, members, object};

/// An entry of the log, as far as that decides. Times count microseconds.
#[derive(Debug)]
pub struct Entry<'a> {
    pub table: i32,
    pub action: Action,
    pub time: i64,
    pub lsn: Option<i64>,
    pub idx: i32,
    pub has_key: bool,
    pub may_change_key: bool,
    pub old: Option<Image<'a>>,
    pub new: Option<Image<'a>>,
    /// Were columns of the row after it not sent? None: no message and no description says.
    pub lacks: Option<bool>,
    pub lacks_old: Option<bool>,
}

/// What is to be known of the entry's table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table {
    pub is_described: bool,
    /// From when descriptions say that whole rows are sent.
    pub told_from: Option<i64>,
    /// Its keys are spelled in several ways.
    pub is_spelled: bool,
    /// It goes on from another database's, whose positions count apart.
    pub goes_on: bool,
    /// When something that names no record came first and last: a truncate, a complete backfill, a change of names.
    pub breaks: Option<(i64, i64)>,
    /// When updates that may have given another key came first and last.
    pub rekeyed: Option<(i64, i64)>,
}

impl Entry<'_> {
    /// Does it tell the whole row, before it and after it?
    #[must_use]
    pub fn tells_row(&self, table: &Table) -> bool {
        let Self { action, old, .. } = self;
        if *action == Action::Update && old.is_none() {
            return false;
        }
        let is_change = matches!(action, Action::Insert | Action::Update | Action::Delete);
        match self.lacks {
            Some(lacks) => {
                !lacks
                    && (is_change || *action == Action::Read)
                    && (*action != Action::Update || self.lacks_old == Some(false))
            }
            None if table.is_described => is_change && table.told_from.is_some_and(|from| self.time >= from),
            // old values are sent with FULL only, and what was not sent of a deleted row is null
            None => match action {
                Action::Insert => true,
                Action::Update => old.as_ref().is_some_and(|old| !old.is_empty()),
                Action::Delete => old.as_ref().is_some_and(|old| !old.has_null()),
                _ => false,
            },
        }
    }

    /// What happened, if it tells its row.
    #[must_use]
    pub fn event(&self) -> Event<'_> {
        Event {
            id: 0,
            place: Place { run: 1, lsn: self.lsn.unwrap_or(0), idx: self.idx },
            is_placed: true,
            truncates: 0,
            action: self.action,
            key_before: KeyBefore::Same,
            after: self.new.clone(),
            unknown: Vec::new(),
            carried: Vec::new(),
            old: self.old.clone(),
            unknown_before: Some(Vec::new()),
            has_left: false,
        }
    }

    #[must_use]
    pub fn state(&self) -> State {
        next(None, &self.event())
    }

    /// Is its line the same without its record's life? `before`: the entry before it by time. Where a change seems to
    /// be missed, the life decides: a clock may have been set back.
    #[must_use]
    pub fn needs_no_life(&self, before: Option<&Entry>, table: &Table) -> bool {
        if !self.tells_row(table) || self.may_change_key {
            return false;
        }
        if !self.has_key {
            return true;
        }
        if table.is_spelled || self.lsn.is_none() {
            return false;
        }
        let Some(before) = before else {
            let is_first = |others: Option<(i64, i64)>| others.is_none_or(|(first, _)| self.time < first);
            return !table.goes_on && is_first(table.breaks) && is_first(table.rekeyed);
        };
        let has_none_between =
            |others: Option<(i64, i64)>| others.is_none_or(|(first, last)| before.time > last || self.time < first);
        before.table == self.table
            && before.tells_row(table)
            && before.comes_before(self)
            && has_none_between(table.breaks)
            && has_none_between(table.rekeyed)
            && !is_gap(Some(&before.state()), &self.event())
    }

    /// By position.
    #[must_use]
    pub fn comes_before(&self, other: &Entry) -> bool {
        self.lsn.zip(other.lsn).is_some_and(|(lsn, of_other)| (lsn, self.idx) < (of_other, other.idx))
    }
}

/// What differs between the rows before and after a change: of an update of columns that both have.
#[must_use]
pub fn changed(action: Action, old: Option<&Image>, new: Option<&Image>) -> Option<Image<'static>> {
    let (old, new) =
        (old.map_or_else(Vec::new, |old| members(old.bytes())), new.map_or_else(Vec::new, |new| members(new.bytes())));
    let sides: Vec<_> = match action {
        Action::Update => old
            .iter()
            .filter_map(|(column, old)| {
                let (_, new) = new.iter().find(|(other, _)| other == column)?;
                (!old.equals(new)).then(|| (*column, object(&[(b"new".as_slice(), *new), (b"old", *old)])))
            })
            .collect(),
        Action::Insert => new.iter().map(|(column, new)| (*column, object(&[(b"new".as_slice(), *new)]))).collect(),
        Action::Delete => old.iter().map(|(column, old)| (*column, object(&[(b"old".as_slice(), *old)]))).collect(),
        _ => return None,
    };
    let sides: Vec<_> = sides.iter().map(|(column, sides)| (*column, Value::Container(sides))).collect();
    Some(Image::new(&object(&sides)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::jsonb;

    fn image(json: &str) -> Option<Image<'static>> {
        Some(Image::new(&jsonb(json).expect("JSON")).into_owned())
    }

    /// Of a captured table with FULL; its time is its position.
    fn entry(action: Action, lsn: i64, old: &str, new: &str) -> Entry<'static> {
        Entry {
            table: 1,
            action,
            time: lsn,
            lsn: Some(lsn),
            idx: 0,
            has_key: true,
            may_change_key: false,
            old: if action == Action::Insert { None } else { image(old) },
            new: if action == Action::Delete { None } else { image(new) },
            lacks: Some(false),
            lacks_old: Some(false),
        }
    }

    fn update(lsn: i64) -> Entry<'static> {
        entry(Action::Update, lsn, r#"{"a":"x"}"#, r#"{"id":1,"a":"y"}"#)
    }

    fn insert(lsn: i64) -> Entry<'static> {
        entry(Action::Insert, lsn, "{}", r#"{"id":1,"a":"x"}"#)
    }

    #[test]
    fn an_entry_tells_its_row_if_nothing_was_left_out() {
        let any = Table::default();
        let undescribed = |entry: Entry<'static>| Entry { lacks: None, lacks_old: None, ..entry };
        let full = Table { is_described: true, told_from: Some(5), ..any };
        let less = Table { is_described: true, ..any };
        for (entry, table, expected) in [
            (update(9), any, true),
            (Entry { lacks: Some(true), ..update(9) }, any, false),
            (Entry { lacks_old: Some(true), ..update(9) }, any, false),
            (Entry { lacks_old: None, ..insert(9) }, any, true),
            (Entry { old: None, ..update(9) }, any, false),
            (entry(Action::Truncate, 9, "{}", "{}"), any, false),
            (undescribed(update(9)), full, true),
            (undescribed(update(4)), full, false),
            (undescribed(update(9)), less, false),
            (undescribed(update(9)), any, true),
            (undescribed(Entry { old: image("{}"), ..update(9) }), any, false),
            (undescribed(entry(Action::Delete, 9, r#"{"id":1,"a":null}"#, "")), any, false),
            (undescribed(entry(Action::Read, 9, "{}", r#"{"id":1}"#)), any, false),
        ] {
            assert_eq!(entry.tells_row(&table), expected, "{entry:?} {table:?}");
        }
    }

    #[test]
    fn a_line_needs_a_life_where_something_may_stand_between() {
        let any = Table::default();
        let at = |first, last| Table { breaks: Some((first, last)), ..any };
        let moved = |first, last| Table { rekeyed: Some((first, last)), ..any };
        let first = insert(1);
        for (entry, before, table, expected) in [
            (update(9), Some(&first), any, true),
            (insert(9), None, any, true),
            (insert(9), None, Table { goes_on: true, ..any }, false),
            (insert(9), None, at(3, 20), false),
            (insert(9), None, at(10, 20), true),
            (update(9), Some(&first), at(0, 5), false),
            (update(9), Some(&first), at(0, 0), true),
            (update(9), Some(&first), moved(10, 12), true),
            (update(9), Some(&first), moved(5, 12), false),
            (update(9), Some(&first), Table { is_spelled: true, ..any }, false),
            // positions run backwards, or it does not follow
            (update(1), Some(&first), any, false),
            (insert(9), Some(&first), any, false),
            (Entry { old: image(r#"{"a":"z"}"#), ..update(9) }, Some(&first), any, false),
            (Entry { may_change_key: true, ..update(9) }, Some(&first), any, false),
            (Entry { table: 2, ..update(9) }, Some(&first), any, false),
            (Entry { has_key: false, ..update(9) }, None, at(0, 20), true),
        ] {
            assert_eq!(entry.needs_no_life(before, &table), expected, "{entry:?} {table:?}");
        }
    }

    #[test]
    fn what_changed_has_both_sides() {
        let (old, new) = (image(r#"{"a":1.0,"b":"x","gone":1}"#), image(r#"{"a":1.00,"b":null,"come":2}"#));
        let shown = |action, old: &Option<Image>, new: &Option<Image>| {
            changed(action, old.as_ref(), new.as_ref()).map(|image| image.bytes().to_vec())
        };
        let expected = |json| Some(jsonb(json).expect("JSON"));
        assert_eq!(shown(Action::Update, &old, &new), expected(r#"{"b":{"new":null,"old":"x"}}"#));
        assert_eq!(shown(Action::Insert, &None, &image(r#"{"b":[1]}"#)), expected(r#"{"b":{"new":[1]}}"#));
        assert_eq!(shown(Action::Delete, &image(r#"{"b":2}"#), &None), expected(r#"{"b":{"old":2}}"#));
        assert_eq!(shown(Action::Read, &None, &new), None);
    }
}
