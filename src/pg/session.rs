//! What the server knows of this session.

use super::user::{role_name, session_user};
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{direct_function_call, direct_function_call_as_datum, pg_sys};
use std::cell::OnceCell;
use std::ffi::CStr;

mod raw {
    use pgrx::pg_sys;

    // PostgreSQL source, `network.c`: not wrapped
    unsafe extern "C-unwind" {
        pub fn inet_client_addr(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    }
}

/// Times are microseconds since 2000-01-01.
pub struct Session {
    pub session_user: Option<String>,
    pub application_name: Option<String>,
    /// `None`: it came through a Unix socket, or is no client's.
    pub client_address: Option<String>,
    pub started: i64,
    pub transaction_started: i64,
}

impl Session {
    pub fn now() -> Self {
        Self {
            session_user: role_name(session_user()),
            application_name: application_name(),
            client_address: client_address(),
            // SAFETY: reads backend-local state.
            started: unsafe { pg_sys::MyStartTimestamp },
            transaction_started: transaction_start(),
        }
    }
}

pub fn application_name() -> Option<String> {
    // SAFETY: reads backend-local state; a name is null or ends with a zero byte.
    let name = unsafe {
        let name = pg_sys::application_name;
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    };
    name.filter(|name| !name.is_empty())
}

/// When the current transaction began.
pub fn transaction_start() -> i64 {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

unsafe fn inet_client_addr(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as the caller says.
    unsafe { pg_guard_ffi_boundary(|| raw::inet_client_addr(call)) }
}

/// It stays as long as the session.
fn client_address() -> Option<String> {
    thread_local! {
        static ADDRESS: OnceCell<Option<String>> = const { OnceCell::new() };
    }
    ADDRESS.with(|address| {
        let ask = || {
            // SAFETY: the function takes no arguments; what it gives is an inet.
            unsafe {
                let address = direct_function_call_as_datum(inet_client_addr, &[])?;
                direct_function_call::<String>(pg_sys::network_host, &[Some(address)])
            }
        };
        address.get_or_init(ask).clone()
    })
}
