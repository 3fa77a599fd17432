use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::spi::{SpiResult, SpiTupleTable};
use std::cell::RefCell;
use std::ffi::c_int;
use std::marker::PhantomData;

/// A row of the log, for as long as the statement's result that it stands in.
#[derive(Clone, Copy)]
pub struct LogRow<'a> {
    pub id: i64,
    pub audited_table: i32,
    pub commit_timestamp: TimestampWithTimeZone,
    tuple: pg_sys::HeapTuple,
    lives: PhantomData<&'a ()>,
}

/// The rows of `result`, which the statement run last has given: whole rows of the log.
pub fn log_rows<'a>(result: SpiTupleTable<'a>) -> SpiResult<Vec<LogRow<'a>>> {
    let column = |name: &str| Ok::<_, pgrx::spi::Error>(result.column_ordinal(name)? as c_int);
    let (id, audited_table, commit_timestamp) = (column("id")?, column("audited_table")?, column("commit_timestamp")?);
    // SAFETY: SPI_tuptable is the result of the statement run last; its tuples live as long as it. The
    // columns are of the types that they are read as, and never null.
    let row = |tuple, layout| unsafe {
        let mut null = false;
        let mut datum = |column| pg_sys::SPI_getbinval(tuple, layout, column, &mut null);
        LogRow {
            id: datum(id).value() as i64,
            audited_table: datum(audited_table).value() as i32,
            commit_timestamp: TimestampWithTimeZone::try_from(datum(commit_timestamp).value() as i64)
                .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity()),
            tuple,
            lives: PhantomData,
        }
    };
    // SAFETY: as above.
    Ok(unsafe {
        let table = pg_sys::SPI_tuptable;
        let count = if table.is_null() { 0 } else { result.len().min((*table).numvals as usize) };
        (0..count).map(|place| row(*(*table).vals.add(place), (*table).tupdesc)).collect()
    })
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
    // SAFETY: fcinfo is the running call's, of a function that returns a set; the tuples live until `feeding` ends and
    // are copied; they are of the type that the function is declared to return.
    unsafe {
        pg_sys::InitMaterializedSRF(fcinfo, 0);
        let result = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        for row in rows {
            pg_sys::tuplestore_puttuple((*result).setResult, row);
        }
    }
}
