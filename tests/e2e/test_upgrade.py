"""pg_upgrade from PostgreSQL 15 with a filled log: every entry is kept, and the database goes on from what it was.

Beside it is a database whose SQL is of the release before. It comes along too, and is updated afterwards."""

import os
import subprocess

import pytest
from catalogs import catalogs, difference
from chaos import Server
from conftest import TOP, Database, batch, change, numbers, until
from projection_helpers import project
from test_continue import HERE, READINGS, about, said
from test_update import BEFORE, install_script

OTHERS = "that another database captured"
# what the extension has, with its rights and settings
MEMBERS = """
    SELECT pg_describe_object(d.classid, d.objid, 0), (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(CASE
      WHEN p.oid IS NOT NULL THEN coalesce(p.proacl, acldefault('f', p.proowner)) WHEN c.oid IS NOT NULL THEN coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
      WHEN t.oid IS NOT NULL THEN coalesce(t.typacl, acldefault('T', t.typowner)) WHEN n.oid IS NOT NULL THEN coalesce(n.nspacl, acldefault('n', n.nspowner)) END) AS a), p.proconfig, p.prosecdef, coalesce(p.proowner, c.relowner)::regrole::text, e.evtenabled::text
    FROM pg_depend AS d JOIN pg_extension AS x ON d.refclassid = 'pg_extension'::regclass AND x.oid = d.refobjid AND x.extname = 'audit_cdc' AND d.deptype = 'e'
    LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    LEFT JOIN pg_type AS t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid LEFT JOIN pg_namespace AS n ON d.classid = 'pg_namespace'::regclass AND n.oid = d.objid
    LEFT JOIN pg_event_trigger AS e ON d.classid = 'pg_event_trigger'::regclass AND e.oid = d.objid
    -- of the row types of tables and views PostgreSQL keeps no rights
    WHERE NOT EXISTS (SELECT FROM pg_class AS r WHERE r.oid = t.typrelid AND r.relkind <> 'c')
    ORDER BY 1"""
TRIGGERS = "SELECT tgrelid::regclass::text, tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal AND tgrelid::regclass::text ~ '^audit_cdc_internal' ORDER BY 1, 2"
LOG = "SELECT * FROM audit_logs ORDER BY id"
LINKS, PAGE = "SELECT * FROM audit_links", "EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM audit_all_logs WHERE node = 'shop' ORDER BY commit_timestamp DESC LIMIT 50"


class On(Database):
    """A database of one of the two servers."""

    def __init__(self, name, server):
        super().__init__(name)
        self.server = server

    def connect(self, **options):
        return super().connect(host=str(self.server.folder), user="postgres", **options)


@pytest.fixture
def old_programs(tmp_path):
    if Database("postgres").connect().server_version < 160000:
        pytest.skip("an upgrade is to a later version")
    if not list((TOP / "target/package/pg15").rglob("audit_cdc.so")):
        pytest.skip("the extension is not built for PostgreSQL 15")
    command = f'source scripts/lib.sh; copy_of_postgresql 15 "{tmp_path}" >&2; echo "$AUDIT_BIN"'
    return subprocess.run(["bash", "-c", command], cwd=TOP, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def servers(old_programs, tmp_path):
    """The old one runs, the new one has just been made."""
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    made = []
    for programs in (old_programs, os.environ["AUDIT_BIN"]):
        folder = tmp_path / f"server{next(numbers)}"
        folder.mkdir()
        folder.chmod(0o777)
        # as 15 has none
        checksums = ["--no-data-checksums"] if made and Database("postgres").connect().server_version >= 180000 else []
        made.append(Server(folder, programs).make(*checksums))
    try:
        made[0].start()
        yield made
    finally:
        for server in made:
            server.stop("immediate")


def test_the_log_comes_along(servers):
    before, after = servers
    On("postgres", before).run("CREATE DATABASE shop")
    old = On("shop", before)
    old.run("CREATE EXTENSION audit_cdc")
    old.run("""CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL;
               CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT;
               CREATE PUBLICATION audited FOR TABLE t, p""")
    old.rows("SELECT audit_capture_start('audited')")
    project(old)
    message = batch([change(), change(1, record={"id": 2, "value": "b"})])
    old.ingest(message)
    old.run("INSERT INTO t VALUES (1, 'a'), (2, 'b'); INSERT INTO p VALUES (1, 'x')")
    old.run("BEGIN; SELECT audit_annotate(request_id => 'r1', metadata => jsonb_build_object('long', repeat('x', 3000))); UPDATE t SET v = 'aa' WHERE id = 1; COMMIT")
    old.run("ALTER TABLE t ADD w int; SELECT audit_mark('before')")
    old.run("CALL audit_capture_stop()")
    kept, old_id = {view: old.rows(view) for view in (LOG, "SELECT * FROM audit_schema_changes ORDER BY id", "SELECT * FROM audit_marks", "SELECT log_id, value FROM feed ORDER BY n")}, old.value(HERE)
    install_script(f"{before.program('pg_config', '--sharedir').stdout.decode().strip()}/extension")
    On("postgres", before).run("CREATE DATABASE older")
    On("older", before).run(f"CREATE EXTENSION audit_cdc VERSION '{BEFORE}'")
    On("postgres", before).run("CREATE DATABASE linking")
    linking = On("linking", before)
    linking.run("""CREATE EXTENSION audit_cdc; CREATE EXTENSION postgres_fdw; CREATE SERVER shop FOREIGN DATA WRAPPER postgres_fdw;
                   CREATE USER MAPPING FOR CURRENT_USER SERVER shop; SELECT audit_link('shop')""")
    links, page = linking.rows(LINKS), str(linking.rows(PAGE))
    # Debian's 15.20 notes something of its own with each column, which the servers of the wheels do not know
    for database in ("template1", "postgres", "shop", "older", "linking"):
        On(database, before).run("UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text ~ 'pg_attver'")
    before.stop("fast")

    upgraded = after.program("pg_upgrade", "-b", before.programs, "-B", after.programs, "-d", before.data, "-D", after.data, "-U", "postgres", "--no-sync", "-s", after.folder, cwd=after.folder, check=False)
    assert upgraded.returncode == 0, (upgraded.stdout.decode()[-2000:], [path.read_text()[-3000:] for path in after.data.rglob("pg_upgrade_*.log")])
    after.start()
    new = On("shop", after)
    assert {view: new.rows(view) for view in kept} == kept
    assert new.value(HERE) != old_id
    fresh = On("fresh", after)
    On("postgres", after).run("CREATE DATABASE fresh TEMPLATE template0")
    fresh.run("CREATE EXTENSION audit_cdc")
    assert new.rows(MEMBERS) == fresh.rows(MEMBERS)
    assert {row for row in new.rows(TRIGGERS) if "log_2" not in row[0]} == {row for row in fresh.rows(TRIGGERS) if "log_2" not in row[0]}

    older = On("older", after)
    older.run("ALTER EXTENSION audit_cdc UPDATE")
    assert older.rows(MEMBERS) == fresh.rows(MEMBERS)
    # pg_dump spells bodies in its own way, and 15 has no rights on row types of tables
    assert difference(catalogs(older), catalogs(fresh)).keys() <= {"functions", "relations", "types", "rights as they were made"}

    # the page's order still goes to the node
    linking = On("linking", after)
    assert linking.rows(LINKS) == links
    assert [page.count("FROM public.audit_logs ORDER BY"), str(linking.rows(PAGE)).count("FROM public.audit_logs ORDER BY")] == [1, 1]

    for reading in READINGS:
        assert len(about(said(new, reading), OTHERS)) == 1, reading
    new.run("SELECT audit_continue(%s, 'pg_upgrade')", old_id)
    new.rows("SELECT audit_capture_start('audited')")
    new.run("INSERT INTO t VALUES (3, 'c'); UPDATE t SET v = 'aaa' WHERE id = 2; INSERT INTO p VALUES (2, 'y')")
    new.run("CALL audit_backfill()")
    for reading in READINGS:
        assert about(said(new, reading), OTHERS) == [], reading
    assert new.rows("SELECT table_name, reason, is_open FROM audit_gaps") == [(None, "stopped", False), (None, "continued", False)]
    assert new.rows("SELECT action, new_row ->> 'v', database_id FROM audit_history('t', '2')") == [("insert", "b", old_id), ("update", "aaa", new.value(HERE)), ("read", "aaa", new.value(HERE))]
    assert new.rows("SELECT r.* FROM audit_as_of(NULL::t) AS r ORDER BY 1") == new.rows("SELECT * FROM t ORDER BY 1")
    assert new.rows("SELECT outcome FROM audit_undo(request_id => 'r1')") == [("undone",)]
    assert new.ingest(message) == (2, 0, 2, 0), "as stored before the upgrade"
    until(lambda: new.value("SELECT max(log_id) FROM feed") == new.value("SELECT max(id) FROM audit_logs"))
