//! Projections: tables of the user's own, kept filled from the log by a query of theirs.
//!
//! `feed` runs the rules over entries, `fill` takes the log's earlier ones, `rule` checks a new rule, `manage` is what
//! people call. How ingest and filling keep out of each other's way stands in `sql/projections.sql`.

mod feed;
mod fill;
mod manage;
mod rule;

pub use feed::{Projection, active, feed};
