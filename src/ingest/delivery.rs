//! Who hands over messages, and what holds for them.

use super::limits::Limits;
use super::sources::Sources;
use crate::pg::{self, BuiltinOid, Isolation, Statement};
use audit_core::message::Origin;
use pgrx::pg_sys::Oid;

thread_local! {
    static ALLOWED: Statement = const { Statement::new(
        "SELECT role::oid, database_id FROM audit_cdc_internal.allowed_sources", &[] as &[BuiltinOid]) };
    static CAPTURED: Statement = const { Statement::new(
        "SELECT database_id FROM audit_cdc_internal.captured_databases", &[] as &[BuiltinOid]) };
}

pub struct Delivery<'l> {
    pub origin: Origin,
    /// The role by whose rights it is judged; `None`: capture.
    pub by: Option<String>,
    pub sources: Sources,
    /// `None`: none.
    pub limits: Option<&'l Limits>,
    pub isolation: Isolation,
    /// Projections have caused the changes: they are not fed to projections again.
    pub is_of_a_rule: bool,
    /// It was set aside, and was never stored.
    pub was_rejected: bool,
    /// Masks were put on it before it was set aside.
    pub has_masks: bool,
}

impl<'l> Delivery<'l> {
    pub fn captured(origin: Origin, isolation: Isolation) -> Self {
        let sources = Sources::default();
        Self {
            origin,
            by: None,
            sources,
            limits: None,
            isolation,
            is_of_a_rule: false,
            was_rejected: false,
            has_masks: false,
        }
    }

    /// By the role with whose rights it is called, such as a function's owner (SECURITY DEFINER) or a rule's. If that
    /// one is not bound, as who the session acts as (SET ROLE) is; if that one is not, as who logged in.
    pub fn by_caller(caller: Oid, limits: &'l Limits) -> Self {
        let rows = allowed();
        let is_bound = |role: &Oid| !named(&rows, *role).is_empty();
        let role = [caller, pg::outer_user()].into_iter().find(is_bound).unwrap_or_else(pg::session_user);
        Self::by_role(Some(role), pg::role_name(role), &rows, limits)
    }

    /// What was set aside, as if it were delivered once more by who delivered it.
    pub fn again(origin: Origin, by: Option<String>, has_masks: bool, limits: &'l Limits) -> Self {
        match origin {
            Origin::Ingest => {
                let role = by.as_deref().and_then(pg::role_named);
                Self { was_rejected: true, has_masks, ..Self::by_role(role, by, &allowed(), limits) }
            }
            _ => Self { has_masks, ..Self::captured(origin, Isolation::Each) },
        }
    }

    fn by_role(role: Option<Oid>, by: Option<String>, rows: &[(Oid, String)], limits: &'l Limits) -> Self {
        let here = pg::system_identifier();
        let sources = role.map_or_else(|| Sources::none(here), |role| Sources::of(here, named(rows, role)));
        let sources = sources.and_captured(captured());
        Self {
            origin: Origin::Ingest,
            by,
            sources,
            limits: Some(limits),
            isolation: Isolation::Each,
            is_of_a_rule: false,
            was_rejected: false,
            has_masks: false,
        }
    }
}

/// What is allowed to any role.
fn allowed() -> Vec<(Oid, String)> {
    if pg::never_had_rows(c"allowed_sources") {
        return Vec::new();
    }
    ALLOWED.with(|allowed| {
        allowed.read(Vec::new, |rows| {
            rows.map(|row| Ok((row.get(1)?.unwrap_or(Oid::INVALID), row.get(2)?.unwrap_or_default()))).collect()
        })
    })
}

/// Databases whose changes capture stored in this log, also where it was restored from.
fn captured() -> Vec<String> {
    CAPTURED
        .with(|captured| captured.read(Vec::new, |rows| rows.map(|row| Ok(row.get(1)?.unwrap_or_default())).collect()))
}

fn named(rows: &[(Oid, String)], member: Oid) -> Vec<String> {
    rows.iter().filter(|(role, _)| pg::is_member(member, *role)).map(|(_, database_id)| database_id.clone()).collect()
}
