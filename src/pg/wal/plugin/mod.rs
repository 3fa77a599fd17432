//! Our output plugin: tells the changes of one publication, as `audit_core::wire` reads them. In its callbacks
//! PostgreSQL shows the catalogs as they were at the change (PostgreSQL documentation, "Logical Decoding Output
//! Plugins").
//!
//! `tables` keeps what is known of tables, `published` tells their changes, `describe` finds out how. `publication` and
//! `filter` tell what of it is published, `beside` which transactions are open. `row`, `output_function` and `varlena`
//! write rows, `output` sends messages.

mod beside;
mod describe;
mod filter;
mod memory;
mod output;
mod output_function;
mod publication;
mod published;
mod row;
mod tables;
mod varlena;

use crate::pg::list::elements;
use beside::open_beside;
use describe::partition_itself;
use memory::new_memory;
use output::{Output, Stream};
use pg_sys::ReorderBufferChangeType::REORDER_BUFFER_CHANGE_INSERT;
use pgrx::PgMemoryContexts;
use pgrx::prelude::*;
use publication::ancestors;
use published::TableRole;
use row::Row;
use std::ffi::{CStr, CString, c_char, c_int};
use tables::Tables;

/// PostgreSQL calls it when a slot of ours is read (PostgreSQL source, `logical.c`, `LoadOutputPlugin`).
#[allow(non_snake_case)]
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn _PG_output_plugin_init(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    // SAFETY: PostgreSQL gives a struct of its own, all of it null.
    let callbacks = unsafe { &mut *callbacks };
    callbacks.startup_cb = Some(startup);
    callbacks.begin_cb = Some(begin);
    callbacks.change_cb = Some(change);
    callbacks.truncate_cb = Some(truncate);
    callbacks.message_cb = Some(message);
    callbacks.commit_cb = Some(commit);
}

/// One reading of a slot.
struct Plugin {
    publication: CString,
    tables: Tables,
    output: Output,
    old: Row,
    new: Row,
    /// Emptied after each call.
    memory: pg_sys::MemoryContext,
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(
    context: *mut pg_sys::LogicalDecodingContext,
    options: *mut pg_sys::OutputPluginOptions,
    is_init: bool,
) {
    // SAFETY: the context is the one that begins; what is left in its memory ends with it.
    unsafe {
        (*options).output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT;
        (*options).receive_rewrites = false;
        let publication = match publication((*context).output_plugin_options) {
            Some(publication) => publication.to_owned(),
            // a slot is being made, nothing is sent
            None if is_init => CString::default(),
            None => refuse_option("output plugin audit_cdc needs the option \"publication\""),
        };
        let plugin = Plugin {
            publication,
            tables: Tables::new((*context).context),
            output: Output::default(),
            old: Row::default(),
            new: Row::default(),
            memory: new_memory((*context).context),
        };
        let plugin = PgMemoryContexts::For((*context).context).leak_and_drop_on_delete(plugin);
        (*context).output_plugin_private = plugin.cast();
    }
}

/// The only option.
fn publication<'a>(options: *mut pg_sys::List) -> Option<&'a CStr> {
    let mut publication = None;
    for option in elements(options) {
        // SAFETY: the list holds options, whose strings live as long as the decoding context.
        unsafe {
            let option = option.ptr_value.cast::<pg_sys::DefElem>();
            match CStr::from_ptr((*option).defname).to_bytes() {
                b"publication" => publication = Some(CStr::from_ptr(pg_sys::defGetString(option))),
                _ => refuse_option("output plugin audit_cdc knows no option but \"publication\""),
            }
        }
    }
    publication
}

fn refuse_option(message: &'static str) -> ! {
    ereport!(ERROR, PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message);
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(
    context: *mut pg_sys::LogicalDecodingContext,
    _transaction: *mut pg_sys::ReorderBufferTXN,
) {
    plugin(context).output.new_transaction();
}

#[pg_guard]
unsafe extern "C-unwind" fn change(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    relation: pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    plugin(context).in_memory(|plugin| plugin.change(Stream { context, transaction }, relation, change));
}

#[pg_guard]
unsafe extern "C-unwind" fn truncate(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    count: c_int,
    relations: *mut pg_sys::Relation,
    _change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: there are so many.
    let relations = unsafe { std::slice::from_raw_parts(relations, count as usize) };
    plugin(context).in_memory(|plugin| plugin.truncate(Stream { context, transaction }, relations));
}

#[pg_guard]
unsafe extern "C-unwind" fn message(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    position: pg_sys::XLogRecPtr,
    is_transactional: bool,
    prefix: *const c_char,
    size: pg_sys::Size,
    content: *const c_char,
) {
    // what is of no transaction explains nobody's changes
    if is_transactional {
        // SAFETY: the prefix ends with a zero byte; the content has this size.
        let (prefix, content) =
            unsafe { (CStr::from_ptr(prefix), std::slice::from_raw_parts(content.cast::<u8>(), size)) };
        let stream = Stream { context, transaction };
        plugin(context).in_memory(|plugin| plugin.output.message(stream, position, prefix.to_bytes(), content));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn commit(
    context: *mut pg_sys::LogicalDecodingContext,
    transaction: *mut pg_sys::ReorderBufferTXN,
    _lsn: pg_sys::XLogRecPtr,
) {
    plugin(context).in_memory(|plugin| plugin.output.commit(Stream { context, transaction }));
}

fn plugin<'a>(context: *mut pg_sys::LogicalDecodingContext) -> &'a mut Plugin {
    // SAFETY: `startup` has put it there, and no callback runs within another.
    unsafe { &mut *(*context).output_plugin_private.cast::<Plugin>() }
}

impl Plugin {
    fn in_memory(&mut self, work: impl FnOnce(&mut Self)) {
        // SAFETY: after an error PostgreSQL switches back by itself.
        let before = unsafe { pg_sys::MemoryContextSwitchTo(self.memory) };
        work(self);
        // SAFETY: nothing that was made within is held any longer.
        unsafe {
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset(self.memory);
        }
    }

    fn change(&mut self, stream: Stream, relation: pg_sys::Relation, change: *mut pg_sys::ReorderBufferChange) {
        let Self { publication, tables, output, old, new, .. } = self;
        let idx = output.place();
        // SAFETY: a change that comes here is one of rows.
        let (action, tuples) = unsafe { ((*change).action, &(*change).data.tp) };
        match tables.table(relation, publication) {
            TableRole::Published(table) => {
                let old = old.of_tuple(tuple(tuples.oldtuple), relation);
                let new = new.of_tuple(tuple(tuples.newtuple), relation);
                table.tell(output, stream, (action, idx), (old, new));
            }
            TableRole::SchemaChanges if action == REORDER_BUFFER_CHANGE_INSERT => {
                if let Some(id) = new.of_tuple(tuple(tuples.newtuple), relation).and_then(|new| new.bigint(0)) {
                    let beside = open_beside(stream);
                    output.send(stream, |writer| writer.schema_change(idx, id, &beside));
                }
            }
            TableRole::SchemaChanges | TableRole::OfTheLog | TableRole::Unpublished => {}
        }
    }

    /// One place for all of them. A partition that is published as its root is told under its own name: other rows
    /// of the root stay.
    fn truncate(&mut self, stream: Stream, relations: &[pg_sys::Relation]) {
        let Self { publication, tables, output, .. } = self;
        let idx = output.place();
        // SAFETY: they are open.
        let numbers: Vec<pg_sys::Oid> = relations.iter().map(|relation| unsafe { (**relation).rd_id }).collect();
        let mut told = Vec::new();
        for (relation, oid) in relations.iter().zip(&numbers) {
            let TableRole::Published(table) = tables.table(*relation, publication) else { continue };
            if !table.actions.pubtruncate {
                continue;
            }
            let number = table.number;
            match table.root {
                None => table.describe(output, stream),
                // the ancestor that is truncated too stands for it
                Some(_) if ancestors(*oid).iter().any(|ancestor| numbers.contains(ancestor)) => continue,
                Some(root) => {
                    let itself = partition_itself(*relation, root);
                    output.describe(stream, &itself);
                    output.send(stream, |writer| writer.partition_truncated(root.to_u32(), &itself.name));
                    tables.forget_table(number);
                }
            }
            told.push(number);
        }
        if !told.is_empty() {
            output.send(stream, |writer| writer.truncate(idx, &told));
        }
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn tuple(buffer: *mut pg_sys::ReorderBufferTupleBuf) -> pg_sys::HeapTuple {
    if buffer.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: it holds a tuple.
    unsafe { &raw mut (*buffer).tuple }
}

#[cfg(not(any(feature = "pg15", feature = "pg16")))]
fn tuple(tuple: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
    tuple
}
