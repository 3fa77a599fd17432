//! `audit_cast` and `audit_row`: values and whole images, as Sequin encodes them, back to their PostgreSQL types. Where
//! a text stands beside the image, it is read instead.

mod told;

use crate::pg::{
    BuiltinOid, Call, CaughtError, ColumnInput, Cursor, ErrorReport, ResultSet, RowType, TypeInput, any_element,
    caught, passed_oid, reading,
};
use audit_core::SqlState;
use audit_core::encoding::{Text, TypeShape, exact_text, input_text};
use audit_core::json::marked_text;
use pgrx::datum::AnyElement;
use pgrx::prelude::*;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::CStr;
use std::fmt;

use BuiltinOid::{PG_LSNOID, REGTYPEOID, TEXTOID, TIMESTAMPTZOID};

/// What stands in a change for a value that was stored out of line and not changed (Sequin source,
/// `lib/sequin/runtime/slot_processor/message_handler.ex`).
const MARKER: &str = "\"unchanged_toast\"";

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_cast(anyelement, value jsonb, exact text DEFAULT NULL)
  RETURNS anyelement
  LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
-- for bodies that are read when they run: others may make functions in the extension's schema
CREATE FUNCTION audit_cdc_internal.typed_value(anyelement, value jsonb, exact text DEFAULT NULL) RETURNS anyelement
  LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn audit_cast(fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<AnyElement>, ErrorReport> {
    let call = Call::new(fcinfo);
    let Some(oid) = call.type_of(0) else { return Ok(None) };
    let (value, exact) = (call.jsonb(1), call.text(2));
    let sent = match (&value, exact) {
        (_, Some(text)) => Sent::Text(text.into()),
        (Some(value), None) => Sent::MaybeMarker(value),
        (None, None) => return Ok(None),
    };
    let (_, input) = call.kept(|(known, _)| *known == oid, |context| (oid, TypeInput::new(oid, -1, context)));
    input.require_least_rights();
    match caught(|| reading(|| datum(input, &sent))) {
        Ok(Ok(datum)) => Ok(datum.and_then(|datum| any_element(datum, oid))),
        Ok(Err(NotSent)) => Err(not_sent("value", input)),
        Err(error) => Err(without_value(error, "value", input)),
    }
}

#[pg_extern(
    sql = r#"CREATE FUNCTION @extschema@.audit_row(
    anyelement, image jsonb, "unknown" text[] DEFAULT NULL, exact jsonb DEFAULT NULL)
  RETURNS anyelement
  LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
CREATE FUNCTION audit_cdc_internal.typed_row(
    anyelement, image jsonb, "unknown" text[] DEFAULT NULL, exact jsonb DEFAULT NULL)
  RETURNS anyelement
  LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#,
    requires = ["install"]
)]
fn audit_row(fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<AnyElement>, ErrorReport> {
    let call = Call::new(fcinfo);
    let unknown = call.texts(2);
    let exact = call.jsonb(3);
    let not_texts = || {
        let message = "exact is not a JSON object of texts";
        ErrorReport::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message, "audit_row")
            .set_hint("It is exact_values -> 'new' of audit_logs, or -> 'old'.")
    };
    let Members(exact) = match &exact {
        Some(exact) => serde_json::from_str(exact).map_err(|_| not_texts())?,
        None => Members(Vec::new()),
    };
    let is_text = |(_, text): &(_, &RawValue)| text.get().starts_with('"');
    if !exact.iter().all(is_text) {
        return Err(not_texts());
    }
    let oid = call.type_of(0).ok_or_else(not_a_row)?;
    RowType::of(call, oid).ok_or_else(not_a_row)?;
    let Some(image) = call.jsonb(1) else { return Ok(call.argument(0).and_then(|base| any_element(base, oid))) };
    let values = read_values(call, oid, &image, |name, value| match member(&exact, name).map(serde_json::from_str) {
        _ if unknown.as_ref().is_some_and(|unknown| unknown.contains(name)) => Some(Sent::Null),
        Some(Ok(Text(text))) => value.map(|_| Sent::Text(text.into_owned().into())),
        // where nobody says what is unknown, the marker does
        _ => value.map(|value| if unknown.is_none() { Sent::MaybeMarker(value) } else { Sent::Json(value) }),
    })?;
    let row_type = RowType::of(call, oid).ok_or_else(not_a_row)?;
    Ok(any_element(row_type.form(&values), oid))
}

/// The rows as told: exact values stand in their images, and whatever is unknown does not.
const TOLD: &CStr = c"
    SELECT r::pg_catalog.text FROM audit_cdc_internal.told_as_of($1, $2, $3, $4, $5, $6) AS r";

// the types' input functions run with the caller's rights
#[pg_extern(
    requires = ["install"],
    sql = r#"CREATE FUNCTION @extschema@.audit_as_of(
    row_type anyelement, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    table_name text DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS SETOF anyelement
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#
)]
fn audit_as_of(fcinfo: pg_sys::FunctionCallInfo) {
    let call = Call::new(fcinfo);
    let Some(oid) = call.type_of(0) else { return };
    let arguments = [
        passed_oid(oid, REGTYPEOID),
        call.passed(1, TIMESTAMPTZOID),
        call.passed(2, PG_LSNOID),
        call.passed(3, TEXTOID),
        call.passed(4, TEXTOID),
        call.passed(5, TEXTOID),
    ];
    let mut cursor = Cursor::reading(TOLD, &arguments);
    let mut rows = ResultSet::new(call);
    while cursor.fetch_rows(1000, |row, _| {
        let image = row.text(0).unwrap_or_default();
        let values = read_values(call, oid, &image, |_, value| {
            value.map(|value| marked_text(value).map_or(Sent::Json(value), |(text, _)| Sent::Text(text)))
        });
        match values {
            Ok(values) => rows.put(&values),
            Err(error) => error.report(PgLogLevel::ERROR),
        }
    }) {}
}

fn not_a_row() -> ErrorReport {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        "first argument of audit_row must be of a row type",
        "audit_row",
    )
    .set_hint("Name a table or a composite type: audit_row(NULL::public.users, new_values).")
}

/// Of the row type `oid`, which is that of the first argument; what the image lacks is as there. `sent` gives what is
/// to be read for a column that the image has, or has not.
fn read_values(
    call: Call,
    oid: pg_sys::Oid,
    image: &str,
    sent: impl for<'v> Fn(&String, Option<&'v str>) -> Option<Sent<'v>>,
) -> Result<Vec<Option<pg_sys::Datum>>, ErrorReport> {
    let row_type = RowType::of(call, oid).ok_or_else(not_a_row)?;
    let Members(members) = serde_json::from_str(image).map_err(|_| {
        ErrorReport::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "image is not a JSON object", "audit_row")
    })?;
    row_type.require_least_rights();
    let being_read = Cell::new(None);
    let mut value = |index, ColumnInput { name, input }: &mut ColumnInput, before| {
        being_read.set(Some(index));
        match sent(name, member(&members, name)) {
            None => Ok(before),
            Some(sent) => datum(input, &sent),
        }
    };
    let values = caught(|| reading(|| row_type.values(call.argument(0), &mut value)));
    let column = || {
        let ColumnInput { name, input } = row_type.column(being_read.get()?)?;
        Some((format!("column \"{name}\" of {}", row_type.name()), input))
    };
    match values {
        Ok(Ok(values)) => Ok(values),
        Ok(Err(NotSent)) => Err(column().map_or_else(not_a_row, |(what, input)| not_sent(&what, input))),
        Err(error) => match column() {
            Some((what, input)) => Err(without_value(error, &what, input)),
            None => error.rethrow(),
        },
    }
}

/// What is to be read.
enum Sent<'a> {
    Null,
    Json(&'a str),
    /// The same, unless it is Sequin's marker.
    MaybeMarker(&'a str),
    /// As it stands beside the image.
    Text(Cow<'a, str>),
}

/// An object's members in the order of `jsonb`: shorter names first (PostgreSQL source, `jsonb_util.c`,
/// `lengthCompareJsonbStringValue`).
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut object: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::with_capacity(32);
                while let Some((Text(name), value)) = object.next_entry()? {
                    members.push((name, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(InOrder).map(Self)
    }
}

fn member<'a>(members: &[(Cow<str>, &'a RawValue)], name: &str) -> Option<&'a str> {
    let order = |(other, _): &(Cow<str>, _)| (other.len(), other.as_bytes()).cmp(&(name.len(), name.as_bytes()));
    members.binary_search_by(order).ok().map(|index| members[index].1.get())
}

/// What the type's input function would read; of a type that is not there, as of text.
#[pg_extern(
    requires = ["install"],
    sql = r#"CREATE FUNCTION audit_cdc_internal.input_text(value jsonb, type oid) RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#
)]
fn input_text_of_type(fcinfo: pg_sys::FunctionCallInfo) -> Option<String> {
    let call = Call::new(fcinfo);
    let value = call.jsonb(0)?;
    let shape = match call.oid(1) {
        None => &TypeShape::Text,
        Some(oid) => &call.kept(|(known, _)| *known == oid, |context| (oid, TypeInput::new(oid, -1, context))).1.shape,
    };
    input_text(&value, shape).map(Cow::into_owned)
}

/// In place of a value stands Sequin's marker.
struct NotSent;

/// Raises what the type's input function raises.
fn datum(input: &mut TypeInput, sent: &Sent) -> Result<Option<pg_sys::Datum>, NotSent> {
    match sent {
        Sent::Null => Ok(None),
        Sent::MaybeMarker(value) if *value == MARKER && !input.is_textual => Err(NotSent),
        Sent::Json(value) | Sent::MaybeMarker(value) => {
            Ok(input_text(value, &input.shape).map(|text| input.read(&text)))
        }
        Sent::Text(text) => {
            let text = exact_text(text, &input.shape);
            Ok(Some(input.read(&text)))
        }
    }
}

/// `what` was being cast.
fn not_sent(what: &str, input: &TypeInput) -> ErrorReport {
    refused(SqlState::INVALID_CHARACTER_VALUE_FOR_CAST, what, input)
        .set_detail(
            "The message holds Sequin's marker for a value that was not sent, since it was stored out \
            of line and did not change.",
        )
        .set_hint(
            "List the column in unknown: unknown_columns of audit_logs does, once the source's tables are \
            described.",
        )
}

/// PostgreSQL's own message quotes the value.
fn without_value(error: CaughtError, what: &str, input: &TypeInput) -> ErrorReport {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = &error else { error.rethrow() };
    let sqlstate = SqlState::unpacked(report.sql_error_code() as i32);
    match sqlstate.class() {
        b"22" => refused(sqlstate, what, input),
        // not the value's fault: conflicts, resources, cancel, shutdown, input and output. (XX000 may be any state
        // that pgrx does not know, and what elog() raises.)
        b"40" | b"53" | b"57" | b"58" => error.rethrow(),
        _ => refused(SqlState::INVALID_CHARACTER_VALUE_FOR_CAST, what, input)
            .set_detail(format!("The type's input function failed with SQLSTATE {}.", sqlstate.as_str())),
    }
}

fn refused(sqlstate: SqlState, what: &str, input: &TypeInput) -> ErrorReport {
    let code = PgSqlErrorCode::from(sqlstate.packed());
    ErrorReport::new(code, format!("cannot cast {what} to type {}", input.name()), "cast")
}
