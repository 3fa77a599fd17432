//! A change on its way into the log.

use super::names::AuditedTable;
use audit_core::message::{Change, Identity, Origin};
use pgrx::prelude::*;
use std::borrow::Cow;

/// PostgreSQL counts time from 2000-01-01 (PostgreSQL source, `timestamp.h`).
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

#[derive(Clone, Copy)]
pub struct Entry<'c, 'a> {
    pub change: &'c Change<'a>,
    pub identity: Identity,
    pub origin: Origin,
    pub table: &'c AuditedTable,
}

impl Entry<'_, '_> {
    /// The unique key of the log, and the order in which every session writes.
    pub fn key(&self) -> (i64, Identity) {
        (self.change.commit_microseconds, self.identity)
    }

    /// The commit time, since 2000-01-01 00:00 UTC.
    pub fn postgres_time(&self) -> i64 {
        self.change.commit_microseconds - EPOCH_MICROSECONDS
    }
}

pub fn timestamp(unix_microseconds: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(unix_microseconds - EPOCH_MICROSECONDS)
        .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity())
}

pub fn record_id<'e>(entry: &'e Entry) -> Option<&'e str> {
    entry.change.key.as_ref()?.record_id()
}

pub fn record_pks<'e>(entry: &'e Entry) -> Option<&'e [Cow<'e, str>]> {
    entry.change.key.as_ref()?.whole()
}
