//! Values in statements: as literals, and as conditions that tell more apart than a type's equality does.

use super::image::Image;
use super::table::{Column, Equality};
use crate::encoding::{exact_text, input_text};
use crate::json::marked_text;

/// What a column is compared with.
pub(super) enum Other<'a> {
    /// A value as JSON, or with its exact text (`json::told`).
    Value(&'a str),
    /// Another column of the type.
    Column { name: String, nulls: Nulls },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nulls {
    None,
    Some,
    All,
}

impl Nulls {
    pub fn of(mut values: impl Iterator<Item = bool>) -> Self {
        let Some(first) = values.next() else { return Self::Some };
        match (first, values.all(|other| other == first)) {
            (true, true) => Self::All,
            (false, true) => Self::None,
            _ => Self::Some,
        }
    }
}

pub(super) fn quoted(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

impl Column {
    /// JSON's null where the column is never null.
    fn is_json_null(&self, value: &str) -> bool {
        value == "null" && self.is_json && self.is_required
    }

    pub(super) fn is_null(&self, value: &str) -> bool {
        value == "null" && !self.is_json_null(value)
    }

    fn text(&self, value: &str) -> Option<String> {
        if self.is_json_null(value) {
            return Some(quoted("null"));
        }
        match marked_text(value) {
            Some((text, _)) => Some(quoted(&exact_text(&text, &self.shape))),
            None => input_text(value, &self.shape).map(|text| quoted(&text)),
        }
    }

    /// A value as it is to be written; of a type that would not be guessed, with its type.
    pub(super) fn literal(&self, value: &str) -> String {
        match (self.text(value), &self.r#type) {
            (None, _) => "NULL".into(),
            (Some(text), Some(name)) if !self.is_plain || self.is_json_null(value) => format!("{text}::{name}"),
            (Some(text), _) => text,
        }
    }

    /// The same for one of many rows: only the first says of which type its values are.
    pub(super) fn in_rows(&self, value: &str, is_first: bool) -> String {
        let text = self.text(value).unwrap_or_else(|| "NULL".into());
        match &self.r#type {
            Some(name) if is_first => format!("{text}::{name}"),
            _ => text,
        }
    }

    /// "It has this value": by its text where the type may have no equality, also by it where its equality finds
    /// different values equal.
    pub(super) fn is(&self, alias: &str, other: &Other) -> String {
        let column = format!("{alias}{}", self.quoted);
        let (right, right_text, right_json, equals) = match other {
            Other::Value(value) if self.is_null(value) => return format!("{column} IS NULL"),
            Other::Column { nulls: Nulls::All, .. } => return format!("{column} IS NULL"),
            Other::Value(value) => {
                let literal = self.literal(value);
                let typed = match &self.r#type {
                    Some(name) if self.is_plain => format!("{literal}::{name}::text"),
                    _ => format!("{literal}::text"),
                };
                let json = match marked_text(value) {
                    Some(_) => typed.clone(),
                    None => quoted(value),
                };
                (literal, typed, json, "=")
            }
            Other::Column { name, nulls } => (
                name.clone(),
                format!("{name}::text"),
                format!("{name}::jsonb::text"),
                if *nulls == Nulls::None { "=" } else { "IS NOT DISTINCT FROM" },
            ),
        };
        match self.r#type.as_deref() {
            Some("json") if self.is_exact => format!("{column}::text {equals} {right_text}"),
            // how it is spelled is Sequin's
            Some("json") => match other {
                Other::Value(value) if marked_text(value).is_none() => {
                    format!("{} {equals} {right_json}", in_one_spelling(&column))
                }
                _ => format!("{} {equals} {}", in_one_spelling(&column), in_one_spelling(&right)),
            },
            Some("jsonb") => format!("{column}::text {equals} {right_json}"),
            // by its output function: users may have made the cast
            Some(_) if self.is_users => {
                format!("pg_catalog.format('%s', {column}) {equals} pg_catalog.format('%s', {right})")
            }
            Some(_) if !self.is_plain => format!("{column}::text{} {equals} {right_text}", self.by_bytes()),
            _ if self.is_coarse() => {
                format!("{column} {equals} {right} AND {column}::text{} {equals} {right_text}", self.by_bytes())
            }
            _ => format!("{column} {equals} {right}"),
        }
    }

    /// "It has this value, or one that is equal": what a foreign key carries on may be spelled as the row referred to.
    pub(super) fn is_equal(&self, value: &str) -> String {
        let column = &self.quoted;
        let literal = self.literal(value);
        match self.equality {
            _ if self.is_null(value) => format!("{column} IS NULL"),
            Equality::Case => {
                format!("lower(pg_catalog.format('%s', {column})) = lower(pg_catalog.format('%s', {literal}))")
            }
            Equality::Scale | Equality::Collation => format!("{column} = {literal}"),
            _ => self.is("", &Other::Value(value)),
        }
    }

    fn is_coarse(&self) -> bool {
        // with a scale, its values have one spelling
        self.equality == Equality::Collation
            || self.equality == Equality::Scale && self.r#type.as_deref() == Some("numeric")
    }

    fn by_bytes(&self) -> &'static str {
        if self.equality == Equality::Collation { " COLLATE \"C\"" } else { "" }
    }

    /// "It has nothing to lose": what a row has that is older than the column.
    pub(super) fn is_older(&self, alias: &str) -> String {
        let column = format!("{alias}{}", self.quoted);
        let Some(older) = self.older.as_deref().map(quoted).or_else(|| self.has_older.then(|| "NULL".into())) else {
            return format!("{column} IS NULL");
        };
        if self.is_users {
            return format!("({column} IS NULL OR pg_catalog.format('%s', {column}) = {older})");
        }
        let name = self.r#type.as_deref().unwrap_or("text");
        format!("({column} IS NULL OR {column}::text COLLATE \"C\" = {older}::{name}::text)")
    }
}

/// As `jsonb` spells it; what `jsonb` does not take, as it is.
fn in_one_spelling(json: &str) -> String {
    let not_of_jsonb = quoted(NOT_OF_JSONB);
    format!("CASE WHEN {json}::text ~ {not_of_jsonb} THEN {json}::text ELSE {json}::jsonb::text END")
}

/// `\u0000`, half a surrogate pair, exponents of four digits.
const NOT_OF_JSONB: &str =
    r"\\u0000|\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]|[eE][-+]?\d{4}";

/// "It is this row", by these columns.
pub(super) fn is_row(alias: &str, image: &Image, columns: &[&Column]) -> String {
    let conditions =
        columns.iter().filter_map(|column| image.get(&column.name).map(|value| column.is(alias, &Other::Value(value))));
    conditions.collect::<Vec<_>>().join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_postgresql_does() {
        assert_eq!(quoted("it's"), "'it''s'");
        assert_eq!(quoted(r"a\b'"), r"E'a\\b'''");
    }

    #[test]
    fn nulls_of_a_column() {
        assert_eq!(Nulls::of([true, true].into_iter()), Nulls::All);
        assert_eq!(Nulls::of([false].into_iter()), Nulls::None);
        assert_eq!(Nulls::of([false, true].into_iter()), Nulls::Some);
    }
}
