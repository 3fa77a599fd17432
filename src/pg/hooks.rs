//! PostgreSQL calls the hook of the library that was loaded last, and that library the one before it. One that does not
//! keeps from us what we must see: nothing goes on then unseen.

use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Our hook on accessed objects was called.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

pub fn told_of_object_access() {
    IS_TOLD.store(true, Relaxed);
}

/// An error if somebody keeps from us what becomes of objects.
pub fn require_object_access() {
    IS_TOLD.store(false, Relaxed);
    // SAFETY: as PostgreSQL tells that a function of its own is called.
    unsafe {
        if let Some(hook) = pg_sys::object_access_hook {
            let (access, function) = (pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE, pg_sys::Oid::from(pg_sys::F_NOW));
            hook(access, pg_sys::ProcedureRelationId, function, 0, null_mut());
        }
    }
    if !IS_TOLD.load(Relaxed) {
        refuse_unseen("what is removed, and what runs", "object_access_hook");
    }
}

/// `what`: that which `hook` tells.
pub fn refuse_unseen(what: &str, hook: &str) {
    let message = format!("a library keeps audit_cdc from seeing {what}");
    ErrorReport::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, "refuse_unseen")
        .set_detail(format!("It was loaded later, and its {hook} does not call that of others."))
        .set_hint("In shared_preload_libraries, name audit_cdc after it.")
        .report(PgLogLevel::ERROR);
}
