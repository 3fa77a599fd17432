//! What an event trigger is told.

use super::list::elements;
use super::types::Call;
use pgrx::pg_sys;
use std::ffi::CStr;

pub struct DdlEvent {
    /// `ddl_command_end`, `sql_drop` or `table_rewrite`.
    pub name: String,
    /// Such as `ALTER TABLE`.
    pub tag: String,
    /// Rows may say something else now that have a type that it alters, or the row type of a table.
    pub alters_types: bool,
}

impl Call {
    /// `None`: the function was not called as an event trigger.
    pub fn event(self) -> Option<DdlEvent> {
        // SAFETY: the context of a call is null or a node; an event trigger's holds constant strings.
        unsafe {
            let context = self.context();
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
                return None;
            }
            let data = context.cast::<pg_sys::EventTriggerData>();
            let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
            Some(DdlEvent {
                name: text((*data).event),
                tag: text(pg_sys::GetCommandTagName((*data).tag)),
                alters_types: alters_types((*data).parsetree),
            })
        }
    }
}

/// A label of an enum gets another name, or a row type other attributes.
///
/// # Safety
///
/// The command is null or a parse tree.
unsafe fn alters_types(command: *mut pg_sys::Node) -> bool {
    // SAFETY: a node is of the struct that its tag names.
    unsafe {
        match command.as_ref().map(|node| node.type_) {
            Some(pg_sys::NodeTag::T_AlterEnumStmt) => !(*command.cast::<pg_sys::AlterEnumStmt>()).oldVal.is_null(),
            Some(pg_sys::NodeTag::T_AlterTableStmt) => {
                let is_of_attributes = |cell: &pg_sys::ListCell| {
                    let subtype = (*cell.ptr_value.cast::<pg_sys::AlterTableCmd>()).subtype;
                    [pg_sys::AlterTableType::AT_AddColumn, pg_sys::AlterTableType::AT_DropColumn].contains(&subtype)
                };
                elements((*command.cast::<pg_sys::AlterTableStmt>()).cmds).iter().any(is_of_attributes)
            }
            _ => false,
        }
    }
}
