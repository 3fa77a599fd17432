"""Whatever a rule does, raises or waits for, ingest and capture go on."""

import pytest
from capture_helpers import capture, logged, paused, source, status, stop  # noqa: F401
from conftest import admin, batch, change
from projection_helpers import GUARD, code, ids, log_ids, project, roles, run, state, values  # noqa: F401

ENDLESS = "SELECT id AS log_id FROM audit_new_logs, LATERAL (SELECT pg_sleep(CASE WHEN id > 0 THEN 3600 END)) AS s"
# catches every cancel that is sent, for ever
DEAF = """CREATE FUNCTION deaf() RETURNS boolean LANGUAGE plpgsql AS $$
          BEGIN
            LOOP
              BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END;
            END LOOP;
          END $$"""
SHORT = " -c audit_cdc.rule_timeout=200ms"
TABLE = "CREATE TABLE feed (log_id bigint)"
RULE = "SELECT id AS log_id FROM audit_new_logs"
SLOW = "SELECT slow_since IS NOT NULL FROM audit_projections"


@pytest.fixture
def impatient(db):
    """A session whose own timeout fails the test before a rule ends."""
    return db.connect(options=GUARD + SHORT)


@pytest.mark.parametrize("rule", [ENDLESS, RULE + " WHERE deaf()"])
def test_a_rule_that_takes_too_long_waits(db, impatient, rule):
    db.run(DEAF)
    project(db, table=TABLE, rule=rule)
    assert db.ingest(values("a"), impatient) == (1, 1, 0, 0)
    assert state(db) == (True, 1, 0) and db.value(SLOW)
    # it is not run any more, with whatever limit
    assert db.ingest(values("b", first=1), db.connect(options=GUARD)) == (1, 1, 0, 0)
    assert state(db) == (True, 2, 0)
    db.run("CREATE OR REPLACE FUNCTION deaf() RETURNS boolean LANGUAGE sql AS 'SELECT true'")
    db.run("SELECT audit_alter_projection('feed', %s)", RULE)
    assert db.value("SELECT audit_retry_projection('feed')") == 2
    assert not db.value(SLOW)
    db.ingest(values("c", first=2), impatient)
    assert ids(db) == log_ids(db) and len(ids(db)) == 3


def test_a_trigger_that_takes_too_long_leaves_nothing(db, impatient):
    db.run("CREATE TABLE side (id bigint); CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$"
           "BEGIN INSERT INTO side VALUES (NEW.log_id); PERFORM pg_sleep(3600); RETURN NEW; EXCEPTION WHEN query_canceled THEN RETURN NEW; END $$")
    project(db, table=TABLE, rule=RULE)
    db.run("CREATE TRIGGER wait BEFORE INSERT ON feed FOR EACH ROW EXECUTE FUNCTION wait()")
    assert db.ingest(values("a", "b"), impatient) == (2, 2, 0, 0)
    assert (ids(db), state(db), db.value("SELECT count(*) FROM side")) == ([], (True, 2, 0), 0)


def test_who_waits_by_himself_has_no_limit(db):
    db.ingest(values("a"))
    project(db, table=TABLE, rule=RULE, fill=False)
    db.run("SELECT audit_alter_projection('feed', %s)", "SELECT id AS log_id FROM audit_new_logs, pg_sleep(0.3)")
    session = db.connect(options=SHORT)
    run(session, "SELECT audit_rebuild_projection('feed')")
    assert ids(db) == log_ids(db) and not db.value(SLOW)


def test_the_sessions_own_timeout_still_ends_it(db):
    project(db, table=TABLE, rule=ENDLESS)
    session = db.connect(options="-c statement_timeout=200ms -c audit_cdc.rule_timeout=0")
    assert code(session, "SELECT audit_ingest(%s)", values("a")) == "57014"
    session = db.connect(options="-c statement_timeout=200ms")
    assert code(session, "SELECT audit_ingest(%s)", values("a")) == "57014"
    assert log_ids(db) == [] and not db.value(SLOW)


def test_only_a_superuser_sets_the_limit(roles, db):
    assert code(db.connect(user=roles("audit_cdc_admin")), "SET audit_cdc.rule_timeout = 0") == "42501"


# ------------------------------------------------------------------------------------------------------------------- capture


def raising(state):
    return f"""CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN IF NEW.log_id % 2 = 0 THEN RAISE 'no' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$;
               CREATE TRIGGER fail BEFORE INSERT ON feed FOR EACH ROW EXECUTE FUNCTION fail()"""


@pytest.mark.parametrize("sqlstate", ["P0001", "57014", "XX000", "53200"])
def test_what_a_trigger_raises_does_not_stop_capture(paused, sqlstate):
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")
    project(paused, table=TABLE, rule=RULE)
    paused.run(raising(sqlstate))
    paused.run("INSERT INTO t VALUES (1), (2), (3), (4)")
    assert capture(paused) == 4
    failed = [id_ for id_ in log_ids(paused) if id_ % 2 == 0]
    assert paused.rows("SELECT log_id, sqlstate FROM audit_projection_failures ORDER BY 1") == [(id_, sqlstate) for id_ in failed]
    assert ids(paused) == [id_ for id_ in log_ids(paused) if id_ % 2]
    stop(paused)
    assert status(paused) == []


def test_a_rule_of_several_rows_does_not_stop_capture(paused):
    """21000, for each batch and for no entry too."""
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")
    project(paused, table=TABLE, rule="SELECT (SELECT g FROM generate_series(1, 2) AS g WHERE g > l.id - l.id) AS log_id FROM audit_new_logs AS l")
    paused.run("INSERT INTO t VALUES (1), (2)")
    assert capture(paused) == 2
    assert paused.rows("SELECT sqlstate FROM audit_projection_failures") == [("21000",)] * 2


@pytest.mark.parametrize("rule", [ENDLESS, RULE + " WHERE deaf()"])
def test_a_rule_without_end_does_not_stop_capture(paused, rule):
    admin("ALTER SYSTEM SET audit_cdc.rule_timeout = '200ms'")
    admin("SELECT pg_reload_conf()")
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")
    paused.run(DEAF)
    project(paused, table=TABLE, rule=rule)
    paused.run("INSERT INTO t VALUES (1)")
    session = paused.connect(options=GUARD + SHORT)
    assert run(session, "CALL audit_capture()") == [(1,)]
    assert (logged(paused), state(paused)) == ([1], (True, 1, 0))
    run(session, "CALL audit_capture_stop()")
    assert status(paused) == []
