//! Where capture workers say that they sleep and how far they are, and who commits wakes them.

use pgrx::prelude::*;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{PgAtomic, pg_shmem_init};
use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, AtomicUsize};

/// Where capture workers say that they sleep and how far they are, and who commits wakes them. In shared memory,
/// one desk a database.
#[derive(Default)]
struct Board([Desk; 32], [Desk; 32]);

/// Times are microseconds since 2000-01-01; 0: none.
#[derive(Default)]
pub struct Desk {
    /// The worker's process and, in the lower half, its database; 0: the desk is free.
    holder: AtomicU64,
    /// Address of the worker's latch, which lives in shared memory as long as the server does.
    latch: AtomicUsize,
    is_asleep: AtomicBool,
    /// It is to look at once, whatever it waits for.
    is_called: AtomicBool,
    has_commits: AtomicBool,
    /// Time of the first of them.
    first_commit: AtomicI64,
    /// What was committed before the last look began is not captured yet.
    is_behind: AtomicBool,
    /// Time of the oldest commit that may be so.
    behind_since: AtomicI64,
    /// What was committed before is captured.
    looked_at: AtomicI64,
    looked_to: AtomicU64,
    failed_at: AtomicI64,
    /// As PostgreSQL keeps it.
    failure: AtomicI32,
    /// So many calls of `audit_annotate` annotated nothing.
    lost_annotations: AtomicI64,
}

// SAFETY: atomics only.
unsafe impl PGRXSharedMemory for Board {}

// SAFETY: the name is ours.
static BOARD: PgAtomic<Board> = unsafe { PgAtomic::new(c"audit_cdc capture") };

/// To be called while the library is preloaded.
#[allow(unexpected_cfgs)] // of the macro, for releases that are not supported here
pub fn init_board() {
    pg_shmem_init!(BOARD);
    PRELOADED.store(true, SeqCst);
    // SAFETY: the callback lives as long as the process.
    unsafe { pg_sys::RegisterXactCallback(Some(wake_after_commit), std::ptr::null_mut()) };
}

fn desks() -> impl Iterator<Item = &'static Desk> {
    let Board(first, second) = BOARD.get();
    first.iter().chain(second)
}

thread_local! {
    /// Of the last commit of this session.
    static LAST_END: Cell<u64> = const { Cell::new(0) };
}

/// Whether the server has loaded the library at its start: children of the postmaster inherit it.
static PRELOADED: AtomicBool = AtomicBool::new(false);

pub fn is_preloaded() -> bool {
    PRELOADED.load(SeqCst)
}

/// The desk of this database, if it has one.
pub fn desk() -> Option<&'static Desk> {
    if !is_preloaded() {
        return None;
    }
    // SAFETY: reads backend-local state.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    desks().find(|desk| database != 0 && desk.holder.load(SeqCst) as u32 == database)
}

/// This process as the holder of a desk of a database.
fn holder(database: pg_sys::Oid) -> u64 {
    // SAFETY: reads backend-local state.
    let process = unsafe { pg_sys::MyProcPid };
    u64::from(process as u32) << 32 | u64::from(database.to_u32())
}

/// A desk for the worker of this database, until its process ends. `None`: there are too many databases with one.
pub fn take_desk() -> Option<&'static Desk> {
    // SAFETY: reads backend-local state.
    let (database, latch) = unsafe { (pg_sys::MyDatabaseId, pg_sys::MyLatch as usize) };
    let inherited = desk().filter(|desk| {
        // from a worker that is about to end
        let before = desk.holder.load(SeqCst);
        before as u32 == database.to_u32() && desk.replace_holder(before, holder(database))
    });
    let desk = inherited.or_else(|| {
        let reserved = holder(pg_sys::InvalidOid);
        let desk = desks().find(|desk| desk.replace_holder(0, reserved))?;
        desk.clear();
        desk.holder.store(holder(database), SeqCst);
        Some(desk)
    })?;
    desk.latch.store(latch, SeqCst);
    desk.is_behind.store(true, SeqCst);
    // SAFETY: the callback lives as long as the process.
    unsafe { pg_sys::before_shmem_exit(Some(give_back), pg_sys::Datum::from(0)) };
    Some(desk)
}

/// Unless another worker has it by now.
#[pg_guard]
unsafe extern "C-unwind" fn give_back(_code: i32, _argument: pg_sys::Datum) {
    // SAFETY: reads backend-local state.
    let mine = holder(unsafe { pg_sys::MyDatabaseId });
    for desk in desks() {
        desk.replace_holder(mine, 0);
    }
}

/// What a desk tells who asks for the status.
pub struct Seen {
    pub looked_at: Option<i64>,
    pub looked_to: Option<u64>,
    pub is_behind: bool,
    pub behind_since: Option<i64>,
    /// The last one: its time and SQLSTATE, as PostgreSQL keeps it.
    pub failure: Option<(i64, i32)>,
}

impl Desk {
    fn replace_holder(&self, before: u64, after: u64) -> bool {
        self.holder.compare_exchange(before, after, SeqCst, SeqCst).is_ok()
    }

    /// Of what the worker of another database has left.
    fn clear(&self) {
        for time in [&self.first_commit, &self.behind_since, &self.looked_at, &self.failed_at] {
            time.store(0, SeqCst);
        }
        for flag in [&self.is_asleep, &self.is_called, &self.has_commits] {
            flag.store(false, SeqCst);
        }
        self.looked_to.store(0, SeqCst);
        self.lost_annotations.store(0, SeqCst);
    }

    pub fn lost_annotation(&self) {
        self.lost_annotations.fetch_add(1, SeqCst);
    }

    pub fn lost_annotations(&self) -> i64 {
        self.lost_annotations.load(SeqCst)
    }

    pub fn sleeps(&self, is_asleep: bool) {
        self.is_asleep.store(is_asleep, SeqCst);
    }

    pub fn seen(&self) -> Seen {
        let time = |time: &AtomicI64| Some(time.load(SeqCst)).filter(|time| *time > 0);
        let is_behind = self.is_behind.load(SeqCst);
        Seen {
            looked_at: time(&self.looked_at),
            looked_to: Some(self.looked_to.load(SeqCst)).filter(|position| *position > 0),
            is_behind: is_behind || self.has_commits(),
            behind_since: if is_behind { time(&self.behind_since) } else { time(&self.first_commit) },
            failure: time(&self.failed_at).map(|time| (time, self.failure.load(SeqCst))),
        }
    }

    /// What was committed before `time`, and what the WAL has before `position`, is captured.
    pub fn has_looked(&self, time: i64, position: u64) {
        self.looked_at.fetch_max(time, SeqCst);
        self.looked_to.fetch_max(position, SeqCst);
        self.is_behind.store(false, SeqCst);
    }

    pub fn has_failed(&self, time: i64, sqlstate: i32) {
        self.failure.store(sqlstate, SeqCst);
        self.failed_at.store(time, SeqCst);
    }

    pub fn has_commits(&self) -> bool {
        self.has_commits.load(SeqCst)
    }

    /// Somebody has committed before this look, or what an earlier one found is not captured yet.
    pub fn take_commits(&self) {
        if self.has_commits.swap(false, SeqCst) {
            let first = self.first_commit.swap(0, SeqCst);
            if !self.is_behind.load(SeqCst) {
                self.behind_since.store(first, SeqCst);
                self.is_behind.store(true, SeqCst);
            }
        }
    }

    /// The worker waits no longer, if there is one.
    pub fn call(&self) {
        self.is_called.store(true, SeqCst);
        self.set_latch();
    }

    pub fn was_called(&self) -> bool {
        self.is_called.swap(false, SeqCst)
    }

    /// Somebody has committed.
    fn wake(&self) {
        // SAFETY: reads backend-local state.
        let (latch, time) = unsafe { (pg_sys::MyLatch as usize, pg_sys::GetCurrentTransactionStopTimestamp()) };
        if self.latch.load(SeqCst) == latch {
            return; // the worker itself
        }
        if !self.has_commits.swap(true, SeqCst) {
            self.first_commit.store(time, SeqCst);
        }
        if self.is_asleep.swap(false, SeqCst) {
            self.set_latch();
        }
    }

    fn set_latch(&self) {
        let latch = self.latch.load(SeqCst) as *mut pg_sys::Latch;
        if !latch.is_null() {
            // SAFETY: the latch is one of the server's, in shared memory; whoever owns it now may be woken for nothing.
            unsafe { pg_sys::SetLatch(latch) };
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn wake_after_commit(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    // COMMIT PREPARED has no transaction id: whoever has brought WAL to its end counts
    // SAFETY: reads backend-local state.
    let last_end = unsafe { pg_sys::XactLastCommitEnd };
    if event == pg_sys::XactEvent::XACT_EVENT_COMMIT
        && LAST_END.replace(last_end) != last_end
        && let Some(desk) = desk()
    {
        desk.wake();
    }
}
