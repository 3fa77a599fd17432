use pgrx::pg_sys;
use std::ffi::CStr;

/// Locks on objects of ours, which no SQL can take (advisory locks anybody can).
fn tag(table: &CStr, object: i32) -> pg_sys::LOCKTAG {
    // SAFETY: the names are constants.
    let class = unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), false);
        pg_sys::get_relname_relid(table.as_ptr(), schema)
    };
    pg_sys::LOCKTAG {
        // SAFETY: reads backend-local state.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: class.to_u32(),
        locktag_field3: object as u32,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    }
}

fn acquire(tag: &pg_sys::LOCKTAG, mode: u32, of_session: bool, wait: bool) -> bool {
    // SAFETY: the tag is a plain value that PostgreSQL copies.
    let result = unsafe { pg_sys::LockAcquire(tag, mode as pg_sys::LOCKMODE, of_session, !wait) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Shares a projection with others that feed it, unless somebody has it alone or waits for that. Until the transaction ends.
pub fn try_share_projection(id: i32) -> bool {
    acquire(&tag(c"projections", id), pg_sys::ShareLock, false, false)
}

pub fn lock_projection(id: i32) {
    acquire(&tag(c"projections", id), pg_sys::ExclusiveLock, false, true);
}

/// Who has it reads the slot of the capture and moves it. Until it is unlocked or a transaction of this session fails
/// (a process must not end with it otherwise: PostgreSQL would keep it); if not `of_session`, until the transaction ends.
pub fn lock_capture(of_session: bool) {
    acquire(&tag(c"captures", 0), pg_sys::ExclusiveLock, of_session, true);
}

pub fn unlock_capture() {
    // SAFETY: as above; without the lock it is a warning.
    unsafe { pg_sys::LockRelease(&tag(c"captures", 0), pg_sys::ExclusiveLock as pg_sys::LOCKMODE, true) };
}
