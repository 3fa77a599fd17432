"""Undo in sets: many changes are one statement; triggers, shifted keys and partitions; rows that are compared afterwards."""

import pytest
from capture_helpers import publish, source, start, table  # noqa: F401 (fixtures)
from projection_helpers import run
from test_undo import committed, undone
from test_undo_keys import CONFLICT, tables  # noqa: F401 (fixture)


@pytest.fixture
def many(tables):
    """A request that has changed 50 rows of a table."""
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text, n numeric, tags text[])", "t")
    committed(db, "INSERT INTO t SELECT i, CASE WHEN mod(i, 3) > 0 THEN 'it''s ' || i END, i * 1.50, ARRAY['a,b', NULL] FROM generate_series(1, 50) AS i")
    committed(db, "SELECT audit_annotate(request_id => 'r1')", "UPDATE t SET v = 'new', n = n + 1")
    return db


def test_many_changes_are_one_statement(many):
    steps = many.rows("SELECT step, count(*), count(statement), count(problem) FROM audit_undo_sql(request_id => 'r1') GROUP BY 1 ORDER BY 1")
    assert steps == [(1, 50, 1, 0)]
    assert many.value("SELECT count(statement) FROM audit_undo_sql(request_id => 'r1', row_by_row => true)") == 50
    before = many.rows("SELECT t::text FROM t ORDER BY id")
    assert undone(many, request_id="r1") == ["undone"] * 50
    assert many.value("SELECT count(*) FROM t WHERE v IS NOT DISTINCT FROM CASE WHEN mod(id, 3) > 0 THEN 'it''s ' || id END AND n::text = (id * 1.50)::text AND tags = ARRAY['a,b', NULL]") == 50
    assert undone(many, "redo", request_id="r1") == ["redone"] * 50 and many.rows("SELECT t::text FROM t ORDER BY id") == before


def test_both_forms_can_be_run_by_hand(many):
    for rows in ("false", "true"):
        for (statement,) in many.rows(f"SELECT statement FROM audit_undo_sql(request_id => 'r1', row_by_row => {rows}) WHERE statement IS NOT NULL"):
            many.run(statement)
        assert many.value("SELECT count(*) FROM t WHERE v IS DISTINCT FROM 'new'") == 50
        many.run("UPDATE t SET v = 'new', n = n + 1")


def test_a_conflict_in_a_set_leaves_the_others(many):
    committed(many, "UPDATE t SET n = n + 0.0 WHERE id = 7", "UPDATE t SET v = 'since' WHERE id = 20")
    session = many.connect()
    outcomes = dict(run(session, "SELECT record_id::int, outcome FROM audit_undo(request_id => 'r1')"))
    assert {id_ for id_, outcome in outcomes.items() if outcome == CONFLICT} == {20}, "7.0 more is the same number, written alike"
    assert "nothing was undone: 1 of 50 changes cannot be" in "".join(session.notices) and many.value("SELECT count(*) FROM t WHERE v = 'new'") == 49
    assert sorted(undone(many, request_id="r1", despite_conflicts=True)) == [CONFLICT] + ["undone"] * 49
    assert many.rows("SELECT id FROM t WHERE v IN ('new', 'since')") == [(20,)]


@pytest.mark.once
def test_more_rows_than_a_statement_takes(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text)", "t")
    committed(db, "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 2300) AS i")
    lsn = committed(db, "UPDATE t SET v = 'x'")
    assert db.rows("SELECT step, count(*), count(statement) FROM audit_undo_sql(commit_lsn => %s) GROUP BY 1 ORDER BY 1", lsn) == [(1, 1000, 1), (2, 1000, 1), (3, 300, 1)]
    committed(db, "UPDATE t SET v = 'since' WHERE id = 1150")
    outcomes = undone(db, commit_lsn=lsn, despite_conflicts=True)
    assert outcomes.count("undone") == 2299 and outcomes.count(CONFLICT) == 1
    assert db.rows("SELECT * FROM t WHERE v <> 'v' || id") == [(1150, "since")]


def test_inserts_and_deletes_of_families_in_turns(tables):
    db = tables("""CREATE TABLE orders (id int PRIMARY KEY, v text UNIQUE);
        CREATE TABLE lines (nr int PRIMARY KEY, "order" int NOT NULL REFERENCES orders ON DELETE CASCADE, v text)""", "orders", "lines")
    lsn = committed(db, "DO $$ BEGIN FOR i IN 1 .. 12 LOOP INSERT INTO orders VALUES (i, 'o' || i); INSERT INTO lines VALUES (i * 2, i, 'x'), (i * 2 + 1, i, NULL); END LOOP; END $$")
    assert db.rows("SELECT of_table, count(DISTINCT step), count(*) FROM audit_undo_sql(commit_lsn => %s) GROUP BY 1 ORDER BY 1", lsn) == [("public.lines", 1, 24), ("public.orders", 1, 12)]
    before = db.rows("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM lines)")
    assert set(undone(db, commit_lsn=lsn)) == {"undone"} and db.rows("SELECT * FROM orders UNION ALL SELECT nr, v FROM lines") == []
    assert set(undone(db, "redo", commit_lsn=lsn)) == {"redone"} and db.rows("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM lines)") == before
    committed(db, "INSERT INTO lines VALUES (5000, 7, 'since')")
    outcomes = undone(db, commit_lsn=lsn)
    assert outcomes.count(CONFLICT) == 1 and db.value("SELECT count(*) FROM orders") == 12
    deleted = committed(db, "DELETE FROM orders WHERE id <> 7")
    assert set(undone(db, commit_lsn=deleted)) == {"undone"} and db.value("SELECT count(*) FROM lines") == 25


def test_values_that_change_hands(tables):
    """What is unique is free only once the other row has let it go."""
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)", "t")
    committed(db, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, NULL), (4, NULL)")
    lsn = committed(db, "UPDATE t SET v = 'c' WHERE id = 1", "UPDATE t SET v = 'a' WHERE id = 2", "UPDATE t SET v = 'b' WHERE id = 1", "UPDATE t SET v = 'd' WHERE id = 3")
    after = db.rows("SELECT * FROM t ORDER BY id")
    assert set(undone(db, commit_lsn=lsn)) == {"undone"} and db.rows("SELECT * FROM t ORDER BY id") == [(1, "a"), (2, "b"), (3, None), (4, None)]
    assert set(undone(db, "redo", commit_lsn=lsn)) == {"redone"} and db.rows("SELECT * FROM t ORDER BY id") == after


def test_what_is_unique_of_some_rows_only(tables):
    """It is free once a row is none of those any more, whatever its columns are."""
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text, active bool, w int); CREATE UNIQUE INDEX ON t (v) WHERE active", "t")
    committed(db, "INSERT INTO t VALUES (1, 'x', false), (2, 'a', false), (3, 'a', true)")
    lsn = committed(db, "UPDATE t SET active = false WHERE id = 3", "UPDATE t SET active = true, w = 2 WHERE id = 2", "UPDATE t SET active = true WHERE id = 1")
    assert undone(db, commit_lsn=lsn) == ["undone"] * 3 and db.rows("SELECT id FROM t WHERE active") == [(3,)]
    assert undone(db, "redo", commit_lsn=lsn) == ["redone"] * 3 and db.rows("SELECT id FROM t WHERE active ORDER BY id") == [(1,), (2,)]


def test_a_key_that_two_rows_have_by_now(tables):
    """A set that meets one row twice, and another one not at all, has not met all of its rows."""
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text)", "t")
    committed(db, "INSERT INTO t VALUES (1, 'a'), (2, 'a')")
    lsn = committed(db, "UPDATE t SET v = 'b'")
    db.run("ALTER TABLE t DROP CONSTRAINT t_pkey")
    db.run("INSERT INTO t VALUES (1, 'b'); DELETE FROM t WHERE id = 2")
    outcomes = dict(db.rows("SELECT record_id, outcome FROM audit_undo(commit_lsn => %s, despite_conflicts => true)", lsn))
    assert outcomes == {"1": "undone", "2": CONFLICT} and db.rows("SELECT * FROM t ORDER BY v") == [(1, "a"), (1, "b")]


def test_columns_that_are_called_as_new_values_would_be(tables):
    long = ["l" * 62 + last for last in "xy"]
    db = tables(f"CREATE TABLE t (id int PRIMARY KEY, v text, new_v text, {long[0]} text, {long[1]} text)", "t")
    committed(db, "INSERT INTO t VALUES (1, 'a', 'b', 'c', 'd'), (2, 'e', 'f', 'g', 'h')")
    before = db.rows("SELECT * FROM t ORDER BY id")
    lsn = committed(db, f"UPDATE t SET v = 'x', new_v = 'x', {long[0]} = 'x', {long[1]} = 'x'")
    assert db.value("SELECT count(DISTINCT step) FROM audit_undo_sql(commit_lsn => %s)", lsn) == 1
    assert undone(db, commit_lsn=lsn) == ["undone"] * 2 and db.rows("SELECT * FROM t ORDER BY id") == before


def test_null_beside_json_that_jsonb_cannot_hold(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY, doc json)", "t")
    lsn = committed(db, """INSERT INTO t VALUES (1, NULL), (2, '{"a": 1}')""")
    escaped = committed(db, r"""INSERT INTO t VALUES (3, '"\\u0000"')""")
    db.run("CALL audit_capture_stop()")
    db.run(r"""UPDATE t SET doc = '{"a": "\u0000"}' WHERE id = 1""")
    outcomes = dict(db.rows("SELECT record_id, outcome FROM audit_undo(commit_lsn => %s, despite_conflicts => true)", lsn))
    assert outcomes == {"1": CONFLICT, "2": "undone"} and db.rows("SELECT id FROM t ORDER BY id") == [(1,), (3,)]
    assert db.rows("SELECT outcome FROM audit_undo(commit_lsn => %s)", escaped) == [("undone",)], "a backslash, and no such character"


COUNTER = """CREATE FUNCTION count_comments() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN UPDATE posts SET comments = comments + CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END WHERE id = coalesce(NEW.post, OLD.post); RETURN NULL; END $$;
    CREATE TRIGGER count_comments AFTER INSERT OR DELETE ON comments FOR EACH ROW EXECUTE FUNCTION count_comments()"""


def test_rows_that_a_trigger_has_changed_are_named(tables):
    db = tables(f"CREATE TABLE posts (id int PRIMARY KEY, comments int DEFAULT 0); CREATE TABLE comments (id int PRIMARY KEY, post int); {COUNTER}; INSERT INTO posts VALUES (1)", "posts", "comments")
    lsn = committed(db, "INSERT INTO comments VALUES (1, 1)")
    session = db.connect()
    outcomes = run(session, "SELECT of_table, outcome FROM audit_undo(commit_lsn => %s)", lsn)
    assert sorted(outcomes) == [("public.comments", "undone"), ("public.posts", "undone; a trigger has made another row of it")]
    assert "rows are not as they should be: 1" in "".join(session.notices) and db.rows("SELECT comments FROM posts") == [(-1,)]


def test_a_row_that_a_trigger_has_changed_is_named_though_what_comes_after_is_a_conflict(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text, n int)", "t")
    committed(db, "INSERT INTO t VALUES (1, 'a', 0)")
    lsn = committed(db, "UPDATE t SET v = 'b'", "UPDATE t SET v = 'c'")
    db.run("""CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := NEW.n + 1; RETURN NEW; END';
        CREATE TRIGGER counted BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION counted()""")
    assert undone(db, commit_lsn=lsn, despite_conflicts=True) == ["undone; a trigger has made another row of it", CONFLICT]
    assert db.rows("SELECT v, n FROM t") == [("b", 1)]


def test_a_trigger_that_changes_nothing_else_is_not_named(tables):
    db = tables("""CREATE TABLE t (id int PRIMARY KEY, v text); CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER nothing BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nothing()""", "t")
    committed(db, "INSERT INTO t VALUES (1, 'a'), (2, NULL)")
    lsn = committed(db, "UPDATE t SET v = 'b'", "UPDATE t SET v = 'c' WHERE id = 1", "DELETE FROM t WHERE id = 2")
    assert undone(db, commit_lsn=lsn) == ["undone"] * 4 and db.rows("SELECT * FROM t ORDER BY id") == [(1, "a"), (2, None)]


def test_keys_that_were_shifted(tables):
    """Rows that are equal but for the key: each goes back by one."""
    db = tables("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text)", "t")
    committed(db, "INSERT INTO t VALUES (1, 'x'), (2, 'x'), (3, 'x'), (4, 'y')")
    lsn = committed(db, "UPDATE t SET id = id + 1")
    assert set(undone(db, commit_lsn=lsn)) == {"undone"}
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, "x"), (2, "x"), (3, "x"), (4, "y")]
    assert set(undone(db, "redo", commit_lsn=lsn)) == {"redone"}
    assert db.rows("SELECT * FROM t ORDER BY id") == [(2, "x"), (3, "x"), (4, "x"), (5, "y")]


def test_an_identity_that_was_set_to_its_default(tables):
    db = tables("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)", "t")
    committed(db, "INSERT INTO t (v) VALUES ('a')")
    lsn = committed(db, "UPDATE t SET id = DEFAULT")
    assert undone(db, commit_lsn=lsn) == ["id is GENERATED ALWAYS: an update cannot set it"] and db.rows("SELECT * FROM t") == [(2, "a")]


def test_beside_a_row_that_jsonb_cannot_hold(tables):
    db = tables("CREATE TABLE keyless (kind text, doc json); CREATE TABLE keyed (id int PRIMARY KEY, doc json)", "keyless", "keyed")
    committed(db, r"""INSERT INTO keyless VALUES ('c', '{"a": "\u0000"}')""", r"""INSERT INTO keyed VALUES (1, '{"a": "\u0000"}')""")
    lsn = committed(db, """INSERT INTO keyless VALUES ('c', '{"a": 1}')""", """INSERT INTO keyed VALUES (2, '{"a": 1}'), (3, '{"a": 2}')""")
    assert undone(db, commit_lsn=lsn) == ["undone"] * 3
    assert db.rows("SELECT (SELECT count(*) FROM keyless), (SELECT count(*) FROM keyed)") == [(1, 1)]


def test_a_label_that_got_another_name(tables):
    db = tables("CREATE TYPE state AS ENUM ('new', 'payed'); CREATE TABLE t (id int PRIMARY KEY, s state, v text)", "t")
    committed(db, "INSERT INTO t VALUES (1, 'payed', 'a'), (2, 'new', 'b'), (3, 'new', 'c')")
    lsn = committed(db, "UPDATE t SET v = 'z'")
    db.run("ALTER TYPE state RENAME VALUE 'payed' TO 'paid'")
    outcomes = dict(db.rows("SELECT record_id, outcome FROM audit_undo(commit_lsn => %s, despite_conflicts => true)", lsn))
    assert outcomes == {"1": "conflict: a value is none of its type any more (SQLSTATE 22P02)", "2": "undone", "3": "undone"}
    assert db.rows("SELECT id, v FROM t ORDER BY id") == [(1, "z"), (2, "b"), (3, "c")]


@pytest.mark.parametrize("via_root", [False, True])
def test_rows_that_go_to_another_partition(source, via_root):
    """Rows refer to them, and go along with a row that is deleted, but not with one that moves."""
    source.run("""CREATE TABLE t (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
        CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);
        CREATE TABLE child (id int PRIMARY KEY, t int, part int, FOREIGN KEY (t, part) REFERENCES t ON UPDATE CASCADE ON DELETE CASCADE)""")
    for name in ("t", "t1", "t2", "child"):
        source.run(f"ALTER TABLE {name} REPLICA IDENTITY FULL")
    source.run(f"CREATE PUBLICATION audited FOR TABLE t, child WITH (publish_via_partition_root = {via_root})")
    start(source)
    committed(source, "INSERT INTO t VALUES (1, 1, 'a'), (2, 1, 'b')")
    moved = committed(source, "UPDATE t SET part = 2, v = 'moved' WHERE id = 1")
    assert set(undone(source, commit_lsn=moved)) == {"undone"} and source.rows("SELECT * FROM t ORDER BY id") == [(1, 1, "a"), (2, 1, "b")]
    assert set(undone(source, "redo", commit_lsn=moved)) == {"redone"} and source.rows("SELECT * FROM t ORDER BY id") == [(1, 2, "moved"), (2, 1, "b")]
    inserted = committed(source, "INSERT INTO t VALUES (3, 1, 'c')", "INSERT INTO child VALUES (1, 3, 1)")
    assert set(undone(source, commit_lsn=inserted)) == {"undone"} and source.rows("SELECT * FROM child") == []
    assert set(undone(source, "redo", commit_lsn=inserted)) == {"redone"} and source.rows("SELECT * FROM child") == [(1, 3, 1)]


def test_rows_that_go_to_another_partition_together(source):
    """The partitions have a key, and the whole table has none. Each row is two changes."""
    source.run("""CREATE TABLE t (id int, part int, v text) PARTITION BY LIST (part);
        CREATE TABLE t1 PARTITION OF t (PRIMARY KEY (id)) FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t (PRIMARY KEY (id)) FOR VALUES IN (2);
        ALTER TABLE t1 REPLICA IDENTITY FULL; ALTER TABLE t2 REPLICA IDENTITY FULL; CREATE PUBLICATION audited FOR TABLE t""")
    start(source)
    committed(source, "INSERT INTO t VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 2, 'c')")
    before = source.rows("SELECT * FROM t ORDER BY id")
    lsn = committed(source, "UPDATE t SET part = 2 WHERE id < 3")
    after = source.rows("SELECT * FROM t ORDER BY id")
    assert undone(source, commit_lsn=lsn) == ["undone"] * 4 and source.rows("SELECT * FROM t ORDER BY id") == before
    assert undone(source, "redo", commit_lsn=lsn) == ["redone"] * 4 and source.rows("SELECT * FROM t ORDER BY id") == after
    source.run("UPDATE t SET v = 'since' WHERE id = 2")
    outcomes = source.rows("SELECT record_id, outcome FROM audit_undo(commit_lsn => %s, despite_conflicts => true)", lsn)
    assert sorted(outcomes) == [("1", "undone")] * 2 + [("2", CONFLICT)] * 2
    assert source.rows("SELECT * FROM t ORDER BY id") == [(1, 1, "a"), (2, 2, "since"), (3, 2, "c")]


@pytest.mark.parametrize("type_, one, two", [("numeric", "1.0", "1.00"), ("citext", "a", "A")])
def test_keys_that_are_equal_in_another_spelling(tables, type_, one, two):
    """A row may refer in one spelling to what has the other. A foreign key carries the spelling on."""
    before = "CREATE EXTENSION citext;" if type_ == "citext" else ""
    db = tables(f"{before} CREATE TABLE t (id {type_} PRIMARY KEY, v text); CREATE TABLE child (id int PRIMARY KEY, t {type_} REFERENCES t ON UPDATE CASCADE)", "t", "child")
    committed(db, f"INSERT INTO t VALUES ('{one}', 'x')", f"INSERT INTO child VALUES (1, '{two}')")
    spelled = "SELECT t.id::text, c.t::text FROM t, child AS c"
    lsn = committed(db, f"UPDATE t SET id = '7{two}'")
    for _ in range(2):
        assert set(undone(db, commit_lsn=lsn)) == {"undone"} and db.rows(spelled) == [(one, two)]
        assert set(undone(db, "redo", commit_lsn=lsn)) == {"redone"} and db.rows(spelled) == [(f"7{two}", f"7{two}")]


def test_another_spelling_is_not_carried_on_to_rows_that_came_since(tables):
    db = tables("CREATE TABLE t (id numeric PRIMARY KEY, v text); CREATE TABLE child (id int PRIMARY KEY, t numeric REFERENCES t ON UPDATE CASCADE)", "t", "child")
    committed(db, "INSERT INTO t VALUES (1.0, 'x')", "INSERT INTO child VALUES (1, 1.0)")
    lsn = committed(db, "UPDATE t SET id = 1.00")
    committed(db, "INSERT INTO child VALUES (2, 1.00)")
    spelled = "SELECT t::text FROM child ORDER BY id"
    assert CONFLICT in undone(db, commit_lsn=lsn) and db.rows(spelled) == [("1.00",), ("1.00",)]
    committed(db, "DELETE FROM child WHERE id = 2")
    assert set(undone(db, commit_lsn=lsn)) == {"undone"} and db.rows(spelled) == [("1.0",)]


def test_generated_columns_without_a_key(tables):
    db = tables("CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED, c text)", "t")
    committed(db, "INSERT INTO t VALUES (1, DEFAULT, 'x'), (1, DEFAULT, 'x')")
    lsn = committed(db, "UPDATE t SET a = 5 WHERE ctid = (SELECT min(ctid) FROM t)", "DELETE FROM t WHERE a = 1", "INSERT INTO t VALUES (7, DEFAULT, NULL)")
    assert undone(db, commit_lsn=lsn) == ["undone"] * 3 and db.rows("SELECT * FROM t") == [(1, 2, "x"), (1, 2, "x")]
    assert undone(db, "redo", commit_lsn=lsn) == ["redone"] * 3 and db.rows("SELECT * FROM t ORDER BY a") == [(5, 10, "x"), (7, 14, None)]


def test_a_table_that_is_called_as_another_with_its_schema(tables):
    db = tables('CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE "public.orders" (id int PRIMARY KEY)', "orders", '"public.orders"')
    committed(db, 'INSERT INTO "public.orders" VALUES (7)')
    lsn = committed(db, "INSERT INTO orders VALUES (1)")
    assert db.rows("SELECT record_id FROM audit_history('public.orders', '1') UNION ALL SELECT record_id FROM audit_history('\"public.orders\"', '7')") == [("1",), ("7",)]
    assert undone(db, commit_lsn=lsn) == ["undone"] and db.rows('SELECT id FROM orders UNION ALL SELECT id FROM "public.orders"') == [(7,)]
