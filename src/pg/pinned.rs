//! Settings that could change what our code means, writes or reads: it runs without them.

use super::guc::{Guc, find, has_value};
use super::role::{Setting, with_settings};
use pgrx::pg_sys;
use std::ffi::{CStr, CString, c_int};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

unsafe extern "C" {
    /// The setting of this name (PostgreSQL source, `xml.h`), not wrapped.
    static xmloption: c_int;
}

/// What a session, a role or a database may set, and what would change what our own code means, writes or reads. A
/// test holds every setting of the server against this list (tests/e2e/settings.txt). `None`: as the session began
/// with it.
const PINNED: &[Setting] = &[
    // names and syntax
    ("search_path", Some("pg_catalog, pg_temp")),
    ("standard_conforming_strings", Some("on")),
    ("backslash_quote", Some("safe_encoding")),
    ("transform_null_equals", Some("off")),
    ("quote_all_identifiers", Some("off")),
    ("plpgsql.variable_conflict", Some("error")),
    ("plpgsql.extra_errors", Some("none")),
    // values as text
    ("client_encoding", Some("UTF8")),
    ("DateStyle", Some("ISO, YMD")),
    ("IntervalStyle", Some("iso_8601")),
    ("TimeZone", Some("UTC")),
    ("extra_float_digits", Some("1")),
    ("bytea_output", Some("hex")),
    ("array_nulls", Some("on")),
    ("xmloption", Some("content")),
    ("xmlbinary", Some("base64")),
    ("lc_monetary", None),
    // what may be read and written, and where to
    ("row_security", Some("on")),
    ("session_replication_role", Some("origin")),
    ("restrict_nonsystem_relation_kind", Some("")),
    ("default_tablespace", Some("")),
    ("temp_tablespaces", Some("")),
    ("default_table_access_method", Some("heap")),
    ("temp_file_limit", Some("-1")),
];

/// Those that decide how the input functions of PostgreSQL's types read what the log holds; the others are spelled
/// so that nothing decides.
const READING: &[Setting] = &[("array_nulls", Some("on")), ("xmloption", Some("content"))];

/// Those that would keep the capture worker from its work for good; and who it says it is.
const WORKING: &[Setting] = &[
    ("role", Some("none")),
    ("default_transaction_read_only", Some("off")),
    ("default_transaction_isolation", Some("read committed")),
    ("default_transaction_deferrable", Some("off")),
    ("statement_timeout", Some("0")),
    ("lock_timeout", Some("0")),
    ("idle_in_transaction_session_timeout", Some("0")),
    ("idle_session_timeout", Some("0")),
    ("transaction_timeout", Some("0")),
    ("exit_on_error", Some("off")),
    ("application_name", Some("audit_cdc capture")),
];

/// Runs `work` under the pinned settings.
pub fn pinned<T>(work: impl FnOnce() -> T) -> T {
    let others = others();
    if others.is_empty() { work() } else { with_settings(&others, work) }
}

/// Runs `work`, which reads values of the log with the input functions of their types.
pub fn reading<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: reads backend-local settings.
    let is_plain = unsafe { pg_sys::Array_nulls && xmloption == pg_sys::XmlOptionType::XMLOPTION_CONTENT as c_int };
    if is_plain { work() } else { with_settings(READING, work) }
}

/// For the rest of this process, whatever the database sets.
pub fn pin_worker() {
    for (name, value) in PINNED.iter().chain(WORKING) {
        let (Ok(name), Some(value)) = (CString::new(*name), value.and_then(|value| CString::new(value).ok())) else {
            continue;
        };
        if value_of(&name).is_some() {
            // SAFETY: the strings live until it returns; as PostgreSQL's own workers do (PostgreSQL source,
            // `autovacuum.c`).
            unsafe {
                pg_sys::SetConfigOption(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_SUSET,
                    pg_sys::GucSource::PGC_S_OVERRIDE,
                );
            }
        }
    }
}

/// The pinned settings, for functions in SQL.
pub fn pinned_settings() -> impl Iterator<Item = (&'static str, &'static str)> {
    PINNED.iter().filter_map(|(name, value)| Some((*name, (*value)?)))
}

/// [`PINNED`], each with its place in PostgreSQL; those of plpgsql, which may come later, without.
static FOUND: OnceLock<Vec<(Setting<'static>, Option<AtomicPtr<Guc>>)>> = OnceLock::new();

/// Those that are known here, and set to something else.
fn others() -> Vec<Setting<'static>> {
    let found = FOUND.get_or_init(|| {
        let found = |setting: &Setting<'static>| {
            let guc = CString::new(setting.0).ok().and_then(|name| find(&name)).map(AtomicPtr::new);
            if setting.0.contains('.') { Some((*setting, None)) } else { guc.map(|guc| (*setting, Some(guc))) }
        };
        PINNED.iter().filter_map(found).collect()
    });
    let is_other = |((name, value), guc): &&(Setting<'static>, Option<AtomicPtr<Guc>>)| match guc {
        Some(guc) => !has_value(guc.load(Relaxed), *value),
        None => {
            let name = CString::new(*name).unwrap_or_default();
            value_of(&name).is_some_and(|now| Some(now.to_bytes()) != value.map(str::as_bytes))
        }
    };
    found.iter().filter(is_other).map(|(setting, _)| *setting).collect()
}

/// `None`: there is no such setting.
fn value_of(name: &CStr) -> Option<&CStr> {
    // SAFETY: gives a string that lives until the setting changes or another is asked for, or null.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value))
    }
}
