//! Rows of the log, as projections are fed them.

use super::datum::{LogValue, Types};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::spi::SpiTupleTable;
use pgrx::{PgSqlErrorCode, ereport, pg_sys};
use std::cell::RefCell;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::null_mut;

/// A row of the log, for as long as the statement's result that it stands in.
#[derive(Clone, Copy)]
pub struct LogRow<'a> {
    pub id: i64,
    pub commit_timestamp: TimestampWithTimeZone,
    pub identity: [u8; 16],
    tuple: pg_sys::HeapTuple,
    lives: PhantomData<&'a ()>,
}

/// The rows of `result`, which the statement run last has given: whole rows of the log.
pub fn log_rows<'a>(_result: SpiTupleTable<'a>) -> Vec<LogRow<'a>> {
    returned()
}

/// What the statement run last has returned. It lives until the SPI connection ends, which `'a` must not outlive.
pub(in crate::pg) fn returned<'a>() -> Vec<LogRow<'a>> {
    // SAFETY: SPI_tuptable is the result of the statement run last: whole rows of the log.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        if table.is_null() {
            return Vec::new();
        }
        let layout = LogLayout::new((*table).tupdesc, null_mut());
        (0..(*table).numvals as usize).map(|index| layout.row_of(*(*table).vals.add(index))).collect()
    }
}

/// Rows of the log that are stored nowhere yet, with a value for each of `columns`; others are null. They live as long
/// as the current memory context.
pub fn new_rows<'a, 'v>(columns: &[&CStr], rows: impl Iterator<Item = Vec<LogValue<'v>>>) -> Vec<LogRow<'a>> {
    // SAFETY: the log is locked by its session. A tuple is formed of values of its columns' types, and copies them.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), false);
        let log = pg_sys::table_open(pg_sys::get_relname_relid(c"log".as_ptr(), schema), pg_sys::NoLock as i32);
        let descriptor = pg_sys::CreateTupleDescCopy((*log).rd_att);
        pg_sys::table_close(log, pg_sys::NoLock as i32);
        let (layout, types) = (LogLayout::new(descriptor, null_mut()), Types::of(schema));
        let width = (*descriptor).natts as usize;
        let places: Vec<_> =
            columns.iter().map(|column| pg_sys::SPI_fnumber(descriptor, column.as_ptr()) as usize - 1).collect();
        let formed = |row: Vec<LogValue>| {
            let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); width], vec![true; width]);
            for (place, value) in places.iter().zip(&row) {
                if let Some(datum) = types.datum(value) {
                    (values[*place], nulls[*place]) = (datum, false);
                }
            }
            layout.row_of(pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr()))
        };
        rows.map(formed).collect()
    }
}

/// Where the columns of a row of the log stand.
pub(super) struct LogLayout {
    descriptor: pg_sys::TupleDesc,
    id: i32,
    commit_timestamp: i32,
    identity: i32,
    /// From a partition's layout to that of the log, where they differ.
    conversion: *mut pg_sys::TupleConversionMap,
}

impl LogLayout {
    fn new(descriptor: pg_sys::TupleDesc, conversion: *mut pg_sys::TupleConversionMap) -> Self {
        // SAFETY: the descriptor outlives this.
        let column = |name: &CStr| unsafe { pg_sys::SPI_fnumber(descriptor, name.as_ptr()) };
        Self {
            descriptor,
            id: column(c"id"),
            commit_timestamp: column(c"commit_timestamp"),
            identity: column(c"identity"),
            conversion,
        }
    }

    /// Of rows of a partition as rows of the log. Lives as long as the current memory context.
    pub fn of(partition: pg_sys::Relation) -> Self {
        // SAFETY: the partition is open, and so is the log, which its session has locked.
        unsafe {
            let schema = (*(*partition).rd_rel).relnamespace;
            let log = pg_sys::table_open(pg_sys::get_relname_relid(c"log".as_ptr(), schema), pg_sys::NoLock as i32);
            let descriptor = pg_sys::CreateTupleDescCopy((*log).rd_att);
            pg_sys::table_close(log, pg_sys::NoLock as i32);
            Self::new(descriptor, pg_sys::convert_tuples_by_name((*partition).rd_att, descriptor))
        }
    }

    /// Of a partition's row, copied into the current memory context.
    pub fn row<'a>(&self, slot: *mut pg_sys::TupleTableSlot) -> LogRow<'a> {
        // SAFETY: the slot holds a row of the partition that this layout was made of.
        unsafe {
            let Some(copied) = (*(*slot).tts_ops).copy_heap_tuple else { unreachable!("every slot of a table copies") };
            let tuple = copied(slot);
            let tuple =
                if self.conversion.is_null() { tuple } else { pg_sys::execute_attr_map_tuple(tuple, self.conversion) };
            self.row_of(tuple)
        }
    }

    /// These columns are of the types that they are read as, and never null, except for what another server answers.
    fn row_of<'a>(&self, tuple: pg_sys::HeapTuple) -> LogRow<'a> {
        let datum = |column| {
            let mut null = false;
            // SAFETY: the tuple is of this layout.
            let datum = unsafe { pg_sys::SPI_getbinval(tuple, self.descriptor, column, &mut null) };
            if null {
                ereport!(ERROR, PgSqlErrorCode::ERRCODE_FDW_ERROR, "an entry on another server lacks its key");
            }
            datum
        };
        LogRow {
            id: datum(self.id).value() as i64,
            commit_timestamp: TimestampWithTimeZone::try_from(datum(self.commit_timestamp).value() as i64)
                .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity()),
            // SAFETY: a uuid's datum points to its 16 bytes.
            identity: unsafe { *datum(self.identity).cast_mut_ptr::<[u8; 16]>() },
            tuple,
            lives: PhantomData,
        }
    }
}

thread_local! {
    /// What `new_log()` returns; the last, since a trigger may call audit_ingest again.
    static FED: RefCell<Vec<Vec<pg_sys::HeapTuple>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work`, in which `new_log()` returns `rows`.
pub fn feeding<'e, 'a: 'e, T>(rows: impl Iterator<Item = &'e LogRow<'a>>, work: impl FnOnce() -> T) -> T {
    struct Fed;
    impl Drop for Fed {
        fn drop(&mut self) {
            FED.with(|fed| fed.borrow_mut().pop());
        }
    }
    FED.with(|fed| fed.borrow_mut().push(rows.map(|row| row.tuple).collect()));
    let _until_the_end = Fed;
    work()
}

/// Returns the rows that are being fed, as SETOF audit_cdc_internal.log.
pub fn return_fed_rows(fcinfo: pg_sys::FunctionCallInfo) {
    let rows = FED.with(|fed| fed.borrow().last().cloned().unwrap_or_default());
    // SAFETY: fcinfo is the running call's, of a function that returns a set. The tuples live until `feeding` ends and
    // are copied. They are of the type that the function is declared to return.
    unsafe {
        pg_sys::InitMaterializedSRF(fcinfo, 0);
        let result = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        for row in rows {
            pg_sys::tuplestore_puttuple((*result).setResult, row);
        }
    }
}
