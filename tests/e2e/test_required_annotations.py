"""Tables whose changes must be annotated, and what came without."""

import threading

import psycopg2
import pytest
from capture_helpers import paused, source  # noqa: F401 (fixtures)
from conftest import admin, until

VIOLATION = psycopg2.errors.IntegrityConstraintViolation


@pytest.fixture
def required(db):
    db.run("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT audit_require_annotation('t', '{username,request_id}')")
    return db


def session(db, *statements, **options):
    with db.connect(**options) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


WRITES = ["INSERT INTO t VALUES (2, 'b')", "UPDATE t SET v = 'c'", "DELETE FROM t", "TRUNCATE t", "MERGE INTO t USING (SELECT 1) AS n ON true WHEN MATCHED THEN DELETE"]


@pytest.mark.parametrize("write", WRITES)
def test_what_nobody_annotates_is_refused(required, write):
    session(required, "SELECT audit_annotate(username => 'ada', request_id => 'r1')", "INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(VIOLATION) as refused:
        session(required, "SELECT audit_annotate(username => 'ada')", write)
    assert refused.value.diag.message_primary == 'a change of table "t" must be annotated'
    assert refused.value.diag.message_detail == "The transaction does not say: request_id."
    session(required, "SELECT audit_annotate(username => 'ada', request_id => 'r2')", write)


def test_settings_annotate_as_well(required):
    session(required, "SET LOCAL audit_cdc.username = 'ada'", "SET LOCAL audit_cdc.request_id = 'r1'", "INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(VIOLATION):
        session(required, "SET LOCAL audit_cdc.username = 'ada'", "SET LOCAL audit_cdc.request_id = ''", "INSERT INTO t VALUES (2, 'a')")


def test_what_is_said_too_late_or_taken_back_does_not_count(required):
    said = "SELECT audit_annotate(username => 'ada', request_id => 'r1')"
    for statements in [("INSERT INTO t VALUES (1, 'a')", said), (said, "SELECT audit_annotate_clear()", "INSERT INTO t VALUES (1, 'a')"),
                       ("SAVEPOINT s", said, "ROLLBACK TO s", "INSERT INTO t VALUES (1, 'a')"),
                       ("SELECT set_config('audit_annotate.in_force', pg_current_xact_id() || ' {\"username\": \"e\", \"request_id\": \"e\"}', true)",
                        "INSERT INTO t VALUES (1, 'a')")]:
        with pytest.raises(VIOLATION):
            session(required, *statements)


SAID = "audit_annotate(username => 'x', request_id => 'y')"
LATE = ["INSERT INTO t VALUES (2, 'b') RETURNING " + SAID, "UPDATE t SET v = 'c' RETURNING " + SAID, "DELETE FROM t RETURNING " + SAID,
        "WITH n AS (INSERT INTO t VALUES (3, 'c') RETURNING 1) SELECT " + SAID + " FROM n",
        "INSERT INTO t VALUES (2, 'b') RETURNING set_config('audit_cdc.username', 'x', true), set_config('audit_cdc.request_id', 'y', true)"]


@pytest.mark.parametrize("write", LATE)
def test_what_the_statement_says_after_its_row_does_not_count(required, write):
    session(required, "SELECT " + SAID, "INSERT INTO t VALUES (1, 'a')")
    with pytest.raises(VIOLATION):
        session(required, write)


def test_what_a_row_is_computed_from_may_say_it(required):
    session(required, f"INSERT INTO t SELECT 1, a ->> 'username' FROM (SELECT {SAID} AS a) AS n")


def test_what_changes_nothing_needs_nothing(required):
    session(required, "UPDATE t SET v = 'b'", "DELETE FROM t", "SELECT * FROM t")


def test_partitions(db):
    db.run("""CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9);
              SELECT audit_require_annotation('p'); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (19)""")
    for write in ["INSERT INTO p VALUES (1)", "INSERT INTO p1 VALUES (1)", "INSERT INTO p2 VALUES (11)", "TRUNCATE p", "TRUNCATE p1"]:
        with pytest.raises(VIOLATION):
            db.run(write)
    db.run("SELECT audit_require_annotation('p', '{}')")
    db.run("INSERT INTO p VALUES (1), (11); TRUNCATE p; INSERT INTO p1 VALUES (1); TRUNCATE p1")


def test_only_an_admin_that_owns_the_table_decides(required):
    role = required.name + "_eve"
    admin(f"CREATE ROLE {role} LOGIN")
    try:
        required.run(f"CREATE TABLE mine (id int); ALTER TABLE mine OWNER TO {role}")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            session(required, "SELECT audit_require_annotation('mine')", user=role)
        required.run(f"GRANT audit_cdc_admin TO {role}")
        session(required, "SELECT audit_require_annotation('mine')", user=role)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            session(required, "SELECT audit_require_annotation('t', '{}')", user=role)
        with pytest.raises(VIOLATION):
            session(required, "INSERT INTO mine VALUES (1)", user=role)
    finally:
        required.run(f"DROP OWNED BY {role}")
        admin(f"DROP ROLE {role}")


@pytest.mark.parametrize("arguments, state", [("NULL", "22004"), ("'t', NULL", "22004"), ("'t', ARRAY[NULL]", "22004"), ("'pg_stat_activity'", "42809")])
def test_errors(required, arguments, state):
    with pytest.raises(psycopg2.Error) as refused:
        required.run(f"SELECT audit_require_annotation({arguments})")
    assert refused.value.pgcode == state


def test_what_came_without(paused):
    session(paused, "INSERT INTO t VALUES (1, 'a')")
    session(paused, "SELECT audit_annotate(username => 'ada')", "INSERT INTO t VALUES (2, 'b')")
    session(paused, "SELECT audit_annotate(username => 'ada', request_id => 'r1')", "INSERT INTO t VALUES (3, 'c')")
    paused.run("CALL audit_capture()")
    found = "SELECT record_id FROM audit_unannotated(now() - interval '1 hour'{})"
    assert paused.rows(found.format("")) == [("1",)]
    assert paused.rows(found.format(", '{username,request_id}'")) == [("2",), ("1",)]
    assert paused.rows("SELECT FROM audit_unannotated(now() + interval '1 hour')") == []
    session(paused, "SELECT audit_annotate(username => '')", "INSERT INTO t VALUES (4, 'd')")
    session(paused, "SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', '{\"username\": \"eve\"}')", "INSERT INTO t VALUES (5, 'e')")
    paused.run("CALL audit_capture()")
    assert paused.rows(found.format(", '{username}'")) == [("5",), ("4",), ("1",)]


def test_the_table_that_is_meant_gets_the_trigger(required):
    """Not the one that has its name when the admin's own lock is let go."""
    role = required.name + "_eve"
    admin(f"CREATE ROLE {role} LOGIN IN ROLE audit_cdc_admin")
    try:
        required.run(f"CREATE SCHEMA s AUTHORIZATION {role}; CREATE SCHEMA other AUTHORIZATION {role}; CREATE TABLE s.t (id int); ALTER TABLE s.t OWNER TO {role}")
        required.run(f"CREATE TABLE other.t (id int); SELECT audit_require_annotation('other.t'); GRANT CREATE ON DATABASE {required.name} TO {role}")
        with required.connect(user=role) as holding, required.connect(user=role) as asking, holding.cursor() as held, asking.cursor() as asked:
            held.execute("BEGIN; LOCK TABLE s.t IN ACCESS EXCLUSIVE MODE")
            thread = threading.Thread(target=asked.execute, args=("SELECT audit_require_annotation('s.t', '{source}')",), daemon=True)
            thread.start()
            until(lambda: required.value("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", asking.info.backend_pid))
            held.execute("ALTER SCHEMA s RENAME TO gone; ALTER SCHEMA other RENAME TO s; COMMIT")
            thread.join(60)
        required_of = "SELECT encode(tgargs, 'escape') FROM pg_trigger WHERE tgrelid = '{}'::regclass AND tgname = 'audit_unannotated'"
        assert required.rows(required_of.format("s.t")) == [("username\\000",)]
        assert required.rows(required_of.format("gone.t")) == [("source\\000",)]
    finally:
        required.run(f"DROP OWNED BY {role} CASCADE")
        admin(f"DROP ROLE {role}")
