"""audit_table_diff(): what became of a table between two moments, and who did it."""

import psycopg2
import pytest
from capture_helpers import capture, paused, publish, source, start  # noqa: F401

BEFORE = "INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four'), (5, 'five')"
ROWS = "record_id, difference, changed, changes, username"


@pytest.fixture
def t(paused):
    db = paused
    db.run("ALTER TABLE t REPLICA IDENTITY FULL")
    db.run(BEFORE)
    capture(db)
    db.run("SELECT audit_mark('before')")
    return db


def change(db, username, sql):
    db.run(f"BEGIN; SELECT audit_annotate(username => '{username}', request_id => 'r-{username}'); {sql}; COMMIT")


def diff(db, columns=ROWS, more="", table="t"):
    capture(db)
    return db.rows(f"SELECT {columns} FROM audit_table_diff('{table}', since_lsn => audit_moment('before'){more})")


def test_who_added_removed_and_changed_what(t):
    change(t, "ada", "UPDATE t SET v = 'uno' WHERE id = 1")
    change(t, "bob", "UPDATE t SET v = 'eins' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (6, 'six')")
    assert diff(t) == [
        ("1", "changed", {"v": {"old": "one", "new": "eins"}}, 2, "bob"),
        ("2", "removed", {"id": {"old": 2}, "v": {"old": "two"}}, 1, "bob"),
        ("6", "added", {"id": {"new": 6}, "v": {"new": "six"}}, 1, "bob")]
    assert diff(t, "old_row, new_row, request_id, last_change, note")[0] == (
        {"id": 1, "v": "one"}, {"id": 1, "v": "eins"}, "r-bob",
        t.value("SELECT max(id) FROM audit_logs WHERE record_id = '1'"), None)
    assert t.value("SELECT count(*) FROM audit_table_diff('t', since_lsn => audit_moment('before')) AS d JOIN audit_logs AS l ON l.id = d.last_change "
                   "WHERE d.commit_timestamp = l.commit_timestamp") == 3


def test_what_changed_back_is_not_listed(t):
    change(t, "ada", "UPDATE t SET v = 'uno' WHERE id = 1; DELETE FROM t WHERE id = 2")
    change(t, "bob", "UPDATE t SET v = 'one' WHERE id = 1; INSERT INTO t VALUES (2, 'two'), (7, 'seven')")
    change(t, "cyd", "DELETE FROM t WHERE id = 7")
    assert diff(t) == []


def test_a_changed_key_is_one_record_less_and_one_more(t):
    change(t, "ada", "UPDATE t SET id = 10 WHERE id = 1")
    assert diff(t) == [
        ("1", "removed", {"id": {"old": 1}, "v": {"old": "one"}}, 1, "ada"),
        ("10", "added", {"id": {"new": 10}, "v": {"new": "one"}}, 1, "ada")]


def test_who_emptied_the_table_has_removed_its_rows(t):
    change(t, "ada", "UPDATE t SET v = 'uno' WHERE id = 1")
    change(t, "bob", "TRUNCATE t")
    assert {(key, how, who) for key, how, _, _, who in diff(t)} == {(str(n), "removed", "bob") for n in range(1, 6)}


def test_between_two_moments_of_the_past(t):
    change(t, "ada", "UPDATE t SET v = 'uno' WHERE id = 1")
    t.run("SELECT audit_mark('between')")
    change(t, "bob", "UPDATE t SET v = 'eins' WHERE id = 1; DELETE FROM t WHERE id = 2")
    assert diff(t, more=", until_lsn => audit_moment('between')") == [("1", "changed", {"v": {"old": "one", "new": "uno"}}, 1, "ada")]
    times = dict(t.rows("SELECT username, commit_timestamp FROM audit_logs WHERE username IS NOT NULL"))
    by_time = "SELECT record_id, username FROM audit_table_diff('t', since => %s, until => %s)"
    assert t.rows(by_time, times["ada"], times["bob"]) == [("1", "bob"), ("2", "bob")]
    assert t.rows(by_time, times["ada"], times["ada"]) == []


def test_each_side_is_what_as_of_gives(t):
    for n in range(1, 6):
        change(t, "ada", f"UPDATE t SET v = v || {n} WHERE id <= {n}; INSERT INTO t VALUES (10 + {n}, NULL); DELETE FROM t WHERE id = 10 - {n}")
    capture(t)
    moment = t.value("SELECT audit_moment('before')")
    sides = [t.rows("SELECT audit_as_of('t', lsn => %s::pg_lsn)", lsn) for lsn in (moment, None)]
    before, after = ({row["id"]: row for (row,) in side} for side in sides)
    told = {int(key): (old, new) for key, old, new in diff(t, "record_id, old_row, new_row")}
    assert told == {key: (before.get(key), after.get(key)) for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_what_the_log_cannot_tell_is_unknown(source):
    """Rows from before the capture, and no old values."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, n int, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
    source.run("INSERT INTO t SELECT id, 0, repeat('x', 3000) FROM generate_series(1, 2) AS id")
    publish(source)
    start(source)
    source.run("UPDATE t SET n = 1 WHERE id = 1")
    capture(source)
    source.run("SELECT audit_mark('before')")
    source.run("UPDATE t SET v = 'short' WHERE id = 1; UPDATE t SET n = 1 WHERE id = 2")
    told = diff(source, "record_id, difference, changed, unknown_columns, note")
    assert told == [("1", "unknown", {}, ["v"], "columns that were not sent"),
                    ("2", "unknown", None, ["v"], told[1][4])]
    assert told[1][4] == source.value("SELECT reason FROM audit_as_of_unknown('t', lsn => audit_moment('before')) WHERE record_id = '2'")


def test_rows_without_key_are_counted(paused):
    db = paused
    db.run("CREATE TABLE bag (v text); ALTER TABLE bag REPLICA IDENTITY FULL")
    db.run("INSERT INTO bag VALUES ('a'), ('a'), ('b')")
    capture(db)
    db.run("SELECT audit_mark('before')")
    change(db, "ada", "DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag); INSERT INTO bag VALUES ('c'), ('c')")
    assert sorted(diff(db, "record_id, difference, coalesce(old_row, new_row) ->> 'v', username", table="bag"), key=str) == [
        (None, "added", "c", None), (None, "added", "c", None), (None, "removed", "a", None)]


@pytest.mark.parametrize("arguments, sqlstate", [
    ("'t'", "22023"),
    ("'t', since => now(), since_lsn => '0/1'", "22023"),
    ("'t', since => now(), until => now(), until_lsn => '0/1'", "22023"),
    ("NULL, since => now()", "22004"),
])
def test_what_is_asked_wrongly(paused, arguments, sqlstate):
    with pytest.raises(psycopg2.Error) as error:
        paused.rows(f"SELECT * FROM audit_table_diff({arguments})")
    assert error.value.pgcode == sqlstate
