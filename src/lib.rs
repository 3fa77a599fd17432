//! audit_cdc: an append-only audit log, filled exactly once from the server's own WAL or from Sequin's change messages.
//!
//! A body is received by `ingest`, or `capture` makes one of the WAL; it is taken apart by `message`, stored in the log, and read through the
//! views in `sql/`.

use pgrx::prelude::*;

mod annotate;
mod capture;
mod cast;
mod history;
mod ingest;
mod pg;
mod projection;
mod protection;
mod settings;

::pgrx::pg_module_magic!();

extension_sql_file!("../sql/install.sql", name = "install", bootstrap);
extension_sql_file!("../sql/log.sql", name = "log", requires = ["install"]);
extension_sql_file!("../sql/partitions.sql", name = "partitions", requires = ["log"]);
extension_sql_file!("../sql/rejects.sql", name = "rejects", requires = ["log"]);
extension_sql_file!("../sql/sources.sql", name = "sources", requires = ["log"]);
extension_sql_file!("../sql/record_keys.sql", name = "record_keys", requires = ["log", "cast"]);
extension_sql_file!("../sql/described_tables.sql", name = "described_tables", requires = ["record_keys"]);
extension_sql_file!("../sql/gaps.sql", name = "gaps", requires = ["backfill"]);
extension_sql_file!("../sql/continuations.sql", name = "continuations", requires = ["gaps"]);
extension_sql_file!("../sql/capture_status.sql", name = "capture_status", requires = ["gaps"]);
extension_sql_file!("../sql/projections.sql", name = "projections", requires = ["audit_logs"]);
extension_sql_file!("../sql/status.sql", name = "status", requires = ["audit_logs", "rejects"]);
// annotate.sql is written for any search_path: it also serves where there is no extension
extension_sql!("SET LOCAL search_path = @extschema@;", name = "annotate_begins", requires = ["install"]);
extension_sql_file!("../sql/annotate.sql", name = "annotate", requires = ["annotate_begins"]);
extension_sql!("SET LOCAL search_path = pg_catalog, pg_temp;", name = "annotate_ends", requires = ["annotate"]);
extension_sql_file!("../sql/grants.sql", name = "grants", finalize);

#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::init();
    pg::guard_removal();
    pg::guard_names();
    if pg::is_preloading() {
        capture::init();
    }
}
