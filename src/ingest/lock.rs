//! What ingest reads besides the log (projections, key types, masks) does not change once it has its lock.

use crate::pg::{Statement, lock_log, snapshot_is_fixed};

thread_local! {
    static UNCHANGED: Statement = const { Statement::new(
        "SELECT FROM audit_cdc_internal.ingest_reads FOR SHARE", &[]) };
}

/// Until the transaction ends.
pub fn lock() {
    lock_log();
    if snapshot_is_fixed() {
        UNCHANGED.with(|unchanged| unchanged.run(Vec::new, |_| Ok(())));
    }
}
