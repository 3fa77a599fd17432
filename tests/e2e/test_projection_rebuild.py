"""A projection filled anew while others read and ingest, and what an interrupted rebuild leaves: nothing."""

import json

import psycopg2
import pytest
from conftest import batch, change
from projection_helpers import (FEED, GUARD, HELD_RULE, HOLD, RULE, code, every_entry_once, held, ids, is_waiting, log_ids, project, roles, run, state, until,
                                values, waiting)

SHOUT = HELD_RULE.replace("new_values ->> 'value'", "upper(new_values ->> 'value')")
REBUILD = "SELECT audit_rebuild_projection('feed')"


@pytest.fixture
def feed(db):
    """Three entries, in the target as they were; the rule would now write them in capitals."""
    db.run(HOLD)
    db.ingest(values("a", "b", "c"))
    project(db, rule=HELD_RULE)
    db.run("SELECT audit_alter_projection('feed', %s)", SHOUT)
    return db


def shown(db, connection=None):
    return "".join(sorted(value for (value,) in db.rows("SELECT value FROM feed", connection=connection)))


def test_another_rule_holds_from_now_on_and_a_rebuild_applies_it_to_all(feed):
    feed.ingest(values("d", first=3))
    assert shown(feed) == "Dabc"
    feed.run("SELECT audit_alter_projection('feed', %s)", SHOUT + " AND commit_idx <> 1")
    session = feed.connect()
    assert run(session, REBUILD) == [(4,)]
    assert shown(feed) == "ACD"
    assert any("is rebuilt: 4 entries" in notice for notice in session.notices)
    assert feed.value("SELECT rebuilt_at > created_at FROM audit_projections")


def test_readers_see_the_old_rows_and_ingest_goes_on(feed):
    relay, reader = feed.connect(options=GUARD), feed.connect(options=GUARD)
    run(reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM feed")
    with held(feed, REBUILD) as rebuild:
        assert shown(feed, feed.connect(options=GUARD)) == "abc"
        assert feed.ingest(values("d", "e", first=3), relay) == (2, 2, 0, 0)
        assert feed.ingest(values("d", "e", first=3), relay) == (2, 0, 2, 0)
        assert shown(feed) == "abc" and state(feed) == (True, 2, 0)
        assert feed.value("SELECT waiting_since IS NOT NULL FROM audit_projections")
    assert rebuild.rows == [(5,)]
    assert shown(feed) == "ABCDE" and shown(feed, reader) == "abc"
    assert state(feed) == (True, 0, 0) and feed.value("SELECT waiting_since FROM audit_projections") is None
    feed.ingest(values("f", first=5), relay)
    assert shown(feed) == "ABCDEF"
    every_entry_once(feed)


def test_an_ingest_that_is_open_when_the_rebuild_ends_is_waited_for(feed):
    relay = feed.connect(options=GUARD)
    for end, entries in (("ROLLBACK", "ABC"), ("COMMIT", "ABCD")):
        with held(feed, REBUILD) as rebuild:
            run(relay, "BEGIN")
            feed.ingest(values("d", first=3), relay)
            run(feed.connect(), "SELECT pg_advisory_unlock_all()")
            keeper = feed.value("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND granted AND mode = 'ExclusiveLock'")
            run(feed.connect(), "SELECT pg_terminate_backend(%s)", keeper)
            until(lambda: is_waiting(feed, rebuild.pid, "relation") or not rebuild.thread.is_alive())
            assert rebuild.thread.is_alive() and state(feed)[1] == 0
            run(relay, end)
        assert rebuild.rows == [(len(entries),)]
        assert shown(feed) == entries
        every_entry_once(feed)


def test_progress_is_visible_to_readers(roles, feed):
    ada = roles("audit_cdc_reader")
    reader = feed.connect(user=ada)
    progress = "SELECT name, target::text, pid, entries_done, entries_total FROM audit_projection_progress"
    feed.ingest(batch([change(n, lsn=5, time="2026-02-01T00:00:00.000000Z", table="before") for n in range(2000)]))
    feed.run("SELECT audit_alter_projection('feed', %s)", RULE + " WHERE commit_lsn = 5 OR hold()")
    assert run(reader, progress) == []
    with held(feed, REBUILD) as rebuild:
        assert run(reader, progress) == [("feed", "feed", rebuild.pid, 2000, 2003)]
    assert run(reader, progress) == []
    with held(feed, "CREATE TABLE other (log_id bigint); SELECT audit_create_projection('other', 'SELECT id AS log_id FROM audit_new_logs WHERE commit_lsn = 5 OR hold()')") as creation:
        assert [(name, pid, done) for name, _, pid, done, _ in run(reader, progress)] == [(None, creation.pid, 2000)]
    feed.run("SELECT audit_disable_projection('feed')")
    feed.ingest(values("d", first=3))
    with held(feed, "SELECT audit_enable_projection('feed')") as enabling:
        assert [(name, pid) for name, _, pid, _, _ in run(reader, progress)] == [("feed", enabling.pid)]
    assert run(reader, progress) == []


def test_progress_is_visible_while_entries_are_refused(feed):
    feed.run("SELECT audit_alter_projection('feed', %s)", RULE + " WHERE CASE commit_idx WHEN 0 THEN 1 / commit_idx > 0 ELSE hold() END")
    with held(feed, REBUILD) as rebuild:
        assert feed.rows("SELECT name, pid, entries_total FROM audit_projection_progress") == [("feed", rebuild.pid, 3)]
    assert state(feed) == (True, 0, 1)


def test_notices_of_a_long_rebuild(db):
    project(db)
    for lsn in range(21):
        body = batch([json.dumps(change(n, lsn=lsn, record={})) for n in range(5000)])
        assert db.ingest(body) == (5000, 5000, 0, 0)
    session = db.connect()
    assert run(session, REBUILD) == [(105_000,)]
    assert [notice.split(":  ")[1].strip() for notice in session.notices] == [
        'projection "feed": 100000 of about 105000 entries', 'projection "feed" is rebuilt: 105000 entries went through the rule']
    assert db.value("SELECT count(*) FROM feed") == 105_000 == db.value("SELECT count(DISTINCT log_id) FROM feed")


# ------------------------------------------------------------------------------------------------------------ interrupted


def cancelled(db, rebuild):
    run(db.connect(), "SELECT pg_cancel_backend(%s)", rebuild.pid)


def terminated(db, rebuild):
    run(db.connect(), "SELECT pg_terminate_backend(%s)", rebuild.pid)


def left_waiting(db, body, connection=None):
    """Changes that come during a rebuild, which is then cancelled."""
    with held(db, REBUILD) as rebuild:
        db.ingest(body, connection)
        cancelled(db, rebuild)
        rebuild.thread.join()


@pytest.mark.parametrize("interrupt", [cancelled, terminated])
@pytest.mark.parametrize("taken_by", ["ingest", "retry", "rebuild"])
def test_an_interrupted_rebuild_leaves_everything_as_it_was(feed, interrupt, taken_by):
    relay = feed.connect(options=GUARD)
    with held(feed, REBUILD) as rebuild:
        feed.ingest(values("d", "e", first=3), relay)
        interrupt(feed, rebuild)
        rebuild.thread.join()
    assert isinstance(rebuild.error, psycopg2.OperationalError)
    assert shown(feed) == "abc" and state(feed) == (True, 2, 0)
    assert feed.rows("SELECT waiting_since IS NOT NULL, rebuilt_at = created_at FROM audit_projections") == [(True, True)]
    if taken_by == "ingest":
        feed.ingest(values("f", first=5), relay)
        assert shown(feed) == "DEFabc"
    elif taken_by == "retry":
        assert feed.value("SELECT audit_retry_projection('feed')") == 2
        assert shown(feed) == "DEabc"
    else:
        feed.run(REBUILD)
        assert shown(feed) == "ABCDE"
    every_entry_once(feed)
    assert state(feed) == (True, 0, 0)


def test_what_waits_is_taken_also_by_an_ingest_that_rolls_back_and_the_next(feed):
    relay = feed.connect(options=GUARD)
    with held(feed, "BEGIN; SELECT audit_rebuild_projection('feed')") as rebuild:
        feed.ingest(values("d", first=3), relay)
    assert shown(feed) == "abc", "not committed yet"
    with waiting(feed, "SELECT audit_ingest(%s)", values("e", first=4)) as outcome:
        run(rebuild.connection, "ROLLBACK")
    assert outcome == [None] and shown(feed) == "DEabc"
    left_waiting(feed, values("g", "h", first=6), relay)
    assert shown(feed) == "DEabc" and state(feed) == (True, 2, 0)
    run(relay, "BEGIN")
    feed.ingest(values("f", first=5), relay)
    run(relay, "ROLLBACK")
    assert shown(feed) == "DEabc" and state(feed) == (True, 2, 0)
    feed.ingest(values("f", first=5), relay)
    assert shown(feed) == "DEFGHabc" and state(feed) == (True, 0, 0)
    every_entry_once(feed)


def test_two_ingests_do_not_both_take_what_waits(feed):
    """The second skips what the first has in hand."""
    left_waiting(feed, values("d", "e", first=3))
    one, two = feed.connect(), feed.connect(options=GUARD)
    run(one, "BEGIN")
    feed.ingest(values("f", first=5), one)
    feed.ingest(values("g", first=6), two)
    run(one, "COMMIT")
    assert shown(feed) == "DEFGabc"
    every_entry_once(feed)


def test_waiting_entries_that_the_rule_cannot_take_are_listed(feed):
    left_waiting(feed, values("d", "bad", first=3))
    feed.run("ALTER TABLE feed ADD CHECK (value <> 'BAD')")
    feed.ingest(values("f", first=5))
    assert shown(feed) == "DFabc" and state(feed) == (True, 0, 1)
    assert feed.rows("SELECT sqlstate, retries, last_retried_at FROM audit_projection_failures") == [("23514", 0, None)]


def test_failures_are_forgotten_by_a_rebuild_only_if_it_commits(feed):
    feed.run("ALTER TABLE feed ADD CONSTRAINT c CHECK (value <> 'BAD')")
    feed.ingest(values("bad", first=3))
    feed.run("SELECT audit_retry_projection('feed')")
    failure = feed.rows("SELECT * FROM audit_projection_failures")
    with held(feed, REBUILD) as rebuild:
        cancelled(feed, rebuild)
        rebuild.thread.join()
    assert feed.rows("SELECT * FROM audit_projection_failures") == failure
    feed.run("ALTER TABLE feed DROP CONSTRAINT c")
    feed.run(REBUILD)
    assert feed.rows("SELECT * FROM audit_projection_failures") == []
    every_entry_once(feed)


# ---------------------------------------------------------------------------------- what others change during a rebuild


def test_two_rebuilds_at_once_are_one_after_the_other(feed):
    second = feed.connect()
    with held(feed, REBUILD) as first:
        feed.ingest(values("d", first=3), feed.connect(options=GUARD))
        with waiting(feed, REBUILD, connection=second) as outcome:
            run(feed.connect(), "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND granted AND mode = 'ExclusiveLock'")
    assert first.error is None and outcome == [None]
    every_entry_once(feed)
    assert shown(feed) == "ABCD"


def test_disabled_during_a_rebuild_it_is_disabled_after_it(feed):
    """The disabling waits or is kept; it is not undone."""
    session = feed.connect()
    with held(feed, REBUILD) as rebuild:
        run(session, "SET lock_timeout = '300ms'")
        disabled = code(session, "SELECT audit_disable_projection('feed')") is None
        feed.ingest(values("d", first=3))
    assert rebuild.error is None
    if not disabled:
        run(session, "SELECT audit_disable_projection('feed')")
    assert state(feed)[0] is False
    feed.ingest(values("e", first=4))
    assert "E" not in shown(feed)
    feed.run("SELECT audit_enable_projection('feed')")
    every_entry_once(feed)


def test_altered_during_a_rebuild_the_new_rule_holds_for_what_comes_then(feed):
    session = feed.connect()
    with held(feed, REBUILD) as rebuild:
        run(session, "SET lock_timeout = '300ms'")
        altered = code(session, "SELECT audit_alter_projection('feed', %s)", RULE.replace("AS value", "|| '!' AS value")) is None
        feed.ingest(values("d", first=3))
    assert rebuild.error is None
    every_entry_once(feed)
    assert feed.value("SELECT value FROM feed JOIN audit_logs ON id = log_id WHERE commit_idx = 3") == ("d!" if altered else "D")


def test_dropped_during_a_rebuild(feed):
    """Either waits for the other; in the end there is no projection, and nothing is left of it."""
    session = feed.connect()
    with held(feed, REBUILD) as rebuild:
        feed.ingest(values("d", first=3))
        run(session, "SET lock_timeout = '300ms'")
        dropped = code(session, "SELECT audit_drop_projection('feed')") is None
    if not dropped:
        assert rebuild.error is None
        run(session, "SELECT audit_drop_projection('feed')")
    assert feed.rows("SELECT * FROM audit_projections") == feed.rows("SELECT * FROM audit_cdc_internal.unprojected") == []
    feed.ingest(values("e", first=4))
    assert "E" not in shown(feed)


def test_enabling_lets_ingest_go_on_too(feed):
    relay = feed.connect(options=GUARD)
    feed.run("SELECT audit_disable_projection('feed')")
    feed.ingest(values("d", first=3), relay)
    for interrupted in (True, False):
        with held(feed, "SELECT audit_enable_projection('feed')") as enabling:
            assert feed.ingest(values("e" if interrupted else "f", first=4 + (not interrupted)), relay) == (1, 1, 0, 0)
            if interrupted:
                cancelled(feed, enabling)
                enabling.thread.join()
        assert state(feed) == ((False, 2, 0) if interrupted else (True, 0, 0))
    assert shown(feed) == "DEFabc"
    every_entry_once(feed)


def test_a_creation_lets_ingest_go_on_too(db):
    db.run(HOLD + ";" + FEED)
    db.ingest(values("a"))
    relay = db.connect(options=GUARD)
    with held(db, f"SELECT audit_create_projection('feed', $r${HELD_RULE}$r$)"):
        assert db.ingest(values("b", first=1), relay) == (1, 1, 0, 0)
    assert len(ids(db)) == 2
    db.ingest(values("c", first=2), relay)
    every_entry_once(db)


def test_an_old_snapshot_is_never_wrong_after_a_rebuild(feed):
    """Under REPEATABLE READ: an error to try again, or each entry once."""
    old = feed.connect(options=GUARD)
    for begin_within in (False, True):
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1"
        if not begin_within:
            run(old, begin)
        with held(feed, REBUILD):
            if begin_within:
                run(old, begin)
        try:
            feed.ingest(values("d", first=3 + begin_within), old)
            run(old, "COMMIT")
        except psycopg2.errors.SerializationFailure:
            run(old, "ROLLBACK")
            feed.ingest(values("d", first=3 + begin_within), old)
    assert len(log_ids(feed)) == 5
    feed.ingest(values("e", first=9))
    every_entry_once(feed)
