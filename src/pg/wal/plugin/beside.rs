//! Transactions that are open while another is told. What they have written, they wrote under the catalogs of then.

use super::output::Stream;
use pgrx::pg_sys;
use std::mem::offset_of;

/// Those besides the one that is told, which has committed, that have changes (PostgreSQL source, `reorderbuffer.h`).
pub fn open_beside(stream: Stream) -> Vec<u32> {
    let mut open = Vec::new();
    // SAFETY: the list is a ring of transactions, each by its `node`, which decoding does not change while we are
    // called.
    unsafe {
        let head = &raw mut (*(*stream.context).reorder).toplevel_by_lsn.head;
        // a list that was never used is null
        let mut node = (*head).next;
        while !node.is_null() && node != head {
            let transaction =
                node.byte_sub(offset_of!(pg_sys::ReorderBufferTXN, node)).cast::<pg_sys::ReorderBufferTXN>();
            if transaction != stream.transaction && !(*transaction).base_snapshot.is_null() {
                open.push((*transaction).xid.into_inner());
            }
            node = (*node).next;
        }
    }
    open
}
