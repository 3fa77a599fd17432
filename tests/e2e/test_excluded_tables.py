"""Nobody hides: a table is left out of capture only by who owns it and is an admin, on record; never because something fills it."""

import psycopg2
import pytest
from capture_helpers import capture, logged, paused, publish, source, start, stop, table  # noqa: F401
from projection_helpers import code, roles, run, waiting  # noqa: F401

NOTHING = "SELECT {} FROM audit_new_logs WHERE false"
CREATE = "SELECT audit_create_projection('hide', %s, target => 't', fill => false)"


@pytest.fixture
def clerk(roles, paused):  # noqa: F811
    """Reads the log, and may write to t."""
    name = roles("audit_cdc_reader")
    paused.run(f"GRANT ALL ON t TO {name}")
    yield name
    paused.run(f"DROP OWNED BY {name}")


def excluded(db, columns="table_name, reason, until_lsn IS NULL"):
    return db.rows(f"SELECT {columns} FROM audit_excluded_tables ORDER BY excluded_at")


def test_a_captured_table_cannot_be_a_target(paused, clerk):
    connection = paused.connect(user=clerk)
    paused.run("INSERT INTO t VALUES (1)")
    assert code(connection, CREATE, NOTHING.format("1 AS id, 'a' AS v")) == "55000"
    assert code(paused.connect(), CREATE, NOTHING.format("1 AS id, 'a' AS v")) == "55000"
    run(connection, "INSERT INTO t VALUES (2)")
    assert capture(paused) == 2 and logged(paused) == [1, 2] and excluded(paused) == []


def test_who_publishes_a_target_later_captures_it(paused):
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t; CREATE TABLE u (id int PRIMARY KEY)")
    paused.run("ALTER TABLE u REPLICA IDENTITY FULL")
    paused.run("SELECT audit_create_projection('u', %s, fill => false)", NOTHING.format("1 AS id"))
    paused.run("ALTER PUBLICATION audited ADD TABLE u; INSERT INTO u VALUES (1); INSERT INTO t VALUES (1)")
    capture(paused)
    assert (logged(paused, "u"), logged(paused)) == ([1], [1])


def test_capture_does_not_start_while_a_target_is_published(source):
    source.run("CREATE TABLE u (id int PRIMARY KEY)")
    source.run("SELECT audit_create_projection('u', %s)", NOTHING.format("1 AS id"))
    publish(source)
    with pytest.raises(psycopg2.Error) as error:
        source.run("SELECT audit_capture_start('audited')")
    assert error.value.pgcode == "55000" and 'public.u (projection "u")' in error.value.diag.message_detail
    assert source.rows("SELECT 1 FROM pg_replication_slots WHERE database = current_database()") == []
    source.run("SELECT audit_exclude_table('u', 'filled from the log')")
    start(source)


def test_only_an_owner_who_is_an_admin_excludes(roles, paused):
    owner, admin_, both = roles(), roles("audit_cdc_admin"), roles("audit_cdc_admin")
    paused.run(f"ALTER TABLE t OWNER TO {owner}; GRANT {owner} TO {both}")
    call = "SELECT audit_exclude_table('t', 'a test')"
    assert code(paused.connect(user=owner), call) == "42501"
    assert code(paused.connect(user=admin_), call) == "42501"
    assert code(paused.connect(user=admin_), "SELECT audit_include_table('t', 'a test')") == "42501"
    assert code(paused.connect(user=both), "SELECT audit_exclude_table('t', NULL)") == "22004"
    assert code(paused.connect(user=both), "SELECT audit_exclude_table('t', ' ')") == "22023"
    assert code(paused.connect(user=both), "SELECT audit_include_table('t', 'a test')") == "55000"
    assert code(paused.connect(user=both), "SELECT audit_exclude_table('audit_logs', 'a test')") == "42809"
    assert excluded(paused) == []
    assert code(paused.connect(user=both), call) is None
    assert code(paused.connect(user=both), call) == "42710"
    assert excluded(paused, "excluded_by, reason") == [(both, "a test")]
    paused.run("ALTER TABLE t OWNER TO postgres")


def test_what_is_excluded_and_included_is_on_record(paused):
    paused.run("INSERT INTO t VALUES (1)")
    paused.run("SELECT audit_exclude_table('t', 'too loud')")
    paused.run("INSERT INTO t VALUES (2)")
    assert code(paused.connect(), "CALL audit_backfill('t')") == "55000"
    paused.run("SELECT audit_include_table('t', 'asked for')")
    paused.run("INSERT INTO t VALUES (3)")
    assert capture(paused) == 2 and logged(paused) == [1, 3]
    assert excluded(paused, "reason, included_reason, until_lsn > from_lsn") == [("too loud", "asked for", True)]
    stop(paused)
    start(paused)
    assert len(excluded(paused)) == 1


def test_who_attaches_a_table_to_an_excluded_one_does_not_hide_it(paused):
    """Its owner alone can do that; to exclude it takes an admin."""
    paused.run("CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)")
    paused.run("SELECT audit_exclude_table('parts', 'a test')")
    paused.run("ALTER TABLE t ALTER id SET NOT NULL; ALTER TABLE parts ATTACH PARTITION t FOR VALUES FROM (0) TO (100)")
    paused.run("INSERT INTO t VALUES (1, 'a'); INSERT INTO parts VALUES (2, 'b')")
    capture(paused)
    assert paused.rows("SELECT record_id FROM audit_logs ORDER BY 1") == [("1",), ("2",)]
    paused.run("SELECT audit_exclude_table('parts', 'with what has come since')")
    paused.run("INSERT INTO t VALUES (3, 'c')")
    capture(paused)
    assert paused.value("SELECT count(*) FROM audit_logs") == 2


def test_a_partition_is_excluded_with_its_table(paused):
    paused.run("CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT")
    paused.run("SELECT audit_exclude_table('p', 'a test')")
    paused.run("INSERT INTO p VALUES (1); INSERT INTO t VALUES (1)")
    assert capture(paused) == 1 and logged(paused, "p1") == []


def test_a_history_that_an_admin_makes_is_excluded(roles, paused):
    reader = roles("audit_cdc_reader")
    paused.run(f"CREATE SCHEMA s AUTHORIZATION {reader}")
    call = "SELECT audit_create_history_projection('t', 's.h')"
    assert code(paused.connect(user=reader), call) == "55000"
    paused.run("SELECT audit_create_history_projection('t')")
    paused.run("SELECT audit_create_activity()")
    assert excluded(paused) == [("t_history", 'filled from the log by projection "t_history"', True),
                                ("activity", 'filled from the log by projection "activity"', True)]
    paused.run("INSERT INTO t VALUES (1)")
    assert capture(paused) == 1 and capture(paused) == 0
    assert paused.rows("SELECT id FROM t_history") == [(1,)]
    paused.run(f"DROP OWNED BY {reader}")


# --- an older snapshot does not know what was excluded meanwhile

OLD = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"
OPEN = "SELECT table_name, reason FROM audit_gaps WHERE is_open AND reason <> 'excluded' ORDER BY gap_id"


@pytest.mark.parametrize("command, reason", [("SET UNLOGGED", "unlogged"), ("ALTER v TYPE int USING 8", "rewritten")])
def test_ddl_of_a_table_that_was_included_meanwhile(paused, command, reason):
    paused.run("INSERT INTO t VALUES (1, '7'); SELECT audit_exclude_table('t', 'a test')")
    old = paused.connect()
    run(old, OLD)
    paused.run("SELECT audit_include_table('t', 'a test')")
    run(old, f"ALTER TABLE t {command}; COMMIT")
    assert ("t", reason) in paused.rows(OPEN)


@pytest.mark.parametrize("call", ["audit_exclude_table", "audit_include_table"])
def test_exclusions_are_changed_under_read_committed(paused, call):
    if call == "audit_include_table":
        paused.run("SELECT audit_exclude_table('t', 'a test')")
    old = paused.connect()
    run(old, OLD)
    with pytest.raises(psycopg2.Error) as error:
        run(old, f"SELECT {call}('t', 'a test')")
    assert error.value.pgcode == "25001" and "READ COMMITTED" in error.value.diag.message_primary


def test_capture_by_a_session_of_repeatable_read_leaves_out_nothing(paused):
    """It waits for who includes the table, and then knows of it."""
    paused.run("SELECT audit_exclude_table('t', 'a test')")
    including, capturing = paused.connect(), paused.connect(options=r"-c default_transaction_isolation=repeatable\ read")
    run(including, "BEGIN; SELECT audit_include_table('t', 'a test')")
    with waiting(paused, "CALL audit_capture()", connection=capturing) as outcome:
        run(including, "COMMIT")
        run(including, "INSERT INTO t VALUES (1)")
    assert outcome == [None]
    capture(paused)
    assert logged(paused) == [1]
    run(capturing, "CALL audit_capture_stop()")


def test_a_pass_does_not_read_with_an_old_snapshot(paused):
    assert code(paused.connect(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT audit_cdc_internal.capture_pass(NULL)") == "25001"
