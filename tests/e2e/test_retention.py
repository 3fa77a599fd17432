"""Retention: what rules let go and no hold keeps is removed, counted, and never stored again; everything else stays."""

import contextlib
import random
import threading
from datetime import datetime, timedelta, timezone

import psycopg2
import pytest
from capture_helpers import capture, source, table  # noqa: F401
from conftest import batch, change, in_threads, until
from fault_helpers import kill_postmaster
from test_capture import begin

DAY = timedelta(days=1)
NOW = datetime.now(timezone.utc)
LOG = "SELECT * FROM audit_logs ORDER BY id"


def at(days):
    """A commit time so many days ago."""
    return (NOW - days * DAY).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def message(number, days, table="orders", **more):
    return change(lsn=1_000_000 + number, time=at(days), table=table, pks=(str(number),), record={"id": number}, **more)


def fill(db, days_by_table):
    """An entry for each day that is named."""
    numbers = iter(range(1_000_000))
    messages = [message(next(numbers), days, name) for name, all_days in days_by_table.items() for days in all_days]
    assert db.ingest(batch(messages)) == (len(messages), len(messages), 0, 0)
    return messages


def left(db, table="orders"):
    """How many days ago the entries were committed that are there."""
    times = db.rows("SELECT commit_timestamp FROM audit_logs WHERE table_name = %s ORDER BY 1 DESC", table)
    return [round((NOW - time) / DAY) for (time,) in times]


def keep(db, interval, **named):
    db.run(f"SELECT audit_set_retention(%s{''.join(f', {name} => %s' for name in named)})", interval, *named.values())


def apply(db, arguments="", connection=None):
    """How many entries went."""
    return db.rows(f"CALL audit_apply_retention({arguments})", connection=connection)[0][0]


def removed(db, columns="sum(entries), sum(came_again)"):
    return db.rows(f"SELECT {columns} FROM audit_removed")[0]


def said(db, sql, *arguments):
    """What the server says beside the answer."""
    connection = db.connect()
    connection.cursor().execute(sql, arguments)
    return "".join(connection.notices)


def in_background(db, sql):
    """Whether it ends or the server."""
    def run():
        with contextlib.suppress(psycopg2.OperationalError):
            db.connect().cursor().execute(sql)
    threading.Thread(target=run, daemon=True).start()


def refused(db, sql, role=None):
    connection = db.connect()
    if role:
        connection.cursor().execute(f"SET ROLE {role}")
    with pytest.raises(psycopg2.Error) as error:
        connection.cursor().execute(sql)
    return error.value.pgcode


def test_without_a_rule_everything_stays(db):
    fill(db, {"orders": [1, 400, 4000]})
    assert apply(db) == 0
    assert left(db) == [1, 400, 4000]


def test_old_months_go_whole_and_what_is_left_is_as_it_was(db):
    fill(db, {"orders": [1, 20, 400, 410, 800]})
    newer = db.rows(f"SELECT * FROM ({LOG}) AS l WHERE commit_timestamp > now() - interval '100 days'")
    keep(db, "1 year")
    assert apply(db) == 3
    assert db.rows(LOG) == newer and left(db) == [1, 20]
    assert db.rows("SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_cdc_internal.log'::regclass AND inhrelid::regclass::text < 'audit_cdc_internal.log_' || to_char(now() - interval '1 year', 'YYYY_MM')") == [(0,)]
    assert removed(db) == (3, 0)
    assert db.value("SELECT rows FROM audit_status()") == 2
    assert db.value("SELECT sum((counts ->> 'entries')::bigint) FROM audit_operations WHERE operation = 'audit_apply_retention'") == 3
    assert apply(db) == 0


def test_the_most_specific_rule_wins(db):
    fill(db, {"orders": [5, 50, 500], "carts": [5, 50, 500], "invoices": [5, 50, 500]})
    keep(db, "1 year")
    keep(db, "30 days", database_id="d1", table_schema="public")
    keep(db, None, table_name="invoices")
    keep(db, "400 days", database_id="d1", table_schema="public", table_name="carts")
    assert apply(db) == 3
    assert (left(db), left(db, "carts"), left(db, "invoices")) == ([5], [5, 50], [5, 50, 500])
    assert db.value("SELECT audit_drop_retention('d1', 'public')") is True
    assert db.value("SELECT audit_drop_retention('d1', 'public')") is False


def test_single_tables_are_cleared_in_batches_also_in_the_present_month(db):
    fill(db, {"orders": [*(n / 200 for n in range(200)), *(3 + n / 200 for n in range(300))], "carts": [3]})
    keep(db, "2 days", table_name="orders")
    assert apply(db, "batch_size => 7") == 300
    assert len(left(db)) == 200 and left(db, "carts") == [3]
    assert removed(db) == (300, 0)


def test_a_dry_run_tells_and_does_nothing(db):
    fill(db, {"orders": [5, 500, 501], "carts": [500]})
    keep(db, "1 year")
    db.run("SELECT audit_hold('case 1', 'lawsuit', table_name => 'carts')")
    before = db.rows(LOG), db.rows("SELECT * FROM audit_operations")
    told = said(db, "CALL audit_apply_retention(dry_run => true)")
    assert "public.orders: 2 entries would go, 0 are held" in told and "public.carts: 0 entries would go, 1 are held" in told
    assert (db.rows(LOG), db.rows("SELECT * FROM audit_operations")) == before
    assert db.rows("SELECT table_name, sum(entries), sum(held), max(holds) FROM audit_expired() GROUP BY 1 ORDER BY 1") == [("carts", 0, 1, ["case 1"]), ("orders", 2, 0, None)]
    assert db.value("SELECT sum(bytes) FROM audit_expired()") > 300


@pytest.mark.parametrize("hold, stay", [
    ("", [500, 502, 504, 506]), ("table_name => 'orders'", [500, 502, 504, 506]), ("table_name => 'carts'", []), ("database_id => 'd2'", []),
    ("record_id => '1'", [502]), ("record_id => '1', table_name => 'carts'", []), ("username => 'ada'", [504]), ("request_id => 'r9'", [506]),
    ("since => now() - interval '503 days'", [500, 502]), ("until => now() - interval '503 days'", [504, 506])])
def test_what_is_held_stays_until_it_is_released(db, hold, stay):
    db.ingest(batch([message(0, 500), message(1, 502), message(2, 504, annotations={"username": "ada"}), message(3, 506, annotations={"request_id": "r9"}), message(4, 5)]))
    keep(db, "1 year")
    db.run(f"SELECT audit_hold('h', 'lawsuit'{', ' + hold if hold else ''})")
    assert apply(db) == 4 - len(stay)
    assert left(db) == [5, *stay]
    db.run("SELECT audit_release('h', 'settled')")
    assert apply(db) == len(stay)
    assert left(db) == [5]
    assert db.rows("SELECT name, reason, released_reason, held_by::text, released_by::text FROM audit_holds") == [("h", "lawsuit", "settled", "postgres", "postgres")]


def test_what_comes_again_is_not_stored_again(db):
    messages = fill(db, {"orders": [5, 500, 501]})
    keep(db, "1 year")
    apply(db)
    assert db.ingest(batch(messages)) == (3, 0, 3, 0)
    late = message(77, 400)
    assert db.ingest(batch([late, message(78, 300)])) == (2, 1, 1, 0)
    assert left(db) == [5, 300] and removed(db) == (2, 3)
    assert db.rows("SELECT * FROM audit_rejects") == []


def test_one_table_of_others_of_the_same_month(db):
    """What came again of a table is not confused with what another keeps."""
    messages = fill(db, {"orders": [500], "carts": [500]})
    keep(db, "1 year", table_name="orders")
    assert apply(db) == 1
    assert db.ingest(batch(messages)) == (2, 0, 2, 0)
    assert (left(db), left(db, "carts"), removed(db)) == ([], [500], (1, 1))


def test_readings_say_what_was_removed(db):
    db.ingest(batch([message(1, 500), message(1, 400, action="update", key="u", changes={"id": 0}, annotations={"request_id": "r0"}), message(1, 5, action="update", key="v", changes={"id": 0}, annotations={"request_id": "r1"})]))
    keep(db, "1 year")
    assert apply(db) == 2
    gone = "entries of this table were removed by retention"
    assert gone in said(db, "SELECT * FROM audit_history('orders', '1')")
    assert gone in said(db, "SELECT * FROM audit_history('orders', since => now() - interval '2 years')")
    assert gone in said(db, "SELECT audit_as_of('orders', %s)", at(450))
    assert gone in said(db, "SELECT audit_as_of('orders')")
    assert "entries were removed by retention" in said(db, "SELECT * FROM audit_undo_sql(request_id => 'r0')")
    assert gone in said(db, "SELECT * FROM audit_undo_sql(table_name => 'orders', key => '1', at => %s)", at(450))
    assert gone not in said(db, "SELECT * FROM audit_history('orders', since => now() - interval '300 days')")
    assert "removed" not in said(db, "SELECT * FROM audit_history('carts', '1')")


def test_a_complete_backfill_leaves_no_doubt(source):
    table(source)
    source.run("INSERT INTO t VALUES (1, 'a')")
    begin(source, "TABLE t")
    source.run("INSERT INTO t VALUES (2, 'b')")
    capture(source)
    # as if it had been so for years
    source.run("INSERT INTO audit_cdc_internal.horizons SELECT id, now() FROM audit_cdc_internal.audited_tables; INSERT INTO audit_cdc_internal.removals SELECT id, '2001-01-01', 5 FROM audit_cdc_internal.audited_tables")
    assert "removed by retention" in said(source, "SELECT audit_as_of('t')")
    # a backfill that began before does not tell all
    source.run("INSERT INTO t VALUES (3, 'c')")
    source.rows("CALL audit_backfill('t')")
    source.run("UPDATE audit_cdc_internal.horizons SET before = clock_timestamp()")
    assert "removed by retention" in said(source, "SELECT audit_as_of('t')")
    source.rows("CALL audit_backfill('t')")
    assert "removed by retention" not in said(source, "SELECT audit_as_of('t')")
    assert sorted(source.rows("SELECT (audit_as_of('t')) ->> 'id'")) == [("1",), ("2",), ("3",)]


def test_a_relay_cannot_say_that_all_was_read(db):
    fill(db, {"orders": [500, 5]})
    keep(db, "1 year")
    apply(db)
    complete = message(7, 1, action="complete")
    db.ingest(batch([{**complete, "record": None}]))
    assert "removed by retention" in said(db, "SELECT audit_as_of('orders')")


def test_what_belongs_to_entries_follows(db):
    db.run("CREATE TABLE p (id int NOT NULL CHECK (id < 0)); SELECT audit_create_projection('p', 'SELECT 5 AS id FROM audit_new_logs')")
    db.ingest(batch([message(1, 500), message(2, 5)]))
    db.ingest("nonsense")
    db.run("UPDATE audit_cdc_internal.rejects SET last_delivered_at = last_delivered_at - interval '2 years'")
    assert db.value("SELECT count(*) FROM audit_projection_failures") == 2
    keep(db, "1 year")
    apply(db)
    assert db.rows("SELECT FROM audit_rejects") == [] and db.value("SELECT count(*) FROM audit_projection_failures") == 1


def test_what_rules_keep_now_stays_whatever_they_said_before(db):
    fill(db, {"orders": [500]})
    keep(db, "30 days")
    db.run("SELECT audit_hold('h', 'lawsuit', record_id => '0')")
    fill(db, {"carts": [500]})
    assert apply(db) == 0
    db.run("SELECT audit_release('h', 'settled')")
    keep(db, None, table_name="orders")
    db.run("INSERT INTO audit_cdc_internal.horizons SELECT id, now() - interval '30 days' FROM audit_cdc_internal.audited_tables ON CONFLICT DO NOTHING")
    assert db.value("SELECT sum(entries) FROM audit_expired()") == apply(db) == 1
    assert left(db) == [500] and left(db, "carts") == []


def test_what_was_rejected_was_never_here(db):
    """A retry stores it, also before the horizon."""
    db.run("SELECT audit_allow_source('postgres', 'd1')")
    assert db.ingest(batch([message(9, 450, database="d2")])) == (1, 0, 0, 1)
    db.run("SELECT audit_allow_source('postgres', 'd2')")
    db.ingest(batch([message(1, 500, database="d2")]))
    keep(db, "1 year")
    assert apply(db) == 1
    db.run("SELECT audit_hold('h', 'lawsuit')")
    assert db.rows("SELECT inserted, duplicates FROM audit_retry_rejects()") == [(1, 0)]
    assert left(db) == [450] and apply(db) == 0


def test_another_name_of_the_database_brings_nothing_back(db):
    (first,) = fill(db, {"orders": [500]})
    keep(db, "1 year")
    assert apply(db) == 1
    first["metadata"]["database"]["name"] = "renamed"
    assert db.ingest(batch([first])) == (1, 0, 1, 0) and left(db) == []


def test_nothing_that_entries_share_goes_while_others_write(db):
    """An ingest may have found there what nobody else names."""
    fill(db, {"orders": [500]})
    keep(db, "1 year")
    assert apply(db) == 1
    shared = {"metadata": {"note": "x" * 5000}}
    db.ingest(batch([message(1, 500, table="carts", annotations=shared)]))
    db.run("ALTER TABLE audit_cdc_internal.large_annotations DISABLE TRIGGER append_only; UPDATE audit_cdc_internal.large_annotations SET created_at = '2001-01-01'")
    db.run("""INSERT INTO audit_cdc_internal.record_keys SELECT id, 'no such', 'no such' FROM audit_cdc_internal.audited_tables WHERE table_name = 'orders'""")
    writer = db.connect()
    writer.autocommit = False
    db.ingest(batch([message(2, 5, annotations=shared)]), connection=writer)
    for name in ("annotations", "contexts", "record_keys"):
        assert db.value(f"SELECT audit_cdc_internal.clear_{name}()") is None
        assert refused(db, f"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT audit_cdc_internal.clear_{name}()") == "25001"
    assert refused(db, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT audit_cdc_internal.clear_rejects()") == "25001"
    writer.commit()
    assert db.value("SELECT audit_cdc_internal.clear_record_keys()") == 1
    assert db.value("SELECT audit_cdc_internal.clear_annotations()") == 0


def test_annotations_of_ddl_stay(source):
    table(source)
    begin(source, "TABLE t")
    source.run("INSERT INTO t VALUES (1, 'a')")
    connection = source.connect()
    connection.autocommit = False
    connection.cursor().execute("SELECT audit_annotate(metadata => jsonb_build_object('why', repeat('x', 5000))); ALTER TABLE t ADD w int")
    connection.commit()
    capture(source)
    why = "SELECT octet_length(metadata ->> 'why') FROM audit_schema_changes WHERE command_tag = 'ALTER TABLE' ORDER BY id DESC LIMIT 1"
    assert source.value(why) == 5000
    source.run("""ALTER TABLE audit_cdc_internal.large_annotations DISABLE TRIGGER append_only; UPDATE audit_cdc_internal.large_annotations SET created_at = '2001-01-01';
                  INSERT INTO audit_cdc_internal.horizons SELECT id, '2002-01-01' FROM audit_cdc_internal.audited_tables""")
    apply(source)
    assert source.value(why) == 5000


def test_several_at_once(db):
    fill(db, {"orders": [500 + 31 * n for n in range(8)], "carts": [500]})
    keep(db, "1 year", table_name="orders")
    keep(db, "30 days", table_name="carts")
    counts = []
    in_threads([lambda: counts.append(apply(db))] * 3)
    assert sum(counts) == 9 and removed(db)[0] == 9 and left(db) == []


def test_large_annotations_go_with_the_last_entry_that_names_them(db):
    both = {"metadata": {"note": "x" * 5000}}
    db.ingest(batch([message(1, 500, annotations={"metadata": {"note": "w" * 5000}}), message(2, 500, annotations=both), message(3, 5, annotations=both)]))
    stored = "audit_cdc_internal.large_annotations"
    # a statement of ours would be refused
    db.run(f"ALTER TABLE {stored} DISABLE TRIGGER append_only; UPDATE {stored} SET created_at = now() - interval '500 days'; ALTER TABLE {stored} ENABLE ALWAYS TRIGGER append_only")
    keep(db, "1 year")
    assert apply(db) == 2
    assert db.value(f"SELECT count(*) FROM {stored}") == 1
    assert db.value("SELECT annotations FROM audit_logs") == both


def test_it_does_not_wait_in_the_way_of_ingest(db):
    """Who reads the log for long keeps its month; others go on writing meanwhile, and the next run goes on."""
    fill(db, {"orders": [500]})
    keep(db, "1 year")
    reader = db.connect()
    reader.autocommit = False
    reader.cursor().execute("SELECT count(*) FROM audit_logs")
    codes = []
    thread = threading.Thread(target=lambda: codes.append(refused(db, "CALL audit_apply_retention()")), daemon=True)
    thread.start()
    number = 100
    while thread.is_alive():
        connection = db.connect()
        connection.cursor().execute("SET lock_timeout = '5s'")
        assert db.ingest(batch([message(number, 1)]), connection=connection)[1] == 1
        connection.close()
        number += 1
    assert codes == ["55P03"] and left(db)[-1] == 500 and number > 105
    reader.rollback()
    assert apply(db) == 1 and len(left(db)) == number - 100


def test_killed_it_goes_on_where_it_was(db):
    fill(db, {"orders": [500 + n / 1000 for n in range(3000)], "carts": [500]})
    keep(db, "1 year", table_name="orders")
    in_background(db, "CALL audit_apply_retention(batch_size => 5)")
    until(lambda: db.value("SELECT coalesce(sum(entries), 0) FROM audit_removed") > 20)
    kill_postmaster()
    went = removed(db)[0]
    assert 20 < went < 3000 and len(left(db)) == 3000 - went
    assert apply(db) == 3000 - went
    assert left(db) == [] and left(db, "carts") == [500] and removed(db) == (3000, 0)
    assert db.value("SELECT sum((counts ->> 'entries')::bigint) FROM audit_operations WHERE operation = 'audit_apply_retention'") == 3000


@pytest.mark.once
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_any_order_it_is_as_a_model_says(db, seed):
    chance = random.Random(seed)
    stored, gone, rules, holds, messages, horizons = set(), set(), {}, {}, [], {}
    names = ["orders", "carts", "invoices"]

    def kept_days(name):
        return next((rules[of] for of in (name, None) if of in rules), None)

    for number in range(120):
        step = chance.choice(["ingest", "ingest", "again", "rule", "hold", "release", "apply"])
        if step == "ingest":
            new = (number, chance.choice([1, 10, 45, 100, 300, 700]) + chance.random(), chance.choice(names), chance.choice(["ada", "bob"]))
            messages.append(new)
        if step in ("ingest", "again") and messages:
            of = messages[-1] if step == "ingest" else chance.choice(messages)
            db.ingest(batch([message(of[0], of[1], of[2], annotations={"username": of[3]})]))
            if of[1] < horizons.get(of[2], 1e9):
                stored.add(of)
        elif step == "rule":
            name, days = chance.choice([None, *names]), chance.choice([None, 30, 200, 400])
            rules[name] = days
            keep(db, days and f"{days} days", **({"table_name": name} if name else {}))
        elif step == "hold":
            name, user = chance.choice([None, *names]), chance.choice([None, "ada", "bob"])
            holds[f"h{number}"] = (name, user)
            db.run("SELECT audit_hold(%s, 'test', table_name => %s, username => %s)", f"h{number}", name, user)
        elif step == "release" and holds:
            name = chance.choice(sorted(holds))
            del holds[name]
            db.run("SELECT audit_release(%s, 'test')", name)
        elif step == "apply":
            apply(db, f"batch_size => {chance.choice([1, 3, 1000])}")
            expired = [of for of in stored if kept_days(of[2]) is not None and of[1] > kept_days(of[2])]
            going = [of for of in expired if not any(name in (None, of[2]) and user in (None, of[3]) for name, user in holds.values())]
            for of in going:
                horizons[of[2]] = min(horizons.get(of[2], 1e9), kept_days(of[2]))
                gone.add(of)
                stored.remove(of)
        there = {n for (n,) in db.rows("SELECT (new_values ->> 'id')::int FROM audit_logs")}
        assert there == {of[0] for of in stored}, (number, step)
    assert removed(db)[0] in (None, len(gone)) and gone


@pytest.mark.parametrize("call", ["audit_set_retention('1 year')", "audit_drop_retention()", "audit_hold('a', 'b')", "audit_release('a', 'b')", "audit_expired()",
                                  "audit_cdc_internal.set_horizons()", "audit_cdc_internal.clear_partition('log_2001_01', 1)", "audit_cdc_internal.clear_rejects()"])
def test_only_keepers_may(db, call):
    for role in ("audit_cdc_admin", "audit_cdc_reader", "audit_cdc_ingest"):
        assert refused(db, f"SELECT {call}", role) == "42501"
    if call != "audit_release('a', 'b')":
        connection = db.connect()
        connection.cursor().execute("SET ROLE audit_cdc_keeper")
        connection.cursor().execute(f"SELECT {call}")


def test_a_keeper_removes_nothing_but_what_rules_let_go(db):
    fill(db, {"orders": [5, 500]})
    keep(db, "1 year")
    for statement in ("DELETE FROM audit_cdc_internal.log", "DELETE FROM audit_logs", "UPDATE audit_cdc_internal.horizons SET before = now()",
                      "SELECT audit_cdc_internal.drop_month('audit_cdc_internal.log')", "SELECT audit_cdc_internal.remove_rows('{\"(0,1)\"}', 'audit_cdc_internal.log')",
                      "DELETE FROM audit_cdc_internal.holds", "DELETE FROM audit_cdc_internal.operations"):
        assert refused(db, statement, "audit_cdc_keeper") == "42501"
    connection = db.connect()
    connection.cursor().execute("SET ROLE audit_cdc_keeper")
    assert apply(db, connection=connection) == 1 and left(db) == [5]


@pytest.mark.parametrize("sql, code", [
    ("SELECT audit_set_retention('1 hour')", "22023"), ("SELECT audit_set_retention('-1 year')", "22023"), ("SELECT audit_set_retention('2000 years')", "22023"),
    ("SELECT audit_set_retention('-1200 mons 36001 days')", "22023"), ("CALL audit_apply_retention(NULL)", "22004"),
    ("SELECT audit_set_retention('1 year', repeat('x', 501))", "22023"), ("SELECT audit_hold(NULL, 'x')", "22004"), ("SELECT audit_hold('x', NULL)", "22004"),
    ("SELECT audit_hold(' ', 'x')", "22023"), ("SELECT audit_release('x', 'y')", "42704"), ("CALL audit_apply_retention(batch_size => 0)", "22023"),
    ("CALL audit_apply_retention(batch_size => NULL)", "22004"), ("BEGIN; CALL audit_apply_retention()", "25001"),
    ("SELECT audit_hold('a', 'b'), audit_hold('a', 'c')", "42710")])
def test_what_is_wrong_is_refused(db, sql, code):
    assert refused(db, sql) == code
