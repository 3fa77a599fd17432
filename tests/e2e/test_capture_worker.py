"""The worker goes by itself, and leaves in peace who does nothing: no ping-pong, no snapshot, no WAL held back."""

import time

import psycopg2
import pytest
from capture_helpers import LONG, capture, captured, follows, is_captured, logged, paused, publish, setting, slot, source, start, status, stop, table, worker, workers
from conftest import admin, server, until
from fault_helpers import alive, kill_backend, kill_postmaster, stop_fast
from projection_helpers import run

FEED = """CREATE TABLE {0} (log_id bigint PRIMARY KEY, what text);
          SELECT audit_create_projection('{0}', $$SELECT id AS log_id, action || ' ' || table_name AS what FROM audit_new_logs$$)"""


# ------------------------------------------------------------------------------------------------------------------ no loop


def test_what_the_log_writes_does_not_feed_it(source):
    """Everything is published; so a change of the log, of a feed, a history or a partition of one would be captured without end."""
    setting(naptime="100ms")
    table(source, "app")
    source.run(FEED.format("feed"))
    source.run("SELECT audit_create_history_projection('app')")
    source.run("CREATE TABLE parts (log_id bigint, what text) PARTITION BY RANGE (log_id); CREATE TABLE part PARTITION OF parts DEFAULT")
    source.run("SELECT audit_create_projection('parts', 'SELECT id AS log_id, action AS what FROM audit_new_logs')")
    for target in ("feed", "app_history", "parts"):
        source.run("SELECT audit_exclude_table(%s, 'filled from the log')", target)
    publish(source)
    start(source)
    source.run("INSERT INTO app SELECT n, 'a' FROM generate_series(1, 500) AS n; UPDATE app SET v = 'b'; DELETE FROM app WHERE id > 250; TRUNCATE app")
    source.run("INSERT INTO app VALUES (0, '[]'), (1, NULL); SELECT audit_ingest('[{}]')")
    expected = [("app", "delete", 250), ("app", "insert", 502), ("app", "truncate", 1), ("app", "update", 500)]
    found = lambda: source.rows("SELECT table_name, action, count(*)::int FROM audit_logs GROUP BY 1, 2 ORDER BY 1, 2")
    until(lambda: found() == expected)
    source.run("CHECKPOINT")
    for _ in range(20):  # as often as it looks
        follows(source)
    assert found() == expected
    counts = "SELECT (SELECT count(*) FROM feed), (SELECT count(*) FROM parts), (SELECT count(*) FROM app_history)"
    assert source.rows(counts) == [(1253, 1253, 1253)]
    assert status(source, "changes") == [(1253,)] and source.value("SELECT count(*) FROM audit_rejects") == 1
    assert source.rows("SELECT * FROM audit_projection_failures") == []


def test_nobody_writes_while_nothing_happens(captured):
    admin("ALTER SYSTEM SET autovacuum = off")
    setting(naptime="100ms")
    is_captured(captured, "INSERT INTO t VALUES (1)")

    def is_quiet():
        state = "SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot())"
        found = captured.rows(state)
        time.sleep(2)
        return found == captured.rows(state)

    until(is_quiet, 20)


def test_what_a_projection_wrote_is_never_captured(paused):
    paused.run(FEED.format("feed"))
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    paused.run("SELECT audit_drop_projection('feed')")
    assert capture(paused) == 0


# ----------------------------------------------------------------------------------------------------------------- it wakes


@pytest.mark.parametrize("synchronous", ["on", "off", "local"])
def test_a_commit_wakes_it(captured, synchronous):
    setting(naptime=LONG)
    connection = captured.connect(options=f"-c synchronous_commit={synchronous}")
    for id_ in range(10):
        connection.cursor().execute("INSERT INTO t VALUES (%s)", (id_,))
        until(lambda: logged(captured)[-1:] == [id_], 10)
    assert logged(captured) == list(range(10))


def test_commits_in_its_midst_wake_it(captured):
    """Whatever moment a commit meets, between two looks or in one."""
    setting(naptime=LONG)
    for round_ in range(100):
        captured.run("INSERT INTO t VALUES (%s)", 2 * round_)
        captured.run("INSERT INTO t VALUES (%s)", 2 * round_ + 1)
        if round_ % 2:
            until(lambda: len(logged(captured)) == 2 * round_ + 2, 10)
    assert logged(captured) == list(range(200))


@pytest.mark.parametrize("name, value", [
    ("statement_timeout", "1ms"), ("lock_timeout", "10ms"), ("work_mem", "64kB"), ("DateStyle", "SQL, DMY"), ("row_security", "off"), ("session_replication_role", "replica"),
    ("default_transaction_read_only", "on"),
    ("transaction_timeout", "300ms")])
def test_settings_that_are_meant_for_others_do_not_stop_it(source, name, value):
    if name == "transaction_timeout" and source.connect().server_version < 170000:
        pytest.skip("not in this release")
    connection = source.connect()  # keeps the settings of before
    run(connection, f"ALTER DATABASE {source.name} SET {name} = '{value}'")
    try:
        for sql in ("CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE PUBLICATION audited FOR ALL TABLES", "SELECT audit_capture_start('audited')",
                    "INSERT INTO t SELECT generate_series(1, 20000)"):
            run(connection, sql)
        until(lambda: run(connection, "SELECT count(*) FROM audit_logs") == [(20_000,)], 30)
    finally:
        run(connection, f"ALTER DATABASE {source.name} RESET {name}")


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_it_waits_for_the_commit_of_its_start(source, isolation):
    table(source)
    publish(source)
    source.run(f"ALTER DATABASE {source.name} SET default_transaction_isolation = '{isolation}'")
    connection = source.connect()
    run(connection, "BEGIN")
    run(connection, "SELECT audit_capture_start('audited')")
    until(lambda: worker(source, "wait_event_type = 'Lock'"))
    run(connection, "COMMIT")
    source.run("INSERT INTO t VALUES (1)")
    until(lambda: logged(source) == [1], 15)


@pytest.fixture
def two_phases(captured):
    admin("ALTER SYSTEM SET max_prepared_transactions = 5")
    stop_fast()
    server("start")
    until(lambda: worker(captured))
    yield captured
    admin("ALTER SYSTEM RESET max_prepared_transactions")
    stop_fast()
    server("start")


def test_a_prepared_commit_wakes_it(two_phases):
    is_captured(two_phases, "INSERT INTO t VALUES (1)")
    connection = two_phases.connect()
    for sql in ("BEGIN", "INSERT INTO t VALUES (2)", "PREPARE TRANSACTION 'x'"):
        run(connection, sql)
    setting(naptime=LONG)
    until(lambda: worker(two_phases, "state = 'idle'"))
    time.sleep(1)  # it looks for what the preparation has written, and sleeps
    run(connection, "COMMIT PREPARED 'x'")
    until(lambda: logged(two_phases) == [1, 2], 8)


def test_a_prepared_start_that_is_rolled_back_leaves_nothing(two_phases):
    stop(two_phases)
    connection = two_phases.connect()
    for sql in ("BEGIN", "SELECT audit_capture_start('audited')"):
        run(connection, sql)
    try:  # refused, or undone
        run(connection, "PREPARE TRANSACTION 'x'")
        run(connection, "ROLLBACK PREPARED 'x'")
    except psycopg2.Error:
        pass
    try:
        assert slot(two_phases) == []
    finally:
        two_phases.run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")


def test_it_stops(captured):
    pid, [(name,)] = worker(captured), slot(captured, "slot_name")
    captured.run("INSERT INTO t VALUES (1)")
    stop(captured)
    assert logged(captured) == [1] and status(captured) == [] and slot(captured) == []
    until(lambda: not alive(pid))
    captured.run("INSERT INTO t VALUES (2)")
    start(captured)
    is_captured(captured, "INSERT INTO t VALUES (3)")
    assert logged(captured) == [1, 3] and slot(captured, "slot_name") == [(name,)] and len(workers(captured)) == 1


def test_it_comes_back(captured):
    """After a crash of its own, of the server, and after restarts; never two of them."""
    def stops():
        stop_fast()
        server("start")

    def is_terminated():
        captured.run("SELECT pg_terminate_backend(%s)", worker(captured))

    def is_cancelled():
        captured.run("SELECT pg_cancel_backend(%s)", worker(captured))

    for n, fault in enumerate([lambda: kill_backend(captured, worker(captured)), kill_postmaster, stops, is_terminated, is_cancelled]):
        is_captured(captured, f"INSERT INTO t VALUES ({2 * n})")
        pid = worker(captured)
        fault()
        until(lambda: worker(captured) not in (None, pid) or fault is is_cancelled)
        captured.run(f"INSERT INTO t VALUES ({2 * n + 1})")
        until(lambda: logged(captured)[-1:] == [2 * n + 1])
        assert len(workers(captured)) == 1
    assert logged(captured) == list(range(10))


def test_a_fast_shutdown_finds_it_asleep(captured):
    setting(naptime=LONG)
    until(lambda: worker(captured, "state = 'idle'"))
    assert stop_fast() < 20


def test_it_pauses_and_goes_on(captured):
    setting(naptime=LONG)
    is_captured(captured, "INSERT INTO t VALUES (1)")
    setting(enabled="off")
    is_captured_or_not = []
    for id_ in range(2, 30):  # the one that wakes it may still be taken
        captured.run("INSERT INTO t VALUES (%s)", id_)
    until(lambda: is_captured_or_not.append(len(logged(captured))) or len(is_captured_or_not) > 50)
    assert is_captured_or_not[-1] < 29 and status(captured, "lag_bytes > 0") == [(True,)]
    setting(enabled="on")
    until(lambda: logged(captured) == list(range(1, 30)))


def test_nothing_is_captured_while_it_is_paused(paused):
    paused.run("INSERT INTO t VALUES (1)")
    assert capture(paused) == 1  # by hand it is
    paused.run("INSERT INTO t VALUES (2)")
    assert len(paused.rows("SELECT audit_pending_changes()")) == 1


def test_a_paused_one_stays_so_after_a_restart(paused):
    pid = worker(paused)
    paused.run("INSERT INTO t VALUES (1)")
    kill_postmaster()
    until(lambda: worker(paused, f"state = 'idle' AND pid <> {pid}"))
    assert logged(paused) == []


def test_a_paused_one_stops(paused):
    stop(paused)
    assert workers(paused) == []


# ----------------------------------------------------------------------------------------------------- it holds nothing back


def test_it_follows_what_other_databases_write(captured):
    """Else the server would keep their WAL, and dead rows of the catalogs, for an idle database."""
    setting(naptime="200ms")
    follows(captured)
    xmin, restart = slot(captured, "catalog_xmin::text::bigint, restart_lsn::text")[0]
    for n in range(3):
        admin(f"CREATE TABLE other_{captured.name}_{n} AS SELECT n, repeat('x', 1000) FROM generate_series(1, 10000) AS n")
        admin(f"DROP TABLE other_{captured.name}_{n}")
    follows(captured)
    until(lambda: slot(captured, f"catalog_xmin::text::bigint > {xmin} AND restart_lsn > '{restart}'") == [(True,)])
    assert status(captured, "changes, last_commit") == [(0, None)]


def test_it_holds_no_snapshot_while_it_waits(captured):
    is_captured(captured, "INSERT INTO t VALUES (1)")
    setting(naptime=LONG)
    until(lambda: captured.rows("SELECT backend_xmin, backend_xid, xact_start, state FROM pg_stat_activity WHERE pid = %s", worker(captured)) == [(None, None, None, "idle")])


def test_what_nobody_has_flushed_is_not_waited_for(captured):
    """A transaction that stays open writes WAL, whose last page only a commit, or after 15 s the background writer, flushes."""
    writer = captured.connect()
    run(writer, "BEGIN")
    for _ in range(3):
        run(writer, "INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series((SELECT count(*) FROM t) + 1, (SELECT count(*) FROM t) + 1000) AS n")
        run(captured.connect(options="-c statement_timeout=6s"), "CALL audit_capture()")
    assert logged(captured) == []


def test_workers_of_two_databases(captured):
    admin(f"CREATE DATABASE {captured.name}_2")
    other = type(captured)(f"{captured.name}_2")
    try:
        other.run("CREATE EXTENSION audit_cdc")
        table(other)
        publish(other)
        setting(naptime=LONG)
        start(other)
        for n in range(5):
            is_captured(captured, f"INSERT INTO t VALUES ({n})")
            is_captured(other, f"INSERT INTO t VALUES ({n + 100})")
        kill_postmaster()
        captured.run("INSERT INTO t VALUES (5)")
        other.run("INSERT INTO t VALUES (105)")
        until(lambda: logged(captured) == list(range(6)) and logged(other) == list(range(100, 106)))
        stop(other)
        is_captured(captured, "INSERT INTO t VALUES (6)")
        assert captured.rows("SELECT DISTINCT database_id FROM audit_logs") != other.rows("SELECT DISTINCT database_id FROM audit_logs")
    finally:
        stop(other, discard=True)
        admin(f"DROP DATABASE {other.name} WITH (FORCE)")
