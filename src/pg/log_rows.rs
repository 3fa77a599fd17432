use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::spi::SpiTupleTable;
use std::cell::RefCell;
use std::ffi::CStr;
use std::marker::PhantomData;

/// A row of the log, for as long as the statement's result that it stands in.
#[derive(Clone, Copy)]
pub struct LogRow<'a> {
    pub id: i64,
    pub audited_table: i32,
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
pub(super) fn returned<'a>() -> Vec<LogRow<'a>> {
    // SAFETY: SPI_tuptable is the result of the statement run last: whole rows of the log. These columns are of the
    // types that they are read as, and never null.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        if table.is_null() {
            return Vec::new();
        }
        let layout = (*table).tupdesc;
        let column = |name: &CStr| pg_sys::SPI_fnumber(layout, name.as_ptr());
        let (id, audited_table) = (column(c"id"), column(c"audited_table"));
        let (commit_timestamp, identity) = (column(c"commit_timestamp"), column(c"identity"));
        let row = |tuple| {
            let mut null = false;
            let mut datum = |column| pg_sys::SPI_getbinval(tuple, layout, column, &mut null);
            LogRow {
                id: datum(id).value() as i64,
                audited_table: datum(audited_table).value() as i32,
                commit_timestamp: TimestampWithTimeZone::try_from(datum(commit_timestamp).value() as i64)
                    .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity()),
                // a uuid's datum points to its 16 bytes
                identity: *datum(identity).cast_mut_ptr::<[u8; 16]>(),
                tuple,
                lives: PhantomData,
            }
        };
        (0..(*table).numvals as usize).map(|place| row(*(*table).vals.add(place))).collect()
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
