//! Logical messages of the current transaction.

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::ffi::{CStr, c_char};

mod raw {
    use super::{c_char, pg_sys};

    // PostgreSQL source, `message.h`: not wrapped
    unsafe extern "C-unwind" {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        pub fn LogLogicalMessage(
            prefix: *const c_char,
            message: *const c_char,
            size: usize,
            transactional: bool,
        ) -> pg_sys::XLogRecPtr;

        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        pub fn LogLogicalMessage(
            prefix: *const c_char,
            message: *const c_char,
            size: usize,
            transactional: bool,
            flush: bool,
        ) -> pg_sys::XLogRecPtr;
    }
}

/// Writes a message, and tells where the WAL goes on.
pub fn emit(prefix: &CStr, content: &str) -> u64 {
    let (prefix, size, content) = (prefix.as_ptr(), content.len(), content.as_ptr().cast());
    // SAFETY: copied before it returns; we are in a transaction that may write.
    unsafe {
        pg_guard_ffi_boundary(|| {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            return raw::LogLogicalMessage(prefix, content, size, true);
            #[cfg(not(any(feature = "pg15", feature = "pg16")))]
            return raw::LogLogicalMessage(prefix, content, size, true, false);
        })
    }
}

/// The end of the last record of the current transaction.
pub fn last_record_end() -> u64 {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::XactLastRecEnd }
}

/// Does the WAL tell changes of rows?
pub fn is_wal_logical() -> bool {
    // SAFETY: reads a setting.
    unsafe { pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_LOGICAL as i32 }
}
