//! Which statements take changes back, or make them once more, in which order.

use super::change::{Change, Direction};
use super::promise::{self, Check};
use super::sets::{self, Placed};
use super::statement::{self, MOST_ROWS, Row, Statement};
use super::table::Table;
use super::todo::Todo;
use super::waits::{self, Along, Referred, Wait};
use super::{moves, needs, value, why_not};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::iter;

/// Changes that are taken back, or made once more, by one statement; or why they cannot be.
pub struct Step {
    pub relation: u32,
    pub table_name: String,
    /// Places in the list of changes.
    pub changes: Vec<usize>,
    pub work: Result<Work, String>,
}

pub struct Work {
    pub statement: Statement,
    /// Of many changes, each by itself: where not all rows are met.
    pub alone: Vec<Statement>,
}

pub fn plan(tables: &[Table], changes: &[Change], direction: Direction) -> Vec<Step> {
    let step = |part: &[&Todo]| Step {
        relation: part[0].table.relation,
        table_name: part[0].table.own_rows.clone(),
        changes: part.iter().flat_map(|todo| iter::once(todo.place).chain(todo.also)).collect(),
        work: part[0].problem.clone().map_or_else(|| Ok(work(part)), Err),
    };
    with_sets(tables, changes, direction, |sets| sets.iter().flat_map(|set| set.chunks(MOST_ROWS)).map(step).collect())
}

/// Queries for those of the changes that were done whose rows are not as they should be, which a trigger can make.
pub fn checks(tables: &[Table], changes: &[Change], direction: Direction, done: &HashSet<i64>) -> Vec<Check> {
    if !tables.iter().any(|table| table.has_triggers) {
        return Vec::new();
    }
    with_sets(tables, changes, direction, |sets| {
        let done: Vec<_> = sets.concat().into_iter().filter(|todo| done.contains(&todo.change_id)).collect();
        promise::checks(&done)
    })
}

/// Changes that can be one statement stand together, those of a set in their order.
fn with_sets<R>(
    tables: &[Table],
    changes: &[Change],
    direction: Direction,
    work: impl FnOnce(Vec<Vec<&Todo>>) -> R,
) -> R {
    let moves = moves::moves(tables, changes);
    let wholes: Vec<_> = if moves.is_empty() { Vec::new() } else { tables.iter().map(Table::whole).collect() };
    let todos = todos(tables, &wholes, changes, &moves, direction);
    let placed = |todo: &Todo| match &todo.problem {
        Some(problem) => Placed { kind: Some(format!("{} {problem}", todo.table.name)), needs: Vec::new() },
        // a row that went to another partition is two changes, and the whole table may have no such key
        None if todo.is_along || todo.also.is_some() || todo.table.has_triggers => {
            Placed { kind: None, needs: Vec::new() }
        }
        None => Placed {
            kind: todo.row.kind(todo.table).map(|kind| format!("{} {kind}", todo.table.relation)),
            needs: needs::needs(&todo.row, todo.table),
        },
    };
    let sets = sets::sets(todos.iter().map(placed).collect());
    work(sets.iter().map(|set| set.iter().map(|place| &todos[*place]).collect()).collect())
}

fn work(part: &[&Todo]) -> Work {
    let alone = part.iter().map(|todo| todo.row.statement(todo.table, todo.may_be_so, &todo.guard));
    let mut alone: Vec<_> = alone.collect();
    if let [_] = part {
        return Work { statement: alone.remove(0), alone: Vec::new() };
    }
    let (table, first) = (part[0].table, &part[0].row);
    let guard = first
        .from
        .map(|from| waits::guard(table, &Referred::OfSet(from), first.to, &Along::default()))
        .unwrap_or_default();
    let rows: Vec<_> = part.iter().map(|todo| Row { from: todo.row.from, to: todo.row.to }).collect();
    Work { statement: statement::set(table, &rows, &guard), alone }
}

/// Without those that change nothing.
fn todos<'a>(
    tables: &'a [Table],
    wholes: &'a [Table],
    changes: &'a [Change<'a>],
    moves: &HashMap<usize, usize>,
    direction: Direction,
) -> Vec<Todo<'a>> {
    let waits = waits::waits(tables, changes, direction);
    let at_once = waits::at_once(changes, &waits);
    let cascades: HashSet<_> = waits.iter().filter(|wait| wait.is_cascade && !wait.is_same_row).copied().collect();
    let done_already: HashSet<_> =
        waits.iter().filter(|wait| wait.is_cascade || wait.is_same_row).map(|wait| wait.later).collect();
    let is_along: HashSet<_> =
        cascades.iter().flat_map(|wait| [wait.earlier, wait.later]).chain(at_once.keys().copied()).collect();
    let todo = |place: usize| {
        let also = moves.get(&place).copied();
        let (first, last) = at_once.get(&place).copied().unwrap_or((place, also.unwrap_or(place)));
        let (from, to) = direction.rows(changes[first].old_row.as_ref(), changes[last].new_row.as_ref());
        let table = &if also.is_some() { wholes } else { tables }[changes[place].table];
        let why_not = |place: usize| why_not::why_not(&changes[place], &tables[changes[place].table], direction);
        Todo {
            place,
            also,
            change_id: changes[place].change_id,
            table,
            row: Row { from, to },
            problem: why_not(place).or_else(|| also.and_then(why_not)),
            is_along: is_along.contains(&place),
            may_be_so: done_already.contains(&place),
            guard: String::new(),
        }
    };
    let arrivals: HashSet<_> = moves.values().copied().collect();
    let order = waits::in_order(changes, &waits, direction).into_iter().filter(|place| !arrivals.contains(place));
    let mut todos: Vec<_> = order.map(todo).collect();
    guard(&mut todos, &cascades);
    todos.retain(|todo| todo.problem.is_some() || !todo.row.changes_nothing(todo.table));
    todos
}

/// Each guards the rows that refer to its own, and to those that it changes along.
fn guard(todos: &mut [Todo], cascades: &HashSet<Wait>) {
    let by_place: HashMap<usize, usize> = todos.iter().enumerate().map(|(n, todo)| (todo.place, n)).collect();
    let mut meant: HashMap<usize, HashMap<u32, BTreeSet<String>>> = HashMap::new();
    let mut along: HashMap<usize, Along> = HashMap::new();
    for wait in cascades {
        let Some(later) = by_place.get(&wait.later).map(|place| &todos[*place]) else { continue };
        if later.table.key.is_empty() {
            *along.entry(wait.earlier).or_default().numbers.entry(wait.foreign_key).or_default() += 1;
        }
        if let (None, Some(from)) = (&later.problem, later.row.from) {
            let is_it = value::is_row("r.", from, &later.table.columns_in(from));
            meant.entry(wait.earlier).or_default().entry(later.table.root).or_default().insert(is_it);
        }
    }
    for (earlier, tables) in meant {
        let rows = tables.into_iter().map(|(root, rows)| (root, rows.into_iter().collect::<Vec<_>>().join(" OR ")));
        along.entry(earlier).or_default().rows = rows.collect();
    }
    let none = Along::default();
    let own: Vec<_> = todos
        .iter()
        .map(|todo| match (&todo.problem, todo.row.from) {
            (None, Some(from)) => {
                let along = along.get(&todo.place).unwrap_or(&none);
                waits::guard(todo.table, &Referred::Row(from), todo.row.to, along)
            }
            _ => String::new(),
        })
        .collect();
    let mut next: HashMap<usize, Vec<usize>> = HashMap::new();
    for wait in cascades {
        next.entry(wait.earlier).or_default().push(wait.later);
    }
    for n in 0..todos.len() {
        let mut guards = BTreeSet::new();
        let (mut reached, mut open) = (HashSet::new(), vec![todos[n].place]);
        while let Some(place) = open.pop() {
            for later in next.get(&place).into_iter().flatten() {
                if let Some(guard) = by_place.get(later).map(|place| &own[*place])
                    && reached.insert(*later)
                {
                    guards.insert(guard);
                    open.push(*later);
                }
            }
        }
        guards.remove(&own[n]);
        todos[n].guard = own[n].clone() + &guards.into_iter().map(String::as_str).collect::<String>();
    }
}
