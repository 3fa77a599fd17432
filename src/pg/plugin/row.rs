//! Rows, taken apart and written.

use crate::capture::Writer;
use pgrx::pg_sys::{self, Datum, FormData_pg_attribute};
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, varlena_to_byte_slice};
use std::ffi::CStr;
use std::io::Write;

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

    pub fn value(&self, place: usize) -> Option<Datum> {
        self.nulls.get(place).is_some_and(|is_null| !is_null).then(|| self.values[place])
    }

    pub fn bigint(&self, place: usize) -> Option<i64> {
        self.value(place).map(|value| value.value() as i64)
    }
}

/// Columns that are sent.
pub struct Columns {
    columns: Vec<Column>,
    memory: pg_sys::MemoryContext,
}

struct Column {
    /// Where the row has it.
    source: usize,
    has_varlena: bool,
    output: Output,
}

/// How a type's values are written. What PostgreSQL's functions write for the commonest types is written here, without a call.
enum Output {
    Text,
    Boolean,
    Smallint,
    Integer,
    Bigint,
    Function(Box<pg_sys::FmgrInfo>),
}

impl Columns {
    /// `memory` holds what output functions keep.
    pub fn new(memory: pg_sys::MemoryContext) -> Self {
        Self { columns: Vec::new(), memory }
    }

    pub fn add(&mut self, source: usize, attribute: &FormData_pg_attribute) {
        let output = Output::of(attribute.atttypid, self.memory);
        self.columns.push(Column { source, has_varlena: attribute.attlen == -1, output });
    }

    pub fn write(&mut self, writer: &mut Writer, row: &Row) {
        writer.row(self.columns.len());
        for Column { source, has_varlena, output } in &mut self.columns {
            match row.value(*source) {
                None => writer.null(),
                Some(value) if *has_varlena && is_on_disk(value) => writer.unchanged(),
                Some(value) => writer.text(|bytes| output.write(bytes, value)),
            }
        }
    }
}

impl Output {
    fn of(type_oid: pg_sys::Oid, memory: pg_sys::MemoryContext) -> Self {
        let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: reads the catalogs' caches; an error for a type that does not exist.
        unsafe { pg_sys::getTypeOutputInfo(type_oid, &mut function, &mut is_varlena) };
        match function.to_u32() {
            pg_sys::F_TEXTOUT | pg_sys::F_VARCHAROUT | pg_sys::F_BPCHAROUT | pg_sys::F_JSON_OUT => Self::Text,
            pg_sys::F_BOOLOUT => Self::Boolean,
            pg_sys::F_INT2OUT => Self::Smallint,
            pg_sys::F_INT4OUT => Self::Integer,
            pg_sys::F_INT8OUT => Self::Bigint,
            _ => {
                let mut info = Box::new(pg_sys::FmgrInfo::default());
                // SAFETY: `memory` lives at least as long as this.
                unsafe { pg_sys::fmgr_info_cxt(function, &mut *info, memory) };
                Self::Function(info)
            }
        }
    }

    /// Appends the text.
    fn write(&mut self, bytes: &mut Vec<u8>, value: Datum) {
        match self {
            Self::Text => bytes.extend_from_slice(varlena(value)),
            Self::Boolean => bytes.push(if value.value() as u8 != 0 { b't' } else { b'f' }),
            Self::Smallint => drop(write!(bytes, "{}", value.value() as i16)),
            Self::Integer => drop(write!(bytes, "{}", value.value() as i32)),
            Self::Bigint => drop(write!(bytes, "{}", value.value() as i64)),
            Self::Function(info) => {
                // SAFETY: the value is of the type whose function this is; its result ends with a zero byte.
                let text = unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(&mut **info, value)) };
                bytes.extend_from_slice(text.to_bytes());
            }
        }
    }
}

/// A value that did not change and stands where the table keeps large ones: it was not logged again (PostgreSQL source, `postgres.h`,
/// `VARATT_IS_EXTERNAL_ONDISK`).
pub fn is_on_disk(value: Datum) -> bool {
    let pointer = value.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the value is of variable length.
    unsafe {
        varatt_is_1b_e(pointer)
            && u32::from((*pointer.cast::<pg_sys::varattrib_1b_e>()).va_tag) == pg_sys::vartag_external::VARTAG_ONDISK
    }
}

/// Its bytes. Those that had to be put together live in the current memory context.
fn varlena<'a>(value: Datum) -> &'a [u8] {
    let pointer = value.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: the value is of variable length, and all of it is there.
    unsafe {
        let whole = if varatt_is_1b_e(pointer) || varatt_is_4b_c(pointer) {
            pg_sys::pg_detoast_datum_packed(pointer)
        } else {
            pointer
        };
        varlena_to_byte_slice(whole)
    }
}
