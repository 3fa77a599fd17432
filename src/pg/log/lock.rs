//! Locks: on tables, on names of schemas, and on what of ours no statement can lock. The transaction holds them to its
//! end.

use pgrx::pg_sys;
use std::ffi::CStr;

/// As an INSERT locks it, until the transaction ends. Takes note of what others have done to it before.
pub fn lock_log() {
    // SAFETY: the lock is of the current transaction.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), false);
        let log = pg_sys::get_relname_relid(c"log".as_ptr(), schema);
        pg_sys::LockRelationOid(log, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
    }
}

/// As an INSERT locks it, until the transaction ends: it is not dropped, nor given to another owner or another trigger.
pub fn lock_table(table: pg_sys::Oid) {
    // SAFETY: the lock is of the current transaction; there may be no such table.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) }
}

/// As an ANALYZE locks it, until the transaction ends: beyond that it gets no partition, nor a table that inherits.
pub fn lock_family(table: pg_sys::Oid) {
    // SAFETY: as above.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE) }
}

/// As a SELECT locks it, until the transaction ends: it is not rewritten, dropped, renamed, nor given to another owner.
pub fn lock_to_read(table: pg_sys::Oid) {
    // SAFETY: as above.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) }
}

/// As an INSERT, unless somebody stands in the way.
pub fn try_lock_table(table: pg_sys::Oid) -> bool {
    // SAFETY: as above.
    unsafe { pg_sys::ConditionalLockRelationOid(table, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE) }
}

/// The table's schema keeps its name until the transaction ends, unless somebody is just renaming it. Takes note of
/// what it was given before.
pub fn try_keep_schema_name(table: pg_sys::Oid) -> bool {
    keep_schema_name(table, false)
}

/// The same, and waits for that.
pub fn lock_schema_name(table: pg_sys::Oid) {
    keep_schema_name(table, true);
}

fn keep_schema_name(table: pg_sys::Oid, wait: bool) -> bool {
    // SAFETY: reads the catalogs' caches; the table is locked, so that it stays in its schema.
    let schema = unsafe { pg_sys::get_rel_namespace(table) };
    let is_kept = acquire(&object(pg_sys::NamespaceRelationId, schema.to_u32()), pg_sys::AccessShareLock, wait);
    crate::pg::notice_new_tables();
    is_kept
}

/// Who renames a schema waits for those who rely on its name: PostgreSQL itself takes this lock only to drop it.
pub(in crate::pg) fn lock_renamed_schema(schema: pg_sys::Oid) {
    acquire(&object(pg_sys::NamespaceRelationId, schema.to_u32()), pg_sys::AccessExclusiveLock, true);
}

/// Locks on objects of ours, which no SQL can take (advisory locks anybody can). While the extension is dropped its
/// tables are gone: then it is a lock that nobody else wants.
fn tag(table: &CStr, object_number: i32) -> pg_sys::LOCKTAG {
    // SAFETY: the names are constants.
    let class = unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), true);
        pg_sys::get_relname_relid(table.as_ptr(), schema)
    };
    object(class, object_number as u32)
}

/// As PostgreSQL locks an object.
fn object(class: pg_sys::Oid, object: u32) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: reads backend-local state.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: class.to_u32(),
        locktag_field3: object,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    }
}

fn acquire(tag: &pg_sys::LOCKTAG, mode: u32, wait: bool) -> bool {
    // SAFETY: the tag is a plain value that PostgreSQL copies.
    let result = unsafe { pg_sys::LockAcquire(tag, mode as pg_sys::LOCKMODE, false, !wait) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Shares a projection with others that feed it, unless somebody has it alone or waits for that. Until the
/// transaction ends.
pub fn try_share_projection(id: i32) -> bool {
    acquire(&tag(c"projections", id), pg_sys::ShareLock, false)
}

pub fn lock_projection(id: i32) {
    acquire(&tag(c"projections", id), pg_sys::ExclusiveLock, true);
}

/// Who has it reads the slot of the capture, or moves it. Until the transaction ends.
pub fn lock_capture() {
    acquire(&tag(c"captures", 0), pg_sys::ExclusiveLock, true);
}

/// Who has it makes partitions of the log. Until the transaction ends.
pub fn lock_partitions() {
    acquire(&tag(c"log", 0), pg_sys::ExclusiveLock, true);
}

/// The same, unless somebody else is making some.
pub fn try_lock_partitions() -> bool {
    acquire(&tag(c"log", 0), pg_sys::ExclusiveLock, false)
}

/// Who has it lets masks follow. Until the transaction ends.
pub fn lock_masks() {
    acquire(&tag(c"masks", 0), pg_sys::ExclusiveLock, true);
}

/// Who has it retries rejects. Until the transaction ends.
pub fn lock_retry() {
    acquire(&tag(c"rejects", 0), pg_sys::ExclusiveLock, true);
}

/// Numbers below are no table's. Whoever has DDL under way shares this one, a start of capture has it alone.
const DDL: i32 = 0;
/// Whoever notes what few objects are like now shares this one, who notes many has it alone.
const STATES: i32 = 1;
/// Locks take room in shared memory.
const FEW: usize = 200;

/// No capture starts until the transaction ends.
pub fn share_ddl() {
    acquire(&tag(c"schema_changes", DDL), pg_sys::ShareLock, true);
}

/// Nobody else has DDL under way. Until the transaction ends.
pub fn lock_ddl() {
    acquire(&tag(c"schema_changes", DDL), pg_sys::ExclusiveLock, true);
}

/// Nobody else notes what one of these tables is like, until the transaction ends. So the last note is of what was
/// last. In rising order, lest two wait for each other.
pub fn lock_states(tables: &[pg_sys::Oid]) {
    if tables.len() > FEW {
        acquire(&tag(c"schema_changes", STATES), pg_sys::ExclusiveLock, true);
        return;
    }
    acquire(&tag(c"schema_changes", STATES), pg_sys::ShareLock, true);
    for table in tables {
        acquire(&tag(c"schema_changes", table.to_u32() as i32), pg_sys::ExclusiveLock, true);
    }
}
