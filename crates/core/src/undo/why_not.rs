//! Why a change cannot be taken back, or made once more.

use super::change::{Action, Change, Direction};
use super::image::Image;
use super::table::Table;
use super::waits::acts;

/// `None`: it can.
pub(super) fn why_not(change: &Change, table: &Table, direction: Direction) -> Option<String> {
    let (from, to) = direction.rows(change.old_row.as_ref(), change.new_row.as_ref());
    let early = match change.action {
        Action::Truncate if direction == Direction::Redo => Some("a truncate is not redone".into()),
        Action::Truncate => Some("a truncate is not undone: audit_as_of() gives the rows before it".into()),
        Action::Complete => Some("a backfill did not meet it: how it ended is not in the log".into()),
        _ if table.is_of_system => Some("its table is one of the system".into()),
        _ => change.doubt.as_ref().map(|doubt| doubt.to_string()),
    };
    if early.is_some() {
        return early;
    }
    let unpublished = table.unpublished();
    if from.is_none() && !unpublished.is_empty() {
        return Some(format!("values of {} unknown: they are not published", unpublished.join(", ")));
    }
    let is_unknown = |image: &Image| table.columns_in(image).is_empty();
    if change.action == Action::Delete && change.old_row.as_ref().is_some_and(is_unknown)
        || change.new_row.as_ref().is_some_and(is_unknown)
    {
        return Some("nothing is known of the row".into());
    }
    unknown_values(change, table, direction)
        .or_else(|| along(table, from, to))
        .or_else(|| gone(table, from, to))
        .or_else(|| always(table, from, to))
}

fn unknown_values(change: &Change, table: &Table, direction: Direction) -> Option<String> {
    let untold = match change.action {
        Action::Insert if direction == Direction::Redo => &change.unknown_columns,
        Action::Update | Action::Delete => &change.unknown_old_columns,
        _ => &None,
    };
    let matters = |name: &&String| {
        let is_column =
            if table.is_open { true } else { table.column(name).is_some_and(|column| !column.is_generated) };
        // what an update has not sent it has not changed
        is_column && (change.action != Action::Update || change.new_row.as_ref().is_some_and(|row| row.has(name)))
    };
    let unknown: Vec<_> = untold.iter().flatten().filter(matters).map(String::as_str).collect();
    if !unknown.is_empty() {
        let what = if change.action == Action::Insert { "value" } else { "old value" };
        return Some(format!("{what} of {} unknown", unknown.join(", ")));
    }
    let is_key_untold =
        || change.not_sent_before.as_ref().is_none_or(|names| names.iter().any(|name| table.key.contains(name)));
    (change.action == Action::Update && change.record_id.is_some() && is_key_untold())
        .then(|| "old key unknown: it was not sent".into())
}

/// To look at rows of others would run their code with these rights.
fn along(table: &Table, from: Option<&Image>, to: Option<&Image>) -> Option<String> {
    let names = table.referred.iter().filter(|key| key.is_strangers && from.is_some_and(|from| acts(key, from, to)));
    let stranger = names.map(|key| key.child_name.as_str()).min()?;
    Some(format!("rows of {stranger} may go along, and its owner lacks the rights of the table's owner"))
}

fn gone(table: &Table, from: Option<&Image>, to: Option<&Image>) -> Option<String> {
    if table.is_open {
        return None;
    }
    let is_gone = |(name, value): &(&str, &str)| {
        table.column(name).is_none()
            && match from {
                None => *value != "null",
                Some(from) => from.get(name) != Some(value),
            }
    };
    let gone: Vec<_> = to?.members().filter(is_gone).map(|(name, _)| name).collect();
    (!gone.is_empty()).then(|| format!("the table does not have {} any more", gone.join(", ")))
}

/// PostgreSQL sets an identity that is GENERATED ALWAYS to DEFAULT only.
pub(super) fn always(table: &Table, from: Option<&Image>, to: Option<&Image>) -> Option<String> {
    let (from, to) = (from?, to?);
    let differs = |name: &str| to.get(name).is_some_and(|value| from.get(name).is_some_and(|before| before != value));
    let column = table.columns.iter().find(|column| column.is_always && differs(&column.name))?;
    Some(format!("{} is GENERATED ALWAYS: an update cannot set it", column.name))
}
