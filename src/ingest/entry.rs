//! A change on its way into the log.

use super::names::AuditedTable;
use audit_core::message::{Change, Digest, EPOCH_MICROSECONDS, Origin};
use pgrx::prelude::*;
use std::borrow::Cow;

#[derive(Clone, Copy)]
pub struct Entry<'c, 'a> {
    pub change: &'c Change<'a>,
    pub identity: Digest,
    /// A read's while it had masks, or had none: the log may have it under that.
    pub other_identity: Option<Digest>,
    pub origin: Origin,
    pub table: &'c AuditedTable,
}

impl Entry<'_, '_> {
    /// The unique key of the log, and the order in which every session writes.
    pub fn key(&self) -> (i64, Digest) {
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
