"""DDL of several sessions at once: whatever their order, what was left out is a gap."""

import contextlib
import threading

import psycopg2
import pytest
from capture_helpers import capture, publish, source, start  # noqa: F401
from conftest import until

OPEN = "SELECT reason FROM audit_gaps WHERE is_open AND table_name = 'q' ORDER BY 1"
LAST = "SELECT after -> {} FROM audit_cdc_internal.schema_changes WHERE object = 'q'::regclass ORDER BY id DESC LIMIT 1"


@contextlib.contextmanager
def session(db):
    connection = db.connect()
    with contextlib.closing(connection), connection.cursor() as cursor:
        yield cursor


@contextlib.contextmanager
def meanwhile(cursor, statement):
    """Runs a statement that waits for somebody; it has ended at the end of the block."""
    pid = cursor.connection.info.backend_pid
    thread = threading.Thread(target=cursor.execute, args=(statement,), daemon=True)
    thread.start()
    until(lambda: waits(cursor, pid))
    yield
    thread.join(60)
    assert not thread.is_alive()


def waits(cursor, pid):
    with contextlib.closing(psycopg2.connect(cursor.connection.dsn)) as other, other.cursor() as watching:
        watching.execute("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", (pid,))
        return watching.fetchone()[0]


@pytest.fixture
def q(source):
    source.run("CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE q (id int PRIMARY KEY, m mood); ALTER TABLE q REPLICA IDENTITY FULL")
    publish(source)
    return source


@pytest.fixture
def captured_q(q):
    start(q)
    return q


@pytest.mark.parametrize("ddl, what, is_now", [
    ("ALTER TABLE q SET UNLOGGED", "'persistence'", []),
    ("ALTER PUBLICATION audited SET (publish = 'insert')", "'published' -> 'actions'", [(["insert"],)]),
])
def test_a_start_waits_for_ddl_that_does_not_know_of_it(q, ddl, what, is_now):
    write = "BEGIN; SELECT pg_current_xact_id()"
    with session(q) as older, session(q) as younger, session(q) as altering, session(q) as starting:
        older.execute(write)
        with meanwhile(starting, "SELECT audit_capture_start('audited')"):
            # a new slot waits for who has written before, twice
            younger.execute(write)
            older.execute("COMMIT")
            until(lambda: younger.connection.info.backend_pid in q.value("SELECT pg_blocking_pids(%s)", starting.connection.info.backend_pid))
            altering.execute("BEGIN; " + ddl)
            younger.execute("COMMIT")
            until(lambda: altering.connection.info.backend_pid in q.value("SELECT pg_blocking_pids(%s)", starting.connection.info.backend_pid))
            altering.execute("COMMIT")
    assert q.rows(LAST.format(what)) == is_now, "of an unlogged table nothing is captured"


LOSSES = [("ALTER TABLE q SET UNLOGGED", "ALTER TABLE q SET LOGGED", "unlogged"),
          ("ALTER PUBLICATION audited SET (publish = 'insert')", "ALTER PUBLICATION audited SET (publish = 'insert, update, delete, truncate')", "partly published")]


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("lose, mend, reason", LOSSES)
def test_what_is_lost_after_two_commands_at_once_is_a_gap(captured_q, lose, mend, reason, isolation):
    """The second one has the table's old state before its eyes. What it notes must not hide the first one."""
    q = captured_q
    q.run(lose)
    with session(q) as mending, session(q) as other:
        mending.execute("BEGIN; " + mend)
        other.execute(f"BEGIN ISOLATION LEVEL {isolation}; SELECT 1")
        with meanwhile(other, "ALTER TYPE mood RENAME VALUE 'b' TO 'bb'"):
            mending.execute("COMMIT")
        other.execute("COMMIT")
    q.rows("CALL audit_backfill('q')")
    until(lambda: q.rows(OPEN) == [])
    q.run(lose)
    q.run("INSERT INTO q VALUES (1, 'a')")
    q.run(mend)
    assert q.rows(OPEN) == [(reason,)]


def test_a_table_is_included_after_what_was_begun(captured_q):
    q = captured_q
    q.run("SELECT audit_exclude_table('q', 'no need')")
    with session(q) as altering, session(q) as including:
        altering.execute("BEGIN; ALTER TABLE q SET UNLOGGED")
        with meanwhile(including, "SELECT audit_include_table('q', 'needed')"):
            altering.execute("COMMIT")
    q.run("INSERT INTO q VALUES (1, 'a')")
    assert ("unlogged",) in q.rows(OPEN)
