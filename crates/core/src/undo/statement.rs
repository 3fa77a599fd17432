//! A change as a statement, to be read before it is run. It is guarded by all that is known of the row before.
//! Many changes of a kind are one statement.

use super::image::Image;
use super::table::{Column, Table};
use super::value::{Nulls, Other, is_row};
use std::iter;

/// Longer statements are parted.
pub(super) const MOST_ROWS: usize = 1000;
/// In bytes; of longer names PostgreSQL takes the beginning.
const LONGEST_NAME: usize = 63;

/// What is to become of a row. Neither `from` nor `to`: null for no row.
pub(super) struct Row<'a> {
    pub from: Option<&'a Image<'a>>,
    pub to: Option<&'a Image<'a>>,
}

/// `text` changes nothing where a row is not as it should be. `lock` comes before it: it waits for who refers to
/// the rows just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub text: String,
    pub lock: Option<String>,
}

impl<'a> Row<'a> {
    /// Columns that are to have another value.
    pub fn changed<'t>(&self, table: &'t Table) -> Vec<&'t Column> {
        let (Some(from), Some(to)) = (self.from, self.to) else { return Vec::new() };
        let differs =
            |column: &&Column| from.get(&column.name).is_some_and(|before| to.get(&column.name) != Some(before));
        table.columns_in(to).into_iter().filter(differs).collect()
    }

    pub fn changes_nothing(&self, table: &Table) -> bool {
        self.from.is_some() && self.to.is_some() && self.changed(table).is_empty()
    }

    fn has_key(&self, table: &Table) -> bool {
        let has = |image: Option<&Image>| image.is_none_or(|image| image.has_all(&table.key));
        !table.key.is_empty() && has(self.from) && has(self.to)
    }

    /// Columns of the table of which the row does not tell.
    fn untold<'t>(&self, table: &'t Table) -> Vec<&'t Column> {
        let (Some(from), None) = (self.from, self.to) else { return Vec::new() };
        let is_untold = |column: &&Column| !column.is_generated && column.r#type.is_some() && !from.has(&column.name);
        let mut columns: Vec<_> = table.columns.iter().filter(is_untold).collect();
        columns.sort_by(|one, two| one.name.cmp(&two.name));
        columns
    }

    /// What those that can be one statement have in common; `None`: it stands by itself.
    pub fn kind(&self, table: &Table) -> Option<String> {
        if !self.has_key(table) || !table.tells_rows_apart() || !table.is_here() {
            return None;
        }
        let names = |image: Option<&Image>| {
            image.map(|image| table.columns_in(image).iter().map(|c| c.quoted.as_str()).collect::<Vec<_>>().join(" "))
        };
        let changed: Vec<_> = self.changed(table).iter().map(|column| column.quoted.as_str()).collect();
        Some(format!("{:?} {:?} {changed:?}", names(self.from), self.to.and_then(|to| names(Some(to)))))
    }

    /// `may_be_so`: a foreign key may have done it already. `guard`: further conditions.
    pub fn statement(&self, table: &Table, may_be_so: bool, guard: &str) -> Statement {
        let (name, own_rows) = (&table.name, &table.own_rows);
        let has_key = self.has_key(table);
        let keys = || table.key.iter().filter_map(|key| table.column(key)).collect::<Vec<_>>();
        let Some(from) = self.from else {
            let to = self.to.cloned().unwrap_or_default();
            let columns = table.columns_in(&to);
            let text = format!(
                "INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE SELECT {}{};",
                list(columns.iter().map(|column| column.quoted.clone())),
                list(columns.iter().map(|column| column.literal(to.get(&column.name).unwrap_or("null")))),
                if has_key {
                    format!(" WHERE NOT EXISTS (SELECT FROM {own_rows} WHERE {})", is_row("", &to, &keys()))
                } else {
                    String::new()
                }
            );
            return Statement { text, lock: None };
        };
        let changed = self.changed(table);
        let mut conditions = vec![is_row("", from, &table.columns_in(from))];
        conditions.extend(self.untold(table).iter().map(|column| column.is_older("")));
        let is_it = conditions.join(" AND ");
        let is_one = has_key && table.tells_rows_apart();
        let this_row = if is_one { is_it.clone() } else { one_of(table, &is_it) };
        let this_row = format!("{this_row}{guard}");
        let Some(to) = self.to else {
            return Statement {
                text: format!("DELETE FROM {own_rows} WHERE {this_row};"),
                lock: Some(format!("SELECT FROM {own_rows} WHERE {this_row} FOR UPDATE")),
            };
        };
        let so_already = if !may_be_so {
            String::new()
        } else if is_one {
            let others = changed.iter().filter(|column| !table.key.contains(&column.name));
            let equal = others.filter_map(|column| to.get(&column.name).map(|value| column.is_equal(value)));
            format!(" OR {}", iter::once(is_row("", to, &keys())).chain(equal).collect::<Vec<_>>().join(" AND "))
        } else {
            let is_so = is_row("", to, &table.columns_in(to));
            format!(" OR NOT EXISTS (SELECT FROM {own_rows} WHERE {is_it}) AND {}", one_of(table, &is_so))
        };
        let set = changed
            .iter()
            .map(|column| format!("{} = {}", column.quoted, column.literal(to.get(&column.name).unwrap_or("null"))));
        let text = format!("UPDATE {own_rows} SET {} WHERE {this_row}{so_already};", list(set));
        Statement { text, lock: None }
    }
}

/// One of those rows; partitions number theirs each by itself.
pub(super) fn one_of(table: &Table, condition: &str) -> String {
    format!("(tableoid, ctid) = (SELECT tableoid, ctid FROM {} WHERE {condition} LIMIT 1)", table.own_rows)
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// The values of some rows, as a table `v`.
struct Values<'r> {
    names: Vec<String>,
    columns: Vec<Vec<(&'r Column, &'r str)>>,
}

impl<'r> Values<'r> {
    fn add(&mut self, column: &'r Column, values: impl Iterator<Item = &'r str>) -> Other<'r> {
        self.add_as(column.quoted.clone(), column, values)
    }

    /// The same under a name that no other has. After all whose names are given.
    fn add_new(&mut self, column: &'r Column, values: impl Iterator<Item = &'r str>) -> Other<'r> {
        let is_plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let wanted = Some(format!("new_{}", column.name)).filter(|name| is_plain(name) && name.len() <= LONGEST_NAME);
        let mut names = wanted.into_iter().chain((1..).map(|number| format!("new_{number}")));
        let name = names.find(|name| !self.names.contains(name)).unwrap_or_default();
        self.add_as(name, column, values)
    }

    fn add_as(&mut self, name: String, column: &'r Column, values: impl Iterator<Item = &'r str>) -> Other<'r> {
        let values: Vec<_> = values.map(|value| (column, value)).collect();
        let nulls = Nulls::of(values.iter().map(|(column, value)| column.is_null(value)));
        self.names.push(name.clone());
        self.columns.push(values);
        Other::Column { name: format!("v.{name}"), nulls }
    }

    /// As a table `v`. numbers: one for each row, which come first, under a name of their own.
    fn sql(&self, numbers: Option<&[i64]>) -> (String, String) {
        let mut name = String::from("change_id");
        while self.names.contains(&name) {
            name.push('_');
        }
        let number = |place: usize| match numbers {
            Some(numbers) => vec![format!("{}::bigint", numbers[place])],
            None => Vec::new(),
        };
        let count = self.columns.first().map_or(0, Vec::len);
        let row = |place: usize| {
            let values = self.columns.iter().map(|column| column[place].0.in_rows(column[place].1, place == 0));
            format!("\n  ({})", list(number(place).into_iter().chain(values)))
        };
        let rows: Vec<_> = (0..count).map(row).collect();
        let names = numbers.map(|_| name.clone()).into_iter().chain(self.names.iter().cloned());
        (format!("(VALUES{}) AS v ({})", rows.join(","), list(names)), name)
    }
}

/// Rows of one kind, as one statement. `guard`: further conditions of the row, which is `t`.
pub(super) fn set(table: &Table, rows: &[Row], guard: &str) -> Statement {
    let (name, own_rows) = (&table.name, &table.own_rows);
    let mut values = Values { names: Vec::new(), columns: Vec::new() };
    let null = "null";
    let Some(from) = rows.first().and_then(|row| row.from) else {
        let to: Vec<_> = rows.iter().filter_map(|row| row.to).collect();
        let columns = to.first().map(|first| table.columns_in(first)).unwrap_or_default();
        let mut keys = Vec::new();
        for column in &columns {
            let other = values.add(column, to.iter().map(|image| image.get(&column.name).unwrap_or(null)));
            if table.key.contains(&column.name) {
                keys.push(column.is("t.", &other));
            }
        }
        let text = format!(
            "INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} \
            WHERE NOT EXISTS (SELECT FROM {own_rows} AS t WHERE {});",
            list(columns.iter().map(|column| column.quoted.clone())),
            list(columns.iter().map(|column| format!("v.{}", column.quoted))),
            values.sql(None).0,
            keys.join(" AND "),
        );
        return Statement { text, lock: None };
    };
    let mut conditions = Vec::new();
    for column in table.columns_in(from) {
        let old = rows.iter().map(|row| row.from.and_then(|from| from.get(&column.name)).unwrap_or(null));
        let other = values.add(column, old);
        conditions.push(column.is("t.", &other));
    }
    conditions.extend(rows[0].untold(table).iter().map(|column| column.is_older("t.")));
    let mut set = Vec::new();
    for column in rows[0].changed(table) {
        let new = rows.iter().map(|row| row.to.and_then(|to| to.get(&column.name)).unwrap_or(null));
        if let Other::Column { name, .. } = values.add_new(column, new) {
            set.push(format!("{} = {name}", column.quoted));
        }
    }
    let (conditions, values) = (conditions.join(" AND ") + guard, values.sql(None).0);
    if rows[0].to.is_none() {
        return Statement {
            text: format!("DELETE FROM {own_rows} AS t USING {values} WHERE {conditions};"),
            lock: Some(format!("SELECT FROM {own_rows} AS t, {values} WHERE {conditions} FOR UPDATE OF t")),
        };
    }
    let text = format!("UPDATE {own_rows} AS t SET {} FROM {values} WHERE {conditions};", set.join(", "));
    Statement { text, lock: None }
}

/// A query for the numbers of rows that are not there, or are there and should not be.
pub(super) fn broken(table: &Table, rows: &[(i64, &Image)], is_there: bool) -> String {
    let mut values = Values { names: Vec::new(), columns: Vec::new() };
    let mut conditions = Vec::new();
    for column in table.columns_in(rows[0].1) {
        if is_there || table.key.contains(&column.name) {
            let other = values.add(column, rows.iter().map(|(_, image)| image.get(&column.name).unwrap_or("null")));
            conditions.push(column.is("t.", &other));
        }
    }
    let numbers: Vec<_> = rows.iter().map(|(number, _)| *number).collect();
    let (values, number) = values.sql(Some(&numbers));
    let (own_rows, conditions) = (&table.own_rows, conditions.join(" AND "));
    if is_there {
        format!("SELECT v.{number} FROM {own_rows} AS t RIGHT JOIN {values} ON {conditions} WHERE t.ctid IS NULL")
    } else {
        format!("SELECT v.{number} FROM {own_rows} AS t JOIN {values} ON {conditions}")
    }
}
