"""Capture under kill -9 of worker, backends and postmaster: the log is the source's own record of truth, no more, no less."""

import itertools
import os
import pathlib
import random
import signal
import subprocess
import threading
import time

import psycopg2
import pytest
from capture_helpers import LONG, capture, captured, follows, logged, paused, publish, setting, slot, source, start, status, table, worker
from conftest import admin, in_threads, server, until
from fault_helpers import alive, answers, kill, kill_backend, kill_postmaster, processes, start_after_crash, stop_fast

ENOUGH = 200_000

# Each change as its own transaction saw it. Changes of one row are numbered in the order of their commits: the row is locked in between.
TRUTH = """
    CREATE TABLE truth (n bigserial PRIMARY KEY, xid xid8, name text, op text, old jsonb, new jsonb);
    CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        INSERT INTO truth (xid, name, op, old, new) VALUES (pg_current_xact_id(), TG_TABLE_NAME, lower(TG_OP),
          CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
        RETURN NULL;
      END $$"""
HOT = """
    CREATE TABLE {0} (id int PRIMARY KEY, n int, v text);
    ALTER TABLE {0} REPLICA IDENTITY FULL, ALTER v SET STORAGE EXTERNAL;
    CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON {0} FOR EACH ROW EXECUTE FUNCTION tell()"""

# one row a table at a time, the tables in one order: no deadlocks. A key changes its sign only, so a row can be followed.
WORKLOAD = r"""
    \set a random(1, 60)
    \set b random(1, 60)
    \set c random(1, 60)
    \set d random(1, 60)
    BEGIN;
    INSERT INTO hot_0 VALUES (:a, 0, 'é"\\') ON CONFLICT (id) DO UPDATE SET n = hot_0.n + 1, v = CASE WHEN random() < 0.5 THEN hot_0.v END;
    UPDATE hot_1 SET n = n + 1 WHERE id = :b;
    SAVEPOINT s;
    UPDATE hot_1 SET n = -1 WHERE id = :b;
    ROLLBACK TO s;
    UPDATE hot_2 SET id = -id WHERE id IN (:c, -:c);
    DELETE FROM hot_3 WHERE id = :d;
    INSERT INTO hot_3 VALUES (:d, :a, '');
    UPDATE hot_3 SET n = NULL WHERE id = :d;
    COMMIT;
    DELETE FROM hot_0 WHERE id = :d;
"""

# by table and row, one after the other
DIFFERENCES = """
    WITH truth AS (
      SELECT name, key, row_number() OVER (PARTITION BY name, key ORDER BY n) AS place, xid, op, old, new
      FROM truth, LATERAL (SELECT abs((coalesce(new, old) ->> 'id')::int) AS key) AS k),
    log AS (
      SELECT table_name AS name, key, row_number() OVER (PARTITION BY table_name, key ORDER BY commit_lsn, commit_idx) AS place,
             commit_lsn, action AS op, CASE action WHEN 'update' THEN new_values || old_values ELSE old_values END AS old, new_values AS new
      FROM audit_logs, LATERAL (SELECT abs((coalesce(new_values, old_values) ->> 'id')::int) AS key) AS k)
    SELECT truth, log FROM truth FULL JOIN log USING (name, key, place)
    WHERE (truth.op, truth.old, truth.new) IS DISTINCT FROM (log.op, log.old, log.new)
    LIMIT 5"""


@pytest.fixture
def hot(source):
    source.run(TRUTH)
    for n in range(4):
        source.run(HOT.format(f"hot_{n}"))
    publish(source, "TABLE hot_0, hot_1, hot_2, hot_3")
    start(source)
    # every tenth value is so large that an update that leaves it alone does not send it
    source.run("INSERT INTO hot_1 SELECT n, 0, CASE n % 10 WHEN 0 THEN repeat('large ', 500) END FROM generate_series(1, 60) AS n")
    source.run("INSERT INTO hot_2 SELECT n, 0, 'x' FROM generate_series(1, 60) AS n")
    return source


def pgbench(db, folder, done):
    """Until done. A client does not survive a crash of the server: others take its place."""
    script = folder / "workload.sql"
    script.write_text("\n".join(line.strip() for line in WORKLOAD.splitlines()))
    options = itertools.cycle([{}, {"PGOPTIONS": "-c synchronous_commit=off"}])
    while not done.is_set():
        run = subprocess.Popen(["pgbench", "-n", "-c", "4", "-j", "1", "-T", "600", "--max-tries", "0", "-f", str(script), db.name],
                               env={**os.environ, **next(options)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while run.poll() is None and not done.wait(0.05):
            pass
        run.terminate()
        run.wait()


@pytest.mark.once
def test_kill_9_of_worker_backends_and_postmaster(hot, tmp_path):
    chance = random.Random(7)
    done = threading.Event()
    happened = []

    def truths():
        try:
            return hot.value("SELECT last_value FROM truth_n_seq")
        except psycopg2.Error:
            return 0

    def kill_client():
        with_client = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'pgbench' AND state = 'active' LIMIT 1"
        kill_backend(hot, until(lambda: hot.rows(with_client, hot.name))[0][0])

    def kill_worker():
        kill_backend(hot, until(lambda: worker(hot, "state = 'active'")))

    faults = [kill_worker, kill_client, kill_postmaster]

    def saboteur():
        try:
            for number in range(4 * len(faults)):
                # at a random moment of the work, which goes on in between
                goal = max(truths(), ENOUGH * number // (4 * len(faults) + 1)) + chance.randint(500, 4_000)
                until(lambda: truths() >= goal, 600)
                until(lambda: worker(hot, "state = 'active'"))  # it is in the middle of something
                faults[number % len(faults)]()
                happened.append(number)
                until(lambda: answers(hot) and worker(hot))
            until(lambda: truths() >= ENOUGH and hot.value("SELECT count(*) FROM truth") >= ENOUGH, 600)  # a rollback leaves a hole
        finally:
            done.set()

    in_threads([saboteur, lambda: pgbench(hot, tmp_path, done)])
    assert len(happened) == 12
    capture(hot)
    count = hot.value("SELECT count(*) FROM truth")
    assert count >= ENOUGH
    hot.run("SET jit = off; ANALYZE truth")
    assert hot.rows(DIFFERENCES) == []
    assert hot.value("SELECT count(*) FROM audit_logs") == count
    assert hot.value("SELECT count(*) FROM audit_logs, jsonb_each(old_values) AS o WHERE action = 'update' AND o.value = new_values -> o.key") == 0
    assert hot.rows("SELECT * FROM audit_rejects") == []
    # one transaction of the source is one of the log
    assert hot.value("SELECT count(DISTINCT xid) FROM truth") == hot.value("SELECT count(DISTINCT commit_lsn) FROM audit_logs")
    assert status(hot, "changes") == [(count,)]
    follows(hot)


MANY = 300_000
MANY_ROWS = f"INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, {MANY}) AS n"


def private_megabytes(pid):
    found = dict(line.split(":") for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(found["RssAnon"].split()[0]) / 1024


def test_a_crash_takes_back_what_was_not_on_disk(captured):
    """A worker does not wait for the disk. Its slot, which is written to disk after each checkpoint, has not moved beyond."""
    setting(naptime=LONG, delay="1s")
    admin("ALTER SYSTEM SET wal_writer_delay = '10s'")
    admin("SELECT pg_reload_conf()")
    taken_back = changes = 0
    while taken_back < 3:
        assert changes < 20, "each time the commit was on disk before the crash"
        pid, connection = worker(captured), captured.connect()
        captured.run("CHECKPOINT")
        captured.run("INSERT INTO t VALUES (%s)", changes)
        changes += 1
        until(lambda: captured.value("SELECT count(*) FROM audit_logs", connection=connection) == changes)
        os.kill(pid, signal.SIGSTOP)  # else its next look brings it to disk
        taken_back += captured.value("SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()", connection=connection)
        kill_postmaster()
        until(lambda: worker(captured) not in (None, pid))
        until(lambda: logged(captured) == list(range(changes)))
    assert status(captured, "changes, open_gaps") == [(changes, 0)]


def test_the_slot_waits_for_synchronous_standbys(captured):
    """What a standby lacks must not be let go of: after a promotion the new primary reads the slot again."""
    db = captured
    local = db.connect(options="-c synchronous_commit=local")
    follows(db)
    db.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    db.run("SELECT pg_reload_conf()")
    try:
        until(lambda: db.value("SHOW synchronous_standby_names") == "nobody")
        db.rows("INSERT INTO t VALUES (1) RETURNING id", connection=local)
        inserted = db.value("SELECT pg_current_wal_lsn()")
        until(lambda: logged(db) == [1])
        until(lambda: worker(db, "wait_event = 'SyncRep'"))
        assert db.value("SELECT confirmed_flush_lsn < %s FROM pg_replication_slots WHERE database = current_database()", inserted)
    finally:
        db.run("ALTER SYSTEM RESET synchronous_standby_names")
        db.run("SELECT pg_reload_conf()")
    until(lambda: db.value("SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE database = current_database()", inserted))


def test_what_was_asked_for_is_on_disk(paused):
    for id_ in range(3):
        paused.run("INSERT INTO t VALUES (%s)", id_)
        run = paused.connect(options="-c synchronous_commit=off").cursor()
        run.execute("CALL audit_capture()")
        end = slot(paused)
        kill_postmaster()
        until(lambda: worker(paused))
        assert logged(paused) == list(range(id_ + 1)) and slot(paused) <= end


def test_a_large_transaction_is_whole_or_not_there(captured):
    """Although it has far more changes than capture takes at once otherwise."""
    setting(max_changes=1000)
    captured.run("INSERT INTO t VALUES (-1)")
    until(lambda: logged(captured) == [-1])
    pid = worker(captured)
    captured.run(MANY_ROWS)
    captured.run("INSERT INTO t VALUES (-2)")
    counts, megabytes = set(), []

    def is_there():
        counts.add(captured.value("SELECT count(*) FROM audit_logs WHERE record_id::int > 0"))
        megabytes.append(private_megabytes(pid))
        return max(counts) > 0

    until(is_there, 300)
    assert counts == {0, MANY} and len(megabytes) > 3
    end = captured.value("SELECT pg_current_wal_flush_lsn()")

    def is_behind_its_own_changes():
        """Which are decoded, too."""
        megabytes.append(private_megabytes(pid))
        return slot(captured, f"confirmed_flush_lsn >= '{end}'") == [(True,)]

    until(is_behind_its_own_changes, 300)
    assert max(megabytes) < 130, max(megabytes)
    until(lambda: captured.value("SELECT count(*) FROM audit_logs") == MANY + 2)
    assert worker(captured) == pid


def test_a_fast_shutdown_does_not_wait_for_a_large_transaction(captured):
    captured.run(MANY_ROWS)
    until(lambda: worker(captured, "state = 'active'"))
    assert stop_fast() < 20
    assert not (pathlib.Path(os.environ["AUDIT_DATA"]) / "postmaster.pid").exists()
    start_after_crash()
    assert captured.value("SELECT count(*) FROM audit_logs") == 0
    until(lambda: captured.value("SELECT count(*) FROM audit_logs") == MANY, 300)


class Slot:
    """The state of the slot, as it is on disk."""

    def __init__(self, db):
        self.file = pathlib.Path(os.environ["AUDIT_DATA"], "pg_replslot", slot(db, "slot_name")[0][0], "state")
        db.run("CHECKPOINT")
        self.bytes = self.file.read_bytes()

    def restore(self):
        self.file.write_bytes(self.bytes)  # keeps its owner


def test_a_crash_before_the_slot_is_advanced_delivers_again(paused):
    """As if the server crashed between our commit and the advance: the log has what the slot still holds."""
    table(paused, "p", "id int PRIMARY KEY, doc json")
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    before = Slot(paused)
    paused.run("INSERT INTO t VALUES (2), (3); UPDATE t SET id = 4, v = 'x' WHERE id = 2; DELETE FROM t WHERE id = 3; TRUNCATE t")
    paused.run("ALTER TABLE audit_cdc_internal.log ADD CHECK (new_values ->> 'doc' IS DISTINCT FROM 'poison')")
    paused.run("""INSERT INTO p VALUES (1, '"poison"'), (2, '{}')""")
    assert capture(paused) == 6
    log, told = paused.rows("SELECT * FROM audit_logs ORDER BY id"), status(paused, "changes, last_commit, last_commit_lsn")
    assert paused.rows("SELECT sqlstate, deliveries FROM audit_rejects") == [("23514", 1)] and len(log) == 7
    kill_postmaster(before.restore)
    assert capture(paused) == 0
    assert paused.rows("SELECT * FROM audit_logs ORDER BY id") == log
    assert paused.rows("SELECT sqlstate, deliveries FROM audit_rejects") == [("23514", 2)]  # so it was delivered again
    assert status(paused, "changes, last_commit, last_commit_lsn") == told and told[0][0] == 7
    paused.run("INSERT INTO t VALUES (9)")
    assert capture(paused) == 1 and logged(paused)[-1] == 9 and capture(paused) == 0 and paused.rows("SELECT audit_pending_changes()") == []


@pytest.mark.parametrize("ddl", ["DROP TABLE t", "ALTER TABLE t DROP CONSTRAINT t_pkey"])
def test_what_is_delivered_again_is_the_same_change_also_after_ddl(paused, ddl):
    before = Slot(paused)
    paused.run("INSERT INTO t VALUES (1)")
    assert capture(paused) == 1
    paused.run(ddl)
    kill_postmaster(before.restore)
    assert capture(paused) == 0
    assert paused.rows("SELECT sqlstate, reason FROM audit_rejects") == []


def test_no_worker_outlives_the_postmaster(captured):
    """It would keep the server from starting again."""
    pid = worker(captured)
    assert pid
    time.sleep(0.5)  # it sleeps by then; nothing depends on it
    kill(processes()[0])
    try:
        until(lambda: not alive(pid), 10)
    finally:
        kill(pid)
        until(lambda: not alive(pid))
        time.sleep(1)  # the others leave by themselves
        start_after_crash()


def test_what_a_pass_took_is_on_disk_before_its_slot_is(paused):
    """A session that does not wait for the disk captures, and the server crashes right after it."""
    paused.run("ALTER SYSTEM SET wal_writer_delay = '10s'")
    paused.run("SELECT pg_reload_conf()")
    for n in range(5):
        paused.run(f"INSERT INTO t VALUES ({n}, 'a')")
        paused.run("CHECKPOINT")  # the slot's next place is noted here
        paused.run(f"INSERT INTO t VALUES ({10 + n}, 'a')")
        session = paused.connect(options="-c synchronous_commit=off")
        session.cursor().execute("CALL audit_capture()")
        server("stop")
        server("start")
        capture(paused)
        assert paused.value("SELECT count(*) FROM audit_logs") == 2 * n + 2
