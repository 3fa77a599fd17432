//! What of a table decides how its changes are taken back: its key, its columns, and who refers to whom.

use super::image::Image;
use crate::encoding::TypeShape;
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Deserialize, Clone)]
pub struct Table {
    /// Quoted, with its schema.
    pub name: String,
    /// The same with ONLY, where other tables inherit from it.
    pub own_rows: String,
    /// 0: it is not in this database.
    pub relation: u32,
    /// Of the partitions that it is one of, the table; otherwise the relation itself.
    pub root: u32,
    /// Its name, quoted.
    pub root_name: String,
    /// Empty: none is known.
    pub key: Vec<String>,
    /// No two rows have one key, also in the middle of a transaction.
    pub is_key_unique: bool,
    pub columns: Vec<Column>,
    /// Its changes come from capture: values are spelled as they are.
    #[serde(default)]
    pub is_exact: bool,
    /// Nobody knows which columns it has; those of the changes are taken.
    pub is_open: bool,
    /// Columns of other unique indexes; `None`: of expressions, or other constraints of the kind.
    pub unique: Vec<Option<Vec<String>>>,
    /// Code of users' runs when it is written.
    pub has_triggers: bool,
    pub is_of_system: bool,
    pub refers: Vec<ForeignKey>,
    pub referred: Vec<ForeignKey>,
    #[serde(skip)]
    pub(super) by_name: HashMap<String, usize>,
}

#[derive(Deserialize, Clone)]
pub struct Column {
    pub name: String,
    pub quoted: String,
    /// As `format_type()` writes it; `None`: unknown.
    pub r#type: Option<String>,
    /// 0: unknown.
    pub type_oid: u32,
    /// A literal without its type is read as one of it, and its equality is PostgreSQL's own.
    pub is_plain: bool,
    /// Made by users: compared by what its output function writes.
    pub is_users: bool,
    pub is_generated: bool,
    /// GENERATED ALWAYS AS IDENTITY.
    pub is_always: bool,
    pub is_json: bool,
    pub is_required: bool,
    pub is_published: bool,
    pub equality: Equality,
    /// Has a row that is older than the column a value there?
    pub has_older: bool,
    pub older: Option<String>,
    /// How its values are written in JSON.
    #[serde(skip, default = "text")]
    pub shape: TypeShape,
    /// As the table says.
    #[serde(skip)]
    pub is_exact: bool,
}

/// Which different values a type's equality finds equal.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Equality {
    None,
    /// 1.0 and 1.00.
    Scale,
    /// Those of another case.
    Case,
    /// By a collation.
    Collation,
    /// Nobody knows.
    Unknown,
}

#[derive(Deserialize, Clone)]
pub struct ForeignKey {
    /// The same for all partitions of either side.
    pub id: u32,
    /// Of the table that refers.
    pub child_root: u32,
    pub child_name: String,
    pub child_columns: Vec<String>,
    pub child_quoted: Vec<String>,
    /// Of the table referred to.
    pub parent_root: u32,
    pub parent_columns: Vec<String>,
    pub parent_quoted: Vec<String>,
    /// Between a value referred to and one that refers.
    pub operators: Vec<String>,
    /// What to write behind a value referred to.
    pub collations: Vec<String>,
    pub on_update: char,
    pub on_delete: char,
    /// Who owns the table that refers lacks the rights of the other's owner.
    pub is_strangers: bool,
}

impl ForeignKey {
    pub fn is_of_itself(&self) -> bool {
        self.child_root == self.parent_root
    }

    pub fn deletes_along(&self) -> bool {
        matches!(self.on_delete, 'c' | 'n' | 'd')
    }

    pub fn updates_along(&self) -> bool {
        matches!(self.on_update, 'c' | 'n' | 'd')
    }
}

fn text() -> TypeShape {
    TypeShape::Text
}

impl Table {
    /// `None`: it is no such description.
    pub fn read(json: &str, shape: impl Fn(u32) -> TypeShape) -> Option<Self> {
        let mut table: Self = serde_json::from_str(json).ok()?;
        for (place, column) in table.columns.iter_mut().enumerate() {
            if column.type_oid != 0 {
                column.shape = shape(column.type_oid);
            }
            column.is_exact = table.is_exact;
            table.by_name.insert(column.name.clone(), place);
        }
        Some(table)
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.by_name.get(name).map(|place| &self.columns[*place])
    }

    /// The table that it is a partition of, with the same columns and keys.
    pub(super) fn whole(&self) -> Self {
        let name = self.root_name.clone();
        Self { name: name.clone(), own_rows: name, relation: self.root, ..self.clone() }
    }

    pub fn is_here(&self) -> bool {
        self.relation != 0
    }

    pub fn is_generated(&self, name: &str) -> bool {
        self.column(name).is_some_and(|column| column.is_generated)
    }

    /// By its key, which stands in statements: none of its columns is generated.
    pub(super) fn tells_rows_apart(&self) -> bool {
        self.is_key_unique && !self.key.iter().any(|name| self.is_generated(name))
    }

    pub fn unpublished(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.columns.iter().filter(|c| !c.is_published).map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Columns of the table that are in the image, the key first.
    pub fn columns_in<'t>(&'t self, image: &Image) -> Vec<&'t Column> {
        let mut columns: Vec<_> =
            image.names().filter_map(|name| self.column(name)).filter(|column| !column.is_generated).collect();
        columns.sort_by_key(|column| {
            (self.key.iter().position(|key| *key == column.name).unwrap_or(usize::MAX), &column.name)
        });
        columns
    }
}
