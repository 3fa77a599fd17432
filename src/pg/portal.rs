use super::log_rows::{LogRow, returned};
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// A query over the log, read in steps. While it is open nobody else can close it and put another query under
/// its name: it is pinned, as PL/pgSQL pins the cursors of its loops.
pub struct LogCursor(pg_sys::Portal);

impl LogCursor {
    pub fn open(query: &CStr, parameters: [i64; 2]) -> Self {
        Spi::connect_mut(|_| {
            let mut types = [pg_sys::INT8OID; 2];
            let mut values = parameters.map(pg_sys::Datum::from);
            // SAFETY: two parameters, of the types given; without names of nulls none is null.
            unsafe {
                let (name, nulls) = (std::ptr::null(), std::ptr::null());
                let portal = pg_sys::SPI_cursor_open_with_args(
                    name,
                    query.as_ptr(),
                    2,
                    types.as_mut_ptr(),
                    values.as_mut_ptr(),
                    nulls,
                    false,
                    0,
                );
                pg_sys::PinPortal(portal);
                Self(portal)
            }
        })
    }

    /// Gives the next rows to `read`. Their memory is freed afterwards.
    pub fn fetch<R>(&mut self, count: i64, read: impl FnOnce(&[LogRow]) -> R) -> R {
        Spi::connect_mut(|_| {
            // SAFETY: the portal is there as long as it is pinned.
            unsafe { pg_sys::SPI_cursor_fetch(self.0, true, count) };
            read(&returned())
        })
    }
}

impl Drop for LogCursor {
    fn drop(&mut self) {
        // after an error the end of the transaction closes it
        if !std::thread::panicking() {
            // SAFETY: as above.
            unsafe {
                pg_sys::UnpinPortal(self.0);
                pg_sys::SPI_cursor_close(self.0);
            }
        }
    }
}

/// Runs `work`, in which nobody can close the cursors of these names.
pub fn with_pinned<T>(names: &[String], work: impl FnOnce() -> T) -> T {
    struct Pinned(Vec<pg_sys::Portal>);
    impl Drop for Pinned {
        fn drop(&mut self) {
            for portal in &self.0 {
                // SAFETY: a pinned portal is there at least until the transaction's end, which comes after this.
                unsafe { (**portal).portalPinned = false };
            }
        }
    }
    let mut pinned = Pinned(Vec::new());
    for name in names.iter().filter_map(|name| CString::new(name.as_str()).ok()) {
        // SAFETY: gives null for no such portal.
        unsafe {
            let portal = pg_sys::GetPortalByName(name.as_ptr());
            if !portal.is_null() && !(*portal).portalPinned {
                (*portal).portalPinned = true;
                pinned.0.push(portal);
            }
        }
    }
    work()
}
