//! How far the WAL goes.

use pgrx::pg_sys;

/// Of a page (PostgreSQL source, `xlog_internal.h`, `XLogLongPageHeaderData`).
const LONGEST_HEADER: u64 = 40;

pub fn is_in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Up to here the WAL is on disk.
pub fn flushed_lsn() -> u64 {
    // SAFETY: reads shared memory; the timeline is not asked for.
    unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) }
}

/// Brings the WAL to disk. A commit need not have done that (synchronous_commit = off), and PostgreSQL, reading a
/// slot, waits for a record whose beginning alone is there.
pub fn flush_wal() {
    // SAFETY: the position is one that was written: where a page has just begun, its header is not there yet.
    unsafe {
        let inserted = pg_sys::GetXLogInsertRecPtr();
        let within_page = inserted % u64::from(pg_sys::XLOG_BLCKSZ);
        pg_sys::XLogFlush(if within_page <= LONGEST_HEADER { inserted - within_page } else { inserted });
    }
}

/// The transaction's commit waits for the disk, whatever synchronous_commit says.
pub fn commit_to_disk() {
    // SAFETY: sets a flag of the transaction that we are in.
    unsafe { pg_sys::ForceSyncCommit() }
}

/// Until synchronous standbys have what is on disk here, as a commit waits for them under these settings.
pub fn wait_for_standbys() {
    // SAFETY: as where a transaction commits (PostgreSQL source, `xact.c`), interrupts are held off, and served later.
    unsafe {
        pg_sys::InterruptHoldoffCount += 1;
        pg_sys::SyncRepWaitForLSN(flushed_lsn(), true);
        pg_sys::InterruptHoldoffCount -= 1;
    }
    // who was told to end has not waited for them
    pgrx::check_for_interrupts!();
}

/// From such a record a slot can begin to read (as `pg_log_standby_snapshot()`, which PostgreSQL 15 does not have).
pub fn log_running_transactions() {
    // SAFETY: not in recovery, since nothing is captured there; wal_level is logical.
    unsafe { pg_sys::LogStandbySnapshot() };
}
