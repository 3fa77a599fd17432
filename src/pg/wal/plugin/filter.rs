//! A publication's row filter (PostgreSQL documentation, "Row Filters"). It has PostgreSQL's own immutable
//! functions only.

use super::row::Row;
use super::varlena::is_on_disk;
use crate::pg::{CaughtError, caught};
use audit_core::SqlState;
use audit_core::wire::protocol::Filter;
use pgrx::pg_sys::{self, Datum};
use std::ffi::c_char;

pub struct RowFilter {
    expression: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    /// A row of the table as which rows are published.
    slot: *mut pg_sys::TupleTableSlot,
    /// For each of its columns, where the row has it, and whether it is of variable length.
    sources: Vec<Option<(usize, bool)>>,
}

impl RowFilter {
    /// `memory` holds it.
    pub fn new(
        filter: *mut c_char,
        table: pg_sys::Relation,
        sources: Vec<Option<(usize, bool)>>,
        memory: pg_sys::MemoryContext,
    ) -> Self {
        // SAFETY: the filter is an expression of the table, which is open; all that is made here is made in `memory`.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(memory);
            let expression = pg_sys::stringToNode(filter).cast::<pg_sys::Node>();
            #[cfg(feature = "pg18")]
            let expression = pg_sys::expand_generated_columns_in_expr(expression, table, 1);
            let state = pg_sys::CreateExecutorState();
            let filter = Self {
                expression: pg_sys::ExecPrepareExpr(expression.cast(), state),
                context: pg_sys::MakePerTupleExprContext(state),
                slot: pg_sys::MakeSingleTupleTableSlot(
                    pg_sys::CreateTupleDescCopy((*table).rd_att),
                    &raw const pg_sys::TTSOpsVirtual,
                ),
                sources,
            };
            pg_sys::MemoryContextSwitchTo(before);
            filter
        }
    }

    /// Where a change stands to it; `None`: the change is not published.
    pub fn passes(&mut self, old: Option<&Row>, new: Option<&Row>) -> Option<Filter> {
        let before = old.map(|old| self.is_fulfilled(old, None));
        let after = new.map(|new| self.is_fulfilled(new, old));
        match (before, after) {
            (Some(true), Some(false)) => Some(Filter::Left),
            (Some(false), Some(true)) => Some(Filter::Entered),
            (before, after) => after.or(before).filter(|is_fulfilled| *is_fulfilled).map(|_| Filter::Stayed),
        }
    }

    /// What was not logged again is as it was before. A row at which the filter fails is not left out.
    fn is_fulfilled(&mut self, row: &Row, before: Option<&Row>) -> bool {
        // SAFETY: the slot has as many columns as there are sources; values live until the expression is evaluated.
        unsafe {
            pg_sys::ExecClearTuple(self.slot);
            for (index, source) in self.sources.iter().enumerate() {
                let value = source.and_then(|(source, is_varlena)| {
                    let is_known = |value: &Datum| !(is_varlena && is_on_disk(*value));
                    let value = row.value(source)?;
                    Some(value).filter(is_known).or_else(|| before?.value(source).filter(is_known)).or(Some(value))
                });
                *(*self.slot).tts_isnull.add(index) = value.is_none();
                *(*self.slot).tts_values.add(index) = value.unwrap_or(Datum::null());
            }
            pg_sys::ExecStoreVirtualTuple(self.slot);
            pg_sys::MemoryContextReset((*self.context).ecxt_per_tuple_memory);
            (*self.context).ecxt_scantuple = self.slot;
        }
        // SAFETY: reads what is of this process alone.
        let memory = unsafe { pg_sys::CurrentMemoryContext };
        let evaluated = caught(|| {
            let mut is_null = false;
            // SAFETY: expression, context and slot belong together.
            let value = unsafe { pg_sys::ExecEvalExprSwitchContext(self.expression, self.context, &mut is_null) };
            !is_null && value.value() != 0
        });
        evaluated.unwrap_or_else(|error| {
            if is_of_the_server(&error) {
                error.rethrow();
            }
            // SAFETY: the error may have left another.
            unsafe { pg_sys::MemoryContextSwitchTo(memory) };
            true
        })
    }
}

/// Out of memory, or stopped by somebody. Every other error is one of the row: too long, for instance.
fn is_of_the_server(error: &CaughtError) -> bool {
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            matches!(SqlState::unpacked(report.sql_error_code() as i32).class(), b"53" | b"57")
        }
        CaughtError::RustPanic { .. } => true,
    }
}
