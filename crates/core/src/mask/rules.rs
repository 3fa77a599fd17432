//! Which values of a table are masked: columns, and members of `json` columns by the names that lead to them.

use super::how::How;
use std::collections::BTreeMap;

/// The masks of one table.
#[derive(Clone, Debug, Default)]
pub struct TableMasks {
    columns: BTreeMap<String, ColumnMask>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ColumnMask {
    Whole(How),
    /// Each with the names that lead to it.
    Members(Vec<(Vec<String>, How)>),
}

impl TableMasks {
    /// Of two that mask the same, the one that keeps less counts. A column's mask covers its members.
    pub fn add(&mut self, column: String, path: Vec<String>, how: How) {
        let there = self.columns.get_mut(&column);
        match (there, path.is_empty()) {
            (Some(ColumnMask::Whole(there)), true) => *there = how.min(*there),
            (Some(ColumnMask::Whole(_)), false) => {}
            (Some(ColumnMask::Members(members)), false) => match members.iter_mut().find(|(other, _)| *other == path) {
                Some((_, there)) => *there = how.min(*there),
                None => members.push((path, how)),
            },
            (_, true) => drop(self.columns.insert(column, ColumnMask::Whole(how))),
            (None, false) => drop(self.columns.insert(column, ColumnMask::Members(vec![(path, how)]))),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    pub(super) fn of(&self, column: &str) -> Option<&ColumnMask> {
        self.columns.get(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(masks: &mut TableMasks, masked: &str, how: How) {
        let mut names = masked.split("->").map(str::to_owned);
        masks.add(names.next().unwrap_or_default(), names.collect(), how);
    }

    #[test]
    fn a_column_covers_its_members() {
        for order in [["a", "a->b"], ["a->b", "a"]] {
            let mut masks = TableMasks::default();
            order.iter().for_each(|masked| add(&mut masks, masked, How::Hash));
            assert_eq!(masks.of("a"), Some(&ColumnMask::Whole(How::Hash)));
        }
    }

    #[test]
    fn the_mask_that_keeps_less_counts() {
        for order in [[How::Omit, How::Hash], [How::Hash, How::Omit]] {
            let mut masks = TableMasks::default();
            order.into_iter().for_each(|how| add(&mut masks, "a", how));
            order.into_iter().for_each(|how| add(&mut masks, "b->c->d", how));
            assert_eq!(masks.of("a"), Some(&ColumnMask::Whole(How::Omit)));
            assert_eq!(masks.of("b"), Some(&ColumnMask::Members(vec![(vec!["c".into(), "d".into()], How::Omit)])));
        }
    }
}
