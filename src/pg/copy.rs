//! COPY into the log, from memory: PostgreSQL's fastest way to fill a table with its partitions and indexes. It takes
//! its lines from a callback, as logical replication does (PostgreSQL source, `tablesync.c`, `copy_table`).

use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;

thread_local! {
    /// What is left of the lines of the COPY under way.
    static REST: Cell<(*const u8, usize)> = const { Cell::new((std::ptr::null(), 0)) };
}

/// Stores lines of COPY's text format, UTF8, in these columns. Returns how many rows.
pub fn copy_in(columns: &[&CStr], lines: &[u8]) -> u64 {
    REST.set((lines.as_ptr(), lines.len()));
    // SAFETY: called from a function, so with a snapshot. All that is allocated belongs to the current memory context; the relation
    // and what COPY holds belong to the current resource owner, so that an error, too, releases them. `lines` outlives CopyFrom, the
    // only one to call `next_bytes`.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), false);
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        let log = pg_sys::table_open(pg_sys::get_relname_relid(c"log".as_ptr(), schema), lock);
        let state = pg_sys::make_parsestate(null_mut());
        pg_sys::addRangeTableEntryForRelation(state, log, lock, null_mut(), false, false);
        let text = |text: &CStr| pg_sys::makeString(pg_sys::pstrdup(text.as_ptr())).cast::<pg_sys::Node>();
        let names = columns.iter().fold(null_mut(), |names, name| pg_sys::lappend(names, text(name).cast()));
        // the client's encoding would be the usual one
        let utf8 = pg_sys::makeDefElem(pg_sys::pstrdup(c"encoding".as_ptr()), text(c"UTF8"), -1);
        let options = pg_sys::lappend(null_mut(), utf8.cast());
        let copy = pg_sys::BeginCopyFrom(state, log, null_mut(), null_mut(), false, Some(next_bytes), names, options);
        let rows = pg_sys::CopyFrom(copy);
        pg_sys::EndCopyFrom(copy);
        pg_sys::free_parsestate(state);
        pg_sys::table_close(log, pg_sys::NoLock as pg_sys::LOCKMODE);
        // what follows in the transaction sees the rows
        pg_sys::CommandCounterIncrement();
        rows
    }
}

/// Up to `most` bytes of what is left; 0: that was all.
#[pg_guard]
unsafe extern "C-unwind" fn next_bytes(buffer: *mut c_void, _least: c_int, most: c_int) -> c_int {
    let (start, length) = REST.get();
    let taken = length.min(most.max(0) as usize);
    // SAFETY: `start` points to `length` bytes of the lines that `copy_in` borrows, `buffer` to room for `most`.
    unsafe {
        std::ptr::copy_nonoverlapping(start, buffer.cast::<u8>(), taken);
        REST.set((start.add(taken), length - taken));
    }
    taken as c_int
}
