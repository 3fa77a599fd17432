//! Settings that anybody may set, and by which a session ends: with its next error, or after a time.

use pgrx::pg_sys;
use pgrx::pg_sys::GucContext::{PGC_SUSET, Type};
use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

const ENDING: [&CStr; 2] = [c"exit_on_error", c"transaction_timeout"];

type Setting = AtomicPtr<pg_sys::config_generic>;

static SETTINGS: OnceLock<Vec<Setting>> = OnceLock::new();

/// While it lives, only superusers set them.
pub(super) struct Unending(Vec<(&'static Setting, Type)>);

impl Unending {
    pub fn begin() -> Self {
        let settings = SETTINGS.get_or_init(|| ENDING.into_iter().filter_map(find).map(AtomicPtr::new).collect());
        Self(settings.iter().map(|setting| (setting, permit(setting, PGC_SUSET))).collect())
    }
}

impl Drop for Unending {
    fn drop(&mut self) {
        for (setting, before) in &self.0 {
            permit(setting, *before);
        }
    }
}

/// To whom, and to whom before.
fn permit(setting: &Setting, whom: Type) -> Type {
    // SAFETY: PostgreSQL's own settings are there as long as the process is.
    unsafe { std::mem::replace(&mut (*setting.load(Relaxed)).context, whom) }
}

/// `None`: this release does not have it.
#[cfg(not(feature = "pg15"))]
fn find(name: &CStr) -> Option<*mut pg_sys::config_generic> {
    // SAFETY: gives null for no such setting.
    let found = unsafe { pg_sys::find_option(name.as_ptr(), false, true, 0) };
    (!found.is_null()).then_some(found)
}

#[cfg(feature = "pg15")]
fn find(name: &CStr) -> Option<*mut pg_sys::config_generic> {
    // SAFETY: all settings, as many as it says, each with its name.
    unsafe {
        let all = std::slice::from_raw_parts(pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions() as usize);
        all.iter().copied().find(|setting| CStr::from_ptr((**setting).name) == name)
    }
}
