//! The background worker of a database: captures what is committed, soon after it is.

use crate::pg::{self, CaptureWorker, CaughtError, Mismatch, Statement, Woken, flushed_lsn, report_of};
use crate::retention::Daily;
use crate::settings;
use audit_core::SqlState;
use std::time::Duration;

use pg::BuiltinOid::{INT4OID, TEXTOID};

/// So often a worker that is paused, or that does not fit the SQL, looks whether it is to end.
const WHILE_PAUSED: Duration = Duration::from_secs(1);
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

thread_local! {
    static IS_THERE: Statement = const { Statement::new(
        "SELECT to_regclass('audit_cdc_internal.captures') IS NOT NULL", &[]) };
    static IS_CAPTURED: Statement = const { Statement::new("SELECT audit_cdc_internal.is_captured()", &[]) };
    static PASS: Statement = const { Statement::new(
        "SELECT is_complete, (reached - '0/0')::bigint FROM audit_cdc_internal.capture_pass($1)", &[INT4OID]) };
    static ADVANCE: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.advance_capture()", &[]) };
    static FAILED: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.note_capture_error($1, $2)", &[TEXTOID, TEXTOID]) };
}

/// While the library is preloaded.
pub fn init() {
    pg::init_workers(run);
}

/// What came of one look at the slot.
enum Looked {
    /// What the WAL has before this position is captured.
    Complete(u64),
    Partly,
    Failed,
    /// Nothing is captured here any more.
    Ended,
}

fn run(worker: &CaptureWorker) {
    let mut retry = SHORTEST_RETRY;
    let mut has_told = false;
    let mut retention = Daily::new();
    loop {
        if let Ok(Some(mismatch)) = worker.transaction("waiting for an update", Mismatch::found) {
            tell_once(&mut has_told, &mismatch);
            worker.wait(WHILE_PAUSED);
            continue;
        }
        has_told = false;
        if !settings::capture_enabled() {
            match worker.transaction("paused", is_captured) {
                Ok(false) => return,
                _ => worker.wait(WHILE_PAUSED),
            }
            continue;
        }
        let began_at = worker.begins_to_look();
        let flushed = flushed_lsn();
        retention.step(worker);
        match look(worker) {
            Looked::Partly => retry = SHORTEST_RETRY,
            Looked::Complete(position) => {
                retry = SHORTEST_RETRY;
                worker.has_looked(began_at, position);
                worker.pause(settings::capture_delay());
                if !retention.is_running() {
                    rest(worker, flushed, &retention);
                }
            }
            Looked::Failed => {
                worker.pause(retry);
                retry = (retry * 2).min(LONGEST_RETRY);
            }
            Looked::Ended => return,
        }
    }
}

fn tell_once(has_told: &mut bool, mismatch: &Mismatch) {
    if !std::mem::replace(has_told, true) {
        pgrx::log!("audit_cdc capture waits: {mismatch}. {}", mismatch.hint());
    }
}

/// Until somebody commits, or after a nap the WAL on disk goes beyond `flushed`. What the look itself has written
/// counts too: it is to be let go of. What nobody else has brought to disk is brought there first.
fn rest(worker: &CaptureWorker, flushed: u64, retention: &Daily) {
    if pg::awaits_disk() {
        pg::flush_wal();
        if let Err(error) = advance(worker) {
            failed(worker, &error);
            return;
        }
    }
    let is_idle = || flushed_lsn() == flushed && !retention.rest().is_zero();
    while worker.sleep(settings::capture_naptime().min(retention.rest())) == Woken::ByNobody && is_idle() {}
}

/// One pass, which does not wait for the disk, and then the slot is advanced to what is there, each in its transaction.
/// Nobody else does the same meanwhile.
fn look(worker: &CaptureWorker) -> Looked {
    let pass = worker.transaction_under(&[("synchronous_commit", Some("off"))], "capturing", || {
        if !is_captured() {
            return None;
        }
        let upto = settings::capture_max_changes();
        // the lock may have been waited for
        let pass = || PASS.with(|pass| pass.read(|| vec![upto.into()], |rows| rows.first().get_two::<bool, i64>()));
        Some(pg::with_new_snapshot(pass))
    });
    let complete = match pass {
        Ok(Some((is_complete, reached))) => reached.filter(|_| is_complete == Some(true)),
        Ok(None) => return Looked::Ended,
        Err(error) => return failed(worker, &error),
    };
    match advance(worker) {
        Ok(()) => complete.map_or(Looked::Partly, |position| Looked::Complete(position as u64)),
        Err(error) => failed(worker, &error),
    }
}

/// The slot lets go of what is on disk.
fn advance(worker: &CaptureWorker) -> Result<(), CaughtError> {
    worker.transaction("capturing", || {
        if is_captured() {
            ADVANCE.with(|advance| advance.read(Vec::new, |_| Ok(())));
        }
    })
}

/// Nobody else reads or moves the slot then, until the transaction ends.
fn is_captured() -> bool {
    flag(&IS_THERE) && flag(&IS_CAPTURED)
}

fn flag(statement: &'static std::thread::LocalKey<Statement>) -> bool {
    statement.with(|statement| statement.read(Vec::new, |rows| Ok(rows.first().get_one()?.unwrap_or(false))))
}

/// Tells the server's log and `audit_capture_status()`.
fn failed(worker: &CaptureWorker, error: &CaughtError) -> Looked {
    let report = report_of(error);
    let sqlstate = SqlState::unpacked(report.sql_error_code() as i32);
    worker.has_failed(sqlstate.packed());
    pgrx::log!("audit_cdc capture: {}: {}", sqlstate.as_str(), report.message());
    let noted = worker.transaction("capturing", || {
        FAILED.with(|failed| failed.run(|| vec![sqlstate.as_str().into(), report.message().into()], |_| Ok(())));
    });
    if let Err(error) = noted {
        pgrx::log!("audit_cdc capture: the error could not be noted: {}", report_of(&error).message());
    }
    Looked::Failed
}
