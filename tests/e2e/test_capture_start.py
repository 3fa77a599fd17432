"""Starting is all or nothing, errors are told and mended, a poison change is set aside."""

import psycopg2
import pytest
from capture_helpers import captured, is_captured, logged, publish, setting, slot, source, start, status, stop, table, worker, workers
from conftest import in_threads, until
from projection_helpers import code, roles, run, waiting  # noqa: F401

START = "SELECT audit_capture_start('audited')"


@pytest.fixture
def ready(source):
    """Everything but started."""
    table(source)
    publish(source)
    return source


def nothing_is_captured(db):
    assert (slot(db), status(db)) == ([], [])
    until(lambda: workers(db) == [])


@pytest.mark.parametrize("sql", [
    f"BEGIN; {START}; ROLLBACK", f"BEGIN; {START}; SELECT 1/0; COMMIT",
    f"BEGIN; SAVEPOINT s; {START}; ROLLBACK TO s; COMMIT", f"BEGIN; SAVEPOINT s; SAVEPOINT r; {START}; RELEASE r; ROLLBACK TO s; COMMIT",
    "DO $$ BEGIN PERFORM audit_capture_start('audited'); RAISE division_by_zero; END $$",
    "DO $$ BEGIN BEGIN PERFORM audit_capture_start('audited'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END; END $$",
    f"SET statement_timeout = '300ms'; SELECT pg_sleep(10) FROM audit_capture_start('audited')"])
def test_a_start_that_is_rolled_back_leaves_nothing(ready, sql):
    ready.psql("-c", sql)
    nothing_is_captured(ready)
    start(ready)
    is_captured(ready, "INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("sql", [f"BEGIN; SAVEPOINT s; {START}; RELEASE s; SAVEPOINT r; SELECT 1/0; ROLLBACK TO r; COMMIT", f"BEGIN; {START}; INSERT INTO t VALUES (0); COMMIT"])
def test_a_start_that_commits_stays(ready, sql):
    for statement in sql.split("; "):
        connection = ready.connect() if statement == "BEGIN" else connection
        code(connection, statement)
    until(lambda: worker(ready))
    ready.run("INSERT INTO t VALUES (1)")
    until(lambda: logged(ready) == ([0, 1] if "VALUES (0)" in sql else [1]))


def test_a_session_that_ends_in_the_midst_leaves_nothing(ready):
    connection = ready.connect()
    run(connection, "BEGIN")
    run(connection, START)
    ready.run("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
    until(lambda: slot(ready) == [])
    nothing_is_captured(ready)


def test_what_is_refused(ready):
    connection = ready.connect()
    run(connection, "BEGIN")
    run(connection, "INSERT INTO t VALUES (1)")
    assert code(connection, START) == "25001"
    assert code(ready.connect(), "SELECT audit_capture_start('no such')") == "42704"
    assert code(ready.connect(), "SELECT audit_capture_start(NULL)") == "22004"
    assert code(ready.connect(), "CALL audit_capture()") == code(ready.connect(), "CALL audit_capture_stop()") == "55000"
    nothing_is_captured(ready)
    connection.close()
    start(ready)
    position = slot(ready, "slot_name")
    assert code(ready.connect(), START) == code(ready.connect(), "SELECT audit_capture_start('audited', 'other')") == "55000"
    assert slot(ready, "slot_name") == position
    is_captured(ready, "INSERT INTO t VALUES (1)")


def test_a_slot_of_others_is_not_taken(ready):
    """Neither by a start that finds its name in use, nor by the rollback of that."""
    ready.run("SELECT pg_create_logical_replication_slot('theirs_' || current_database(), 'audit_cdc')")
    assert code(ready.connect(), "SELECT audit_capture_start('audited', ('theirs_' || current_database())::name)") == "42710"
    assert slot(ready, "slot_name") == [(f"theirs_{ready.name}",)] and status(ready) == []
    ready.run("SELECT pg_drop_replication_slot('theirs_' || current_database())")


def test_of_two_starts_one_wins(ready):
    for _ in range(5):
        outcomes = []
        in_threads([lambda: outcomes.append(code(ready.connect(), START)) for _ in range(4)])
        assert sorted(map(str, outcomes)) == ["55000"] * 3 + ["None"]
        assert len(slot(ready)) == len(status(ready)) == 1
        until(lambda: len(workers(ready)) == 1)
        stop(ready)
        nothing_is_captured(ready)


def test_a_start_waits_for_transactions_that_write(ready):
    """What they have written is not in the slot's reach; what commits after the start returned is."""
    writer = ready.connect()
    run(writer, "BEGIN")
    run(writer, "INSERT INTO t VALUES (1)")
    with waiting(ready, START) as outcome:
        run(writer, "COMMIT")
    assert outcome == [None]
    is_captured(ready, "INSERT INTO t VALUES (2)")
    assert logged(ready) == [2]


# -------------------------------------------------------------------------------------------------------------------- errors


def failures(db):
    return status(db, "last_error_sqlstate, last_error_at")


def test_a_slot_that_somebody_dropped_and_made_again(captured):
    is_captured(captured, "INSERT INTO t VALUES (1)")
    until(lambda: slot(captured, "active") == [(False,)])
    [(name,)] = slot(captured, "slot_name")
    captured.run("SELECT pg_drop_replication_slot(%s)", name)
    captured.run("INSERT INTO t VALUES (2)")
    times = []

    def tried_again():
        """A failure is noted in two places, one right after the other."""
        times.extend(time for time in captured.rows("SELECT last_error_at FROM audit_capture_status()")[0] if time)
        return [time for time in times if (time - times[0]).total_seconds() > 0.1]
    # it tries again and again, but does not spin: after one second, two, …
    assert (until(tried_again)[0] - times[0]).total_seconds() > 0.9
    [(error, sqlstate, pid)] = status(captured, "last_error, last_error_sqlstate, worker_pid")
    assert (error, sqlstate) == (f'replication slot "{name}" does not exist', "55000") and pid
    captured.run("SELECT pg_create_logical_replication_slot(%s, 'audit_cdc')", name)
    captured.run("INSERT INTO t VALUES (3)")
    until(lambda: logged(captured) == [1, 3])
    captured.run("SELECT pg_drop_replication_slot(%s)", name)
    stop(captured)
    nothing_is_captured(captured)


def test_an_error_is_over_when_it_is_mended(captured):
    """Here: the disk does not take what is to be stored."""
    captured.run("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE disk_full USING MESSAGE = 'no room'; END$$")
    captured.run("CREATE TRIGGER fail BEFORE UPDATE ON audit_cdc_internal.captures FOR EACH ROW WHEN (NEW.changes > OLD.changes) EXECUTE FUNCTION fail()")
    captured.run("INSERT INTO t VALUES (1)")
    until(lambda: status(captured, "last_error, last_error_sqlstate") == [("no room", "53100")])
    assert logged(captured) == [] and status(captured, "lag_bytes > 0") == [(True,)] and code(captured.connect(), "CALL audit_capture()") == "53100"
    captured.run("DROP TRIGGER fail ON audit_cdc_internal.captures")
    until(lambda: logged(captured) == [1])
    is_captured(captured, "INSERT INTO t VALUES (2)")
    assert captured.rows("SELECT * FROM audit_rejects") == []


def test_while_it_fails_it_lags(captured):
    captured.run("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE disk_full; END$$")
    captured.run("CREATE TRIGGER fail BEFORE UPDATE ON audit_cdc_internal.captures FOR EACH ROW WHEN (NEW.changes > OLD.changes) EXECUTE FUNCTION fail()")
    captured.run("INSERT INTO t VALUES (1)")
    until(lambda: status(captured, "last_error_sqlstate") == [("53100",)])
    until(lambda: worker(captured, "state = 'idle'"))
    assert status(captured, "lag_seconds > 0") == [(True,)]


def test_a_publication_that_is_gone(captured):
    """Nobody can stop capture by dropping it: what is missing is a gap, and the status tells."""
    setting(enabled="off")
    until(lambda: worker(captured, "state = 'idle'"))
    captured.run("INSERT INTO t VALUES (1)")
    captured.run("DROP PUBLICATION audited")
    captured.run("INSERT INTO t VALUES (2)")
    setting(enabled="on")
    until(lambda: logged(captured) == [1])
    assert status(captured, "last_error_sqlstate, open_gaps") == [("42704", 1)]
    publish(captured)
    is_captured(captured, "INSERT INTO t VALUES (3)")
    assert logged(captured) == [1, 3]
    assert status(captured, "last_error_sqlstate, open_gaps") == [(None, 1)]


@pytest.mark.parametrize("how", ["savepoint", "exception"])
def test_a_call_that_failed_in_a_subtransaction_holds_nothing(captured, how):
    connection = captured.connect()
    try:
        if how == "savepoint":
            run(connection, "BEGIN")
            run(connection, "SAVEPOINT s")
            assert code(connection, "CALL audit_capture()") == "25001"
            run(connection, "ROLLBACK TO s")
            run(connection, "COMMIT")
        else:
            run(connection, "DO $$ DECLARE n bigint; BEGIN BEGIN CALL audit_capture(n); EXCEPTION WHEN active_sql_transaction OR invalid_transaction_termination THEN NULL; END; END $$")
        captured.run("INSERT INTO t VALUES (1)")
        until(lambda: logged(captured) == [1], 5)
    finally:
        code(connection, "SELECT 1/0")  # a transaction that fails lets go of it


# -------------------------------------------------------------------------------------------------------------------- poison


def test_a_poison_change_is_set_aside(captured):
    table(captured, "p", "id int PRIMARY KEY, doc json")
    captured.run("""ALTER TABLE audit_cdc_internal.log ADD CHECK (new_values ->> 'doc' IS DISTINCT FROM 'poison' AND old_values ->> 'doc' IS DISTINCT FROM 'poison')""")
    captured.run("""INSERT INTO p SELECT n, CASE WHEN n IN (500, 777) THEN '"poison"' ELSE '{}' END::json FROM generate_series(1, 1000) AS n""")
    captured.run(r"UPDATE p SET doc = '[]' WHERE id = 500; DELETE FROM p WHERE id = 777; INSERT INTO p VALUES (1001)")
    until(lambda: logged(captured, "p")[-1:] == [1001])
    assert sorted(logged(captured, "p")) == [n for n in range(1, 1002) if n not in (500, 777)]
    rejects = r"""SELECT sqlstate, deliveries, table_name, substring(raw FROM '"action": *"(\w+)"'), substring(raw FROM '"record": *{"id": *(\d+)') FROM audit_rejects"""
    assert sorted(captured.rows(rejects)) == [("23514", 1, "p", "delete", "777"), ("23514", 1, "p", "insert", "500"), ("23514", 1, "p", "insert", "777"), ("23514", 1, "p", "update", "500")]
    assert status(captured, "last_error, changes") == [(None, 999)]
    is_captured(captured, "INSERT INTO t VALUES (1)")


def half_stopped(db, connection):
    """An admin calls what audit_capture_stop() begins with, and nothing after it."""
    run(connection, "SELECT audit_cdc_internal.begin_to_stop()")
    until(lambda: workers(db) == [])


def test_a_stop_that_never_ended_is_on_record_and_taken_back(roles, captured):
    role = roles("audit_cdc_admin")
    admin_ = captured.connect(user=role)
    half_stopped(captured, admin_)
    assert captured.rows("SELECT operation, counts, server_context ->> 'session_user' FROM audit_operations ORDER BY id DESC LIMIT 1") == [("audit_capture_stop", None, role)]
    captured.run("INSERT INTO t VALUES (1)")
    read_to = captured.value("SELECT read_to FROM audit_cdc_internal.captures")
    assert captured.value(START, connection=admin_) == read_to
    until(lambda: logged(captured) == [1])
    assert captured.rows("SELECT reason FROM audit_gaps") == []
    assert captured.rows("SELECT operation FROM audit_operations ORDER BY id DESC LIMIT 1") == [("audit_capture_start",)]


def test_only_the_same_capture_takes_a_stop_back(captured):
    half_stopped(captured, captured.connect())
    captured.run("CREATE PUBLICATION other FOR TABLE t")
    for call in ("'other'", "'audited', 'other_slot'"):
        assert code(captured.connect(), f"SELECT audit_capture_start({call})") == "55000"
    stop(captured)
    nothing_is_captured(captured)


def test_a_stop_that_was_taken_back_ends_nothing(captured):
    half_stopped(captured, captured.connect())
    start(captured)
    assert code(captured.connect(), "SELECT audit_cdc_internal.end_capture()") == "55000"
    is_captured(captured, "INSERT INTO t VALUES (1)")
