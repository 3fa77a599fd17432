//! What the catalogs say of the extension in this database, as they are now.

use pgrx::{FromDatum, pg_sys};
use std::ffi::CStr;
use std::ptr::null_mut;

/// While CREATE or ALTER EXTENSION runs our own script.
pub fn runs_own_script() -> bool {
    extension().is_some_and(|extension| is_own_script(extension.oid))
}

pub(super) fn is_own_script(extension: pg_sys::Oid) -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::creating_extension && pg_sys::CurrentExtensionObject == extension }
}

pub(super) fn extension() -> Option<pg_sys::FormData_pg_extension> {
    first_row(pg_sys::ExtensionRelationId, |row, _| as_extension(row))
}

/// That of the SQL in this database. `None`: the extension is not there.
pub(super) fn extension_version() -> Option<String> {
    first_row(pg_sys::ExtensionRelationId, |row, columns| {
        as_extension(row)?;
        let mut is_null = false;
        // SAFETY: the column is a text that is never null, and is copied.
        unsafe {
            let version = pg_sys::heap_getattr(row, pg_sys::Anum_pg_extension_extversion as i32, columns, &mut is_null);
            String::from_datum(version, is_null)
        }
    })
}

/// `None`: the row is of another one.
fn as_extension(row: pg_sys::HeapTuple) -> Option<pg_sys::FormData_pg_extension> {
    // SAFETY: a row of pg_extension begins with this struct, and its name is NUL-terminated.
    unsafe {
        let row = *pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_extension>();
        (CStr::from_ptr(row.extname.data.as_ptr()) == c"audit_cdc").then_some(row)
    }
}

pub(super) fn internal_schema() -> pg_sys::Oid {
    // SAFETY: reads the catalogs' caches.
    unsafe { pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), true) }
}

pub(super) fn relation(schema: pg_sys::Oid, name: &CStr) -> pg_sys::Oid {
    // SAFETY: reads the catalogs' caches.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) }
}

pub(super) fn has_row(table: pg_sys::Oid) -> bool {
    first_row(table, |_, _| Some(())).is_some()
}

/// What `read` gives of the first row for which it gives something, as the table is now. `None` also without the table.
pub(super) fn first_row<T>(
    table: pg_sys::Oid,
    read: impl Fn(pg_sys::HeapTuple, pg_sys::TupleDesc) -> Option<T>,
) -> Option<T> {
    // SAFETY: what is opened is closed below; after an error the end of the (sub)transaction closes it.
    unsafe {
        let relation = pg_sys::try_table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if relation.is_null() {
            return None;
        }
        // a row that is just being made counts
        let snapshot = &raw mut pg_sys::SnapshotSelfData;
        let scan = pg_sys::systable_beginscan(relation, pg_sys::InvalidOid, false, snapshot, 0, null_mut());
        let rows = std::iter::from_fn(|| Some(pg_sys::systable_getnext(scan)).filter(|row| !row.is_null()));
        let found = rows.into_iter().find_map(|row| read(row, (*relation).rd_att));
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        found
    }
}
