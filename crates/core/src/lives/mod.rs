//! The lives of records: events in order go in, states come out.
//!
//! A record's life goes from an insert, or the arrival of a row, to its end. After each event [`next`] tells what is
//! known of the row. An event that tells its whole row needs nothing from before; one that does not takes over what
//! it left as it was. A row is never made up: what no event tells is unknown.
//!
//! [`line()`] tells a change with the rows before and after it, and what does not fit. [`Record::doubt`] tells why
//! nobody knows what a record was at a moment.

mod as_of;
mod before;
mod completes;
mod event;
mod image;
mod line;
mod state;
#[cfg(test)]
mod tests;
mod told;
#[cfg(test)]
mod truth;
mod unsent;

pub use as_of::{Moment, Reason, Record};
pub use before::{Before, Stand};
pub use completes::{Complete, ended_by};
pub use event::{Action, Event, KeyBefore, Place};
pub use image::Image;
pub use line::{Line, Note, begins, line};
pub use state::{Existence, State, is_gap, next};
pub use told::{Entry, Table, changed};
pub use unsent::{Description, masked_columns, undescribed_unknown_columns};
