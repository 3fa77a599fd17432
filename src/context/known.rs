//! What the server knows of this session, and what its settings annotate. Each transaction tells it, so that it is
//! made once for as long as it is so.

use crate::pg::{self, Session};
use crate::settings;
use audit_core::context::{Facts, Roles, annotations_of_settings};
use audit_core::message::sha256;
use audit_core::wire::rfc3339;
use pgrx::pg_sys;
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::ffi::CString;
use std::rc::Rc;

/// What is made of a session, and on what it depends.
type Made<On, T> = RefCell<Option<(On, T)>>;

thread_local! {
    static CONTEXT: Made<Circumstances, Context> = const { RefCell::new(None) };
    static ANNOTATIONS: Made<u64, Option<Rc<Annotations>>> = const { RefCell::new(None) };
}

/// All else stays as it is for as long as the session.
#[derive(PartialEq, Eq)]
struct Circumstances {
    roles: Roles,
    role_names: u64,
    fields: Option<CString>,
    application_name: Option<String>,
}

/// What is told of who writes.
#[derive(Clone)]
pub struct Context {
    pub json: Option<Rc<RawValue>>,
    pub tells_transaction_start: bool,
}

pub struct Annotations {
    pub text: String,
    pub sha256: [u8; 32],
}

pub fn context() -> Context {
    let circumstances = Circumstances {
        roles: pg::roles(),
        role_names: pg::role_names_version(),
        fields: settings::server_context_list(),
        application_name: pg::application_name(),
    };
    made(&CONTEXT, circumstances, || {
        let facts = all_facts(pg::current_user()).only(settings::server_context_fields());
        Context { json: facts.raw().map(Rc::from), tells_transaction_start: facts.transaction_start.is_some() }
    })
}

/// `None`: settings annotate nothing.
pub fn annotations() -> Option<Rc<Annotations>> {
    made(&ANNOTATIONS, pg::checked_version(), || {
        let [username, source, request_id, metadata] = settings::annotations();
        let text = annotations_of_settings(
            username.as_deref(),
            source.as_deref(),
            request_id.as_deref(),
            metadata.as_deref(),
        )?;
        Some(Rc::new(Annotations { sha256: sha256(text.as_bytes()), text }))
    })
}

/// All that the server knows of this session, whatever function runs, and whatever is to be told with its changes.
pub fn of_session() -> String {
    all_facts(pg::outer_user()).json()
}

fn made<On: PartialEq, T: Clone>(
    known: &'static std::thread::LocalKey<Made<On, T>>,
    on: On,
    make: impl FnOnce() -> T,
) -> T {
    let found = known.with_borrow(|known| known.as_ref().filter(|(of, _)| *of == on).map(|(_, made)| made.clone()));
    found.unwrap_or_else(|| {
        let new = make();
        known.set(Some((on, new.clone())));
        new
    })
}

fn all_facts(current_user: pg_sys::Oid) -> Facts {
    let session = Session::now();
    let role = pg::outer_user();
    Facts {
        session_user: session.session_user,
        current_user: pg::role_name(current_user),
        role: (role != current_user).then(|| pg::role_name(role)).flatten(),
        application_name: session.application_name,
        client_address: session.client_address,
        backend_start: Some(rfc3339(session.started)),
        transaction_start: Some(session.transaction_started),
    }
}
