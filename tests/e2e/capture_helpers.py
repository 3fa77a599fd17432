"""A database that captures itself."""

import time

import pytest


def until(condition, seconds=30, message="in vain"):
    """Waits until condition() is true, and returns what it was."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, message
        time.sleep(0.02)


def start(db, tables="ALL TABLES", slot=None):
    # from 18 on, REPLICA IDENTITY FULL wants generated columns published
    options = " WITH (publish_generated_columns = stored)" if db.connect().server_version >= 180000 else ""
    db.run(f"CREATE PUBLICATION everything FOR {tables}{options}")
    return db.value("SELECT audit_capture_start('everything', %s)", slot)


def capture(db):
    """What is committed now, and how much of it was new."""
    return db.value("CALL audit_capture()")


def status(db):
    names = ("worker_pid", "lag_bytes", "lag_seconds", "changes", "last_error_sqlstate", "slot")
    rows = db.rows(f"SELECT {', '.join(names)} FROM audit_capture_status()")
    return dict(zip(names, rows[0])) if rows else None


def slots(db):
    return [name for (name,) in db.rows("SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()")]


@pytest.fixture
def captured(db):
    """A fresh database; whatever it captures ends with it."""
    yield db
    for slot in slots(db):
        if db.rows("SELECT FROM audit_cdc_internal.captures WHERE slot = %s", slot):
            db.run("CALL audit_capture_stop(discard_pending => true)")
        else:
            db.run(f"SELECT pg_drop_replication_slot('{slot}')")
