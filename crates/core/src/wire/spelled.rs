//! A change as a message, as Sequin writes it.

use super::images::{Event, Images, Notes};
use super::protocol::{Omitted, Value};
use super::relation::{Table, UNCHANGED};
use super::time::CommitTime;
use crate::encoding::push_json;
use crate::json::push_string;
use crate::message::{Action, Annotations, Known, LargePart, Who, Written, hex};
use std::fmt::Write;
use std::ops::Range;
use std::rc::Rc;

/// A message's metadata, beside its table: where a change stands, and what its transaction says of it.
pub struct Metadata<'a> {
    pub lsn: u64,
    /// `None` for a row that a backfill has read.
    pub idx: Option<u32>,
    pub time: CommitTime,
    pub idempotency_key: &'a str,
    pub annotations: Option<&'a Annotations<'static>>,
    pub who: &'a Who,
}

impl Table {
    pub fn message(&self, at: &Metadata, event: Event) -> Written {
        self.written(at, &Images::of(self, event))
    }

    pub(super) fn written(&self, at: &Metadata, images: &Images) -> Written {
        let action = images.action;
        let values = |row: &[Value]| row.iter().map(|value| value.text().map_or(0, str::len)).sum::<usize>();
        let mut json = String::with_capacity(self.length + images.record.as_deref().map_or(0, values));
        let label = action.label().to_str().unwrap_or_default();
        json.extend(["{\"action\":\"", label, "\",\"changes\":"]);
        let changes = part(&mut json, images.changes.as_ref(), |json, changes| {
            let changed = changes.iter().enumerate().filter_map(|(index, old)| Some((index, old.as_ref()?)));
            self.push_members(json, changed);
        });
        json.push_str(",\"metadata\":{\"commit_idx\":");
        part(&mut json, at.idx, |json, idx| write!(json, "{idx}").unwrap_or_default());
        let _ = write!(json, ",\"commit_lsn\":{}", at.lsn);
        json.extend([",\"commit_timestamp\":", &at.time.json(), ",\"database\":", &self.database]);
        let exact_values = images.exact_values.as_ref().map(|texts| {
            json.push_str(",\"exact_values\":");
            written(&mut json, |json| json.push_str(texts))
        });
        json.push_str(",\"idempotency_key\":");
        let idempotency_key = written(&mut json, |json| push_string(json, at.idempotency_key));
        let notes = self.notes(&images.notes, at.who).map(|notes| {
            json.push_str(",\"notes\":");
            written(&mut json, |json| json.push_str(&notes))
        });
        json.push_str(",\"record_pks\":");
        // not an empty one: what is not known contradicts nothing when the change is delivered again
        let record_pks = part(&mut json, images.key(self), push_key);
        json.extend([",", &self.names, ",\"transaction_annotations\":"]);
        let before = json.len();
        let annotations = match at.annotations {
            Some(Annotations::Text(text)) => part(&mut json, Some(text), |json, text| json.push_str(text)),
            _ => part(&mut json, None::<&str>, String::push_str),
        };
        let large = match at.annotations {
            Some(Annotations::Large(large)) => {
                Some(LargePart { range: before..json.len(), annotations: Rc::clone(large) })
            }
            _ => None,
        };
        json.push_str(",\"unknown_columns\":");
        let unknown_columns = written(&mut json, |json| self.push_names(json, &images.unknown, images.has_row()));
        json.push_str(",\"unknown_old_columns\":");
        let unknown_old_columns =
            written(&mut json, |json| self.push_names(json, &images.unknown_old, images.has_old_row()));
        at.who.push_members(&mut json);
        json.push_str("},\"record\":");
        let record = part(&mut json, images.record.as_deref(), |json, row| {
            self.push_members(json, row.iter().enumerate());
        });
        json.push('}');
        let known = || {
            Some(Known {
                about: self.about.clone()?,
                action,
                commit_lsn: at.lsn.try_into().ok()?,
                commit_idx: at
                    .idx
                    .map(i32::try_from)
                    .transpose()
                    .ok()
                    .filter(|idx| idx.is_some() || action == Action::Read)?,
                commit_microseconds: at.time.of_log()?,
                idempotency_key,
                record_pks,
                annotations,
                record,
                changes,
                unknown_columns,
                unknown_old_columns,
                notes,
                exact_values,
                who: at.who.clone(),
            })
        };
        Written { known: known(), text: json, large }
    }

    fn push_members<'r>(&self, json: &mut String, values: impl Iterator<Item = (usize, &'r Value<'r>)>) {
        let before = json.len();
        json.push('{');
        for (index, value) in values {
            let Some(column) = self.columns.get(index) else { continue };
            if json.len() > before + 1 {
                json.push(',');
            }
            json.push_str(&column.name.json);
            json.push(':');
            match value {
                Value::Null | Value::Omitted(_) => json.push_str("null"),
                Value::Unchanged => json.extend(["\"", UNCHANGED, "\""]),
                Value::Text(text) => push_json(json, text, column.shape()),
            }
        }
        json.push('}');
    }

    /// As a JSON object. `None`, as nearly always: there is nothing to note.
    pub(super) fn notes(&self, notes: &Notes, who: &Who) -> Option<String> {
        let mut parts = Vec::new();
        for (name, omitted) in [("omitted", &notes.omitted), ("omitted_old", &notes.omitted_old)] {
            let columns = omitted.iter().filter_map(|(index, omitted)| Some((self.columns.get(*index)?, omitted)));
            let columns: Vec<String> = columns
                .map(|(column, Omitted { bytes, sha256 })| {
                    format!("{}:{{\"bytes\":{bytes},\"sha256\":\"{}\"}}", column.name.json, hex(*sha256))
                })
                .collect();
            if !columns.is_empty() {
                parts.push(format!("\"{name}\":{{{}}}", columns.join(",")));
            }
        }
        parts.extend(notes.row_filter.map(|row_filter| format!("\"row_filter\":\"{row_filter}\"")));
        parts.extend(who.is_contested.then(|| "\"contested\":true".to_owned()));
        (!parts.is_empty()).then(|| format!("{{{}}}", parts.join(",")))
    }

    fn push_names(&self, json: &mut String, indexes: &[usize], has_row: bool) {
        json.push('[');
        for (n, name) in self.names_at(indexes, has_row).enumerate() {
            if n > 0 {
                json.push(',');
            }
            json.push_str(&name.json);
        }
        json.push(']');
    }
}

fn push_key<'r>(json: &mut String, values: impl Iterator<Item = &'r str>) {
    json.push('[');
    for (n, value) in values.enumerate() {
        if n > 0 {
            json.push(',');
        }
        push_string(json, value);
    }
    json.push(']');
}

/// Where stands what `write` appends.
fn written(json: &mut String, write: impl FnOnce(&mut String)) -> Range<usize> {
    let start = json.len();
    write(json);
    start..json.len()
}

/// The same of a value that may be null.
fn part<T>(json: &mut String, value: Option<T>, write: impl FnOnce(&mut String, T)) -> Option<Range<usize>> {
    match value {
        Some(value) => Some(written(json, |json| write(json, value))),
        None => {
            json.push_str("null");
            None
        }
    }
}
