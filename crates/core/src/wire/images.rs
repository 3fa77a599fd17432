//! What a change says of its row: the values after it, the values before it, and what of both was not sent.

use super::protocol::{Filter, Message, Old, Omitted, Value};
use super::relation::Table;
use crate::message::Action;
use std::borrow::Cow;

/// What happened to a row, or to all of them.
#[derive(Clone, Copy)]
pub enum Event<'r> {
    Inserted(&'r [Value<'r>]),
    /// A backfill has found it.
    Read(&'r [Value<'r>]),
    Updated(Filter, Option<&'r Old<'r>>, &'r [Value<'r>]),
    Deleted(&'r Old<'r>),
    Truncated,
}

impl<'r> Event<'r> {
    /// With its place in the transaction. `None`: the message tells of something else.
    pub fn of(message: &'r Message<'r>) -> Option<(u32, Self)> {
        Some(match message {
            Message::Insert { idx, new, .. } => (*idx, Self::Inserted(new)),
            Message::Update { idx, filter, old, new, .. } => (*idx, Self::Updated(*filter, old.as_ref(), new)),
            Message::Delete { idx, old, .. } => (*idx, Self::Deleted(old)),
            Message::Truncate { idx, .. } => (*idx, Self::Truncated),
            _ => return None,
        })
    }
}

/// Values and indexes of a table's columns.
pub struct Images<'r> {
    pub action: Action,
    pub record: Option<Cow<'r, [Value<'r>]>>,
    /// The record has the primary key's values.
    pub has_key: bool,
    /// By index: values that are others now.
    pub changes: Option<Vec<Option<Value<'r>>>>,
    pub unknown: Vec<usize>,
    pub unknown_old: Vec<usize>,
    pub notes: Notes<'r>,
    /// What the images do not hold, as JSON.
    pub exact_values: Option<String>,
}

/// What else is to be known of a change.
#[derive(Default)]
pub struct Notes<'r> {
    /// Values that were too large to carry, by index.
    pub omitted: Vec<(usize, Omitted<'r>)>,
    pub omitted_old: Vec<(usize, Omitted<'r>)>,
    pub row_filter: Option<&'static str>,
}

impl<'r> Images<'r> {
    pub fn of(table: &Table, event: Event<'r>) -> Self {
        let images = Self::told(table, event);
        if table.exact.is_empty() { images } else { images.exactly(table) }
    }

    fn told(table: &Table, event: Event<'r>) -> Self {
        match event {
            Event::Inserted(row) => Self::after(Action::Insert, row),
            Event::Read(row) => Self::after(Action::Read, row),
            Event::Updated(filter, old, new) => Self::between(table, filter, old, new),
            Event::Deleted(Old::Row(row)) => Self::before(row, |_| true),
            Event::Deleted(Old::Key(row)) => {
                let has_key = table.key.iter().flatten().all(|index| table.is_identity(*index));
                Self { has_key, ..Self::before(row, |index| table.is_identity(*index)) }
            }
            Event::Truncated => Self::none(Action::Truncate),
        }
    }

    /// The row after a change.
    fn after(action: Action, row: &'r [Value<'r>]) -> Self {
        let omitted = omitted(row);
        let unknown = omitted.iter().map(|(index, _)| *index).collect();
        let notes = Notes { omitted, ..Notes::default() };
        Self { record: Some(Cow::Borrowed(row)), has_key: true, unknown, notes, ..Self::none(action) }
    }

    /// A deleted row. Without `is_known` nothing is known of a column.
    fn before(row: &'r [Value<'r>], is_known: impl Fn(&usize) -> bool) -> Self {
        let notes = Notes { omitted_old: omitted(row), ..Notes::default() };
        let is_unknown = |index: &usize| !is_known(index) || matches!(row[*index], Value::Omitted(_));
        let unknown: Vec<usize> = (0..row.len()).filter(is_unknown).collect();
        Self {
            record: Some(Cow::Borrowed(row)),
            has_key: true,
            unknown_old: unknown.clone(),
            unknown,
            notes,
            ..Self::none(Action::Delete)
        }
    }

    /// With FULL the old row fills in what was not sent again; changes are what differs. With a key only the old key is
    /// known, and without either the old row has the key of the new one.
    fn between(table: &Table, filter: Filter, old: Option<&'r Old<'r>>, new: &'r [Value<'r>]) -> Self {
        let (before, is_whole): (&[Value], bool) = match old {
            Some(Old::Row(row)) => (row, true),
            Some(Old::Key(row)) => (row, false),
            None => (&[], false),
        };
        let omitted_old = omitted(before);
        let before = |index: usize| before.get(index).filter(|_| is_whole || table.is_identity(index));
        let mut after = Cow::Borrowed(new);
        let mut changes = vec![None; new.len()];
        let (mut unknown, mut unknown_old) = (Vec::new(), Vec::new());
        for (index, new) in new.iter().enumerate() {
            let old = before(index);
            match (new, old) {
                (Value::Unchanged, Some(old)) if *old != Value::Unchanged => after.to_mut()[index] = *old,
                (Value::Unchanged, _) => unknown.push(index),
                _ => {}
            }
            if matches!(after[index], Value::Omitted(_)) {
                unknown.push(index);
            }
            // without an old key the key did not change
            if old.map_or(!table.is_identity(index), |old| matches!(old, Value::Omitted(_))) {
                unknown_old.push(index);
            }
            changes[index] = old.filter(|old| **old != after[index]).copied();
        }
        let row_filter = match filter {
            Filter::Stayed => None,
            Filter::Left => Some("left"),
            Filter::Entered => Some("entered"),
        };
        let notes = Notes { omitted: omitted(&after), omitted_old, row_filter };
        Self {
            record: Some(after),
            has_key: true,
            changes: Some(changes),
            unknown,
            unknown_old,
            notes,
            ..Self::none(Action::Update)
        }
    }

    fn none(action: Action) -> Self {
        let notes = Notes::default();
        Self {
            action,
            record: None,
            has_key: false,
            changes: None,
            unknown: Vec::new(),
            unknown_old: Vec::new(),
            notes,
            exact_values: None,
        }
    }

    /// The primary key's values, if the record has them all.
    pub fn key<'s>(&'s self, table: &'s Table) -> Option<impl Iterator<Item = &'r str> + 's> {
        let row = self.record.as_ref().filter(|_| self.has_key)?;
        let text = |index: &usize| row.get(*index).and_then(Value::text);
        let key = table.key.as_ref().filter(|key| !key.is_empty() && key.iter().all(|index| text(index).is_some()))?;
        Some(key.iter().filter_map(text))
    }

    /// It tells of a row after, or before, the change.
    pub fn has_row(&self) -> bool {
        self.record.is_some()
    }

    pub fn has_old_row(&self) -> bool {
        matches!(self.action, Action::Update | Action::Delete)
    }
}

/// Without memory where there are none.
fn omitted<'r>(row: &[Value<'r>]) -> Vec<(usize, Omitted<'r>)> {
    let omitted = |(index, value): (usize, &Value<'r>)| match value {
        Value::Omitted(omitted) => Some((index, *omitted)),
        _ => None,
    };
    row.iter().enumerate().filter_map(omitted).collect()
}
