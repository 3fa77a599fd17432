"""audit_mask: values that are never stored. Each path plants strings, and then the whole log is searched for them."""

import json
import os
import pathlib

import psycopg2
import pytest
from capture_helpers import capture, paused, source  # noqa: F401
from conftest import batch, change, until
from test_capture import code

PLANTED = "plantedsecret"
HOWS = ["omit", "hash", "partial"]
NO_MEMBER = '{"data": [{"action": "insert", "record": {"email": "plantedsecret@a"}, "changes": null}]}'


def mask(db, columns, how="omit", table="orders", **options):
    named = "".join(f", {name} => '{value}'" for name, value in options.items())
    db.run(f"SELECT audit_mask('public', %s, %s, %s{named})", table, columns, how)


def unmask(db, table="orders"):
    return db.value("SELECT audit_unmask('public', %s)", table)


def update(idx=0, **metadata):
    return change(idx, action="update", record={"id": 1, "email": f"{PLANTED}@new", "qty": 2, "doc": {"pin": f"{PLANTED}1", "a": 2}},
                  changes={"email": f"{PLANTED}@old", "qty": 1, "doc": {"pin": f"{PLANTED}0", "a": 1}}, **metadata)


def read(key="backfill", **record):
    return change(action="read", key=key, record={"id": 1, "email": f"{PLANTED}@read", **record})


def found_in_tables(db, planted=PLANTED):
    """Tables of the extension with a row that shows it."""
    tables = [name for (name,) in db.rows("""SELECT c.oid::regclass::text FROM pg_class AS c
        WHERE c.relnamespace = 'audit_cdc_internal'::regnamespace AND c.relkind = 'r'""")]
    assert len(tables) > 20
    return [name for name in tables if db.value(f"SELECT EXISTS (SELECT FROM {name} AS t WHERE t::text LIKE %s)", f"%{planted}%")]


def found_in_files(db, planted=PLANTED):
    """Files of the extension's tables, their indexes and TOAST, and of the catalogs, with these bytes."""
    db.run("VACUUM")
    db.run("CHECKPOINT")
    files = [file for (file,) in db.rows("""SELECT pg_relation_filepath(c.oid) FROM pg_class AS c WHERE pg_relation_filepath(c.oid) IS NOT NULL
        AND (c.relnamespace IN ('audit_cdc_internal'::regnamespace, 'pg_catalog'::regnamespace)
             OR c.oid IN (SELECT reltoastrelid FROM pg_class WHERE relnamespace = 'audit_cdc_internal'::regnamespace))""")]
    data = pathlib.Path(os.environ["AUDIT_DATA"])
    return [file for file in files if (data / file).exists() and planted.encode() in (data / file).read_bytes()]


def nowhere(db, planted=PLANTED):
    assert found_in_tables(db, planted) == [] == found_in_files(db, planted)


def notes(db):
    return [value["masked"] for (value,) in db.rows("SELECT notes FROM audit_logs WHERE notes ? 'masked' ORDER BY id")]


def test_without_a_mask_the_search_finds_it(db):
    db.ingest(batch([update()]))
    db.ingest(NO_MEMBER)
    assert len(found_in_tables(db)) == 2 and found_in_files(db)


@pytest.mark.parametrize("how", HOWS)
def test_what_is_delivered_is_masked_in_every_place(db, how):
    mask(db, ["email", "doc->pin"], how)
    texts = {"new": {"email": f"{PLANTED}e", "doc": f"{PLANTED}d", "qty": "2"}, "old": {"email": PLANTED}}
    omitted = {"omitted": {"email": {"bytes": 3, "sha256": PLANTED}}}
    deleted = change(2, action="delete", record={"id": 1, "email": f"{PLANTED}@gone", "doc": [{"pin": PLANTED}]})
    db.ingest(batch([update(exact_values=texts, notes=omitted), change(1, record={"id": 2, "email": PLANTED}), deleted, read()]))
    for body in ("audit_ingest(%s::jsonb)", "audit_ingest(ARRAY[%s])"):
        db.run(f"SELECT {body}", batch([update(9, time="2026-03-02T09:00:00Z", key=body)]))
    assert db.value("SELECT count(*) FROM audit_logs") == 6
    nowhere(db)
    # of others everything is there
    ((before, texts),) = db.rows("SELECT old_values, exact_values FROM audit_logs WHERE commit_idx = 0 AND action = 'update'")
    pin = before["doc"].pop("pin", None)
    assert (before, texts) == ({"qty": 1, "doc": {"a": 1}}, {"new": {"qty": "2"}})
    assert pin is None if how == "omit" else pin.startswith("hmac-sha256:" if how == "hash" else "***")
    assert all(note["email"]["how"] == how for note in notes(db))


def test_hashes_are_keyed_and_compare(db):
    mask(db, ["email"], "hash")
    for idx, value in enumerate(["a@b", "a@b", "c@d", None]):
        db.ingest(batch([change(idx, record={"id": 1, "email": value})]))
    one, two, three, four = [note["email"]["new"] for note in notes(db)]
    assert one == two != three and four is None
    secret = bytes.fromhex((pathlib.Path(os.environ["AUDIT_DATA"]) / "audit_cdc_mask_secret").read_text())
    import hashlib
    import hmac
    assert one == "hmac-sha256:" + hmac.new(secret, b"value:a@b", hashlib.sha256).hexdigest()


def test_the_end_of_a_long_value_is_kept(db):
    mask(db, ["card"], "partial")
    db.ingest(batch([change(0, record={"id": 1, "card": "4111111111111111"}), change(1, record={"id": 1, "card": "41111111"})]))
    assert [note["card"]["new"] for note in notes(db)] == ["***1111", "***"]


REFUSED = {
    "another lsn": update() | {"metadata": update()["metadata"] | {"commit_lsn": "x"}},
    "no record": update() | {"record": [f"{PLANTED}"]},
    "unknown action": update() | {"action": "upsert"},
    "more members": update() | {"action": "upsert", "old": {"email": PLANTED}, "note": PLANTED},
    "a key that is none": update() | {"metadata": update()["metadata"] | {"record_pks": {"email": PLANTED}}},
    "texts that are none": update(exact_values=PLANTED),
    "wrapped": {"ack_id": "1", "data": update() | {"action": "upsert"}},
    "twice": json.dumps(update())[:-1] + f', "record": {{"email": "{PLANTED}"}}}}',
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_masked(db, what):
    mask(db, ["email", "doc->pin"], "hash")
    assert db.ingest(batch([REFUSED[what]]))[3] == 1
    assert db.rows("SELECT table_name FROM audit_rejects") == [("orders",)]
    nowhere(db)
    # and once more
    db.run("SELECT audit_retry_rejects()")
    db.ingest(batch([REFUSED[what]]))
    assert db.value("SELECT deliveries FROM audit_rejects") == 2
    nowhere(db)


@pytest.mark.parametrize("body", ["no json plantedsecret", '{"data": [{"record": "plantedsecret"', NO_MEMBER, '["plantedsecret"]'])
def test_what_cannot_be_read_is_not_kept(db, body):
    mask(db, ["email"])
    assert db.ingest(body) == db.ingest(body) == (1, 0, 0, 1)
    assert db.rows("SELECT deliveries, hint FROM audit_rejects") == [(2, "Its text was not kept: masks are set, and its table could not be read.")]
    db.run("SELECT audit_retry_rejects()")
    nowhere(db)
    # a mask of what is captured here is of nothing that is delivered
    unmask(db)
    here = db.value("SELECT audit_cdc_internal.this_database() ->> 'id'")
    mask(db, ["email"], database_id=here)
    db.ingest(body)
    assert found_in_tables(db)


def test_a_source_that_is_refused(db):
    mask(db, ["email", "doc->pin"])
    db.run("SELECT audit_allow_source('postgres', 'd9')")
    assert db.ingest(batch([update(), read()]))[3] == 2
    assert db.rows("SELECT DISTINCT sqlstate FROM audit_rejects") == [("42501",)]
    nowhere(db)


def test_what_was_refused_is_stored_with_its_mask(db):
    """Also where it was masked already: hashes stay what they are."""
    mask(db, ["email", "doc->pin"], "hash")
    connection = db.connect(options="-c audit_cdc.max_new_tables=0")
    assert db.ingest(batch([update()]), connection)[3] == 1
    db.run("SELECT audit_retry_rejects()")
    db.ingest(batch([update(1)]))
    one, two = db.rows("SELECT old_values, notes FROM audit_logs ORDER BY commit_idx")
    assert one == two
    assert db.value("SELECT count(*) FROM audit_rejects WHERE stored_at IS NULL") == 0
    nowhere(db)


def test_a_change_comes_again_before_and_after(db):
    """Whatever masks are set meanwhile, it is in the log once."""
    messages = [update(), read(), read("other", qty=1)]
    for work in (lambda: None, lambda: mask(db, ["email"], "hash"), lambda: mask(db, ["email"], "omit"), lambda: unmask(db), lambda: mask(db, ["qty"])):
        work()
        db.ingest(batch(messages))
        assert db.value("SELECT count(*) FROM audit_logs") == 3
    messages = [update(5), read("later")]
    for work in (lambda: None, lambda: unmask(db), lambda: mask(db, ["id"])):
        work()
        db.ingest(batch(messages))
        assert db.value("SELECT count(*) FROM audit_logs") == 5


def test_no_digest_of_a_masked_read_can_be_tried(db):
    """The identity of a read is also of its row: whoever sees it must not try values against it."""
    ours = "SELECT string_agg(identity::text, ',') FROM audit_cdc_internal.log"
    transaction = db.connect()
    transaction.autocommit = False
    db.ingest(batch([read()]), transaction)
    plain = db.value(ours, connection=transaction)
    transaction.rollback()
    mask(db, ["email"])
    db.ingest(batch([read()]))
    assert db.value(ours) != plain


def test_values_of_a_key_that_nobody_has_described(db):
    mask(db, ["email"])
    db.ingest(batch([change(record={"email": PLANTED, "qty": 1}, pks=[PLANTED]), change(action="read", key=PLANTED, record={"email": PLANTED, "qty": 1}, pks=[PLANTED])]))
    assert db.value("SELECT count(DISTINCT record_id) FROM audit_logs") == 1
    nowhere(db)


def test_a_primary_key_is_not_masked(db):
    db.run("CREATE TABLE orders (id int, region text, email text, PRIMARY KEY (id, region))")
    assert code(db, "SELECT audit_mask('public', 'orders', '{email,region}')") == "0A000"
    assert db.rows("SELECT FROM audit_masks") == []


@pytest.mark.parametrize("arguments, sqlstate", [
    ("NULL, 't', '{a}'", "22004"), ("'s', NULL, '{a}'", "22004"), ("'s', 't', NULL", "22004"), ("'s', 't', '{a,NULL}'", "22004"),
    ("'s', 't', '{a}', NULL", "22004"), ("'s', 't', '{}'", "22023"), ("'s', 't', '{a}', 'drop'", "22023"), ("'s', 't', '{a->}'", "22023"),
    ("'s', 't', '{\"\"}'", "22023"), ("'s', 't', ARRAY[repeat('a', 501)]", "22023")])
def test_what_no_mask_can_be(db, arguments, sqlstate):
    assert code(db, f"SELECT audit_mask({arguments})") == sqlstate
    assert db.rows("SELECT FROM audit_masks") == [] == db.rows("SELECT FROM audit_operations")


def test_masks_are_on_record(db):
    mask(db, ["email"], "hash", reason="law")
    mask(db, ["email"], "omit")
    assert db.value("SELECT audit_unmask('public', 'orders', '{email}', reason => 'consent')") and not unmask(db)
    assert db.rows("SELECT masked, how, reason, unmasked_reason FROM audit_masks ORDER BY masked_at") == [
        ("email", "hash", "law", None), ("email", "omit", None, "consent")]
    assert db.rows("SELECT operation, arguments ->> 'how', reason FROM audit_operations ORDER BY id") == [
        ("audit_mask", "hash", "law"), ("audit_mask", "omit", None), ("audit_unmask", None, "consent")]


def test_an_ingest_that_is_open_is_waited_for(db):
    """What was stored before is unmasked; nothing is, once audit_mask has returned."""
    storing, fixed = db.connect(), db.connect()
    storing.autocommit = fixed.autocommit = False
    fixed.set_session(isolation_level="REPEATABLE READ")
    db.ingest(batch([update()]), storing)
    db.rows("SELECT 1", connection=fixed)
    with pytest.raises(psycopg2.errors.LockNotAvailable):
        db.rows("SELECT audit_mask('public', 'orders', '{email}')", connection=db.connect(options="-c lock_timeout=100"))
    storing.commit()
    mask(db, ["email"])
    with pytest.raises(psycopg2.errors.SerializationFailure):
        db.ingest(batch([update(1)]), fixed)
    fixed.rollback()
    db.ingest(batch([update(1)]), fixed)
    fixed.commit()
    assert db.rows("SELECT commit_idx, new_values ? 'email' FROM audit_logs ORDER BY 1") == [(0, True), (1, False)]


TABLE = "CREATE TABLE people (id int PRIMARY KEY, email text, qty int, doc jsonb, raw json); ALTER TABLE people REPLICA IDENTITY FULL"
ROW = """(1, 'plantedsecret@one', 1, '{"pin": "plantedsecret1", "a": 1}', '{"pin" : "plantedsecret2"}')"""


def write_people(db):
    db.run(f"INSERT INTO people VALUES {ROW}")
    db.run("UPDATE people SET email = 'plantedsecret@two', qty = 2")
    db.run("""UPDATE people SET doc = '{"pin": "plantedsecret3", "a": 2}', qty = 3""")
    db.run("UPDATE people SET qty = 4")
    db.run("DELETE FROM people")
    db.run(f"INSERT INTO people VALUES {ROW}")


def people(db, columns="email,doc->pin,raw->pin", how="omit", **options):
    mask(db, columns.split(","), how, table="people", **options)


@pytest.mark.parametrize("how", HOWS)
def test_what_is_captured_and_backfilled_is_masked(paused, how):
    """Also what was committed before the mask, and is decoded after it."""
    paused.run(TABLE)
    write_people(paused)
    people(paused, how=how)
    capture(paused)
    paused.run("CALL audit_backfill('people')")
    capture(paused)
    assert paused.value("SELECT count(*) FROM audit_logs WHERE table_name = 'people'") == 8
    nowhere(paused)
    assert paused.rows("SELECT old_values, unknown_columns, unknown_old_columns FROM audit_logs WHERE action = 'update' AND new_values -> 'qty' = '2'") == [
        ({"qty": 1}, ["doc", "email", "raw"], ["doc", "email", "raw"])]
    changed = "SELECT notes -> 'masked' -> 'email' -> 'changed' FROM audit_logs WHERE action = 'update' ORDER BY commit_lsn"
    assert paused.rows(changed) == [(True,), (None,), (None,)]


def test_values_too_large_to_carry(paused):
    paused.run("CREATE TABLE people (id int PRIMARY KEY, email text)")
    people(paused, "email", "hash")
    paused.run("INSERT INTO people SELECT 1, string_agg(md5(n::text), '') || 'plantedsecret' FROM generate_series(1, 1000000) AS n")
    capture(paused)
    assert paused.value("SELECT count(*) FROM audit_logs WHERE table_name = 'people' AND NOT new_values ? 'email'") == 1
    nowhere(paused)


def test_reading_says_unknown_and_undo_writes_no_mask(paused):
    paused.run(TABLE)
    people(paused, how="hash")
    write_people(paused)
    capture(paused)
    history = paused.rows("SELECT action, old_row, new_row, unknown_old_columns, unknown_columns FROM audit_history('people', '1') ORDER BY commit_lsn")
    assert len(history) == 6 and "hmac" not in str([rows[:3] for rows in history])
    assert all("email" in unknown for *_, unknown in history if unknown)
    assert "email" in paused.value("SELECT unknown_columns FROM audit_as_of_unknown('people', now())")
    updated = paused.value("SELECT id FROM audit_logs WHERE action = 'update' AND new_values -> 'qty' = '2'")
    plan = paused.rows("SELECT * FROM audit_undo_sql(%s)", updated)
    assert "masked" in str(plan) and "hmac" not in str(plan)


def test_a_mask_follows_what_gets_another_name(paused):
    paused.run(TABLE)
    people(paused)
    paused.run("ALTER TABLE people RENAME TO persons; ALTER TABLE persons RENAME email TO mail")
    paused.run(f"INSERT INTO persons VALUES {ROW}")
    paused.run("CREATE SCHEMA elsewhere; ALTER TABLE persons SET SCHEMA elsewhere")
    paused.run(f"DELETE FROM elsewhere.persons; INSERT INTO elsewhere.persons VALUES {ROW}")
    capture(paused)
    assert paused.value("SELECT count(*) FROM audit_logs WHERE table_name = 'persons'") == 3
    nowhere(paused)


def test_partitions_are_masked_with_their_table(paused):
    paused.run("CREATE TABLE people (id int PRIMARY KEY, email text) PARTITION BY RANGE (id); CREATE TABLE one PARTITION OF people FOR VALUES FROM (0) TO (9)")
    people(paused, "email")
    paused.run("CREATE TABLE two PARTITION OF people FOR VALUES FROM (9) TO (99); CREATE TABLE three (id int PRIMARY KEY, email text)")
    paused.run("ALTER TABLE people ATTACH PARTITION three FOR VALUES FROM (99) TO (999)")
    paused.run("INSERT INTO people SELECT n, 'plantedsecret' FROM generate_series(1, 101, 10) AS n")
    capture(paused)
    assert paused.value("SELECT count(*) FROM audit_logs") == 11
    nowhere(paused)


def test_no_text_of_a_command_is_kept(paused):
    paused.run(TABLE)
    people(paused)
    paused.run("ALTER TABLE people ADD COLUMN more text; UPDATE people SET email = 'plantedsecret'")
    paused.run("ALTER TABLE people ALTER qty TYPE bigint USING length('plantedsecret')")
    capture(paused)
    assert paused.rows("SELECT statement IS NULL FROM audit_schema_changes WHERE command_tag = 'ALTER TABLE' ORDER BY id") == [(False,), (True,), (True,)]
    nowhere(paused)


def test_without_its_secret_nothing_is_stored(db):
    mask(db, ["email", "doc->pin"], "hash")
    file = pathlib.Path(os.environ["AUDIT_DATA"]) / "audit_cdc_mask_secret"
    secret = file.read_text()
    file.unlink()
    try:
        assert code(db, f"SELECT audit_ingest('{batch([update()])}')") == "58030"
        assert db.rows("SELECT FROM audit_logs") == []
    finally:
        file.write_text(secret)
    db.ingest(batch([update()]))
    nowhere(db)
