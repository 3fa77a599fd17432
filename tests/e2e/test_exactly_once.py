"""What is one change, what is two, and what is a conflict."""

import itertools
import random

import psycopg2
import pytest
from conftest import batch, change, in_threads


def test_changes_of_one_row_in_one_transaction(db):
    assert db.ingest(batch([change(0), change(1, action="update", changes={}), change(2, action="delete")])) == (3, 3, 0, 0)


def test_one_key_of_two_databases_tables_and_times(db):
    messages = [change(), change(database="d2"), change(table="lines"), change(time="2026-03-01T09:00:00.000001Z")]
    assert db.ingest(batch(messages)) == (4, 4, 0, 0)
    assert db.ingest(batch(reversed(messages))) == (4, 0, 4, 0)


def test_fields_do_not_run_together(db):
    assert db.ingest(batch([change(database="a", table="bc"), change(database="ab", table="c")])) == (2, 2, 0, 0)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("other", [dict(action="update", changes={}), dict(action="delete"), dict(pks=["2"]),
                                   dict(lsn=7, key="NjE1MzYyMTY6MA=="), dict(idx=7, key="NjE1MzYyMTY6MA==")])
def test_same_key_and_time_with_another_action_or_record_is_a_conflict(db, other, together):
    if together:
        assert db.ingest(batch([change(), change(**other)])) == (2, 1, 0, 1)
    else:
        db.ingest(batch([change()]))
        assert db.ingest(batch([change(**other)])) == (1, 0, 0, 1)
    assert db.rows("SELECT action, record_id FROM audit_logs") == [("insert", "1")]
    assert db.rows("SELECT sqlstate, table_name FROM audit_rejects") == [("23505", "orders")]
    assert db.rows("SELECT rejects, conflicts FROM audit_status()") == [(0, 1)]
    db.ingest(batch([change(**other), change()]))
    assert db.rows("SELECT deliveries FROM audit_rejects") == [(2,)]


def test_conflicts_with_the_log_and_within_the_batch_at_once(db):
    db.ingest(batch([change(0)]))
    body = batch([change(0, action="delete"), change(1), change(1, action="delete"), change(1), change(2), change(0)])
    assert db.ingest(body) == (6, 2, 2, 2)
    assert db.ingest(body) == (6, 0, 4, 2)


def test_many_conflicts_under_one_key(db):
    body = batch(change(0, pks=[str(n)]) for n in range(20_000))
    assert db.ingest(body) == (20_000, 1, 0, 19_999)


def test_a_trigger_of_the_owners_cannot_make_a_change_vanish(db):
    db.run("""CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
              CREATE TRIGGER swallow BEFORE INSERT ON audit_cdc_internal.log FOR EACH ROW EXECUTE FUNCTION swallow()""")
    with pytest.raises(psycopg2.errors.TriggeredActionException):
        db.ingest(batch([change()]))


def test_images_are_not_compared(db):
    db.ingest(batch([change(record={"id": 1, "x": 1e20})]))
    assert db.ingest(batch([change(record={"id": 1, "x": 1}, annotations={"username": "eve"})])) == (1, 0, 1, 0)


def test_empty_strings_of_keys_are_not_compared(db):
    db.ingest(batch([change(pks=["", "a"]), change(1, pks=[""])]))
    assert db.ingest(batch([change(pks=["a"]), change(1, pks=[])])) == (2, 0, 2, 0)
    assert db.rows("SELECT record_pks FROM audit_logs ORDER BY commit_idx") == [(["", "a"],), ([""],)]


def read(**fields):
    return change(**{"lsn": None, "idx": None, "action": "read", "key": "YmFja2ZpbGw6", **fields})


def test_a_whole_backfill_may_share_one_key(db):
    """char(n) keys: every row has the same key and record_pks [""]."""
    rows = [read(pks=[""], record={"code": None, "name": name}) for name in "abc"]
    assert db.ingest(batch(rows)) == (3, 3, 0, 0)
    assert db.ingest(batch(rows + [read(pks=[], record={"name": "a", "code": None})])) == (4, 0, 4, 0)
    assert db.ingest(batch([read(pks=["1"]), read(pks=["2"])])) == (2, 2, 0, 0)
    assert db.ingest(batch([read(pks=["1"], time="2026-03-01T09:00:01.000000Z")])) == (1, 1, 0, 0)


def test_reads_are_known_again_in_another_spelling(db):
    body = '{"action":"read","changes":null,"record":{"b":1.0e20,"a":"é"},"metadata":%s}'
    import json
    meta = json.dumps(read()["metadata"])
    db.ingest(body % meta)
    other = (body % meta).replace('{"b":1.0e20,"a":"é"}', '{ "a" : "\\u00e9", "b": 100000000000000000000 }')
    assert db.ingest(other) == (1, 0, 1, 0)


def test_older_releases(db):
    message = change()
    for field in ("idempotency_key", "database", "record_pks"):
        del message["metadata"][field]
    assert db.ingest(batch([message, message])) == (2, 1, 1, 0)
    assert db.rows("SELECT database_id, database_name, record_id, record_pks, idempotency_key FROM audit_logs") == [
        ("unknown", None, None, None, "NjE1MzYyMTY6MA==")]
    message["metadata"]["record_pks"] = ["1"]  # after an update of Sequin
    assert db.ingest(batch([message])) == (1, 0, 1, 0)


@pytest.mark.parametrize("seed", range(3))
def test_any_part_of_what_is_there(db, seed):
    """In transactions of one change and of many, of one time and of several; what was rolled back is not there."""
    chance = random.Random(seed)
    messages = [change(idx, lsn=lsn, time=f"2026-03-01T09:00:0{lsn // 4}.000000Z") for lsn in range(1, 40) for idx in range(chance.choice([1, 3, 60]))]
    there = set()
    connection = db.connect()
    for _ in range(12):
        delivered = chance.sample(range(len(messages)), chance.choice([1, 5, 200, len(messages) // 2]))
        is_kept = chance.random() < 0.7
        connection.cursor().execute("BEGIN")
        new = len(set(delivered) - there)
        assert db.ingest(batch(messages[n] for n in delivered), connection) == (len(delivered), new, len(delivered) - new, 0)
        connection.cursor().execute("COMMIT" if is_kept else "ROLLBACK")
        there |= set(delivered) if is_kept else set()
    assert db.value("SELECT count(*) FROM audit_logs") == len(there)


@pytest.mark.parametrize("seed", range(3))
def test_overlapping_batches_in_any_order_neither_deadlock_nor_fail(db, seed):
    """Months without a partition, tables never seen, reads and conflicts among them; eight relays."""
    months = ["2025-11-30T23:59:59.999999Z", "2025-12-01T00:00:00.000000Z", "2026-01-15T00:00:00.000000Z", "2027-05-05T00:00:00.000000Z"]
    messages = [change(idx, lsn=lsn, time=time, table=f"t{lsn % 5}") for (lsn, time), idx in
                itertools.product(zip(range(1, 41), itertools.cycle(months)), range(5))]
    messages += [read(pks=[str(n)], time=months[n % 4]) for n in range(40)]
    conflict = change(0, lsn=1, time=months[0], table="t1", action="delete")
    chance = random.Random(seed)
    shuffled = [chance.sample(messages, len(messages)) + [conflict] for _ in range(8)]

    def relay(mine):
        connection = db.connect()
        for start in range(0, len(mine), 60):
            db.ingest(batch(mine[start:start + 60]), connection)

    in_threads([lambda mine=mine: relay(mine) for mine in shuffled])
    # which of the two conflicting ones came first is open; the other is set aside, none is lost
    assert db.value("SELECT count(*) FROM audit_logs") == len(messages)
    assert db.rows("SELECT sqlstate FROM audit_rejects") == [("23505",)]
    assert db.value("SELECT sum(rows)::int FROM audit_status()") == len(messages)


def test_a_partition_is_made_once(db):
    """One relay makes a month's partition while the others, who have looked for it, wait for the lock."""
    relays = [db.connect() for _ in range(4)]
    for month in range(1, 13):
        body = batch([change(time=f"2031-{month:02}-01T00:00:00.000000Z")])
        in_threads([lambda relay=relay: db.ingest(body, relay) for relay in relays])
    assert db.value("SELECT count(*) FROM audit_logs") == 12


@pytest.mark.parametrize("style, zone", [("SQL, MDY", "Asia/Kolkata"), ("Postgres, DMY", "Asia/Shanghai"), ("German", "Pacific/Kiritimati")])
def test_a_sessions_style_and_zone_do_not_move_partitions(db, style, zone):
    connection = db.connect()
    connection.cursor().execute("SELECT set_config('datestyle', %s, false), set_config('timezone', %s, false)", (style, zone))
    edges = ["2026-03-01T00:00:00.000000Z", "2026-03-31T23:59:59.999999Z", "2026-04-01T00:00:00.000000Z"]
    for n, time in enumerate(edges):
        assert db.ingest(batch([change(n, time=time)]), connection) == (1, 1, 0, 0)
    assert db.rows("SELECT count(*)::int FROM audit_cdc_internal.log GROUP BY tableoid ORDER BY 1") == [(1,), (2,)]


def test_an_open_transaction_is_waited_for(db):
    """A duplicate of what another relay has not committed yet: taken if that one rolls back."""
    first, second = db.connect(), db.connect()
    for end, expected in (("ROLLBACK", (1, 1, 0, 0)), ("COMMIT", (1, 0, 1, 0))):
        message = batch([change(lsn=len(end))])
        first.cursor().execute("BEGIN")
        db.ingest(message, first)
        outcome = []
        import threading
        waiting = threading.Thread(target=lambda: outcome.append(db.ingest(message, second)))
        waiting.start()
        while not db.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"):
            pass
        first.cursor().execute(end)
        waiting.join()
        assert outcome == [expected]


def test_repeatable_read_is_never_wrong(db):
    """A snapshot that cannot see the other's row: an error to retry, not a loss."""
    one, two = db.connect(), db.connect()
    db.ingest(batch([change(9)]))
    one.cursor().execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    db.ingest(batch([change(0)]), two)
    with pytest.raises(psycopg2.errors.SerializationFailure):
        db.ingest(batch([change(0)]), one)
    one.cursor().execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    db.ingest(batch([change(1, table="lines", time="2033-03-01T09:00:00.000000Z")]), two)  # a month that the snapshot does not show
    assert db.ingest(batch([change(2, time="2033-03-01T09:00:00.000000Z")]), one) == (1, 1, 0, 0)
