//! Progress, where `pg_stat_progress_copy` shows it.

use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::c_int;

/// Where `pg_stat_get_progress_info('COPY')` shows them. The second is free of PostgreSQL's own use.
const DONE: c_int = pg_sys::PROGRESS_COPY_TUPLES_PROCESSED as c_int;
const TOTAL: c_int = 19;

thread_local! {
    static SHOWN: Cell<Option<(pg_sys::Oid, i64, i64)>> = const { Cell::new(None) };
}

/// Shows other sessions how far the filling of `table` has come. A rolled back (sub)transaction takes it back.
pub fn show_progress(table: pg_sys::Oid, done: i64, total: i64) {
    SHOWN.set(Some((table, done, total)));
    show_progress_again();
}

/// After something was rolled back.
pub fn show_progress_again() {
    let Some((table, done, total)) = SHOWN.get() else { return };
    // SAFETY: writes this backend's own entry.
    unsafe {
        pg_sys::pgstat_progress_start_command(pg_sys::ProgressCommandType::PROGRESS_COMMAND_COPY, table);
        pg_sys::pgstat_progress_update_param(TOTAL, total);
        pg_sys::pgstat_progress_update_param(DONE, done);
    }
}

/// Runs `work`, which shows progress, and takes it back.
pub fn with_progress<T>(work: impl FnOnce() -> T) -> T {
    struct Shown;
    impl Drop for Shown {
        fn drop(&mut self) {
            SHOWN.set(None);
        }
    }
    let _until_the_end = Shown;
    let result = work();
    // SAFETY: as above. After an error the end of the transaction does it.
    unsafe { pg_sys::pgstat_progress_end_command() }
    result
}
