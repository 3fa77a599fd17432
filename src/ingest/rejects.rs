//! What cannot be taken is set aside with its text, a SQLSTATE and a reason.

use super::delivery::Delivery;
use super::lock::lock;
use super::masks::{Masks, WITHHELD};
use crate::pg::{CaughtError, ErrorReport, Statement, subtransaction};
use audit_core::Reject;
use audit_core::SqlState;
use audit_core::message::{Change, Digest, Origin, RawMessage, SourceTable, delivered_digest, text_digest};
use pgrx::Uuid;
use pgrx::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::pg::BuiltinOid::{BOOLARRAYOID, CHAROID, INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTOID, UUIDARRAYOID};

thread_local! {
    static CANONICAL: Statement = const { Statement::new("SELECT $1::jsonb::text", &[TEXTOID]) };

    static SET_ASIDE: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.rejects AS r
           (digest, raw, sqlstate, reason, hint, batch_position, database_id, table_schema, table_name,
            deliveries, has_masks, created_at, last_delivered_at, origin, delivered_by)
         SELECT n.*, now(), now(), $12, $13 FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS n
         ON CONFLICT (digest) DO UPDATE
           SET deliveries = r.deliveries + excluded.deliveries, last_delivered_at = now(),
               sqlstate = excluded.sqlstate, reason = excluded.reason, hint = excluded.hint, stored_at = NULL",
        &[UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID,
          TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID, BOOLARRAYOID, CHAROID, TEXTOID]) };
}

/// Bytes up to which a text that was not understood is known again in another spelling.
const LONGEST_RESPELLED: usize = 1 << 20;

pub const NOT_KEPT: &str = "Its text was not kept: masks are set, and its table could not be read.";

pub struct Rejected<'a> {
    text: Cow<'a, str>,
    /// `None` for a whole body.
    pub position: Option<i32>,
    /// `None`: not understood, to be known again by its text.
    digest: Option<Digest>,
    table: Option<SourceTable<'a>>,
    pub reject: Reject,
    /// Masks were put on its text.
    has_masks: bool,
}

impl<'a> Rejected<'a> {
    pub fn body(text: &'a str, reject: Reject) -> Self {
        Self {
            text: Cow::Borrowed(text),
            position: None,
            digest: Some(text_digest(text)),
            table: None,
            reject,
            has_masks: false,
        }
    }

    pub fn message(message: RawMessage<'a>, reject: Reject) -> Self {
        Self {
            text: Cow::Borrowed(message.text),
            position: Some(message.position),
            digest: None,
            table: SourceTable::of(message),
            reject,
            has_masks: false,
        }
    }

    pub fn change(change: &Change<'a>, reject: Reject) -> Self {
        Self {
            text: change.original.text(),
            position: Some(change.original.position()),
            digest: Some(change.reject_digest()),
            table: Some(change.table.clone()),
            reject,
            has_masks: change.unmasked.is_some(),
        }
    }

    /// Its text has masks.
    pub fn of_masked(self) -> Self {
        Self { has_masks: true, ..self }
    }

    pub fn with_text(self, text: Cow<'a, str>) -> Self {
        Self { text, ..self }
    }

    /// As it may be kept.
    fn masked(self, masks: &Masks, delivery: &Delivery) -> Self {
        let text = match &self.table {
            Some(table) => match masks.of(table) {
                None => return self,
                Some(masks) => masks.masked(&self.text, self.has_masks || delivery.has_masks),
            },
            None if delivery.origin == Origin::Ingest && !masks.may_be_of_any() => return self,
            None => None,
        };
        match text {
            Some(text) if *text == *self.text => Self { has_masks: true, ..self },
            Some(text) => Self {
                text: text.into(),
                digest: self.digest.map(|digest| masks.hidden(digest)),
                has_masks: true,
                ..self
            },
            None => {
                let digest = Some(masks.hidden(text_digest(&*self.text)));
                Self { text: WITHHELD.into(), digest, reject: self.reject.hint(NOT_KEPT), ..self }
            }
        }
    }

    pub fn report(&self) -> ErrorReport {
        let code = PgSqlErrorCode::from(self.reject.sqlstate.packed());
        let report =
            ErrorReport::new(code, self.reject.reason.clone(), "audit_ingest").set_detail(match self.position {
                Some(position) => {
                    format!("Message {position} of the batch cannot be taken, and audit_cdc.on_reject is \"error\".")
                }
                None => "The body cannot be taken, and audit_cdc.on_reject is \"error\".".into(),
            });
        match &self.reject.hint {
            Some(hint) => report.set_hint(hint.clone()),
            None => report,
        }
    }

    /// Spelling does not matter where PostgreSQL can read the text as `jsonb`.
    fn digest(&self) -> Digest {
        self.digest.unwrap_or_else(|| {
            if self.text.len() > LONGEST_RESPELLED {
                return text_digest(&*self.text);
            }
            let canonical = subtransaction(|| {
                CANONICAL.with(|canonical| {
                    canonical.run(|| vec![(&*self.text).into()], |rows| rows.first().get_one::<String>())
                })
            });
            match canonical {
                Ok(text) => text_digest(text.as_deref().unwrap_or(&self.text)),
                Err(error) if refusal(&error).is_some() => text_digest(&*self.text),
                Err(error) => error.rethrow(),
            }
        })
    }
}

/// The errors that a message's own data cause: classes 22 (data exception), 23 (integrity
/// constraint violation) and 54 (program limit exceeded). The DETAIL is left out: it may quote the row.
pub fn refusal(error: &CaughtError) -> Option<Reject> {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else { return None };
    let sqlstate = SqlState::unpacked(report.sql_error_code() as i32);
    if !matches!(sqlstate.class(), b"22" | b"23" | b"54") {
        return None;
    }
    let reject = Reject::new(sqlstate, report.message().to_owned());
    Some(match &sqlstate.0 {
        b"22P05" => reject.hint("The name of a column holds \\u0000, which no name of PostgreSQL's can."),
        b"22P02" => {
            reject.hint("The name of a column holds half of a surrogate pair, or is otherwise no valid Unicode.")
        }
        b"23503" => reject.hint("Delete this entry on the other server, and call audit_retry_rejects()."),
        _ => reject,
    })
}

/// One row each, however often one role delivers it.
pub fn set_aside(rejected: Vec<Rejected>, delivery: &Delivery) {
    let mut once: BTreeMap<Digest, (Rejected, i64)> = BTreeMap::new();
    if rejected.is_empty() {
        return;
    }
    lock();
    let masks = Masks::read();
    for rejected in rejected {
        let rejected = match &masks {
            Some(masks) => rejected.masked(masks, delivery),
            None => rejected,
        };
        once.entry(delivered_digest(&rejected.digest(), delivery.origin, delivery.by.as_deref()))
            .and_modify(|(_, deliveries)| *deliveries += 1)
            .or_insert((rejected, 1));
    }
    let all = || once.values().map(|(rejected, _)| rejected);
    let table = |part: for<'t> fn(&'t SourceTable<'_>) -> &'t str| {
        all().map(|r| r.table.as_ref().map(part)).collect::<Vec<_>>()
    };
    SET_ASIDE.with(|set_aside| {
        set_aside.run(
            || {
                vec![
                    once.keys().map(|digest| Uuid::from_bytes(*digest)).collect::<Vec<_>>().into(),
                    all().map(|r| &*r.text).collect::<Vec<_>>().into(),
                    all().map(|r| r.reject.sqlstate.as_str()).collect::<Vec<_>>().into(),
                    all().map(|r| r.reject.reason.as_ref()).collect::<Vec<_>>().into(),
                    all().map(|r| r.reject.hint.as_deref()).collect::<Vec<_>>().into(),
                    all().map(|r| r.position).collect::<Vec<_>>().into(),
                    table(|table| &table.database_id).into(),
                    table(|table| &table.schema).into(),
                    table(|table| &table.name).into(),
                    once.values().map(|(_, deliveries)| *deliveries).collect::<Vec<_>>().into(),
                    all().map(|r| r.has_masks).collect::<Vec<_>>().into(),
                    delivery.origin.letter().into(),
                    delivery.by.as_deref().into(),
                ]
            },
            |_| Ok(()),
        );
    });
}
