//! Properties of the pure core: whatever comes in, every message is a change or a reject.

use super::record_key::RecordKey;
use super::*;
use crate::SqlState;
use crate::json::object::Object;
use proptest::prelude::*;

const GOOD: &str = r#"{"action":"insert","changes":null,"metadata":{"commit_idx":1,"commit_lsn":61536216,"commit_timestamp":"2026-11-22T21:09:42.850944Z","database":{"id":"d","name":"n"},"idempotency_key":"NjE1MzYyMTY6MQ==","record_pks":["1"],"table_name":"t","table_schema":"public","transaction_annotations":null},"record":{"id":1}}"#;

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,8}".prop_map(Into::into),
    ];
    let key = prop_oneof![
        "[a-z]{1,4}",
        prop::sample::select(vec![
            "action",
            "changes",
            "metadata",
            "record",
            "data",
            "commit_lsn",
            "commit_idx",
            "commit_timestamp",
            "database",
            "table_schema",
            "table_name",
            "record_pks",
            "idempotency_key",
            "ack_id",
            "id",
            "name",
        ])
        .prop_map(String::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
            prop::collection::vec((key.clone(), inner), 0..8)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A message is the same change or the same reject, whether its metadata was read along with it or not. So is a body,
/// whether it was read at once or in parts.
fn taken_alike(body: &str) -> Result<Vec<Parsed<'_>>, TestCaseError> {
    prop_assert!(super::body::tests::taken_alike(body));
    let taken = changes(body).unwrap_or_default();
    for parsed in &taken {
        let message = match parsed {
            Ok(Change { original: Original::Message(message), .. }) | Err((message, _)) => *message,
            Ok(_) => unreachable!("a body holds messages"),
        };
        if let Some(plain) = Object::parse(message.text) {
            prop_assert_eq!(format!("{:?}", Change::of(message, plain)), format!("{:?}", Change::parse(message)));
        }
    }
    Ok(taken)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_taken_apart_or_refused(body in any::<String>()) {
        taken_alike(&body)?;
    }

    #[test]
    fn any_json_gives_each_element_once(elements in prop::collection::vec(json(), 0..6)) {
        for body in [serde_json::json!({ "data": elements }), serde_json::Value::from(elements.clone())] {
            let body = body.to_string();
            changes(&body).map(|_| ()).expect("valid JSON");
            prop_assert_eq!(taken_alike(&body)?.len(), elements.len());
        }
    }

    #[test]
    fn a_damaged_message_is_a_change_or_a_reject(at in 0..GOOD.len(), cut in 0..GOOD.len(), byte in 32u8..127) {
        let mut damaged = GOOD.as_bytes().to_vec();
        damaged[at] = byte;
        let damaged = String::from_utf8_lossy(&damaged).into_owned();
        let batch = format!(r#"{{"data":[{GOOD},{damaged} , {GOOD}]}} "#);
        for body in [damaged.as_str(), &GOOD[..cut], &batch] {
            if let Err(reject) = changes(body) {
                prop_assert_eq!(reject.sqlstate, SqlState::INVALID_TEXT_REPRESENTATION);
            }
            for parsed in taken_alike(body)? {
                if let Err((_, reject)) = parsed {
                    prop_assert!(reject.sqlstate.as_str().starts_with("22"));
                }
            }
        }
    }

    #[test]
    fn keys_are_told_apart_by_record_id(
        one in prop::collection::vec(".{0,6}", 2..4),
        two in prop::collection::vec(".{0,6}", 2..4),
    ) {
        let (one_text, two_text) = (serde_json::json!(one).to_string(), serde_json::json!(two).to_string());
        if let (Ok(a), Ok(b)) = (RecordKey::parse(&one_text), RecordKey::parse(&two_text)) {
            prop_assert_eq!(a.record_id() == b.record_id(), one == two);
        }
    }

    #[test]
    fn lists_are_read_alike_with_and_without_a_short_cut(
        list in prop::collection::vec("[a,\"\\\\ \u{e9}\\[\\]]{0,5}", 0..4),
        spaced: bool,
    ) {
        let text = serde_json::json!(list).to_string();
        let text = if spaced { text.replace(',', ", ") } else { text };
        let read: Vec<String> = serde_json::from_str(&text).expect("a list");
        prop_assert_eq!(crate::json::object::strings(&text, "").expect("strings"), read.clone());
        let plain = crate::json::object::plain_strings(&text);
        prop_assert!(plain.is_none_or(|plain| plain == read), "{text}");
    }
}
