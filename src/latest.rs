//! What functions of ours read, as all others see it now.

use crate::pg::{ErrorReport, with_latest_snapshot};
use pgrx::fn_call::{FnCallArg, fn_call};
use pgrx::prelude::*;

/// Not through SPI, which looks as the transaction's own statements do. Those may see only what was there when it
/// began.
pub fn seen_by_all<T: FromDatum + IntoDatum>(
    function: &str,
    arguments: &[&dyn FnCallArg],
) -> Result<Option<T>, ErrorReport> {
    with_latest_snapshot(|| fn_call(function, arguments)).map_err(|error| {
        let message = format!("cannot call a function of audit_cdc: {error}");
        ErrorReport::new(PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION, message, "seen_by_all")
    })
}
