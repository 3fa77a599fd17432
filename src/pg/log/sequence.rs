//! Numbers that the log takes from its sequences.

use pgrx::{direct_function_call, pg_sys};
use std::ffi::CStr;

/// A sequence of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sequence(pg_sys::Oid);

impl Sequence {
    pub fn named(name: &CStr) -> Self {
        // SAFETY: reads the catalogs' caches.
        Self(unsafe {
            let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), false);
            pg_sys::get_relname_relid(name.as_ptr(), schema)
        })
    }

    /// Its next number, with the rights of the current user. Raises what nextval() raises.
    pub fn next(self) -> i64 {
        // SAFETY: the function gets the argument that it is declared with, and never gives null.
        unsafe { direct_function_call(pg_sys::nextval_oid, &[Some(self.0.into())]) }.unwrap_or_default()
    }
}
