//! audit_cdc: an append-only audit log, filled exactly once from the server's own WAL or from Sequin's change messages.
//!
//! Changes come in by `ingest`, which reads bodies, or by `capture`, which decodes the WAL. `ingest` stores both in the
//! log. They are read through the views and functions in `sql/`.

use pgrx::prelude::*;

mod arguments;
mod capture;
mod cast;
mod context;
mod elsewhere;
mod former;
mod here;
mod history;
mod ingest;
mod latest;
mod links;
mod masking;
mod operations;
mod pg;
mod projection;
mod protection;
mod retention;
mod schema;
mod settings;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod undo;

::pgrx::pg_module_magic!();

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    if !pg::is_preloading() {
        pg::require_agreement_to_load();
    }
    settings::init();
    pg::watch_version();
    pg::guard_removal();
    pg::guard_names();
    context::init();
    if pg::is_preloading() {
        context::init_preloaded();
        capture::init();
    }
}

/// What `cargo pgrx test` asks of the crate.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'audit_cdc'", "wal_level = logical", "timezone = 'UTC'"]
    }
}
