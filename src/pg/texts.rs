use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// A row of a query, its values as their types' output functions write them.
pub struct TextRow {
    /// The first column, of type xid.
    pub xmin: u32,
    /// The others.
    pub values: Vec<Option<String>>,
}

/// Runs a query of ours.
pub fn text_rows(query: &str) -> Vec<TextRow> {
    let query = CString::new(query).unwrap_or_default();
    Spi::connect(|_| {
        // SAFETY: SPI_tuptable is the result of the query, whose first column is an xid; what SPI_getvalue gives is palloced and, in a UTF8
        // database, UTF-8.
        unsafe {
            if pg_sys::SPI_execute(query.as_ptr(), false, 0) != pg_sys::SPI_OK_SELECT as i32 {
                return Vec::new();
            }
            let table = &*pg_sys::SPI_tuptable;
            let rows = std::slice::from_raw_parts(table.vals, table.numvals as usize);
            let columns = (*table.tupdesc).natts;
            let text = |tuple, column| {
                let text = pg_sys::SPI_getvalue(tuple, table.tupdesc, column);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            };
            let row = |tuple: &pg_sys::HeapTuple| {
                let mut null = false;
                let xmin = pg_sys::SPI_getbinval(*tuple, table.tupdesc, 1, &mut null);
                TextRow {
                    xmin: xmin.value() as u32,
                    values: (2..=columns).map(|column| text(*tuple, column)).collect(),
                }
            };
            rows.iter().map(row).collect()
        }
    })
}
