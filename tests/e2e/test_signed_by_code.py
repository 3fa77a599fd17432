"""Code that somebody else runs: what it writes is told with the role whose rights it had, and it signs nothing of who runs it."""

import psycopg2
import pytest
from capture_helpers import capture, captured, paused, source  # noqa: F401
from conftest import batch, change, until
from projection_helpers import code, roles, run  # noqa: F401

WHO = """SELECT new_values ->> 'v', server_context ->> 'session_user', server_context ->> 'current_user', server_context ->> 'role', username
    FROM audit_logs WHERE table_name = 't' AND action = 'insert' ORDER BY id"""
NEXT = "(SELECT coalesce(max(id), 0) + 1 FROM public.t)"
LENT = f"CREATE FUNCTION lent(v text) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO t VALUES ({NEXT}, v)'"
REFUSED = "cannot annotate within security-restricted operation"


def publish_only_t(db):
    db.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")


def writer(db, name):
    db.run(f"GRANT CREATE ON SCHEMA public TO {name}; GRANT ALL ON t TO {name}")
    return db.connect(user=name)


def project(db, owner, statement, where="table_name = 'orders'"):
    """A projection of that role, whose target has a trigger that does this."""
    publish_only_t(db)
    session = writer(db, owner)
    run(session, f"""CREATE TABLE feed (id bigint); CREATE FUNCTION fed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; RETURN NEW; END $$;
        CREATE TRIGGER fed BEFORE INSERT ON feed FOR EACH ROW EXECUTE FUNCTION fed()""")
    run(session, "SELECT audit_create_projection('feed', %s, fill => false)", f"SELECT id FROM audit_new_logs WHERE {where}")


def test_a_definers_write_tells_whose_rights_it_had(roles, paused):
    owner, app = roles(), roles()
    run(writer(paused, owner), LENT)
    run(writer(paused, app), f"INSERT INTO t VALUES ({NEXT}, 'own'); SELECT lent('lent'); INSERT INTO t VALUES ({NEXT}, 'again')")
    run(paused.connect(), f"SET ROLE {app}; SELECT lent('by a role')")
    capture(paused)
    assert paused.rows(WHO) == [("own", app, app, None, None), ("lent", app, owner, app, None), ("again", app, app, None, None),
                                ("by a role", "postgres", owner, app, None)]


def test_what_maintenance_runs_tells_the_tables_owner(roles, paused):
    """A superuser's ANALYZE computes an index expression of somebody's, which writes."""
    owner = roles()
    publish_only_t(paused)
    run(writer(paused, owner), f"""CREATE TABLE o (id int); INSERT INTO o VALUES (1);
        CREATE FUNCTION public.w() RETURNS int LANGUAGE sql AS $$ INSERT INTO public.t VALUES ({NEXT}, 'ran') RETURNING 1 $$;
        CREATE FUNCTION public.f(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.w(); RETURN $1; END $$;
        CREATE INDEX ON o (public.f(id))""")
    run(paused.connect(), "ANALYZE o")
    capture(paused)
    assert paused.rows(WHO)[-1] == ("ran", "postgres", owner, "postgres", None)


def test_a_foreign_keys_changes_tell_its_tables_owner(roles, paused):
    owner, app = roles(), roles()
    writer(paused, owner)
    paused.run(f"""CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE); ALTER TABLE c REPLICA IDENTITY FULL; ALTER TABLE c OWNER TO {owner};
        INSERT INTO t VALUES (1, 'a'); INSERT INTO c VALUES (1, 1)""")
    run(writer(paused, app), "DELETE FROM t")
    capture(paused)
    assert paused.rows("""SELECT table_name, server_context ->> 'session_user', server_context ->> 'current_user', server_context ->> 'role'
        FROM audit_logs WHERE action = 'delete' ORDER BY id""") == [("t", app, app, None), ("c", app, owner, app)]


def test_who_leaves_out_the_current_user_leaves_out_the_role(roles, paused):
    run(writer(paused, roles()), LENT)
    run(paused.connect(), "SET audit_cdc.server_context_fields = 'session_user'; SELECT lent('a')")
    capture(paused)
    assert paused.rows("SELECT server_context FROM audit_logs") == [({"session_user": "postgres"},)]


def test_what_a_rule_writes_in_the_worker_tells_its_owner(roles, captured):
    owner = roles("audit_cdc_reader")
    project(captured, owner, f"INSERT INTO t VALUES ({NEXT}, 'by a rule')", "new_values ->> 'v' = 'a'")
    captured.run("INSERT INTO t VALUES (1, 'a')")
    until(lambda: captured.value("SELECT count(*) FROM audit_logs") == 2)
    assert captured.rows(WHO) == [("a", "postgres", "postgres", None, None), ("by a rule", "postgres", owner, "postgres", None)]


@pytest.mark.parametrize("call", ["audit_annotate(username => 'mallory')", "audit_annotate(username => 7)", "audit_annotate_clear()"])
def test_a_rule_signs_nothing_of_who_ingests(roles, paused, call):
    project(paused, roles("audit_cdc_reader"), f"PERFORM {call}")
    paused.run("BEGIN; SELECT audit_annotate(username => 'ada'); SELECT audit_ingest(%s); INSERT INTO t VALUES (100, 'mine'); COMMIT", batch([change()]))
    assert paused.rows("SELECT sqlstate, reason FROM audit_projection_failures") == [("42501", REFUSED)]
    capture(paused)
    assert paused.rows(WHO) == [("mine", "postgres", "postgres", None, "ada")]


def test_a_rule_signs_nothing_in_the_worker(roles, captured):
    project(captured, roles("audit_cdc_reader"), f"PERFORM audit_annotate(username => 'ceo'); INSERT INTO t VALUES ({NEXT}, 'by a rule')", "new_values ->> 'v' = 'a'")
    captured.run("INSERT INTO t VALUES (1, 'a')")
    until(lambda: captured.rows("SELECT sqlstate, reason FROM audit_projection_failures") == [("42501", REFUSED)])
    assert captured.rows(WHO) == [("a", "postgres", "postgres", None, None)]


def test_maintenance_signs_nothing(paused):
    paused.run("CREATE FUNCTION public.f(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.audit_annotate(username => 'eve'); RETURN 1; END $$;"
               "CREATE TABLE o (id int); INSERT INTO o VALUES (1)")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege) as refused:
        paused.run("CREATE INDEX ON o (public.f(id))")
    assert refused.value.diag.message_primary == REFUSED and code(paused.connect(), "SELECT public.f(1)") is None
