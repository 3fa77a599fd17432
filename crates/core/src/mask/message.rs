//! A message written anew, with masks: in its images, the texts beside them, its notes and its key. Members that no
//! change is made of are left out, since nobody can tell what they hold.

use super::how::{Masker, hash, is_hash, text_of};
use super::object::{closed, push_member};
use super::row::{Masked, MaskedRow, MembersBefore};
use super::rules::TableMasks;
use crate::json::object::{Object, strings};
use crate::json::{push_string, string};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// Members of metadata that stay as they are.
const PLAIN: &[&str] = &[
    "attested",
    "commit_idx",
    "commit_lsn",
    "commit_timestamp",
    "consumer",
    "database",
    "database_name",
    "replica_identity",
    "server_context",
    "table_name",
    "table_schema",
    "transaction_annotations",
    "transaction_start",
];

/// `key_columns`: whose values `record_pks` has, in their order, as far as anybody has said. `None`: the text is no
/// object. A message that is masked already stays as it is.
pub fn masked_message(
    text: &str,
    masks: &TableMasks,
    key_columns: Option<&[String]>,
    masker: &Masker,
) -> Option<String> {
    let envelope = Object::parse(text)?;
    let is = |action| envelope.last("action") == Some(action);
    let (is_update, is_delete, is_read) = (is("\"update\""), is("\"delete\""), is("\"read\""));
    let row = |name| envelope.members().filter(move |(key, _)| *key == name);
    let before =
        if masker.was_masked { masked_before(&envelope).unwrap_or_default() } else { MembersBefore::default() };
    let mut of_record = Masked::default();
    let mut of_changes = Masked::default();
    let records: Vec<_> = row("record").map(|(_, json)| of_record.add(json, masks, masker, &before)).collect();
    let changes: Vec<_> = row("changes").map(|(_, json)| of_changes.add(json, masks, masker, &before)).collect();

    let message = Message { masks, key_columns, masker, of_record, of_changes, is_update, is_delete, is_read };
    let mut json = String::with_capacity(text.len() + 256);
    let (mut records, mut changes) = (records.into_iter(), changes.into_iter());
    for (key, value) in envelope.members() {
        let member = match key.as_ref() {
            "action" if value.starts_with('"') => value.to_owned(),
            "record" => records.next().unwrap_or_default(),
            "changes" => changes.next().unwrap_or_default(),
            "metadata" => message.metadata(value),
            _ => continue,
        };
        push_member(&mut json, key, &member);
    }
    Some(closed(json))
}

fn masked_before(envelope: &Object) -> Option<MembersBefore> {
    let metadata = Object::parse(envelope.last("metadata")?)?;
    let notes = Object::parse(metadata.last("notes")?)?;
    Some(MembersBefore::of(&Object::parse(notes.last("masked")?)?))
}

struct Message<'m> {
    masks: &'m TableMasks,
    key_columns: Option<&'m [String]>,
    masker: &'m Masker,
    of_record: Masked,
    of_changes: Masked,
    is_update: bool,
    is_delete: bool,
    is_read: bool,
}

impl Message<'_> {
    fn metadata(&self, json: &str) -> String {
        let Some(metadata) = Object::parse(json) else { return "null".into() };
        let key = metadata.last("record_pks").map(|key| self.key(key));
        let mut written = String::with_capacity(json.len() + 256);
        for (name, value) in metadata.members() {
            let member = match name.as_ref() {
                "record_pks" => key.clone().map_or_else(|| "null".into(), |(key, _)| key),
                // a read's may be made of its key
                "idempotency_key" if self.is_read && key.as_ref().is_some_and(|(_, is_masked)| *is_masked) => {
                    self.hashed(value)
                }
                "idempotency_key" => value.to_owned(),
                "exact_values" => match self.exact_values(value) {
                    Some(texts) => texts,
                    None => continue,
                },
                "unknown_columns" => with_names(value, self.of_record.columns()),
                "unknown_old_columns" if self.is_update || self.is_delete => {
                    with_names(value, self.of_record.columns().chain(self.of_changes.columns()))
                }
                "unknown_old_columns" => value.to_owned(),
                name if PLAIN.contains(&name) => value.to_owned(),
                _ => continue, // notes come last
            };
            push_member(&mut written, name, &member);
        }
        if let Some(notes) = self.notes(metadata.last("notes"), &unsent(&metadata)) {
            push_member(&mut written, "notes", &notes);
        }
        closed(written)
    }

    /// And whether some value of it is masked.
    fn key(&self, json: &str) -> (String, bool) {
        let Ok(values) = serde_json::from_str::<Vec<&RawValue>>(json) else { return ("null".into(), false) };
        let known = self.key_columns.filter(|columns| columns.len() == values.len());
        let (mut written, mut any) = (String::from("["), false);
        for (place, value) in values.iter().map(|value| value.get()).enumerate() {
            let text = text_of(value);
            let is_masked = match known {
                // a member of it stands in the key, too
                Some(columns) => self.masks.of(&columns[place]).is_some(),
                // nobody has said whose values they are
                None => self.is_masked_only(&text),
            };
            any |= is_masked;
            written.push_str(if place == 0 { "" } else { "," });
            match is_masked {
                true => written.push_str(&self.hashed(value)),
                false if value.starts_with(['{', '[']) => written.push_str("null"),
                false => written.push_str(value),
            }
        }
        written.push(']');
        (written, any)
    }

    /// The text is that of a masked value, and of no other.
    fn is_masked_only(&self, text: &str) -> bool {
        let sides = [&self.of_record, &self.of_changes];
        sides.iter().any(|side| side.hidden.contains(text)) && !sides.iter().any(|side| side.plain.contains(text))
    }

    fn hashed(&self, json: &str) -> String {
        let text = text_of(json);
        let is_one = self.masker.was_masked && is_hash(&text);
        if is_one { json.to_owned() } else { string(&hash(&text, &self.masker.secret)) }
    }

    /// Without texts of masked columns. `None`: nothing is left.
    fn exact_values(&self, json: &str) -> Option<String> {
        let mut written = String::new();
        for (side, texts) in Object::parse(json)?.members() {
            let Some(texts) = Object::parse(texts) else { continue };
            let mut left = String::new();
            texts
                .members()
                .filter(|(column, _)| self.masks.of(column).is_none())
                .for_each(|(column, text)| push_member(&mut left, column, text));
            if !left.is_empty() {
                push_member(&mut written, side, &closed(left));
            }
        }
        (!written.is_empty()).then(|| closed(written))
    }

    /// With what is to be known of the masked values, but for those that were not sent.
    fn notes(&self, json: Option<&str>, unsent: &BTreeSet<String>) -> Option<String> {
        let notes = json.and_then(Object::parse).unwrap_or_default();
        let mut written = String::new();
        for (name, value) in notes.members() {
            match name.as_ref() {
                "masked" => {}
                // they tell a digest of the value
                "omitted" | "omitted_old" => {
                    let mut left = String::new();
                    let columns = Object::parse(value).unwrap_or_default();
                    let others = columns.members().filter(|(column, _)| self.masks.of(column).is_none());
                    others.for_each(|(column, value)| push_member(&mut left, column, value));
                    if !left.is_empty() {
                        push_member(&mut written, name, &closed(left));
                    }
                }
                _ => push_member(&mut written, name, value),
            }
        }
        let mut masked: BTreeMap<String, String> = self
            .of_record
            .columns()
            .chain(self.of_changes.columns())
            .map(|column| (column.to_owned(), self.note(column, unsent)))
            .collect();
        if let Some(before) = notes.last("masked").filter(|_| self.masker.was_masked).and_then(Object::parse) {
            for (column, note) in before.members() {
                let is_known = |note: &String| note.contains("\"how\"");
                if !masked.get(column.as_ref()).is_some_and(is_known) {
                    masked.insert(column.clone().into_owned(), note.to_owned());
                }
            }
        }
        if !masked.is_empty() {
            let mut json = String::new();
            masked.iter().for_each(|(column, note)| push_member(&mut json, column, note));
            push_member(&mut written, "masked", &closed(json));
        }
        (!written.is_empty()).then(|| closed(written))
    }

    fn note(&self, column: &str, unsent: &BTreeSet<String>) -> String {
        let (now, before) = (self.of_record.rows.get(column), self.of_changes.rows.get(column));
        let mut json = String::new();
        match now.or(before) {
            Some(MaskedRow::Members(members)) => {
                let mut each = String::new();
                members.iter().for_each(|(path, how)| push_member(&mut each, path, &string(how.label())));
                push_member(&mut json, "members", &closed(each));
            }
            Some(MaskedRow::Value(how, _)) => {
                push_member(&mut json, "how", &string(how.label()));
                let sides = [(if self.is_delete { "old" } else { "new" }, now), ("old", before)];
                for (side, row) in sides {
                    if let Some(MaskedRow::Value(_, Some(mask))) = row.filter(|_| !unsent.contains(column)) {
                        push_member(&mut json, side, mask);
                    }
                }
            }
            None => {}
        }
        if before.is_some() {
            push_member(&mut json, "changed", "true");
        }
        closed(json)
    }
}

/// Columns of whose values the message says that it has not got them.
fn unsent(metadata: &Object) -> BTreeSet<String> {
    let names = |name| metadata.last(name).and_then(|json| strings(json, "").ok()).unwrap_or_default();
    names("unknown_columns").into_iter().map(|name| name.into_owned()).collect()
}

/// A list of names with more of them.
fn with_names<'n>(json: &str, more: impl Iterator<Item = &'n str>) -> String {
    let Ok(names) = strings(json, "") else { return "null".into() };
    let mut all: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let there: BTreeSet<&str> = all.iter().copied().collect();
    let more: BTreeSet<&str> = more.filter(|name| !there.contains(name)).collect();
    all.extend(more);
    let mut written = String::from("[");
    for (place, name) in all.into_iter().enumerate() {
        written.push_str(if place == 0 { "" } else { "," });
        push_string(&mut written, name);
    }
    written.push(']');
    written
}
