//! A record of a captured table as of a time, read by itself. Each of its entries says where it stands and what it
//! tells. What `audit_cdc_internal.reading_as_of` finds out of many statements, two know here.

use super::event_rows::{action, can_skip, column, event, place};
use super::told_tables::undisturbed;
use crate::here::database_id;
use crate::pg::{BuiltinOid, Call, Cursor, PassedRow, Row};
use audit_core::lives::{Action, Record};
use pgrx::datum::{DatumWithOid, IntoDatum, TimestampWithTimeZone};
use std::ffi::{CStr, CString};
use std::sync::LazyLock;

use BuiltinOid::{TEXTOID, TIMESTAMPTZOID};

/// The key's columns, and the last commit up to the moment $2, of the table $1. Are there signs of doubt? No row: the
/// record $3 cannot be read by itself. $4: this database.
static MOMENT: LazyLock<CString> = LazyLock::new(|| {
    let text = format!(
        "
    SELECT ($1).key_columns, m.lsn, m.id, m.commit_timestamp, $2 IS NULL,
           $2 IS NULL OR $2 <= greatest(c.last_commit, c.read_to_time)
             OR EXISTS (SELECT FROM audit_cdc_internal.log AS l
                        WHERE l.commit_timestamp > $2 AND l.audited_table = ANY (d.numbers)
                          AND l.origin <> 'i' AND l.commit_lsn IS NOT NULL),
           d.numbers, ($1).positions_before[1],
           CASE WHEN date_trunc('day', m.commit_timestamp, 'UTC')
                     = date_trunc('day', m.commit_timestamp - audit_cdc_internal.overtaking(), 'UTC')
                THEN m.partition::text ELSE 'audit_cdc_internal.log' END,
           EXISTS (SELECT FROM audit_cdc_internal.signs_of_doubt(
             ARRAY[format('%I.%I', ($1).table_schema, ($1).table_name)], $4))
    FROM audit_cdc_internal.captures AS c
    CROSS JOIN LATERAL (
      SELECT ARRAY(SELECT t.id FROM audit_cdc_internal.audited_tables AS t WHERE t.database_id = ($1).database_id)
    ) AS d(numbers)
    LEFT JOIN LATERAL (
      SELECT l.commit_lsn + ($1).positions_before[1] AS lsn, l.id, l.commit_timestamp, l.tableoid::regclass AS partition
      FROM audit_cdc_internal.log AS l
      WHERE l.commit_timestamp <= coalesce($2::timestamptz, 'infinity')
        AND l.audited_table = ANY (d.numbers)
        AND l.origin <> 'i' AND l.commit_lsn IS NOT NULL
      ORDER BY l.commit_timestamp DESC LIMIT 1) AS m ON true
    WHERE ($1).is_own AND c.database_id = ($1).database_id
      AND NOT (cardinality(($1).key_columns) > 1 AND $3 LIKE '[%')
      AND NOT EXISTS (SELECT FROM audit_cdc_internal.record_keys AS k WHERE k.audited_table = ANY (($1).numbers))
      AND {}",
        undisturbed("$1")
    );
    CString::new(text).unwrap_or_default()
});

mod moment {
    pub const KEY_COLUMNS: usize = 0;
    pub const LSN: usize = 1;
    pub const ID: usize = 2;
    pub const TIME: usize = 3;
    pub const IS_LATEST: usize = 4;
    pub const IS_SETTLED: usize = 5;
    pub const NUMBERS: usize = 6;
    pub const POSITION_BEFORE: usize = 7;
    pub const PARTITION: usize = 8;
    pub const MAY_DOUBT: usize = 9;
}

/// Its entries, as [`column`] says, and whether each can be read so. Parameters 3 to 5 are the last commit up to the
/// moment; 6 is whether it is the latest.
const ENTRIES: &CStr = c"
    SELECT l.record_id, l.id, 1, p.lsn, CASE WHEN l.action <> 'read' THEN coalesce(l.commit_idx, 2147483647)
                                             ELSE 2147483647 END AS idx,
           true, $6 OR coalesce(p.lsn <= $3, false), 0, l.action::text, 's'::\"char\",
           audit_cdc_internal.told_image(l.old_values, l.exact_values, 'old'),
           CASE WHEN l.unknown_columns = '{}' THEN i.new_values ELSE i.new_values - l.unknown_columns END,
           l.unknown_columns,
           CASE WHEN l.action = 'update' AND l.unknown_columns <> '{}'
                THEN ARRAY(SELECT c FROM unnest(l.unknown_columns) AS c
                           WHERE l.new_values -> c = '\"unchanged_toast\"') ELSE '{}' END,
           l.unknown_old_columns, l.action = 'update' AND coalesce(l.notes ->> 'row_filter' = 'left', false),
           NULL, NULL, NULL, NULL,
           l.replica_identity IN ('f', 'd') AND p.lsn IS NOT NULL AND l.unknown_columns IS NOT NULL
             AND (l.action <> 'update' OR l.unknown_old_columns IS NOT NULL
                                          AND NOT l.unknown_old_columns && ($1).key_columns)
             AND NOT coalesce(p.lsn > $3 AND l.id < $4
                              AND l.commit_timestamp < $5::timestamptz - audit_cdc_internal.overtaking(), false),
           p.lsn > $3 AND l.commit_timestamp < $5 + audit_cdc_internal.overtaking()
    FROM audit_cdc_internal.log AS l
    CROSS JOIN LATERAL (SELECT l.commit_lsn + ($1).positions_before[1] AS lsn) AS p
    CROSS JOIN LATERAL (
      SELECT audit_cdc_internal.told_image(l.new_values, l.exact_values, 'new') AS new_values) AS i
    WHERE l.record_id = $2 AND l.audited_table = ANY (($1).numbers) AND l.origin <> 'i'
    ORDER BY p.lsn, idx, l.commit_timestamp, l.id";

const TELLS_ITSELF: usize = column::NEXT_STRAY + 1;
const MAY_BE_OVERTAKEN: usize = TELLS_ITSELF + 1;

/// The furthest position, from $2 on, of commits up to the time $1: they may overtake it. None stands there mostly, and
/// the BRIN index tells it by these conditions. $3: the database's tables. The partition is named: so the statement is
/// planned once, for it alone.
fn furthest_in(partition: &str) -> String {
    const SINCE: &str = "'2000-01-01 00:00+00'::timestamptz";
    format!(
        "SELECT max(l.commit_lsn) FROM {partition} AS l
         WHERE l.commit_lsn >= $2
           AND l.commit_timestamp - {SINCE} <= $1 - {SINCE}
           AND l.commit_timestamp - {SINCE} > $1 - {SINCE} - audit_cdc_internal.overtaking()
           AND l.audited_table = ANY ($3) AND l.origin <> 'i'"
    )
}

const SAY_UNSETTLED: &CStr = c"SELECT audit_cdc_internal.say_unsettled(true, $1)";

/// What the log tells of the record at the moment.
pub struct RecordAt {
    pub key_columns: Vec<String>,
    /// None: the log has no entry of it.
    pub record: Option<Record>,
}

/// Which record of which table.
#[derive(Clone, Copy)]
pub struct Asked {
    pub call: Call,
    pub table: PassedRow,
    /// Where the call's arguments at, lsn and key begin.
    pub at: usize,
}

/// The last commit up to the moment.
pub struct Moment {
    key_columns: Vec<String>,
    pub may_doubt: bool,
    lsn: Option<i64>,
    id: Option<i64>,
    time: Option<TimestampWithTimeZone>,
    is_latest: bool,
    is_settled: bool,
    /// The database's tables, and what its positions count on from.
    numbers: Vec<i32>,
    position_before: i64,
    /// Which part of the log has the commits of the second up to it.
    partition: String,
}

impl Moment {
    /// None: more than the record's entries has to be read.
    pub fn of(asked: Asked) -> Option<Self> {
        let Asked { call, table, at } = asked;
        if call.argument(at + 1).is_some() || call.argument(at + 2).is_none() {
            return None;
        }
        let (time, key) = (call.passed(at, TIMESTAMPTZOID), call.passed(at + 2, TEXTOID));
        let arguments = [table.passed(), time, key, database_id().into()];
        let mut found = None;
        Cursor::reading(MOMENT.as_c_str(), &arguments).fetch_rows(1, |row, _| {
            found = Some(Self {
                key_columns: row.texts(moment::KEY_COLUMNS).unwrap_or_default(),
                may_doubt: row.boolean(moment::MAY_DOUBT),
                lsn: row.bigint(moment::LSN),
                id: row.bigint(moment::ID),
                time: row.bigint(moment::TIME).and_then(|time| time.try_into().ok()),
                is_latest: row.boolean(moment::IS_LATEST),
                is_settled: row.boolean(moment::IS_SETTLED),
                numbers: row.integers(moment::NUMBERS).unwrap_or_default(),
                position_before: row.bigint(moment::POSITION_BEFORE).unwrap_or(0),
                partition: row.text(moment::PARTITION).unwrap_or_default(),
            });
        });
        found
    }

    /// None: some entry does not tell by itself.
    pub fn record(self, asked: Asked, says_unsettled: bool) -> Option<RecordAt> {
        let (mut record, next) = read(asked, &self, self.lsn)?;
        // commits overtake each other: where the first entry behind the moment stands, one up to it may stand too
        if let Some(lsn) = next.and_then(|next| furthest(&self, next)) {
            (record, _) = read(asked, &self, Some(lsn))?;
        }
        if says_unsettled && !self.is_settled {
            Cursor::reading(SAY_UNSETTLED, &[passed(self.time)]).fetch_rows(1, |_, _| ());
        }
        Some(RecordAt { key_columns: self.key_columns, record })
    }
}

fn furthest(moment: &Moment, next: i64) -> Option<i64> {
    let mut furthest = None;
    let statement = CString::new(furthest_in(&moment.partition)).ok()?;
    let arguments = [passed(moment.time), (next - moment.position_before).into(), moment.numbers.clone().into()];
    Cursor::kept(&statement, &arguments).fetch_rows(1, |row, _| furthest = row.bigint(0));
    furthest.map(|furthest| furthest + moment.position_before)
}

fn passed<T: IntoDatum>(value: Option<T>) -> DatumWithOid<'static>
where
    DatumWithOid<'static>: From<T>,
{
    value.map_or_else(|| DatumWithOid::null_oid(T::type_oid()), DatumWithOid::from)
}

/// The record, and where its first entry behind the moment stands that another commit may have overtaken. None: some
/// entry does not tell by itself.
fn read(asked: Asked, moment: &Moment, last_lsn: Option<i64>) -> Option<(Option<Record>, Option<i64>)> {
    let arguments = [
        asked.table.passed(),
        asked.call.passed(asked.at + 2, TEXTOID),
        passed(last_lsn),
        passed(moment.id),
        passed(moment.time),
        moment.is_latest.into(),
    ];
    let mut cursor = Cursor::reading(ENTRIES, &arguments);
    let (mut record, mut next_lsn, mut last_id, mut tell): (Option<Record>, _, _, _) = (None, None, 0, true);
    while tell
        && cursor.fetch_rows(100, |row, next| {
            let id = row.bigint(column::ID).unwrap_or(0);
            tell = tell && row.boolean(TELLS_ITSELF) && id > last_id;
            last_id = id;
            if let (true, Some(action)) = (tell, action(row)) {
                if row.boolean(MAY_BE_OVERTAKEN) && !moment.is_latest {
                    next_lsn = next_lsn.or(row.bigint(column::LSN));
                }
                take(record.get_or_insert_default(), row, action, next);
            }
        })
    {}
    tell.then_some((record, next_lsn))
}

fn take(record: &mut Record, row: &Row, action: Action, next: Option<&Row>) {
    if !next.is_some_and(|next| can_skip(record, row, action, next)) {
        record.take(event(row, action, place(row), 0), row.boolean(column::IS_PAST));
    }
}
