"""audit_capture_status() does not flatter."""

import contextlib

import pytest
from capture_helpers import captured, is_captured, logged, paused, publish, setting, slot, source, start, status, stop, table, worker, workers
from conftest import until
from projection_helpers import run


@contextlib.contextmanager
def held(db, statement):
    session = db.connect()
    run(session, "BEGIN")
    run(session, statement)
    try:
        yield
    finally:
        run(session, "ROLLBACK")


def lag(db):
    return status(db, "lag_seconds")[0][0]


def grows(db):
    """Whatever the worker does meanwhile."""
    first = until(lambda: lag(db))
    for _ in range(20):
        assert lag(db) > 0
    return lag(db) > first


def lags_while_held(db, lock, waits):
    is_captured(db, "INSERT INTO t VALUES (1)")
    until(lambda: lag(db) == 0)
    with held(db, lock):
        db.run("INSERT INTO t VALUES (2)")
        until(lambda: worker(db, waits))
        assert grows(db)
    until(lambda: logged(db) == [1, 2] and lag(db) == 0)


def test_it_lags_during_a_long_pass(captured):
    captured.run("CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_xact_lock(17); RETURN NEW; END$$")
    captured.run("CREATE TRIGGER hold BEFORE UPDATE ON audit_cdc_internal.captures FOR EACH ROW WHEN (NEW.changes > OLD.changes) EXECUTE FUNCTION hold()")
    lags_while_held(captured, "SELECT pg_advisory_xact_lock(17)", "wait_event = 'advisory'")


def test_it_lags_while_it_waits(captured):
    lags_while_held(captured, "SELECT audit_cdc_internal.lock_capture()", "wait_event_type = 'Lock'")


def test_lag_is_of_the_oldest_commit_not_of_the_last_look(captured):
    """Which may be long ago, where nobody commits."""
    setting(naptime="1h")
    is_captured(captured, "INSERT INTO t VALUES (1)")
    until(lambda: lag(captured) == 0)
    captured.run("SELECT pg_sleep(1.5)")
    began = captured.value("SELECT clock_timestamp()")
    with held(captured, "SELECT audit_cdc_internal.lock_capture()"):
        captured.run("INSERT INTO t VALUES (2)")
        found = until(lambda: lag(captured))
        assert found <= captured.value("SELECT extract(epoch FROM clock_timestamp() - %s)::float8", began)


def test_without_a_slot(paused):
    paused.run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
    assert status(paused, "lag_bytes, lag_seconds, last_error ~ 'does not exist', last_error_sqlstate, retained_bytes") == [
        (None, float("inf"), True, "55000", None)]


def test_a_failure_that_cannot_be_noted(captured):
    """Here: nothing can be written to the table that keeps it."""
    is_captured(captured, "INSERT INTO t VALUES (1)")
    captured.run("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE disk_full; END$$")
    captured.run("CREATE TRIGGER fail BEFORE UPDATE ON audit_cdc_internal.captures FOR EACH ROW EXECUTE FUNCTION fail()")
    captured.run("INSERT INTO t VALUES (2)")
    until(lambda: status(captured, "last_error_sqlstate, last_error ~ 'could not be noted', last_error_at IS NOT NULL") == [("53100", True, True)])
    assert lag(captured) > 0
    captured.run("DROP TRIGGER fail ON audit_cdc_internal.captures")
    until(lambda: logged(captured) == [1, 2])


def has_place(db):
    return db.value("SELECT is_behind IS NOT NULL FROM audit_cdc_internal.last_look()")


def test_places_of_workers_are_given_back(captured):
    """There are 64; who has none is not woken by commits."""
    until(lambda: has_place(captured))
    captured.run("SELECT pg_terminate_backend(%s)", worker(captured))
    until(lambda: not has_place(captured))
    until(lambda: worker(captured) and has_place(captured))
    for _ in range(3):
        stop(captured)
        assert not has_place(captured)
        start(captured)
        until(lambda: has_place(captured))
    is_captured(captured, "INSERT INTO t VALUES (1)")


def test_a_lock_that_another_session_has_is_no_failure(captured):
    is_captured(captured, "INSERT INTO t VALUES (1)")
    with held(captured, "SELECT audit_cdc_internal.lock_capture()"):
        captured.run("INSERT INTO t VALUES (2)")
        until(lambda: worker(captured, "wait_event_type = 'Lock'"))
        assert status(captured, "last_error, open_gaps") == [(None, 0)]
