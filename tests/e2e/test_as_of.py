"""audit_as_of: what was there, and what the log cannot tell."""

import os
import random
import subprocess

import pytest
from capture_helpers import publish, source, start, table  # noqa: F401
from conftest import DATABASE_ID, batch, change, until
from projection_helpers import code, run

T = "2026-03-01T09:00:{:02}.000000Z"


def at(second, idx=0, action="update", id_=1, changes=None, lsn=None, **fields):
    """A change that committed at this second; its lsn is a thousand times that."""
    record = {"id": id_, **fields.pop("row", {})}
    return change(idx, lsn=second * 1000 if lsn is None else lsn, action=action, time=T.format(second), pks=[str(id_)], record=record,
                  changes=changes if action == "update" else None, **fields)


def read(second, id_=1, **row):
    return change(None, lsn=None, action="read", key=f"read {second} {id_}", time=T.format(second), pks=[str(id_)], record={"id": id_, **row})


def as_of(db, second=None, table="orders", **more):
    """Rows by id, and the reasons why others are not known."""
    arguments = {"at": T.format(second) if second is not None else None, **more}
    named = ", ".join(f"{name} => %s" for name in arguments)
    rows = {row["id"]: {name: value for name, value in row.items() if name != "id"} for (row,) in db.rows(f"SELECT audit_as_of(%s, {named})", table, *arguments.values())}
    unknown = dict(db.rows(f"SELECT record_id, reason FROM audit_as_of_unknown(%s, {named})", table, *arguments.values()))
    return rows, unknown


def notices(db, sql, *arguments):
    connection = db.connect()
    run(connection, sql, *arguments)
    return "".join(connection.notices)


LIFE = [at(1, action="insert", row={"v": "a"}), at(3, changes={"v": "a"}, row={"v": "b"}), at(5, action="delete", row={"v": "b"}), at(7, action="insert", row={"v": "c"})]
STATES = {0: {}, 1: {1: {"v": "a"}}, 2: {1: {"v": "a"}}, 3: {1: {"v": "b"}}, 4: {1: {"v": "b"}}, 5: {}, 6: {}, 7: {1: {"v": "c"}}, 8: {1: {"v": "c"}}}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_a_life_whatever_the_order_of_delivery(db, order):
    for place in order:
        db.ingest(batch([LIFE[place]]))
    for second, rows in STATES.items():
        assert as_of(db, second) == (rows, {}), second
        assert as_of(db, lsn=f"0/{second * 1000:X}") == (rows, {}), second
    assert as_of(db) == (STATES[8], {})


def test_typed(db):
    db.run("CREATE TABLE orders (id int PRIMARY KEY, v text, price numeric(8,2))")
    db.ingest(batch([at(1, action="insert", row={"v": "a", "price": "1.50"}), at(2, action="insert", id_=2, row={"v": "b"})]))
    assert db.rows("SELECT id, v, price::text FROM audit_as_of(NULL::orders, '2026-03-01 09:00:05Z') ORDER BY id") == [(1, "a", "1.50"), (2, "b", None)]
    assert db.rows("SELECT record_id, unknown_columns FROM audit_as_of_unknown(NULL::orders)") == [("2", ["price"])]
    said = notices(db, "SELECT * FROM audit_as_of(NULL::orders)")
    assert "WARNING" in said and "rows with unknown columns, which are null here: 1" in said and "price" in said
    assert db.rows("SELECT v FROM audit_as_of(NULL::orders, key => '2')") == [("b",)]


def test_a_transaction_is_seen_whole(db):
    db.ingest(batch([at(1, 0, "insert", 1, row={"v": "a"}), at(1, 1, "insert", 2, row={"v": "a"}), at(2, 0, id_=1, changes={"v": "a"}, row={"v": "b"}),
                     at(2, 1, id_=2, changes={"v": "a"}, row={"v": "b"})]))
    assert as_of(db, 1)[0] == {1: {"v": "a"}, 2: {"v": "a"}} and as_of(db, 2)[0] == {1: {"v": "b"}, 2: {"v": "b"}}


def test_commits_that_overtake_each_other_by_their_clocks(db):
    """A later position with a time slightly before."""
    one = change(0, lsn=1000, time="2026-03-01T09:00:01.000200Z", action="insert", record={"id": 1, "v": "a"})
    two = change(0, lsn=2000, time="2026-03-01T09:00:01.000100Z", action="update", record={"id": 1, "v": "b"}, changes={"v": "a"})
    db.ingest(batch([two, one]))
    for moment in ("09:00:01.000100", "09:00:01.000200", "09:00:02"):
        assert db.value("SELECT audit_as_of('orders', %s)", f"2026-03-01 {moment}Z") == {"id": 1, "v": "b"}, "one position for a time: both or none"
    assert db.rows("SELECT audit_as_of('orders', '2026-03-01 09:00:01.000099Z')") == []


def test_a_record_among_commits_that_overtake_each_other(db):
    """It is as in the table then, whether the commit that is ahead is its own or another's."""
    describe(db, "full")
    ahead = random.Random(7)
    times = [f"2026-03-01T09:00:01.{n * 1000 + ahead.randrange(20_000):06}Z" for n in range(200)]
    db.ingest(batch([change(0, lsn=1000 + n, time=time, pks=[str(n % 20)], action="update" if n >= 20 else "insert", record={"id": n % 20, "v": str(n)},
                            changes={"v": str(n - 20)} if n >= 20 else None) for n, time in enumerate(times)]))
    for moment in ahead.sample(times, 9):
        table = {row["id"]: row for (row,) in db.rows("SELECT audit_as_of('orders', %s)", moment)}
        records = db.rows("SELECT id, (SELECT audit_as_of('orders', %s, key => id::text)) FROM generate_series(0, 19) AS id", moment)
        assert {id_: row for id_, row in records if row} == table, moment


def test_a_record_without_beginning_is_not_made_up(db):
    db.ingest(batch([at(3, changes={"v": "a"}, row={"v": "b"}), at(3, 1, "insert", 2, row={"v": "x"}), at(4, action="delete", id_=3, row={"v": "y"}), read(6, 4, v="z")]))
    missing = "the log has no insert or backfill of it up to then"
    assert as_of(db, 2) == ({}, {"1": missing, "3": missing, "4": "only a later backfill tells of it"})
    assert as_of(db, 3) == ({1: {"v": "b"}, 2: {"v": "x"}}, {"3": missing, "4": "only a later backfill tells of it"})
    assert "records that the log cannot tell: 3" in notices(db, "SELECT audit_as_of('orders', %s)", T.format(2))


def test_a_backfill_fills_only_what_no_change_says(db):
    db.ingest(batch([read(2, 1, v="old"), at(4, changes={"v": "old"}, row={"v": "new"}), read(6, 1, v="late"), at(4, 1, "insert", 2, row={"v": "x"}),
                     at(5, action="delete", id_=2, row={"v": "x"}), read(6, 2, v="gone"), read(6, 3, v="y")]))
    assert as_of(db, 1)[0] == {}
    assert as_of(db, 2)[0] == {1: {"v": "old"}} and as_of(db, 4)[0] == {1: {"v": "new"}, 2: {"v": "x"}}
    assert as_of(db, 7) == ({1: {"v": "new"}, 3: {"v": "y"}}, {})


def describe(db, identity, **fields):
    import json
    db.run("SELECT audit_describe_tables('d1', %s)", json.dumps({"described_at": "2026-01-01 00:00+00", "tables": [{
        "table_schema": "public", "table_name": "orders", "replica_identity": identity, "key_columns": ["id"], "identity_columns": ["id"],
        "column_types": {"id": "integer", "v": "text", "big": "text", "g": "integer"}, "never_sent": [], "null_in_reads": [], **fields}]}))


@pytest.mark.parametrize("described", [True, False])
def test_a_value_that_was_not_sent_again(db, described):
    """It did not change: the last one that is known holds."""
    if described:
        describe(db, "default")
    db.ingest(batch([at(1, action="insert", row={"v": "a", "big": "B"}), at(2, changes={}, row={"v": "b", "big": "unchanged_toast"}),
                     at(2, 1, changes={}, id_=2, row={"v": "b", "big": "unchanged_toast"})]))
    rows, unknown = as_of(db, 2)
    assert rows == {1: {"v": "b", "big": "B"}, 2: {"v": "b"}} or unknown
    assert rows.get(2) == {"v": "b"} and unknown["2"] == "columns that were not sent"


def test_a_change_without_old_key_may_have_moved_any_record(db):
    describe(db, "default")
    db.ingest(batch([at(1, 0, "insert", 1, row={"v": "a"}), at(1, 1, "insert", 2, row={"v": "a"}), at(3, id_=9, changes={}, row={"v": "b"}), at(4, id_=2, changes={}, row={"v": "c"})]))
    doubt = "a change that does not tell its old key may have been of it"
    assert as_of(db, 2) == ({1: {"v": "a"}, 2: {"v": "a"}}, {"9": "the log has no insert or backfill of it up to then"})
    rows, unknown = as_of(db, 3)
    assert rows == {9: {"v": "b"}} and unknown == {"1": doubt, "2": doubt}
    assert as_of(db, 4) == ({2: {"v": "c"}}, {"1": doubt, "9": doubt}), "2 may have been any of them"


def test_another_key(db):
    describe(db, "full")
    db.ingest(batch([at(1, action="insert", row={"v": "a"}), at(2, id_=5, changes={"id": 1}, row={"v": "a"}), at(3, action="insert", row={"v": "new"}),
                     at(4, id_=6, changes={"id": 5, "v": "a"}, row={"v": "b"})]))
    assert [as_of(db, second) for second in (1, 2, 3, 4)] == [
        ({1: {"v": "a"}}, {}), ({5: {"v": "a"}}, {}), ({1: {"v": "new"}, 5: {"v": "a"}}, {}), ({1: {"v": "new"}, 6: {"v": "b"}}, {})]
    assert as_of(db, 2, key="1") == ({}, {}) and as_of(db, 2, key="5") == ({5: {"v": "a"}}, {}) and as_of(db, 1, key="5") == ({}, {})


@pytest.mark.parametrize("next_one", [at(3, changes={"v": "lost"}, row={"v": "c"}), at(3, action="insert", row={"v": "c"}), at(3, action="delete", row={"v": "lost"})])
def test_a_gap_is_said(db, next_one):
    db.ingest(batch([at(1, action="insert", row={"v": "a"}), next_one]))
    assert as_of(db, 1) == ({}, {"1": "a gap: its next change does not follow"})
    assert as_of(db, 3)[1] == {}


def test_a_truncate_ends_all(db):
    db.ingest(batch([at(1, action="insert", row={"v": "a"}), at(1, 1, "insert", 2, row={"v": "b"}),
                     change(0, lsn=2000, action="truncate", time=T.format(2), pks=[], record={}), at(3, action="insert", row={"v": "c"})]))
    assert as_of(db, 1)[0] == {1: {"v": "a"}, 2: {"v": "b"}}
    assert as_of(db, 2) == ({}, {}) and as_of(db, 3) == ({1: {"v": "c"}}, {}) and as_of(db, 3, key="2") == ({}, {})


def test_positions_that_run_backwards_are_not_interleaved(db):
    """The source was restored to position 1500 and went on."""
    db.ingest(batch([at(1, 0, "insert", 1, row={"v": "a"}), at(1, 1, "insert", 2, row={"v": "a"}), at(3, 0, changes={"v": "a"}, row={"v": "lost"})]))
    db.ingest(batch([at(10, 0, lsn=1600, changes={"v": "a"}, row={"v": "after"})]))
    restored = "the source was restored since: positions ran backwards"
    assert as_of(db, 1)[0] == {1: {"v": "a"}, 2: {"v": "a"}} and as_of(db, 4) == ({1: {"v": "lost"}, 2: {"v": "a"}}, {})
    assert as_of(db, 10) == ({1: {"v": "after"}}, {"2": restored})
    db.ingest(batch([change(0, lsn=1700, action="insert", time=T.format(20), table="others")]))
    db.ingest(batch([change(0, lsn=9000, action="insert", time=T.format(21), table="third"), change(0, lsn=8000, action="insert", time=T.format(30), table="others")]))
    assert as_of(db, 30, table="third") == ({}, {"1": restored}), "seen by another table of the database"


def test_without_a_key_rows_are_told_apart_by_what_is_in_them(db):
    def row(second, action, v, changes=None):
        return change(0, lsn=second * 1000, action=action, time=T.format(second), pks=[], record={"id": 1, "v": v}, changes=changes)
    db.ingest(batch([row(1, "insert", "a"), row(2, "insert", "a"), row(3, "update", "b", {"v": "a"}), row(4, "delete", "a"), row(6, "delete", "before the log")]))
    shown = [sorted(row["v"] for (row,) in db.rows("SELECT audit_as_of('orders', %s)", T.format(second))) for second in (1, 2, 3, 4, 5)]
    assert shown == [["a"], ["a", "a"], ["a", "b"], ["b"], ["b"]]
    assert db.rows("SELECT record_id, reason FROM audit_as_of_unknown('orders', %s)", T.format(5)) == [(None, "the log has no insert of it up to then")]
    assert db.rows("SELECT record_id, reason FROM audit_as_of_unknown('orders', %s)", T.format(6)) == []


def test_a_moment_that_is_not_settled(db):
    db.ingest(batch([at(1, action="insert"), at(5, 0, "insert", 2)]))
    for second, expected in ((1, False), (4, False), (5, True), (9, True)):
        assert ("not settled" in notices(db, "SELECT audit_as_of('orders', %s)", T.format(second))) == expected, second
    db.ingest(batch([change(0, lsn=10 ** 9, action="insert", time=db.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"), pks=["3"], record={"id": 3})]))
    assert "not settled" in notices(db, "SELECT audit_as_of('orders')"), "Sequin may still deliver"
    assert "not settled" not in notices(db, "SELECT audit_as_of('orders', %s)", T.format(5))


def test_a_change_of_another_key_may_have_been_of_the_one_that_is_asked_for(db):
    db.ingest(batch([at(1, action="insert", row={"v": "a"}), at(2, id_=2, changes={}, row={"v": "a"})]))
    assert as_of(db, 2, key="1") == ({}, {"1": "a change that does not tell its old key may have been of it"})


def test_a_delete_without_key_may_have_been_of_any(db):
    db.ingest(batch([at(1, action="insert", row={"u": 3}), change(0, lsn=2000, time=T.format(2), action="delete", pks=[""], record={"id": None, "u": 3})]))
    assert as_of(db, 2) == ({}, {"1": "a change that does not tell its old key may have been of it"})


def test_keys_that_are_shifted_while_two_rows_have_one(db):
    describe(db, "full")
    rows = [at(1, 0, "insert", 1, row={"v": "a"}), at(1, 1, "insert", 2, row={"v": "b"}), at(2, 0, id_=2, changes={"id": 1}, row={"v": "a"})]
    db.ingest(batch([*rows, at(2, 1, id_=3, changes={"id": 2}, row={"v": "b"})]))
    # FULL tells which of both went on
    assert as_of(db, 2) == ({2: {"v": "a"}, 3: {"v": "b"}}, {})


def test_two_rows_that_no_commit_can_have_left(db):
    describe(db, "full")
    rows = [at(1, 0, "insert", 1, row={"v": "a"}), at(1, 1, "insert", 2, row={"v": "b"}), at(2, 0, id_=2, changes={"id": 1}, row={"v": "a"})]
    db.ingest(batch([*rows, at(3, 0, id_=3, changes={"id": 2}, row={"v": "b"})]))
    assert as_of(db, 3) == ({3: {"v": "b"}}, {"2": "two rows had this key at a time"})


def test_several_databases_and_schemas(db):
    db.ingest(batch([at(1, action="insert", row={"v": "a"}), at(1, action="insert", row={"v": "b"}, database="d2"), at(2, action="insert", row={"v": "c"}, table_schema="shop")]))
    session = db.connect()
    assert code(session, "SELECT audit_as_of('orders')") == "22023"
    assert as_of(db, 3, database_id="d2") == ({1: {"v": "b"}}, {})
    assert as_of(db, 3, table="shop.orders") == ({1: {"v": "c"}}, {})
    assert as_of(db, 3, table="public.orders", database_id="d1") == ({1: {"v": "a"}}, {})
    for call in ("audit_as_of('nothing')", "audit_as_of_unknown('nothing')", "audit_history('nothing', '1')", "audit_history('nothing', username => 'ada')", "audit_replay_sql('nothing')"):
        assert "no change of this table" in notices(db, f"SELECT {call}"), call


def test_a_row_type_is_of_this_database_first(source):  # noqa: F811
    table(source, "orders")
    source.ingest(batch([at(1, action="insert", row={"v": "a"}), at(1, action="insert", row={"v": "b"}, database="d2")]))
    assert code(source.connect(), "SELECT audit_as_of(NULL::orders)") == "22023"
    publish(source)
    start(source)
    source.run("INSERT INTO orders VALUES (1, 'c')")
    source.run("CALL audit_capture()")
    assert source.rows("SELECT v FROM audit_as_of(NULL::orders)") == [("c",)] and code(source.connect(), "SELECT audit_as_of('orders')") == "22023"
    assert source.rows("SELECT v FROM audit_as_of(NULL::orders, database_id => 'd2')") == [("b",)]


def test_a_composite_key_in_any_spelling_of_json(db):
    db.run("CREATE TABLE lines (a int, b text, v text, PRIMARY KEY (a, b))")
    db.ingest(batch([change(0, lsn=1000, action="insert", table="lines", time=T.format(1), pks=["1", "x"], record={"a": 1, "b": "x", "v": "y"})]))
    for key in ('["1","x"]', '["1", "x"]', '[1, "x"]'):
        assert db.value("SELECT audit_as_of('lines', key => %s)", key) == {"a": 1, "b": "x", "v": "y"}
        assert db.rows("SELECT action FROM audit_history('lines', %s)", key) == [("insert",)]


def test_what_is_refused(db):
    db.ingest(batch([at(1, action="insert")]))
    for call, expected in [("audit_as_of(now())", "42804"), ("audit_as_of(NULL::text)", "22004"), ("audit_as_of('orders', now(), '0/1')", "22023"), ("audit_as_of('a.b.c')", None),
                           ("audit_as_of(NULL::bytea)", "42804")]:
        assert code(db.connect(), f"SELECT {call}") == expected, call


def test_names_that_want_quotes(db):
    db.ingest(batch([change(0, lsn=1, action="insert", table="Order Items", table_schema="Sales Ops", record={"id": 1})]))
    for name in ("Order Items", '"Order Items"', '"Sales Ops"."Order Items"'):
        assert db.value("SELECT audit_as_of(%s)", name) == {"id": 1}


def test_on_a_read_only_standby_by_a_reader(db, tmp_path):
    from conftest import admin
    from relay_helpers import free_port
    db.run("CREATE TABLE orders (id int PRIMARY KEY, v text)")
    db.ingest(batch(LIFE))
    admin("DROP ROLE IF EXISTS auditor")
    admin("CREATE ROLE auditor LOGIN IN ROLE audit_cdc_reader")
    binaries, folder, port = os.environ["AUDIT_BIN"], tmp_path / "standby", free_port()
    run_ = lambda *words: subprocess.run(words, check=True, capture_output=True, user="postgres" if os.getuid() == 0 else None)
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    run_(f"{binaries}/pg_basebackup", "-h", os.environ["PGHOST"], "-p", os.environ["PGPORT"], "-U", "postgres", "-D", str(folder), "-R", "-X", "stream", "-c", "fast", "--no-sync")
    try:
        run_(f"{binaries}/pg_ctl", "-D", str(folder), "-w", "-l", str(tmp_path / "log"), "-o", f"-c port={port} -c unix_socket_directories={tmp_path} -c hot_standby=on", "start")
        standby = db.connect(host=str(tmp_path), port=port, user="auditor")
        until(lambda: run(standby, "SELECT count(*) FROM audit_logs") == [(4,)])
        assert run(standby, "SELECT pg_is_in_recovery()") == [(True,)]
        assert run(standby, "SELECT v FROM audit_as_of(NULL::orders, %s)", T.format(3)) == [("b",)]
        assert run(standby, "SELECT (change).action, (old_row).v, (new_row).v FROM audit_history(NULL::orders, '1')") == [
            ("insert", None, "a"), ("update", "a", "b"), ("delete", "b", None), ("insert", None, "c")]
        assert len(run(standby, "SELECT * FROM audit_undo_sql(commit_lsn => 3000)")) == 1 and len(run(standby, "SELECT * FROM audit_replay_sql('orders')")) == 5
        assert run(standby, "SELECT count(*) FROM audit_last_changes") == [(4,)]
    finally:
        subprocess.run([f"{binaries}/pg_ctl", "-D", str(folder), "-m", "immediate", "stop"], capture_output=True, user="postgres" if os.getuid() == 0 else None)
        db.run("DROP ROLE auditor")


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 2, 0), (2, 0, 3, 1)])
def test_a_clock_that_is_set_back_is_no_restore(db, order):
    """Positions go on, times do not; whatever the order of delivery."""
    messages = [at(second, lsn=lsn, action=action, changes=changes, row={"v": v}) for lsn, second, action, changes, v in (
        (100, 20, "insert", None, "a"), (200, 40, "update", {"v": "a"}, "b"), (300, 10, "update", {"v": "b"}, "c"), (400, 21, "update", {"v": "c"}, "d"))]
    for n in order:
        db.ingest(batch([messages[n]]))
    assert db.rows("SELECT new_row ->> 'v', note FROM audit_history('orders', '1')") == [("a", None), ("b", None), ("c", None), ("d", None)]
    assert db.rows("SELECT r ->> 'v' FROM audit_as_of('orders') AS r") == [("d",)] and db.rows("SELECT * FROM audit_as_of_unknown('orders')") == []
    for lsn, v in ((100, "a"), (200, "b"), (300, "c"), (400, "d")):
        assert db.rows("SELECT r ->> 'v' FROM audit_as_of('orders', lsn => '0/0'::pg_lsn + %s) AS r", lsn) == [(v,)]


def test_no_table_has_no_records(db):
    assert db.rows("SELECT * FROM audit_cdc_internal.records_as_of(NULL, NULL, NULL, NULL)") == []
