//! Who has the session, and names of roles.

use pgrx::pg_sys;
use pgrx::pg_sys::SysCacheIdentifier::AUTHOID;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_int};

/// Who logged in (or SET SESSION AUTHORIZATION).
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetSessionUserId() }
}

/// Whose rights the session has, whatever function runs: SET ROLE changes it, SECURITY DEFINER does not.
pub fn outer_user() -> pg_sys::Oid {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetOuterUserId() }
}

/// Also through others; a superuser is a member only of what was granted to it.
pub fn is_member(member: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalogs' caches; oids need not be of roles.
    unsafe { pg_sys::is_member_of_role_nosuper(member, role) }
}

pub fn role_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: gives a palloced string, or null for no such role.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

thread_local! {
    /// `None`: nobody has asked.
    static ROLE_NAMES: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Another whenever a name that [`role_name`] gives may be another.
pub fn role_names_version() -> u64 {
    ROLE_NAMES.get().unwrap_or_else(|| {
        // SAFETY: once a process; the callback lives as long.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(AUTHOID as c_int, Some(role_changed), pg_sys::Datum::null()) };
        ROLE_NAMES.set(Some(0));
        0
    })
}

#[pg_guard]
unsafe extern "C-unwind" fn role_changed(_argument: pg_sys::Datum, _cache: c_int, _hash: u32) {
    ROLE_NAMES.set(ROLE_NAMES.get().map(|version| version + 1));
}

pub fn role_named(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: reads the catalogs' caches; the name lives until it returns.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::InvalidOid).then_some(role)
}

pub fn database_oid() -> u32 {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The database of this session, and its name.
pub fn database() -> (u32, String) {
    // SAFETY: reads backend-local state and the catalogs' caches; the name is palloced, or null if it was just dropped.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        let name = if name.is_null() { String::new() } else { CStr::from_ptr(name).to_string_lossy().into_owned() };
        (pg_sys::MyDatabaseId.to_u32(), name)
    }
}

/// With which the ids of this server's databases begin (`audit_cdc_internal.this_database()`).
pub fn system_identifier() -> u64 {
    // SAFETY: reads shared memory that does not change while the server runs.
    unsafe { pg_sys::GetSystemIdentifier() }
}
