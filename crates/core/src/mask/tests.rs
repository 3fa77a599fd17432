//! Messages with masks, and the property that matters: what is masked is nowhere in what comes out.

use super::*;
use crate::message::{Change, RawMessage};
use proptest::prelude::*;

const SECRET: Masker = Masker { secret: MaskSecret([7; 32]), was_masked: false };

const UPDATE: &str = r#"{"action":"update",
    "changes":{"email":"old@planted","qty":1,"doc":{"pin":"old-planted","a":1}},"metadata":{
    "commit_idx":1,"commit_lsn":5,"commit_timestamp":"2026-11-22T21:09:42.850944Z","database":{"id":"d1","name":"shop"},
    "exact_values":{"new":{"email":"x planted","doc":"planted","qty":"1e4"},"old":{"email":"planted"}},
    "idempotency_key":"NTox","notes":{"omitted":{"email":{"bytes":9,"sha256":"planted"},"big":{"bytes":1}}},
    "record_pks":["1"],"table_name":"orders","table_schema":"public","unknown_columns":["big"],
    "unknown_old_columns":[]},
    "record":{"id":1,"email":"new@planted","qty":2,"doc":{"pin":"new-planted","a":2},"big":null},"other":"planted"}"#;

fn masks(masked: &[(&str, How)]) -> TableMasks {
    let mut masks = TableMasks::default();
    masked.iter().for_each(|(masked, how)| {
        let mut names = masked.split("->").map(str::to_owned);
        masks.add(names.next().unwrap_or_default(), names.collect(), *how);
    });
    masks
}

fn masked(text: &str, rules: &[(&str, How)]) -> serde_json::Value {
    let text = masked_message(text, &masks(rules), None, &SECRET).expect("an object");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn nothing_of_a_masked_value_is_left() {
    for how in [How::Omit, How::Hash, How::Partial] {
        let found = masked(UPDATE, &[("email", how), ("doc->pin", How::Omit)]);
        assert!(!found.to_string().contains("planted"), "{found}");
        assert_eq!(found["record"], serde_json::json!({"id": 1, "qty": 2, "doc": {"a": 2}, "big": null}));
        assert_eq!(found["changes"], serde_json::json!({"qty": 1, "doc": {"a": 1}}));
        let metadata = &found["metadata"];
        assert_eq!(metadata["exact_values"], serde_json::json!({"new": {"qty": "1e4"}}));
        assert_eq!(metadata["unknown_columns"], serde_json::json!(["big", "doc", "email"]));
        assert_eq!(metadata["unknown_old_columns"], serde_json::json!(["doc", "email"]));
        assert_eq!(metadata["notes"]["omitted"], serde_json::json!({"big": {"bytes": 1}}));
        assert_eq!(metadata["notes"]["masked"]["email"]["how"], how.label());
        assert_eq!(
            metadata["notes"]["masked"]["doc"],
            serde_json::json!({"members": {"pin": "omit"}, "changed": true})
        );
        assert_eq!(metadata["record_pks"], serde_json::json!(["1"]));
    }
}

#[test]
fn notes_tell_what_a_mask_lets_them() {
    let notes = |how| masked(UPDATE, &[("email", how)])["metadata"]["notes"]["masked"]["email"].clone();
    assert_eq!(notes(How::Omit), serde_json::json!({"how": "omit", "changed": true}));
    assert_eq!(notes(How::Partial), serde_json::json!({"how": "partial", "new": "***", "old": "***", "changed": true}));
    let hashes = notes(How::Hash);
    assert!(
        hashes["new"] != hashes["old"] && hashes["new"].as_str().is_some_and(|hash| hash.starts_with("hmac-sha256:"))
    );
    let deleted = UPDATE.replace("\"update\"", "\"delete\"").replace("old@planted", "new@planted");
    assert_eq!(masked(&deleted, &[("email", How::Hash)])["metadata"]["notes"]["masked"]["email"]["old"], hashes["new"]);
}

/// A text that was masked before may still hold what a writer has made up, where no mask was.
#[test]
fn only_what_was_masked_counts_as_a_mask() {
    let made_up = How::Hash.masked("1", &SECRET).expect("a hash");
    let text = UPDATE.replace("\"new@planted\"", &made_up).replace("\"new-planted\"", &made_up);
    let again = Masker { was_masked: true, ..SECRET };
    let rules = masks(&[("email", How::Hash), ("doc->pin", How::Hash)]);
    let found = masked_message(&text, &rules, None, &again).expect("an object");
    assert!(!found.contains(&made_up), "{found}");
    let of_email = masks(&[("email", How::Hash)]);
    let before = masked_message(&text, &of_email, None, &SECRET).expect("an object");
    assert!(!masked_message(&before, &rules, None, &again).expect("an object").contains(&made_up));
    let both = masked_message(&text, &rules, None, &SECRET).expect("an object");
    assert_eq!(masked_message(&both, &rules, None, &again), Some(both));
}

#[test]
fn what_was_not_sent_has_no_hash() {
    let rules = [("big", How::Hash), ("email", How::Hash)];
    let text = UPDATE.replace("\"new@planted\"", "\"unchanged_toast\"");
    let notes = masked(&text, &rules)["metadata"]["notes"]["masked"].clone();
    assert_eq!(notes["big"], serde_json::json!({"how": "hash"}));
    assert!(notes["email"].get("new").is_none() && notes["email"]["old"].is_string());
}

#[test]
fn values_of_a_masked_key_are_hashed() {
    let text = UPDATE.replace("new@planted", "1").replace("\"id\":1", "\"id\":9").replace("\"qty\":1", "\"qty\":3");
    let key = |text: &str, columns: Option<&[String]>| {
        let text = masked_message(text, &masks(&[("email", How::Omit)]), columns, &SECRET).expect("an object");
        let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        found["metadata"]["record_pks"][0].as_str().unwrap_or_default().to_owned()
    };
    assert!(key(&text, None).starts_with("hmac-sha256:"));
    assert_eq!(key(&text, Some(&["id".into()])), "1");
    assert!(key(UPDATE, Some(&["email".into()])).starts_with("hmac-sha256:"));
    // another column shows the same value
    assert_eq!(key(&text.replace("\"id\":9", "\"id\":1"), None), "1");
}

#[test]
fn a_change_is_the_same_change_with_masks() {
    fn change(text: &str) -> Change<'_> {
        Change::parse(RawMessage { text, position: 1 }).expect("a change")
    }
    for (from, to) in [("", ""), ("\"update\"", "\"read\"")] {
        let text = UPDATE.replace(from, to);
        let rules = masks(&[("email", How::Omit), ("id", How::Hash)]);
        let message = masked_message(&text, &rules, Some(&["id".into()]), &SECRET).expect("an object");
        let masked = change(&text).masked(RawMessage { text: &message, position: 1 }).expect("a change");
        let origin = crate::message::Origin::Ingest;
        assert_eq!(masked.identity(origin, Some("d")), change(&text).identity(origin, Some("d")));
        assert_eq!(masked.spelled_row(), change(&text).spelled_row());
        assert_eq!(masked.may_change_key(), change(&text).may_change_key());
    }
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<i32>().prop_map(Into::into),
        "[a-z]{0,5}".prop_map(Into::into),
        Just("PLANTED".into()),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
            prop::collection::btree_map("[ab]|pin", inner, 0..3)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Values with the planted string in masked places only.
fn planted() -> impl Strategy<Value = serde_json::Value> {
    let row = || {
        (value(), value(), prop::collection::vec(value(), 0..2)).prop_map(|(secret, pin, more)| {
            let clean = |value: &serde_json::Value| value.to_string().replace("PLANTED", "clean");
            let rest: serde_json::Value = serde_json::from_str(&clean(&more.into())).unwrap_or_default();
            serde_json::json!({"secret": secret, "rest": rest, "doc": {"pin": pin, "list": [{"pin": "PLANTED"}]}})
        })
    };
    let action = prop::sample::select(vec!["insert", "update", "delete", "read", "truncate", "upsert"]);
    (action, row(), row(), value()).prop_map(|(action, record, changes, extra)| {
        serde_json::json!({
            "action": action, "record": record, "changes": changes, "extra": extra,
            "metadata": {"record_pks": ["7"], "exact_values": {"old": {"secret": extra, "doc": "PLANTED"}, "new": {}},
                         "notes": {"omitted": {"secret": "PLANTED"}}, "strange": extra, "table_name": "t"},
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_planted_value_comes_through(message in planted(), place in 0..3_usize) {
        let how = [How::Omit, How::Hash, How::Partial][place];
        let rules = masks(&[("secret", how), ("doc->pin", how), ("doc->list->pin", how)]);
        let once = masked_message(&message.to_string(), &rules, None, &SECRET).expect("an object");
        prop_assert!(!once.contains("PLANTED"), "{once}");
        // what is masked already stays as it is
        let twice = masked_message(&once, &rules, None, &Masker { was_masked: true, ..SECRET });
        prop_assert_eq!(twice, Some(once));
    }

    #[test]
    fn any_text_is_masked_or_refused(text in any::<String>()) {
        let rules = masks(&[("a", How::Omit)]);
        for text in [text.clone(), format!("{{\"record\":{text}}}"), format!("{{\"metadata\":{{\"notes\":{text}}}}}")] {
            if let Some(masked) = masked_message(&text, &rules, None, &SECRET) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&masked).is_ok(), "{}", masked);
            }
        }
    }

    #[test]
    fn without_masks_a_change_stays_what_it_is(message in planted()) {
        let text = message.to_string();
        let masked = masked_message(&text, &TableMasks::default(), None, &SECRET).expect("an object");
        let found: serde_json::Value = serde_json::from_str(&masked).expect("JSON");
        for member in ["action", "record", "changes"] {
            prop_assert_eq!(&found[member], &message[member]);
        }
    }
}
