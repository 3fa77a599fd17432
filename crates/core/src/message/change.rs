//! A message understood: one change of one row, its images as they came.

use super::action::Action;
use super::annotations::Annotations;
use super::idempotency_key::{is_key_of_position, key_of_position, key_of_read};
use super::image::{Image, image};
use super::key_change::may_change_key;
use super::original::Original;
use super::raw_message::RawMessage;
use super::record_key::RecordKey;
use super::source_table::SourceTable;
use super::texts::exact_values;
use super::who::Who;
use crate::Reject;
use crate::SqlState;
use crate::json::object::{Envelope, Object, required, wrong_type};
use jiff::Timestamp;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::collections::HashMap;

/// In seconds since 1970. Commit times from then on, or before that, are a clock's fault: each month becomes a
/// partition.
const YEAR_2200: i64 = 7_258_118_400;

#[derive(Debug)]
pub struct Change<'a> {
    pub original: Original<'a>,
    pub table: SourceTable<'a>,
    pub action: Action,
    pub commit_lsn: Option<i64>,
    pub commit_idx: Option<i32>,
    /// Since 1970-01-01 00:00 UTC.
    pub commit_microseconds: i64,
    pub idempotency_key: Cow<'a, str>,
    /// `None`: the message has no `record_pks`.
    pub key: Option<RecordKey<'a>>,
    pub old_values: Option<Image<'a>>,
    pub new_values: Option<Image<'a>>,
    /// Is its row's key another one now? `None`: nobody says.
    pub changes_key: Option<bool>,
    pub annotations: Option<Annotations<'a>>,
    pub sent: Sent<'a>,
    pub who: Who,
    /// Where masks apply, the change without them: it is told apart by that, and no value of it is stored.
    pub unmasked: Option<Box<Change<'a>>>,
}

/// What a message says of what it does not carry. Sequin's say nothing; those of capture do.
#[derive(Debug, Default)]
pub struct Sent<'a> {
    /// As `pg_class.relreplident` has it.
    pub replica_identity: Option<i8>,
    pub unknown_columns: Option<Vec<Cow<'a, str>>>,
    pub unknown_old_columns: Option<Vec<Cow<'a, str>>>,
    /// What else is to be known of the change, an object.
    pub notes: Option<&'a str>,
    /// What the images do not hold of values: texts by column, of each side.
    pub exact_values: Option<&'a str>,
}

impl<'a> Sent<'a> {
    pub(super) fn parse(metadata: &Object<'a>) -> Result<Self, Reject> {
        let replica_identity = match metadata.string("replica_identity")?.as_deref() {
            None => None,
            Some("full") => Some(b'f'),
            Some("default") => Some(b'd'),
            Some("index") => Some(b'i'),
            Some("nothing") => Some(b'n'),
            Some(_) => {
                let reason = "\"replica_identity\" is not \"full\", \"default\", \"index\" or \"nothing\"";
                return Err(Reject::new(SqlState::INVALID_PARAMETER_VALUE, reason));
            }
        };
        Ok(Self {
            replica_identity: replica_identity.map(|letter| letter as i8),
            unknown_columns: metadata.strings("unknown_columns")?,
            unknown_old_columns: metadata.strings("unknown_old_columns")?,
            notes: metadata.get("notes").map(notes).transpose()?,
            exact_values: metadata.get("exact_values").map(exact_values).transpose()?,
        })
    }

    pub fn notes_have(&self, name: &str) -> bool {
        self.notes.and_then(Object::parse).is_some_and(|notes| notes.has(name))
    }
}

/// An object. That something was erased only the log itself says.
fn notes(text: &str) -> Result<&str, Reject> {
    let members = serde_json::from_str::<HashMap<Cow<str>, IgnoredAny>>(text);
    match members.map_err(|_| wrong_type("notes", "an object"))?.contains_key("erased") {
        true => Err(Reject::new(SqlState::INVALID_PARAMETER_VALUE, "\"notes\" must not have \"erased\"")),
        false => Ok(text),
    }
}

impl<'a> Change<'a> {
    pub fn parse(message: RawMessage<'a>) -> Result<Self, Reject> {
        let envelope = Envelope::parse(message.text)
            .or_else(|| Object::parse(message.text))
            .ok_or_else(|| Reject::new(SqlState::INVALID_PARAMETER_VALUE, "message is not a JSON object"))?;
        Self::of(message, envelope)
    }

    /// The same where the message's envelope was read along with its body.
    pub fn of(message: RawMessage<'a>, envelope: Object<'a>) -> Result<Self, Reject> {
        let mut envelope = envelope.unambiguous()?;
        let action = Action::parse(&required(envelope.string("action")?, "action").map_err(hint_at_transform)?)?;
        let mut metadata = required(envelope.object("metadata")?, "metadata").map_err(hint_at_transform)?;

        let commit_lsn = metadata.integer("commit_lsn")?;
        let commit_idx = metadata.integer("commit_idx")?;
        if action != Action::Read {
            required(commit_lsn, "commit_lsn")?;
        }
        if action.is_change() {
            required(commit_idx, "commit_idx")?;
        }
        let commit_microseconds = commit_time(&required(metadata.string("commit_timestamp")?, "commit_timestamp")?)?;
        let key = metadata.get("record_pks").map(RecordKey::parse).transpose()?;
        let idempotency_key = match metadata.string("idempotency_key")?.filter(|key| !key.is_empty()) {
            Some(idempotency_key) => idempotency_key,
            None => match commit_lsn.zip(commit_idx).filter(|_| action != Action::Read) {
                Some(position) => key_of_position(position),
                None => key_of_read(key.as_ref()),
            }
            .into(),
        };

        let record = image(&envelope, "record")?;
        if action.has_record() {
            required(record, "record")?;
        }
        let changes = image(&envelope, "changes")?;
        let (old_values, new_values) = action.images(record, changes);

        Ok(Self {
            original: Original::Message(message),
            table: SourceTable::parse(&mut metadata)?,
            action,
            commit_lsn,
            commit_idx,
            commit_microseconds,
            idempotency_key,
            key,
            old_values: old_values.map(Image::Text),
            new_values: new_values.map(Image::Text),
            changes_key: None,
            annotations: metadata.get("transaction_annotations").map(Annotations::of_member),
            sent: Sent::parse(&metadata)?,
            who: Who::parse(&metadata),
            unmasked: None,
        })
    }

    /// The change that `message` tells in the place of this one, with masks.
    pub fn masked(self, message: RawMessage<'a>) -> Result<Self, Reject> {
        let masked = message.parsed().map_err(|(_, reject)| reject)?;
        Ok(Change {
            changes_key: Some(self.may_change_key()),
            annotations: self.annotations.clone(),
            who: self.who.clone(),
            unmasked: Some(Box::new(self)),
            ..masked
        })
    }

    /// As it came.
    pub fn without_masks(&self) -> &Self {
        self.unmasked.as_deref().unwrap_or(self)
    }

    /// An update that may have given its row another key.
    pub fn may_change_key(&self) -> bool {
        self.changes_key.unwrap_or_else(|| match (self.old_values, self.new_values, &self.key) {
            (Some(Image::Text(old_values)), Some(Image::Text(new_values)), Some(key)) => {
                may_change_key(old_values, new_values, key)
            }
            _ => false,
        })
    }

    /// The idempotency key, where the position does not tell it.
    pub fn own_key(&self) -> Option<&str> {
        // capture makes it of the position
        if matches!(self.original, Original::Captured(..)) {
            return None;
        }
        let position = self.commit_lsn.zip(self.commit_idx);
        Some(&*self.idempotency_key).filter(|key| !position.is_some_and(|position| is_key_of_position(key, position)))
    }
}

fn hint_at_transform(reject: Reject) -> Reject {
    reject.hint("An audit log needs whole messages: use no transform in the sink, in particular not \"record_only\".")
}

/// RFC 3339, in microseconds.
pub(super) fn commit_time(text: &str) -> Result<i64, Reject> {
    let time: Timestamp = text.parse().map_err(|_| {
        Reject::new(
            SqlState::INVALID_DATETIME_FORMAT,
            "\"commit_timestamp\" is not a time such as 2026-03-01T09:00:00.000000Z",
        )
    })?;
    // a leap second would be read as the second before it
    if text.get(16..19) == Some(":60") {
        return Err(Reject::new(SqlState::DATETIME_FIELD_OVERFLOW, "\"commit_timestamp\" has a 60th second"));
    }
    if time.subsec_nanosecond() % 1_000 != 0 {
        return Err(Reject::new(SqlState::DATETIME_FIELD_OVERFLOW, "\"commit_timestamp\" is finer than a microsecond"));
    }
    commit_time_of(time.as_microsecond()).ok_or_else(|| {
        Reject::new(SqlState::DATETIME_FIELD_OVERFLOW, "\"commit_timestamp\" is not between the years 1970 and 2199")
    })
}

/// PostgreSQL counts time from 2000-01-01 (PostgreSQL source, `timestamp.h`): so long after 1970.
pub const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// Microseconds since 1970, if they can be a commit's.
pub fn commit_time_of(microseconds: i64) -> Option<i64> {
    (0..YEAR_2200).contains(&microseconds.div_euclid(1_000_000)).then_some(microseconds)
}

#[cfg(test)]
mod tests {
    use super::super::source_table::UNKNOWN_DATABASE;
    use super::*;
    use crate::message::Origin;

    const MESSAGE: &str = r#"{"action":"update","changes":{"qty":1.10},"record":{"id":1,"qty":2.00},"metadata":{
        "commit_idx":1,"commit_lsn":61536216,"commit_timestamp":"2026-11-22T21:09:42.850944Z",
        "database":{"id":"d1","name":"shop"},"idempotency_key":"NjE1MzYyMTY6MQ==","record_pks":["1"],
        "table_name":"orders","table_schema":"public","transaction_annotations":{"username":"ada"}}}"#;

    fn change(text: &str) -> Result<Change<'_>, Reject> {
        Change::parse(RawMessage { text, position: 1 })
    }

    fn sqlstate(text: &str) -> SqlState {
        change(text).map(|_| ()).expect_err(text).sqlstate
    }

    #[test]
    fn images_and_position_arrive_unaltered() {
        let found = change(MESSAGE).expect("a good message");
        assert_eq!(found.old_values.and_then(Image::text), Some(r#"{"qty":1.10}"#));
        assert_eq!(found.new_values.and_then(Image::text), Some(r#"{"id":1,"qty":2.00}"#));
        assert_eq!((found.commit_lsn, found.commit_idx), (Some(61536216), Some(1)));
        assert_eq!(found.commit_microseconds, 1_795_381_782_850_944);
        assert!(matches!(found.annotations, Some(Annotations::Text(text)) if text == r#"{"username":"ada"}"#));
    }

    #[test]
    fn images_by_action() {
        let sides = |action: &str| {
            let text = MESSAGE.replace("\"update\"", &format!("\"{action}\""));
            change(&text).map(|found| (found.old_values.is_some(), found.new_values.is_some())).expect(action)
        };
        assert_eq!(sides("insert"), (false, true));
        assert_eq!(sides("read"), (false, true));
        assert_eq!(sides("update"), (true, true));
        assert_eq!(sides("delete"), (true, false));
        assert_eq!(sides("truncate"), (false, false));
        assert_eq!(sides("complete"), (false, false));
    }

    #[test]
    fn a_message_may_say_what_it_does_not_carry() {
        assert_eq!(change(MESSAGE).expect("Sequin's").sent.unknown_columns, None);
        let text = MESSAGE.replace(
            "\"record_pks\"",
            concat!(
                r#""notes":{"n":1},"replica_identity":"full","unknown_columns":[],"#,
                r#""unknown_old_columns":["a","b \"c\""],"record_pks""#
            ),
        );
        let sent = change(&text).expect("capture's").sent;
        assert_eq!((sent.replica_identity, sent.notes), (Some(b'f' as i8), Some(r#"{"n":1}"#)));
        assert_eq!(
            (sent.unknown_columns, sent.unknown_old_columns),
            (Some(vec![]), Some(vec!["a".into(), r#"b "c""#.into()]))
        );
    }

    #[test]
    fn a_missing_key_is_derived_as_sequin_does() {
        let text = MESSAGE.replace(r#""idempotency_key":"NjE1MzYyMTY6MQ==","#, "");
        assert_eq!(change(&text).expect("derived").idempotency_key, "NjE1MzYyMTY6MQ==");
    }

    #[test]
    fn a_key_that_the_position_tells_is_not_its_own() {
        for position in [(0, 0), (61536216, 1), (i64::MAX, i32::MAX)] {
            assert!(is_key_of_position(&key_of_position(position), position));
            assert!(!is_key_of_position("", position) && !is_key_of_position("NjE1MzYyMTY6Mg==", position));
        }
    }

    #[test]
    fn a_missing_database_is_unknown() {
        let text = MESSAGE.replace(r#""database":{"id":"d1","name":"shop"},"#, r#""database_name":"shop","#);
        let found = change(&text).expect("older releases");
        assert_eq!((&*found.table.database_id, found.table.database_name.as_deref()), (UNKNOWN_DATABASE, Some("shop")));
    }

    #[test]
    fn what_is_needed_is_asked_for() {
        for field in [
            "commit_idx",
            "commit_lsn",
            "commit_timestamp",
            "table_name",
            "table_schema",
            "action",
            "record",
            "metadata",
        ] {
            let text = MESSAGE.replace(&format!("\"{field}\":"), "\"other\":");
            assert_eq!(sqlstate(&text), SqlState::SQL_JSON_MEMBER_NOT_FOUND, "{field}");
        }
    }

    #[test]
    fn a_read_needs_no_position() {
        let text = MESSAGE
            .replace("\"update\"", "\"read\"")
            .replace("\"commit_idx\":1", "\"commit_idx\":null")
            .replace("61536216,", "null,");
        assert_eq!(change(&text).expect("a read").commit_lsn, None);
    }

    #[test]
    fn the_end_of_a_backfill_has_a_position_and_no_record() {
        let text = MESSAGE
            .replace("\"update\"", "\"complete\"")
            .replace("\"commit_idx\":1", "\"commit_idx\":null")
            .replace(r#"{"id":1,"qty":2.00}"#, "null");
        let found = change(&text).expect("an end");
        assert_eq!((found.commit_lsn, found.commit_idx), (Some(61536216), None));
        assert!(found.new_values.is_none());
        assert_eq!(sqlstate(&text.replace("61536216,", "null,")), SqlState::SQL_JSON_MEMBER_NOT_FOUND);
    }

    #[test]
    fn wrong_types_have_their_sqlstate() {
        for (from, to, code) in [
            ("61536216,", "\"1\",", "22023"),
            ("61536216,", "1.5,", "22023"),
            ("61536216,", "-1,", "22003"),
            ("61536216,", "99999999999999999999,", "22003"),
            ("\"commit_idx\":1", "\"commit_idx\":2147483648", "22003"),
            ("2026-11-22T", "2026-13-22T", "22007"),
            ("2026-11-22T", "1812-11-22T", "22008"),
            ("850944Z", "8509441Z", "22008"),
            ("21:09:42", "21:09:60", "22008"),
            ("\"orders\"", "7", "22023"),
            ("\"orders\"", "\"a\\u0000\"", "22P05"),
            ("\"orders\"", "\"\\ud800\"", "22P02"),
            ("\"update\"", "\"upsert\"", "22023"),
            ("{\"qty\":1.10}", "[]", "22023"),
            ("\"record_pks\"", "\"replica_identity\":\"all\",\"record_pks\"", "22023"),
            ("\"record_pks\"", "\"unknown_columns\":[1],\"record_pks\"", "22023"),
            ("\"record_pks\"", "\"notes\":[],\"record_pks\"", "22023"),
            ("\"record_pks\"", "\"notes\":{\"er\\u0061sed\":{}},\"record_pks\"", "22023"),
        ] {
            assert_eq!(sqlstate(&MESSAGE.replace(from, to)).as_str(), code, "{from} -> {to}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        for (from, to) in [
            ("{\"action\"", "{\"action\":\"insert\",\"action\""),
            ("\"commit_idx\":1", "\"commit_idx\":1,\"commit_idx\":2"),
        ] {
            assert_eq!(sqlstate(&MESSAGE.replace(from, to)).as_str(), "22030");
        }
    }

    #[test]
    fn identity_separates_and_joins() {
        let identity = |text: &str| change(text).expect("a message").identity(Origin::Ingest, None);
        let one = identity(MESSAGE);
        assert_eq!(one, identity(&MESSAGE.replace("1.10", "9")), "images are never compared");
        assert_eq!(one, identity(&MESSAGE.replace("[\"1\"]", "[]")), "nor is the record key part of it");
        for (from, to) in [("\"d1\"", "\"d2\""), ("\"orders\"", "\"order\""), ("\"public\"", "\"x\""), ("MQ==", "Mg==")]
        {
            assert_ne!(one, identity(&MESSAGE.replace(from, to)), "{from} -> {to}");
        }
        let captured = |origin| change(MESSAGE).expect("a message").identity(origin, None);
        assert_ne!(one, captured(Origin::Capture), "what was delivered never stands for what was captured");
        assert_eq!(captured(Origin::Capture), captured(Origin::Backfill));
        let read = MESSAGE.replace("\"update\"", "\"read\"");
        let other = read.replace("[\"1\"]", "[\"2\"]");
        let read = change(&read).expect("a read");
        assert_ne!(read.identity(Origin::Ingest, Some("a")), read.identity(Origin::Ingest, Some("b")));
        assert_ne!(
            read.identity(Origin::Ingest, Some("a")),
            change(&other).expect("a read").identity(Origin::Ingest, Some("a"))
        );
    }

    #[test]
    fn agreement_ignores_empty_strings_in_keys() {
        let with = |pks: &str| MESSAGE.replace("[\"1\"]", pks);
        let agree = |one: &str, two: &str| change(&with(one)).expect(one).agrees_with(&change(&with(two)).expect(two));
        assert!(agree(r#"["","a"]"#, r#"["a"]"#) && agree(r#"[""]"#, "[]") && agree("null", r#"["1"]"#));
        assert!(!agree(r#"["1"]"#, r#"["2"]"#) && !agree(r#"["1"]"#, "[]"));
    }
}
