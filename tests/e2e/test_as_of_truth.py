"""Captured tables beside what they really held: as-of at every commit, by table and by record, gives just that."""

import random

import pytest
from capture_helpers import capture, publish, source, start  # noqa: F401

KEYS = range(1, 9)
# the log's own order tells the events; updates gave rows another key
READING = "SELECT is_plain, may_move FROM audit_cdc_internal.reading_as_of(audit_cdc_internal.table_named('t', NULL, NULL), NULL, NULL, NULL, false)"
TABLES = {
    "full": "CREATE TABLE t (id int PRIMARY KEY, n numeric, doc text); ALTER TABLE t REPLICA IDENTITY FULL",
    "default": "CREATE TABLE t (id int PRIMARY KEY, n numeric, doc text)",
    # two rows have one key for a moment
    "shifting": "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, n numeric, doc text); ALTER TABLE t REPLICA IDENTITY FULL",
    "composite": "CREATE TABLE t (id int, n numeric, doc text, part int DEFAULT 1, PRIMARY KEY (id, part)); ALTER TABLE t REPLICA IDENTITY FULL",
}


def change(chance, kind):
    key, number = chance.choice(KEYS), chance.randrange(3)
    changes = [
        f"INSERT INTO t (id, n, doc) SELECT {key}, {number}.0, repeat('{number}', 3000) WHERE {key} NOT IN (SELECT id FROM t)",
        f"INSERT INTO t (id, n) SELECT i, {number} FROM generate_series({key}, 8) AS i WHERE i NOT IN (SELECT id FROM t)",
        f"UPDATE t SET n = n + {number} WHERE id % 2 = {key % 2}",  # its document is not sent
        f"UPDATE t SET doc = '{number}' WHERE id = {key}",
        f"DELETE FROM t WHERE id = {key}",
    ]
    if kind != "default":
        changes += [f"UPDATE t SET id = id + 20 WHERE id = {key} AND id + 20 NOT IN (SELECT id FROM t)",
                    "UPDATE t SET id = id - 20 WHERE id > 20 AND id - 20 NOT IN (SELECT id FROM t)"]
    if kind == "shifting":
        changes += ["UPDATE t SET id = CASE WHEN id < 8 THEN id + 1 ELSE 1 END WHERE id <= 8", "UPDATE t SET id = 9 - id, n = n + 1 WHERE id <= 8"]
    return chance.choice(changes + ["TRUNCATE t"] * (chance.random() < 0.2))


@pytest.mark.once
@pytest.mark.parametrize("kind", TABLES)
def test_as_of_gives_what_was_there(source, kind):  # noqa: F811
    chance = random.Random(kind)
    source.run(TABLES[kind] + "; ALTER TABLE t ALTER doc SET STORAGE EXTERNAL")
    publish(source)
    start(source)
    rows = "SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY id), '[]') FROM {} AS t"
    truth = [[]]
    connection = source.connect()
    for _ in range(40):
        connection.cursor().execute("; ".join(["BEGIN", *(change(chance, kind) for _ in range(chance.randint(1, 3))), "COMMIT"]))
        now = source.value(rows.format("t"), connection=connection)
        if now != truth[-1]:
            truth.append(now)
        if chance.random() < 0.05:
            capture(source)
            source.run("CALL audit_backfill('t')")
    capture(source)
    of_changes = "SELECT commit_lsn FROM audit_logs GROUP BY 1 HAVING NOT bool_and(action IN ('read', 'complete')) ORDER BY 1"
    told = [[]]
    for (lsn,) in source.rows(of_changes):
        then = f"lsn => '0/0'::pg_lsn + {lsn}"
        there = source.value(rows.format(f"audit_as_of(NULL::t, {then})"))
        if there != told[-1]:
            told.append(there)
        if chance.random() < 0.15:
            for key in [*KEYS, *(key + 20 for key in KEYS)]:
                name = f'["{key}","1"]' if kind == "composite" else key
                assert source.value(rows.format(f"audit_as_of(NULL::t, {then}, key => '{name}')")) == [row for row in there if row["id"] == key]
    assert told == truth
    assert source.rows(READING) == [(True, kind != "default")]
    # where no key was changed, none is worked out
    connection.cursor().execute("BEGIN; SET LOCAL track_functions = 'all'; SELECT audit_as_of('t')")
    calls = source.rows("SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'key_before'", connection=connection)
    assert (calls == []) == (kind == "default")


def test_a_record_by_itself_is_as_in_the_table(source):  # noqa: F811
    """No row was moved and none truncated. Commits overtake each other, as they do in busy seconds."""
    chance = random.Random(11)
    source.run(TABLES["full"])
    publish(source, "TABLE t")
    start(source)
    session = source.connect()
    for _ in range(60):
        key = chance.choice(KEYS)
        session.cursor().execute(f"INSERT INTO t VALUES ({key}, 0) ON CONFLICT (id) DO UPDATE SET n = t.n + 1" if chance.random() < 0.8 else f"DELETE FROM t WHERE id = {key}")
    capture(source)
    [partition] = [name for (name,) in source.rows("SELECT DISTINCT tableoid::regclass::text FROM audit_cdc_internal.log")]
    source.run(f"ALTER TABLE {partition} DISABLE TRIGGER USER; UPDATE {partition} SET commit_timestamp = commit_timestamp + random() * interval '0.3 s'")
    times = [time for (time,) in source.rows("SELECT commit_timestamp::text FROM audit_logs WHERE table_name = 't'")]
    for at in ["now() + interval '1 hour'", "NULL", *(f"'{time}'" for time in chance.sample(times, 20))]:
        table = source.rows(f"SELECT to_jsonb(t) FROM audit_as_of(NULL::t, {at}) AS t ORDER BY id")
        records = source.rows(f"SELECT r FROM generate_series(1, 8) AS k, LATERAL (SELECT to_jsonb(t) AS r FROM audit_as_of(NULL::t, {at}, key => k::text) AS t) AS o ORDER BY k")
        assert records == table, at
