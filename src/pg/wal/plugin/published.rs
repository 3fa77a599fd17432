//! A table that is published: its changes as messages.

use super::filter::RowFilter;
use super::output::{Output, Stream};
use super::row::{Columns, Row};
use audit_core::wire::protocol::{Filter, Relation};
use pg_sys::ReorderBufferChangeType as Change;
use pgrx::pg_sys;

pub enum TableRole {
    /// The log's own.
    OfTheLog,
    SchemaChanges,
    Unpublished,
    Published(Box<Published>),
}

/// A table, and how its changes are told.
pub struct Published {
    pub number: u32,
    /// Not sent yet.
    pub description: Option<Relation>,
    pub columns: Columns,
    pub filter: Option<RowFilter>,
    pub actions: pg_sys::PublicationActions,
    /// Rows before a change are logged whole.
    pub is_full: bool,
    /// The root of its partitions, if it is published as that.
    pub root: Option<pg_sys::Oid>,
    /// Holds what PostgreSQL's functions keep.
    pub memory: pg_sys::MemoryContext,
}

impl Published {
    /// Sends a change, if it is to be told.
    pub fn tell(
        &mut self,
        output: &mut Output,
        stream: Stream,
        (action, idx): (Change::Type, u32),
        (old, new): (Option<&Row>, Option<&Row>),
    ) {
        let Some(filter) = self.passes(action, old, new) else { return };
        self.describe(output, stream);
        let Self { number, columns, is_full, .. } = self;
        output.send(stream, |writer| match (action, old, new) {
            (Change::REORDER_BUFFER_CHANGE_INSERT, _, Some(new)) => {
                writer.insert(idx, *number);
                columns.write(writer, new);
            }
            (Change::REORDER_BUFFER_CHANGE_UPDATE, old, Some(new)) => {
                writer.update(idx, *number, filter);
                match old {
                    Some(old) => {
                        writer.old(*is_full);
                        columns.write(writer, old);
                    }
                    None => writer.no_old(),
                }
                columns.write(writer, new);
            }
            (_, Some(old), _) => {
                writer.delete(idx, *number);
                writer.old(*is_full);
                columns.write(writer, old);
            }
            _ => {}
        });
    }

    pub fn describe(&mut self, output: &mut Output, stream: Stream) {
        if let Some(description) = self.description.take() {
            output.describe(stream, &description);
        }
    }

    /// `None`: it is not published.
    fn passes(&mut self, action: Change::Type, old: Option<&Row>, new: Option<&Row>) -> Option<Filter> {
        let actions = &self.actions;
        let is_published = match action {
            Change::REORDER_BUFFER_CHANGE_INSERT => actions.pubinsert && new.is_some(),
            Change::REORDER_BUFFER_CHANGE_UPDATE => actions.pubupdate && new.is_some(),
            // without the row before it, nobody knows what was deleted
            Change::REORDER_BUFFER_CHANGE_DELETE => actions.pubdelete && old.is_some(),
            _ => false,
        };
        if !is_published {
            return None;
        }
        match &mut self.filter {
            None => Some(Filter::Stayed),
            Some(filter) => filter.passes(old, new),
        }
    }
}
