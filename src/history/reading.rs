//! The events of a table, read record by record.

use super::wanted::Wanted;
use crate::pg::{Cursor, Row, check_for_interrupts};
use audit_core::lives::{Action, Complete, Event, Image, KeyBefore, Moment, Place, Record, ended_by};
use std::ffi::CStr;

/// Rows at a time. Where the log's own rows are read, their large values are not in them.
const FETCHED: i64 = 100;
const FETCHED_WHOLE: i64 = 8;

/// What [`plain_events`] and GENERAL give, in this order.
pub(super) mod column {
    pub const KEY: usize = 0;
    pub const ID: usize = 1;
    pub const RUN: usize = 2;
    pub const LSN: usize = 3;
    pub const IDX: usize = 4;
    pub const IS_PLACED: usize = 5;
    pub const IS_PAST: usize = 6;
    pub const TRUNCATES: usize = 7;
    pub const ACTION: usize = 8;
    pub const KEY_BEFORE: usize = 9;
    pub const OLD: usize = 10;
    pub const AFTER: usize = 11;
    pub const UNKNOWN: usize = 12;
    pub const CARRIED: usize = 13;
    pub const UNKNOWN_BEFORE: usize = 14;
    pub const HAS_LEFT: usize = 15;
    pub const HERE: usize = 16;
    pub const TRUNCATES_THEN: usize = 17;
    pub const LAST_STRAY: usize = 18;
    pub const NEXT_STRAY: usize = 19;
}

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
        if next.is_some_and(|next| self.can_skip(row, action, next)) {
            return;
        }
        let place = place(row);
        let before = self.truncates.partition_point(|truncate| *truncate <= place);
        let truncates = row.integer(column::TRUNCATES).unwrap_or(0) + before as i32;
        self.end_before(Some(place));
        self.record.take(event(row, action, place, truncates), row.boolean(column::IS_PAST));
        self.last = (!matches!(action, Action::Delete | Action::Moved)).then_some((place, truncates));
    }

    /// Most events are replaced by the record's next one: their images are not read.
    fn can_skip(&self, row: &Row, action: Action, next: &Row) -> bool {
        next.boolean(column::IS_PAST)
            && next.bytes(column::KEY) == row.bytes(column::KEY)
            && self::action(next).is_some_and(|next_action| {
                self.record.can_skip(&without_images(row, action), &without_images(next, next_action))
            })
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

pub(super) fn action(row: &Row) -> Option<Action> {
    std::str::from_utf8(row.bytes(column::ACTION)?).ok().and_then(Action::named)
}

pub(super) fn place(row: &Row) -> Place {
    Place {
        run: row.integer(column::RUN).unwrap_or(0),
        lsn: row.bigint(column::LSN).unwrap_or(0),
        idx: row.integer(column::IDX).unwrap_or(0),
    }
}

pub(super) fn event<'r>(row: &'r Row, action: Action, place: Place, truncates: i32) -> Event<'r> {
    Event {
        place,
        truncates,
        after: row.jsonb(column::AFTER).map(Image::new),
        old: row.jsonb(column::OLD).map(Image::new),
        ..without_images(row, action)
    }
}

fn without_images(row: &Row, action: Action) -> Event<'static> {
    let names = |column| if row.is_empty_array(column) { Vec::new() } else { row.texts(column).unwrap_or_default() };
    Event {
        id: row.bigint(column::ID).unwrap_or(0),
        place: place(row),
        is_placed: row.boolean(column::IS_PLACED),
        truncates: 0,
        action,
        key_before: match row.letter(column::KEY_BEFORE) {
            b's' => KeyBefore::Same,
            b'o' => KeyBefore::Other,
            _ => KeyBefore::Unknown,
        },
        after: None,
        unknown: names(column::UNKNOWN),
        carried: names(column::CARRIED),
        old: None,
        unknown_before: (!row.is_null(column::UNKNOWN_BEFORE)).then(|| names(column::UNKNOWN_BEFORE)),
        has_left: row.boolean(column::HAS_LEFT),
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
