//! What a message is known to say is what is read from it. A change that was never a message is the one that its
//! message tells.

use super::captured::{Captured, Circumstances};
use super::images::Event;
use super::properties::{Cell, write_cells};
use super::protocol::{Filter, Old, Omitted, ReplicaIdentity, Value, message};
use super::relation::{Column, Table};
use super::spelled::Metadata;
use super::time::CommitTime;
use super::writer::Writer;
use crate::encoding::TypeShape;
use crate::json::jsonb;
use crate::json::string;
use crate::message::{
    Annotations, Change, Image, Large, Origin, Original, RawMessage, ServerContext, Who, Written, annotations_digest,
};
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

fn who() -> impl Strategy<Value = Who> {
    let context = prop::sample::select(vec![None, Some(r#"{"session_user":"ada"}"#), Some("{}")]);
    (context, any::<Option<i64>>(), any::<Option<bool>>()).prop_map(|(context, transaction_start, attested)| Who {
        context: context.map(|text| Rc::new(ServerContext::of_text(text))),
        transaction_start,
        attested,
        is_contested: false,
    })
}

fn is_read_alike(written: &Written) -> Result<(), TestCaseError> {
    let whole = written.whole();
    // large annotations are set apart, and null stands in their place
    let message = RawMessage::alone(&written.text);
    let apart = |annotations: Annotations| match annotations.large_text("") {
        Some((_, text)) => {
            let id = annotations_digest(Origin::Capture, "", text.as_bytes());
            Annotations::Large(Rc::new(Large::of_text(id, text.into_owned().into())))
        }
        None => match annotations {
            Annotations::Text(text) => Annotations::Text(text.into_owned().into()),
            large => unreachable!("{large:?}"),
        },
    };
    let read = RawMessage::alone(&whole).parsed();
    let read = match &read {
        Ok(_) => RawMessage::alone(&whole).parsed().map(|change| Change {
            original: Original::Message(message),
            annotations: change.annotations.map(apart),
            ..change
        }),
        Err((_, reject)) => Err((message, reject.clone())),
    };
    prop_assert_eq!(format!("{:?}", written.parsed(1)), format!("{read:?}"));
    prop_assert!(read.is_err() || written.is_known(), "read again: {}", written.text);
    Ok(())
}

/// What ingest stores of a change is the same whether or not it was made a message.
pub fn is_told_alike(captured: &Captured) -> Result<(), TestCaseError> {
    let Captured::Typed(typed) = captured else { return Ok(()) };
    let written = typed.written().expect("what was decoded before");
    let (told, read) = (captured.parsed(1).expect("a change"), written.parsed(1).expect("a change"));
    for (told, read) in [(told.old_values, read.old_values), (told.new_values, read.new_values)] {
        is_same_jsonb(told, read)?;
    }
    match (&told.annotations, &read.annotations) {
        (Some(Annotations::Jsonb(told)), Some(Annotations::Text(read))) => {
            prop_assert_eq!(Some(told.to_vec()), jsonb(read))
        }
        (told, read) => prop_assert_eq!(format!("{told:?}"), format!("{read:?}")),
    }
    let places = |change: &Change| (change.commit_lsn, change.commit_idx, change.commit_microseconds);
    prop_assert_eq!((&told.table, told.action, places(&told)), (&read.table, read.action, places(&read)));
    prop_assert_eq!(format!("{:?}", told.sent), format!("{:?}", read.sent));
    prop_assert_eq!(format!("{:?}", told.who), format!("{:?}", read.who));
    prop_assert_eq!((&told.key, &told.idempotency_key), (&read.key, &read.idempotency_key));
    prop_assert_eq!((told.own_key(), read.own_key()), (None, None));
    let identity = |change: &Change| (change.identity(Origin::Capture, None), change.reject_digest());
    prop_assert_eq!(identity(&told), identity(&read));
    prop_assert_eq!(told.original.text(), read.original.text());
    Ok(())
}

fn is_same_jsonb(told: Option<Image>, read: Option<Image>) -> Result<(), TestCaseError> {
    match (told, read) {
        (Some(Image::Jsonb(told)), Some(Image::Text(read))) => {
            prop_assert_eq!(Some(told.to_vec()), jsonb(read), "{}", read)
        }
        (told, read) => prop_assert!(told.is_none() && read.is_none(), "{told:?} {read:?}"),
    }
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
        who in who(),
        (key, annotations) in ("[a-zA-Z0-9=]{1,20}|.{1,4}", prop::option::of(prop::sample::select(contents()))),
        (old, new) in (row(), row()),
    ) {
        let described = columns.iter();
        let described = described.map(|(name, is_identity)| Column::new(name, TypeShape::Text, *is_identity)).collect();
        let keys = keys.iter().filter(|_| !columns.is_empty());
        let keys: Vec<String> = keys.map(|key| key.get(&columns).0.clone()).collect();
        let table = Table::new(&database, (&schema, &table), ReplicaIdentity::Default, described, &keys, &never_sent);
        let annotations = annotations.and_then(|content| Annotations::of_content(content.as_bytes()));
        let (time, annotations) = (CommitTime::of(time), annotations.as_ref());
        let who = &who;
        let at = Metadata { lsn, idx, time, idempotency_key: &key, annotations, who };
        let (old, new) = (values(&old), values(&new));
        let (old_row, old_key) = (Old::Row(old.clone()), Old::Key(old));
        for event in [
            Event::Inserted(&new),
            Event::Read(&new),
            Event::Truncated,
            Event::Updated(Filter::Entered, None, &new),
            Event::Updated(Filter::Stayed, Some(&old_row), &new),
            Event::Updated(Filter::Left, Some(&old_key), &new),
            Event::Deleted(&old_row),
            Event::Deleted(&old_key),
        ] {
            is_read_alike(&table.message(&at, event))?;
        }
    }
}

#[test]
fn what_jsonb_cannot_hold_stands_beside_it() {
    for kind in [TypeShape::Json, TypeShape::Jsonb] {
        let columns = vec![Column::new("j", kind, true)];
        let table = Table::new(r#"{"id":"d"}"#, ("s", "t"), ReplicaIdentity::Full, columns, &[], &[]);
        let (time, who) = (CommitTime::of(0), &Who::default());
        let at = Metadata { lsn: 1, idx: Some(0), time, idempotency_key: "k", annotations: None, who };
        let json = format!("[{}0]", "0,".repeat(1 << 24));
        let written = table.message(&at, Event::Inserted(&[Value::Text(&json)]));
        let change = written.parsed(1).expect("a change");
        assert_eq!(change.new_values.and_then(Image::text), Some(r#"{"j":null}"#));
        assert_eq!(change.sent.exact_values.map(str::len), Some(json.len() + r#"{"new":{"j":""}}"#.len()));
    }
}

/// What PostgreSQL writes, and what it does not, for each kind.
fn kinds() -> Vec<(TypeShape, &'static str)> {
    let array = |element: TypeShape| TypeShape::Array { element: Box::new(element), delimiter: ',' };
    let time = r"20[0-9]{2}-0[1-9]-1[0-9] 1[0-9]:2[0-9]:3[0-9](\.[0-9]{1,6})?";
    let zoned = r"20[0-9]{2}-0[1-9]-1[0-9] 1[0-9]:2[0-9]:3[0-9](\.[0-9]{1,6})?\+00( BC)?|-infinity";
    vec![
        (TypeShape::Text, "[a-zé\"\\\\\n\u{1}-\u{7f}]{0,40}|[0-9]{1,3}"),
        (TypeShape::Boolean, "[tf]|true"),
        (TypeShape::Integer, "0|-?[1-9][0-9]{0,18}|-0|7 "),
        (TypeShape::Float, r"-?[0-9]{1,20}(\.[0-9]{1,30})?|NaN|-?Infinity|1e-07|-0"),
        (TypeShape::Json, r#" ?\{"b": ?[0-9]{1,70},"aa":\[true,null,"x\\u000[0-9]"\],"b":\{\}\} ?|7|"s"|null|no json"#),
        (TypeShape::Jsonb, r#"\{"b": [0-9]{1,70}, "aa": \[true, null\]\}|-?7|"s"|null|\{"": \["t", 1\]\}"#),
        (TypeShape::Timestamp, time),
        (TypeShape::TimestampTz, zoned),
        (TypeShape::Interval, r"P(-?[0-9]{1,3}Y)?(-?[0-9]D)?(T-?[0-9]{1,3}H(-?[0-9]\.[0-9]{1,6}S)?)?|infinity"),
        (array(TypeShape::Integer), r"\{([0-9]{1,5}|NULL)(,([0-9]{1,5}|NULL)){0,3}\}|\{\}|\[0:1\]=\{1,2\}"),
        (array(TypeShape::Text), r#"\{\{[a-z]{0,3},"[a-z,]{0,3}"\},\{b,NULL\}\}|\{[a-z]{1,3}"#),
        (array(TypeShape::Json), r#"\{"\{\\"a\\": [0-9]{1,9}\}",("null"|NULL|"-0")\}"#),
    ]
}

/// A column's kind, and its values before and after.
fn column() -> impl Strategy<Value = (TypeShape, [Cell; 2])> {
    prop::sample::select(kinds()).prop_flat_map(|(kind, pattern)| {
        let cell = || {
            prop_oneof![
                6 => prop::string::string_regex(pattern).expect(pattern).prop_map(Cell::Text),
                1 => Just(Cell::Null),
                1 => Just(Cell::Unchanged),
                1 => any::<u64>().prop_map(Cell::Omitted),
                1 => ".{0,4}".prop_map(Cell::Text),
            ]
        };
        let cells = (cell(), cell(), any::<bool>());
        let cells = cells.prop_map(|(old, new, changes)| if changes { [old, new] } else { [old.clone(), old] });
        (Just(kind), cells)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_is_what_its_message_tells(
        columns in prop::collection::vec((column(), any::<bool>()), 0..5),
        names in Just(["a", "b", "aa", "é", "a\"b", " "].map(str::to_owned)).prop_shuffle(),
        action in prop::sample::select(b"IUDT".to_vec()),
        filter in prop::sample::select(vec![Filter::Stayed, Filter::Left, Filter::Entered]),
        (old, is_whole, shorter) in (any::<bool>(), any::<bool>(), 0..8_usize),
        keys in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        annotations in prop::option::of(prop::sample::select(contents())),
        (lsn, idx, is_of_a_rule) in (0..1_u64 << 40, 0..9_u32, any::<bool>()),
    ) {
        let described = columns.iter().zip(&names);
        let described = described.map(|(((kind, _), is_identity), name)| Column::new(name, kind.clone(), *is_identity));
        let key = |key: &prop::sample::Index| names[key.index(columns.len())].clone();
        let keys: Vec<String> = keys.iter().filter(|_| !columns.is_empty()).map(key).collect();
        let (database, full) = (r#"{"id":"d","name":"n"}"#, ReplicaIdentity::Full);
        let table = Table::new(database, ("s", "t"), full, described.collect(), &keys, &names[5..]);
        let row = |n: usize| columns.iter().map(|((_, cells), _)| cells[n].clone()).collect();
        let rows: [Vec<Cell>; 2] = [row(0), row(1)];
        let sent = if shorter == 0 { columns.len() / 2 } else { columns.len() };
        let mut writer = Writer::default();
        match action {
            b'I' => writer.insert(idx, 7),
            b'U' => writer.update(idx, 7, filter),
            b'D' => writer.delete(idx, 7),
            _ => writer.truncate(idx, &[7]),
        }
        match action {
            b'U' if !old => writer.no_old(),
            b'U' | b'D' => {
                writer.old(is_whole);
                write_cells(&mut writer, &rows[0][..sent]);
            }
            _ => {}
        }
        if matches!(action, b'I' | b'U') {
            write_cells(&mut writer, &rows[1][..sent]);
        }
        let annotations = annotations.and_then(|content| Annotations::of_content(content.as_bytes()));
        let at = Circumstances::new(lsn, CommitTime::of(0)).with_annotations(annotations, true);
        let at = if is_of_a_rule { at.of_a_rule() } else { at };
        let message = message(writer.bytes()).expect("a message");
        let event = Event::of(&message).expect("a change");
        let captured = Captured::new(&Rc::new(table), &Rc::new(at), event, writer.bytes());
        prop_assert_eq!(captured.is_of_a_rule(), is_of_a_rule);
        is_told_alike(&captured)?;
        if let Captured::Typed(typed) = &captured {
            let written = typed.written().expect("what was decoded before");
            let (told, read) = (captured.parsed(1).expect("a change"), written.parsed(1).expect("a change"));
            let old = read.old_values.and_then(Image::text).unwrap_or("{}");
            let old: serde_json::Value = serde_json::from_str(old).expect("JSON");
            let is_changed = keys.iter().any(|key| old.get(key).is_some());
            prop_assert_eq!(told.may_change_key(), action == b'U' && read.key.is_some() && is_changed);
        }
    }
}

/// The property above says nothing of what is left to messages.
#[test]
fn usual_changes_are_never_messages() {
    let columns = [
        (TypeShape::Integer, "12"),
        (TypeShape::Text, "a \"quote\"\n\u{7}"),
        (TypeShape::Float, "-0.25"),
        (TypeShape::Json, "{\"a\": [1.50, \"\\n\"]}"),
        (TypeShape::TimestampTz, "2024-01-02 03:04:05.6+00"),
        (TypeShape::Interval, "P1D"),
        (TypeShape::Boolean, "t"),
        (TypeShape::Array { element: Box::new(TypeShape::Text), delimiter: ',' }, "{a,\"b c\",NULL}"),
    ];
    let described =
        columns.iter().enumerate().map(|(n, (kind, _))| Column::new(&format!("c{n}"), kind.clone(), true)).collect();
    let table =
        Rc::new(Table::new(r#"{"id":"d"}"#, ("s", "t"), ReplicaIdentity::Full, described, &["c0".to_owned()], &[]));
    let row: Vec<Value> = columns.iter().map(|(_, text)| Value::Text(text)).collect();
    let mut paid = row.clone();
    paid[1] = Value::Text("paid");
    let other_key = [&[Value::Text("13")], &row[1..]].concat();
    let (old, at) = (Old::Row(row.clone()), Rc::new(Circumstances::new(9, CommitTime::of(0))));
    let told = [
        Event::Inserted(&row),
        Event::Updated(Filter::Stayed, Some(&old), &paid),
        Event::Updated(Filter::Stayed, Some(&old), &other_key),
        Event::Deleted(&old),
        Event::Truncated,
    ];
    let changes_key: Vec<Option<bool>> = told
        .into_iter()
        .map(|event| match Captured::new(&table, &at, (1, event), b"") {
            captured @ Captured::Typed(_) => captured.parsed(1).ok().map(|change| change.may_change_key()),
            Captured::Message { .. } => None,
        })
        .collect();
    assert_eq!(changes_key, [false, false, true, false, false].map(Some));
}
