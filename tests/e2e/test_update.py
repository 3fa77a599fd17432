"""ALTER EXTENSION audit_cdc UPDATE from the release before, and what holds until then.

To build a release takes minutes. So what one left behind is kept in tests/upgrade: its install script, and the dump of a database
that it has filled. Here the script runs with the library of now, whose functions refuse that SQL. So the SQL is said to be of the
library's version while the dump is restored, and while a capture is started by it. What the release's library does is not shown
here. What becomes of its SQL and its rows is."""

import contextlib
import gzip
import os
import pathlib
import re
import subprocess
import threading

import psycopg2
import pytest
from catalogs import QUERIES, catalogs, difference
from chaos import Server
from conftest import TOP, Database, admin, fresh, server_log, until

KEPT = TOP / "tests" / "upgrade"
BEFORE, NOW = "0.1.0", re.search(r'^version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.M)[1]
MISMATCH = f"the library of audit_cdc is of version {NOW}, and its SQL in this database of "
# what a database does not bring along
OWN = "audit_cdc_internal.operations", "audit_cdc_internal.ingest_reads"
UPDATE = "A superuser brings the SQL up to date: ALTER EXTENSION audit_cdc UPDATE."


def install_script(folder):
    """Whole or not at all: other tests use these programs too."""
    script = pathlib.Path(folder) / f"audit_cdc--{BEFORE}.sql"
    beside = script.with_suffix(f".{os.getpid()}")
    beside.write_bytes(gzip.decompress((KEPT / f"{script.name}.gz").read_bytes()))
    beside.rename(script)


@pytest.fixture(scope="session")
def programs():
    bin_ = os.environ["AUDIT_BIN"]
    share = subprocess.run([f"{bin_}/pg_config", "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()
    install_script(f"{share}/extension")
    return bin_


@pytest.fixture
def old(programs, empty):
    empty.run(f"CREATE EXTENSION audit_cdc VERSION '{BEFORE}'")
    return empty


def say_version(db, version):
    """A function is made too, as each update does: sessions look again."""
    db.run(f"UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'audit_cdc'; CREATE OR REPLACE FUNCTION pg_catalog.touched() RETURNS int RETURN 1")


@contextlib.contextmanager
def as_library(db):
    say_version(db, NOW)
    yield
    say_version(db, BEFORE)


def restore(db):
    dump = gzip.decompress((KEPT / f"filled-{BEFORE}.sql.gz").read_bytes()).decode()
    restored = db.psql(text=dump)
    assert restored.returncode == 0, restored.stderr


@pytest.fixture
def filled(old):
    with as_library(old):
        restore(old)
    return old


@pytest.fixture
def another():
    """A database without the extension, beside the one of the test."""
    yield from fresh("template0")


def update(db):
    db.run("ALTER EXTENSION audit_cdc UPDATE")


def tables(db):
    """Each table that is not the catalog's, with its columns."""
    return dict(db.rows("""
        SELECT c.oid::regclass::text, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text !~ '^pg_|information_schema' GROUP BY 1"""))


def rows_of(db, of):
    return {table: sorted(text for text, in db.rows(f"SELECT ROW({columns})::text FROM ONLY {table}")) for table, columns in of.items()}


def refused(db, sql, *arguments, connection=None):
    with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState) as raised:
        db.rows(sql, *arguments, connection=connection)
    assert raised.value.pgcode == "55000"
    return raised.value.diag.message_primary, raised.value.diag.message_hint


@pytest.mark.parametrize("schema", ["public", "Audit Trail"])
def test_the_catalogs_are_those_of_a_fresh_install(programs, empty, schema):
    """Also where default privileges give everything to everybody."""
    empty.run(f"""CREATE SCHEMA IF NOT EXISTS "{schema}"; CREATE EXTENSION audit_cdc SCHEMA "{schema}" VERSION '{BEFORE}'""")
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS", "TYPES", "SCHEMAS"):
        empty.run(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO PUBLIC, pg_monitor")
    update(empty)
    assert empty.rows(f'SELECT operation, arguments FROM "{schema}".audit_operations') == [("ALTER EXTENSION", {"from": BEFORE, "to": NOW})]
    updated = catalogs(empty)
    admin(f"CREATE DATABASE {empty.name}_fresh TEMPLATE template0 ENCODING 'UTF8'")
    try:
        fresh = Database(f"{empty.name}_fresh")
        fresh.run(f"""CREATE SCHEMA IF NOT EXISTS "{schema}"; CREATE EXTENSION audit_cdc SCHEMA "{schema}" """)
        assert difference(updated, catalogs(fresh)) == {}, "scripts/update_script writes the script anew"
    finally:
        admin(f"DROP DATABASE {empty.name}_fresh WITH (FORCE)")


def test_catalogs_that_differ_are_noticed(db):
    before = catalogs(db)
    for change in ("GRANT SELECT ON audit_logs TO PUBLIC", "COMMENT ON COLUMN audit_logs.id IS 'another'",
                   "ALTER FUNCTION audit_cdc_internal.lifted(jsonb, text) COST 7", "ALTER TABLE audit_cdc_internal.gaps ADD COLUMN more int DEFAULT 1",
                   "ALTER EVENT TRIGGER audit_cdc_drops ENABLE", "ALTER EXTENSION audit_cdc DROP VIEW audit_marks", "CREATE INDEX more ON audit_cdc_internal.gaps (id)",
                   "ALTER TABLE audit_cdc_internal.gaps DISABLE TRIGGER own_writers_only", "ALTER TYPE audit_cdc_internal.action ADD VALUE 'more'"):
        connection = db.connect()
        connection.autocommit = False
        with connection.cursor() as cursor:
            cursor.execute(change)
            changed = {what: sorted(map(repr, db.rows(query, connection=connection))) for what, query in QUERIES.items()}
        connection.rollback()
        assert difference(before, changed) != {}, change


def test_every_row_is_kept(filled):
    filled.run("CREATE VIEW mine AS SELECT id, table_name FROM audit_logs; GRANT SELECT ON audit_rejects TO pg_monitor")
    before = tables(filled)
    kept = rows_of(filled, before)
    assert len(kept["audit_cdc_internal.rejects"]) == 1 and sum(len(rows) for table, rows in kept.items() if "log_2" in table) > 100
    update(filled)
    assert rows_of(filled, before) == kept
    assert {table: rows for table, rows in rows_of(filled, {table: columns for table, columns in tables(filled).items() if table not in before}).items() if rows}.keys() == {"audit_cdc_internal.operations"}
    # and it is read and written as ever
    assert filled.value("SELECT count(*) FROM mine") == filled.value("SELECT count(*) FROM audit_logs") > 100
    assert filled.value("SELECT has_table_privilege('pg_monitor', 'audit_rejects', 'SELECT')")
    body = (TOP / "tests/corpus/batches/data_001.json").read_text()
    assert filled.ingest(body)[1:] == (0, 50, 0), "stored by the release before"
    assert filled.value("SELECT count(*) FROM feed WHERE log_id IN (SELECT id FROM audit_logs)") > 0
    assert filled.ingest((TOP / "tests/corpus/batches/data_002.json").read_text())[1:] == (50, 0, 0)
    assert filled.value("SELECT max(log_id) FROM feed") == filled.value("SELECT max(id) FROM audit_logs")
    assert filled.rows("SELECT name, waiting, failures FROM audit_projections ORDER BY name") == [("activity", 0, 0), ("feed", 0, 0), ("stock_history", 0, 0)]
    one = filled.value("SELECT max(database_id) FROM audit_logs WHERE origin = 'capture'")
    assert filled.rows("SELECT action FROM audit_history('stock', 'sku 3', database_id => %s)", one) == [("insert",), ("update",), ("read",)]


WHOLE = "VIEW whole AS SELECT l FROM audit_history(since => '2000-01-01') AS l"


def test_views_of_lines_go_on(filled):
    """Their type got columns. PostgreSQL 18 wants those anew that have whole lines."""
    filled.run(f"CREATE VIEW lines AS SELECT * FROM audit_history(since => '2000-01-01'); CREATE {WHOLE}")
    update(filled)
    assert len(filled.rows("SELECT * FROM lines LIMIT 1")[0]) == 21
    if filled.connect().server_version >= 180000:
        filled.run(f"CREATE OR REPLACE {WHOLE}")
    assert filled.value("SELECT count(id) FROM lines") == filled.value("SELECT count((l).id) FROM whole") > 100


def test_a_dump_of_the_release_before_is_restored(filled, another):
    """It names no version, so it comes to the SQL of now."""
    restore(another)
    update(filled)
    of = {table: columns for table, columns in tables(filled).items() if table not in OWN}
    assert rows_of(another, of) == rows_of(filled, of)
    assert another.value("SELECT extversion FROM pg_extension WHERE extname = 'audit_cdc'") == NOW


def test_capture_goes_on(filled):
    """What was committed before the update, in between and after it is in the log once, without a gap."""
    began = server_log().stat().st_size
    says = lambda: server_log().read_bytes()[began:].decode(errors="replace").count("audit_cdc capture waits: " + MISMATCH + BEFORE)
    # changes of this table must be annotated: that goes on too
    visit = lambda n, page: filled.run(f"SET audit_cdc.username = 'ada'; INSERT INTO visits VALUES ({n}, '{page}')")
    admin("ALTER SYSTEM SET audit_cdc.capture_enabled = off")
    admin("SELECT pg_reload_conf()")
    try:
        until(lambda: Database("postgres").value("SHOW audit_cdc.capture_enabled") == "off")
        with as_library(filled):
            filled.rows("SELECT audit_capture_start('audited')")
            visit(10, "before")
        until(lambda: says() == 1)
        visit(11, "between")
        # what the log could not note is refused
        assert refused(filled, "ALTER TABLE visits ADD COLUMN more int")[0] == MISMATCH + BEFORE
        gaps = "SELECT id, reason, relation, from_lsn FROM audit_cdc_internal.gaps ORDER BY id"
        before = filled.rows(gaps)
        admin("ALTER SYSTEM RESET audit_cdc.capture_enabled")
        admin("SELECT pg_reload_conf()")
        update(filled)
        visit(12, "after")
        filled.run("CALL audit_capture()")
        assert filled.rows("SELECT new_values ->> 'id' FROM audit_logs WHERE table_name = 'visits' AND database_id = (audit_cdc_internal.this_database() ->> 'id') ORDER BY id") == [("10",), ("11",), ("12",)]
        assert filled.rows(gaps) == before
        assert says() == 1
        # the worker works again
        visit(13, "by the worker")
        until(lambda: filled.value("SELECT count(*) FROM audit_logs WHERE new_values ->> 'page' = 'by the worker'") == 1)
        filled.run("ALTER TABLE visits ADD COLUMN more int")
    finally:
        admin("ALTER SYSTEM RESET audit_cdc.capture_enabled")
        admin("SELECT pg_reload_conf()")
        say_version(filled, NOW)
        filled.run("CALL audit_capture_stop(discard_pending => true)")


def calls(db):
    """Of each function that users call, and of each in C, a call; its arguments are unknown before it runs."""
    return [call for call, in db.rows("""
        SELECT format('%s %s(%s) %s', CASE p.prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END, p.oid::regproc,
               (SELECT string_agg(format(CASE p.prokind WHEN 'p' THEN 'NULL::%s' ELSE 'a.a%2$s' END, format_type(t, NULL), n), ', ' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY AS u(t, n)),
               CASE WHEN p.prokind = 'f' THEN format('FROM (SELECT %s OFFSET 0) AS a', concat_ws(', ', '1',
                 (SELECT string_agg(format('NULL::%s AS a%s', CASE WHEN t::regtype::text ~ '^any' THEN 'date' ELSE format_type(t, NULL) END, n), ', ' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY AS u(t, n)))) END)
        FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid AND e.extname = 'audit_cdc' JOIN pg_language AS l ON l.oid = p.prolang
        WHERE p.prokind IN ('f', 'p') AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND (l.lanname = 'c' OR p.pronamespace = 'public'::regnamespace)
          -- no statement calls these so, or it means several
          AND NOT 'internal'::regtype = ANY (p.proargtypes) AND (p.proname <> 'audit_annotate' OR p.proargtypes[0] = 'text'::regtype)""")]


def test_every_function_of_another_version_is_refused_alike(old):
    made = calls(old)
    assert len(made) > 90
    connection = old.connect()
    wrong = {}
    for call in made:
        try:
            old.rows(call, connection=connection)
            wrong[call] = "runs"
        except psycopg2.Error as error:
            if (error.pgcode, error.diag.message_primary, error.diag.message_hint) != ("55000", MISMATCH + BEFORE, UPDATE):
                wrong[call] = str(error)
    assert wrong == {}
    update(old)
    # in the same session
    assert old.rows("SELECT * FROM audit_status()", connection=connection) == []
    assert old.ingest('{"data": []}', connection=connection) == (0, 0, 0, 0)


def test_a_library_that_is_too_old_says_so(db):
    connection = db.connect()
    assert db.rows("SELECT * FROM audit_status()", connection=connection) == []
    say_version(db, "99.0.1")
    for connection in (connection, None):
        assert refused(db, "SELECT * FROM audit_status()", connection=connection) == (
            MISMATCH + "99.0.1", "Install the library of version 99.0.1. If it is preloaded, restart the server; else reconnect.")


def test_nobody_else_updates(old):
    role = f"audit_owner_{os.getpid()}"
    admin(f"CREATE ROLE {role} LOGIN")
    try:
        admin(f"ALTER DATABASE {old.name} OWNER TO {role}")
        for _ in range(2):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                old.rows("ALTER EXTENSION audit_cdc UPDATE", connection=old.connect(user=role))
            old.run(f"UPDATE pg_extension SET extowner = '{role}'::regrole WHERE extname = 'audit_cdc'")
        assert old.value("SELECT extversion FROM pg_extension WHERE extname = 'audit_cdc'") == BEFORE
    finally:
        old.run("UPDATE pg_extension SET extowner = 10 WHERE extname = 'audit_cdc'")
        admin(f"ALTER DATABASE {old.name} OWNER TO postgres")
        admin(f"DROP ROLE {role}")


def test_names_of_strangers_are_refused(old):
    """Who may make functions in the extension's schema makes one with a name that only the next version has."""
    role = f"audit_stranger_{os.getpid()}"
    admin(f"CREATE ROLE {role} LOGIN")
    try:
        old.run(f"GRANT CREATE ON SCHEMA public TO {role}")
        old.rows("CREATE FUNCTION public.audit_hold(name text, reason char(3)) RETURNS void RETURN NULL; SELECT 1", connection=old.connect(user=role))
        with pytest.raises(psycopg2.errors.DuplicateFunction) as raised:
            update(old)
        assert "audit_hold" in raised.value.diag.message_detail
        old.run("DROP FUNCTION public.audit_hold(text, char)")
        update(old)
    finally:
        old.run(f"DROP OWNED BY {role}")
        admin(f"DROP ROLE {role}")


def test_the_role_that_came_is_made(old):
    """Roles are the whole server's, so it is there already: under another name it is as if it were not."""
    connection = old.connect()
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute("ALTER ROLE audit_cdc_keeper RENAME TO audit_cdc_hidden; ALTER EXTENSION audit_cdc UPDATE")
        cursor.execute("SELECT pg_has_role('audit_cdc_keeper', 'audit_cdc_reader', 'MEMBER'), has_function_privilege('audit_cdc_keeper', 'audit_release(text, text)', 'EXECUTE'), rolcanlogin FROM pg_roles WHERE rolname = 'audit_cdc_keeper'")
        assert cursor.fetchall() == [(True, True, False)]
    connection.rollback()


def test_open_transactions_are_no_hindrance(filled):
    """One has read the log and written to it, and goes on after the update, which may wait for it."""
    other = filled.connect()
    other.autocommit = False
    with other.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM audit_logs; LOCK TABLE audit_cdc_internal.log IN ROW EXCLUSIVE MODE")
        failed = []

        def work():
            try:
                update(filled)
            except psycopg2.Error as error:
                failed.append(error)
        thread = threading.Thread(target=work)
        thread.start()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        until(lambda: not thread.is_alive() or filled.value(waits, filled.name))
        cursor.execute("SELECT count(*) FROM audit_rejects")
        other.commit()
        thread.join()
    assert failed == []
    assert filled.value("SELECT extversion FROM pg_extension WHERE extname = 'audit_cdc'") == NOW


def test_without_preloading(programs, tmp_path):
    """The function that loads the library is found before the library sees it."""
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    folder = tmp_path / "server"
    folder.mkdir()
    folder.chmod(0o777)
    server = Server(folder).make()
    with open(server.data / "postgresql.conf", "a") as conf:
        conf.write("shared_preload_libraries = ''\n")
    server.start()
    try:
        db = Database("postgres")
        db.connect = lambda **options: (connection := psycopg2.connect(dbname="postgres", host=str(folder), user="postgres"), setattr(connection, "autocommit", True))[0]
        db.run(f"CREATE EXTENSION audit_cdc VERSION '{BEFORE}'")
        for call in ("SELECT audit_ingest('{}'::text)", "SELECT public.audit_cast(NULL::date, '1')", "CALL audit_capture()"):
            session = db.connect()
            for _ in range(2):
                assert refused(db, call, connection=session) == (MISMATCH + BEFORE, UPDATE), call
        update(db)
        assert db.rows("SELECT received FROM audit_ingest('{\"data\": []}'::text)") == [(0,)]
    finally:
        server.stop("immediate")
