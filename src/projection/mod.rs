//! Projections: tables of the user's own, kept filled from the log by a query of theirs.
//!
//! `run` runs a rule over entries, `feed` gives it the new ones, `fill` the log's earlier ones. `unprojected` notes
//! what it has not got, `settle` keeps the two apart. `rule` checks a new rule, `manage` is what people call, `named`
//! which projection they mean. How ingest and filling keep out of each other's way stands in
//! `sql/projection/projections.sql`.

mod feed;
mod fill;
mod manage;
mod named;
mod rule;
mod run;
mod settle;
mod unprojected;

pub use feed::{active, feed};
pub use run::{Projection, temporary_types};
