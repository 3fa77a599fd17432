//! Functions in C that the SQL of earlier versions names. `pg_upgrade` makes them as they were, so they must be there.
//! Nobody gets as far as to call them.

use crate::pg::require_agreement;
use pgrx::prelude::*;

/// Until 0.1.0; `lines` came in its place.
#[pg_extern(sql = false)]
fn page_of_lines() {
    require_agreement();
}

/// Until 0.1.0; `audit_as_of` came in its place.
#[pg_extern(sql = false)]
fn told_row() {
    require_agreement();
}
