"""With whose rights: who may call what, and that a rule and its target's triggers never get more than the rule's owner has."""

import pytest
from projection_helpers import FEED, RULE, code, every_entry_once, ids, project, roles, run, state, values

CALLS = ["audit_alter_projection('feed', 'SELECT id AS log_id FROM audit_new_logs')", "audit_rebuild_projection('feed')", "audit_retry_projection('feed')",
         "audit_disable_projection('feed')", "audit_enable_projection('feed')", "audit_drop_projection('feed')"]


@pytest.fixture
def owned(roles, db):
    """A projection and its table, of a member of audit_cdc_reader."""
    db.owner = roles("audit_cdc_reader")
    db.run(f"GRANT CREATE ON SCHEMA public TO {db.owner}")
    session = db.connect(user=db.owner)
    run(session, FEED)
    run(session, "SELECT audit_create_projection('feed', %s)", RULE)
    return db


def test_nobody_else_may_call_anything(roles, owned):
    names = [name for (name,) in owned.rows("SELECT DISTINCT proname FROM pg_proc WHERE proname ~ '^audit_.*(projection|history)'")]
    assert len(names) == 9
    for role in (roles(), roles("audit_cdc_ingest")):
        session = owned.connect(user=role)
        for call in CALLS + ["audit_create_projection('x', 'SELECT 1')", "audit_create_history_projection('feed')", "audit_create_history_projection('d1', 'public', 'orders')",
                             "audit_cdc_internal.create_history_table('h', 's', '{}', '{}', '{}', '{}', '{}', 'd', 's', 't')"]:
            assert code(session, f"SELECT {call}") == "42501", call
        for view in ("audit_projections", "audit_projection_failures", "audit_projection_progress", "audit_new_logs", "audit_logs"):
            assert code(session, f"SELECT FROM {view}") == "42501", view
        assert owned.rows("SELECT proname FROM pg_proc WHERE proname = ANY (%s) AND has_function_privilege(%s, oid, 'EXECUTE')", names, role) == []


def test_another_reader_may_not_change_it(roles, owned):
    other, colleague, admin = roles("audit_cdc_reader"), roles(owned.owner), roles("audit_cdc_admin")
    owned.ingest(values("a"))
    session = owned.connect(user=other)
    for call in CALLS:
        assert code(session, f"SELECT {call}") == "42501", call
    assert run(session, "SELECT name, enabled FROM audit_projections") == [("feed", True)], "but see it"
    assert len(ids(owned)) == 1
    for role in (owned.owner, colleague, admin):
        session = owned.connect(user=role)
        for call in CALLS[1:5]:
            assert code(session, f"SELECT {call}") is None, (role, call)
    every_entry_once(owned)
    assert code(owned.connect(user=colleague), "SELECT audit_drop_projection('feed')") is None


def test_the_relay_needs_no_rights_on_the_target(roles, owned):
    relay = owned.connect(user=roles("audit_cdc_ingest"))
    assert code(relay, "SELECT FROM feed") == "42501"
    owned.ingest(values("a"), relay)
    every_entry_once(owned)
    assert state(owned) == (True, 0, 0)


def test_the_rule_and_all_that_hangs_on_the_target_run_as_the_rules_owner(owned):
    """Also when a superuser ingests, rebuilds, retries, enables."""
    session = owned.connect(user=owned.owner)
    run(session, """
        CREATE TABLE seen (place text, who name);
        CREATE FUNCTION note(place text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN see(place); END $$;
        CREATE FUNCTION see(place text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (place, current_user); RETURN place; END $$;
        CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM see(TG_NAME); RETURN coalesce(NEW, OLD); END $$;
        ALTER TABLE feed ADD defaulted text DEFAULT see('default'), ADD generated text GENERATED ALWAYS AS (note('generated')) STORED, ADD CHECK (see('check') <> '');
        CREATE INDEX ON feed (note('index' || left(value, 0)));
        CREATE TRIGGER before_row BEFORE INSERT OR DELETE ON feed FOR EACH ROW EXECUTE FUNCTION seen();
        CREATE TRIGGER after_row AFTER INSERT OR DELETE ON feed FOR EACH ROW EXECUTE FUNCTION seen();
        CREATE TRIGGER before_statement BEFORE INSERT OR DELETE ON feed EXECUTE FUNCTION seen();
        CREATE TRIGGER after_statement AFTER INSERT OR DELETE ON feed EXECUTE FUNCTION seen();
        CREATE CONSTRAINT TRIGGER deferred_row AFTER INSERT OR DELETE ON feed DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION seen();
        CREATE CONSTRAINT TRIGGER deferrable_row AFTER INSERT OR DELETE ON feed DEFERRABLE FOR EACH ROW EXECUTE FUNCTION seen();
        ALTER TABLE feed ENABLE ALWAYS TRIGGER after_row""")
    run(session, "SELECT audit_alter_projection('feed', %s)", RULE.replace("table_name", "see('rule') AS table_name"))
    places = {"default", "generated", "check", "index", "rule", "before_row", "after_row", "before_statement", "after_statement", "deferred_row", "deferrable_row"}

    def by_the_owner(places=places):
        found = owned.rows("SELECT place, array_agg(DISTINCT who::text) FROM seen GROUP BY place")
        assert {place: who for place, who in found} == {place: [owned.owner] for place in places}
        owned.run("TRUNCATE seen")

    superuser = owned.connect()
    owned.ingest(values("a"), superuser)
    by_the_owner()
    run(superuser, "BEGIN; SET CONSTRAINTS ALL DEFERRED")
    owned.ingest(values("b", first=1), superuser)
    run(superuser, "COMMIT")
    by_the_owner()
    run(superuser, "BEGIN; SELECT audit_rebuild_projection('feed'); COMMIT")
    by_the_owner()
    run(superuser, "SELECT audit_disable_projection('feed')")
    owned.ingest(values("c", first=2), superuser)
    by_the_owner([])
    run(superuser, "BEGIN; SELECT audit_enable_projection('feed'); COMMIT")
    by_the_owner()
    run(session, "ALTER TABLE feed ADD CONSTRAINT no CHECK (value <> 'd')")
    owned.ingest(values("d", first=3), superuser)
    run(session, "ALTER TABLE feed DROP CONSTRAINT no")
    owned.run("TRUNCATE seen")
    run(superuser, "BEGIN; SELECT audit_retry_projection('feed'); COMMIT")
    by_the_owner()
    every_entry_once(owned)


ATTACKS = [
    "SET ROLE postgres", "SET LOCAL ROLE postgres", "RESET ROLE", "SET ROLE NONE", "SET SESSION AUTHORIZATION postgres", "SET SESSION AUTHORIZATION DEFAULT",
    "RESET SESSION AUTHORIZATION", "RESET ALL", "DISCARD ALL", "DISCARD TEMP", "DISCARD PLANS", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET session_replication_role = replica", "SET audit_cdc.on_reject = error", "SET log_statement = 'all'",
    *(f"SELECT set_config('{name}', '{value}', {local})" for local in ("true", "false") for name, value in (
        ("role", "postgres"), ("session_authorization", "postgres"), ("search_path", "evil"), ("statement_timeout", "1"), ("lock_timeout", "1"), ("TimeZone", "Asia/Tokyo"),
        ("row_security", "off"), ("standard_conforming_strings", "off"), ("default_transaction_read_only", "on"), ("work_mem", "64"), ("application_name", "evil"),
        ("audit_cdc.on_reject", "error"), ("enable_seqscan", "off"), ("client_min_messages", "error"), ("transaction_read_only", "on"))),
    "CREATE TEMP TABLE planted (x int)", "CREATE TEMP VIEW planted AS SELECT 1", "CREATE TEMP SEQUENCE planted", "CREATE DOMAIN pg_temp.planted AS text", "CREATE TYPE pg_temp.planted AS ENUM ('a')",
    "CREATE TABLE pg_temp.planted (x int)", "SELECT 1 AS x INTO TEMP planted", "PREPARE planted AS SELECT 1", "DEALLOCATE ALL", "LISTEN planted", "UNLISTEN *",
    "DECLARE planted CURSOR WITH HOLD FOR SELECT 1", "DECLARE planted CURSOR FOR SELECT 1", "COMMIT", "ROLLBACK", "SAVEPOINT planted", "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED", "ALTER ROLE {owner} SUPERUSER", "GRANT audit_cdc_admin TO {owner}", "ALTER SYSTEM SET work_mem = '1MB'", "CREATE ROLE planted SUPERUSER",
    "COPY (SELECT 1) TO PROGRAM 'cat > /tmp/planted'", "COPY secret TO STDOUT", "SELECT * FROM secret", "SELECT * FROM audit_cdc_internal.log", "TRUNCATE audit_cdc_internal.log",
    "UPDATE audit_cdc_internal.projections SET rule_owner = 'postgres'", "SELECT pg_read_file('PG_VERSION')", "SELECT lo_import('/etc/passwd')",
    "CREATE EVENT TRIGGER planted ON ddl_command_start EXECUTE FUNCTION attack()", "CREATE TRIGGER planted BEFORE INSERT ON audit_cdc_internal.log EXECUTE FUNCTION attack()",
    "ALTER FUNCTION attack() OWNER TO postgres", "ALTER TABLE feed OWNER TO postgres", "SELECT pg_terminate_backend(pg_backend_pid())", "SELECT pg_reload_conf()",
]
SESSION = """SELECT current_user, session_user, (SELECT json_object_agg(name, setting ORDER BY name) FROM pg_settings),
                    ARRAY(SELECT name FROM pg_prepared_statements), ARRAY(SELECT name FROM pg_cursors WHERE is_holdable), ARRAY(SELECT pg_listening_channels()),
                    ARRAY(SELECT relname FROM pg_class WHERE pg_my_temp_schema() = relnamespace), ARRAY(SELECT typname FROM pg_type WHERE pg_my_temp_schema() = typnamespace),
                    ARRAY(SELECT rolname || rolsuper || pg_has_role(rolname, 'audit_cdc_admin', 'USAGE') FROM pg_roles ORDER BY 1),
                    ARRAY(SELECT evtname FROM pg_event_trigger), ARRAY(SELECT tgname FROM pg_trigger WHERE tgname = 'planted')"""


def differences(before, now):
    found = [pair for pair in zip(before, now) if pair[0] != pair[1] and not isinstance(pair[0], dict)]
    return found + [(name, before[2][name], value) for name, value in now[2].items() if before[2].get(name) != value]


@pytest.mark.parametrize("place, swallowed", [("rule", False), ("trigger", True), ("constraint trigger", True)])
def test_nothing_that_the_rule_tries_gets_it_further(owned, place, swallowed):
    owned.run("CREATE TABLE secret (x int); INSERT INTO secret VALUES (42)")
    session = owned.connect(user=owned.owner)
    run(session, "CREATE TABLE try (sql text); CREATE TABLE loot (who name)")
    caught = "EXCEPTION WHEN OTHERS THEN INSERT INTO loot VALUES (current_user);" if swallowed else ""
    body = f"DECLARE s text; BEGIN SELECT sql INTO s FROM public.try; BEGIN EXECUTE s; {caught} END; INSERT INTO public.loot VALUES (current_user); RETURN %s; END"
    run(session, f"CREATE FUNCTION attack() RETURNS boolean LANGUAGE plpgsql AS $$ {body % 'true'} $$; CREATE FUNCTION attacks() RETURNS trigger LANGUAGE plpgsql AS $$ {body % 'NEW'} $$")
    if place == "rule":
        run(session, "SELECT audit_alter_projection('feed', %s)", RULE + " WHERE attack()")
    else:
        run(session, "CREATE TRIGGER attack BEFORE INSERT ON feed FOR EACH ROW EXECUTE FUNCTION attacks()" if place == "trigger" else
            "CREATE CONSTRAINT TRIGGER attack AFTER INSERT ON feed DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION attacks()")
    superuser = owned.connect()
    # with a temporary table of its own it would not be fed at all (test_rights_of_code)
    run(superuser, "DECLARE mine CURSOR WITH HOLD FOR SELECT 1; PREPARE mine AS SELECT 1; LISTEN mine")
    owned.ingest(values("warm", lsn=10_000), superuser)  # loads PL/pgSQL and its settings
    before = run(superuser, SESSION)[0]
    for n, attack in enumerate(ATTACKS):
        owned.run("TRUNCATE try; INSERT INTO try VALUES (%s)", attack.format(owner=owned.owner))
        for within in (False, True):
            run(superuser, "BEGIN" if within else "SELECT")
            assert owned.ingest(values("x", lsn=2 * n + within), superuser) == (1, 1, 0, 0), attack
            for end in ("SELECT", "COMMIT")[:1 + within]:
                assert differences(before, run(superuser, SESSION)[0]) == [], attack
                run(superuser, end)
            assert differences(before, run(superuser, SESSION)[0]) == [], attack
    assert owned.rows("SELECT DISTINCT who FROM loot") == [(owned.owner,)]
    assert owned.rows("SELECT x FROM secret") == [(42,)]
    assert len(ids(owned)) + state(owned)[2] == 2 * len(ATTACKS) + 1, "each reached the target or is listed"


def test_a_deferred_trigger_of_another_table_does_not_run_as_the_relay(owned):
    """At COMMIT it would run as whoever ingests."""
    session = owned.connect(user=owned.owner)
    run(session, """
        CREATE TABLE loot (who name); CREATE TABLE second (x int);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user); RETURN NEW; END $$;
        CREATE FUNCTION on_() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.second VALUES (1); RETURN NEW; END $$;
        CREATE CONSTRAINT TRIGGER later AFTER INSERT ON second DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
        CREATE TRIGGER on_ BEFORE INSERT ON feed FOR EACH ROW EXECUTE FUNCTION on_()""")
    superuser = owned.connect()
    for n, (begin, end) in enumerate([("SELECT", "SELECT"), ("BEGIN", "COMMIT"), ("BEGIN; SET CONSTRAINTS ALL DEFERRED", "SET CONSTRAINTS ALL IMMEDIATE; COMMIT")]):
        run(superuser, begin)
        assert owned.ingest(values("a", first=n), superuser) == (1, 1, 0, 0)
        run(superuser, end)
    assert owned.rows("SELECT DISTINCT who FROM loot WHERE who <> %s", owned.owner) == []
    assert len(ids(owned)) + state(owned)[2] == 3


def test_row_security_of_the_target_and_of_what_the_rule_reads_is_that_of_the_owner(roles, db):
    owner = roles("audit_cdc_reader")
    db.run(FEED + f"""; CREATE TABLE used (suffix text); INSERT INTO used VALUES ('+'), ('secret');
        GRANT ALL ON feed, used TO {owner}; GRANT USAGE ON SEQUENCE feed_n_seq TO {owner};
        ALTER TABLE used ENABLE ROW LEVEL SECURITY; ALTER TABLE feed ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON used TO {owner} USING (suffix = '+'); CREATE POLICY p ON feed TO {owner} USING (true) WITH CHECK (value <> 'no+')""")
    create = "SELECT audit_create_projection('feed', %s, fill => {})"
    rule = RULE.replace("AS value", "|| suffix AS value") + ", used"
    assert code(db.connect(user=owner), create.format("true"), rule) == "42501", "rows may be there that its owner does not see"
    run(db.connect(user=owner), create.format("false"), rule)
    db.ingest(values("a", "no"))
    assert db.rows("SELECT value FROM feed") == [("a+",)]
    assert db.rows("SELECT sqlstate FROM audit_projection_failures") == [("42501",)]


def test_a_rebuild_takes_no_rows_of_strangers_along(roles, owned):
    """PostgreSQL runs triggers of what a foreign key takes along with the rights of who deletes."""
    other = roles()
    owned.run(f"GRANT CREATE ON SCHEMA public TO {other}; CREATE TABLE loot (who text); GRANT ALL ON loot TO PUBLIC")
    owned.ingest(values("a"))
    run(owned.connect(user=owned.owner), f"ALTER TABLE feed ADD UNIQUE (log_id); GRANT REFERENCES ON feed TO {other}")
    run(owned.connect(user=other), """CREATE TABLE along (log_id bigint REFERENCES feed (log_id) ON DELETE CASCADE); INSERT INTO along VALUES (1);
        CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.loot VALUES (current_user); RETURN NULL; END';
        CREATE TRIGGER t AFTER DELETE ON along FOR EACH ROW EXECUTE FUNCTION climb()""")
    for session in (owned.connect(), owned.connect(user=owned.owner)):
        assert code(session, "SELECT audit_rebuild_projection('feed')") == "42501"
    assert owned.rows("SELECT who FROM loot") == [] and len(ids(owned)) == 1
    run(owned.connect(user=other), "ALTER TABLE along DROP CONSTRAINT along_log_id_fkey")
    assert code(owned.connect(), "SELECT audit_rebuild_projection('feed')") is None
