"""A name means what was checked, or nothing: who owns a schema can rename it at any moment, and put another in its place."""

import os
import pathlib
import subprocess
import threading
import time

import pytest
from capture_helpers import source, unseen_commit  # noqa: F401
from conftest import admin, batch, change, until
from projection_helpers import GUARD, RULE, code, ids, log_ids, run, state, waiting
from test_backfill import backfill

SWAP = "ALTER SCHEMA names_app RENAME TO names_away; ALTER SCHEMA names_lair RENAME TO names_app"


@pytest.fixture
def schemas(source):
    """Mallory owns two schemas; in one of them others keep their tables."""
    admin("CREATE ROLE names_mallory LOGIN")
    source.run(f"""GRANT CREATE ON DATABASE {source.name} TO names_mallory; CREATE SCHEMA names_app AUTHORIZATION names_mallory; CREATE SCHEMA names_lair AUTHORIZATION names_mallory;
        CREATE TABLE loot (who text); GRANT ALL ON loot TO PUBLIC; SET ROLE names_mallory;
        CREATE FUNCTION names_lair.climb() RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN 'loot'; END $$;
        CREATE FUNCTION names_lair.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN NEW; END $$""")
    yield source
    source.run("DROP OWNED BY names_mallory CASCADE")
    admin("DROP ROLE names_mallory")


def as_mallory(db, sql):
    run(db.connect(user="names_mallory"), sql)


def loot(db):
    return {who for who, in db.rows("SELECT who FROM loot")}


@pytest.fixture
def filled(schemas):
    """A projection of somebody else's in mallory's schema. She has a table of the same name in her other one."""
    schemas.run("CREATE TABLE names_app.feed (log_id bigint, table_name text, value text)")
    schemas.run("SELECT audit_create_projection('feed', %s, 'names_app.feed')", RULE)
    as_mallory(schemas, """CREATE TABLE names_lair.feed (log_id bigint, table_name text, value text);
        CREATE TRIGGER t BEFORE INSERT ON names_lair.feed FOR EACH ROW EXECUTE FUNCTION names_lair.fire()""")
    return schemas


@pytest.mark.parametrize("call", ["audit_ingest('%s')" % batch([change(1)]), "audit_rebuild_projection('feed')"])
def test_a_schema_keeps_its_name_while_rules_run(filled, call):
    """Constraints too are named by it. Another's of that name could set off what its trigger has to do, with the rights of the rule's owner."""
    mallory, session = filled.connect(user="names_mallory", options="-c lock_timeout=100ms"), filled.connect()
    filled.ingest(batch([change(0)]))
    run(session, f"BEGIN; SELECT {call}")
    assert code(mallory, "ALTER SCHEMA names_app RENAME TO names_away") == "55P03"
    run(mallory, "ALTER SCHEMA names_lair RENAME TO names_other; ALTER SCHEMA names_other RENAME TO names_lair")
    run(session, "COMMIT")
    assert state(filled)[1:] == (0, 0) and loot(filled) == set()
    assert ids(filled, "names_app.feed") == log_ids(filled)
    run(mallory, "ALTER SCHEMA names_app RENAME TO names_away")


def test_entries_wait_while_a_schema_is_renamed(filled):
    mallory, relay = filled.connect(user="names_mallory"), filled.connect(options=GUARD)
    filled.ingest(batch([change(0)]), relay)
    run(mallory, "BEGIN; " + SWAP)
    filled.ingest(batch([change(1)]), relay)
    assert state(filled)[1:] == (1, 0)
    with waiting(filled, "SELECT audit_rebuild_projection('feed')") as outcome:
        run(mallory, "COMMIT")
    assert outcome == [None]
    filled.ingest(batch([change(2)]), relay)
    assert state(filled)[1:] == (0, 0) and loot(filled) == set()
    assert ids(filled, "names_away.feed") == log_ids(filled)


def test_a_schema_that_is_renamed_while_a_batch_is_prepared(schemas):
    """The batch waits for a commit of any table, between what it is to read and the reading."""
    schemas.run("CREATE TABLE names_app.t (id int PRIMARY KEY, v text); INSERT INTO names_app.t VALUES (1, 'a'), (2, 'b'); CREATE TABLE other (id int); CREATE PUBLICATION audited FOR TABLE names_app.t")
    schemas.run(f"ALTER DATABASE {schemas.name} SET synchronous_commit = local")
    schemas.run("SELECT audit_capture_start('audited')")
    as_mallory(schemas, "CREATE VIEW names_lair.t AS SELECT '3'::xid AS xmin, '(0,1)'::tid AS ctid, 1 AS id, names_lair.climb() AS v")
    session, outcome = schemas.connect(), []
    reading = threading.Thread(target=lambda: outcome.append(code(session, "CALL audit_backfill('names_app.t')")))
    with unseen_commit(schemas, "INSERT INTO other VALUES (1)") as end:
        reading.start()
        until(lambda: schemas.rows("SELECT FROM pg_locks WHERE pid = %s AND relation = 'audit_cdc_internal.backfills'::regclass AND mode = 'RowShareLock'", session.info.backend_pid))
        time.sleep(0.5)
        as_mallory(schemas, SWAP)
        end()
    reading.join(30)
    assert outcome == ["40001"] and loot(schemas) == set()
    assert backfill(schemas, "names_away.t") == 2


@pytest.mark.parametrize("as_owner", [True, False])
def test_undo_meets_no_table_but_the_one_that_was_looked_at(schemas, as_owner):
    """Run by a superuser as the owner, or with the caller's rights."""
    admin("CREATE ROLE names_dbo LOGIN")
    try:
        schemas.run("CREATE TABLE names_app.t (id int); GRANT ALL ON names_app.t TO PUBLIC" + ("; ALTER TABLE names_app.t OWNER TO names_dbo" if as_owner else ""))
        as_mallory(schemas, """CREATE TABLE names_lair.t (id int); CREATE TRIGGER t BEFORE INSERT ON names_lair.t FOR EACH ROW EXECUTE FUNCTION names_lair.fire();
            GRANT USAGE ON SCHEMA names_app, names_lair TO PUBLIC; GRANT ALL ON names_lair.t TO PUBLIC""")
        table = schemas.value("SELECT 'names_app.t'::regclass::oid")
        as_mallory(schemas, SWAP)
        statement = "SELECT audit_cdc_internal.run_statement(%s, %s)"
        session = schemas.connect()
        assert code(session, statement, table, "INSERT INTO names_app.t VALUES (1)") == "40001"
        assert code(session, statement, table, "INSERT INTO names_away.t SELECT 1 WHERE NOT EXISTS (SELECT FROM names_app.t)") == "42501"
        assert code(session, statement, table, "INSERT INTO names_away.t SELECT length(names_app.climb())") == "42501"
        assert loot(schemas) == set()
        assert schemas.value(statement, table, "INSERT INTO names_away.t VALUES (1)") == 1
    finally:
        schemas.run("DROP OWNED BY names_dbo CASCADE")
        admin("DROP ROLE names_dbo")


def test_a_literal_runs_no_strangers_code_while_names_are_looked_up(schemas):
    """To read an array of a domain runs the domain's conditions."""
    schemas.run("CREATE TABLE t (id int)")
    as_mallory(schemas, "CREATE FUNCTION names_lair.checked(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN names_lair.climb() IS NOT NULL; END'; CREATE DOMAIN names_lair.dom AS int CHECK (names_lair.checked(value))")
    assert code(schemas.connect(), "SELECT audit_cdc_internal.run_statement('t'::regclass, $$INSERT INTO t SELECT 1 FROM unnest('{1}'::names_lair.dom[])$$)") == "42501"
    assert loot(schemas) == set()


@pytest.fixture
def named(schemas):
    """A projection of somebody who is no superuser; its rule names a table and a function of others, in a schema where everybody may create."""
    admin("CREATE ROLE names_owner LOGIN IN ROLE audit_cdc_reader")
    schemas.run("""GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE TABLE countries (code text); INSERT INTO countries VALUES ('a'); GRANT SELECT ON countries TO PUBLIC;
        SET ROLE names_mallory; CREATE FUNCTION public.shown(text) RETURNS text LANGUAGE sql AS 'SELECT $1'""")
    owner = schemas.connect(user="names_owner")
    run(owner, "CREATE TABLE feed (log_id bigint, value text)")
    run(owner, "SELECT audit_create_projection('feed', 'SELECT id AS log_id, shown(code) AS value FROM audit_new_logs, countries')")
    yield schemas
    schemas.run("DROP OWNED BY names_owner CASCADE")
    admin("DROP ROLE names_owner")


@pytest.mark.parametrize("place, taken", [
    ("DROP TABLE countries", "CREATE VIEW public.countries AS SELECT names_lair.climb() AS code; GRANT SELECT ON public.countries TO PUBLIC"),
    ("ALTER FUNCTION shown(text) RENAME TO old", "CREATE FUNCTION public.shown(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN names_lair.climb(); END'"),
    ("ALTER FUNCTION shown(text) RENAME TO old", "CREATE DOMAIN public.shown AS text CHECK (names_lair.climb() = value)")])
def test_nobody_takes_the_place_of_what_a_rule_names(named, place, taken):
    named.ingest(batch([change(0)]))
    assert named.rows("SELECT value FROM feed") == [("a",)], "what belonged to others when the rule was made is used"
    run(named.connect(), place)
    as_mallory(named, "GRANT USAGE ON SCHEMA names_lair TO PUBLIC; GRANT ALL ON ALL FUNCTIONS IN SCHEMA names_lair TO PUBLIC; " + taken)
    relay = named.connect()
    assert named.ingest(batch([change(1)]), relay)[1] == 1
    [(sqlstate, reason)] = named.rows("SELECT sqlstate, reason FROM audit_projection_failures")
    assert sqlstate == "42501" and 'lacks the rights of role "names_owner"' in reason
    assert code(named.connect(user="names_owner"), "SELECT audit_rebuild_projection('feed')") == "42501"
    assert loot(named) == set()


def test_the_owner_of_a_rule_takes_what_it_names_now(named):
    named.run("DROP TABLE countries; GRANT CREATE ON SCHEMA public TO PUBLIC")
    as_mallory(named, "CREATE TABLE public.countries AS SELECT 'b' AS code; GRANT SELECT ON public.countries TO PUBLIC")
    named.ingest(batch([change(0)]))
    assert state(named)[1:] == (0, 1)
    rule = named.value("SELECT rule FROM audit_projections")
    run(named.connect(user="names_owner"), "SELECT audit_alter_projection('feed', %s); SELECT audit_retry_projection('feed')", rule)
    assert named.rows("SELECT value FROM feed") == [("b",)] and state(named)[1:] == (0, 0)


def test_what_the_owner_of_a_rule_makes_anew_is_used(named):
    run(named.connect(user="names_owner"), "CREATE VIEW mine AS SELECT 'x' AS code")
    run(named.connect(user="names_owner"), "SELECT audit_alter_projection('feed', 'SELECT id AS log_id, code AS value FROM audit_new_logs, mine')")
    run(named.connect(user="names_owner"), "DROP VIEW mine; CREATE TABLE mine AS SELECT 'y' AS code")
    named.ingest(batch([change(0)]))
    assert named.rows("SELECT value FROM feed") == [("y",)]


@pytest.mark.parametrize("value", [
    "(('(' || code || ')')::pair).x::text", "(jsonb_populate_record(NULL::pair, '{\"x\": 1}')).x::text",
    "(SELECT g.x::text FROM json_to_record('{\"x\": {\"x\": 1}}') AS r(x pair), LATERAL (SELECT (r.x).x) AS g)",
    "(SELECT (g.x).x::text FROM {table} AS g)"])
def test_nobody_takes_the_place_of_a_type_that_a_rule_names(named, value):
    """A value of a type that holds a domain runs the domain's conditions, wherever it is made."""
    owner = named.connect(user="names_owner")
    run(owner, "CREATE TYPE public.pair AS (x int)")
    named.run("UPDATE countries SET code = '1'")
    columns = """json_table('[{"x": {"x": 1}}]', '$[*]' COLUMNS (x pair PATH '$.x'))""" if owner.server_version >= 170000 else \
        "xmltable('/a' PASSING '<a>(1)</a>' COLUMNS x pair PATH '.')"
    value = value.replace("{table}", columns)
    run(owner, "SELECT audit_alter_projection('feed', %s)", f"SELECT id AS log_id, {value} AS value FROM audit_new_logs, countries")
    named.ingest(batch([change(0)]))
    assert named.rows("SELECT value FROM feed") == [("1",)]
    run(owner, "ALTER TYPE pair RENAME TO old")
    as_mallory(named, """GRANT USAGE ON SCHEMA names_lair TO PUBLIC;
        CREATE FUNCTION names_lair.checked(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN names_lair.climb() IS NOT NULL; END';
        CREATE DOMAIN names_lair.dom AS int CHECK (names_lair.checked(value)); CREATE TYPE public.pair AS (x names_lair.dom)""")
    assert named.ingest(batch([change(1)]), named.connect())[1] == 1
    assert loot(named) == set()
    assert named.rows("SELECT sqlstate FROM audit_projection_failures") == [("42501",)]


def deaf(hook, arguments):
    """A library that is told something by PostgreSQL, and tells nobody who was there before it."""
    bin_, folder = pathlib.Path(os.environ["AUDIT_BIN"]), pathlib.Path(os.environ["AUDIT_DATA"])
    headers = subprocess.run([bin_ / "pg_config", "--includedir-server"], capture_output=True, text=True, check=True).stdout.strip()
    source, library = folder / f"{hook}.c", folder / f"{hook}.so"
    source.write_text(f"""#include "postgres.h"
        #include "fmgr.h"
        #include "catalog/objectaccess.h"
        #include "parser/analyze.h"
        PG_MODULE_MAGIC;
        static void deaf({arguments}) {{}}
        void _PG_init(void) {{ {hook} = deaf; }}""")
    subprocess.run(["cc", "-shared", "-fPIC", "-I", headers, "-o", library, source], check=True)
    library.chmod(0o755)
    return library


LATER = {"post_parse_analyze_hook": "ParseState *state, Query *query, JumbleState *jumble",
         "object_access_hook": "ObjectAccessType access, Oid class, Oid object, int part, void *argument"}


@pytest.mark.parametrize("hook", LATER)
def test_no_rule_runs_unchecked_after_a_library_that_came_later(schemas, hook):
    """Also a plan that was made before it came."""
    schemas.run("CREATE FUNCTION names_app.climb() RETURNS text LANGUAGE sql RETURN 'nothing'; CREATE TABLE feed (log_id bigint, value text)")
    schemas.run("SELECT audit_create_projection('feed', 'SELECT id AS log_id, names_app.climb() AS value FROM audit_new_logs')")
    relay, session, library = schemas.connect(), schemas.connect(), deaf(hook, LATER[hook])
    schemas.ingest(batch([change(0)]), relay)
    as_mallory(schemas, "DROP FUNCTION names_app.climb(); ALTER FUNCTION names_lair.climb() SET SCHEMA names_app")
    for connection in (relay, session):
        run(connection, f"LOAD '{library}'")
    schemas.ingest(batch([change(1)]), relay)
    assert schemas.rows("SELECT sqlstate FROM audit_projection_failures") == [("55000",)]
    assert code(session, "SELECT audit_rebuild_projection('feed')") == "55000"
    assert loot(schemas) == set()


def test_the_log_is_not_removed_after_a_library_that_came_later(schemas):
    schemas.ingest(batch([change(0)]))
    session = schemas.connect()
    run(session, f"LOAD '{deaf('object_access_hook', LATER['object_access_hook'])}'")
    for command in ("DROP EXTENSION audit_cdc", "DROP TABLE audit_cdc_internal.log", "DROP SCHEMA public CASCADE"):
        assert code(session, command) == "55000", command
    assert len(log_ids(schemas)) == 1
