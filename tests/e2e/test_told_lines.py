"""Lines that come from their entries alone are those that the records' lives tell, whatever was done; nothing is read whole for a page."""

import random

import pytest
from capture_helpers import capture, publish, source, start  # noqa: F401
from cast_helpers import session
from conftest import CORPUS, DATABASE_ID, batch, lines
from projection_helpers import run
from test_as_of import at, describe

# Of each entry the line as history gives it, and as its record's life does.
DIFFERENT = """
WITH entries AS MATERIALIZED (SELECT l AS entry, t.* FROM audit_cdc_internal.log AS l JOIN audit_cdc_internal.audited_tables AS t ON t.id = l.audited_table)
SELECT row_to_json(told), row_to_json(lived)
FROM entries AS e
CROSS JOIN LATERAL audit_cdc_internal.lines((e.entry).id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL) AS told
CROSS JOIN LATERAL audit_cdc_internal.line_of(audit_cdc_internal.table_named(format('%I.%I', e.table_schema, e.table_name), e.database_id, NULL, (e.entry).record_id),
  (e.entry).id, (e.entry).record_id, told.cursor) AS lived
WHERE to_jsonb(told) IS DISTINCT FROM to_jsonb(lived)"""
DIFFERENT_LIVES = """
WITH records AS MATERIALIZED (
  SELECT DISTINCT t.database_id, t.table_schema, t.table_name, l.record_id
  FROM audit_cdc_internal.log AS l JOIN audit_cdc_internal.audited_tables AS t ON t.id = l.audited_table WHERE l.record_id IS NOT NULL)
SELECT row_to_json(r), told, lived
FROM records AS r
CROSS JOIN LATERAL audit_cdc_internal.table_named(format('%I.%I', r.table_schema, r.table_name), r.database_id, NULL, r.record_id) AS a
CROSS JOIN LATERAL (SELECT jsonb_agg(to_jsonb(l) ORDER BY string_to_array(l.cursor, '.')::bigint[]) AS told FROM audit_cdc_internal.record_lines(a, r.record_id) AS l) AS told
CROSS JOIN LATERAL (SELECT jsonb_agg(to_jsonb(l) ORDER BY string_to_array(l.cursor, '.')::bigint[]) AS lived FROM audit_cdc_internal.lines_by_lives(a, r.record_id) AS l) AS lived
WHERE told IS DISTINCT FROM lived"""
# of how many records the lines come from their entries, and of how many not
FROM_ENTRIES = """
SELECT count(*) FILTER (WHERE s.is_told), count(*) FILTER (WHERE NOT s.is_told)
FROM (SELECT DISTINCT t.database_id, t.table_schema, t.table_name, l.record_id
      FROM audit_cdc_internal.log AS l JOIN audit_cdc_internal.audited_tables AS t ON t.id = l.audited_table WHERE l.record_id IS NOT NULL) AS r
CROSS JOIN LATERAL audit_cdc_internal.table_named(format('%I.%I', r.table_schema, r.table_name), r.database_id, NULL, r.record_id) AS a
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM audit_cdc_internal.told_lines(a, r.record_id, false)) AS is_told) AS s"""
PAGE = "SELECT count(action) FROM audit_cdc_internal.lines(NULL::bigint, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL)"


def lives_of_a_page(db):
    """How many lines a page of all entries has, and how many of them came of a record's life."""
    connection = db.connect()
    connection.autocommit = False
    run(connection, "SET LOCAL track_functions = 'all'")
    count = db.value(PAGE, connection=connection)
    assert count == db.value("SELECT count(*) FROM audit_logs")
    return count, sum(calls for (calls,) in run(connection, "SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'line_of'"))


def check(db):
    assert db.rows(DIFFERENT) == []
    assert db.rows(DIFFERENT_LIVES) == []


@pytest.mark.parametrize("is_described", [True, False])
def test_the_corpus(is_described):
    with session() as db:
        assert db.psql("-f", str(CORPUS / "schema.sql")).returncode == 0
        db.ingest(batch(lines("messages.jsonl")))
        if is_described:
            db.run("SELECT audit_describe_tables(%s, %s, '2026-11-22 21:00+00')", DATABASE_ID, db.psql("-f", "sql/describe_source.sql").stdout)
        check(db)
        told, others = db.rows(FROM_ENTRIES)[0]
        assert told > 20 and others > 0
        count, lives = lives_of_a_page(db)
        assert 0 < lives < count - 100


def test_an_entry_from_before_a_description_may_tell_less(db):
    """FULL was not described, and is not; the update sent no row before."""
    db.ingest(batch([at(2, changes={}, row={"v": "b"})]))
    describe(db, "default")
    db.ingest(batch([at(3, action="insert", row={"v": "c"})]))
    assert db.value("SELECT note FROM audit_history('orders', '1') LIMIT 1") == "the key before this change is unknown"
    check(db)


def test_a_restored_source_shows_beside_others_that_moved(db):
    db.ingest(batch([at(1, action="insert", row={"v": "a"}), at(4, action="insert", id_=5), at(5, id_=6, changes={"id": 5})]))
    db.ingest(batch([at(40, lsn=3000, changes={"v": "a"}, row={"v": "b"})]))
    assert [note for (note,) in db.rows("SELECT note FROM audit_history('orders', '1')")] == [None, "the source was restored before this one: positions ran backwards"]
    check(db)


def test_a_column_that_was_dropped_is_in_no_later_row(source):  # noqa: F811
    source.run("CREATE TABLE orders (id int PRIMARY KEY, v text, gone text); ALTER TABLE orders REPLICA IDENTITY FULL")
    publish(source)
    start(source)
    source.run("INSERT INTO orders VALUES (1, 'a', 'x'); ALTER TABLE orders DROP COLUMN gone")
    source.run("UPDATE orders SET id = 2")
    source.run("DELETE FROM orders")
    capture(source)
    # the record has had two keys: its lines come of its life
    assert source.rows("SELECT old_row FROM audit_history('orders', '2')") == [(None,), ({"id": 1, "v": "a"},), ({"id": 2, "v": "a"},)]
    check(source)


def test_keys_that_were_swapped_miss_no_change(source):  # noqa: F811
    source.run("CREATE TABLE orders (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text); ALTER TABLE orders REPLICA IDENTITY FULL")
    publish(source)
    start(source)
    source.run("INSERT INTO orders VALUES (1, 'a'), (2, 'b')")
    source.run("UPDATE orders SET id = 3 - id")
    source.run("UPDATE orders SET v = v || '!'")
    source.run("DELETE FROM orders")
    capture(source)
    assert source.rows("SELECT DISTINCT note FROM audit_history('orders', '1') WHERE note LIKE '%misses%'") == []
    check(source)


STEPS = ["INSERT INTO orders VALUES ({0}, 'new') ON CONFLICT DO NOTHING", "UPDATE orders SET v = v || '{1}' WHERE id = {0}", "DELETE FROM orders WHERE id = {0}",
         "UPDATE orders SET id = {1} WHERE id = {0} AND NOT EXISTS (SELECT FROM orders WHERE id = {1})", "TRUNCATE orders", "ALTER TABLE orders ADD COLUMN IF NOT EXISTS c{1} text DEFAULT 'x'",
         "BEGIN; DELETE FROM orders WHERE id = {0}; INSERT INTO orders VALUES ({0}, 'again'); COMMIT",
         "ALTER TABLE orders DROP COLUMN IF EXISTS c{1}"]


@pytest.mark.parametrize("weights", [(5, 9, 3, 0, 0, 0, 1, 0), (5, 9, 3, 1, 0, 0, 1, 0), (5, 9, 3, 0, 1, 1, 1, 0), (5, 9, 3, 1, 0, 3, 1, 2)])
@pytest.mark.parametrize("identity", ["FULL", "DEFAULT"])
def test_a_random_workload(source, weights, identity):
    db = source
    chance = random.Random(repr(weights) + identity)
    db.run("CREATE TABLE orders (id int PRIMARY KEY, v text)")
    db.run(f"ALTER TABLE orders REPLICA IDENTITY {identity}")
    publish(db)
    start(db)
    for _ in range(120):
        step, = chance.choices(STEPS, weights)
        db.psql("-c", step.format(chance.randrange(8), chance.randrange(8)))
    db.run("CALL audit_capture()")
    check(db)
    (told, others), (count, lives) = db.rows(FROM_ENTRIES)[0], lives_of_a_page(db)
    assert count > 40
    if identity == "DEFAULT":
        assert lives > 0
    else:
        assert lives < count and (told > 0) == (weights[4] == 0)  # a truncate is of no record
        assert (lives == others == 0) == (weights[3:6] == (0, 0, 0))
