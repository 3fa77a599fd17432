//! The only place with `unsafe`: what PostgreSQL offers and pgrx does not wrap.
#![allow(unsafe_code)]

mod board;
mod bound;
mod call;
mod ending;
mod event;
mod guc;
mod lock;
mod log_rows;
mod memory;
mod moment;
mod new_slot;
mod partition;
mod pinned;
mod plugin;
mod portal;
mod progress;
mod removal;
mod role;
mod row;
mod slot;
mod subtransaction;
mod texts;
mod timeout;
mod type_input;
mod user;
mod value;
mod wal;
mod worker;
mod writer;

pub use board::{desk, is_preloaded};
pub use bound::{BoundStatement, Meaning, Object, Strangers, guard_names};
pub use call::Call;
pub use event::Event;
pub use lock::{
    lock_capture, lock_log, lock_partitions, lock_projection, lock_retry, lock_schema_name, lock_table, lock_to_read,
    try_keep_schema_name, try_lock_partitions, try_lock_table, try_share_projection,
};
pub use log_rows::{LogRow, feeding, log_rows, return_fed_rows};
pub use memory::keep_freed_memory;
pub use moment::{Moment, wait_for_commits};
pub use new_slot::new_slot;
pub use partition::{Found, Partition, is_partition, with_partition};
pub use pgrx::pg_sys::BuiltinOid;
pub use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
pub use pinned::{pinned, pinned_settings, reading};
pub use portal::{Cursor, with_pinned};
pub use progress::{show_progress, show_progress_again, with_progress};
pub use removal::{allow_removal, guard_removal, has_capture, is_superuser, refuse_early};
pub use role::{
    as_extension, as_owner_of, covers, current_user, locked_owner, owner, quietly, restricted, setting, with_settings,
};
pub use row::{Column, RowType};
pub use slot::{Pass, confirm_slot, note_read, stored_pass};
pub use subtransaction::{rolled_back, subtransaction, tried};
pub use texts::{TextRow, first_texts, text_rows};
pub use timeout::{has_expired, is_limited, limited};
pub use type_input::{TypeInput, kind_of_type, type_name};
pub use user::{is_member, outer_user, role_name, role_named, session_user, system_identifier};
pub use value::Value;
pub use wal::{commit_to_disk, flush_wal, flushed_lsn, is_in_recovery, log_running_transactions};
pub use worker::{CaptureWorker, Woken, init_workers, start_capture_worker};
pub use writer::foreign_writer;

use pgrx::datum::AnyElement;
use pgrx::{FromDatum, PgTryBuilder, pg_sys};
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

/// Is this session inside `BEGIN … COMMIT`, or in a query of several statements?
pub fn in_transaction_block() -> bool {
    // SAFETY: reads backend-local transaction state; callable in any transaction state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Makes `SET audit_cdc.typo = …` an error.
pub fn reserve_setting_prefix() {
    // SAFETY: called from _PG_init only; the name is a NUL-terminated constant that PostgreSQL copies.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"audit_cdc".as_ptr()) }
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

/// A value of a polymorphic result.
pub fn any_element(datum: pg_sys::Datum, oid: pg_sys::Oid) -> Option<AnyElement> {
    // SAFETY: `datum` is of type `oid`: callers read it by that type's input function, or got it as such.
    unsafe { AnyElement::from_polymorphic_datum(datum, false, oid) }
}

/// An error of `work` as a value, to be raised in other words. Nothing is rolled back: the caller must raise.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, CaughtError> {
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(work()))).catch_others(Err).execute()
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

/// The schema of this session's temporary objects, if it has any.
pub fn temporary_schema() -> Option<pg_sys::Oid> {
    let (mut schema, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetTempNamespaceState(&mut schema, &mut toast) };
    (schema != pg_sys::InvalidOid).then_some(schema)
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

/// Is a table of ours without any page? Then no row of it can be seen; not every statement is worth its cost to find out.
pub fn never_had_rows(table: &CStr) -> bool {
    // SAFETY: opened and closed here; null for one that is gone.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), true);
        let table = pg_sys::get_relname_relid(table.as_ptr(), schema);
        let relation = pg_sys::try_table_open(table, pg_sys::AccessShareLock as i32);
        if relation.is_null() {
            return false;
        }
        let pages = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        pages == 0
    }
}

/// Was the table made by the current transaction?
pub fn is_new_table(table: pg_sys::Oid) -> bool {
    // SAFETY: opened and closed here; null for one that is gone. What this transaction made stays in the cache.
    unsafe {
        let relation = pg_sys::try_relation_open(table, pg_sys::AccessShareLock as i32);
        if relation.is_null() {
            return false;
        }
        let is_new = (*relation).rd_createSubid != 0;
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        is_new
    }
}

/// Is the server just starting, and loads its libraries?
pub fn is_preloading() -> bool {
    // SAFETY: reads process-local state.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}
