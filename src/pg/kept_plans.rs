//! Plans that PostgreSQL keeps in a session, of prepared statements and of functions.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

thread_local! {
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    static FORGETS: Cell<bool> = const { Cell::new(false) };
}

/// When this transaction ends, all plans are made anew: what was planned in it holds in it only.
pub fn forget_plans_after_transaction() {
    FORGETS.set(true);
    if !IS_WATCHED.replace(true) {
        // SAFETY: the callback lives as long as the process.
        unsafe { pg_sys::RegisterXactCallback(Some(at_end), null_mut()) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    if matches!(event, XACT_EVENT_ABORT | XACT_EVENT_COMMIT | XACT_EVENT_PREPARE) && FORGETS.replace(false) {
        // SAFETY: only marks the plans of this session.
        unsafe { pg_sys::ResetPlanCache() }
    }
}

/// A setting that anybody may set, and on which plans depend.
pub fn define_planned_bool(
    (name, short, long): (&'static CStr, &'static CStr, &'static CStr),
    setting: &'static GucSetting<bool>,
) {
    let (context, flags) = (GucContext::Userset, GucFlags::default());
    let assign = Some(assigned as unsafe extern "C-unwind" fn(_, _));
    // SAFETY: the hook does not panic.
    unsafe { GucRegistry::define_bool_guc_with_hooks(name, short, long, setting, context, flags, None, assign, None) }
}

unsafe extern "C-unwind" fn assigned(_value: bool, _extra: *mut c_void) {
    // SAFETY: as above.
    unsafe { pg_sys::ResetPlanCache() }
}

/// Does the client get warnings?
pub fn warnings_are_shown() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::client_min_messages <= pg_sys::WARNING as i32 }
}
