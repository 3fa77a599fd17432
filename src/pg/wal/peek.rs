//! What waits in a slot, read without consuming it.

use pgrx::pg_sys::SetFunctionReturnMode::SFRM_Materialize;
use pgrx::varlena::varlena_to_byte_slice;
use pgrx::{IntoDatum, pg_sys};
use std::ffi::CString;

/// Which argument of pg_logical_slot_peek_binary_changes() is what, and which column of its result.
const ARGUMENTS: usize = 4;
const DATA: usize = 2;

/// Messages of our output plugin. PostgreSQL puts them into a file where they are large; from there they are read one
/// at a time.
pub struct Peek {
    messages: *mut pg_sys::Tuplestorestate,
    row: *mut pg_sys::TupleTableSlot,
}

impl Peek {
    /// All the work of the server: it decodes what is committed, up to the transaction in which the messages reach
    /// `upto`. It is called without a statement, which would copy each message three times more.
    pub fn new(slot: &str, upto: Option<i32>, publication: &str) -> Self {
        let slot = CString::new(slot).unwrap_or_default();
        let options: Vec<&str> = vec!["publication", publication];
        // SAFETY: the function gets the arguments that it is declared with, and where to put a set. What it allocates
        // lives in the current memory context, also after an error.
        unsafe {
            let mut name = pg_sys::NameData::default();
            pg_sys::namestrcpy(&mut name, slot.as_ptr());
            let arguments: [_; ARGUMENTS] =
                [Some((&raw const name).into()), None, upto.map(pg_sys::Datum::from), options.into_datum()];
            let mut function = pg_sys::FmgrInfo::default();
            pg_sys::fmgr_info(pg_sys::F_PG_LOGICAL_SLOT_PEEK_BINARY_CHANGES.into(), &mut function);
            let mut set = pg_sys::ReturnSetInfo {
                type_: pg_sys::NodeTag::T_ReturnSetInfo,
                econtext: pg_sys::CreateStandaloneExprContext(),
                allowedModes: SFRM_Materialize as i32,
                ..pg_sys::ReturnSetInfo::default()
            };
            let size = size_of::<pg_sys::FunctionCallInfoBaseData>() + size_of::<[pg_sys::NullableDatum; ARGUMENTS]>();
            let call = pg_sys::palloc0(size).cast::<pg_sys::FunctionCallInfoBaseData>();
            (*call).flinfo = &mut function;
            (*call).resultinfo = (&raw mut set).cast();
            (*call).nargs = ARGUMENTS as i16;
            for (place, argument) in (*call).args.as_mut_slice(ARGUMENTS).iter_mut().zip(arguments) {
                (place.value, place.isnull) = (argument.unwrap_or(pg_sys::Datum::null()), argument.is_none());
            }
            pg_sys::pg_logical_slot_peek_binary_changes(call);
            let row = pg_sys::MakeSingleTupleTableSlot(set.setDesc, &raw const pg_sys::TTSOpsMinimalTuple);
            Self { messages: set.setResult, row }
        }
    }

    /// The next message, which lives until the one after it is asked for.
    pub fn message(&mut self) -> Option<&[u8]> {
        // SAFETY: the slot is one of the set's rows. Their data is never null.
        unsafe {
            if !pg_sys::tuplestore_gettupleslot(self.messages, true, false, self.row) {
                return None;
            }
            pg_sys::slot_getsomeattrs_int(self.row, DATA as i32 + 1);
            let data = *(*self.row).tts_values.add(DATA);
            Some(varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(data.cast_mut_ptr())))
        }
    }
}

impl Drop for Peek {
    fn drop(&mut self) {
        // after an error the end of the (sub)transaction frees it
        if !std::thread::panicking() {
            // SAFETY: made by `new`, and nobody else has them.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.row);
                pg_sys::tuplestore_end(self.messages);
            }
        }
    }
}
