//! Lists as PostgreSQL keeps them.

use pgrx::pg_sys;

pub fn elements<'a>(list: *mut pg_sys::List) -> &'a [pg_sys::ListCell] {
    if list.is_null() {
        return &[];
    }
    // SAFETY: a list that is not empty has so many elements; callers keep it for as long as they look.
    unsafe { std::slice::from_raw_parts((*list).elements, (*list).length as usize) }
}
