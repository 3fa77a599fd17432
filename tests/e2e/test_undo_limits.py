"""Undo where the log does not tell all: it says so, and does nothing. And what must not be taken for the row that is meant."""

import threading

from capture_helpers import capture, publish, source, start, table  # noqa: F401 (fixtures)
from conftest import admin, until
from projection_helpers import run
from test_undo import committed, undone


def captured(source, sql, publication):
    source.run(sql)
    publish(source, publication)
    start(source)
    return source


def lsn_now(db):
    return db.value("SELECT pg_current_wal_insert_lsn()::text")


def back(db, key, lsn, call="undo"):
    return undone(db, call, table_name="t", key=key, lsn=lsn)


def test_partitions_number_their_rows_each_by_itself(source):
    parts = "CREATE TABLE p1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF t FOR VALUES IN (2);"
    source.run(f"CREATE TABLE t (a int, v text) PARTITION BY LIST (a); {parts}" + "".join(f"ALTER TABLE {name} REPLICA IDENTITY FULL;" for name in ("t", "p1", "p2")))
    source.run("CREATE PUBLICATION audited FOR TABLE t WITH (publish_via_partition_root = true)")
    start(source)
    committed(source, "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    lsn = committed(source, "INSERT INTO t VALUES (1, 'new')")
    committed(source, "INSERT INTO t VALUES (2, 'precious')")
    assert undone(source, commit_lsn=lsn) == ["undone"]
    assert source.rows("SELECT * FROM t ORDER BY 1, 2") == [(1, "a"), (2, "b"), (2, "precious")]


def test_what_is_not_published_is_not_made_up(source):
    db = captured(source, "CREATE TABLE t (id int PRIMARY KEY, a int, secret text); CREATE TABLE f (id int PRIMARY KEY, pub boolean); ALTER TABLE f REPLICA IDENTITY FULL", "TABLE t (id, a), f WHERE (pub)")
    db.run("INSERT INTO t VALUES (1, 1, 's'); INSERT INTO f VALUES (1, false)")
    committed(db, "UPDATE t SET a = 2")
    before = lsn_now(db)
    lsn = committed(db, "DELETE FROM t")
    unknown = "values of secret unknown: they are not published"
    assert undone(db, commit_lsn=lsn, despite_conflicts=True) == [unknown] and db.rows("SELECT * FROM t") == []
    committed(db, "INSERT INTO t VALUES (1, 5, 'x')")
    assert back(db, "1", before) == [unknown] and db.rows("SELECT * FROM t") == [(1, 5, "x")]
    lsn = committed(db, "UPDATE f SET pub = true")
    assert undone(db, commit_lsn=lsn) == ["undone"] and db.rows("SELECT * FROM f") == [(1, False)]


def test_a_moment_before_a_gap(source):
    db = captured(source, "CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY FULL", "TABLE t")
    committed(db, "INSERT INTO t VALUES (1, 1), (3, 1)")
    moment = lsn_now(db)
    db.run("CALL audit_capture_stop()")
    db.run("UPDATE t SET v = 2 WHERE id = 1; DELETE FROM t WHERE id = 3")
    start(db)
    committed(db, "UPDATE t SET v = 3 WHERE id = 1", "INSERT INTO t VALUES (3, 9)")
    for key in ("1", "3"):
        assert back(db, key, moment) == ["a gap: its next change does not follow"]
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, 3), (3, 9)]


def test_columns_that_came_or_got_another_name(source):
    db = captured(source, "CREATE TABLE t (id int PRIMARY KEY, a int, x int)", "TABLE t")
    committed(db, "INSERT INTO t VALUES (1, 1, 1)")
    moment = lsn_now(db)
    committed(db, "UPDATE t SET a = 2, x = 2")
    committed(db, "ALTER TABLE t ADD COLUMN c int DEFAULT 5")
    committed(db, "UPDATE t SET c = 7")
    assert back(db, "1", moment) == ["old value of c unknown"]
    db.run("ALTER TABLE t RENAME x TO y")
    committed(db, "UPDATE t SET a = 3")
    assert back(db, "1", moment) == ["old value of c, y unknown"] and db.rows("SELECT id, a, y, c FROM t") == [(1, 3, 2, 7)]


def test_a_truncate_of_a_row_that_is_not_known_whole(source):
    db = captured(source, "CREATE TABLE t (id int PRIMARY KEY, a int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL; INSERT INTO t VALUES (1, 1, repeat('x', 3000))", "TABLE t")
    committed(db, "UPDATE t SET a = 2")
    moment = lsn_now(db)
    committed(db, "TRUNCATE t")
    assert db.rows("SELECT action, unknown_old_columns FROM audit_history('t', '1') OFFSET 1") == [("truncate", ["big"])]
    assert back(db, "1", moment) == ["old value of big unknown"] and db.rows("SELECT * FROM t") == []


def test_settings_of_the_session_and_what_comes_after_in_its_transaction(source):
    db = captured(source, "CREATE TABLE t (id int PRIMARY KEY, a text[]); ALTER TABLE t REPLICA IDENTITY FULL", "TABLE t")
    committed(db, "INSERT INTO t VALUES (1, '{NULL,a}')")
    lsn = committed(db, "UPDATE t SET a = NULL")
    session = db.connect()
    run(session, "SET array_nulls = off")
    run(session, "BEGIN")
    run(session, "SELECT audit_annotate(username => 'ada', metadata => '{\"why\": 1}', extra => '{\"tenant\": 7}')")
    assert run(session, "SELECT outcome FROM audit_undo(commit_lsn => %s)", lsn) == [("undone",)]
    run(session, "INSERT INTO t VALUES (2, NULL)")
    run(session, "COMMIT")
    capture(db)
    assert db.rows("SELECT a FROM t ORDER BY id") == [([None, "a"],), (None,)]
    assert [row for (row,) in db.rows("SELECT annotations FROM audit_logs ORDER BY commit_lsn DESC, commit_idx LIMIT 2")] == [
        {"username": "ada", "tenant": 7, "metadata": {"why": 1, "undo": {"commit_lsn": lsn}}}, {"username": "ada", "tenant": 7, "metadata": {"why": 1}}]


def test_a_row_that_somebody_begins_to_refer_to_just_then(source):
    db = captured(source, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE); ALTER TABLE t REPLICA IDENTITY FULL", "TABLE t, child")
    lsn = committed(db, "INSERT INTO t VALUES (1)")
    other, outcomes = db.connect(), []
    run(other, "BEGIN")
    run(other, "INSERT INTO child VALUES (10, 1)")
    undoing = threading.Thread(daemon=True, target=lambda: outcomes.extend(db.rows("SELECT outcome FROM audit_undo(commit_lsn => %s)", lsn)))
    undoing.start()
    until(lambda: db.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"))
    run(other, "COMMIT")
    undoing.join(30)
    assert outcomes == [("conflict: the row was changed since, or others refer to it",)] and db.rows("SELECT * FROM child") == [(10, 1)]


def test_a_publication_that_leaves_out_changes(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION audited FOR TABLE t WITH (publish = 'insert, update')")
    session = source.connect()
    run(session, "SELECT audit_capture_start('audited')")
    assert "not all changes are published" in "".join(session.notices) and "Not published: DELETE, TRUNCATE." in "".join(session.notices)


def test_constraints_that_the_caller_cannot_name(source):
    """Those of others wait for the end of the transaction too, as far as the caller may set them."""
    db = captured(source, "CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY FULL", "TABLE t")
    lsn = committed(db, "INSERT INTO t VALUES (1, 1)")
    db.run("CREATE SCHEMA closed; CREATE TABLE closed.t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
    other = db.connect()
    run(other, "CREATE TEMP TABLE own (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
    admin("DROP ROLE IF EXISTS clerk")
    admin("CREATE ROLE clerk LOGIN IN ROLE audit_cdc_reader")
    try:
        db.run("GRANT SELECT, UPDATE, DELETE ON t TO clerk")
        assert run(db.connect(user="clerk"), "SELECT outcome FROM audit_undo(commit_lsn => %s, preview => true)", lsn) == [("could be undone",)]
        assert undone(db, commit_lsn=lsn) == ["undone"]
    finally:
        db.run("DROP OWNED BY clerk; DROP ROLE clerk")
