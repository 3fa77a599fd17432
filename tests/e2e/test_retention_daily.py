"""Retention at a time of day, by the capture worker, beside its capture."""

import contextlib

from capture_helpers import captured, setting, source  # noqa: F401
from conftest import admin, until
from test_retention import fill, keep, left, refused, removed


def apply_at(db, seconds):
    """The time of day has seconds, so that no test waits for a minute."""
    at = db.value("SELECT to_char((clock_timestamp() + %s * interval '1 second') AT TIME ZONE 'UTC', 'HH24:MI:SS')", seconds)
    admin(f"ALTER SYSTEM SET audit_cdc.retention_at = '{at}'")
    admin("SELECT pg_reload_conf()")


def apply_soon(db):
    """A worker that hears of the time when it is over waits for tomorrow: then it is told another one."""
    noted = "SELECT count(*) FROM audit_operations WHERE operation = 'audit_apply_retention'"
    for seconds in (2, 5, 10, 20):
        apply_at(db, seconds)
        with contextlib.suppress(AssertionError):
            until(lambda: db.value(noted) > 0, seconds + 5)
            return
    raise AssertionError("nothing was applied")


def test_it_removes_what_is_older(captured):
    fill(captured, {"orders": [1, 400, 410, 800], "carts": [*range(400, 430), 3]})
    keep(captured, "1 year")
    captured.run("SELECT audit_hold('case', 'lawsuit', table_name => 'orders', record_id => '2')")
    apply_soon(captured)
    until(lambda: left(captured) == [1, 410] and left(captured, "carts") == [3])
    assert removed(captured) == (32, 0)
    until(lambda: captured.value("SELECT sum((counts ->> 'entries')::int) FROM audit_operations WHERE operation = 'audit_apply_retention'") == 32)
    # who did it
    assert captured.rows("SELECT DISTINCT server_context ->> 'application_name' FROM audit_operations WHERE operation = 'audit_apply_retention'") == [("audit_cdc capture",)]
    # capture went on
    captured.run("INSERT INTO t VALUES (1, 'a')")
    until(lambda: captured.value("SELECT count(*) FROM audit_logs WHERE table_name = 't'") == 1)


def test_a_month_in_use_does_not_hold_up_capture(captured):
    fill(captured, {"orders": [400, 800]})
    keep(captured, "1 year")
    reader = captured.connect()
    reader.cursor().execute("BEGIN; SELECT count(*) FROM audit_logs")
    apply_soon(captured)  # its first step needs no lock that a reader has
    captured.run("INSERT INTO t VALUES (1, 'a')")
    until(lambda: captured.value("SELECT count(*) FROM audit_logs WHERE table_name = 't'") == 1)
    assert left(captured) == [400, 800]
    reader.cursor().execute("ROLLBACK")
    until(lambda: left(captured) == [])


def test_an_idle_database_hears_of_it_too(captured):
    """Nobody commits between the setting and its time, and the worker sleeps for an hour."""
    setting(naptime="1h")
    fill(captured, {"orders": [400]})
    keep(captured, "1 year")
    until(lambda: captured.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'audit_cdc capture' AND datname = current_database() AND wait_event IS NOT NULL") == 1)
    apply_soon(captured)
    until(lambda: left(captured) == [])


def test_it_waits_for_its_time(captured):
    fill(captured, {"orders": [400]})
    keep(captured, "1 year")
    apply_at(captured, -1)  # that was before the worker heard of it
    captured.run("INSERT INTO t VALUES (1, 'a')")
    until(lambda: captured.value("SELECT count(*) FROM audit_logs WHERE table_name = 't'") == 1)
    assert left(captured) == [400]


def test_all_tables_may_be_published(captured):
    """PostgreSQL refuses an UPDATE of a published table without a key. Entries are never updated by a statement."""
    assert captured.rows("""SELECT c.relname FROM pg_class AS c
                            WHERE c.relnamespace = 'audit_cdc_internal'::regnamespace AND c.relkind IN ('r', 'p') AND c.relreplident = 'd'
                              AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary)
                              AND c.relname NOT LIKE 'log%'""") == []


def test_other_times_are_refused(source):
    for text in ("3:30", "24:00", "noon", "03:30:00.5"):
        assert refused(source, f"ALTER SYSTEM SET audit_cdc.retention_at = '{text}'") == "22023", text
