//! Whole streams: as PostgreSQL sends them, and damaged.

use super::pgoutput::{ReplicaIdentity, message};
use super::stream::{Catalog, Commit, Decoder, Failure, Keys};
use super::value::Kind;
use crate::message::{Message, Written};
use proptest::prelude::*;
use serde_json::value::RawValue;

struct Fixed;
impl Catalog for Fixed {
    fn kind(&self, type_oid: u32) -> Kind {
        match type_oid {
            23 => Kind::Integer,
            1007 => Kind::Array { element: Box::new(Kind::Integer), delimiter: ',' },
            114 => Kind::Json,
            1186 => Kind::Interval,
            _ => Kind::Text,
        }
    }
    fn keys(&self, _: u32) -> Keys {
        Keys { primary_key: vec!["id".into()], generated: vec!["g".into()] }
    }
    fn left_out(&self, _: &str, relation: u32) -> Vec<std::ops::Range<u64>> {
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

const BEGIN: &[u8] = b"B\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\x01";
const COMMIT: &[u8] = b"C\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0\0";
const INSERT: &[u8] = b"I\0\0\0\x07N\0\x02t\0\0\0\x011t\0\0\0\x01a";

fn table(oid: u8, identity: u8) -> Vec<u8> {
    let key = u8::from(identity == b'f');
    let columns: [&[u8]; 2] = [b"\x01id\0\0\0\0\x17\xff\xff\xff\xff", b"v\0\0\0\0\x19\xff\xff\xff\xff"];
    [b"R\0\0\0", &[oid][..], b"public\0t\0", &[identity], b"\0\x02", columns[0], &[key], columns[1]].concat()
}

fn annotation(flags: u8, content: &str) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [b"M", &[flags][..], &[0; 8], b"sequin:transaction_annotations.set\0", &length, content.as_bytes()].concat()
}

fn decoded(stream: &[&[u8]]) -> Result<(Vec<String>, Vec<Commit>), Failure> {
    let mut decoder = Decoder::new(Fixed);
    let (mut changes, mut commits) = (Vec::new(), Vec::new());
    for bytes in stream {
        commits.extend(decoder.decode(bytes, &mut changes)?);
    }
    Ok((changes.into_iter().map(|change: Written| change.text).collect(), commits))
}

#[test]
fn a_change_its_place_and_its_commit() {
    let stream = [
        BEGIN,
        &table(7, b'd'),
        &annotation(1, "{\"username\": \"ada\"}"),
        &annotation(0, "\"stray\""),
        INSERT,
        COMMIT,
    ];
    let (changes, commits) = decoded(&stream).expect("a good stream");
    assert_eq!(
        changes,
        [
            r#"{"action":"insert","changes":null,"metadata":{"commit_idx":1,"commit_lsn":9,"commit_timestamp":"2000-01-01T00:00:00.000000Z","database":{"id":"d","name":"n"},"idempotency_key":"OTox","record_pks":["1"],"replica_identity":"default","table_name":"t","table_schema":"public","transaction_annotations":{"username": "ada"},"unknown_columns":["g"],"unknown_old_columns":[]},"record":{"id":1,"v":"a"}}"#
        ]
    );
    assert_eq!(commits, [Commit { lsn: 9, end_lsn: 12, time: 0, has_changes: true }]);
}

#[test]
fn what_comes_out_of_place_is_an_error() {
    let described = table(7, b'd');
    for stream in [&[INSERT][..], &[BEGIN, INSERT], &[described.as_slice(), INSERT], &[COMMIT]] {
        assert_eq!(decoded(stream), Err(Failure::OutOfPlace));
    }
}

#[test]
fn tables_of_the_log_are_passed_over_and_take_their_places() {
    let own = [b"I\0\0\0\x09".as_slice(), &INSERT[5..]].concat();
    let (changes, _) =
        decoded(&[BEGIN, &table(9, b'd'), &table(7, b'd'), &own, INSERT, COMMIT]).expect("a good stream");
    let before = [b"I\0\0\0\x08".as_slice(), &INSERT[5..]].concat();
    let (_, commits) =
        decoded(&[BEGIN, &table(9, b'd'), &table(8, b'd'), &own, &before, COMMIT]).expect("a good stream");
    assert!(!commits[0].has_changes);
    assert_eq!(changes.len(), 1);
    assert!(changes[0].contains("\"commit_idx\":1,"), "{changes:?}");
}

#[test]
fn a_delete_with_a_key_knows_only_the_key() {
    let delete = b"D\0\0\0\x07K\0\x02t\0\0\0\x011n";
    let (changes, _) = decoded(&[BEGIN, &table(7, b'd'), delete, COMMIT]).expect("a good stream");
    assert!(changes[0].contains(r#""unknown_columns":["v","g"]"#) && changes[0].contains(r#""record_pks":["1"]"#));
}

/// One message of any kind, mostly well-formed.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let value =
        prop_oneof![
            Just(b"n".to_vec()),
            Just(b"u".to_vec()),
            ".{0,12}".prop_map(|text: String| [b"t", &(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()),
            prop::sample::select(vec!["7", "{1,NULL,{2}}", "{\"a\":[1e9]}", "P1Y2M3DT4H5M6.7S", "-5"])
                .prop_map(|text| [b"t", &(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()),
        ];
    let row = prop::collection::vec(value, 0..4)
        .prop_map(|row| [&(row.len() as u16).to_be_bytes()[..], &row.concat()].concat());
    let column = ("[a-z ]{0,4}", prop::sample::select(vec![23u32, 25, 114, 1007, 1186]), 0u8..2).prop_map(
        |(name, kind, is_key)| {
            [&[is_key][..], name.as_bytes(), b"\0", &kind.to_be_bytes(), b"\xff\xff\xff\xff"].concat()
        },
    );
    let relation = (prop::collection::vec(column, 0..4), prop::sample::select(b"dnfi".to_vec())).prop_map(
        |(columns, identity)| {
            let count = (columns.len() as u16).to_be_bytes();
            [b"R\0\0\0\x07public\0t\0", &[identity][..], &count, &columns.concat()].concat()
        },
    );
    let changed = |kind: &'static [u8]| row.clone().prop_map(move |row| [kind, &row].concat());
    let updated = (prop::sample::select(b"KO".to_vec()), row.clone(), row.clone())
        .prop_map(|(mark, old, new)| [b"U\0\0\0\x07", &[mark][..], &old, b"N", &new].concat());
    prop_oneof![
        Just(BEGIN.to_vec()),
        Just(COMMIT.to_vec()),
        Just(b"T\0\0\0\x01\0\0\0\0\x07".to_vec()),
        (0u8..2, "\\PC{0,8}").prop_map(|(flags, content)| annotation(flags, &content)),
        relation,
        changed(b"I\0\0\0\x07N"),
        changed(b"U\0\0\0\x07N"),
        changed(b"D\0\0\0\x07K"),
        changed(b"D\0\0\0\x07O"),
        updated,
        prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_gives_messages_or_errors(
        mut stream in prop::collection::vec(any_message(), 0..12),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        for (which, at, byte) in damage {
            if let Some(bytes) = stream.get_mut(which.index(12)).filter(|bytes| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let mut decoder = Decoder::new(Fixed);
        let described = table(7, b'f');
        let begun: [&[u8]; 2] = [BEGIN, &described];
        for bytes in begun.into_iter().chain(stream.iter().map(Vec::as_slice)) {
            let mut changes = Vec::new();
            let _ = decoder.decode(bytes, &mut changes);
            for change in &changes {
                let text = &change.text;
                prop_assert!(serde_json::from_str::<&RawValue>(text).is_ok(), "{text}");
                let read = Message::alone(text).parsed();
                // a damaged commit time may be none
                prop_assert!(read.as_ref().map_or_else(|(_, reject)| reject.sqlstate.class() == b"22", |_| true));
                prop_assert_eq!(format!("{:?}", change.parsed(1)), format!("{read:?}"));
                prop_assert!(change.is_known() || read.is_err(), "read again: {text}");
            }
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(kind in prop::sample::select(b"BCMRIUDTOYx".to_vec()), tail: Vec<u8>) {
        let _ = message(&[&[kind], tail.as_slice()].concat());
    }
}

#[test]
fn identities_have_their_letters() {
    for (letter, name) in [(b'f', "full"), (b'd', "default"), (b'i', "index"), (b'n', "nothing")] {
        assert_eq!(ReplicaIdentity::of(letter).map(ReplicaIdentity::as_str), Some(name));
    }
}
