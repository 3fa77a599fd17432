//! A table as the stream or the catalogs describe it.

use super::protocol::{ReplicaIdentity, Value};
use crate::encoding::{TypeShape, push_jsonb};
use crate::json::string;
use crate::json::{ObjectWriter, key_order};
use crate::message::About;
use std::rc::Rc;

pub struct Table {
    pub(super) columns: Vec<Column>,
    /// Places of columns in the order of `jsonb`. `None`: two of them have one name, or no text can be one.
    order: Option<Vec<usize>>,
    /// Places of columns whose values an image may not hold whole.
    pub(super) exact: Vec<usize>,
    /// Places of the primary key's columns; `None`: one of them is not sent.
    pub(super) key: Option<Vec<usize>>,
    /// Columns that the table has and the stream leaves out.
    pub(super) never_sent: Vec<Name>,
    /// `{"id":…,"name":…}`
    pub(super) database: String,
    /// `"replica_identity":…,"table_name":…,"table_schema":…`
    pub(super) names: String,
    /// Both of them, understood.
    pub(super) about: Option<Rc<About>>,
    /// Of a message without values.
    pub(super) length: usize,
}

pub struct Column {
    pub(super) name: Name,
    shape: TypeShape,
    is_identity: bool,
}

pub struct Name {
    pub text: String,
    /// A JSON string.
    pub json: String,
}

impl Name {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), json: string(text) }
    }
}

impl Column {
    pub fn new(name: &str, shape: TypeShape, is_identity: bool) -> Self {
        Self { name: Name::new(name), shape, is_identity }
    }

    pub(super) fn shape(&self) -> &TypeShape {
        &self.shape
    }
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
        let index = |name: &String| columns.iter().position(|column| column.name.text == *name);
        let names = format!(
            "\"replica_identity\":\"{}\",\"table_name\":{},\"table_schema\":{}",
            identity.as_str(),
            string(name),
            string(schema)
        );
        let never_sent: Vec<Name> = never_sent.iter().map(|name| Name::new(name)).collect();
        Self {
            order: order(&columns).filter(|_| never_sent.iter().all(|name| is_text(&name.text))),
            exact: (0..columns.len()).filter(|index| columns[*index].shape.holds_json()).collect(),
            key: key.iter().map(index).collect(),
            about: About::parse(&format!("{{\"database\":{database},{names}}}")).map(Rc::new),
            length: 512 + database.len() + names.len() + columns.iter().map(|c| c.name.json.len() + 8).sum::<usize>(),
            database: database.to_owned(),
            never_sent,
            names,
            columns,
        }
    }

    pub(super) fn is_identity(&self, index: usize) -> bool {
        self.columns.get(index).is_some_and(|column| column.is_identity)
    }

    /// Names of columns at these indexes, and of those that are never sent.
    pub(super) fn names_at<'t>(&'t self, indexes: &'t [usize], has_row: bool) -> impl Iterator<Item = &'t Name> {
        let names = indexes.iter().filter_map(|index| self.columns.get(*index)).map(|column| &column.name);
        names.chain(self.never_sent.iter().filter(move |_| has_row))
    }

    /// The bytes of a `jsonb` of the values that `value` has for indexes. `None`: ask `jsonb_in`.
    pub(super) fn jsonb<'r>(&self, value: impl Fn(usize) -> Option<Value<'r>>) -> Option<Vec<u8>> {
        let members = self.order.as_ref()?.iter().filter_map(|index| Some((self.columns.get(*index)?, value(*index)?)));
        let (mut count, mut length) = (0, 0);
        for (column, value) in members.clone() {
            count += 1;
            length += column.name.text.len() + value.text().map_or(16, str::len);
        }
        let mut object = ObjectWriter::new(members.clone().map(|(column, _)| &*column.name.text), length + 16 * count)?;
        for (column, value) in members {
            match value {
                Value::Null | Value::Omitted(_) => object.null(),
                Value::Unchanged => object.string(&[UNCHANGED]),
                Value::Text(text) => push_jsonb(&mut object, text, &column.shape)?,
            }
        }
        Some(object.finish())
    }
}

/// What stands in place of a value that was not sent.
pub(super) const UNCHANGED: &str = "unchanged_toast";

fn order(columns: &[Column]) -> Option<Vec<usize>> {
    let name = |index: usize| &*columns[index].name.text;
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by(|one, two| key_order(name(*one), name(*two)));
    let is_once = order.windows(2).all(|pair| name(pair[0]) != name(pair[1]));
    Some(order).filter(|_| is_once && columns.iter().all(|column| is_text(&column.name.text)))
}

/// PostgreSQL's text has no zero byte.
fn is_text(name: &str) -> bool {
    !name.contains('\0')
}
