"""The output plugin: each change as the catalogs were at its moment, whatever became of them since."""

import threading

import psycopg2
import pytest
from capture_helpers import capture, logged, paused, publish, slot, source, start, table  # noqa: F401 (fixtures)
from conftest import admin, until
from projection_helpers import code, run

PENDING = "SELECT data FROM pg_logical_slot_peek_binary_changes((SELECT slot FROM audit_cdc_internal.captures), NULL, NULL, 'publication', 'audited')"


def sent(db):
    """Messages of the plugin, as it sends them."""
    return [bytes(data) for (data,) in db.rows(PENDING)]


def test_rows_of_schema_changes_are_told_by_their_number(paused):
    """Whatever the publication says; other tables of the log are never told."""
    paused.run("CREATE TABLE audit_cdc_internal.schema_changes (id bigint PRIMARY KEY, statement text)")
    paused.run("CREATE TABLE audit_cdc_internal.of_the_log (id bigint PRIMARY KEY)")
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")
    paused.run("""INSERT INTO t VALUES (1, 'a'); INSERT INTO audit_cdc_internal.schema_changes VALUES (4711, 'ALTER TABLE …');
        INSERT INTO audit_cdc_internal.of_the_log VALUES (1); INSERT INTO t VALUES (2, 'b'); UPDATE audit_cdc_internal.schema_changes SET statement = ''""")
    kinds = [message[:1] for message in sent(paused)]
    assert kinds == [b"R", b"B", b"I", b"S", b"I", b"C"]
    place, number = 1, 4711
    assert sent(paused)[3] == b"S" + place.to_bytes(4, "big") + number.to_bytes(8, "big")
    paused.run("DROP TABLE audit_cdc_internal.schema_changes, audit_cdc_internal.of_the_log")
    assert capture(paused) == 2
    assert paused.rows("SELECT commit_idx FROM audit_logs ORDER BY commit_idx") == [(0,), (3,)]


# --------------------------------------------------------------------------------------------------------------------- starting


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_start_while_others_change_tables(source, elsewhere):
    """It waits for the oldest transaction. One that changes tables meanwhile makes PostgreSQL open subtransactions in its midst."""
    table(source)
    publish(source)
    oldest, other = source.connect(), psycopg2.connect(dbname="postgres" if elsewhere else source.name)
    other.autocommit = True
    run(oldest, "BEGIN")
    run(oldest, "SELECT pg_current_xact_id()")
    starting = source.connect()
    works = threading.Thread(daemon=True, target=lambda: run(starting, "SELECT audit_capture_start('audited')"))
    works.start()
    until(lambda: source.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", starting.info.backend_pid))
    run(other, "BEGIN")
    run(other, "SELECT pg_current_xact_id()")
    run(oldest, "COMMIT")
    run(other, "CREATE TABLE scratch (id int)")
    run(other, "DROP TABLE scratch")
    run(other, "COMMIT")
    works.join(60)
    source.run("INSERT INTO t VALUES (1, 'a')")
    until(lambda: logged(source) == [1])


def test_a_start_that_waits_is_cancelled(source):
    table(source)
    publish(source)
    oldest = source.connect()
    run(oldest, "BEGIN")
    run(oldest, "SELECT pg_current_xact_id()")
    caught = "DO $$ BEGIN PERFORM audit_capture_start('audited'); EXCEPTION WHEN query_canceled THEN NULL; END $$"
    connection = source.connect(options="-c statement_timeout=500ms")
    assert code(connection, "SELECT audit_capture_start('audited')") == "57014"
    run(connection, caught)
    assert slot(source) == []
    run(oldest, "COMMIT")
    start(source)


def test_what_is_to_be_set_is_said_at_once(source):
    if source.value("SELECT current_setting('output_plugin_libraries', true)") is None:
        pytest.skip("this release has no output_plugin_libraries")
    publish(source)
    admin("ALTER SYSTEM SET output_plugin_libraries = 'pgoutput'")
    admin("SELECT pg_reload_conf()")
    until(lambda: source.value("SHOW output_plugin_libraries") == "pgoutput")
    with pytest.raises(Exception) as error:
        source.run("SELECT audit_capture_start('audited')")
    diagnostics = error.value.diag
    assert (error.value.pgcode, diagnostics.message_detail) == ("55000", "output_plugin_libraries does not name audit_cdc.")
    assert diagnostics.message_hint == "ALTER SYSTEM SET output_plugin_libraries = pgoutput, audit_cdc. Then SELECT pg_reload_conf()."
    assert slot(source) == []
    for name, is_enough in (("wal2json", False), ("audit_cdc", True)):
        admin(f"ALTER SYSTEM SET output_plugin_libraries = pgoutput, {name}")
        admin("SELECT pg_reload_conf()")
        until(lambda: source.value("SHOW output_plugin_libraries") == f"pgoutput, {name}")
        assert is_enough == (code(source.connect(), "SELECT audit_capture_start('audited')") is None)


def test_a_slot_of_another_plugin_is_refused(paused):
    paused.run("SELECT pg_create_logical_replication_slot('theirs_' || current_database(), 'pgoutput')")
    try:
        with pytest.raises(Exception) as error:
            paused.rows("SELECT audit_changes(('theirs_' || current_database())::name, 'audited')")
        assert error.value.pgcode == "55000" and error.value.diag.message_detail == 'Its output plugin is "pgoutput".'
    finally:
        paused.run("SELECT pg_drop_replication_slot('theirs_' || current_database())")
