//! Settings as PostgreSQL holds them.

use pgrx::pg_sys::config_type::{PGC_BOOL, PGC_ENUM, PGC_INT, PGC_STRING};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(super) type Guc = pg_sys::config_generic;

/// `None`: this release does not have it. PostgreSQL's own stay where they are as long as the process is.
#[cfg(not(feature = "pg15"))]
pub(super) fn find(name: &CStr) -> Option<*mut Guc> {
    // SAFETY: gives null for no such setting.
    let found = unsafe { pg_sys::find_option(name.as_ptr(), false, true, 0) };
    (!found.is_null()).then_some(found)
}

#[cfg(feature = "pg15")]
pub(super) fn find(name: &CStr) -> Option<*mut Guc> {
    // SAFETY: all settings, as many as it says, each with its name.
    unsafe {
        let all = std::slice::from_raw_parts(pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions() as usize);
        all.iter().copied().find(|setting| CStr::from_ptr((**setting).name) == name)
    }
}

/// Is this its value? `None`: what RESET gives.
pub(super) fn has_value(setting: *mut Guc, value: Option<&str>) -> bool {
    let is = |text: *const c_char| {
        // SAFETY: null, or the NUL-terminated text of a value.
        !text.is_null() && value.is_some_and(|value| unsafe { CStr::from_ptr(text) }.to_bytes() == value.as_bytes())
    };
    // SAFETY: `find` gave it; its type tells which struct it is the beginning of.
    unsafe {
        match ((*setting).vartype, value) {
            (PGC_BOOL, Some(value)) => *(*setting.cast::<pg_sys::config_bool>()).variable == (value == "on"),
            (PGC_INT, Some(value)) => value.parse() == Ok(*(*setting.cast::<pg_sys::config_int>()).variable),
            (PGC_ENUM, Some(_)) => {
                let setting = setting.cast::<pg_sys::config_enum>();
                is(pg_sys::config_enum_lookup_by_value(setting, *(*setting).variable))
            }
            (PGC_STRING, Some(_)) => is(*(*setting.cast::<pg_sys::config_string>()).variable),
            (PGC_STRING, None) => {
                let setting = &*setting.cast::<pg_sys::config_string>();
                let (now, reset) = (*setting.variable, setting.reset_val);
                now == reset || !now.is_null() && !reset.is_null() && CStr::from_ptr(now) == CStr::from_ptr(reset)
            }
            _ => false,
        }
    }
}

/// What a setting may hold. `Err`: a sentence that tells why not.
pub trait Checked {
    fn check(text: &str) -> Result<(), String>;
}

static VERSION: AtomicU64 = AtomicU64::new(0);

/// Another whenever one of the checked settings has got a value.
pub fn checked_version() -> u64 {
    VERSION.load(Relaxed)
}

unsafe extern "C-unwind" fn assigned(_value: *const c_char, _extra: *mut c_void) {
    VERSION.fetch_add(1, Relaxed);
}

/// A setting whose values `C` checks.
pub fn define_checked<C: Checked>(
    (name, short, long): (&'static CStr, &'static CStr, &'static CStr),
    setting: &'static GucSetting<Option<CString>>,
    context: GucContext,
) {
    let flags = GucFlags::default();
    // SAFETY: the hook does not panic.
    unsafe {
        let check = Some(check::<C> as unsafe extern "C-unwind" fn(_, _, _) -> _);
        let assign = Some(assigned as unsafe extern "C-unwind" fn(_, _));
        GucRegistry::define_string_guc_with_hooks(name, short, long, setting, context, flags, check, assign, None);
    }
}

unsafe extern "C-unwind" fn check<C: Checked>(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the value is null or ends with a zero byte; PostgreSQL copies the detail into its message.
    unsafe {
        if (*value).is_null() {
            return true;
        }
        match C::check(&CStr::from_ptr(*value).to_string_lossy()) {
            Ok(()) => true,
            Err(reason) => {
                let reason = CString::new(reason).unwrap_or_default();
                pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(reason.as_ptr());
                false
            }
        }
    }
}

/// Makes `SET audit_cdc.typo = …` an error.
pub fn reserve_setting_prefix() {
    // SAFETY: called from _PG_init only; the name is a NUL-terminated constant that PostgreSQL copies.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"audit_cdc".as_ptr()) }
}

/// Is the server just starting, and loads its libraries?
pub fn is_preloading() -> bool {
    // SAFETY: reads process-local state.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}
