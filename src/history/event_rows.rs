//! Events as rows of statements.

use crate::pg::Row;
use audit_core::lives::{Action, Event, Image, KeyBefore, Place, Record};

/// What the statements give, in this order.
pub mod column {
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

/// Most events are replaced by the record's next one: their images are not read.
pub fn can_skip(record: &Record, row: &Row, action: Action, next: &Row) -> bool {
    next.boolean(column::IS_PAST)
        && next.bytes(column::KEY) == row.bytes(column::KEY)
        && self::action(next).is_some_and(|next_action| {
            record.can_skip(&without_images(row, action), &without_images(next, next_action))
        })
}

pub fn action(row: &Row) -> Option<Action> {
    std::str::from_utf8(row.bytes(column::ACTION)?).ok().and_then(Action::named)
}

pub fn place(row: &Row) -> Place {
    Place {
        run: row.integer(column::RUN).unwrap_or(0),
        lsn: row.bigint(column::LSN).unwrap_or(0),
        idx: row.integer(column::IDX).unwrap_or(0),
    }
}

pub fn event<'r>(row: &'r Row, action: Action, place: Place, truncates: i32) -> Event<'r> {
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
