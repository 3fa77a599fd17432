"""What is missing in the log is a row of audit_gaps; where nothing is missing there is none."""

import psycopg2
import pytest
from capture_helpers import capture, captured, follows, is_captured, logged, paused, publish, setting, slot, source, start, status, stop, table, worker, workers
from conftest import admin, server, until
from fault_helpers import answers, kill_backend, kill_postmaster, stop_fast
from projection_helpers import code
from standby_helpers import standby
from test_capture_faults import Slot

NAME = "SELECT slot FROM audit_cdc_internal.captures"


def gaps(db, columns="reason, is_open, to_lsn IS NULL AS goes_on"):
    return db.rows(f"SELECT {columns} FROM audit_gaps ORDER BY gap_id")


def position(db):
    return db.value("SELECT pg_current_wal_insert_lsn()")


def lies_in_the_gap(db, lsn):
    return db.value("SELECT bool_or(from_lsn <= %s AND coalesce(to_lsn > %s, true)) FROM audit_gaps", lsn, lsn)


def advance(db):
    db.run(f"SELECT pg_replication_slot_advance(({NAME}), pg_current_wal_flush_lsn())")


def make_anew(db):
    plugin = slot(db, "plugin")[0][0]
    db.run(f"SELECT pg_drop_replication_slot(({NAME}))")
    db.run(f"SELECT pg_create_logical_replication_slot(({NAME}), %s)", plugin)


def drop(db):
    until(lambda: code(db.connect(), f"SELECT pg_drop_replication_slot(({NAME}))") is None)  # the worker may just read it


# ------------------------------------------------------------------------------------------------------------------ it is said


def consume(db):
    db.rows(f"SELECT * FROM pg_logical_slot_get_binary_changes(({NAME}), NULL, NULL, 'publication', 'audited')")


@pytest.mark.parametrize("fault", [advance, consume, make_anew])
def test_a_slot_that_others_have_moved(paused, fault):
    """Who has REPLICATION can do that. What comes later is captured."""
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    missing = position(paused)
    paused.run("INSERT INTO t VALUES (2)")
    fault(paused)
    after = position(paused)
    paused.run("INSERT INTO t VALUES (3)")
    assert capture(paused) == 1 and logged(paused) == [1, 3]
    assert gaps(paused) == [("slot advanced", True, False)]
    assert lies_in_the_gap(paused, missing) and not lies_in_the_gap(paused, after)
    assert paused.rows("SELECT table_name, open_tables, from_time < to_time FROM audit_gaps") == [(None, ["public.t"], True)]
    assert status(paused, "open_gaps") == [(1,)]
    paused.run("INSERT INTO t VALUES (4)")
    assert capture(paused) == 1 and len(gaps(paused)) == 1


def test_a_worker_says_it_too(captured):
    is_captured(captured, "INSERT INTO t VALUES (1)")
    setting(enabled="off")
    until(lambda: worker(captured, "state = 'idle'"))
    captured.run("INSERT INTO t VALUES (2)")
    until(lambda: code(captured.connect(), f"SELECT pg_replication_slot_advance(({NAME}), pg_current_wal_flush_lsn())") is None)
    setting(enabled="on")
    captured.run("INSERT INTO t VALUES (3)")
    until(lambda: logged(captured)[-1:] == [3])
    assert logged(captured) == [1, 3] and gaps(captured) == [("slot advanced", True, False)]


def test_a_slot_that_is_gone(captured):
    is_captured(captured, "INSERT INTO t VALUES (1)")
    drop(captured)
    missing = position(captured)
    captured.run("INSERT INTO t VALUES (2)")
    until(lambda: status(captured, "last_error_sqlstate, last_error_at IS NOT NULL") == [("55000", True)])
    until(lambda: captured.rows("SELECT gap_id IS NOT NULL, reason FROM audit_gaps") == [(True, "slot missing")])
    assert gaps(captured) == [("slot missing", True, True)] and lies_in_the_gap(captured, missing)
    assert code(captured.connect(), "CALL audit_capture()") == "55000"
    assert len(gaps(captured)) == 1, "it is said once"
    # a new start goes on, by the same worker
    pid = worker(captured)
    captured.run("SELECT audit_capture_start('audited')")
    after = position(captured)
    is_captured(captured, "INSERT INTO t VALUES (3)")
    assert logged(captured) == [1, 3] and workers(captured) == [pid]
    assert gaps(captured) == [("slot missing", True, False)] and lies_in_the_gap(captured, missing) and not lies_in_the_gap(captured, after)


def test_what_nobody_has_noted_yet_is_there_all_the_same(paused):
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    drop(paused)
    assert paused.rows("SELECT gap_id, reason, is_open FROM audit_gaps") == [(None, "slot missing", True)]
    assert status(paused, "open_gaps") == [(1,)]
    stop(paused)
    assert paused.rows("SELECT gap_id IS NOT NULL, reason, to_lsn FROM audit_gaps") == [(True, "slot missing", None)]


def test_a_slot_of_another_kind_under_its_name(paused):
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    name = paused.value(NAME)
    drop(paused)
    paused.run("SELECT pg_create_physical_replication_slot(%s)", name)
    try:
        assert code(paused.connect(), "CALL audit_capture()") == "55000" and gaps(paused) == [("slot replaced", True, True)]
        stop(paused)
        assert paused.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", name) == 1, "it is not ours"
    finally:
        paused.run("SELECT pg_drop_replication_slot(%s)", name)


def test_a_slot_whose_wal_is_gone(paused):
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    missing = position(paused)
    paused.run("INSERT INTO t VALUES (2)")
    admin("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    admin("SELECT pg_reload_conf()")
    for _ in range(4):
        paused.run("CREATE TABLE x (); DROP TABLE x")
        paused.run("SELECT pg_switch_wal()")
    paused.run("CHECKPOINT")
    assert slot(paused, "wal_status") == [("lost",)]
    assert code(paused.connect(), "CALL audit_capture()") == code(paused.connect(), "CALL audit_capture_stop()") == "55000"
    assert gaps(paused) == [("slot lost", True, True)] and lies_in_the_gap(paused, missing)
    assert status(paused, "lag_bytes, lag_seconds, last_error_sqlstate") == [(None, float("inf"), "55000")]
    paused.run("SELECT audit_capture_start('audited')")
    paused.run("INSERT INTO t VALUES (3)")
    assert capture(paused) == 1 and logged(paused) == [1, 3] and gaps(paused) == [("slot lost", True, False)]


@pytest.mark.parametrize(("discard", "reason"), [(False, "stopped"), (True, "discarded")])
def test_stop_and_start(paused, discard, reason):
    assert gaps(paused) == [], "the first start leaves none"
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    pending = position(paused)
    paused.run("INSERT INTO t VALUES (2)")
    stop(paused, discard)
    missing = position(paused)
    paused.run("INSERT INTO t VALUES (3)")
    assert gaps(paused, "reason, to_lsn") == [(reason, None)]
    start_lsn = paused.value("SELECT audit_capture_start('audited')")
    paused.run("INSERT INTO t VALUES (4)")
    capture(paused)
    assert gaps(paused, "reason, is_open, to_lsn") == [(reason, True, start_lsn)]
    assert lies_in_the_gap(paused, missing) and lies_in_the_gap(paused, pending) == discard
    assert logged(paused) == ([1, 4] if discard else [1, 2, 4])


def test_a_copy_of_the_database(captured):
    """It has captured nothing, and leaves the original's slot alone."""
    is_captured(captured, "INSERT INTO t VALUES (1)")
    copy = type(captured)(f"{captured.name}_copy")

    def is_copied():  # the worker comes back within seconds
        captured.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        try:
            return admin(f"CREATE DATABASE {copy.name} TEMPLATE {captured.name}") or True
        except psycopg2.errors.ObjectInUse:
            return False

    until(is_copied)
    try:
        name = slot(captured, "slot_name")
        copy.run("INSERT INTO t VALUES (2)")
        assert status(copy, "lag_bytes, lag_seconds, last_error_sqlstate, open_gaps") == [(None, float("inf"), "55000", 1)]
        assert gaps(copy) == [("copied database", True, True)]
        assert code(copy.connect(), "CALL audit_capture()") == "55000"
        copy.run("CALL audit_capture_stop(discard_pending => true)")
        assert slot(captured, "slot_name") == name
        until(lambda: worker(captured))
        is_captured(captured, "INSERT INTO t VALUES (3)")
        assert logged(captured) == [1, 3] and gaps(captured) == []
        start(copy)
        is_captured(copy, "INSERT INTO t VALUES (4)")
        assert logged(copy) == [1, 4] and gaps(copy) == [("copied database", True, False)]
    finally:
        stop(copy, discard=True)
        admin(f"DROP DATABASE {copy.name} WITH (FORCE)")


def test_a_standby_and_its_promotion(captured):
    """The slot stays behind with the primary."""
    is_captured(captured, "INSERT INTO t VALUES (1)")
    with standby(captured) as copy:
        until(lambda: logged(copy) == [1])
        assert status(copy, "lag_bytes IS NULL, lag_seconds, last_error, worker_pid") == [(False, None, None, None)]
        assert gaps(copy) == []
        for call in ("audit_capture()", "audit_capture_stop()"):
            assert code(copy.connect(), f"CALL {call}") == "55000"
        copy.promote()
        until(lambda: not copy.value("SELECT pg_is_in_recovery()"))
        copy.run("INSERT INTO t VALUES (2)")
        assert status(copy, "lag_bytes, lag_seconds, last_error_sqlstate") == [(None, float("inf"), "55000")]
        with pytest.raises(psycopg2.Error, match="replication slot .* does not exist") as raised:
            copy.run("CALL audit_capture()")
        assert raised.value.pgcode == "55000" and "audit_capture_start" in raised.value.diag.message_hint
        assert gaps(copy, "reason, gap_id IS NULL") == [("slot missing", False)] and "timeline 2" in gaps(copy, "detail")[0][0]
        copy.run("SELECT audit_capture_start('audited')")
        copy.run("INSERT INTO t VALUES (3)")
        copy.run("CALL audit_capture()")
        assert logged(copy) == [1, 3] and gaps(copy) == [("slot missing", True, False)]
    is_captured(captured, "INSERT INTO t VALUES (4)")
    assert gaps(captured) == []


def test_another_server(paused):
    """As pg_upgrade leaves it, where also the slot may have come along. Positions of the other server mean nothing here."""
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    paused.run("UPDATE audit_cdc_internal.captures SET database_id = '1.1'")
    name = slot(paused, "slot_name")[0][0]
    assert code(paused.connect(), "CALL audit_capture()") == "55000"
    assert gaps(paused, "reason, from_lsn, to_lsn") == [("another system", "0/0", None)]
    stop(paused)
    assert slot(paused, "slot_name") == [(name,)], "it was not this capture's"
    paused.run("SELECT pg_drop_replication_slot(%s)", name)
    paused.run("SELECT audit_capture_start('audited')")
    assert gaps(paused) == [("another system", True, False)]


# -------------------------------------------------------------------------------------------------------- nothing is missing


def test_no_gap_after_the_promotion_of_a_standby_that_copies_slots(source):
    if source.connect().server_version < 170000:
        pytest.skip("from PostgreSQL 17 on")
    table(source)
    publish(source)
    setting(failover="on")
    until(lambda: source.value("SHOW audit_cdc.capture_failover") == "on")
    start(source)
    try:
        with standby(source, slot="gaps_standby") as copy:
            numbers = iter(range(10000))

            def is_copied():
                source.run("INSERT INTO t VALUES (%s)", next(numbers))
                source.run("SELECT pg_log_standby_snapshot()")
                source.run("CALL audit_capture()")
                return slot(copy, "synced AND NOT temporary") == [(True,)]

            until(is_copied)
            follows(source)
            wanted = logged(source)
            until(lambda: logged(copy) == wanted)
            copy.promote()
            copy.run("INSERT INTO t VALUES (-1)")
            until(lambda: logged(copy)[-1:] == [-1])
            assert logged(copy) == [*wanted, -1] and gaps(copy) == []
            assert status(copy, "open_gaps, last_error") == [(0, None)]
    finally:
        source.run("SELECT pg_drop_replication_slot('gaps_standby')")


def test_no_gap_after_crashes_and_restarts(captured):
    def restart():
        stop_fast()
        server("start")

    for n, fault in enumerate([lambda: kill_backend(captured, worker(captured)), kill_postmaster, restart, kill_postmaster]):
        captured.run(f"INSERT INTO t VALUES ({2 * n})")
        if n % 2:
            follows(captured)
        before = worker(captured)
        fault()
        # another one: a server that has not noticed yet answers as before
        until(lambda: answers(captured) and worker(captured) not in (None, before))
        captured.run(f"INSERT INTO t VALUES ({2 * n + 1})")
    until(lambda: logged(captured) == list(range(8)))
    follows(captured)
    assert gaps(captured) == [] and status(captured, "open_gaps, last_error") == [(0, None)]


def test_no_gap_where_the_slot_is_behind(paused):
    """A crash between the commit of a pass and the advance of the slot."""
    before = Slot(paused)
    paused.run("INSERT INTO t VALUES (1)")
    assert capture(paused) == 1
    kill_postmaster(before.restore)
    paused.run("INSERT INTO t VALUES (2)")
    assert capture(paused) == 1 and logged(paused) == [1, 2] and gaps(paused) == []


def test_no_gap_where_a_worker_found_nothing(captured):
    """It does not write that; somebody moves the slot to where it has looked."""
    is_captured(captured, "INSERT INTO t VALUES (1)")
    captured.run("CREATE TABLE u (); DROP TABLE u")
    follows(captured)
    looked = "(SELECT looked_to FROM audit_cdc_internal.last_look())"
    until(lambda: code(captured.connect(), f"SELECT pg_replication_slot_advance(({NAME}), {looked})") is None)
    assert captured.value(f"SELECT {looked} > read_to FROM audit_cdc_internal.captures")
    is_captured(captured, "INSERT INTO t VALUES (2)")
    assert logged(captured) == [1, 2] and gaps(captured) == []


def test_a_stop_that_is_interrupted_and_repeated(paused):
    paused.run("INSERT INTO t VALUES (1)")
    assert paused.value("SELECT audit_cdc_internal.begin_to_stop()")
    paused.run("INSERT INTO t VALUES (2)")
    before = position(paused)
    assert gaps(paused) == []
    stop(paused)
    assert logged(paused) == [1, 2] and gaps(paused, "reason") == [("stopped",)] and not lies_in_the_gap(paused, before)


def test_a_stop_that_has_dropped_its_slot_already(paused):
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    paused.value("SELECT audit_cdc_internal.begin_to_stop()")
    drop(paused)
    stop(paused)
    assert gaps(paused, "reason") == [("stopped",)] and status(paused) == []


def test_nobody_else_writes_gaps(paused):
    paused.run("INSERT INTO t VALUES (1)")
    admin("DROP ROLE IF EXISTS gap_writer")
    admin("CREATE ROLE gap_writer IN ROLE audit_cdc_admin, pg_write_all_data")
    try:
        for sql in ("INSERT INTO audit_cdc_internal.gaps (database_id, reason, from_lsn) VALUES ('x', 'x', '0/0')",
                    "INSERT INTO audit_cdc_internal.gap_ends VALUES (1, '0/0', now())",
                    "SELECT audit_cdc_internal.note_break('stopped', '0/0', NULL, NULL)", "SELECT audit_cdc_internal.end_breaks('0/0')",
                    "SELECT audit_cdc_internal.note_skipped(0, 1, NULL)"):
            session = paused.connect()
            session.cursor().execute("SET ROLE gap_writer")
            assert code(session, sql) == "42501", sql
    finally:
        admin("DROP ROLE gap_writer")
