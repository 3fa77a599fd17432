//! Statements in which names mean what was checked. PostgreSQL looks names up when it prepares a statement, and
//! once more when a schema was renamed or something that is named has changed. Each time what was found is looked
//! at, before any of it is planned or run.

use super::hooks::{refuse_unseen, require_object_access};
use super::role::{current_user, has_rights_of, locked_owner, owner_of, with_rights};
use super::types::code_type;
use super::user::role_name;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgList, PgSqlErrorCode, PgTupleDesc, Spi, pg_sys};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

#[cfg(not(feature = "pg15"))]
use pgrx::pg_sys::{
    expression_tree_walker_impl as expression_tree_walker, query_tree_walker_impl as query_tree_walker,
};

/// PostgreSQL source, `nodeFuncs.h`: not wrapped for this release.
#[cfg(feature = "pg15")]
mod walkers {
    use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
    use pgrx::pg_sys::{Node, Query};
    use std::ffi::c_void;

    type Walker = Option<unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool>;

    mod raw {
        unsafe extern "C-unwind" {
            pub fn expression_tree_walker(
                node: *mut super::Node,
                walker: super::Walker,
                context: *mut super::c_void,
            ) -> bool;
            pub fn query_tree_walker(
                query: *mut super::Query,
                walker: super::Walker,
                context: *mut super::c_void,
                flags: i32,
            ) -> bool;
        }
    }

    pub unsafe fn expression_tree_walker(node: *mut Node, walker: Walker, context: *mut c_void) -> bool {
        // SAFETY: as the caller says.
        unsafe { pg_guard_ffi_boundary(|| raw::expression_tree_walker(node, walker, context)) }
    }

    pub unsafe fn query_tree_walker(query: *mut Query, walker: Walker, context: *mut c_void, flags: i32) -> bool {
        // SAFETY: as the caller says.
        unsafe { pg_guard_ffi_boundary(|| raw::query_tree_walker(query, walker, context, flags)) }
    }
}
#[cfg(feature = "pg15")]
use walkers::{expression_tree_walker, query_tree_walker};

static PREVIOUS: OnceLock<pg_sys::post_parse_analyze_hook_type> = OnceLock::new();
/// What is being looked up now.
static LOOKED_UP: AtomicPtr<Meaning> = AtomicPtr::new(null_mut());
/// The hook that PostgreSQL called when ours was called last, for a statement of ours.
static CALLED_BY: AtomicUsize = AtomicUsize::new(0);

/// A class of objects (the oid of its catalog) in the upper half, an object in the lower.
pub type Object = i64;

/// What the names of a statement may mean.
pub struct Meaning {
    /// The table that is named first; `None`: any.
    pub table: Option<pg_sys::Oid>,
    /// Everything belongs to a role that has the rights of this one, so that nobody's code gains any…
    pub role: pg_sys::Oid,
    /// …or is known.
    pub strangers: Strangers,
}

pub enum Strangers {
    Known(Vec<Object>),
    /// Whatever is found is taken, and told.
    Asked(RefCell<Vec<Object>>),
}

impl Meaning {
    /// A statement over a table, with its owner's rights. The types of the columns are what the owner has chosen.
    pub fn of_table(table: pg_sys::Oid, owner: pg_sys::Oid) -> Self {
        let mut types = Vec::new();
        // SAFETY: opened and closed here; null for one that is not there. The caches know each of its columns.
        unsafe {
            let relation = pg_sys::try_relation_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            if !relation.is_null() {
                for number in 1..=(*(*relation).rd_att).natts {
                    let of_column = pg_sys::get_atttype(table, number as i16);
                    types.extend([of_column, pg_sys::get_element_type(of_column)]);
                }
                pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
        }
        let types = types.into_iter().map(|of_column| object(pg_sys::TypeRelationId, of_column)).collect();
        Self { table: Some(table), role: owner, strangers: Strangers::Known(types) }
    }

    fn admit(&self, class: pg_sys::Oid, oid: pg_sys::Oid) {
        // what PostgreSQL brings with it
        if oid.to_u32() < pg_sys::FirstNormalObjectId
            || owner_of(class, oid).is_none_or(|owner| has_rights_of(owner, self.role))
        {
            return;
        }
        match &self.strangers {
            Strangers::Known(known) if known.contains(&object(class, oid)) => {}
            Strangers::Known(_) => refuse(class, oid, self.role),
            Strangers::Asked(found) => found.borrow_mut().push(object(class, oid)),
        }
    }

    fn admit_type(&self, oid: pg_sys::Oid) {
        if let Some(holder) = code_type(oid) {
            self.admit(pg_sys::TypeRelationId, holder.oid);
        }
    }
}

fn object(class: pg_sys::Oid, oid: pg_sys::Oid) -> Object {
    i64::from(class.to_u32()) << 32 | i64::from(oid.to_u32())
}

fn refuse(class: pg_sys::Oid, oid: pg_sys::Oid, role: pg_sys::Oid) {
    // SAFETY: gives a palloced string.
    let name = unsafe { CStr::from_ptr(pg_sys::getObjectDescriptionOids(class, oid)) }.to_string_lossy();
    let role = role_name(role).unwrap_or_default();
    let message = format!("{name} belongs to a role that lacks the rights of role \"{role}\"");
    ErrorReport::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message, "refuse")
        .set_detail("It was not there when the statement was made, and would get these rights.")
        .set_hint("audit_alter_projection() takes what the projection's rule names now.")
        .report(PgLogLevel::ERROR);
}

fn another_table() {
    let message = "a name means another table than a moment ago";
    ErrorReport::new(PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, message, "another_table")
        .set_detail("A table or a schema was renamed meanwhile.")
        .set_hint("Try again.")
        .report(PgLogLevel::ERROR);
}

/// Runs a query of ours over a table, with the rights of its owner. What the table's owner has put into it (domains,
/// operators, row filters) gets no others. Row security hides nothing, as it hides nothing from the WAL.
pub fn as_owner_of<T>(table: pg_sys::Oid, work: impl FnOnce(Meaning) -> T) -> T {
    let owner = locked_owner(table).unwrap_or_else(current_user);
    let flags = pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS;
    with_rights(owner, flags, &[], || work(Meaning::of_table(table, owner)))
}

/// Which hook PostgreSQL calls: ours, or of a library that was loaded later. It may keep what it is told to itself.
fn first_hook() -> usize {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::post_parse_analyze_hook }.map_or(0, |hook| hook as usize)
}

/// A statement without parameters.
pub struct BoundStatement {
    plan: pg_sys::SPIPlanPtr,
    /// PostgreSQL gives it back each time that names are looked up.
    meaning: *mut Meaning,
}

impl BoundStatement {
    pub fn prepare(statement: &str, meaning: Meaning) -> Self {
        let text = CString::new(statement).unwrap_or_default();
        let mut prepared = Self { plan: null_mut(), meaning: Box::into_raw(Box::new(meaning)) };
        CALLED_BY.store(0, Relaxed);
        looking_up(|| {
            Spi::connect(|_| {
                // SAFETY: the meaning lives as long as the plan does.
                unsafe {
                    prepared.plan = pg_sys::SPI_prepare_params(text.as_ptr(), Some(begin), prepared.meaning.cast(), 0);
                    pg_sys::SPI_keepplan(prepared.plan);
                }
            });
        });
        if CALLED_BY.load(Relaxed) == 0 {
            refuse_unseen("what names mean", "post_parse_analyze_hook");
        }
        prepared
    }

    /// PostgreSQL may look up the names of a plan anew, and plan it at once: we must be told.
    fn require_hook() {
        if CALLED_BY.load(Relaxed) != first_hook() {
            let anything = Meaning { table: None, role: pg_sys::InvalidOid, strangers: Strangers::Known(Vec::new()) };
            Self::prepare("SELECT", anything);
        }
    }

    /// Runs it and tells how many rows it has met.
    pub fn run(&self) -> u64 {
        self.execute(|count, _| count)
    }

    /// The same, with the rows that it gives.
    pub(super) fn execute<R>(&self, read: impl FnOnce(u64, *mut pg_sys::SPITupleTable) -> R) -> R {
        Self::require_hook();
        looking_up(|| {
            Spi::connect(|_| {
                // SAFETY: the plan is kept, and has no parameters. PostgreSQL raises its errors itself.
                unsafe {
                    pg_sys::SPI_execute_plan(self.plan, null_mut(), std::ptr::null(), false, 0);
                    read(pg_sys::SPI_processed, pg_sys::SPI_tuptable)
                }
            })
        })
    }

    /// The columns of its result; `None`: it is not one query.
    pub fn columns(&self) -> Option<Vec<String>> {
        // SAFETY: the plan is kept; a query has one source, which describes its result.
        unsafe {
            if !pg_sys::SPI_is_cursor_plan(self.plan) {
                return None;
            }
            let sources = PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(self.plan));
            let result = PgTupleDesc::from_pg_copy((*sources.get_ptr(0)?).resultDesc);
            Some(result.iter().map(|column| column.name().to_owned()).collect())
        }
    }

    /// What it names that belongs to strangers, if it was asked for.
    pub fn strangers(&self) -> Vec<Object> {
        // SAFETY: it lives as long as this does.
        match unsafe { &(*self.meaning).strangers } {
            Strangers::Known(known) => known.clone(),
            Strangers::Asked(found) => found.borrow().clone(),
        }
    }
}

impl Drop for BoundStatement {
    fn drop(&mut self) {
        // SAFETY: nobody else has the plan, nor the meaning without it.
        unsafe {
            if !self.plan.is_null() {
                pg_sys::SPI_freeplan(self.plan);
            }
            drop(Box::from_raw(self.meaning));
        }
    }
}

/// After an error too nothing is being looked up any more.
fn looking_up<T>(work: impl FnOnce() -> T) -> T {
    struct Before(*mut Meaning);
    impl Drop for Before {
        fn drop(&mut self) {
            LOOKED_UP.store(self.0, Relaxed);
        }
    }
    require_object_access();
    let _before = Before(LOOKED_UP.swap(null_mut(), Relaxed));
    work()
}

pub fn guard_names() {
    // SAFETY: the hook is set once a process, while the library is loaded.
    unsafe {
        PREVIOUS.get_or_init(|| pg_sys::post_parse_analyze_hook);
        pg_sys::post_parse_analyze_hook = Some(looked_up);
    }
}

/// PostgreSQL begins to look up the names of a statement of ours.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn begin(state: *mut pg_sys::ParseState, meaning: *mut c_void) {
    LOOKED_UP.store(meaning.cast(), Relaxed);
    // SAFETY: it is being set up.
    unsafe {
        (*state).p_paramref_hook = Some(no_parameter);
        (*state).p_ref_hook_state = meaning;
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn no_parameter(
    _state: *mut pg_sys::ParseState,
    _reference: *mut pg_sys::ParamRef,
) -> *mut pg_sys::Node {
    null_mut()
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn looked_up(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    if let Some(Some(previous)) = PREVIOUS.get() {
        // SAFETY: called as PostgreSQL has called us.
        unsafe { previous(state, query, jumble) };
    }
    // SAFETY: who has our hook was set up by `begin`, with the meaning.
    unsafe {
        let is_ours = |hook| std::ptr::fn_addr_eq(hook, no_parameter as unsafe extern "C-unwind" fn(_, _) -> _);
        if (*state).p_paramref_hook.is_some_and(is_ours) {
            LOOKED_UP.store(null_mut(), Relaxed);
            check(query, &*(*state).p_ref_hook_state.cast::<Meaning>());
            CALLED_BY.store(first_hook(), Relaxed);
        }
    }
}

/// Reading a literal of a type can run conditions of domains, while names are still being looked up.
pub(super) fn executed(function: pg_sys::Oid) {
    // SAFETY: null, or the meaning of a statement that is being prepared.
    if let Some(meaning) = unsafe { LOOKED_UP.load(Relaxed).as_ref() } {
        meaning.admit(pg_sys::ProcedureRelationId, function);
    }
}

unsafe fn check(query: *mut pg_sys::Query, meaning: &Meaning) {
    // SAFETY: PostgreSQL has just made the query; EXPLAIN holds one.
    unsafe {
        let mut query = query;
        let utility = (*query).utilityStmt;
        if !utility.is_null() && (*utility).type_ == pg_sys::NodeTag::T_ExplainStmt {
            query = (*utility.cast::<pg_sys::ExplainStmt>()).query.cast();
        }
        if let Some(table) = meaning.table {
            let tables = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable);
            if tables.get_ptr(0).is_none_or(|first| (*first).relid != table) {
                another_table();
            }
        }
        walk(query.cast(), (&raw const *meaning).cast_mut().cast());
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: PostgreSQL hands out each node of the query; the context is the meaning that `check` was given.
    unsafe {
        let Some(tag) = node.as_ref().map(|node| node.type_) else { return false };
        let meaning = &*context.cast::<Meaning>();
        if tag == pg_sys::NodeTag::T_Query {
            let query = node.cast::<pg_sys::Query>();
            for entry in PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr() {
                if (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION {
                    meaning.admit(pg_sys::RelationRelationId, (*entry).relid);
                }
            }
            return query_tree_walker(query, Some(walk), context, 0);
        }
        if makes_values(tag) {
            meaning.admit_type(pg_sys::exprType(node));
        }
        // columns of what a function gives, and of XMLTABLE and its like
        let columns = match tag {
            pg_sys::NodeTag::T_RangeTblFunction => (*node.cast::<pg_sys::RangeTblFunction>()).funccoltypes,
            pg_sys::NodeTag::T_TableFunc => (*node.cast::<pg_sys::TableFunc>()).coltypes,
            _ => null_mut(),
        };
        PgList::<pg_sys::Oid>::from_pg(columns).iter_oid().for_each(|column| meaning.admit_type(column));
        pg_sys::check_functions_in_node(node, Some(calls), context);
        expression_tree_walker(node, Some(walk), context)
    }
}

/// Nodes of which the statement says what type they are. To make a value of a type can run conditions of domains.
fn makes_values(tag: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag::*;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    if tag == T_JsonExpr {
        return true;
    }
    matches!(
        tag,
        T_Const
            | T_CoerceViaIO
            | T_ArrayCoerceExpr
            | T_RelabelType
            | T_ConvertRowtypeExpr
            | T_CoerceToDomain
            | T_RowExpr
    )
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn calls(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: as above.
    unsafe { &*context.cast::<Meaning>() }.admit(pg_sys::ProcedureRelationId, function);
    false
}
