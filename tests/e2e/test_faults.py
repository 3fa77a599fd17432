"""kill -9, crashes and cancels in mid-batch, then redelivery: nothing missing, nothing twice."""

import os
import random
import signal
import threading
import time

import psycopg2
import pytest
from conftest import batch, change, in_threads
from fault_helpers import kill_postmaster

BATCHES = [batch(change(n, lsn=1000 + b, time=f"2026-{1 + b % 6:02}-01T00:00:00.000000Z", record={"id": n, "text": "lorem ipsum " * 30})
                 for n in range(400)) for b in range(60)]
TOTAL = 60 * 400


def deliver(db, batches):
    """As a relay: each batch until it is acknowledged, with a new connection after an error."""
    connection = None
    for body in batches:
        while True:
            try:
                connection = connection or db.connect()
                db.ingest(body, connection)
                break
            except psycopg2.Error:
                connection = None
                time.sleep(0.05)


def whole(db):
    """Everything once, and the indexes agree with the table."""
    assert db.value("SELECT count(*) FROM audit_logs") == TOTAL
    assert db.value("SELECT count(DISTINCT (commit_lsn, commit_idx)) FROM audit_logs") == TOTAL
    assert db.value("SELECT sum(rows)::int FROM audit_status()") == TOTAL
    assert db.value("SELECT count(*) FROM audit_rejects") == 0


def with_fault(db, fault, relays=3):
    """Three relays with all batches in other orders, and a fault again and again until they are done."""
    chance = random.Random(7)
    done = threading.Event()
    faults = []

    def saboteur():
        while not done.wait(chance.uniform(0.15, 0.4)):
            if len(faults) < 6 and fault():
                faults.append(1)

    def work():
        try:
            in_threads([lambda mine=chance.sample(BATCHES, len(BATCHES)): deliver(db, mine) for _ in range(relays)])
        finally:
            done.set()

    in_threads([work, saboteur])
    assert faults, "no fault happened: the test would prove nothing"
    whole(db)


def backends(db):
    try:
        connection = psycopg2.connect(dbname="postgres")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s AND state = 'active' AND query ~ 'audit_ingest'", (db.name,))
            return [pid for (pid,) in cursor.fetchall()]
    except psycopg2.Error:
        return []


def test_kill_9_of_a_backend(db):
    def fault():
        for pid in backends(db)[:1]:
            os.kill(pid, signal.SIGKILL)
            return True
    with_fault(db, fault)


def test_kill_9_of_the_postmaster(db):
    def fault():
        if not backends(db):
            return False
        kill_postmaster()
        return True
    with_fault(db, fault)


@pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
def test_cancelled_and_terminated(db, function):
    def fault():
        connection = psycopg2.connect(dbname="postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            for pid in backends(db)[:1]:
                cursor.execute(f"SELECT {function}(%s)", (pid,))
                return True
    with_fault(db, fault)


def test_a_rolled_back_call_leaves_nothing(db):
    connection = db.connect()
    connection.cursor().execute("BEGIN")
    db.ingest(BATCHES[0], connection)
    db.ingest("broken", connection)
    connection.cursor().execute("ROLLBACK")
    assert db.rows("SELECT (SELECT count(*) FROM audit_logs), (SELECT count(*) FROM audit_rejects), (SELECT count(*) FROM audit_status())") == [(0, 0, 0)]
