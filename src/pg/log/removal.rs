//! Rows and months that go, without a statement, as rows come (`partition.rs`): triggers refuse every statement.

use pgrx::{PgSqlErrorCode, ereport, pg_sys};

/// The caller has locked the log alone. What PostgreSQL deletes by itself no hook of ours refuses.
pub fn drop_month(partition: pg_sys::Oid) {
    let address = pg_sys::ObjectAddress { classId: pg_sys::RelationRelationId, objectId: partition, objectSubId: 0 };
    // SAFETY: the address lives until it returns.
    unsafe {
        pg_sys::performDeletion(
            &address,
            pg_sys::DropBehavior::DROP_RESTRICT,
            pg_sys::PERFORM_DELETION_INTERNAL as i32,
        );
    }
}

/// `rows` is an array of tid.
pub fn remove_rows(relation: pg_sys::Oid, rows: pg_sys::Datum) {
    // SAFETY: the array's elements are tid, none of them null. After an error PostgreSQL closes the table.
    unsafe {
        let array = pg_sys::pg_detoast_datum(rows.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut places, mut count) = (std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array_builtin(array, pg_sys::TIDOID, &mut places, std::ptr::null_mut(), &mut count);
        let table = pg_sys::table_open(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
        // of a foreign table no place is one here
        if (*(*table).rd_rel).relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char {
            ereport!(ERROR, PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, "rows are removed of plain tables only");
        }
        for place in std::slice::from_raw_parts(places, count as usize) {
            pg_sys::simple_table_tuple_delete(table, place.cast_mut_ptr(), pg_sys::GetActiveSnapshot());
        }
        pg_sys::table_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}
