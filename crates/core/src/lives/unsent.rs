//! Columns that an entry leaves unknown, where only a description of its table tells what its source sends.

use super::event::Action;
use crate::json::{Member, Value, members};
use std::collections::BTreeSet;

/// What a source sends of a table.
#[derive(Debug, Default)]
pub struct Description {
    /// As with REPLICA IDENTITY FULL.
    pub tells_whole_rows: bool,
    /// Those of the replica identity.
    pub identity_columns: Vec<String>,
    /// Null in a read may stand for any value.
    pub null_in_reads: Vec<String>,
    pub never_sent: Vec<String>,
}

impl Description {
    /// Of the row after the change; of a delete, of the row before it. `image`: that row, as the bytes of `jsonb`.
    #[must_use]
    pub fn unknown_columns(&self, action: Action, image: Option<&[u8]>, masked: Vec<String>) -> Vec<String> {
        self.unknown(image, masked, |(column, value)| match (action, value) {
            (Action::Delete, Value::Null) => !self.tells_whole_rows && !has(&self.identity_columns, column),
            (Action::Update, Value::String(text)) => !self.tells_whole_rows && *text == b"unchanged_toast",
            (Action::Read, Value::Null) => has(&self.null_in_reads, column),
            _ => false,
        })
    }

    /// Of the row before an update or delete. `old`: what an update tells of it.
    #[must_use]
    pub fn unknown_old_columns(
        &self,
        action: Action,
        image: Option<&[u8]>,
        old: Option<&[u8]>,
        masked: Vec<String>,
    ) -> Vec<String> {
        if action != Action::Update {
            return self.unknown_columns(action, image, masked);
        }
        let told = old.map(members).unwrap_or_default();
        self.unknown(image, masked, |(column, _)| {
            !self.tells_whole_rows && !told.iter().any(|(other, _)| other == column)
        })
    }

    fn unknown(&self, image: Option<&[u8]>, masked: Vec<String>, is_left: impl Fn(&Member) -> bool) -> Vec<String> {
        let all = image.map(members).unwrap_or_default();
        let is_there = |column: &String| all.iter().any(|(other, _)| *other == column.as_bytes());
        let never_sent = self.never_sent.iter().filter(|column| image.is_some() && !is_there(column));
        let left = all.iter().filter(|member| is_left(member)).map(|(column, _)| name(column));
        let columns: BTreeSet<_> = masked.into_iter().chain(never_sent.cloned()).chain(left).collect();
        columns.into_iter().collect()
    }
}

/// Of a table that nobody has described. Updates send old values with REPLICA IDENTITY FULL only.
#[must_use]
pub fn undescribed_unknown_columns(
    action: Action,
    old: Option<&[u8]>,
    new: Option<&[u8]>,
    masked: Vec<String>,
) -> Vec<String> {
    let is_unchanged = |value: &Value| matches!(value, Value::String(text) if *text == b"unchanged_toast");
    let left = |image: Option<&[u8]>, is_left: &dyn Fn(&Value) -> bool| -> Vec<String> {
        let all = image.map(members).unwrap_or_default();
        all.iter().filter(|(_, value)| is_left(value)).map(|(column, _)| name(column)).collect()
    };
    let is_null = |value: &Value| matches!(value, Value::Null);
    let mut columns = match action {
        Action::Update if old.is_some_and(|old| members(old).is_empty()) => left(new, &is_unchanged),
        Action::Read => left(new, &is_null),
        Action::Delete => left(old, &is_null),
        _ => Vec::new(),
    };
    columns.extend(masked);
    columns
}

/// Those whose values a mask keeps out, by an entry's notes.
#[must_use]
pub fn masked_columns(notes: &[u8]) -> Vec<String> {
    let notes = members(notes);
    match notes.iter().find(|(key, _)| *key == b"masked") {
        Some((_, Value::Container(masked))) => members(masked).iter().map(|(column, _)| name(column)).collect(),
        _ => Vec::new(),
    }
}

fn has(columns: &[String], column: &[u8]) -> bool {
    columns.iter().any(|other| other.as_bytes() == column)
}

fn name(column: &[u8]) -> String {
    String::from_utf8_lossy(column).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::jsonb;

    fn columns(names: &str) -> Vec<String> {
        names.split_whitespace().map(str::to_owned).collect()
    }

    fn described(replica_identity: &str) -> Description {
        Description {
            tells_whole_rows: replica_identity == "full",
            identity_columns: columns("id"),
            null_in_reads: columns("large"),
            never_sent: columns("made"),
        }
    }

    fn after(description: &Description, action: Action, image: &str) -> Vec<String> {
        description.unknown_columns(action, jsonb(image).as_deref(), Vec::new())
    }

    const ROW: &str = r#"{"id": null, "large": null, "text": "unchanged_toast", "made": 1}"#;

    #[test]
    fn what_is_not_sent_depends_on_the_action() {
        let default = described("default");
        assert_eq!(after(&default, Action::Insert, ROW), columns(""));
        assert_eq!(after(&default, Action::Update, ROW), columns("text"));
        assert_eq!(after(&default, Action::Delete, ROW), columns("large"));
        assert_eq!(after(&default, Action::Read, ROW), columns("large"));
        assert_eq!(default.unknown_columns(Action::Truncate, None, Vec::new()), columns(""));
    }

    #[test]
    fn whole_rows_lack_only_what_is_never_sent_and_what_reads_cannot_tell() {
        let full = described("full");
        for (action, left) in [(Action::Update, ""), (Action::Delete, ""), (Action::Read, "large")] {
            assert_eq!(after(&full, action, ROW), columns(left), "{action:?}");
        }
        assert_eq!(after(&full, Action::Insert, r#"{"id": 1}"#), columns("made"));
    }

    #[test]
    fn before_an_update_is_known_what_it_tells() {
        let (image, old) = (jsonb(r#"{"id": 1, "a": 2, "b": null}"#), jsonb(r#"{"a": 1}"#));
        let before = |description: Description, action, masked| {
            description.unknown_old_columns(action, image.as_deref(), old.as_deref(), masked)
        };
        assert_eq!(before(described("default"), Action::Update, Vec::new()), columns("b id made"));
        assert_eq!(before(described("full"), Action::Update, columns("a made")), columns("a made"));
        assert_eq!(before(described("default"), Action::Delete, Vec::new()), columns("b made"));
    }

    #[test]
    fn where_nothing_is_described_the_values_tell() {
        let (row, none, some) = (jsonb(ROW), jsonb("{}"), jsonb(r#"{"a": null}"#));
        let unknown = |action, old: &Option<Vec<u8>>, new: &Option<Vec<u8>>| {
            undescribed_unknown_columns(action, old.as_deref(), new.as_deref(), columns("m"))
        };
        assert_eq!(unknown(Action::Update, &none, &row), columns("text m"));
        assert_eq!(unknown(Action::Update, &some, &row), columns("m"));
        assert_eq!(unknown(Action::Read, &None, &row), columns("id large m"));
        assert_eq!(unknown(Action::Delete, &some, &row), columns("a m"));
        assert_eq!(unknown(Action::Insert, &None, &row), columns("m"));
    }

    #[test]
    fn masked_columns_are_those_of_the_notes() {
        let masked = |notes| masked_columns(&jsonb(notes).unwrap_or_default());
        assert_eq!(masked(r#"{"masked": {"email": {"changed": true}, "id": {}}, "erased": {}}"#), columns("id email"));
        assert_eq!(masked(r#"{"masked": "email"}"#), columns(""));
        assert_eq!(masked("[1]"), columns(""));
    }
}
