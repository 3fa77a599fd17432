"""A dump in which somebody has changed what the log keeps. What it says then nobody can know, but nothing breaks on it, and no capture goes on as if."""

import random
import subprocess

import pytest
from capture_helpers import capture, publish, setting, source, start, table, worker  # noqa: F401 (fixtures)
from conftest import DATABASE_ID, batch, change, until
from projection_helpers import code, project
from test_continue import HERE, READINGS, moved, said, started  # noqa: F401

TABLES = """
    SELECT c.oid::regclass::text, array_agg(ARRAY[quote_ident(a.attname), format_type(a.atttypid, NULL)] ORDER BY a.attnum)
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    WHERE c.relnamespace = 'audit_cdc_internal'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition GROUP BY c.oid ORDER BY 1"""
ODD = {
    "text": ["''", "'x'", "'{'", "repeat('ä', 1000)"], "name": ["''", "'x'"], "bigint": ["0", "-1", "9223372036854775807"], "integer": ["0", "-1", "2147483647"], "smallint": ["0", "-1"],
    "jsonb": ["'null'", "'[]'", "'1'", "'{}'", "'{\"id\": [], \"v\": {\"old\": 1}}'", "'{\"columns\": [1], \"published\": 1}'"], "boolean": ["true", "false"], "oid": ["0", "4294967295", "'pg_class'::regclass"],
    "pg_lsn": ["'0/0'", "'FFFFFFFF/FFFFFFFF'"], "timestamp with time zone": ["'infinity'", "'-infinity'", "'4714-11-24 BC'", "'294276-12-31'"], "uuid": ["gen_random_uuid()"],
    "text[]": ["'{}'", "'{NULL}'", "'{x,id}'", "'{{a,b},{c,d}}'", "'[5:6]={a,b}'"], "bigint[]": ["'{}'", "'{NULL}'"], "xid[]": ["'{}'", "'{NULL}'", "'{4294967295}'"], '"char"': ["'x'", "''"],
    "audit_cdc_internal.action": ["'insert'", "'update'", "'delete'", "'truncate'", "'read'", "'complete'"], "regclass": ["0", "4294967295", "'pg_class'::regclass"], "regrole": ["0", "4294967295"], "xid8": ["'0'", "'18446744073709551615'"],
    "bytea": ["''", "'\\x00ff'"], "interval": ["'1 day'"], "date": ["'infinity'", "'-infinity'", "'4714-11-24 BC'", "'5874897-12-31'"],
    "double precision": ["0", "'NaN'", "'-Infinity'"], "inet": ["'::'"],
}
VIEWS = "SELECT format('SELECT * FROM %s', c.oid::regclass) FROM pg_class AS c WHERE c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace"
# what writes comes last: what it did stays until the next change
CALLS = [
    "SELECT audit_table_diff('t', since => '2000-01-01')", "SELECT audit_as_of('orders')", "SELECT audit_history('orders')", "SELECT audit_history(since => '2000-01-01')", "SELECT audit_as_of('t', '2026-06-01')",
    "SELECT audit_as_of(NULL::t, lsn => pg_current_wal_lsn())", "SELECT audit_undo_sql(table_name => 't', since => '2000-01-01', database_id => %L)", "SELECT audit_replay_sql('t', database_id => %L)",
    "SELECT audit_history('t', database_id => %L)", "SELECT audit_as_of('t', database_id => %L)", "SELECT audit_status()", "SELECT audit_expired()", "CALL audit_apply_retention(dry_run => true)", "SELECT audit_capture_status()", "SELECT audit_moment('mark')",
    "SELECT audit_activity('activity')", "SELECT audit_changes_by_user()", "SELECT audit_cdc_internal.last_look()", "SELECT audit_undo(table_name => 't', since => '2000-01-01', database_id => %L)",
    "SELECT audit_describe_tables('d1', '{\"described_at\": \"2026-03-01\", \"tables\": []}')", "ALTER TABLE t ADD x int", "SELECT audit_retry_rejects()", "SELECT audit_rebuild_projection('feed')",
    "SELECT audit_continue(%L, 'moved')", "SELECT audit_as_of('t')", "SELECT audit_cdc_internal.capture_pass(NULL)", "SELECT audit_exclude_table('t', 'x')",
    "SELECT audit_include_table('t', 'x')", "SELECT audit_cdc_internal.note_fault()", "SELECT audit_cdc_internal.settle_gaps()",
]
RUN = """
    CREATE FUNCTION run_each(statements text[]) RETURNS text[] LANGUAGE plpgsql AS $$
    DECLARE
      one text;
      found text[] := '{}';
    BEGIN
      FOREACH one IN ARRAY statements LOOP
        BEGIN
          EXECUTE one;
        EXCEPTION WHEN OTHERS THEN
          IF SQLSTATE ~ '^(XX|54|P0001)' THEN found := found || format('%s: %s %s', one, SQLSTATE, SQLERRM); END IF;
        END;
      END LOOP;
      RETURN found;
    END $$"""


@pytest.fixture
def restored(source, moved):
    """The log of an eventful database, restored into another one."""
    table(source)
    source.run("CREATE TABLE q (id int PRIMARY KEY, v text)")
    publish(source, "TABLE t, q")
    start(source)
    setting(enabled="off")
    until(lambda: worker(source, "state = 'idle'"))
    project(source)
    source.run("""SELECT audit_create_activity(); SELECT audit_mark('mark');
                  INSERT INTO t VALUES (1, 'a'), (2, 'b'); UPDATE t SET v = 'c'; UPDATE t SET id = 3 WHERE id = 2; DELETE FROM t WHERE id = 1;
                  ALTER TABLE t ADD w int; SELECT audit_exclude_table('q', 'a test'); INSERT INTO q VALUES (1); SELECT audit_include_table('q', 'a test');
                  ALTER PUBLICATION audited DROP TABLE q; ALTER PUBLICATION audited ADD TABLE q""")
    source.run("CALL audit_backfill('t')")
    source.run("SELECT audit_annotate(metadata => jsonb_build_object('long', repeat('x', 3000))); INSERT INTO t VALUES (9, 'x')")
    source.rows("SELECT audit_allow_source('audit_cdc_ingest', 'd1')")
    source.ingest(batch([change(), change(1, database=DATABASE_ID), "no message"]))
    capture(source)
    db = moved(source)
    db.old = source.value(HERE)
    db.run(RUN)
    return db


@pytest.mark.once
def test_nothing_breaks_on_what_was_edited(restored):
    tables = restored.rows(TABLES)
    unknown = {type_ for _, columns in tables for _, type_ in columns} - ODD.keys()
    assert unknown == set()
    statements = [line for (line,) in restored.rows(VIEWS)] + [reading.replace("%", "%%") for reading in READINGS] + CALLS
    statements = [restored.value("SELECT format(%s, %s)", statement, restored.old) if "%L" in statement else statement for statement in statements]
    for name, _ in tables:
        restored.run(f"ALTER TABLE {name} DISABLE TRIGGER ALL")
    restored.run("""CREATE FUNCTION edit(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
                    DECLARE n bigint; BEGIN EXECUTE statement; GET DIAGNOSTICS n = ROW_COUNT; RETURN n;
                    EXCEPTION WHEN integrity_constraint_violation THEN RETURN 0; END $$""")
    found, made = [], 0
    chance = random.Random(1)
    edits = [f"UPDATE {name} SET {column} = {value} WHERE {column} IS DISTINCT FROM {value}" for name, columns in tables
             if restored.value(f"SELECT count(*) FROM {name}") for column, type_ in columns for value in [chance.choice(["NULL", *ODD[type_]])]]
    edits += [f"DELETE FROM {name}" for name, _ in tables] + ["SELECT 1"]
    with restored.connect(options="-c client_min_messages=error -c statement_timeout=120s").cursor() as cursor:
        for edit in edits:
            cursor.execute("BEGIN")
            cursor.execute("SELECT edit(%s)", (edit,))
            if cursor.fetchone()[0] > 0:
                made += 1
                cursor.execute("SELECT run_each(%s)", (statements,))
                found += [f"{edit}: {line}" for line in cursor.fetchone()[0]]
            cursor.execute("ROLLBACK")
    assert made > 50
    assert found == []


def test_whose_entries_were_made_its_own(restored):
    """Then they count as what this database has captured, up to where they end."""
    here = restored.value(HERE)
    for (name,) in restored.rows("SELECT attrelid::regclass::text FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid WHERE relnamespace = 'audit_cdc_internal'::regnamespace "
                                 "AND attname = 'database_id' AND relkind = 'r' AND relname <> 'allowed_sources'"):
        restored.run(f"ALTER TABLE {name} DISABLE TRIGGER ALL; UPDATE {name} SET database_id = %s WHERE database_id = %s; ALTER TABLE {name} ENABLE TRIGGER ALL", here, restored.old)
    restored.run("INSERT INTO t VALUES (10, 'in no log')")
    goes_on_only_with_a_gap(restored)


def test_a_log_that_was_restored_into_its_own_database(source, tmp_path):
    table(source)
    publish(source, "TABLE t")
    start(source)
    source.run("INSERT INTO t VALUES (1, 'a')")
    capture(source)
    dump = str(tmp_path / "dump")
    subprocess.run(["pg_dump", "-Fc", "-f", dump, source.name], check=True)
    source.run("INSERT INTO t VALUES (2, 'only in the log that goes')")
    source.run("CALL audit_capture_stop()")
    source.run("BEGIN; SELECT audit_allow_removal(); DROP EXTENSION audit_cdc; DROP PUBLICATION audited; DROP TABLE t; COMMIT")
    subprocess.run(["pg_restore", "--exit-on-error", "-d", source.name, dump], check=True)
    assert source.value("SELECT count(*) FROM audit_logs") == 1
    goes_on_only_with_a_gap(source)


def goes_on_only_with_a_gap(db):
    assert db.rows("SELECT * FROM audit_capture_status()") == [] and code(db.connect(), "CALL audit_capture()") == "55000"
    last = db.value("SELECT max(commit_timestamp) FROM audit_logs WHERE origin <> 'ingest'")
    started(db)
    db.run("INSERT INTO t VALUES (11, 'in the log')")
    [gap] = db.rows("SELECT from_time <= %s, to_lsn IS NOT NULL, is_open FROM audit_gaps WHERE table_name IS NULL AND reason = 'restored'", last)
    assert gap == (True, True, True)
    assert "the log may miss changes" in "".join(said(db, "SELECT audit_as_of('t', database_id => %s)", db.value(HERE)))
    db.run("CALL audit_backfill()")
    assert db.value("SELECT bool_or(is_open) FROM audit_gaps WHERE reason = 'restored'") is False
