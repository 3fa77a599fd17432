//! Which table is asked for, or which record of it, as of when; and how it is best read.

use super::record_at::{Asked, Moment};
use crate::pg::{BuiltinOid, Call, Cursor, PassedRow, Row, passed_jsonb};
use audit_core::lives::{Image, Record, State};
use pgrx::datum::DatumWithOid;
use std::cell::OnceCell;
use std::ffi::CStr;

use BuiltinOid::{INT8OID, PG_LSNOID, TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID};

const CAN_BE_ANSWERED: &CStr = c"SELECT audit_cdc_internal.can_be_answered($1, $2, $3)";
const NOTHING_TO_ANSWER: &CStr = c"SELECT audit_cdc_internal.can_be_answered(NULL, $1, $2)";

const READING: &CStr = c"
    SELECT r.key_columns, r.is_plain, r.may_move, r.is_own, r.is_latest, r.last_lsn, r.numbers, r.positions_before,
           r.record_ids, r.spelled
    FROM audit_cdc_internal.reading_as_of($1, $2, $3, $4, $5) AS r";

const GAPS: &CStr = c"SELECT g.up_to, g.is_before FROM audit_cdc_internal.gaps_as_of($1, $2, $3) AS g";

const KEY_IN: &CStr = c"SELECT audit_cdc_internal.key_in($1, $2)";

/// What a function of as-of was asked for.
pub struct Wanted {
    call: Call,
    table: PassedRow,
    /// Where its arguments at, lsn and key begin.
    at: usize,
    key_columns: Vec<String>,
    plain: Option<Plain>,
    /// One record that was read by itself; None in it: the log has no entry of it.
    told: Option<Option<Record>>,
    /// Positions up to which gaps go, and whether the moment is before them.
    gaps: OnceCell<Vec<(Option<i64>, bool)>>,
}

/// How a log is read in which each entry says by itself where it stands and what it tells.
pub struct Plain {
    table: PassedRow,
    pub may_move: bool,
    is_own: bool,
    is_latest: bool,
    last_lsn: Option<i64>,
    numbers: Vec<i32>,
    positions_before: Vec<i64>,
    record_ids: Option<Vec<String>>,
    spelled: Option<String>,
}

impl Wanted {
    /// Of a function whose first argument is the table. What makes the answer doubtful is said here. None: the log has
    /// no change of the table.
    pub fn of(call: Call, at: usize) -> Option<Self> {
        let (time, lsn) = (call.passed(at, TIMESTAMPTZOID), call.passed(at + 1, PG_LSNOID));
        let Some(table) = call.row(0) else {
            Cursor::reading(NOTHING_TO_ANSWER, &[time, lsn]).fetch_rows(1, |_, _| ());
            return None;
        };
        let moment = Moment::of(Asked { call, table, at });
        let mut is_answered = moment.as_ref().is_some_and(|moment| !moment.may_doubt);
        if !is_answered {
            Cursor::reading(CAN_BE_ANSWERED, &[table.passed(), time, lsn])
                .fetch_rows(1, |row, _| is_answered = row.boolean(0));
        }
        is_answered.then(|| Self::reading(Asked { call, table, at }, moment, true))
    }

    /// The same, which says nothing of it.
    pub fn without_doubts(call: Call, at: usize) -> Option<Self> {
        let asked = Asked { call, table: call.row(0)?, at };
        Some(Self::reading(asked, Moment::of(asked), false))
    }

    fn reading(asked: Asked, moment: Option<Moment>, says_unsettled: bool) -> Self {
        let Asked { call, table, at } = asked;
        let (key_columns, gaps) = (Vec::new(), OnceCell::new());
        let mut wanted = Self { call, table, at, key_columns, plain: None, told: None, gaps };
        if let Some(found) = moment.and_then(|moment| moment.record(asked, says_unsettled)) {
            (wanted.key_columns, wanted.told) = (found.key_columns, Some(found.record));
            return wanted;
        }
        let [of, time, lsn, key] = wanted.arguments();
        Cursor::reading(READING, &[of, time, lsn, key, says_unsettled.into()]).fetch_rows(1, |row, _| {
            wanted.key_columns = row.texts(0).unwrap_or_default();
            wanted.plain = row.boolean(1).then(|| Plain::read(table, row));
        });
        wanted
    }

    pub fn arguments(&self) -> [DatumWithOid<'static>; 4] {
        let Self { call, at, .. } = *self;
        let [time, lsn, key] = [TIMESTAMPTZOID, PG_LSNOID, TEXTOID];
        [self.table.passed(), call.passed(at, time), call.passed(at + 1, lsn), call.passed(at + 2, key)]
    }

    pub fn is_of_one_key(&self) -> bool {
        self.call.argument(self.at + 2).is_some()
    }

    pub fn key(&self) -> Option<String> {
        self.call.text(self.at + 2)
    }

    /// The record, if it was read by itself.
    pub fn told(&self) -> Option<Option<&Record>> {
        self.told.as_ref().map(Option::as_ref)
    }

    pub fn plain(&self) -> Option<&Plain> {
        self.plain.as_ref()
    }

    /// Was another column the key when the record was last changed? The key that the log has is in the row then, but
    /// not where the key is now.
    pub fn has_former_key(&self, key: &[u8], state: &State) -> bool {
        let Some(first) = self.key_columns.first() else { return false };
        state.known.text(first).is_some_and(|text| text != key)
            && self.key_columns.iter().all(|column| state.known.has(column))
            && state.known.holds_text(key)
            && self.key_in(&state.known).is_some_and(|text| text != key)
    }

    fn key_in(&self, row: &Image) -> Option<Vec<u8>> {
        let arguments = [passed_jsonb(row.bytes()), self.table.passed()];
        let mut key = None;
        Cursor::reading(KEY_IN, &arguments).fetch_rows(1, |row, _| key = row.bytes(0).map(<[u8]>::to_vec));
        key
    }

    /// Is the moment before the first gap in which a record may have ended whose last event is known?
    pub fn is_before_gap(&self, state: &State) -> bool {
        let ends_after = |(up_to, _): &&(Option<i64>, bool)| up_to.is_none_or(|up_to| up_to > state.place.lsn);
        self.gaps().iter().find(ends_after).is_some_and(|(_, is_before)| *is_before)
    }

    fn gaps(&self) -> &[(Option<i64>, bool)] {
        self.gaps.get_or_init(|| {
            let [table, time, lsn, _] = self.arguments();
            let mut gaps = Vec::new();
            Cursor::reading(GAPS, &[table, time, lsn])
                .fetch_rows(i64::from(i32::MAX), |row, _| gaps.push((row.bigint(0), row.boolean(1))));
            gaps
        })
    }
}

impl Plain {
    fn read(table: PassedRow, row: &Row) -> Self {
        Self {
            table,
            may_move: row.boolean(2),
            is_own: row.boolean(3),
            is_latest: row.boolean(4),
            last_lsn: row.bigint(5),
            numbers: row.integers(6).unwrap_or_default(),
            positions_before: row.bigints(7).unwrap_or_default(),
            record_ids: row.texts(8),
            spelled: row.text(9),
        }
    }

    /// Of the queries of a plain log, which need not use all of them.
    pub fn arguments(&self) -> [DatumWithOid<'static>; 8] {
        let texts = |texts: Option<Vec<String>>| {
            texts.map_or_else(|| DatumWithOid::null_oid(TEXTARRAYOID.value()), DatumWithOid::from)
        };
        [
            self.numbers.clone().into(),
            self.positions_before.clone().into(),
            texts(self.record_ids.clone()),
            self.is_own.into(),
            self.is_latest.into(),
            self.last_lsn.map_or_else(|| DatumWithOid::null_oid(INT8OID.value()), DatumWithOid::from),
            self.spelled.clone().map_or_else(|| DatumWithOid::null_oid(TEXTOID.value()), DatumWithOid::from),
            self.table.passed(),
        ]
    }
}
