//! One table, as the stream or the catalogs describe it, and its changes as JSON messages.

use super::protocol::{Filter, Old, Omitted, ReplicaIdentity, Value};
use crate::encoding::write::{Kind, push_json, push_string, string};
use crate::message::{About, Action, Annotations, Known, LargePart, Written, hex};
use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;
use std::rc::Rc;

/// What stands in place of a value that was not sent.
const UNCHANGED: &str = "\"unchanged_toast\"";

pub struct Table {
    columns: Vec<Column>,
    /// Places of the primary key's columns; `None`: one of them is not sent.
    key: Option<Vec<usize>>,
    /// Columns that the table has and the stream leaves out, as JSON strings.
    never_sent: Vec<String>,
    /// `{"id":…,"name":…}`
    database: String,
    /// `"replica_identity":…,"table_name":…,"table_schema":…`
    names: String,
    /// Both of them, understood.
    about: Option<Rc<About>>,
    /// Of a message without values.
    length: usize,
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
    pub time: &'a CommitTime,
    /// As JSON text.
    pub idempotency_key: &'a str,
    pub annotations: Option<&'a Annotations<'static>>,
}

pub struct CommitTime {
    /// A JSON string.
    pub json: String,
    /// Since 1970; `None`: it is none for the log.
    pub microseconds: Option<i64>,
}

/// The row after a change, the values before it, and what of both was not sent.
struct Images<'r, C> {
    record: Option<&'r [Value<'r>]>,
    /// The record has the primary key's values.
    has_key: bool,
    /// Places and values.
    changes: Option<C>,
    unknown: Vec<usize>,
    unknown_old: Vec<usize>,
    notes: Notes<'r>,
}

/// What else is to be known of a change.
#[derive(Default)]
struct Notes<'r> {
    /// Values that were too large to carry, by place.
    omitted: Vec<(usize, Omitted<'r>)>,
    omitted_old: Vec<(usize, Omitted<'r>)>,
    row_filter: Option<&'static str>,
}

type Unchanged<'r> = std::iter::Empty<(usize, &'r Value<'r>)>;

impl<'r> Images<'r, Unchanged<'r>> {
    /// The row after a change.
    fn after(row: &'r [Value<'r>]) -> Self {
        let omitted = omitted(row);
        let notes = Notes { omitted, ..Notes::default() };
        Self { record: Some(row), has_key: true, unknown: places(&notes.omitted), notes, ..Self::none() }
    }

    /// A deleted row. Without `is_known` nothing is known of a place.
    fn before(row: &'r [Value<'r>], is_known: impl Fn(&usize) -> bool) -> Self {
        let omitted_old = omitted(row);
        let is_unknown = |place: &usize| !is_known(place) || matches!(row[*place], Value::Omitted(_));
        let unknown: Vec<usize> = (0..row.len()).filter(is_unknown).collect();
        let notes = Notes { omitted_old, ..Notes::default() };
        Self { record: Some(row), has_key: true, unknown_old: unknown.clone(), unknown, notes, ..Self::none() }
    }

    fn none() -> Self {
        let notes = Notes::default();
        Self { record: None, has_key: false, changes: None, unknown: Vec::new(), unknown_old: Vec::new(), notes }
    }
}

/// Without memory where there are none.
fn omitted<'r>(row: &[Value<'r>]) -> Vec<(usize, Omitted<'r>)> {
    let omitted = |(place, value): (usize, &Value<'r>)| match value {
        Value::Omitted(omitted) => Some((place, *omitted)),
        _ => None,
    };
    row.iter().enumerate().filter_map(omitted).collect()
}

fn places(omitted: &[(usize, Omitted)]) -> Vec<usize> {
    omitted.iter().map(|(place, _)| *place).collect()
}

impl Table {
    /// `database` is JSON text.
    pub fn new(
        database: &str,
        (schema, name): (&str, &str),
        identity: ReplicaIdentity,
        columns: Vec<Column>,
        key: &[String],
        never_sent: &[String],
    ) -> Self {
        let place = |name: &String| columns.iter().position(|column| column.name == string(name));
        let names = format!(
            "\"replica_identity\":\"{}\",\"table_name\":{},\"table_schema\":{}",
            identity.as_str(),
            string(name),
            string(schema)
        );
        Self {
            key: key.iter().map(place).collect(),
            never_sent: never_sent.iter().map(|name| string(name)).collect(),
            about: About::parse(&format!("{{\"database\":{database},{names}}}")).map(Rc::new),
            length: 512 + database.len() + names.len() + columns.iter().map(|c| c.name.len() + 8).sum::<usize>(),
            database: database.to_owned(),
            names,
            columns,
        }
    }

    pub fn inserted(&self, at: &Position, new: &[Value]) -> Written {
        self.message(Action::Insert, at, Images::after(new))
    }

    /// A row as a backfill has read it.
    pub fn read(&self, at: &Position, row: &[Value]) -> Written {
        self.message(Action::Read, at, Images::after(row))
    }

    pub fn truncated(&self, at: &Position) -> Written {
        self.message(Action::Truncate, at, Images::none())
    }

    /// With FULL the old row fills in what was not sent again; changes are what differs. With a key only the old key is
    /// known, and without either the old row has the key of the new one.
    pub fn updated<'v>(&self, at: &Position, filter: Filter, old: Option<&Old<'v>>, new: &[Value<'v>]) -> Written {
        let (before, is_whole): (&[Value], bool) = match old {
            Some(Old::Row(row)) => (row, true),
            Some(Old::Key(row)) => (row, false),
            None => (&[], false),
        };
        let omitted_old = omitted(before);
        let before = |place: usize| before.get(place).filter(|_| is_whole || self.is_identity(place));
        let mut after = Cow::Borrowed(new);
        let (mut unknown, mut unknown_old) = (Vec::new(), Vec::new());
        for (place, new) in new.iter().enumerate() {
            let old = before(place);
            match (new, old) {
                (Value::Unchanged, Some(old)) if *old != Value::Unchanged => after.to_mut()[place] = *old,
                (Value::Unchanged, _) => unknown.push(place),
                _ => {}
            }
            if matches!(after[place], Value::Omitted(_)) {
                unknown.push(place);
            }
            // without an old key the key did not change
            if old.map_or(!self.is_identity(place), |old| matches!(old, Value::Omitted(_))) {
                unknown_old.push(place);
            }
        }
        let row_filter = match filter {
            Filter::Stayed => None,
            Filter::Left => Some("left"),
            Filter::Entered => Some("entered"),
        };
        let notes = Notes { omitted: omitted(&after), omitted_old, row_filter };
        let both = after.iter().enumerate().filter_map(|(place, new)| Some((place, before(place)?, new)));
        let changes = both.filter(|(_, old, new)| old != new).map(|(place, old, _)| (place, old));
        let changes = Some(changes);
        let images = Images { record: Some(&after), has_key: true, changes, unknown, unknown_old, notes };
        self.message(Action::Update, at, images)
    }

    pub fn deleted(&self, at: &Position, old: &Old) -> Written {
        let is_identity = |place: &usize| self.is_identity(*place);
        let images = match old {
            Old::Row(row) => Images::before(row, |_| true),
            Old::Key(row) => {
                let has_key = self.key.iter().flatten().all(is_identity);
                Images { has_key, ..Images::before(row, is_identity) }
            }
        };
        self.message(Action::Delete, at, images)
    }

    fn is_identity(&self, place: usize) -> bool {
        self.columns.get(place).is_some_and(|column| column.is_identity)
    }

    fn message<'r>(
        &self,
        action: Action,
        at: &Position,
        images: Images<'r, impl Iterator<Item = (usize, &'r Value<'r>)>>,
    ) -> Written {
        let values = |row: &[Value]| row.iter().map(|value| value.text().map_or(0, str::len)).sum::<usize>();
        let mut json = String::with_capacity(self.length + images.record.map_or(0, values));
        let label = action.label().to_str().unwrap_or_default();
        json.extend(["{\"action\":\"", label, "\",\"changes\":"]);
        let changes = part(&mut json, images.changes, |json, changes| self.push_members(json, changes));
        json.push_str(",\"metadata\":{\"commit_idx\":");
        part(&mut json, at.idx, |json, idx| write!(json, "{idx}").unwrap_or_default());
        let _ = write!(json, ",\"commit_lsn\":{}", at.lsn);
        json.extend([
            ",\"commit_timestamp\":",
            &at.time.json,
            ",\"database\":",
            &self.database,
            ",\"idempotency_key\":",
        ]);
        let idempotency_key = written(&mut json, |json| json.push_str(at.idempotency_key));
        let notes = (!images.notes.is_empty()).then(|| {
            json.push_str(",\"notes\":");
            written(&mut json, |json| self.push_notes(json, &images.notes))
        });
        json.push_str(",\"record_pks\":");
        // not an empty one: what is not known contradicts nothing when the change is delivered again
        let key = images.record.filter(|_| images.has_key).and_then(|row| self.key_of(row));
        let record_pks = part(&mut json, key, push_key);
        json.extend([",", &self.names, ",\"transaction_annotations\":"]);
        let before = json.len();
        let annotations = match at.annotations {
            Some(Annotations::Text(text)) => part(&mut json, Some(text), |json, text| json.push_str(text)),
            _ => part(&mut json, None::<&str>, String::push_str),
        };
        let large = match at.annotations {
            Some(Annotations::Large(large)) => {
                Some(LargePart { place: before..json.len(), annotations: Rc::clone(large) })
            }
            _ => None,
        };
        json.push_str(",\"unknown_columns\":");
        let has_row = images.record.is_some();
        let unknown_columns = written(&mut json, |json| self.push_names(json, &images.unknown, has_row));
        json.push_str(",\"unknown_old_columns\":");
        let has_old_row = matches!(action, Action::Update | Action::Delete);
        let unknown_old_columns = written(&mut json, |json| self.push_names(json, &images.unknown_old, has_old_row));
        json.push_str("},\"record\":");
        let record = part(&mut json, images.record, |json, row| self.push_members(json, row.iter().enumerate()));
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
                commit_microseconds: at.time.microseconds?,
                idempotency_key,
                record_pks,
                annotations,
                record,
                changes,
                unknown_columns,
                unknown_old_columns,
                notes,
            })
        };
        Written { known: known(), text: json, large, is_of_a_rule: false }
    }

    fn push_members<'r>(&self, json: &mut String, values: impl Iterator<Item = (usize, &'r Value<'r>)>) {
        let before = json.len();
        json.push('{');
        for (place, value) in values {
            let Some(column) = self.columns.get(place) else { continue };
            if json.len() > before + 1 {
                json.push(',');
            }
            json.push_str(&column.name);
            json.push(':');
            match value {
                Value::Null | Value::Omitted(_) => json.push_str("null"),
                Value::Unchanged => json.push_str(UNCHANGED),
                Value::Text(text) => push_json(json, text, &column.kind),
            }
        }
        json.push('}');
    }

    fn push_notes(&self, json: &mut String, notes: &Notes) {
        let mut parts = Vec::new();
        for (name, omitted) in [("omitted", &notes.omitted), ("omitted_old", &notes.omitted_old)] {
            let columns = omitted.iter().filter_map(|(place, omitted)| Some((self.columns.get(*place)?, omitted)));
            let columns: Vec<String> = columns
                .map(|(column, Omitted { bytes, sha256 })| {
                    format!("{}:{{\"bytes\":{bytes},\"sha256\":\"{}\"}}", column.name, hex(*sha256))
                })
                .collect();
            if !columns.is_empty() {
                parts.push(format!("\"{name}\":{{{}}}", columns.join(",")));
            }
        }
        parts.extend(notes.row_filter.map(|row_filter| format!("\"row_filter\":\"{row_filter}\"")));
        json.extend(["{", &parts.join(","), "}"]);
    }

    /// The primary key's values, if the row has them all.
    fn key_of<'r>(&self, row: &'r [Value<'r>]) -> Option<impl Iterator<Item = &'r str>> {
        let text = |place: &usize| row.get(*place).and_then(Value::text);
        let key = self.key.as_ref().filter(|key| !key.is_empty() && key.iter().all(|place| text(place).is_some()))?;
        Some(key.iter().filter_map(text))
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

impl Notes<'_> {
    fn is_empty(&self) -> bool {
        self.omitted.is_empty() && self.omitted_old.is_empty() && self.row_filter.is_none()
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
