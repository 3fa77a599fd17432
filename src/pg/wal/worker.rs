//! The background worker of a database.

use super::board::{self, Desk};
use crate::pg::pinned::pin_worker;
use crate::pg::role::{Setting, as_worker, set};
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::{IntoDatum, PgTryBuilder};
use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// After a crash of the worker.
const RESTARTED_AFTER: Duration = Duration::from_secs(5);

/// This process is a worker.
static IS_WORKER: AtomicBool = AtomicBool::new(false);

/// What a worker does; set before the server starts its first one.
static WORK: OnceLock<fn(&CaptureWorker)> = OnceLock::new();

/// While the library is preloaded: at the server's start, `audit_cdc_launch` runs once.
pub fn init_workers(work: fn(&CaptureWorker)) {
    board::init_board();
    WORK.get_or_init(|| work);
    BackgroundWorkerBuilder::new("audit_cdc launcher")
        .set_library("audit_cdc")
        .set_function("audit_cdc_launch")
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .enable_shmem_access(None)
        .load();
}

/// Starts a worker in each database that has a logical slot; one that has nothing to do ends at once.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn audit_cdc_launch(_argument: pg_sys::Datum) {
    let mut databases: Vec<u32> = slots().map(|slot| slot.database.to_u32()).collect();
    databases.sort_unstable();
    databases.dedup();
    for database in databases {
        start(database);
    }
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn audit_cdc_capture(database: pg_sys::Datum) {
    IS_WORKER.store(true, Relaxed);
    if let (Some(work), Some(worker)) = (WORK.get(), CaptureWorker::begin(database)) {
        work(&worker);
    }
}

pub fn is_capture_worker() -> bool {
    IS_WORKER.load(Relaxed)
}

/// A worker for this database. `false`: the server has no room for it (`max_worker_processes`).
pub fn start_capture_worker() -> bool {
    // SAFETY: reads backend-local state.
    start(unsafe { pg_sys::MyDatabaseId }.to_u32())
}

fn start(database: u32) -> bool {
    let worker = BackgroundWorkerBuilder::new("audit_cdc capture")
        .set_type("audit_cdc capture")
        .set_library("audit_cdc")
        .set_function("audit_cdc_capture")
        .set_argument(pg_sys::Oid::from(database).into_datum())
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(RESTARTED_AFTER))
        .enable_shmem_access(None)
        .enable_spi_access()
        .load_dynamic();
    worker.is_ok()
}

fn slots() -> impl Iterator<Item = pg_sys::ReplicationSlotPersistentData> {
    // SAFETY: the array lives in shared memory. What is read of a slot that changes meanwhile is at worst a wrong
    // database, whose worker ends at once.
    let slots = unsafe {
        let first = (&raw const (*pg_sys::ReplicationSlotCtl).replication_slots).cast::<pg_sys::ReplicationSlot>();
        std::slice::from_raw_parts(first, pg_sys::max_replication_slots as usize)
    };
    slots.iter().filter(|slot| slot.in_use && slot.data.database != pg_sys::InvalidOid).map(|slot| slot.data)
}

/// So often a worker looks that nobody can wake.
const WITHOUT_DESK: Duration = Duration::from_secs(1);

unsafe extern "C-unwind" {
    /// PostgreSQL's own handler (PostgreSQL source, `postgres.c`), not wrapped: a signal may come anywhere.
    fn die(signal: i32);
}

/// The process of a worker, connected to its database.
pub struct CaptureWorker {
    desk: Option<&'static Desk>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    ByCommit,
    ByNobody,
}

impl CaptureWorker {
    /// `None`: the database is gone, or has no slot.
    fn begin(database: pg_sys::Datum) -> Option<Self> {
        BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
        // SAFETY: as every backend; so that a shutdown ends also a long statement.
        unsafe {
            #[cfg(not(feature = "pg18"))]
            pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(die));
            #[cfg(feature = "pg18")]
            pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(die));
        }
        let database = pg_sys::Oid::from(database.value() as u32);
        if !slots().any(|slot| slot.database == database) {
            return None;
        }
        BackgroundWorker::connect_worker_to_spi_by_oid(Some(database), None);
        pin_worker();
        Some(Self { desk: board::take_desk() })
    }

    /// Runs `work` in a transaction, with the rights of the worker's role. After an error everything of it is
    /// rolled back.
    pub fn transaction<T>(&self, activity: &str, work: impl FnOnce() -> T) -> Result<T, CaughtError> {
        self.transaction_under(&[], activity, work)
    }

    /// The same under these settings, its commit too.
    pub fn transaction_under<T>(
        &self,
        settings: &[Setting],
        activity: &str,
        work: impl FnOnce() -> T,
    ) -> Result<T, CaughtError> {
        report_activity(pg_sys::BackendState::STATE_RUNNING, activity);
        let result = PgTryBuilder::new(AssertUnwindSafe(|| {
            // SAFETY: no transaction is open in this process, which has only this loop.
            unsafe {
                pg_sys::SetCurrentStatementStartTimestamp();
                pg_sys::StartTransactionCommand();
                pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            }
            for (name, value) in settings {
                set(name, *value, pg_sys::GucContext::PGC_USERSET);
            }
            let value = as_worker(work);
            // SAFETY: `work` has left the snapshot and the transaction as it found them.
            unsafe {
                pg_sys::PopActiveSnapshot();
                pg_sys::CommitTransactionCommand();
            }
            Ok(value)
        }))
        .catch_others(Err)
        .execute();
        // SAFETY: as PostgreSQL's main loop does after an error (PostgreSQL source, `postgres.c`); interrupts that
        // arrived are served later.
        unsafe {
            if result.is_err() {
                pg_sys::AbortCurrentTransaction();
                if !pg_sys::MyReplicationSlot.is_null() {
                    pg_sys::ReplicationSlotRelease();
                }
            }
            // locks that a rule has taken for the session, advisory ones
            pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as pg_sys::LOCKMETHODID);
            pg_sys::pgstat_report_stat(true);
        }
        report_activity(pg_sys::BackendState::STATE_IDLE, activity);
        result
    }

    /// Commits from now on are to be looked for. Returns the time.
    pub fn begins_to_look(&self) -> i64 {
        if let Some(desk) = self.desk {
            desk.take_commits();
        }
        crate::pg::now()
    }

    /// What was committed before `time`, and what the WAL has before `position`, is captured.
    pub fn has_looked(&self, time: i64, position: u64) {
        if let Some(desk) = self.desk {
            desk.has_looked(time, position);
        }
    }

    /// For the status, also where nothing can be written.
    pub fn has_failed(&self, sqlstate: i32) {
        if let Some(desk) = self.desk {
            desk.has_failed(crate::pg::now(), sqlstate);
        }
    }

    /// Until somebody commits, or for so long.
    pub fn sleep(&self, longest: Duration) -> Woken {
        let Some(desk) = self.desk else {
            self.wait(longest.min(WITHOUT_DESK));
            return Woken::ByNobody;
        };
        desk.sleeps(true);
        if !desk.has_commits() {
            self.wait(longest);
        }
        desk.sleeps(false);
        if desk.has_commits() { Woken::ByCommit } else { Woken::ByNobody }
    }

    /// For so long, or until it is called, whatever else wakes the process meanwhile.
    pub fn pause(&self, duration: Duration) {
        let end = Instant::now() + duration;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            && !self.desk.is_some_and(Desk::was_called)
        {
            self.wait(left.max(Duration::from_millis(1)));
        }
    }

    /// For so long, or until something wakes the process.
    pub fn wait(&self, duration: Duration) {
        if !BackgroundWorker::wait_latch(Some(duration)) {
            // SAFETY: the postmaster is dead; as everybody else this process ends, or no server could start again.
            unsafe { pg_sys::proc_exit(1) };
        }
        if BackgroundWorker::sighup_received() {
            // SAFETY: between transactions.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
    }
}

/// What the error says.
pub fn report_of(error: &CaughtError) -> &ErrorReportWithLevel {
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { ereport, .. } => ereport,
    }
}

fn report_activity(state: pg_sys::BackendState::Type, activity: &str) {
    let activity = CString::new(activity).unwrap_or_default();
    // SAFETY: writes this backend's own entry, which copies the text.
    unsafe { pg_sys::pgstat_report_activity(state, activity.as_ptr()) };
}
