"""Large, deep and many: stored, set aside or a clear error, in bounded memory."""

import json
import re

import psycopg2
import pytest
from capture_helpers import capture, captured, publish, source, table  # noqa: F401
from conftest import batch, change, until
from fault_helpers import peak_memory


@pytest.mark.once
def test_a_body_of_100_mb(db):
    """Peak memory: the body as the client sends it, as text, and a chunk on its way; not a tree of it."""
    body = batch(change(n, lsn=1 + n // 100, record={"id": n, "text": "lorem ipsum " * 80}) for n in range(84_000))
    assert len(body) > 100_000_000
    connection = db.connect()
    assert db.ingest(body, connection)[1:] == (84_000, 0, 0)
    assert peak_memory(connection.info.backend_pid) < 4 * len(body) + 300_000_000  # and shared buffers


@pytest.mark.once
def test_a_batch_of_100_000_messages(db):
    body = batch(json.dumps(change(n % 100, lsn=n // 100)) for n in range(100_000))
    assert db.ingest(body)[1:] == (100_000, 0, 0)
    assert db.ingest(body)[1:] == (0, 100_000, 0)


@pytest.mark.once
def test_a_row_of_50_mb(db):
    assert db.ingest(batch([change(0), change(1, record={"big": "x" * 50_000_000}), change(2)])) == (3, 3, 0, 0)
    assert db.value("SELECT length(new_values ->> 'big') FROM audit_logs WHERE commit_idx = 1") == 50_000_000


@pytest.mark.once
@pytest.mark.parametrize("way", ["captured", "ingested"])
def test_a_table_of_large_rows_as_it_was(source, way):  # noqa: F811
    """Few of them are in memory at a time."""
    if way == "captured":
        table(source, "orders", "id int PRIMARY KEY, big text")
        publish(source)
        source.rows("SELECT audit_capture_start('audited')")
        source.run("INSERT INTO orders SELECT n, repeat('x', 1000000) FROM generate_series(1, 200) AS n")
        capture(source)
    else:
        for first in range(0, 200, 20):
            source.ingest(batch([change(n, pks=[str(n)], record={"id": n, "big": "x" * 1_000_000}) for n in range(first, first + 20)]))
    connection = source.connect()
    source.value("SELECT count(*) FROM audit_as_of('orders', key => '7')", connection=connection)
    before = peak_memory(connection.info.backend_pid)
    assert source.value("SELECT count(*) FROM audit_as_of('orders')", connection=connection) == 200
    assert peak_memory(connection.info.backend_pid) - before < 50_000_000


@pytest.mark.once
def test_an_image_beyond_jsonb(db):
    body = batch([change(0), change(1, record={"big": "x" * 270_000_000})])
    assert db.ingest(body) == (2, 1, 0, 1)
    assert db.rows("SELECT sqlstate FROM audit_rejects") == [("54000",)]


@pytest.mark.once
@pytest.mark.parametrize("row", ["[" + "0," * 2**24 + "0]", "{" + ",".join(f'"{n:x}":0' for n in range(2**23 + 1)) + "}"], ids=["array", "object"])
def test_more_elements_than_jsonb_can_read(db, row):
    huge = json.dumps(change(1, record={"a": 77})).replace("77", row)
    assert db.ingest(batch([change(0), huge, row])) == (3, 1, 0, 2)
    assert "54000" in [code for (code,) in db.rows("SELECT sqlstate FROM audit_rejects")]


@pytest.mark.parametrize("depth", [1_000, 10_000, 1_000_000])
def test_json_nested_deep(db, depth):
    deep = json.dumps(change(1, record={"deep": 77})).replace("77", "[" * depth + "]" * depth)
    counts = db.ingest(batch([change(0), deep, change(2)]))
    stored = db.value("SELECT count(*) FROM audit_logs WHERE new_values ? 'deep'")
    assert counts == (3, 2 + stored, 0, 1 - stored)
    if depth == 1_000:
        assert stored == 1
    if not stored:
        assert db.rows("SELECT sqlstate, length(raw) FROM audit_rejects") == [("54001", len(deep))]


@pytest.mark.parametrize("body", ["[" * 200_000, "[" * 100_000 + "]" * 100_000, '{"data":' * 50_000 + "1" + "}" * 50_000])
def test_bodies_nested_deep(db, body):
    assert db.ingest(body) == (1, 0, 0, 1)


def test_numbers_to_the_digit(db):
    row = '{"a":12345678901234567890123.456,"b":1.10,"c":0.1234567890123456789,"d":100.000,"e":18446744073709551617,"f":-0.50}'
    db.ingest(json.dumps(change(record={"x": 77})).replace('{"x": 77}', row))
    assert db.value("SELECT new_values::text FROM audit_logs").replace(" ", "") == row


def test_keys_of_any_type_unaltered(db):
    keys = ["1.10", "0.00000001", "1e+20", "2024-05-01 10:00:00.5+00", "\\x6162", " padded  ", "ключ", '{"a"}', 'back\\slash "quote"', "NULL"]
    db.ingest(batch([change(n, pks=[key]) for n, key in enumerate(keys)] + [change(n + 100, pks=[key, key]) for n, key in enumerate(keys)]))
    assert [r[0] for r in db.rows("SELECT record_id FROM audit_logs WHERE commit_idx < 100 ORDER BY commit_idx")] == keys
    assert [r[0] for r in db.rows("SELECT record_pks FROM audit_logs WHERE commit_idx >= 100 ORDER BY commit_idx")] == [[key, key] for key in keys]


def test_a_session_keeps_the_memory_of_a_call_for_the_next(db):
    """Otherwise the kernel makes some 800 pages anew for each body of a megabyte."""
    connection = db.connect()
    pid = db.value("SELECT pg_backend_pid()", connection=connection)

    def faults():
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rsplit(")", 1)[1].split()[7])
    body = batch(change(n, record={"text": "lorem ipsum " * 60}) for n in range(1_000))
    for _ in range(10):
        db.ingest(body, connection)
    before = faults()
    for _ in range(10):
        db.ingest(body, connection)
    assert faults() - before < 1_000


def test_statement_timeout_ends_a_long_call_and_stores_nothing(db):
    body = batch(change(n, lsn=1 + n // 100, record={"text": "lorem ipsum " * 80}) for n in range(40_000))
    connection = db.connect()
    connection.cursor().execute("SET statement_timeout = '150ms'")
    with pytest.raises(psycopg2.errors.QueryCanceled):
        db.ingest(body, connection)
    assert db.value("SELECT count(*) FROM audit_logs") == 0
    connection.cursor().execute("RESET statement_timeout")
    assert db.ingest(body, connection)[1:] == (40_000, 0, 0)


def test_history_of_one_record_uses_an_index(db):
    for n in range(20):
        db.ingest(batch(change(i, lsn=n + 1, time=f"2026-03-01T{n:02}:00:00.000000Z", pks=[str(n * 500 + i)], annotations={"username": f"u{i}", "request_id": f"r{n}-{i}"}) for i in range(500)))
    db.run("ANALYZE audit_cdc_internal.log")
    for where, index in (("record_id = '77' AND table_name = 'orders'", "_record"), ("username = 'u7'", "_username"),
                         ("request_id = 'r7-7'", "_request"), ("commit_timestamp BETWEEN '2026-03-01 07:00+00' AND '2026-03-01 07:30+00'", "_once"), ("id = 77", "_id")):
        plan = db.value(f"EXPLAIN (FORMAT json) SELECT * FROM audit_logs WHERE {where}")
        assert re.search(f'"Index Name": "log_2026_03{index}"', json.dumps(plan)), where


def monthly(years, **fields):
    """A change in each month of these years."""
    return [change(n, lsn=year, time=f"{year}-{n + 1:02}-15T00:00:00Z", **fields) for year in years for n in range(12)]


def months(db):
    return db.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_cdc_internal.log'::regclass")


def test_a_call_adds_so_many_months_and_no_more(db):
    body = batch(monthly((2000, 2001)))
    assert db.ingest(body) == (24, 12, 0, 12) and months(db) == 12
    assert {time.year for (time,) in db.rows("SELECT commit_timestamp FROM audit_logs")} == {2001}, "those nearest to the present"
    [(code, hint)] = db.rows("SELECT DISTINCT sqlstate, hint FROM audit_rejects")
    assert code == "54000" and "audit_cdc.max_new_months" in hint and "audit_cdc.max_months" in hint
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.max_new_months = 5")
    assert db.rows("SELECT inserted, rejected FROM audit_retry_rejects()", connection=connection) == [(5, 7)], "a retry of all is one call"
    connection.cursor().execute("SET audit_cdc.max_new_months = 7")
    assert db.rows("SELECT inserted, rejected FROM audit_retry_rejects()", connection=connection) == [(7, 0)]
    assert db.ingest(body) == (24, 0, 24, 0)


def test_the_log_has_so_many_months_and_no_more(db):
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.max_months = 6")
    assert db.ingest(batch(monthly((2001,))), connection) == (12, 6, 0, 6)
    assert db.ingest(batch(monthly((1990,))), connection) == (12, 0, 0, 12)
    now = db.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
    assert db.ingest(batch([change(time=now)]), connection) == (1, 1, 0, 0), "the present month is always there"


def test_a_call_names_so_many_new_tables_and_no_more(db):
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.max_new_tables = 3")
    body = batch([change(n, table=f"t{n}") for n in range(5)])
    assert db.ingest(body, connection) == (5, 3, 0, 2)
    assert db.rows("SELECT DISTINCT sqlstate FROM audit_rejects WHERE hint ~ 'audit_cdc.max_new_tables'") == [("54000",)]
    assert db.ingest(body, connection) == (5, 5 - 3, 3, 0), "those that are known do not count"


def test_an_open_transaction_that_made_a_month_does_not_hold_up_capture(captured):
    """The present month and the next are there before they are needed."""
    until(lambda: months(captured) == 2)
    relay = captured.connect()
    relay.cursor().execute("BEGIN")
    assert captured.ingest(batch([change(time="2020-01-01T00:00:00Z")]), relay) == (1, 1, 0, 0)
    captured.run("INSERT INTO t VALUES (1, 'a')")
    until(lambda: captured.value("SELECT count(*) FROM audit_logs") == 1, 20)
    relay.cursor().execute("COMMIT")
    assert months(captured) == 3


def test_an_open_transaction_that_made_a_month_does_not_hold_up_who_needs_the_next(db):
    """Who stores changes of the present month makes the next one too."""
    now, following = db.rows("""SELECT to_char(m, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM (VALUES (now() AT TIME ZONE 'UTC'),
        (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month')) AS v(m)""")
    assert db.ingest(batch([change(0, time=now[0])])) == (1, 1, 0, 0) and months(db) == 2
    relay = db.connect()
    relay.cursor().execute("BEGIN")
    assert db.ingest(batch([change(time="2020-01-01T00:00:00Z")]), relay) == (1, 1, 0, 0)
    other = db.connect(options="-c lock_timeout=2s")
    assert db.ingest(batch([change(1, time=following[0])]), other) == (1, 1, 0, 0)


def test_only_superusers_set_the_limits(db):
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        db.run("SET ROLE audit_cdc_ingest; SET audit_cdc.max_new_months = 1000")
