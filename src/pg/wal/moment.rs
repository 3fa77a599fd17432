//! Positions of the WAL of which is known what later statements see.

use crate::pg::check_for_interrupts;
use pgrx::pg_sys;
use std::time::Duration;

/// So long until a commit that is under way is looked at again.
const NAP: Duration = Duration::from_millis(1);

/// A position in the WAL of which is known what later statements see: all that was committed before it.
pub struct Moment {
    pub lsn: u64,
    /// Microseconds since 2000-01-01.
    pub time: i64,
    before: pg_sys::Snapshot,
}

impl Moment {
    /// A commit is written to the WAL first, then noted as committed, and then seen by others. Whoever is between these
    /// steps is waited for (PostgreSQL source, `xact.c`, `RecordTransactionCommit`, and `xlog.c`, `CreateCheckPoint`,
    /// which waits likewise).
    pub fn now() -> Self {
        // SAFETY: we are in a transaction; the snapshot is registered, so it stays until `drop`.
        let moment = unsafe {
            let before = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            Self { before, lsn: pg_sys::GetXLogInsertRecPtr(), time: pg_sys::GetCurrentTimestamp() }
        };
        wait_for_commits();
        moment
    }

    /// Was `xid`, whose rows are seen now, committed before this moment? A frozen row has an old number, which may
    /// be given to another transaction by now. That one has not committed; otherwise the row would not be seen.
    pub fn is_after(&self, xid: u32) -> bool {
        let xid = pg_sys::TransactionId::from(xid);
        // SAFETY: the snapshot is registered; the rest reads shared memory.
        unsafe {
            !pg_sys::XidInMVCCSnapshot(xid, self.before)
                || !pg_sys::TransactionIdPrecedes(xid, pg_sys::ReadNextTransactionId())
                || !pg_sys::TransactionIdDidCommit(xid)
        }
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        // after an error the end of the transaction does it
        if !std::thread::panicking() {
            // SAFETY: registered by `now`, under the same resource owner.
            unsafe { pg_sys::UnregisterSnapshot(self.before) };
        }
    }
}

/// Until all that the WAL says is committed is seen by who looks after that.
pub fn wait_for_commits() {
    wait_until_noted();
    wait_until_seen();
}

fn wait_until_noted() {
    let kind = pg_sys::DELAY_CHKPT_START as i32;
    let mut count = 0;
    // SAFETY: the list is palloced, and of `count` elements.
    unsafe {
        let committing = pg_sys::GetVirtualXIDsDelayingChkpt(&mut count, kind);
        while pg_sys::HaveVirtualXIDsDelayingChkpt(committing, count, kind) {
            nap();
        }
    }
}

fn wait_until_seen() {
    // SAFETY: the snapshot is used up before another is taken; xip has xcnt elements.
    let (mut running, mut next, end) = unsafe {
        let snapshot = pg_sys::GetLatestSnapshot();
        let running = match (*snapshot).xcnt {
            0 => Vec::new(),
            count => std::slice::from_raw_parts((*snapshot).xip, count as usize).to_vec(),
        };
        (running, (*snapshot).xmax, pg_sys::ReadNextTransactionId())
    };
    while next != end {
        running.push(next);
        next = pg_sys::TransactionId::from(
            next.into_inner().wrapping_add(1).max(pg_sys::FirstNormalTransactionId.into_inner()),
        );
    }
    for xid in running {
        // SAFETY: reads shared memory.
        while unsafe { pg_sys::TransactionIdDidCommit(xid) && pg_sys::TransactionIdIsInProgress(xid) } {
            nap();
        }
    }
}

fn nap() {
    check_for_interrupts();
    std::thread::sleep(NAP);
}
