"""Partitioned tables: what is missing of a root, where changes of its partitions do not come by."""

import pytest
from capture_helpers import capture, paused, publish, setting, source, start, stop, worker  # noqa: F401 (fixtures)
from conftest import until
from test_as_of import notices

RANGE = "CREATE TABLE {0} PARTITION OF p FOR VALUES FROM ({1}) TO ({2})"
FIRST, SECOND = RANGE.format("p1", 0, 10), RANGE.format("p2", 10, 20)


def gaps(db, columns="table_name, reason, detail, to_lsn IS NOT NULL, is_open"):
    return db.rows(f"SELECT {columns} FROM audit_gaps ORDER BY gap_id")


def as_of(db, table="p"):
    return sorted(row["id"] for (row,) in db.rows("SELECT audit_as_of(%s)", table))


def make(db, via_root, *partitions, key="PRIMARY KEY"):
    db.run(f"CREATE TABLE p (id int {key}, v text) PARTITION BY RANGE (id)")
    for partition in partitions:
        db.run(partition)
    db.run(f"CREATE PUBLICATION audited FOR TABLE p WITH (publish_via_partition_root = {via_root})")
    start(db)
    setting(enabled="off")
    until(lambda: worker(db, "state = 'idle'"))


# --- TRUNCATE


def test_a_partition_of_a_table_that_is_published_as_one_is_truncated(source):
    """Who did it is told under the partition's name. Which rows of the root went is not known until a backfill."""
    make(source, "on", FIRST, SECOND)
    source.run("INSERT INTO p VALUES (1), (11)")
    source.run("BEGIN; SELECT audit_annotate('ada'); TRUNCATE p1; INSERT INTO p VALUES (2); COMMIT")
    assert capture(source) == 4
    told = source.rows("SELECT action, table_name, username FROM audit_logs ORDER BY commit_lsn, commit_idx")
    assert told[2:] == [("truncate", "p1", "ada"), ("insert", "p", "ada")]
    assert gaps(source) == [("p", "partition truncated", "p1", True, True)]
    commit = source.value("SELECT commit_lsn FROM audit_logs WHERE action = 'truncate'")
    assert source.rows("SELECT from_lsn - '0/0', to_lsn - '0/0' FROM audit_gaps") == [(commit, commit + 1)]
    assert as_of(source) == [1, 2, 11] and "may miss changes of this table" in notices(source, "SELECT audit_as_of('p')")
    source.run("CALL audit_backfill('p')")
    assert as_of(source) == [2, 11] and gaps(source, "is_open") == [(False,)]


def test_a_truncated_partition_is_said_once(source):
    make(source, "on", FIRST)
    source.run("INSERT INTO p VALUES (1); TRUNCATE p1")
    source.run("BEGIN; SELECT count(*) FROM audit_cdc_internal.capture_pass(1000000, true); COMMIT")  # and the slot stays
    assert capture(source) == 0
    assert gaps(source) == [("p", "partition truncated", "p1", True, True)]


def test_what_is_truncated_with_its_root_is_no_gap(source):
    make(source, "on", "CREATE TABLE m PARTITION OF p FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id)",
         "CREATE TABLE m1 PARTITION OF m DEFAULT", SECOND)
    source.run("INSERT INTO p VALUES (1), (11); TRUNCATE p; INSERT INTO p VALUES (2)")
    capture(source)
    assert source.rows("SELECT table_name FROM audit_logs WHERE action = 'truncate'") == [("p",)]
    assert gaps(source) == [] and as_of(source) == [2]
    source.run("TRUNCATE m; TRUNCATE m1, p2")
    capture(source)
    assert source.rows("SELECT table_name FROM audit_logs WHERE action = 'truncate' ORDER BY commit_lsn, table_name") \
        == [("p",), ("m",), ("m1",), ("p2",)]
    assert gaps(source, "table_name, detail") == [("p", "m"), ("p", "m1"), ("p", "p2")]


def test_what_an_excluded_root_loses_is_no_gap(source):
    make(source, "on", FIRST)
    source.run("SELECT audit_exclude_table('p', 'a test')")
    source.run("INSERT INTO p VALUES (1); TRUNCATE p1")
    assert capture(source) == 0 and gaps(source) == []


def test_a_truncate_that_is_not_published(source):
    make(source, "on", FIRST)
    source.run("ALTER PUBLICATION audited SET (publish = 'insert, update, delete')")
    source.run("INSERT INTO p VALUES (1); TRUNCATE p1")
    assert capture(source) == 1
    assert gaps(source, "table_name, reason") == [("p", "partly published")]


# --- partitions whose changes do not come by


UNLOGGED = SECOND.replace("CREATE TABLE", "CREATE UNLOGGED TABLE")
FOREIGN = ("CREATE EXTENSION IF NOT EXISTS file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; "
           + SECOND.replace("CREATE TABLE", "CREATE FOREIGN TABLE") + " SERVER files OPTIONS (filename '/dev/null')")
LOST = [(UNLOGGED, "unlogged", "DROP TABLE p2"), (UNLOGGED, "unlogged", "ALTER TABLE p DETACH PARTITION p2"),
        (UNLOGGED, "unlogged", "ALTER TABLE p2 SET LOGGED"), (FOREIGN, "foreign", "DROP FOREIGN TABLE p2"),
        (FOREIGN, "foreign", "DROP SERVER files CASCADE")]


@pytest.mark.parametrize("there_at_start", [True, False])
@pytest.mark.parametrize("create, reason, end", LOST)
def test_changes_of_a_partition_that_are_not_in_the_wal(source, create, reason, end, there_at_start):
    """As long as it is there, changes of the root are missing."""
    # a unique index has no place in a foreign table
    make(source, "on", *([FIRST, create] if there_at_start else [FIRST]), key="" if reason == "foreign" else "PRIMARY KEY")
    if not there_at_start:
        source.run(create)
    capture(source)
    assert gaps(source) == [("p", reason, "p2", False, True)]
    source.run("CALL audit_backfill('p')")
    assert gaps(source) == [("p", reason, "p2", False, True)]
    source.run(end)
    capture(source)
    assert gaps(source) == [("p", reason, "p2", True, True)]
    source.run("CALL audit_backfill('p')")
    assert gaps(source, "is_open") == [(False,)]


def test_an_unlogged_partition_that_is_captured_under_its_own_name(source):
    make(source, "off", FIRST, UNLOGGED)
    assert gaps(source) == [("p2", "unlogged", "audit_capture_start", False, True)]
    source.run("ALTER TABLE p1 SET UNLOGGED")
    assert gaps(source, "table_name, reason") == [("p2", "unlogged"), ("p1", "unlogged")]
    source.run("ALTER TABLE p1 SET LOGGED; DROP TABLE p2")
    capture(source)
    assert gaps(source, "table_name, to_lsn IS NOT NULL, is_open") == [("p2", True, False), ("p1", True, True)]


def test_a_partition_of_a_root_becomes_unlogged(source):
    make(source, "on", FIRST)
    source.run("INSERT INTO p VALUES (1); ALTER TABLE p1 SET UNLOGGED; INSERT INTO p VALUES (2)")
    assert gaps(source) == [("p", "unlogged", "p1", False, True)]
    source.run("ALTER TABLE p1 SET LOGGED")
    capture(source)
    assert gaps(source) == [("p", "unlogged", "p1", True, True)]


def test_a_root_that_is_excluded_while_it_gets_such_a_partition(source):
    make(source, "on", FIRST)
    source.run("SELECT audit_exclude_table('p', 'a test')")
    source.run(UNLOGGED)
    assert gaps(source) == []
    source.run("SELECT audit_include_table('p', 'a test')")
    assert gaps(source, "table_name, reason, detail, to_lsn IS NULL") == [
        ("p", "excluded", None, False), ("p", "unlogged", "p2", True)]


def test_unlogged_tables_that_are_nobodys_partition(source):
    make(source, "on", FIRST)
    source.run("CREATE UNLOGGED TABLE u (id int); CREATE TABLE q (id int) PARTITION BY LIST (id)")
    source.run("CREATE UNLOGGED TABLE q1 PARTITION OF q DEFAULT")
    assert gaps(source) == []


# --- under another name


def test_names_change_with_the_publication(source):
    """Nothing is missing; who asks by the name that is not used now is told."""
    make(source, "off", FIRST)
    source.run("INSERT INTO p VALUES (1)")
    source.run("ALTER PUBLICATION audited SET (publish_via_partition_root = true); INSERT INTO p VALUES (2)")
    assert capture(source) == 2 and gaps(source) == []
    assert "logged under another name" in notices(source, "SELECT audit_as_of('p1')")
    assert "another name" not in notices(source, "SELECT audit_as_of('p')")
    source.run("ALTER PUBLICATION audited SET (publish_via_partition_root = false); INSERT INTO p VALUES (3)")
    assert capture(source) == 1
    # that name was not used meanwhile
    assert gaps(source) == [("p1", "renamed", "public.p1", True, True)]
    assert "logged under another name" in notices(source, "SELECT audit_as_of('p')")
    source.run("CALL audit_backfill('p1')")
    assert as_of(source, "p1") == [1, 2, 3] and gaps(source, "is_open") == [(False,)]
