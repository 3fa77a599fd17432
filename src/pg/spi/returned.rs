//! Statements whose rows are those of the call that runs them.

use super::succeeded;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};

unsafe extern "C-unwind" {
    // PostgreSQL source, tstoreReceiver.h
    fn SetTuplestoreDestReceiverParams(
        receiver: *mut pg_sys::DestReceiver,
        store: *mut pg_sys::Tuplestorestate,
        context: pg_sys::MemoryContext,
        detoast: bool,
        descriptor: pg_sys::TupleDesc,
        misfit: *const c_char,
    );
}

thread_local! {
    /// By their text.
    static PLANS: RefCell<HashMap<CString, pg_sys::SPIPlanPtr>> = RefCell::default();
}

/// Plans of partitioned tables are large: so many are kept.
const MOST_PLANS: usize = 32;

/// Runs a statement that only reads, and returns its rows as those of the running call, of a function that returns a
/// set. Its parameters are the call's first `count` arguments. It is prepared once a session.
pub fn return_rows_of(fcinfo: pg_sys::FunctionCallInfo, statement: CString, count: usize) {
    // SAFETY: fcinfo is the running call's, with so many arguments, whose types its expression knows. The tuplestore
    // is the call's, in memory that outlives SPI's. A statement of ours runs no other one: no plan is freed meanwhile.
    unsafe {
        pg_sys::InitMaterializedSRF(fcinfo, 0);
        let result = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
        let parameters = pg_sys::makeParamList(count as i32);
        let mut types = Vec::with_capacity(count);
        let arguments = (*fcinfo).args.as_slice(count);
        for (index, argument) in arguments.iter().enumerate() {
            let parameter = &mut *(*parameters).params.as_mut_ptr().add(index);
            parameter.value = argument.value;
            parameter.isnull = argument.isnull;
            parameter.pflags = pg_sys::PARAM_FLAG_CONST as u16;
            parameter.ptype = pg_sys::get_fn_expr_argtype((*fcinfo).flinfo, index as i32);
            types.push(parameter.ptype);
        }
        Spi::connect(|_| {
            let plan = kept_plan(statement, &mut types);
            let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestTuplestore);
            SetTuplestoreDestReceiverParams(
                receiver,
                (*result).setResult,
                (*(*result).econtext).ecxt_per_query_memory,
                false,
                (*result).setDesc,
                c"rows of the statement do not fit the function".as_ptr(),
            );
            let options = pg_sys::SPIExecuteOptions {
                params: parameters,
                read_only: true,
                allow_nonatomic: false,
                must_return_tuples: true,
                tcount: 0,
                dest: receiver,
                owner: std::ptr::null_mut(),
            };
            succeeded(Spi::check_status(pg_sys::SPI_execute_plan_extended(plan, &options)));
        });
    }
}

fn kept_plan(statement: CString, types: &mut [pg_sys::Oid]) -> pg_sys::SPIPlanPtr {
    let known = PLANS.with(|plans| plans.borrow().get(&statement).copied());
    known.unwrap_or_else(|| {
        // SAFETY: an SPI connection is open. A plan that is kept lives until it is freed.
        unsafe {
            let plan = pg_sys::SPI_prepare(statement.as_ptr(), types.len() as i32, types.as_mut_ptr());
            pg_sys::SPI_keepplan(plan);
            PLANS.with(|plans| {
                let mut plans = plans.borrow_mut();
                if plans.len() >= MOST_PLANS {
                    plans.drain().for_each(|(_, plan)| {
                        pg_sys::SPI_freeplan(plan);
                    });
                }
                plans.insert(statement, plan);
            });
            plan
        }
    })
}
