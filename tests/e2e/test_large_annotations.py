"""Annotations that jsonb cannot hold, or that are large: they never reject their change, and never multiply."""

import hashlib
import json
import subprocess

import psycopg2
import pytest
from capture_helpers import capture
from capture_helpers import paused, source  # noqa: F401 (fixtures)
from conftest import Database, admin, batch, change

SET = "sequin:transaction_annotations.set"
UNREADABLE = {
    "NUL": '{"x":"\\u0000"}', "NUL as a key": '{"\\u0000": 1}', "beyond numeric": '{"n": 1e999999}', "too many digits": '{"n": 1e-16384}',
    "half a surrogate": '{"username": "a\\ud83d"}', "the other half": '["\\ude00"]',
}
DEEP = "[" * 1001 + "]" * 1001  # deeper than what is kept as it is
READABLE = ['{"username": "ada", "n": 1.50}', "[1, 2]", '"ada"', "7", "true", '{"n": 1e400}', '{"s": "\\\\u0000 \\ud83d\\ude00"}', "1e131071", "[" * 1000 + "]" * 1000]
RAW = {**UNREADABLE, "no JSON": "not json", "nothing": "", "garbage behind": '{"username": "ada"} x'}


def annotated(db, content, n, cast="text"):
    """Inserts row n after a message of ada's and this one."""
    connection = db.connect()
    with connection.cursor() as cursor:
        cursor.execute(f"""BEGIN; SELECT pg_logical_emit_message(true, '{SET}', '{{"username": "ada", "request_id": "r"}}')""")
        cursor.execute(f"SELECT pg_logical_emit_message(true, '{SET}', %s::{cast}) FROM generate_series(1, 2)", (content,))
        cursor.execute("INSERT INTO t VALUES (%s); COMMIT", (n,))


def entries(db, columns="annotations"):
    assert db.value("SELECT count(*) FROM audit_rejects") == 0
    return db.rows(f"SELECT {columns} FROM audit_logs ORDER BY commit_lsn, commit_idx")


def body(annotation, n=0, **more):
    return json.dumps(change(n, annotations="HERE", **more)).replace('"HERE"', annotation)


def test_capture_keeps_as_text_what_jsonb_cannot_hold(paused):
    for n, text in enumerate(RAW.values()):
        annotated(paused, text, n)
    annotated(paused, b"\xff\x00a", 100, "bytea")
    assert capture(paused) == len(RAW) + 1
    names = "username, source, request_id, metadata, annotations"
    assert entries(paused, names) == [(None, None, None, None, {"unreadable": text}) for text in [*RAW.values(), "\ufffd\\u0000a"]]
    assert paused.rows("SELECT DISTINCT record_id FROM audit_history('t', '0')") == [("0",)]


def test_ingest_keeps_as_text_what_jsonb_cannot_hold(db):
    messages = [body(text, n) for n, text in enumerate(UNREADABLE.values())]
    assert db.ingest(batch(messages)) == (len(messages), len(messages), 0, 0)
    assert entries(db, "username, annotations") == [(None, {"unreadable": text}) for text in UNREADABLE.values()]
    assert db.ingest(batch(messages)) == (len(messages), 0, len(messages), 0)


def test_what_jsonb_can_hold_is_kept_as_it_is(paused):
    for n, text in enumerate(READABLE):
        annotated(paused, text, n)
    capture(paused)
    expected = [(paused.value("SELECT %s::jsonb::text", text),) for text in READABLE]
    assert entries(paused, "annotations::text") == expected
    paused.ingest(batch([body(text, n, lsn=10 ** 12) for n, text in enumerate(READABLE)]))
    assert entries(paused, "annotations::text") == expected * 2


def test_of_a_long_unreadable_one_the_beginning_is_kept(paused):
    expected = []
    for n, text in enumerate(['{"x":"\\u0000' + "ä" * 1_000_000 + '"}', DEEP]):
        annotated(paused, text, n)
        capture(paused)
        paused.ingest(batch([body(text, n, lsn=10 ** 12)]))
        kept = text.encode()[:2000].decode(errors="ignore")
        expected.append(({"unreadable": kept, "bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()},))
    assert entries(paused) == expected * 2
    assert paused.value("SELECT count(*) FROM audit_cdc_internal.large_annotations") == 4, "capture and ingest have them apart"


def large(size=1_000_000, **more):
    return {"username": "ada", "request_id": "r1", "metadata": {"blob": "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(size // 64))}, **more}


def sizes(db):
    return db.rows("""SELECT (SELECT sum(pg_total_relation_size(inhrelid))::int FROM pg_inherits WHERE inhparent = 'audit_cdc_internal.log'::regclass),
                             pg_total_relation_size('audit_cdc_internal.large_annotations')::int""")[0]


NAMES = "username, source, request_id, metadata, annotations"


def comes_out_whole(db, count, annotations):
    found = entries(db, NAMES)
    assert len(found) == count and all(row == ("ada", None, "r1", annotations["metadata"], annotations) for row in found)
    log, apart = sizes(db)
    assert log < 500_000 and apart < 2_000_000


@pytest.mark.once
def test_a_large_one_is_captured_once(paused):
    annotations = large()
    with paused.connect().cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT audit_annotate('ada', request_id => 'r1', metadata => %s)", (json.dumps(annotations["metadata"]),))
        cursor.execute("INSERT INTO t SELECT g FROM generate_series(1, 300) AS g; COMMIT")
    read = [json.loads(text) for (text,) in paused.rows("SELECT m::text FROM audit_pending_changes() AS m")]
    assert len(read) == 300 and all(message["metadata"]["transaction_annotations"] == annotations for message in read)
    assert capture(paused) == 300
    comes_out_whole(paused, 300, annotations)
    # the same annotation by the other way, of another source: it is stored once more, and only once
    for message in read[:9]:
        message["metadata"]["database"]["id"] = "elsewhere"
    assert paused.ingest(batch(read[:9])) == (9, 9, 0, 0)
    assert paused.value("SELECT count(*) FROM audit_cdc_internal.large_annotations") == 2


@pytest.mark.once
def test_a_large_one_is_ingested_once(db):
    annotations = large()
    messages = [change(n, annotations=annotations) for n in range(300)]
    for first in (0, 150):
        assert db.ingest(batch(messages[first:first + 150])) == (150, 150, 0, 0)
    comes_out_whole(db, 300, annotations)
    assert db.value("SELECT count(*) FROM audit_cdc_internal.large_annotations") == 1
    assert db.ingest(batch(messages[:9])) == (9, 0, 9, 0)


def test_a_reject_of_capture_has_its_large_annotations(paused):
    paused.run("ALTER TABLE t ADD j json; ALTER TABLE audit_cdc_internal.log ADD CHECK (new_values ->> 'j' IS DISTINCT FROM 'poison')")
    annotations = large(3000)
    with paused.connect().cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT audit_annotate('ada', request_id => 'r1', metadata => %s)", (json.dumps(annotations["metadata"]),))
        cursor.execute(r"""INSERT INTO t SELECT g, 'x', CASE WHEN g = 2 THEN '"poison"' ELSE '[]' END::json FROM generate_series(1, 3) AS g; COMMIT""")
    assert capture(paused) == 2
    [(raw,)] = paused.rows("SELECT raw FROM audit_rejects")
    assert json.loads(raw)["metadata"]["transaction_annotations"] == annotations and json.loads(raw)["record"]["id"] == 2


def test_rules_read_large_ones_whole(db):
    db.run("CREATE TABLE seen (id text PRIMARY KEY, length int, username text)")
    db.run("SELECT audit_create_projection('p', 'SELECT record_id AS id, length(metadata ->> ''blob'') AS length, username FROM audit_new_logs', 'seen')")
    db.ingest(batch([change(annotations=large(6400))]))
    assert db.rows("SELECT * FROM seen") == [("1", 6400, "ada")]


def test_members_of_large_ones_are_lifted_as_those_of_small_ones(db):
    blob, long = "x" * 2000, "y" * 2001
    cases = [{"username": long}, {"username": "ä" * 1000}, {"username": 7, "source": True, "request_id": None}, {"username": {"a": [1]}}, {"username": "\x01" * 2000}, [1, "username"], "username"]
    messages = [change(n, annotations=case if n % 2 or not isinstance(case, dict) else {**case, "blob": blob}) for n, case in enumerate(case for case in cases for _ in "12")]
    db.ingest(batch(messages))
    found = entries(db, "username, source, request_id")
    assert found[::2] == found[1::2] and ("ä" * 1000, None, None) in found and ("7", "true", None) in found


def test_the_users_index_finds_large_ones(db):
    db.ingest(batch([change(n, pks=[str(n)], annotations={**large(6400), "username": f"u{n}"}) for n in range(300)]))
    db.run("ANALYZE audit_cdc_internal.log")
    plan = "\n".join(line for (line,) in db.rows("EXPLAIN SELECT annotations FROM audit_logs WHERE username = 'u7'"))
    assert "_username" in plan
    assert db.rows("SELECT record_id, annotations ->> 'username' FROM audit_logs WHERE username = 'u7'") == [("7", "u7")]


def test_they_are_dumped_restored_and_never_changed(db, tmp_path):
    annotations = large(6400)
    db.ingest(batch([change(n, annotations=annotations) for n in range(3)]))
    dump, restored = str(tmp_path / "dump"), Database(db.name + "_restored")
    subprocess.run(["pg_dump", "-Fc", "-f", dump, db.name], check=True)
    admin(f"CREATE DATABASE {restored.name} TEMPLATE template0")
    try:
        done = subprocess.run(["pg_restore", "--exit-on-error", "-d", restored.name, dump], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert entries(restored) == [(annotations,)] * 3
    finally:
        admin(f"DROP DATABASE {restored.name} WITH (FORCE)")
    for statement in ("UPDATE {} SET annotations = '{{}}'", "DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState):
            db.run("SET session_replication_role = replica; " + statement.format("audit_cdc_internal.large_annotations"))


def test_a_relay_that_stores_the_same_ones_does_not_hold_up_capture(paused):
    """The log has them once each: who has stored them, and stays open, is waited for."""
    text = json.dumps({"blob": "x" * 5_000})
    for n, database in enumerate(["d1", "d2"]):
        relay = paused.connect(options="-c lock_timeout=2s")
        relay.autocommit = False
        assert paused.ingest(batch([body(text, n, database=database)]), relay)[1] == 1
    annotated(paused, text, 1)
    assert paused.value("CALL audit_capture()", connection=paused.connect(options="-c lock_timeout=2s")) == 1
