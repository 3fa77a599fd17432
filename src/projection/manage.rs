//! What people call. With the rights of the caller, whom PostgreSQL knows here; the extension's own statements run
//! as its owner.

use super::feed::catch_up;
use super::fill::fill;
use super::named::{find, found, permitted_alone, query, report, role_has, table_named};
use super::rule;
use super::run::Projection;
use super::settle::settle;
use crate::arguments::given;
use crate::capture::exclude_new_table;
use crate::operations;
use crate::pg::{ErrorReport, Meaning, Statement, Strangers, as_extension, current_user, setting};
use pgrx::prelude::*;
use serde_json::json;
use std::cell::RefCell;

use crate::pg::BuiltinOid::{BOOLOID, INT4OID, INT8ARRAYOID, INT8OID, OIDOID, TEXTARRAYOID, TEXTOID};

thread_local! {
    static CAPTURED: Statement = const { Statement::new("SELECT audit_cdc_internal.captured_of($1)", &[OIDOID]) };

    static ADD: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.projections
           (name, target, columns, rule, rule_owner, setting_names, setting_values, strangers)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING id",
        &[TEXTOID, OIDOID, TEXTARRAYOID, TEXTOID, OIDOID, TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID]) };

    static ALTER: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.projections
         SET columns = $3, rule = $4, setting_names = $6, setting_values = $7, strangers = $8, strangers_in = DEFAULT
         WHERE name = $1 AND target = $2 AND rule_owner = $5 RETURNING id",
        &[TEXTOID, OIDOID, TEXTARRAYOID, TEXTOID, OIDOID, TEXTARRAYOID, TEXTARRAYOID, INT8ARRAYOID]) };

    static FED_TO: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.projections SET fed_to = $2,
         rebuilt_at = CASE WHEN $3 THEN now() ELSE rebuilt_at END WHERE id = $1",
        &[INT4OID, INT8OID, BOOLOID]) };

    static NOT_SLOW: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.projections SET slow_since = NULL WHERE id = $1 AND slow_since IS NOT NULL",
        &[INT4OID]) };

    static FORGET: Statement = const { Statement::new(
        "DELETE FROM audit_cdc_internal.unprojected WHERE projection = $1", &[INT4OID]) };

    static COLUMNS: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.projections SET columns = $2 WHERE id = $1", &[INT4OID, TEXTARRAYOID]) };

    static FAILURES: Statement = const { Statement::new(
        "SELECT count(*) FROM audit_cdc_internal.unprojected WHERE projection = $1 AND sqlstate IS NOT NULL",
        &[INT4OID]) };

    static DROP: Statement = const { Statement::new(
        "DELETE FROM audit_cdc_internal.projections WHERE id = $1", &[INT4OID]) };

    static CHANGED: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.ingest_reads SET changed_at = now()", &[]) };
}

/// It is in an index.
const LONGEST_NAME: usize = 500;

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_create_projection(
    name text, rule text, target regclass DEFAULT NULL, fill boolean DEFAULT true)
  RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["projections"])]
fn audit_create_projection(
    name: Option<&str>,
    rule: Option<&str>,
    target: Option<pg_sys::Oid>,
    fill: Option<bool>,
) -> Result<i64, ErrorReport> {
    let (name, rule) = (given(name, "name")?, query(given(rule, "rule")?));
    if name.len() > LONGEST_NAME {
        let message = format!("name is longer than {LONGEST_NAME} bytes");
        return Err(report(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message));
    }
    only_read_committed()?;
    let target = match target {
        Some(target) => target,
        None => table_named(name),
    };
    let owner = current_user();
    rule::check_owners(target, owner)?;
    if !keep(&ADD, name, target, rule, owner)? {
        let code = PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT;
        return Err(match find(name) {
            Some(_) => report(code, format!("projection \"{name}\" already exists")).set_hint(
                "audit_alter_projection() gives it another rule, audit_drop_projection() ends it; or choose \
                 another name, and name the table as target.",
            ),
            None => report(code, format!("table \"{}\" is the target of another projection", rule::table_name(target)))
                .set_hint("One rule can join several with UNION ALL."),
        });
    }
    check_not_captured(name, target)?;
    let projection = found(name)?;
    rule::check_statement(&projection);
    let table = rule::table_name(target);
    let arguments = json!({ "name": name, "rule": rule, "target": table, "fill": fill != Some(false) });
    if fill == Some(false) {
        as_extension(|| {
            settle();
            changed();
        });
        operations::note("audit_create_projection", &arguments, None, None);
        return Ok(0);
    }
    if !rule::is_empty(&projection, &table) {
        let message = format!("table \"{table}\" is not empty");
        return Err(report(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .set_hint("Empty it, or pass fill => false to add entries only from now on."));
    }
    let fed = as_extension(|| {
        let (fed, _) = self::fill(&projection, 0);
        fed_to(&projection, None, true);
        warn_of_failures(&projection);
        fed
    });
    operations::note("audit_create_projection", &arguments, Some(&json!({ "fed": fed })), None);
    Ok(fed)
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_alter_projection(name text, rule text)
  RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["projections"])]
fn audit_alter_projection(name: Option<&str>, rule: Option<&str>) -> Result<(), ErrorReport> {
    let (name, rule) = (given(name, "name")?, query(given(rule, "rule")?));
    let projection = permitted_alone(name)?;
    if !role_has(current_user(), projection.rule_owner) {
        let message = format!("must be owner of projection \"{name}\"");
        return Err(report(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
            .set_hint("The new rule runs with the rights of that role: SET ROLE to it."));
    }
    rule::check_owners(projection.target, projection.rule_owner)?;
    as_extension(settle);
    keep(&ALTER, name, projection.target, rule, projection.rule_owner)?;
    rule::check_statement(&found(name)?);
    as_extension(changed);
    operations::note("audit_alter_projection", &json!({ "name": name, "rule": rule }), None, None);
    Ok(())
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_rebuild_projection(name text)
  RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["projections"])]
fn audit_rebuild_projection(name: Option<&str>) -> Result<i64, ErrorReport> {
    only_read_committed()?;
    let projection = with_columns_of_now(permitted_alone(given(name, "name")?)?)?;
    rule::check_owners(projection.target, projection.rule_owner)?;
    rule::check_rows_along(projection.target, projection.rule_owner)?;
    rule::check_statement(&projection);
    let table = rule::table_name(projection.target);
    projection.with_rights_and(rule::ALL_ROWS, || {
        projection.with_constraints_checked_at_once(|| {
            projection.bound(&format!("DELETE FROM {table}")).run();
        });
    });
    if !rule::is_empty(&projection, &table) {
        let message = format!("table \"{table}\" is not empty after DELETE");
        return Err(report(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .set_hint("A trigger or rule of the table may keep its rows."));
    }
    let fed = as_extension(|| {
        FORGET.with(|forget| forget.run(|| vec![projection.id.into()], |_| Ok(())));
        let (fed, last) = fill(&projection, 0);
        fed_to(&projection, projection.fed_to.map(|_| last), true);
        not_slow(&projection);
        notice!("projection \"{}\" is rebuilt: {fed} entries went through the rule", projection.name);
        warn_of_failures(&projection);
        fed
    });
    Ok(noted("audit_rebuild_projection", &projection, fed))
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_retry_projection(name text)
  RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["projections"])]
fn audit_retry_projection(name: Option<&str>) -> Result<i64, ErrorReport> {
    let projection = permitted_alone(given(name, "name")?)?;
    let taken = as_extension(|| {
        let taken = catch_up(&projection, true);
        not_slow(&projection);
        warn_of_failures(&projection);
        taken
    });
    Ok(noted("audit_retry_projection", &projection, taken))
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_disable_projection(name text)
  RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["projections"])]
fn audit_disable_projection(name: Option<&str>) -> Result<(), ErrorReport> {
    let projection = permitted_alone(given(name, "name")?)?;
    as_extension(|| {
        if projection.fed_to.is_none() {
            fed_to(&projection, Some(settle()), false);
        }
    });
    operations::note("audit_disable_projection", &json!({ "name": projection.name }), None, None);
    Ok(())
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_enable_projection(name text)
  RETURNS bigint LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["projections"])]
fn audit_enable_projection(name: Option<&str>) -> Result<i64, ErrorReport> {
    only_read_committed()?;
    let projection = permitted_alone(given(name, "name")?)?;
    let Some(after) = projection.fed_to else {
        as_extension(|| not_slow(&projection));
        return Ok(noted("audit_enable_projection", &projection, 0));
    };
    let fed = as_extension(|| {
        let waiting = catch_up(&projection, false);
        not_slow(&projection);
        let (fed, _) = fill(&projection, after);
        fed_to(&projection, None, false);
        warn_of_failures(&projection);
        waiting + fed
    });
    Ok(noted("audit_enable_projection", &projection, fed))
}

#[pg_extern(sql = r#"CREATE FUNCTION @extschema@.audit_drop_projection(name text)
  RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["projections"])]
fn audit_drop_projection(name: Option<&str>) -> Result<(), ErrorReport> {
    let projection = permitted_alone(given(name, "name")?)?;
    as_extension(|| {
        settle();
        FORGET.with(|forget| forget.run(|| vec![projection.id.into()], |_| Ok(())));
        DROP.with(|drop| drop.run(|| vec![projection.id.into()], |_| Ok(())));
        changed();
    });
    operations::note("audit_drop_projection", &json!({ "name": projection.name }), None, None);
    Ok(())
}

/// On record, with how many entries went through the rule.
fn noted(operation: &str, projection: &Projection, fed: i64) -> i64 {
    operations::note(operation, &json!({ "name": projection.name }), Some(&json!({ "fed": fed })), None);
    fed
}

/// Checks the rule under its owner's rights and writes the row. Is it written?
fn keep(
    write: &'static std::thread::LocalKey<Statement>,
    name: &str,
    target: pg_sys::Oid,
    rule: &str,
    owner: pg_sys::Oid,
) -> Result<bool, ErrorReport> {
    let settings = settings_of_now();
    let borrowed: Vec<_> = settings.iter().map(|(name, value)| (*name, Some(value.as_str()))).collect();
    let meaning = Meaning { table: None, role: owner, strangers: Strangers::Asked(RefCell::default()) };
    let (columns, strangers) = crate::pg::restricted(owner, &borrowed, || rule::columns((rule, meaning)))?;
    rule::check_target(target, &columns)?;
    let (names, values): (Vec<&str>, Vec<String>) = settings.into_iter().unzip();
    Ok(as_extension(|| {
        write.with(|write| {
            write.run(
                || {
                    vec![
                        name.into(),
                        target.into(),
                        columns.into(),
                        rule.into(),
                        owner.into(),
                        names.into(),
                        values.into(),
                        strangers.into(),
                    ]
                },
                |rows| Ok(!rows.is_empty()),
            )
        })
    }))
}

/// What is captured must not be filled from the log. A table that has only just been made is excluded by who may.
fn check_not_captured(name: &str, target: pg_sys::Oid) -> Result<(), ErrorReport> {
    let captured = || {
        as_extension(|| {
            CAPTURED.with(|captured| captured.run(|| vec![target.into()], |rows| rows.first().get_one::<String>()))
        })
    };
    if captured().is_none() {
        return Ok(());
    }
    exclude_new_table(target, &format!("filled from the log by projection \"{name}\""));
    let Some(tables) = captured() else { return Ok(()) };
    let message = format!("table \"{}\" is captured, so it cannot be filled from the log", rule::table_name(target));
    Err(report(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .set_detail(format!("Captured: {tables}."))
        .set_hint("Call audit_exclude_table(), as its owner and an admin, or take it out of the publication."))
}

/// What decides what a rule means, whatever session runs it.
const SETTINGS: [&str; 17] = [
    "search_path",
    "TimeZone",
    "timezone_abbreviations",
    "DateStyle",
    "IntervalStyle",
    "extra_float_digits",
    "bytea_output",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "default_text_search_config",
    "xmloption",
    "xmlbinary",
    "array_nulls",
    "transform_null_equals",
    "row_security",
    "quote_all_identifiers",
];

/// A temporary table of a relay's session must not stand before the owner's own.
fn settings_of_now() -> Vec<(&'static str, String)> {
    let value = |name: &str| {
        let value = setting(name).unwrap_or_default();
        if name != "search_path" {
            return value;
        }
        let schemas = value.split(',').filter(|schema| !matches!(schema.trim(), "" | "\"\"" | "pg_temp"));
        schemas.chain(["pg_temp"]).collect::<Vec<_>>().join(",")
    };
    let syntax = [("standard_conforming_strings", "on".to_owned()), ("backslash_quote", "safe_encoding".to_owned())];
    SETTINGS.into_iter().map(|name| (name, value(name))).chain(syntax).collect()
}

/// A rule with a star in it may give other columns than when it was made.
fn with_columns_of_now(projection: Projection) -> Result<Projection, ErrorReport> {
    let (columns, _) = projection.with_rights(|| rule::columns(projection.rule()))?;
    rule::check_target(projection.target, &columns)?;
    as_extension(|| COLUMNS.with(|statement| statement.run(|| vec![projection.id.into(), columns.into()], |_| Ok(()))));
    found(&projection.name)
}

fn warn_of_failures(projection: &Projection) {
    let failures: Option<i64> =
        FAILURES.with(|failures| failures.run(|| vec![projection.id.into()], |rows| rows.first().get_one()));
    if let Some(count @ 1..) = failures {
        let message = format!("projection \"{}\" could not take {count} entries", projection.name);
        report(PgSqlErrorCode::ERRCODE_WARNING, message)
            .set_hint("See audit_projection_failures; after a fix audit_retry_projection() feeds them again.")
            .report(PgLogLevel::WARNING);
    }
}

fn fed_to(projection: &Projection, last: Option<i64>, rebuilt: bool) {
    FED_TO.with(|statement| statement.run(|| vec![projection.id.into(), last.into(), rebuilt.into()], |_| Ok(())));
    changed();
}

/// From now on passes run it again.
fn not_slow(projection: &Projection) {
    NOT_SLOW.with(|statement| statement.run(|| vec![projection.id.into()], |_| Ok(())));
}

fn changed() {
    CHANGED.with(|changed| changed.run(Vec::new, |_| Ok(())));
}

/// A fixed snapshot would miss entries that are stored meanwhile.
fn only_read_committed() -> Result<(), ErrorReport> {
    if !crate::pg::snapshot_is_fixed() {
        return Ok(());
    }
    let message = "a projection can be filled under READ COMMITTED only".to_owned();
    Err(report(PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION, message))
}
