//! Rows as history tells them: images in which exact values stand (`audit_core::json::told`). Made of what the log has,
//! and taken apart for who reads them.

use crate::pg::{Call, any_element, jsonb_datum};
use audit_core::json;
use pgrx::datum::AnyElement;
use pgrx::prelude::*;

/// texts: exact_values -> 'new' of an entry, or -> 'old'.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.told(image jsonb, texts jsonb)
  RETURNS jsonb
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn told(fcinfo: pg_sys::FunctionCallInfo) -> Option<AnyElement> {
    let call = Call::new(fcinfo);
    let image = call.jsonb_bytes(0)?;
    match call.jsonb_bytes(1) {
        Some(texts) => jsonb(&json::told(image, texts)),
        None => any_element(call.argument(0)?, pg_sys::JSONBOID),
    }
}

/// The image alone.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.plain(told jsonb) RETURNS jsonb
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn plain(fcinfo: pg_sys::FunctionCallInfo) -> Option<AnyElement> {
    let call = Call::new(fcinfo);
    match json::plain(call.jsonb_bytes(0)?) {
        Some(image) => jsonb(&image),
        None => any_element(call.argument(0)?, pg_sys::JSONBOID),
    }
}

/// The texts that stand beside it; null for none.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.exact_texts(told jsonb) RETURNS jsonb
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn exact_texts(fcinfo: pg_sys::FunctionCallInfo) -> Option<AnyElement> {
    json::texts(Call::new(fcinfo).jsonb_bytes(0)?).and_then(|texts| jsonb(&texts))
}

/// What differs between rows that are told, for who reads it.
#[pg_extern(requires = ["install"], sql = r#"CREATE FUNCTION audit_cdc_internal.plain_diff(diff jsonb) RETURNS jsonb
  LANGUAGE c IMMUTABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#)]
fn plain_diff(fcinfo: pg_sys::FunctionCallInfo) -> Option<AnyElement> {
    jsonb(&json::plain_diff(Call::new(fcinfo).jsonb_bytes(0)?))
}

fn jsonb(bytes: &[u8]) -> Option<AnyElement> {
    any_element(jsonb_datum(bytes)?, pg_sys::JSONBOID)
}
