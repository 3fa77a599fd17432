"""A target's triggers and domains never run with more rights than its owner has."""

import pytest
from projection_helpers import code, roles, values  # noqa: F401

RULE = "SELECT 1 AS id FROM audit_new_logs"
CLIMB = "BEGIN EXECUTE format('INSERT INTO ran VALUES (%L)', current_user); RETURN NEW; END"


@pytest.fixture
def mallory(roles, db):
    """Owns a schema with a table that notes who runs its trigger."""
    name = roles("audit_cdc_reader")
    db.run(f"CREATE TABLE ran (by text); GRANT INSERT ON ran TO PUBLIC; CREATE SCHEMA m AUTHORIZATION {name}; SET ROLE {name};"
           f"CREATE TABLE m.t (id int); CREATE FUNCTION m.f() RETURNS trigger LANGUAGE plpgsql AS $$ {CLIMB} $$;"
           "CREATE TRIGGER f BEFORE INSERT ON m.t FOR EACH ROW EXECUTE FUNCTION m.f()")
    yield name
    db.run(f"DROP OWNED BY {name} CASCADE")


def ran(db):
    return {name for (name,) in db.rows("SELECT by FROM ran")}


def create(connection, target="m.t"):
    return code(connection, "SELECT audit_create_projection('p', %s, %s)", RULE, target)


def test_who_has_more_rights_than_the_targets_owner_is_refused(db, mallory):
    assert create(db.connect()) == "42501"
    db.run("CREATE TABLE parts (id int) PARTITION BY RANGE (id); ALTER TABLE parts ATTACH PARTITION m.t DEFAULT")
    assert create(db.connect(), "parts") == "42501"
    db.ingest(values("a"))
    assert ran(db) == set()


def test_the_rules_owner_stays_who_made_it(db, mallory, roles):
    admin_ = roles("audit_cdc_admin")
    assert create(db.connect(user=mallory)) is None
    alter = "SELECT audit_alter_projection('p', 'SELECT 2 AS id FROM audit_new_logs')"
    assert code(db.connect(user=admin_), alter) == "42501"
    assert code(db.connect(), alter) is None
    assert db.value("SELECT rule_owner::text FROM audit_projections") == mallory
    db.ingest(values("a"))
    db.run("SELECT audit_rebuild_projection('p')")
    assert ran(db) == {mallory}


def test_a_table_that_changes_hands_is_not_filled_any_more(db, mallory):
    db.run("CREATE TABLE u (id int)")
    assert create(db.connect(), "u") is None
    db.run(f"ALTER TABLE u OWNER TO {mallory}; ALTER TABLE u SET SCHEMA m;"
           "CREATE TRIGGER f BEFORE INSERT OR DELETE ON m.u FOR EACH ROW EXECUTE FUNCTION m.f()")
    assert db.ingest(values("a")) == (1, 1, 0, 0)
    assert code(db.connect(), "SELECT audit_rebuild_projection('p')") == "42501"
    assert ran(db) == set()
    assert db.rows("SELECT sqlstate FROM audit_projection_failures") == [("42501",)]
    db.run("ALTER TABLE m.u OWNER TO postgres; DROP TRIGGER f ON m.u")
    assert db.value("SELECT audit_retry_projection('p')") == 1


def test_a_partition_that_comes_later_is_not_filled(db, mallory):
    db.run("CREATE TABLE parts (id int) PARTITION BY RANGE (id)")
    assert create(db.connect(), "parts") is None
    db.run("ALTER TABLE parts ATTACH PARTITION m.t DEFAULT")
    db.ingest(values("a"))
    assert ran(db) == set()
    assert db.rows("SELECT sqlstate FROM audit_projection_failures") == [("42501",)]


def test_a_history_of_others_domains_is_refused(db, mallory):
    db.run(f"SET ROLE {mallory}; CREATE DOMAIN m.d AS int CHECK (value > 0); CREATE TABLE m.s (id int, d m.d[]); CREATE TABLE m.plain (id int)")
    call = "SELECT audit_create_history_projection(%s)"
    assert code(db.connect(), call, "m.s") == "42501"
    assert code(db.connect(user=mallory), call, "m.s") is None
    assert code(db.connect(), call, "m.plain") is None
