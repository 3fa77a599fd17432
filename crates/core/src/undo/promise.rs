//! What was promised of the rows, looked at once all is done: a trigger may have made other rows.

use super::image::Image;
use super::statement::{self, MOST_ROWS};
use super::table::Table;
use super::todo::Todo;
use super::waits::values;
use std::collections::{BTreeMap, HashMap};

/// A query for the numbers of changes whose rows are not as they should be after all steps.
pub struct Check {
    pub relation: u32,
    pub text: String,
}

/// What the last change of a record has promised; `None`: that there is no such row.
struct Promise<'a> {
    change_id: i64,
    table: &'a Table,
    /// With the key that is meant.
    image: &'a Image<'a>,
    is_there: bool,
}

/// `done`: in this order. Rows without a key are not looked at.
pub(super) fn checks(done: &[&Todo]) -> Vec<Check> {
    let mut last = HashMap::new();
    for (place, todo) in done.iter().enumerate().filter(|(_, todo)| todo.problem.is_none() && todo.table.is_here()) {
        for (image, is_there) in [(todo.row.from, false), (todo.row.to, true)] {
            let Some(image) = image.filter(|image| !todo.table.key.is_empty() && image.has_all(&todo.table.key)) else {
                continue;
            };
            let promise = Promise { change_id: todo.change_id, table: todo.table, image, is_there };
            last.insert((todo.table.root, values(Some(image), todo.table, &todo.table.key)), (place, promise));
        }
    }
    let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (place, promise) in last.into_values() {
        let columns: Vec<_> = promise.table.columns_in(promise.image).iter().map(|c| c.quoted.clone()).collect();
        kinds.entry((promise.table.relation, promise.is_there, columns)).or_default().push((place, promise));
    }
    let mut checks = Vec::new();
    for ((relation, is_there, _), mut promises) in kinds {
        promises.sort_by_key(|(place, _)| *place);
        for part in promises.chunks(MOST_ROWS) {
            let rows: Vec<_> = part.iter().map(|(_, promise)| (promise.change_id, promise.image)).collect();
            checks.push(Check { relation, text: statement::broken(part[0].1.table, &rows, is_there) });
        }
    }
    checks
}
