//! What a trigger is told.

use super::types::Call;
use pgrx::pg_sys;
use std::ffi::CStr;

pub struct TriggerEvent {
    pub table: String,
    pub owner: pg_sys::Oid,
    /// As CREATE TRIGGER has them.
    pub arguments: Vec<String>,
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
                arguments: (0..(*trigger).tgnargs as usize).map(|n| text(*(*trigger).tgargs.add(n))).collect(),
            })
        }
    }
}
