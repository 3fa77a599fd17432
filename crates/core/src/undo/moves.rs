//! Rows that went from one partition to another: the log has a delete and an insert, which PostgreSQL made of one
//! update. Foreign keys see an update too.

use super::change::{Action, Change};
use super::table::Table;
use super::waits::values;
use std::collections::HashMap;

/// From the place of the delete to that of the insert.
pub(super) fn moves(tables: &[Table], changes: &[Change]) -> HashMap<usize, usize> {
    let mut places: Vec<_> = (0..changes.len()).collect();
    places.sort_by_key(|place| (changes[*place].commit_lsn, changes[*place].commit_idx));
    let pairs = places.windows(2).map(|pair| (pair[0], pair[1]));
    pairs.filter(|(gone, come)| is_move(tables, &changes[*gone], &changes[*come])).collect()
}

fn is_move(tables: &[Table], gone: &Change, come: &Change) -> bool {
    let (from, to) = (&tables[gone.table], &tables[come.table]);
    let key = |change: &Change, table: &Table| {
        values(change.old_row.as_ref().or(change.new_row.as_ref()), table, &table.key).filter(|key| !key.is_empty())
    };
    (gone.action, come.action) == (Action::Delete, Action::Insert)
        && gone.commit_lsn.is_some()
        && gone.commit_lsn == come.commit_lsn
        && gone.commit_idx.zip(come.commit_idx).is_some_and(|(one, two)| two == one + 1)
        && from.is_here()
        && from.root == to.root
        && from.relation != to.relation
        && key(gone, from).is_some_and(|one| key(come, to) == Some(one))
}
