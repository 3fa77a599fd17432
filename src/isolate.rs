//! One poison row must not take its batch with it.

use crate::message::Reject;
use crate::pg::{CaughtError, subtransaction};

/// Runs `work` over all of `items`, and where that fails on data, over its halves, until what is left is
/// a single item that fails: that one goes to `refuse`. Order is kept. `judge` tells why an item is to be refused;
/// for `None` (disk, memory, cancel, connection, deadlock) the error is raised: the caller must not acknowledge.
pub fn isolated<T, R>(
    items: &[T],
    judge: fn(&CaughtError) -> Option<Reject>,
    work: &mut impl FnMut(&[T]) -> R,
    done: &mut Vec<R>,
    refuse: &mut impl FnMut(&T, Reject),
) {
    if items.is_empty() {
        return;
    }
    match subtransaction(|| work(items)) {
        Ok(result) => done.push(result),
        Err(error) => match (judge(&error), items) {
            (None, _) => error.rethrow(),
            (Some(reject), [single]) => refuse(single, reject),
            (Some(_), _) => {
                let (left, right) = items.split_at(items.len() / 2);
                isolated(left, judge, work, done, refuse);
                isolated(right, judge, work, done, refuse);
            }
        },
    }
}
