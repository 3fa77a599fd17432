"""audit_pending_changes: what a slot holds, in Sequin's form, against the true rows of the corpus's own workload run live."""

import json

import psycopg2
import pytest
from conftest import CORPUS, batch, lines

TRUTH = [truth for truth in map(json.loads, lines("source_rows.jsonl")) if truth["action"] != "read"]
SETTINGS = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c lc_monetary=C"
# what jsonb itself cannot hold: the spelling of json, and JSON null beside SQL NULL
OF_JSONB = {"json": "json", "json[]": "json", "jsonb": "json", "jsonb[]": "json", "doc": "json"}


@pytest.fixture
def source(db):
    """A database with a publication of everything and a slot; the slot goes with it."""
    # from 18 on, REPLICA IDENTITY FULL wants generated columns published
    options = " WITH (publish_generated_columns = stored)" if db.connect().server_version >= 180000 else ""
    db.run("CREATE PUBLICATION everything FOR ALL TABLES" + options)
    db.run("SELECT pg_create_logical_replication_slot(current_database(), 'audit_cdc')")
    yield db
    db.run("SELECT pg_drop_replication_slot(current_database())")


def changes(db, upto=None):
    """(text, as Python)"""
    rows = db.rows("SELECT c::text FROM audit_pending_changes(current_database()::name, 'everything', %s) AS c", upto)
    return [(text, json.loads(text)) for (text,) in rows]


def in_order(all_, place):
    """By transaction, table and key; changes of one row stay in their order."""
    places = [(lsn, table, sorted(filter(None, key))) for lsn, table, key in map(place, all_)]
    return [all_[n] for n in sorted(range(len(all_)), key=places.__getitem__)]


def identifier(name):
    return '"' + name.replace('"', '""') + '"'


def test_every_change_of_the_corpus_has_its_true_rows(source):
    connection = source.connect(options=SETTINGS)
    source.run("CREATE SCHEMA truth")
    xml = source.psql(text="SELECT '<a/>'::xml").returncode == 0  # not every build has it
    for file in ("schema.sql", "transactions.sql"):
        text = (CORPUS / file).read_text()
        done = source.psql(text=text if xml else text.replace("c_xml xml,", "c_xml text,"))
        assert done.returncode == 0, done.stderr
    found = [(text, message) for text, message in changes(source) if message["action"] != "truncate" and message["metadata"]["table_name"] != "t_json_nul"]
    assert [message["metadata"]["commit_idx"] for _, message in found] == [truth["commit_idx"] for truth in TRUTH] and len(TRUTH) == 339
    # rows of one statement come in an order of the server's own
    found = in_order(found, lambda change: (change[1]["metadata"]["commit_lsn"], change[1]["metadata"]["table_name"], change[1]["metadata"]["record_pks"] or []))
    truths = in_order(TRUTH, lambda truth: (truth["commit_lsn"], truth["leaf"].split(".")[-1].strip('"'), truth["record_pks"]))
    layouts, compared, exceptions, lost_by_sequin = {}, 0, 0, 0
    for (text, message), truth in zip(found, truths):
        meta = message["metadata"]
        assert (message["action"], meta["table_schema"]) == (truth["action"], truth["schema"]), truth["n"]
        assert meta["replica_identity"] == truth["replica_identity"] or truth["leaf"] != truth["table"], truth["n"]
        # Sequin writes "" for a key that it does not have, and a partition's key in its parent's order
        assert sorted(meta["record_pks"] or []) == sorted(truth["record_pks"]) or (meta["record_pks"], truth["record_pks"]) == (None, [""]), truth["n"]
        assert truth["leaf"] in (meta["table_name"], f"{identifier(meta['table_schema'])}.{identifier(meta['table_name'])}")
        if not xml:
            truth["types"] = {name: type_.replace("xml", "text") for name, type_ in truth["types"].items()}
        layout = json.dumps(truth["types"])
        if layout not in layouts:
            layouts[layout] = f"truth.t{len(layouts)}"
            source.run(f"CREATE TYPE {layouts[layout]} AS (" + ", ".join(f"{identifier(n)} {t}" for n, t in truth["types"].items()) + ")")
        row = f"audit_row(NULL::{layouts[layout]}, (%s::json -> 'record')::jsonb, ARRAY(SELECT json_array_elements_text(%s::json #> '{{metadata,unknown_columns}}')))"
        names = list(truth["types"])
        written = "ARRAY[" + ", ".join(f"CASE WHEN r.{identifier(name)} IS NOT NULL OR r.{identifier(name)} IS DISTINCT FROM NULL THEN format('%%s', r.{identifier(name)}) END" for name in names) + "]"
        sides = [("old" if message["action"] == "delete" else "new", row, [text, text], meta["unknown_columns"])]
        if message["action"] == "update":
            before = f"audit_row({row}, (%s::json -> 'changes')::jsonb, ARRAY(SELECT json_array_elements_text(%s::json #> '{{metadata,unknown_old_columns}}')))"
            sides.append(("old", before, [text] * 4, meta["unknown_old_columns"]))
        for side, expression, arguments, unknown in sides:
            values = source.value(f"SELECT {written} FROM {expression} AS r", *arguments, connection=connection)
            for name, type_, value in zip(names, truth["types"].values(), values):
                true = truth[side][name]
                mark = (truth.get(f"{side}_not_exact") or {}).get(name)
                compared += 1
                lost_by_sequin += mark in ("lossy", "uncastable")
                assert mark not in ("unchanged_toast", "not_carried") or name in unknown or value == true, (truth["n"], side, name)
                if name in unknown:  # the stream does not have it either, and says so
                    assert value is None
                elif mark == "absent":
                    assert value in (None, true)
                elif value != true:
                    exceptions += 1
                    assert type_ in OF_JSONB or (value, true) in {("0", "-0")}, (truth["n"], side, name, type_, value, true)
                    if type_ in ("json", "jsonb", "doc") and true != "null":
                        assert json.loads(value) == json.loads(true), (truth["n"], side, name)
    assert compared > 3500 and exceptions < 60 and lost_by_sequin > 100, (compared, exceptions, lost_by_sequin)


def test_annotations_reach_the_later_changes_of_their_transaction(source):
    connection = source.connect()
    connection.autocommit = False
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE t (id int PRIMARY KEY, who text)")
    connection.commit()
    cursor.execute("""INSERT INTO t VALUES (1, 'nobody'); SELECT audit_annotate(username => 'ada'); INSERT INTO t VALUES (2, 'ada');
        SAVEPOINT s; SELECT audit_annotate(username => 'undone'); INSERT INTO t VALUES (3, 'undone'); ROLLBACK TO s; INSERT INTO t VALUES (4, 'ada');
        SAVEPOINT s; SELECT audit_annotate(username => 'kept'); INSERT INTO t VALUES (5, 'kept'); RELEASE s;
        SELECT pg_logical_emit_message(false, 'sequin:transaction_annotations.set', '{"username": "stray"}');
        SELECT pg_logical_emit_message(true, 'somebody else', 'x'); INSERT INTO t VALUES (6, 'kept');
        SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', 'no json'); INSERT INTO t VALUES (7, 'kept');
        SELECT audit_annotate(username => 'eve'); INSERT INTO t VALUES (8, 'eve'); SELECT audit_annotate_clear(); INSERT INTO t VALUES (9, 'nobody')""")
    connection.commit()
    cursor.execute("INSERT INTO t VALUES (10, 'nobody')")
    connection.commit()
    found = [((m["metadata"]["transaction_annotations"] or {}).get("username", "nobody"), m["record"]["who"]) for _, m in changes(source)]
    assert len(found) == 9 and all(said == who for said, who in found), found


def test_what_sequin_loses(source):
    source.run("""CREATE TABLE t (id int PRIMARY KEY, a time, b timetz, c interval, d jsonb, e text[], f box[], g int[]);
        INSERT INTO t VALUES (1, '12:34:56.789123', '01:02:03.4+05:30', '-123:45:06.7', '{"n": 0.1234567890123456789}', '{NULL,"NULL"}', '{(1,1),(0,0);(3,3),(2,2)}', '[0:1]={1,2}');
        UPDATE t SET id = 2; TRUNCATE t""")
    inserted, updated, truncated = [message for _, message in changes(source)]
    assert inserted["record"] == {"id": 1, "a": "12:34:56.789123", "b": "01:02:03.4+05:30", "c": {"months": 0, "days": 0, "microseconds": -445506700000},
                                  "d": {"n": 0.1234567890123456789}, "e": [None, "NULL"], "f": ["(1,1),(0,0)", "(3,3),(2,2)"], "g": "[0:1]={1,2}"}
    assert "0.1234567890123456789" in changes(source)[0][0]
    assert updated["changes"] == {"id": 1} and updated["metadata"]["unknown_old_columns"] == list("abcdefg")
    assert (truncated["action"], truncated["record"], truncated["changes"]) == ("truncate", None, None)
    truth = source.rows("SELECT '12:34:56.789123'::time::text, '01:02:03.4+05:30'::timetz::text, '-123:45:06.7'::interval::text, '[0:1]={1,2}'")[0]
    assert source.rows("SELECT r.a::text, r.b::text, r.c::text, r.g::text FROM audit_row(NULL::t, %s) AS r", json.dumps(inserted["record"]))[0] == truth


def test_without_the_whole_row_unknown_is_said(source):
    source.run("""CREATE TABLE t (id int PRIMARY KEY, small text, large text); ALTER TABLE t ALTER large SET STORAGE EXTERNAL;
        INSERT INTO t VALUES (1, 'a', repeat('x', 5000)); UPDATE t SET small = 'b'; DELETE FROM t""")
    _, updated, deleted = [message for _, message in changes(source)]
    assert updated["record"] == {"id": 1, "small": "b", "large": "unchanged_toast"}
    assert updated["metadata"]["unknown_columns"] == ["large"] and updated["metadata"]["unknown_old_columns"] == ["small", "large"]
    assert deleted["record"] == {"id": 1, "small": None, "large": None}
    assert deleted["metadata"]["unknown_columns"] == deleted["metadata"]["unknown_old_columns"] == ["small", "large"]


def test_each_change_has_the_layout_of_its_time(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY, a int, b text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 5, 'x')")
    source.run("ALTER TABLE t RENAME a TO number; ALTER TABLE t DROP b")
    source.run("UPDATE t SET number = 6")
    source.run("ALTER TABLE t ALTER number TYPE text; ALTER TABLE t RENAME TO renamed; ALTER TABLE renamed ADD c date")
    source.run("UPDATE renamed SET c = '2026-01-01'; DELETE FROM renamed")
    found = [(m["metadata"]["table_name"], m["record"], m["changes"]) for _, m in changes(source)]
    assert found == [("t", {"id": 1, "a": 5, "b": "x"}, None), ("t", {"id": 1, "number": 6}, {"number": 5}),
                     ("renamed", {"id": 1, "number": "6", "c": "2026-01-01"}, {"c": None}), ("renamed", {"id": 1, "number": "6", "c": "2026-01-01"}, None)]


def test_nothing_is_consumed_and_transactions_are_whole(source):
    source.run("CREATE TABLE t (id int PRIMARY KEY)")
    for first in (0, 10, 20):
        source.run(f"INSERT INTO t SELECT generate_series({first} + 1, {first} + 10)")
    everything = changes(source)
    assert len(everything) == 30 and changes(source) == everything
    assert changes(source, 15) == everything[:20]


def test_ingest_takes_them(source):
    """The messages are Sequin's: the log takes them, and a second time they are duplicates."""
    source.run("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b'); UPDATE t SET v = 'c'; DELETE FROM t")
    here = source.value("SELECT audit_cdc_internal.this_database() ->> 'id'")
    body = batch([text.replace(here, "elsewhere") for text, _ in changes(source)])  # as a relay to another server's log hands them over
    assert source.ingest(body) == (6, 6, 0, 0) and source.ingest(body) == (6, 0, 6, 0)
    assert source.rows("SELECT action, record_id, new_values ->> 'v' FROM audit_logs ORDER BY commit_lsn, commit_idx") == [
        ("insert", "1", "a"), ("insert", "2", "b"), ("update", "1", "c"), ("update", "2", "c"), ("delete", "1", None), ("delete", "2", None)]


def test_what_is_refused(source):
    def code(sql, **options):
        with pytest.raises(psycopg2.Error) as raised:
            source.rows(sql, connection=source.connect(**options))
        return raised.value.pgcode
    assert code("SELECT audit_pending_changes(NULL, 'everything')") == "55000"  # nothing is captured
    assert code("SELECT audit_pending_changes('no such slot', 'everything')") == "42704"
    assert code("SET ROLE audit_cdc_reader; SELECT audit_pending_changes(current_database()::name, 'everything')") == "42501"
