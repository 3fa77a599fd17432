//! Which databases a message may be of.

use audit_core::Reject;
use audit_core::SqlState;

/// Of a call of `audit_ingest`, by who made it.
#[derive(Debug, Default)]
pub struct Sources {
    /// What the ids of this server's own databases begin with; `None`: whatever is captured.
    local: Option<String>,
    /// Ids of databases that were captured into this log, also where it was restored from.
    captured: Vec<String>,
    /// `None`: any.
    allowed: Option<Vec<String>>,
}

impl Sources {
    /// Of a role with these rows in `audit_allowed_sources`; without any it may name any database but this server's.
    pub fn of(system_identifier: u64, named: Vec<String>) -> Self {
        Self {
            local: Some(format!("{system_identifier}.")),
            captured: Vec::new(),
            allowed: Some(named).filter(|named| !named.is_empty()),
        }
    }

    /// Of a role that is no more: nobody can tell what it might.
    pub fn none(system_identifier: u64) -> Self {
        Self { allowed: Some(Vec::new()), ..Self::of(system_identifier, Vec::new()) }
    }

    pub fn and_captured(self, captured: Vec<String>) -> Self {
        Self { captured, ..self }
    }

    pub fn refusal(&self, database_id: &str) -> Option<Reject> {
        let local = self.local.as_ref()?;
        if database_id.starts_with(local) {
            return Some(
                refused(format!(
                    "database_id \"{database_id}\" is of this server, whose changes only capture may store"
                ))
                .hint("audit_capture_start() captures a database of this server."),
            );
        }
        if self.captured.iter().any(|captured| captured == database_id) {
            return Some(
                refused(format!("database_id \"{database_id}\" is of a database that was captured into this log"))
                    .hint("Only capture may store changes of it."),
            );
        }
        let allowed = self.allowed.as_ref()?;
        (!allowed.iter().any(|allowed| allowed == database_id)).then(|| {
            refused(format!("database_id \"{database_id}\" is not a source that the delivering role may name"))
                .hint("audit_allow_source(role, database_id) allows it; audit_allowed_sources lists what is allowed.")
        })
    }
}

fn refused(reason: String) -> Reject {
    Reject::new(SqlState::INSUFFICIENT_PRIVILEGE, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(sources: &Sources, database_id: &str) -> bool {
        sources.refusal(database_id).is_some_and(|reject| reject.sqlstate == SqlState::INSUFFICIENT_PRIVILEGE)
    }

    #[test]
    fn nobody_delivers_changes_of_this_server() {
        for named in [vec![], vec!["72.5".to_owned()]] {
            let sources = Sources::of(72, named);
            assert!(is_refused(&sources, "72.5") && is_refused(&sources, "72."));
        }
        let any = Sources::of(72, Vec::new());
        assert!(!is_refused(&any, "72") && !is_refused(&any, "721.5") && !is_refused(&any, "d1"));
    }

    #[test]
    fn who_is_bound_delivers_no_others() {
        let bound = Sources::of(72, vec!["d1".into(), "d2".into()]);
        assert!(!is_refused(&bound, "d1") && !is_refused(&bound, "d2") && is_refused(&bound, "d3"));
        assert!(is_refused(&Sources::none(72), "d1"));
    }

    #[test]
    fn nobody_delivers_changes_of_a_database_that_was_captured() {
        let sources = Sources::of(72, vec!["71.5".into(), "d1".into()]).and_captured(vec!["71.5".into()]);
        assert!(is_refused(&sources, "71.5") && !is_refused(&sources, "d1"));
    }

    #[test]
    fn what_is_captured_needs_no_leave() {
        assert!(!is_refused(&Sources::default(), "72.5"));
    }
}
