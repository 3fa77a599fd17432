//! What is known of a table without a query.

use pgrx::pg_sys;
use std::ffi::CStr;

/// The schema of this session's temporary objects, if it has any.
pub fn temporary_schema() -> Option<pg_sys::Oid> {
    let (mut schema, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetTempNamespaceState(&mut schema, &mut toast) };
    (schema != pg_sys::InvalidOid).then_some(schema)
}

/// Is a table of ours without any page? Then no row of it can be seen; not every statement is worth its cost to
/// find out.
pub fn never_had_rows(table: &CStr) -> bool {
    // SAFETY: opened and closed here; null for one that is gone.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), true);
        let table = pg_sys::get_relname_relid(table.as_ptr(), schema);
        let relation = pg_sys::try_table_open(table, pg_sys::AccessShareLock as i32);
        if relation.is_null() {
            return false;
        }
        let pages = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        pages == 0
    }
}

/// Was the table made by the current transaction?
pub fn is_new_table(table: pg_sys::Oid) -> bool {
    // SAFETY: opened and closed here; null for one that is gone. What this transaction made stays in the cache.
    unsafe {
        let relation = pg_sys::try_relation_open(table, pg_sys::AccessShareLock as i32);
        if relation.is_null() {
            return false;
        }
        let is_new = (*relation).rd_createSubid != 0;
        pg_sys::relation_close(relation, pg_sys::NoLock as i32);
        is_new
    }
}

/// May the current user write rows of it, or some columns?
pub fn may_write(table: pg_sys::Oid) -> bool {
    let of_columns = (pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE) as pg_sys::AclMode;
    let of_rows = of_columns | pg_sys::ACL_DELETE as pg_sys::AclMode;
    let (any, ok) = (pg_sys::AclMaskHow::ACLMASK_ANY, pg_sys::AclResult::ACLCHECK_OK);
    // SAFETY: reads the catalogs' caches; there is such a table.
    unsafe {
        let user = pg_sys::GetUserId();
        pg_sys::pg_class_aclcheck(table, user, of_rows) == ok
            || pg_sys::pg_attribute_aclcheck_all(table, user, of_columns, any) == ok
    }
}
