//! Errors as values, with what was done before them rolled back or not.

use pgrx::PgTryBuilder;
use pgrx::pg_sys::{self, panic::CaughtError};
use std::panic::AssertUnwindSafe;

/// Runs `work` in a subtransaction. On an error everything that it did is rolled back and the error is
/// returned; the transaction goes on. As PL/pgSQL does for EXCEPTION (PostgreSQL source,
/// `pl_exec.c`, `exec_stmt_block`).
pub fn subtransaction<T>(work: impl FnOnce() -> T) -> Result<T, CaughtError> {
    within(work, true)
}

/// Runs `work` in a subtransaction and rolls it back in any case: the locks that it took are let go.
pub fn rolled_back<T>(work: impl FnOnce() -> T) -> T {
    tried(work).unwrap_or_else(|error| error.rethrow())
}

/// The same, with an error as a value.
pub fn tried<T>(work: impl FnOnce() -> T) -> Result<T, CaughtError> {
    within(work, false)
}

/// An error of `work` as a value, to be raised in other words. Nothing is rolled back: the caller must raise.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, CaughtError> {
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(work()))).catch_others(Err).execute()
}

fn within<T>(work: impl FnOnce() -> T, keep: bool) -> Result<T, CaughtError> {
    // SAFETY: we are in a valid transaction, since PostgreSQL called us; context and owner are put back below.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        let value = work();
        if keep {
            // SAFETY: the subtransaction begun above is the current one: `work` leaves none open.
            unsafe { pg_sys::ReleaseCurrentSubTransaction() };
        }
        Ok(value)
    }))
    .catch_others(Err)
    .execute();
    // SAFETY: after an error PostgreSQL's error state is flushed; pgrx has copied it. The subtransaction is still
    // current, since releasing it is the last that can fail above.
    unsafe {
        if result.is_err() || !keep {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    result
}
