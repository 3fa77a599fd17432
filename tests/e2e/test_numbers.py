"""Who may write all data may set sequences. Numbers are not repeated by that, and nothing stops."""

import pytest
from capture_helpers import capture, paused, source  # noqa: F401 (fixtures)
from conftest import admin, batch, change
from projection_helpers import RULE, run

SEQUENCES = "pg_class AS c WHERE relkind = 'S' AND relnamespace = 'audit_cdc_internal'::regnamespace"


@pytest.fixture
def writer(paused):
    admin("CREATE ROLE numbers_writer LOGIN IN ROLE pg_write_all_data")
    yield paused.connect(user="numbers_writer")
    admin("DROP ROLE numbers_writer")


def work(db, n, relay):
    """Each of the extension's sequences gives a number, or several."""
    assert db.ingest(batch([change(n, table=f"other_{n}", key=f"k{n}"), "{}"]), relay) == (2, 1, 0, 1)
    db.run(f"INSERT INTO t VALUES ({n}, 'v'); ALTER TABLE t ADD COLUMN c{n} int; ALTER TABLE t SET UNLOGGED; ALTER TABLE t SET LOGGED")
    assert capture(db) == 1
    db.run(f"CREATE TABLE feed_{n} (log_id bigint, table_name text, value text); SELECT audit_exclude_table('feed_{n}', 'a target')")
    db.rows("SELECT audit_create_projection(%s, %s)", f"feed_{n}", RULE)


@pytest.mark.parametrize("number", ["1, false", "3", "5000000000000", "9223372036854775806", "9223372036854775807"])
def test_sequences_that_were_set_go_on_after_the_last_number(paused, writer, number):
    sessions = [paused.connect(), paused.connect()]
    for n in range(3):
        work(paused, n, sessions[0])
    for n, relay in enumerate([sessions[0], sessions[1], paused.connect()], 10):
        run(writer, f"SELECT setval(c.oid::regclass, {number}) FROM {SEQUENCES}")
        work(paused, n, relay)
    assert paused.value("SELECT count(*) FROM audit_rejects") == 1
    assert paused.value("SELECT count(*) FROM audit_logs") == 12
    for table, order in [("log", "created_at, id"), ("schema_changes", "recorded_at, id"), ("gaps", "noticed_at, id"), ("projections", "created_at, id")]:
        ids = [i for i, in paused.rows(f"SELECT id FROM audit_cdc_internal.{table} ORDER BY {order}")]
        assert ids == sorted(set(ids)), table
    for n in [0, 1, 2, 10, 11, 12]:
        assert paused.value(f"SELECT count(*) = count(DISTINCT log_id) AND count(*) >= 11 - {n} FROM feed_{n}")


def test_no_table_takes_its_numbers_otherwise(db):
    assert db.rows("""SELECT c.relname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
                      WHERE a.attidentity <> '' AND c.relnamespace = 'audit_cdc_internal'::regnamespace""") == []


def test_a_sequence_that_was_set_is_told(paused, writer):
    work(paused, 0, paused.connect())
    relay = paused.connect()
    run(writer, "SELECT setval('audit_cdc_internal.log_id_seq', 1, false)")
    assert paused.ingest(batch([change(5)]), relay)[1] == 1
    assert any("the sequence of the audit log does not go on after its last entry" in notice for notice in relay.notices)
    assert paused.ingest(batch([change(6)]), relay)[1] == 1 and len(relay.notices) == 1


def test_what_a_session_takes_follows_what_others_have_taken(db):
    """A session that has not looked for others for a second looks."""
    admin("CREATE ROLE numbers_other LOGIN IN ROLE pg_write_all_data")
    try:
        one, two = db.connect(), db.connect()
        db.ingest(batch([change(0)]), one)
        db.ingest(batch([change(n) for n in range(1, 100)]), two)
        db.rows("SELECT pg_sleep(1.1)")
        run(db.connect(user="numbers_other"), "SELECT setval('audit_cdc_internal.log_id_seq', 50)")
        db.ingest(batch([change(100)]), one)
        assert db.value("SELECT count(*) = count(DISTINCT id) FROM audit_logs")
    finally:
        admin("DROP ROLE numbers_other")
