"""audit_history: a record's life, and what a user, a request, a transaction or a time range did."""

import re

import pytest
from conftest import batch, change
from projection_helpers import code, run
from test_as_of import T, at, describe, read

COLUMNS = "action, old_row - 'id', new_row - 'id', audit_diff_text(changed), note"


def history(db, *arguments, columns=COLUMNS, **named):
    call = ", ".join(["%s"] * len(arguments) + [f"{name} => %s" for name in named])
    return db.rows(f"SELECT {columns} FROM audit_history({call})", *arguments, *named.values())


def test_a_life(db):
    db.ingest(batch([at(5, action="delete", row={"v": "b", "w": 1}), at(3, changes={"v": "a"}, row={"v": "b", "w": 1}, annotations={"username": "ada", "metadata": {"reason": "because"}}),
                     at(1, action="insert", row={"v": "a", "w": 1}), at(7, action="insert", row={"v": "c", "w": 1}), at(2, action="insert", id_=2, row={"v": "other"})]))
    assert history(db, "orders", "1") == [
        ("insert", None, {"v": "a", "w": 1}, "id: 1, v: a, w: 1", None),
        ("update", {"v": "a", "w": 1}, {"v": "b", "w": 1}, "v: a → b", None),
        ("delete", {"v": "b", "w": 1}, None, "id: 1 → gone, v: b → gone, w: 1 → gone", None),
        ("insert", None, {"v": "c", "w": 1}, "id: 1, v: c, w: 1", None)]
    assert history(db, "public.orders", "1", columns="username, metadata ->> 'reason'", since=T.format(2), until=T.format(5)) == [("ada", "because")]
    assert history(db, "orders", "nobody") == [] == history(db, "nothing", "1")


def test_typed(db):
    db.run("CREATE TABLE orders (id int PRIMARY KEY, v text, price numeric(6,2))")
    db.ingest(batch([at(1, action="insert", row={"v": "a", "price": "1.5"}), at(2, changes={"price": "1.5"}, row={"v": "a", "price": "2"})]))
    assert db.rows("SELECT (h.change).action, (h.old_row).price::text, (h.new_row).price::text FROM audit_history(NULL::orders, '1') AS h") == [
        ("insert", None, "1.50"), ("update", "1.50", "2.00")]
    assert db.rows("SELECT (h.change).record_id FROM audit_history(NULL::orders, since => %s) AS h", T.format(2)) == [("1",)]


def test_across_keys(db):
    describe(db, "full")
    db.ingest(batch([at(1, action="insert", row={"v": "a"}), at(2, id_=5, changes={"id": 1}, row={"v": "a"}), at(3, action="insert", row={"v": "new"}),
                     at(4, id_=6, changes={"id": 5, "v": "a"}, row={"v": "b"}), at(5, action="delete", row={"v": "new"}), at(6, id_=5, action="insert", row={"v": "third"}),
                     at(7, 0, "insert", 9, row={"v": "stranger"})]))
    first = [("insert", "1"), ("update", "5"), ("update", "6")]
    assert history(db, "orders", "6", columns="action, record_id") == first
    assert history(db, "orders", "5", columns="action, record_id") == [*first, ("insert", "5")]
    assert history(db, "orders", "1", columns="action, record_id") == [("insert", "1"), ("update", "5"), ("insert", "1"), ("update", "6"), ("delete", "1")]
    assert history(db, "orders", "6", columns="note") == [(None,), ("key before: 1",), ("key before: 5",)]


def test_values_that_were_not_sent(db):
    describe(db, "default", never_sent=["g"])
    db.ingest(batch([at(1, action="insert", row={"v": "a", "big": "B"}), at(2, changes={}, row={"v": "b", "big": "unchanged_toast"}),
                     at(3, action="delete", row={"v": None, "big": None}), at(4, id_=2, changes={}, row={"v": "b", "big": "unchanged_toast"})]))
    columns = "action, old_row, new_row, unknown_old_columns, unknown_columns, note"
    assert history(db, "orders", "1", columns=columns) == [
        ("insert", None, {"id": 1, "v": "a", "big": "B"}, [], ["g"], None),
        ("update", {"id": 1, "v": "a", "big": "B"}, {"id": 1, "v": "b", "big": "B"}, ["g"], ["g"], "the key before this change was not sent: old_row is the row that had this one"),
        ("delete", {"id": 1, "v": "b", "big": "B"}, None, ["g"], [], None)]
    assert history(db, "orders", "2", columns=columns) == [
        ("update", {}, {"id": 2, "v": "b"}, ["big", "g", "id", "v"], ["big", "g"], "the key before this change is unknown")]


def test_what_does_not_fit_is_noted(db):
    missed = "the log misses a change before this one"
    db.ingest(batch([at(1, action="insert", row={"v": "a"}), at(3, changes={"v": "lost"}, row={"v": "c"}), at(4, action="insert", row={"v": "d"}), at(5, action="delete", row={"v": "d"}),
                     at(6, changes={"v": "e"}, row={"v": "f"})]))
    assert history(db, "orders", "1", columns="action, note") == [("insert", None), ("update", missed), ("insert", missed), ("delete", None), ("update", missed)]
    db.ingest(batch([at(40, lsn=2500, changes={"v": "x"}, row={"v": "y"})]))
    assert history(db, "orders", "1", columns="action, note")[-1] == ("update", "the source was restored before this one: positions ran backwards")


def test_a_truncate_and_a_backfill(db):
    db.ingest(batch([read(1, v="a"), at(2, changes={"v": "a"}, row={"v": "b"}), change(0, lsn=3000, action="truncate", time=T.format(3), pks=[], record={}),
                     at(4, action="insert", id_=2), change(0, lsn=5000, action="truncate", time=T.format(5), pks=[], record={})]))
    assert history(db, "orders", "1", columns="action, old_row, new_row") == [
        ("read", None, {"id": 1, "v": "a"}), ("update", {"id": 1, "v": "a"}, {"id": 1, "v": "b"}), ("truncate", {"id": 1, "v": "b"}, None)]


def test_by_user_request_transaction_and_time(db):
    ada, eve = ({"username": name, "request_id": f"r-{name}"} for name in ("ada", "eve"))
    db.ingest(batch([at(1, 0, "insert", 1, row={"v": "a"}, annotations=ada), at(1, 1, "insert", 2, row={"v": "a"}, annotations=ada), at(2, 0, changes={"v": "a"}, row={"v": "b"}, annotations=eve),
                     at(3, 0, action="insert", table="others", annotations=ada)]))
    columns = "table_name, record_id, action, audit_diff_text(old_row, new_row)"
    assert history(db, columns=columns, username="ada") == [("orders", "1", "insert", "id: 1, v: a"), ("orders", "2", "insert", "id: 2, v: a"), ("others", "1", "insert", "id: 1")]
    assert history(db, columns=columns, request_id="r-eve") == [("orders", "1", "update", "v: a → b")]
    assert len(history(db, commit_lsn=1000)) == 2 and len(history(db, since=T.format(2))) == 2 and len(history(db, until=T.format(2))) == 2
    assert len(history(db, "orders", username="ada")) == 2 and len(history(db, "orders", "1", username="ada")) == 1
    assert history(db, columns="record_id", table_name="orders", newest_first=True, max_rows=1) == [("1",)]
    db.ingest(batch([change(0, lsn=9000, action="insert", pks=[], time=T.format(9), table="keyless", record={"v": 1}, annotations={"username": "bob"})]))
    assert history(db, columns="action, new_row", username="bob") == [("insert", {"v": 1})]


@pytest.mark.parametrize("what", [{"username": "ada"}, {"table_name": "orders", "key": "1"}])
@pytest.mark.parametrize("newest_first", [False, True])
def test_pages(db, what, newest_first):
    db.ingest(batch([at(1, action="insert", row={"n": 0}, annotations={"username": "ada"})]
                    + [at(1 + n // 3, 1 + n, changes={"n": n - 1}, row={"n": n}, annotations={"username": "ada"}) for n in range(1, 10)]))
    everything = history(db, columns="id, new_row -> 'n'", newest_first=newest_first, **what)
    assert [n for _, n in everything] == (list(range(10))[::-1] if newest_first else list(range(10)))
    pages, cursor = [], None
    for number in range(4):
        page = history(db, columns="id, new_row -> 'n', cursor", newest_first=newest_first, max_rows=3, after=cursor, **what)
        pages += [line[:2] for line in page]
        cursor = page[-1][2]
        if number == 0:  # what comes late does not move it
            db.ingest(batch([at(30, 0, changes={"n": 9}, row={"n": 10}, annotations={"username": "ada"})]))
    assert pages == everything if newest_first else pages[:10] == everything


def test_what_is_refused(db):
    for call, expected in [("", "22004"), ("'orders', '1', after => 'x'", "22023"), ("'orders', '1', after => '1.2'", "22023"), ("'orders', '1', max_rows => -1", "22023"),
                           ("'orders', '1', newest_first => NULL", "22004"), ("now(), '1'", "42804")]:
        assert code(db.connect(), f"SELECT audit_history({call})") == expected, call


def scanned_whole(plans):
    return [scan for scan in re.findall(r"Seq Scan on log_\w+.*", plans) if "never executed" not in scan]


def test_one_record_among_many_is_found_by_its_index(db):
    """No partition is read whole."""
    describe(db, "full")
    db.ingest(batch([at(1, n, "insert", n, row={"v": "x"}) for n in range(900)]))
    db.ingest(batch([at(1, 0, "insert", n, lsn=10 ** 6 + n, row={"v": "y"}) for n in range(2000, 2900)]))
    db.ingest(batch([at(5, changes={"v": "x"}, row={"v": "z"}), at(6, id_=7777, changes={"id": 1}, row={"v": "z"})]))
    db.run("ANALYZE audit_cdc_internal.log")
    session = db.connect()
    run(session, "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; SET auto_explain.log_level = notice; SET auto_explain.log_analyze = on")
    session.notices = []
    assert len(run(session, "SELECT * FROM audit_history('orders', '7777')")) == 3
    plans = "".join(session.notices)
    assert scanned_whole(plans) == [] and len(re.findall(r"Index Scan using log_2026_03_record|Bitmap Index Scan on log_2026_03_record", plans)) >= 2
    assert "log_2026_03_rekeyed" in plans
    session.notices = []
    assert run(session, "SELECT v FROM jsonb_to_recordset((SELECT jsonb_agg(r) FROM audit_as_of('orders', key => '7777') AS r)) AS x(v text)") == [("z",)]
    assert scanned_whole("".join(session.notices)) == []
