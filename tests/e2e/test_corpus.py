"""All of the authentic corpus, however it is cut, shuffled, repeated and delivered."""

import decimal
import json
import random
import re

import pytest
from conftest import CORPUS, DATABASE_ID, Database, admin, batch, change, in_threads, lines

MESSAGES = lines("messages.jsonl")
TRUTH = [json.loads(line) for line in lines("source_rows.jsonl")]


def exact(text):
    """JSON with every number kept to the digit."""
    return json.loads(text, parse_float=decimal.Decimal, parse_int=decimal.Decimal)


def same(one, two):
    """Equal, numbers to the digit and to the trailing zero (an exponent written out counts as the same)."""
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, decimal.Decimal) and isinstance(two, decimal.Decimal):
        return one == two and min(one.as_tuple().exponent, 0) == min(two.as_tuple().exponent, 0)
    return type(one) is type(two) and one == two


def stored(db):
    """Everything that a message can tell, for comparing."""
    return sorted(map(str, db.rows("""SELECT database_id, table_schema, table_name, record_pks, action, commit_lsn, commit_idx,
        commit_timestamp, old_values, new_values, annotations, idempotency_key FROM audit_logs""")))


def test_every_message_is_stored_as_it_came(db):
    assert db.ingest(batch(MESSAGES)) == (411, 411, 0, 0)
    rows = db.rows("""SELECT action, table_schema, table_name, record_pks, commit_lsn, commit_idx,
                             to_char(commit_timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), idempotency_key,
                             old_values::text, new_values::text, annotations::text, database_id, database_name, record_id
                      FROM audit_logs ORDER BY id""")
    found = {}
    for row in rows:
        found.setdefault((row[7], row[2], tuple(row[3])), []).append(row)
    assert len(rows) == len(MESSAGES)
    for message in map(exact, MESSAGES):
        meta, action = message["metadata"], message["action"]
        [row] = found[meta["idempotency_key"], meta["table_name"], tuple(meta["record_pks"])]
        assert row[:7] == (action, meta["table_schema"], meta["table_name"], meta["record_pks"],
                           meta["commit_lsn"], meta["commit_idx"], meta["commit_timestamp"])
        old = {"update": message["changes"], "delete": message["record"]}.get(action)
        new = None if action == "delete" else message["record"]
        for expected, text in ((old, row[8]), (new, row[9]), (meta["transaction_annotations"], row[10])):
            assert same(expected, text if text is None else exact(text)), (row[2], expected, text)
        assert row[11:13] == (DATABASE_ID, "corpus-db")
        pks = meta["record_pks"]
        assert row[13] == (None if not pks else pks[0] if len(pks) == 1 else json.dumps(pks, separators=(",", ":"), ensure_ascii=False))


@pytest.mark.parametrize("seed", range(4))
def test_cut_shuffled_and_repeated_from_four_connections(db, seed):
    chance = random.Random(seed)
    db.ingest(batch(MESSAGES[:1]))  # the server has seen the table; nothing else is prepared
    deliveries = []
    for _ in range(4):
        messages = MESSAGES + chance.sample(MESSAGES, 150)
        chance.shuffle(messages)
        cuts = sorted(chance.sample(range(len(messages)), 20)) + [len(messages)]
        deliveries.append([messages[start:end] for start, end in zip([0] + cuts, cuts)])

    def relay(batches):
        connection = db.connect()
        for messages in batches:
            received, _, _, rejected = db.ingest(batch(messages), connection)
            assert (received, rejected) == (len(messages), 0)

    in_threads([lambda batches=batches: relay(batches) for batches in deliveries])
    assert db.value("SELECT count(*) FROM audit_logs") == 411
    assert db.value("SELECT sum(rows)::int FROM audit_status()") == 411, "the tallies count what the log holds"


def test_batches_of_the_corpus(db):
    total = 0
    for number in range(1, 10):
        received, inserted, _, _ = db.ingest((CORPUS / f"batches/data_00{number}.json").read_text())
        assert received == inserted
        total += inserted
    assert total == 411
    for file in sorted((CORPUS / "batches").glob("*.json")):
        received, inserted, _, rejected = db.ingest(file.read_text())
        assert (inserted, rejected) == (0, 0), file.name
        if "empty" not in file.name:
            assert received > 0, file.name


def test_a_batch_twice_inside_one_body(db):
    body = (CORPUS / "batches/redelivery_same_batch_twice_inside.json").read_text()
    assert db.ingest(body) == (20, 10, 10, 0)


def test_sequin_stream_reply(db):
    assert db.ingest((CORPUS / "batches/sequin_stream_receive.json").read_text()) == (6, 6, 0, 0)
    assert db.value("SELECT count(*) FROM audit_logs WHERE new_values ? 'ack_id'") == 0


def test_text_and_jsonb_are_the_same_delivery(db):
    db.ingest(batch(MESSAGES))
    before = stored(db)
    assert db.rows("SELECT * FROM audit_ingest(%s::jsonb)", batch(MESSAGES))[0] == (411, 0, 411, 0)
    assert stored(db) == before


def test_other_spelling_is_the_same_delivery(db):
    db.ingest(batch(MESSAGES))
    respelled = [re.sub('"number:([^"]*)"', r'\1', json.dumps(json.loads(m, parse_float="number:{}".format), indent=2)) for m in MESSAGES]
    assert db.ingest(batch(respelled))[1:] == (0, len(respelled), 0)


def variant(name):
    return batch(lines(f"variants/{name}.jsonl"))


def test_redelivery_after_sequin_restarted(db):
    db.ingest(batch(MESSAGES))
    assert db.ingest(variant("redelivered_after_persist")) == (13, 0, 13, 0)


def test_another_timestamp_format_is_the_same_change(db):
    db.ingest(batch(MESSAGES))
    assert db.ingest(variant("timestamp_format_unix_microsecond")) == (57, 0, 57, 0)


def test_one_key_under_two_table_names_is_two_changes(db):
    db.ingest(batch(MESSAGES))
    for name, renamed in (("lagging_schema_change", 7), ("via_partition_root", 3)):
        received, inserted, duplicates, rejected = db.ingest(variant(name))
        assert (inserted, rejected) == (renamed, 0) and duplicates == received - renamed


def test_rows_without_envelope_are_set_aside(db):
    body = variant("legacy_record_only")
    assert db.ingest(body) == (53, 0, 0, 53)
    assert db.rows("SELECT sum(deliveries)::int, min(sqlstate), max(sqlstate) FROM audit_rejects") == [(53, "2203A", "2203A")]
    assert "record_only" in db.value("SELECT min(hint) FROM audit_rejects")
    distinct = db.value("SELECT count(*) FROM audit_rejects")
    db.ingest(body)
    assert db.rows("SELECT count(*), sum(deliveries)::int FROM audit_rejects") == [(distinct, 106)]


def test_nul_is_stored_beside_the_image(db):
    messages = lines("messages_nul.jsonl")
    assert db.ingest(batch(MESSAGES[:20] + messages + MESSAGES[20:])) == (416, 416, 0, 0)
    found = db.rows("""SELECT coalesce(new_values, old_values) -> 'c_json', coalesce(exact_values -> 'new', exact_values -> 'old') ->> 'c_json'
                       FROM audit_logs WHERE table_name = 't_json_nul' ORDER BY commit_timestamp, commit_idx""")
    for (image, exact), message in zip(found, messages):
        if "\\u0000" in message:
            assert image is None and exact in message, message
        else:
            assert exact is None and image is not None, message


def test_unknown_is_told_from_null(db, empty_source):
    """Against the true rows: what was not sent is listed; a value that was sent never is."""
    db.ingest(batch(MESSAGES))
    assert db.rows("SELECT DISTINCT unknown_columns, replica_identity FROM audit_logs") == [(None, None)], "never described: not guessed"
    description = empty_source.psql("-f", "sql/describe_source.sql").stdout
    assert db.value("SELECT audit_describe_tables(%s, %s, '2026-11-22 21:00+00')", DATABASE_ID, description) == 40
    rows = db.rows("""SELECT action, idempotency_key, table_name, record_pks, unknown_columns, unknown_old_columns FROM audit_logs""")
    found = {(key, table, tuple(pks)): rest for action, key, table, pks, *rest in rows}
    checked = 0
    for truth in TRUTH:
        unknown, unknown_old = found[truth["idempotency_key"], truth["table"], tuple(truth["record_pks"])]
        if truth["table"] == "evolved":  # a later name, which the description does not have
            assert unknown is None
            continue
        sides = [(truth["old"] if truth["action"] == "delete" else truth["new"], "old" if truth["action"] == "delete" else "new", unknown)]
        if truth["action"] == "update":
            sides.append((truth["old"], "old", unknown_old))
        for row, side, listed in sides:
            marks = truth.get(f"{side}_not_exact") or {}
            hidden = {c for c, mark in marks.items() if mark in ("not_carried", "unchanged_toast", "null_in_read", "absent")}
            assert hidden <= set(listed), (truth["n"], side)
            if listed is unknown:
                # of the other columns only those that really are null may be listed: the message cannot tell
                assert all(row[c] is None for c in set(listed) - hidden), (truth["n"], side)
            checked += len(hidden)
    assert checked > 150


def described(identity, at, keys=("id",)):
    return json.dumps({"described_at": at, "tables": [{
        "table_schema": "public", "table_name": "orders", "replica_identity": identity, "key_columns": list(keys), "identity_columns": list(keys),
        "column_types": {"id": "integer", "note": "text"}, "never_sent": [], "null_in_reads": []}]})


def test_a_description_holds_from_its_time(db):
    """Today's FULL says nothing about last year's rows."""
    gone = {"id": 1, "note": None}
    db.ingest(batch([change(n, action="delete", record=gone, time=f"2026-0{n}-15T00:00:00.000000Z") for n in range(1, 5)]))
    assert db.value("SELECT audit_describe_tables('d1', %s)", described("full", "2026-04-01 00:00+00")) == 1
    assert db.value("SELECT audit_describe_tables('d1', %s)", described("default", "2026-02-01 00:00+00")) == 1
    assert db.value("SELECT audit_describe_tables('d1', %s)", described("default", "2026-03-01 00:00+00")) == 0, "nothing new"
    assert db.value("SELECT audit_describe_tables('other', %s)", described("full", "2025-01-01 00:00+00")) == 1
    assert db.rows("SELECT replica_identity, unknown_columns FROM audit_logs ORDER BY commit_idx") == [
        (None, None), ("default", ["note"]), ("default", ["note"]), ("full", [])]
    assert db.value("SELECT audit_describe_tables('d1', %s, '2026-01-01 00:00+00')", described("default", "2026-09-01 00:00+00")) == 1
    assert db.value("SELECT unknown_columns FROM audit_logs WHERE commit_idx = 1") == ["note"]
    assert db.rows("SELECT described FROM audit_status()") == [(True,)]


def test_descriptions_out_of_order(db):
    for identity, at in (("full", "2026-01-01"), ("full", "2026-05-01"), ("default", "2026-03-01"), ("default", "2026-02-01")):
        db.run("SELECT audit_describe_tables('d1', %s)", described(identity, at + " 00:00+00"))
    assert db.rows("SELECT replica_identity, valid_from::date::text FROM audit_described_tables ORDER BY valid_from") == [
        ("full", "2026-01-01"), ("default", "2026-02-01"), ("default", "2026-03-01"), ("full", "2026-05-01")]


def test_leaves_decide_what_a_delete_carries(db):
    db.run("""CREATE TABLE p (id int NOT NULL, k int NOT NULL, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
              CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2); CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3);
              CREATE UNIQUE INDEX p1_k ON p1 (k); ALTER TABLE p1 REPLICA IDENTITY USING INDEX p1_k; ALTER TABLE p3 REPLICA IDENTITY FULL""")
    description = json.loads(db.psql("-f", "sql/describe_source.sql").stdout)
    found = {t["table_name"]: (t["replica_identity"], t["identity_columns"]) for t in description["tables"] if t["table_schema"] == "public"}
    assert found == {"p": ("default", ["k"]), "p1": ("index", ["k"]), "p2": ("default", ["id", "k"]), "p3": ("full", ["id", "k", "v"])}


def test_an_entry_that_knows_better(db):
    """As a capture from the WAL will: its own list counts, whatever the description says."""
    db.ingest(batch([change(0, action="delete", record={"id": 1, "note": None})]))
    db.run("SELECT audit_describe_tables('d1', %s)", described("default", "2026-01-01 00:00+00"))
    db.run("""INSERT INTO audit_cdc_internal.log (id, commit_timestamp, created_at, identity, audited_table, action, origin, idempotency_key, old_values, unknown_columns, unknown_old_columns)
              SELECT id + 1, commit_timestamp, now(), gen_random_uuid(), audited_table, action, origin, 'k', old_values, '{}', '{id}' FROM audit_cdc_internal.log""")
    assert db.rows("SELECT unknown_columns, unknown_old_columns FROM audit_logs ORDER BY id") == [(["note"], ["note"]), ([], ["id"])]


@pytest.fixture
def empty_source(empty):
    """The source database of the corpus."""
    name = empty.name + "_source"
    admin(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    source = Database(name)
    loaded = source.psql("-f", str(CORPUS / "schema.sql"))
    assert loaded.returncode == 0, loaded.stderr
    yield source
    admin(f"DROP DATABASE {name} WITH (FORCE)")
