//! Who makes changes, by the server's word. Before a transaction writes its first row, it tells what the server knows
//! of its session, and what settings annotate: `known`. `annotate` serves those who annotate by a call,
//! `required` refuses changes that nobody annotates.
//!
//! What is told is one logical message under a seal, and that of an annotation follows it as Sequin wants it
//! (https://sequinstream.com/docs/reference/annotations). `audit_core::context` decides what is due.

mod annotate;
mod known;
mod required;

use crate::pg::{self, Watch};
use crate::settings;
use audit_core::context::{Annotated, At, Declaration, Due, Roles, Said, Tell};
use audit_core::message::sha256;
pub use known::of_session;
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
    let settings = known::annotations();
    let settings = settings.as_ref().map(|annotations| annotations.text.as_str());
    let due = SAID.with_borrow_mut(|said| said.due_before_write(at(), settings::server_context(), settings));
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
    let of_settings = || known::annotations().filter(|_| pg::is_preloaded()).map(|known| known.text.clone());
    of_call.unwrap_or_else(of_settings)
}

/// What the row that is being written is annotated with.
fn told() -> Option<String> {
    SAID.with_borrow(|said| said.in_force().map(str::to_owned))
}

fn at() -> At {
    At { subtransaction: pg::subtransaction_id(), last_end: pg::last_record_end(), roles: pg::roles() }
}

fn tell(due: &Due) {
    if due.is_nothing() {
        return;
    }
    let context = due.context.then(known::context);
    let (context, transaction_start) = context.as_ref().map_or((None, None), |context| {
        let start = context.tells_transaction_start.then(pg::transaction_start);
        (context.json.as_deref(), start)
    });
    let annotations = due.annotations.as_ref().map(|annotations| match annotations {
        Tell::Set(text) => Annotated::Set(digest(text)),
        Tell::Clear => Annotated::Cleared,
    });
    let declaration = Declaration::new(due.number, context, transaction_start, annotations).text();
    let mut end = pg::with_sealer(|sealer| {
        let sealed = sealer.seal(&declaration, pg::database_oid(), pg::transaction_id());
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

/// That of settings is known.
fn digest(text: &str) -> [u8; 32] {
    match known::annotations() {
        Some(known) if known.text == text => known.sha256,
        _ => sha256(text.as_bytes()),
    }
}
