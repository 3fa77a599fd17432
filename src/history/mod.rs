//! History: the log's events, read in order, become the states of records (`audit_core::lives`).

mod as_of;
mod asked;
mod event_rows;
mod in_order;
mod keys;
mod lives;
mod page;
mod reading;
mod record_at;
mod row_types;
mod told;
mod told_tables;
mod unsent;
mod wanted;
