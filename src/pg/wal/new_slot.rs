//! A new slot that begins at a position of its own.

use super::slot::drop_slot_if_rolled_back;
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_int};

// PostgreSQL's own ways to read its WAL (PostgreSQL source, `xlogutils.h`), which it wants as C functions
unsafe extern "C-unwind" {
    fn read_local_xlog_page(
        state: *mut pg_sys::XLogReaderState,
        page: pg_sys::XLogRecPtr,
        length: c_int,
        record: pg_sys::XLogRecPtr,
        buffer: *mut c_char,
    ) -> c_int;
    fn wal_segment_open(
        state: *mut pg_sys::XLogReaderState,
        segment: pg_sys::XLogSegNo,
        timeline: *mut pg_sys::TimeLineID,
    );
    fn wal_segment_close(state: *mut pg_sys::XLogReaderState);
}

/// Makes a slot for our output plugin, as pg_create_logical_replication_slot does (PostgreSQL source,
/// `slotfuncs.c`). Waits until it can be read from, and returns that position. The slot goes with a rollback.
/// failover: standbys keep it too, if the release knows that.
///
/// Where others do DDL meanwhile, PostgreSQL begins and ends subtransactions in here. It goes on under another
/// memory context and resource owner, and the statement around it fails, unless they are put back.
#[cfg_attr(any(feature = "pg15", feature = "pg16"), allow(unused_variables))]
pub fn new_slot(name: &CStr, failover: bool) -> u64 {
    // SAFETY: we are in a transaction, with which a slot goes that an error leaves.
    unsafe {
        let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::CheckSlotPermissions();
        pg_sys::CheckLogicalDecodingRequirements();
        let persistency = pg_sys::ReplicationSlotPersistency::RS_EPHEMERAL;
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        pg_sys::ReplicationSlotCreate(name.as_ptr(), true, persistency, false);
        // a standby that copies slots (sync_replication_slots) can go on after its promotion
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        pg_sys::ReplicationSlotCreate(name.as_ptr(), true, persistency, false, failover, false);
        // not sooner: another's slot of this name is not ours to drop
        drop_slot_if_rolled_back(name);
        let mut reading = pg_sys::XLogReaderRoutine {
            page_read: Some(read_local_xlog_page),
            segment_open: Some(wal_segment_open),
            segment_close: Some(wal_segment_close),
        };
        let decoding = pg_sys::CreateInitDecodingContext(
            c"audit_cdc".as_ptr(),
            std::ptr::null_mut(),
            false,
            u64::from(pg_sys::InvalidXLogRecPtr),
            &mut reading,
            None,
            None,
            None,
        );
        pg_sys::DecodingContextFindStartpoint(decoding);
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
        pg_sys::FreeDecodingContext(decoding);
        pg_sys::ReplicationSlotPersist();
        let start = (*pg_sys::MyReplicationSlot).data.confirmed_flush;
        pg_sys::ReplicationSlotRelease();
        start
    }
}
