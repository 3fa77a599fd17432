//! A table, or a record, as it was: what `audit_as_of()` and `audit_as_of_unknown()` give.

use super::reading::read_records;
use super::wanted::Wanted;
use crate::pg::{Call, Cursor, ErrorReport, ResultSet, jsonb_datum, text_datum};
use audit_core::json::plain;
use audit_core::lives::{Image, Reason};
use pgrx::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;

const KEYLESS: &CStr = c"
    SELECT k.is_alive, k.known, k.unknown_columns, k.reason
    FROM audit_cdc_internal.keyless_rows_as_of($1, $2, $3) AS k WHERE $4::text IS NULL";

/// What the log tells of a record at the moment.
struct Told<'a> {
    /// None: the table has no key.
    key: Option<&'a [u8]>,
    /// Why nobody knows whether it is there.
    reason: Option<&'a str>,
    is_alive: bool,
    /// The row, also where it is in doubt.
    known: Option<&'a [u8]>,
    unknown: &'a [String],
}

/// In bounded memory, whatever the log holds.
fn each_record(wanted: &Wanted, tell: &mut dyn FnMut(Told)) {
    let has_keyless = read_records(wanted, &mut |key, record, moment| {
        let row = record.row(moment);
        let reason =
            record.doubt(moment, |state| wanted.has_former_key(key, state), |state| wanted.is_before_gap(state));
        tell(Told {
            key: Some(key),
            reason: reason.map(Reason::text),
            is_alive: reason.is_none() && row.is_some(),
            known: row.map(|state| state.known.bytes()),
            unknown: row.map_or(&[], |state| state.unknown.as_slice()),
        });
    });
    if has_keyless && !wanted.is_of_one_key() {
        let mut cursor = Cursor::reading(KEYLESS, &wanted.arguments());
        while cursor.fetch_rows(1000, |row, _| {
            let (reason, unknown) = (row.text(3), row.texts(2).unwrap_or_default());
            tell(Told {
                key: None,
                reason: reason.as_deref(),
                is_alive: row.boolean(0),
                known: row.jsonb(1),
                unknown: &unknown,
            });
        }) {}
    }
}

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.rows_as_of(
    audited audit_cdc_internal.audited, columns text[], at timestamptz, lsn pg_lsn, key text, is_told boolean)
  RETURNS SETOF jsonb
  LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["records_as_of"])]
fn rows_as_of(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let mut rows = ResultSet::new(call);
    let columns = call.texts(1).unwrap_or_default();
    let is_told = call.argument(5).is_some_and(|is_told| is_told.value() != 0);
    let Some(wanted) = Wanted::of(call, 2) else { return };
    let mut tally = Tally::default();
    each_record(&wanted, &mut |told| {
        tally.count(&told, &columns);
        if let Some(known) = told.known.filter(|_| told.is_alive) {
            rows.put(&[if is_told { jsonb_datum(known) } else { plain_datum(known) }]);
        }
    });
    tally.warn();
}

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.unknown_as_of(
    audited audit_cdc_internal.audited, columns text[], at timestamptz, lsn pg_lsn, key text,
    OUT record_id text, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["records_as_of"])]
fn unknown_as_of(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let mut rows = ResultSet::new(call);
    let columns = call.texts(1).unwrap_or_default();
    let Some(wanted) = Wanted::of(call, 2) else { return };
    each_record(&wanted, &mut |told| {
        let (unknown, reason) = match told.reason {
            Some(reason) => (None, reason),
            None if !told.is_alive => return,
            None => (Some(unknown_columns(&told, &columns)), "columns that were not sent"),
        };
        if unknown.as_ref().is_none_or(|unknown| !unknown.is_empty()) {
            rows.put(&[
                told.key.and_then(text_datum),
                told.known.and_then(plain_datum),
                unknown.and_then(IntoDatum::into_datum),
                reason.into_datum(),
            ]);
        }
    });
}

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.records_as_of(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn, key text,
    OUT record_id text, OUT is_alive boolean, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["records_as_of"])]
fn records_as_of(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let mut rows = ResultSet::new(call);
    let Some(wanted) = Wanted::without_doubts(call, 1) else { return };
    each_record(&wanted, &mut |told| {
        rows.put(&[
            told.key.and_then(text_datum),
            told.reason.is_none().then_some(told.is_alive).into_datum(),
            told.known.and_then(jsonb_datum),
            told.is_alive.then(|| told.unknown.to_vec()).into_datum(),
            told.reason.into_datum(),
        ]);
    });
}

/// The image of a row that is told.
fn plain_datum(told: &[u8]) -> Option<pg_sys::Datum> {
    match plain(told) {
        Some(image) => jsonb_datum(&image),
        None => jsonb_datum(told),
    }
}

/// Of a row that is there: what was not sent, and what its table has by now and the row lacks.
fn unknown_columns(told: &Told, columns: &[String]) -> Vec<String> {
    let row = Image::new(told.known.unwrap_or_default());
    let there = row.columns();
    let missing: Vec<&String> = columns.iter().filter(|column| !there.contains(column)).collect();
    if missing.iter().all(|column| told.unknown.contains(column)) {
        return told.unknown.to_vec();
    }
    told.unknown.iter().chain(missing).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// What is not known, for a WARNING.
#[derive(Default)]
struct Tally {
    reasons: BTreeMap<String, u64>,
    partial: u64,
    columns: BTreeSet<String>,
}

impl Tally {
    fn count(&mut self, told: &Told, columns: &[String]) {
        if let Some(reason) = told.reason {
            *self.reasons.entry(reason.to_owned()).or_default() += 1;
        } else if told.is_alive {
            let unknown = unknown_columns(told, columns);
            self.partial += u64::from(!unknown.is_empty());
            self.columns.extend(unknown);
        }
    }

    fn warn(&self) {
        let unknown: u64 = self.reasons.values().sum();
        if unknown == 0 && self.partial == 0 {
            return;
        }
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut details: Vec<String> = reasons
            .into_iter()
            .map(|(reason, count)| {
                let (first, others) = reason.split_at(1);
                format!("{}{others} ({count}).", first.to_uppercase())
            })
            .collect();
        if self.partial > 0 {
            let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
            details.push(format!("Unknown columns: {}.", columns.join(", ")));
        }
        let message = format!(
            "records that the log cannot tell: {unknown}; rows with unknown columns, which are null here: {}",
            self.partial
        );
        ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "as_of")
            .set_detail(details.join(" "))
            .set_hint("audit_as_of_unknown() lists them one by one.")
            .report(PgLogLevel::WARNING);
    }
}
