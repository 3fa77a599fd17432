"""Whole tables back to a moment, named moments, and what a preview tells."""

import random

import psycopg2
import pytest
from capture_helpers import publish, source, start  # noqa: F401 (fixtures)
from conftest import admin, until
from projection_helpers import code, run
from standby_helpers import standby
from test_undo import TABLES, committed, shop, state, statement, undone, work  # noqa: F401 (fixtures)
from test_undo_keys import CONFLICT, tables  # noqa: F401 (fixture)


def position(db, lsn):
    return db.value("SELECT ('0/0'::pg_lsn + %s)::text", lsn)


def with_its_key(dice):
    """A statement that gives no row another key."""
    while " SET id" in (made := statement(dice)) or " SET nr" in made:
        pass
    return made


def back_and_forth(shop, dice, states):
    """All tables back to a moment, in one undo, and forth."""
    lsn, rows = states[dice.randrange(1, len(states) - 1)]
    outcomes = undone(shop, tables=[f"public.{name}" for name in TABLES], lsn=position(shop, lsn))
    if not set(outcomes) <= {"undone"}:
        assert state(shop) == states[-1][1], "all or nothing"
        return outcomes
    assert state(shop) == rows
    if outcomes:
        undo = shop.value("SELECT max(commit_lsn) FROM audit_logs")
        assert shop.value("SELECT count(DISTINCT commit_lsn) FROM audit_logs WHERE metadata ? 'undo'") == 1, "one undo"
        assert set(undone(shop, commit_lsn=undo)) <= {"undone"} and state(shop) == states[-1][1]
    return outcomes


@pytest.mark.once
@pytest.mark.parametrize("seed", range(40, 44))
def test_all_tables_back_to_any_moment_and_forth(shop, seed):
    dice = random.Random(seed)
    outcomes = back_and_forth(shop, dice, work(shop, dice, 10, with_its_key))
    assert set(outcomes) == {"undone"}, seed


@pytest.mark.once
@pytest.mark.parametrize("seed", range(50, 53))
def test_all_tables_back_where_keys_were_changed_is_all_or_nothing(shop, seed):
    """A key that others refer to may be a conflict."""
    dice = random.Random(seed)
    outcomes = back_and_forth(shop, dice, work(shop, dice, 10))
    assert all(outcome in ("undone", "could be undone") or outcome.startswith("conflict: ") for outcome in outcomes), (seed, outcomes)


def test_a_truncate_is_undone_too(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t)", "t", "child")
    committed(db, "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 40) AS i", "INSERT INTO child SELECT i, i FROM generate_series(1, 40) AS i")
    db.run("SELECT audit_mark('before')")
    committed(db, "UPDATE t SET v = 'x' WHERE id < 10")
    committed(db, "TRUNCATE t, child", "INSERT INTO t VALUES (3, 'since')")
    session = db.connect()
    outcomes = run(session, "SELECT of_table, change_id, outcome, count(*) FROM audit_undo(tables => ARRAY['t', 'child'], lsn => audit_moment('before')) GROUP BY 1, 2, 3 ORDER BY 1")
    assert outcomes == [("public.child", None, "undone", 40), ("public.t", None, "undone", 40)]
    assert db.value("SELECT count(*) FROM t WHERE v = 'v' || id") == 40 == db.value("SELECT count(*) FROM child") == db.value("SELECT count(*) FROM t")
    db.run("CALL audit_capture()")
    assert db.value("SELECT count(DISTINCT metadata) FROM audit_logs WHERE metadata -> 'undo' -> 'tables' = '[\"t\", \"child\"]'") == 1
    assert undone(db, tables=["t"], lsn=db.value("SELECT audit_moment('before')::text")) == []


def test_what_was_changed_and_is_not_in_the_log_yet_is_a_conflict(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE plain (a int, v text)", "t", "plain")
    committed(db, "INSERT INTO t VALUES (1, 'a'), (2, 'b')", "INSERT INTO plain VALUES (1, 'x'), (1, 'x'), (2, 'y')")
    db.run("SELECT audit_mark('m', 'a comment')")
    committed(db, "UPDATE t SET v = v || '!'", "DELETE FROM plain WHERE ctid = (SELECT min(ctid) FROM plain)", "INSERT INTO plain VALUES (2, 'y')")
    db.run("CALL audit_capture_stop()")
    db.run("UPDATE t SET v = 'c' WHERE id = 2")
    back = "audit_undo(tables => '{t,plain}', lsn => audit_moment('m'), despite_conflicts => true)"
    assert sorted(db.rows(f"SELECT of_table, record_id, outcome FROM {back}"), key=str) == [
        ("public.plain", None, "undone"), ("public.plain", None, "undone"), ("public.t", "1", "undone"), ("public.t", "2", CONFLICT)]
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, "a"), (2, "c")] and db.rows("SELECT * FROM plain ORDER BY a, v") == [(1, "x"), (1, "x"), (2, "y")]


def test_rows_without_key_of_which_the_log_cannot_tell_are_left_alone(tables):
    """Those of before and after a change of the columns cannot be told apart: what would be added may be there."""
    db = tables("CREATE TABLE plain (a int, v text); CREATE TABLE t (id int PRIMARY KEY, v text)", "plain", "t")
    committed(db, "INSERT INTO plain VALUES (1, 'x'), (2, 'y')", "INSERT INTO t VALUES (1, 'a')")
    db.run("SELECT audit_mark('m')")
    db.run("ALTER TABLE plain ADD COLUMN w int")
    committed(db, "INSERT INTO plain VALUES (3, 'z', 3)", "UPDATE t SET v = 'b'")
    back = "SELECT of_table, outcome FROM audit_undo(tables => '{plain,t}', lsn => audit_moment('m'), despite_conflicts => true) ORDER BY 1"
    reason = "without a key, rows from before and after a change of the table's columns cannot be told apart"
    assert db.rows(back) == [("public.plain", reason), ("public.t", "undone")]
    assert db.rows("SELECT a FROM plain ORDER BY a") == [(1,), (2,), (3,)] and db.rows("SELECT v FROM t") == [("a",)]


def test_a_row_that_took_the_place_of_another_does_not_become_that(source):  # noqa: F811
    """What is not published is of the row that is there now."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text, secret text); CREATE PUBLICATION audited FOR TABLE t (id, v)")
    start(source)
    committed(source, "INSERT INTO t SELECT i, 'old', 'of old ' || i FROM generate_series(1, 5) AS i")
    source.run("SELECT audit_mark('m')")
    committed(source, "DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (1, 'new', 'of new')", "DELETE FROM t WHERE id = 4")
    committed(source, "UPDATE t SET v = 'new' WHERE id = 2", "UPDATE t SET id = 6 WHERE id = 3", "UPDATE t SET id = 3, v = 'new' WHERE id = 5")
    unknown = "values of secret unknown: they are not published"
    outcomes = dict(source.rows("SELECT record_id, outcome FROM audit_undo(tables => '{t}', lsn => audit_moment('m'), despite_conflicts => true)"))
    assert outcomes == {"1": unknown, "2": "undone", "3": unknown, "4": unknown, "5": unknown, "6": CONFLICT}
    assert source.rows("SELECT id, v, secret FROM t WHERE id IN (1, 2) ORDER BY id") == [(1, "new", "of new"), (2, "old", "of old 2")]


def test_a_preview_keeps_nothing(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text)", "t")
    committed(db, "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    lsn = committed(db, "UPDATE t SET v = 'x'")
    committed(db, "UPDATE t SET v = 'y' WHERE id = 2")
    session = db.connect()
    outcomes = run(session, "SELECT outcome, count(*) FROM audit_undo(commit_lsn => %s, preview => true) GROUP BY 1 ORDER BY 1", lsn)
    assert outcomes == [(CONFLICT, 1), ("could be undone", 2)]
    assert "a preview: 2 of 3 changes can be undone" in "".join(session.notices)
    assert db.rows("SELECT v FROM t ORDER BY id") == [("x",), ("y",), ("x",)]
    db.run("CALL audit_capture()")
    assert db.value("SELECT count(*) FROM audit_logs WHERE metadata ? 'undo'") == 0
    assert run(session, "SELECT outcome FROM audit_redo(commit_lsn => %s, preview => true)", lsn) == [(CONFLICT,)] * 3
    for call in ("undo", "redo"):
        assert code(session, f"SELECT audit_{call}(commit_lsn => {lsn}, preview => NULL)") == "22004", call


def test_after_a_preview_the_annotation_is_as_before(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text)", "t")
    committed(db, "INSERT INTO t VALUES (1, 'a')")
    lsn = committed(db, "UPDATE t SET v = 'b'")
    session = db.connect()
    run(session, "BEGIN")
    run(session, "SELECT audit_annotate(username => 'ada', metadata => '{\"why\": 1}')")
    assert run(session, "SELECT outcome FROM audit_undo(commit_lsn => %s, preview => true)", lsn) == [("could be undone",)]
    run(session, "UPDATE t SET v = 'c'")
    run(session, "COMMIT")
    db.run("CALL audit_capture()")
    assert db.rows("SELECT annotations FROM audit_logs WHERE commit_lsn > %s", lsn) == [({"username": "ada", "metadata": {"why": 1}},)]


def test_marks(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY, v text)", "t")
    committed(db, "INSERT INTO t VALUES (1, 'a')")
    db.run("SELECT audit_mark('before import', 'the big one')")
    committed(db, "UPDATE t SET v = 'b'")
    assert db.rows("SELECT name, comment, marked_by::text FROM audit_marks") == [("before import", "the big one", "postgres")]
    assert db.rows("SELECT v FROM audit_as_of(NULL::t, lsn => audit_moment('before import'))") == [("a",)]
    assert undone(db, table_name="t", key="1", lsn=db.value("SELECT audit_moment('before import')::text")) == ["undone"] and db.rows("SELECT v FROM t") == [("a",)]
    session = db.connect()
    for call, expected in [("audit_mark('before import')", "42710"), ("audit_mark(NULL)", "22004"), ("audit_mark('')", "22023"), (f"audit_mark('{'m' * 201}')", "22023"), ("audit_moment('none')", "42704"), ("audit_moment(NULL)", "22004")]:
        assert code(session, f"SELECT {call}") == expected, call
    assert code(session, "DELETE FROM audit_cdc_internal.marks") is not None
    admin("DROP ROLE IF EXISTS clerk")
    admin("CREATE ROLE clerk LOGIN")
    try:
        assert code(db.connect(user="clerk"), "SELECT audit_mark('x')") == "42501"
        admin("GRANT audit_cdc_reader TO clerk")
        run(db.connect(user="clerk"), "SELECT audit_mark('x')")
        assert db.value("SELECT marked_by::text FROM audit_marks WHERE name = 'x'") == "clerk"
    finally:
        admin("DROP ROLE clerk")


def test_a_moment_is_marked_on_the_primary(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY)", "t")
    db.run("SELECT audit_mark('before')")
    with standby(db) as copy:
        until(lambda: copy.value("SELECT count(*) FROM audit_marks") == 1)
        with pytest.raises(psycopg2.Error) as raised:
            run(copy.connect(), "SELECT audit_mark('there')")
        assert raised.value.pgcode == "55000" and "HINT:  Call audit_mark() on the primary." in str(raised.value)
        assert copy.value("SELECT audit_moment('before') IS NOT NULL")


def test_what_tables_are_named_with(tables):
    db = tables("CREATE TABLE t (id int PRIMARY KEY)", "t")
    committed(db, "INSERT INTO t VALUES (1)")
    for call in ("tables => '{t}'", "tables => '{t}', at => now(), lsn => '0/1'", "tables => '{t}', at => now(), key => '1'", "tables => '{t}', at => now(), request_id => 'r'"):
        assert code(db.connect(), f"SELECT audit_undo({call})") == "22023", call
    assert undone(db, tables=["t", "t"], at="infinity") == []
