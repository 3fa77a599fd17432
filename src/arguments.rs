//! What functions are given. pgrx would raise XX000 for a null that it cannot pass on.

use crate::pg::ErrorReport;
use pgrx::prelude::*;

pub fn given<T>(argument: Option<T>, name: &str) -> Result<T, ErrorReport> {
    argument.ok_or_else(|| refusal(format!("{name} must not be null")))
}

/// An array.
pub fn all_given<T>(argument: Vec<Option<T>>, name: &str) -> Result<Vec<T>, ErrorReport> {
    let elements: Option<Vec<T>> = argument.into_iter().collect();
    elements.ok_or_else(|| refusal(format!("{name} must not hold null")))
}

fn refusal(message: String) -> ErrorReport {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, message, "given")
}
