use pgrx::prelude::*;
use pgrx::shmem::PGRXSharedMemory;
use pgrx::{PgAtomic, pg_shmem_init};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering::SeqCst};

/// Where capture workers say that they sleep, and who commits wakes them. In shared memory, one desk a database.
#[derive(Default)]
struct Board([Desk; 32], [Desk; 32]);

#[derive(Default)]
pub struct Desk {
    database: AtomicU32,
    /// Address of the worker's latch, which lives in shared memory as long as the server does.
    latch: AtomicUsize,
    is_asleep: AtomicBool,
    has_commits: AtomicBool,
    /// Microseconds since 2000-01-01; 0: never.
    looked_at: AtomicI64,
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
    desks().find(|desk| desk.database.load(SeqCst) == database)
}

/// A desk for the worker of this database. `None`: there are too many databases with one.
pub fn take_desk() -> Option<&'static Desk> {
    // SAFETY: reads backend-local state.
    let (database, latch) = unsafe { (pg_sys::MyDatabaseId.to_u32(), pg_sys::MyLatch as usize) };
    let desk =
        desk().or_else(|| desks().find(|desk| desk.database.compare_exchange(0, database, SeqCst, SeqCst).is_ok()))?;
    desk.latch.store(latch, SeqCst);
    Some(desk)
}

impl Desk {
    pub fn sleeps(&self, is_asleep: bool) {
        self.is_asleep.store(is_asleep, SeqCst);
    }

    /// What was committed before `time` is captured.
    pub fn has_looked(&self, time: i64) {
        self.looked_at.store(time, SeqCst);
    }

    pub fn last_look(&self) -> Option<i64> {
        Some(self.looked_at.load(SeqCst)).filter(|time| *time > 0)
    }

    pub fn has_commits(&self) -> bool {
        self.has_commits.load(SeqCst)
    }

    pub fn take_commits(&self) {
        self.has_commits.store(false, SeqCst);
    }

    pub fn give_back_commits(&self) {
        self.has_commits.store(true, SeqCst);
    }

    /// Somebody has committed.
    fn wake(&self) {
        let latch = self.latch.load(SeqCst) as *mut pg_sys::Latch;
        // SAFETY: reads backend-local state.
        if latch == unsafe { pg_sys::MyLatch } {
            return; // the worker itself
        }
        self.has_commits.store(true, SeqCst);
        if self.is_asleep.swap(false, SeqCst) && !latch.is_null() {
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
