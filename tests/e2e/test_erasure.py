"""Erasure: values are taken out of every place, the entries stay, and everything else is as it was."""

import json
import os
import pathlib
import random

import psycopg2
import pytest
from capture_helpers import capture, source, table  # noqa: F401
from conftest import batch, change, in_threads
from fault_helpers import kill_postmaster
from projection_helpers import code
from test_capture import begin
from test_retention import said

SECRET = "adalovelace"
TABLES = """
    SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' ORDER BY 1"""


def where(db, text=SECRET):
    """Tables of the database that hold the text."""
    return [name for name, in db.rows(TABLES) if db.value(f"SELECT EXISTS (SELECT FROM {name} AS t WHERE strpos(t::text, %s) > 0)", text)]


def erase(db, arguments, *values, connection=None):
    """What it did: by place and name how many."""
    found = db.rows(f"SELECT place, name, count FROM audit_erase('a test', {arguments})", *values, connection=connection)
    return {(place, name) if name else place: count for place, name, count in found}


def person(number, lsn, action="insert", changes=None, key=None, **more):
    record = {"id": number, "name": SECRET + str(number), "email": f"{SECRET}{number}@example.com", "city": "Turin"}
    return change(lsn=lsn, action=action, pks=(str(number),), table="people", record=record, changes=changes, **more)


def people(db):
    """Two persons; the first was changed."""
    messages = [person(1, 1001), person(2, 1002), person(1, 1003, "update", {"city": "Rome", "email": "countess@example.com"})]
    assert db.ingest(batch(messages)) == (3, 3, 0, 0)
    return messages


LOG = "SELECT * FROM audit_logs WHERE record_id = %s ORDER BY id"


def test_a_record_is_gone_and_its_entries_stay(db):
    people(db)
    others, entries = db.rows(LOG, "2"), db.rows("SELECT id, action, commit_lsn, commit_timestamp, idempotency_key FROM audit_logs ORDER BY id")
    assert erase(db, "'people', '1'") == {("entries", "public.people of d1"): 2}
    assert where(db, SECRET + "1") == where(db, "countess") == []
    assert db.rows(LOG, "2") == others
    assert db.rows("SELECT id, action, commit_lsn, commit_timestamp, idempotency_key FROM audit_logs ORDER BY id") == entries
    first, second = db.rows("SELECT record_id, record_key, record_pks, old_values, new_values, unknown_columns, erased FROM audit_logs WHERE erased IS NOT NULL ORDER BY id")
    pseudonym = first[0]
    assert pseudonym.startswith("erased:") and first[:6] == (pseudonym, pseudonym, [pseudonym], None, {}, ["city", "email", "id", "name"])
    assert second[:6] == (pseudonym, pseudonym, [pseudonym], {}, {}, ["city", "email", "id", "name"])
    assert second[6] | {"at": None} == {"at": None, "reason": "a test", "columns": ["city", "email", "id", "name"], "changed": ["city", "email"], "key": True}
    assert db.rows("SELECT table_name, columns, pseudonym, entries, reason, erased_by FROM audit_erasures") == [("people", None, pseudonym, 2, "a test", "postgres")]
    assert db.rows("SELECT operation, arguments, counts, reason FROM audit_operations") == [("audit_erase", {"table_name": "people"}, {"entries": 2, "rejects": 0}, "a test")]


def test_columns_alone(db):
    people(db)
    erase(db, "'people', '1', columns => '{email}'")
    assert where(db, SECRET + "1@") == where(db, "countess") == []
    told = db.rows("SELECT record_id, old_values, new_values, unknown_columns, erased -> 'columns', erased -> 'changed' FROM audit_logs WHERE record_id = '1' ORDER BY id")
    row = {"id": 1, "name": SECRET + "1", "city": "Turin"}
    assert told == [("1", None, row, ["email"], ["email"], []), ("1", {"city": "Rome"}, row, ["email"], ["email"], ["email"])]
    erase(db, "'people', '1', columns => '{name}'")
    assert where(db, SECRET + "1") == []
    assert db.rows("SELECT erased -> 'columns', erased -> 'changed' FROM audit_logs WHERE record_id = '1' ORDER BY id") == [(["email", "name"], []), (["email", "name"], ["email"])]
    assert [(line, old, new) for line, old, new in db.rows("SELECT action, old_row, new_row FROM audit_history('people', '1')")] == [
        ("insert", None, {"id": 1, "city": "Turin"}), ("update", {"id": 1, "city": "Rome"}, {"id": 1, "city": "Turin"})]


def test_what_comes_again_is_known_and_not_stored(db):
    messages = people(db)
    erase(db, "'people', '1'")
    assert db.ingest(batch(messages)) == (3, 0, 3, 0)
    assert where(db, SECRET + "1") == []
    assert db.rows("SELECT FROM audit_rejects") == []


def test_all_keys_of_a_record(db):
    db.rows("SELECT audit_describe_tables('d1', %s)", json.dumps({"described_at": "2026-01-01", "tables": [{
        "table_schema": "public", "table_name": "people", "replica_identity": "full", "key_columns": ["name"], "identity_columns": [],
        "column_types": {"name": "text", "city": "text"}, "never_sent": [], "null_in_reads": []}]}))

    def renamed(lsn, before, after):
        return change(lsn=lsn, action="update", pks=(after,), table="people", record={"name": after, "city": "Rome"}, changes={"name": before})
    db.ingest(batch([change(lsn=1, pks=(SECRET,), table="people", record={"name": SECRET, "city": "Rome"}),
                     change(lsn=2, pks=("mary",), table="people", record={"name": "mary", "city": "Rome"}),
                     renamed(3, SECRET, "countess"), renamed(4, "countess", "babbage")]))
    assert erase(db, "'people', 'countess', columns => '{name}'") == {
        ("entries", "public.people of d1"): 3, ("key", SECRET): 1, ("key", "countess"): 1, ("key", "babbage"): 1}
    assert where(db) == where(db, "countess") == where(db, "babbage") == []
    assert db.rows("SELECT count(*), count(DISTINCT record_id), array_agg(DISTINCT new_values) FROM audit_logs WHERE erased IS NOT NULL") == [(3, 1, [{"city": "Rome"}])]
    assert db.rows("SELECT record_id FROM audit_as_of_unknown('people')") == db.rows("SELECT DISTINCT record_id FROM audit_logs WHERE erased IS NOT NULL")
    assert {"name": "mary", "city": "Rome"} in [row for (row,) in db.rows("SELECT audit_as_of('people')")]


def test_whoever_has_held_a_value(db):
    """Each such record under a pseudonym of its own; of a table without a key the entries that held it."""
    people(db)
    db.ingest(batch([person(3, 1004) | {"record": {"id": 3, "name": SECRET + "1"}},
                     change(lsn=5, pks=(), table="people", record={"name": SECRET + "1", "age": 36}), change(lsn=6, pks=(), table="people", record={"name": "mary", "age": 27})]))
    assert erase(db, "'people', holding => %s, columns => '{name}'", json.dumps({"name": SECRET + "1"})) == {("entries", "public.people of d1"): 4}
    assert where(db, SECRET + "1\"") == [] and db.value("SELECT count(*) FROM audit_logs WHERE erased ? 'key'") == 0
    assert db.rows("SELECT new_values FROM audit_logs WHERE record_id IS NULL ORDER BY id") == [({"age": 36},), ({"name": "mary", "age": 27},)]
    erase(db, "'people', holding => '{\"city\": \"Turin\"}'")
    assert where(db) == []
    assert db.value("SELECT count(DISTINCT record_id) FROM audit_logs WHERE erased ? 'key'") == 2


def test_who_somebody_was(db):
    who = {"username": SECRET, "source": "web", "request_id": "r1", "metadata": {"from": SECRET + ".example"}}
    large = {**who, "metadata": {"long": (SECRET + " ") * 500}}
    db.ingest(batch([person(1, 1, annotations=who), person(2, 2, annotations=large), person(3, 3, annotations={"username": "mary", "metadata": {"a": 1}})]))
    assert erase(db, f"username => '{SECRET}'") == {("entries", "public.people of d1"): 2}
    assert db.rows("SELECT count(*) FROM audit_cdc_internal.large_annotations") == [(0,)]
    found = db.rows("SELECT annotations, username, source, request_id, metadata, new_values ->> 'id', erased ->> 'annotations' FROM audit_logs ORDER BY id")
    name = found[0][1]
    assert name.startswith("erased:") and {row[:5] for row in map(lambda row: (json.dumps(row[0], sort_keys=True), *row[1:]), found[:2])} == {
        (json.dumps({"username": name, "source": "web", "request_id": "r1"}, sort_keys=True), name, "web", "r1", None)}
    assert found[2] == ({"username": "mary", "metadata": {"a": 1}}, "mary", None, None, {"a": 1}, "3", None)
    assert [row[5:] for row in found[:2]] == [("1", "true"), ("2", "true")]
    assert db.rows("SELECT count(*) FROM audit_unannotated('2000-01-01')") == [(0,)]


def test_who_changed_the_tables(source):
    """Annotations of DDL too; but for one table alone they stay."""
    table(source)
    begin(source)
    with source.connect().cursor() as cursor:
        for statement in ("BEGIN", f"SELECT audit_annotate(username => '{SECRET}', metadata => '{{\"a\": 1}}')", "ALTER TABLE t ADD w int", "INSERT INTO t VALUES (1)", "COMMIT"):
            cursor.execute(statement)
    capture(source)
    assert where(source) == ["audit_cdc_internal.log_" + source.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')"), "audit_cdc_internal.schema_change_positions"]
    erase(source, f"'t', username => '{SECRET}'")
    assert where(source) == ["audit_cdc_internal.schema_change_positions"]
    erase(source, f"username => '{SECRET}'")
    assert where(source) == []
    assert source.value("SELECT username LIKE 'erased:%' FROM audit_logs WHERE action = 'insert'")


def test_a_hold_keeps_all_of_it(db):
    people(db)
    db.run("SELECT audit_hold('case 1', 'a lawsuit', table_name => 'people', until => '2027-01-01', record_id => '1')")
    before = db.rows("TABLE audit_logs")
    assert erase(db, "'people', '1', dry_run => true") == {("entries", "public.people of d1"): 2, ("held", "case 1"): 2}
    with pytest.raises(psycopg2.Error) as refused:
        erase(db, "'people', '1'")
    assert refused.value.pgcode == "55000" and "a legal hold keeps what is to be erased" in str(refused.value)
    assert db.rows("TABLE audit_logs") == before
    db.run("SELECT audit_release('case 1', 'settled')")
    erase(db, "'people', '1'")
    assert db.rows("SELECT record_id LIKE 'erased:%' FROM audit_holds") == [(True,)]
    assert db.rows("SELECT operation, arguments ->> 'record_id' LIKE 'erased:%' FROM audit_operations ORDER BY id") == [("audit_hold", True), ("audit_release", None), ("audit_erase", None)]


def test_keys_of_other_tables_stay(db):
    """The record of operations, and holds, name records of other tables by the same key."""
    people(db)
    db.run("SELECT audit_hold('case 2', 'x', table_name => 'orders', record_id => '1'), audit_release('case 2', 'y')")
    before = db.rows("SELECT * FROM audit_operations"), db.rows("SELECT * FROM audit_holds")
    erase(db, "'people', '1'")
    assert (db.rows("SELECT * FROM audit_operations WHERE operation <> 'audit_erase'"), db.rows("SELECT * FROM audit_holds")) == before


def test_a_dry_run_changes_nothing(db):
    people(db)
    before = db.rows("TABLE audit_logs"), db.rows("TABLE audit_cdc_internal.rejects")
    erase(db, "'people', '1', dry_run => true")
    erase(db, f"username => '{SECRET}', dry_run => true")
    assert (db.rows("TABLE audit_logs"), db.rows("TABLE audit_cdc_internal.rejects")) == before
    assert db.rows("SELECT * FROM audit_operations") == db.rows("SELECT * FROM audit_erasures") == []


def test_what_was_set_aside(db):
    """Of this table by key or text; of no table by text; what is others' stays."""
    people(db)
    bad = person(1, 2001)
    bad["metadata"]["commit_timestamp"] = "no time"
    other = person(7, 2002) | {"action": "dance"}
    body = f'{{"data": "{SECRET}1@example.com'
    db.ingest(batch([bad, other, {"id": 1}]))
    db.ingest(body)
    assert erase(db, "'people', '1'")["rejects"] == 2
    assert where(db, SECRET + "1") == []
    assert sorted(raw == "erased" for (raw,) in db.rows("SELECT raw FROM audit_rejects")) == [False, False, True, True]
    assert db.value("SELECT count(*) FROM audit_rejects WHERE erased_at IS NOT NULL") == 2
    db.rows("SELECT audit_retry_rejects()")
    assert db.rows("SELECT raw, retries FROM audit_rejects WHERE erased_at IS NOT NULL") == [("erased", 0)] * 2


def test_a_captured_record(source):
    table(source, columns="id int PRIMARY KEY, name text, n int")
    source.run("ALTER TABLE t REPLICA IDENTITY FULL")
    begin(source)
    source.run(f"INSERT INTO t SELECT i, '{SECRET}' || i, i FROM generate_series(1, 9) AS i; UPDATE t SET n = n + 1; UPDATE t SET id = 31 WHERE id = 1; DELETE FROM t WHERE id = 2")
    capture(source)
    rows = source.rows("SELECT t.* FROM audit_as_of(NULL::t) AS t WHERE id <> 31 ORDER BY 1")
    lines = source.rows("SELECT * FROM audit_history('t', '3')")
    source.run("DELETE FROM t WHERE id = 31")
    capture(source)
    told = source.value("SELECT format('public.t of %s', audit_cdc_internal.this_database() ->> 'id')")
    assert erase(source, "'t', '1'") == {("entries", told): 4, ("key", "1"): 2, ("key", "31"): 2}
    assert where(source, SECRET + "1") == []
    assert source.rows("SELECT t.* FROM audit_as_of(NULL::t) AS t ORDER BY 1") == rows
    assert source.rows("SELECT * FROM audit_history('t', '3')") == lines
    [pseudonym] = source.rows("SELECT DISTINCT record_id FROM audit_logs WHERE erased IS NOT NULL")[0]
    told = source.rows("SELECT action, old_row, new_row, unknown_columns FROM audit_history('t', %s)", pseudonym)
    assert [line[0] for line in told] == ["insert", "update", "update", "delete"]
    assert all(old in (None, {}) and new in (None, {}) for _, old, new, _ in told)
    assert "values of this table were erased" in said(source, "SELECT * FROM audit_as_of('t')")
    source.run("UPDATE t SET n = 0 WHERE id = 3")
    capture(source)
    assert source.rows("SELECT t.n FROM audit_as_of(NULL::t) AS t WHERE id = 3") == [(0,)]
    outcomes = source.rows("SELECT u.outcome FROM audit_logs AS l, audit_undo(change => l.id, preview => true) AS u WHERE l.erased IS NOT NULL ORDER BY l.id")
    assert outcomes == [("nothing is known of the row",)] * 4


KEYS = range(1, 9)
KINDS = {"full": "PRIMARY KEY (id)", "default": "PRIMARY KEY (id)", "composite": "PRIMARY KEY (id, part)"}


def happening(chance, kind):
    key = chance.choice(KEYS)
    changes = [f"INSERT INTO t SELECT {key}, 1, 'planted{key}x', 0 WHERE {key} NOT IN (SELECT id FROM t)", f"DELETE FROM t WHERE id = {key}", "UPDATE t SET n = n + 1 WHERE id % 2 = 0",
               f"UPDATE t SET doc = 'planted' || id % 20 || 'x' || n WHERE id = {key}"]
    if kind != "default":
        changes += [f"UPDATE t SET id = id + 20 WHERE id = {key} AND id + 20 NOT IN (SELECT id FROM t)", "UPDATE t SET id = id - 20 WHERE id > 20 AND id - 20 NOT IN (SELECT id FROM t)"]
    return chance.choice(changes)


@pytest.mark.once
@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_after_any_order_others_are_as_they_were(source, kind):
    """As-of at every commit and all histories of the records that were not erased; of those that were no text is left."""
    chance = random.Random(kind)
    source.run(f"CREATE TABLE t (id int, part int, doc text, n int, {KINDS[kind]})" + ("" if kind == "default" else "; ALTER TABLE t REPLICA IDENTITY FULL"))
    begin(source)
    connection = source.connect()
    connection.cursor().execute("INSERT INTO t SELECT i, 1, 'planted' || i || 'x', 0 FROM generate_series(1, 8) AS i")
    erased = []
    for _ in range(3):
        for _ in range(10):
            connection.cursor().execute("; ".join(["BEGIN", *(happening(chance, kind) for _ in range(chance.randint(1, 3))), "COMMIT"]))
        capture(source)
        if chance.random() < 0.5:
            source.run("CALL audit_backfill('t')")
        key = chance.choice([key for key in KEYS if key not in erased])
        erased.append(key)
        connection.cursor().execute(f"DELETE FROM t WHERE id % 20 = {key}")
        capture(source)
        commits = chance.sample([lsn for lsn, in source.rows("SELECT DISTINCT commit_lsn FROM audit_logs WHERE action <> 'complete' ORDER BY 1")], 8)
        names = [f"[\"{id_}\",\"1\"]" if kind == "composite" else str(id_) for other in KEYS if other not in erased for id_ in (other, other + 20)][:6]

        def told():
            as_of = "SELECT t.* FROM audit_as_of(NULL::t, lsn => '0/0'::pg_lsn + %s) AS t WHERE id %% 20 <> ALL (%s) ORDER BY 1, 2"
            return ([source.rows(as_of, lsn, erased) for lsn in commits], [source.rows("SELECT * FROM audit_history('t', %s)", name) for name in names])
        before = told()
        assert where(source, f"planted{key}x") != []
        for id_ in (key, key + 20):
            erase(source, "'t', %s", f"[\"{id_}\",\"1\"]" if kind == "composite" else str(id_))
        assert where(source, f"planted{key}x") == []
        assert told() == before
    assert source.value("SELECT sum(entries)::bigint FROM audit_erasures") == source.value("SELECT count(*) FROM audit_logs WHERE erased IS NOT NULL")
    assert source.value("SELECT sum((counts ->> 'entries')::int) FROM audit_operations WHERE operation = 'audit_erase'") == source.value("SELECT count(*) FROM audit_logs WHERE erased IS NOT NULL")


@pytest.mark.once
@pytest.mark.parametrize("seed", range(3))
def test_after_any_order_of_deliveries(db, seed):
    """Messages come again, before and after: each is known, and none brings a text back."""
    chance = random.Random(seed)
    messages = [change(lsn=n, pks=(str(n % 5),), table="people", record={"id": n % 5, "name": f"planted{n % 5}x"}, time=f"2026-0{1 + n % 9}-01T09:00:00.000000Z") for n in range(60)]
    erased, given = [], []
    for key in chance.sample(range(5), 3):
        some = chance.sample(messages, 40)
        some = [message for message in some if int(message["metadata"]["record_pks"][0]) not in erased or message in given]
        db.ingest(batch(some))
        given += some
        erase(db, "'people', %s", str(key))
        erased.append(key)
        again = chance.sample(given, 20)
        assert db.ingest(batch(again)) == (20, 0, 20, 0)
        assert [place for key in erased for place in where(db, f"planted{key}x")] == []
    unique = {json.dumps(message) for message in given}
    assert db.value("SELECT count(*) FROM audit_logs") == len(unique)
    assert db.rows("SELECT DISTINCT new_values ->> 'id', new_values ->> 'name' FROM audit_logs WHERE erased IS NULL ORDER BY 1") == sorted(
        {(str(record["id"]), record["name"]) for record in (json.loads(message)["record"] for message in unique) if record["id"] not in erased})


def test_a_crash_leaves_all_or_nothing(db):
    people(db)
    before = db.rows("TABLE audit_logs ORDER BY id")
    connection = db.connect()
    connection.cursor().execute("BEGIN; SELECT audit_erase('x', 'people', '1')")
    kill_postmaster()
    assert db.rows("TABLE audit_logs ORDER BY id") == before and db.rows("SELECT FROM audit_erasures") == []
    erase(db, "'people', '1'")
    kill_postmaster()
    assert where(db, SECRET + "1") == []


def test_beside_ingest_retention_and_another(db):
    """Each entry is there once, and has lost what it was to lose."""
    messages = [person(n % 10, 5000 + n, time=f"2026-0{1 + n % 9}-01T09:00:00.000000Z") for n in range(300)]
    db.ingest(batch([message for message in messages if message["metadata"]["record_pks"] == ["1"]]))
    old = [person(n % 10, 9000 + n, time=f"2015-0{1 + n % 9}-01T09:00:00.000000Z") for n in range(300)]
    db.ingest(batch(old))
    db.run("SELECT audit_set_retention('5 years')")

    def deliver():
        for first in range(0, 300, 10):
            db.ingest(batch(messages[first:first + 10]))
    in_threads([deliver, deliver, lambda: db.run("CALL audit_apply_retention()"), *[lambda: erase(db, "'people', '1'")] * 2])
    assert db.value("SELECT count(*) FROM audit_logs") == 300
    erase(db, "'people', '1'")
    assert where(db, SECRET + "1") == []
    assert db.value("SELECT count(*) FROM audit_logs WHERE erased ? 'key'") == 30


def test_neither_files_nor_statistics_hold_it(db):
    """After all was written anew."""
    people(db)
    db.run("ANALYZE")
    erase(db, "'people', '1'")
    db.run("VACUUM FULL")
    db.run("CHECKPOINT")
    folder = pathlib.Path(os.environ["AUDIT_DATA"]) / "base" / str(db.value("SELECT oid FROM pg_database WHERE datname = current_database()"))
    files = [file.read_bytes() for file in folder.iterdir() if file.is_file()]
    assert any((SECRET + "2").encode() in content for content in files)
    assert not any((SECRET + "1").encode() in content for content in files)


@pytest.mark.parametrize("arguments, expected", [
    ("NULL, 'people', '1'", "22004"), ("' ', 'people', '1'", "22023"), ("'x', 'people'", "22023"), ("'x', 'people', '1', username => 'a'", "22023"),
    ("'x', record_id => '1'", "22004"), ("'x', 'people', holding => '[]'", "22023"), ("'x', 'people', '1', columns => '{}'", "22023"),
    ("'x', username => 'a', columns => '{a}'", "22023"), ("'x', 'no_such', '1'", "42P01"), ("'x', 'people', '1', columns => '{a,NULL}'", "22023")])
def test_what_cannot_be_meant(db, arguments, expected):
    people(db)
    before = db.rows("TABLE audit_logs")
    assert code(db.connect(), f"SELECT audit_erase({arguments})") == expected
    assert db.rows("TABLE audit_logs") == before


def test_only_keepers(db):
    people(db)
    for role in ("audit_cdc_reader", "audit_cdc_admin", "audit_cdc_ingest"):
        connection = db.connect()
        connection.cursor().execute(f"SET ROLE {role}")
        assert code(connection, "SELECT audit_erase('x', 'people', '1')") == "42501"
    connection = db.connect()
    connection.cursor().execute("SET ROLE audit_cdc_keeper")
    assert erase(db, "'people', '1'", connection=connection) == {("entries", "public.people of d1"): 2}


def test_what_was_too_large_or_masked(db):
    """Notes tell of values: their sizes and digests go with them. Whoever delivers may say anything in notes."""
    noted = person(1, 1)
    noted["metadata"]["notes"] = {"omitted": {"photo": {"bytes": 5, "sha256": SECRET}}, "omitted_old": 7, "row_filter": "left"}
    db.ingest(batch([noted]))
    erase(db, "'people', '1', columns => '{photo}'")
    assert where(db, f'"sha256": "{SECRET}"') == []
    assert db.rows("SELECT notes, erased -> 'columns' FROM audit_logs") == [({"row_filter": "left"}, ["photo"])]


def test_what_a_message_says_of_values_elsewhere(db):
    lying = person(1, 1)
    lying["metadata"] |= {"exact_values": {"new": {"hidden": SECRET + "-exact"}}, "notes": {"free": SECRET + "-note"}}
    db.ingest(batch([lying]))
    assert len(where(db, SECRET + "-")) == 1
    erase(db, "'people', '1', columns => '{hidden}'")
    assert where(db, SECRET + "-") == []
    assert db.rows("SELECT erased -> 'columns' FROM audit_logs") == [(["hidden"],)]


def test_what_is_not_found_is_said(db):
    people(db)
    for arguments in ("'people', '77'", "'people', holding => '{\"nmae\": \"x\"}'", "username => 'nobody'", "'people', '1', columns => '{emial}'"):
        assert "the log holds nothing that is to be erased" in said(db, f"SELECT * FROM audit_erase('a test', {arguments})"), arguments
    before = db.rows("TABLE audit_logs")
    assert 'has a value of the column "city->part"' in said(db, "SELECT * FROM audit_erase('a test', 'people', '1', columns => '{name,city->part}', dry_run => true)")
    assert erase(db, "'people', '1', columns => '{emial}'") == {} and db.rows("SELECT FROM audit_erasures") == [] and db.rows("TABLE audit_logs") == before
    assert erase(db, "'people', '1', columns => '{email}'") == {("entries", "public.people of d1"): 2}
    # what is gone already does not count again
    assert erase(db, "'people', '1', columns => '{email}'") == {}


def test_a_hold_keeps_what_was_set_aside(db):
    bad = person(1, 2001)
    bad["metadata"]["commit_timestamp"] = "no time"
    people(db)
    db.ingest(batch([bad]))
    db.run("DELETE FROM audit_cdc_internal.holds")
    db.run("SELECT audit_hold('all', 'keep everything', since => '2030-01-01')")
    assert erase(db, "'people', '1', dry_run => true")["held", "all"] == 1
    assert code(db.connect(), "SELECT audit_erase('a test', 'people', '1')") == "55000"
    assert [SECRET in raw for (raw,) in db.rows("SELECT raw FROM audit_rejects")] == [True]
    db.run("SELECT audit_release('all', 'settled'); SELECT audit_hold('other', 'another', table_name => 'people', record_id => '2')")
    erase(db, "'people', '1'")
    assert db.rows("SELECT raw FROM audit_rejects") == [("erased",)]


def test_a_hold_keeps_who_changed_the_tables(source):
    table(source)
    begin(source)
    with source.connect().cursor() as cursor:
        for statement in ("BEGIN", f"SELECT audit_annotate(username => '{SECRET}')", "ALTER TABLE t ADD w int", "COMMIT"):
            cursor.execute(statement)
    capture(source)
    source.run("SELECT audit_hold('all', 'keep everything')")
    call = f"SELECT audit_erase('a test', username => '{SECRET}')"
    assert erase(source, f"username => '{SECRET}', dry_run => true") == {"schema changes": 1, ("held", "all"): 1}
    assert code(source.connect(), call) == "55000"
    source.run("SELECT audit_release('all', 'settled')")
    source.run(f"SELECT audit_hold('of the user', 'a case', username => '{SECRET}')")
    assert code(source.connect(), call) == "55000"
    source.run("SELECT audit_release('of the user', 'settled')")
    assert erase(source, f"username => '{SECRET}'") == {"schema changes": 1}
    # holds that were released and the record of operations named the user too
    assert where(source) == []
    assert source.value("SELECT counts FROM audit_operations WHERE operation = 'audit_erase'") == {"entries": 0, "rejects": 0, "schema_changes": 1}


def test_a_user_in_messages_that_were_set_aside(db):
    """They may still become entries, so they stay, and the answer says it."""
    bad = person(1, 2001, annotations={"username": SECRET})
    bad["metadata"]["commit_timestamp"] = "no time"
    db.ingest(batch([bad]))
    [(place, note)] = db.rows(f"SELECT place, note FROM audit_erase('a test', username => '{SECRET}')")
    assert place == "rejects" and "not erased" in note and "erased" not in db.value("SELECT raw FROM audit_rejects")


def test_numbers_and_quotes_in_statistics(db):
    record = {"id": 1, "ssn": 123456789, "name": 'A "Qxq\\ Lovelace'}
    db.ingest(batch([change(lsn=1, pks=("1",), table="people", record=record)] + [change(lsn=n, action="update", pks=("1",), table="people", record=record, changes={}) for n in range(2, 9)]))
    db.run("ANALYZE")
    noted = "SELECT count(*) FROM pg_stats WHERE schemaname = 'audit_cdc_internal' AND most_common_vals::text ~ %s"
    assert db.value(noted, "123456789") > 0 and db.value(noted, "Qxq") > 0
    erase(db, "'people', '1', columns => '{ssn,name}'")
    assert db.value(noted, "123456789") == db.value(noted, "Qxq") == 0


def test_a_reason_of_a_projection_quotes_no_value(db):
    db.run("CREATE TABLE numbers (log_id bigint PRIMARY KEY, n int)")
    db.run("SELECT audit_create_projection('numbers', $$SELECT id AS log_id, (new_values ->> 'name')::int AS n FROM audit_new_logs$$)")
    people(db)
    assert db.value(f"SELECT count(*) FROM audit_projection_failures WHERE reason LIKE '%{SECRET}1%'") == 2
    erase(db, "'people', '1', columns => '{name}'")
    assert where(db, SECRET + "1\"") == []


def test_a_column_of_all_records(db):
    people(db)
    assert code(db.connect(), "SELECT audit_erase('x', 'people', holding => '{}')") == "22023"
    assert erase(db, "'people', holding => '{}', columns => '{email,name}'") == {("entries", "public.people of d1"): 3}
    assert where(db) == where(db, "countess") == []
    assert db.rows("SELECT record_id, new_values FROM audit_logs ORDER BY id") == [(key, {"id": int(key), "city": "Turin"}) for key in "121"]


def test_nobody_says_that_something_was_erased(db):
    forged = person(1, 1)
    forged["metadata"]["notes"] = {"erased": {"key": True}}
    assert db.ingest(batch([forged])) == (1, 0, 0, 1)
    assert db.rows("SELECT sqlstate, reason FROM audit_rejects") == [("22023", '"notes" must not have "erased"')]
