//! Tests inside the server (`cargo pgrx test`), each in a transaction that is rolled back. What needs several
//! sessions, roles, restarts or the WAL is in `tests/`.
// a test may stop at the first surprise; clippy sees that it is one under cfg(test) alone
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod annotate;
mod bodies;
mod casts;
mod fixture;
mod ingest;
mod jsonb;
mod record_keys;
mod rejects;
mod rows;
