//! What a message is known to say is what is read from it.

use super::properties::Cell;
use super::protocol::{Filter, Old, Omitted, ReplicaIdentity, Value};
use super::relation::{Column, CommitTime, Position, Table};
use crate::SqlState;
use crate::encoding::write::{Kind, string};
use crate::message::{Annotations, Change, Large, Message, Written};
use proptest::prelude::*;
use std::rc::Rc;

/// Names that are plain, that are written with escapes, and that no table can have.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-c]{1,3}",
        2 => ".{0,6}",
        1 => any::<String>(),
        1 => Just("n".repeat(501)),
        1 => Just("\0".to_owned()),
    ]
}

fn database() -> impl Strategy<Value = String> {
    let named =
        (name(), name()).prop_map(|(id, name)| format!("{{\"id\":{},\"name\":{}}}", string(&id), string(&name)));
    prop_oneof![
        4 => Just(r#"{"id":"d","name":"n"}"#.to_owned()),
        2 => named,
        1 => prop::sample::select(vec![
            "{}", "[]", "null", "7", r#"{"id":7}"#, r#"{"name":"n"}"#, r#"{"id":"a","id":"b"}"#,
        ]).prop_map(String::from),
    ]
}

fn row() -> impl Strategy<Value = Vec<Cell>> {
    let cell = prop_oneof![
        1 => Just(Cell::Null),
        1 => Just(Cell::Unchanged),
        1 => any::<u64>().prop_map(Cell::Omitted),
        4 => "[a1]{0,2}".prop_map(Cell::Text),
        1 => any::<String>().prop_map(Cell::Text),
    ];
    prop::collection::vec(cell, 0..5)
}

fn values(row: &[Cell]) -> Vec<Value<'_>> {
    row.iter()
        .map(|cell| match cell {
            Cell::Null => Value::Null,
            Cell::Unchanged => Value::Unchanged,
            Cell::Omitted(bytes) => Value::Omitted(Omitted { bytes: *bytes, sha256: &[9; 32] }),
            Cell::Text(text) => Value::Text(text),
        })
        .collect()
}

/// Of annotations: small and large, read and unreadable.
fn contents() -> Vec<String> {
    let large = format!("{{\"username\":\"ada\",\"blob\":\"{}\"}}", "x".repeat(2_000));
    ["{}", "7", r#"{"a": "\u0000"}"#, "no JSON", &large, &"x".repeat(3_000)].map(String::from).to_vec()
}

fn is_read_alike(written: &Written) -> Result<(), TestCaseError> {
    let whole = written.whole();
    // large annotations are set apart, and null stands in their place
    let message = Message::alone(&written.text);
    let apart = |annotations: Annotations| match annotations.large_text() {
        Some((id, text)) => Annotations::Large(Rc::new(Large::of_text(id, text.into_owned().into()))),
        None => match annotations {
            Annotations::Text(text) => Annotations::Text(text.into_owned().into()),
            large => unreachable!("{large:?}"),
        },
    };
    let read = Message::alone(&whole).parsed();
    let read = match &read {
        Ok(_) => Message::alone(&whole).parsed().map(|change| Change {
            message,
            annotations: change.annotations.map(apart),
            ..change
        }),
        Err((_, reject)) => Err((message, reject.clone())),
    };
    prop_assert_eq!(format!("{:?}", written.parsed(1)), format!("{read:?}"));
    prop_assert!(read.is_err() || written.is_known(), "read again: {}", written.text);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written(
        (database, schema, table) in (database(), name(), name()),
        columns in prop::collection::vec((name(), any::<bool>()), 0..4),
        keys in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        never_sent in prop::collection::vec(name(), 0..2),
        lsn in prop_oneof![4 => 0..1_u64 << 40, 1 => any::<u64>()],
        idx in prop_oneof![4 => (0..9_u32).prop_map(Some), 1 => any::<Option<u32>>()],
        time in prop_oneof![4 => 0..1_i64 << 50, 1 => any::<i64>()],
        (key, annotations) in ("[a-zA-Z0-9=]{1,20}|.{1,4}", prop::option::of(prop::sample::select(contents()))),
        (old, new) in (row(), row()),
    ) {
        let described = columns.iter().map(|(name, is_identity)| Column::new(name, Kind::Text, *is_identity)).collect();
        let keys = keys.iter().filter(|_| !columns.is_empty());
        let keys: Vec<String> = keys.map(|key| key.get(&columns).0.clone()).collect();
        let table = Table::new(&database, (&schema, &table), ReplicaIdentity::Default, described, &keys, &never_sent);
        let key = string(&key);
        let annotations = annotations.and_then(|content| Annotations::of_content(content.as_bytes()));
        let (time, annotations) = (CommitTime::of(time), annotations.as_ref());
        let at = Position { lsn, idx, time: &time, idempotency_key: &key, annotations };
        let (old, new) = (values(&old), values(&new));
        let (old_row, old_key) = (Old::Row(old.clone()), Old::Key(old));
        for written in [
            table.inserted(&at, &new),
            table.read(&at, &new),
            table.truncated(&at),
            table.updated(&at, Filter::Entered, None, &new),
            table.updated(&at, Filter::Stayed, Some(&old_row), &new),
            table.updated(&at, Filter::Left, Some(&old_key), &new),
            table.deleted(&at, &old_row),
            table.deleted(&at, &old_key),
        ] {
            is_read_alike(&written)?;
        }
    }
}

#[test]
fn what_jsonb_cannot_hold_is_refused() {
    let columns = vec![Column::new("j", Kind::Json, true)];
    let table = Table::new(r#"{"id":"d"}"#, ("s", "t"), ReplicaIdentity::Full, columns, &[], &[]);
    let time = CommitTime::of(0);
    let at = Position { lsn: 1, idx: Some(0), time: &time, idempotency_key: "\"k\"", annotations: None };
    let refused = |elements: usize| {
        let json = format!("[{}0]", "0,".repeat(elements - 1));
        let written = table.inserted(&at, &[Value::Text(&json)]);
        written.parsed(1).err().map(|(_, reject)| reject.sqlstate)
    };
    assert_eq!(refused(1 << 24), None);
    assert_eq!(refused((1 << 24) + 1), Some(SqlState::PROGRAM_LIMIT_EXCEEDED));
}
