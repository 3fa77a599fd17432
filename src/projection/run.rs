//! A projection's rule, run over entries of the log.

use crate::pg::{
    BoundStatement, BuiltinOid, CaughtError, ErrorReport, Isolation, LogRow, Meaning, Object, Statement, Strangers,
    as_extension, feeding, has_expired, is_limited, isolated, limited, restricted, show_progress_again, subtransaction,
    succeeded, temporary_schema, tried, with_pinned,
};
use crate::settings::rule_timeout;
use audit_core::Reject;
use audit_core::SqlState;
use pgrx::prelude::*;
use pgrx::spi::{SpiResult, SpiTupleTable};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// More plans than there are projections, even while their rules change.
const MOST_PLANS: usize = 100;
/// So long one ingest looks for the entries that a rule cannot take.
const LONGEST_SEARCH: Duration = Duration::from_secs(5);
/// So long one ingest waits for somebody who has locked what a rule needs.
pub const LONGEST_LOCK: &str = "500ms";

const TOO_SLOW: &str = "the rule takes longer than audit_cdc.rule_timeout";
const FORBIDDEN: &str = "the target's owner has not the rights of the rule's owner";

thread_local! {
    static CURSORS: Statement = const { Statement::new("SELECT name FROM pg_catalog.pg_cursor()", &[]) };

    /// What the transaction does from here on may be a rule's doing (see `crates/core/src/wire/decoder.rs`).
    static MARK: Statement = const { Statement::new(
        "WITH marked AS (INSERT INTO audit_cdc_internal.projecting_transactions SELECT pg_current_xact_id()
         FROM audit_cdc_internal.captures
                         ON CONFLICT DO NOTHING RETURNING xid)
         SELECT pg_logical_emit_message(true, 'audit_cdc.rule', '') FROM marked", &[]) };

    static SLOW: Statement = const { Statement::new(
        "UPDATE audit_cdc_internal.projections SET slow_since = now() WHERE id = $1 AND slow_since IS NULL",
        &[BuiltinOid::INT4OID]) };

    static TEMPORARY: Statement = const { Statement::new(
        "SELECT count(*) FROM pg_catalog.pg_type WHERE typnamespace = $1", &[BuiltinOid::OIDOID]) };

    static PLANS: RefCell<HashMap<PlanKey, Rc<BoundStatement>>> = RefCell::default();
}

/// Owner, settings, statement, and what it may name: all of them are folded into a plan.
type PlanKey = (pg_sys::Oid, Vec<(String, String)>, String, pg_sys::Oid, Vec<Object>);

pub struct Projection {
    pub id: i32,
    pub name: String,
    pub target: pg_sys::Oid,
    pub rule_owner: pg_sys::Oid,
    settings: Vec<(String, String)>,
    /// What belongs to others, and was there when the rule was made.
    strangers: Vec<Object>,
    /// The last entry that was fed before it was disabled.
    pub fed_to: Option<i64>,
    rule: String,
    pub statement: String,
    immediate: Option<String>,
    deferred: Option<String>,
    pub is_waiting: bool,
    /// Who owns the target has not the rights of the rule's owner: its triggers must not run.
    is_forbidden: bool,
    /// A run took longer than `audit_cdc.rule_timeout`; its entries wait for somebody who can wait, too.
    pub is_slow: Cell<bool>,
    /// What it is fed was caused by rules.
    pub is_looping: bool,
    /// Nobody is filling it.
    pub is_free: bool,
}

/// An ingest has little, since it must not stop; who fills a table has as much as it takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Short,
    Endless,
}

/// What a rule could not take, and why; and what is to be tried later. All else has reached it.
#[derive(Default)]
pub struct NotTaken<'a> {
    pub refused: Vec<(LogRow<'a>, Reject)>,
    pub postponed: Vec<LogRow<'a>>,
}

impl Projection {
    /// Rows of runnable_projections.
    pub fn read_all(rows: SpiTupleTable) -> SpiResult<Vec<Self>> {
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            // who edits a dump may write a null into any array
            let texts = |name: &str| {
                Ok::<_, pgrx::spi::Error>(row[name].value::<Vec<Option<String>>>()?.unwrap_or_default().into_iter())
            };
            let strangers = row["strangers"].value::<Vec<Option<Object>>>()?.unwrap_or_default();
            let text = |name: &str| Ok::<_, pgrx::spi::Error>(row[name].value::<String>()?.unwrap_or_default());
            all.push(Self {
                id: row["id"].value()?.unwrap_or_default(),
                name: text("name")?,
                target: row["target"].value()?.unwrap_or(pg_sys::InvalidOid),
                rule_owner: row["rule_owner"].value()?.unwrap_or(pg_sys::InvalidOid),
                settings: texts("setting_names")?
                    .zip(texts("setting_values")?)
                    .filter_map(|(name, value)| name.zip(value))
                    .collect(),
                strangers: strangers.into_iter().flatten().collect(),
                fed_to: row["fed_to"].value()?,
                rule: text("rule")?,
                statement: text("statement")?,
                immediate: row["immediate"].value()?,
                deferred: row["deferred"].value()?,
                is_waiting: row["is_waiting"].value()?.unwrap_or_default(),
                is_forbidden: row["is_forbidden"].value()?.unwrap_or(true),
                is_slow: Cell::new(row["is_slow"].value()?.unwrap_or_default()),
                is_looping: false,
                is_free: true,
            });
        }
        Ok(all)
    }

    /// Runs the rule over entries: all at once, and if that fails, over its halves.
    pub fn run<'a>(&self, entries: &[LogRow<'a>], patience: Patience) -> NotTaken<'a> {
        if entries.is_empty() {
            return NotTaken::default();
        }
        if self.is_forbidden {
            let reject = Reject::new(SqlState::INSUFFICIENT_PRIVILEGE, FORBIDDEN);
            let refused = entries.iter().map(|entry| (*entry, reject.clone())).collect();
            return NotTaken { refused, postponed: Vec::new() };
        }
        MARK.with(|mark| mark.run(Vec::new, |_| Ok(())));
        let limit = rule_timeout().filter(|_| patience == Patience::Short && !is_limited());
        // after each attempt that failed, when what it did is rolled back
        let judge = |error: &CaughtError| {
            if limit.is_some() && has_expired() {
                self.is_slow.set(true);
                return Some(Reject::new(SqlState::QUERY_CANCELED, TOO_SLOW));
            }
            if patience == Patience::Short { judge(error) } else { judge_finally(error) }
        };
        let refusal = |error: CaughtError| judge(&error).unwrap_or_else(|| error.rethrow());
        let attempt = |entries: &[LogRow]| match limit {
            Some(limit) => limited(limit, || self.attempt(entries, patience)),
            None => self.attempt(entries, patience),
        };
        let taken = self.run_isolated(entries, patience, &judge, &refusal, &attempt);
        if limit.is_some() && has_expired() | self.is_slow.get() {
            self.is_slow.set(true);
            SLOW.with(|slow| slow.run(|| vec![self.id.into()], |_| Ok(())));
        }
        taken
    }

    fn run_isolated<'a>(
        &self,
        entries: &[LogRow<'a>],
        patience: Patience,
        judge: &impl Fn(&CaughtError) -> Option<Reject>,
        refusal: &impl Fn(CaughtError) -> Reject,
        attempt: &impl Fn(&[LogRow]),
    ) -> NotTaken<'a> {
        let postponing = |reject: &Reject| self.is_slow.get() || is_passing(reject.sqlstate);
        let mut taken = NotTaken::default();
        match subtransaction(|| attempt(entries)).map_err(refusal) {
            Ok(()) => return taken,
            Err(reject) if postponing(&reject) => {
                taken.postponed = entries.to_vec();
                return taken;
            }
            Err(_) => {}
        }
        // a rule that fails over no entry at all takes none
        if let Err(broken) = tried(|| attempt(&[])).map_err(refusal) {
            if self.is_slow.get() {
                taken.postponed = entries.to_vec();
            } else {
                taken.refused = entries.iter().map(|entry| (*entry, broken.clone())).collect();
            }
            return taken;
        }
        let start = Instant::now();
        let mut postponed = Vec::new();
        isolated(
            Isolation::Each,
            entries,
            judge,
            &mut |entries| {
                if self.is_slow.get() || patience == Patience::Short && start.elapsed() > LONGEST_SEARCH {
                    postponed.extend_from_slice(entries);
                } else {
                    attempt(entries);
                }
            },
            &mut Vec::new(),
            &mut |entry, reject| {
                if postponing(&reject) { taken.postponed.push(*entry) } else { taken.refused.push((*entry, reject)) }
            },
        );
        taken.postponed.extend(postponed);
        taken
    }

    fn attempt(&self, entries: &[LogRow], patience: Patience) {
        show_progress_again();
        self.refuse_temporary_objects();
        let settings: &[_] = if patience == Patience::Short { &[("lock_timeout", Some(LONGEST_LOCK))] } else { &[] };
        self.with_rights_and(settings, || {
            self.with_constraints_checked_at_once(|| {
                let plan = self.plan();
                feeding(entries.iter(), || plan.run());
            });
        });
    }

    /// What a rule, or a function of the rule's owner, names must not be found among the temporary objects of whoever
    /// has the session. Its entries wait for a session without any.
    fn refuse_temporary_objects(&self) {
        if temporary_types() > 0 {
            let message = format!("projection \"{}\" is not filled in a session that has temporary objects", self.name);
            ErrorReport::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, message, "rule")
                .set_hint("Its entries wait for the next ingest or capture in another session.")
                .report(PgLogLevel::ERROR);
        }
    }

    /// With the rights of the rule's owner.
    pub fn with_rights<T>(&self, work: impl FnOnce() -> T) -> T {
        self.with_rights_and(&[], work)
    }

    /// What ingest's own settings hold the planner to does not concern a rule. It must not leave anything behind in
    /// the session of whoever ingests: neither another query under the name of a cursor, nor a temporary object.
    pub fn with_rights_and<T>(&self, more: &[(&str, Option<&str>)], work: impl FnOnce() -> T) -> T {
        let mut settings = vec![
            // it would take longer than the few rows of a step
            ("jit", Some("off")),
            ("plan_cache_mode", None),
            ("enable_seqscan", None),
            ("enable_hashjoin", None),
            ("enable_mergejoin", None),
        ];
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))));
        settings.extend_from_slice(more);
        let temporary = temporary_types();
        let cursors: Vec<String> = as_extension(|| {
            CURSORS.with(|cursors| {
                cursors.run(Vec::new, |rows| rows.map(|row| Ok(row.get(1)?.unwrap_or_default())).collect())
            })
        });
        let result = with_pinned(&cursors, || restricted(self.rule_owner, &settings, work));
        if temporary_types() != temporary {
            let message = "a rule must not create temporary objects";
            ErrorReport::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message, "rule").report(PgLogLevel::ERROR);
        }
        result
    }

    pub fn with_constraints_checked_at_once(&self, work: impl FnOnce()) {
        self.immediate.iter().for_each(|statement| run_text(statement));
        work();
        self.deferred.iter().for_each(|statement| run_text(statement));
    }

    /// A statement over the target, which runs with the rights of the rule's owner.
    pub fn bound(&self, statement: &str) -> BoundStatement {
        let strangers = Strangers::Known(self.strangers.clone());
        BoundStatement::prepare(statement, Meaning { table: Some(self.target), role: self.rule_owner, strangers })
    }

    /// The rule alone.
    pub fn rule(&self) -> (&str, Meaning) {
        let strangers = Strangers::Known(self.strangers.clone());
        (&self.rule, Meaning { table: None, role: self.rule_owner, strangers })
    }

    fn plan(&self) -> Rc<BoundStatement> {
        let key = (self.rule_owner, self.settings.clone(), self.statement.clone(), self.target, self.strangers.clone());
        if let Some(plan) = PLANS.with(|plans| plans.borrow().get(&key).cloned()) {
            return plan;
        }
        let plan = Rc::new(self.bound(&self.statement));
        PLANS.with(|plans| {
            let mut plans = plans.borrow_mut();
            if plans.len() >= MOST_PLANS {
                plans.clear();
            }
            plans.insert(key, plan.clone());
        });
        plan
    }
}

/// How many types and tables this session has in the schema that is searched first. Not every release of PostgreSQL
/// refuses all of them in a security-restricted operation, and one called `text` would be met by whoever has the
/// session.
pub fn temporary_types() -> i64 {
    let Some(schema) = temporary_schema() else { return 0 };
    as_extension(|| TEMPORARY.with(|types| types.run(|| vec![schema.into()], |rows| rows.first().get_one())))
        .unwrap_or(0)
}

/// Runs a statement that is not prepared.
pub fn run_text(statement: &str) {
    succeeded(Spi::connect_mut(|client| client.update(statement, None, &[]).map(drop)));
}

/// Whatever a rule raises is its own affair and never stops an ingest. Raised is only what PostgreSQL itself says
/// to this session: cancel, timeout, shutdown.
pub fn judge(error: &CaughtError) -> Option<Reject> {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else { return None };
    let sqlstate = SqlState::unpacked(report.sql_error_code() as i32);
    let is_interrupt = sqlstate.class() == b"57" && report.file().ends_with("postgres.c");
    (!is_interrupt).then(|| Reject::new(sqlstate, report.message().to_owned()))
}

/// For those who can wait: what may pass is raised too.
fn judge_finally(error: &CaughtError) -> Option<Reject> {
    judge(error).filter(|reject| !is_passing(reject.sqlstate))
}

/// Conflicts between transactions, and locks that others hold: tried again they may be gone.
pub fn is_passing(sqlstate: SqlState) -> bool {
    sqlstate.class() == b"40" || matches!(&sqlstate.0, b"55P03" | b"55006")
}
