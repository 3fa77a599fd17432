"""audit_all_logs: the logs of several databases, read as one."""

import os
import subprocess

import psycopg2
import pytest
from capture_helpers import capture, publish, source, start, table  # noqa: F401 (fixture)
from conftest import Database, admin, batch, change, fresh, in_threads
from projection_helpers import code, roles, run  # noqa: F401 (fixture)

ODD = """we "ird' node"""
SERVER = "CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE SERVER {} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %s, port %s, dbname %s)"
VIEW = "SELECT pg_get_viewdef('audit_all_logs'), reloptions, relacl::text FROM pg_class WHERE oid = 'audit_all_logs'::regclass"


@pytest.fixture
def eu(template):
    yield from fresh(template)


@pytest.fixture
def us(template):
    yield from fresh(template)


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def serve(db, name, other, port=None):
    """A foreign server, and the mapping of the superuser."""
    db.run(SERVER.format(quoted(name)), os.environ["PGHOST"], str(port or os.environ["PGPORT"]), other.name)
    db.run(f"CREATE USER MAPPING FOR CURRENT_USER SERVER {quoted(name)}")


def let(db, role, name, remote=None):
    # the test's server asks for no password
    db.run(f"CREATE USER MAPPING FOR {role} SERVER {quoted(name)} OPTIONS (user '{remote or role}', password_required 'false')")


@pytest.fixture
def linked(db, eu, us):
    """Three logs: numbers and records are the same in each."""
    for n, (name, other) in enumerate({"here": db, "eu": eu, ODD: us}.items()):
        other.ingest(batch([change(m, key=f"{n} {m}", record={"id": 1, "of": name}, annotations={"username": f"u{m % 3}"}) for m in range(6 + n)]))
        if other is not db:
            serve(db, name, other)
            db.run("SELECT audit_link(%s)", name)
    return db


def nodes(db, connection=None):
    return db.rows("SELECT node, count(*) FROM audit_all_logs GROUP BY node ORDER BY node", connection=connection)


def plan(db, sql):
    return "\n".join(line for (line,) in db.rows(f"EXPLAIN (VERBOSE, COSTS OFF) {sql}"))


def error(db, sql, *arguments, connection=None):
    with pytest.raises(psycopg2.Error) as raised:
        db.rows(sql, *arguments, connection=connection)
    return raised.value


def test_alone_it_is_the_log_of_here(db):
    db.ingest(batch([change(n) for n in range(3)]))
    assert db.rows("SELECT * FROM audit_all_logs ORDER BY id") == [("here", *row) for row in db.rows("SELECT * FROM audit_logs ORDER BY id")]
    assert db.rows("SELECT * FROM audit_links") == []


def test_it_has_what_each_log_has(linked, eu, us):
    for name, other in {"here": linked, "eu": eu, ODD: us}.items():
        rows = other.rows("SELECT * FROM audit_logs ORDER BY id")
        assert rows and linked.rows("SELECT * FROM audit_all_logs WHERE node = %s ORDER BY id", name) == [(name, *row) for row in rows]
    assert nodes(linked) == [("eu", 7), ("here", 6), (ODD, 8)]
    assert linked.rows("SELECT node, server, schema FROM audit_links ORDER BY 1") == [("eu", "eu", "public"), (ODD, ODD, "public")]


def test_filters_and_order_go_to_the_nodes(linked):
    filtered = plan(linked, "SELECT node, new_values FROM audit_all_logs WHERE record_id = '1' AND table_name = 'orders' AND username = 'u1'")
    assert filtered.count("Async Foreign Scan") == 2
    assert filtered.count("WHERE ((record_id = '1')) AND ((table_name = 'orders')) AND ((username = 'u1'))") == 2
    ordered = plan(linked, "SELECT node, id FROM audit_all_logs WHERE username = 'u1' ORDER BY commit_timestamp DESC LIMIT 5")
    assert "Merge Append" in ordered and ordered.count("ORDER BY commit_timestamp DESC") == 2
    assert "ORDER BY commit_timestamp DESC" in plan(linked, "SELECT * FROM audit_all_logs WHERE username = 'u1' AND node = 'eu' ORDER BY commit_timestamp DESC LIMIT 5")
    one = plan(linked, "SELECT id FROM audit_all_logs WHERE node = 'eu' AND request_id = 'r1'")
    assert one.count("Foreign Scan") == 1 and "log_20" not in one and "(request_id = 'r1')" in one


def test_order_goes_to_the_nodes_where_the_own_log_is_empty(db, eu, us):
    """What is sorted here is fetched whole."""
    for name, other in {"eu": eu, "us": us}.items():
        serve(db, name, other)
        db.run("SELECT audit_link(%s)", name)
    for where in ("", "WHERE username = 'u1'", "WHERE table_name = 'orders'"):
        assert plan(db, f"SELECT node, id FROM audit_all_logs {where} ORDER BY commit_timestamp DESC LIMIT 50").count("ORDER BY commit_timestamp DESC") == 2


def test_a_page_of_the_own_log_is_read_by_index(linked):
    """A sort would read all of it. So little is sorted sooner, if nothing forbids it."""
    linked.run(f"ALTER DATABASE {linked.name} SET enable_sort = off")
    for others in (2, 0):
        page = plan(linked, "SELECT * FROM audit_all_logs ORDER BY commit_timestamp DESC LIMIT 50")
        assert page.count("Index Scan Backward") == 1 and page.count("ORDER BY commit_timestamp DESC") == others
        sorted_by = [line for line in page.splitlines() if "Sort Key" in line and "commit_timestamp DESC" in line]
        assert len(sorted_by) == bool(others)  # that of the Merge Append
        linked.run("SELECT audit_unlink(node) FROM audit_links")


def test_each_reads_with_the_rights_that_they_have_there(roles, linked):
    reader, stranger = roles("audit_cdc_reader"), roles()
    session = linked.connect(user=reader)
    unmapped = error(linked, "SELECT * FROM audit_all_logs", connection=session)
    assert unmapped.pgcode == "42704" and unmapped.diag.message_primary.startswith("user mapping not found")
    assert linked.value("SELECT count(*) FROM audit_all_logs WHERE node = 'here'", connection=session) == 6
    let(linked, reader, "eu")
    let(linked, reader, ODD, stranger)
    assert linked.value("SELECT count(*) FROM audit_all_logs WHERE node = 'eu'", connection=session) == 7
    assert error(linked, "SELECT * FROM audit_all_logs", connection=session).pgcode == "42501"  # the stranger is no reader there
    assert linked.rows("SELECT * FROM audit_link_status()", connection=session) == [("eu", None, None), (ODD, "42501", "permission denied for view audit_logs")]
    let(linked, stranger, "eu", reader)
    assert code(linked.connect(user=stranger), "SELECT audit_link_status()") == "42501"
    for relation in ("audit_all_logs", "audit_links", "audit_cdc_internal.node_eu"):
        assert code(linked.connect(user=stranger), f"SELECT * FROM {relation}") == "42501"


def test_who_may_not_use_a_server_cannot_link_it(roles, db, eu):
    serve(db, "eu", eu)
    linker, reader = roles("audit_cdc_admin"), roles("audit_cdc_reader")
    session = db.connect(user=linker)
    refused = error(db, "SELECT audit_link('x', 'eu')", connection=session)
    assert (refused.pgcode, refused.diag.message_primary) == ("42501", "permission denied for foreign server eu")
    # nor by the rights of who calls a function of theirs
    db.run(f"GRANT CREATE ON SCHEMA public TO {linker}")
    run(session, "CREATE FUNCTION trap() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ SELECT audit_link('x', 'eu') $$; GRANT EXECUTE ON FUNCTION trap() TO PUBLIC")
    assert code(db.connect(), "SELECT trap()") == "42501"
    assert code(session, "SELECT audit_cdc_internal.link('x', 'eu', 'public', 10)") == "42501"
    db.run(f"GRANT USAGE ON FOREIGN SERVER eu TO {linker}, {reader}")
    for statement in ("SELECT audit_link('x', 'eu')", "SELECT audit_unlink('x')"):
        assert code(db.connect(user=reader), statement) == "42501"
        assert code(session, statement) is None
    assert db.rows("SELECT operation, arguments, server_context ->> 'current_user' FROM audit_operations ORDER BY id") == [
        ("audit_link", {"node": "x", "server": "eu", "schema": "public"}, linker), ("audit_unlink", {"node": "x"}, linker)]


def test_only_the_owner_of_a_server_names_another_schema(roles, db, eu):
    """There somebody else could put a view whose functions run with the rights of each reader."""
    owner, linker = roles(), roles("audit_cdc_admin")
    eu.run("CREATE SCHEMA trap; CREATE VIEW trap.audit_logs AS SELECT * FROM public.audit_logs")
    serve(db, "eu", eu)
    db.run(f"GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO {owner}; ALTER SERVER eu OWNER TO {owner}; GRANT USAGE ON FOREIGN SERVER eu TO {linker}")
    session = db.connect(user=linker)
    refused = error(db, "SELECT audit_link('x', 'eu', 'trap')", connection=session)
    assert (refused.pgcode, refused.diag.message_primary) == ("42501", "must be owner of foreign server eu to link another schema than that of audit_cdc here")
    assert code(session, "SELECT audit_link('x', 'eu', 'public')") is None
    db.run(f"GRANT {owner} TO {linker}")
    assert code(session, "SELECT audit_link('y', 'eu', 'trap')") is None
    assert db.rows("SELECT node, schema FROM audit_links ORDER BY 1") == [("x", "public"), ("y", "trap")]


def test_nobody_gets_more_than_reading(linked, eu):
    linked.run("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC")
    linked.run("SELECT audit_link('again', 'eu')")
    assert linked.rows("""SELECT a.grantee::regrole::text, a.privilege_type FROM pg_class AS c, aclexplode(c.relacl) AS a
                          WHERE c.oid = 'audit_cdc_internal.node_again'::regclass AND a.grantee <> c.relowner""") == [("audit_cdc_reader", "SELECT")]
    for statement in ("INSERT INTO audit_cdc_internal.node_eu (id) VALUES (1)", "DELETE FROM audit_cdc_internal.node_eu", "DELETE FROM audit_all_logs", "UPDATE audit_all_logs SET id = 1"):
        assert code(linked.connect(), statement) is not None, statement
    assert eu.value("SELECT count(*) FROM audit_logs") == 7


def test_what_cannot_be_linked(db, eu):
    missing = error(db, "SELECT audit_link('eu')")
    assert missing.pgcode == "42704" and "CREATE EXTENSION postgres_fdw" in missing.diag.message_hint
    serve(db, "eu", eu)
    db.run("CREATE FOREIGN DATA WRAPPER other; CREATE SERVER other FOREIGN DATA WRAPPER other; SELECT audit_link('eu')")
    for statement, expected in {
        "SELECT audit_link(NULL, 'eu')": "22004", "SELECT audit_unlink(NULL)": "22004", "SELECT audit_link('', 'eu')": "22023", "SELECT audit_link('here', 'eu')": "22023",
        "SELECT audit_link(repeat('x', 59), 'eu')": "22023", "SELECT audit_link('other')": "42809", "SELECT audit_link('eu')": "42710", "SELECT audit_unlink('us')": "42704",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT audit_link('x', 'eu')": "25001", "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT audit_unlink('eu')": "25001",
    }.items():
        assert code(db.connect(), statement) == expected, statement
    db.run("SELECT audit_link(repeat('x', 58), 'eu')")
    assert [node for node, _ in nodes(db)] == []


def test_a_node_that_is_away_is_named(linked, eu):
    serve(linked, "away", eu, port=1)
    linked.run("SELECT audit_link('away')")
    for sql in ("SELECT * FROM audit_all_logs", "SELECT * FROM audit_all_logs WHERE username = 'u1' ORDER BY commit_timestamp DESC LIMIT 5"):
        away = error(linked, sql)
        assert (away.pgcode, away.diag.message_primary) == ("08001", 'could not connect to server "away"')
    assert linked.rows("SELECT * FROM audit_link_status()") == [("away", "08001", 'could not connect to server "away"'), ("eu", None, None), (ODD, None, None)]
    # who leaves it out says so in the query
    assert linked.value("SELECT count(*) FROM audit_all_logs WHERE node <> 'away'") == 21


def test_a_node_that_is_taken_out(linked, us):
    linked.run("SELECT audit_unlink('eu')")
    assert nodes(linked) == [("here", 6), (ODD, 8)]
    linked.run("DROP SERVER eu CASCADE")
    linked.run("SELECT audit_unlink(%s)", ODD)
    assert linked.value("SELECT count(*) FROM pg_foreign_table") == 0
    assert linked.rows(VIEW) == us.rows(VIEW)


def test_what_others_have_made_of_a_node_is_kept(linked):
    linked.run("CREATE VIEW of_eu AS SELECT * FROM audit_cdc_internal.node_eu; CREATE VIEW of_all AS SELECT * FROM audit_all_logs")
    assert code(linked.connect(), "SELECT audit_unlink('eu')") == "2BP01"
    assert nodes(linked)[0] == ("eu", 7)
    linked.run("DROP VIEW of_eu; SELECT audit_unlink('eu')")
    assert linked.value("SELECT count(*) FROM of_all") == 14


@pytest.mark.parametrize("removal", ["DROP SERVER eu CASCADE", "DROP EXTENSION postgres_fdw CASCADE", "DROP FOREIGN TABLE audit_cdc_internal.node_eu CASCADE", "DROP EXTENSION audit_cdc CASCADE"])
def test_the_log_does_not_go_along_with_a_server(db, eu, removal):
    """Also one that has no entry yet."""
    serve(db, "eu", eu)
    db.run("SELECT audit_link('eu')")
    for allowed in ("", "SELECT audit_allow_removal(); "):
        refused = error(db, allowed + removal)
        assert (refused.pgcode, refused.diag.message_primary) == ("55000", "the audit log cannot be removed while nodes are linked")
    db.run("SELECT audit_unlink('eu')")
    if "FOREIGN TABLE" not in removal:
        db.run(removal)


def test_two_who_link_at_once(db, eu):
    serve(db, "eu", eu)
    in_threads([lambda node=node: db.run("SELECT audit_link(%s, 'eu')", node) for node in ("a", "b", "c")])
    eu.ingest(batch([change()]))
    assert nodes(db) == [("a", 1), ("b", 1), ("c", 1)]


def test_columns_that_an_update_brings(linked):
    """As after an update of the extension that has added one to audit_logs: the table of a node does not have it yet."""
    linked.run("""BEGIN; CREATE TABLE kept AS SELECT node FROM audit_links; DELETE FROM audit_cdc_internal.links;
                  ALTER FOREIGN TABLE audit_cdc_internal.node_eu DROP COLUMN erased; INSERT INTO audit_cdc_internal.links SELECT node FROM kept; COMMIT""")
    assert nodes(linked) == [("eu", 7), ("here", 6), (ODD, 8)]
    assert linked.value("SELECT count(erased) FROM audit_all_logs WHERE node = 'eu'") == 0


def test_a_node_of_an_older_version(linked, eu):
    """It lacks a column: what does not ask for that can be read, and audit_link_status() tells."""
    eu.run("CREATE SCHEMA older; CREATE VIEW older.audit_logs AS SELECT id, commit_timestamp, username FROM public.audit_logs")
    linked.run("SELECT audit_link('older', 'eu', 'older')")
    assert linked.value("SELECT count(username) FROM audit_all_logs WHERE node = 'older'") == 7
    lacks = error(linked, "SELECT * FROM audit_all_logs")
    assert lacks.pgcode == "42703" and "older.audit_logs" in lacks.diag.context
    assert [(node, error_code) for node, error_code, _ in linked.rows("SELECT * FROM audit_link_status()")] == [("eu", None), ("older", "42703"), (ODD, None)]


@pytest.mark.parametrize("arguments", [["-Fc"], ["-Fd", "-j2"], ["-Fp"]], ids=["custom", "directory, parallel", "plain"])
def test_a_restored_database_shows_the_nodes(linked, tmp_path, arguments):
    before = [linked.rows(sql) for sql in ("SELECT * FROM audit_all_logs ORDER BY node, id", "SELECT * FROM audit_links ORDER BY 1", VIEW)]
    restored = Database(linked.name + "_restored")
    dump = str(tmp_path / "dump")
    subprocess.run(["pg_dump", *arguments, "-f", dump, linked.name], check=True)
    admin(f"CREATE DATABASE {restored.name} TEMPLATE template0")
    try:
        done = restored.psql("-f", dump) if arguments == ["-Fp"] else subprocess.run(
            ["pg_restore", "--exit-on-error", *arguments[1:], "-d", restored.name, dump], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [restored.rows(sql) for sql in ("SELECT * FROM audit_all_logs ORDER BY node, id", "SELECT * FROM audit_links ORDER BY 1", VIEW)] == before
        restored.run("SELECT audit_unlink('eu')")
        assert nodes(restored) == [("here", 6), (ODD, 8)]
    finally:
        admin(f"DROP DATABASE {restored.name} WITH (FORCE)")


def test_a_link_without_its_table_is_an_error(linked):
    """As a restore of the rows alone."""
    lost = error(linked, "INSERT INTO audit_cdc_internal.links (node) VALUES ('lost')")
    assert (lost.pgcode, lost.diag.message_primary) == ("55000", 'node "lost" has no foreign table')


def test_undo_where_the_record_is(roles, source, eu):
    """By dblink, whose server and mapping are those of the link. Rights are those of the mapping's role there."""
    reader, stranger = roles("audit_cdc_reader"), roles()
    table(source)
    publish(source, "TABLE t")
    start(source)
    source.run(f"INSERT INTO t VALUES (1, 'a'); GRANT SELECT, UPDATE ON t TO {reader}")
    source.run("BEGIN; SELECT audit_annotate(request_id => 'r1'); UPDATE t SET v = 'b'; COMMIT")
    capture(source)
    serve(eu, "shop", source)
    eu.run("CREATE EXTENSION dblink; SELECT audit_link('shop')")
    undo = "SELECT * FROM dblink('shop', $$SELECT outcome, current_user FROM audit_undo(request_id => 'r1')$$) AS u(outcome text, who name)"
    eu.run(f"ALTER USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS (ADD user '{stranger}')")
    assert code(eu.connect(), undo) == "42501"
    eu.run(f"ALTER USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS (SET user '{reader}')")
    assert eu.rows(undo) == [("undone", reader)]
    assert source.rows("SELECT * FROM t") == [(1, "a")]
    capture(source)
    assert eu.value("SELECT count(*) FROM audit_all_logs WHERE node = 'shop' AND action = 'update'") == 2
