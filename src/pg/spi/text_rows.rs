//! Rows as their types' output functions write them.

use crate::pg::bound::BoundStatement;
use pgrx::prelude::*;
use std::ffi::CStr;

/// A row of a query, its values as their types' output functions write them.
pub struct TextRow {
    /// The first column, of type xid.
    pub xmin: u32,
    /// The others.
    pub values: Vec<Option<String>>,
}

/// Runs a query of ours whose first column is of type xid.
pub fn text_rows(query: &BoundStatement) -> Vec<TextRow> {
    rows(query, |tuple, table| {
        let mut null = false;
        // SAFETY: as the caller says.
        let xmin = unsafe { pg_sys::SPI_getbinval(tuple, table.tupdesc, 1, &mut null) };
        TextRow { xmin: xmin.value() as u32, values: values(tuple, table, 2) }
    })
}

/// The first column of its rows.
pub fn first_texts(query: &BoundStatement) -> Vec<Option<String>> {
    rows(query, |tuple, table| values(tuple, table, 1).into_iter().next().flatten())
}

fn rows<R>(query: &BoundStatement, read: impl Fn(pg_sys::HeapTuple, &pg_sys::SPITupleTable) -> R) -> Vec<R> {
    query.execute(|_, table| {
        // SAFETY: null, or the result of the query.
        let Some(table) = (unsafe { table.as_ref() }) else { return Vec::new() };
        // SAFETY: it has as many rows as it says.
        let rows = unsafe { std::slice::from_raw_parts(table.vals, table.numvals as usize) };
        rows.iter().map(|tuple| read(*tuple, table)).collect()
    })
}

fn values(tuple: pg_sys::HeapTuple, table: &pg_sys::SPITupleTable, from: i32) -> Vec<Option<String>> {
    // SAFETY: a row of this table; what SPI_getvalue gives is palloced and, in a UTF8 database, UTF-8.
    unsafe {
        let text = |column| {
            let text = pg_sys::SPI_getvalue(tuple, table.tupdesc, column);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        (from..=(*table.tupdesc).natts).map(text).collect()
    }
}
