"""Code of users never runs with more rights than its owner has: domains, triggers and shadows of PostgreSQL's own names."""

import contextlib
import re

import psycopg2
import psycopg2.extras
import pytest
from capture_helpers import capture, captured, paused, source, start, table  # noqa: F401
from conftest import TOP, admin, batch, change, until
from test_backfill import backfill
from test_capture import begin, code

CLIMB = """
CREATE FUNCTION lair.climb() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO lair.loot VALUES (current_user);
  BEGIN ALTER ROLE rights_mallory SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
  RETURN true;
END $$;
CREATE FUNCTION lair.check(value int) RETURNS boolean LANGUAGE sql AS 'SELECT lair.climb()';
CREATE DOMAIN lair.dom AS int CHECK (lair.check(value));
CREATE FUNCTION lair.fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM lair.climb(); RETURN NEW; END';
"""


@pytest.fixture
def mallory(source):
    """A role that owns a schema and whatever she puts into it, and is nobody else."""
    admin("CREATE ROLE rights_mallory LOGIN; CREATE ROLE rights_clerk LOGIN; CREATE ROLE rights_dbo LOGIN")
    source.run(f"CREATE SCHEMA lair AUTHORIZATION rights_mallory; GRANT USAGE ON SCHEMA lair TO PUBLIC; "
               "SET ROLE rights_mallory; CREATE TABLE lair.loot (who text); GRANT ALL ON lair.loot TO PUBLIC;" + CLIMB)
    yield source
    source.run("DROP OWNED BY rights_mallory, rights_clerk, rights_dbo CASCADE")
    admin(f"ALTER DATABASE {source.name} OWNER TO postgres; DROP ROLE rights_mallory; DROP ROLE rights_clerk; DROP ROLE rights_dbo")


def ran_as(db):
    """Whose rights her code has had so far; she is no superuser, whoever called it."""
    assert db.value("SELECT NOT rolsuper FROM pg_roles WHERE rolname = 'rights_mallory'")
    return {who for who, in db.rows("SELECT DISTINCT who FROM lair.loot")}


def test_a_backfill_reads_a_table_as_its_owner(mallory):
    """The second batch compares the key, which casts to its type."""
    mallory.run("SET ROLE rights_mallory; CREATE TABLE lair.t (id lair.dom PRIMARY KEY, v text); INSERT INTO lair.t SELECT generate_series(1, 30); TRUNCATE lair.loot")
    begin(mallory)
    assert backfill(mallory, "lair.t", batch_size=10) == 30
    assert ran_as(mallory) == {"rights_mallory"}


def test_a_backfill_reads_what_row_security_hides_from_the_owner(mallory):
    mallory.run("""SET ROLE rights_mallory; CREATE TABLE lair.t (id int PRIMARY KEY); INSERT INTO lair.t VALUES (1), (2);
        ALTER TABLE lair.t ENABLE ROW LEVEL SECURITY; ALTER TABLE lair.t FORCE ROW LEVEL SECURITY""")
    begin(mallory)
    assert backfill(mallory, "lair.t") == 2


@pytest.mark.parametrize("type_", ["lair.dom", "lair.dom[]", "lair.pair", "lair.outer_dom"])
def test_a_cast_runs_the_conditions_of_a_domain_with_the_lesser_rights(mallory, type_):
    """A superuser has all of hers. A clerk has not, nor has she a clerk's: neither lends the other any."""
    mallory.run(f"SET ROLE rights_mallory; CREATE TYPE lair.pair AS (a int, b lair.dom); CREATE DOMAIN lair.outer_dom AS lair.dom; CREATE TABLE lair.t (id {type_}); TRUNCATE lair.loot")
    mallory.run("GRANT audit_cdc_reader TO rights_clerk")
    value = {"lair.dom[]": "[1, 2]", "lair.pair": '"(1,2)"'}.get(type_, "7")
    mallory.run(f"SELECT audit_row(NULL::lair.t, '{{\"id\": {value}}}')")
    assert ran_as(mallory) == {"rights_mallory"}
    mallory.run("TRUNCATE lair.loot")
    assert code(mallory, f"SELECT audit_row(NULL::lair.t, '{{\"id\": {value}}}')", user="rights_clerk") == "42501"
    assert ran_as(mallory) == set()


def test_a_domain_beside_somebody_elses_runs_as_who_put_it_there(mallory):
    mallory.run("SET ROLE rights_clerk; CREATE DOMAIN pg_temp.nothing AS int")
    mallory.run("CREATE SCHEMA desk AUTHORIZATION rights_clerk; GRANT USAGE ON SCHEMA desk TO PUBLIC; SET ROLE rights_clerk; CREATE DOMAIN desk.dom AS int")
    mallory.run("SET ROLE rights_mallory; CREATE TYPE lair.both AS (a desk.dom, b lair.dom); CREATE TABLE lair.p (id int, p lair.both)")
    mallory.run("""SELECT audit_row(NULL::lair.p, '{"id": 1, "p": "(1,2)"}')""")
    assert ran_as(mallory) == {"rights_mallory"}


@pytest.mark.parametrize("type_", ["pair AS (a int, b lair.dom)", "pair AS RANGE (subtype = lair.dom)", "pair AS (a int, b public.inner_pair)"])
def test_a_domain_within_a_superusers_type_runs_as_its_owner(mallory, type_):
    mallory.run(f"CREATE TYPE public.inner_pair AS (b lair.dom[]); CREATE TYPE public.{type_}; CREATE TABLE public.p (id int, p public.pair)")
    value = "[1,2)" if "RANGE" in type_ else '(1,\\"(\\"\\"{2}\\"\\")\\")' if "inner" in type_ else "(1,2)"
    mallory.rows("SELECT audit_row(NULL::public.p, %s)", f'{{"id": 1, "p": "{value}"}}')
    assert ran_as(mallory) == {"rights_mallory"}


def test_domains_of_two_who_lack_each_others_rights_are_not_read_as_one_of_them(mallory):
    mallory.run("CREATE SCHEMA desk AUTHORIZATION rights_clerk; SET ROLE rights_clerk; CREATE DOMAIN desk.dom AS int; GRANT USAGE ON SCHEMA desk TO PUBLIC")
    mallory.run("CREATE TYPE public.both AS (a desk.dom, b lair.dom); CREATE TABLE public.p (id int, p public.both)")
    assert code(mallory, """SELECT audit_row(NULL::public.p, '{"id": 1, "p": "(1,2)"}')""") == "42501"
    assert ran_as(mallory) == set()


def test_a_type_that_gets_a_domain_while_it_is_read(mallory):
    mallory.run("""SET ROLE rights_mallory; CREATE TYPE lair.later AS (a int);
        CREATE FUNCTION lair.grow(value int) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN ALTER TYPE lair.later ADD ATTRIBUTE d lair.dom; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END $$;
        CREATE DOMAIN lair.growing AS int CHECK (lair.grow(value)); CREATE TABLE lair.g (id lair.growing, c lair.later)""")
    with mallory.connect().cursor() as cursor:
        try:
            cursor.execute("""SELECT audit_row(NULL::lair.g, '{"id": 1, "c": "(1,2)"}')""")
        except psycopg2.Error:
            pass
    assert ran_as(mallory) <= {"rights_mallory"}


def test_code_of_a_domain_leaves_nothing_in_the_session_that_casts(mallory):
    mallory.run("""SET ROLE rights_mallory; CREATE FUNCTION lair.leave(value int) RETURNS boolean LANGUAGE plpgsql AS
        'BEGIN CREATE TEMP TABLE orders (id int); RETURN true; END'; CREATE DOMAIN lair.leaving AS int CHECK (lair.leave(value))""")
    assert code(mallory, "SELECT audit_cast(NULL::lair.leaving, '1')") == "22018"


def test_a_table_as_it_was_and_undo_by_a_superuser(mallory):
    """Whatever runs is hers, and runs as she."""
    mallory.run("""SET ROLE rights_mallory; CREATE TABLE lair.h (id int PRIMARY KEY, n lair.dom); ALTER TABLE lair.h REPLICA IDENTITY FULL;
        CREATE TRIGGER climbing BEFORE INSERT OR UPDATE OR DELETE ON lair.h FOR EACH ROW EXECUTE FUNCTION lair.fire();
        ALTER TABLE lair.h DISABLE TRIGGER climbing""")
    begin(mallory)
    mallory.run("SET ROLE rights_mallory; INSERT INTO lair.h VALUES (1, 10)")
    mallory.run("SET ROLE rights_mallory; UPDATE lair.h SET n = 11")
    capture(mallory)
    mallory.run("SET ROLE rights_mallory; TRUNCATE lair.loot; ALTER TABLE lair.h ENABLE TRIGGER climbing")
    assert mallory.rows("SELECT * FROM audit_as_of(NULL::lair.h)") == [(1, 11)]
    assert ran_as(mallory) == {"rights_mallory"}
    mallory.run("TRUNCATE lair.loot")
    change = mallory.value("SELECT max(id) FROM audit_logs WHERE action = 'update'")
    assert mallory.rows("SELECT outcome FROM audit_undo(change => %s)", change) == [("undone",)]
    assert mallory.rows("SELECT * FROM lair.h") == [(1, 10)]
    assert ran_as(mallory) == {"rights_mallory"}


def test_a_deferred_trigger_does_not_wait_for_the_superusers_commit(mallory):
    mallory.run("""SET ROLE rights_mallory; CREATE TABLE lair.h (id int PRIMARY KEY); ALTER TABLE lair.h REPLICA IDENTITY FULL""")
    begin(mallory)
    mallory.run("INSERT INTO lair.h VALUES (1)")
    capture(mallory)
    mallory.run("SET ROLE rights_mallory; TRUNCATE lair.loot; CREATE CONSTRAINT TRIGGER later AFTER DELETE ON lair.h DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION lair.fire()")
    assert mallory.rows("SELECT outcome FROM audit_undo(change => (SELECT id FROM audit_logs WHERE action = 'insert' AND table_name = 'h'))") == [("undone",)]
    assert ran_as(mallory) == {"rights_mallory"}


def test_undo_does_not_look_at_rows_of_strangers(mallory):
    """Her table refers to the superuser's; its types and policies would run while undo looks whether her rows go along."""
    mallory.run("CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; CREATE TABLE app.parent (id int PRIMARY KEY, v text); ALTER TABLE app.parent REPLICA IDENTITY FULL; "
                "GRANT REFERENCES ON app.parent TO rights_mallory; INSERT INTO app.parent VALUES (1, 'a')")
    mallory.run("SET ROLE rights_mallory; CREATE TABLE lair.child (id lair.dom PRIMARY KEY, pid int REFERENCES app.parent ON UPDATE CASCADE ON DELETE CASCADE); "
                "ALTER TABLE lair.child REPLICA IDENTITY FULL; INSERT INTO lair.child VALUES (10, 1)")
    begin(mallory)
    mallory.run("UPDATE app.parent SET id = 2; UPDATE app.parent SET v = 'b'")
    capture(mallory)
    mallory.run("TRUNCATE lair.loot")
    lsn = mallory.value("SELECT min(commit_lsn) FROM audit_logs")
    outcomes = {outcome for outcome, in mallory.rows("SELECT outcome FROM audit_undo(commit_lsn => %s)", lsn)}
    assert any("lair.child" in outcome for outcome in outcomes), outcomes
    assert ran_as(mallory) == set()


@pytest.mark.parametrize("replace", ["DROP TABLE lair.pay", "ALTER TABLE lair.pay RENAME TO paid"])
def test_rows_of_a_table_are_not_shown_to_the_one_in_its_place(mallory, replace):
    """Its types' conditions would see them, if somebody with more rights asked for typed rows."""
    mallory.run("CREATE TABLE lair.pay (id int PRIMARY KEY, n int); ALTER TABLE lair.pay REPLICA IDENTITY FULL")
    begin(mallory)
    mallory.run("INSERT INTO lair.pay VALUES (1, 10)")
    mallory.run(replace)
    mallory.run("SET ROLE rights_mallory; CREATE TABLE lair.pay (id int PRIMARY KEY, n lair.dom); ALTER TABLE lair.pay REPLICA IDENTITY FULL")
    mallory.run("SET ROLE rights_mallory; INSERT INTO lair.pay VALUES (2, 20); TRUNCATE lair.loot")
    capture(mallory)
    before = mallory.value("SELECT min(commit_lsn) FROM audit_logs WHERE action = 'insert'")
    for lsn in ("", f", lsn => '0/0'::pg_lsn + {before}"):
        assert code(mallory, f"SELECT * FROM audit_as_of(NULL::lair.pay{lsn})") == "42501"
    assert ran_as(mallory) == set()
    assert mallory.rows("SELECT * FROM audit_as_of('lair.pay')") == [({"id": 2, "n": 20},)]
    mallory.run("CREATE TYPE own_pay AS (id int, n int)")
    assert mallory.rows("SELECT * FROM audit_as_of(NULL::own_pay, table_name => 'lair.pay')") == [(2, 20)]


def test_rows_of_another_database_are_not_shown_to_a_table_of_that_name(mallory):
    mallory.run("SET ROLE rights_mallory; CREATE TABLE lair.far (id int, n lair.dom); TRUNCATE lair.loot")
    mallory.ingest(batch([change(table="far", record={"id": 1, "n": 10}, table_schema="lair")]))
    assert code(mallory, "SELECT * FROM audit_as_of(NULL::lair.far)") == "42501"
    assert ran_as(mallory) == set()


TAKEN = "the dropped target of feed"


def test_undo_compares_a_strangers_type_without_her_casts(mallory):
    mallory.run("""SET ROLE rights_mallory; CREATE TYPE lair.mood AS ENUM ('ok', 'sad'); GRANT USAGE ON TYPE lair.mood TO PUBLIC;
        CREATE FUNCTION lair.told(lair.mood) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM lair.climb(); RETURN 'ok'; END $$;
        CREATE CAST (lair.mood AS text) WITH FUNCTION lair.told(lair.mood)""")
    table(mallory, "feelings", "id int PRIMARY KEY, m lair.mood")
    begin(mallory)
    mallory.run("INSERT INTO feelings VALUES (1, 'ok')")
    mallory.run("UPDATE feelings SET m = 'sad'")
    capture(mallory)
    assert mallory.rows("SELECT outcome FROM audit_undo(change => (SELECT id FROM audit_logs WHERE action = 'update'))") == [("undone",)]
    assert mallory.rows("SELECT m::lair.mood = 'ok' FROM feelings") == [(True,)] and ran_as(mallory) == set()


def test_a_backfill_is_refused_beside_temporary_objects(captured):
    """What the owner's code names without a schema would be found among them."""
    session = captured.connect()
    session.cursor().execute("CREATE TEMP VIEW countries AS SELECT 1 AS code")
    with pytest.raises(psycopg2.errors.ObjectInUse):
        session.cursor().execute("CALL audit_backfill('t')")


def test_nobody_takes_the_place_of_an_excluded_table(paused):
    """Its owner, no admin any more, gives its name to another."""
    paused.run("CREATE TABLE cache (id int PRIMARY KEY, v text); SELECT audit_exclude_table('cache', 'a test')")
    paused.run("ALTER TABLE t RENAME TO old; ALTER TABLE cache RENAME TO t")
    paused.run("INSERT INTO t VALUES (1, 'a')")
    capture(paused)
    assert paused.rows("SELECT record_id FROM audit_logs") == [("1",)]


def test_a_function_that_waits_for_the_extension_is_found(empty):
    admin("CREATE ROLE rights_early LOGIN")
    admin(f"ALTER DATABASE {empty.name} OWNER TO rights_early")
    try:
        empty.run("ALTER SCHEMA public OWNER TO pg_database_owner; SET ROLE rights_early; CREATE FUNCTION public.audit_undo(change integer) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'")
        assert code(empty, "CREATE EXTENSION audit_cdc") == "42723"
    finally:
        admin(f"ALTER DATABASE {empty.name} OWNER TO postgres")
        empty.run("DROP OWNED BY rights_early")
        admin("DROP ROLE rights_early")


def test_nobody_takes_the_place_of_a_target_that_is_gone(mallory):
    table(mallory, "t")
    begin(mallory)
    mallory.run("CREATE TABLE lair.feed (id bigint); GRANT CREATE ON SCHEMA lair TO PUBLIC; SELECT audit_exclude_table('lair.feed', 'a test'); "
                "SELECT audit_create_projection('feed', 'SELECT id FROM audit_new_logs', 'lair.feed')")
    mallory.run(f"SET ROLE rights_mallory; DROP TABLE lair.feed; CREATE TABLE lair.\"{TAKEN}\" (id bigint); CREATE TABLE lair.feed (id bigint)")
    for place in ("lair.feed", f'lair."{TAKEN}"'):
        mallory.run(f"SET ROLE rights_mallory; CREATE TRIGGER climbing BEFORE INSERT ON {place} FOR EACH ROW EXECUTE FUNCTION lair.fire()")
    mallory.run("INSERT INTO t VALUES (1, 'a')")
    capture(mallory)
    relay = mallory.connect()
    for sql in (f'CREATE TEMP TABLE "{TAKEN}" (id bigint)', f'CREATE TRIGGER climbing BEFORE INSERT ON pg_temp."{TAKEN}" FOR EACH ROW EXECUTE FUNCTION lair.fire()',
                "SET search_path = pg_temp, lair, public", "SELECT public.audit_ingest('[]')"):
        relay.cursor().execute(sql)
    assert mallory.value("SELECT count(*) FROM audit_logs WHERE table_name = 't'") == 1
    assert mallory.rows("SELECT DISTINCT sqlstate FROM audit_projection_failures") == [("42P01",)]
    assert ran_as(mallory) == set()


def test_what_a_rule_names_and_is_gone_is_not_found_in_the_session_of_a_relay(mallory):
    body = ('[{"action":"insert","record":{"id":%d},"changes":null,"metadata":{"commit_lsn":%d,"commit_idx":0,"commit_timestamp":"2026-03-01T09:00:00Z",'
            '"record_pks":["1"],"table_schema":"s","table_name":"t","database":{"id":"d"}}}]')
    mallory.run("CREATE TABLE lookup (id text); CREATE TABLE feed (log_id bigint)")
    mallory.run("SELECT audit_create_projection('feed', 'SELECT l.id AS log_id FROM audit_new_logs AS l LEFT JOIN lookup AS k ON k.id = l.record_id')")
    mallory.run("DROP TABLE lookup; GRANT audit_cdc_ingest TO rights_mallory")
    relay = mallory.connect(user="rights_mallory")
    relay.cursor().execute("CREATE TEMP VIEW lookup AS SELECT 'x'::text AS id FROM lair.climb() AS c WHERE c")
    assert mallory.ingest(body % (1, 1), connection=relay)[1] == 1
    assert ran_as(mallory) == set()
    assert mallory.rows("SELECT waiting, failures FROM audit_projections") == [(1, 0)]
    relay.close()
    mallory.run("CREATE TABLE lookup (id text)")
    assert mallory.ingest(body % (2, 2))[1] == 1
    assert mallory.value("SELECT count(*) FROM feed") == 2


def test_rules_that_are_just_in_time_do_not_add_up(paused):
    """The time of one is the time of all: what comes after it waits."""
    paused.run("CREATE SCHEMA feeds")
    for n in (1, 2, 3):
        paused.run(f"CREATE TABLE feeds.f{n} (log_id bigint); SELECT audit_exclude_table('feeds.f{n}', 'a test'); "
                   f"SELECT audit_create_projection('f{n}', 'SELECT l.id AS log_id FROM audit_new_logs AS l, LATERAL (SELECT pg_sleep(CASE WHEN l.id > 0 THEN 0.7 END)) AS s', 'feeds.f{n}')")
    admin("ALTER SYSTEM SET audit_cdc.rule_timeout = '1s'")
    admin("SELECT pg_reload_conf()")
    until(lambda: paused.value("SHOW audit_cdc.rule_timeout") == "1s")
    paused.run("INSERT INTO t VALUES (1, 'a')")
    capture(paused)
    assert paused.rows("SELECT name, waiting FROM audit_projections ORDER BY name") == [("f1", 0), ("f2", 0), ("f3", 1)]


@pytest.mark.parametrize("made", ["FUNCTION audit_undo(change integer) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
                                  "FUNCTION audit_ingest(varchar) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
                                  "PROCEDURE audit_capture(a int) LANGUAGE sql AS 'SELECT 1'"])
def test_nobody_makes_an_overload_beside_ours(mallory, made):
    admin(f"ALTER DATABASE {mallory.name} OWNER TO rights_dbo")
    mallory.run("ALTER SCHEMA public OWNER TO pg_database_owner; CREATE SCHEMA IF NOT EXISTS elsewhere AUTHORIZATION rights_dbo")
    as_dbo = dict(user="rights_dbo")
    assert code(mallory, f"CREATE {made}", **as_dbo) == "42501"
    dbo = mallory.connect(**as_dbo)
    dbo.cursor().execute("CREATE FUNCTION public.audit_of_our_own() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    dbo.cursor().execute("SET search_path = elsewhere")
    dbo.cursor().execute(f"CREATE {made}")
    name = "ROUTINE " + made.split(" ", 1)[1].split(" RETURNS")[0].split(" LANGUAGE")[0]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        dbo.cursor().execute(f"ALTER {name} SET SCHEMA public")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        dbo.cursor().execute("ALTER FUNCTION public.audit_of_our_own() RENAME TO audit_row")


# shadows of whatever our code may name
SHADOWS = """
CREATE FUNCTION evil.trapped() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on' OR current_user OPERATOR(pg_catalog.=) 'audit_cdc_worker' THEN
    RAISE EXCEPTION 'trapped %', current_user;
  END IF;
END $$;
DO $do$
DECLARE f record; o record;
BEGIN
  FOR f IN
    SELECT p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid) AS arguments, pg_catalog.pg_get_function_result(p.oid) AS result
    FROM pg_catalog.pg_proc AS p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provariadic = 0 AND NOT p.proretset
      AND p.proname = ANY (ARRAY['to_regclass', 'current_setting', 'format', 'quote_ident', 'now', 'clock_timestamp', 'sha256', 'convert_to', 'encode', 'length',
        'lower', 'date_trunc', 'to_char', 'hashtextextended', 'pg_advisory_xact_lock', 'pg_current_wal_flush_lsn', 'pg_current_wal_insert_lsn', 'pg_has_role',
        'array_to_json', 'jsonb_build_object', 'starts_with', 'substr', 'set_config', 'pg_control_system', 'current_database', 'concat', 'isfinite', 'to_jsonb'])
      AND pg_catalog.pg_get_function_arguments(p.oid) !~ 'OUT|VARIADIC|any|internal' AND p.prorettype <> 'pg_catalog.void'::regtype
  LOOP
    EXECUTE pg_catalog.format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS $b$ BEGIN PERFORM evil.trapped(); RETURN NULL; END $b$', f.proname, f.arguments, f.result);
  END LOOP;
  FOR o IN
    SELECT DISTINCT r.oprname, l.typname AS l, t.typname AS r, z.typname AS z
    FROM pg_catalog.pg_operator AS r JOIN pg_catalog.pg_type AS l ON l.oid = r.oprleft JOIN pg_catalog.pg_type AS t ON t.oid = r.oprright JOIN pg_catalog.pg_type AS z ON z.oid = r.oprresult
    WHERE r.oprname IN ('=', '<>', '<', '<=', '>', '>=', '-', '+', '||', '->', '->>', '~')
      AND l.typname IN ('text', 'int4', 'int8', 'oid', 'name', 'pg_lsn', 'jsonb', 'json', 'timestamptz', 'bool', 'char') AND t.typname IN ('text', 'int4', 'int8', 'oid', 'name', 'pg_lsn', 'jsonb', 'timestamptz', 'bool', 'char', 'interval')
    UNION SELECT '=', 'oid', 'regclass', 'bool' UNION SELECT '=', 'text', 'name', 'bool' UNION SELECT '||', 'text', 'varchar', 'text'
  LOOP
    EXECUTE pg_catalog.format('CREATE FUNCTION evil.%I(pg_catalog.%I, pg_catalog.%I) RETURNS pg_catalog.%I LANGUAGE plpgsql AS $b$ BEGIN PERFORM evil.trapped(); RETURN NULL; END $b$',
                              'op ' OPERATOR(pg_catalog.||) pg_catalog.md5(o::text), o.l, o.r, o.z);
    EXECUTE pg_catalog.format('CREATE OPERATOR evil.%s (LEFTARG = pg_catalog.%I, RIGHTARG = pg_catalog.%I, PROCEDURE = evil.%I)', o.oprname, o.l, o.r, 'op ' OPERATOR(pg_catalog.||) pg_catalog.md5(o::text));
  END LOOP;
END $do$;
"""


def test_shadows_of_names_and_operators_are_never_met(source):
    """The database's owner sets a search_path in which they come first, for everybody: the worker, admins, relays and superusers who only call."""
    table(source, "t", "a numeric, b timestamptz, v text, PRIMARY KEY (a, b)")
    source.run("CREATE SCHEMA evil; " + SHADOWS)
    assert source.value("SELECT count(*) FROM pg_proc WHERE pronamespace = 'evil'::regnamespace") > 150
    admin(f"ALTER DATABASE {source.name} SET search_path = evil, pg_catalog, public")
    try:
        trapped = source.connect()
        with pytest.raises(psycopg2.errors.RaiseException, match="trapped"):
            source.value("SELECT to_regclass('t'::text)", connection=trapped)
        source.run("CREATE PUBLICATION audited FOR TABLE public.t")
        source.run("SELECT public.audit_capture_start('audited')")
        source.run("INSERT INTO public.t SELECT n, '2026-01-01', 'x' FROM pg_catalog.generate_series(1, 5) AS n")
        until(lambda: source.value("SELECT pg_catalog.count(*) FROM public.audit_logs") == 5 or source.value("SELECT last_error FROM public.audit_capture_status()") is not None)
        assert source.value("SELECT last_error FROM public.audit_capture_status()") is None
        source.run("CALL public.audit_capture()")
        assert source.rows("CALL public.audit_backfill('public.t')")[0][1] == 5
        assert source.value("SELECT inserted FROM public.audit_ingest('[{\"action\":\"insert\",\"record\":{\"id\":1},\"changes\":null,\"metadata\":{\"commit_lsn\":1,\"commit_idx\":0,\"commit_timestamp\":\"2021-03-01T09:00:00Z\",\"record_pks\":[\"1\"],\"table_schema\":\"s\",\"table_name\":\"t\",\"database\":{\"id\":\"d\"}}}]'::text)") == 1
        source.run("SELECT public.audit_retry_rejects()")
        assert source.value("SELECT pg_catalog.count(*) FROM public.audit_as_of(NULL::public.t)") == 5
        assert source.value("SELECT pg_catalog.count(*) FROM public.audit_history('public.t')") > 0
        change = source.value("SELECT pg_catalog.min(id) FROM public.audit_logs")
        session = source.connect()
        for sql in ("BEGIN", "SELECT public.audit_annotate('me', metadata => '{\"a\": 1}', extra => '{\"b\": 1}')",
                    f"SELECT outcome FROM public.audit_undo(change => {change})", "ROLLBACK"):
            session.cursor().execute(sql)
        assert source.value("SELECT outcome FROM public.audit_undo(change => %s)", change) == "undone"
        source.run("SELECT public.audit_create_history_projection('public.t')")
        source.rows("CALL public.audit_capture_stop()")
    finally:
        admin(f"ALTER DATABASE {source.name} RESET search_path")


def test_the_worker_and_ingest_are_no_superuser(db):
    owners = db.rows("""SELECT p.proname, r.rolname, r.rolsuper FROM pg_proc AS p JOIN pg_roles AS r ON r.oid = p.proowner
        WHERE p.proname IN ('audit_ingest', 'audit_retry_rejects', 'capture_pass', 'advance_capture', 'is_captured', 'note_capture_error') ORDER BY 1""")
    assert len(owners) == 8 and {owner[1:] for owner in owners} == {("audit_cdc_worker", False)}
    assert db.rows("SELECT rolcanlogin, rolcreaterole, rolbypassrls FROM pg_roles WHERE rolname = 'audit_cdc_worker'") == [(False, False, False)]


def test_the_workers_role_must_be_nobodys(empty):
    """Whoever may make roles might make this one first, with members."""
    admin("CREATE ROLE rights_creator; GRANT audit_cdc_worker TO rights_creator")
    try:
        assert code(empty, "CREATE EXTENSION audit_cdc") == "55000"
    finally:
        admin("REVOKE audit_cdc_worker FROM rights_creator; DROP ROLE rights_creator")


def test_an_admin_cannot_let_go_of_what_is_not_stored(paused):
    """Called alone, or around a pass that is rolled back, what moves the slot moves nothing."""
    admin("CREATE ROLE rights_admin LOGIN; GRANT audit_cdc_admin TO rights_admin")
    try:
        confirmed = lambda: paused.value("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()")
        paused.run("INSERT INTO t VALUES (1, 'a')")
        before = confirmed()
        session = paused.connect(user="rights_admin")
        assert code(paused, "SELECT audit_cdc_internal.advance_capture('FFFFFFFF/FFFFFFFF')") == "42883"
        for sql in ("SELECT audit_cdc_internal.advance_capture()", "BEGIN",
                    "SELECT * FROM audit_cdc_internal.capture_pass(NULL)", "SELECT audit_cdc_internal.advance_capture()", "ROLLBACK",
                    "SELECT audit_cdc_internal.advance_capture()",
                    "DO $$ BEGIN PERFORM audit_cdc_internal.capture_pass(NULL); RAISE EXCEPTION 'x'; EXCEPTION WHEN raise_exception THEN NULL; END $$",
                    "SELECT audit_cdc_internal.advance_capture()"):
            session.cursor().execute(sql)
        assert confirmed() == before
        capture(paused)
        assert paused.rows("SELECT record_id FROM audit_logs") == [("1",)]
    finally:
        paused.run("DROP OWNED BY rights_admin")
        admin("DROP ROLE rights_admin")


def test_locks_that_anybody_can_take_do_not_stop_anything(db):
    holder = db.connect()
    holder.cursor().execute("SELECT pg_advisory_lock(hashtextextended('audit_cdc.partitions', 0)), pg_advisory_lock(hashtextextended('audit_cdc.retry', 0))")
    waiting = db.connect(options="-c lock_timeout=5s")
    body = '{"action":"insert","record":{"id":1},"changes":null,"metadata":{"commit_lsn":1,"commit_idx":0,"commit_timestamp":"2031-03-01T09:00:00Z","record_pks":["1"],"table_schema":"s","table_name":"t","database":{"id":"d"}}}'
    assert db.ingest(body, connection=waiting) == (1, 1, 0, 0)
    assert db.rows("SELECT * FROM audit_retry_rejects()", connection=waiting) == [(0, 0, 0, 0)]


TEXT = "Ã© € ü 中"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP"])
def test_values_do_not_pass_through_the_clients_encoding(paused, encoding):
    paused.run("INSERT INTO t VALUES (1, %s)", TEXT)
    session = paused.connect()
    session.cursor().execute(f"SET client_encoding = '{encoding}'")
    session.cursor().execute("CALL audit_capture()")
    assert paused.value("SHOW client_encoding", connection=session) == encoding
    session.cursor().execute("CALL audit_backfill('t')")
    assert paused.rows("SELECT new_values ->> 'v' FROM audit_logs WHERE action <> 'complete' ORDER BY id") == [(TEXT,), (TEXT,)]


@pytest.mark.parametrize("name, value", [("client_encoding", "LATIN1"), ("role", "rights_dbo"), ("temp_file_limit", "64kB"), ("exit_on_error", "on"), ("idle_in_transaction_session_timeout", "1ms"),
                                         ("plpgsql.extra_errors", "all"), ("restrict_nonsystem_relation_kind", "view"), ("standard_conforming_strings", "off"),
                                         ("transform_null_equals", "on"), ("quote_all_identifiers", "on"), ("default_table_access_method", "nothing"), ("array_nulls", "off")])
def test_no_setting_of_the_database_stops_or_alters_capture(mallory, name, value):
    if mallory.rows("SELECT FROM pg_settings WHERE name = %s", name) == [] and "." not in name and name != "role":
        pytest.skip("not in this release")
    table(mallory, "t")
    mallory.run("CREATE PUBLICATION audited FOR TABLE t")
    connection = mallory.connect()
    connection.cursor().execute("LOAD 'plpgsql'")
    try:
        connection.cursor().execute(f"ALTER DATABASE {mallory.name} SET {name} = '{value}'")
    except psycopg2.errors.InvalidParameterValue:
        connection.cursor().execute(f"UPDATE pg_db_role_setting SET setconfig = ARRAY['{name}={value}'] WHERE false")
        pytest.skip("this release refuses it")
    try:
        connection.cursor().execute("SELECT audit_capture_start('audited')")
        connection.cursor().execute("INSERT INTO t SELECT i, %s FROM generate_series(1, 3000) AS i", (TEXT,))
        until(lambda: mallory.rows("SELECT count(*) FROM audit_logs", connection=connection) == [(3000,)], 30)
        assert mallory.rows("SELECT DISTINCT new_values ->> 'v' FROM audit_logs", connection=connection) == [(TEXT,)]
        assert mallory.rows("SELECT last_error FROM audit_capture_status()", connection=connection) == [(None,)]
    finally:
        connection.cursor().execute(f"ALTER DATABASE {mallory.name} RESET {name}")


def test_every_setting_of_the_server_is_decided(db):
    """A release brings new ones: pin it in src/pg/pinned.rs, or say in settings.txt why not."""
    decided = [line.split(": ", 1) for line in (TOP / "tests" / "e2e" / "settings.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(reason for _, reason in decided)
    session = db.connect()
    session.cursor().execute("LOAD 'plpgsql'")
    pinned = {name for name, in db.rows("SELECT name FROM audit_cdc_internal.pinned_settings()")} | {"lc_monetary"}
    names = [name for name, in db.rows("SELECT name FROM pg_settings WHERE context IN ('user', 'superuser')", connection=session)]
    assert len(names) > 150 and {"search_path", "client_encoding", "DateStyle"} <= pinned
    assert [name for name in names if name not in pinned and not any(re.fullmatch(pattern, name) for pattern, _ in decided)] == []


def test_functions_with_more_rights_than_their_callers_run_under_the_pinned_settings(db):
    """Those in SQL are told to by the catalogs, those in C do it themselves (test_no_setting_of_the_database_stops_or_alters_capture)."""
    lacking = db.rows("""SELECT p.oid::regprocedure, s.name FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
        JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        CROSS JOIN audit_cdc_internal.pinned_settings() AS s JOIN pg_settings AS k ON k.name = s.name AND k.context = 'user'
        WHERE p.prosecdef AND (l.lanname <> 'c' OR s.name = 'search_path')
          AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE lower(split_part(c, '=', 1)) = lower(s.name))""")
    assert lacking == []


def test_arrays_are_read_alike_under_any_setting(db):
    session = db.connect(options="-c array_nulls=off -c xmloption=document")
    assert db.value("SELECT audit_cast(NULL::text[], '[\"a\", null, \"NULL\"]')", connection=session) == ["a", None, "NULL"]
    try:
        assert db.value("SELECT audit_cast(NULL::xml, '\"<a/>text\"')::text", connection=session) == "<a/>text"
    except psycopg2.errors.InvalidCharacterValueForCast:  # a server that is built without libxml refuses any
        assert code(db, "SELECT '<a/>'::xml") == "0A000"


def test_an_error_of_reading_the_slot_is_in_the_servers_log(paused):
    """It is quiet only about what decoding says each time that it begins."""
    import os
    import pathlib
    paused.run("INSERT INTO t VALUES (1, 'a')")
    slot = paused.value("SELECT slot FROM audit_cdc_internal.captures")
    replication = {"dbname": paused.connect().info.dbname, "connection_factory": psycopg2.extras.LogicalReplicationConnection}
    with contextlib.closing(psycopg2.connect(**replication)) as other:
        other.cursor().start_replication(slot_name=slot, options={"publication": "audited"})
        assert code(paused, "CALL audit_capture()") == "55006"
    log = (pathlib.Path(os.environ["AUDIT_DATA"]) / "log").read_text(errors="replace")
    assert f'replication slot "{slot}" is active for PID' in log
    until(lambda: paused.value("SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", slot))


def test_a_rule_of_hers_runs_as_she_does_and_a_row_filter_of_hers_is_none(mallory):
    mallory.run("SET ROLE rights_mallory; CREATE TABLE lair.r (id int PRIMARY KEY, v text); ALTER TABLE lair.r REPLICA IDENTITY FULL")
    begin(mallory)
    mallory.run("INSERT INTO lair.r VALUES (1, 'a')")
    mallory.run("UPDATE lair.r SET v = 'b'")
    capture(mallory)
    mallory.run("SET ROLE rights_mallory; CREATE RULE also AS ON UPDATE TO lair.r DO ALSO INSERT INTO lair.loot SELECT current_user WHERE lair.climb()")
    assert mallory.rows("SELECT outcome FROM audit_undo(change => (SELECT id FROM audit_logs WHERE action = 'update'))") == [("undone",)]
    assert ran_as(mallory) == {"rights_mallory"}
    assert code(mallory, "CREATE PUBLICATION hers FOR TABLE lair.r WHERE (lair.check(id))") == "0A000"


def test_who_may_replicate_alters_nothing_that_is_captured(paused):
    admin("CREATE ROLE rights_replica LOGIN REPLICATION")
    try:
        paused.run("INSERT INTO t VALUES (1, 'a')")
        slot = paused.value("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")
        peek = f"SELECT pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'publication', 'audited')"
        for sql in (peek, "SELECT pg_logical_emit_message(true, 'audit_cdc.rule', '')", "SELECT pg_logical_emit_message(false, 'audit_cdc.rule', 'x')"):
            paused.rows(sql, connection=paused.connect(user="rights_replica"))
        for sql in ("SELECT audit_pending_changes()", "SELECT audit_cdc_internal.capture_pass(1)", "INSERT INTO audit_cdc_internal.log DEFAULT VALUES", "SELECT * FROM audit_logs"):
            assert code(paused, sql, user="rights_replica") == "42501", sql
        assert capture(paused) == 1
        assert paused.rows("SELECT new_values, origin FROM audit_logs") == [({"id": 1, "v": "a"}, "capture")]
    finally:
        admin("DROP ROLE rights_replica")
