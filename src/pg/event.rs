//! What an event trigger is told.

use super::types::Call;
use pgrx::pg_sys;
use std::ffi::CStr;

pub struct Event {
    /// `ddl_command_end`, `sql_drop` or `table_rewrite`.
    pub name: String,
    /// Such as `ALTER TABLE`.
    pub tag: String,
}

impl Call {
    /// `None`: the function was not called as an event trigger.
    pub fn event(self) -> Option<Event> {
        // SAFETY: the context of a call is null or a node; an event trigger's holds constant strings.
        unsafe {
            let context = self.context();
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
                return None;
            }
            let data = context.cast::<pg_sys::EventTriggerData>();
            let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
            Some(Event { name: text((*data).event), tag: text(pg_sys::GetCommandTagName((*data).tag)) })
        }
    }
}
