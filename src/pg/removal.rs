//! What PostgreSQL's hook on accessed objects refuses: to remove the log, to rename its schemas, to make functions
//! beside ours. Event triggers on what was dropped do not run for their own removal.

use super::bound;
use super::extension::{extension, first_row, has_row, internal_schema, is_own_script, relation};
use super::hooks::{require_object_access, told_of_object_access};
use super::log::lock_renamed_schema;
use super::types::Call;
use super::version;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgList, PgSqlErrorCode, pg_sys};
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The transaction in which a superuser has allowed it; its number never comes again.
static ALLOWED: AtomicU64 = AtomicU64::new(0);
static PREVIOUS: OnceLock<pg_sys::object_access_hook_type> = OnceLock::new();

pub fn guard_removal() {
    // SAFETY: the hook is set once a process, while the library is loaded.
    unsafe {
        PREVIOUS.get_or_init(|| pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(accessed);
    }
}

pub fn is_superuser() -> bool {
    // SAFETY: reads the catalogs' caches.
    unsafe { pg_sys::superuser() }
}

pub fn allow_removal() {
    ALLOWED.store(transaction(), SeqCst);
}

fn transaction() -> u64 {
    // SAFETY: we are in a transaction.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn accessed(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    if let Some(Some(previous)) = PREVIOUS.get() {
        // SAFETY: called as PostgreSQL has called us.
        unsafe { previous(access, class, object, part, argument) };
    }
    told_of_object_access();
    match access {
        // SAFETY: of a drop, the argument is an ObjectAccessDrop.
        pg_sys::ObjectAccessType::OAT_DROP if !unsafe { is_internal(argument) } => removed(class, object),
        pg_sys::ObjectAccessType::OAT_POST_ALTER if class == pg_sys::NamespaceRelationId => altered(object),
        pg_sys::ObjectAccessType::OAT_POST_CREATE | pg_sys::ObjectAccessType::OAT_POST_ALTER
            if class == pg_sys::ProcedureRelationId =>
        {
            made_routine(object);
        }
        pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE => {
            bound::executed(object);
            version::executed(object);
        }
        _ => {}
    }
}

/// Before DROP EXTENSION has locked anything that a capture worker may hold.
pub fn refuse_early(call: Call) {
    require_object_access();
    // SAFETY: the context of an event trigger's call holds the statement; names of extensions are strings.
    let is_named = unsafe {
        let context = call.context();
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            return;
        }
        let statement = (*context.cast::<pg_sys::EventTriggerData>()).parsetree;
        if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_DropStmt {
            return;
        }
        let drop = statement.cast::<pg_sys::DropStmt>();
        (*drop).removeType == pg_sys::ObjectType::OBJECT_EXTENSION
            && PgList::<pg_sys::String>::from_pg((*drop).objects)
                .iter_ptr()
                .any(|name| CStr::from_ptr((*name).sval) == c"audit_cdc")
    };
    if is_named && let Some(extension) = extension() {
        removed(pg_sys::ExtensionRelationId, extension.oid);
    }
}

/// By PostgreSQL itself, of what was only in the way: REINDEX, VACUUM FULL, temporary objects.
unsafe fn is_internal(argument: *mut c_void) -> bool {
    // SAFETY: as the caller says.
    let argument = unsafe { argument.cast::<pg_sys::ObjectAccessDrop>().as_ref() };
    argument.is_some_and(|drop| drop.dropflags as u32 & pg_sys::PERFORM_DELETION_INTERNAL != 0)
}

fn removed(class: pg_sys::Oid, object: pg_sys::Oid) {
    if ![pg_sys::ExtensionRelationId, pg_sys::NamespaceRelationId, pg_sys::RelationRelationId].contains(&class) {
        return;
    }
    let schema = internal_schema();
    let is_ours = match class {
        pg_sys::ExtensionRelationId => true,
        pg_sys::NamespaceRelationId => object == schema,
        // SAFETY: reads the catalogs' caches. A foreign table that is no month holds nothing of this log.
        _ => unsafe {
            schema == pg_sys::get_rel_namespace(object)
                && (pg_sys::get_rel_relkind(object) as u8 != pg_sys::RELKIND_FOREIGN_TABLE
                    || pg_sys::get_rel_relispartition(object))
        },
    };
    if !is_ours || schema == pg_sys::InvalidOid {
        return;
    }
    let Some(extension) = extension().map(|extension| extension.oid) else { return };
    if class == pg_sys::ExtensionRelationId && object != extension || is_own_script(extension) {
        return;
    }
    // a month may go while the capture stays
    let captures = relation(schema, c"captures");
    if (class != pg_sys::RelationRelationId || object == captures) && has_row(captures) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the audit log cannot be removed while this database is captured",
            "CALL audit_capture_stop() first: it ends the capture and drops its slot.",
        );
    }
    // else DROP SERVER … CASCADE would take the log along, since the view audit_all_logs hangs on it
    let links = relation(schema, c"links");
    if (class != pg_sys::RelationRelationId || object == links) && has_row(links) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the audit log cannot be removed while nodes are linked",
            "Call audit_unlink() for each of audit_links first. Then its server may be dropped too.",
        );
    }
    if ALLOWED.load(SeqCst) != transaction() && has_row(relation(schema, c"audited_tables")) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "removing the audit log, or a part of it, is refused",
            "A superuser may do it after SELECT audit_allow_removal() in the same transaction.",
        );
    }
}

/// Another schema in its place would give others' code the names that the extension's has.
fn altered(schema: pg_sys::Oid) {
    lock_renamed_schema(schema);
    if let Some(extension) = extension()
        && !is_superuser()
        && (schema == extension.extnamespace || schema == internal_schema())
    {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to rename the schema of audit_cdc, or to give it to another owner",
            "A superuser may.",
        );
    }
}

/// Is this database captured?
pub fn has_capture() -> bool {
    has_row(relation(internal_schema(), c"captures"))
}

/// Was a mask ever set? Not by SQL of a version that had none.
pub fn has_masks() -> bool {
    has_row(relation(internal_schema(), c"masks"))
}

/// An overload beside a function of ours may fit a call better, and would be called in its place.
fn made_routine(routine: pg_sys::Oid) {
    let Some(extension) = extension() else { return };
    if is_superuser() || is_own_script(extension.oid) {
        return;
    }
    let routines = |read: &dyn Fn(&pg_sys::FormData_pg_proc) -> bool| {
        first_row(pg_sys::ProcedureRelationId, |row, _| {
            // SAFETY: a row of pg_proc begins with this struct.
            let row = unsafe { &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_proc>() };
            read(row).then_some(row.proname)
        })
    };
    let Some(name) = routines(&|row| row.oid == routine && row.pronamespace == extension.extnamespace) else { return };
    let is_like_ours = routines(&|row| {
        row.proname.data == name.data
            && row.oid != routine
            // SAFETY: reads the catalogs.
            && unsafe { pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, row.oid) } == extension.oid
    })
    .is_some();
    if is_like_ours {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to make a function beside one of audit_cdc that has its name",
            "Choose another name or another schema. A superuser may.",
        );
    }
}

fn refuse(sqlstate: PgSqlErrorCode, message: &'static str, hint: &str) {
    ErrorReport::new(sqlstate, message, "refuse").set_hint(hint).report(PgLogLevel::ERROR);
}
