//! What filling a projection and feeding it what is new have to know of each other.

use super::run::run_text;
use crate::pg::Statement;
use std::cell::RefCell;

thread_local! {
    static LAST_ID: Statement = const { Statement::new("SELECT audit_cdc_internal.last_log_id()", &[]) };

    /// What this session fills: its own locks do not keep it away.
    static FILLING: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };
}

/// Until the transaction ends nothing is stored, and all that was is committed. Returns the last entry's id.
pub fn settle() -> i64 {
    run_text("LOCK TABLE ONLY audit_cdc_internal.log IN SHARE MODE");
    last_log_id()
}

pub fn last_log_id() -> i64 {
    number(&LAST_ID)
}

pub fn number(statement: &'static std::thread::LocalKey<Statement>) -> i64 {
    statement.with(|statement| statement.run(Vec::new, |rows| Ok(rows.first().get_one()?.unwrap_or(0))))
}

/// Runs `work`, in which what this session stores waits for `projection`.
pub fn while_filling<T>(projection: i32, work: impl FnOnce() -> T) -> T {
    struct UntilTheEnd;
    impl Drop for UntilTheEnd {
        fn drop(&mut self) {
            FILLING.with(|filling| filling.borrow_mut().pop());
        }
    }
    FILLING.with(|filling| filling.borrow_mut().push(projection));
    let _until_the_end = UntilTheEnd;
    work()
}

/// Does this session fill the projection, in a call around this one?
pub fn is_filled_here(projection: i32) -> bool {
    FILLING.with(|filling| filling.borrow().contains(&projection))
}
