//! `is_in_order`, an aggregate: do positions grow with the numbers of entries?

use crate::pg::Call;
use pgrx::Internal;
use pgrx::prelude::*;

struct Order {
    last: Option<(i64, Option<i64>)>,
    holds: bool,
}

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.next_in_order(internal, id bigint, lsn bigint) RETURNS internal
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn next_in_order(fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    let call = Call::new(fcinfo);
    let bigint = |index| call.argument(index).map(|datum| datum.value() as i64);
    let (order, kept) = call.aggregated(|| Order { last: None, holds: true });
    let next = (bigint(1).unwrap_or(0), bigint(2));
    order.holds &= order.last.is_none_or(|(id, lsn)| id < next.0 && lsn <= next.1);
    order.last = Some(next);
    Internal::from(Some(kept))
}

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.was_in_order(internal) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn was_in_order(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    Call::new(fcinfo).aggregated(|| Order { last: None, holds: true }).0.holds
}
