//! A query that is read in steps.

use super::plans::{kept_plan, plan_of};
use super::row::{Row, Rows};
use crate::pg::log::{LogRow, returned};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use std::ffi::{CStr, CString, c_char};

/// A query, read in steps. While it is open nobody else can close it and put another query under its name. It is
/// pinned, as PL/pgSQL pins the cursors of its loops.
pub struct Cursor(pg_sys::Portal);

/// Arguments, as SPI takes them.
struct Passed {
    types: Vec<pg_sys::Oid>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<c_char>,
}

impl Passed {
    fn of(arguments: &[DatumWithOid]) -> Self {
        let datums = arguments.iter().map(|argument| argument.datum().map(|datum| datum.sans_lifetime()));
        Self {
            types: arguments.iter().map(DatumWithOid::oid).collect(),
            values: datums.clone().map(|datum| datum.unwrap_or(pg_sys::Datum::null())).collect(),
            nulls: datums.map(|datum| if datum.is_none() { b'n' } else { b' ' } as c_char).collect(),
        }
    }
}

impl Cursor {
    pub fn open(query: &CStr, arguments: &[DatumWithOid]) -> Self {
        Self::opened(query, arguments)
    }

    /// A query that only reads, and sees what the query sees that called us. It is prepared once a session.
    pub fn reading(query: &'static CStr, arguments: &[DatumWithOid]) -> Self {
        // SAFETY: an SPI connection is open.
        Self::of_plan(arguments, |types| unsafe { plan_of(query, types, 0) })
    }

    /// The same, also planned once, whatever the arguments are.
    pub fn planned_once(query: &'static CStr, arguments: &[DatumWithOid]) -> Self {
        // SAFETY: as above.
        Self::of_plan(arguments, |types| unsafe { plan_of(query, types, pg_sys::CURSOR_OPT_GENERIC_PLAN as i32) })
    }

    /// The same of a query that was put together. Others may take its place among those that are prepared.
    pub fn kept(query: &CStr, arguments: &[DatumWithOid]) -> Self {
        Self::of_plan(arguments, |types| kept_plan(query, types))
    }

    fn of_plan(arguments: &[DatumWithOid], plan: impl FnOnce(&mut Vec<pg_sys::Oid>) -> pg_sys::SPIPlanPtr) -> Self {
        Spi::connect(|_| {
            let Passed { mut types, mut values, nulls } = Passed::of(arguments);
            // SAFETY: values and nulls are as many as the plan's parameters; the values live until the call returns,
            // which copies them. A plan that is freed meanwhile stays for the portal.
            unsafe {
                let (values, nulls) = (values.as_mut_ptr(), nulls.as_ptr());
                Self::pinned(pg_sys::SPI_cursor_open(std::ptr::null(), plan(&mut types), values, nulls, true))
            }
        })
    }

    fn opened(query: &CStr, arguments: &[DatumWithOid]) -> Self {
        Spi::connect(|_| {
            let Passed { mut types, mut values, nulls } = Passed::of(arguments);
            // SAFETY: types, values and nulls are as many as the arguments; the values live until the call returns,
            // which copies them.
            unsafe {
                Self::pinned(pg_sys::SPI_cursor_open_with_args(
                    std::ptr::null(),
                    query.as_ptr(),
                    arguments.len() as i32,
                    types.as_mut_ptr(),
                    values.as_mut_ptr(),
                    nulls.as_ptr(),
                    false,
                    0,
                ))
            }
        })
    }

    /// # Safety
    /// The portal has just been opened.
    unsafe fn pinned(portal: pg_sys::Portal) -> Self {
        // SAFETY: as above.
        unsafe { pg_sys::PinPortal(portal) };
        Self(portal)
    }

    /// Gives the next rows of the log to `read`. Their memory is freed afterwards.
    pub fn fetch_log<R>(&mut self, count: i64, read: impl FnOnce(&[LogRow]) -> R) -> R {
        self.fetch(count, || read(&returned()))
    }

    /// Gives the next rows to `read`, and says whether there were any. Their memory is freed afterwards.
    pub fn fetch_rows(&mut self, count: i64, read: impl FnMut(&Row, Option<&Row>)) -> bool {
        self.fetch(count, || Rows::fetched().each(read))
    }

    /// The same, all at once.
    pub fn fetch_together<R>(&mut self, count: i64, read: impl FnOnce(Rows) -> R) -> R {
        self.fetch(count, || read(Rows::fetched()))
    }

    fn fetch<R>(&mut self, count: i64, read: impl FnOnce() -> R) -> R {
        Spi::connect(|_| {
            // SAFETY: the portal is there as long as it is pinned.
            unsafe { pg_sys::SPI_cursor_fetch(self.0, true, count) };
            read()
        })
    }
}

impl Drop for Cursor {
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
