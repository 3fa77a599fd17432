//! What servers say to which months were moved.

use crate::pg::CaughtError;
use audit_core::{Reject, SqlState};

/// The errors of a server that is away, or does not take what it should: these messages wait, and no other. A cancel
/// and a deadlock are none of these.
pub fn refusal(error: &CaughtError) -> Option<Reject> {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else { return None };
    let sqlstate = SqlState::unpacked(report.sql_error_code() as i32);
    let is_of_server = matches!(sqlstate.class(), b"08" | b"25" | b"28" | b"42" | b"53" | b"58" | b"HV")
        || matches!(&sqlstate.0, b"55P03" | b"57P01" | b"57P02" | b"57P03");
    is_of_server.then(|| {
        Reject::new(sqlstate, "the month of this change is on another server, which does not take it now")
            .hint("Call audit_retry_rejects() when it does.")
    })
}
