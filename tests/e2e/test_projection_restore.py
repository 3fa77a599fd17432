"""pg_dump and pg_restore of a database with projections."""

import subprocess

import pytest
from conftest import Database, admin, batch, change
from projection_helpers import HELD_RULE, HOLD, RULE, code, every_entry_once, held, ids, log_ids, project, roles, run, state, values

CAST = RULE.replace("new_values ->> 'value'", "(new_values ->> 'value')::int::text")
KEPT = ["SELECT name, target::text, columns, rule, rule_owner::text, enabled, waiting, waiting_since, failures, created_at, rebuilt_at FROM audit_projections ORDER BY 1",
        "SELECT * FROM audit_projection_failures ORDER BY projection, log_id", "SELECT * FROM feed ORDER BY n", 'SELECT * FROM "We ird"."T\'x" ORDER BY 1', "SELECT * FROM interrupted ORDER BY n",
        "SELECT * FROM orders_history ORDER BY audit_id", "SELECT id, record_key FROM audit_logs ORDER BY id"]


@pytest.mark.parametrize("arguments", [["-Fc"], ["-Fd", "-j2"], ["-Fp"]], ids=["custom", "directory, parallel", "plain"])
def test_projections_go_on_after_a_restore(roles, db, tmp_path, arguments):
    owner = roles("audit_cdc_reader")
    db.run(HOLD + f"; GRANT CREATE ON SCHEMA public TO {owner}; CREATE TABLE orders (id int PRIMARY KEY, value text)")
    session = db.connect(user=owner, options="-c TimeZone=Asia/Tokyo")
    run(session, "CREATE TABLE feed (n bigserial, log_id bigint, table_name text, value text, at text)")
    run(session, "SELECT audit_create_projection('feed', %s)", CAST.replace("AS value", "AS value, commit_timestamp::text AS at"))
    db.run("""CREATE SCHEMA "We ird"; CREATE TABLE "We ird"."T'x" (log_id bigint, "c ""q" text)""")
    db.run("""SELECT audit_create_projection('it''s "quoted"', 'SELECT id AS log_id, table_name AS "c ""q" FROM audit_new_logs', '"We ird"."T''x"')""")
    db.run("SELECT audit_create_history_projection('orders')")
    project(db, "disabled")
    project(db, "interrupted", rule=HELD_RULE)
    project(db, "gone")
    db.ingest(values("1", "bad", "3"))
    db.run("SELECT audit_disable_projection('disabled'); DROP TABLE gone")
    with held(db, "SELECT audit_rebuild_projection('interrupted')") as rebuild:
        db.ingest(values("4", "bad", first=3))
        run(db.connect(), "SELECT pg_cancel_backend(%s)", rebuild.pid)
    assert [state(db, name) for name in ("feed", "disabled", "interrupted", "gone")] == [(True, 0, 2), (False, 2, 0), (True, 2, 0), (True, 0, 2)]
    before = [db.rows(sql) for sql in KEPT]

    restored = Database(db.name + "_restored")
    dump = str(tmp_path / "dump")
    subprocess.run(["pg_dump", *arguments, "-f", dump, db.name], check=True)
    admin(f"CREATE DATABASE {restored.name} TEMPLATE template0")
    try:
        done = restored.psql("-f", dump) if arguments == ["-Fp"] else subprocess.run(
            ["pg_restore", "--exit-on-error", *arguments[1:], "-d", restored.name, dump], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [restored.rows(sql) for sql in KEPT] == before
        assert restored.ingest(values("1", "bad", "3", "4", "bad", "6")) == (6, 1, 5, 0)
        for name, target in (("it's \"quoted\"", '"We ird"."T\'x"'), ("interrupted", "interrupted")):
            every_entry_once(restored, target)
            assert state(restored, name) == (True, 0, 0)
        assert restored.rows("SELECT value, at FROM feed ORDER BY n")[-1] == ("6", "2026-03-01 18:00:00+09")
        assert restored.value("SELECT count(*) FROM orders_history") == 6
        assert state(restored) == (True, 0, 2) and state(restored, "disabled") == (False, 3, 0)
        restored.run("SELECT audit_alter_projection('feed', %s); SELECT audit_retry_projection('feed'); SELECT audit_enable_projection('disabled')", RULE)
        for name in ("feed", "disabled"):
            every_entry_once(restored, name)
            restored.run("SELECT audit_rebuild_projection(%s)", name)
            every_entry_once(restored, name)
        restored.run("SELECT audit_drop_projection('gone')")
        project(restored, "gone")  # and new ones can be made
        every_entry_once(restored, "gone")
        restored.run("SELECT audit_allow_removal(); DROP EXTENSION audit_cdc CASCADE")
        assert len(ids(restored)) == 6
    finally:
        admin(f"DROP DATABASE {restored.name} WITH (FORCE)")


@pytest.fixture
def restored(db, tmp_path):
    """Restores a dump of the database into another one."""
    other = Database(db.name + "_restored")

    def restore():
        dump = str(tmp_path / "dump")
        subprocess.run(["pg_dump", "-Fc", "-f", dump, db.name], check=True)
        admin(f"CREATE DATABASE {other.name} TEMPLATE template0")
        subprocess.run(["pg_restore", "--exit-on-error", "-d", other.name, dump], check=True)
        return other
    yield restore
    admin(f"DROP DATABASE IF EXISTS {other.name} WITH (FORCE)")


def test_what_a_dropped_role_has_left_is_not_restored(roles, db, restored):
    """Elsewhere its number may be that of a superuser."""
    gone, stays = roles("audit_cdc_reader"), roles("audit_cdc_reader")
    for role in (gone, stays):
        db.run(f"CREATE TABLE feed_of_{role} (log_id bigint); GRANT INSERT ON feed_of_{role} TO {role}; SELECT audit_allow_source('{role}', 'd1')")
        run(db.connect(user=role), "SELECT audit_create_projection(%s, 'SELECT id AS log_id FROM audit_new_logs', fill => false)", f"feed_of_{role}")
    db.run(f"DROP OWNED BY {gone}; DROP ROLE {gone}")
    other = restored()
    assert other.rows("SELECT name FROM audit_projections") == [(f"feed_of_{stays}",)]
    assert other.rows("SELECT role FROM audit_allowed_sources") == [(stays,)]


def test_numbers_of_strangers_mean_nothing_elsewhere(roles, db, restored):
    """What a rule may run of others it knows by number, and a number may be another function's there."""
    owner, mallory = roles("audit_cdc_reader"), roles()
    db.run(f"CREATE SCHEMA lair AUTHORIZATION {mallory}; GRANT USAGE ON SCHEMA lair TO PUBLIC; GRANT CREATE ON SCHEMA public TO {owner}")
    run(db.connect(user=mallory), "CREATE FUNCTION lair.shown() RETURNS text LANGUAGE sql AS $$ SELECT 'a' $$")
    session = db.connect(user=owner)
    run(session, "CREATE TABLE feed (log_id bigint, value text)")
    run(session, "SELECT audit_create_projection('feed', 'SELECT id AS log_id, lair.shown() AS value FROM audit_new_logs')")
    other = restored()
    other.run("UPDATE audit_cdc_internal.projections SET strangers = ARRAY[('pg_proc'::regclass::oid::bigint << 32) | 'lair.shown'::regproc::oid::bigint]")
    other.ingest(values("1"))
    assert other.rows("SELECT sqlstate FROM audit_projection_failures") == [("42501",)]
    other.run("SELECT audit_alter_projection('feed', 'SELECT id AS log_id, lair.shown() AS value FROM audit_new_logs'); SELECT audit_retry_projection('feed')")
    every_entry_once(other)


def test_the_extension_is_dropped_and_made_anew_in_one_session(db):
    """Plans and numbers of before mean nothing then."""
    relay = db.connect()
    for _ in range(2):
        run(relay, "DROP TABLE IF EXISTS feed; CREATE TABLE feed (log_id bigint, table_name text, value text)")
        run(relay, "SELECT audit_create_projection('feed', %s)", RULE)
        assert db.ingest(values("a", "b"), relay) == (2, 2, 0, 0)
        every_entry_once(db)
        run(relay, "SELECT audit_allow_removal(); DROP EXTENSION audit_cdc CASCADE; CREATE EXTENSION audit_cdc")


def test_in_a_schema_of_the_users(empty):
    empty.run('CREATE SCHEMA "Audit Trail"; CREATE EXTENSION audit_cdc SCHEMA "Audit Trail"; CREATE TABLE orders (id int PRIMARY KEY, value text); CREATE TABLE feed (log_id bigint)')
    connection = empty.connect()
    run(connection, '''SELECT "Audit Trail".audit_create_projection('feed', 'SELECT id AS log_id FROM "Audit Trail".audit_new_logs')''')
    run(connection, """SELECT "Audit Trail".audit_create_history_projection('orders'), "Audit Trail".audit_create_history_projection('orders', 'other')""")
    run(connection, 'SELECT "Audit Trail".audit_ingest(%s)', batch([change(0, record={"id": 1, "value": "a"})]))
    assert run(connection, "SELECT (SELECT count(*) FROM feed), (SELECT value FROM orders_history), (SELECT value FROM other)") == [(1, "a", "a")]
    for call in ("disable", "enable", "rebuild", "retry", "drop"):
        assert code(connection, f"SELECT \"Audit Trail\".audit_{call}_projection('feed')") is None
    run(connection, "SET search_path = \"Audit Trail\", public")
    assert len(log_ids(Scoped(empty))) == 1


class Scoped(Database):
    def __init__(self, db):
        super().__init__(db.name)

    def connect(self, **options):
        return super().connect(options="-c search_path=\\\"Audit\\ Trail\\\",public", **options)
