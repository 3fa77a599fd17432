//! Values on their way into a row of the log.

use audit_core::json::jsonb;
use audit_core::message;
use pgrx::{IntoDatum, direct_function_call, direct_function_call_as_datum as called, pg_sys};
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::CStr;

/// A value on its way into a row of the log.
pub enum LogValue<'v> {
    Null,
    Boolean(bool),
    /// When the transaction began.
    Now,
    Integer(i32),
    Bigint(i64),
    /// In PostgreSQL's microseconds.
    Time(i64),
    Char(i8),
    Uuid(&'v [u8; 16]),
    Text(&'v str),
    Texts(&'v [Cow<'v, str>]),
    Json(Cow<'v, str>),
    /// The bytes of a `jsonb`.
    Jsonb(Cow<'v, [u8]>),
    /// JSON that `jsonb` need not take: then it is kept as text.
    Annotations(&'v str),
    Action(&'static CStr),
}

/// Most rows have two of them: an empty `text[]` (PostgreSQL source, `array.h`): its length, and no dimensions.
static NO_TEXTS: [u32; 4] = [if cfg!(target_endian = "little") { 16 << 2 } else { 16 }, 0, 0, TEXT];
const TEXT: u32 = pg_sys::TEXTOID.to_u32();

/// What the values of the log need to know of its schema.
pub(super) struct Types {
    action: pg_sys::Oid,
    actions: RefCell<Vec<(&'static CStr, pg_sys::Oid)>>,
}

impl Types {
    pub fn of(schema: pg_sys::Oid) -> Self {
        // SAFETY: reads the catalogs' caches.
        unsafe {
            let action = pg_sys::GetSysCacheOid(
                pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
                pg_sys::Anum_pg_type_oid as i16,
                c"action".as_ptr().into(),
                schema.into(),
                pg_sys::Datum::null(),
                pg_sys::Datum::null(),
            );
            Self { action, actions: RefCell::default() }
        }
    }

    /// In the current memory context. Raises what the type's input function raises.
    pub fn datum(&self, value: &LogValue) -> Option<pg_sys::Datum> {
        // SAFETY: each function gets the arguments that it is declared with.
        unsafe {
            Some(match value {
                LogValue::Null => return None,
                LogValue::Boolean(value) => (*value).into(),
                LogValue::Now => pg_sys::GetCurrentTransactionStartTimestamp().into(),
                LogValue::Integer(number) => (*number).into(),
                LogValue::Bigint(number) | LogValue::Time(number) => (*number).into(),
                LogValue::Char(letter) => (*letter).into(),
                LogValue::Uuid(bytes) => bytes.as_ptr().into(),
                LogValue::Text(text) => return text.into_datum(),
                LogValue::Texts([]) => NO_TEXTS.as_ptr().into(),
                LogValue::Texts(texts) => return texts.iter().map(Cow::as_ref).collect::<Vec<&str>>().into_datum(),
                // laid out as any value of variable length
                LogValue::Jsonb(bytes) => return bytes.as_ref().into_datum(),
                LogValue::Json(text) => match jsonb(text) {
                    Some(bytes) => return bytes.into_datum(),
                    None => called(pg_sys::jsonb_in, &[c_string(text)])?,
                },
                LogValue::Annotations(json) => match jsonb(json) {
                    Some(bytes) => return bytes.into_datum(),
                    None => return self.datum(&LogValue::Json(message::kept(json))),
                },
                LogValue::Action(label) => self.action(label).into(),
            })
        }
    }

    pub fn action(&self, label: &'static CStr) -> pg_sys::Oid {
        let known = self.actions.borrow().iter().find(|(known, _)| *known == label).map(|(_, oid)| *oid);
        known.unwrap_or_else(|| {
            // SAFETY: enum_in gets a label and the type.
            let oid = unsafe {
                direct_function_call(pg_sys::enum_in, &[Some(label.as_ptr().into()), Some(self.action.into())])
            };
            let oid = oid.unwrap_or(pg_sys::InvalidOid);
            self.actions.borrow_mut().push((label, oid));
            oid
        })
    }
}

/// PostgreSQL's input functions read up to a NUL. The text has none: JSON escapes it.
fn c_string(text: &str) -> Option<pg_sys::Datum> {
    // SAFETY: copies so many bytes.
    Some(unsafe { pg_sys::pnstrdup(text.as_ptr().cast(), text.len()) }.into())
}
