//! The library and the SQL of the extension belong together. What runs with the SQL of another version is refused
//! before it is called. No row pays for that: PostgreSQL tells of each function once, when a statement begins.
//!
//! Of trigger functions it does not tell. They take no arguments, so those on tables go on with any SQL.

use super::extension::{extension, extension_version, is_own_script};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use std::fmt::{Display, Formatter, Result};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// So it was found, and since then no function has changed; or the extension is not in this database.
static AGREE: AtomicBool = AtomicBool::new(false);

/// The library is not of the version of the SQL.
pub struct Mismatch {
    sql: String,
}

impl Mismatch {
    /// In this database, now. We are in a transaction.
    pub fn found() -> Option<Self> {
        if AGREE.load(Relaxed) {
            return None;
        }
        let found = extension_version().filter(|sql| sql != LIBRARY).map(|sql| Self { sql });
        AGREE.store(found.is_none(), Relaxed);
        found
    }

    pub fn hint(&self) -> String {
        if numbers(&self.sql) < numbers(LIBRARY) {
            "A superuser brings the SQL up to date: ALTER EXTENSION audit_cdc UPDATE.".to_owned()
        } else {
            let version = &self.sql;
            format!("Install the library of version {version}. If it is preloaded, restart the server; else reconnect.")
        }
    }

    fn refuse(&self) {
        let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
        ErrorReport::new(code, self.to_string(), "refuse").set_hint(self.hint()).report(PgLogLevel::ERROR);
    }
}

impl Display for Mismatch {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        write!(out, "the library of audit_cdc is of version {LIBRARY}, and its SQL in this database of {}", self.sql)
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|number| number.parse().unwrap_or(0)).collect()
}

/// An error if they do not agree.
pub fn require_agreement() {
    if let Some(mismatch) = Mismatch::found() {
        mismatch.refuse();
    }
}

/// A statement is about to run this function.
pub(super) fn executed(function: pg_sys::Oid) {
    if AGREE.load(Relaxed) || function.to_u32() < pg_sys::FirstNormalObjectId {
        return;
    }
    if let (Some(mismatch), Some(extension)) = (Mismatch::found(), extension())
        // SAFETY: reads the catalogs.
        && unsafe { pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, function) } == extension.oid
        && !is_own_script(extension.oid)
    {
        mismatch.refuse();
    }
}

/// Before anything is set up: a load that fails comes again. The function that loads the library is found before we see
/// it, so its statement is refused. DDL is not: it loads the library for event triggers, and ALTER EXTENSION is DDL.
pub fn require_agreement_to_load() {
    // SAFETY: reads backend-local state; a portal lives as long as its statement.
    let is_asked = unsafe {
        pg_sys::IsTransactionState()
            && pg_sys::ActivePortal.as_ref().is_none_or(|portal| {
                use pg_sys::CommandTag::{CMDTAG_CALL, CMDTAG_SELECT};
                [CMDTAG_SELECT, CMDTAG_CALL].contains(&portal.commandTag)
            })
    };
    if is_asked {
        require_agreement();
    }
}

/// Each version changes functions, and so does CREATE EXTENSION.
pub fn watch_version() {
    static ONCE: Once = Once::new();
    // SAFETY: once a process, from _PG_init. Children of the server have it too.
    ONCE.call_once(|| unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
        pg_sys::CacheRegisterSyscacheCallback(cache, Some(functions_changed), pg_sys::Datum::null());
    });
}

unsafe extern "C-unwind" fn functions_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    AGREE.store(false, Relaxed);
}
