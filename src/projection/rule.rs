//! Is a rule a query whose result the target can take?

use super::run::Projection;
use crate::pg::{
    BoundStatement, CaughtError, ErrorReport, Meaning, Object, Statement, as_extension, caught, first_texts,
};
use pgrx::prelude::*;

use crate::pg::BuiltinOid::{OIDOID, TEXTARRAYOID};

/// What PostgreSQL calls a column without a name.
const UNNAMED: &str = "?column?";

/// An error where row security would hide some.
pub const ALL_ROWS: &[(&str, Option<&str>)] = &[("row_security", Some("off"))];

thread_local! {
    /// Columns of a table that can be filled: name, whether it is generated, whether an INSERT must give it.
    static COLUMNS: Statement = const { Statement::new(
        "SELECT a.attname::text, a.attgenerated <> '' OR a.attidentity = 'a',
                (a.attnotnull AND NOT a.atthasdef AND a.attidentity = '')
         FROM pg_attribute AS a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
         &[OIDOID]) };

    static IS_TABLE: Statement = const { Statement::new(
        "SELECT relkind IN ('r', 'p') AND relpersistence <> 't'
         AND relnamespace <> 'audit_cdc_internal'::regnamespace FROM pg_class WHERE oid = $1",
        &[OIDOID]) };

    static WEAKER_OWNER: Statement = const { Statement::new(
        "SELECT quote_ident(pg_get_userbyid(owner)) FROM audit_cdc_internal.weaker_owners($1, $2) AS owner LIMIT 1",
        &[OIDOID, OIDOID]) };

    /// Tables whose rows a foreign key takes along, or changes, when rows are deleted, of owners without the rights
    /// of the rule's.
    static ALONG: Statement = const { Statement::new(
        "SELECT min(c.conrelid::regclass::text) FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
         WHERE c.contype = 'f' AND c.confdeltype IN ('c', 'n', 'd') AND NOT pg_has_role(r.relowner, $2, 'USAGE')
           AND c.confrelid IN (SELECT $1 UNION SELECT relid FROM pg_partition_tree($1))", &[OIDOID, OIDOID]) };

    static NAME: Statement = const { Statement::new("SELECT $1::regclass::text", &[OIDOID]) };

    static TWICE: Statement = const { Statement::new(
        "SELECT name FROM unnest($1) AS name GROUP BY name HAVING count(*) > 1 LIMIT 1", &[TEXTARRAYOID]) };
}

/// The names of the columns that `rule` gives, and what it names that others own. Runs under the rights and
/// settings of its owner.
pub fn columns((rule, meaning): (&str, Meaning)) -> Result<(Vec<String>, Vec<Object>), ErrorReport> {
    let query = caught(|| BoundStatement::prepare(&format!("SELECT * FROM ({rule}\n) AS rule"), meaning));
    let query = query.map_err(|error| match &error {
        CaughtError::PostgresError(cause) if cause.sql_error_code() == PgSqlErrorCode::ERRCODE_SYNTAX_ERROR => {
            not_a_query(cause.message())
        }
        _ => error.rethrow(),
    })?;
    let columns = query.columns().ok_or_else(|| not_a_query("several statements"))?;
    Ok((columns, query.strangers()))
}

fn not_a_query(why: &str) -> ErrorReport {
    report(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR, format!("the rule is not a query: {why}"))
        .set_hint("A rule is one SELECT over audit_new_logs, without INSERT INTO and ON CONFLICT.")
}

/// Can `target` be filled with these columns?
pub fn check_target(target: pg_sys::Oid, given: &[String]) -> Result<(), ErrorReport> {
    let is_table = as_extension(|| {
        IS_TABLE.with(|is_table| {
            is_table.run(|| vec![target.into()], |rows| if rows.is_empty() { Ok(None) } else { rows.first().get_one() })
        })
    });
    let table = table_name(target);
    if is_table.is_none() {
        return Err(report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            "the target of the projection does not exist any more".into(),
        )
        .set_hint("audit_drop_projection() ends the projection."));
    }
    if is_table != Some(true) {
        return Err(report(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("\"{table}\" is not a table that can be filled"),
        )
        .set_hint("The target of a projection is a table, plain or partitioned, of your own, and not temporary."));
    }
    if let Some(name) = as_extension(|| TWICE.with(|twice| twice.run(|| vec![given.to_vec().into()], first_text))) {
        return Err(report(
            PgSqlErrorCode::ERRCODE_DUPLICATE_COLUMN,
            format!("column \"{name}\" stands twice in the rule's result"),
        ));
    }
    let columns = as_extension(|| COLUMNS.with(|columns| columns.run(|| vec![target.into()], read_columns)));
    if given.iter().any(|name| name == UNNAMED) {
        return Err(report(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            "a column of the rule's result has no name".into(),
        )
        .set_hint("Name it with AS: the columns of the rule's result are the target's, by name."));
    }
    for name in given {
        match columns.iter().find(|column| column.name == *name) {
            None => {
                return Err(report(
                    PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                    format!("column \"{name}\" of relation \"{table}\" does not exist"),
                )
                .set_detail("The columns of the rule's result are the target's, by name."));
            }
            Some(column) if column.is_generated => {
                return Err(report(
                    PgSqlErrorCode::ERRCODE_GENERATED_ALWAYS,
                    format!("column \"{name}\" of relation \"{table}\" is generated always"),
                ));
            }
            Some(_) => {}
        }
    }
    match columns.iter().find(|column| column.is_needed && !given.contains(&column.name)) {
        None => Ok(()),
        Some(TargetColumn { name, .. }) => Err(report(
            PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
            format!(
                "the rule does not give column \"{name}\" of relation \"{table}\", which is NOT NULL and has no default"
            ),
        )),
    }
}

/// The triggers and domains of a table, or of a partition, would run with the rights of the rule's owner. So the
/// table's owner must have them.
pub fn check_owners(target: pg_sys::Oid, rule_owner: pg_sys::Oid) -> Result<(), ErrorReport> {
    let weaker =
        as_extension(|| WEAKER_OWNER.with(|weaker| weaker.run(|| vec![target.into(), rule_owner.into()], first_text)));
    match weaker {
        None => Ok(()),
        Some(owner) => Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("owner of table \"{}\" has not the rights of the projection's owner", table_name(target)),
        )
        .set_detail("Triggers of the table would run with rights that its owner does not have.")
        .set_hint(format!("SET ROLE to {owner}, and create the projection as that role."))),
    }
}

/// Deleting its rows would run triggers of such tables with the rights of the rule's owner.
pub fn check_rows_along(target: pg_sys::Oid, rule_owner: pg_sys::Oid) -> Result<(), ErrorReport> {
    let table = as_extension(|| ALONG.with(|along| along.run(|| vec![target.into(), rule_owner.into()], first_text)));
    match table {
        None => Ok(()),
        Some(table) => Err(report(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!(
                "rows of table \"{table}\" would go along, and its owner has not the rights of the projection's owner"
            ),
        )
        .set_hint("Drop the table's foreign key, or let it do nothing ON DELETE.")),
    }
}

/// Its name, qualified.
pub fn table_name(table: pg_sys::Oid) -> String {
    as_extension(|| NAME.with(|name| name.run(|| vec![table.into()], first_text))).unwrap_or_default()
}

/// Are the types assignable, and may the owner insert? Planning the statement tells, and what it reads.
pub fn check_statement(projection: &Projection) {
    let explain = format!("EXPLAIN (VERBOSE, COSTS OFF) {}", projection.statement);
    let reads_new_entries = projection.with_rights(|| {
        first_texts(&projection.bound(&explain))
            .iter()
            .flatten()
            .any(|line| line.contains("audit_cdc_internal.new_log()"))
    });
    if !reads_new_entries {
        report(PgSqlErrorCode::ERRCODE_WARNING, "the rule does not read audit_new_logs".into())
            .set_hint(
                "It runs for every batch of new entries, which only audit_new_logs holds; audit_logs \
                holds the whole log.",
            )
            .report(PgLogLevel::WARNING);
    }
}

pub fn is_empty(projection: &Projection, table: &str) -> bool {
    projection.with_rights_and(ALL_ROWS, || projection.bound(&format!("SELECT FROM {table} LIMIT 1")).run() == 0)
}

struct TargetColumn {
    name: String,
    is_generated: bool,
    is_needed: bool,
}

fn read_columns(rows: pgrx::spi::SpiTupleTable) -> pgrx::spi::SpiResult<Vec<TargetColumn>> {
    rows.map(|row| {
        Ok(TargetColumn {
            name: row.get(1)?.unwrap_or_default(),
            is_generated: row.get(2)?.unwrap_or_default(),
            is_needed: row.get(3)?.unwrap_or_default(),
        })
    })
    .collect()
}

fn first_text(rows: pgrx::spi::SpiTupleTable) -> pgrx::spi::SpiResult<Option<String>> {
    if rows.is_empty() { Ok(None) } else { rows.first().get_one() }
}

fn report(code: PgSqlErrorCode, message: String) -> ErrorReport {
    ErrorReport::new(code, message, "audit_create_projection")
}
