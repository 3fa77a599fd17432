//! Retention at a time of day, by the capture worker: a step between two looks at the slot, so that capture goes on.

use super::TimeOfDay;
use crate::pg::{CaptureWorker, CaughtError, Statement, report_of};
use crate::settings;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

use crate::pg::BuiltinOid::{INT4OID, TEXTOID};

/// Entries that a step removes, as of `audit_apply_retention()`.
const BATCH: i32 = 10_000;
/// So often a step is tried again whose locks others hold.
const MOST_WAITS: u32 = 100;

thread_local! {
    static HORIZONS: Statement = const { Statement::new("SELECT audit_cdc_internal.set_horizons()", &[]) };
    static PARTITIONS: Statement = const { Statement::new("SELECT audit_cdc_internal.partitions_to_clear()", &[]) };
    static CLEAR: Statement = const { Statement::new(
        "SELECT is_done, removed IS NULL FROM audit_cdc_internal.clear_partition($1, $2)", &[TEXTOID, INT4OID]) };
    static REJECTS: Statement = const { Statement::new("SELECT audit_cdc_internal.clear_rejects()", &[]) };
    static ELSEWHERE: Statement = const { Statement::new("SELECT audit_cdc_internal.say_elsewhere()", &[]) };
    static UNNAMED: Statement = const { Statement::new("SELECT audit_cdc_internal.clear_unnamed($1)", &[TEXTOID]) };
}

enum Step {
    SetHorizons,
    ListPartitions,
    Clear(String),
    Rejects,
    Unnamed(&'static str),
    /// Tells what stays, since it is on another server.
    SayElsewhere,
}

enum Came {
    /// It is over, and these come next.
    Done(Vec<Step>),
    More,
    /// Others hold what it needs.
    Busy,
}

pub struct Daily {
    /// What the setting said at the last look.
    at: Option<TimeOfDay>,
    /// Until then no run was due that has not begun.
    seen: Timestamp,
    /// What is left of a run.
    steps: VecDeque<Step>,
    waits: u32,
}

impl Daily {
    pub fn new() -> Self {
        Self { at: settings::retention_at(), seen: Timestamp::now(), steps: VecDeque::new(), waits: 0 }
    }

    pub fn is_running(&self) -> bool {
        !self.steps.is_empty()
    }

    /// How long nothing is to be done. Another setting is looked at at once.
    pub fn rest(&self) -> Duration {
        let now = settings::retention_at();
        if now != self.at {
            return Duration::ZERO;
        }
        let Some(at) = now else { return Duration::MAX };
        let left = at.next(self.seen).as_microsecond() - Timestamp::now().as_microsecond();
        Duration::from_micros(left.max(0).unsigned_abs())
    }

    /// Does the next step, if a run is due or goes on.
    pub fn step(&mut self, worker: &CaptureWorker) {
        self.begin_if_due();
        let Some(step) = self.steps.front() else { return };
        match worker.transaction("applying retention", || step.run()) {
            Ok(Came::More) => self.waits = 0,
            Ok(Came::Done(next)) => {
                self.waits = 0;
                self.steps.pop_front();
                for step in next.into_iter().rev() {
                    self.steps.push_front(step);
                }
            }
            Ok(Came::Busy) => self.wait(),
            Err(error) => self.end(&error),
        }
    }

    fn begin_if_due(&mut self) {
        let (at, now) = (settings::retention_at(), Timestamp::now());
        let is_due = at == self.at && at.is_some_and(|at| at.was_between(self.seen, now));
        (self.at, self.seen) = (at, now);
        if is_due && self.steps.is_empty() {
            let shared = ["record keys", "annotations", "contexts"].map(Step::Unnamed);
            self.steps.extend([Step::SetHorizons, Step::ListPartitions, Step::Rejects]);
            self.steps.extend(shared.into_iter().chain([Step::SayElsewhere]));
        }
    }

    /// The next look of the worker tries it again, but not for ever.
    fn wait(&mut self) {
        self.waits += 1;
        if self.waits <= MOST_WAITS {
            return;
        }
        self.waits = 0;
        match self.steps.pop_front() {
            Some(Step::Clear(partition)) => {
                pgrx::log!("audit_cdc retention: others use {partition}, which is left out")
            }
            Some(Step::SetHorizons) => {
                pgrx::log!("audit_cdc retention: others write without a pause; nothing was removed");
                self.steps.clear();
            }
            _ => {}
        }
    }

    fn end(&mut self, error: &CaughtError) {
        let report = report_of(error);
        pgrx::log!("audit_cdc retention ends early: {}", report.message());
        self.steps.clear();
    }
}

impl Step {
    fn run(&self) -> Came {
        let over = |is_over: bool| if is_over { Came::Done(Vec::new()) } else { Came::Busy };
        match self {
            Self::SetHorizons => {
                over(HORIZONS.with(|set| set.read(Vec::new, |rows| rows.first().get_one())) == Some(true))
            }
            Self::ListPartitions => {
                let names = PARTITIONS.with(|list| list.read(Vec::new, |rows| rows.first().get_one::<Vec<String>>()));
                Came::Done(names.unwrap_or_default().into_iter().map(Step::Clear).collect())
            }
            Self::Clear(name) => {
                let arguments = || vec![name.as_str().into(), BATCH.into()];
                let (is_done, is_busy) =
                    CLEAR.with(|clear| clear.read(arguments, |rows| rows.first().get_two::<bool, bool>()));
                match (is_done, is_busy) {
                    (Some(true), _) => Came::Done(Vec::new()),
                    (_, Some(true)) => Came::Busy,
                    _ => Came::More,
                }
            }
            Self::Rejects => {
                REJECTS.with(|rejects| rejects.read(Vec::new, |rows| rows.first().get_one::<i64>()));
                Came::Done(Vec::new())
            }
            Self::SayElsewhere => {
                ELSEWHERE.with(|say| say.read(Vec::new, |_| Ok(())));
                Came::Done(Vec::new())
            }
            Self::Unnamed(kind) => {
                let kind = || vec![(*kind).into()];
                match UNNAMED.with(|clear| clear.read(kind, |rows| rows.first().get_one::<i64>())) {
                    Some(0) => Came::Done(Vec::new()),
                    Some(_) => Came::More,
                    None => Came::Busy,
                }
            }
        }
    }
}
