use pgrx::pg_sys;

/// Up to here the WAL is on disk.
pub fn flushed_lsn() -> u64 {
    // SAFETY: reads shared memory; the timeline is not asked for.
    unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) }
}

/// Up to here WAL has been written, if not to disk.
pub fn inserted_lsn() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetXLogInsertRecPtr() }
}

/// From such a record a slot can begin to read (as `pg_log_standby_snapshot()`, which PostgreSQL 15 does not have).
pub fn log_running_transactions() {
    // SAFETY: not in recovery, since nothing is captured there; wal_level is logical.
    unsafe { pg_sys::LogStandbySnapshot() };
}
