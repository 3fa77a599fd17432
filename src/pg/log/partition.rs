//! A partition of the log, read and written without a statement, as COPY and logical replication do (PostgreSQL source,
//! `copyfrom.c`, `CopyMultiInsertBufferFlush`; `execReplication.c`, `ExecSimpleRelationInsert`).

use super::datum::{LogValue, Types};
use super::row::{LogLayout, LogRow};
use super::walk::{Key, Walk};
use crate::pg::snapshot_is_fixed;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{PgSqlErrorCode, ereport, pg_sys};
use std::ffi::CStr;
use std::ptr::null_mut;

/// So many rows go into the table, and then into its indexes, at once.
const MOST_TOGETHER: usize = 64;

/// PostgreSQL 16 and later ask whether only summarizing indexes are meant.
macro_rules! insert_index_tuples {
    ($result:expr, $slot:expr, $executor:expr $(, $only_summarizing:expr)?) => {
        pg_sys::ExecInsertIndexTuples(
            $result, $slot, $executor, false, false, null_mut(), null_mut() $(, $only_summarizing)?
        )
    };
}

pub struct Partition {
    relation: pg_sys::Relation,
    /// Lives as long as the partition is open, with all that is allocated for it.
    executor: *mut pg_sys::EState,
    result: *mut pg_sys::ResultRelInfo,
    /// Where each column stands, in the order that the caller gave.
    attributes: Vec<usize>,
    types: Types,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
}

/// Citus keeps its tables in this catalog, which is there where it is installed.
pub fn has_distributed_tables() -> bool {
    // SAFETY: reads the catalogs' caches.
    unsafe {
        let catalog = pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE);
        pg_sys::get_relname_relid(c"pg_dist_partition".as_ptr(), catalog) != pg_sys::InvalidOid
    }
}

/// Opens the partition of this name for as long as `work` takes. `columns` are those that `work` reads and writes;
/// others are null.
pub fn with_partition<T>(name: &CStr, columns: &[&CStr], work: impl FnOnce(&mut Partition) -> T) -> T {
    // SAFETY: after an error PostgreSQL closes what the current resource owner holds, and frees the memory of the
    // (sub)transaction.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), false);
        let oid = pg_sys::get_relname_relid(name.as_ptr(), schema);
        let relation = pg_sys::try_table_open(oid, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
        // DETACH PARTITION CONCURRENTLY does not wait for those who have locked the log after it began
        if !relation.as_ref().is_some_and(|relation| (*relation.rd_rel).relispartition) {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                "a partition of the audit log was detached meanwhile"
            );
        }
        if (*(*relation).rd_rel).relkind != pg_sys::RELKIND_RELATION as std::ffi::c_char {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "a partition of the audit log is no plain table"
            );
        }
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::CurTransactionContext);
        let executor = pg_sys::CreateExecutorState();
        pg_sys::MemoryContextSwitchTo((*executor).es_query_cxt);
        let result = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
        (*result).type_ = pg_sys::NodeTag::T_ResultRelInfo;
        pg_sys::InitResultRelInfo(result, relation, 0, null_mut(), 0);
        pg_sys::ExecOpenIndices(result, false);
        pg_sys::MakePerTupleExprContext(executor);
        let attributes = columns.iter().map(|column| attribute_of(relation, column)).collect();
        let types = Types::of(schema);
        let mut partition = Partition { relation, executor, result, attributes, types, slots: Vec::new() };
        let value = work(&mut partition);
        pg_sys::MemoryContextSwitchTo(before);
        for slot in partition.slots {
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
        pg_sys::ExecCloseIndices(result);
        pg_sys::FreeExecutorState(executor);
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        value
    }
}

/// Is there such a partition? What others have made meanwhile is known only where the log was locked since.
pub fn is_partition(name: &CStr) -> bool {
    // SAFETY: reads the catalogs' caches.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), true);
        let oid = pg_sys::get_relname_relid(name.as_ptr(), schema);
        oid != pg_sys::InvalidOid && pg_sys::get_rel_relispartition(oid)
    }
}

/// Is it a foreign table? Then only statements reach it.
pub fn is_elsewhere(name: &CStr) -> bool {
    // SAFETY: reads the catalogs' caches.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit_cdc_internal".as_ptr(), true);
        let oid = pg_sys::get_relname_relid(name.as_ptr(), schema);
        oid != pg_sys::InvalidOid && pg_sys::get_rel_relkind(oid) == pg_sys::RELKIND_FOREIGN_TABLE as std::ffi::c_char
    }
}

fn attribute_of(relation: pg_sys::Relation, column: &CStr) -> usize {
    // SAFETY: the relation is open.
    let number = unsafe { pg_sys::get_attnum((*relation).rd_id, column.as_ptr()) };
    if number <= 0 {
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN, "a partition of the audit log lacks a column");
    }
    number as usize - 1
}

/// A row that was found; values live until the next is looked for.
pub struct Found<'p> {
    slot: *mut pg_sys::TupleTableSlot,
    partition: &'p Partition,
}

impl Found<'_> {
    /// The value of the column that stands there in the caller's list.
    pub fn get<T: pgrx::FromDatum>(&self, column: usize) -> Option<T> {
        let attribute = self.partition.attributes[column];
        // SAFETY: all attributes of the slot were read; the caller reads the column's own type.
        unsafe { T::from_datum(*(*self.slot).tts_values.add(attribute), *(*self.slot).tts_isnull.add(attribute)) }
    }

    pub fn has_action(&self, column: usize, label: &'static CStr) -> bool {
        self.get::<pg_sys::Oid>(column) == Some(self.partition.types.action(label))
    }
}

impl Partition {
    /// Calls `found` with the index of each of `keys` that is in the partition. A key is a commit time in PostgreSQL's
    /// microseconds and an identity. It is looked up in what this transaction has written, and what others have
    /// committed until now; under REPEATABLE READ and above, until it began.
    pub fn look_up(&self, keys: impl Iterator<Item = Key>, mut found: impl FnMut(usize, &Found)) {
        let mut keys: Vec<(Key, usize)> = keys.zip(0..).collect();
        keys.sort_unstable();
        let Some((first, _)) = keys.first() else { return };
        // SAFETY: we are in a transaction.
        let now =
            unsafe { if snapshot_is_fixed() { pg_sys::GetTransactionSnapshot() } else { pg_sys::GetLatestSnapshot() } };
        let mut walk = Walk::new(self.relation, self.unique_index(), now, first);
        for (key, index) in &keys {
            if let Some(slot) = walk.row(key) {
                found(*index, &Found { slot, partition: self });
            }
        }
    }

    /// The one that makes each change unique: over the first two of the caller's columns, in rising order, without a
    /// condition.
    fn unique_index(&self) -> pg_sys::Relation {
        // SAFETY: the result relation holds as many open indexes; an index with `indnatts` columns tells each one's
        // number and order. A condition is kept in the index's own memory.
        unsafe {
            for n in 0..(*self.result).ri_NumIndices as usize {
                let index = *(*self.result).ri_IndexRelationDescs.add(n);
                let form = (*index).rd_index;
                let column = |n: usize| *(*form).indkey.values.as_ptr().add(n) as usize;
                let order = |n: usize| *(*index).rd_indoption.add(n);
                let is_it = (*form).indisunique
                    && (*form).indisvalid
                    && (*form).indnkeyatts == 2
                    && [order(0), order(1)] == [0, 0]
                    && pg_sys::RelationGetIndexPredicate(index).is_null();
                if is_it && [column(0), column(1)] == [self.attributes[0] + 1, self.attributes[1] + 1] {
                    return index;
                }
            }
        }
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a partition of the audit log lacks its unique index",
            "Without it a change could be stored twice."
        );
    }

    /// Adds rows, each with a value for every column. Returns how many, fewer than given only if a trigger
    /// suppressed some; and if `wanted`, the rows as they stand in the log.
    pub fn insert<'v>(
        &mut self,
        rows: impl Iterator<Item = Vec<LogValue<'v>>>,
        wanted: bool,
    ) -> (u64, Vec<LogRow<'_>>) {
        let (mut count, mut added) = (0, Vec::new());
        let layout = wanted.then(|| LogLayout::of(self.relation));
        let mut written = |partition: &Self, waiting: usize| {
            partition.write(waiting);
            count += waiting as u64;
            added.extend(
                layout.iter().flat_map(|layout| partition.slots[..waiting].iter().map(|slot| layout.row(*slot))),
            );
        };
        let mut waiting = 0;
        // SAFETY: the executor's state and the result relation were set up for this relation when it was opened.
        unsafe {
            let has_before = (*self.relation).trigdesc.as_ref().is_some_and(|triggers| triggers.trig_insert_before_row);
            let has_constraints = !(*(*self.relation).rd_att).constr.is_null();
            // such a trigger sees the rows before its own
            let together = if has_before { 1 } else { MOST_TOGETHER };
            pg_sys::AfterTriggerBeginQuery();
            for row in rows {
                let slot = self.slot(waiting, &row);
                if has_before && !pg_sys::ExecBRInsertTriggers(self.executor, self.result, slot) {
                    continue;
                }
                pg_sys::ExecPartitionCheck(self.result, slot, self.executor, true);
                if has_constraints {
                    pg_sys::ExecConstraints(self.result, slot, self.executor);
                }
                waiting += 1;
                if waiting == together {
                    written(self, waiting);
                    waiting = 0;
                }
            }
            written(self, waiting);
            pg_sys::AfterTriggerEndQuery(self.executor);
            // what follows in the transaction sees the rows
            pg_sys::CommandCounterIncrement();
        }
        (count, added)
    }

    /// The slot of this number, with a row in it.
    fn slot(&mut self, number: usize, row: &[LogValue]) -> *mut pg_sys::TupleTableSlot {
        // SAFETY: a slot has room for each of its relation's attributes; what the values need in memory is kept
        // until the row is written.
        unsafe {
            if number == self.slots.len() {
                self.slots.push(pg_sys::table_slot_create(self.relation, null_mut()));
            }
            let slot = self.slots[number];
            pg_sys::ExecClearTuple(slot);
            let width = (*(*slot).tts_tupleDescriptor).natts as usize;
            let values = std::slice::from_raw_parts_mut((*slot).tts_values, width);
            let nulls = std::slice::from_raw_parts_mut((*slot).tts_isnull, width);
            nulls.fill(true);
            let before = pg_sys::MemoryContextSwitchTo(self.row_memory());
            for (attribute, value) in self.attributes.iter().zip(row) {
                if let Some(datum) = self.types.datum(value) {
                    (values[*attribute], nulls[*attribute]) = (datum, false);
                }
            }
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::ExecStoreVirtualTuple(slot)
        };
        self.slots[number]
    }

    /// The first `count` slots go into the table, and then into its indexes.
    fn write(&self, count: usize) {
        if count == 0 {
            return;
        }
        // SAFETY: the slots hold rows of this relation; every table has an access method that inserts.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.row_memory());
            let (slots, command) = (self.slots.as_ptr().cast_mut(), pg_sys::GetCurrentCommandId(true));
            if let Some(multi_insert) = (*(*self.relation).rd_tableam).multi_insert {
                // a full disk, say, must not jump over those who would roll back
                pg_guard_ffi_boundary(|| {
                    multi_insert(self.relation, slots, count as i32, command, 0, null_mut());
                });
            }
            let rechecked = self.write_indexes(&self.slots[..count]);
            for (slot, rechecked) in self.slots[..count].iter().zip(rechecked) {
                pg_sys::ExecARInsertTriggers(self.executor, self.result, *slot, rechecked, null_mut());
            }
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset(self.row_memory());
        }
    }

    /// One index after the other: its pages stay in the processor's cache. Gives for each row the indexes whose
    /// constraints are to be checked again.
    fn write_indexes(&self, slots: &[*mut pg_sys::TupleTableSlot]) -> Vec<*mut pg_sys::List> {
        let mut rechecked = vec![null_mut(); slots.len()];
        // SAFETY: a copy of the result relation, with one of its open indexes at a time. PostgreSQL only reads it. The
        // lists live in the current memory context.
        unsafe {
            let mut one = *self.result;
            one.ri_NumIndices = 1;
            for index in 0..(*self.result).ri_NumIndices as usize {
                one.ri_IndexRelationDescs = (*self.result).ri_IndexRelationDescs.add(index);
                one.ri_IndexRelationInfo = (*self.result).ri_IndexRelationInfo.add(index);
                for (slot, rechecked) in slots.iter().zip(&mut rechecked) {
                    #[cfg(feature = "pg15")]
                    let of_one = insert_index_tuples!(&mut one, *slot, self.executor);
                    #[cfg(not(feature = "pg15"))]
                    let of_one = insert_index_tuples!(&mut one, *slot, self.executor, false);
                    *rechecked = pg_sys::list_concat(*rechecked, of_one);
                }
            }
        }
        rechecked
    }

    /// Lives until the rows that wait are written.
    fn row_memory(&self) -> pg_sys::MemoryContext {
        // SAFETY: made when the partition was opened.
        unsafe { (*(*self.executor).es_per_tuple_exprcontext).ecxt_per_tuple_memory }
    }
}
