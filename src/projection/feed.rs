//! Entries of the log on their way through the rules.

use crate::isolate::isolated;
use crate::message::Reject;
use crate::pg::{BuiltinOid, CaughtError, LogRow, feeding, log_rows, restricted, return_fed_rows, subtransaction};
use crate::sqlstate::SqlState;
use crate::statement::Statement;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiResult, SpiTupleTable};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use BuiltinOid::{INT4OID, INT8ARRAYOID, INT8OID, TEXTARRAYOID, TIMESTAMPTZARRAYOID};

/// More plans than there are projections, even while their rules change.
const MOST_PLANS: usize = 100;

// audit_new_logs is audit_logs over what new_log() returns
pgrx::extension_sql_file!("../../sql/audit_logs.sql", name = "audit_logs", requires = ["described_tables", new_log]);

#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.new_log() RETURNS SETOF audit_cdc_internal.log
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["log"])]
fn new_log(fcinfo: pg_sys::FunctionCallInfo) {
    return_fed_rows(fcinfo);
}

thread_local! {
    static ACTIVE: Statement = const { Statement::new(
        "SELECT *, pg_try_advisory_xact_lock_shared('audit_cdc_internal.projections'::regclass::oid::integer, id) AS is_free
         FROM audit_cdc_internal.runnable_projections WHERE fed_to IS NULL ORDER BY id", &[]) };

    static WAIT: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.unprojected (projection, log_id, commit_timestamp)
         SELECT $1, n.* FROM unnest($2, $3) AS n", &[INT4OID, INT8ARRAYOID, TIMESTAMPTZARRAYOID]) };

    static REFUSED: Statement = const { Statement::new(
        "INSERT INTO audit_cdc_internal.unprojected AS u (projection, log_id, commit_timestamp, sqlstate, reason)
         SELECT $1, n.* FROM unnest($2, $3, $4, $5) AS n
         ON CONFLICT ON CONSTRAINT unprojected_pkey DO UPDATE
           SET sqlstate = excluded.sqlstate, reason = excluded.reason, retries = u.retries + (u.sqlstate IS NOT NULL)::integer,
               last_retried_at = CASE WHEN u.sqlstate IS NOT NULL THEN now() END",
        &[INT4OID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID, TEXTARRAYOID]) };

    static REACHED: Statement = const { Statement::new(
        "DELETE FROM audit_cdc_internal.unprojected WHERE projection = $1 AND log_id = ANY ($2)", &[INT4OID, INT8ARRAYOID]) };

    /// Their month has been dropped.
    static GONE: Statement = const { Statement::new(
        "DELETE FROM audit_cdc_internal.unprojected AS u
         WHERE projection = $1
           AND NOT EXISTS (SELECT FROM audit_cdc_internal.log WHERE commit_timestamp = u.commit_timestamp AND id = u.log_id)", &[INT4OID]) };

    static WAITING: Statement = const { Statement::new(
        "SELECT l.* FROM (
           SELECT log_id, commit_timestamp FROM audit_cdc_internal.unprojected
           WHERE projection = $1 AND (sqlstate IS NULL OR $2) AND log_id > $3
           ORDER BY log_id LIMIT 1000 FOR UPDATE SKIP LOCKED) AS u
         CROSS JOIN LATERAL (
           SELECT * FROM audit_cdc_internal.log WHERE commit_timestamp = u.commit_timestamp AND id = u.log_id LIMIT 1) AS l
         ORDER BY l.id", &[INT4OID, BuiltinOid::BOOLOID, INT8OID]) };

    /// What this session fills: its own locks do not keep it away.
    static FILLING: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };

    static PLANS: RefCell<HashMap<PlanKey, Rc<OwnedPreparedStatement>>> = RefCell::default();
}

/// Owner, settings and statement: all of them are folded into a plan.
type PlanKey = (pg_sys::Oid, Vec<(String, String)>, String);

pub struct Projection {
    pub id: i32,
    pub name: String,
    pub target: pg_sys::Oid,
    pub rule_owner: pg_sys::Oid,
    settings: Vec<(String, String)>,
    /// The last entry that was fed before it was disabled.
    pub fed_to: Option<i64>,
    pub rule: String,
    pub statement: String,
    immediate: Option<String>,
    is_waiting: bool,
    /// Nobody is filling it.
    is_free: bool,
}

/// The enabled projections. They stay so while the caller holds its lock on the log.
pub fn active() -> Vec<Projection> {
    let mut active = ACTIVE.with(|active| active.run(Vec::new, Projection::read_all));
    FILLING.with(|filling| {
        active.iter_mut().for_each(|projection| projection.is_free &= !filling.borrow().contains(&projection.id))
    });
    for projection in active.iter().filter(|projection| projection.is_free && projection.is_waiting) {
        // in steps, so that no ingest has to do it all
        projection.catch_up_step(false, 0);
    }
    active
}

/// Runs `work`, in which what this session stores waits for `projection`.
pub fn while_filling<T>(projection: i32, work: impl FnOnce() -> T) -> T {
    struct Filling;
    impl Drop for Filling {
        fn drop(&mut self) {
            FILLING.with(|filling| filling.borrow_mut().pop());
        }
    }
    FILLING.with(|filling| filling.borrow_mut().push(projection));
    let _until_the_end = Filling;
    work()
}

/// Feeds new entries to each of `projections`.
pub fn feed(projections: &[Projection], entries: &[LogRow]) {
    for projection in projections {
        if projection.is_free {
            projection.refused(projection.run(entries));
        } else {
            WAIT.with(|wait| {
                wait.run(|| vec![projection.id.into(), ids(entries).into(), times(entries).into()], |_| Ok(()))
            });
        }
    }
}

impl Projection {
    /// Rows of runnable_projections, with `is_free`.
    pub fn read_all(rows: SpiTupleTable) -> SpiResult<Vec<Self>> {
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let texts = |name: &str| Ok::<_, pgrx::spi::Error>(row[name].value::<Vec<String>>()?.unwrap_or_default());
            let text = |name: &str| Ok::<_, pgrx::spi::Error>(row[name].value::<String>()?.unwrap_or_default());
            all.push(Self {
                id: row["id"].value()?.unwrap_or_default(),
                name: text("name")?,
                target: row["target"].value()?.unwrap_or(pg_sys::InvalidOid),
                rule_owner: row["rule_owner"].value()?.unwrap_or(pg_sys::InvalidOid),
                settings: texts("setting_names")?.into_iter().zip(texts("setting_values")?).collect(),
                fed_to: row["fed_to"].value()?,
                rule: text("rule")?,
                statement: text("statement")?,
                immediate: row["immediate"].value()?,
                is_waiting: row["is_waiting"].value()?.unwrap_or_default(),
                is_free: row["is_free"].value()?.unwrap_or_default(),
            });
        }
        Ok(all)
    }

    /// Runs the rule over entries, and returns those that it could not take.
    pub fn run<'a>(&self, entries: &[LogRow<'a>]) -> Vec<(LogRow<'a>, Reject)> {
        let attempt = |entries: &[LogRow]| {
            crate::pg::show_progress_again();
            self.with_rights(|| {
                self.check_constraints_at_once();
                let plan = self.plan();
                feeding(entries.iter(), || execute(&plan));
            });
        };
        let Err(_) = judged(|| attempt(entries)) else { return Vec::new() };
        // a rule that fails over no entry at all takes none
        if let Err(broken) = judged(|| attempt(&[])) {
            return entries.iter().map(|entry| (*entry, broken.clone())).collect();
        }
        let mut refused = Vec::new();
        isolated(entries, judge, &mut |entries| attempt(entries), &mut Vec::new(), &mut |entry, reject| {
            refused.push((*entry, reject));
        });
        refused
    }

    /// Notes the entries that it could not take.
    pub fn refused(&self, refused: Vec<(LogRow, Reject)>) {
        if refused.is_empty() {
            return;
        }
        REFUSED.with(|statement| {
            statement.run(
                || {
                    let all = || refused.iter();
                    vec![
                        self.id.into(),
                        all().map(|(entry, _)| entry.id).collect::<Vec<_>>().into(),
                        all().map(|(entry, _)| entry.commit_timestamp).collect::<Vec<_>>().into(),
                        all().map(|(_, reject)| reject.sqlstate.as_str()).collect::<Vec<_>>().into(),
                        all().map(|(_, reject)| reject.reason.as_ref()).collect::<Vec<_>>().into(),
                    ]
                },
                |_| Ok(()),
            );
        });
    }

    /// Feeds what waits, and what failed too if `failed`. Returns how many entries have reached the target.
    pub fn catch_up(&self, failed: bool) -> i64 {
        GONE.with(|gone| gone.run(|| vec![self.id.into()], |_| Ok(())));
        let (mut reached, mut after) = (0, 0);
        while let Some((count, last)) = self.catch_up_step(failed, after) {
            (reached, after) = (reached + count, last);
        }
        reached
    }

    /// At most 1,000 entries of those after `after`. Returns how many have reached the target, and the last.
    fn catch_up_step(&self, failed: bool, after: i64) -> Option<(i64, i64)> {
        WAITING.with(|waiting| {
            waiting.run(
                || vec![self.id.into(), failed.into(), after.into()],
                |result| {
                    let entries = log_rows(result)?;
                    let refused = self.run(&entries);
                    let last = entries.last().map(|entry| entry.id);
                    let mut ids = ids(&entries);
                    ids.retain(|id| refused.iter().all(|(entry, _)| entry.id != *id));
                    let reached = ids.len() as i64;
                    REACHED.with(|statement| statement.run(|| vec![self.id.into(), ids.into()], |_| Ok(())));
                    self.refused(refused);
                    Ok(last.map(|last| (reached, last)))
                },
            )
        })
    }

    /// With the rights of the rule's owner; what ingest's own settings hold the planner to does not concern it.
    pub fn with_rights<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut settings = vec![
            // it would take longer than the few rows of a step
            ("jit", Some("off")),
            ("plan_cache_mode", None),
            ("enable_seqscan", None),
            ("enable_hashjoin", None),
            ("enable_mergejoin", None),
        ];
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))));
        restricted(self.rule_owner, &settings, work)
    }

    pub fn check_constraints_at_once(&self) {
        if let Some(immediate) = &self.immediate {
            run_text(immediate);
        }
    }

    fn plan(&self) -> Rc<OwnedPreparedStatement> {
        let key = (self.rule_owner, self.settings.clone(), self.statement.clone());
        if let Some(plan) = PLANS.with(|plans| plans.borrow().get(&key).cloned()) {
            return plan;
        }
        let plan = Spi::connect_mut(|client| Ok(client.prepare_mut(self.statement.as_str(), &[])?.keep()));
        let plan = Rc::new(crate::statement::succeeded(plan));
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

fn execute(plan: &OwnedPreparedStatement) {
    crate::statement::succeeded(Spi::connect_mut(|client| client.update(plan, None, &[]).map(drop)));
}

/// Runs a statement that is not prepared.
pub fn run_text(statement: &str) {
    crate::statement::succeeded(Spi::connect_mut(|client| client.update(statement, None, &[]).map(drop)));
}

fn ids(entries: &[LogRow]) -> Vec<i64> {
    entries.iter().map(|entry| entry.id).collect()
}

fn times(entries: &[LogRow]) -> Vec<TimestampWithTimeZone> {
    entries.iter().map(|entry| entry.commit_timestamp).collect()
}

fn judged(work: impl FnOnce()) -> Result<(), Reject> {
    subtransaction(work).map_err(|error| judge(&error).unwrap_or_else(|| error.rethrow()))
}

/// Whatever a rule raises is its own affair and never stops an ingest. Raised is what says nothing of the rule:
/// conflicts between transactions (class 40), resources (53), cancel and shutdown (57), system errors (58).
fn judge(error: &CaughtError) -> Option<Reject> {
    let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else { return None };
    let sqlstate = SqlState::unpacked(report.sql_error_code() as i32);
    let raised = matches!(sqlstate.class(), b"40" | b"53" | b"57" | b"58");
    (!raised).then(|| Reject::new(sqlstate, report.message().to_owned()))
}
