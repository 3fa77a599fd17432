//! An event of the log as SQL that makes it elsewhere.

use super::change::Action;
use super::image::Image;
use super::statement::{Row, one_of};
use super::table::{Column, Table};
use super::value::is_row;
use super::why_not;
use serde::Deserialize;

#[derive(Deserialize)]
pub struct Event<'a> {
    pub action: Action,
    pub is_placed: bool,
    #[serde(borrow)]
    pub before: Option<Image<'a>>,
    #[serde(borrow)]
    pub after: Option<Image<'a>>,
}

pub fn replayed(table: &Table, event: &Event) -> Vec<String> {
    let mut statements = Vec::new();
    let empty = Image::default();
    let (before, after) = (event.before.as_ref(), event.after.as_ref().unwrap_or(&empty));
    let is_end = matches!(event.action, Action::Delete | Action::Complete);
    let before = before.unwrap_or(&empty);
    let keys: Vec<_> = table.key.iter().filter_map(|key| table.column(key)).collect();
    match event.action {
        Action::Truncate => return vec![format!("TRUNCATE {};", table.own_rows)],
        // the whole table's
        Action::Complete if !before.has_all(&table.key) => return statements,
        _ => {}
    }
    let key_before = if is_end || before.has_all(&table.key) && event.before.is_some() { before } else { after };
    let this_row = if table.key.is_empty() {
        one_of(table, &is_row("", before, &table.columns_in(before))) // one of those that are equal
    } else if table.is_key_unique {
        is_row("", key_before, &keys)
    } else {
        one_of(table, &is_row("", key_before, &known_columns(table, key_before)))
    };
    if is_end {
        return vec![format!("DELETE FROM {} WHERE {this_row};", table.own_rows)];
    }
    let update =
        || event.action == Action::Update || event.action == Action::Read && event.is_placed && !table.key.is_empty();
    if update() {
        if why_not::always(table, Some(before), Some(after)).is_some() {
            statements.push(format!("DELETE FROM {} WHERE {this_row};", table.own_rows));
        } else {
            // a key that stays is not set: it may be GENERATED ALWAYS
            let is_set = |column: &&Column| {
                !table.key.contains(&column.name) || key_before.get(&column.name) != after.get(&column.name)
            };
            let set: Vec<_> = table
                .columns_in(after)
                .into_iter()
                .filter(is_set)
                .map(|column| {
                    format!("{} = {}", column.quoted, column.literal(after.get(&column.name).unwrap_or("null")))
                })
                .collect();
            if !set.is_empty() {
                statements.push(format!("UPDATE {} SET {} WHERE {this_row};", table.own_rows, set.join(", ")));
            }
        }
    }
    // of an update too: the log may begin later than the row
    if event.action != Action::Update || !table.key.is_empty() {
        statements.push(Row { from: None, to: Some(after) }.statement(table, false, "").text);
    }
    statements
}

/// Two rows may have one key for a moment: all that is known tells them apart.
fn known_columns<'t>(table: &'t Table, image: &Image) -> Vec<&'t Column> {
    table.columns_in(image)
}
