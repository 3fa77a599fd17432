//! Changes from this server's own WAL. `slot` reads the slot, `audit_core::wire` makes changes of what it sends,
//! `source` asks the catalogs. `pass` hands what is pending to ingest, `worker` does so by itself, `backfill` reads the
//! rows that are there.
//!
//! A pass peeks, ingests and commits. Once that is on disk the slot is advanced; a worker's pass does not wait for it,
//! so its slot is a pass behind. A crash in between delivers again what the log has already, and ingest refuses it.
//! `chain` tells where a slot that others have moved leaves a gap.

mod backfill;
mod chain;
mod control;
mod exclude;
mod pass;
mod schema_changes;
mod slot;
mod source;
mod worker;

pub use exclude::{exclude_new_table, require_owner_and_admin, tree};
pub use worker::init;
