//! One table, as the stream or the catalogs describe it, and its changes as JSON messages.

use super::pgoutput::{Old, ReplicaIdentity, Value};
use super::value::{Kind, push_json, push_string, string};
use std::fmt::Write;

/// What stands in place of a value that was not sent.
const UNCHANGED: &str = "\"unchanged_toast\"";

pub struct Table {
    columns: Vec<Column>,
    /// Places of the primary key's columns; `None`: one of them is not sent.
    key: Option<Vec<usize>>,
    /// Columns that the table has and the stream leaves out, as JSON strings.
    never_sent: Vec<String>,
    /// `"replica_identity":…,"table_name":…,"table_schema":…`
    names: String,
}

pub struct Column {
    /// A JSON string.
    name: String,
    kind: Kind,
    is_identity: bool,
}

impl Column {
    pub fn new(name: &str, kind: Kind, is_identity: bool) -> Self {
        Self { name: string(name), kind, is_identity }
    }
}

/// Where a change stands, and what its transaction says of it.
pub struct Position<'a> {
    pub lsn: u64,
    /// `None` for a row that a backfill has read.
    pub idx: Option<u32>,
    /// As JSON text, like the others here.
    pub time: &'a str,
    pub idempotency_key: &'a str,
    pub database: &'a str,
    pub annotations: Option<&'a str>,
}

/// The row after a change, the values before it, and what of both was not sent.
#[derive(Default)]
struct Images {
    /// A JSON array of the primary key's values; `None`: the row does not have them.
    key: Option<String>,
    record: Option<String>,
    changes: Option<String>,
    unknown: Vec<usize>,
    unknown_old: Vec<usize>,
}

impl Table {
    pub fn new(
        schema: &str,
        name: &str,
        identity: ReplicaIdentity,
        columns: Vec<Column>,
        key: &[String],
        never_sent: &[String],
    ) -> Self {
        let place = |name: &String| columns.iter().position(|column| column.name == string(name));
        Self {
            key: key.iter().map(place).collect(),
            never_sent: never_sent.iter().map(|name| string(name)).collect(),
            names: format!(
                "\"replica_identity\":\"{}\",\"table_name\":{},\"table_schema\":{}",
                identity.as_str(),
                string(name),
                string(schema)
            ),
            columns,
        }
    }

    pub fn inserted(&self, at: &Position, new: &[Value]) -> String {
        self.message("insert", at, &self.whole(new))
    }

    /// A row as a backfill has read it.
    pub fn read(&self, at: &Position, row: &[Value]) -> String {
        self.message("read", at, &self.whole(row))
    }

    pub fn truncated(&self, at: &Position) -> String {
        self.message("truncate", at, &Images::default())
    }

    /// With FULL the old row fills in what was not sent again; changes are what differs. With a key only the old key is
    /// known, and without either the old row has the key of the new one.
    pub fn updated(&self, at: &Position, old: Option<&Old>, new: &[Value]) -> String {
        let (before, is_whole): (&[Value], bool) = match old {
            Some(Old::Row(row)) => (row, true),
            Some(Old::Key(row)) => (row, false),
            None => (&[], false),
        };
        let (mut record, mut changes) = (Members::new(), Members::new());
        let (mut unknown, mut unknown_old) = (Vec::new(), Vec::new());
        let mut after = Vec::with_capacity(new.len());
        for (place, new) in new.iter().enumerate() {
            let is_identity = self.columns.get(place).is_some_and(|column| column.is_identity);
            let old = before.get(place).filter(|_| is_whole || is_identity);
            let new = match (new, old) {
                (Value::Unchanged, Some(old)) if *old != Value::Unchanged => *old,
                _ => *new,
            };
            if new == Value::Unchanged {
                unknown.push(place);
            }
            self.push(&mut record, place, &new);
            after.push(new);
            match old {
                Some(old) if *old != new => self.push(&mut changes, place, old),
                Some(_) => {}
                None if is_identity => {} // the key did not change
                None => unknown_old.push(place),
            }
        }
        let images = Images {
            key: self.key(&after),
            record: Some(record.finish()),
            changes: Some(changes.finish()),
            unknown,
            unknown_old,
        };
        self.message("update", at, &images)
    }

    pub fn deleted(&self, at: &Position, old: &Old) -> String {
        let images = match old {
            Old::Row(row) => self.whole(row),
            Old::Key(row) => {
                let is_identity = |place: usize| self.columns.get(place).is_some_and(|column| column.is_identity);
                let unknown: Vec<usize> = (0..row.len()).filter(|place| !is_identity(*place)).collect();
                let not_sent = |place: &usize| unknown.contains(place);
                let sent: Vec<Value> =
                    (0..row.len()).map(|place| if not_sent(&place) { Value::Unchanged } else { row[place] }).collect();
                let images = self.whole(row);
                Images { key: self.key(&sent), unknown_old: unknown.clone(), unknown, ..images }
            }
        };
        self.message("delete", at, &images)
    }

    fn whole(&self, row: &[Value]) -> Images {
        let mut record = Members::new();
        for (place, value) in row.iter().enumerate() {
            self.push(&mut record, place, value);
        }
        Images { key: self.key(row), record: Some(record.finish()), ..Images::default() }
    }

    fn push(&self, members: &mut Members, place: usize, value: &Value) {
        let Some(column) = self.columns.get(place) else { return };
        let json = members.name(&column.name);
        match value {
            Value::Null => json.push_str("null"),
            Value::Unchanged => json.push_str(UNCHANGED),
            Value::Text(text) => push_json(json, text, &column.kind),
        }
    }

    fn key(&self, row: &[Value]) -> Option<String> {
        let text = |place: &usize| match row.get(*place) {
            Some(Value::Text(text)) => Some(*text),
            _ => None,
        };
        let key = self.key.as_ref().filter(|key| !key.is_empty())?;
        let mut json = String::from("[");
        for value in key.iter().map(text).collect::<Option<Vec<_>>>()? {
            if json.len() > 1 {
                json.push(',');
            }
            push_string(&mut json, value);
        }
        json.push(']');
        Some(json)
    }

    fn message(&self, action: &str, at: &Position, images: &Images) -> String {
        let record = images.record.as_deref().unwrap_or("null");
        let changes = images.changes.as_deref().unwrap_or("null");
        let mut json = String::with_capacity(record.len() + changes.len() + self.names.len() + 512);
        let _ = write!(json, "{{\"action\":\"{action}\",\"changes\":{changes},\"metadata\":{{\"commit_idx\":");
        match at.idx {
            Some(idx) => drop(write!(json, "{idx}")),
            None => json.push_str("null"),
        }
        let Position { lsn, time, database, idempotency_key, .. } = at;
        let annotations = at.annotations.unwrap_or("null");
        // not an empty one: what is not known contradicts nothing when the change is delivered again
        let key = images.key.as_deref().unwrap_or("null");
        let _ = write!(
            json,
            ",\"commit_lsn\":{lsn},\"commit_timestamp\":{time},\"database\":{database},\"idempotency_key\":{idempotency_key},\
             \"record_pks\":{key},{},\"transaction_annotations\":{annotations},\"unknown_columns\":",
            self.names
        );
        self.push_names(&mut json, &images.unknown, images.record.is_some());
        json.push_str(",\"unknown_old_columns\":");
        self.push_names(&mut json, &images.unknown_old, matches!(action, "update" | "delete"));
        let _ = write!(json, "}},\"record\":{record}}}");
        json
    }

    fn push_names(&self, json: &mut String, places: &[usize], has_row: bool) {
        let names = places.iter().filter_map(|place| self.columns.get(*place)).map(|column| &column.name);
        let never_sent = self.never_sent.iter().filter(|_| has_row);
        json.push('[');
        for (n, name) in names.chain(never_sent).enumerate() {
            if n > 0 {
                json.push(',');
            }
            json.push_str(name);
        }
        json.push(']');
    }
}

/// A JSON object that grows.
struct Members(String);

impl Members {
    fn new() -> Self {
        Self(String::from("{"))
    }

    /// The text, for the value of `name` to be appended.
    fn name(&mut self, name: &str) -> &mut String {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push(':');
        &mut self.0
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}
