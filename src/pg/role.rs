//! With whose rights and under which settings something runs.

use super::ending::Unending;
use super::log::lock_to_read;
use super::spi::caught;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use std::ffi::{CString, c_int};

/// A setting and its value; `None` resets it to the session's default.
pub type Setting<'a> = (&'a str, Option<&'a str>);

/// Runs `work` with the rights of `role` and under `settings`, and undoes what it set. So PostgreSQL does where it runs
/// users' code on their behalf (PostgreSQL source, `index.c`, `DefineIndex`). What would outlive `work` is refused in
/// it: temporary tables, deferred triggers, prepared statements, listening.
pub fn restricted<T>(role: pg_sys::Oid, settings: &[Setting], work: impl FnOnce() -> T) -> T {
    with_rights(role, pg_sys::SECURITY_RESTRICTED_OPERATION, settings, work)
}

/// Who owns a table, and goes on to until the transaction ends.
pub fn locked_owner(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    if table != pg_sys::InvalidOid {
        lock_to_read(table);
    }
    owner(table)
}

/// Runs code of `owners` that the current user has only called, with the rights of whichever of them has least.
/// What somebody has put into a type who lacks the rights of who owns it now is the first one's choice.
pub fn with_least_rights<T>(owners: &[pg_sys::Oid], work: impl FnOnce() -> T) -> T {
    let least =
        owners.iter().fold(current_user(), |least, owner| if has_rights_of(least, *owner) { *owner } else { least });
    restricted(least, &[], work)
}

/// Where neither the user nor who owns the type has all rights of the other, one would lend them: that is refused.
/// So it is where two do not have each other's who own what stands within.
pub fn require_least_rights(owners: &[pg_sys::Oid]) {
    let Some(first) = owners.first() else { return };
    let user = current_user();
    let lends = |one, other| !has_rights_of(one, other) && !has_rights_of(other, one);
    let weaker = || owners.iter().filter(|owner| has_rights_of(*first, **owner) && has_rights_of(user, **owner));
    if lends(user, *first) || weaker().any(|one| weaker().any(|other| lends(*one, *other))) {
        let message = "permission denied to run the conditions of another role's type";
        ErrorReport::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message, "require_least_rights")
            .set_detail(
                "The type is a domain, or may hold one, and neither its owner nor the caller has all \
                rights of the other.",
            )
            .set_hint("Become a member of the role that owns the type, or read the values as jsonb.")
            .report(PgLogLevel::ERROR);
    }
}

pub fn has_rights_of(role: pg_sys::Oid, other: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalogs' caches.
    unsafe { pg_sys::has_privs_of_role(role, other) }
}

/// Does the current user have all rights of another role, and is another?
pub fn covers(other: pg_sys::Oid) -> bool {
    other != current_user() && has_rights_of(current_user(), other)
}

/// Runs `work` with the rights of the capture worker's role, which is no superuser.
pub fn as_worker<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: reads the catalogs' caches; without the role it is an error.
    let role = unsafe { pg_sys::get_role_oid(c"audit_cdc_worker".as_ptr(), false) };
    with_rights(role, 0, &[], work)
}

/// Runs statements of ours, which are the same for everybody, with the rights of the extension's owner.
pub fn as_extension<T>(work: impl FnOnce() -> T) -> T {
    with_rights(extension_owner(), 0, &[("search_path", Some("pg_catalog, pg_temp"))], work)
}

/// Runs `work`, whose messages do not go to the server's log, but for FATAL and PANIC: decoding says LOG each time
/// that it begins.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    with_settings(&[("log_min_messages", Some("fatal"))], work)
}

/// Runs `work` under these settings. They end before an error is told: what quiets the server's log must not keep the
/// error out of it.
pub fn with_settings<T>(settings: &[Setting], work: impl FnOnce() -> T) -> T {
    // SAFETY: what is set lasts until the nesting level ends, below.
    let nesting = unsafe { pg_sys::NewGUCNestLevel() };
    for (name, value) in settings {
        set(name, *value, pg_sys::GucContext::PGC_SUSET);
    }
    let result = caught(work);
    // SAFETY: as above.
    unsafe { pg_sys::AtEOXact_GUC(false, nesting) };
    result.unwrap_or_else(|error| error.rethrow())
}

pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetUserId() }
}

/// A setting's value as SHOW gives it.
pub fn setting(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    // SAFETY: gives a palloced string, or null for no such setting.
    unsafe {
        let value = pg_sys::GetConfigOptionByName(name.as_ptr(), std::ptr::null_mut(), true);
        (!value.is_null()).then(|| std::ffi::CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

pub(super) fn with_rights<T>(role: pg_sys::Oid, flags: u32, settings: &[Setting], work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: both are put back below; after an error the end of the (sub)transaction puts them back.
    let nesting = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | flags) as c_int);
        pg_sys::NewGUCNestLevel()
    };
    for (name, value) in settings {
        set(name, *value, pg_sys::GucContext::PGC_USERSET);
    }
    // whatever others' code does, the session goes on
    let unending = (flags & pg_sys::SECURITY_RESTRICTED_OPERATION != 0).then(Unending::begin);
    let result = work();
    drop(unending);
    // SAFETY: as above.
    unsafe {
        pg_sys::AtEOXact_GUC(false, nesting);
        pg_sys::SetUserIdAndSecContext(user, context);
    }
    result
}

pub(super) fn set(name: &str, value: Option<&str>, context: pg_sys::GucContext::Type) {
    let name = CString::new(name).unwrap_or_default();
    let value = value.and_then(|value| CString::new(value).ok());
    // SAFETY: the strings live until it returns; the value lasts until the nesting level, or the transaction, ends.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr()),
            context,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

fn extension_owner() -> pg_sys::Oid {
    // SAFETY: reads the catalogs' caches.
    let log = unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), false);
        pg_sys::get_relname_relid(c"log".as_ptr(), schema)
    };
    owner(log).unwrap_or_else(current_user)
}

/// `None`: there is no such table.
pub fn owner(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    owner_of(pg_sys::RelationRelationId, table)
}

/// Of a table, a function or a type. `None`: there is none.
pub(super) fn owner_of(class: pg_sys::Oid, object: pg_sys::Oid) -> Option<pg_sys::Oid> {
    use pg_sys::SysCacheIdentifier::{PROCOID, RELOID, TYPEOID};
    let cache = match class {
        pg_sys::RelationRelationId => RELOID,
        pg_sys::ProcedureRelationId => PROCOID,
        _ => TYPEOID,
    };
    // SAFETY: reads the catalogs' caches; the entry is a row of that catalog, released after reading.
    unsafe {
        let entry = pg_sys::SearchSysCache1(cache as i32, object.into());
        if entry.is_null() {
            return None;
        }
        let row = pg_sys::GETSTRUCT(entry);
        let owner = match class {
            pg_sys::RelationRelationId => (*row.cast::<pg_sys::FormData_pg_class>()).relowner,
            pg_sys::ProcedureRelationId => (*row.cast::<pg_sys::FormData_pg_proc>()).proowner,
            _ => (*row.cast::<pg_sys::FormData_pg_type>()).typowner,
        };
        pg_sys::ReleaseSysCache(entry);
        Some(owner)
    }
}
