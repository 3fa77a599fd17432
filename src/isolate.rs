//! One poison row must not take its batch with it.

use crate::message::Reject;
use crate::pg::{CaughtError, subtransaction};
use std::cell::Cell;

thread_local! {
    /// Is everything tried at once, so that nothing is isolated?
    static AT_ONCE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` with nothing isolated in it, and where that fails on data, rolls it back and runs it again. Of a transaction with thousands of
/// subtransactions, whoever decodes it holds the first changes of each in memory at once (PostgreSQL source, `reorderbuffer.c`, `ReorderBufferIterTXNInit`).
pub fn at_once_or_isolated<R>(judge: fn(&CaughtError) -> Option<Reject>, mut work: impl FnMut() -> R) -> R {
    AT_ONCE.set(true);
    let result = subtransaction(&mut work);
    AT_ONCE.set(false);
    result.unwrap_or_else(|error| if judge(&error).is_some() { work() } else { error.rethrow() })
}

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
    if AT_ONCE.get() {
        done.push(work(items));
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
