"""Relays, rebuilds and changes at once, kill -9 and crashes in the middle: in the end every entry is in the target once."""

import itertools
import os
import signal
import threading
import time

import psycopg2
import pytest
from conftest import batch, change, in_threads, until
from fault_helpers import answers, kill_backend, kill_postmaster
from projection_helpers import HELD_RULE, HOLD, RULE, every_entry_once, held, ids, log_ids, project, run, state, values

# no unique index: an entry that came twice would be seen
BIG = RULE.replace("AS value", "|| repeat('x', 500) AS value")


def body(number):
    """Every second one holds half of the one before again."""
    first = 40 * number
    return batch([change(n % 100, lsn=1000 + n // 100, time=f"2026-{1 + n // 100 % 3:02}-01T00:00:00.000000Z", record={"id": 1, "value": str(n)})
                  for n in range(first - (20 if number % 2 else 0), first + 40) if n >= 0])


class Relays:
    """Three relays that deliver batch after batch, each also what the others have, until they are told to stop."""

    def __init__(self, db, patient=False):
        self.db, self.patient = db, patient
        self.stop = threading.Event()
        self.numbers, self.delivered = itertools.count(), 0

    def relay(self):
        connection, before = None, None
        for number in self.numbers:
            for one in (number, before, number - 1):
                while one is not None and one >= 0:
                    try:
                        connection = connection or self.db.connect()
                        self.db.ingest(body(one), connection)
                        break
                    except psycopg2.Error:
                        if not self.patient:
                            raise
                        connection = None
                        time.sleep(0.02)
            before = number
            self.delivered += 1
            if self.stop.is_set():
                return

    def during(self, *works):
        """Runs works, each in a thread, while the relays deliver."""
        def all_works():
            try:
                in_threads(works)
            finally:
                self.stop.set()
        in_threads([all_works] + [self.relay] * 3)


def in_the_end(db, *targets):
    db.ingest(values("last", lsn=1))
    for target in targets:
        assert len(ids(db, target)) + state(db, target)[1] == len(log_ids(db))
        db.run("SELECT audit_retry_projection(%s)", target)  # an ingest takes what waits in steps
        every_entry_once(db, target)
        assert state(db, target) == (True, 0, 0)
    assert db.value("SELECT count(*) FROM audit_logs") == db.value("SELECT count(DISTINCT (commit_timestamp, commit_lsn, commit_idx)) FROM audit_logs")
    assert db.value("SELECT sum(rows)::int FROM audit_status()") == len(log_ids(db))
    assert db.rows("SELECT * FROM audit_rejects") == []


def again_and_again(relays, *calls, times=6, batches=60):
    """Each in its own transaction, on one connection."""
    def work():
        connection = relays.db.connect(options="-c statement_timeout=120s")  # one that never ends fails
        for round_ in itertools.count(1):
            for call in calls:
                run(connection, f"SELECT audit_{call}")
            if round_ >= times and relays.delivered >= batches:
                return
    return work


DISABLE, ENABLE, REBUILD, RETRY = (f"{call}_projection('feed')" for call in ("disable", "enable", "rebuild", "retry"))
ALTER = [f"alter_projection('feed', $r${rule}$r$)" for rule in (BIG, RULE)]


@pytest.mark.parametrize("calls", [[[REBUILD]], [[DISABLE, ENABLE]], [ALTER], [[RETRY]], [[REBUILD], [REBUILD]], [[REBUILD], [DISABLE, ENABLE]],
                                   [[REBUILD], ALTER], [[DISABLE, ENABLE], ALTER, [RETRY]], [[REBUILD], [DISABLE, ENABLE], ALTER, [RETRY]]],
                         ids=lambda calls: ", ".join(" and ".join(call.split("_")[0] for call in loop) for loop in calls))
def test_while_relays_deliver(db, calls):
    """Neither the relays nor the calls ever fail, and nothing is lost or doubled."""
    project(db, rule=BIG)
    project(db, "other")
    relays = Relays(db)
    relays.during(*(again_and_again(relays, *loop) for loop in calls))
    db.run("SELECT audit_enable_projection('feed')")
    in_the_end(db, "feed", "other")


def test_created_and_dropped_while_relays_deliver(db):
    project(db, rule=BIG)

    def work():
        connection = db.connect()
        for n in range(8):
            run(connection, f"CREATE TABLE f{n} (log_id bigint)")
            run(connection, f"SELECT audit_create_projection('f{n}', 'SELECT id AS log_id FROM audit_new_logs')")
            if n % 2:
                run(connection, f"SELECT audit_drop_projection('f{n}')")

    Relays(db).during(work)
    in_the_end(db, "feed", *(f"f{n}" for n in range(0, 8, 2)))
    for n in range(1, 8, 2):
        dropped = ids(db, f"f{n}")
        assert len(dropped) == len(set(dropped))


def test_relays_under_repeatable_read(db):
    """They try again after 40001, as relays do; each entry once all the same."""
    project(db, rule=BIG)
    db.run(f"ALTER DATABASE {db.name} SET default_transaction_isolation = 'repeatable read'")
    admin = db.connect(options=r"-c default_transaction_isolation=read\ committed")
    relays = Relays(db, patient=True)

    def work():
        while relays.delivered < 40:
            for call in (REBUILD, DISABLE, ENABLE):
                run(admin, f"SELECT audit_{call}")

    relays.during(work)
    db.run(f"ALTER DATABASE {db.name} RESET default_transaction_isolation")
    in_the_end(db, "feed")


# -------------------------------------------------------------------------------------------------------------------- faults


def kill_backend_during(db, query):
    """The server restarts all of its backends."""
    try:
        connection = psycopg2.connect(dbname="postgres")
        found = run(connection, "SELECT pid FROM pg_stat_activity WHERE datname = %s AND state = 'active' AND query ~ %s LIMIT 1", db.name, query)
        for (pid,) in found:
            os.kill(pid, signal.SIGKILL)
        connection.close()
        return bool(found)
    except (psycopg2.Error, ProcessLookupError):
        return False


def kill_postmaster_during(db, query):
    try:
        connection = psycopg2.connect(dbname="postgres")
        found = run(connection, "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND state = 'active' AND query ~ %s", db.name, query)
        connection.close()
    except psycopg2.Error:
        return False
    if found:
        kill_postmaster()
    return bool(found)


@pytest.mark.parametrize("fault", [kill_backend_during, kill_postmaster_during])
@pytest.mark.parametrize("during", ["audit_ingest", "audit_rebuild", "audit_(dis|en)able"])
def test_kill_9(db, fault, during):
    project(db, rule=BIG)
    project(db, "other")
    for number in range(1_000_000, 1_000_050):  # so that a rebuild takes a while
        db.ingest(body(number))
    done = threading.Event()

    def saboteur():
        try:
            for _ in range(3):
                until(lambda: fault(db, during))
                until(lambda: answers(db))
        finally:
            done.set()

    def administrator():
        connection = None
        while not done.is_set():
            try:
                connection = connection or db.connect()
                for call in (REBUILD, DISABLE, ENABLE):
                    run(connection, f"SELECT audit_{call}")
            except psycopg2.Error:
                connection = None
                time.sleep(0.02)

    Relays(db, patient=True).during(saboteur, administrator)
    until(lambda: answers(db))
    db.run("SELECT audit_enable_projection('feed')")
    in_the_end(db, "feed", "other")


@pytest.mark.parametrize("taken_by", ["ingest", "retry"])
@pytest.mark.parametrize("what", ["backend", "postmaster"])
def test_a_killed_rebuild_leaves_everything_as_it_was(db, what, taken_by):
    db.run(HOLD)
    db.ingest(values("a", "b", "c"))
    project(db, rule=HELD_RULE)
    db.run("SELECT audit_alter_projection('feed', %s)", HELD_RULE.replace("AS value", "|| '!' AS value"))
    with held(db, f"SELECT audit_{REBUILD}") as rebuild:
        db.ingest(values("d", "e", first=3))
        assert state(db) == (True, 2, 0)
        if what == "backend":
            kill_backend(db, rebuild.pid)
        else:
            kill_postmaster()
        rebuild.thread.join()
    until(lambda: answers(db))
    assert db.rows("SELECT value FROM feed ORDER BY value") == [("a",), ("b",), ("c",)]
    assert state(db) == (True, 2, 0)
    assert db.value("SELECT waiting_since IS NOT NULL FROM audit_projections")
    if taken_by == "retry":
        assert db.value(f"SELECT audit_{RETRY}") == 2
    db.ingest(values("f", first=5))
    assert [value for (value,) in db.rows("SELECT value FROM feed ORDER BY value")] == ["a", "b", "c", "d!", "e!", "f!"]
    every_entry_once(db)
    db.run(f"SELECT audit_{REBUILD}")
    every_entry_once(db)


def test_entries_of_a_new_month_wait_too(db):
    """A retry whose statement was planned before the month was there must not take what waits of it for gone."""
    project(db)
    done = threading.Event()

    def retries():
        connection = db.connect()
        while not done.is_set():
            run(connection, "SELECT audit_retry_projection('feed')")

    def relay(first):
        connection = db.connect()
        for month in range(first, 600, 2):
            time_ = f"{1990 + month // 12}-{month % 12 + 1:02}-15T00:00:00.000000Z"
            db.ingest(batch([change(n, lsn=month, time=time_, record={"id": 1, "value": "a"}) for n in range(3)]), connection)

    def relays():
        try:
            in_threads([lambda: relay(0), lambda: relay(1)])
        finally:
            done.set()

    in_threads([relays, retries, retries])
    run(db.connect(), "SELECT audit_retry_projection('feed')")
    every_entry_once(db)
