//! What `audit_history` and undo ask the log for: entries that fit, as lines. What a line is, is SQL (`sql/history`).

use crate::pg::{Call, return_rows_of};
use audit_core::question::Question;
use pgrx::prelude::*;
use std::ffi::CString;

/// Parameters of the statement.
const PARAMETERS: usize = 11;

/// The first arguments are the statement's, null where they are not asked for; then the direction.
#[pg_extern(
    sql = r#"CREATE FUNCTION audit_cdc_internal.page_of_lines(
    of_id bigint, tables integer[], of_user text, of_request text, of_commit bigint, since timestamptz,
    until timestamptz, after bigint[], own_tables integer[], of_database text, max_rows bigint, newest_first boolean)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["history_told"]
)]
fn page_of_lines(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let is_given = |index| call.argument(index).is_some();
    let question = Question {
        id: is_given(0),
        tables: is_given(1),
        username: is_given(2),
        request: is_given(3),
        commit: is_given(4),
        since: is_given(5),
        until: is_given(6),
        after: is_given(7),
        most: call.argument(10).map(|most| most.value() as u64),
        newest_first: call.argument(11).is_some_and(|newest_first| newest_first.value() != 0),
    };
    if let Ok(statement) = CString::new(question.statement()) {
        return_rows_of(fcinfo, statement, PARAMETERS);
    }
}
