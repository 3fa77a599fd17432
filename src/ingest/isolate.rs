//! One poison message must not take its batch with it.

use crate::message::Reject;
use crate::pg::{CaughtError, subtransaction};
use crate::sqlstate::SqlState;

/// Runs `work` over all of `items`, and where that fails on data, over its halves, until what is left is
/// a single item that fails: that one goes to `refuse`. Order is kept. Any other error (disk, memory, cancel,
/// connection, deadlock) is raised: the caller must not acknowledge.
pub fn isolated<T, R>(
    items: &[T],
    work: &mut impl FnMut(&[T]) -> R,
    done: &mut Vec<R>,
    refuse: &mut impl FnMut(&T, Reject),
) {
    if items.is_empty() {
        return;
    }
    match subtransaction(|| work(items)) {
        Ok(result) => done.push(result),
        Err(error) => match (refusal(&error), items) {
            (None, _) => error.rethrow(),
            (Some(reject), [single]) => refuse(single, reject),
            (Some(_), _) => {
                let (left, right) = items.split_at(items.len() / 2);
                isolated(left, work, done, refuse);
                isolated(right, work, done, refuse);
            }
        },
    }
}

/// The errors that a message's own data cause: classes 22 (data exception), 23 (integrity
/// constraint violation) and 54 (program limit exceeded). The DETAIL is left out: it may quote the row.
pub fn refusal(error: &CaughtError) -> Option<Reject> {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else { return None };
    let sqlstate = SqlState::unpacked(report.sql_error_code() as i32);
    if !matches!(sqlstate.class(), b"22" | b"23" | b"54") {
        return None;
    }
    let reject = Reject::new(sqlstate, report.message().to_owned());
    Some(match &sqlstate.0 {
        b"22P05" => reject.hint("A json column of the source holds \\u0000, which PostgreSQL's jsonb cannot hold."),
        b"22P02" => {
            reject.hint("A string of the row holds half of a surrogate pair, or is otherwise no valid Unicode.")
        }
        b"54001" => reject.hint("The row's JSON is nested too deeply; see max_stack_depth."),
        _ => reject,
    })
}
