"""What a rule cannot take, and a rule that is broken altogether: never in the way, listed, and taken after the fix."""

import json
import os

import pytest
from conftest import batch, change
from projection_helpers import FEED, RULE, code, every_entry_once, ids, log_ids, project, roles, run, state, values

VALUE = "new_values ->> 'value'"
FAILURES = "SELECT log_id, sqlstate, retries FROM audit_projection_failures WHERE projection = %s ORDER BY log_id"


def rule(value=VALUE):
    return f"SELECT id AS log_id, table_name, {value} AS value FROM audit_new_logs"


def alter(value):
    return f"SELECT audit_alter_projection('feed', $r${rule(value)}$r$)"


RAISE = """CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN IF NEW.value = 'bad' THEN RAISE {} ; END IF; RETURN NEW; END $$;"""
REFERENCE = "CREATE TABLE ref (value text PRIMARY KEY); INSERT INTO ref VALUES ('1'), ('2'), ('3'); ALTER TABLE feed ADD FOREIGN KEY (value) REFERENCES ref "
PARTED = "DROP TABLE feed; CREATE TABLE feed (n bigserial, log_id bigint, table_name text, value text) PARTITION BY LIST (value); CREATE TABLE part PARTITION OF feed FOR VALUES IN ('1', '2', '3');"
MINE = "INSERT INTO feed (value) VALUES ('bad');"

# what the target is like, the rule's value, SQLSTATE, the fix
ROWS = {
    "cast": ("", f"({VALUE})::int::text", "22P02", alter(VALUE)),
    "division by zero": ("", f"(1 / CASE {VALUE} WHEN 'bad' THEN 0 ELSE 1 END)::text", "22012", alter(VALUE)),
    "too long": ("ALTER TABLE feed ALTER value TYPE varchar(2)", VALUE, "22001", "ALTER TABLE feed ALTER value TYPE varchar(3)"),
    "check": ("ALTER TABLE feed ADD CONSTRAINT c CHECK (value <> 'bad')", VALUE, "23514", "ALTER TABLE feed DROP CONSTRAINT c"),
    "domain": ("CREATE DOMAIN good AS text CONSTRAINT c CHECK (VALUE <> 'bad')", f"({VALUE})::good", "23514", "ALTER DOMAIN good DROP CONSTRAINT c"),
    "not null": ("ALTER TABLE feed ALTER value SET NOT NULL", f"nullif({VALUE}, 'bad')", "23502", "ALTER TABLE feed ALTER value DROP NOT NULL"),
    "unique": (MINE + "ALTER TABLE feed ADD CONSTRAINT u UNIQUE (value)", VALUE, "23505", "DELETE FROM feed WHERE log_id IS NULL"),
    "unique, deferred": (MINE + "ALTER TABLE feed ADD CONSTRAINT u UNIQUE (value) DEFERRABLE INITIALLY DEFERRED", VALUE, "23505", "DELETE FROM feed WHERE log_id IS NULL"),
    "unique, deferrable": (MINE + "ALTER TABLE feed ADD CONSTRAINT u UNIQUE (value) DEFERRABLE", VALUE, "23505", "DELETE FROM feed WHERE log_id IS NULL"),
    "exclusion, deferred": (MINE + "ALTER TABLE feed ADD CONSTRAINT u EXCLUDE USING btree (value WITH =) DEFERRABLE INITIALLY DEFERRED", VALUE, "23P01",
                            "DELETE FROM feed WHERE log_id IS NULL"),
    "reference": (REFERENCE, VALUE, "23503", "INSERT INTO ref VALUES ('bad')"),
    "reference, deferred": (REFERENCE + "DEFERRABLE INITIALLY DEFERRED", VALUE, "23503", "INSERT INTO ref VALUES ('bad')"),
    "reference of a partitioned table, deferred": (PARTED.replace("'3'", "'3', 'bad'") + REFERENCE + "DEFERRABLE INITIALLY DEFERRED", VALUE, "23503", "INSERT INTO ref VALUES ('bad')"),
    "no partition": (PARTED, VALUE, "23514", "CREATE TABLE rest PARTITION OF feed DEFAULT"),
    "too large for an index": ("CREATE INDEX i ON feed (value)", f"CASE {VALUE} WHEN 'bad' THEN (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) AS i) ELSE {VALUE} END",
                               "54000", "DROP INDEX i"),
    "trigger": (RAISE.format("'no'") + "CREATE TRIGGER t BEFORE INSERT ON feed FOR EACH ROW EXECUTE FUNCTION raise()", VALUE, "P0001", "DROP TRIGGER t ON feed"),
    # pgrx knows PostgreSQL's own SQLSTATEs only
    "trigger's own code": (RAISE.format("SQLSTATE 'AB123'") + "CREATE TRIGGER t AFTER INSERT ON feed FOR EACH ROW EXECUTE FUNCTION raise()", VALUE, "XX000", "DROP TRIGGER t ON feed"),
    "constraint trigger, deferred": (RAISE.format("'no'") + "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON feed DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION raise()",
                                     VALUE, "P0001", "DROP TRIGGER t ON feed"),
    "endless recursion": ("CREATE FUNCTION deep(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF v = 'bad' THEN RETURN deep(v); END IF; RETURN v; END $$",
                          f"deep({VALUE})", "54001", "CREATE OR REPLACE FUNCTION deep(v text) RETURNS text LANGUAGE sql AS 'SELECT v'"),
}


@pytest.mark.parametrize("setup, value, sqlstate, fix", ROWS.values(), ids=ROWS.keys())
def test_a_row_that_cannot_be_taken(db, setup, value, sqlstate, fix):
    db.run(FEED)
    db.run(setup or "SELECT")
    db.run("SELECT audit_create_projection('feed', %s, fill => false)", rule(value))
    project(db, "other")
    relay = db.connect()
    assert db.ingest(values("1", "2", "bad", "3"), relay) == (4, 4, 0, 0)
    assert db.ingest(values("1", "2", "bad", "3"), relay) == (4, 0, 4, 0)
    every_entry_once(db, "other")
    mine = "SELECT value FROM feed WHERE log_id IS NOT NULL ORDER BY value"
    assert db.rows(mine) == ([("1",)] * 3 if sqlstate == "22012" else [("1",), ("2",), ("3",)])
    [(log_id, found, retries)] = db.rows(FAILURES, "feed")
    assert (found, retries) == (sqlstate, 0)
    assert db.rows("SELECT new_values ->> 'value' FROM audit_logs WHERE id = %s", log_id) == [("bad",)]
    assert db.rows("""SELECT projection, f.table_schema, f.table_name, f.record_id, f.action, f.commit_timestamp = l.commit_timestamp, reason <> '', last_retried_at IS NULL
                      FROM audit_projection_failures AS f JOIN audit_logs AS l ON id = log_id""") == [("feed", "public", "orders", "1", "insert", True, True, True)]
    assert state(db) == (True, 0, 1) and state(db, "other") == (True, 0, 0)

    for tried in (1, 2):
        assert db.value("SELECT audit_retry_projection('feed')") == 0
        assert db.rows(FAILURES, "feed") == [(log_id, sqlstate, tried)]
    assert db.value("SELECT last_retried_at > since FROM audit_projection_failures")
    db.run(fix)
    if fix.startswith("DELETE"):
        assert db.ingest(values("x", first=9), relay) == (1, 1, 0, 0), "others go on"
    assert db.value("SELECT audit_retry_projection('feed')") == 1
    every_entry_once(db)
    assert db.rows("SELECT * FROM audit_projection_failures") == []
    assert db.value("SELECT audit_retry_projection('feed')") == 0
    db.run("SELECT audit_rebuild_projection('feed')")
    every_entry_once(db)


def test_a_deferred_constraint_whose_name_another_table_shares(db):
    """Names of constraints are unique within a table only."""
    db.run(FEED + "; CREATE TABLE ref (value text PRIMARY KEY); INSERT INTO ref VALUES ('1'); CREATE TABLE namesake (value text)")
    for table in ("feed", "namesake"):
        db.run(f"ALTER TABLE {table} ADD CONSTRAINT fk FOREIGN KEY (value) REFERENCES ref DEFERRABLE INITIALLY DEFERRED")
    db.run("SELECT audit_create_projection('feed', %s)", RULE)
    db.ingest(values("1", "bad", "1"))
    assert db.rows("SELECT value FROM feed") == [("1",), ("1",)]
    assert [sqlstate for _, sqlstate, _ in db.rows(FAILURES, "feed")] == ["23503"]


def test_a_target_that_a_deferred_constraint_refers_to(db):
    """What a rule does is checked at once, so what is referred to is not deleted: the rebuild says so and changes nothing."""
    project(db, table="CREATE TABLE feed (log_id bigint PRIMARY KEY, table_name text, value text)")
    db.ingest(values("a", "b"))
    db.run("CREATE TABLE remark (log_id bigint REFERENCES feed DEFERRABLE INITIALLY DEFERRED); INSERT INTO remark SELECT min(log_id) FROM feed")
    assert code(db.connect(), "SELECT audit_rebuild_projection('feed')") == "23503"
    every_entry_once(db)


def test_many_of_many(db):
    """Isolated one by one, whatever their number and place."""
    project(db, rule=rule(f"({VALUE})::int::text"))
    everything = ["bad" if n % 7 == 0 or 1400 <= n < 1500 else str(n) for n in range(2500)]
    assert db.ingest(batch([change(n, lsn=1000 + n // 100, record={"id": 1, "value": value}) for n, value in enumerate(everything)])) == (2500, 2500, 0, 0)
    good = [int(value) for value in everything if value != "bad"]

    def whole():
        assert db.rows("SELECT value::int FROM feed ORDER BY 1") == [(value,) for value in good]
        assert sorted(ids(db) + [log_id for log_id, *_ in db.rows(FAILURES, "feed")]) == log_ids(db)
    whole()
    assert db.value("SELECT audit_rebuild_projection('feed')") == 2500
    whole()
    assert db.rows("SELECT DISTINCT retries FROM audit_projection_failures") == [(0,)]
    assert db.value("SELECT audit_retry_projection('feed')") == 0
    whole()
    db.run(alter(VALUE))
    assert db.value("SELECT audit_retry_projection('feed')") == 2500 - len(good)
    every_entry_once(db)


def test_the_filling_at_creation_lists_them_too(db):
    db.ingest(values("1", "bad", "3"))
    assert project(db, rule=rule(f"({VALUE})::int::text")) == 3
    assert [sqlstate for _, sqlstate, _ in db.rows(FAILURES, "feed")] == ["22P02"] and len(ids(db)) == 2
    db.run("SELECT audit_disable_projection('feed')")
    db.ingest(values("bad", "5", first=3))
    assert db.value("SELECT audit_enable_projection('feed')") == 2
    assert len(db.rows(FAILURES, "feed")) == 2 and len(ids(db)) == 3


def test_failures_of_a_month_that_is_gone(db):
    """Retention drops whole months: what they took along does not hold back the rest."""
    project(db, rule=rule(f"({VALUE})::int::text"))
    gone = [change(n, record={"id": 1, "value": "bad"}, time="2026-01-01T00:00:00.000000Z") for n in range(1100)]
    db.ingest(batch(gone))
    db.ingest(values("bad", "bad"))
    db.run("SELECT audit_allow_removal(); DROP TABLE audit_cdc_internal.log_2026_01")
    db.run(alter(VALUE))
    assert db.value("SELECT audit_retry_projection('feed')") == 2
    every_entry_once(db)


def test_failures_of_one_large_transaction_are_found_again_without_searching(db):
    """All of its entries have one commit time. A retry reads each a few times at most, not all of them for each."""
    project(db, rule=rule(f"({VALUE})::int::text"))
    for first in range(0, 4000, 1000):
        db.ingest(values(*["bad"] * 1000, first=first))
    db.run(alter(VALUE))
    session = db.connect()
    read = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int FROM pg_stat_user_tables WHERE relname = 'log_2026_03'"
    indexed = "SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE relname = 'log_2026_03'"
    before = [run(session, sql)[0][0] for sql in (read, indexed)]
    assert run(session, "SELECT audit_retry_projection('feed')") == [(4000,)]
    run(session, "SELECT pg_stat_force_next_flush()")
    after = [run(session, sql)[0][0] for sql in (read, indexed)]
    assert max(now - was for now, was in zip(after, before)) < 100 * 4000
    every_entry_once(db)


def test_a_retry_ends_though_others_go_on_ingesting(db):
    """Here one more entry for each that it feeds."""
    project(db, rule=rule(f"({VALUE})::int::text"))
    db.ingest(values("bad", "bad"))
    message = json.dumps(change(0, key="KEY", record={"id": 1, "value": "more"})).replace("%", "%%").replace("KEY", "more %s")
    db.run("""CREATE EXTENSION dblink; CREATE SEQUENCE calls;
              CREATE FUNCTION more(v text) RETURNS text LANGUAGE plpgsql AS $$
              BEGIN
                IF current_setting('application_name') = 'retry' THEN
                  PERFORM * FROM dblink(format('host=%%s dbname=%%s user=postgres', {host}, current_database()),
                                        format('SELECT inserted FROM audit_ingest(%%L)', format({message}, nextval('calls')))) AS d(inserted bigint);
                END IF;
                RETURN v;
              END $$""".format(host="'" + os.environ["PGHOST"] + "'", message="$m$" + message.replace("%", "%%") + "$m$").replace("%%", "%"))
    db.run(alter(f"more({VALUE})"))
    retry = db.connect(application_name="retry", options="-c statement_timeout=10s")
    assert run(retry, "SELECT audit_retry_projection('feed')")[0][0] >= 2
    db.ingest(values("last", first=9))
    every_entry_once(db)


# ---------------------------------------------------------------------------------------------------------- broken altogether

FUNCTION = "CREATE FUNCTION own(v text) RETURNS text LANGUAGE {} AS '{}'"

# before, what breaks it, SQLSTATE, the fix; %(owner)s owns the rule
BROKEN = {
    "column renamed": ("", "ALTER TABLE feed RENAME value TO wert", "42703", "ALTER TABLE feed RENAME wert TO value"),
    "column dropped": ("", "ALTER TABLE feed DROP value", "42703", "ALTER TABLE feed ADD value text"),
    "column of another type": ("", "ALTER TABLE feed ALTER value TYPE int USING 0", "42804", "ALTER TABLE feed ALTER value TYPE text"),
    "column that must be given": ("", "ALTER TABLE feed ADD more int DEFAULT 0 NOT NULL; ALTER TABLE feed ALTER more DROP DEFAULT", "23502", "ALTER TABLE feed ALTER more SET DEFAULT 1"),
    "function dropped": ("", "DROP FUNCTION own", "42883", FUNCTION.format("sql", "SELECT v")),
    "function that fails": ("", "DROP FUNCTION own; " + FUNCTION.format("plpgsql", "BEGIN RAISE; END"), "0Z002", "DROP FUNCTION own; " + FUNCTION.format("sql", "SELECT v")),
    "table of the rule dropped": ("", "DROP TABLE used", "42P01", "CREATE TABLE used (x int); GRANT SELECT ON used TO %(owner)s"),
    "right to insert": ("", "REVOKE INSERT ON feed FROM %(owner)s", "42501", "GRANT INSERT ON feed TO %(owner)s"),
    "right to select": ("", "REVOKE SELECT ON used FROM %(owner)s", "42501", "GRANT SELECT ON used TO %(owner)s"),
    "membership": ("", "REVOKE audit_cdc_reader FROM %(owner)s", "42501", "GRANT audit_cdc_reader TO %(owner)s"),
    "schema": ("CREATE SCHEMA s; GRANT USAGE ON SCHEMA s TO %(owner)s; ALTER TABLE feed SET SCHEMA s; ALTER DATABASE %(database)s SET search_path = public, s",
               "REVOKE USAGE ON SCHEMA s FROM %(owner)s", "42501", "GRANT USAGE ON SCHEMA s TO %(owner)s"),
    "trigger": ("", RAISE.replace("IF NEW.value = 'bad' THEN", "").replace("END IF;", "").format("'no'") + "CREATE TRIGGER t BEFORE INSERT ON feed EXECUTE FUNCTION raise()",
                "P0001", "DROP TRIGGER t ON feed"),
}


def broken(roles, db, before=""):
    """A projection of a role of its own, a relay that has used it, and another projection."""
    names = {"owner": roles("audit_cdc_reader"), "database": db.name}
    db.run(FEED + "; CREATE TABLE used (x int); " + FUNCTION.format("sql", "SELECT v"))
    db.run("GRANT INSERT, SELECT ON feed TO %(owner)s; GRANT SELECT ON used TO %(owner)s; GRANT USAGE ON SEQUENCE feed_n_seq TO %(owner)s" % names)
    db.run(before % names or "SELECT")
    run(db.connect(user=names["owner"]), "SELECT audit_create_projection('feed', %s)", rule(f"own({VALUE})") + " WHERE NOT EXISTS (SELECT FROM used)")
    project(db, "other")
    relay = db.connect()
    db.ingest(values("a"), relay)
    every_entry_once(db, db.value("SELECT target::text FROM audit_projections WHERE name = 'feed'"))
    return names, relay


def ingested_all_the_same(db, relay):
    """By a session that has fed it and one that has not."""
    assert db.ingest(values("b", "c", first=1), relay) == (2, 2, 0, 0)
    assert db.ingest(values("d", first=3)) == (1, 1, 0, 0)
    every_entry_once(db, "other")


@pytest.mark.parametrize("before, breaks, sqlstate, fix", BROKEN.values(), ids=BROKEN.keys())
def test_a_rule_that_is_broken(roles, db, before, breaks, sqlstate, fix):
    names, relay = broken(roles, db, before)
    target = db.value("SELECT target::text FROM audit_projections WHERE name = 'feed'")
    db.run(breaks % names)
    ingested_all_the_same(db, relay)
    assert [found for _, found, _ in db.rows(FAILURES, "feed")] == [sqlstate] * 3
    assert state(db) == (True, 0, 3) and state(db, "other") == (True, 0, 0)
    db.run(fix % names)
    assert db.value("SELECT audit_retry_projection('feed')") == 3
    every_entry_once(db, target)
    assert state(db) == (True, 0, 0)
    db.ingest(values("e", first=4), relay)
    every_entry_once(db, target)


@pytest.mark.parametrize("change_", ["ALTER TABLE feed RENAME TO moved", "CREATE SCHEMA s; ALTER TABLE feed SET SCHEMA s; GRANT USAGE ON SCHEMA s TO %(owner)s; ALTER TABLE s.feed RENAME TO \"Mo ved\"",
                                     "ALTER TABLE feed ADD more int DEFAULT 1", "ALTER ROLE %(owner)s RENAME TO %(owner)s_x"])
def test_what_does_not_concern_it(roles, db, change_):
    names, relay = broken(roles, db)
    db.run(change_ % names)
    target = db.value("SELECT target::text FROM audit_projections WHERE name = 'feed'")
    ingested_all_the_same(db, relay)
    every_entry_once(db, target)
    assert state(db) == (True, 0, 0)
    if "ROLE" in change_:
        db.run("ALTER ROLE %(owner)s_x RENAME TO %(owner)s" % names)


def test_the_rules_owner_is_dropped(roles, db):
    names, relay = broken(roles, db)
    db.run("DROP OWNED BY %(owner)s; DROP ROLE %(owner)s" % names)
    ingested_all_the_same(db, relay)
    assert len(db.rows(FAILURES, "feed")) == 3 and state(db) == (True, 0, 3)
    # nobody becomes its owner: another projection takes its place
    db.run("SELECT audit_drop_projection('feed'); TRUNCATE feed")
    assert db.value("SELECT audit_create_projection('feed', %s)", rule(f"own({VALUE})")) == 4
    every_entry_once(db)


@pytest.mark.parametrize("drop", ["DROP TABLE feed", "ALTER TABLE feed OWNER TO %(owner)s; DROP OWNED BY %(owner)s"])
def test_the_target_is_dropped(roles, db, drop):
    names, relay = broken(roles, db)
    db.run(drop % names)
    ingested_all_the_same(db, relay)
    assert len(db.rows(FAILURES, "feed")) == 3
    for call in ("retry", "disable", "enable", "drop"):
        db.run(f"SELECT audit_{call}_projection('feed')")
    project(db)
    every_entry_once(db)


def test_what_cannot_be_done_without_a_target_says_so(db):
    project(db)
    db.run("DROP TABLE feed")
    assert code(db.connect(), "SELECT audit_rebuild_projection('feed')") == "42P01"
    assert code(db.connect(), "SELECT audit_alter_projection('feed', %s)", RULE) == "42P01"
