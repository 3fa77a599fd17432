"""A database that was restored elsewhere goes on from the one that it was, once an admin says so."""

import contextlib
import json
import subprocess

import psycopg2
import pytest
from capture_helpers import capture, paused, publish, setting, slot, source, stop, table  # noqa: F401 (fixtures)
from conftest import Database, admin, batch, change, numbers, until
from projection_helpers import code, run
from standby_helpers import standby

HERE = "SELECT audit_cdc_internal.this_database() ->> 'id'"
OTHERS = "that another database captured"


@pytest.fixture
def moved(source, tmp_path):
    """Restores a database's dump into another one; both are of one server, with different ids."""
    with contextlib.ExitStack() as stack:
        def move(db):
            restored = Database(f"{source.name}_{next(numbers)}")
            dump = str(tmp_path / restored.name)
            subprocess.run(["pg_dump", "-Fc", "-f", dump, db.name], check=True)
            admin(f"CREATE DATABASE {restored.name} TEMPLATE template0")
            stack.callback(admin, f"DROP DATABASE {restored.name} WITH (FORCE)")
            subprocess.run(["pg_restore", "--exit-on-error", "-d", restored.name, dump], check=True)
            stack.callback(stop, restored, discard=True)
            return restored
        yield move


def filled(db):
    """Rows 1 to 3, captured; the first one changed by request r1."""
    db.run("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    session = db.connect()
    run(session, "BEGIN")
    run(session, "SELECT audit_annotate(request_id => 'r1')")
    run(session, "UPDATE t SET v = 'aa' WHERE id = 1")
    run(session, "COMMIT")
    capture(db)
    return db.value(HERE)


def go_on(db, old, reason="moved to another host"):
    db.run("SELECT audit_continue(%s, %s)", old, reason)


def started(db):
    db.rows("SELECT audit_capture_start('audited')")


def changed(db, sql):
    db.run(sql)
    capture(db)


def rows(db, **arguments):
    names = "".join(f", {name} => %s" for name in arguments)
    return db.rows(f"SELECT r ->> 'id', r ->> 'v' FROM audit_as_of('t'{names}) AS r ORDER BY 1", *arguments.values())


def said(db, sql, *arguments):
    """What a call tells besides its rows: each with severity, message, detail and hint."""
    session = db.connect()
    run(session, sql, *arguments)
    return list(session.notices)


def about(notices, words):
    return [notice for notice in notices if words in notice]


READINGS = ["SELECT audit_as_of('t')", "SELECT audit_as_of(NULL::t)", "SELECT audit_as_of_unknown('t')", "SELECT audit_history('t', '1')", "SELECT audit_history(NULL::t, '1')",
            "SELECT audit_history(request_id => 'r1')", "SELECT audit_replay_sql('t')", "SELECT audit_undo_sql(request_id => 'r1')", "SELECT audit_undo(request_id => 'none')",
            "SELECT audit_redo(request_id => 'none')"]


def test_before_and_after_it_is_said(paused, moved):
    old = filled(paused)
    db = moved(paused)
    here = db.value(HERE)
    assert here != old
    for reading in READINGS:
        [warning] = about(said(db, reading), OTHERS)
        assert warning.startswith("WARNING") and old in warning and f"audit_continue('{old}', reason)" in warning, reading
    assert about(said(db, "SELECT audit_as_of('t', database_id => %s)", old), OTHERS) == [], "who names it knows"
    started(db)
    changed(db, "UPDATE t SET v = 'aaa' WHERE id = 1")
    [warning] = about(said(db, "SELECT audit_as_of(NULL::t)"), OTHERS)
    with pytest.raises(psycopg2.errors.InvalidParameterValue) as error:
        db.rows("SELECT audit_as_of('t')")
    assert f"audit_continue('{old}', reason)" in error.value.diag.message_hint

    go_on(db, old)
    assert db.rows("SELECT old_database_id, new_database_id, reason, continued_by FROM audit_continuations") == [(old, here, "moved to another host", "postgres")]
    assert rows(db) == [("1", "aaa"), ("2", "b"), ("3", "c")] == db.rows("SELECT id::text, v FROM t ORDER BY 1")
    assert db.rows("SELECT r.* FROM audit_as_of(NULL::t) AS r ORDER BY 1") == [(1, "aaa"), (2, "b"), (3, "c")]
    for reading in READINGS:
        assert about(said(db, reading), OTHERS) == [], reading
    assert db.rows("SELECT action, old_row ->> 'v', new_row ->> 'v', database_id, note FROM audit_history('t', '1')") == [
        ("insert", None, "a", old, None), ("update", "a", "aa", old, None), ("update", "aa", "aaa", here, None)]
    assert db.rows("SELECT commit_lsn FROM audit_history('t', '1')") == db.rows("SELECT commit_lsn FROM audit_logs WHERE record_id = '1' ORDER BY id"), "as in the log"
    assert db.rows("SELECT action FROM audit_history('t', '1', newest_first => true, max_rows => 2)") == [("update",), ("update",)]
    assert db.value("SELECT count(*) FROM audit_history(since => '2000-01-01')") == 5
    assert db.value("SELECT count(*) FROM audit_history('t', since => '2000-01-01', database_id => %s)", here) == 5
    assert db.value("SELECT count(*) FROM audit_history('t', '1', database_id => %s)", old) == 2, "one of them alone"
    assert db.rows("SELECT r ->> 'v' FROM audit_as_of('t', key => '1', database_id => %s) AS r", old) == [("aa",)]
    assert db.value("SELECT count(*) FROM audit_replay_sql('t')") >= 5


def test_moments_of_either(paused, moved):
    old = filled(paused)
    in_the_old = paused.value("SELECT max(commit_timestamp)::text FROM audit_logs")
    db = moved(paused)
    started(db)
    go_on(db, old)
    changed(db, "UPDATE t SET v = 'x' WHERE id = 2")
    first = db.value("SELECT max(commit_lsn) FROM audit_logs")
    changed(db, "DELETE FROM t WHERE id = 3")
    lsn = lambda number: db.value("SELECT '0/0'::pg_lsn + %s::numeric", number)
    assert rows(db, at=in_the_old) == [("1", "aa"), ("2", "b"), ("3", "c")]
    assert rows(db, lsn=lsn(first)) == [("1", "aa"), ("2", "x"), ("3", "c")]
    assert rows(db, lsn=lsn(first - 1)) == [("1", "aa"), ("2", "b"), ("3", "c")]
    assert rows(db) == [("1", "aa"), ("2", "x")]
    before = db.value("SELECT min(commit_lsn) FROM audit_logs")
    assert rows(db, lsn=lsn(before), database_id=old) == [("1", "a"), ("2", "b"), ("3", "c")]


def test_positions_of_the_new_one_may_be_lower(paused, moved):
    """As on another server; and its clock may be behind."""
    old = filled(paused)
    db = moved(paused)
    db.run("""ALTER PUBLICATION audited SET (publish = 'insert'); SET session_replication_role = replica;
              SELECT audit_cdc_internal.ensure_partitions(ARRAY[now() + interval '1 hour']);
              DO $$ DECLARE part regclass; BEGIN FOR part IN SELECT relid FROM pg_partition_tree('audit_cdc_internal.log') LOOP
                EXECUTE format('ALTER TABLE %s DISABLE TRIGGER append_only', part); END LOOP; END $$;
              UPDATE audit_cdc_internal.log SET commit_lsn = commit_lsn + (1::bigint << 40), commit_timestamp = commit_timestamp + interval '1 hour';
              ALTER PUBLICATION audited SET (publish = 'insert, update, delete, truncate')""")
    started(db)
    changed(db, "UPDATE t SET v = 'aaa' WHERE id = 1")
    changed(db, "DELETE FROM t WHERE id = 2")
    go_on(db, old)
    assert db.rows("SELECT action, new_row ->> 'v', note FROM audit_history('t', '1')") == [("insert", "a", None), ("update", "aa", None), ("update", "aaa", None)]
    assert rows(db) == [("1", "aaa"), ("3", "c")]
    assert [line for (line,) in db.rows("SELECT statement FROM audit_replay_sql('t')")][-1].startswith("DELETE")
    [gap] = db.rows("SELECT from_lsn > to_lsn, to_lsn <= pg_current_wal_lsn() FROM audit_gaps")
    assert gap == (True, True), "its beginning is a position of the old server"


def test_undo_of_what_either_captured(paused, moved):
    old = filled(paused)
    moment = paused.value("SELECT max(commit_timestamp)::text FROM audit_logs")
    db = moved(paused)
    started(db)
    changed(db, "UPDATE t SET v = 'aaa' WHERE id = 1")
    assert db.rows("SELECT outcome FROM audit_undo(request_id => 'r1')") == [], "of another database"
    go_on(db, old)
    assert db.rows("SELECT outcome FROM audit_undo(request_id => 'r1')") == [("conflict: the row was changed since, or others refer to it",)]
    assert db.rows("SELECT outcome FROM audit_undo(table_name => 't', key => '1', at => %s)", moment) == [("undone",)]
    assert db.value("SELECT v FROM t WHERE id = 1") == "aa"
    capture(db)
    assert db.rows("SELECT outcome FROM audit_undo(request_id => 'r1')") == [("undone",)]
    assert db.value("SELECT v FROM t WHERE id = 1") == "a"
    capture(db)
    assert rows(db, key="1") == [("1", "a")]
    assert db.rows("SELECT outcome FROM audit_redo(request_id => 'r1')") == [("redone",)]
    assert db.value("SELECT v FROM t WHERE id = 1") == "aa"


def test_two_moves(paused, moved):
    first = filled(paused)
    second = moved(paused)
    started(second)
    go_on(second, first, "one")
    changed(second, "UPDATE t SET v = 'second' WHERE id = 1")
    third = moved(second)
    started(third)
    changed(third, "UPDATE t SET v = 'third' WHERE id = 1")
    [warning] = about(said(third, "SELECT audit_as_of(NULL::t)"), OTHERS)
    assert first in warning and f"audit_continue('{second.value(HERE)}', reason)" in warning, "the latest of them"
    go_on(third, second.value(HERE), "two")
    assert third.rows("SELECT new_row ->> 'v' FROM audit_history('t', '1')") == [("a",), ("aa",), ("second",), ("third",)]
    assert third.rows("SELECT DISTINCT r.* FROM audit_as_of(NULL::t) AS r ORDER BY 1") == [(1, "third"), (2, "b"), (3, "c")]
    assert about(said(third, "SELECT audit_as_of(NULL::t)"), OTHERS) == []
    assert third.rows("SELECT old_database_id, new_database_id, reason FROM audit_continuations ORDER BY continued_at") == [
        (first, second.value(HERE), "one"), (second.value(HERE), third.value(HERE), "two")]
    assert code(third.connect(), "SELECT audit_continue(%s, 'again')", first) == "42710", "it came along"


def test_what_is_between_is_a_gap(paused, moved):
    old = filled(paused)
    last, commit = paused.rows("SELECT '0/0'::pg_lsn + max(commit_lsn), max(commit_timestamp) FROM audit_logs")[0]
    db = moved(paused)
    go_on(db, old)
    assert db.rows("SELECT table_name, reason, from_lsn, from_time, to_lsn, is_open FROM audit_gaps") == [(None, "continued", last, commit, None, True)]
    assert "the log may miss changes" in "".join(said(db, "SELECT audit_as_of('t')"))
    db.rows("SELECT audit_capture_start('audited')")
    assert db.value("SELECT to_lsn IS NOT NULL FROM audit_gaps")
    after = moved(paused)
    started(after)
    go_on(after, old)
    assert after.value("SELECT to_lsn <= pg_current_wal_lsn() FROM audit_gaps"), "captured already"


def test_nobody_delivers_for_the_old_one(paused, moved):
    old = "7200000000000000001.5"  # of another server
    db = moved(paused)
    message = change(1, lsn=100, database=old, table="t", record={"id": 1, "v": "true"})
    forged = change(2, lsn=200, action="update", database=old, table="t", record={"id": 1, "v": "forged"}, changes={"v": "true"})
    assert db.ingest(batch([message])) == (1, 1, 0, 0), "any source is allowed"
    assert code(db.connect(), "SELECT audit_continue(%s, 'x')", old) == "22023", "what was delivered is not captured"
    db.run("""INSERT INTO audit_cdc_internal.log (commit_lsn, commit_idx, commit_timestamp, identity, audited_table, action, origin, replica_identity, record_id, new_values, unknown_columns)
              SELECT 50, 0, '2026-03-01', gen_random_uuid(), id, 'insert', 'c', 'f', '1', '{"id": 1, "v": "captured"}', '{}' FROM audit_cdc_internal.audited_tables WHERE table_name = 't'""")
    go_on(db, old)
    db.run("INSERT INTO audit_cdc_internal.captured_databases VALUES ('7200000000000000001.6', 'as restored, and not gone on from')")
    assert db.rows("SELECT new_row ->> 'v' FROM audit_history('t', '1')") == [("captured",)], "what was delivered before is not believed"
    assert db.rows("SELECT r ->> 'v' FROM audit_as_of('t') AS r") == [("captured",)]
    assert db.ingest(batch([forged])) == (1, 0, 0, 1) == db.ingest(batch([change(3, database="7200000000000000001.6")]))
    assert db.rows("SELECT sqlstate, reason, hint FROM audit_rejects WHERE database_id = %s", old) == [
        ("42501", f'database_id "{old}" is of a database that was captured into this log', "Only capture may store changes of it.")]
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="was captured into this log"):
        db.run("SELECT audit_allow_source('audit_cdc_ingest', %s)", old)
    assert db.rows("SELECT * FROM audit_allowed_sources") == []
    assert json.loads(db.value("SELECT raw FROM audit_rejects WHERE database_id = %s", old))["record"]["v"] == "forged"


def test_who_may_call_it_and_with_what(paused, moved):
    old = filled(paused)
    db = moved(paused)
    for call, expected in (("NULL, 'x'", "22004"), ("'1.1', NULL", "22004"), (f"'{old}', '  '", "22023"), ("'1.1', 'x'", "22023"), (f"'{db.value(HERE)}', 'x'", "42710")):
        assert code(db.connect(), f"SELECT audit_continue({call})") == expected, call
    for role in ("continue_reader", "continue_admin"):
        admin(f"DROP ROLE IF EXISTS {role}")
        admin(f"CREATE ROLE {role} LOGIN")
    try:
        admin("GRANT audit_cdc_reader TO continue_reader; GRANT audit_cdc_admin TO continue_admin")
        reader, by_admin = db.connect(user="continue_reader"), db.connect(user="continue_admin")
        assert code(reader, "SELECT audit_continue(%s, 'x')", old) == "42501"
        assert code(by_admin, "SELECT audit_continue(%s, 'x')", old) is None
        assert code(by_admin, "SELECT audit_continue(%s, 'x')", old) == "42710"
        assert run(reader, "SELECT continued_by FROM audit_continuations") == [("continue_admin",)]
        assert run(reader, "SELECT count(*) FROM audit_as_of('t')") == [(3,)]
        for statement in ("DELETE FROM audit_cdc_internal.continued_databases", "UPDATE audit_cdc_internal.captured_databases SET database_name = 'x'"):
            assert code(by_admin, statement) == "42501" and code(db.connect(), statement) == "55000"
    finally:
        reader.close()
        by_admin.close()
        for role in ("continue_reader", "continue_admin"):
            admin(f"DROP ROLE {role}")


def test_not_in_a_circle(paused, moved):
    old = filled(paused)
    db = moved(paused)
    paused.run("INSERT INTO audit_cdc_internal.continued_databases (old_id, new_id, reason, continued_by, last_lsn, last_commit) VALUES (%s, %s, 'x', 'x', 1, now())", old, db.value(HERE))
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="goes on from this one"):
        go_on(paused, db.value(HERE))


def test_gaps_of_the_old_one_end_with_the_move(paused, moved):
    """Its tables have other numbers here, and its positions are of another server."""
    paused.run("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    old = filled(paused)
    for table in ("t", "u", None):
        paused.run("SELECT audit_cdc_internal.note_gap(to_regclass(%s), 'by hand', '0/1')", table)
    db = moved(paused)
    go_on(db, old)
    db.rows("SELECT audit_capture_start('audited')")
    close = "SELECT audit_cdc_internal.close_gaps({}::regclass, gen_random_uuid(), pg_current_wal_insert_lsn(), pg_current_wal_insert_lsn())"
    is_open = "SELECT coalesce(table_name, reason), is_open, open_tables FROM audit_gaps ORDER BY gap_id"
    assert len(about(said(db, "SELECT audit_as_of('t')"), "may miss")) == 1
    db.rows(close.format("'t'"))
    assert db.rows(is_open) == [("t", False, None), ("u", True, ["public.u"]), ("by hand", True, ["public.u"]), ("continued", True, ["public.u"])]
    assert about(said(db, "SELECT audit_as_of('t')"), "may miss") == [] and len(about(said(db, "SELECT audit_as_of('u')"), "may miss")) == 1
    db.rows(close.format("'u'"))
    assert {found for _, found, _ in db.rows(is_open)} == {False}
    assert about(said(db, "SELECT audit_history(since => '2000-01-01')"), "may miss") == []


def test_projections_of_the_old_one_go_on(paused, moved):
    old = filled(paused)
    paused.run("SELECT audit_create_history_projection('t', database_id => %s), audit_create_activity(database_id => %s)", old, old)
    db = moved(paused)
    db.run("SELECT audit_exclude_table('t_history', 'a target'), audit_exclude_table('activity', 'a target')")
    started(db)
    go_on(db, old)
    changed(db, "UPDATE t SET v = 'aaa' WHERE id = 1")
    assert db.rows("SELECT v FROM t_history WHERE id = 1 ORDER BY audit_id") == [("a",), ("aa",), ("aaa",)]
    assert db.rows("SELECT changed FROM activity WHERE record_id = '1' AND action = 'update' ORDER BY id") == [({"v": {"old": "a", "new": "aa"}},), ({"v": {"old": "aa", "new": "aaa"}},)]


def test_a_slot_that_standbys_keep(source):
    table(source)
    publish(source)
    setting(failover="on")
    until(lambda: source.value("SHOW audit_cdc.capture_failover") == "on")
    started(source)
    if source.connect().server_version >= 170000:
        assert slot(source, "failover") == [(True,)]
    stop(source)
    setting(failover="off")
    until(lambda: source.value("SHOW audit_cdc.capture_failover") == "off")
    started(source)
    if source.connect().server_version >= 170000:
        assert slot(source, "failover") == [(False,)]


def test_what_was_deleted_during_the_move(paused, moved):
    """A backfill here does not meet it. Until then it may be there, also at positions that are below those of the old server."""
    old = filled(paused)
    db = moved(paused)
    db.run("DELETE FROM t WHERE id = 2; UPDATE t SET v = 'moved' WHERE id = 3")
    db.run("INSERT INTO audit_cdc_internal.continued_databases (old_id, new_id, reason, continued_by, last_lsn, last_commit) "
           "SELECT %s, %s, 'x', 'x', max(commit_lsn), max(commit_timestamp) FROM audit_cdc_internal.log", old, db.value(HERE))
    db.run("SELECT audit_cdc_internal.note_gap(NULL, 'continued', 'FFFF/0', (SELECT max(commit_timestamp) FROM audit_logs))")
    started(db)
    changed(db, "INSERT INTO t VALUES (9, 'new')")
    between = db.value("SELECT '0/0'::pg_lsn + max(commit_lsn) FROM audit_logs")
    db.run("CALL audit_backfill('t')")
    assert rows(db) == [("1", "aa"), ("3", "moved"), ("9", "new")]
    assert db.rows("SELECT record_id, reason FROM audit_as_of_unknown('t', lsn => %s)", between)[0] == ("2", "a gap: a later backfill did not meet it")
    assert about(said(db, "SELECT audit_as_of('t')"), "may miss") == []
    assert len(about(said(db, "SELECT audit_as_of('t', lsn => %s)", between), "may miss")) == 1


def test_a_promoted_standby_goes_on_with_a_failover_slot(source):
    """From PostgreSQL 17 on. Nothing is missing, and there is nothing to say."""
    if source.connect().server_version < 170000:
        pytest.skip("no failover slots")
    table(source)
    publish(source)
    setting(failover="on", enabled="off")
    until(lambda: source.value("SHOW audit_cdc.capture_failover") == "on")
    started(source)
    changed(source, "INSERT INTO t VALUES (1, 'a')")
    source.rows("SELECT pg_create_physical_replication_slot('kept_for_standby', true)")
    try:
        with standby(source) as copy:
            for name, value in (("primary_slot_name", "kept_for_standby"), ("hot_standby_feedback", "on"), ("sync_replication_slots", "on"),
                                ("primary_conninfo", copy.value("SHOW primary_conninfo") + " dbname=postgres")):
                copy.run(f"ALTER SYSTEM SET {name} = %s", value)
            copy.rows("SELECT pg_reload_conf()")
            until(lambda: source.value("SELECT active AND xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'kept_for_standby'"))

            def synced():
                source.run("SELECT pg_log_standby_snapshot()")
                capture(source)  # a slot that stays where it was cannot be synced
                return slot(copy, "synced AND NOT temporary") == [(True,)]
            until(synced)
            changed(source, "INSERT INTO t VALUES (2, 'b')")
            source.run("INSERT INTO t VALUES (3, 'c')")
            until(lambda: copy.value("SELECT count(*) FROM t") == 3 and copy.value("SELECT count(*) FROM audit_logs") == 2)
            copy.promote()
            assert copy.value(HERE) == source.value(HERE)
            changed(copy, "INSERT INTO t VALUES (4, 'd')")
            assert copy.rows("SELECT record_id FROM audit_logs ORDER BY id") == [("1",), ("2",), ("3",), ("4",)]
            assert copy.rows("SELECT * FROM audit_gaps") == []
    finally:
        until(lambda: not source.value("SELECT active FROM pg_replication_slots WHERE slot_name = 'kept_for_standby'"))
        source.rows("SELECT pg_drop_replication_slot('kept_for_standby')")
