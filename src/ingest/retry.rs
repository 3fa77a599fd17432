//! What was set aside, tried again.

use super::counts::Counts;
use super::delivery::Delivery;
use super::limits::Limits;
use super::masks::{MaskedTexts, WITHHELD};
use super::rejects::{NOT_KEPT, set_aside};
use super::take::{Taken, take, take_message};
use crate::operations;
use crate::pg::BuiltinOid::{INT8ARRAYOID, INT8OID, TEXTOID};
use crate::pg::{Statement, lock_retry};
use audit_core::message::Origin;
use audit_core::{Reject, SqlState};
use serde_json::json;

thread_local! {
    static OPEN: Statement = const { Statement::new(
        "SELECT id FROM audit_cdc_internal.rejects
         WHERE stored_at IS NULL AND erased_at IS NULL AND ($1 IS NULL OR id = ANY ($1)) ORDER BY id",
        &[INT8ARRAYOID]) };

    static RAW: Statement = const { Statement::new(
        "SELECT raw, batch_position IS NULL, origin, delivered_by, has_masks
         FROM audit_cdc_internal.rejects WHERE id = $1",
        &[INT8OID]) };

    static STORED: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.rejects SET retries = retries + 1, last_retried_at = now(), stored_at = now()
         WHERE id = $1", &[INT8OID]) };

    static STILL_OPEN: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.rejects SET retries = retries + 1, last_retried_at = now(), sqlstate = $2,
         reason = $3, hint = $4
         WHERE id = $1", &[INT8OID, TEXTOID, TEXTOID, TEXTOID]) };
}

/// Each open reject (of `ids`, if given) once more, as if it were delivered now by who delivered it. The
/// limits are of one call for all. Counts are of messages.
pub fn retry(ids: Option<Vec<Option<i64>>>) -> Counts {
    lock_retry();
    let open: Vec<i64> = OPEN.with(|open| {
        open.run(|| vec![ids.clone().into()], |rows| rows.map(|row| Ok(row.get(1)?.unwrap_or_default())).collect())
    });
    let limits = Limits::of_a_call();
    let tried = open.len();
    let mut total = Counts::default();
    for id in open {
        let (raw, is_body, origin, by, has_masks) = RAW.with(|raw| {
            raw.run(
                || vec![id.into()],
                |rows| {
                    let row = rows.first();
                    let origin = row.get::<i8>(3)?.map_or(Origin::Ingest, Origin::of);
                    let (raw, has_masks) = (row.get::<String>(1)?.unwrap_or_default(), row.get(5)? == Some(true));
                    Ok((raw, row.get(2)? == Some(true), origin, row.get(4)?, has_masks))
                },
            )
        });
        if raw == WITHHELD {
            total.rejected += 1;
            still_open(
                id,
                &Reject::new(SqlState::INVALID_TEXT_REPRESENTATION, "there is no text to be read").hint(NOT_KEPT),
            );
            continue;
        }
        let delivery = Delivery::again(origin, by, has_masks, &limits);
        let texts = MaskedTexts::new();
        let Taken { counts, rejected } =
            if is_body { take([raw.as_str()], &delivery, &texts) } else { take_message(&raw, &delivery, &texts) };
        total.inserted += counts.inserted;
        total.duplicates += counts.duplicates;
        total.rejected += rejected.len() as i64;
        // a body that can be read now may hold messages that cannot: they become rejects of their own
        let readable = rejected.iter().all(|rejected| rejected.position.is_some());
        match rejected.first() {
            Some(still) if !is_body || !readable => still_open(id, &still.reject),
            _ => {
                set_aside(rejected, &delivery);
                STORED.with(|stored| stored.run(|| vec![id.into()], |_| Ok(())));
            }
        }
    }
    if tried > 0 {
        let counts = json!({ "tried": tried, "inserted": total.inserted, "duplicates": total.duplicates,
                             "rejected": total.rejected });
        operations::note("audit_retry_rejects", &json!({ "ids": ids }), Some(&counts), None);
    }
    total
}

fn still_open(id: i64, reject: &Reject) {
    STILL_OPEN.with(|still_open| {
        let (sqlstate, reason, hint) = (reject.sqlstate.as_str(), reject.reason.as_ref(), reject.hint.as_deref());
        still_open.run(|| vec![id.into(), sqlstate.into(), reason.into(), hint.into()], |_| Ok(()))
    });
}
