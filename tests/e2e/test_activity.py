"""audit_create_activity and audit_activity: for a web page."""

import pytest
from conftest import batch, change
from projection_helpers import code, run, state
from test_as_of import T, at


def activity(db, feed="activity", **named):
    call = "".join(f", {name} => %s" for name in named)
    return [line for (line,) in db.rows(f"SELECT audit_activity(%s{call})", feed, *named.values())]


def shown(lines):
    return [(line["description"], line["changes"]) for line in lines]


@pytest.fixture
def feed(db):
    db.run("SELECT audit_create_activity(tenant_column => 'tenant')")
    ada = {"username": "ada", "source": "web", "request_id": "r1", "metadata": {"reason": "asked"}}
    db.ingest(batch([at(1, 0, "insert", 17, row={"status": "new", "tenant": "t1"}, annotations=ada), at(1, 1, id_=17, changes={"status": "new"}, row={"status": "open", "tenant": "t1"}, annotations=ada),
                     at(2, 0, id_=17, changes={"status": "open"}, row={"status": "paid", "tenant": "t1"}, annotations=ada),
                     at(2, 1, id_=17, changes={"status": "paid", "n": 1}, row={"status": "sent", "n": 2, "tenant": "t1"}, annotations=ada),
                     at(2, 2, "insert", 18, row={"status": "new", "tenant": "t2"}, annotations=ada),
                     at(3, 0, "delete", 17, row={"status": "sent", "tenant": "t1"}), change(None, lsn=None, action="read", key="b", time=T.format(4), pks=["5"], record={"id": 5}),
                     at(4, 0, "insert", 1, table="categories", row={"tenant": "t1"}, annotations={"username": "bob"})]))
    return db


def test_one_line_a_transaction_and_record(feed):
    lines = activity(feed)
    assert sorted(shown(lines[2:4])) == [("ada created order #18", ""), ("ada updated order #17", "n: 1 → 2, status: open → sent")]
    assert shown(lines[:2] + lines[4:]) == [("bob created category #1", ""), ("system deleted order #17", ""), ("ada created order #17", "")]
    [updated] = [line for line in lines if line["action"] == "update"]
    assert updated["changed"] == {"status": {"old": "open", "new": "sent"}, "n": {"old": 1, "new": 2}}
    assert (updated["actor"], updated["source"], updated["request_id"], updated["reason"], updated["tenant"], updated["table_name"], updated["record_id"]) == (
        "ada", "web", "r1", "asked", "t1", "orders", "17")


def test_of_a_user_a_record_a_tenant(feed):
    assert {line["actor"] for line in activity(feed, username="ada")} == {"ada"} and len(activity(feed, username="ada")) == 3
    assert len(activity(feed, table_name="orders", key="17")) == 3 and len(activity(feed, table_name="public.categories")) == 1
    assert [line["description"] for line in activity(feed, tenant="t2")] == ["ada created order #18"]


def test_pages_do_not_move(feed):
    everything = activity(feed)
    pages, cursor = [], None
    for n in range(5):
        [line] = activity(feed, max_rows=1, after=cursor)
        pages.append(line)
        cursor = line["cursor"]
        feed.ingest(batch([at(20 + n, 0, "insert", 100 + n), at(2, 10 + n, "insert", 200 + n)]))  # newer, and late
    assert [line["cursor"] for line in pages][:2] == [line["cursor"] for line in everything][:2]
    seen = [line["cursor"] for line in pages]
    assert seen == sorted(seen, key=lambda cursor: [line["cursor"] for line in activity(feed)].index(cursor)) and len(set(seen)) == 5
    assert activity(feed, after=activity(feed)[-1]["cursor"]) == []


def test_it_is_a_projection(feed):
    assert state(feed, "activity") == (True, 0, 0)
    before = activity(feed)
    feed.run("SELECT audit_rebuild_projection('activity')")
    assert activity(feed) == before
    feed.run("CREATE SCHEMA app; SELECT audit_create_activity('app.feed', tables => ARRAY['categories'], database_id => 'd1')")
    assert [line["description"] for line in activity(feed, "app.feed")] == ["bob created category #1"]


def test_what_is_refused(feed):
    for call, expected in [("NULL", "22004"), ("'activity', max_rows => NULL", "22004"), ("'activity', max_rows => -1", "22023"), ("'activity', after => 'x'", "22023"),
                           ("'audit_rejects'", "42703"), ("'nothing'", "42P01")]:
        assert code(feed.connect(), f"SELECT audit_activity({call})") == expected, call
    assert code(feed.connect(), "SELECT audit_create_activity()") == "42P07"


def test_a_word_that_only_ends_like_a_plural(db):
    db.run("SELECT audit_create_activity()")
    db.ingest(batch([at(n, 0, "insert", 1, table=name) for n, name in enumerate(("status", "address", "analysis", "orders"))]))
    assert [line["description"] for line in activity(db)] == [
        "system created order #1", "system created analysis #1", "system created address #1", "system created status #1"]
