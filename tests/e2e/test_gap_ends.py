"""Gaps that DDL begins and ends: where they end, and what else it changes unseen."""

import pytest
from capture_helpers import capture, paused, publish, setting, source, start, stop, table, worker  # noqa: F401 (fixtures)
from conftest import until
from projection_helpers import code, roles, run  # noqa: F401 (fixtures)
from test_as_of import notices


def gaps(db, columns="table_name, reason, to_lsn IS NOT NULL, is_open"):
    return db.rows(f"SELECT {columns} FROM audit_gaps ORDER BY gap_id")


def position(db):
    return db.value("SELECT pg_current_wal_insert_lsn()")


def unpublished(db):
    """A captured server with the table w, that is not published any more."""
    db.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")
    db.run("CREATE TABLE w (id int PRIMARY KEY, v text); ALTER TABLE w REPLICA IDENTITY FULL")
    db.run("ALTER PUBLICATION audited ADD TABLE w; INSERT INTO w VALUES (1)")
    db.run("ALTER PUBLICATION audited DROP TABLE w")
    capture(db)
    assert gaps(db)[-1] == ("w", "not published", False, True)


LAST = "SELECT from_lsn, to_lsn FROM audit_gaps WHERE table_name = 'w' ORDER BY gap_id DESC LIMIT 1"


# --- where it ends


def test_it_ends_at_the_commit(paused):
    unpublished(paused)
    adding = paused.connect()
    run(adding, "BEGIN; ALTER PUBLICATION audited ADD TABLE w")
    paused.run("INSERT INTO w VALUES (2)")
    missing = position(paused)
    capture(paused)
    assert paused.rows(LAST)[0][1] is None, "it is not committed"
    run(adding, "COMMIT")
    after = position(paused)
    paused.run("INSERT INTO w VALUES (3)")
    assert capture(paused) == 1
    assert paused.value("SELECT to_lsn > %s AND to_lsn <= %s FROM audit_gaps WHERE table_name = 'w'", missing, after)


def test_it_waits_for_who_has_written_before(paused):
    """What they wrote is not captured, however late they commit."""
    unpublished(paused)
    writer, other = paused.connect(), paused.connect()
    run(other, "BEGIN; INSERT INTO t VALUES (7)")
    run(writer, "BEGIN; INSERT INTO w VALUES (2)")
    paused.run("ALTER PUBLICATION audited ADD TABLE w; INSERT INTO w VALUES (3)")
    assert capture(paused) == 1
    assert paused.rows(LAST)[0][1] is None
    run(writer, "COMMIT")
    missing = position(paused)
    capture(paused)
    assert paused.value("SELECT to_lsn >= %s FROM audit_gaps WHERE table_name = 'w'", missing), "whatever others do"
    paused.run("INSERT INTO w VALUES (4)")
    paused.run("CALL audit_backfill('w')")
    assert gaps(paused)[-1] == ("w", "not published", True, False)
    run(other, "ROLLBACK")


def test_a_backfill_begins_before_capture_finds_the_end(paused):
    unpublished(paused)
    other = paused.connect()
    run(other, "BEGIN; INSERT INTO t VALUES (7)")
    paused.run("ALTER PUBLICATION audited ADD TABLE w")
    paused.run("CALL audit_backfill('w')")
    assert gaps(paused)[-1] == ("w", "not published", True, False)
    run(other, "ROLLBACK")


def test_an_end_that_others_took_from_the_slot(paused):
    unpublished(paused)
    paused.run("ALTER PUBLICATION audited ADD TABLE w")
    paused.run("SELECT pg_replication_slot_advance(slot_name, pg_current_wal_flush_lsn()) FROM pg_replication_slots WHERE database = current_database()")
    capture(paused)
    capture(paused)
    paused.run("CALL audit_backfill()")
    assert not any(row[3] for row in gaps(paused)), gaps(paused)


def test_an_old_snapshot_ends_it_too(paused):
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")
    paused.run("CREATE TABLE w (id int PRIMARY KEY, v text); ALTER PUBLICATION audited ADD TABLE w")
    old = paused.connect()
    run(old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    paused.run("ALTER PUBLICATION audited DROP TABLE w")
    run(old, "ALTER PUBLICATION audited ADD TABLE w; COMMIT")
    capture(paused)
    assert gaps(paused)[-1] == ("w", "not published", True, True)


def test_an_old_snapshot_does_not_hide_that_it_begins_again(paused):
    unpublished(paused)
    old = paused.connect()
    run(old, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    paused.run("ALTER PUBLICATION audited ADD TABLE w")
    capture(paused)
    run(old, "ALTER PUBLICATION audited DROP TABLE w; COMMIT")
    capture(paused)
    assert gaps(paused, "reason, to_lsn IS NOT NULL")[-2:] == [("not published", True), ("not published", False)]


def test_a_gap_begins_again_before_capture_has_found_its_end(paused):
    unpublished(paused)
    paused.run("ALTER PUBLICATION audited ADD TABLE w; ALTER PUBLICATION audited DROP TABLE w")
    capture(paused)
    assert gaps(paused, "reason, to_lsn IS NOT NULL")[-2:] == [("not published", True), ("not published", False)]


# --- tables that are gone


@pytest.mark.parametrize("drop", ["DROP TABLE w", "ALTER TABLE w SET SCHEMA s; DROP SCHEMA s CASCADE"])
def test_a_dropped_table_misses_nothing(paused, drop):
    unpublished(paused)
    paused.run(f"CREATE SCHEMA s; {drop}")
    capture(paused)
    assert gaps(paused, "to_lsn IS NOT NULL, is_open, closed_at IS NOT NULL, closed_by, open_tables")[-1] == (True, False, True, None, None)
    paused.run("CREATE TABLE w (id int PRIMARY KEY, v text); ALTER PUBLICATION audited ADD TABLE w; INSERT INTO w VALUES (5)")
    capture(paused)
    assert "may miss" not in notices(paused, "SELECT audit_as_of('w')")


def test_a_table_that_is_dropped_while_nothing_is_captured(paused):
    unpublished(paused)
    stop(paused)
    paused.run("DROP TABLE w")
    paused.run("SELECT audit_capture_start('audited')")
    capture(paused)
    assert ("w", "not published", True, False) in gaps(paused)


def test_a_rule_makes_a_view_of_a_table(paused):
    if paused.connect().server_version >= 160000:
        pytest.skip("on PostgreSQL 15 only")
    paused.run("CREATE TABLE w (id int, v text); INSERT INTO w VALUES (1)")
    capture(paused)
    paused.run("""TRUNCATE w; CREATE RULE "_RETURN" AS ON SELECT TO w DO INSTEAD SELECT 1 AS id, 'x'::text AS v""")
    assert paused.rows("SELECT command_tag, table_name, after IS NULL FROM audit_schema_changes ORDER BY id DESC LIMIT 1") \
        == [("CREATE RULE", "w", True)]


# --- rows that say something else


REWRITTEN = [("t", "rewritten")]


@pytest.mark.parametrize("sql", [
    "ALTER TABLE t DROP v; ALTER TABLE t ADD v text DEFAULT 'forged'", "ALTER TABLE t DROP v, ADD v text",
    "ALTER TABLE t DROP v; ALTER TABLE t ADD w text; ALTER TABLE t RENAME w TO v",
    "ALTER TABLE t ADD w text; ALTER TABLE t RENAME v TO x; ALTER TABLE t RENAME w TO v",
    "ALTER TYPE level RENAME VALUE 'low' TO 'high'", "ALTER TYPE pair ADD ATTRIBUTE c int",
    "ALTER TYPE pair DROP ATTRIBUTE b", "ALTER TABLE other ADD c int", "ALTER TABLE other DROP b"])
def test_what_rows_say_becomes_another(source, sql):
    source.run("""CREATE TYPE level AS ENUM ('low'); CREATE DOMAIN few AS level[]; CREATE TYPE pair AS (a int, b int);
        CREATE TABLE other (a int, b int)""")
    table(source, columns="id int PRIMARY KEY, v text, l few, p pair[], o other")
    publish(source, "TABLE t")
    start(source)
    source.run("""INSERT INTO t VALUES (1, 'a', '{low}', '{"(1,2)"}', '(1,2)')""")
    source.run(sql)
    until(lambda: gaps(source) == [("t", "rewritten", True, True)])
    source.run("CALL audit_backfill('t')")
    assert gaps(source, "is_open") == [(False,)]


@pytest.mark.parametrize("sql", [
    "ALTER TYPE level ADD VALUE 'high'", "ALTER TYPE pair RENAME ATTRIBUTE a TO c", "ALTER TYPE level RENAME TO levels",
    "ALTER TABLE t ADD w text DEFAULT 'x'", "ALTER TABLE t RENAME v TO w; ALTER TABLE t RENAME w TO v",
    "ALTER TABLE t DROP v", "ALTER TABLE other ALTER a SET STATISTICS 7", "ALTER DOMAIN few SET DEFAULT '{}'"])
def test_what_rows_say_stays(source, sql):
    source.run("""CREATE TYPE level AS ENUM ('low'); CREATE DOMAIN few AS level[]; CREATE TYPE pair AS (a int, b int);
        CREATE TABLE other (a int, b int)""")
    table(source, columns="id int PRIMARY KEY, v text, l few, p pair[], o other")
    publish(source, "TABLE t")
    start(source)
    source.run("""INSERT INTO t VALUES (1, 'a', '{low}', '{"(1,2)"}', '(1,2)')""")
    source.run(sql)
    capture(source)
    assert gaps(source) == []


# --- what else is said


def test_who_ends_a_capture_by_its_inside_is_told_to_discard(roles, paused):
    paused.run("INSERT INTO t VALUES (1)")
    admin = paused.connect(user=roles("audit_cdc_admin"))
    run(admin, "SELECT audit_cdc_internal.begin_to_stop(); SELECT audit_cdc_internal.end_capture()")
    assert gaps(paused, "reason") == [("discarded",)]


def test_reading_tells_a_fault_that_nobody_has_noted(paused):
    paused.run("INSERT INTO t VALUES (1)")
    capture(paused)
    paused.run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
    assert gaps(paused, "gap_id, reason") == [(None, "slot missing")]
    assert "not noted yet (slot missing)" in notices(paused, "SELECT audit_as_of('t')")


def test_generated_columns_that_are_published_no_more(source):
    if source.connect().server_version < 180000:
        pytest.skip("from PostgreSQL 18 on")
    table(source, columns="id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id + 1) STORED")
    publish(source, "TABLE t")
    start(source)
    source.run("ALTER TABLE t REPLICA IDENTITY DEFAULT; ALTER PUBLICATION audited SET (publish_generated_columns = none)")
    until(lambda: gaps(source) == [("t", "partly published", False, True)])
    source.run("ALTER PUBLICATION audited SET (publish_generated_columns = stored)")
    until(lambda: gaps(source) == [("t", "partly published", True, True)])
    source.run("ALTER PUBLICATION audited SET (publish_generated_columns = none)")
    until(lambda: len(gaps(source)) == 2)
    source.run("ALTER TABLE t DROP g")
    until(lambda: all(row[2] for row in gaps(source)))
