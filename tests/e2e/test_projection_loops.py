"""A target whose trigger writes to captured tables does not feed itself."""

import pytest
from capture_helpers import capture, paused, source  # noqa: F401
from projection_helpers import ids, log_ids, project, state, values  # noqa: F401

RULE = "SELECT id AS log_id FROM audit_new_logs"
FAILURES = "SELECT log_id, sqlstate FROM audit_projection_failures ORDER BY 1"
MARKS = "SELECT count(*) FROM audit_cdc_internal.projecting_transactions"


@pytest.fixture
def looping(paused):  # noqa: F811
    """Each row of the feed writes two rows to a captured table."""
    paused.run("DROP PUBLICATION audited; CREATE TABLE echo (id bigserial PRIMARY KEY); ALTER TABLE echo REPLICA IDENTITY FULL;"
               "CREATE PUBLICATION audited FOR TABLE t, echo")
    project(paused, table="CREATE TABLE feed (log_id bigint)", rule=RULE)
    paused.run("CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO echo DEFAULT VALUES; INSERT INTO echo DEFAULT VALUES; RETURN NEW; END $$;"
               "CREATE TRIGGER echo BEFORE INSERT ON feed FOR EACH ROW EXECUTE FUNCTION echo()")
    return paused


def echoes(db):
    return [id_ for (id_,) in db.rows("SELECT id FROM audit_logs WHERE table_name = 'echo' ORDER BY id")]


def test_what_a_rule_caused_is_logged_and_not_fed_again(looping):
    looping.run("INSERT INTO t VALUES (1)")
    assert [capture(looping) for _ in range(4)] == [1, 2, 0, 0]
    assert ids(looping) == log_ids(looping)[:1]
    assert looping.rows(FAILURES) == [(id_, "27000") for id_ in echoes(looping)] and len(echoes(looping)) == 2
    assert looping.value(MARKS) == 0
    # others' changes are fed all the same, with those of a rule between them
    looping.run("INSERT INTO t VALUES (2)")
    looping.run("INSERT INTO t VALUES (3)")
    assert [capture(looping) for _ in range(3)] == [2, 4, 0]
    assert len(ids(looping)) == 3


def test_who_asks_for_it_feeds_it(looping):
    looping.run("INSERT INTO t VALUES (1)")
    capture(looping)
    capture(looping)
    assert looping.value("SELECT audit_retry_projection('feed')") == 2
    assert ids(looping) == log_ids(looping)
    assert [capture(looping) for _ in range(2)] == [4, 0]
    assert state(looping) == (True, 0, 4)


def test_nobody_keeps_his_changes_from_projections(looping):
    looping.run("SELECT pg_logical_emit_message(true, 'audit_cdc.rule', ''); INSERT INTO t VALUES (1)")
    assert capture(looping) == 1
    assert ids(looping) == log_ids(looping)[:1] and looping.rows(FAILURES) == []


def test_nothing_is_marked_without_capture(db):
    project(db, table="CREATE TABLE feed (log_id bigint)", rule=RULE)
    db.ingest(values("a"))
    assert db.value(MARKS) == 0 and len(ids(db)) == 1
