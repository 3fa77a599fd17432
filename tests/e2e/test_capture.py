"""The log fills itself: what is read out of a database's own WAL, and how that is started, watched and stopped."""

import json
import threading
import time

import psycopg2
import pytest
from capture_helpers import capture, publish, setting, slot, source, status, unseen_commit  # noqa: F401
from conftest import CORPUS, lines, until

SETTINGS = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c lc_monetary=C"


def begin(db, what="ALL TABLES"):
    publish(db, what)
    db.run("SELECT audit_capture_start('audited')")


def code(db, sql, *arguments, **options):
    with pytest.raises(psycopg2.Error) as raised:
        db.rows(sql, *arguments, connection=db.connect(**options))
    return raised.value.pgcode


def test_the_log_fills_itself(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL")
    begin(source)
    source.run("INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'b'; DELETE FROM t")
    until(lambda: source.value("SELECT count(*) FROM audit_logs") == 3)
    assert source.rows("SELECT action, record_id, old_values, new_values, replica_identity, unknown_columns, unknown_old_columns, database_name FROM audit_logs ORDER BY commit_lsn, commit_idx") == [
        ("insert", "1", None, {"id": 1, "v": "a"}, "full", [], [], source.name),
        ("update", "1", {"v": "a"}, {"id": 1, "v": "b"}, "full", [], [], source.name),
        ("delete", "1", {"id": 1, "v": "b"}, None, "full", [], [], source.name)]
    until(lambda: status(source, "lag_seconds") == [(0,)])
    assert status(source, "changes::int, last_error") == [(3, None)]


def test_a_table_that_nobody_sees_yet_has_its_key(source):
    """The transaction that made it waits for a standby: it is in the WAL already."""
    source.run(f"ALTER DATABASE {source.name} SET synchronous_commit = local")
    begin(source)
    setting(enabled="off")
    with unseen_commit(source, "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (7, 'a')") as end:
        capture(source)
        assert source.value("SELECT to_regclass('t')") is None
        assert source.rows("SELECT action, record_id FROM audit_logs") == [("insert", "7")]
        end()
    capture(source)
    assert source.rows("SELECT action, record_id FROM audit_logs") == [("insert", "7")]


@pytest.mark.parametrize("levels", range(4))
def test_a_change_carries_the_annotation_before_it_whatever_savepoints_stand_between(source, levels):
    """PostgreSQL decodes a message where the next record begins, and takes what is of several subtransactions and stands at one place in any order."""
    source.run("CREATE TABLE t (id int, who text); ALTER TABLE t REPLICA IDENTITY FULL")
    begin(source)
    for n in range(5):
        earlier = "SAVEPOINT e; INSERT INTO t VALUES (0, 'nobody'); RELEASE e;" * n
        opened = "".join(f"SAVEPOINT s{level};" for level in range(levels))
        closed = "".join(f"RELEASE s{level};" for level in reversed(range(levels)))
        source.run(f"""BEGIN; {earlier} SELECT audit_annotate(username => 'ada'); {opened} SELECT audit_annotate(username => 'bob', metadata => '{{"n": {n}}}'); SAVEPOINT a; INSERT INTO t VALUES (1, 'bob'); SAVEPOINT b;
            INSERT INTO t VALUES (2, 'bob'); SELECT audit_annotate_clear(); SAVEPOINT c; INSERT INTO t VALUES (3, 'nobody'); SAVEPOINT d; SELECT audit_annotate(username => 'eve'); SAVEPOINT f; INSERT INTO t VALUES (4, 'eve');
            RELEASE a; {closed} COMMIT""")
        source.run("DO $$ BEGIN PERFORM audit_annotate(username => 'ann'); BEGIN PERFORM audit_annotate(username => 'job'); BEGIN INSERT INTO t VALUES (5, 'job'); EXCEPTION WHEN data_exception THEN NULL; END; EXCEPTION WHEN data_exception THEN NULL; END; END $$")
    capture(source)
    assert source.rows("SELECT new_values ->> 'who', coalesce(username, 'nobody') FROM audit_logs WHERE new_values ->> 'who' <> coalesce(username, 'nobody')") == []
    assert source.value("SELECT count(*) FROM audit_logs WHERE username IS NOT NULL") == 20


def test_without_full_unknown_is_said(source):
    source.run("""CREATE TABLE t (id int PRIMARY KEY, small text, large text, twice int GENERATED ALWAYS AS (id * 2) STORED); ALTER TABLE t ALTER large SET STORAGE EXTERNAL;
        CREATE PUBLICATION audited FOR TABLE t""")
    source.run("SELECT audit_capture_start('audited')")
    source.run("INSERT INTO t VALUES (1, 'a', repeat('x', 5000)); UPDATE t SET small = 'b'; UPDATE t SET id = 2; DELETE FROM t")
    capture(source)
    assert source.rows("SELECT action, record_id, old_values, unknown_columns, unknown_old_columns, replica_identity FROM audit_logs ORDER BY commit_lsn, commit_idx") == [
        ("insert", "1", None, ["twice"], [], "default"),
        ("update", "1", {}, ["large", "twice"], ["small", "large", "twice"], "default"),
        ("update", "2", {"id": 1}, ["large", "twice"], ["small", "large", "twice"], "default"),
        ("delete", "2", {"id": 2, "small": None, "large": None}, ["small", "large", "twice"], ["small", "large", "twice"], "default")]


def test_a_truncate_is_an_entry_of_each_table(source):
    source.run("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)")
    begin(source)
    source.run("BEGIN; SELECT audit_annotate(username => 'eve'); TRUNCATE a CASCADE; COMMIT")
    capture(source)
    assert source.rows("SELECT action, table_name, record_id, old_values, new_values, username, commit_idx FROM audit_logs ORDER BY table_name") == [
        ("truncate", "a", None, None, None, "eve", 1), ("truncate", "b", None, None, None, "eve", 1)]
    assert source.rows("SELECT unknown_columns, unknown_old_columns FROM audit_logs LIMIT 1") == [([], [])]


def test_tables_without_a_key_and_partitions(source):
    source.run("""CREATE TABLE bare (v text); ALTER TABLE bare REPLICA IDENTITY FULL;
        CREATE TABLE parted (id int, at date, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
        CREATE TABLE parted_2026 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')""")
    begin(source)
    source.run("INSERT INTO bare VALUES ('x'), ('x'); DELETE FROM bare; INSERT INTO parted VALUES (1, '2026-05-01')")
    assert capture(source) + source.value("SELECT changes FROM audit_capture_status()") >= 5
    assert source.rows("SELECT table_name, action, record_id FROM audit_logs ORDER BY commit_lsn, commit_idx") == [
        ("bare", "insert", None), ("bare", "insert", None), ("bare", "delete", None), ("bare", "delete", None),
        ("parted_2026", "insert", '["1","2026-05-01"]')]


def test_a_row_filter_and_a_column_list(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY, tenant int, secret text)")
    begin(source, "TABLE t (id, tenant) WHERE (id < 10)")
    source.run("INSERT INTO t VALUES (1, 7, 'secret'), (20, 7, 'secret')")
    capture(source)
    assert source.rows("SELECT new_values FROM audit_logs") == [({"id": 1, "tenant": 7},)]


def test_annotations(source):
    """Set, overwritten, merged, cleared, taken back with a savepoint; a message of no transaction is nobody's."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, who text)")
    begin(source)
    source.run("""BEGIN; INSERT INTO t VALUES (1, NULL); SELECT audit_annotate(username => 'ada', metadata => '{"n": 0.10}'); INSERT INTO t VALUES (2, 'ada');
        SAVEPOINT s; SELECT audit_annotate(username => 'undone'); INSERT INTO t VALUES (3, 'undone'); ROLLBACK TO s; INSERT INTO t VALUES (4, 'ada');
        SELECT pg_logical_emit_message(false, 'sequin:transaction_annotations.set', '{"username": "stray"}');
        SELECT audit_annotate(username => 'eve'); INSERT INTO t VALUES (5, 'eve'); SELECT audit_annotate_clear(); INSERT INTO t VALUES (6, NULL); COMMIT""")
    source.run("INSERT INTO t VALUES (7, NULL)")
    capture(source)
    assert source.rows("SELECT username, new_values ->> 'who' FROM audit_logs ORDER BY commit_lsn, commit_idx") == [
        (None, None), ("ada", "ada"), ("ada", "ada"), ("eve", "eve"), (None, None), (None, None)]
    assert source.value("SELECT metadata::text FROM audit_logs WHERE record_id = '2'") == '{"n": 0.10}'


def test_pending_changes_are_shown_and_not_consumed(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY)")
    setting(enabled="off")
    until(lambda: source.value("SHOW audit_cdc.capture_enabled") == "off")
    begin(source)
    source.run("INSERT INTO t VALUES (1), (2)")
    shown = lambda: source.rows("SELECT c ->> 'action', c #>> '{record,id}' FROM audit_pending_changes() AS c")  # noqa: E731
    assert shown() == [("insert", "1"), ("insert", "2")] == shown()
    assert source.value("SELECT count(*) FROM audit_logs") == 0
    assert capture(source) == 2 and shown() == []


def test_stop_takes_what_is_pending_and_the_slot_along(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY)")
    publish(source)
    source.run("SELECT audit_capture_start('audited', 'of_my_own')")
    assert slot(source, "slot_name") == [("of_my_own",)]
    source.run("INSERT INTO t VALUES (1)")
    source.run("CALL audit_capture_stop()")
    source.run("INSERT INTO t VALUES (2)")
    assert source.value("SELECT string_agg(record_id, ',') FROM audit_logs") == "1"
    assert slot(source) == [] and status(source) == []
    assert source.value("SELECT audit_cdc_internal.capture_worker()") is None
    source.run("SELECT audit_capture_start('audited')")
    source.run("INSERT INTO t VALUES (3)")
    capture(source)
    assert source.value("SELECT string_agg(record_id, ',' ORDER BY id) FROM audit_logs") == "1,3"


def test_what_is_refused(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
    assert code(source, "SELECT audit_capture_start(NULL)") == "22004"
    assert code(source, "SELECT audit_capture_start('no such publication')") == "42704"
    assert code(source, "CALL audit_capture()") == "55000"
    assert code(source, "CALL audit_capture_stop()") == "55000"
    assert code(source, "CALL audit_backfill('t')") == "55000"
    source.run("SELECT audit_capture_start('p')")
    assert code(source, "SELECT audit_capture_start('p')") == "55000"
    assert code(source, "BEGIN; CALL audit_capture(); COMMIT") == "25001"
    for sql in ("SELECT audit_capture_start('p')", "CALL audit_capture()", "CALL audit_capture_stop()", "CALL audit_backfill('t')"):
        assert code(source, "SET ROLE audit_cdc_reader; " + sql) == "42501", sql


def test_an_admin_captures_without_other_rights(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE PUBLICATION p FOR TABLE t")
    admin = source.connect()
    run = lambda sql: admin.cursor().execute(sql)  # noqa: E731
    run("SET SESSION AUTHORIZATION DEFAULT; SET ROLE audit_cdc_admin")
    run("SELECT audit_capture_start('p')")
    run("CALL audit_backfill('t')")
    source.run("INSERT INTO t VALUES (2)")
    run("CALL audit_capture()")
    assert source.rows("SELECT action, record_id FROM audit_logs ORDER BY id") == [("read", "1"), ("complete", None), ("insert", "2")]
    run("CALL audit_capture_stop()")
    assert slot(source) == []


def test_the_corpus_is_in_the_log_as_its_true_rows_are(source):
    """Sequin's own workload, run live: what the log holds, read back through audit_row, is what the source had, in every column."""
    from test_pending_changes import TRUTH, identifier, in_order
    connection = source.connect(options=SETTINGS)
    source.run("CREATE SCHEMA truth")
    xml = source.psql(text="SELECT '<a/>'::xml").returncode == 0  # not every build has it
    begin(source)
    for file in ("schema.sql", "transactions.sql"):
        text = (CORPUS / file).read_text()
        done = source.psql(text=text if xml else text.replace("c_xml xml,", "c_xml text,"))
        assert done.returncode == 0, done.stderr
    capture(source)
    assert source.value("SELECT count(*) FROM audit_rejects") == 0
    nul = source.rows("SELECT exact_values -> 'new' ->> 'c_json' FROM audit_logs WHERE table_name = 't_json_nul' AND action = 'insert' ORDER BY commit_idx")
    assert nul == [(row["new"]["c_json"] if "\\u0000" in row["new"]["c_json"] else None,) for row in map(json.loads, lines("source_rows_nul.jsonl")) if row["action"] == "insert"]
    found = source.rows("""SELECT commit_lsn, table_schema, table_name, coalesce(record_pks, '{}'), action, commit_idx, id FROM audit_logs
        WHERE action <> 'truncate' AND table_name <> 't_json_nul' ORDER BY commit_lsn, commit_idx""")
    # what was noted of DDL takes places of its own, which Sequin's messages do not know
    ddl = source.rows("SELECT commit_lsn, commit_idx FROM audit_cdc_internal.schema_change_positions")
    places = [idx - sum(lsn == commit_lsn and place < idx for lsn, place in ddl) for commit_lsn, _, _, _, _, idx, _ in found]
    assert places == [truth["commit_idx"] for truth in TRUTH] and len(TRUTH) == 339
    found = in_order(found, lambda row: (row[0], row[2], row[3]))
    truths = in_order(TRUTH, lambda truth: (truth["commit_lsn"], truth["leaf"].split(".")[-1].strip('"'), truth["record_pks"]))
    layouts, compared, lost_by_sequin = {}, 0, 0
    for (_, schema, _, _, action, _, id_), truth in zip(found, truths):
        assert (action, schema) == (truth["action"], truth["schema"]), truth["n"]
        types = {name: type_ if xml else type_.replace("xml", "text") for name, type_ in truth["types"].items()}
        layout = layouts.setdefault(json.dumps(types), f"truth.t{len(layouts)}")
        if layout == f"truth.t{len(layouts) - 1}":
            source.run(f"DROP TYPE IF EXISTS {layout}; CREATE TYPE {layout} AS (" + ", ".join(f"{identifier(n)} {t}" for n, t in types.items()) + ")")
        written = "ARRAY[" + ", ".join(f"CASE WHEN r.{identifier(n)} IS NOT NULL OR r.{identifier(n)} IS DISTINCT FROM NULL THEN format('%%s', r.{identifier(n)}) END" for n in types) + "]"
        after = f"audit_row(NULL::{layout}, coalesce(l.new_values, l.old_values), l.unknown_columns, l.exact_values -> CASE l.action WHEN 'delete' THEN 'old' ELSE 'new' END)"
        before = f"audit_row({after}, l.old_values, l.unknown_old_columns, l.exact_values -> 'old')"
        sides = {"insert": [("new", after)], "update": [("new", after), ("old", before)], "delete": [("old", after)]}[action]
        for side, row in sides:
            unknown, values = source.rows(f"SELECT l.unknown_{'old_' if side == 'old' else ''}columns, {written} FROM audit_logs AS l, {row} AS r WHERE l.id = %s",
                                            id_, connection=connection)[0]
            for name, type_, value in zip(types, types.values(), values):
                true, mark = truth[side][name], (truth.get(f"{side}_not_exact") or {}).get(name)
                compared, lost_by_sequin = compared + 1, lost_by_sequin + (mark in ("lossy", "uncastable"))
                if name in unknown:  # the stream does not have it either: replica identity, TOAST, generated columns before 18
                    assert value is None, (truth["n"], side, name)
                else:
                    assert value == true or mark == "absent", (truth["n"], side, name, type_, value, true)
    assert compared > 3500 and lost_by_sequin > 100, (compared, lost_by_sequin)
