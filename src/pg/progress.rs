use pgrx::pg_sys;
use std::ffi::c_int;

/// Where `pg_stat_get_progress_info('COPY')` shows them. The second is free of PostgreSQL's own use.
const DONE: c_int = pg_sys::PROGRESS_COPY_TUPLES_PROCESSED as c_int;
const TOTAL: c_int = 19;

/// Shows other sessions how far the filling of `table` has come. The end of the (sub)transaction takes it back.
pub fn show_progress(table: pg_sys::Oid, done: i64, total: i64) {
    // SAFETY: writes this backend's own entry.
    unsafe {
        pg_sys::pgstat_progress_start_command(pg_sys::ProgressCommandType::PROGRESS_COMMAND_COPY, table);
        pg_sys::pgstat_progress_update_param(TOTAL, total);
        pg_sys::pgstat_progress_update_param(DONE, done);
    }
}

pub fn end_progress() {
    // SAFETY: as above.
    unsafe { pg_sys::pgstat_progress_end_command() }
}
