//! What is known of a table without a query.

use super::types::type_name;
use pgrx::pg_sys;
use std::ffi::CStr;
use std::ptr::null_mut;

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

/// Columns of its primary key, in the table's order, and their types.
pub fn primary_key_of(table: pg_sys::Oid) -> Option<(Vec<String>, Vec<String>)> {
    let mut numbers = primary_key_columns(table)?;
    numbers.sort_unstable();
    let column = |number: i16| {
        let (mut oid, mut modifier, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
        // SAFETY: reads the catalogs' caches; the name is palloced, or null for a column that is gone.
        unsafe {
            let name = pg_sys::get_attname(table, number, true);
            if name.is_null() {
                return None;
            }
            pg_sys::get_atttypetypmodcoll(table, number, &mut oid, &mut modifier, &mut collation);
            Some((CStr::from_ptr(name).to_string_lossy().into_owned(), type_name(oid, modifier)))
        }
    };
    Some(numbers.into_iter().filter_map(column).unzip())
}

/// Their numbers. The table is not locked: who changes it need not be waited for.
fn primary_key_columns(table: pg_sys::Oid) -> Option<Vec<i16>> {
    // SAFETY: what is opened is closed below; after an error the end of the (sub)transaction closes it. A row of
    // pg_index begins with that struct.
    unsafe {
        let catalog = pg_sys::table_open(pg_sys::IndexRelationId, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let mut of_table = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut of_table,
            pg_sys::Anum_pg_index_indrelid as i16,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::F_OIDEQ.into(),
            table.into(),
        );
        let index = pg_sys::IndexIndrelidIndexId.into();
        let scan = pg_sys::systable_beginscan(catalog, index, true, null_mut(), 1, &mut of_table);
        let rows = std::iter::from_fn(|| Some(pg_sys::systable_getnext(scan)).filter(|row| !row.is_null()));
        let mut indexes = rows.map(|row| &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_index>());
        let numbers = indexes.find(|index| index.indisprimary).map(key_columns);
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        numbers
    }
}

/// Without those that it only includes.
pub(super) fn key_columns(index: &pg_sys::FormData_pg_index) -> Vec<i16> {
    // SAFETY: the row has as many numbers.
    unsafe { index.indkey.values.as_slice(index.indnkeyatts as usize).to_vec() }
}
