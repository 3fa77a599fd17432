"""What the tests of projections share."""

import contextlib
import os
import threading

import psycopg2
import pytest
from conftest import admin, batch, change, numbers, until

FEED = "CREATE TABLE feed (n bigserial, log_id bigint, table_name text, value text)"
RULE = "SELECT id AS log_id, table_name, new_values ->> 'value' AS value FROM audit_new_logs"
GUARD = "-c statement_timeout=30s"  # what must not wait fails by this, instead of waiting for ever


def project(db, name="feed", rule=RULE, table=FEED, **options):
    """A table and the projection that fills it."""
    db.run(table.replace("TABLE feed", f"TABLE {name}", 1))
    return db.value("SELECT audit_create_projection(%s, %s, fill => %s)", name, rule, options.get("fill", True))


def values(*all_, first=0, **fields):
    """A batch of one change for each value."""
    return batch([change(first + n, record={"id": 1, "value": value}, **fields) for n, value in enumerate(all_)])


def run(connection, sql, *arguments):
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments or None)
        return cursor.fetchall() if cursor.description else None


def code(connection, sql, *arguments):
    """The SQLSTATE with which it fails; None if it does not."""
    try:
        run(connection, sql, *arguments)
    except psycopg2.Error as error:
        return error.pgcode or "connection lost"
    return None


def ids(db, target="feed"):
    return [id_ for (id_,) in db.rows(f"SELECT log_id FROM {target} ORDER BY log_id")]


def log_ids(db):
    return [id_ for (id_,) in db.rows("SELECT id FROM audit_logs ORDER BY id")]


def every_entry_once(db, target="feed"):
    assert ids(db, target) == log_ids(db)


def state(db, name="feed"):
    """(enabled, waiting, failures)"""
    return db.rows("SELECT enabled, waiting, failures FROM audit_projections WHERE name = %s", name)[0]


@pytest.fixture
def roles():
    """Makes roles. First among a test's arguments, so that it ends after the database."""
    made = []

    def make(*groups):
        name = f"user_{os.getpid()}_{next(numbers)}"
        admin(f"CREATE ROLE {name} LOGIN" + (f" IN ROLE {', '.join(groups)}" if groups else ""))
        made.append(name)
        return name

    yield make
    for name in made:
        admin(f"DROP ROLE IF EXISTS {name}")


# ------------------------------------------------------------------------------------------- holding a session in the middle

HOLD = """CREATE FUNCTION hold() RETURNS boolean LANGUAGE plpgsql AS $$
          BEGIN
            IF current_setting('application_name') = 'held' THEN PERFORM pg_advisory_xact_lock_shared(77); END IF;
            RETURN true;
          END $$"""
HELD_RULE = RULE + " WHERE hold()"


class Held:
    """A statement that runs in a thread; `error` and `rows` are there when it has ended."""

    def __init__(self, db, sql, user):
        self.connection = db.connect(application_name="held", user=user)
        self.pid = self.connection.info.backend_pid
        self.error = self.rows = None
        self.thread = threading.Thread(target=self.work, args=(sql,))
        self.thread.start()

    def work(self, sql):
        try:
            self.rows = run(self.connection, sql)
        except psycopg2.Error as error:
            self.error = error


@contextlib.contextmanager
def held(db, sql, user="postgres", release=True):
    """Within, sql waits where its rule calls hold(). Afterwards it has ended."""
    keeper = db.connect()
    run(keeper, "SELECT pg_advisory_lock(77)")
    statement = Held(db, sql, user)
    try:
        until(lambda: is_waiting(db, statement.pid, "advisory") or not statement.thread.is_alive())
        assert statement.thread.is_alive(), f"it never came to hold(): {statement.error or statement.rows}"
        yield statement
    finally:
        keeper.close()
        statement.thread.join()


def is_waiting(db, pid, event=None):
    """Does that session wait for a lock?"""
    return db.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock' AND wait_event = coalesce(%s, wait_event)", pid, event) == 1


@contextlib.contextmanager
def waiting(db, sql, *arguments, connection=None):
    """Within, sql waits for a lock that the test holds, and must let go. Afterwards it has ended."""
    connection = connection or db.connect()
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(code(connection, sql, *arguments)))
    thread.start()
    try:
        until(lambda: is_waiting(db, connection.info.backend_pid) or outcome)
        assert not outcome, f"it did not wait: {outcome}"
        yield outcome
    finally:
        thread.join(60)
        assert not thread.is_alive(), "it still waits"
