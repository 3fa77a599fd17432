//! What a change needs of others: keys, unique values, and the rows that it refers to.

use super::equal::folded;
use super::image::Image;
use super::sets::{By, Need};
use super::statement::Row;
use super::table::{Equality, Table};

/// Of columns of a row.
enum Values {
    /// No other row can have them.
    Null,
    /// Nobody can tell them, or what is equal to them.
    Any,
    These(Vec<String>),
}

fn values(image: &Image, table: &Table, columns: &[String]) -> Values {
    let mut values = Vec::with_capacity(columns.len());
    for name in columns {
        let column = table.column(name);
        match image.get(name) {
            Some("null") => return Values::Null,
            Some(value) if !column.is_none_or(|c| matches!(c.equality, Equality::Collation | Equality::Unknown)) => {
                values.push(folded(value, column).into_owned());
            }
            _ => return Values::Any,
        }
    }
    Values::These(values)
}

/// Of a value that the row has before, after, or both.
fn add(
    needs: &mut Vec<Need>,
    of: &str,
    row: &Row,
    table: &Table,
    columns: &[String],
    [from_by, to_by, same_by]: [Option<By>; 3],
) {
    let of_side = |image: Option<&Image>| image.map(|image| values(image, table, columns));
    let mut push = |values: Option<Values>, by: Option<By>| {
        let (Some(values), Some(by)) = (values, by) else { return };
        let values = match values {
            Values::Null => return,
            Values::Any => None,
            Values::These(values) => Some(values),
        };
        needs.push(Need { of: of.to_owned(), values, by });
    };
    let is_same = match (row.from, row.to) {
        (Some(from), Some(to)) => columns.iter().all(|name| from.get(name).is_none() || from.get(name) == to.get(name)),
        _ => false,
    };
    if is_same {
        push(of_side(row.from), same_by);
    } else {
        push(of_side(row.from), from_by);
        push(of_side(row.to), to_by);
    }
}

pub(super) fn needs(row: &Row, table: &Table) -> Vec<Need> {
    let mut needs = Vec::new();
    let of = |root: u32, columns: &[String]| format!("{root} {}", columns.join("\0"));
    let taken = [Some(By::Freeing), Some(By::Taking)];
    add(&mut needs, &format!("{} row", table.root), row, table, &table.key, [taken[0], taken[1], Some(By::Altering)]);
    for columns in &table.unique {
        let unique =
            format!("unique {}", columns.as_deref().map_or_else(|| table.root.to_string(), |c| of(table.root, c)));
        match columns {
            Some(columns) => add(&mut needs, &unique, row, table, columns, [taken[0], taken[1], None]),
            None => {
                let by = match (row.from, row.to) {
                    (Some(_), Some(_)) => By::Altering,
                    (Some(_), None) => By::Freeing,
                    _ => By::Taking,
                };
                needs.push(Need { of: unique, values: None, by });
            }
        }
    }
    for key in &table.referred {
        let name = of(key.parent_root, &key.parent_columns);
        add(&mut needs, &name, row, table, &key.parent_columns, [taken[0], taken[1], None]);
    }
    for key in &table.refers {
        let name = of(key.parent_root, &key.parent_columns);
        let refers = Some(By::Referring);
        add(&mut needs, &name, row, table, &key.child_columns, [refers, refers, None]);
    }
    needs
}
