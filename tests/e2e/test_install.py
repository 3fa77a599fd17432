"""Installing, dumping and restoring."""

import json
import subprocess

import psycopg2
import pytest
from conftest import Database, admin, batch, change
from projection_helpers import code, roles, run  # noqa: F401

MONTHS = [f"2026-{month:02}-15T12:00:00.000000Z" for month in range(1, 7)]


def test_in_a_schema_of_the_users(empty):
    empty.run('CREATE SCHEMA "Audit Trail"; CREATE EXTENSION audit_cdc SCHEMA "Audit Trail"')
    empty.run('SET search_path = "Audit Trail"; SELECT audit_ingest(%s); SELECT audit_ingest(%s::jsonb)', batch([change()]), batch([change(1)]))
    assert empty.value('SELECT count(*) FROM "Audit Trail".audit_logs') == 2
    assert empty.rows('SELECT received FROM "Audit Trail".audit_retry_rejects()') == [(0,)]
    assert empty.value("""SELECT array_agg(DISTINCT n.nspname ORDER BY n.nspname)::text FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
                          JOIN pg_namespace n ON n.oid = p.pronamespace WHERE d.deptype = 'e' AND p.proname LIKE 'audit%%'""".replace("%%", "%")) == '{"Audit Trail"}'
    with empty.connect().cursor() as cursor:
        cursor.execute('BEGIN; SELECT "Audit Trail".audit_annotate(\'ada\')')
        assert cursor.fetchone()[0] == {"username": "ada"}


def test_a_schema_called_like_the_extension(empty):
    empty.run("CREATE SCHEMA audit_cdc; CREATE EXTENSION audit_cdc SCHEMA audit_cdc")
    assert empty.rows("SELECT inserted FROM audit_cdc.audit_ingest(%s)", batch([change()])) == [(1,)]


@pytest.mark.parametrize("relation", ["TABLE audit_logs (id int)", "VIEW audit_logs AS SELECT 1"])
def test_a_table_of_the_guide_is_in_the_way(empty, relation):
    empty.run(f"CREATE {relation}")
    with pytest.raises(psycopg2.errors.DuplicateTable) as raised:
        empty.run("CREATE EXTENSION audit_cdc")
    assert 'relation "audit_logs" already exists' in raised.value.diag.message_primary
    assert "SCHEMA" in raised.value.diag.message_hint
    empty.run("CREATE SCHEMA audit; CREATE EXTENSION audit_cdc SCHEMA audit")


def test_a_schema_called_like_its_own_is_in_the_way(roles, empty):  # noqa: F811
    """The database's owner may make one before. What is in it never runs, and gets no rights."""
    owner = roles()
    empty.run(f"GRANT CREATE ON DATABASE {empty.name} TO {owner}")
    planter = empty.connect(user=owner)
    run(planter, """CREATE SCHEMA audit_cdc_internal; CREATE TABLE audit_cdc_internal.ran (by name);
        GRANT USAGE ON SCHEMA audit_cdc_internal TO PUBLIC; GRANT INSERT ON audit_cdc_internal.ran TO PUBLIC""")
    for function in ("keep_private(class oid, object oid)", "keep_from_writers(relation regclass)", "next_number(called text)", "pinned_settings()", "this_database()"):
        run(planter, f"CREATE FUNCTION audit_cdc_internal.{function} RETURNS text BEGIN ATOMIC INSERT INTO audit_cdc_internal.ran VALUES (current_user) RETURNING by; END")
    run(planter, "CREATE TABLE audit_cdc_internal.log (id int); CREATE VIEW audit_cdc_internal.here AS SELECT 1")
    with pytest.raises(psycopg2.errors.DuplicateSchema) as raised:
        empty.run("CREATE EXTENSION audit_cdc")
    assert raised.value.diag.message_primary == 'schema "audit_cdc_internal" exists already'
    assert owner in raised.value.diag.message_detail and "RENAME" in raised.value.diag.message_hint
    # nor is it taken over by hand
    assert code(empty.connect(), "CREATE EXTENSION audit_cdc SCHEMA audit_cdc_internal") == "42P06"
    run(planter, "ALTER SCHEMA audit_cdc_internal RENAME TO planted")
    before = empty.rows("SELECT oid::regclass::text, relacl FROM pg_class WHERE relnamespace = 'planted'::regnamespace ORDER BY 1")
    empty.run("CREATE EXTENSION audit_cdc")
    empty.ingest(batch([change()]))
    assert empty.rows("SELECT * FROM planted.ran") == []
    assert before == empty.rows("SELECT oid::regclass::text, relacl FROM pg_class WHERE relnamespace = 'planted'::regnamespace ORDER BY 1")
    assert empty.rows("""SELECT p.oid::regprocedure FROM pg_proc AS p WHERE p.pronamespace = 'audit_cdc_internal'::regnamespace AND p.proowner = %s::regrole
                         UNION SELECT d.objid FROM pg_depend AS d JOIN pg_proc AS p ON p.oid = d.refobjid AND d.refclassid = 'pg_proc'::regclass
                         JOIN pg_depend AS e ON e.objid = d.objid AND e.deptype = 'e' WHERE p.pronamespace = 'planted'::regnamespace""", owner) == []
    empty.run(f"DROP OWNED BY {owner}")


def test_every_function_can_be_made_from_its_definition(db):
    """As pg_upgrade does."""
    definitions = db.rows("""
        SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'audit_cdc' WHERE p.prokind IN ('f', 'p')""")
    assert len(definitions) > 200
    with db.connect().cursor() as cursor:
        for definition, in definitions:
            cursor.execute("BEGIN; SELECT audit_allow_removal()")
            cursor.execute(definition)
            cursor.execute("ROLLBACK")


def test_an_encoding_that_cannot_hold_json(empty):
    name = empty.name + "_latin1"
    admin(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        with pytest.raises(psycopg2.errors.FeatureNotSupported):
            Database(name).run("CREATE EXTENSION audit_cdc")
    finally:
        admin(f"DROP DATABASE {name} WITH (FORCE)")


def test_who_has_the_rights_of_its_roles_already_is_said(roles, empty):  # noqa: F811
    """Who may make roles may have made these, and be in them."""
    member = roles("audit_cdc_admin")
    connection = empty.connect()
    connection.cursor().execute("CREATE EXTENSION audit_cdc")
    said = "".join(connection.notices)
    assert f"{member} is a member of audit_cdc_admin" in said and "audit_cdc_admin is a member" not in said


def everything(db):
    return [db.rows(sql) for sql in (
        "SELECT * FROM audit_logs ORDER BY id", "SELECT * FROM audit_rejects ORDER BY id",
        "SELECT * FROM audit_described_tables ORDER BY 1, 2, 3, 4", "SELECT * FROM audit_status()")]


@pytest.mark.parametrize("arguments", [["-Fc"], ["-Fd", "-j2"], ["-Fp"]], ids=["custom", "directory, parallel", "plain"])
def test_dump_and_restore_keep_everything(db, tmp_path, arguments):
    db.ingest(batch([change(n, time=time, pks=["a", str(n)] if n % 2 else [str(n)], annotations={"username": "ada"}) for n, time in enumerate(MONTHS)]))
    db.ingest(batch([change(9, lsn="x", key="k"), change(0, time=MONTHS[0], action="delete")]))
    db.run("SELECT audit_describe_tables('d1', %s)", json.dumps({"described_at": "2026-02-01", "tables": [{
        "table_schema": "public", "table_name": "orders", "replica_identity": "default", "key_columns": ["id"],
        "identity_columns": ["id"], "column_types": {"id": "integer"}, "never_sent": [], "null_in_reads": []}]}))
    before = everything(db)
    assert [len(rows) for rows in before] == [6, 2, 1, 1]
    dump, restored = str(tmp_path / "dump"), Database(db.name + "_restored")
    subprocess.run(["pg_dump", *arguments, "-f", dump, db.name], check=True)
    admin(f"CREATE DATABASE {restored.name} TEMPLATE template0")
    try:
        if arguments == ["-Fp"]:
            done = restored.psql("-f", dump)
        else:
            done = subprocess.run(["pg_restore", "--exit-on-error", *arguments[1:], "-d", restored.name, dump], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert everything(restored) == before
        # and it goes on: redelivery is refused, new ones and new months are taken, the log stays append-only
        assert restored.ingest(batch([change(n, time=time, pks=["a", str(n)] if n % 2 else [str(n)]) for n, time in enumerate(MONTHS)])) == (6, 0, 6, 0)
        assert restored.ingest(batch([change(20, time=MONTHS[0]), change(21, time="2027-01-01T00:00:00.000000Z"), change(0, time=MONTHS[0], action="delete")])) == (3, 2, 0, 1)
        assert restored.value("SELECT count(DISTINCT id) FROM audit_logs") == 8
        for relation in ("log", "log_2026_03"):
            with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState):
                restored.run(f"TRUNCATE audit_cdc_internal.{relation}")
        index = "SELECT count(*) FROM pg_index WHERE indrelid = 'audit_cdc_internal.log_2026_03'::regclass"
        assert restored.value(index) == db.value(index) == 6
    finally:
        admin(f"DROP DATABASE {restored.name} WITH (FORCE)")


def test_drop_and_create_again_in_one_session(db):
    connection = db.connect()
    db.ingest(batch([change()]), connection)
    with connection.cursor() as cursor:
        cursor.execute("SELECT audit_allow_removal(); DROP EXTENSION audit_cdc CASCADE; CREATE EXTENSION audit_cdc")
    assert db.ingest(batch([change()]), connection) == (1, 1, 0, 0)


def test_every_object_is_commented(db):
    """What users see says what it is."""
    assert db.rows("""SELECT p.oid::regprocedure::text FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
                      WHERE d.deptype = 'e' AND p.pronamespace = 'public'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
                        AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'audit_cdc')""") == []
    assert db.rows("""SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attnum > 0 AND col_description(attrelid, attnum) IS NULL
                      AND attrelid IN ('audit_logs'::regclass, 'audit_rejects'::regclass, 'audit_described_tables'::regclass)""") == []
