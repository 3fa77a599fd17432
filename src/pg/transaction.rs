//! The current transaction: what it sees, and when.

use pgrx::pg_sys;

/// Is this session inside `BEGIN … COMMIT`, or in a query of several statements?
pub fn in_transaction_block() -> bool {
    // SAFETY: reads backend-local transaction state; callable in any transaction state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// REPEATABLE READ and above see only what was there when the transaction began.
pub fn snapshot_is_fixed() -> bool {
    // SAFETY: reads backend-local transaction state.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// The time, in microseconds since 2000-01-01.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Runs `work`, which sees what others have committed until now.
pub fn with_new_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: taken away below; after an error the end of the transaction does it.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = work();
    // SAFETY: the one pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// The same, also where the transaction sees only what was there when it began.
pub fn with_latest_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: copied, and taken away below; after an error the end of the transaction does it.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let result = work();
    // SAFETY: the one pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// Lets a cancelled statement end here.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Takes note of tables that other sessions have made meanwhile, also where this session holds the locks
/// whose taking would tell it (PostgreSQL source, `lmgr.c`, `LockRelationOid`).
pub fn notice_new_tables() {
    // SAFETY: we are in a transaction and no catalog scan of ours is open.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}
