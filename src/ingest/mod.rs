//! `audit_ingest`: a body's changes go into the log, each exactly once; what cannot be taken is set aside.
//!
//! Everything is locked in one order in every session, so that overlapping calls wait for each other and never
//! deadlock. The order: audited tables, large annotations by identity, server contexts by identity, partitions, log by
//! commit time and identity, rejects by digest. Nobody waits for tallies. A retry meets its rejects in its own order:
//! against a redelivery of the same messages it may be cancelled with 40P01.

mod contexts;
mod counts;
mod delivery;
mod elsewhere;
mod entry;
mod expired;
mod large;
mod limits;
mod lock;
mod masks;
mod month;
mod names;
mod numbers;
mod partitions;
mod rejects;
mod retry;
mod sources;
mod spelling;
mod store;
mod take;
mod tally;

use crate::pg::{ErrorReport, as_worker, current_user, pinned};
use crate::settings::{OnReject, on_reject};
use counts::Counts;
use delivery::Delivery;
use limits::Limits;
use masks::MaskedTexts;
use pgrx::prelude::*;
use take::{Taken, take};

pub use large::{LargeAnnotations, store as store_large_annotations};
pub use partitions::make_months_ahead;
pub use take::{capturing, take_captured};

// The planner settings hold plans to the indexes and keep them across calls, perhaps from when the log was empty. A
// plan of a few rows is never worth compiling. Who calls audit_ingest is asked before it takes the worker's rights:
// with SECURITY DEFINER nobody could tell.
#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_ingest(text)
  RETURNS TABLE (received bigint, inserted bigint, duplicates bigint, rejected bigint)
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
  SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["log", "partitions", "rejects"])]
fn audit_ingest_text(
    body: Option<&str>,
) -> Result<
    TableIterator<'static, (name!(received, i64), name!(inserted, i64), name!(duplicates, i64), name!(rejected, i64))>,
    ErrorReport,
> {
    pinned(|| ingest([body])).map(Counts::row)
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_ingest(text[])
  RETURNS TABLE (received bigint, inserted bigint, duplicates bigint, rejected bigint)
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
  SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["log", "partitions", "rejects"])]
fn audit_ingest_texts(
    bodies: Option<Array<'_, &str>>,
) -> Result<
    TableIterator<'static, (name!(received, i64), name!(inserted, i64), name!(duplicates, i64), name!(rejected, i64))>,
    ErrorReport,
> {
    pinned(|| match &bodies {
        Some(bodies) => ingest(bodies.iter()),
        None => ingest([None]),
    })
    .map(Counts::row)
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_retry_rejects(ids bigint[] DEFAULT NULL)
  RETURNS TABLE (received bigint, inserted bigint, duplicates bigint, rejected bigint)
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
  SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["log", "partitions", "rejects"])]
fn audit_retry_rejects(
    ids: Option<Vec<Option<i64>>>,
) -> TableIterator<'static, (name!(received, i64), name!(inserted, i64), name!(duplicates, i64), name!(rejected, i64))>
{
    pinned(|| retry::retry(ids)).row()
}

fn ingest<'a>(bodies: impl IntoIterator<Item = Option<&'a str>>) -> Result<Counts, ErrorReport> {
    let bodies: Option<Vec<&str>> = bodies.into_iter().collect();
    let bodies = bodies.ok_or_else(|| {
        ErrorReport::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "body must not be null", "audit_ingest")
            .set_hint("An empty batch is '{\"data\":[]}'.")
    })?;
    let caller = current_user();
    as_worker(|| deliver(bodies, caller))
}

fn deliver(bodies: Vec<&str>, caller: pg_sys::Oid) -> Result<Counts, ErrorReport> {
    let limits = Limits::of_a_call();
    let delivery = Delivery::by_caller(caller, &limits);
    let texts = MaskedTexts::new();
    let Taken { mut counts, rejected } = take(bodies, &delivery, &texts);
    if on_reject() == OnReject::error
        && let Some(first) = rejected.iter().min_by_key(|rejected| rejected.position)
    {
        return Err(first.report());
    }
    counts.rejected = rejected.len() as i64;
    rejects::set_aside(rejected, &delivery);
    Ok(counts)
}
