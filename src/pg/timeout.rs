//! A time limit for the code of a rule.

use pgrx::pg_sys;
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

unsafe extern "C-unwind" {
    // PostgreSQL source, `timeout.h`, not wrapped
    fn RegisterTimeout(id: c_int, handler: unsafe extern "C-unwind" fn()) -> c_int;
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// Any from `USER_TIMEOUT` on (13 in the newest release, less before) asks for a free one.
const SOME_USER_TIMEOUT: c_int = 14;

static TIMEOUT: OnceLock<c_int> = OnceLock::new();
static HAS_EXPIRED: AtomicBool = AtomicBool::new(false);
/// The subtransaction that is limited; 0: none.
static LIMITED: AtomicU32 = AtomicU32::new(0);

/// Runs `work`, the whole of a subtransaction, which is cancelled after `limit`: nothing in it can go on by
/// catching that. Whether it ends or fails, the caller must call [`has_expired`] when the subtransaction is over.
/// Within it no other limit begins.
pub fn limited<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    let timeout = *TIMEOUT.get_or_init(|| {
        // SAFETY: once a process; the handler and the callback are safe where they are called.
        unsafe {
            pg_sys::RegisterSubXactCallback(Some(at_end_of_subtransaction), std::ptr::null_mut());
            RegisterTimeout(SOME_USER_TIMEOUT, expire)
        }
    });
    // SAFETY: we are in the subtransaction; the timeout is registered.
    unsafe {
        LIMITED.store(pg_sys::GetCurrentSubTransactionId(), Ordering::Relaxed);
        enable_timeout_after(timeout, limit.as_millis().min(c_int::MAX as u128) as c_int);
    }
    let result = work();
    // SAFETY: as above.
    unsafe { disable_timeout(timeout, true) };
    // what expired and went on unnoticed
    pgrx::check_for_interrupts!();
    result
}

pub fn is_limited() -> bool {
    LIMITED.load(Ordering::Relaxed) != 0
}

/// Ends the limit. Was it reached?
pub fn has_expired() -> bool {
    if let Some(timeout) = TIMEOUT.get() {
        // SAFETY: it is registered.
        unsafe { disable_timeout(*timeout, false) };
    }
    LIMITED.store(0, Ordering::Relaxed);
    let has_expired = HAS_EXPIRED.swap(false, Ordering::Relaxed);
    if has_expired {
        // SAFETY: a flag of this process. InterruptPending stays: it only makes PostgreSQL look.
        unsafe { pg_sys::QueryCancelPending = 0 };
    }
    has_expired
}

/// In a signal handler: it only sets flags.
unsafe extern "C-unwind" fn expire() {
    HAS_EXPIRED.store(true, Ordering::Relaxed);
    cancel();
}

fn cancel() {
    // SAFETY: flags of this process, and its latch; both may be set in a signal handler.
    unsafe {
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

/// A handler for query_canceled within `work` has caught it: it is cancelled again.
unsafe extern "C-unwind" fn at_end_of_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    let limited = LIMITED.load(Ordering::Relaxed);
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB
        && limited != 0
        && subtransaction > limited
        && HAS_EXPIRED.load(Ordering::Relaxed)
    {
        cancel();
    }
}
