"""Projections: filled in the transaction of the ingest, each entry exactly once, in order, whoever ingests."""

import json
import random

import pytest
from conftest import batch, change
from projection_helpers import (FEED, GUARD, RULE, code, every_entry_once, ids, log_ids, project, run, state, values, waiting)


def test_filled_in_the_transaction_of_the_ingest(db):
    project(db)
    relay = db.connect()
    run(relay, "BEGIN")
    db.ingest(values("a", "b"), relay)
    assert run(relay, "SELECT table_name, value FROM feed ORDER BY n") == [("orders", "a"), ("orders", "b")]
    assert ids(db) == [] == log_ids(db)
    run(relay, "COMMIT")
    every_entry_once(db)
    assert state(db) == (True, 0, 0)


def test_a_rolled_back_ingest_leaves_nothing(db):
    project(db)
    relay = db.connect()
    for begin, end in (("BEGIN", "ROLLBACK"), ("BEGIN; SAVEPOINT s", "ROLLBACK TO s; COMMIT")):
        run(relay, begin)
        db.ingest(values("a"), relay)
        run(relay, end)
        assert ids(db) == []
    db.ingest(values("a"), relay)
    every_entry_once(db)


def test_redelivery_conflicts_and_rejects_add_nothing(db):
    project(db)
    assert db.ingest(values("a", "b")) == (2, 2, 0, 0)
    assert db.ingest(batch([change(0), change(2), change(2), change(1, action="delete"), change(3, lsn="x", key="k")])) == (5, 1, 2, 2)
    assert len(ids(db)) == 3
    every_entry_once(db)


def test_a_reject_that_is_taken_later_is_projected(db):
    """Refused by a month's partition that is in the way; then it is not any more."""
    project(db)
    db.run("CREATE TABLE audit_cdc_internal.log_2026_03 (x int)")
    relay = db.connect()
    first = code(relay, "SELECT audit_ingest(%s)", values("a"))
    db.run("SELECT audit_allow_removal(); DROP TABLE audit_cdc_internal.log_2026_03")
    if first is None:  # set aside
        db.run("SELECT audit_retry_rejects()")
    else:  # not acknowledged
        db.ingest(values("a"), relay)
    assert len(log_ids(db)) == 1
    every_entry_once(db)


def test_a_body_that_is_jsonb(db):
    project(db)
    assert db.rows("SELECT inserted FROM audit_ingest(%s::jsonb)", values("a")) == [(1,)]
    every_entry_once(db)


@pytest.mark.parametrize("fill", [True, False])
def test_entries_that_are_there_at_creation(db, fill):
    db.ingest(values("a", "b", "c"))
    assert project(db, fill=fill) == (3 if fill else 0)
    assert [value for (value,) in db.rows("SELECT value FROM feed ORDER BY n")] == (["a", "b", "c"] if fill else [])
    db.ingest(values("a", "b", "c", "d"))
    assert ids(db) == log_ids(db)[0 if fill else 3:]


def test_a_target_that_is_not_empty_is_not_filled(db):
    db.ingest(values("a"))
    db.run(FEED + "; INSERT INTO feed (value) VALUES ('mine')")
    create = "SELECT audit_create_projection('feed', %s, fill => %s)"
    assert code(db.connect(), create, RULE, True) == "55000"
    assert db.rows("SELECT * FROM audit_projections") == []
    assert code(db.connect(), create, RULE, False) is None
    db.ingest(values("b", first=1))
    assert [value for (value,) in db.rows("SELECT value FROM feed ORDER BY n")] == ["mine", "b"]


@pytest.mark.parametrize("fill", [True, False])
def test_creation_waits_for_an_open_ingest(db, fill):
    """It is stored before the creation: taken by the filling, once, or not at all."""
    db.run(FEED)
    relay = db.connect()
    run(relay, "BEGIN")
    db.ingest(values("a"), relay)
    with waiting(db, "SELECT audit_create_projection('feed', %s, fill => %s)", RULE, fill) as outcome:
        run(relay, "COMMIT")
    assert outcome == [None]
    db.ingest(values("b", first=1), relay)
    assert ids(db) == log_ids(db)[0 if fill else 1:]


def test_an_ingest_waits_for_the_end_of_a_creation(db):
    db.run(FEED)
    creator = db.connect()
    for end in ("ROLLBACK", "COMMIT"):
        run(creator, "BEGIN")
        run(creator, "SELECT audit_create_projection('feed', %s)", RULE)
        with waiting(db, "SELECT audit_ingest(%s)", values("a", lsn=len(end))) as outcome:
            run(creator, end)
        assert outcome == [None]
        assert ids(db) == ([] if end == "ROLLBACK" else log_ids(db))
    assert len(log_ids(db)) == 2


def test_a_rule_may_give_no_row_or_several(db):
    project(db, rule="SELECT id AS log_id, v AS value FROM audit_new_logs, jsonb_array_elements_text(new_values -> 'value') AS v")
    db.ingest(values(["a", "b"], [], ["c"]))
    assert db.rows("SELECT value FROM feed ORDER BY n") == [("a",), ("b",), ("c",)]
    assert db.value("SELECT audit_rebuild_projection('feed')") == 3
    assert db.rows("SELECT value FROM feed ORDER BY n") == [("a",), ("b",), ("c",)]


def test_the_columns_of_new_logs_are_those_of_logs(db):
    columns = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
    assert db.rows(columns, "audit_new_logs") == db.rows(columns, "audit_logs")
    project(db, rule="SELECT id AS log_id, to_jsonb(l)::text AS value FROM audit_new_logs AS l")
    db.ingest(batch([change(0, annotations={"username": "ada", "metadata": [1]}), change(1, pks=["a", "1"], action="update", changes={"id": 0}), change(2, action="delete")]))
    assert db.rows("SELECT value::jsonb FROM feed ORDER BY log_id") == db.rows("SELECT to_jsonb(l) FROM audit_logs AS l ORDER BY id")
    assert db.rows("SELECT * FROM audit_new_logs") == [], "empty elsewhere"


# ----------------------------------------------------------------------------------------------------------------------- order

IN_ORDER = """SELECT count(*) FROM (SELECT row_number() OVER (ORDER BY n) AS here,
                                           row_number() OVER (ORDER BY commit_timestamp, commit_lsn, commit_idx, log_id) AS there
                                    FROM feed JOIN audit_logs ON id = log_id) AS _ WHERE here <> there"""


def shuffled(messages, seed=1):
    return batch(random.Random(seed).sample(messages, len(messages)))


MIXED = [change(idx, lsn=lsn, time=time) for time in ("2026-03-01T09:00:00.000000Z", "2026-03-31T23:59:59.999999Z", "2026-04-01T00:00:00.000000Z")
         for lsn in (900, 1000, 10_000) for idx in (0, 2, 9, 10, 11)]
MIXED += [change(None, lsn=None, action="read", key="YmFja2ZpbGw6", pks=[str(n)]) for n in range(5)]


def test_a_shuffled_batch_arrives_in_the_order_of_commits(db):
    project(db)
    db.ingest(shuffled(MIXED))
    every_entry_once(db)
    assert db.value(IN_ORDER) == 0


@pytest.mark.parametrize("transactions", [1, 3, 2500])
def test_a_large_shuffled_batch_too(db, transactions):
    """More entries than one step takes, also of one transaction: all with the same commit time."""
    project(db)
    times = [f"2026-03-01T{t // 3600:02}:{t // 60 % 60:02}:{t % 60:02}.000000Z" for t in range(transactions)]
    db.ingest(shuffled([change(n, lsn=1000 + n % transactions, time=times[n % transactions]) for n in range(2500)]))
    every_entry_once(db)
    assert db.value(IN_ORDER) == 0


def test_entries_that_are_refused_do_not_disturb_the_order_of_the_others(db):
    project(db, rule=RULE + " WHERE 1 / (commit_idx % 10) >= 0")
    messages = [change(n, lsn=1000 + n % 3, time=f"2026-03-01T00:00:0{n % 3}.000000Z") for n in range(1, 500)]
    db.ingest(shuffled(messages))
    assert len(ids(db)) == 450 and state(db) == (True, 0, 49)
    assert db.value(IN_ORDER) == 0


def test_a_rebuild_is_in_the_order_of_commits_over_the_whole_log(db):
    project(db)
    everything = MIXED + [change(n, lsn=77, time="2026-02-01T00:00:00.000000Z") for n in range(2200)]
    chance = random.Random(5)
    chance.shuffle(everything)
    for start in range(0, len(everything), 150):
        db.ingest(batch(everything[start:start + 150]))
    assert db.value(IN_ORDER) > 0, "batches came out of order: the rebuild has something to do"
    db.run("SELECT audit_rebuild_projection('feed')")
    every_entry_once(db)
    assert db.value(IN_ORDER) == 0


# --------------------------------------------------------------------------------------------------- disable, enable, drop


def test_disabled_nothing_arrives_and_enabled_everything_once(db):
    project(db)
    db.ingest(values("a"))
    db.run("SELECT audit_disable_projection('feed')")
    assert state(db) == (False, 0, 0)
    db.ingest(values("b", "c", first=1))
    assert len(ids(db)) == 1 and state(db) == (False, 2, 0)
    assert db.value("SELECT waiting_since = min(l.created_at) FROM audit_projections, audit_logs AS l WHERE l.id > %s GROUP BY waiting_since", ids(db)[0])
    db.run("SELECT audit_disable_projection('feed')")  # again
    assert state(db) == (False, 2, 0)
    assert db.value("SELECT audit_enable_projection('feed')") == 2
    every_entry_once(db)
    assert state(db) == (True, 0, 0)
    assert db.value("SELECT waiting_since FROM audit_projections") is None
    assert db.value("SELECT audit_enable_projection('feed')") == 0
    db.ingest(values("d", first=3))
    every_entry_once(db)


def test_rebuilt_while_disabled_it_stays_disabled(db):
    project(db)
    db.ingest(values("a"))
    db.run("SELECT audit_disable_projection('feed')")
    db.ingest(values("b", first=1))
    db.run("SELECT audit_rebuild_projection('feed')")
    every_entry_once(db)
    assert state(db) == (False, 0, 0)
    db.ingest(values("c", first=2))
    assert state(db) == (False, 1, 0) and len(ids(db)) == 2
    db.run("SELECT audit_enable_projection('feed')")
    every_entry_once(db)


def test_all_of_it_in_one_transaction(db):
    project(db)
    session = db.connect()
    for end in ("ROLLBACK", "COMMIT"):
        run(session, "BEGIN")
        for n, call in enumerate(["disable", "enable", "rebuild", "disable", "rebuild", "retry", "enable", "retry"]):
            db.ingest(values("x", first=10 * n), session)
            run(session, f"SELECT audit_{call}_projection('feed')")
            db.ingest(values("y", first=10 * n + 1), session)
        run(session, end)
        every_entry_once(db)
    assert len(ids(db)) == 16 and state(db) == (True, 0, 0)


def test_dropped_its_target_stays(db):
    project(db)
    db.ingest(values("a"))
    db.run("SELECT audit_drop_projection('feed')")
    db.ingest(values("b", first=1))
    assert db.rows("SELECT value FROM feed") == [("a",)]
    assert db.rows("SELECT * FROM audit_projections") == []
    assert code(db.connect(), "SELECT audit_drop_projection('feed')") == "42704"
    assert db.value("SELECT audit_create_projection('feed', %s, fill => false)", RULE) == 0, "the name is free again"


@pytest.mark.parametrize("call", ["disable", "drop", "rebuild", "retry"])
def test_what_changes_a_projection_waits_for_an_open_ingest(db, call):
    project(db)
    relay = db.connect()
    run(relay, "BEGIN")
    db.ingest(values("a"), relay)
    with waiting(db, f"SELECT audit_{call}_projection('feed')") as outcome:
        run(relay, "COMMIT")
    assert outcome == [None]
    every_entry_once(db)
    db.ingest(values("b", first=1))
    assert len(ids(db)) == (2 if call in ("rebuild", "retry") else 1)


# ------------------------------------------------------------------------------------------------------------ together


def test_one_that_waits_does_not_hold_another(db):
    project(db)
    project(db, "other")
    db.run("SELECT audit_disable_projection('other')")
    db.ingest(values("a"))
    assert len(ids(db)) == 1 and ids(db, "other") == []
    keeper = db.connect()
    db.run("SELECT audit_enable_projection('other')")
    run(keeper, "BEGIN; SELECT audit_retry_projection('other')")  # nobody else may feed it until it ends
    db.ingest(values("b", first=1), db.connect(options=GUARD))
    assert len(ids(db)) == 2 and len(ids(db, "other")) == 1 and state(db, "other") == (True, 1, 0)
    run(keeper, "COMMIT")
    db.ingest(values("c", first=2))
    every_entry_once(db)
    every_entry_once(db, "other")


def test_one_projection_fills_a_table(db):
    """A rebuild of one would delete the rows of the other."""
    project(db)
    assert code(db.connect(), "SELECT audit_create_projection('more', %s, 'feed')", RULE) == "42710"
    db.run("SELECT audit_drop_projection('feed'); SELECT audit_create_projection('more', %s, 'feed')", RULE)
    db.ingest(values("a"))
    assert db.rows("SELECT value FROM feed") == [("a",)]


def test_a_rule_may_read_the_log_itself(db):
    """A window over the whole history of a record, the new entries in it."""
    db.run("CREATE TABLE feed (log_id bigint, before text, value text, seen bigint)")
    db.run("SELECT audit_create_projection('feed', %s)", """
        SELECT log_id, before, value, seen FROM (
          SELECT id AS log_id, new_values ->> 'value' AS value, count(*) OVER w AS seen, lag(new_values ->> 'value') OVER w AS before
          FROM audit_logs WHERE record_id IN (SELECT record_id FROM audit_new_logs) WINDOW w AS (PARTITION BY record_id ORDER BY commit_idx)) AS _
        WHERE log_id IN (SELECT id FROM audit_new_logs)""")
    db.ingest(values("a", "b"))
    db.ingest(values("c", first=2))
    assert db.rows("SELECT before, value, seen FROM feed ORDER BY seen") == [(None, "a", 1), ("a", "b", 2), ("b", "c", 3)]


NESTED = """CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              IF NEW.table_name <> 'nested' THEN PERFORM audit_ingest(format(%s, {key})); END IF;
              RETURN NULL;
            END $$;
            CREATE TRIGGER again AFTER INSERT ON feed FOR EACH ROW EXECUTE FUNCTION again()"""


def nested(db, key):
    message = json.dumps(change(7, table="nested", key="KEY", record={"id": 1, "value": "nested"})).replace("%", "%%").replace("KEY", "%s")
    db.run(NESTED.format(key=key), message)


def test_a_targets_trigger_may_ingest_itself(db):
    project(db)
    nested(db, "'of ' || NEW.log_id")
    assert db.ingest(values("a", "b")) == (2, 2, 0, 0)
    assert db.rows("SELECT table_name, count(*)::int FROM feed GROUP BY 1 ORDER BY 1") == [("nested", 2), ("orders", 2)]
    every_entry_once(db)
    db.run("SELECT audit_rebuild_projection('feed')")
    every_entry_once(db)
    assert state(db) == (True, 0, 0)


@pytest.mark.parametrize("call", ["rebuild", "enable", "create"])
def test_a_trigger_that_ingests_something_new_while_its_own_session_fills(db, call):
    """What is stored meanwhile, by the filling session itself, reaches the target once."""
    project(db)
    db.run("CREATE SEQUENCE calls")
    nested(db, "'call ' || nextval('calls')")
    db.ingest(values("a", "b"))
    every_entry_once(db)
    if call == "create":
        db.run("SELECT audit_drop_projection('feed'); TRUNCATE feed")
        db.run("SELECT audit_create_projection('feed', %s)", RULE)
    else:
        db.run("SELECT audit_disable_projection('feed')" if call == "enable" else "SELECT 1")
        db.ingest(values("c", first=2))
        db.run(f"SELECT audit_{call}_projection('feed')")
    every_entry_once(db)
    assert state(db) == (True, 0, 0)
