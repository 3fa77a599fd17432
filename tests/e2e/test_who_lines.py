"""Lines of history, and the views of common questions, tell which session made a change: also one that nobody annotated."""

import pytest
from capture_helpers import capture, paused, publish, source, start  # noqa: F401 (fixtures)
from conftest import batch, change
from test_server_context import FORGED, session

WHO = "username, server_context ->> 'session_user', server_context ->> 'application_name', attested"
SIGNED = "BEGIN; SELECT audit_annotate(username => 'ada'); {}; COMMIT"
LIVED = """SELECT l.* FROM audit_cdc_internal.table_named('t', NULL, NULL) AS a CROSS JOIN LATERAL audit_cdc_internal.lines_by_lives(a, '1') AS l
           ORDER BY l.commit_lsn, l.commit_idx"""


@pytest.fixture
def changed(paused):  # noqa: F811
    session(paused, "INSERT INTO t VALUES (1, 'a')", SIGNED.format("UPDATE t SET v = 'b'"), f"BEGIN; {FORGED}; DELETE FROM t; COMMIT", application_name="shop")
    paused.run("CALL audit_capture()")
    return paused


TOLD = [(None, "postgres", "shop", None), ("ada", "postgres", "shop", True), ("eve", "postgres", "shop", False)]


@pytest.mark.parametrize("asked", [
    "audit_history('t', '1')", "audit_history(NULL::t, '1')", "audit_history('t')", "audit_history('t', '1', since => '2000-01-01')",
    "audit_history(since => '2000-01-01')", "audit_history('t', max_rows => 3)", f"({LIVED})"])
def test_a_line_tells_its_session(changed, asked):
    columns = "(change).username, (change).server_context ->> 'session_user', (change).server_context ->> 'application_name', (change).attested"
    found = changed.rows(f"SELECT {columns if 'NULL::t' in asked else WHO} FROM {asked} AS l")
    assert found == TOLD


def test_a_line_has_what_the_entry_has(changed):
    entries = changed.rows("SELECT id, server_context, attested FROM audit_logs ORDER BY id")
    assert changed.rows("SELECT id, server_context, attested FROM audit_history('t', '1')") == entries
    assert changed.rows(f"SELECT id, server_context, attested FROM ({LIVED}) AS l") == entries
    assert {"session_user", "current_user", "application_name", "backend_start", "transaction_start"} <= entries[0][1].keys()


def test_a_life_that_is_read_tells_it_too(source):  # noqa: F811
    """Of a record that had another key, and one that ended with its table."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    publish(source)
    start(source)
    session(source, "INSERT INTO t VALUES (1, 'a')", SIGNED.format("UPDATE t SET id = 2"), "DROP TABLE t", application_name="shop")
    capture(source)
    assert source.rows(f"SELECT action, {WHO} FROM audit_history('t', '2')") == [
        ("insert", None, "postgres", "shop", None), ("update", "ada", "postgres", "shop", True), ("drop", None, "postgres", "shop", None)]


def test_of_what_was_delivered_nothing_is_told(db):
    db.ingest(batch([change(1)]))
    assert db.rows(f"SELECT {WHO} FROM audit_history(since => '2000-01-01')") == [(None, None, None, None)]
    assert db.rows("SELECT who, role, program FROM audit_last_changes") == [(None, None, None)]


def test_the_views_tell_it(changed):
    who = [("eve", "postgres", "shop"), ("ada", "postgres", "shop"), (None, "postgres", "shop")]
    assert changed.rows("SELECT who, role, program FROM audit_last_changes") == who
    assert changed.rows("SELECT who, role, program FROM audit_deletions") == who[:1]
    session(changed, "SET ROLE pg_monitor", "RESET ROLE", "INSERT INTO t VALUES (7, 'a')", application_name="shop")
    changed.run("CALL audit_capture()")
    assert changed.rows("SELECT who, role, inserts, updates, deletes, transactions FROM audit_changes_by_user") == [
        ("ada", None, 0, 1, 0, 1), ("eve", None, 0, 0, 1, 1), (None, "postgres", 2, 0, 0, 2)]


def test_unsigned_changes_are_counted_by_role(changed):
    role = changed.name + "_app"
    changed.run(f"CREATE ROLE {role} LOGIN; GRANT INSERT ON t TO {role}")
    try:
        session(changed, "INSERT INTO t VALUES (2, 'a')", "INSERT INTO t VALUES (3, 'a')", user=role)
        changed.run("CALL audit_capture()")
        assert changed.rows("SELECT role, inserts, transactions FROM audit_changes_by_user WHERE who IS NULL ORDER BY inserts") == [("postgres", 1, 1), (role, 2, 2)]
        assert changed.rows("SELECT inserts, transactions FROM audit_changes_by_user() WHERE who IS NULL") == [(3, 3)]
    finally:
        changed.run(f"DROP OWNED BY {role}; DROP ROLE {role}")
