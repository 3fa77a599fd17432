//! Messages on their way out.

use crate::pg::secrets::secret_at;
use crate::pg::user::database_oid;
use audit_core::context::{Unsent, open};
use audit_core::message::{MOST_KEPT, sha256};
use audit_core::wire::protocol::{Omitted, Relation};
use audit_core::wire::{Prefix, Writer};
use pgrx::pg_sys;
use std::collections::HashMap;

/// Of memory, what is kept for the next message.
const MOST_HELD: usize = 1 << 20;
/// Larger annotations are told of, not carried.
const MOST_ANNOTATIONS: usize = 64 << 20;

/// Where messages go.
#[derive(Clone, Copy)]
pub struct Stream {
    pub context: *mut pg_sys::LogicalDecodingContext,
    pub transaction: *mut pg_sys::ReorderBufferTXN,
}

#[derive(Default)]
pub struct Output {
    writer: Writer,
    /// Descriptions that were sent, by number.
    described: HashMap<u32, Vec<u8>>,
    /// Of the transaction's next change, message or TRUNCATE.
    next_idx: u32,
    /// The transaction's beginning was sent: there is something to tell of it.
    has_begun: bool,
    /// What the server says of the transaction, to be sent before what is told of it next.
    sealed: Unsent,
}

impl Output {
    pub fn new_transaction(&mut self) {
        (self.next_idx, self.has_begun) = (0, false);
        self.sealed.clear();
    }

    /// The next place in the transaction.
    pub fn place(&mut self) -> u32 {
        self.next_idx += 1;
        self.next_idx - 1
    }

    pub fn commit(&mut self, stream: Stream) {
        if self.has_begun {
            // SAFETY: the transaction is the one that ends.
            let end_lsn = unsafe { (*stream.transaction).end_lsn };
            self.send(stream, |writer| writer.commit(end_lsn));
        }
    }

    pub fn message(&mut self, stream: Stream, position: u64, prefix: &[u8], content: &[u8]) {
        let prefix = Prefix::of(prefix);
        // what the server says moves nobody else's place
        if prefix != Some(Prefix::Sealed) {
            self.place();
        }
        match prefix {
            Some(Prefix::Set) if content.len() > MOST_ANNOTATIONS => {
                let omitted = Omitted { bytes: content.len() as u64, sha256: &sha256(content) };
                // one byte more than is kept: it is seen to be cut
                self.send(stream, |writer| writer.set_omitted_annotations(omitted, &content[..=MOST_KEPT]));
            }
            Some(Prefix::Set) => self.send(stream, |writer| writer.set_annotations(content)),
            Some(Prefix::Clear) => self.send(stream, Writer::clear_annotations),
            Some(Prefix::Rule) => self.send(stream, Writer::rule),
            Some(Prefix::Sealed) => {
                if let Some(declaration) = opened(stream, position, content) {
                    self.sealed.add(declaration);
                }
            }
            None => {}
        }
    }

    /// What changes of a table need to be understood, unless it was sent already.
    pub fn describe(&mut self, stream: Stream, relation: &Relation) {
        self.writer.relation(relation);
        let known = self.described.entry(relation.number).or_default();
        if known != self.writer.bytes() {
            known.clear();
            known.extend_from_slice(self.writer.bytes());
            self.flush(stream.context);
        }
    }

    /// Sends the message that `write` writes.
    pub fn send(&mut self, stream: Stream, write: impl FnOnce(&mut Writer)) {
        let Stream { context, transaction } = stream;
        if !self.has_begun {
            self.has_begun = true;
            // SAFETY: the transaction is the one that is told of.
            let (lsn, time, xid) =
                unsafe { ((*transaction).final_lsn, (*transaction).xact_time.commit_time, (*transaction).xid) };
            self.writer.begin(lsn, time, xid.into_inner());
            self.flush(context);
        }
        for declaration in self.sealed.take() {
            self.writer.sealed(&declaration);
            self.flush(context);
        }
        write(&mut self.writer);
        self.flush(context);
    }

    fn flush(&mut self, context: *mut pg_sys::LogicalDecodingContext) {
        let bytes = self.writer.bytes();
        // SAFETY: we are in a callback that may write; PostgreSQL copies the bytes, and refuses too many.
        unsafe {
            pg_sys::OutputPluginPrepareWrite(context, true);
            pg_sys::appendBinaryStringInfo((*context).out, bytes.as_ptr().cast(), bytes.len() as i32);
            pg_sys::OutputPluginWrite(context, true);
        }
        self.writer.shrink(MOST_HELD);
    }
}

/// What the server has said of this transaction, if it was the server.
fn opened(stream: Stream, position: u64, content: &[u8]) -> Option<&str> {
    // SAFETY: the transaction is the one that is told of.
    let transaction = unsafe { (*stream.transaction).xid }.into_inner();
    open(content, |id| secret_at(id, position), database_oid(), transaction)
}
