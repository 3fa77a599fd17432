//! Foreign keys: which change waits for which, and which rows a change would take along.

use super::change::{Change, Direction};
use super::equal::folded;
use super::image::Image;
use super::table::{ForeignKey, Table};
use super::value::{Nulls, Other};
use std::collections::{HashMap, HashSet};

/// Both are places in the list of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wait {
    pub later: usize,
    pub earlier: usize,
    pub foreign_key: u32,
    /// The foreign key will have done the later one.
    pub is_cascade: bool,
    /// It is of the row whose key the earlier one changes: it refers to itself.
    pub is_same_row: bool,
}

/// Values of a row, null where it has not all of them, or one is null.
pub(super) fn values(image: Option<&Image>, table: &Table, columns: &[String]) -> Option<Vec<String>> {
    let value = |name: &String| {
        let value = image?.get(name).filter(|value| *value != "null")?;
        Some(folded(value, table.column(name)).into_owned())
    };
    columns.iter().map(value).collect()
}

/// Does the foreign key delete or change rows along?
pub(super) fn acts(key: &ForeignKey, from: &Image, to: Option<&Image>) -> bool {
    let Some(to) = to else { return key.deletes_along() };
    let changes = |name: &String| match (from.get(name), to.get(name)) {
        // another spelling is carried on too, though the values are equal
        (Some(before), Some(after)) => before != after,
        _ => false,
    };
    key.updates_along() && key.parent_columns.iter().any(changes)
}

/// A side of a foreign key that a change is of.
struct Side<'c> {
    place: usize,
    change: &'c Change<'c>,
    key: &'c ForeignKey,
    from: Option<Vec<String>>,
    to: Option<Vec<String>>,
    /// Of the row after the change, the key that rows refer to.
    new_key: Option<Vec<String>>,
    is_changed: bool,
    is_to_go: bool,
}

fn sides<'c>(tables: &'c [Table], changes: &'c [Change<'c>], direction: Direction, is_parent: bool) -> Vec<Side<'c>> {
    let mut sides = Vec::new();
    for (place, change) in changes.iter().enumerate() {
        let table = &tables[change.table];
        let (from, to) = direction.rows(change.old_row.as_ref(), change.new_row.as_ref());
        for key in if is_parent { &table.referred } else { &table.refers } {
            let columns = if is_parent { &key.parent_columns } else { &key.child_columns };
            let new_key = (is_parent || key.is_of_itself())
                .then(|| values(change.new_row.as_ref(), table, &key.parent_columns))
                .flatten();
            sides.push(Side {
                place,
                change,
                key,
                from: values(from, table, columns),
                to: values(to, table, columns),
                new_key,
                is_changed: columns.iter().any(|name| from.map(|row| row.get(name)) != to.map(|row| row.get(name))),
                is_to_go: to.is_none(),
            });
        }
    }
    sides
}

type ByValues<'s, 'c> = HashMap<(u32, Option<i64>, &'s Vec<String>), Vec<&'s Side<'c>>>;

fn of_parent<'s, 'c>(
    children: &ByValues<'s, 'c>,
    parent: &'s Side<'c>,
    values: &'s Option<Vec<String>>,
) -> Vec<&'s Side<'c>> {
    let find = |values| children.get(&(parent.key.id, parent.change.commit_lsn, values));
    let found = values.as_ref().and_then(find).into_iter().flatten();
    found.filter(|child| child.place != parent.place).copied().collect()
}

/// A row waits for the one that it will refer to. A row that goes waits for those that refer to it. What
/// ON UPDATE SET NULL or SET DEFAULT will do waits for its cause.
pub(super) fn waits(tables: &[Table], changes: &[Change], direction: Direction) -> Vec<Wait> {
    let children = sides(tables, changes, direction, false);
    let parents = sides(tables, changes, direction, true);
    let (mut by_from, mut by_to) = (ByValues::new(), ByValues::new());
    for child in &children {
        for (values, found) in [(&child.from, &mut by_from), (&child.to, &mut by_to)] {
            if let Some(values) = values {
                found.entry((child.key.id, child.change.commit_lsn, values)).or_default().push(child);
            }
        }
    }
    let mut waits = Vec::new();
    for parent in &parents {
        let is_same_row = |child: &Side| child.new_key.is_some() && child.new_key == parent.new_key;
        let is_after = |child: &Side| child.change.commit_idx > parent.change.commit_idx;
        let wait = |child: &Side, is_cascade, is_same_row| Wait {
            later: child.place,
            earlier: parent.place,
            foreign_key: parent.key.id,
            is_cascade,
            is_same_row,
        };
        if parent.is_changed {
            for child in of_parent(&by_to, parent, &parent.to) {
                let is_cascade = parent.key.on_update == 'c' && child.from.is_some() && child.from == parent.from;
                waits.push(wait(child, is_cascade, is_same_row(child) && is_after(child)));
            }
        }
        for child in of_parent(&by_from, parent, &parent.from) {
            if parent.is_to_go && child.to != parent.from {
                let (later, earlier) = (parent.place, child.place);
                waits.push(Wait { later, earlier, ..wait(child, false, false) });
            }
            let is_unset = match parent.key.on_update {
                'n' => child.to.is_none(),
                'd' => child.to != parent.to,
                _ => false,
            };
            let is_changed = parent.from.is_some() && parent.to.is_some() && parent.is_changed;
            if direction == Direction::Redo && is_after(child) && is_changed && is_unset {
                waits.push(wait(child, true, is_same_row(child)));
            }
        }
    }
    waits
}

/// A row that refers to itself gets its new key, and what the foreign key makes of the rest, at once. Of such
/// changes this gives the change that has the row before the first, and the one that has the row after the last.
pub(super) fn at_once(changes: &[Change], waits: &[Wait]) -> HashMap<usize, (usize, usize)> {
    let mut own: HashMap<usize, Vec<usize>> = HashMap::new();
    for wait in waits.iter().filter(|wait| wait.is_same_row) {
        own.entry(wait.earlier).or_default().push(wait.later);
    }
    let mut firsts: Vec<_> = own.keys().copied().collect();
    firsts.sort_unstable();
    let mut rows = HashMap::new();
    for first in firsts {
        let mut chain = vec![first];
        loop {
            let last = &changes[chain[chain.len() - 1]];
            let follows = |place: &&usize| {
                changes[**place].commit_idx > last.commit_idx && changes[**place].old_row == last.new_row
            };
            match own[&first].iter().filter(follows).min_by_key(|place| changes[**place].commit_idx) {
                Some(next) => chain.push(*next),
                None => break,
            }
        }
        let last = chain[chain.len() - 1];
        rows.extend(chain.iter().map(|place| (*place, (first, last))));
    }
    rows
}

/// Places of changes in the order in which they are to be undone or redone. Undo goes backwards through positions,
/// redo forwards: each statement meets the rows that the change left or found. What a foreign key did by itself,
/// such as ON DELETE CASCADE, was logged after the change of the row referred to; there it waits.
pub(super) fn in_order(changes: &[Change], waits: &[Wait], direction: Direction) -> Vec<usize> {
    let sign = if direction == Direction::Redo { 1 } else { -1 };
    let index = |place: usize| i64::from(changes[place].commit_idx.unwrap_or(i32::MAX)) * sign;
    let mut too_late: HashMap<usize, HashSet<usize>> = HashMap::new();
    for wait in waits.iter().filter(|wait| index(wait.earlier) > index(wait.later)) {
        too_late.entry(wait.later).or_default().insert(wait.earlier);
    }
    let mut behind = HashMap::new();
    for place in too_late.keys() {
        last_waited_for(*place, &too_late, &index, &mut behind, &mut HashSet::new());
    }
    let mut places: Vec<_> = (0..changes.len()).collect();
    places.sort_by_key(|place| {
        let change = &changes[*place];
        let (last, depth) = behind.get(place).copied().unwrap_or((index(*place), 0));
        (change.commit_lsn.unwrap_or(i64::MAX) * sign, last, depth, index(*place), change.change_id * sign)
    });
    places
}

/// The last of those that it waits for, also over others, and over how many.
fn last_waited_for(
    place: usize,
    too_late: &HashMap<usize, HashSet<usize>>,
    index: &impl Fn(usize) -> i64,
    known: &mut HashMap<usize, (i64, usize)>,
    above: &mut HashSet<usize>,
) -> Option<(i64, usize)> {
    if let Some(found) = known.get(&place) {
        return Some(*found);
    }
    let earlier = too_late.get(&place)?;
    if above.len() > MOST_WAITS || !above.insert(place) {
        return None; // in a circle
    }
    let found = earlier.iter().map(|earlier| {
        let (last, depth) = last_waited_for(*earlier, too_late, index, known, above).unwrap_or((i64::MIN, 0));
        (last.max(index(*earlier)), depth + 1)
    });
    let found = found.fold((i64::MIN, 0), |one, two| (one.0.max(two.0), one.1.max(two.1)));
    above.remove(&place);
    known.insert(place, found);
    Some(found)
}

/// Deeper than foreign keys go; it bounds the stack.
const MOST_WAITS: usize = 1000;

/// The row that others may refer to, as a guard names it.
pub(super) enum Referred<'a> {
    /// By its values.
    Row(&'a Image<'a>),
    /// It is `t` of the statement.
    OfSet(&'a Image<'a>),
}

/// What a change is meant to take along.
#[derive(Default)]
pub(super) struct Along {
    /// Conditions by the table that refers.
    pub rows: HashMap<u32, String>,
    /// How many at most, by foreign key, where rows may be equal.
    pub numbers: HashMap<u32, usize>,
}

/// "No row refers to this one which a delete, or another key, would take along, or change", but for those that are
/// meant.
pub(super) fn guard(table: &Table, referred: &Referred, to: Option<&Image>, along: &Along) -> String {
    let (Referred::Row(from) | Referred::OfSet(from)) = *referred;
    let value = |place: usize, key: &ForeignKey| {
        let own = (&key.parent_columns[place], &key.parent_quoted[place]);
        match (referred, from.get(own.0), table.column(own.0)) {
            (Referred::OfSet(_), ..) => format!("t.{}", own.1),
            (_, Some(value), Some(column)) => match &column.r#type {
                Some(name) if column.is_plain && key.operators[place] != "=" => {
                    format!("{}::{name}", column.literal(value))
                }
                _ => column.literal(value),
            },
            _ => format!("{}.{}", table.name, own.1),
        }
    };
    let mut guard = String::new();
    for key in table.referred.iter().filter(|key| acts(key, from, to)) {
        let refers: Vec<_> = (0..key.parent_columns.len())
            .map(|place| {
                let (operator, child) = (&key.operators[place], &key.child_quoted[place]);
                format!("{}{} {operator} r.{child}", value(place, key), key.collations[place])
            })
            .collect();
        let refers = format!("FROM {} AS r WHERE {}", key.child_name, refers.join(" AND "));
        guard += &format!(" AND NOT EXISTS (SELECT {refers}");
        if key.is_of_itself() && !table.key.is_empty() {
            let is_itself: Vec<_> = table
                .key
                .iter()
                .filter_map(|name| table.column(name))
                .map(|column| match (referred, from.get(&column.name)) {
                    (Referred::Row(_), Some(value)) => column.is("r.", &Other::Value(value)),
                    _ => {
                        let alias = if matches!(referred, Referred::OfSet(_)) { "t" } else { &table.name };
                        let name = format!("{alias}.{}", column.quoted);
                        column.is("r.", &Other::Column { name, nulls: Nulls::None })
                    }
                })
                .collect();
            guard += &format!(" AND ({}) IS NOT TRUE", is_itself.join(" AND ")); // it goes with it
        }
        if let Some(meant) = along.rows.get(&key.child_root) {
            guard += &format!(" AND ({meant}) IS NOT TRUE");
        }
        guard.push(')');
        if let Some(number) = along.numbers.get(&key.id) {
            guard += &format!(" AND (SELECT count(*) {refers}) <= {number}");
        }
    }
    guard
}
