//! Whole streams: as our output plugin sends them, and damaged.

use super::captured::Captured;
use super::decoder::{Catalog, Commit, Decoded, Decoder, Failure};
use super::known::is_told_alike;
use super::protocol::{Filter, Omitted, Relation, RelationColumn, ReplicaIdentity, message};
use super::writer::Writer;
use crate::encoding::TypeShape;
use crate::message::{Annotations, RawMessage};
use proptest::prelude::*;
use serde_json::value::RawValue;

pub struct Fixed;
impl Catalog for Fixed {
    fn left_out(&self, relation: u32) -> Vec<std::ops::Range<u64>> {
        match relation {
            9 => std::iter::once(0..u64::MAX).collect(),
            8 => std::iter::once(0..10).collect(),
            _ => vec![0..9, 10..20],
        }
    }
    fn ran_rules(&self, xid: u32) -> bool {
        xid == 1
    }
    fn database(&self) -> &str {
        r#"{"id":"d","name":"n"}"#
    }
}

pub fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    write(&mut writer);
    writer.bytes().to_vec()
}

pub fn begin() -> Vec<u8> {
    written(|writer| writer.begin(9, 0, 1))
}

pub fn commit() -> Vec<u8> {
    written(|writer| writer.commit(12))
}

pub fn insert(idx: u32, relation: u32) -> Vec<u8> {
    written(|writer| {
        writer.insert(idx, relation);
        row(writer, &[Some("1"), Some("a")]);
    })
}

fn row(writer: &mut Writer, values: &[Option<&str>]) {
    writer.row(values.len());
    for value in values {
        match value {
            Some(text) => writer.text(|bytes| bytes.extend_from_slice(text.as_bytes())),
            None => writer.null(),
        };
    }
}

pub fn table(number: u32, identity: ReplicaIdentity) -> Vec<u8> {
    let column = |name: &str, shape, is_identity| RelationColumn { name: name.to_owned(), shape, is_identity };
    let columns =
        vec![column("id", TypeShape::Integer, true), column("v", TypeShape::Text, identity == ReplicaIdentity::Full)];
    described(number, identity, columns)
}

fn described(number: u32, identity: ReplicaIdentity, columns: Vec<RelationColumn>) -> Vec<u8> {
    written(|writer| {
        writer.relation(&Relation {
            number,
            oid: number,
            schema: "public".into(),
            name: "t".into(),
            identity,
            columns,
            key: vec![0],
            never_sent: vec!["g".into()],
        });
    })
}

pub fn annotation(content: &str) -> Vec<u8> {
    written(|writer| writer.set_annotations(content.as_bytes()))
}

fn decoded(stream: &[&[u8]]) -> Result<(Vec<String>, Vec<Commit>), Failure> {
    let mut decoder = Decoder::new(Fixed);
    let (mut decoded, mut ends) = (Decoded::default(), Vec::new());
    for bytes in stream {
        ends.extend(decoder.decode(bytes, &mut decoded)?);
    }
    Ok((decoded.changes.iter().map(Captured::whole).collect(), ends))
}

#[test]
fn a_change_its_place_and_its_commit() {
    let stream: [&[u8]; 5] = [
        &begin(),
        &table(7, ReplicaIdentity::Default),
        &annotation("{\"username\": \"ada\"}"),
        &insert(1, 7),
        &commit(),
    ];
    let (changes, ends) = decoded(&stream).expect("a good stream");
    assert_eq!(
        changes,
        [
            r#"{"action":"insert","changes":null,"metadata":{"commit_idx":1,"commit_lsn":9,"commit_timestamp":"2000-01-01T00:00:00.000000Z","database":{"id":"d","name":"n"},"idempotency_key":"OTox","record_pks":["1"],"replica_identity":"default","table_name":"t","table_schema":"public","transaction_annotations":{"username": "ada"},"unknown_columns":["g"],"unknown_old_columns":[],"attested":false},"record":{"id":1,"v":"a"}}"#
        ]
    );
    assert_eq!(ends, [Commit { lsn: 9, end_lsn: 12, time: 0, has_changes: true }]);
}

#[test]
fn what_comes_out_of_place_is_an_error() {
    let (begin, described, insert, commit) = (begin(), table(7, ReplicaIdentity::Default), insert(0, 7), commit());
    let schema_change = written(|writer| writer.schema_change(0, 1, &[]));
    for stream in [&[&insert[..]][..], &[&begin, &insert], &[&described, &insert], &[&commit], &[&schema_change]] {
        assert_eq!(decoded(stream), Err(Failure::OutOfPlace));
    }
}

#[test]
fn excluded_tables_are_passed_over() {
    let full = ReplicaIdentity::Full;
    let (own, other) = (table(9, full), table(7, full));
    let (changes, _) =
        decoded(&[&begin(), &own, &other, &insert(0, 9), &insert(1, 7), &commit()]).expect("a good stream");
    let (_, ends) =
        decoded(&[&begin(), &own, &table(8, full), &insert(0, 9), &insert(1, 8), &commit()]).expect("a good stream");
    assert_eq!(ends, [Commit { lsn: 9, end_lsn: 12, time: 0, has_changes: false }]);
    assert_eq!(changes.len(), 1);
    assert!(changes[0].contains("\"commit_idx\":1,"), "{changes:?}");
}

#[test]
fn a_schema_change_has_its_place_and_its_annotations() {
    let mut decoder = Decoder::new(Fixed);
    let mut decoded = Decoded::default();
    let schema_change = |idx, id| written(|writer| writer.schema_change(idx, id, &[]));
    let clear = written(Writer::clear_annotations);
    let described = table(7, ReplicaIdentity::Full);
    for bytes in
        [&begin(), &annotation("{}"), &schema_change(1, 5), &described, &insert(2, 7), &clear, &schema_change(4, 6)]
    {
        assert_eq!(decoder.decode(bytes, &mut decoded), Ok(None));
    }
    let told: Vec<_> = decoded
        .schema_changes
        .iter()
        .map(|change| {
            let is_annotated = matches!(&change.annotations, Some(Annotations::Text(text)) if text == "{}");
            (change.id, change.commit_lsn, change.commit_idx, change.commit_time, is_annotated)
        })
        .collect();
    assert_eq!(told, [(5, 9, 1, 0, true), (6, 9, 4, 0, false)]);
    assert_eq!(decoded.changes.len(), 1);
}

#[test]
fn a_delete_with_a_key_knows_only_the_key() {
    let delete = written(|writer| {
        writer.delete(0, 7);
        writer.old(false);
        row(writer, &[Some("1"), None]);
    });
    let (changes, _) =
        decoded(&[&begin(), &table(7, ReplicaIdentity::Default), &delete, &commit()]).expect("a good stream");
    assert!(changes[0].contains(r#""unknown_columns":["v","g"]"#) && changes[0].contains(r#""record_pks":["1"]"#));
}

#[test]
fn what_was_too_large_is_said() {
    let omitted = |bytes| Omitted { bytes, sha256: &[0xab; 32] };
    let update = written(|writer| {
        writer.update(0, 7, Filter::Left);
        writer.old(true);
        writer.row(2);
        writer.text(|text| text.push(b'1'));
        writer.omitted_value(omitted(5));
        writer.row(2);
        writer.text(|text| text.push(b'1'));
        writer.omitted_value(omitted(6));
    });
    let delete = written(|writer| {
        writer.delete(1, 7);
        writer.old(true);
        writer.row(2);
        writer.text(|text| text.push(b'1'));
        writer.omitted_value(omitted(6));
    });
    let (changes, _) = decoded(&[&begin(), &table(7, ReplicaIdentity::Full), &update, &delete]).expect("a good stream");
    let said = |bytes: u8| format!(r#"{{"v":{{"bytes":{bytes},"sha256":"{}"}}}}"#, "ab".repeat(32));
    let unknown = r#""unknown_columns":["v","g"],"unknown_old_columns":["v","g"]"#;
    let parts = [
        vec![
            r#""changes":{"v":null}"#.to_owned(),
            format!(r#""notes":{{"omitted":{},"omitted_old":{},"row_filter":"left"}},"#, said(6), said(5)),
            unknown.to_owned(),
            r#""record":{"id":1,"v":null}"#.to_owned(),
        ],
        vec![
            format!(r#""notes":{{"omitted_old":{}}},"#, said(6)),
            unknown.to_owned(),
            r#""record":{"id":1,"v":null}"#.to_owned(),
        ],
    ];
    for (change, parts) in changes.iter().zip(parts) {
        for part in parts {
            assert!(change.contains(&part), "{part} in {change}");
        }
    }
}

#[derive(Debug, Clone)]
pub enum Cell {
    Null,
    Unchanged,
    Omitted(u64),
    Text(String),
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let cell = prop_oneof![
        Just(Cell::Null),
        Just(Cell::Unchanged),
        any::<u64>().prop_map(Cell::Omitted),
        ".{0,12}".prop_map(Cell::Text),
        prop::sample::select(vec!["7", "{1,NULL,{2}}", "{\"a\":[1e9]}", "P1Y2M3DT4H5M6.7S", "-5"])
            .prop_map(|text| Cell::Text(text.to_owned())),
    ];
    prop::collection::vec(cell, 0..4)
}

pub fn write_cells(writer: &mut Writer, cells: &[Cell]) {
    writer.row(cells.len());
    for cell in cells {
        match cell {
            Cell::Null => writer.null(),
            Cell::Unchanged => writer.unchanged(),
            Cell::Omitted(bytes) => writer.omitted_value(Omitted { bytes: *bytes, sha256: &[9; 32] }),
            Cell::Text(text) => writer.text(|bytes| bytes.extend_from_slice(text.as_bytes())),
        };
    }
}

/// One message of any kind, mostly well-formed.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let array = TypeShape::Array { element: Box::new(TypeShape::Integer), delimiter: ',' };
    let kinds = vec![TypeShape::Integer, TypeShape::Text, TypeShape::Json, array, TypeShape::Interval];
    let column = ("[a-z ]{0,4}", prop::sample::select(kinds), any::<bool>())
        .prop_map(|(name, shape, is_identity)| RelationColumn { name, shape, is_identity });
    let identity = prop::sample::select(b"dnfi".to_vec())
        .prop_map(|letter| ReplicaIdentity::of(letter).unwrap_or(ReplicaIdentity::Full));
    let relation =
        (prop::collection::vec(column, 0..4), identity).prop_map(|(columns, identity)| described(7, identity, columns));
    let inserted = (0..3_u32, cells()).prop_map(|(idx, new)| {
        written(|writer| {
            writer.insert(idx, 7);
            write_cells(writer, &new);
        })
    });
    let old = prop::option::of((any::<bool>(), cells()));
    let filter = prop::sample::select(vec![Filter::Stayed, Filter::Left, Filter::Entered]);
    let updated = (filter, old, cells()).prop_map(|(filter, old, new)| {
        written(|writer| {
            writer.update(0, 7, filter);
            match old {
                Some((is_whole, old)) => {
                    writer.old(is_whole);
                    write_cells(writer, &old);
                }
                None => writer.no_old(),
            }
            write_cells(writer, &new);
        })
    });
    let deleted = (any::<bool>(), cells()).prop_map(|(is_whole, old)| {
        written(|writer| {
            writer.delete(1, 7);
            writer.old(is_whole);
            write_cells(writer, &old);
        })
    });
    prop_oneof![
        Just(begin()),
        Just(commit()),
        Just(written(|writer| writer.truncate(0, &[7]))),
        Just(written(|writer| writer.partition_truncated(7, "public.p"))),
        Just(written(|writer| writer.schema_change(0, 1, &[]))),
        Just(written(|writer| writer.set_omitted_annotations(Omitted { bytes: 3, sha256: &[9; 32] }, b"{\xff"))),
        "\\PC{0,8}".prop_map(|content| annotation(&content)),
        relation,
        inserted,
        deleted,
        updated,
        prop::collection::vec(any::<u8>(), 0..20),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Changed,
    Added,
    Cut,
}

impl Arbitrary for Damage {
    type Parameters = ();
    type Strategy = prop::sample::Select<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        prop::sample::select(vec![Self::Changed, Self::Added, Self::Cut])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_gives_messages_or_errors(
        mut stream in prop::collection::vec(any_message(), 0..12),
        damage in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index, u8, Damage)>(), 0..4),
    ) {
        for (which, at, byte, damage) in damage {
            if let Some(bytes) = stream.get_mut(which.index(12)).filter(|bytes| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                match damage {
                    Damage::Changed => bytes[at] = byte,
                    Damage::Added => bytes.insert(at, byte),
                    Damage::Cut => bytes.truncate(at),
                }
            }
        }
        let mut decoder = Decoder::new(Fixed);
        for bytes in [begin(), table(7, ReplicaIdentity::Full)].iter().chain(&stream) {
            let mut decoded = Decoded::default();
            let _ = decoder.decode(bytes, &mut decoded);
            for change in &decoded.changes {
                let text = change.whole();
                prop_assert!(serde_json::from_str::<&RawValue>(&text).is_ok(), "{text}");
                let read = RawMessage::alone(&text).parsed();
                // a damaged commit time may be none
                prop_assert!(read.as_ref().map_or_else(|(_, reject)| reject.sqlstate.class() == b"22", |_| true));
                is_told_alike(change)?;
            }
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(kind in prop::sample::select(b"BCsocrRIUDTSPx".to_vec()), tail: Vec<u8>) {
        let _ = message(&[&[kind], tail.as_slice()].concat());
    }
}
