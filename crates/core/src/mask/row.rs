//! A row without its masked values, and what is to be known of them.

use super::how::{How, Masker, text_of};
use super::object::{closed, push_member};
use super::rules::{ColumnMask, TableMasks};
use super::value::masked_members;
use crate::json::object::Object;
use std::collections::{BTreeMap, BTreeSet};

/// Stands in the place of a value that was not sent again.
const UNCHANGED: &str = "\"unchanged_toast\"";

const ARROW: &str = "->";

/// What was masked in a row.
#[derive(Default)]
pub(super) struct Masked {
    /// By column.
    pub rows: BTreeMap<String, MaskedRow>,
    /// Texts of masked values, and of others.
    pub hidden: BTreeSet<String>,
    pub plain: BTreeSet<String>,
}

pub(super) enum MaskedRow {
    /// What stands for the value, as JSON.
    Value(How, Option<String>),
    /// Their paths.
    Members(Vec<(String, How)>),
}

/// Members that were masked before, by column: their paths.
#[derive(Default)]
pub(super) struct MembersBefore(BTreeMap<String, BTreeSet<String>>);

impl MembersBefore {
    /// As a message's notes have it.
    pub fn of(masked: &Object) -> Self {
        let members = |note| {
            let members = Object::parse(note)?.last("members").and_then(Object::parse)?;
            Some(members.members().map(|(path, _)| path.clone().into_owned()).collect())
        };
        let columns = masked.members();
        Self(columns.filter_map(|(column, note)| Some((column.clone().into_owned(), members(note)?))).collect())
    }

    fn has(&self, column: &str, path: &[String]) -> bool {
        self.0.get(column).is_some_and(|members| members.contains(&path.join(ARROW)))
    }
}

impl Masked {
    /// The row as it may be stored. What is no row is null.
    pub fn add(&mut self, json: &str, masks: &TableMasks, masker: &Masker, before: &MembersBefore) -> String {
        let Some(row) = Object::parse(json) else { return "null".into() };
        let mut written = String::with_capacity(json.len());
        for (column, value) in row.members() {
            match masks.of(column) {
                None => {
                    self.plain.insert(text_of(value).into_owned());
                    push_member(&mut written, column, value);
                }
                Some(ColumnMask::Whole(how)) => {
                    // one that was masked before is in no row
                    let fresh = Masker { was_masked: false, ..*masker };
                    let mask = if value == UNCHANGED { None } else { how.masked(value, &fresh) };
                    self.hidden.insert(text_of(value).into_owned());
                    self.rows.insert(column.clone().into_owned(), MaskedRow::Value(*how, mask));
                }
                Some(ColumnMask::Members(members)) => {
                    self.hidden.insert(text_of(value).into_owned());
                    let masker = |path| Masker { was_masked: before.has(column, path), ..*masker };
                    let rules: Vec<_> =
                        members.iter().map(|(path, how)| (path.as_slice(), *how, masker(path))).collect();
                    push_member(&mut written, column, &masked_members(value, &rules));
                    let members = members.iter().map(|(path, how)| (path.join(ARROW), *how)).collect();
                    self.rows.insert(column.clone().into_owned(), MaskedRow::Members(members));
                }
            }
        }
        closed(written)
    }

    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.rows.keys().map(String::as_str)
    }
}
