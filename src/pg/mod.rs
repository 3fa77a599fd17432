//! The only place with `unsafe`: what PostgreSQL offers and pgrx does not wrap.
#![allow(unsafe_code)]

mod subtransaction;

pub use pgrx::pg_sys::BuiltinOid;
pub use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
pub use subtransaction::subtransaction;

use pgrx::pg_sys;

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
