//! Months elsewhere: what comes late of them is looked up there, and stored there, by statements.

use super::entry::Entry;
use super::partitions::by_partition;
use crate::pg::BuiltinOid::{TEXTOID, TIMESTAMPTZARRAYOID, UUIDARRAYOID};
use crate::pg::{Key, LogRow, Statement, feeding, flush_wal, is_elsewhere};
use audit_core::message::{Action, Logged};
use pgrx::Uuid;
use pgrx::prelude::*;
use std::ffi::CStr;

thread_local! {
    static KNOWN: Statement = const { Statement::new(
        "SELECT place, action, commit_lsn, commit_idx, record_id, record_pks, is_erased
         FROM audit_cdc_internal.known_elsewhere($1, $2, $3)", &[TEXTOID, TIMESTAMPTZARRAYOID, UUIDARRAYOID]) };

    static STORE: Statement = const { Statement::new("SELECT audit_cdc_internal.store_elsewhere($1)", &[TEXTOID]) };
}

/// Calls `met` with the index of each of `keys` that the month holds.
pub fn look_up(name: &CStr, keys: &[(Key, Action)], met: &mut dyn FnMut(usize, Logged)) {
    let times: Vec<_> = keys.iter().map(|((time, _), _)| postgres_timestamp(*time)).collect();
    let identities: Vec<_> = keys.iter().map(|((_, identity), _)| Uuid::from_bytes(*identity)).collect();
    let arguments = || vec![text(name).into(), times.clone().into(), identities.clone().into()];
    let known = KNOWN.with(|known| {
        known.run(arguments, |rows| {
            rows.map(|row| {
                let index = row.get::<i64>(1)?.unwrap_or_default() as usize - 1;
                let action = row.get::<String>(2)?.unwrap_or_default();
                let key = match row.get::<Vec<Option<String>>>(6)? {
                    Some(key) => Some(key.into_iter().flatten().collect()),
                    None => row.get::<String>(5)?.map(|id| vec![id]),
                };
                let logged = Logged {
                    has_same_action: keys[index].1.label().to_bytes() == action.as_bytes(),
                    commit_lsn: row.get(3)?,
                    commit_idx: row.get(4)?,
                    // the key of what was erased may be a pseudonym
                    key: key.filter(|_| !matches!(row.get(7), Ok(Some(true)))),
                };
                Ok((index, logged))
            })
            .collect::<Result<Vec<_>, _>>()
        })
    });
    for (index, logged) in known {
        met(index, logged);
    }
}

/// Gives how many were stored. Numbers that stand there must not be given again after a crash of this server.
pub fn insert(name: &CStr, rows: &[LogRow]) -> u64 {
    if rows.is_empty() {
        return 0;
    }
    flush_wal();
    let stored = || STORE.with(|store| store.run(|| vec![text(name).into()], |rows| rows.first().get_one::<i64>()));
    feeding(rows.iter(), stored).unwrap_or_default() as u64
}

/// Those whose month is elsewhere, by month, and the others. All are in the order of their times.
pub fn divided<'e, 'c, 'a>(entries: &'e [Entry<'c, 'a>]) -> (Vec<&'e [Entry<'c, 'a>]>, Vec<&'e [Entry<'c, 'a>]>) {
    let parts = by_partition(entries).into_iter();
    let (there, here): (Vec<_>, Vec<_>) = parts.partition(|(name, _)| is_elsewhere(name));
    let entries = |parts: Vec<(_, &'e [Entry<'c, 'a>])>| parts.into_iter().map(|(_, entries)| entries).collect();
    (entries(there), entries(here))
}

fn text(name: &CStr) -> &str {
    name.to_str().unwrap_or_default()
}

fn postgres_timestamp(microseconds: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(microseconds).unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity())
}
