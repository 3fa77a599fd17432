//! How the values of a type are written.

use super::varlena::{bytes_of, size_of};
use crate::pg::{CaughtError, caught};
use audit_core::SqlState;
use audit_core::wire::{MOST_CARRIED, Writer};
use pgrx::pg_sys::{self, Datum};
use std::ffi::CStr;
use std::io::Write;
use std::ops::Range;

/// An output function that fails at a value of this size has met a limit of PostgreSQL.
const LARGE: usize = 1 << 20;

/// What PostgreSQL's functions write for the commonest types is written here, without a call.
pub enum OutputFunction {
    Text,
    /// In hexadecimal digits, as bytea_output is set while we read.
    Bytes,
    Boolean,
    Smallint,
    Integer,
    Bigint,
    Uuid,
    Function(Box<pg_sys::FmgrInfo>),
}

impl OutputFunction {
    /// `memory` holds what an output function keeps, and lives at least as long as this.
    pub fn of(type_oid: pg_sys::Oid, memory: pg_sys::MemoryContext) -> Self {
        let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: reads the catalogs' caches; an error for a type that does not exist.
        unsafe { pg_sys::getTypeOutputInfo(type_oid, &mut function, &mut is_varlena) };
        match function.to_u32() {
            // xml_out leaves out a declaration, and a newline at the beginning
            pg_sys::F_TEXTOUT | pg_sys::F_VARCHAROUT | pg_sys::F_BPCHAROUT | pg_sys::F_JSON_OUT | pg_sys::F_XML_OUT => {
                Self::Text
            }
            pg_sys::F_BYTEAOUT => Self::Bytes,
            pg_sys::F_BOOLOUT => Self::Boolean,
            pg_sys::F_INT2OUT => Self::Smallint,
            pg_sys::F_INT4OUT => Self::Integer,
            pg_sys::F_INT8OUT => Self::Bigint,
            pg_sys::F_UUID_OUT => Self::Uuid,
            _ => {
                let mut info = Box::new(pg_sys::FmgrInfo::default());
                // SAFETY: `memory` lives long enough, as the caller says.
                unsafe { pg_sys::fmgr_info_cxt(function, &mut *info, memory) };
                Self::Function(info)
            }
        }
    }

    /// Where the text was written; `None`: it is too large for any row, and nothing was written.
    pub fn write(&mut self, writer: &mut Writer, value: Datum, is_varlena: bool) -> Option<Range<usize>> {
        let size = if is_varlena { size_of(value) } else { 0 };
        let most = if matches!(self, Self::Bytes) { MOST_CARRIED / 2 } else { MOST_CARRIED };
        if size > most {
            return None;
        }
        Some(match self {
            Self::Text => writer.text(|text| text.extend_from_slice(bytes_of(value))),
            Self::Bytes => writer.text(|text| push_hex(text, bytes_of(value))),
            Self::Boolean => writer.text(|text| text.push(if value.value() as u8 != 0 { b't' } else { b'f' })),
            Self::Smallint => writer.text(|text| drop(write!(text, "{}", value.value() as i16))),
            Self::Integer => writer.text(|text| drop(write!(text, "{}", value.value() as i32))),
            Self::Bigint => writer.text(|text| drop(write!(text, "{}", value.value() as i64))),
            // SAFETY: a uuid's datum points to its 16 bytes.
            Self::Uuid => writer.text(|text| push_uuid(text, unsafe { &*value.cast_mut_ptr::<[u8; 16]>() })),
            Self::Function(info) if size > LARGE => {
                let text = unless_too_large(|| called(info, value))?;
                writer.text(|bytes| bytes.extend_from_slice(text))
            }
            Self::Function(info) => {
                let text = called(info, value);
                writer.text(|bytes| bytes.extend_from_slice(text))
            }
        })
    }
}

/// The text lives in the current memory context.
fn called<'a>(info: &mut pg_sys::FmgrInfo, value: Datum) -> &'a [u8] {
    // SAFETY: the value is of the type whose function this is; its result ends with a zero byte.
    unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(info, value)) }.to_bytes()
}

fn unless_too_large<T>(work: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: reads backend-local state.
    let memory = unsafe { pg_sys::CurrentMemoryContext };
    match caught(work) {
        Ok(result) => Some(result),
        Err(error) if is_of_size(&error) => {
            // SAFETY: the error may have left another.
            unsafe { pg_sys::MemoryContextSwitchTo(memory) };
            None
        }
        Err(error) => error.rethrow(),
    }
}

fn is_of_size(error: &CaughtError) -> bool {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else { return false };
    matches!(SqlState::unpacked(report.sql_error_code() as i32).class(), b"53" | b"54")
        || report.message().starts_with("invalid memory alloc request size")
}

fn push_hex(text: &mut Vec<u8>, bytes: &[u8]) {
    text.reserve(2 + 2 * bytes.len());
    text.extend_from_slice(b"\\x");
    push_digits(text, bytes);
}

fn push_uuid(text: &mut Vec<u8>, bytes: &[u8; 16]) {
    text.reserve(36);
    for (place, part) in [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]].iter().enumerate() {
        if place > 0 {
            text.push(b'-');
        }
        push_digits(text, part);
    }
}

fn push_digits(text: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xF)]]);
    }
}
