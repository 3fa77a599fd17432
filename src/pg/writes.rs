//! Tells before a transaction writes rows, and what becomes of its subtransactions.
//!
//! No hook of PostgreSQL's is called at a write. So the plan that gives rows to a writing one is watched, until its
//! first row. What writes without a plan is a command: COPY, TRUNCATE, CREATE TABLE AS.

use super::extension::internal_schema;
use audit_core::context::Roles;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

/// What runs within the hooks raises errors of its own. pgrx's functions would make them anew, without their context.
/// And each row is seen, so that what never fails is called as it is.
mod raw {
    use super::{c_char, c_int, pg_sys};

    unsafe extern "C-unwind" {
        pub fn ExecSetExecProcNode(state: *mut pg_sys::PlanState, function: pg_sys::ExecProcNodeMtd);
        pub fn GetCurrentSubTransactionId() -> pg_sys::SubTransactionId;
        pub fn GetOuterUserId() -> pg_sys::Oid;
        pub fn GetSessionUserId() -> pg_sys::Oid;
        pub fn GetUserId() -> pg_sys::Oid;
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
        pub fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            text: *const c_char,
            is_read_only: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            parameters: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            receiver: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
    }
}

#[derive(Clone, Copy)]
pub struct Watch {
    pub before_write: fn(),
    pub subtransaction_commits: fn(u32, u32),
    pub subtransaction_aborts: fn(u32),
    /// Has it been committed?
    pub transaction_ends: fn(bool),
}

static WATCH: OnceLock<Watch> = OnceLock::new();
static PREVIOUS_START: OnceLock<pg_sys::ExecutorStart_hook_type> = OnceLock::new();
static PREVIOUS_UTILITY: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();

/// Watches the transactions of this process, and its children's.
pub fn watch_transactions(watch: Watch) {
    WATCH.get_or_init(|| watch);
    // SAFETY: the callbacks live as long as the process.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ends), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ends), std::ptr::null_mut());
    }
}

/// Watches their writes too.
pub fn watch_writes() {
    // SAFETY: the hooks are set once a process, while the library is loaded.
    unsafe {
        PREVIOUS_START.get_or_init(|| pg_sys::ExecutorStart_hook);
        PREVIOUS_UTILITY.get_or_init(|| pg_sys::ProcessUtility_hook);
        pg_sys::ExecutorStart_hook = Some(executor_starts);
        pg_sys::ProcessUtility_hook = Some(utility);
    }
}

pub fn subtransaction_id() -> u32 {
    // SAFETY: reads backend-local state.
    unsafe { raw::GetCurrentSubTransactionId() }
}

/// Who logged in, as whom the session acts, and with whose rights what runs now does.
pub fn roles() -> Roles {
    // SAFETY: reads backend-local state.
    let roles = unsafe { [raw::GetSessionUserId(), raw::GetOuterUserId(), raw::GetUserId()] };
    roles.map(pg_sys::Oid::to_u32)
}

/// Is it code that PostgreSQL, or a rule, runs on somebody's behalf? Then nothing of it may outlive it in the session.
pub fn in_restricted_operation() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Not on a standby, and not where the transaction only reads.
pub fn can_write() -> bool {
    // SAFETY: reads backend-local state and shared memory.
    unsafe { !pg_sys::XactReadOnly && !pg_sys::RecoveryInProgress() }
}

/// The number of the whole transaction, which has one from here on.
pub fn transaction_id() -> u32 {
    // SAFETY: we are in a transaction that may write.
    unsafe { pg_sys::GetTopTransactionId() }.into_inner()
}

fn before_write() {
    // SAFETY: reads backend-local state. Workers of a parallel query write nothing.
    let is_worker = unsafe { pg_sys::ParallelWorkerNumber } >= 0;
    if !is_worker && let Some(watch) = WATCH.get() {
        (watch.before_write)();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn executor_starts(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: called as PostgreSQL has called us; from then on the query has a plan and its state.
    unsafe {
        match PREVIOUS_START.get() {
            Some(Some(previous)) => previous(query, flags),
            _ => raw::standard_ExecutorStart(query, flags),
        }
        let is_shown_only = flags as u32 & pg_sys::EXEC_FLAG_EXPLAIN_ONLY != 0;
        let writes = (*query).operation != pg_sys::CmdType::CMD_SELECT || (*(*query).plannedstmt).hasModifyingCTE;
        if !writes || is_shown_only {
            return;
        }
        watch_plan((*query).planstate);
        for secondary in crate::pg::list::elements((*(*query).estate).es_auxmodifytables) {
            watch_plan(secondary.ptr_value.cast());
        }
    }
}

/// A plan that writes asks for rows first.
unsafe fn watch_plan(state: *mut pg_sys::PlanState) {
    // SAFETY: a plan's state, or null; that of a ModifyTable has as many results as it says, whose relations are open.
    unsafe {
        if state.is_null() || (*state).type_ != pg_sys::NodeTag::T_ModifyTableState {
            return;
        }
        let modify = state.cast::<pg_sys::ModifyTableState>();
        let results = std::slice::from_raw_parts((*modify).resultRelInfo, (*modify).mt_nrels as usize);
        let root = (*modify).rootResultRelInfo.as_ref();
        let rows = (*state).lefttree;
        if !rows.is_null() && results.iter().chain(root).any(|result| is_logged(result.ri_RelationDesc)) {
            (*rows).ExecProcNode = Some(next_row);
        }
    }
}

/// Are rows of it in the WAL as such? Those of temporary and unlogged tables, and of others' are not; those of
/// the log are, and nobody asks who wrote them. Partitions of one
/// root may differ.
unsafe fn is_logged(relation: pg_sys::Relation) -> bool {
    // SAFETY: the relation is open.
    let (oid, form) = unsafe { ((*relation).rd_id, &*(*relation).rd_rel) };
    let is_logged = match form.relkind as u8 {
        pg_sys::RELKIND_PARTITIONED_TABLE => form.relpersistence as u8 != pg_sys::RELPERSISTENCE_TEMP,
        pg_sys::RELKIND_RELATION => form.relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT,
        _ => false,
    };
    is_logged && oid.to_u32() >= pg_sys::FirstNormalObjectId && form.relnamespace != internal_schema()
}

#[pg_guard]
unsafe extern "C-unwind" fn next_row(state: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the state is the one that is watched; PostgreSQL starts it itself when it is asked the next time.
    unsafe {
        raw::ExecSetExecProcNode(state, (*state).ExecProcNodeReal);
        let row = match (*state).ExecProcNode {
            Some(next) => next(state),
            None => std::ptr::null_mut(),
        };
        if !row.is_null() && u32::from((*row).tts_flags) & pg_sys::TTS_FLAG_EMPTY == 0 {
            before_write();
            // what computes the next row, or a trigger, may say something else
            (*state).ExecProcNode = Some(next_row);
        }
        row
    }
}

#[allow(clippy::too_many_arguments)] // PostgreSQL's
#[pg_guard]
unsafe extern "C-unwind" fn utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    is_read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: a planned statement holds the command; the rest is called as PostgreSQL has called us.
    unsafe {
        if writes((*statement).utilityStmt) {
            before_write();
        }
        match PREVIOUS_UTILITY.get() {
            Some(Some(previous)) => {
                previous(statement, text, is_read_only, context, parameters, environment, receiver, completion);
            }
            _ => raw::standard_ProcessUtility(
                statement,
                text,
                is_read_only,
                context,
                parameters,
                environment,
                receiver,
                completion,
            ),
        }
    }
}

/// A command that writes rows of tables which are in the WAL.
unsafe fn writes(command: *mut pg_sys::Node) -> bool {
    // SAFETY: reads backend-local state. A node's tag tells its struct; a name in it may mean nothing.
    unsafe {
        if command.is_null() || pg_sys::XactReadOnly || !pg_sys::IsTransactionState() {
            return false;
        }
        match (*command).type_ {
            pg_sys::NodeTag::T_TruncateStmt => true,
            pg_sys::NodeTag::T_CopyStmt => {
                let copy = command.cast::<pg_sys::CopyStmt>();
                (*copy).is_from && !(*copy).relation.is_null() && is_shared((*copy).relation)
            }
            pg_sys::NodeTag::T_CreateTableAsStmt => {
                let into = (*command.cast::<pg_sys::CreateTableAsStmt>()).into;
                (*(*into).rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT
            }
            // it makes the table by itself
            pg_sys::NodeTag::T_ExplainStmt => {
                let explain = command.cast::<pg_sys::ExplainStmt>();
                let query = (*explain).query;
                let is_query = !query.is_null() && (*query).type_ == pg_sys::NodeTag::T_Query;
                is_query && is_analyzed((*explain).options) && writes((*query.cast::<pg_sys::Query>()).utilityStmt)
            }
            _ => false,
        }
    }
}

unsafe fn is_analyzed(options: *mut pg_sys::List) -> bool {
    // SAFETY: the options of EXPLAIN, whose names end with a zero byte.
    unsafe {
        let options =
            crate::pg::list::elements(options).iter().map(|option| option.ptr_value.cast::<pg_sys::DefElem>());
        let analyze = options.rev().find(|option| CStr::from_ptr((**option).defname) == c"analyze");
        analyze.is_some_and(|analyze| pg_sys::defGetBoolean(analyze))
    }
}

/// No temporary table. Another may have become a logged one by the time that it is locked.
unsafe fn is_shared(name: *mut pg_sys::RangeVar) -> bool {
    let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
    // SAFETY: the name lives as long as the command; nothing is locked.
    unsafe {
        let oid = pg_sys::RangeVarGetRelidExtended(
            name,
            pg_sys::NoLock as pg_sys::LOCKMODE,
            missing_ok,
            None,
            std::ptr::null_mut(),
        );
        oid != pg_sys::InvalidOid && pg_sys::get_rel_persistence(oid) as u8 != pg_sys::RELPERSISTENCE_TEMP
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    if matches!(event, XACT_EVENT_ABORT | XACT_EVENT_COMMIT | XACT_EVENT_PREPARE)
        && let Some(watch) = WATCH.get()
    {
        (watch.transaction_ends)(event != XACT_EVENT_ABORT);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ends(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    let Some(watch) = WATCH.get() else { return };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => (watch.subtransaction_commits)(subtransaction, parent),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => (watch.subtransaction_aborts)(subtransaction),
        _ => {}
    }
}
