//! Plans of queries, prepared once a session.

use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

thread_local! {
    /// Of queries that were put together, by their text.
    static MADE: RefCell<HashMap<CString, pg_sys::SPIPlanPtr>> = RefCell::default();

    /// Of queries that stand in our sources, with the types of their parameters: a composite type that was made anew
    /// is another one.
    static WRITTEN: RefCell<HashMap<(&'static CStr, Vec<pg_sys::Oid>), pg_sys::SPIPlanPtr>> = RefCell::default();
}

/// Plans of partitioned tables are large: so many are kept of queries that were put together.
const MOST_PLANS: usize = 32;

/// # Safety
/// An SPI connection is open.
pub(super) unsafe fn plan_of(query: &'static CStr, types: &mut Vec<pg_sys::Oid>, options: i32) -> pg_sys::SPIPlanPtr {
    let known = WRITTEN.with(|plans| plans.borrow().get(&(query, types.clone())).copied());
    known.unwrap_or_else(|| {
        // SAFETY: as above. What is kept lives as long as the session.
        let plan = unsafe {
            let plan = pg_sys::SPI_prepare_cursor(query.as_ptr(), types.len() as i32, types.as_mut_ptr(), options);
            pg_sys::SPI_keepplan(plan);
            plan
        };
        WRITTEN.with(|plans| plans.borrow_mut().insert((query, types.clone()), plan));
        plan
    })
}

pub(super) fn kept_plan(statement: &CStr, types: &mut [pg_sys::Oid]) -> pg_sys::SPIPlanPtr {
    let known = MADE.with(|plans| plans.borrow().get(statement).copied());
    known.unwrap_or_else(|| {
        // SAFETY: an SPI connection is open. A plan that is kept lives until it is freed.
        unsafe {
            let plan = pg_sys::SPI_prepare(statement.as_ptr(), types.len() as i32, types.as_mut_ptr());
            pg_sys::SPI_keepplan(plan);
            MADE.with(|plans| {
                let mut plans = plans.borrow_mut();
                if plans.len() >= MOST_PLANS {
                    plans.drain().for_each(|(_, plan)| {
                        pg_sys::SPI_freeplan(plan);
                    });
                }
                plans.insert(statement.to_owned(), plan);
            });
            plan
        }
    })
}
