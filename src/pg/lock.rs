use pgrx::pg_sys;

/// Locks on an object of ours, which no SQL can take (advisory locks anybody can). Until the transaction ends.
fn acquire(object: i32, mode: u32, wait: bool) -> bool {
    // SAFETY: the names are constants; the tag is a plain value that PostgreSQL copies.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), false);
        let class = pg_sys::get_relname_relid(c"projections".as_ptr(), schema);
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.to_u32(),
            locktag_field2: class.to_u32(),
            locktag_field3: object as u32,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        let result = pg_sys::LockAcquire(&tag, mode as pg_sys::LOCKMODE, false, !wait);
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Shares a projection with others that feed it, unless somebody has it alone or waits for that.
pub fn try_share_projection(id: i32) -> bool {
    acquire(id, pg_sys::ShareLock, false)
}

pub fn lock_projection(id: i32) {
    acquire(id, pg_sys::ExclusiveLock, true);
}
