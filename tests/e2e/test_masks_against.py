"""Masks against who wants a value in the log all the same: by names, texts that look like masks, and timing."""

import json
import threading

import pytest
from capture_helpers import capture, paused, source  # noqa: F401
from conftest import batch, change, until
from test_capture import code
from test_continue import go_on, moved  # noqa: F401
from test_masking import PLANTED, mask, notes, nowhere, found_in_tables
from test_retention import said

HERE = "SELECT audit_cdc_internal.this_database() ->> 'id'"


def full(db, table, columns):
    db.run(f"CREATE TABLE {table} ({columns}); ALTER TABLE {table} REPLICA IDENTITY FULL")


def test_a_name_with_an_arrow(paused):
    full(paused, "odd", 'id int PRIMARY KEY, "a->b" text, a jsonb, mail text')
    mask(paused, ["a->b", "mail"], table="odd")
    paused.run("""INSERT INTO odd VALUES (1, %s, '{"b": 7}', %s)""", PLANTED, PLANTED)
    capture(paused)
    paused.run('ALTER TABLE odd RENAME mail TO "mail->x"')
    paused.run("UPDATE odd SET \"mail->x\" = %s || '2'", PLANTED)
    capture(paused)
    nowhere(paused)
    assert paused.rows("SELECT new_values ->> 'a' FROM audit_logs ORDER BY id LIMIT 1") == [('{"b": 7}',)]


def test_a_name_with_an_arrow_that_nobody_has_described(db):
    mask(db, ["a->b"])
    db.ingest(batch([change(0, record={"id": 1, "a->b": PLANTED, "a": {"b": PLANTED, "c": 1}})]))
    nowhere(db)
    assert db.rows("SELECT new_values -> 'a' FROM audit_logs") == [({"c": 1},)]


def test_members_of_what_is_no_json(paused):
    paused.run("CREATE TYPE addr AS (street text, zip text); CREATE TYPE boxed AS (j jsonb)")
    full(paused, "m", "id int PRIMARY KEY, a addr, aa addr[], jc boxed, t text")
    told = said(paused, "SELECT audit_mask('public', 'm', '{a->zip,aa->zip,jc->j->pin,t->pin}')")
    assert 'nothing is kept of texts in "a", "aa", "jc", "t"' in told
    paused.run("""INSERT INTO m VALUES (1, ROW('main', %s), ARRAY[ROW('st', %s)::addr], ROW(jsonb_build_object('pin', %s::text))::boxed, %s)""", *[PLANTED] * 4)
    capture(paused)
    nowhere(paused)


def test_a_mask_that_a_writer_has_made_up(db):
    """Nobody can give a row the mask of another's value."""
    mask(db, ["email"], "hash")
    mask(db, ["card"], "partial")
    db.ingest(batch([change(0, record={"id": 1, "email": "a@b"})]))
    [true] = notes(db)
    db.ingest(batch([change(1, record={"id": 2, "email": true["email"]["new"], "card": "***1111"})]))
    _, made_up = notes(db)
    assert made_up["email"]["new"] != true["email"]["new"] and made_up["card"]["new"] == "***"


def set_aside(db, *messages):
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.max_new_months = 0")
    return db.ingest(batch(messages), connection)[3]


def test_what_was_set_aside_keeps_its_masks(db):
    mask(db, ["email"], "hash")
    late = change(0, record={"id": 1, "email": "a@b"}, time="2001-01-01T00:00:00Z")
    assert set_aside(db, late) == 1
    db.rows("SELECT audit_retry_rejects()")
    db.ingest(batch([change(1, record={"id": 2, "email": "a@b"})]))
    one, two = notes(db)
    assert one["email"]["new"] == two["email"]["new"]


def test_a_relay_says_nothing_of_masks(db):
    lying = change(0, record={"id": 1}, notes={"masked": {"email": {"how": "omit", "new": PLANTED}}})
    mask(db, ["email"])
    assert db.ingest(batch([lying])) == (1, 0, 0, 1)
    assert db.value("SELECT reason FROM audit_rejects") == '"notes" must not have "masked"'
    nowhere(db)


def test_the_mask_that_keeps_less_wins(paused):
    for table, how in (("a", "omit"), ("b", "partial")):
        full(paused, table, "id int PRIMARY KEY, card text")
        mask(paused, ["card"], how, table)
    paused.run("ALTER TABLE b RENAME TO b_old; ALTER TABLE a RENAME TO b")
    paused.run(f"INSERT INTO b VALUES (1, '411111111111{PLANTED}')")
    capture(paused)
    assert notes(paused) == [{"card": {"how": "omit"}}]


def test_a_mask_waits_for_ddl_that_is_under_way(paused):
    full(paused, "u", "id int PRIMARY KEY, email text")
    ddl = paused.connect()
    ddl.cursor().execute("BEGIN; ALTER TABLE u RENAME TO u9; ALTER TABLE u9 RENAME email TO mail")
    told = []
    masking = threading.Thread(target=lambda: told.append(said(paused, "SELECT audit_mask('public', 'u', '{email}')")))
    masking.start()
    until(lambda: paused.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT audit_mask%%' AND wait_event_type = 'Lock'") == 1)
    ddl.cursor().execute("COMMIT")
    masking.join()
    assert "nobody has described such a table" in told[0]


def test_members_of_described_columns(db):
    table = {"table_schema": "public", "table_name": "orders", "replica_identity": "full", "key_columns": ["id"], "identity_columns": ["id"],
             "column_types": {"id": "integer", "doc": "jsonb", "t": "text"}, "never_sent": [], "null_in_reads": []}
    db.run("SELECT audit_describe_tables('d1', %s)", json.dumps({"described_at": "2026-01-01T00:00:00Z", "tables": [table]}))
    assert 'nothing is kept of texts in "t"' in said(db, "SELECT audit_mask('public', 'orders', '{doc->pin,t->pin}')")


def test_keys_that_are_spelled_otherwise(paused):
    """What the key holds is known, however it is written."""
    for name, kind, value in (("k1", "timestamptz", "'1815-12-10 11:12:13+00'"), ("k2", "boolean", "true"), ("k3", "interval", "'1 day 2 hours'")):
        full(paused, name, f"k {kind}, v int")
        mask(paused, ["k"], "hash", name)
        paused.run(f"ALTER TABLE {name} ADD PRIMARY KEY (k); INSERT INTO {name} VALUES ({value}, 1)")
    capture(paused)
    keys = [key for (key,) in paused.rows("SELECT record_id FROM audit_logs WHERE table_name LIKE 'k_'")]
    assert len(keys) == 3 and all(key.startswith("hmac-sha256:") for key in keys)


LOST = "masks name what is not in this database"


def test_names_that_nobody_has(source):
    mask(source, ["email"], table="t")
    source.run("CREATE TABLE u (id int); CREATE PUBLICATION audited FOR TABLE u")
    assert LOST in (told := said(source, "SELECT audit_capture_start('audited')")) and "public.t email" in told


def test_a_mask_follows_while_nothing_is_captured(source):
    mask(source, ["email"], table="t")
    full(source, "t", "id int PRIMARY KEY, email text")
    source.run("ALTER TABLE t RENAME TO t2; CREATE SCHEMA s; ALTER TABLE t2 SET SCHEMA s; ALTER TABLE s.t2 RENAME email TO mail")
    source.run("CREATE PUBLICATION audited FOR TABLE s.t2")
    assert LOST not in said(source, "SELECT audit_capture_start('audited')")
    source.run("INSERT INTO s.t2 VALUES (1, %s)", PLANTED)
    capture(source)
    nowhere(source)
    assert source.value("SELECT count(*) FROM audit_logs") == 1


def test_a_mask_that_is_ended_does_not_come_back(paused):
    full(paused, "u", "id int PRIMARY KEY, email text")
    mask(paused, ["email"], table="u")
    paused.run("ALTER TABLE u RENAME TO u2; SELECT audit_unmask('public', 'u2'); ALTER TABLE u2 ADD COLUMN v int; ALTER TABLE u2 RENAME TO u3")
    paused.run("INSERT INTO u3 VALUES (1, 'a')")
    capture(paused)
    assert paused.rows("SELECT new_values ->> 'email' FROM audit_logs") == [("a",)]
    # another table gets the name for which the mask is still set
    full(paused, "u", "id int PRIMARY KEY, email text")
    paused.run("ALTER TABLE u RENAME TO u4")
    paused.run("INSERT INTO u4 VALUES (1, %s)", PLANTED)
    capture(paused)
    nowhere(paused)


def test_what_is_attached_brings_its_masks(paused):
    paused.run("CREATE TABLE whole (id int PRIMARY KEY, email text) PARTITION BY RANGE (id); CREATE TABLE one PARTITION OF whole FOR VALUES FROM (0) TO (9)")
    paused.run("CREATE TABLE two (email text, id int PRIMARY KEY)")
    mask(paused, ["email"], table="two")
    paused.run("ALTER TABLE whole ATTACH PARTITION two FOR VALUES FROM (9) TO (99)")
    paused.run("INSERT INTO whole SELECT n, %s FROM generate_series(1, 11, 10) AS n", PLANTED)
    capture(paused)
    assert paused.value("SELECT count(*) FROM audit_logs") == 2
    nowhere(paused)


def test_what_is_pending_under_former_names(paused):
    """It was committed before the mask, and before another name of the table or of the column."""
    for table in ("a", "b"):
        full(paused, table, "id int PRIMARY KEY, email text, doc jsonb")
        paused.run(f"INSERT INTO {table} VALUES (1, %s, jsonb_build_object('pin', %s::text))", PLANTED, PLANTED)
    paused.run("ALTER TABLE a RENAME TO a2; ALTER TABLE b RENAME email TO mail; ALTER TABLE b RENAME doc TO papers")
    paused.run("UPDATE b SET mail = %s || '2'", PLANTED)
    paused.run("ALTER TABLE b RENAME TO b2")
    mask(paused, ["email", "doc->pin"], table="a2")
    mask(paused, ["mail", "papers->pin"], table="b2")
    capture(paused)
    assert paused.value("SELECT count(*) FROM audit_logs") == 3
    nowhere(paused)


PARTS = "CREATE TABLE whole (id int, email text) PARTITION BY RANGE (id); CREATE TABLE one PARTITION OF whole FOR VALUES FROM (0) TO (9); CREATE TABLE two PARTITION OF whole FOR VALUES FROM (9) TO (99)"


def test_masks_lock_no_partition(db):
    db.run(PARTS)
    mask(db, ["email"], table="whole")
    holder = db.connect()
    holder.cursor().execute("BEGIN; LOCK TABLE one")
    db.run("SET lock_timeout = '5s'; CREATE TEMP TABLE another (id int); ALTER TABLE two ALTER email SET DEFAULT 'x'")
    holder.cursor().execute("ALTER TABLE one ALTER email SET DEFAULT 'x'; COMMIT")


def test_names_given_at_the_same_time(paused):
    paused.run("CREATE SCHEMA s")
    full(paused, "s.t", "id int PRIMARY KEY, email text")
    paused.run("SELECT audit_mask('s', 't', '{email}')")
    one = paused.connect()
    one.cursor().execute("BEGIN; ALTER SCHEMA s RENAME TO s2")
    other = threading.Thread(target=lambda: paused.run("ALTER TABLE s.t RENAME email TO mail"))
    other.start()
    until(lambda: paused.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE s.t%%' AND wait_event_type = 'Lock'") == 1)
    one.cursor().execute("COMMIT")
    other.join()
    paused.run("INSERT INTO s2.t VALUES (1, %s)", PLANTED)
    capture(paused)
    nowhere(paused)


def test_a_mask_does_not_come_back_with_a_partition(db):
    db.run(PARTS)
    mask(db, ["email"], table="whole")
    db.run("DROP TABLE one; SELECT audit_unmask('public', 'whole')")
    db.run("CREATE TABLE one PARTITION OF whole FOR VALUES FROM (0) TO (9); CREATE TEMP TABLE another (id int)")
    assert db.rows("SELECT * FROM audit_masks WHERE unmasked_at IS NULL") == []
    mask(db, ["email"], table="whole")
    db.run("DROP TABLE one")
    mask(db, ["email"], "hash", table="whole")
    db.run("CREATE TABLE one PARTITION OF whole FOR VALUES FROM (0) TO (9); CREATE TEMP TABLE another (id int)")
    assert db.rows("SELECT DISTINCT how FROM audit_masks WHERE unmasked_at IS NULL") == [("hash",)]


def test_a_key_of_its_moment(paused):
    """The key is another by the time of the capture; or it holds a masked member."""
    full(paused, "k", "id int, email text NOT NULL, login text")
    full(paused, "m", "doc jsonb NOT NULL, v int")
    mask(paused, ["email"], table="k")
    mask(paused, ["doc->pin"], table="m")
    paused.run("ALTER TABLE k ADD PRIMARY KEY (email); INSERT INTO k VALUES (1, %s, 'other')", PLANTED)
    paused.run("ALTER TABLE k DROP CONSTRAINT k_pkey, ADD PRIMARY KEY (id)")
    paused.run("""ALTER TABLE m ADD PRIMARY KEY (doc); INSERT INTO m VALUES ('{"pin": "plantedsecret", "x": 1}', 1)""")
    capture(paused)
    assert paused.value("SELECT count(*) FROM audit_logs WHERE record_id LIKE 'hmac-sha256:%%'") == 2
    assert found_in_tables(paused) == []  # the index of m in the files is PostgreSQL's own


def test_a_copy_tells_of_masks_that_it_lost(source, moved):
    full(source, "t", "id int PRIMARY KEY, email text")
    mask(source, ["email"], table="t", database_id=source.value(HERE))
    source.run("CREATE PUBLICATION audited FOR TABLE t")
    assert LOST in said(moved(source), "SELECT audit_capture_start('audited')")


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot(paused, isolation):
    """A transaction does not see the mask, and gives the table another name."""
    full(paused, "u", "id int PRIMARY KEY, email text")
    old = paused.connect()
    old.cursor().execute(f"BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM audit_masks")
    assert code(paused, f"BEGIN ISOLATION LEVEL {isolation}; SELECT audit_mask('public', 'u', '{{email}}')") == "25001"
    mask(paused, ["email"], table="u")
    old.cursor().execute("ALTER TABLE u RENAME TO u2; ALTER TABLE u2 ADD COLUMN v text /* plantedsecret */; COMMIT")
    paused.run("INSERT INTO u2 VALUES (1, %s)", PLANTED)
    capture(paused)
    nowhere(paused)
    assert paused.value("SELECT count(*) FROM audit_logs") == 1


@pytest.mark.parametrize("general,of_source", [("omit", "partial"), ("partial", "omit")])
def test_of_two_masks_the_one_that_keeps_less(db, general, of_source):
    mask(db, ["card", "doc->pin"], general)
    mask(db, ["card", "doc->pin"], of_source, database_id="d1")
    db.ingest(batch([change(0, record={"id": 1, "card": "411111111111" + PLANTED, "doc": {"pin": "411111111111" + PLANTED}})]))
    assert db.rows("SELECT new_values FROM audit_logs") == [({"id": 1, "doc": {}},)]
    assert notes(db)[0]["card"] == {"how": "omit"}


def test_what_was_set_aside_before_a_mask(db):
    """A text in it looks like a mask and is none."""
    mask(db, ["email"], "hash", table="others")
    db.ingest(batch([change(0, table="others", record={"id": 1, "email": "a@b"})]))
    [true] = notes(db)
    made_up = true["email"]["new"]
    lying = change(1, record={"id": 2, "email": made_up, "doc": {"pin": made_up}}, time="2001-01-01T00:00:00Z")
    inventing = change(2, record={"id": 3}, time="2001-01-01T00:00:00Z", notes={"masked": {"email": {"how": "hash", "new": made_up}}})
    assert set_aside(db, lying, inventing) == 2
    mask(db, ["email", "doc->pin"], "hash")
    db.rows("SELECT audit_retry_rejects()")
    assert db.value("SELECT count(*) FROM audit_logs WHERE table_name = 'orders'") == 1
    assert db.value("SELECT count(*) FROM audit_logs WHERE table_name = 'orders' AND (new_values::text LIKE %s OR notes::text LIKE %s)", *[f"%{made_up}%"] * 2) == 0


def test_it_goes_on_with_the_database(paused, moved):
    old = paused.value(HERE)
    mask(paused, ["v"], table="t", database_id=old)
    paused.run("SELECT audit_hold('case', 'a lawsuit', database_id => %s)", old)
    paused.run("SELECT audit_set_retention(NULL, database_id => %s)", old)
    paused.run("INSERT INTO t VALUES (1, 'a')")
    capture(paused)
    restored = moved(paused)
    mask(restored, ["v"], "partial", table="t", database_id=restored.value(HERE))
    go_on(restored, old)
    restored.run("ALTER TABLE t RENAME TO t2")
    assert LOST not in said(restored, "SELECT audit_capture_start('audited')")
    restored.run("INSERT INTO t2 VALUES (2, %s)", "411111111111" + PLANTED[-4:])
    capture(restored)
    assert notes(restored)[-1]["v"] == {"how": "omit"}
    assert found_in_tables(restored) == []
    assert restored.rows("SELECT keep FROM audit_retention_rules WHERE database_id = %s", restored.value(HERE)) == [(None,)]
    assert restored.value("SELECT bool_and(audit_cdc_internal.is_held(l)) FROM audit_cdc_internal.log AS l")
    assert code(restored, "SELECT audit_erase('asked for', 't2', '2')") == "55000"


def test_spellings_of_postgresql_are_refused(db):
    for name in ("profile->>card", "profile->'card'"):
        assert code(db, "SELECT audit_mask('public', 'people', ARRAY[$$%s$$])" % name) == "22023", name
