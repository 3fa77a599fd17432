//! Who makes changes, by the server's word. Before a transaction writes its first row, it tells what the server knows
//! of its session, and what settings annotate. `annotate` serves those who annotate by a call,
//! `required` refuses changes that nobody annotates.
//!
//! What is told is one logical message under a seal, and that of an annotation follows it as Sequin wants it
//! (https://sequinstream.com/docs/reference/annotations). `audit_core::context` decides what is due.

mod annotate;
mod required;

use crate::pg::{self, Session, Watch};
use crate::settings;
use audit_core::context::{Annotated, At, Declaration, Due, Facts, Roles, Said, Tell, annotations_of_settings, seal};
use audit_core::wire::rfc3339;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};

thread_local! {
    /// By the current transaction.
    static SAID: RefCell<Said> = RefCell::new(Said::default());
    static STAMP: Cell<Option<Stamp>> = const { Cell::new(None) };
}

/// Whenever the library is loaded.
pub fn init() {
    pg::watch_transactions(Watch {
        before_write,
        subtransaction_commits: |one, parent| SAID.with_borrow_mut(|said| said.subtransaction_commits(one, parent)),
        subtransaction_aborts: |one| SAID.with_borrow_mut(|said| said.subtransaction_aborts(one)),
        transaction_ends,
    });
}

/// While the library is preloaded.
pub fn init_preloaded() {
    pg::init_secrets();
    pg::watch_writes();
}

/// What was so when something was told last. As long as it is, nothing is due.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    said: u64,
    settings: u64,
    subtransaction: u32,
    roles: Roles,
}

impl Stamp {
    fn now() -> Self {
        Self {
            said: SAID.with_borrow(Said::version),
            settings: pg::checked_version(),
            subtransaction: pg::subtransaction_id(),
            roles: pg::roles(),
        }
    }
}

/// Before each row.
fn before_write() {
    if STAMP.get() == Some(Stamp::now()) {
        return;
    }
    // what the worker itself writes is of the log; not so what it runs for others
    if pg::is_wal_logical() && (!pg::is_capture_worker() || pg::in_restricted_operation()) {
        tell_what_is_due();
    }
    STAMP.set(Some(Stamp::now()));
}

fn tell_what_is_due() {
    let settings = of_settings();
    let due = SAID.with_borrow_mut(|said| said.due_before_write(at(), settings::server_context(), settings.as_deref()));
    tell(&due);
}

fn transaction_ends(is_committed: bool) {
    let is_lost = SAID.with_borrow_mut(Said::ends);
    if is_committed
        && is_lost
        && let Some(desk) = pg::desk()
    {
        desk.lost_annotation();
    }
}

/// `None`: nothing is annotated from here on.
fn annotate(annotations: Option<&str>) {
    let wants_context = settings::server_context() && pg::is_preloaded() && pg::is_wal_logical();
    let is_alone = !pg::in_transaction_block();
    let due = SAID.with_borrow_mut(|said| said.due_of_call(at(), wants_context, annotations, is_alone));
    // what writes nothing is not annotated
    if !pg::can_write() {
        return;
    }
    tell(&due);
    if !pg::is_preloaded() {
        // nobody sees what other subtransactions write at once (crates/core/src/context/said.rs)
        tell(&due);
    }
}

/// What changes are annotated with now.
fn in_force() -> Option<String> {
    let of_call = SAID.with_borrow(|said| said.of_call().map(|annotations| annotations.map(str::to_owned)));
    of_call.unwrap_or_else(|| if pg::is_preloaded() { of_settings() } else { None })
}

/// What the row that is being written is annotated with.
fn told() -> Option<String> {
    SAID.with_borrow(|said| said.in_force().map(str::to_owned))
}

fn of_settings() -> Option<String> {
    let [username, source, request_id, metadata] = settings::annotations();
    annotations_of_settings(username.as_deref(), source.as_deref(), request_id.as_deref(), metadata.as_deref())
}

fn at() -> At {
    At { subtransaction: pg::subtransaction_id(), last_end: pg::last_record_end(), roles: pg::roles() }
}

fn tell(due: &Due) {
    if due.is_nothing() {
        return;
    }
    let facts = if due.context { facts() } else { Facts::default() };
    let annotations = due.annotations.as_ref().map(|annotations| match annotations {
        Tell::Set(text) => Annotated::Set(text),
        Tell::Clear => Annotated::Cleared,
    });
    let context = due.context.then(|| facts.json());
    let declaration = Declaration::new(due.number, context, facts.transaction_start, annotations).text();
    let mut end = pg::with_secret(|secret| {
        let sealed = seal(&declaration, secret, pg::database_oid(), pg::transaction_id());
        pg::emit(c"audit_cdc.sealed", &sealed)
    });
    match &due.annotations {
        Some(Tell::Set(text)) => end = Some(pg::emit(c"sequin:transaction_annotations.set", text)),
        Some(Tell::Clear) => end = Some(pg::emit(c"sequin:transaction_annotations.clear", "")),
        None => {}
    }
    if let Some(end) = end {
        SAID.with_borrow_mut(|said| said.is_told(end));
    }
}

/// All that the server knows of this session, whatever function runs, and whatever is to be told with its changes.
pub fn of_session() -> String {
    all_facts(pg::outer_user()).json()
}

/// Of a write.
fn facts() -> Facts {
    all_facts(pg::current_user()).only(settings::server_context_fields())
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
