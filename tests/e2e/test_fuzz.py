"""Any bytes give rows, rejects or a clean error: never a crash, XX000 or a lost message."""

import json
import random

import psycopg2
import pytest
from conftest import batch, change, lines

MESSAGES = lines("messages.jsonl") + lines("messages_nul.jsonl")
JUNK = ["null", "true", "-1", "1e999", "1E400", "[]", "{}", '""', '"\\u0000"', '"\\ud83d"', '"\\udc00\\ud800"', "[[]]", "99999999999999999999999", "\\", '"', "\x7f", "é", "𝒳", ",", ":"]


def damaged(text, chance):
    kind = chance.randrange(6)
    at = chance.randrange(len(text))
    if kind == 0:
        return text[:at] + chance.choice(JUNK) + text[at + 1:]
    if kind == 1:
        return text[:at] + text[at + chance.randrange(1, 40):]
    if kind == 2:
        return text[:at]
    message = json.loads(text)
    target = chance.choice([message, message["metadata"], message["metadata"]["database"], message["record"]])
    if target:
        key = chance.choice(list(target))
        if kind == 3:
            del target[key]
        else:
            target[key] = "JUNK"
    return json.dumps(message).replace('"JUNK"', chance.choice(JUNK[:13]))


@pytest.mark.once
@pytest.mark.parametrize("seed", range(3))
def test_damaged_messages(db, seed):
    chance = random.Random(seed)
    connection = db.connect()
    received = 0
    for _ in range(300):
        messages = [damaged(chance.choice(MESSAGES), chance) if chance.random() < 0.5 else chance.choice(MESSAGES)
                    for _ in range(chance.randrange(1, 8))]
        body = chance.choice([batch, "[{}]".format, lambda m: m])(messages) if len(messages) == 1 else batch(messages)
        if not isinstance(body, str):
            body = body[0]
        if "\0" in body:
            continue
        try:
            received += db.ingest(body, connection)[0]
        except psycopg2.Error as error:
            pytest.fail(f"{error.pgcode}: {error}\n{body[:500]}")
    delivered = db.value("SELECT (SELECT count(*) FROM audit_logs) + (SELECT count(*) FROM audit_rejects)")
    assert 0 < delivered <= received
    assert db.value("SELECT count(*) FROM audit_rejects WHERE sqlstate !~ '^(22|23|54)'") == 0
    assert db.value("SELECT sum(rows)::int FROM audit_status()") == db.value("SELECT count(*) FROM audit_logs")


@pytest.mark.once
def test_random_text(db):
    chance = random.Random(11)
    connection = db.connect()
    received = 0
    for _ in range(500):
        body = "".join(chance.choice('{}[]",:\\u0d8eE+-.19 \n\tnulltruefals' + "é𝒳\u2028") for _ in range(chance.randrange(60)))
        received += db.ingest(body, connection)[0]
    assert received >= 450  # no body is passed over, but for empty lists
    assert db.value("SELECT (SELECT count(*) FROM audit_logs) + (SELECT sum(deliveries)::int FROM audit_rejects)") == received


@pytest.mark.once
@pytest.mark.parametrize("seed", range(2))
def test_retrying_loses_nothing(db, seed):
    """What a retry stores or leaves open is what was set aside."""
    chance = random.Random(seed)
    for _ in range(30):
        db.ingest(batch(damaged(chance.choice(MESSAGES), chance) for _ in range(5)))
    before = db.value("SELECT count(*) FROM audit_rejects WHERE stored_at IS NULL")
    [(received, inserted, duplicates, rejected)] = db.rows("SELECT * FROM audit_retry_rejects()")
    assert received == before == rejected and (inserted, duplicates) == (0, 0)
    assert db.value("SELECT count(*) FROM audit_rejects WHERE stored_at IS NULL") == before
