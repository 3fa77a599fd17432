"""Rights that are given to all tables at once, now or by default, give none on the extension's."""

import io
import os
import subprocess

import psycopg2
import pytest
from conftest import Database, admin, batch, change, numbers
from projection_helpers import code, project, run

TABLES = """SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relnamespace = 'audit_cdc_internal'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1"""


@pytest.fixture
def role():
    """Makes roles. First among a test's arguments, so that it ends after the database."""
    made = []

    def make(options=""):
        name = f"hr_role_{os.getpid()}_{next(numbers)}"
        admin(f"CREATE ROLE {name} LOGIN {options}")
        made.append(name)
        return name

    yield make
    for name in made:
        admin(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_who_may_write_all_data_writes_none_of_it(role, db):
    writer = db.connect(user=role("IN ROLE pg_write_all_data, pg_read_all_data"))
    project(db)
    db.ingest(batch([change(record={"id": 1, "value": "a"})]))
    tables = [table for (table,) in db.rows(TABLES)]
    assert {"audit_cdc_internal.log", "audit_cdc_internal.log_2026_03", "audit_cdc_internal.captures", "audit_cdc_internal.projections"} <= set(tables)
    appended = [table for (table,) in db.rows("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'append_only'")]  # whose own trigger comes first
    for table in tables:
        column = db.value("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND attidentity = '' ORDER BY attnum LIMIT 1", table)
        for statement in (f"INSERT INTO {table} DEFAULT VALUES", f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
            assert code(writer, statement) == ("55000" if statement.startswith(("UPDATE", "DELETE")) and table in appended else "42501"), statement
        with writer.cursor() as cursor, pytest.raises(psycopg2.Error) as raised:
            cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(""))
        assert raised.value.pgcode == "42501", table
    assert code(writer, "UPDATE audit_rejects SET raw = ''") == code(writer, "DELETE FROM audit_backfills") == "42501"  # through views too
    assert db.value("SELECT count(*) FROM audit_logs") == 1
    run(writer, "CREATE TEMP TABLE mine (id int)")  # what is its own it writes
    run(writer, "INSERT INTO mine VALUES (1)")


def test_the_trigger_cannot_be_called(db):
    assert code(db.connect(), "SELECT audit_cdc_internal.own_writers_only()") in ("0A000", "39P01")


MEMBERS = """
SELECT pg_describe_object(d.classid, d.objid, 0), a.privilege_type
FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'audit_cdc' AND d.deptype = 'e'
LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
LEFT JOIN pg_type AS t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
LEFT JOIN pg_namespace AS n ON d.classid = 'pg_namespace'::regclass AND n.oid = d.objid
CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, c.relacl, t.typacl, n.nspacl)) AS a
WHERE a.grantee = %s::regrole"""
OTHERS = """SELECT DISTINCT c.oid::regclass::text FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
            WHERE c.relnamespace <> 'pg_catalog'::regnamespace AND a.grantee = %s::regrole"""


@pytest.mark.parametrize("scope", ["", "IN SCHEMA public", "FOR ROLE postgres", "FOR ROLE postgres IN SCHEMA public"])
def test_nothing_is_left_to_default_privileges(role, empty, scope):
    web = role()
    for what in ("ALL ON TABLES", "EXECUTE ON FUNCTIONS", "ALL ON SEQUENCES", "USAGE ON TYPES") + (() if "SCHEMA" in scope else ("ALL ON SCHEMAS",)):
        empty.run(f"ALTER DEFAULT PRIVILEGES {scope} GRANT {what} TO {web} WITH GRANT OPTION")
        empty.run(f"ALTER DEFAULT PRIVILEGES {scope} GRANT {what} TO PUBLIC")
    empty.run("CREATE EXTENSION audit_cdc; CREATE TABLE orders (id int PRIMARY KEY, value text)")
    empty.ingest(batch([change(record={"id": 1, "value": "a"})]))
    empty.run("SELECT audit_create_history_projection('orders'), audit_create_activity()")
    assert empty.rows(MEMBERS, web) == []
    assert empty.rows(OTHERS, web) == [("orders",)]
    session = empty.connect(user=web)
    for statement in ("SELECT count(*) FROM audit_logs", "DELETE FROM audit_rejects", "SELECT audit_ingest('[]')", "SELECT * FROM audit_cdc_internal.log_2026_03",
                      "SELECT count(*) FROM orders_history", "SELECT count(*) FROM activity", "SELECT nextval('audit_cdc_internal.log_id_seq')", "CREATE TABLE audit_cdc_internal.x ()"):
        assert code(session, statement) == "42501", statement
    run(session, "BEGIN; SELECT audit_annotate('ada'); ROLLBACK")
    assert empty.value("SELECT count(*) FROM orders_history") == empty.value("SELECT count(*) FROM activity") == 1


def test_what_was_dumped_is_kept_from_them_too(role, db, tmp_path):
    db.ingest(batch([change()]))
    dump, restored = str(tmp_path / "dump"), Database(db.name + "_restored")
    subprocess.run(["pg_dump", "-Fc", "-f", dump, db.name], check=True)
    admin(f"CREATE DATABASE {restored.name} TEMPLATE template0")
    try:
        subprocess.run(["pg_restore", "--exit-on-error", "-d", restored.name, dump], check=True)
        triggers = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
        assert restored.rows(triggers) == db.rows(triggers)
        writer = restored.connect(user=role("IN ROLE pg_write_all_data"))
        assert code(writer, "INSERT INTO audit_cdc_internal.log_2026_03 SELECT l.* FROM audit_cdc_internal.log AS l") == "42501"
        assert restored.ingest(batch([change(), change(1)])) == (2, 1, 1, 0)
    finally:
        admin(f"DROP DATABASE {restored.name} WITH (FORCE)")
