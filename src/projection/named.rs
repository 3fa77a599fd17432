//! Which projection a caller names, and whether they may change it.

use super::run::Projection;
use crate::pg::BuiltinOid::{OIDOID, TEXTOID};
use crate::pg::{
    ErrorReport, Statement, as_extension, current_user, lock_projection, lock_schema_name, lock_table, succeeded,
};
use pgrx::prelude::*;

thread_local! {
    static FIND: Statement = const { Statement::new(
        "SELECT * FROM audit_cdc_internal.runnable_projections WHERE name = $1", &[TEXTOID]) };

    static PERMITTED: Statement = const { Statement::new(
        "SELECT pg_has_role($1, $2, 'USAGE') OR pg_has_role($1, 'audit_cdc_admin', 'USAGE')", &[OIDOID, OIDOID]) };

    static OWNS: Statement = const { Statement::new("SELECT pg_has_role($1, $2, 'USAGE')", &[OIDOID, OIDOID]) };
}

/// With its target and the name of its schema locked, so that none takes its place.
pub fn find(name: &str) -> Option<Projection> {
    let find = || FIND.with(|find| find.run(|| vec![name.into()], |rows| Ok(Projection::read_all(rows)?.pop())));
    as_extension(|| {
        let target = find()?.target;
        lock_table(target);
        lock_schema_name(target);
        find().filter(|projection| projection.target == target)
    })
}

pub fn found(name: &str) -> Result<Projection, ErrorReport> {
    find(name).ok_or_else(|| {
        report(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, format!("projection \"{name}\" does not exist"))
    })
}

/// The projection, if the caller may change it.
pub fn permitted(name: &str) -> Result<Projection, ErrorReport> {
    let (projection, caller) = (found(name)?, current_user());
    let is_permitted = as_extension(|| {
        PERMITTED.with(|permitted| {
            permitted.run(|| vec![caller.into(), projection.rule_owner.into()], |rows| rows.first().get_one::<bool>())
        })
    });
    if is_permitted == Some(true) {
        return Ok(projection);
    }
    Err(report(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of projection \"{name}\""))
        .set_hint("Members of audit_cdc_admin may change every projection."))
}

/// The same, and nobody feeds it until the transaction ends.
pub fn permitted_alone(name: &str) -> Result<Projection, ErrorReport> {
    let mut projection = permitted(name)?;
    loop {
        lock_projection(projection.id);
        // meanwhile another may have got the name
        let locked = std::mem::replace(&mut projection, permitted(name)?).id;
        if projection.id == locked {
            return Ok(projection);
        }
    }
}

/// The table that `name` means to the caller.
pub fn table_named(name: &str) -> pg_sys::Oid {
    succeeded(Spi::connect(|client| {
        client.select("SELECT $1::pg_catalog.regclass::pg_catalog.oid", None, &[name.into()])?.first().get_one()
    }))
    .unwrap_or(pg_sys::InvalidOid)
}

/// As people type it.
pub fn query(rule: &str) -> &str {
    rule.trim_end_matches(|character: char| character.is_whitespace() || character == ';')
}

pub fn role_has(role: pg_sys::Oid, rights: pg_sys::Oid) -> bool {
    let has = || OWNS.with(|owns| owns.run(|| vec![role.into(), rights.into()], |rows| rows.first().get_one::<bool>()));
    as_extension(has) == Some(true)
}

pub fn report(code: PgSqlErrorCode, message: String) -> ErrorReport {
    ErrorReport::new(code, message, "projection")
}
