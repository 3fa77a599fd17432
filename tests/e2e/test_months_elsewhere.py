"""Months that stand on another server: moved whole, read as before, and what comes late of them is stored there."""

import os
import re
import subprocess
import threading
import time

import psycopg2
import pytest
from capture_helpers import captured, source  # noqa: F401
from conftest import batch, change, fresh, in_threads, server, until
from projection_helpers import code
from test_divided_months import LARGE, divided, entries  # noqa: F401

MARCH = "2026-03-{:02d}T09:00:00.000000Z"


@pytest.fixture
def node():
    """The other server: another database of this one, without the extension."""
    yield from fresh("template0")


@pytest.fixture
def two(db, node):
    """A log with a month that is over, and a server for it."""
    assert db.ingest(batch([*map(of_day, range(1, 21)), in_april(100, action="update", changes={"v": 20})])) == (21, 21, 0, 0)
    return joined(db, node)


def joined(db, node):
    db.run("CREATE EXTENSION postgres_fdw")
    db.run(f"CREATE SERVER node FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{os.environ['PGHOST']}', port '{os.environ['PGPORT']}', dbname '{node.name}')")
    db.run("CREATE USER MAPPING FOR postgres SERVER node OPTIONS (user 'postgres')")
    db.node = node
    return db


def in_april(lsn, **more):
    return change(lsn=lsn, time="2026-04-02T09:00:00.000000Z", record={"id": 1, "v": lsn}, **more)


def of_day(day, **more):
    kind = {"action": "insert"} if day == 1 else {"action": "update", "changes": {"v": day - 1}}
    return change(lsn=day, time=MARCH.format(day), record={"id": 1, "v": day}, annotations={"username": "ann", "request_id": f"r{day}"}, **{**kind, **more})


def move(db, month="2026-03"):
    db.node.run(db.value("SELECT audit_month_table(%s)", month))
    return db.value(f"CALL audit_move_month('{month}', 'node')")


def is_foreign(db):
    return db.rows("SELECT c.relname, c.relkind::text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit_cdc_internal.log'::regclass AND c.relname LIKE 'log_2026_03%' ORDER BY 1")


QUESTIONS = [
    "SELECT * FROM audit_logs ORDER BY id",
    "SELECT * FROM audit_logs WHERE record_id = '1' ORDER BY id",
    "SELECT * FROM audit_logs WHERE username = 'ann' ORDER BY commit_timestamp",
    "SELECT * FROM audit_logs WHERE request_id = 'r7'",
    "SELECT * FROM audit_logs WHERE commit_timestamp BETWEEN '2026-03-04Z' AND '2026-03-09Z' ORDER BY id",
    "SELECT * FROM audit_history('public.orders', '1', database_id => 'd1')",
    "SELECT * FROM audit_history(username => 'ann', database_id => 'd1')",
    "SELECT * FROM audit_as_of('public.orders', '2026-03-05Z', database_id => 'd1')",
    "SELECT * FROM audit_as_of('public.orders', '2026-03-05Z', key => '1', database_id => 'd1')",
    "SELECT * FROM audit_table_diff('public.orders', '2026-03-05Z', '2026-03-09Z', database_id => 'd1')",
    "SELECT * FROM audit_undo_sql(request_id => 'r7', database_id => 'd1')",
    "SELECT * FROM audit_changes_by_user",
    "SELECT * FROM audit_last_changes",
    "SELECT * FROM audit_status()",
    "SELECT * FROM audit_expired()",
    "SELECT * FROM audit_erase('asked', 'orders', '1', database_id => 'd1', dry_run => true)",
]


def test_it_is_read_as_before(two):
    two.run("CREATE TABLE orders (id bigint PRIMARY KEY, v bigint); SELECT audit_set_retention('1 month')")
    before = [two.rows(question) for question in QUESTIONS]
    assert all(before)
    assert move(two) == 20
    assert is_foreign(two) == [("log_2026_03", "f")]
    for question, told in zip(QUESTIONS, before):
        assert two.rows(question) == told, question
    two.run("CREATE TABLE p (id bigint, username text); SELECT audit_create_projection('p', 'SELECT id, username FROM audit_new_logs')")
    assert two.value("SELECT count(*) FROM p WHERE username = 'ann'") == 20
    assert two.value("SELECT count(*) FROM audit_cdc_months.log_2026_03", connection=two.node.connect()) == 20


def test_a_reader_and_a_relay_need_nothing_of_the_server(two):
    move(two)
    two.run("SET ROLE audit_cdc_reader; SELECT count(*) FROM audit_logs; SELECT * FROM audit_history('public.orders', '1', database_id => 'd1')")
    two.run("SET ROLE audit_cdc_ingest; SELECT * FROM audit_ingest(%s)", batch([of_day(2), of_day(25)]))
    assert two.value("SELECT count(*) FROM audit_logs") == 22


def test_what_comes_late_is_stored_there_once(two):
    move(two)
    late = batch([of_day(25), of_day(3), in_april(101)])
    assert two.ingest(late) == (3, 2, 1, 0)
    assert two.ingest(late) == (3, 0, 3, 0)
    contradicting = of_day(25)
    contradicting["action"], contradicting["changes"] = "delete", None
    assert two.ingest(batch([contradicting])) == (1, 0, 0, 1)
    assert two.value("SELECT reason FROM audit_rejects").startswith("another change has this idempotency key")
    assert two.value("SELECT count(*) FROM audit_cdc_months.log_2026_03", connection=two.node.connect()) == 21
    assert two.rows("SELECT new_values, username FROM audit_logs WHERE commit_lsn = 25") == [({"id": 1, "v": 25}, "ann")]


def test_what_comes_late_feeds_projections(two):
    two.run("CREATE TABLE p (id bigint, v bigint); SELECT audit_create_projection('p', $$SELECT id, (new_values ->> 'v')::bigint AS v FROM audit_new_logs$$)")
    move(two)
    two.ingest(batch([of_day(25)]))
    assert two.rows("SELECT id, v FROM p WHERE v = 25") == two.rows("SELECT id, 25::bigint FROM audit_logs WHERE commit_lsn = 25")


def test_a_server_that_is_away_holds_up_only_its_month(two):
    move(two)
    two.run("ALTER SERVER node OPTIONS (SET dbname 'nowhere')")
    assert two.ingest(batch([of_day(25), of_day(3), in_april(101)])) == (3, 1, 0, 2)
    assert two.rows("SELECT DISTINCT sqlstate, reason, hint FROM audit_rejects") == [
        ("08001", "the month of this change is on another server, which does not take it now", "Call audit_retry_rejects() when it does.")]
    two.run(f"ALTER SERVER node OPTIONS (SET dbname '{two.node.name}')")
    assert two.rows("SELECT received, inserted, duplicates, rejected FROM audit_retry_rejects()") == [(2, 1, 1, 0)]
    assert two.value("SELECT count(*) FROM audit_logs") == 23


def test_it_comes_back(two):
    before = two.rows("SELECT * FROM audit_logs ORDER BY id")
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'audit_cdc_internal' AND tablename = 'log_2026_03' ORDER BY 1"
    triggers = "SELECT tgname, tgtype, tgenabled FROM pg_trigger WHERE tgrelid = 'audit_cdc_internal.log_2026_03'::regclass ORDER BY 1"
    was = two.rows(indexes), two.rows(triggers)
    move(two)
    two.ingest(batch([of_day(25)]))
    assert two.value("CALL audit_return_month('2026-03')") == 21
    assert is_foreign(two) == [("log_2026_03", "r")]
    assert (two.rows(indexes), two.rows(triggers)) == was
    assert two.rows("SELECT * FROM audit_logs WHERE commit_lsn <> 25 ORDER BY id") == before
    assert two.value("SELECT count(*) FROM audit_cdc_months.log_2026_03", connection=two.node.connect()) == 0
    assert two.ingest(batch([of_day(25)])) == (1, 0, 1, 0)
    assert two.rows("SELECT operation, arguments, counts FROM audit_operations ORDER BY id") == [
        ("audit_move_month", {"partition": "log_2026_03", "server": "node"}, {"entries": 20}),
        ("audit_return_month", {"partition": "log_2026_03"}, {"entries": 21})]
    assert two.value("CALL audit_move_month('2026-03', 'node')") == 21


def test_what_came_back_is_emptied_there_only_then(two):
    """The other server commits first: if this one fails then, no entry is gone."""
    move(two)
    two.value("SELECT audit_cdc_internal.begin_move('log_2026_03', NULL)")
    two.rows("SELECT * FROM audit_cdc_internal.move_batch('log_2026_03', '-infinity', '00000000-0000-0000-0000-000000000000')")
    assert two.value("SELECT audit_cdc_internal.finish_move('log_2026_03')") == 20
    there = "SELECT count(*) FROM audit_cdc_months.log_2026_03"
    assert two.value(there, connection=two.node.connect()) == 20
    assert is_foreign(two) == [("log_2026_03", "r")]
    assert two.value("CALL audit_return_month('2026-03')") == 0
    assert two.value(there, connection=two.node.connect()) == 0
    assert two.value("SELECT count(*) FROM pg_foreign_table") == 0


def test_a_move_that_did_not_end_is_taken_back(two):
    two.node.run(two.value("SELECT audit_month_table('2026-03')"))
    two.value("SELECT audit_cdc_internal.begin_move('log_2026_03', 'node')")
    two.rows("SELECT * FROM audit_cdc_internal.move_batch('log_2026_03', '-infinity', '00000000-0000-0000-0000-000000000000')")
    assert code(two.connect(), "CALL audit_move_month('2026-03', 'node')") == "55000"
    assert two.value("CALL audit_return_month('2026-03')") == 0
    assert two.value("CALL audit_move_month('2026-03', 'node')") == 20


def test_a_server_lost_in_a_transaction_takes_all_of_it_back(two):
    move(two)
    connection = two.connect()
    connection.autocommit = False
    assert two.ingest(batch([of_day(21), in_april(101)]), connection) == (2, 2, 0, 0)
    two.node.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'postgres_fdw'")
    with pytest.raises(psycopg2.Error) as lost:
        connection.commit()
    assert lost.value.pgcode[:2] in ("08", "57")
    assert two.value("SELECT count(*) FROM audit_logs") == 21
    assert two.ingest(batch([of_day(21), in_april(101)])) == (2, 2, 0, 0)


def test_retention_and_erasure_refuse_it(two):
    move(two)
    two.run("SELECT audit_set_retention('1 month')")
    assert code(two.connect(), "CALL audit_apply_retention()") == "0A000"
    assert two.rows("SELECT date_trunc('month', commit_timestamp, 'UTC')::date::text, count(*) FROM audit_logs GROUP BY 1") == [("2026-03-01", 20)]
    assert code(two.connect(), "SELECT audit_erase('asked', 'orders', '1', database_id => 'd1')") == "0A000"
    assert two.value("SELECT count(*) FROM audit_erasures") == 0
    two.run("CALL audit_return_month('2026-03')")
    two.run("SELECT audit_erase('asked', 'orders', '1', database_id => 'd1')")
    assert two.value("SELECT count(*) FROM audit_logs WHERE erased IS NULL") == 0
    two.run("CALL audit_apply_retention()")
    assert two.value("SELECT count(*) FROM audit_logs") == 0
    two.run("CALL audit_apply_retention()")


def test_it_is_append_only(two):
    move(two)
    for statement in ["UPDATE {} SET notes = '{{}}'", "DELETE FROM {}", "TRUNCATE {}"]:
        for table in ["audit_cdc_internal.log_2026_03", "audit_cdc_internal.log"]:
            assert code(two.connect(), "SET session_replication_role = replica; " + statement.format(table)) == "55000", (statement, table)
    two.run("CREATE ROLE writer_of_months; GRANT pg_write_all_data TO writer_of_months")
    try:
        assert code(two.connect(), "SET ROLE writer_of_months; INSERT INTO audit_cdc_internal.log_2026_03 SELECT * FROM audit_cdc_internal.log_2026_03") == "42501"
        assert code(two.connect(), "DROP FOREIGN TABLE audit_cdc_internal.log_2026_03") == "55000"
    finally:
        two.run("DROP OWNED BY writer_of_months; DROP ROLE writer_of_months")
    assert two.value("SELECT count(*) FROM audit_logs") == 21


def test_what_is_not_to_be_moved(two):
    def move_code(month, server="'node'", role="postgres"):
        connection = two.connect()
        connection.cursor().execute(f"SET SESSION AUTHORIZATION {role}")
        return code(connection, f"CALL audit_move_month({month}, {server})")
    assert [move_code(month) for month in ["NULL", "'March'", "'2026-13'", "'2199-01'", "'2020-01'"]] == ["22004", "22023", "22023", "55000", "42P01"]
    assert [move_code("'2026-03'", server) for server in ["NULL", "'nowhere'"]] == ["22004", "42704"]
    assert move_code("to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM')") == "55000"
    assert code(two.connect(), "BEGIN; CALL audit_move_month('2026-03', 'node')") == "25001"
    assert move_code("'2026-03'") == "42P01"  # no table there
    two.node.run(two.value("SELECT audit_month_table('2026-03')"))
    two.run("CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw")
    assert move_code("'2026-03'", "'files'") == "42809"
    two.run("CREATE ROLE a_keeper; GRANT audit_cdc_keeper TO a_keeper; CREATE ROLE a_stranger")
    try:
        assert move_code("'2026-03'", role="a_stranger") == "42501"
        assert move_code("'2026-03'", role="a_keeper") == "42501"
        two.run("GRANT USAGE ON FOREIGN SERVER node TO a_keeper; GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO a_keeper; ALTER SERVER node OWNER TO a_keeper")
        assert move_code("'2026-03'", role="a_keeper") == "42501"
        two.run("ALTER SERVER node OWNER TO postgres; GRANT USAGE ON FOREIGN SERVER node TO a_keeper")
        assert is_foreign(two) == [("log_2026_03", "r")]
        assert move_code("'2026-03'", role="a_keeper") is None
    finally:
        two.run("DROP OWNED BY a_keeper, a_stranger; DROP ROLE a_keeper, a_stranger")
    assert is_foreign(two) == [("log_2026_03", "f")]


def test_a_table_there_that_has_rows_is_refused(two):
    two.node.run(two.value("SELECT audit_month_table('2026-03')"))
    two.node.run("INSERT INTO audit_cdc_months.log_2026_03 (id, commit_timestamp, created_at, identity, audited_table, action, origin) VALUES (1, '2026-03-01Z', now(), gen_random_uuid(), 1, 'insert', 'i')")
    assert code(two.connect(), "CALL audit_move_month('2026-03', 'node')") == "55000"
    assert is_foreign(two) == [("log_2026_03", "r")]


def test_what_alters_the_copy_is_seen(two):
    """A trigger there, say."""
    two.node.run(two.value("SELECT audit_month_table('2026-03')"))
    two.node.run("CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.new_values = $${}$$; RETURN NEW; END'")
    two.node.run("CREATE TRIGGER spoil BEFORE INSERT ON audit_cdc_months.log_2026_03 FOR EACH ROW WHEN (NEW.commit_lsn = 7) EXECUTE FUNCTION spoil()")
    assert code(two.connect(), "CALL audit_move_month('2026-03', 'node')") == "55000"
    assert is_foreign(two) == [("log_2026_03", "r")]
    two.node.run("DROP TRIGGER spoil ON audit_cdc_months.log_2026_03")
    two.run("CALL audit_return_month('2026-03')")
    assert two.value("CALL audit_move_month('2026-03', 'node')") == 20


def test_what_comes_while_it_is_copied_goes_along(two):
    """After the first batch, before the swap: as the steps of audit_move_month() are."""
    two.node.run(two.value("SELECT audit_month_table('2026-03')"))
    two.value("SELECT audit_cdc_internal.begin_move('log_2026_03', 'node')")
    two.rows("SELECT * FROM audit_cdc_internal.move_batch('log_2026_03', '-infinity', '00000000-0000-0000-0000-000000000000')")
    assert two.ingest(batch([of_day(25), of_day(3)])) == (2, 1, 1, 0)
    assert two.value("SELECT audit_cdc_internal.finish_move('log_2026_03')") == 21
    assert two.value("SELECT count(*) FROM audit_logs") == 22
    assert is_foreign(two) == [("log_2026_03", "f")]


def test_what_comes_while_it_comes_back_is_not_lost(two):
    """All that a transaction reads there is as of its first look."""
    move(two)
    reader = two.connect()
    reader.cursor().execute("BEGIN; LOCK TABLE ONLY audit_cdc_internal.log IN ACCESS SHARE MODE")
    back = threading.Thread(target=lambda: two.run("CALL audit_return_month('2026-03')"))
    back.start()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CALL audit_return%%' AND wait_event = 'PgSleep'"
    until(lambda: two.value(waits) == 1)
    late = threading.Thread(target=lambda: two.ingest(batch([of_day(25)])))
    late.start()
    time.sleep(0.3)  # it is stored, or it waits
    reader.cursor().execute("COMMIT")
    back.join()
    late.join()
    assert two.value("SELECT count(*) FROM audit_logs WHERE commit_lsn = 25") == 1 and is_foreign(two) == [("log_2026_03", "r")]


def test_steps_that_are_called_otherwise(two):
    move(two)
    two.run("SELECT audit_cdc_internal.begin_move('log_2026_03', 'node')")
    assert code(two.connect(), "SELECT audit_cdc_internal.finish_move('log_2026_03')") == "55000"  # nothing is copied yet
    assert code(two.connect(), "BEGIN; SELECT pg_current_xact_id(); SELECT audit_cdc_internal.empty_left('log_2026_03')") == "25001"
    assert two.value("SELECT count(*) FROM audit_logs WHERE commit_timestamp < '2026-04-01Z'") == 20


def test_a_message_that_waits_for_another_is_not_lost(two):
    """An ingest that has not ended keeps the month here."""
    two.node.run(two.value("SELECT audit_month_table('2026-03')"))
    writer = two.connect()
    writer.autocommit = False
    two.ingest(batch([of_day(25)]), connection=writer)
    assert code(two.connect(), "CALL audit_move_month('2026-03', 'node')") == "55P03"
    writer.commit()
    assert two.value("CALL audit_move_month('2026-03', 'node')") == 21


def test_days_are_moved_one_by_one(divided, node):
    db = joined(divided, node)
    before = db.rows("SELECT * FROM audit_logs ORDER BY id")
    assert move(db, "2012-01") == 100
    assert db.value("SELECT count(*) FROM pg_foreign_table") == 31
    assert db.rows("SELECT * FROM audit_logs ORDER BY id") == before
    assert db.ingest(batch(entries("2012-01", 110, LARGE))) == (110, 10, 100, 0)
    assert db.value("CALL audit_return_month('2012-01')") == 110
    assert db.value("SELECT count(*) FROM pg_foreign_table") == 0


def test_it_goes_on_after_the_last_day_that_was_moved(divided, node):
    db = joined(divided, node)
    node.run(db.value("SELECT audit_month_table('2012-01')"))
    node.run("DROP TABLE audit_cdc_months.log_2012_01_09")
    assert code(db.connect(), "CALL audit_move_month('2012-01', 'node')") == "42P01"
    assert db.value("SELECT count(*) FROM pg_foreign_table AS t JOIN pg_inherits AS i ON i.inhrelid = t.ftrelid") == 8
    node.run(re.search("CREATE TABLE audit_cdc_months.log_2012_01_09.*;", db.value("SELECT audit_month_table('2012-01')"))[0])
    assert db.value("CALL audit_move_month('2012-01', 'node')") == db.value("SELECT count(*) FROM audit_logs WHERE commit_timestamp >= '2012-01-09Z'")
    assert db.value("SELECT count(*) FROM audit_logs WHERE commit_timestamp >= '2012-01-01Z'") == 100


def test_it_is_in_a_dump(two, empty, tmp_path):
    """The entries themselves are dumped where they are."""
    move(two)
    dump = str(tmp_path / "dump")
    subprocess.run(["pg_dump", "-Fc", "-f", dump, two.name], check=True)
    subprocess.run(["pg_restore", "-d", empty.name, "--exit-on-error", dump], check=True)
    assert empty.rows("SELECT * FROM audit_logs ORDER BY id") == two.rows("SELECT * FROM audit_logs ORDER BY id")
    assert code(empty.connect(), "DELETE FROM audit_cdc_internal.log_2026_03") == "55000"
    # as long as nobody says that the other is gone, its months are only read
    assert empty.ingest(batch([of_day(3), of_day(25), in_april(101)])) == (3, 1, 0, 2)
    assert empty.rows("SELECT DISTINCT sqlstate, reason, hint FROM audit_rejects") == [(
        "55000", "the month of this change is on another server, and belongs to another database",
        "If that one is gone for good, call audit_take_over_months(), then audit_retry_rejects().")]
    assert code(empty.connect(), "CALL audit_return_month('2026-03')") == "55000"
    for step in ["move_batch('log_2026_03', '-infinity', '00000000-0000-0000-0000-000000000000')", "finish_move('log_2026_03')", "empty_left('log_2026_03')"]:
        assert code(empty.connect(), f"SELECT audit_cdc_internal.{step}") == "55000"
    assert two.value("SELECT count(*) FROM audit_logs") == 21
    assert [code(empty.connect(), f"SELECT audit_take_over_months({reason})") for reason in ["NULL", "' '"]] == ["22004", "22023"]
    assert empty.value("SELECT audit_take_over_months('moved')") == 1
    assert empty.value("SELECT audit_take_over_months('moved')") == 0
    assert empty.rows("SELECT received, inserted, duplicates, rejected FROM audit_retry_rejects()") == [(2, 1, 1, 0)]
    assert empty.value("CALL audit_return_month('2026-03')") == 21
    assert empty.value("SELECT count(*) FROM audit_cdc_internal.months_elsewhere") == 0
    assert empty.rows("SELECT operation, counts, reason FROM audit_operations WHERE operation = 'audit_take_over_months'") == [("audit_take_over_months", {"partitions": 1}, "moved")]


def test_what_a_crash_has_left_there_is_no_duplicate(two):
    """The other server commits before this one. The number of a table that was new is on no row here then, and is not given again."""
    move(two)
    new = of_day(25, table="new_one")
    writer = two.connect()
    writer.autocommit = False
    assert two.ingest(batch([new]), writer) == (1, 1, 0, 0)
    # as if the other server had committed, and this one had not
    there = two.rows("SELECT * FROM audit_cdc_internal.log_2026_03 AS l WHERE commit_lsn = 25", connection=writer)
    number = two.value("SELECT max(id) FROM audit_cdc_internal.audited_tables", connection=writer)
    stored = two.value("SELECT l::text FROM audit_cdc_internal.log_2026_03 AS l WHERE commit_lsn = 25", connection=writer)
    writer.rollback()
    two.node.run("INSERT INTO audit_cdc_months.log_2026_03 SELECT (%s::audit_cdc_months.log_2026_03).*", stored)
    assert len(there) == 1
    assert two.ingest(batch([new, of_day(3), of_day(26)])) == (3, 1, 1, 1)
    assert two.rows("SELECT sqlstate, reason, hint FROM audit_rejects") == [(
        "23503", "an entry on another server is of a table that this log does not know", "Delete this entry on the other server, and call audit_retry_rejects().")]
    assert two.value("SELECT count(*) FROM audit_cdc_internal.audited_tables WHERE id = %s", number) == 0
    two.node.run("DELETE FROM audit_cdc_months.log_2026_03 WHERE commit_lsn = 25")
    assert two.rows("SELECT received, inserted, duplicates, rejected FROM audit_retry_rejects()") == [(1, 1, 0, 0)]
    assert two.value("SELECT table_name FROM audit_logs WHERE commit_lsn = 25") == "new_one"


def test_numbers_are_not_given_again_after_a_crash(two):
    """What stands on another server is committed there: this one must not forget which numbers it has given."""
    move(two)
    two.run("ALTER SYSTEM SET wal_writer_delay = '10s'")
    two.run("SELECT pg_reload_conf()")
    writer = two.connect()
    writer.autocommit = False
    try:
        # of a sequence 32 are on disk before they are given
        two.ingest(batch([*(in_april(200 + n, table=f"t{n}") for n in range(50)), of_day(25, table="new_one")]), writer)
        table, entry = two.rows("SELECT audited_table, id FROM audit_cdc_internal.log_2026_03 WHERE commit_lsn = 25", connection=writer)[0]
    finally:
        server("stop")
        server("start")
        two.run("ALTER SYSTEM RESET wal_writer_delay")
        two.run("SELECT pg_reload_conf()")
    two.ingest(batch([in_april(101, table="another")]))
    assert two.value("SELECT max(id) FROM audit_cdc_internal.audited_tables") > table
    assert two.value("SELECT max(id) FROM audit_logs") > entry


def test_what_a_move_has_left_there_is_erased_by_its_return_only(two):
    two.node.run(two.value("SELECT audit_month_table('2026-03')"))
    two.value("SELECT audit_cdc_internal.begin_move('log_2026_03', 'node')")
    two.rows("SELECT * FROM audit_cdc_internal.move_batch('log_2026_03', '-infinity', '00000000-0000-0000-0000-000000000000')")
    two.run("SELECT audit_set_retention('1 month')")
    assert code(two.connect(), "CALL audit_apply_retention()") == "0A000"
    assert code(two.connect(), "SELECT audit_erase('asked', 'orders', '1', database_id => 'd1')") == "0A000"
    assert two.value("SELECT count(*) FROM audit_logs WHERE erased IS NULL AND commit_timestamp < '2026-04-01Z'") == 20
    # nor is it forgotten by a move to another server
    two.run("CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname 'nowhere')")
    assert code(two.connect(), "CALL audit_move_month('2026-03', 'other')") == "55000"
    two.run("CALL audit_return_month('2026-03')")
    assert two.value("SELECT count(*) FROM audit_cdc_months.log_2026_03", connection=two.node.connect()) == 0
    two.run("SELECT audit_erase('asked', 'orders', '1', database_id => 'd1')")
    two.run("CALL audit_apply_retention()")
    assert two.value("SELECT count(*) FROM audit_logs") == 0


def test_whose_rights_on_the_server_count(two):
    """Those of who calls, not those of who has logged in."""
    two.node.run(two.value("SELECT audit_month_table('2026-03')"))
    two.run("CREATE ROLE a_keeper; GRANT audit_cdc_keeper TO a_keeper; CREATE ROLE b_keeper; GRANT audit_cdc_keeper TO b_keeper; GRANT USAGE ON FOREIGN SERVER node TO b_keeper")
    step = "SELECT audit_cdc_internal.begin_move('log_2026_03', 'node')"
    try:
        assert code(two.connect(), f"SET ROLE a_keeper; {step}") == "42501"
        two.run(f"CREATE FUNCTION of_a() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $${step}$$; ALTER FUNCTION of_a() OWNER TO a_keeper")
        assert code(two.connect(), "SET ROLE b_keeper; SELECT of_a()") == "42501"
        assert code(two.connect(), f"SET ROLE b_keeper; {step}") is None
    finally:
        two.run("DROP OWNED BY a_keeper, b_keeper; DROP ROLE a_keeper, b_keeper")


def test_who_began_before_a_month_comes_back_sees_it(two):
    """A table that is attached is there for all, its rows only for younger snapshots."""
    move(two)
    reader = two.connect()
    reader.cursor().execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    assert code(two.connect(), "CALL audit_return_month('2026-03')") == "55006"
    assert two.value("SELECT count(*) FROM audit_logs", connection=reader) == 21
    reader.cursor().execute("COMMIT")
    assert two.value("CALL audit_return_month('2026-03')") == 20
    assert two.value("SELECT count(*) FROM audit_logs") == 21
    assert two.value("SELECT count(*) FROM audit_cdc_months.log_2026_03", connection=two.node.connect()) == 0


def test_a_month_goes_from_server_to_server_by_way_of_here(two):
    move(two)
    two.run("CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname 'nowhere')")
    assert code(two.connect(), "CALL audit_move_month('2026-03', 'other')") == "55000"
    assert two.value("CALL audit_move_month('2026-03', 'node')") == 0


def test_no_row_is_looked_at_when_a_month_is_attached(two):
    move(two)
    two.value("SELECT audit_cdc_internal.begin_move('log_2026_03', NULL)")
    two.rows("SELECT * FROM audit_cdc_internal.move_batch('log_2026_03', '-infinity', '00000000-0000-0000-0000-000000000000')")
    connection = two.connect()
    connection.cursor().execute("SET client_min_messages = debug1")
    two.value("SELECT audit_cdc_internal.finish_move('log_2026_03')", connection=connection)
    assert any("implied by existing constraints" in notice for notice in connection.notices)
    assert two.value("SELECT count(*) FROM pg_constraint WHERE conrelid = 'audit_cdc_internal.log_2026_03'::regclass AND contype = 'c'") == 0


def test_capture_and_projections_go_on_while_it_is_away(captured, node):
    db = joined(captured, node)
    db.run("CREATE TABLE p (id bigint, v text); SELECT audit_create_projection('p', $$SELECT id, new_values ->> 'v' AS v FROM audit_new_logs$$)")
    db.ingest(batch([of_day(1)]))
    move(db)
    db.run("ALTER SERVER node OPTIONS (SET dbname 'nowhere')")
    db.run("INSERT INTO t SELECT n, 'x' FROM generate_series(1, 10) AS n")
    until(lambda: db.value("SELECT count(*) FROM p WHERE v = 'x'") == 10)
    # entries that wait for their projection are looked for in their own month
    blocker = db.connect()
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE p")
    db.run("INSERT INTO t VALUES (11, 'y')")
    until(lambda: db.value("SELECT count(*) FROM audit_logs WHERE commit_timestamp > now() - interval '1 hour' AND new_values ->> 'v' = 'y'") == 1)
    blocker.rollback()
    db.run("INSERT INTO t VALUES (12, 'z')")
    until(lambda: db.value("SELECT count(*) FROM p WHERE v IN ('y', 'z')") == 2)


def test_a_connection_that_ends_is_made_anew(two):
    move(two)
    connection = two.connect()
    assert two.ingest(batch([of_day(21)]), connection) == (1, 1, 0, 0)
    two.node.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'postgres_fdw'")
    until(lambda: not two.node.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'postgres_fdw'"))
    assert two.ingest(batch([of_day(21), of_day(22)]), connection) == (2, 1, 1, 0)


def test_two_deliver_the_same_at_once(two):
    """Whoever comes second waits for the first, and does not store it again."""
    move(two)
    in_threads([lambda: two.ingest(batch([of_day(day) for day in range(21, 29)])) for _ in range(4)])
    two.rows("SELECT * FROM audit_retry_rejects()")
    assert two.value("SELECT count(*) FROM audit_logs WHERE commit_lsn BETWEEN 21 AND 28") == 8
    assert two.value("SELECT count(*) FROM audit_rejects WHERE stored_at IS NULL") == 0


def begin(db):
    """A move up to its last step."""
    db.node.run(db.value("SELECT audit_month_table('2026-03')"))
    settled = db.value("SELECT audit_cdc_internal.begin_move('log_2026_03', 'node')")
    db.rows("SELECT * FROM audit_cdc_internal.move_batch('log_2026_03', '-infinity', '00000000-0000-0000-0000-000000000000')")
    return settled


def test_no_caller_says_up_to_where_entries_are_compared(two):
    """What is stored after that look, with a lower number, would be gone."""
    begin(two)
    writer, reader = two.connect(), two.connect()
    writer.autocommit = False
    assert two.ingest(batch([of_day(25)]), connection=writer) == (1, 1, 0, 0)
    reader.cursor().execute("BEGIN; LOCK TABLE ONLY audit_cdc_internal.log IN ACCESS SHARE MODE")
    step = "SELECT audit_cdc_internal.finish_move('log_2026_03')"
    moving = threading.Thread(target=lambda: code(two.connect(), step))
    moving.start()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT audit_cdc_internal.finish_move%' AND wait_event IN ('PgSleep', 'relation')"
    until(lambda: not moving.is_alive() or two.value(waits) == 1)
    writer.commit()
    reader.cursor().execute("COMMIT")
    moving.join()
    assert two.value("SELECT count(*) FROM audit_logs") == 22


def test_what_was_read_there_before_is_not_what_is_there(two):
    """All that a transaction reads there is as of its first look, also after it has given its locks back."""
    move(two)
    two.value("SELECT audit_cdc_internal.begin_move('log_2026_03', NULL)")
    two.rows("SELECT * FROM audit_cdc_internal.move_batch('log_2026_03', '-infinity', '00000000-0000-0000-0000-000000000000')")
    keeper = two.connect()
    keeper.autocommit = False
    keeper.cursor().execute("SAVEPOINT looked; SELECT count(*) FROM audit_logs; ROLLBACK TO looked")
    assert two.ingest(batch([of_day(25)])) == (1, 1, 0, 0)
    try:
        keeper.cursor().execute("SELECT audit_cdc_internal.finish_move('log_2026_03')")
        keeper.commit()
    except psycopg2.Error as refused:
        assert refused.pgcode == "25001"
        keeper.rollback()
    two.run("CALL audit_return_month('2026-03')")
    assert two.value("SELECT count(*) FROM audit_logs") == 22


def test_it_is_on_disk_here_before_it_is_emptied_there(two):
    """Whatever the keeper's synchronous_commit says."""
    move(two)
    two.run("ALTER SYSTEM SET wal_writer_delay = '10s'")
    two.run("SELECT pg_reload_conf()")
    try:
        two.run("SELECT audit_cdc_internal.begin_move('log_2026_03', NULL)")
        two.rows("SELECT * FROM audit_cdc_internal.move_batch('log_2026_03', '-infinity', '00000000-0000-0000-0000-000000000000')")
        keeper = two.connect()
        keeper.cursor().execute("SET synchronous_commit = off")
        keeper.cursor().execute("SELECT audit_cdc_internal.finish_move('log_2026_03')")
    finally:
        server("stop")
        server("start")
        two.run("ALTER SYSTEM RESET wal_writer_delay")
        two.run("SELECT pg_reload_conf()")
    assert is_foreign(two) == [("log_2026_03", "r")]
    assert two.value("SELECT count(*) FROM audit_logs") == 21


def test_what_a_superuser_has_dropped_can_be_moved_again(two):
    begin(two)
    two.run("SELECT audit_allow_removal(); DROP FOREIGN TABLE audit_cdc_internal.log_2026_03_there")
    two.node.run("TRUNCATE audit_cdc_months.log_2026_03")
    assert two.value("CALL audit_move_month('2026-03', 'node')") == 20


def test_what_a_trigger_there_raises_holds_up_only_its_month(two):
    move(two)
    two.node.run("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no$$; END'")
    two.node.run("CREATE TRIGGER refuse BEFORE INSERT ON audit_cdc_months.log_2026_03 FOR EACH ROW EXECUTE FUNCTION refuse()")
    assert two.ingest(batch([of_day(25), in_april(101)])) == (2, 1, 0, 1)
    two.node.run("CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    assert two.ingest(batch([of_day(26), in_april(102)])) == (2, 1, 0, 1)
    two.node.run("DROP TRIGGER refuse ON audit_cdc_months.log_2026_03")
    assert two.rows("SELECT received, inserted, duplicates, rejected FROM audit_retry_rejects()") == [(2, 2, 0, 0)]


LIES = [
    "identity = NULL WHERE id = 7", "id = NULL WHERE id = 7", "commit_timestamp = NULL WHERE id = 7", "action = NULL", "audited_table = NULL",
    "commit_timestamp = '2027-01-01Z' WHERE id = 7", "action = 'nonsense'", "new_values = '5'", "old_values = '[1]'", "record_pks = '{{a,b},{c,d}}'",
    "notes = '[]'", "exact_values = '7'", "unknown_columns = '{{a},{b}}'", "annotations = '5'", "action = 'truncate'",
]


def test_what_it_answers_harms_nothing_here(two):
    """Whoever administers the other server may put anything there. An error is right, the end of this server is not."""
    move(two)
    two.run("CREATE TABLE orders (id bigint PRIMARY KEY, v bigint); SELECT audit_set_retention('1 month')")
    two.run("CREATE TABLE p (id bigint, username text); SELECT audit_create_projection('p', 'SELECT id, username FROM audit_new_logs')")
    there = two.node.connect().cursor()
    there.execute("CREATE TABLE kept AS TABLE audit_cdc_months.log_2026_03")
    there.execute("DROP TABLE audit_cdc_months.log_2026_03; CREATE TABLE audit_cdc_months.log_2026_03 AS TABLE kept")
    connection = two.connect()
    for lie in LIES:
        there.execute("TRUNCATE audit_cdc_months.log_2026_03; INSERT INTO audit_cdc_months.log_2026_03 TABLE kept")
        there.execute(f"UPDATE audit_cdc_months.log_2026_03 SET {lie}")
        for question in [*QUESTIONS, "SELECT audit_rebuild_projection('p')", "SELECT audit_retry_projection('p')", f"SELECT audit_ingest('{batch([of_day(7)])}')"]:
            code(connection, question)
            assert not connection.closed, (lie, question)
        assert is_foreign(two) == [("log_2026_03", "f")], lie
    there.execute("TRUNCATE audit_cdc_months.log_2026_03; INSERT INTO audit_cdc_months.log_2026_03 TABLE kept")
    assert two.value("SELECT count(*) FROM audit_logs") == 21
