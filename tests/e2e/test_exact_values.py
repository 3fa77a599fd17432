"""What jsonb does not hold is kept beside the images, so that every value comes back as it was written."""

import json
import random

import pytest
from capture_helpers import publish, source, start  # noqa: F401 (a fixture)
from cast_types import TYPES, USER_TYPES
from conftest import batch, change
from projection_helpers import code

DEEP = "[" * 3000 + "]" * 3000
JSONB = ["null", '"null"', '"unchanged_toast"', '{"a": 1}', '{"": ["1", 1]}', '{"": "x", "a": {}}', "1.50", '"\\u00e4"', '{"a": {"b": null}}', "[]", DEEP]
JSON = [*JSONB, " null ", '{"a":1}', '{ "b" : 1,\n "aa":2 }', '{"a":1,"a":2}', "1e5", "-0", "-0.0", "[1,  2]", '"\\/"', '"\\u000A"',
        '"\\u0000"', '{"\\u0000": 1}', '"\\ud83d"', '["\\ude00"]', "1e200000", "-1e-99999", '{"":["x",{}]}']
ARRAYS = ['{"null",NULL}', "{NULL}", '{"{\\"a\\": 1}"}', "{}", '{{1},{NULL}}', '[0:1]={"null",NULL}', '{"\\"unchanged_toast\\""}']
JSON_ARRAYS = [*ARRAYS, '{"{\\"a\\":1}"}', '{"\\"\\\\u0000\\"",NULL}', '{{1e200000},{"null"}}']
COLUMNS = {"j": ("json", JSON), "b": ("jsonb NOT NULL", JSONB), "jj": ("json[]", JSON_ARRAYS), "bb": ("jsonb[]", ARRAYS),
           "dj": ("own_json", JSON), "f": ("float8", ["-0", "0", "1e-300", "NaN"]), "v": ("text", ["unchanged_toast", "null", "", "{}"])}
TRUTH = "SELECT coalesce(array_agg(d::text ORDER BY d::text COLLATE \"C\"), '{{}}') FROM {} AS d"


@pytest.fixture
def docs(source):
    source.run("CREATE DOMAIN own_json AS json")
    layout = ", ".join(f"{name} {type_}" for name, (type_, _) in COLUMNS.items())
    for name, key in [("docs", "id int PRIMARY KEY"), ("loose", "id int")]:
        source.run(f"CREATE TABLE {name} ({key}, {layout}); ALTER TABLE {name} REPLICA IDENTITY FULL")
    publish(source, "TABLE docs, loose")
    start(source)
    return source


def write(db, dice, statement, *numbers):
    """Runs a statement with a random value of each column."""
    values = [None if dice.random() < 0.15 and "NOT NULL" not in type_ else dice.choice(texts) for type_, texts in COLUMNS.values()]
    casts = ", ".join(f"%s::{type_.split()[0]}" for type_, _ in COLUMNS.values())
    db.run(statement.format(casts=casts, names=", ".join(COLUMNS)), *values, *numbers)


def work(db, dice, table):
    for number in range(len(JSON)):
        write(db, dice, f"INSERT INTO {table} ({{names}}, id) VALUES ({{casts}}, %s)", number)
    for _ in range(40):
        write(db, dice, f"UPDATE {table} SET ({{names}}) = ({{casts}}) WHERE id = %s", dice.randrange(len(JSON)))
    db.run(f"DELETE FROM {table} WHERE id % 7 = 3")


@pytest.mark.parametrize("table", ["docs", "loose"])
def test_whatever_is_written_comes_back(docs, table):
    dice = random.Random(19)
    work(docs, dice, table)
    docs.run("CALL audit_capture()")
    truth = docs.value(TRUTH.format(table))
    assert docs.value("SELECT count(*) FROM audit_rejects") == 0
    assert docs.value(TRUTH.format(f"audit_as_of(NULL::{table})")) == truth
    if table == "docs":
        assert docs.rows("""SELECT d.id FROM docs AS d WHERE d::text IS DISTINCT FROM (
            SELECT audit_row(NULL::docs, l.new_values, l.unknown_columns, l.exact_values -> 'new')::text FROM audit_logs AS l
            WHERE l.record_id = d.id::text AND l.action <> 'delete' ORDER BY l.id DESC LIMIT 1)""") == []


def test_history_tells_rows_exactly(docs):
    work(docs, random.Random(20), "docs")
    docs.run("CREATE TABLE was AS TABLE docs")
    docs.run("CALL audit_capture()")
    assert docs.rows("""SELECT w.id FROM was AS w WHERE w::text IS DISTINCT FROM (
        SELECT h.new_row::text FROM audit_history(NULL::docs, key => w.id::text, newest_first => true, max_rows => 1) AS h)""") == []
    assert docs.rows("SELECT count(*) FROM audit_history('docs', '5') AS h WHERE h.note IS NOT NULL") == [(0,)]


def test_replay_and_undo_give_the_rows_back(docs):
    for table in ("docs", "loose"):
        work(docs, random.Random(21), table)
    docs.run("CALL audit_capture()")
    moment = docs.value("SELECT pg_current_wal_lsn()")
    truth = {table: docs.value(TRUTH.format(table)) for table in ("docs", "loose")}
    copy = docs.rows("SELECT statement FROM audit_replay_sql('docs')")
    docs.run("BEGIN; SELECT audit_annotate(request_id => 'gone'); DELETE FROM docs; DELETE FROM loose; COMMIT")
    docs.run("CALL audit_capture()")
    assert docs.rows("SELECT DISTINCT outcome FROM audit_undo(request_id => 'gone')") == [("undone",)]
    assert {table: docs.value(TRUTH.format(table)) for table in truth} == truth
    docs.run("CALL audit_capture()")
    for table in truth:
        work(docs, random.Random(22), table) if table == "loose" else docs.run("UPDATE docs SET j = 'null', b = '7', jj = NULL, v = NULL WHERE id % 2 = 0")
    docs.run("CALL audit_capture()")
    assert docs.rows("SELECT DISTINCT outcome FROM audit_undo(tables => '{docs,loose}', lsn => %s)", moment) == [("undone",)]
    assert {table: docs.value(TRUTH.format(table)) for table in truth} == truth
    docs.run("TRUNCATE docs")
    for statement, in copy:
        docs.run(statement)
    assert docs.value(TRUTH.format("docs")) == truth["docs"]


def hostile(dice, type_, make):
    if type_ in ("json", "plain_doc", "deep_plain_doc"):
        return dice.choice(JSON)
    if type_ in ("jsonb", "doc", "deep_doc"):
        return dice.choice(JSONB)
    return "-0" if type_ in ("float4", "float8") and dice.random() < 0.3 else make(dice)


@pytest.mark.once
@pytest.mark.parametrize("seed", [1, 2])
def test_every_type(source, seed):
    """Random values of every type and its array: as-of, undo and replay give back what column::text gave."""
    dice = random.Random(seed)
    source.run(USER_TYPES)
    has_xml = source.psql(text="SELECT xml '<a/>'").returncode == 0
    makers = [(type_, make) for type_, make in TYPES.items() if type_ != "xml" or has_xml]
    columns = [(f"c{n}", type_, make) for n, (type_, make) in enumerate(makers)]
    columns += [(f"a{n}", f"{type_}[]", make) for n, (type_, make) in enumerate(makers)]
    source.run(f"CREATE TABLE every (id int PRIMARY KEY, {', '.join(f'{name} {type_}' for name, type_, _ in columns)}); ALTER TABLE every REPLICA IDENTITY FULL")
    publish(source, "TABLE every")
    start(source)

    def value(type_, make):
        if dice.random() < 0.1:
            return None
        if not type_.endswith("[]"):
            return hostile(dice, type_, make)
        plain = type_.removesuffix("[]")
        elements = [hostile(dice, plain, make) for _ in range(dice.randrange(4))]
        quoted = ['"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"' if dice.random() < 0.9 else "NULL" for element in elements]
        return "{" + (";" if plain == "box" else ",").join(quoted) + "}"

    def row():
        return [value(type_, make) for _, type_, make in columns]

    casts, names = ", ".join(f"%s::{type_}" for _, type_, _ in columns), ", ".join(name for name, _, _ in columns)
    for number in range(12):
        source.run(f"INSERT INTO every ({names}, id) VALUES ({casts}, %s)", *row(), number)
    source.run("CALL audit_capture()")
    moment = source.value("SELECT pg_current_wal_lsn()")
    truth = source.value(TRUTH.format("every"))
    for number in range(0, 12, 2):
        source.run(f"UPDATE every SET ({names}) = ({casts}) WHERE id = %s", *row(), number)
    source.run("DELETE FROM every WHERE id % 4 = 1")
    source.run("CALL audit_capture()")
    later = source.value(TRUTH.format("every"))
    assert source.value("SELECT count(*) FROM audit_rejects") == 0
    assert source.value(TRUTH.format("audit_as_of(NULL::every)")) == later
    assert source.value(TRUTH.format(f"audit_as_of(NULL::every, lsn => '{moment}')")) == truth
    assert source.rows("SELECT DISTINCT outcome FROM audit_undo(tables => '{every}', lsn => %s)", moment) == [("undone",)]
    assert source.value(TRUTH.format("every")) == truth
    replay = source.rows("SELECT statement FROM audit_replay_sql('every', until => (SELECT max(commit_timestamp) FROM audit_logs))")
    source.run("CALL audit_capture()")
    source.run("TRUNCATE every")
    for statement, in replay:
        source.run(statement)
    source.run("DELETE FROM every WHERE id % 4 = 1")  # the last transaction, which until leaves out
    assert source.value(TRUTH.format("every")) == later


MESSAGES = ['"\\u0000"', '{"\\u0000": 1}', '"\\ud83d"', "1e200000", DEEP, '{"a":1,"a":2}', "-0.0", '{"a": 1}', '"unchanged_toast"', '{"": ["1", 1]}', "[1.50]"]


def test_what_a_message_holds_comes_back(db):
    db.run("CREATE TABLE docs (id int PRIMARY KEY, j json, arr json[], f float8)")
    messages = [json.dumps(change(n, table="docs", pks=[str(n)], record={"id": n, "j": 777, "arr": [None, 777], "f": 0.5})).replace("777", text)
                for n, text in enumerate(MESSAGES)]
    zero = json.dumps(change(99, table="docs", pks=["99"], record={"id": 99, "j": None, "arr": None, "f": 777})).replace("777", "-0.0")
    assert db.ingest(batch([*messages, zero])) == (len(MESSAGES) + 1, len(MESSAGES) + 1, 0, 0)
    assert db.ingest(batch([*messages, zero])) == (len(MESSAGES) + 1, 0, len(MESSAGES) + 1, 0)
    told = db.rows("SELECT j::text, arr[1] IS NULL, arr[2]::text FROM audit_as_of(NULL::docs) WHERE id < 99 ORDER BY id")
    assert told == [(text, True, text) for text in MESSAGES]
    assert db.rows("SELECT f::text, j FROM audit_as_of(NULL::docs) WHERE id = 99") == [("-0", None)]
    assert [exact is not None for (exact,) in db.rows("SELECT exact_values FROM audit_logs ORDER BY commit_idx")] == [n not in (7, 8, 10) for n in range(len(MESSAGES) + 1)]
    for statement, in db.rows("SELECT statement FROM audit_replay_sql('docs')"):
        db.run(statement)
    assert db.rows("SELECT j::text FROM docs WHERE id < 99 ORDER BY id") == [(text,) for text in MESSAGES]
    assert db.rows("SELECT DISTINCT outcome FROM audit_undo(commit_lsn => 61536216, database_id => 'd1')") == [("undone",)]
    assert db.value("SELECT count(*) FROM docs") == 0


def test_a_backfill_keeps_it_too(docs):
    write(docs, random.Random(5), "INSERT INTO docs ({names}, id) VALUES ({casts}, %s)", 1)
    docs.run("UPDATE docs SET j = 'null', dj = '{\"a\":\"\\u0000\"}', bb = '{\"null\",NULL}'")
    docs.run("CALL audit_backfill('docs')")
    assert docs.value("SELECT count(*) FROM audit_rejects") == 0
    assert docs.rows("""SELECT d::text = audit_row(NULL::docs, l.new_values, l.unknown_columns, l.exact_values -> 'new')::text
                        FROM docs AS d, audit_logs AS l WHERE l.action = 'read'""") == [(True,)]


def test_a_projection_has_exact_rows(docs):
    docs.run("SELECT audit_create_history_projection('docs')")
    docs.run("INSERT INTO docs (id, j, b) VALUES (1, 'null', 'null'), (2, '\"\\u0000\"', '1'), (3, NULL, '{}')")
    docs.run("CALL audit_capture()")
    assert docs.rows("SELECT id, j::text, b::text FROM docs_history ORDER BY id") == [(1, "null", "null"), (2, '"\\u0000"', "1"), (3, None, "{}")]


def test_differences_tell_null_from_json_null(docs):
    docs.run("INSERT INTO docs (id, j, b) VALUES (1, NULL, 'null'); UPDATE docs SET j = 'null'; UPDATE docs SET j = '{\"a\":1}'; UPDATE docs SET j = '{\"a\": 1}'")
    docs.run("CALL audit_capture()")
    updates = "FROM audit_logs WHERE action = 'update' ORDER BY id"
    diffs = docs.rows(f"SELECT audit_diff_text(audit_diff(old_values, jsonb_build_object('j', new_values -> 'j'), exact_values -> 'old', exact_values -> 'new')) {updates}")
    assert diffs == [("j: null → json null",), ('j: json null → json {"a":1}',), ('j: json {"a":1} → {"a": 1}',)]
    assert docs.rows("SELECT audit_diff_text(changed) FROM audit_history('docs', '1') WHERE action = 'update'") == diffs
    assert docs.rows("SELECT changed FROM audit_history('docs', '1') WHERE action = 'update' LIMIT 1") == [({"j": {"old": None, "new": None, "exact": {"new": "null"}}},)]
    assert docs.rows("SELECT change FROM audit_last_changes WHERE action = 'update' ORDER BY id") == diffs


def test_usual_rows_have_nothing_beside_them(docs):
    docs.run("""INSERT INTO docs SELECT n, '{"a": 1.50, "bb": [null, true]}', '{"b": {}}', '{"{\\"a\\": 1}",NULL}', '{1,2}', '"x"', 1.5, 'x' FROM generate_series(1, 9) AS n;
                UPDATE docs SET v = 'y'; DELETE FROM docs""")
    docs.run("CALL audit_capture()")
    assert docs.rows("SELECT count(*), count(exact_values) FROM audit_logs") == [(27, 0)]


def test_the_marker_is_a_value_where_a_list_says_what_is_unknown(db):
    """Of a table with FULL, as it is described, nothing is missing."""
    db.run("CREATE TABLE docs (id int PRIMARY KEY, b jsonb, n int)")
    row = {"id": 1, "b": "unchanged_toast", "n": 1}
    db.ingest(batch([change(0, table="docs", record=row), change(1, table="docs", action="update", record={**row, "n": 2}, changes={"n": 1})]))
    as_of = "SELECT r::text FROM audit_as_of(NULL::docs) AS r"
    assert db.rows(as_of) == [('(1,"""unchanged_toast""",2)',)], "old values are sent with FULL only"
    described = {"described_at": "2026-01-01 00:00+00", "tables": [{
        "table_schema": "public", "table_name": "docs", "replica_identity": "full", "key_columns": ["id"], "identity_columns": ["id", "b", "n"],
        "column_types": {"id": "integer", "b": "jsonb", "n": "integer"}, "never_sent": [], "null_in_reads": []}]}
    db.run("SELECT audit_describe_tables('d1', %s)", json.dumps(described))
    assert db.rows(as_of) == [('(1,"""unchanged_toast""",2)',)]
    rows = "SELECT audit_row(NULL::docs, new_values{})::text FROM audit_logs ORDER BY id DESC LIMIT 1"
    assert db.rows(rows.format(", unknown_columns")) == [('(1,"""unchanged_toast""",2)',)]
    assert code(db.connect(), rows.format("")) == "22018", "nobody says what is unknown"
