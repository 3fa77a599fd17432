//! How much that outlives a call it may make anew: months and tables.

use super::month::Month;
use crate::settings;
use audit_core::Reject;
use audit_core::SqlState;
use std::cell::Cell;

/// What one call may still make.
pub struct Limits {
    new_months: Cell<usize>,
    months: usize,
    new_tables: Cell<usize>,
}

impl Limits {
    pub fn of_a_call() -> Self {
        Self {
            new_months: Cell::new(settings::max_new_months()),
            months: settings::max_months(),
            new_tables: Cell::new(settings::max_new_tables()),
        }
    }

    /// May one more table be named? Then it counts.
    pub fn takes_table(&self) -> bool {
        let left = self.new_tables.get();
        self.new_tables.set(left.saturating_sub(1));
        left > 0
    }

    /// Which of the months that are missing may be made: those beside the present one in any case, of the others the
    /// nearest first.
    pub fn take_months(&self, missing: &[Month], present: Month, in_log: usize) -> Vec<Month> {
        let (mut made, mut others): (Vec<_>, Vec<_>) =
            missing.iter().copied().partition(|month| month.distance(present) <= 1);
        others.sort_by_key(|month| month.distance(present));
        let room = self.months.saturating_sub(in_log + made.len()).min(self.new_months.get());
        others.truncate(room);
        self.new_months.set(self.new_months.get() - others.len());
        made.append(&mut others);
        made
    }
}

pub fn too_many_months() -> Reject {
    Reject::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "the log lacks the month of this commit, and may get no more of them")
        .hint("Raise audit_cdc.max_new_months or audit_cdc.max_months; audit_retry_rejects() takes it then.")
}

pub fn too_many_tables() -> Reject {
    Reject::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "the call names too many tables that the log does not know")
        .hint("Raise audit_cdc.max_new_tables; audit_retry_rejects() takes it then.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(new_months: usize, months: usize) -> Limits {
        Limits { new_months: Cell::new(new_months), months, new_tables: Cell::new(2) }
    }

    fn months(names: &[&str]) -> Vec<Month> {
        let time = |name: &str| format!("{name}-01T00:00:00Z").parse::<jiff::Timestamp>().expect(name);
        names.iter().map(|name| Month::of(time(name).as_microsecond())).collect()
    }

    fn present() -> Month {
        months(&["2026-01"])[0]
    }

    #[test]
    fn the_nearest_months_are_made_first() {
        let missing = months(&["1970-01", "2025-10", "2026-05", "2199-12"]);
        let made = limits(2, 240).take_months(&missing, present(), 5);
        assert_eq!(made, months(&["2025-10", "2026-05"]));
    }

    #[test]
    fn months_beside_the_present_are_always_made_and_do_not_count() {
        let missing = months(&["2025-11", "2025-12", "2026-01", "2026-02", "2026-03"]);
        assert_eq!(limits(0, 0).take_months(&missing, present(), 300), months(&["2025-12", "2026-01", "2026-02"]));
        assert_eq!(limits(2, 240).take_months(&missing, present(), 5).len(), 5);
    }

    #[test]
    fn the_log_has_a_most_of_months() {
        let missing = months(&["2020-01", "2021-01", "2022-01"]);
        assert_eq!(limits(12, 240).take_months(&missing, present(), 238), months(&["2022-01", "2021-01"]));
        assert_eq!(limits(12, 240).take_months(&missing, present(), 240), []);
    }

    #[test]
    fn what_a_call_has_made_counts_on() {
        let limits = limits(3, 240);
        assert_eq!(limits.take_months(&months(&["2020-01", "2020-02"]), present(), 5).len(), 2);
        assert_eq!(limits.take_months(&months(&["2020-03", "2020-04"]), present(), 7), months(&["2020-04"]));
        assert_eq!([limits.takes_table(), limits.takes_table(), limits.takes_table()], [true, true, false]);
    }
}
