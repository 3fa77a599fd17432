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
    /// The first one counts where two mask the same. A column's mask covers its members.
    pub fn add(&mut self, column: String, path: Vec<String>, how: How) {
        let there = self.columns.get_mut(&column);
        match (there, path.is_empty()) {
            (Some(ColumnMask::Whole(_)), _) => {}
            (Some(ColumnMask::Members(members)), false) => members.push((path, how)),
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

    pub(super) fn is_whole(&self, column: &str) -> bool {
        matches!(self.of(column), Some(ColumnMask::Whole(_)))
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
    fn the_first_mask_of_a_column_counts() {
        let mut masks = TableMasks::default();
        add(&mut masks, "a", How::Omit);
        add(&mut masks, "a", How::Hash);
        add(&mut masks, "b->c->d", How::Partial);
        assert!(masks.is_whole("a") && masks.of("a") == Some(&ColumnMask::Whole(How::Omit)));
        assert_eq!(masks.of("b"), Some(&ColumnMask::Members(vec![(vec!["c".into(), "d".into()], How::Partial)])));
    }
}
