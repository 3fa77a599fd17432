"""A rule means the same in every session: its creator's settings count, and nothing that the session of the relay has."""

import pytest
from conftest import batch, change
from projection_helpers import FEED, RULE, code, project, roles, run, state, values

AT = ["2024-05-01T10:00:00.000000Z", "2024-12-31T23:30:00.500000Z"]
TEXTS = """SELECT id AS log_id, commit_timestamp::text || ' | ' || commit_timestamp::date || ' | ' || (interval '1 day 2 hours' * commit_idx)::text || ' | ' || marked() AS value
           FROM audit_new_logs WHERE commit_timestamp > '01/02/2024 00:00'"""
MINE = {"TimeZone": "Asia/Tokyo", "DateStyle": "SQL, DMY", "IntervalStyle": "iso_8601", "search_path": "mine, public"}
EXPECTED = ["01/05/2024 19:00:00 JST | 01/05/2024 | P1DT2H | mine", "01/01/2025 08:30:00.5 JST | 01/01/2025 | P2DT4H | mine"]


def with_settings(db, settings, **options):
    connection = db.connect(**options)
    for name, value in settings.items():
        run(connection, f"SET {name} = {value}" if name == "search_path" else f"SET {name} = '{value}'")
    return connection


@pytest.fixture
def marked(db):
    db.run(FEED + """; CREATE SCHEMA mine; CREATE SCHEMA other;
        CREATE FUNCTION mine.marked() RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$; CREATE FUNCTION other.marked() RETURNS text LANGUAGE sql AS $$ SELECT 'other' $$""")
    return db


OTHERS = [{"TimeZone": "America/New_York", "DateStyle": "German", "IntervalStyle": "postgres_verbose", "search_path": "other, public"},
          {"TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "search_path": "''"}]


def texts(db):
    return [value for (value,) in db.rows("SELECT value FROM feed ORDER BY log_id")]


def test_settings_are_those_of_its_creation_in_every_session(marked):
    entries = [change(n, time=time) for n, time in enumerate(AT, 1)]
    run(with_settings(marked, MINE), "SELECT audit_create_projection('feed', %s)", TEXTS)
    for settings in OTHERS:
        relay = with_settings(marked, settings)
        own = [run(relay, f"SHOW {name}") for name in settings]
        run(relay, "SELECT FROM public.audit_ingest(%s)", batch(entries))
        assert texts(marked) == EXPECTED
        run(relay, "SELECT public.audit_rebuild_projection('feed')")
        assert texts(marked) == EXPECTED
        run(relay, "SELECT public.audit_disable_projection('feed'); SELECT public.audit_enable_projection('feed')")
        assert [run(relay, f"SHOW {name}") for name in settings] == own, "and the session keeps its own"
    marked.run("SELECT audit_drop_projection('feed'); TRUNCATE feed")
    run(with_settings(marked, MINE), "SELECT audit_create_projection('feed', %s)", TEXTS)
    assert texts(marked) == EXPECTED, "the same by filling"


def test_altered_it_has_those_of_the_altering_session(marked):
    """The same words mean something else there, also in a session that knows them already."""
    relay = marked.connect()
    run(with_settings(marked, MINE), "SELECT audit_create_projection('feed', %s)", TEXTS)
    marked.ingest(batch([change(1, time=AT[0])]), relay)
    run(with_settings(marked, {**MINE, "TimeZone": "UTC", "search_path": "other, public"}), "SELECT audit_alter_projection('feed', %s)", TEXTS)
    marked.ingest(batch([change(2, time=AT[1])]), relay)
    assert texts(marked) == [EXPECTED[0], "31/12/2024 23:30:00.5 UTC | 31/12/2024 | P2DT4H | other"]


def test_what_is_read_as_a_constant_is_read_anew_too(db):
    """2024-02-01 or 2024-01-02: the literal's meaning hangs on DateStyle, its moment on TimeZone."""
    rule = "SELECT id AS log_id, (timestamptz '01/02/2024 00:00')::text AS value FROM audit_new_logs"
    db.run(FEED)
    relay, expected = db.connect(), []
    for n, (style, zone, text) in enumerate([("ISO, DMY", "UTC", "2024-02-01 00:00:00+00"), ("ISO, MDY", "UTC", "2024-01-02 00:00:00+00"), ("ISO, MDY", "Asia/Tokyo", "2024-01-02 00:00:00+09")]):
        session = with_settings(db, {"DateStyle": style, "TimeZone": zone})
        run(session, "SELECT audit_create_projection('feed', %s)" if n == 0 else "SELECT audit_alter_projection('feed', %s)", rule)
        db.ingest(values("x", first=n), relay)
        expected.append(text)
        assert texts(db) == expected


# ------------------------------------------------------------------------------------------ the session of whoever ingests


PLAIN = {  # a rule's value of 'a', and a setting that would give another
    "standard_conforming_strings": (r"'C:\new'", "off"),
    "transform_null_equals": ("CASE WHEN NULL::text = NULL THEN 'null' ELSE 'a' END", "on"),
    "bytea_output": (r"decode('ff', 'hex')::text", "escape"),
    "extra_float_digits": ("(0.1::float8 + 0.2)::text", "-5"),
    "default_text_search_config": ("to_tsvector('the cats')::text", "simple"),
    "row_security": ("(SELECT suffix FROM used)", "off"),
    "array_nulls": ("'{NULL}'::text[]::text", "off"),
    "xmloption": ("('<a/><b/>'::xml)::text", "document"),
    "quote_all_identifiers": ("quote_ident('a')", "on"),
    "lc_monetary": ("12::money::text", "C.UTF-8"),
}


@pytest.mark.parametrize("setting", PLAIN)
def test_a_setting_of_the_relay_does_not_change_what_the_rule_does(roles, db, setting):
    value, other = PLAIN[setting]
    owner, relay = roles("audit_cdc_reader"), roles("audit_cdc_ingest")
    db.run(FEED + f"""; CREATE TABLE used (suffix text); INSERT INTO used VALUES ('+'), ('secret'); ALTER TABLE used ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON used TO {owner} USING (suffix = '+'); GRANT ALL ON feed, used TO {owner}; GRANT USAGE ON SEQUENCE feed_n_seq TO {owner}""")
    if code(db.connect(), f"SELECT {value}") in ("0A000", "2200M"):
        pytest.skip("not in this server")
    run(db.connect(user=owner), "SELECT audit_create_projection('feed', %s)", f"SELECT id AS log_id, {value} AS value FROM audit_new_logs")
    db.ingest(values("a"), db.connect(user=relay))
    hostile = db.connect(user=relay)
    assert code(hostile, f"SET {setting} = '{other}'") in (None, "42501")
    db.ingest(values("a", first=1), hostile)
    assert state(db) == (True, 0, 0), db.rows("SELECT reason FROM audit_projection_failures")
    [one, two] = texts(db)
    assert one == two


HOSTILE = """
  CREATE TABLE evil.feed (LIKE public.feed); CREATE TABLE evil.used (suffix text); INSERT INTO evil.used VALUES ('evil');
  CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user, 'lower'); RETURN 'evil'; END $$;
  CREATE FUNCTION evil.own(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user, 'own'); RETURN 'evil'; END $$;
  CREATE FUNCTION evil.join(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user, 'join'); RETURN 'evil'; END $$;
  CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user, 'same'); RETURN false; END $$;
  CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.join);
  CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
  CREATE DOMAIN evil.text AS pg_catalog.text DEFAULT 'evil';
  CREATE TYPE evil.kind AS ENUM ('evil'); CREATE FUNCTION evil.to_kind(text) RETURNS evil.kind LANGUAGE sql AS $$ SELECT 'evil'::evil.kind $$;
  CREATE CAST (text AS evil.kind) WITH FUNCTION evil.to_kind(text) AS IMPLICIT;
  CREATE VIEW evil.audit_new_logs AS SELECT 666::bigint AS id, 'orders'::text AS table_name, '{"value": "evil"}'::jsonb AS new_values;
  CREATE FUNCTION pg_temp.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.lower($1) $$;
  CREATE FUNCTION pg_temp.own(text) RETURNS text LANGUAGE sql AS $$ SELECT evil.own($1) $$;
  SET search_path = evil, pg_temp, public, pg_catalog"""

TEMPORARY = {
    "target": "CREATE TEMP TABLE feed (LIKE public.feed); GRANT ALL ON feed TO PUBLIC",
    "table of the rule": "CREATE TEMP TABLE used AS SELECT 'evil' AS suffix; GRANT ALL ON used TO PUBLIC",
    "table of the rule, not granted": "CREATE TEMP TABLE used AS SELECT 'evil' AS suffix",
    "view that calls a function": "CREATE TEMP VIEW used AS SELECT evil.own('x') AS suffix; GRANT ALL ON used TO PUBLIC",
    "the new entries": """CREATE TEMP VIEW audit_new_logs AS SELECT 666::bigint AS id, 'orders'::text AS table_name, '{"value": "evil"}'::jsonb AS new_values; GRANT ALL ON audit_new_logs TO PUBLIC""",
    "a type": "CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (evil.own(VALUE) <> '')",
    "a table that a trigger writes": "CREATE TEMP TABLE written (value text); CREATE RULE r AS ON INSERT TO written DO ALSO SELECT evil.own('x'); GRANT ALL ON written TO PUBLIC",
    "a catalog": "CREATE TEMP VIEW pg_class AS SELECT evil.own('x')::name AS relname; GRANT ALL ON pg_class TO PUBLIC",
}


@pytest.fixture
def hostile(roles, db):
    """A rule of the owner's that calls, reads and writes by plain names; and a relay that is up to something."""
    owner, relay = roles("audit_cdc_reader"), roles("audit_cdc_ingest")
    db.run(FEED + f"""; CREATE TABLE used (suffix text); INSERT INTO used VALUES ('+'); CREATE TABLE loot (who name, how text); GRANT INSERT ON loot TO PUBLIC;
        CREATE TABLE written (value text); CREATE SCHEMA evil AUTHORIZATION {relay}; GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT SELECT ON feed, used TO PUBLIC;
        GRANT ALL ON feed, used, written TO {owner}; GRANT USAGE ON SEQUENCE feed_n_seq TO {owner}; GRANT CREATE ON SCHEMA public TO {owner}""")
    session = db.connect(user=owner)
    run(session, """CREATE FUNCTION own(text) RETURNS text LANGUAGE sql AS $$ SELECT $1 $$;
                    CREATE FUNCTION write() RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO written VALUES ('x'); RETURN (SELECT count(*) FROM pg_class WHERE relname = 'written'); END $$""")
    rule = "SELECT id AS log_id, own(lower(new_values ->> 'value')) || suffix || CASE WHEN write() = '0' THEN 'none' ELSE '' END AS value FROM audit_new_logs, used WHERE table_name = 'orders'::text"
    run(session, "SELECT audit_create_projection('feed', %s)", rule)
    db.relay = relay
    return db


def honest(db, connection):
    """Whatever was planted, the rule does what it does elsewhere."""
    run(connection, "SELECT FROM public.audit_ingest(%s)", values("A", first=1))
    run(connection, "BEGIN")
    run(connection, "SELECT FROM public.audit_ingest(%s)", values("B", first=2))
    run(connection, "COMMIT")
    assert db.rows("SELECT * FROM loot") == []
    # beside temporary tables and types they wait for another session
    db.ingest(values("C", first=3))
    assert state(db) == (True, 0, 0), db.rows("SELECT sqlstate, reason FROM audit_projection_failures")
    assert texts(db)[-3:] == ["a+", "b+", "c+"] and db.rows("SELECT * FROM loot") == []


def test_a_relay_with_a_hostile_search_path(hostile):
    connection = hostile.connect(user=hostile.relay)
    run(connection, HOSTILE)
    honest(hostile, connection)


@pytest.mark.parametrize("known", [False, True], ids=["new session", "session that has fed it"])
@pytest.mark.parametrize("planted", TEMPORARY)
def test_a_relay_with_temporary_objects_of_the_same_names(hostile, planted, known):
    connection = hostile.connect(user=hostile.relay)
    if known:
        hostile.ingest(values("Z"), connection)
    run(connection, "CREATE FUNCTION evil.own(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot VALUES (current_user, 'own'); RETURN 'evil'; END $$")
    run(connection, TEMPORARY[planted])
    honest(hostile, connection)
    run(connection, "DISCARD ALL")


def test_temporary_objects_of_an_admin_who_rebuilds(roles, hostile):
    """The filling runs in the session of whoever calls it."""
    admin = roles("audit_cdc_admin")
    hostile.ingest(values("A"))
    session = hostile.connect(user=admin)
    run(session, "CREATE TEMP TABLE used AS SELECT 'mine' AS suffix; CREATE TEMP TABLE feed (LIKE public.feed); GRANT ALL ON used, feed TO PUBLIC")
    assert code(session, "SELECT audit_rebuild_projection('feed')") == "55006"
    assert hostile.rows("SELECT value FROM public.feed") == [("a+",)]
    run(session, "DISCARD TEMP; SELECT audit_rebuild_projection('feed')")
    assert hostile.rows("SELECT value FROM public.feed") == [("a+",)]


def test_a_temporary_table_is_no_target(db):
    """It would be gone with the session."""
    session = db.connect()
    run(session, FEED.replace("TABLE", "TEMP TABLE"))
    assert code(session, "SELECT audit_create_projection('feed', %s)", RULE) == "42809"
    assert run(session, "SELECT * FROM audit_projections") == []
