//! What an entry leaves unknown, for the views: by the description of its table, and by masks.

use crate::pg::Call;
use audit_core::lives::{self, Action, Description};
use pgrx::prelude::*;

/// Those whose values masks keep out, by an entry's notes.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.masked_columns(notes jsonb)
  RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn masked_columns(fcinfo: pg_sys::FunctionCallInfo) -> Vec<String> {
    masked(Call::new(fcinfo), 0)
}

/// image: the row after the change; of a delete, that before it. The rest is of audit_described_tables.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.columns_not_sent(
    action text, image jsonb, notes jsonb, replica_identity text, identity_columns text[], never_sent text[],
    null_in_reads text[])
  RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn columns_not_sent(fcinfo: pg_sys::FunctionCallInfo) -> Vec<String> {
    let call = Call::new(fcinfo);
    let Some(action) = action(call) else { return Vec::new() };
    let description = Description { null_in_reads: columns(call, 6), ..description(call, 3) };
    description.unknown_columns(action, call.jsonb_bytes(1), masked(call, 2))
}

/// The same of the row before an update or delete. old: what an update tells of it.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.old_columns_not_sent(
    action text, image jsonb, notes jsonb, old jsonb, replica_identity text, identity_columns text[],
    never_sent text[])
  RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn old_columns_not_sent(fcinfo: pg_sys::FunctionCallInfo) -> Vec<String> {
    let call = Call::new(fcinfo);
    let Some(action) = action(call) else { return Vec::new() };
    let (image, old) = (call.jsonb_bytes(1), call.jsonb_bytes(3));
    description(call, 4).unknown_old_columns(action, image, old, masked(call, 2))
}

/// The same as columns_not_sent() of a table that nobody has described. old, new: the rows before and after it.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.columns_not_told(
    action text, old jsonb, new jsonb, notes jsonb)
  RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn columns_not_told(fcinfo: pg_sys::FunctionCallInfo) -> Vec<String> {
    let call = Call::new(fcinfo);
    let Some(action) = action(call) else { return Vec::new() };
    lives::undescribed_unknown_columns(action, call.jsonb_bytes(1), call.jsonb_bytes(2), masked(call, 3))
}

fn action(call: Call) -> Option<Action> {
    Action::named(&call.text(0)?)
}

fn masked(call: Call, notes: usize) -> Vec<String> {
    call.jsonb_bytes(notes).map(lives::masked_columns).unwrap_or_default()
}

fn columns(call: Call, index: usize) -> Vec<String> {
    call.texts(index).unwrap_or_default()
}

/// Without what only reads need.
fn description(call: Call, replica_identity: usize) -> Description {
    Description {
        tells_whole_rows: call.text(replica_identity).as_deref() == Some("full"),
        identity_columns: columns(call, replica_identity + 1),
        never_sent: columns(call, replica_identity + 2),
        null_in_reads: Vec::new(),
    }
}
