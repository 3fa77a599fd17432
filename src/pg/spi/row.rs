//! Rows of a query, read column by column. What a column is read as is what the query gives there.

use crate::pg::types::PassedRow;
use pgrx::varlena::{varlena_to_byte_slice, varsize};
use pgrx::{FromDatum, PgMemoryContexts, pg_sys};
use std::ffi::c_char;

/// A row of a query's result. What is detoasted of it lives as long as the call that is given the row.
pub struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    /// Where the values are, if nobody else keeps them.
    _bytes: Vec<u64>,
}

impl Row {
    fn empty(columns: usize) -> Self {
        Self { values: vec![pg_sys::Datum::null(); columns], nulls: vec![true; columns], _bytes: Vec::new() }
    }

    pub fn is_null(&self, column: usize) -> bool {
        self.nulls.get(column).copied().unwrap_or(true)
    }

    /// As it is, for another row.
    pub fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        (!self.is_null(column)).then(|| self.values[column])
    }

    /// Of a composite type. It lives as long as the current memory context.
    pub fn row(&self, column: usize) -> Option<PassedRow> {
        // SAFETY: the column is of a composite type.
        self.datum(column).map(|datum| unsafe { PassedRow::copied(datum) })
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

/// What was fetched last.
#[derive(Clone, Copy)]
pub struct Rows<'a>(Option<&'a pg_sys::SPITupleTable>);

impl Rows<'_> {
    /// It lives until the SPI connection ends.
    pub(super) fn fetched() -> Self {
        // SAFETY: null, or the result of the fetch.
        Self(unsafe { pg_sys::SPI_tuptable.as_ref() })
    }

    /// Gives each row to `read`, with the one that follows it there. What `read` allocates, as whatever it detoasts, is
    /// freed when it returns. Were there any rows?
    pub fn each(self, mut read: impl FnMut(&Row, Option<&Row>)) -> bool {
        let Some(table) = self.0 else { return false };
        let count = table.numvals as usize;
        // SAFETY: the table has as many rows as it says, of its descriptor's layout. `read` keeps no reference to a
        // row, nor to what the row gave.
        unsafe {
            let columns = (*table.tupdesc).natts as usize;
            let (mut this, mut next) = (Row::empty(columns), Row::empty(columns));
            if count > 0 {
                fill(&mut this, *table.vals, table.tupdesc);
            }
            let mut scratch = PgMemoryContexts::new("row that is read");
            for following in 1..=count {
                let has_next = following < count;
                if has_next {
                    fill(&mut next, *table.vals.add(following), table.tupdesc);
                }
                scratch.switch_to(|_| read(&this, has_next.then_some(&next)));
                scratch.reset();
                std::mem::swap(&mut this, &mut next);
            }
        }
        count > 0
    }

    /// One of them, for as long as it is wanted. What is toasted stays so.
    pub fn kept(self, index: usize) -> Option<Row> {
        let table = self.0.filter(|table| index < table.numvals as usize)?;
        // SAFETY: the table has that row, of its descriptor's layout. The copy is aligned as PostgreSQL's is, and stays
        // where it is when the vector moves.
        unsafe {
            let tuple = **table.vals.add(index);
            let length = tuple.t_len as usize;
            let mut bytes = vec![0_u64; length.div_ceil(size_of::<u64>())];
            std::ptr::copy_nonoverlapping(tuple.t_data.cast::<u8>(), bytes.as_mut_ptr().cast(), length);
            let mut copy = pg_sys::HeapTupleData { t_data: bytes.as_mut_ptr().cast(), ..tuple };
            let mut row = Row::empty((*table.tupdesc).natts as usize);
            fill(&mut row, &mut copy, table.tupdesc);
            Some(Row { _bytes: bytes, ..row })
        }
    }
}

/// # Safety
/// The tuple is of the descriptor's layout, with as many columns as the row has. It outlives the row's values.
unsafe fn fill(row: &mut Row, tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) {
    // SAFETY: as above.
    unsafe { pg_sys::heap_deform_tuple(tuple, descriptor, row.values.as_mut_ptr(), row.nulls.as_mut_ptr()) };
}
