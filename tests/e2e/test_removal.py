"""Who can remove the log, and how."""

import os

import psycopg2
import pytest
from capture_helpers import capture, captured, publish, source, start, stop, table
from conftest import admin, batch, change, numbers
from projection_helpers import code, run

ALLOW = "SELECT audit_allow_removal(); "
REMOVALS = ["DROP EXTENSION audit_cdc CASCADE", "DROP SCHEMA public CASCADE", "DROP TABLE audit_cdc_internal.log_2026_03",
            "DROP INDEX audit_cdc_internal.log_2026_03_once", "DROP EXTENSION plpgsql CASCADE",
            "ALTER EXTENSION audit_cdc DROP TABLE audit_cdc_internal.record_keys; DROP TABLE audit_cdc_internal.record_keys CASCADE"]


@pytest.fixture
def dbo(db):
    """The database's owner, who is no superuser, with a log of one entry."""
    name = f"hr_dbo_{os.getpid()}_{next(numbers)}"
    admin(f"CREATE ROLE {name} LOGIN")
    admin(f"ALTER DATABASE {db.name} OWNER TO {name}")
    db.ingest(batch([change()]))
    yield db.connect(user=name)
    admin(f"ALTER DATABASE {db.name} OWNER TO postgres")
    db.run(f"DROP OWNED BY {name}")
    admin(f"DROP ROLE {name}")


@pytest.mark.parametrize("removal", ["DROP SCHEMA public CASCADE", "DROP EXTENSION audit_cdc", "DROP EXTENSION audit_cdc CASCADE", "ALTER SCHEMA public RENAME TO was",
                                     "ALTER SCHEMA public OWNER TO {dbo}", "DROP OWNED BY {dbo} CASCADE", "SELECT audit_allow_removal(); DROP SCHEMA public CASCADE"])
def test_the_owner_of_the_database_cannot(db, dbo, removal):
    name = dbo.info.user
    db.run(f"ALTER SCHEMA public OWNER TO {'pg_database_owner' if 'OWNED' not in removal else name}")
    failed = code(dbo, removal.format(dbo=name))
    assert failed == ("55000" if removal.startswith("DROP") else "42501")
    assert db.value("SELECT count(*) FROM audit_logs") == 1
    db.run("ALTER SCHEMA public OWNER TO pg_database_owner")


def test_the_schema_can_be_granted_by_its_owner(db, dbo):
    run(dbo, "GRANT CREATE ON SCHEMA public TO PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC; COMMENT ON SCHEMA public IS 'ours'")
    run(dbo, "CREATE SCHEMA other; ALTER SCHEMA other RENAME TO others; DROP SCHEMA others")


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_superuser_says_so_first(db, removal):
    db.ingest(batch([change()]))
    session = db.connect()
    with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState) as raised:
        run(session, removal)
    assert "audit_allow_removal()" in raised.value.diag.message_hint
    assert db.value("SELECT count(*) FROM audit_logs") == 1
    run(session, ALLOW)  # in a transaction of its own: counts for no other
    assert code(session, removal) == "55000"
    assert code(session, "BEGIN; SELECT audit_allow_removal(); ROLLBACK") is None and code(session, removal) == "55000"
    assert code(session, ALLOW + removal) is None


def test_an_empty_log_needs_nothing(db):
    db.run("DROP EXTENSION audit_cdc CASCADE; CREATE EXTENSION audit_cdc; DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE EXTENSION audit_cdc")
    db.ingest(batch([change()]))


def test_a_capture_ends_first(source):
    table(source)
    publish(source, "TABLE t")
    start(source)
    for allow in ("", ALLOW):
        with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState) as raised:
            source.run(allow + "DROP EXTENSION audit_cdc CASCADE")
        assert "audit_capture_stop()" in raised.value.diag.message_hint
    source.run("INSERT INTO t VALUES (1, 'a')")
    capture(source)
    months = source.rows("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_cdc_internal.log'::regclass")
    source.run(ALLOW + f"DROP TABLE {months[0][0]}")  # a month may go meanwhile
    source.run("INSERT INTO t VALUES (2, 'b')")
    capture(source)
    assert source.value("SELECT count(*) FROM audit_logs") == 1
    stop(source)
    source.run(ALLOW + "DROP EXTENSION audit_cdc CASCADE")
    source.run("CREATE EXTENSION audit_cdc")


def test_what_postgresql_drops_by_itself_is_not_meant(db):
    db.ingest(batch([change()]))
    session = db.connect()
    for statement in ("VACUUM FULL audit_cdc_internal.log_2026_03", "REINDEX TABLE audit_cdc_internal.log_2026_03", "REINDEX TABLE CONCURRENTLY audit_cdc_internal.log_2026_03",
                      "CLUSTER audit_cdc_internal.log_2026_03 USING log_2026_03_once", "ALTER TABLE audit_cdc_internal.log DETACH PARTITION audit_cdc_internal.log_2026_03",
                      "ALTER TABLE audit_cdc_internal.log ATTACH PARTITION audit_cdc_internal.log_2026_03 FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00')",
                      "CREATE TEMP TABLE x (LIKE audit_cdc_internal.log); DROP TABLE x", "CREATE TABLE y (id int); DROP TABLE y"):
        run(session, statement)
    assert db.value("SELECT count(*) FROM audit_logs") == 1
