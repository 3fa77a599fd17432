//! One poison row must not take its batch with it.

use super::subtransaction;
use crate::pg::CaughtError;
use audit_core::Reject;

/// How errors over data are met.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Whatever fails, fails as a whole: the caller runs it again with each isolated.
    AtOnce,
    Each,
}

/// Runs `work` with nothing isolated in it, and where that fails on data, rolls it back and runs it again. Of a
/// transaction with thousands of subtransactions, whoever decodes it holds the first changes of each in memory at
/// once (PostgreSQL source, `reorderbuffer.c`, `ReorderBufferIterTXNInit`).
pub fn at_once_or_isolated<R>(judge: fn(&CaughtError) -> Option<Reject>, mut work: impl FnMut(Isolation) -> R) -> R {
    match subtransaction(|| work(Isolation::AtOnce)) {
        Ok(result) => result,
        Err(error) if judge(&error).is_some() => work(Isolation::Each),
        Err(error) => error.rethrow(),
    }
}

/// Runs `work` over all of `items`, and where that fails on data, over its halves. A single item that fails goes to
/// `refuse`. Order is kept. `judge` tells why an item is to be refused; for `None` (disk, memory, cancel, connection,
/// deadlock) the error is raised: the caller must not acknowledge.
pub fn isolated<T, R>(
    isolation: Isolation,
    items: &[T],
    judge: &impl Fn(&CaughtError) -> Option<Reject>,
    work: &mut impl FnMut(&[T]) -> R,
    done: &mut Vec<R>,
    refuse: &mut impl FnMut(&T, Reject),
) {
    if items.is_empty() {
        return;
    }
    if isolation == Isolation::AtOnce {
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
                isolated(isolation, left, judge, work, done, refuse);
                isolated(isolation, right, judge, work, done, refuse);
            }
        },
    }
}
