//! How far a slot was read, stored and let go of, also where a transaction fails.

use super::position::{flushed_lsn, wait_for_standbys};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_void};

thread_local! {
    /// A slot that this transaction has created, and the subtransaction that would take it along.
    static CREATED: RefCell<Option<(CString, pg_sys::SubTransactionId)>> = const { RefCell::new(None) };
    /// What this transaction has read of a slot and stored, and the subtransaction that would take it along.
    static READ: RefCell<Option<(Pass, pg_sys::SubTransactionId)>> = const { RefCell::new(None) };
    static STORED: RefCell<Stored> = const { RefCell::new(Stored { on_disk: None, last: None }) };
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// One pass over a slot.
#[derive(Clone)]
pub struct Pass {
    pub slot: CString,
    /// What commits before this position is stored, and the log says so.
    pub read_to: u64,
}

/// What this session has stored of a slot.
struct Stored {
    /// The last pass that no crash takes back.
    on_disk: Option<Pass>,
    /// The last one, until it is on disk too, and where its commit ends in the WAL.
    last: Option<(Pass, u64)>,
}

impl Stored {
    fn add(&mut self, pass: Pass, commit_end: u64) {
        self.look_at_disk();
        self.last = Some((pass, commit_end));
    }

    fn look_at_disk(&mut self) {
        if let Some((pass, _)) = self.last.take_if(|(_, commit_end)| *commit_end <= flushed_lsn()) {
            self.on_disk = Some(pass);
        }
    }
}

/// PostgreSQL keeps a slot whose transaction is rolled back. This one goes with it.
pub(super) fn drop_slot_if_rolled_back(slot: &CStr) {
    CREATED.set(Some((slot.to_owned(), watched_subtransaction())));
}

/// What the pass has read is stored if this transaction commits.
pub fn note_read(pass: Pass) {
    READ.set(Some((pass, watched_subtransaction())));
}

/// This session's last pass whose entries are on disk. Only this may be let go of: a commit need not wait for the
/// disk, and a crash takes it along then.
pub fn stored_pass() -> Option<Pass> {
    STORED.with_borrow_mut(|stored| {
        stored.look_at_disk();
        stored.on_disk.clone()
    })
}

/// Is there a pass that is committed, and not on disk yet?
pub fn awaits_disk() -> bool {
    STORED.with_borrow_mut(|stored| {
        stored.look_at_disk();
        stored.last.is_some()
    })
}

fn watched_subtransaction() -> pg_sys::SubTransactionId {
    // SAFETY: we are in a transaction; the callbacks live as long as the process.
    unsafe {
        if !IS_WATCHED.replace(true) {
            pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_end_of_subtransaction), std::ptr::null_mut());
        }
        pg_sys::GetCurrentSubTransactionId()
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE};
    match event {
        XACT_EVENT_ABORT => {
            READ.set(None);
            drop_created();
        }
        XACT_EVENT_PREPARE => READ.set(None),
        XACT_EVENT_COMMIT => {
            CREATED.set(None);
            if let Some((pass, _)) = READ.take() {
                // SAFETY: reads backend-local state; of a transaction that wrote nothing it is the one before.
                let commit_end = unsafe { pg_sys::XactLastCommitEnd };
                STORED.with_borrow_mut(|stored| stored.add(pass, commit_end));
            }
        }
        XACT_EVENT_PRE_PREPARE if CREATED.with_borrow(Option::is_some) => {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "cannot PREPARE a transaction that has started capture"
            );
        }
        _ => {}
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_end_of_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    ended: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    let has_created = CREATED.with_borrow(|created| created.as_ref().is_some_and(|(_, within)| *within == ended));
    let has_read = READ.with_borrow(|read| read.as_ref().is_some_and(|(_, within)| *within == ended));
    match event {
        SUBXACT_EVENT_ABORT_SUB => {
            if has_read {
                READ.set(None);
            }
            if has_created {
                drop_created();
            }
        }
        SUBXACT_EVENT_COMMIT_SUB => {
            if has_read {
                READ.with_borrow_mut(|read| read.iter_mut().for_each(|(_, within)| *within = parent));
            }
            if has_created {
                CREATED.with_borrow_mut(|created| created.iter_mut().for_each(|(_, within)| *within = parent));
            }
        }
        _ => {}
    }
}

/// Lets go of what the slot held until this position, as a receiver of the stream does. Of what was peeked at, the slot
/// knows from where on it is to be read again (PostgreSQL source, `logical.c`, `LogicalConfirmReceivedLocation`).
/// pg_replication_slot_advance decodes it once more. What is stored instead must be on disk: here synchronous standbys
/// are waited for too.
pub fn confirm_slot(slot: &CStr, reached: u64) {
    wait_for_standbys();
    // SAFETY: we are in a transaction; an error lets go of the slot.
    unsafe {
        pg_sys::CheckSlotPermissions();
        #[cfg(not(feature = "pg18"))]
        pg_sys::ReplicationSlotAcquire(slot.as_ptr(), true);
        #[cfg(feature = "pg18")]
        pg_sys::ReplicationSlotAcquire(slot.as_ptr(), true, true);
        pg_sys::LogicalConfirmReceivedLocation(reached);
        pg_sys::ReplicationSlotMarkDirty();
        pg_sys::ReplicationSlotRelease();
    }
}

/// An error here would take the server down: only what is surely there and free is dropped.
fn drop_created() {
    let Some((name, _)) = CREATED.take() else { return };
    // SAFETY: slots are in shared memory and are dropped without a look at the catalogs.
    unsafe {
        if !pg_sys::MyReplicationSlot.is_null() {
            pg_sys::ReplicationSlotRelease();
        }
        let slot = pg_sys::SearchNamedReplicationSlot(name.as_ptr(), true);
        if !slot.is_null() && (*slot).active_pid == 0 {
            pg_sys::ReplicationSlotDrop(name.as_ptr(), true);
        }
    }
}
