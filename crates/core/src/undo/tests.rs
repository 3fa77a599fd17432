//! Plans of undo and redo, from descriptions of tables as SQL gives them.

use super::*;
use crate::encoding::TypeShape;
use serde_json::{Value, json};

fn column(name: &str, kind: &str) -> Value {
    json!({"name": name, "quoted": name, "type": kind, "type_oid": 0, "is_plain": true, "is_users": false,
        "is_json": false, "is_generated": false, "is_always": false, "is_required": false, "is_published": true,
        "has_older": false, "older": null, "equality": "none"})
}

/// Its columns are `id`, the key, `v` and `parent`.
fn table(name: &str, more: Value) -> Value {
    let mut table = json!({"name": format!("public.{name}"), "own_rows": format!("public.{name}"),
        "relation": name.len(), "root": name.len(), "root_name": format!("public.{name}"), "key": ["id"],
        "is_key_unique": true,
        "columns": [column("id", "integer"), column("v", "text"), column("parent", "integer")], "is_open": false,
        "unique": [], "has_triggers": false, "is_of_system": false, "refers": [], "referred": []});
    for (key, value) in more.as_object().unwrap() {
        table[key] = value.clone();
    }
    table
}

fn foreign_key(child: usize, parent: usize, on_delete: &str) -> Value {
    json!({"id": 1, "child_root": child, "child_name": "public.child", "child_columns": ["parent"],
        "child_quoted": ["parent"], "parent_root": parent, "parent_columns": ["id"], "parent_quoted": ["id"],
        "operators": ["="], "collations": [""], "on_update": "a", "on_delete": on_delete, "is_strangers": false})
}

fn change(table: usize, idx: i32, action: &str, old: Value, new: Value) -> String {
    json!({"change_id": idx + 1, "table": table, "record_id": "1", "action": action, "commit_lsn": 1,
        "commit_idx": idx, "old_row": old, "new_row": new, "unknown_old_columns": [], "unknown_columns": [],
        "not_sent_before": [], "doubt": null})
    .to_string()
}

fn row(id: i32, v: Value) -> Value {
    json!({"id": id, "v": v})
}

fn read<'c>(tables: &[Value], changes: &'c [String]) -> (Vec<Table>, Vec<Change<'c>>) {
    let table = |table: &Value| Table::read(&table.to_string(), |_| TypeShape::Text).unwrap();
    (tables.iter().map(table).collect(), changes.iter().map(|change| serde_json::from_str(change).unwrap()).collect())
}

fn planned(tables: &[Value], changes: &[String], direction: Direction) -> Vec<(Vec<usize>, Result<String, String>)> {
    let (tables, changes) = read(tables, changes);
    let steps = plan(&tables, &changes, direction).into_iter();
    steps.map(|step| (step.changes, step.work.map(|work| work.statement.text))).collect()
}

fn undone(tables: &[Value], changes: &[String]) -> Vec<(Vec<usize>, String)> {
    planned(tables, changes, Direction::Undo).into_iter().map(|(places, text)| (places, text.unwrap())).collect()
}

/// Once these changes were undone.
fn checked(tables: &[Value], changes: &[String], done: &[i64]) -> Vec<String> {
    let (tables, changes) = read(tables, changes);
    let done = done.iter().copied().collect();
    checks(&tables, &changes, Direction::Undo, &done).into_iter().map(|check| check.text).collect()
}

#[test]
fn one_change_names_its_row() {
    let update = change(0, 0, "update", row(1, json!("it's")), row(1, Value::Null));
    assert_eq!(
        undone(&[table("t", json!({}))], std::slice::from_ref(&update)),
        [(vec![0], "UPDATE public.t SET v = 'it''s' WHERE id = '1' AND v IS NULL;".into())]
    );
    let redone = planned(&[table("t", json!({}))], &[update], Direction::Redo);
    assert_eq!(redone[0].1.as_deref(), Ok("UPDATE public.t SET v = NULL WHERE id = '1' AND v = 'it''s';"));
    assert_eq!(
        undone(&[table("t", json!({}))], &[change(0, 0, "insert", Value::Null, row(1, json!("a")))])[0].1,
        "DELETE FROM public.t WHERE id = '1' AND v = 'a' AND parent IS NULL;"
    );
    assert_eq!(
        undone(&[table("t", json!({}))], &[change(0, 0, "delete", row(1, json!("a")), Value::Null)])[0].1,
        "INSERT INTO public.t (id, v) OVERRIDING SYSTEM VALUE SELECT '1', 'a' \
        WHERE NOT EXISTS (SELECT FROM public.t WHERE id = '1');"
    );
}

#[test]
fn changes_of_a_kind_are_one_statement() {
    let changes = [
        change(0, 0, "update", row(1, json!("a")), row(1, json!("b"))),
        change(0, 1, "update", row(2, Value::Null), row(2, json!("c"))),
        change(0, 2, "insert", Value::Null, row(3, json!("d"))),
        change(0, 3, "insert", Value::Null, row(4, Value::Null)),
        change(0, 4, "delete", row(5, json!("e")), Value::Null),
        change(0, 5, "delete", row(6, json!("f")), Value::Null),
    ];
    assert_eq!(
        undone(&[table("t", json!({}))], &changes),
        [
            (
                vec![5, 4],
                "INSERT INTO public.t (id, v) OVERRIDING SYSTEM VALUE SELECT v.id, v.v \
                FROM (VALUES\n  ('6'::integer, 'f'::text),\n  ('5', 'e')) AS v (id, v) \
                WHERE NOT EXISTS (SELECT FROM public.t AS t WHERE t.id = v.id);"
                    .to_owned()
            ),
            (
                vec![3, 2],
                "DELETE FROM public.t AS t USING (VALUES\n  ('4'::integer, NULL::text),\n  ('3', 'd')) AS v (id, v) \
                WHERE t.id = v.id AND t.v IS NOT DISTINCT FROM v.v AND t.parent IS NULL;"
                    .to_owned()
            ),
            (
                vec![1, 0],
                "UPDATE public.t AS t SET v = v.new_v \
                FROM (VALUES\n  ('2'::integer, 'c'::text, NULL::text),\n  ('1', 'b', 'a')) AS v (id, v, new_v) \
                WHERE t.id = v.id AND t.v = v.v;"
                    .to_owned()
            ),
        ]
    );
}

#[test]
fn new_values_have_names_of_their_own() {
    let long: Vec<_> = ["x", "y"].map(|last| format!("{}{last}", "l".repeat(62))).into();
    let names = ["id", "v", "new_v", "new_1", &long[0], &long[1]];
    let tables = [table("t", json!({"columns": names.map(|name| column(name, "text"))}))];
    let of = |id: i32, value: &str| {
        Value::from_iter(names.map(|name| (name, json!(value))).into_iter().chain([("id", json!(id))]))
    };
    let changes = [0, 1].map(|idx| change(0, idx, "update", of(idx, "old"), of(idx, "new")));
    let [(_, text)] = &undone(&tables, &changes)[..] else { panic!("one statement") };
    let (_, named) = text.split_once(" AS v (").unwrap();
    let named: Vec<_> = named.split_once(')').unwrap().0.split(", ").collect();
    assert_eq!(named.iter().collect::<std::collections::HashSet<_>>().len(), 11, "{text}");
    assert!(named.iter().all(|name| name.len() <= 63), "{text}");
}

#[test]
fn a_key_of_generated_columns_tells_no_rows_apart() {
    let mut id = column("id", "integer");
    id["is_generated"] = json!(true);
    let tables = [table("t", json!({"columns": [id, column("v", "text")]}))];
    let changes = [0, 1].map(|idx| change(0, idx, "delete", row(idx, json!("a")), Value::Null));
    let steps = undone(&tables, &changes);
    assert_eq!(steps.iter().map(|(places, _)| places.len()).collect::<Vec<_>>(), [1, 1], "{steps:?}");
    let changes = [0, 1].map(|idx| change(0, idx, "insert", Value::Null, row(idx, json!("a"))));
    let steps = undone(&tables, &changes);
    assert!(
        steps.len() == 2 && steps[0].1.ends_with("LIMIT 1);"),
        "one of those that are equal but for the key: {steps:?}"
    );
}

#[test]
fn a_row_that_was_changed_twice_is_changed_in_order() {
    let changes = [
        change(0, 0, "update", row(1, json!("a")), row(1, json!("b"))),
        change(0, 1, "update", row(2, json!("a")), row(2, json!("b"))),
        change(0, 2, "update", row(1, json!("b")), row(1, json!("c"))),
    ];
    let places: Vec<_> = undone(&[table("t", json!({}))], &changes).into_iter().map(|(places, _)| places).collect();
    assert_eq!(places, [vec![2, 1], vec![0]]);
}

#[test]
fn rows_come_after_those_that_they_refer_to_and_go_before_them() {
    let parent = table("parent", json!({"referred": [foreign_key(5, 6, "a")]}));
    let child = table("child", json!({"refers": [foreign_key(5, 6, "a")]}));
    let of = |id: i32, parent: i32| json!({"id": id, "v": null, "parent": parent});
    let changes = [
        change(0, 0, "insert", Value::Null, row(1, json!("p"))),
        change(1, 1, "insert", Value::Null, of(10, 1)),
        change(0, 2, "insert", Value::Null, row(2, json!("q"))),
        change(1, 3, "insert", Value::Null, of(20, 2)),
    ];
    let tables = [parent, child];
    let places = |direction| planned(&tables, &changes, direction).into_iter().map(|(p, _)| p).collect::<Vec<_>>();
    assert_eq!(places(Direction::Undo), [vec![3, 1], vec![2, 0]]);
    assert_eq!(places(Direction::Redo), [vec![0, 2], vec![1, 3]]);
}

#[test]
fn rows_that_would_go_along_are_guarded() {
    let parent = table("parent", json!({"referred": [foreign_key(5, 6, "c")]}));
    let changes = [
        change(0, 0, "insert", Value::Null, row(1, json!("p"))),
        change(0, 1, "insert", Value::Null, row(2, json!("q"))),
    ];
    let both = undone(std::slice::from_ref(&parent), &changes);
    assert!(both[0].1.ends_with(" AND NOT EXISTS (SELECT FROM public.child AS r WHERE t.id = r.parent);"), "{both:?}");
    let one = undone(&[parent], &changes[..1]);
    assert!(one[0].1.ends_with(" AND NOT EXISTS (SELECT FROM public.child AS r WHERE '1' = r.parent);"), "{one:?}");
}

#[test]
fn with_triggers_each_stands_alone_and_is_looked_at() {
    let tables = [table("t", json!({"has_triggers": true}))];
    let changes = [
        change(0, 0, "insert", Value::Null, row(1, json!("a"))),
        change(0, 1, "update", row(2, json!("a")), row(2, json!("b"))),
        change(0, 2, "update", row(3, json!("a")), row(3, json!("b"))),
    ];
    let steps = undone(&tables, &changes);
    assert_eq!(steps.into_iter().map(|(places, _)| places).collect::<Vec<_>>(), [[2], [1], [0]]);
    assert_eq!(
        checked(&tables, &changes, &[1, 2, 3]),
        [
            "SELECT v.change_id FROM public.t AS t \
            JOIN (VALUES\n  (1::bigint, '1'::integer)) AS v (change_id, id) ON t.id = v.id",
            "SELECT v.change_id FROM public.t AS t \
            RIGHT JOIN (VALUES\n  (3::bigint, '3'::integer, 'a'::text),\n  (2::bigint, '2', 'a')) \
            AS v (change_id, id, v) ON t.id = v.id AND t.v = v.v WHERE t.ctid IS NULL"
        ]
    );
}

#[test]
fn only_what_was_done_is_looked_at() {
    let tables = [table("t", json!({"has_triggers": true}))];
    let changes = [
        change(0, 0, "update", row(1, json!("a")), row(1, json!("b"))),
        change(0, 1, "update", row(1, json!("b")), row(1, json!("c"))),
    ];
    let looked_at = |done: &[i64]| checked(&tables, &changes, done).concat();
    assert!(looked_at(&[1, 2]).contains("(1::bigint, '1'::integer, 'a'::text)"), "the last one says what is there");
    assert!(looked_at(&[2]).contains("(2::bigint, '1'::integer, 'b'::text)"), "the last one was a conflict");
    assert_eq!(looked_at(&[]), "");
}

#[test]
fn rows_with_equal_keys_are_moved_one_at_a_time() {
    let tables = [table("t", json!({"is_key_unique": false}))];
    let steps = undone(&tables, &[change(0, 0, "update", row(1, json!("x")), row(2, json!("x")))]);
    let one = "(tableoid, ctid) = (SELECT tableoid, ctid FROM public.t WHERE id = '2' AND v = 'x' LIMIT 1)";
    assert_eq!(steps[0].1, format!("UPDATE public.t SET id = '1' WHERE {one};"));
}

#[test]
fn a_row_that_went_to_another_partition_goes_back() {
    let part = |name: &str| table(name, json!({"root": 100, "root_name": "public.whole"}));
    let changes = [
        change(0, 0, "delete", row(1, json!("a")), Value::Null),
        change(1, 1, "insert", Value::Null, row(1, json!("b"))),
    ];
    assert_eq!(
        undone(&[part("one"), part("other")], &changes),
        [(vec![0, 1], "UPDATE public.whole SET v = 'a' WHERE id = '1' AND v = 'b';".to_owned())]
    );
    let moved = [(0, 1), (2, 2)].map(|(idx, id)| {
        let of = |v: &str| row(id, json!(v));
        [change(0, idx, "delete", of("a"), Value::Null), change(1, idx + 1, "insert", Value::Null, of("b"))]
    });
    let steps = undone(&[part("one"), part("other")], &moved.concat());
    assert_eq!(steps.into_iter().map(|(places, _)| places).collect::<Vec<_>>(), [[2, 3], [0, 1]], "each by itself");
}

#[test]
fn an_identity_that_cannot_be_set_is_a_problem() {
    let mut id = column("id", "integer");
    id["is_always"] = json!(true);
    let tables = [table("t", json!({"columns": [id, column("v", "text")]}))];
    let steps = planned(&tables, &[change(0, 0, "update", row(1, json!("a")), row(2, json!("a")))], Direction::Undo);
    assert_eq!(steps[0].1, Err("id is GENERATED ALWAYS: an update cannot set it".into()));
}

#[test]
fn a_key_takes_rows_along_in_another_spelling_too() {
    let mut id = column("id", "numeric");
    id["equality"] = json!("scale");
    let mut key = foreign_key(5, 6, "a");
    key["on_update"] = json!("c");
    let tables = [table("parent", json!({"columns": [id, column("v", "text")], "referred": [key]}))];
    let of = |id: &str| json!({"id": id, "v": "a"});
    let steps = undone(&tables, &[change(0, 0, "update", of("1.0"), of("1.0"))]);
    assert!(steps.is_empty(), "{steps:?}");
    let steps = undone(&tables, &[change(0, 0, "update", of("1.0"), of("1.00"))]);
    assert!(steps[0].1.contains("NOT EXISTS"), "{steps:?}");
    let steps = undone(&tables, &[change(0, 0, "update", of("1.0"), of("2"))]);
    assert!(steps[0].1.contains("NOT EXISTS"), "{steps:?}");
}
