//! Settings that anybody may set, and by which a session ends: with its next error, or after a time.

use super::guc::{Guc, find};
use pgrx::pg_sys::GucContext::{PGC_SUSET, Type};
use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

const ENDING: [&CStr; 2] = [c"exit_on_error", c"transaction_timeout"];

type Setting = AtomicPtr<Guc>;

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
