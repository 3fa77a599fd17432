"""What the tests of capture share."""

import contextlib
import threading

import psycopg2
import pytest
from conftest import admin, server, until
from fault_helpers import answers

SLOT = "SELECT {} FROM pg_replication_slots WHERE database = current_database()"
LONG = "1h"  # a naptime that no test lives to see end


def publish(db, what="ALL TABLES"):
    # from 18 on, REPLICA IDENTITY FULL wants generated columns published
    options = " WITH (publish_generated_columns = stored)" if db.connect().server_version >= 180000 else ""
    db.run(f"CREATE PUBLICATION audited FOR {what}{options}")


def table(db, name="t", columns="id int PRIMARY KEY, v text"):
    db.run(f"CREATE TABLE {name} ({columns}); ALTER TABLE {name} REPLICA IDENTITY FULL")


def setting(**settings):
    """Of the whole server; the fixture `source` takes them back."""
    for name, value in settings.items():
        admin(f"ALTER SYSTEM SET audit_cdc.capture_{name} = '{value}'")
    admin("SELECT pg_reload_conf()")


@pytest.fixture
def source(db):
    """A database that may be captured; afterwards it is not."""
    yield db
    server("start")
    until(lambda: answers(db))
    admin("ALTER SYSTEM RESET ALL")
    admin("SELECT pg_reload_conf()")
    stop(db, discard=True)


@pytest.fixture
def captured(source):
    """A database with the table t, all of whose tables are captured by a worker."""
    table(source)
    publish(source)
    start(source)
    return source


@pytest.fixture
def paused(source):
    """The same, captured by CALL audit_capture() alone."""
    table(source)
    publish(source)
    start(source)
    setting(enabled="off")
    until(lambda: worker(source, "state = 'idle'"))
    return source


def start(db, connection=None):
    db.rows("SELECT audit_capture_start('audited')", connection=connection)
    until(lambda: worker(db))


def stop(db, discard=False):
    if status(db):
        db.run("CALL audit_capture_stop(%s)", discard)


def status(db, columns="publication"):
    return db.rows(f"SELECT {columns} FROM audit_capture_status()")


def workers(db, where="true"):
    return [pid for (pid,) in db.rows(f"SELECT pid FROM pg_stat_activity WHERE backend_type = 'audit_cdc capture' AND datname = current_database() AND {where}")]


def worker(db, where="true"):
    """Its number, once it is there; none while the server is down."""
    try:
        return next(iter(workers(db, where)), None)
    except psycopg2.Error:
        return None


def slot(db, columns="confirmed_flush_lsn"):
    return db.rows(SLOT.format(columns))


def capture(db):
    return db.value("CALL audit_capture()")


def logged(db, name="t", column="id"):
    """Of each entry, in the order of commits."""
    return [value for (value,) in db.rows("SELECT coalesce(new_values, old_values) -> %s FROM audit_logs WHERE table_name = %s ORDER BY commit_lsn, commit_idx", column, name)]


def is_captured(db, sql):
    """Runs sql, of one change, and waits for the worker, which has nothing else to do."""
    before = db.value("SELECT count(*) FROM audit_logs")
    db.run(sql)
    until(lambda: db.value("SELECT count(*) FROM audit_logs") == before + 1)


def follows(db):
    """Waits until all of the WAL that is there now was looked through."""
    end = db.value("SELECT pg_current_wal_flush_lsn()")
    looked = "SELECT coalesce(greatest(c.read_to, l.looked_to) >= %s, false) FROM audit_cdc_internal.captures AS c, audit_cdc_internal.last_look() AS l"
    until(lambda: db.value(looked, end))


@contextlib.contextmanager
def unseen_commit(db, statement):
    """A transaction that is committed in the WAL, and that nobody sees: it waits for a standby. Ends it when it is called. Other sessions
    of the database must have synchronous_commit = local."""
    db.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    db.run("SELECT pg_reload_conf()")
    try:
        until(lambda: db.value("SHOW synchronous_standby_names") == "nobody")
        writer = db.connect(options="-c synchronous_commit=on")
        pid = db.value("SELECT pg_backend_pid()", connection=writer)
        committing = threading.Thread(daemon=True, target=lambda: writer.cursor().execute(statement))
        committing.start()
        until(lambda: db.value("SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = %s", pid))

        def end():
            db.run(f"SELECT pg_cancel_backend({pid})")
            committing.join(30)
        yield end
    finally:
        db.run("ALTER SYSTEM RESET synchronous_standby_names")
        db.run("SELECT pg_reload_conf()")
