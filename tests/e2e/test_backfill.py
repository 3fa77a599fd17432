"""audit_backfill: the rows that are there, each exact at its position between the changes."""

import random
import threading
import time

import psycopg2
import pytest
from capture_helpers import capture, source, unseen_commit  # noqa: F401
from conftest import in_threads, until
from test_capture import begin, code

ID = "00000000-0000-4000-8000-000000000001"


def reads(db, columns="record_id, new_values"):
    """In the order of keys."""
    return db.rows(f"SELECT {columns} FROM audit_logs WHERE action = 'read' ORDER BY record_id, id")


def backfill(db, table, *arguments, **options):
    """How many rows."""
    named = "".join(f", {name} => {value}" for name, value in options.items())
    return db.rows(f"CALL audit_backfill('{table}'{''.join(', %s' for _ in arguments)}{named})", *arguments)[0][1]


def interrupted(db, arguments, wanted):
    """A backfill whose session ends after so many rows, between two batches: it gets the lock that each needs by turns."""
    gates = [db.connect(), db.connect()]
    for gate in gates:
        gate.autocommit = False
    reader = db.connect()
    pid = db.value("SELECT pg_backend_pid()", connection=reader)

    def close(gate):
        gate.cursor().execute("LOCK TABLE audit_cdc_internal.backfills IN ACCESS EXCLUSIVE MODE")

    def read():
        with pytest.raises(psycopg2.OperationalError):
            reader.cursor().execute(f"CALL audit_backfill({arguments}, backfill_id => '{ID}')")

    def waits(waiting):
        return db.rows("SELECT FROM pg_locks WHERE pid = %s AND relation = 'audit_cdc_internal.backfills'::regclass AND NOT granted", waiting)

    close(gates[0])
    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    until(lambda: waits(pid))
    while len(reads(db)) < wanted:
        closing = threading.Thread(target=close, args=gates[1:], daemon=True)
        closing.start()
        until(lambda: waits(gates[1].info.backend_pid))
        gates[0].commit()
        closing.join()
        gates.reverse()
        until(lambda: waits(pid))
    db.run(f"SELECT pg_terminate_backend({pid})")
    reading.join()
    for gate in gates:
        gate.close()


def test_rows_are_read_as_changes_are_source(source):
    """The same encoding, names and keys, so that a row has one image and one key."""
    source.run("""CREATE TABLE t (b int, a numeric(6,2), "or""der" interval, at timestamptz, tags text[], doc json, whole int GENERATED ALWAYS AS (b * 2) STORED, PRIMARY KEY (a, b));
        ALTER TABLE t REPLICA IDENTITY FULL""")
    begin(source)
    source.run("""INSERT INTO t VALUES (1, 1.50, '200:00:00.5', '2026-01-01 12:00:00.000001+02', '{a,NULL,"NULL"}', '{"n": 1.10}'), (2, 1.5, NULL, 'infinity', '{}', 'null')""")
    capture(source)
    assert backfill(source, "t") == 2
    columns = "record_id, record_pks, table_name, table_schema, database_id, replica_identity, new_values - 'whole'"
    assert reads(source, columns) == source.rows(f"SELECT {columns} FROM audit_logs WHERE action = 'insert' ORDER BY record_id, id")
    assert reads(source, "new_values ->> 'whole', unknown_columns, unknown_old_columns, old_values, commit_idx, username") == [(n, [], [], None, None, None) for n in ("2", "4")]
    assert source.value("SELECT bool_and(r.commit_lsn > i.commit_lsn AND r.commit_timestamp >= i.commit_timestamp) FROM audit_logs r, audit_logs i WHERE r.action = 'read' AND i.action = 'insert'")


@pytest.mark.parametrize("key, values", [
    ("id bigint PRIMARY KEY", "i - 50"), ("id text PRIMARY KEY", "'k' || i"), ("id citext PRIMARY KEY", "CASE WHEN i % 2 = 0 THEN 'K' ELSE 'k' END || i"),
    ("id uuid PRIMARY KEY", "md5(i::text)::uuid"), ("id float8 PRIMARY KEY", "i / 7.0"), ("id timestamptz PRIMARY KEY", "'2026-03-29 00:30:00+01'::timestamptz + i * interval '1 min 0.5 s'"),
    ("a int, b citext, c date, PRIMARY KEY (b, a, c)", "i % 3, 'x' || i % 5, '2026-01-01'::date + i"), ("a int, b text, PRIMARY KEY (b, a)", "i, 'x' || i % 4"),
    ("id int[] PRIMARY KEY", "ARRAY[i % 3, i]"), ("id mood PRIMARY KEY", "(ARRAY['sad','ok','happy']::mood[])[i] FROM generate_series(1, 3) AS i"),
    ("v int", "i % 7")])
def test_every_row_once_whatever_the_key(source, key, values):
    source.run(f"CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE TABLE t ({key})")
    source.run(f"INSERT INTO t SELECT {values}" + ("" if "FROM" in values else " FROM generate_series(1, 100) AS i"))
    begin(source)
    count = source.value("SELECT count(*) FROM t")
    assert backfill(source, "t", batch_size=7) == count == len(reads(source))
    if "PRIMARY" in key:
        assert source.value("SELECT count(DISTINCT record_id) FROM audit_logs") == count
    assert source.value("SELECT count(*) FROM audit_rejects") == 0


def test_every_row_once_of_a_key_without_overlaps(source):
    """Its index has other operators than ORDER BY: ranges that overlap, where a key is equal to it."""
    if source.connect().server_version < 180000:
        pytest.skip("a primary key WITHOUT OVERLAPS is of PostgreSQL 18")
    source.run("""CREATE TABLE t (a int4range, v int4range, PRIMARY KEY (a, v WITHOUT OVERLAPS));
        INSERT INTO t SELECT int4range(n, n + 100), int4range(1000 - n, 1001 - n) FROM generate_series(1, 300) AS n""")
    begin(source)
    assert backfill(source, "t", batch_size=10) == 300


def test_the_same_id_adds_nothing_and_a_new_one_a_new_set(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 30) i")
    begin(source)
    assert backfill(source, "t", ID, batch_size=10) == 30
    source.run("UPDATE t SET v = 1")
    assert backfill(source, "t", ID) == 0
    assert backfill(source, "t") == 30
    assert source.rows("SELECT new_values ->> 'v', count(*) FROM audit_logs WHERE action = 'read' GROUP BY 1 ORDER BY 1") == [("0", 30), ("1", 30)]
    assert source.rows("SELECT table_name::text, rows_read::int, rows_passed_over::int, finished_at IS NOT NULL FROM audit_backfills WHERE backfill_id = %s", ID) == [("t", 30, 0, True)]


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_interrupted_it_is_resumed(source, key):
    source.run(f"CREATE TABLE t (id int {key}); INSERT INTO t SELECT generate_series(1, 40000)")
    begin(source)
    interrupted(source, "'t', batch_size => 500", 2001)
    before = len(reads(source))
    assert 0 < before < 40000
    assert backfill(source, "t", ID) == 40000 - before
    assert source.rows("SELECT count(*), count(DISTINCT new_values) FROM audit_logs WHERE action = 'read'") == [(40000, 40000)]
    assert source.value("SELECT count(*) FROM audit_logs WHERE action = 'complete'") == (1 if key else 0)


def test_each_read_is_what_the_changes_before_it_say(source):
    """While others write: the last change before a read's position has the very image of it, and none is missing."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v int, pad text); ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t SET (autovacuum_enabled = off)")
    begin(source)
    source.run("INSERT INTO t SELECT i, 0, repeat('x', 50) FROM generate_series(1, 200) i")
    stop = time.monotonic() + 6
    found = []

    def writer(seed):
        chance = random.Random(seed)
        cursor = source.connect(options="-c synchronous_commit=" + chance.choice(["on", "off"])).cursor()
        while time.monotonic() < stop:
            one, two = sorted(chance.sample(range(1, 201), 2))
            cursor.execute(f"""BEGIN; UPDATE t SET v = v + 1 WHERE id IN ({one}, {two}); SAVEPOINT s; UPDATE t SET v = v + 1 WHERE id = {one}; RELEASE s;
                DELETE FROM t WHERE id = {1000 + one}; INSERT INTO t VALUES ({1000 + one}, {two}) ON CONFLICT DO NOTHING; COMMIT""")

    def reader():
        while time.monotonic() < stop:
            found.append(backfill(source, "t", batch_size=20))
    in_threads([lambda seed=seed: writer(seed) for seed in range(3)] + [reader])
    capture(source)
    assert sum(found) > 200
    wrong = source.rows("""SELECT r.record_id, r.new_values, c.action, c.new_values
        FROM audit_logs AS r LEFT JOIN LATERAL (
          SELECT * FROM audit_logs AS c WHERE c.record_id = r.record_id AND c.action <> 'read' AND c.commit_lsn <= r.commit_lsn ORDER BY c.commit_lsn DESC, c.commit_idx DESC LIMIT 1) AS c ON true
        WHERE r.action = 'read' AND (c.action IS NULL OR c.action = 'delete' OR c.new_values <> r.new_values) LIMIT 5""")
    assert wrong == []
    # what was passed over was changed by itself
    assert source.value("SELECT sum(rows_read)::int FROM audit_backfills") == sum(found) == len(reads(source))


def test_a_commit_that_is_written_and_not_seen_yet_is_waited_for(source):
    """A transaction waits for a standby: its commit is in the WAL, and nobody sees it. A read must not come after it with the row before it."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)")
    source.run(f"ALTER DATABASE {source.name} SET synchronous_commit = local")
    begin(source)
    source.run("SELECT audit_cdc_internal.begin_backfill('{t}', %s)", ID)
    source.run("SELECT audit_cdc_internal.begin_table(%s, 't'::regclass)", ID)  # it waits for nobody else any more
    with unseen_commit(source, "UPDATE t SET v = 1") as end:
        assert source.value("SELECT v FROM t") == 0
        reading = threading.Thread(daemon=True, target=lambda: backfill(source, "t", ID))
        reading.start()
        time.sleep(0.5)
        assert reads(source) == []
        end()
        reading.join(30)
        assert not reading.is_alive()
    capture(source)
    # the row was changed at the very moment: its change tells
    assert source.value("SELECT sum(rows_passed_over)::int FROM audit_backfills") == 1
    assert backfill(source, "t") == 1
    assert source.rows("SELECT action, new_values ->> 'v' FROM audit_logs ORDER BY commit_lsn") == [
        ("update", "1"), ("complete", None), ("read", "1"), ("complete", None)]


def test_what_the_publication_leaves_out_stays_out(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY, tenant int, secret text); INSERT INTO t VALUES (1, 7, 's'), (20, 7, 's'); CREATE TABLE other (id int)")
    begin(source, "TABLE t (id, tenant) WHERE (id < 10)")
    assert backfill(source, "t") == 1
    assert reads(source, "new_values") == [({"id": 1, "tenant": 7},)]
    assert code(source, "CALL audit_backfill('other')") == "55000"


@pytest.mark.parametrize("via_root, names", [("false", {"p_1": 3, "p_2": 4}), ("true", {"p": 7})])
def test_partitions_carry_the_name_that_their_changes_carry(source, via_root, names):
    source.run("""CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (1) TO (4);
        CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (4) TO (100); INSERT INTO p SELECT generate_series(1, 7)""")
    source.run(f"CREATE PUBLICATION audited FOR TABLE p WITH (publish_via_partition_root = {via_root})")
    source.run("SELECT audit_capture_start('audited')")
    assert backfill(source, "p", ID, batch_size=2) == 7 and backfill(source, "p", ID) == 0
    source.run("INSERT INTO p VALUES (50)")
    capture(source)
    count = "SELECT table_name, count(*)::int FROM audit_logs WHERE action = %s GROUP BY 1"
    assert dict(source.rows(count, "read")) == names
    assert dict(source.rows(count, "insert")).keys() <= names.keys()


def test_what_is_refused(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE target (id bigint PRIMARY KEY)")
    begin(source)
    source.run("SELECT audit_exclude_table('target', 'filled from the log'), audit_create_projection('target', 'SELECT id FROM audit_new_logs')")
    assert code(source, "CALL audit_backfill('t', batch_size => NULL)") == "22004"
    assert code(source, "CALL audit_backfill(tables => '{t,NULL}')") == "22004"
    assert code(source, "CALL audit_backfill(tables => '{t,target}')") == "55000"
    assert code(source, "CALL audit_backfill('t', batch_size => 0)") == "22023"
    assert code(source, "CALL audit_backfill('target')") == "55000"
    assert code(source, "CALL audit_backfill('audit_cdc_internal.rejects')") == "55000"
    assert code(source, "CALL audit_backfill('t')", options="-c default_transaction_isolation=repeatable\\ read") == "25001"
    assert code(source, "BEGIN; CALL audit_backfill('t'); COMMIT") == "25001"
