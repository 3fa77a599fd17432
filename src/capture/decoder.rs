//! From the messages of `pgoutput` to changes as Sequin writes them.

use super::pgoutput::{Malformed, Message, Old, Relation, ReplicaIdentity, Value, message};
use super::value::{Kind, json, string};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// PostgreSQL counts time from 2000-01-01 (PostgreSQL source, `timestamp.h`).
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
const SET: &str = "sequin:transaction_annotations.set";
const CLEAR: &str = "sequin:transaction_annotations.clear";
/// What stands in place of a value that was not sent.
const UNCHANGED: &str = "\"unchanged_toast\"";

/// What the stream does not say of tables and types: the source's catalogs do.
pub trait Catalog {
    fn kind(&self, type_oid: u32) -> Kind;
    /// Names of the primary key's columns.
    fn key(&self, relation: u32) -> Vec<String>;
    fn database_id(&self) -> &str;
    fn database_name(&self) -> &str;
}

pub struct Decoder<C> {
    catalog: C,
    tables: HashMap<u32, Table>,
    transaction: Option<Transaction>,
}

struct Table {
    relation: Relation,
    kinds: Vec<Kind>,
    key: Vec<String>,
}

struct Transaction {
    lsn: u64,
    time: String,
    /// Counts changes, truncates and logical messages.
    next_idx: u32,
    annotations: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Malformed(Malformed),
    /// A change of a table that the stream has not described, or outside of a transaction.
    OutOfPlace,
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// The row after a change, the values before it, and what of both was not sent.
#[derive(Default)]
struct Images {
    key: Vec<String>,
    record: Option<Vec<(usize, String)>>,
    changes: Option<Vec<(usize, String)>>,
    unknown: Vec<usize>,
    unknown_old: Vec<usize>,
}

impl<C: Catalog> Decoder<C> {
    pub fn new(catalog: C) -> Self {
        Self { catalog, tables: HashMap::new(), transaction: None }
    }

    /// The changes that one message of the stream stands for, each as JSON.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Vec<String>, Failure> {
        let changes = match message(bytes)? {
            Message::Begin { commit_lsn, commit_time } => {
                let time = Timestamp::from_microsecond(commit_time.saturating_add(EPOCH_MICROSECONDS));
                let time = time.map_or(String::new(), |time| format!("{time:.6}"));
                self.transaction = Some(Transaction { lsn: commit_lsn, time, next_idx: 0, annotations: None });
                Vec::new()
            }
            Message::Commit { .. } => {
                self.transaction = None;
                Vec::new()
            }
            Message::Relation(relation) => {
                let kinds = relation.columns.iter().map(|column| self.catalog.kind(column.type_oid)).collect();
                let key = self.catalog.key(relation.oid);
                self.tables.insert(relation.oid, Table { relation, kinds, key });
                Vec::new()
            }
            Message::Logical { transactional: true, prefix, content } => {
                let transaction = self.transaction.as_mut().ok_or(Failure::OutOfPlace)?;
                transaction.next_idx += 1;
                match prefix {
                    SET => transaction.annotations = annotations(content),
                    CLEAR => transaction.annotations = None,
                    _ => {}
                }
                Vec::new()
            }
            // not of any transaction: it explains nobody's changes
            Message::Logical { transactional: false, .. } | Message::Origin | Message::Type => Vec::new(),
            Message::Insert { relation, new } => self.change("insert", &[relation], |table| table.insert(&new))?,
            Message::Update { relation, old, new } => {
                self.change("update", &[relation], |table| table.update(old.as_ref(), &new))?
            }
            Message::Delete { relation, old } => self.change("delete", &[relation], |table| table.delete(&old))?,
            Message::Truncate { relations } => self.change("truncate", &relations, |_| Images::default())?,
        };
        Ok(changes)
    }

    /// One change for each of `relations` (a TRUNCATE may name several), all at the next place of the transaction.
    fn change(
        &mut self,
        action: &str,
        relations: &[u32],
        images: impl Fn(&Table) -> Images,
    ) -> Result<Vec<String>, Failure> {
        let transaction = self.transaction.as_mut().ok_or(Failure::OutOfPlace)?;
        let idx = transaction.next_idx;
        transaction.next_idx += 1;
        let transaction = &*transaction;
        relations
            .iter()
            .map(|relation| {
                let table = self.tables.get(relation).ok_or(Failure::OutOfPlace)?;
                Ok(table.message(action, transaction, idx, &self.catalog, &images(table)))
            })
            .collect()
    }
}

/// Valid JSON passes through as it is; anything else annotates nothing.
fn annotations(content: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content).ok()?.trim();
    serde_json::from_str::<&RawValue>(text).ok()?;
    (text != "null").then(|| text.to_owned())
}

impl Table {
    fn message(
        &self,
        action: &str,
        transaction: &Transaction,
        idx: u32,
        catalog: &impl Catalog,
        images: &Images,
    ) -> String {
        let Transaction { lsn, time, annotations, .. } = transaction;
        let identity = match self.relation.identity {
            ReplicaIdentity::Full => "full",
            ReplicaIdentity::Default => "default",
            ReplicaIdentity::Index => "index",
            ReplicaIdentity::Nothing => "nothing",
        };
        let or_null = |members: &Option<Vec<(usize, String)>>| {
            members.as_ref().map_or("null".into(), |members| self.object(members))
        };
        let metadata = [
            ("commit_idx", idx.to_string()),
            ("commit_lsn", lsn.to_string()),
            ("commit_timestamp", string(time)),
            (
                "database",
                format!("{{\"id\":{},\"name\":{}}}", string(catalog.database_id()), string(catalog.database_name())),
            ),
            ("idempotency_key", string(&BASE64_STANDARD.encode(format!("{lsn}:{idx}")))),
            ("record_pks", serde_json::Value::from(images.key.clone()).to_string()),
            ("replica_identity", string(identity)),
            ("table_name", string(&self.relation.name)),
            ("table_schema", string(&self.relation.schema)),
            ("transaction_annotations", annotations.clone().unwrap_or_else(|| "null".into())),
            ("unknown_columns", self.names(&images.unknown)),
            ("unknown_old_columns", self.names(&images.unknown_old)),
        ];
        let metadata: Vec<String> = metadata.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!(
            "{{\"action\":\"{action}\",\"changes\":{},\"metadata\":{{{}}},\"record\":{}}}",
            or_null(&images.changes),
            metadata.join(","),
            or_null(&images.record)
        )
    }

    /// The primary key's values as the row has them; empty where the row does not have all.
    fn key(&self, row: &[Value]) -> Vec<String> {
        let value = |name: &String| {
            let place = self.relation.columns.iter().position(|column| column.name == *name)?;
            match row.get(place)? {
                Value::Text(text) => Some((*text).to_owned()),
                _ => None,
            }
        };
        self.key.iter().map(value).collect::<Option<_>>().unwrap_or_default()
    }

    fn value(&self, place: usize, value: &Value) -> String {
        match value {
            Value::Null => "null".into(),
            Value::Unchanged => UNCHANGED.into(),
            Value::Text(text) => json(text, self.kinds.get(place).unwrap_or(&Kind::Text)),
        }
    }

    fn image(&self, row: &[Value]) -> Vec<(usize, String)> {
        row.iter().enumerate().map(|(place, value)| (place, self.value(place, value))).collect()
    }

    fn insert(&self, new: &[Value]) -> Images {
        Images { key: self.key(new), record: Some(self.image(new)), ..Images::default() }
    }

    /// With FULL the old row fills in what was not sent again; changes are what differs. With a key only the old key is
    /// known, and without either the old row has the key of the new one.
    fn update(&self, old: Option<&Old>, new: &[Value]) -> Images {
        let (before, is_whole): (&[Value], bool) = match old {
            Some(Old::Row(row)) => (row, true),
            Some(Old::Key(row)) => (row, false),
            None => (&[], false),
        };
        let mut images = Images { key: self.key(new), ..Images::default() };
        let (mut record, mut changes) = (Vec::with_capacity(new.len()), Vec::new());
        for (place, new) in new.iter().enumerate() {
            let is_identity = self.relation.columns.get(place).is_some_and(|column| column.is_identity);
            let old = before.get(place).filter(|_| is_whole || is_identity);
            let new = match (new, old) {
                (Value::Unchanged, Some(old)) if *old != Value::Unchanged => old,
                _ => new,
            };
            if *new == Value::Unchanged {
                images.unknown.push(place);
            }
            record.push((place, self.value(place, new)));
            match old {
                Some(old) if old != new => changes.push((place, self.value(place, old))),
                Some(_) => {}
                None if is_identity => {} // the key did not change
                None => images.unknown_old.push(place),
            }
        }
        Images { record: Some(record), changes: Some(changes), ..images }
    }

    fn delete(&self, old: &Old) -> Images {
        match old {
            Old::Row(row) => Images { key: self.key(row), record: Some(self.image(row)), ..Images::default() },
            Old::Key(row) => {
                let is_identity =
                    |place: usize| self.relation.columns.get(place).is_some_and(|column| column.is_identity);
                let unknown: Vec<usize> = (0..row.len()).filter(|place| !is_identity(*place)).collect();
                Images {
                    key: self.key(row),
                    record: Some(self.image(row)),
                    changes: None,
                    unknown: unknown.clone(),
                    unknown_old: unknown,
                }
            }
        }
    }

    fn name(&self, place: usize) -> &str {
        self.relation.columns.get(place).map_or("", |column| &column.name)
    }

    fn object(&self, members: &[(usize, String)]) -> String {
        let members: Vec<_> =
            members.iter().map(|(place, value)| format!("{}:{value}", string(self.name(*place)))).collect();
        format!("{{{}}}", members.join(","))
    }

    fn names(&self, places: &[usize]) -> String {
        let names: Vec<_> = places.iter().map(|place| string(self.name(*place))).collect();
        format!("[{}]", names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Fixed;
    impl Catalog for Fixed {
        fn kind(&self, type_oid: u32) -> Kind {
            if type_oid == 23 { Kind::Integer } else { Kind::Text }
        }
        fn key(&self, _: u32) -> Vec<String> {
            vec!["id".into()]
        }
        fn database_id(&self) -> &str {
            "d"
        }
        fn database_name(&self) -> &str {
            "n"
        }
    }

    const BEGIN: &[u8] = b"B\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\x01";
    const TABLE: &[u8] =
        b"R\0\0\0\x07public\0t\0d\0\x02\x01id\0\0\0\0\x17\xff\xff\xff\xff\0v\0\0\0\0\x19\xff\xff\xff\xff";
    const INSERT: &[u8] = b"I\0\0\0\x07N\0\x02t\0\0\0\x011t\0\0\0\x01a";

    fn annotation(flags: u8, content: &str) -> Vec<u8> {
        let length = (content.len() as u32).to_be_bytes();
        [b"M", &[flags][..], &[0; 8], SET.as_bytes(), b"\0", &length, content.as_bytes()].concat()
    }

    #[test]
    fn a_change_and_its_place() {
        let mut decoder = Decoder::new(Fixed);
        let all = [BEGIN, TABLE, &annotation(1, "{\"username\": \"ada\"}"), &annotation(0, "\"stray\""), INSERT];
        let found: Vec<String> = all.iter().flat_map(|bytes| decoder.decode(bytes).unwrap_or_default()).collect();
        assert_eq!(
            found,
            [
                r#"{"action":"insert","changes":null,"metadata":{"commit_idx":1,"commit_lsn":9,"commit_timestamp":"2000-01-01T00:00:00.000000Z","database":{"id":"d","name":"n"},"idempotency_key":"OTox","record_pks":["1"],"replica_identity":"default","table_name":"t","table_schema":"public","transaction_annotations":{"username": "ada"},"unknown_columns":[],"unknown_old_columns":[]},"record":{"id":1,"v":"a"}}"#
            ]
        );
    }

    #[test]
    fn what_comes_out_of_place_is_an_error() {
        assert_eq!(Decoder::new(Fixed).decode(INSERT), Err(Failure::OutOfPlace));
        let mut decoder = Decoder::new(Fixed);
        assert_eq!(decoder.decode(BEGIN), Ok(Vec::new()));
        assert_eq!(decoder.decode(INSERT), Err(Failure::OutOfPlace));
    }

    proptest! {
        #[test]
        fn any_row_is_a_valid_message(kind in prop::sample::select(b"IUD".to_vec()), mark in prop::sample::select(b"NKO".to_vec()), row: Vec<Option<String>>) {
            let mut bytes = vec![kind, 0, 0, 0, 7, mark];
            bytes.extend((row.len() as u16).to_be_bytes());
            for value in row {
                match value {
                    None => bytes.push(b'u'),
                    Some(text) => {
                        bytes.push(b't');
                        bytes.extend((text.len() as u32).to_be_bytes());
                        bytes.extend(text.as_bytes());
                    }
                }
            }
            let mut decoder = Decoder::new(Fixed);
            for message in [BEGIN, TABLE, &bytes] {
                for change in decoder.decode(message).unwrap_or_default() {
                    prop_assert!(serde_json::from_str::<&RawValue>(&change).is_ok(), "{change}");
                }
            }
        }
    }
}
