"""An annotation chooses the tables of an undo, and anybody may sign with any name: a stranger's code does not come along."""

import pytest
from capture_helpers import capture, publish, source, start  # noqa: F401
from conftest import admin

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
