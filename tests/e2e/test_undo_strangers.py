"""An annotation chooses the tables of an undo, and anybody may sign with any name: a stranger's code does not come along."""

import threading

import psycopg2
import pytest
from capture_helpers import capture, publish, source, start  # noqa: F401
from conftest import admin, until

PROBLEM = "its table runs code of a role without these rights: name the table"
SPY = """
    CREATE FUNCTION m.spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      RAISE WARNING 'as %', current_user;
      RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END $$;
    CREATE TRIGGER spy BEFORE UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION m.spy()"""


@pytest.fixture
def shop(source):
    """mallory, who may make tables in m, and alice, who may undo what was done to pay."""
    for role in ("undo_alice", "undo_mallory"):
        admin(f"DROP ROLE IF EXISTS {role}")
        admin(f"CREATE ROLE {role} LOGIN")
    source.run("CREATE SCHEMA m AUTHORIZATION undo_mallory; GRANT USAGE ON SCHEMA m TO PUBLIC; GRANT audit_cdc_reader TO undo_alice")
    source.run("CREATE TABLE pay (id int PRIMARY KEY, v text CHECK (v <> '')); ALTER TABLE pay REPLICA IDENTITY FULL; GRANT ALL ON pay TO undo_alice")
    yield source
    for role in ("undo_alice", "undo_mallory"):
        source.run(f"DROP OWNED BY {role} CASCADE")
        admin(f"DROP ROLE {role}")


def as_role(db, role, sql):
    db.run(f"SET ROLE {role}; {sql}")


def captured(db, sql):
    publish(db)
    db.run("ALTER PUBLICATION audited SET (publish_via_partition_root = true)")
    start(db)
    db.run(f"BEGIN; SELECT audit_annotate(request_id => 'r1'); {sql}; COMMIT")
    capture(db)


def undo(db, role, named="request_id => 'r1'"):
    connection = db.connect(user=role)
    found = db.rows(f"SELECT of_table, outcome FROM audit_undo({named}) ORDER BY 1", connection=connection)
    return found, [notice for notice in connection.notices if "as undo_" in notice or "as postgres" in notice]


def test_a_strangers_trigger_does_not_come_along(shop):
    as_role(shop, "undo_mallory", "CREATE TABLE m.trap (id int PRIMARY KEY); ALTER TABLE m.trap REPLICA IDENTITY FULL; GRANT ALL ON m.trap TO PUBLIC;" + SPY.format("m.trap"))
    captured(shop, "INSERT INTO pay VALUES (1, 'x'); INSERT INTO m.trap VALUES (1)")
    told, ran = undo(shop, "undo_alice")
    assert told == [("m.trap", PROBLEM), ("public.pay", "could be undone")] and ran == []
    assert undo(shop, "undo_alice", "request_id => 'r1', preview => true")[1] == []
    told, ran = undo(shop, "undo_alice", "request_id => 'r1', table_name => 'm.trap'")
    assert told == [("m.trap", "undone")] and len(ran) == 1
    assert undo(shop, "undo_alice") == ([("m.trap", PROBLEM), ("public.pay", "could be undone")], [])
    assert undo(shop, "undo_alice", "request_id => 'r1', table_name => 'pay'")[0] == [("public.pay", "undone")]


@pytest.mark.parametrize("made, trap", [
    ("CREATE TABLE sup (id int PRIMARY KEY); GRANT TRIGGER ON sup TO undo_mallory", "sup"),
    ("CREATE TABLE sup (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE m.part PARTITION OF sup DEFAULT; ALTER TABLE m.part OWNER TO undo_mallory", "m.part"),
    ("CREATE TABLE sup (id int PRIMARY KEY); GRANT REFERENCES ON sup TO undo_mallory; SET ROLE undo_mallory; CREATE TABLE m.child (id int REFERENCES sup ON DELETE CASCADE); RESET ROLE", "m.child"),
], ids=["trigger", "partition", "child"])
def test_a_superuser_does_not_run_it_on_an_own_table(shop, made, trap):
    shop.run(made)
    as_role(shop, "undo_mallory", SPY.format(trap))
    shop.run("ALTER TABLE sup REPLICA IDENTITY FULL")
    shop.run("DO $$ DECLARE r regclass; BEGIN FOR r IN SELECT relid FROM pg_partition_tree('sup') LOOP EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', r); END LOOP; END $$")
    captured(shop, "INSERT INTO sup VALUES (1)")
    (((_, outcome),), ran) = undo(shop, "postgres")
    assert outcome in (PROBLEM, "rows of m.child may go along, and its owner lacks the rights of the table's owner") and ran == []
    assert shop.value("SELECT count(*) FROM sup") == 1


def test_conditions_and_domains_are_code_too(shop):
    as_role(shop, "undo_mallory", """
        CREATE DOMAIN m.short AS text CHECK (length(VALUE) < 9);
        CREATE TABLE m.a (id m.short PRIMARY KEY); CREATE TABLE m.b (id int PRIMARY KEY, CHECK (length(id::text) > 0));
        ALTER TABLE m.a REPLICA IDENTITY FULL; ALTER TABLE m.b REPLICA IDENTITY FULL; GRANT ALL ON ALL TABLES IN SCHEMA m TO PUBLIC""")
    captured(shop, "INSERT INTO m.a VALUES ('x'); INSERT INTO m.b VALUES (1)")
    assert undo(shop, "undo_alice")[0] == [("m.a", PROBLEM), ("m.b", PROBLEM)]


WHOEVER = """
    CREATE FUNCTION m.is_fine(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'as %', current_user; RETURN true; END $$;
    CREATE FUNCTION m.is_fine(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'as %', current_user; RETURN true; END $$;
    CREATE FUNCTION m.same(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'as %', current_user; RETURN $1; END $$;
    CREATE OPERATOR m.!!! (RIGHTARG = int, FUNCTION = m.is_fine); CREATE OPERATOR m.!!+ (RIGHTARG = int, FUNCTION = m.same);
    CREATE DOMAIN m.short AS text CHECK (m.is_fine(VALUE)); CREATE TYPE m.pair AS (one m.short); CREATE TYPE m.span AS RANGE (subtype = m.short);
    SET client_min_messages = error; CREATE TABLE m.a (id int PRIMARY KEY, v """


@pytest.mark.parametrize("made", [
    "text, CHECK (OPERATOR(m.!!!) id))", "text, CHECK (v::m.short <> ''))", "m.short[])", "m.pair)", "m.span)", "text, w int GENERATED ALWAYS AS (OPERATOR(m.!!+) id) STORED)",
    "text); CREATE INDEX ON m.a ((OPERATOR(m.!!+) id))", "text, FOREIGN KEY (id) REFERENCES m.a)", "text); CREATE TYPE m.e AS ENUM ('x'); ALTER TABLE m.a ADD e m.e, ADD UNIQUE (e), ADD f m.e REFERENCES m.a (e)",
], ids=["operator", "cast", "array", "composite", "range", "generated", "index", "plain foreign key", "foreign key of users' types"])
def test_whatever_stands_in_a_tables_expressions_and_types_is_code(shop, made):
    as_role(shop, "undo_mallory", WHOEVER + made + "; ALTER TABLE m.a REPLICA IDENTITY FULL; GRANT ALL ON m.a TO PUBLIC")
    values = {"m.short[]": "{x}", "m.pair": "(x)", "m.span": "[x,y]"}.get(made.split(")")[0], "x")
    captured(shop, f"SET LOCAL client_min_messages = error; INSERT INTO m.a (id, v) VALUES (1, '{values}')")
    outcome = "could be undone" if made.startswith("text, FOREIGN KEY") else PROBLEM
    told, ran = undo(shop, "undo_alice", "request_id => 'r1', preview => true")
    assert (told, ran) == ([("m.a", outcome)], [])


def test_a_partitioned_table_is_its_owners_who_may_attach_others(shop):
    as_role(shop, "undo_mallory", """
        CREATE FUNCTION m.same(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'as %', current_user; RETURN $1; END $$;
        SET client_min_messages = error; CREATE TABLE m.a (id int, v text) PARTITION BY RANGE (m.same(id)); CREATE TABLE m.b PARTITION OF m.a DEFAULT;
        ALTER TABLE m.b REPLICA IDENTITY FULL; GRANT ALL ON m.a, m.b TO PUBLIC""")
    captured(shop, "SET LOCAL client_min_messages = error; INSERT INTO m.a VALUES (1, 'x')")
    assert undo(shop, "undo_alice") == ([("m.a", PROBLEM)], [])


@pytest.mark.parametrize("default, outcome", [("m.name()", PROBLEM), ("query_to_xml('SELECT m.name()', true, true, '')::text", PROBLEM),
                                              ("current_setting('app.token')", PROBLEM), ("now()", "undone"), ("lower('X')", "undone")])
def test_a_default_of_a_column_that_an_entry_lacks_is_code(shop, default, outcome):
    as_role(shop, "undo_mallory", """
        CREATE FUNCTION m.name() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'as %', current_user; RETURN current_user; END $$;
        CREATE TABLE m.a (id int PRIMARY KEY); ALTER TABLE m.a REPLICA IDENTITY FULL; GRANT ALL ON m.a TO PUBLIC; INSERT INTO m.a VALUES (1)""")
    captured(shop, "DELETE FROM m.a")
    as_role(shop, "undo_mallory", f"ALTER TABLE m.a ADD v text; ALTER TABLE m.a ALTER v SET DEFAULT {default}")
    capture(shop)
    assert undo(shop, "undo_alice") == ([("m.a", outcome)], [])


@pytest.mark.parametrize("mode", ["ACCESS EXCLUSIVE", "SHARE ROW EXCLUSIVE"])
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_trigger_that_comes_meanwhile_does_not_run(shop, mode, isolation):
    """The undo waits for the table's lock, and looks again at what is there then."""
    as_role(shop, "undo_mallory", "CREATE TABLE m.a (id int PRIMARY KEY); ALTER TABLE m.a REPLICA IDENTITY FULL; GRANT ALL ON m.a TO PUBLIC")
    captured(shop, "INSERT INTO m.a VALUES (1)")
    with shop.connect(user="undo_mallory") as mallory, shop.connect(user="undo_alice") as alice, mallory.cursor() as making, alice.cursor() as undoing:
        undoing.execute(f"BEGIN ISOLATION LEVEL {isolation}; SELECT 1")
        making.execute(f"BEGIN; LOCK TABLE m.a IN {mode} MODE;" + SPY.format("m.a"))
        thread = threading.Thread(target=undoing.execute, args=("SELECT of_table, outcome FROM audit_undo(request_id => 'r1')",), daemon=True)
        thread.start()
        until(lambda: shop.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", alice.info.backend_pid) == 1)
        making.execute("COMMIT")
        thread.join(60)
        assert undoing.fetchall() == [("m.a", PROBLEM)]
        assert not [notice for notice in alice.notices if "as undo_" in notice]


@pytest.mark.parametrize("named, outcome", [("", PROBLEM), (", table_name => 'pay'", "another role's table has come to refer to its table meanwhile: try again")])
def test_rows_of_a_table_that_comes_meanwhile_do_not_go_along(shop, named, outcome):
    shop.run("GRANT REFERENCES ON pay TO undo_mallory")
    as_role(shop, "undo_mallory", "CREATE TABLE m.kid (id int PRIMARY KEY); INSERT INTO m.kid VALUES (1);" + SPY.format("m.kid").replace("BEFORE", "AFTER"))
    captured(shop, "INSERT INTO pay VALUES (1, 'x')")
    with shop.connect(user="undo_mallory") as mallory, shop.connect() as superuser, mallory.cursor() as referring, superuser.cursor() as undoing:
        referring.execute("BEGIN; ALTER TABLE m.kid ADD FOREIGN KEY (id) REFERENCES pay ON DELETE CASCADE")
        thread = threading.Thread(target=undoing.execute, args=(f"SELECT outcome FROM audit_undo(request_id => 'r1'{named})",), daemon=True)
        thread.start()
        until(lambda: shop.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", superuser.info.backend_pid) == 1)
        referring.execute("COMMIT")
        thread.join(60)
        assert undoing.fetchall() == [(outcome,)]
        assert not [notice for notice in superuser.notices if "WARNING:  as " in notice]


@pytest.mark.parametrize("ddl", ["CREATE TABLE m.heir () INHERITS (m.a)", SPY.format("m.a")])
def test_nobody_changes_a_strangers_table_until_the_undo_has_ended(shop, ddl):
    as_role(shop, "undo_mallory", "CREATE TABLE m.a (id int PRIMARY KEY); ALTER TABLE m.a REPLICA IDENTITY FULL; GRANT ALL ON m.a TO PUBLIC")
    captured(shop, "INSERT INTO m.a VALUES (1)")
    with shop.connect(user="undo_alice") as alice, alice.cursor() as undoing:
        undoing.execute("BEGIN; SELECT of_table, outcome FROM audit_undo(request_id => 'r1')")
        assert undoing.fetchall() == [("m.a", "undone")]
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            as_role(shop, "undo_mallory", f"SET lock_timeout = '100ms'; {ddl}")


def test_who_may_not_write_a_table_holds_nobody_up(shop):
    as_role(shop, "undo_mallory", "CREATE TABLE m.a (id int PRIMARY KEY)")
    with shop.connect(user="undo_alice") as alice, alice.cursor() as asking:
        asking.execute("BEGIN; SELECT audit_cdc_internal.runs_strangers_code('m.a'::regclass)")
        assert asking.fetchone() == (False,)
        as_role(shop, "undo_mallory", "SET lock_timeout = '1s'; CREATE TABLE m.heir () INHERITS (m.a)")


def test_the_owners_own_code_runs_as_ever(shop):
    """Whose rights the owner has anyway, and code of who has more rights than the one that runs it."""
    shop.run("CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN coalesce(NEW, OLD); END'")
    shop.run("CREATE TRIGGER stamp BEFORE UPDATE OR DELETE ON pay FOR EACH ROW EXECUTE FUNCTION stamp()")
    captured(shop, "INSERT INTO pay VALUES (1, 'x')")
    assert undo(shop, "postgres", "request_id => 'r1', preview => true")[0] == [("public.pay", "could be undone")]
    assert undo(shop, "undo_alice")[0] == [("public.pay", "undone")], "its owner is a superuser"


@pytest.mark.parametrize("lose", ["DROP TABLE pay", "ALTER TABLE pay RENAME TO paid"])
def test_a_table_in_the_place_of_one_that_is_gone_is_another(shop, lose):
    """What was in the one does not go into the other, whoever made that."""
    captured(shop, "INSERT INTO pay VALUES (1, 'x'), (2, 'y')")
    shop.run("BEGIN; SELECT audit_annotate(request_id => 'r2'); DELETE FROM pay WHERE id = 1; COMMIT")
    shop.run(lose)
    shop.run("CREATE TABLE pay (id int PRIMARY KEY, v text); ALTER TABLE pay REPLICA IDENTITY FULL; GRANT ALL ON pay TO undo_alice")
    shop.run("BEGIN; SELECT audit_annotate(request_id => 'r3'); INSERT INTO pay VALUES (3, 'z'); COMMIT")
    capture(shop)
    for named in ("request_id => 'r2'", "request_id => 'r2', table_name => 'pay'"):
        assert undo(shop, "postgres", named)[0] == [("public.pay", "its table was dropped or renamed since")]
    assert shop.rows("SELECT id FROM pay") == [(3,)]
    assert undo(shop, "postgres", "request_id => 'r3'")[0] == [("public.pay", "undone")]
