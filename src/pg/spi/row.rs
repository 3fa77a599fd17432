//! Rows of a query, read column by column. What a column is read as is what the query gives there.

use crate::pg::types::PassedRow;
use pgrx::varlena::{varlena_to_byte_slice, varsize};
use pgrx::{FromDatum, PgMemoryContexts, pg_sys};
use std::ffi::c_char;

/// A row of a query's result. What is detoasted of it lives as long as the call that is given the row.
pub struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Row {
    pub fn is_null(&self, column: usize) -> bool {
        self.nulls.get(column).copied().unwrap_or(true)
    }

    /// As it is, for another row.
    pub fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        (!self.is_null(column)).then(|| self.values[column])
    }

    /// Of a composite type.
    pub fn row(&self, column: usize) -> Option<PassedRow> {
        // SAFETY: the column is of a composite type.
        self.datum(column).map(|datum| unsafe { PassedRow::of(datum) })
    }

    /// Null is false.
    pub fn boolean(&self, column: usize) -> bool {
        self.datum(column).is_some_and(|datum| datum.value() as u8 != 0)
    }

    /// Of type "char".
    pub fn letter(&self, column: usize) -> u8 {
        self.datum(column).map_or(0, |datum| datum.value() as c_char as u8)
    }

    pub fn integer(&self, column: usize) -> Option<i32> {
        self.datum(column).map(|datum| datum.value() as i32)
    }

    pub fn bigint(&self, column: usize) -> Option<i64> {
        self.datum(column).map(|datum| datum.value() as i64)
    }

    /// Of type text, in the database's encoding.
    pub fn bytes(&self, column: usize) -> Option<&[u8]> {
        // SAFETY: the column is of a type of variable length. What is detoasted outlives the reference to the row.
        self.datum(column)
            .map(|datum| unsafe { varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr())) })
    }

    pub fn text(&self, column: usize) -> Option<String> {
        self.bytes(column).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// What follows the length in a `jsonb`, which is aligned.
    pub fn jsonb(&self, column: usize) -> Option<&[u8]> {
        // SAFETY: the column is jsonb, and detoasted has a length of four bytes. It outlives the reference to the row.
        self.datum(column).map(|datum| unsafe {
            let value = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            std::slice::from_raw_parts(value.cast::<u8>().add(4), varsize(value) - 4)
        })
    }

    /// Of type text[], without nulls in it.
    pub fn texts(&self, column: usize) -> Option<Vec<String>> {
        // SAFETY: the column is text[].
        let texts = |datum| unsafe { Vec::<Option<String>>::from_datum(datum, false) };
        self.datum(column).and_then(texts).map(|texts| texts.into_iter().flatten().collect())
    }

    /// Of type integer[], without nulls in it.
    pub fn integers(&self, column: usize) -> Option<Vec<i32>> {
        // SAFETY: the column is integer[].
        let numbers = |datum| unsafe { Vec::<Option<i32>>::from_datum(datum, false) };
        self.datum(column).and_then(numbers).map(|numbers| numbers.into_iter().flatten().collect())
    }

    /// Of type bigint[], without nulls in it.
    pub fn bigints(&self, column: usize) -> Option<Vec<i64>> {
        // SAFETY: the column is bigint[].
        let numbers = |datum| unsafe { Vec::<Option<i64>>::from_datum(datum, false) };
        self.datum(column).and_then(numbers).map(|numbers| numbers.into_iter().flatten().collect())
    }

    /// Has the array no element?
    pub fn is_empty_array(&self, column: usize) -> bool {
        // SAFETY: the column is an array: behind the length stands how many dimensions it has.
        self.bytes(column).is_some_and(|array| array.starts_with(&0_i32.to_ne_bytes()))
    }
}

/// Gives each row of what was fetched last to `read`, with the one that follows it there. What `read` allocates, as
/// whatever it detoasts, is freed when it returns. Were there any rows?
pub(super) fn each_row(read: &mut impl FnMut(&Row, Option<&Row>)) -> bool {
    // SAFETY: SPI_tuptable is what the fetch has returned, and lives until the SPI connection ends. It has as many rows
    // as it says, of its descriptor's layout. `read` keeps no reference to a row, nor to what the row gave.
    unsafe {
        let Some(table) = pg_sys::SPI_tuptable.as_ref() else { return false };
        let columns = (*table.tupdesc).natts as usize;
        let empty = || Row { values: vec![pg_sys::Datum::null(); columns], nulls: vec![true; columns] };
        let (mut this, mut next) = (empty(), empty());
        let fill = |row: &mut Row, index: usize| {
            let (values, nulls) = (row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            pg_sys::heap_deform_tuple(*table.vals.add(index), table.tupdesc, values, nulls);
        };
        let count = table.numvals as usize;
        if count > 0 {
            fill(&mut this, 0);
        }
        let mut scratch = PgMemoryContexts::new("row that is read");
        for following in 1..=count {
            let has_next = following < count;
            if has_next {
                fill(&mut next, following);
            }
            scratch.switch_to(|_| read(&this, has_next.then_some(&next)));
            scratch.reset();
            std::mem::swap(&mut this, &mut next);
        }
        count > 0
    }
}
