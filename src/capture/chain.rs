//! A chain of passes: each begins where the log says that the one before has ended. Where the slot begins later,
//! somebody else has taken what was in between, and that is said.

use super::slot::{Read, Slot};
use crate::pg::{self, BuiltinOid, ErrorReport, Statement};
use pgrx::prelude::*;

use BuiltinOid::{INT8OID, TEXTOID, TIMESTAMPTZOID};

thread_local! {
    static LINK: Statement = const { Statement::new(
        "SELECT (c.read_to - '0/0')::bigint, (s.confirmed_flush_lsn - '0/0')::bigint,
         (pg_current_wal_flush_lsn() - s.restart_lsn)::bigint,
                EXISTS (SELECT FROM audit_cdc_internal.open_breaks), c.read_to_time, f.message, f.detail,
                EXISTS (SELECT FROM audit_cdc_internal.unsettled_gaps)
         FROM audit_cdc_internal.captures AS c
         LEFT JOIN audit_cdc_internal.capture_faults AS f ON true
         LEFT JOIN pg_replication_slots AS s ON s.slot_name = c.slot AND f.reason IS NULL
         WHERE c.slot = $1::name", &[TEXTOID]) };

    static CONFIRMED: Statement = const { Statement::new(
        "SELECT (max(confirmed_flush_lsn) - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1::name",
        &[TEXTOID]) };

    static SKIPPED: Statement = const { Statement::new(
        "SELECT audit_cdc_internal.note_skipped($1, $2, $3)", &[INT8OID, INT8OID, TIMESTAMPTZOID]) };
}

/// What is known before a pass.
pub struct Link {
    /// What committed before this position is stored, and the log says so.
    pub read_to: u64,
    /// The same, as far as a worker knows that found nothing to store.
    looked_to: u64,
    /// From here on the slot sends.
    pub confirmed: u64,
    /// So far the server has to read to find that position.
    pub distance: u64,
    is_broken: bool,
    /// DDL has ended gaps, and where they end is not known yet.
    pub is_unsettled: bool,
    read_to_time: Option<TimestampWithTimeZone>,
}

impl Link {
    /// An error: the capture cannot go on.
    pub fn before(slot: &Slot) -> Result<Self, ErrorReport> {
        let looked_to = pg::desk().and_then(|desk| desk.seen().looked_to).unwrap_or(0);
        let row = LINK.with(|link| {
            link.read(
                || vec![slot.slot.as_str().into()],
                |mut rows| {
                    let row = rows.next().map(|row| {
                        let position = |column| row.get::<i64>(column).map(|value| value.unwrap_or(0) as u64);
                        let read_to = position(1)?;
                        let link = Self {
                            read_to,
                            looked_to: looked_to.max(read_to),
                            confirmed: position(2)?,
                            distance: position(3)?,
                            is_broken: row.get(4)? == Some(true),
                            is_unsettled: row.get(8)? == Some(true),
                            read_to_time: row.get(5)?,
                        };
                        Ok((link, row.get::<String>(6)?, row.get::<String>(7)?))
                    });
                    row.transpose()
                },
            )
        });
        match row {
            Some((link, None, _)) => Ok(link),
            Some((_, Some(message), detail)) => Err(broken(message).set_detail(detail.unwrap_or_default())),
            None => Err(broken("the capture was started anew meanwhile".to_owned())),
        }
    }

    /// Notes what others have taken, after the slot was read, and gives the position up to which they did.
    pub fn note_skipped(&self, slot: &Slot, read: &Read) -> Option<u64> {
        let arguments = || vec![slot.slot.as_str().into()];
        let confirmed = CONFIRMED.with(|confirmed| confirmed.read(arguments, |rows| rows.first().get_one::<i64>()));
        let after = confirmed.map_or(self.confirmed, |position| position as u64);
        let to = skipped_to(self.looked_to, self.confirmed, after, read.first_lsn);
        if to.is_some() || self.is_broken {
            self.note(to.unwrap_or(self.looked_to)); // where nothing is missing, what was said to be open ends
        }
        to
    }

    fn note(&self, to: u64) {
        let arguments = || vec![(self.looked_to as i64).into(), (to as i64).into(), self.read_to_time.into()];
        SKIPPED.with(|skipped| skipped.run(arguments, |_| Ok(())));
    }
}

fn broken(message: String) -> ErrorReport {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, "before").set_hint(
        "audit_capture_start() goes on with a new slot, audit_backfill() then tells what the rows are now. What \
         is missing is in audit_gaps.",
    )
}

/// The position up to which changes are missing that committed after `read_to`. `None`: nothing is missing. The slot
/// has sent from where it stood when it was read. That lies between the two looks at it, and not after the first
/// transaction that it sent.
fn skipped_to(read_to: u64, before: u64, after: u64, first_lsn: Option<u64>) -> Option<u64> {
    let sent_from = first_lsn.map_or(after, |first| after.min(first)).max(before);
    (sent_from > read_to).then_some(sent_from)
}

#[cfg(test)]
mod tests {
    use super::skipped_to;

    #[test]
    fn nothing_is_missing_where_the_slot_is_behind() {
        assert_eq!(skipped_to(100, 100, 100, None), None);
        assert_eq!(skipped_to(100, 90, 90, Some(95)), None); // delivered again
        assert_eq!(skipped_to(100, 100, 100, Some(120)), None);
    }

    #[test]
    fn what_others_have_taken_is_missing() {
        assert_eq!(skipped_to(100, 150, 150, None), Some(150));
        assert_eq!(skipped_to(100, 150, 150, Some(180)), Some(150));
    }

    #[test]
    fn who_takes_while_it_is_read_may_have_come_too_late() {
        assert_eq!(skipped_to(100, 100, 150, Some(100)), None); // it was sent, and taken afterwards
        assert_eq!(skipped_to(100, 100, 150, Some(120)), Some(120));
        assert_eq!(skipped_to(100, 100, 150, Some(170)), Some(150));
        assert_eq!(skipped_to(100, 100, 150, None), Some(150));
    }
}
