//! The events of a table, read record by record.

use super::event_rows::{action, can_skip, column, event, place};
use super::wanted::Wanted;
use crate::pg::{Cursor, Row, check_for_interrupts};
use audit_core::lives::{Action, Complete, Moment, Place, Record, ended_by};
use std::ffi::CStr;

/// Rows at a time. Where the log's own rows are read, their large values are not in them.
const FETCHED: i64 = 100;
const FETCHED_WHOLE: i64 = 8;

/// The log's own order is that of the events. $5: is the moment the latest? $6: its position.
const PLAIN: &CStr = c"
    SELECT l.record_id, l.id, 1, l.lsn, l.idx, true, $5 OR coalesce(l.lsn <= $6, false), 0, l.action::text,
           's'::\"char\", l.old_values, l.after, l.unknown_columns, l.carried, l.unknown_old_columns, l.has_left
    FROM audit_cdc_internal.log_of($1, $2, $3, $4) AS l
    WHERE l.record_id IS NOT NULL AND ($7::text IS NULL OR l.record_id = $7)
    ORDER BY l.record_id COLLATE \"C\", l.lsn, l.idx, l.commit_timestamp, l.id";

/// The same where updates may have given rows another key. $8: the table.
const PLAIN_THAT_MOVE: &CStr = c"
    SELECT e.key, l.id, 1, l.lsn, l.idx, true, $5 OR coalesce(l.lsn <= $6, false), 0, e.action,
           CASE WHEN k.key_before <> l.record_id THEN 'o' ELSE 's' END::\"char\",
           l.old_values, l.after, l.unknown_columns, l.carried, l.unknown_old_columns, l.has_left
    FROM audit_cdc_internal.log_of($1, $2, $3, $4) AS l
    CROSS JOIN LATERAL (
      SELECT CASE WHEN l.may_change_key
                  THEN audit_cdc_internal.key_before(l.old_values, l.new_values, l.record_pks, l.record_id, $8)
                  ELSE l.record_id END AS key_before OFFSET 0) AS k
    CROSS JOIN LATERAL (
      SELECT l.record_id AS key, l.action::text AS action
      UNION ALL
      SELECT k.key_before, 'moved' WHERE k.key_before <> l.record_id) AS e
    WHERE l.record_id IS NOT NULL AND ($7::text IS NULL OR e.key = $7)
    ORDER BY e.key COLLATE \"C\", l.lsn, l.idx, l.commit_timestamp, l.id, e.action = 'moved' DESC";

const GENERAL: &CStr = c"
    SELECT (g.event).record_key, (g.event).id, (g.event).run, (g.event).lsn, (g.event).idx, (g.event).is_placed,
           g.is_past, (g.event).truncates, (g.event).action,
           CASE WHEN (g.event).other_key <> (g.event).record_key THEN 'o'
                WHEN (g.event).other_key = (g.event).record_key THEN 's' ELSE 'u' END::\"char\",
           CASE (g.event).action WHEN 'complete' THEN (g.event).before ELSE (g.event).changed END, (g.event).after,
           (g.event).unknown, CASE WHEN g.is_stray THEN '{}' ELSE (g.event).carried END, (g.event).unknown_before,
           (g.event).has_left, g.here, g.truncates, g.last_stray, g.next_stray
    FROM audit_cdc_internal.general_events($1, $2, $3, $4) AS g";

/// What happened to all records of a plain log at once.
const MARKS: &CStr = c"
    SELECT l.id, l.lsn, l.idx, l.action = 'truncate', $5 OR coalesce(l.lsn <= $6, false),
           CASE WHEN jsonb_typeof(l.annotations -> 'metadata' -> 'began_lsn') = 'number'
                THEN least(greatest((l.annotations -> 'metadata' -> 'began_lsn')::numeric + l.lsn - l.commit_lsn, 0),
                           l.lsn)::bigint END
    FROM audit_cdc_internal.log_of($1, $2, '{}', $4) AS l
    WHERE l.record_id IS NULL AND l.action IN ('truncate', 'complete')
    ORDER BY l.lsn, l.idx, l.commit_timestamp, l.id";

/// Gives each record of the table to `visit`, with its key. Are there events without key?
pub fn read_records(wanted: &Wanted, visit: &mut dyn FnMut(&[u8], &Record, &Moment)) -> bool {
    if let Some(told) = wanted.told() {
        if let (Some(key), Some(record)) = (wanted.key(), told) {
            visit(key.as_bytes(), record, &Moment { run: 1, ..Moment::default() });
        }
        return false;
    }
    let mut reader = Reader::new(visit);
    let plain = wanted.plain();
    let (mut cursor, count) = match plain {
        None => (Cursor::reading(GENERAL, &wanted.arguments()), FETCHED_WHOLE),
        Some(plain) => {
            read_marks(&mut Cursor::reading(MARKS, &plain.arguments()), &mut reader);
            let query = if plain.may_move { PLAIN_THAT_MOVE } else { PLAIN };
            (Cursor::reading(query, &plain.arguments()), FETCHED)
        }
    };
    while cursor.fetch_rows(count, |row, next| reader.take(row, next)) {
        check_for_interrupts();
    }
    reader.finish();
    reader.has_keyless
}

fn read_marks(cursor: &mut Cursor, reader: &mut Reader) {
    let mut truncates = 0;
    reader.moment.run = 1;
    cursor.fetch_rows(i64::from(i32::MAX), |row, _| {
        let place = Place { run: 1, lsn: row.bigint(1).unwrap_or(0), idx: row.integer(2).unwrap_or(0) };
        let is_past = row.boolean(4);
        if row.boolean(3) {
            truncates += 1;
            reader.truncates.push(place);
            if is_past {
                reader.moment.truncates = truncates;
            }
        } else {
            let began = row.bigint(5).map(|lsn| (1, lsn));
            let id = row.bigint(0).unwrap_or(0);
            reader.completes.push(Complete { id, place, began, truncates, is_past });
        }
    });
}

/// Puts the events of one record after the other together.
struct Reader<'v> {
    visit: &'v mut dyn FnMut(&[u8], &Record, &Moment),
    moment: Moment,
    truncates: Vec<Place>,
    completes: Vec<Complete>,
    key: Option<Vec<u8>>,
    record: Record,
    /// Of the last event, unless the row went by it.
    last: Option<(Place, i32)>,
    has_keyless: bool,
}

impl<'v> Reader<'v> {
    fn new(visit: &'v mut dyn FnMut(&[u8], &Record, &Moment)) -> Self {
        Self {
            visit,
            moment: Moment::default(),
            truncates: Vec::new(),
            completes: Vec::new(),
            key: None,
            record: Record::default(),
            last: None,
            has_keyless: false,
        }
    }

    fn take(&mut self, row: &Row, next: Option<&Row>) {
        if !row.is_null(column::HERE) {
            self.moment = moment(row);
        }
        let Some(action) = action(row) else { return };
        let Some(key) = row.bytes(column::KEY) else {
            self.has_keyless |= !matches!(action, Action::Truncate | Action::Complete);
            return;
        };
        if self.key.as_deref() != Some(key) {
            self.finish();
            self.key = Some(key.to_vec());
        }
        if next.is_some_and(|next| can_skip(&self.record, row, action, next)) {
            return;
        }
        let place = place(row);
        let before = self.truncates.partition_point(|truncate| *truncate <= place);
        let truncates = row.integer(column::TRUNCATES).unwrap_or(0) + before as i32;
        self.end_before(Some(place));
        self.record.take(event(row, action, place, truncates), row.boolean(column::IS_PAST));
        self.last = (!matches!(action, Action::Delete | Action::Moved)).then_some((place, truncates));
    }

    /// A backfill that met all there was, but not this record, may have ended it since its last event.
    fn end_before(&mut self, next: Option<Place>) {
        let Some((last, truncates)) = self.last else { return };
        if let Some(complete) = ended_by(&self.completes, last, truncates, next) {
            self.record.take(complete.event(), complete.is_past);
        }
    }

    /// The record has no more events.
    fn finish(&mut self) {
        self.end_before(None);
        if let Some(key) = self.key.take() {
            (self.visit)(&key, &self.record, &self.moment);
        }
        self.record = Record::default();
        self.last = None;
    }
}

fn moment(row: &Row) -> Moment {
    let stray = |column| match row.bigints(column).as_deref() {
        Some([run, lsn, idx]) => Some(Place { run: *run as i32, lsn: *lsn, idx: *idx as i32 }),
        _ => None,
    };
    Moment {
        run: row.integer(column::HERE).unwrap_or(0),
        truncates: row.integer(column::TRUNCATES_THEN).unwrap_or(0),
        last_stray: stray(column::LAST_STRAY),
        next_stray: stray(column::NEXT_STRAY),
    }
}
