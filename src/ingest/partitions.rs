//! The log's partitions, one a month or, where it is divided, one a day: made when they are needed, and ahead.

use super::entry::{Entry, timestamp};
use super::limits::Limits;
use super::month::{Day, Month, days, months};
use crate::pg::BuiltinOid::TIMESTAMPTZARRAYOID;
use crate::pg::{self, Statement, has_distributed_tables, is_partition, try_lock_partitions};
use jiff::Timestamp;
use pgrx::prelude::*;
use std::ffi::CString;

thread_local! {
    static COUNT_MONTHS: Statement = const { Statement::new(
        "SELECT count(DISTINCT left(c.relname, length('log_2000_01')))
         FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'audit_cdc_internal.log'::regclass", &[]) };

    static IS_DISTRIBUTED: Statement = const { Statement::new(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition AS d
                        WHERE d.logicalrelid = 'audit_cdc_internal.log'::regclass
                          AND (d.partmethod <> 'n' OR d.repmodel = 't'))", &[]) };

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
    refuse_distributed();
    let present = Month::present();
    let named = || months(entries, |entry| entry.change.commit_microseconds);
    if named().any(|(month, _)| month == present) {
        make_months_ahead();
    }
    let mut missing: Vec<_> =
        named().filter(|(month, _)| !is_partition(&month.partition())).flat_map(missing_days).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let mut refused = Vec::new();
    if let Some(limits) = limits {
        let mut names: Vec<_> = missing.iter().map(|(month, _)| *month).collect();
        names.dedup();
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

/// What is stored in the shell of a distributed table, nobody reads.
fn refuse_distributed() {
    let asked = || IS_DISTRIBUTED.with(|asked| asked.read(Vec::new, |rows| rows.first().get_one::<bool>()));
    if has_distributed_tables() && asked() == Some(true) {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "the audit log must not be a distributed table",
            "Nothing was stored. Give each source an audit database of its own."
        );
    }
}

/// Of entries of a month that has no partition of its own: a time of each day that has none either.
fn missing_days((month, entries): (Month, &[Entry])) -> Vec<(Month, TimestampWithTimeZone)> {
    let named = days(entries, |entry| entry.change.commit_microseconds);
    let missing = named.filter(|(day, _)| !is_partition(&day.partition()));
    missing.map(|(_, entries)| (month, timestamp(entries[0].change.commit_microseconds))).collect()
}

fn has_partition(time: i64) -> bool {
    is_partition(&Month::of(time).partition()) || is_partition(&Day::of(time).partition())
}

/// What lies in the same partition, of entries in the order of their times. Each has one.
pub fn by_partition<'e, 'c, 'a>(entries: &'e [Entry<'c, 'a>]) -> Vec<(CString, &'e [Entry<'c, 'a>])> {
    let time = |entry: &Entry| entry.change.commit_microseconds;
    let mut parts = Vec::new();
    for (month, entries) in months(entries, time) {
        let name = month.partition();
        if is_partition(&name) {
            parts.push((name, entries));
        } else {
            parts.extend(days(entries, time).map(|(day, entries)| (day.partition(), entries)));
        }
    }
    parts
}

/// Makes the present month and the next, unless somebody is just making others. So who needs them later waits for
/// nobody.
pub fn make_months_ahead() {
    let present = Month::present();
    let times = [Timestamp::now().as_microsecond(), present.next().start()];
    let starts: Vec<_> = times.into_iter().filter(|time| !has_partition(*time)).map(timestamp).collect();
    if !starts.is_empty() && try_lock_partitions() {
        PARTITIONS.with(|partitions| partitions.run(|| vec![starts.into()], |_| Ok(())));
        crate::pg::notice_new_tables();
    }
}
