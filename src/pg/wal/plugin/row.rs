//! Rows, taken apart and written.

use super::output_function::OutputFunction;
use super::varlena::{bytes_of, is_on_disk};
use audit_core::encoding::TypeShape;
use audit_core::message::sha256;
use audit_core::wire::protocol::Omitted;
use audit_core::wire::{SURELY_CARRIED, Writer, too_large};
use pgrx::pg_sys::{self, Datum, FormData_pg_attribute};
use std::ops::Range;

/// A row's values, by its table's columns, dropped ones too.
#[derive(Default)]
pub struct Row {
    values: Vec<Datum>,
    nulls: Vec<bool>,
}

impl Row {
    /// `None` for no row. Columns that were added after the row was written have the values that they were added with.
    pub fn of_tuple(&mut self, tuple: pg_sys::HeapTuple, relation: pg_sys::Relation) -> Option<&Self> {
        if tuple.is_null() {
            return None;
        }
        // SAFETY: the tuple is one of the relation, which is open, as it was then; there is room for all columns.
        unsafe {
            let descriptor = (*relation).rd_att;
            let count = (*descriptor).natts as usize;
            self.values.resize(count, Datum::null());
            self.nulls.resize(count, true);
            pg_sys::heap_deform_tuple(tuple, descriptor, self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
        }
        Some(self)
    }

    pub fn value(&self, index: usize) -> Option<Datum> {
        self.nulls.get(index).is_some_and(|is_null| !is_null).then(|| self.values[index])
    }

    pub fn bigint(&self, index: usize) -> Option<i64> {
        self.value(index).map(|value| value.value() as i64)
    }
}

/// Columns that are sent.
pub struct Columns {
    columns: Vec<SentColumn>,
    memory: pg_sys::MemoryContext,
}

struct SentColumn {
    /// Where the row has it.
    source: usize,
    is_varlena: bool,
    shape: TypeShape,
    output: OutputFunction,
}

impl Columns {
    /// `memory` holds what output functions keep.
    pub fn new(memory: pg_sys::MemoryContext) -> Self {
        Self { columns: Vec::new(), memory }
    }

    pub fn add(&mut self, source: usize, attribute: &FormData_pg_attribute, shape: TypeShape) {
        let output = OutputFunction::of(attribute.atttypid, self.memory);
        self.columns.push(SentColumn { source, is_varlena: attribute.attlen == -1, shape, output });
    }

    /// Of what is too large to carry, size and digest are written.
    pub fn write(&mut self, writer: &mut Writer, row: &Row) {
        let mark = writer.mark();
        self.write_without(&[], writer, row, |_| ());
        if writer.mark() - mark <= SURELY_CARRIED {
            return;
        }
        let mut texts = Vec::new();
        writer.back_to(mark);
        self.write_without(&[], writer, row, |text| texts.push(text));
        let text = |range: &Range<usize>| std::str::from_utf8(&writer.bytes()[range.clone()]).unwrap_or_default();
        let values: Vec<_> =
            self.columns.iter().zip(&texts).map(|(column, range)| (&column.shape, text(range))).collect();
        let left_out = too_large(&values);
        if !left_out.is_empty() {
            writer.back_to(mark);
            self.write_without(&left_out, writer, row, |_| ());
        }
    }

    /// Tells of each column where its text was written.
    fn write_without(
        &mut self,
        left_out: &[usize],
        writer: &mut Writer,
        row: &Row,
        mut written: impl FnMut(Range<usize>),
    ) {
        writer.row(self.columns.len());
        for (index, SentColumn { source, is_varlena, output, .. }) in self.columns.iter_mut().enumerate() {
            written(match row.value(*source) {
                None => writer.null(),
                Some(value) if *is_varlena && is_on_disk(value) => writer.unchanged(),
                Some(value) if *is_varlena && left_out.contains(&index) => omit(writer, value),
                Some(value) => match output.write(writer, value, *is_varlena) {
                    Some(text) => text,
                    None => omit(writer, value),
                },
            });
        }
    }
}

/// Size and digest of what is stored.
fn omit(writer: &mut Writer, value: Datum) -> Range<usize> {
    let bytes = bytes_of(value);
    writer.omitted_value(Omitted { bytes: bytes.len() as u64, sha256: &sha256(bytes) })
}
