//! Changes in the order in which they are to be done.

use super::statement::Row;
use super::table::Table;

/// A change in the order in which it is to be done.
pub(super) struct Todo<'a> {
    pub place: usize,
    /// The change that it is one with.
    pub also: Option<usize>,
    pub change_id: i64,
    pub table: &'a Table,
    pub row: Row<'a>,
    pub problem: Option<String>,
    /// A foreign key does it, or does others with it.
    pub is_along: bool,
    /// A foreign key may have done it already.
    pub may_be_so: bool,
    pub guard: String,
}
