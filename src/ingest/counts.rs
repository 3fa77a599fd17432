//! What became of the messages of one call.

use pgrx::prelude::*;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub inserted: i64,
    pub duplicates: i64,
    pub rejected: i64,
}

impl Counts {
    pub fn row(self) -> TableIterator<'static, (i64, i64, i64, i64)> {
        let received = self.inserted + self.duplicates + self.rejected;
        TableIterator::once((received, self.inserted, self.duplicates, self.rejected))
    }
}
