//! Where the plugin keeps what it knows.

use pgrx::pg_sys;

pub fn new_memory(parent: pg_sys::MemoryContext) -> pg_sys::MemoryContext {
    // SAFETY: the parent is there; the name is a constant.
    unsafe {
        pg_sys::AllocSetContextCreateExtended(
            parent,
            c"audit_cdc output".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    }
}
