//! The log's partitions, one a month: made when they are needed, and ahead.

use super::entry::{Entry, timestamp};
use super::limits::Limits;
use super::month::{Month, months};
use crate::pg::BuiltinOid::TIMESTAMPTZARRAYOID;
use crate::pg::{self, Statement, is_partition, try_lock_partitions};
use pgrx::prelude::*;

thread_local! {
    static COUNT_MONTHS: Statement = const { Statement::new(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_cdc_internal.log'::regclass", &[]) };

    static PARTITIONS: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.ensure_partitions($1)", &[TIMESTAMPTZARRAYOID]) };
}

/// Who has it makes partitions of the log. Until the transaction ends.
#[pg_extern(sql = r#"CREATE FUNCTION audit_cdc_internal.lock_partitions() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"#, requires = ["install"])]
fn lock_partitions() {
    pg::lock_partitions();
}

/// Returns the months of `entries` that stay without a partition, since the limits are reached.
pub fn ensure_partitions(entries: &[Entry], limits: Option<&Limits>) -> Vec<Month> {
    let present = Month::present();
    let named = || months(entries, |entry| entry.change.commit_microseconds);
    if named().any(|(month, _)| month == present) {
        make_months_ahead();
    }
    let mut missing: Vec<_> = named()
        .filter(|(month, _)| !is_partition(&month.partition()))
        .map(|(month, entries)| (month, timestamp(entries[0].change.commit_microseconds)))
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let mut refused = Vec::new();
    if let Some(limits) = limits {
        let names: Vec<_> = missing.iter().map(|(month, _)| *month).collect();
        let in_log = COUNT_MONTHS.with(|count| count.read(Vec::new, |rows| rows.first().get_one::<i64>()));
        let made = limits.take_months(&names, present, in_log.unwrap_or_default() as usize);
        refused = names.into_iter().filter(|month| !made.contains(month)).collect();
        missing.retain(|(month, _)| made.contains(month));
    }
    if !missing.is_empty() {
        let times: Vec<_> = missing.into_iter().map(|(_, time)| time).collect();
        PARTITIONS.with(|partitions| partitions.run(|| vec![times.into()], |_| Ok(())));
        crate::pg::notice_new_tables();
    }
    refused
}

/// Makes the present month and the next, unless somebody is just making others. So who needs them later waits for
/// nobody.
pub fn make_months_ahead() {
    let present = Month::present();
    let missing = [present, present.next()].into_iter().filter(|month| !is_partition(&month.partition()));
    let starts: Vec<_> = missing.map(|month| timestamp(month.start())).collect();
    if !starts.is_empty() && try_lock_partitions() {
        PARTITIONS.with(|partitions| partitions.run(|| vec![starts.into()], |_| Ok(())));
        crate::pg::notice_new_tables();
    }
}
