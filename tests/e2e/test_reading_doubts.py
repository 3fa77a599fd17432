"""Every reading says, once, what it cannot know: gaps, what is not settled, what was set aside."""

import pytest
from capture_helpers import capture, paused, source  # noqa: F401 (fixtures)
from conftest import batch, change
from test_as_of import T, at
from test_continue import about, said

MAY_MISS = "the log may miss changes of this table"
PAST = "what happened within a gap of the log is unknown"
ASIDE = "set aside, and are not in the answer"
UNSETTLED = "this moment is not settled yet"
READINGS = ["SELECT audit_as_of('t')", "SELECT audit_as_of(NULL::t)", "SELECT audit_as_of_unknown('t')", "SELECT audit_history('t', '1')", "SELECT audit_history('t', since => '2000-01-01')",
            "SELECT audit_replay_sql('t')", "SELECT audit_undo_sql(request_id => 'r')", "SELECT audit_redo_sql(request_id => 'r')", "SELECT audit_undo(request_id => 'r')"]


@pytest.fixture
def read(paused):  # noqa: F811
    """A table with a captured row of request r, and another one."""
    paused.run("BEGIN; SELECT audit_annotate(request_id => 'r'); INSERT INTO t VALUES (1, 'a'); COMMIT")
    paused.run("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    capture(paused)
    return paused


def note(db, table, reason="by hand"):
    """A gap that begins now; none for all tables."""
    db.run("SELECT audit_cdc_internal.note_gap(to_regclass(%s), %s, pg_current_wal_insert_lsn(), clock_timestamp())", table, reason)
    return db.value("SELECT max(gap_id) FROM audit_gaps")


def end(db, table, reason="by hand"):
    db.run("SELECT audit_cdc_internal.end_gaps(to_regclass(%s), ARRAY[%s], pg_current_wal_insert_lsn())", table, reason)


def close(db, table):
    """As a backfill that is complete now."""
    db.run("SELECT audit_cdc_internal.close_gaps(to_regclass(%s), gen_random_uuid(), pg_current_wal_insert_lsn(), pg_current_wal_insert_lsn())", table)


def now(db):
    return db.value("SELECT clock_timestamp()::text")


@pytest.mark.parametrize("table", ["t", None])
def test_an_open_gap(read, table):
    before = now(read)
    gap = note(read, table)
    for reading in READINGS:
        [warning] = about(said(read, reading), "may miss changes")
        assert warning.startswith("WARNING:  the log may miss changes of this table\n") and f"Gap {gap} (by hand)" in warning and "audit_backfill()" in warning, reading
    [warning] = about(said(read, "SELECT audit_history(request_id => 'r')"), "may miss changes")
    assert warning.startswith("WARNING:  the log may miss changes\n")
    assert about(said(read, "SELECT audit_as_of('t', %s)", before), MAY_MISS) == [], "it was not there yet"
    assert about(said(read, "SELECT audit_replay_sql('t', until => %s)", before), MAY_MISS) == []
    assert about(said(read, "SELECT audit_history('t', '1', until => %s)", before), MAY_MISS) == []
    assert read.rows("SELECT r ->> 'v' FROM audit_as_of('t') AS r") == [("a",)], "the answer is the same"


def test_a_gap_of_another_table_or_database(read):
    note(read, "u")
    read.run("INSERT INTO audit_cdc_internal.gaps (database_id, reason, from_lsn) VALUES ('7.1', 'elsewhere', '0/1')")
    for reading in READINGS:
        assert about(said(read, reading), "gap") == [] == about(said(read, reading), MAY_MISS), reading
    read.ingest(batch([at(1, action="insert", row={"v": "a"})]))
    note(read, None)
    for reading in ("SELECT audit_as_of('orders')", "SELECT audit_history('orders', '1')", "SELECT audit_replay_sql('orders')", "SELECT audit_history(request_id => 'r', database_id => 'd1')"):
        assert about(said(read, reading), "may miss") == [], "capture has nothing to do with what is delivered"


def test_a_gap_that_a_backfill_has_closed(read):
    gap = note(read, "t")
    within = now(read)
    end(read, "t")
    assert about(said(read, "SELECT audit_as_of('t')"), MAY_MISS), "ended, but nobody knows what changed"
    after = now(read)
    close(read, "t")
    later = now(read)
    for reading in READINGS:
        found = said(read, reading)
        assert about(found, "may miss") == [], reading
        assert len(about(found, PAST)) == (1 if "history" in reading else 0), reading
    [notice] = about(said(read, "SELECT audit_history('t', '1')"), PAST)
    assert notice.startswith("NOTICE") and f"Gap {gap} (by hand) of public.t" in notice
    for moment in (within, after):
        assert about(said(read, "SELECT audit_as_of('t', %s)", moment), MAY_MISS), "before the backfill"
    assert about(said(read, "SELECT audit_as_of('t', %s)", later), MAY_MISS) == []
    assert about(said(read, "SELECT audit_as_of('t', lsn => pg_current_wal_insert_lsn())"), MAY_MISS) == []
    assert about(said(read, "SELECT audit_history('t', '1', since => %s)", later), PAST) == [], "out of the range"


def test_a_gap_of_all_tables_is_closed_for_each(read):
    note(read, None)
    end(read, None)
    close(read, "t")
    assert about(said(read, "SELECT audit_as_of('t')"), MAY_MISS) == []
    assert len(about(said(read, "SELECT audit_as_of('u')"), MAY_MISS)) == 1


def test_many_gaps_are_said_in_one_message(read):
    for n in range(5):
        note(read, "t", f"reason {n}")
    [warning] = about(said(read, "SELECT audit_as_of('t')"), MAY_MISS)
    assert "reason 4" in warning and "reason 2" in warning and "reason 1" not in warning and "There are 2 more." in warning


def test_a_table_that_got_another_name(read):
    note(read, "t")
    read.run("ALTER TABLE t RENAME TO tt; INSERT INTO tt VALUES (2, 'b')")
    capture(read)
    assert len(about(said(read, "SELECT audit_as_of('tt')"), MAY_MISS)) == 1


def test_changes_that_were_set_aside(db):
    db.run("CREATE TABLE orders (id int PRIMARY KEY, v text); INSERT INTO orders VALUES (1, 'a')")
    db.ingest(batch([at(1, action="insert", row={"v": "a"}, annotations={"request_id": "r"}), change(5, table="others")]))
    db.ingest(batch([at(2, changes={"v": "a"}, row={"v\x00": "b"})]))
    for reading in (reading.replace("'t'", "'orders'") for reading in READINGS if "::" not in reading):
        found = said(db, reading.replace("'r')", "'r', database_id => 'd1')"))
        [warning] = about(found, ASIDE)
        assert warning.startswith("WARNING") and "audit_retry_rejects()" in warning and "DETAIL" not in warning, reading
    assert len(about(said(db, "SELECT audit_history(request_id => 'r')"), ASIDE)) == 1
    assert about(said(db, "SELECT audit_as_of('others')"), ASIDE) == []
    assert about(said(db, "SELECT audit_history(request_id => 'r', database_id => 'd2')"), ASIDE) == []


def test_whoever_may_deliver_casts_no_doubt_on_what_is_captured(read):
    here = read.value("SELECT audit_cdc_internal.this_database() ->> 'id'")
    assert read.ingest(batch([change(table="t", database=here)])) == (1, 0, 0, 1)
    for reading in READINGS:
        assert about(said(read, reading), ASIDE) == [], reading


def test_a_range_that_may_still_get_changes(read):
    ahead = read.value("SELECT (now() + interval '1 hour')::text")
    past = read.value("SELECT (min(commit_timestamp) - interval '1 second')::text FROM audit_logs")
    for reading in ("SELECT audit_as_of('t', {})", "SELECT audit_history('t', '1', until => {})", "SELECT audit_history(request_id => 'r', until => {})", "SELECT audit_replay_sql('t', until => {})",
                    "SELECT audit_undo_sql(username => 'ada', since => '2000-01-01', until => {})", "SELECT audit_undo_sql(tables => '{{t,u}}', at => {})",
                    "SELECT audit_undo_sql(table_name => 't', key => '1', at => {})", "SELECT audit_table_diff('t', '2000-01-01', {})"):
        [notice] = about(said(read, reading.format("%s"), ahead), UNSETTLED)
        assert notice.startswith("NOTICE") and "CALL audit_capture()" in notice, reading
        assert about(said(read, reading.format("%s"), past), UNSETTLED) == [], reading
    assert about(said(read, "SELECT audit_history('t', '1')"), UNSETTLED) == [], "whatever the log has"
