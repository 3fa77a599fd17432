"""audit_backfill closes gaps: it waits for older writers, reads what was moved again, and says which records are gone."""

import random
import subprocess
import threading
import time

import pytest
from capture_helpers import capture, captured, publish, source, start, stop, table  # noqa: F401
from conftest import admin, batch, change, in_threads, server, until
from fault_helpers import stop_fast
from test_backfill import ID, backfill, interrupted, reads
from test_capture import begin, code

GAP = "SELECT audit_cdc_internal.{}"


def progress(db, columns):
    return db.rows(f"SELECT {columns} FROM audit_backfills WHERE backfill_id = %s ORDER BY table_name::text", ID)


def waiting(db, name):
    """A backfill in a thread, that has looked for whom it waits, and what it returned."""
    found = []
    thread = threading.Thread(daemon=True, target=lambda: found.append(backfill(db, name, ID)))
    thread.start()
    until(lambda: not thread.is_alive() or db.rows("SELECT FROM audit_cdc_internal.backfills WHERE writers IS NOT NULL"))
    return thread, found


def note_gap(db, relation="t", reason="test"):
    db.run(GAP.format("note_gap(%s::regclass, %s, pg_current_wal_insert_lsn(), clock_timestamp())"), relation, reason)


def end_gap(db, relation="t", reason="test"):
    db.run(GAP.format("end_gaps(%s::regclass, ARRAY[%s], pg_current_wal_insert_lsn())"), relation, reason)


def as_of(db, name="t", **more):
    """Rows, and why others are not known."""
    named = "".join(f", {option} => %s" for option in more)
    rows = [row for (row,) in db.rows(f"SELECT audit_as_of(%s{named})", name, *more.values())]
    unknown = dict(db.rows(f"SELECT record_id, reason FROM audit_as_of_unknown(%s{named})", name, *more.values()))
    return sorted(rows, key=str), unknown


def completes(db, columns="table_name"):
    return db.rows(f"SELECT {columns} FROM audit_logs WHERE action = 'complete' ORDER BY id")


# who has written before the table was published

@pytest.mark.parametrize("write", ["INSERT INTO u VALUES (2, 'old')", "UPDATE u SET v = 'old' WHERE id = 1", "SAVEPOINT s; DELETE FROM u; RELEASE s"])
def test_it_waits_for_who_has_written_before_the_table_was_published(source, write):
    table(source)
    table(source, "u")
    source.run("INSERT INTO u VALUES (1, 'a')")
    begin(source, "TABLE t")
    older = source.connect()
    older.autocommit = False
    older.cursor().execute(write)
    source.run("ALTER PUBLICATION audited ADD TABLE u")
    thread, found = waiting(source, "u")
    assert thread.is_alive() and reads(source) == [] and progress(source, "began_lsn") == [(None,)]
    older.commit()
    thread.join(30)
    assert found == [source.value("SELECT count(*) FROM u")]
    assert as_of(source, "u") == ([row for (row,) in source.rows("SELECT to_jsonb(u) FROM u ORDER BY id")], {})


def test_it_says_for_whom_it_waits(source):
    table(source)
    begin(source)
    older = source.connect()
    older.autocommit = False
    older.cursor().execute("INSERT INTO t VALUES (1, 'a')")
    psql = subprocess.Popen(["psql", "-X", "-d", source.name, "-c", "CALL audit_backfill('t')"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    said = next(line for line in psql.stderr if "waits for transactions" in line) + psql.stderr.readline()
    assert 'table "t"' in said and f"pid {older.info.backend_pid}." in said
    older.rollback()
    assert psql.wait(30) == 0


def test_it_waits_for_nobody_else(source):
    """Readers, who has written to another table, and who writes only from now on."""
    table(source)
    table(source, "u")
    source.run("INSERT INTO u VALUES (1, 'a')")
    begin(source)
    others = [source.connect() for _ in range(3)]
    for other, sql in zip(others, ("SELECT * FROM u", "INSERT INTO t VALUES (1, 'x')", "LOCK TABLE u IN ROW EXCLUSIVE MODE")):
        other.autocommit = False
        other.cursor().execute(sql)
    assert backfill(source, "u") == 1
    for other in others:
        other.rollback()


@pytest.fixture
def two_phases(source):
    admin("ALTER SYSTEM SET max_prepared_transactions = 5")
    stop_fast()
    server("start")
    yield source
    for gid, in source.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
        source.run(f"ROLLBACK PREPARED '{gid}'")
    admin("ALTER SYSTEM RESET max_prepared_transactions")
    stop_fast()
    server("start")


def test_it_waits_for_a_prepared_transaction(two_phases):
    source = two_phases
    table(source)
    table(source, "u")
    begin(source, "TABLE t")
    older = source.connect()
    for statement in ("BEGIN", "INSERT INTO u VALUES (1, 'old')"):
        older.cursor().execute(statement)
    source.run("ALTER PUBLICATION audited ADD TABLE u")
    thread, found = waiting(source, "u")
    older.cursor().execute("PREPARE TRANSACTION 'backfill_gaps'")
    assert thread.is_alive() and reads(source) == []
    source.run("COMMIT PREPARED 'backfill_gaps'")
    thread.join(30)
    assert found == [1]
    assert as_of(source, "u") == ([{"id": 1, "v": "old"}], {})


@pytest.mark.parametrize("via_root", ["true", "false"])
def test_it_waits_for_writers_of_a_partition(source, via_root):
    source.run("""CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (1) TO (10);
        CREATE TABLE t (id int PRIMARY KEY)""")
    source.run(f"CREATE PUBLICATION audited FOR TABLE t WITH (publish_via_partition_root = {via_root})")
    source.run("SELECT audit_capture_start('audited')")
    older = source.connect()
    older.autocommit = False
    older.cursor().execute("INSERT INTO p_1 VALUES (1)")
    source.run("ALTER PUBLICATION audited ADD TABLE p")
    thread, found = waiting(source, "p")
    assert thread.is_alive() and reads(source) == []
    older.commit()
    thread.join(30)
    assert found == [1]
    assert completes(source) == [("p" if via_root == "true" else "p_1",)]


# rows that are moved while they are read

@pytest.mark.parametrize("key", ["", "PRIMARY KEY"])
@pytest.mark.parametrize("rewrite", ["VACUUM FULL t", "ALTER TABLE t ALTER v TYPE bigint USING v * 10", "TRUNCATE t; INSERT INTO t SELECT i, 7 FROM generate_series(1, 3000) i"])
def test_a_rewrite_lets_it_begin_again(source, key, rewrite):
    source.run(f"CREATE TABLE t (id int {key}, v int); ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t SET (autovacuum_enabled = off)")
    source.run("INSERT INTO t SELECT i, i FROM generate_series(1, 9000) i")
    begin(source)
    interrupted(source, "'t', batch_size => 300", 2000)
    source.run("DELETE FROM t WHERE id % 3 > 0 AND id < 8000")
    source.run(rewrite) if "VACUUM" in rewrite else [source.run(sql) for sql in rewrite.split("; ")]
    before = source.value("SELECT max(id) FROM audit_logs WHERE action = 'read'")
    assert backfill(source, "t", ID, batch_size=300) == source.value("SELECT count(*) FROM t")
    assert source.rows("SELECT (new_values ->> 'id')::int, (new_values ->> 'v')::int FROM audit_logs WHERE action = 'read' AND id > %s ORDER BY 1", before) == source.rows("SELECT id, v::int FROM t ORDER BY 1")
    assert progress(source, "restarts, finished_at IS NOT NULL") == [(1, True)]
    if key:
        capture(source)
        assert as_of(source)[0] == sorted((row for (row,) in source.rows("SELECT to_jsonb(t) FROM t")), key=str) and as_of(source)[1] == {}


@pytest.mark.parametrize("alter", ["ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (v)", "ALTER TABLE t RENAME id TO number", "ALTER PUBLICATION audited SET TABLE t WHERE (id > 0)"])
def test_another_key_name_or_filter_lets_it_begin_again(source, alter):
    source.run("CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t SELECT i, 10000 - i FROM generate_series(1, 9000) i")
    begin(source, "TABLE t")
    interrupted(source, "'t', batch_size => 300", 2000)
    source.run(alter)
    assert backfill(source, "t", ID) == 9000
    assert progress(source, "restarts") == [(1,)]


def test_a_keyless_partitioned_table_is_read_whole(source):
    """Under the name of the root, whose partitions have rows in the same places."""
    source.run("""CREATE TABLE p (id int, v text) PARTITION BY LIST (id); CREATE TABLE p_1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p_2 PARTITION OF p FOR VALUES IN (2);
        ALTER TABLE p REPLICA IDENTITY FULL; ALTER TABLE p_1 REPLICA IDENTITY FULL; ALTER TABLE p_2 REPLICA IDENTITY FULL;
        INSERT INTO p SELECT 1 + i % 2, repeat('x', 500) FROM generate_series(1, 3000) i""")
    source.run("CREATE PUBLICATION audited FOR TABLE p (v) WITH (publish_via_partition_root = true)" if source.connect().server_version < 150000
               else "CREATE PUBLICATION audited FOR TABLE p WITH (publish_via_partition_root = true)")
    source.run("SELECT audit_capture_start('audited')")
    assert backfill(source, "p", batch_size=100) == 3000 == len(reads(source))
    assert completes(source) == []  # rows without key are no records


def test_a_partition_that_comes_without_rows_changes_nothing_and_one_with_rows_does(source):
    source.run("""CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (1000) TO (20000);
        INSERT INTO p SELECT generate_series(1000, 9999)""")
    source.run("CREATE PUBLICATION audited FOR TABLE p WITH (publish_via_partition_root = true)")
    source.run("SELECT audit_capture_start('audited')")
    interrupted(source, "'p', batch_size => 300", 1000)
    source.run("CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (20000) TO (30000)")
    source.run("SELECT audit_cdc_internal.backfill_batch(%s, 'p'::regclass, 10)", ID)
    assert progress(source, "restarts, complete_lsn") == [(0, None)]
    source.run("CREATE TABLE p_0 (id int PRIMARY KEY); INSERT INTO p_0 SELECT generate_series(1, 50); ALTER TABLE p ATTACH PARTITION p_0 FOR VALUES FROM (0) TO (1000)")
    assert backfill(source, "p", ID) == 9050
    assert progress(source, "restarts") == [(1,)]


# records that are gone

def gone(db):
    """Of three rows one is deleted and one changed while nothing is captured."""
    table(db)
    publish(db)
    start(db)
    db.run("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    stop(db)
    moment = db.value("SELECT clock_timestamp()")
    db.run("DELETE FROM t WHERE id = 2; UPDATE t SET v = 'd' WHERE id = 3")
    return moment


def test_what_it_does_not_meet_is_gone(source):
    moment = gone(source)
    start(source)
    assert backfill(source, "t", ID) == 2
    assert as_of(source) == ([{"id": 1, "v": "a"}, {"id": 3, "v": "d"}], {})
    assert source.rows("SELECT action, old_row, new_row, note FROM audit_history('t', '2')") == [
        ("insert", None, {"id": 2, "v": "b"}, None),
        ("complete", {"id": 2, "v": "b"}, None, "gone: a backfill did not meet it, and the log does not tell how it ended")]
    # what is there goes on
    assert source.rows("SELECT action, note FROM audit_history('t', '1')") == [("insert", None), ("read", None)]
    assert [action for action, in source.rows("SELECT action FROM audit_history('t', '3')")] == ["insert", "read"]
    # when it went nobody knows
    assert as_of(source, at=moment)[1]["2"] == "a gap: a later backfill did not meet it"
    # once, and a new row of this key is another life
    assert backfill(source, "t", ID) == 0
    began = progress(source, "(began_lsn - '0/0')::bigint")[0][0]
    assert completes(source, "table_name, record_id, record_pks, origin, old_values, new_values, username, commit_idx, metadata") == [
        ("t", None, None, "backfill", None, None, None, None, {"backfill_id": ID, "began_lsn": began})]
    assert source.value("SELECT (complete_lsn - '0/0')::bigint = commit_lsn FROM audit_backfills, audit_logs WHERE action = 'complete'")
    source.run("INSERT INTO t VALUES (2, 'new')")
    capture(source)
    assert [action for action, in source.rows("SELECT action FROM audit_history('t', '2')")] == ["insert", "complete", "insert"]
    assert as_of(source, key="2") == ([{"id": 2, "v": "new"}], {})
    assert backfill(source, "t") == 3
    assert as_of(source)[1] == {} and len(as_of(source)[0]) == 3


def test_before_a_gap_that_is_known_the_record_is_there(source):
    moment = gone(source)
    inserted = source.value("SELECT max(commit_lsn) FROM audit_logs")
    source.run("SELECT audit_cdc_internal.note_gap(NULL, 'stopped', '0/0'::pg_lsn + %s + 8, %s - interval '1 ms')", inserted, moment)
    start(source)
    source.run("SELECT audit_cdc_internal.end_gaps(NULL, '{stopped}', pg_current_wal_insert_lsn())")
    assert source.rows("SELECT reason, is_open FROM audit_gaps WHERE reason = 'stopped'") == [("stopped", True)]
    backfill(source, "t", ID)
    whole = [{"id": 1, "v": "a"}, {"id": 2, "v": "b"}]
    inserted_at = source.value("SELECT max(commit_timestamp) FROM audit_logs WHERE action = 'insert'")
    assert [row for row in as_of(source, at=inserted_at)[0] if row["id"] < 3] == whole and "2" not in as_of(source, at=inserted_at)[1]
    assert "2" not in as_of(source, lsn=f"{inserted >> 32:X}/{inserted & 0xffffffff:X}")[1]
    assert "2" in as_of(source, at=moment)[1]  # within it
    assert source.rows("SELECT is_open, open_tables, closed_by::text[] FROM audit_gaps WHERE reason = 'stopped'") == [(False, None, [ID])]


def test_undo_does_not_go_beyond_it(source):
    moment = gone(source)
    start(source)
    backfill(source, "t")
    number = completes(source, "id")[0][0]
    for what in (f"table_name => 't', key => '2', at => '{moment}'", f"change => {number}"):
        for way in ("undo", "redo"):
            steps = source.rows(f"SELECT statement, problem FROM audit_{way}_sql({what})")
            assert steps and all(statement is None and "backfill did not meet it" in problem for statement, problem in steps), (way, what, steps)
    assert source.rows("SELECT id FROM t ORDER BY id") == [(1,), (3,)]


def test_replay_deletes_what_is_gone(source):
    gone(source)
    start(source)
    backfill(source, "t")
    statements = [statement for statement, in source.rows("SELECT statement FROM audit_replay_sql('t')")]
    source.run("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.t (LIKE public.t INCLUDING ALL)")
    source.run("".join(statement.replace("public.t", "elsewhere.t") for statement in statements))
    assert source.rows("SELECT * FROM elsewhere.t ORDER BY id") == source.rows("SELECT * FROM t ORDER BY id")


def test_others_writing_it_ends_nobody_who_is_there(source):
    """As-of is the table, whatever was inserted, moved, updated and deleted while backfills were read, after a stop in which rows went."""
    table(source, columns="id int PRIMARY KEY, v int")
    source.run("ALTER TABLE t SET (autovacuum_enabled = off)")
    publish(source)
    start(source)
    source.run("INSERT INTO t SELECT i, 0 FROM generate_series(1, 300) i")
    stop(source)
    source.run("DELETE FROM t WHERE id % 7 = 0; UPDATE t SET id = id + 1000 WHERE id % 11 = 0")
    start(source)
    ready = threading.Event()

    def writer(seed):
        chance = random.Random(seed)
        cursor = source.connect().cursor()
        while not ready.is_set():
            one, two = chance.randrange(1, 400) * 3 + seed, chance.randrange(1, 400) * 3 + seed
            cursor.execute(chance.choice([f"INSERT INTO t VALUES ({one}, 1) ON CONFLICT DO NOTHING", f"DELETE FROM t WHERE id = {one}", f"UPDATE t SET v = v + 1 WHERE id = {one}",
                                          f"UPDATE t SET id = {two} WHERE id = {one} AND NOT EXISTS (SELECT FROM t WHERE id = {two})"]))

    def reader():
        try:
            for _ in range(3):
                backfill(source, "t", batch_size=20)
        finally:
            ready.set()
    in_threads([lambda seed=seed: writer(seed) for seed in range(3)] + [reader])
    capture(source)
    assert len(completes(source)) == 3
    there = sorted((row for (row,) in source.rows("SELECT to_jsonb(t) FROM t")), key=str)
    rows, unknown = as_of(source)
    # a row that was given the key of one that went in the gap, before a backfill could tell: two may have had it
    assert set(unknown.values()) <= {"two rows had this key at a time"}
    assert rows == [row for row in there if str(row["id"]) not in unknown]
    backfill(source, "t")
    assert as_of(source) == (there, {})


def test_a_delivered_one_ends_records_of_its_source(db):
    """Of any shape: what has no began_lsn that is a number ends nothing."""
    def complete(second, lsn, metadata):
        return change(None, lsn=lsn, action="complete", key=f"complete {lsn}", time=f"2026-03-01T09:00:{second:02}.000000Z", pks=None or [], annotations={"metadata": metadata})

    def insert(second, lsn, id_):
        return change(0, lsn=lsn, time=f"2026-03-01T09:00:{second:02}.000000Z", pks=[str(id_)], record={"id": id_})
    db.run("CREATE TABLE seen (id bigint PRIMARY KEY, action text)")
    db.run("SELECT audit_create_projection('seen', 'SELECT id, action FROM audit_new_logs')")
    db.ingest(batch([insert(1, 1000, 1), insert(3, 3000, 2)]))
    for place, metadata in enumerate([None, {}, [], {"began_lsn": "2000"}, {"began_lsn": None}, {"began_lsn": -1}, {"began_lsn": 500.5}]):
        assert db.ingest(batch([complete(4, 4000 + place, metadata)])) == (1, 1, 0, 0)
    assert as_of(db, "orders") == ([{"id": 1}, {"id": 2}], {})
    assert db.ingest(batch([complete(5, 5000, {"began_lsn": 2000})] * 2)) == (2, 1, 1, 0)
    assert as_of(db, "orders") == ([{"id": 2}], {})
    assert db.ingest(batch([complete(6, 6000, {"began_lsn": 1e300})])) == (1, 1, 0, 0)
    assert as_of(db, "orders") == ([], {})
    # rules of projections have never seen it
    db.run("SELECT audit_rebuild_projection('seen')")
    assert db.rows("SELECT action, count(*) FROM seen GROUP BY 1") == [("insert", 2)]


# gaps

def test_gaps_that_ended_before_are_closed(source):
    table(source)
    table(source, "u")
    source.run("INSERT INTO t VALUES (1, 'a')")
    begin(source)
    for relation in ("t", "u", None):
        note_gap(source, relation)
        end_gap(source, relation)
    note_gap(source, "t", "later")
    gaps = "SELECT table_name, reason, is_open, open_tables, closed_by::text[] FROM audit_gaps WHERE reason IN ('test', 'later') ORDER BY gap_id"
    backfill(source, "t", ID)
    assert source.rows(gaps) == [("t", "test", False, None, [ID]), ("u", "test", True, ["public.u"], None), (None, "test", True, ["public.u"], [ID]), ("t", "later", True, ["public.t"], None)]
    # while a gap goes on, what was not met may be there
    assert completes(source) == [] and progress(source, "finished_at IS NOT NULL") == [(True,)]
    end_gap(source, "t", "later")
    assert backfill(source, "t", ID) == 0
    assert source.rows(gaps)[3][2]
    source.run("CALL audit_backfill()")
    assert [is_open for _, _, is_open, _, _ in source.rows(gaps)] == [False] * 4
    assert completes(source) == [("t",), ("u",)]


@pytest.mark.parametrize("relation", ["t", None])
def test_one_that_began_before_the_end_of_a_gap_begins_again(source, relation):
    source.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 9000)")
    begin(source)
    interrupted(source, "'t', batch_size => 300", 2000)
    note_gap(source, relation)
    end_gap(source, relation)
    assert backfill(source, "t", ID) == 9000
    assert source.rows("SELECT b.restarts, b.began_lsn >= g.to_lsn, g.is_open FROM audit_backfills AS b, audit_gaps AS g WHERE g.reason = 'test'") == [(1, True, False)]


def test_one_that_is_all_read_when_a_gap_ends_begins_again(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 30)")
    begin(source)
    source.run("SELECT audit_cdc_internal.begin_backfill('{t}', %s)", ID)
    source.run("SELECT audit_cdc_internal.begin_table(%s, 't'::regclass)", ID)
    source.run("SELECT audit_cdc_internal.backfill_batch(%s, 't'::regclass, 1000)", ID)
    note_gap(source)
    end_gap(source)
    assert backfill(source, "t", ID) == 30
    assert progress(source, "restarts, rows_read::int") == [(1, 60)] and completes(source) == [("t",)]


def test_one_beside_which_capture_was_started_anew_begins_again(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 9000)")
    begin(source)
    interrupted(source, "'t', batch_size => 300", 2000)
    stop(source)
    source.run("DELETE FROM t WHERE id < 100")
    source.run("SELECT audit_capture_start('audited')")
    assert backfill(source, "t", ID) == 8901
    assert progress(source, "restarts") == [(1,)]
    assert len(as_of(source)[0]) == 8901 and as_of(source)[1] == {}


def test_it_is_complete_only_when_what_came_meanwhile_is_captured(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 30)")
    begin(source)
    source.run("ALTER SYSTEM SET audit_cdc.capture_enabled = off")
    admin("SELECT pg_reload_conf()")
    until(lambda: source.value("SHOW audit_cdc.capture_enabled") == "off")
    time.sleep(0.2)
    source.run("SELECT audit_cdc_internal.begin_backfill('{t}', %s)", ID)
    source.run("SELECT audit_cdc_internal.begin_table(%s, 't'::regclass)", ID)
    source.run("SELECT audit_cdc_internal.backfill_batch(%s, 't'::regclass, 1000)", ID)
    assert code(source, "SELECT audit_cdc_internal.complete_backfill(%s, 't'::regclass)", ID) == "55000"
    source.run("INSERT INTO t VALUES (31)")
    assert backfill(source, "t", ID) == 0
    assert source.rows("SELECT action FROM audit_logs WHERE action <> 'read' ORDER BY id") == [("insert",), ("complete",)]


# several tables

def test_several_tables_in_one(source):
    for name in ("a", "b", "c"):
        source.run(f"CREATE TABLE {name} (id int PRIMARY KEY); INSERT INTO {name} SELECT generate_series(1, 6000)")
    begin(source)
    source.rows("CALL audit_backfill(backfill_id => %s, tables => '{a,b}')", ID)
    assert progress(source, "table_name::text, rows_read::int, restarts, finished_at IS NOT NULL") == [("a", 6000, 0, True), ("b", 6000, 0, True)]
    assert completes(source) == [("a",), ("b",)]
    assert source.rows("CALL audit_backfill()")[0][1] == 18000
    assert completes(source) == [(name,) for name in ("a", "b", "a", "b", "c")]


def test_all_of_them_are_resumed_by_its_id(source):
    for name in ("a", "b"):
        source.run(f"CREATE TABLE {name} (id int PRIMARY KEY); INSERT INTO {name} SELECT generate_series(1, 9000)")
    begin(source)
    interrupted(source, "tables => '{a,b}', batch_size => 300", 1000)
    source.rows("CALL audit_backfill(backfill_id => %s)", ID)
    assert progress(source, "table_name::text, rows_read::int, finished_at IS NOT NULL") == [("a", 9000, True), ("b", 9000, True)]
    assert completes(source) == [("a",), ("b",)]
    assert source.rows("SELECT count(*)::int, count(DISTINCT (table_name, record_id))::int FROM audit_logs WHERE action = 'read'") == [(18000, 18000)]
