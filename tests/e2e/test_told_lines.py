"""Lines that come from their entries alone are those that the records' lives tell, whatever was done; nothing is read whole for a page."""

import random

import pytest
from capture_helpers import publish, source, start  # noqa: F401
from cast_helpers import session
from conftest import CORPUS, DATABASE_ID, batch, lines

# Of each entry the line as history gives it, and as its record's life does. The row before may have dropped columns in a life; without a key a life notes it.
DIFFERENT = """
WITH entries AS MATERIALIZED (SELECT l AS entry, t.* FROM audit_cdc_internal.log AS l JOIN audit_cdc_internal.audited_tables AS t ON t.id = l.audited_table)
SELECT row_to_json(told), row_to_json(lived)
FROM entries AS e
CROSS JOIN LATERAL audit_cdc_internal.lines((e.entry).id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, NULL) AS told
CROSS JOIN LATERAL audit_cdc_internal.line_of(audit_cdc_internal.table_named(format('%I.%I', e.table_schema, e.table_name), e.database_id, NULL, (e.entry).record_id),
  e.entry, told.cursor) AS lived
WHERE to_jsonb(told) - '{note,old_row}'::text[] <> to_jsonb(lived) - '{note,old_row}'::text[] OR (told.old_row IS NULL) <> (lived.old_row IS NULL)
   OR NOT lived.old_row @> told.old_row OR told.record_id IS NOT NULL AND told.note IS DISTINCT FROM lived.note"""
DIFFERENT_LIVES = """
WITH records AS MATERIALIZED (
  SELECT DISTINCT t.database_id, t.table_schema, t.table_name, l.record_id
  FROM audit_cdc_internal.log AS l JOIN audit_cdc_internal.audited_tables AS t ON t.id = l.audited_table WHERE l.record_id IS NOT NULL)
SELECT row_to_json(r), told, lived
FROM records AS r
CROSS JOIN LATERAL audit_cdc_internal.table_named(format('%I.%I', r.table_schema, r.table_name), r.database_id, NULL, r.record_id) AS a
CROSS JOIN LATERAL (SELECT jsonb_agg(to_jsonb(l) - 'old_row' ORDER BY string_to_array(l.cursor, '.')::bigint[]) AS told FROM audit_cdc_internal.record_lines(a, r.record_id) AS l) AS told
CROSS JOIN LATERAL (SELECT jsonb_agg(to_jsonb(l) - 'old_row' ORDER BY string_to_array(l.cursor, '.')::bigint[]) AS lived FROM audit_cdc_internal.lines_by_lives(a, r.record_id) AS l) AS lived
WHERE told IS DISTINCT FROM lived"""
# how many entries need no life
TOLD = """
SELECT count(*) FROM audit_cdc_internal.log AS l CROSS JOIN LATERAL audit_cdc_internal.told_table(l.audited_table, NULL, l.record_id) AS t
WHERE audit_cdc_internal.tells_row(l, t)"""


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
        assert db.value(TOLD) > 100


STEPS = ["INSERT INTO orders VALUES ({0}, 'new') ON CONFLICT DO NOTHING", "UPDATE orders SET v = v || '{1}' WHERE id = {0}", "DELETE FROM orders WHERE id = {0}",
         "UPDATE orders SET id = {1} WHERE id = {0} AND NOT EXISTS (SELECT FROM orders WHERE id = {1})", "TRUNCATE orders", "ALTER TABLE orders ADD COLUMN c{2} text DEFAULT 'x'",
         "BEGIN; DELETE FROM orders WHERE id = {0}; INSERT INTO orders VALUES ({0}, 'again'); COMMIT"]


@pytest.mark.parametrize("weights", [(5, 9, 3, 0, 0, 0, 1), (5, 9, 3, 1, 0, 0, 1), (5, 9, 3, 0, 1, 1, 1)])
@pytest.mark.parametrize("identity", ["FULL", "DEFAULT"])
def test_a_random_workload(source, weights, identity):
    db = source
    chance = random.Random(repr(weights) + identity)
    db.run("CREATE TABLE orders (id int PRIMARY KEY, v text)")
    db.run(f"ALTER TABLE orders REPLICA IDENTITY {identity}")
    publish(db)
    start(db)
    for number in range(120):
        step, = chance.choices(STEPS, weights)
        db.psql("-c", step.format(chance.randrange(8), chance.randrange(8), number))
    db.run("CALL audit_capture()")
    check(db)
