//! What a trigger is told.

use super::types::Call;
use pgrx::datum::AnyElement;
use pgrx::{FromDatum, pg_sys};
use std::ffi::CStr;

pub struct TriggerEvent {
    pub table: String,
    pub owner: pg_sys::Oid,
    /// As CREATE TRIGGER has them.
    pub arguments: Vec<String>,
    row: pg_sys::HeapTuple,
}

impl TriggerEvent {
    /// What a trigger gives that leaves the row as it is.
    pub fn unchanged(&self) -> Option<AnyElement> {
        // SAFETY: PostgreSQL takes the datum as the tuple that it has given, or null of a statement.
        unsafe { AnyElement::from_polymorphic_datum(self.row.into(), false, pg_sys::TRIGGEROID) }
    }
}

impl Call {
    /// `None`: the function was not called as a trigger.
    pub fn trigger(self) -> Option<TriggerEvent> {
        // SAFETY: the context of a call is null or a node; a trigger's holds its relation and as many arguments as it
        // says.
        unsafe {
            let context = self.context();
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            let data = context.cast::<pg_sys::TriggerData>();
            let relation = (*(*data).tg_relation).rd_rel;
            let trigger = (*data).tg_trigger;
            let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
            Some(TriggerEvent {
                table: text((*relation).relname.data.as_ptr()),
                owner: (*relation).relowner,
                row: if (*data).tg_newtuple.is_null() { (*data).tg_trigtuple } else { (*data).tg_newtuple },
                arguments: (0..(*trigger).tgnargs as usize).map(|n| text(*(*trigger).tgargs.add(n))).collect(),
            })
        }
    }
}
