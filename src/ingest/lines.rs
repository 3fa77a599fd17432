//! Entries as lines of COPY's text format (<https://www.postgresql.org/docs/current/sql-copy.html>, "Text Format").

use super::log::{Entry, record_id, record_pks};
use jiff::Timestamp;
use std::ffi::CStr;
use std::io::Write;

/// Images stand last: where a line fails, PostgreSQL quotes its first 100 characters as CONTEXT.
pub const COLUMNS: &[&CStr] = &[
    c"commit_timestamp",
    c"identity",
    c"audited_table",
    c"commit_lsn",
    c"commit_idx",
    c"action",
    c"replica_identity",
    c"idempotency_key",
    c"record_id",
    c"record_pks",
    c"unknown_columns",
    c"unknown_old_columns",
    c"annotations",
    c"old_values",
    c"new_values",
];

pub fn lines(entries: &[Entry]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(entries.iter().map(|entry| entry.change.message.text.len() + 256).sum());
    for entry in entries {
        let (change, sent) = (entry.change, &entry.change.sent);
        // writing to a Vec does not fail
        let _ = write!(lines, "{}\t{:032x}\t{}", time(entry), u128::from_be_bytes(entry.identity), entry.table.number);
        number(&mut lines, change.commit_lsn);
        number(&mut lines, change.commit_idx.map(i64::from));
        text(&mut lines, Some(change.action.as_str()));
        text(&mut lines, sent.replica_identity.map(|identity| [identity as u8]).as_ref());
        text(&mut lines, Some(change.idempotency_key.as_bytes()));
        text(&mut lines, record_id(entry));
        text(&mut lines, record_pks(entry));
        text(&mut lines, sent.unknown_columns.as_deref());
        text(&mut lines, sent.unknown_old_columns.as_deref());
        text(&mut lines, change.annotations);
        text(&mut lines, change.old_values);
        text(&mut lines, change.new_values);
        lines.push(b'\n');
    }
    lines
}

/// Within the years 1970 to 2199, which is sure.
fn time(entry: &Entry) -> Timestamp {
    Timestamp::from_microsecond(entry.change.commit_microseconds).unwrap_or_default()
}

fn number(lines: &mut Vec<u8>, value: Option<i64>) {
    let _ = match value {
        Some(value) => write!(lines, "\t{value}"),
        None => write!(lines, "\t\\N"),
    };
}

fn text(lines: &mut Vec<u8>, value: Option<impl AsRef<[u8]>>) {
    lines.push(b'\t');
    match value {
        Some(value) => escape(lines, value.as_ref()),
        None => lines.extend_from_slice(b"\\N"),
    }
}

fn escape(lines: &mut Vec<u8>, mut value: &[u8]) {
    let special = |byte: &u8| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t');
    while let Some(place) = value.iter().position(special) {
        lines.extend_from_slice(&value[..place]);
        lines.extend_from_slice(match value[place] {
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            _ => b"\\\\",
        });
        value = &value[place + 1..];
    }
    lines.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &str) -> String {
        let mut lines = Vec::new();
        text(&mut lines, Some(value));
        String::from_utf8(lines).expect("text stays text")
    }

    #[test]
    fn what_would_end_a_value_is_escaped() {
        assert_eq!(escaped(""), "\t");
        assert_eq!(escaped("ä"), "\tä");
        assert_eq!(escaped("a\tb\nc\rd\\e"), "\ta\\tb\\nc\\rd\\\\e");
        assert_eq!(escaped("\\N"), "\t\\\\N", "no null");
        assert_eq!(escaped("\\."), "\t\\\\.", "no end of data");
    }

    #[test]
    fn null_is_no_text() {
        let mut lines = Vec::new();
        text(&mut lines, None::<&str>);
        number(&mut lines, None);
        number(&mut lines, Some(-7));
        assert_eq!(lines, b"\t\\N\t\\N\t-7");
    }
}
