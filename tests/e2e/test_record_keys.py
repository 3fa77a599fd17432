"""One record, one record_key, however a change and a backfill spell its key."""

import itertools
import json
import random

import pytest
from conftest import DATABASE_ID, CORPUS, Database, admin, batch, change, in_threads, lines, numbers
from projection_helpers import run, waiting


def described(types, table="orders", at="2026-01-01", keys=None, **fields):
    """The key's types, by its columns."""
    columns = types if isinstance(types, dict) else {"id": types}
    return json.dumps({"described_at": at, "tables": [{
        "table_schema": "public", "table_name": table, "replica_identity": "default", "key_columns": list(keys or columns), "identity_columns": list(keys or columns),
        "column_types": {**columns, "note": "text"}, "never_sent": [], "null_in_reads": [], **fields}]})


def describe(db, types, table="orders", database="d1", **fields):
    db.run("SELECT audit_describe_tables(%s, %s)", database, described(types, table, **fields))


def entries(*keys, first=0, **fields):
    """Changes of records, and backfills of the same; a key is a text or a tuple."""
    as_list = [list(key) if isinstance(key, tuple) else [key] for key in keys]
    return [change(first + n, pks=pks, **fields) if n % 2 else
            change(None, lsn=None, action="read", key=f"r{first + n}", pks=pks, **fields) for n, pks in enumerate(as_list)]


def keys(db, table="orders"):
    """Spellings → how many record_keys they have."""
    return dict(db.rows("SELECT record_id, record_key FROM audit_logs WHERE table_name = %s", table))


# a type, then groups of spellings: one record_key each, and all groups' different
SPELLINGS = [
    ("timestamp with time zone", ["2024-05-01 10:00:00.5+00", "2024-05-01T10:00:00.500000Z", "2024-05-01 12:00:00.5+02", "2024-05-01 10:00:00.500000Z"],
     ["2024-05-01 10:00:00.50001+00", "2024-05-01T10:00:00.500010Z"], ["2024-05-01 10:00:00+00", "2024-05-01T10:00:00.000000Z", "2024-05-01T10:00:00Z"], ["infinity"], ["-infinity"],
     ["0044-03-15 00:00:00+00 BC"]),
    ("timestamp(3) with time zone", ["2024-05-01 10:00:00.5+00", "2024-05-01T10:00:00.500000Z"]),
    ("timestamp without time zone", ["2024-05-01 10:00:00.5", "2024-05-01T10:00:00.500000"], ["2024-05-01 10:00:00", "2024-05-01T10:00:00.000000"]),
    ("timestamp(0) without time zone", ["2024-05-01 10:00:00", "2024-05-01T10:00:00"]),
    ("time without time zone", ["10:00:00.5", "10:00:00.500000"], ["10:00:00", "10:00:00.000000", "10:00"], ["24:00:00"], ["00:00:00", "00:00:00.000000"]),
    ("time with time zone", ["10:00:00.5+02", "10:00:00.500000+02:00"], ["08:00:00.5+00"]),
    ("date", ["2024-05-01", "2024-05-01 "], ["2024-05-02"], ["infinity"]),
    ("numeric", ["1.5", "1.50", "1.500", "01.5"], ["0.00000001", "1E-8", "1e-8", "0.000000010"], ["100000000000000000000", "1e20", "1E+20", "1.0e20"], ["0", "0.00", "-0"], ["NaN"], ["-1.5"],
     ["12345678901234567890.12345678901234567890", "12345678901234567890.1234567890123456789"]),
    ("numeric(10,2)", ["1.5", "1.50"], ["1.51"]),
    ("numeric(6,-2)", ["100", "1E+2"]),
    ("double precision", ["1e+20", "1.0e20", "100000000000000000000", "1E20"], ["0.1", "0.10", "1e-1"], ["0", "-0", "0.0", "-0.0"], ["Infinity"], ["-Infinity"], ["NaN"], ["0.30000000000000004"], ["0.3"]),
    ("real", ["1.5", "1.50", "15e-1"], ["0.1", "0.10"], ["1e+20", "1.0e20"]),
    ("interval", ["1 day 02:00:00", "1 day 2 hours"], ["1 day 02:00:01"]),
    ("character(4)", ["ab", "ab  "], ["AB", "AB  "], [" ab"]),
    ("citext", ["Ada", "ada", "ADA"], ["Bob"], ["Émile", "émile"]),
    ("ext.citext", ["Ada", "ada"]),
    ('"My Ext".citext', ["Ada", "ada"]),
]
UNCHANGED = [  # not merged
    ("text", ["1.5", "1.50", "2024-05-01 10:00:00.5+00", "2024-05-01T10:00:00.500000Z", "a", "A", "a "]),
    ("character varying(10)", ["a", "A", "a ", "1.5", "1.50"]),
    ("integer", ["1", "01", "1.0"]),
    ("uuid", ["a", "A"]),
    ("mood", ["1.5", "1.50"]),
    ("numeric[]", ["{1.5}", "{1.50}"]),
    ("timestamp with time zone", ["not a time", "Not a time", "2024-13-01 10:00:00", "2024-13-01T10:00:00"]),
    ("numeric", ["abc", "ABC", "1,5", "1.5.0"]),
    ("double precision", ["abc", "1e400", "1.0e400"]),
    ("date", ["2024-02-30", "2024-02-30 "]),
    ("time without time zone", ["25:00:00", "25:00"]),
    ("interval", ["one day", "One day"]),
]


@pytest.mark.parametrize("when", ["before", "after", "between"])
@pytest.mark.parametrize("type_, groups", [(type_, groups) for type_, *groups in SPELLINGS], ids=[type_ for type_, *_ in SPELLINGS])
def test_spellings_of_one_key(db, type_, groups, when):
    everything = [spelling for group in groups for spelling in group]
    random.Random(len(everything)).shuffle(everything)
    half = len(everything) // 2 if when == "between" else 0 if when == "before" else len(everything)
    for spelling in everything[:half]:
        db.ingest(batch(entries(spelling, first=everything.index(spelling))))
    describe(db, type_)
    db.ingest(batch([entry for spelling in everything[half:] for entry in entries(spelling, first=everything.index(spelling))]))
    found = keys(db)
    assert found.keys() == set(everything)
    merged = [{found[spelling] for spelling in group} for group in groups]
    assert [len(group) for group in merged] == [1] * len(groups), found
    assert len(set.union(*merged)) == len(groups), found
    db.ingest(batch(entries(*everything, first=100)))
    assert keys(db) == found and db.value("SELECT count(DISTINCT record_key) FROM audit_logs") == len(groups)


@pytest.mark.parametrize("type_, spellings", UNCHANGED, ids=[f"{type_}: {spellings[0]}" for type_, spellings in UNCHANGED])
def test_what_is_not_merged(db, type_, spellings):
    db.ingest(batch(entries(*spellings)))
    describe(db, type_)
    db.ingest(batch(entries(*spellings, first=20)))
    assert keys(db) == {spelling: spelling for spelling in spellings}


def test_not_described_is_not_merged(db):
    db.ingest(batch(entries("1.5", "1.50", "2024-05-01 10:00:00.5+00", "2024-05-01T10:00:00.500000Z")))
    assert all(one == two for one, two in keys(db).items())


def test_composite_keys(db):
    one = ("2024-05-01 10:00:00.5+00", "1.50", "a", "Ada")
    other = ("2024-05-01T10:00:00.500000Z", "1.5", "a", "ADA")
    different = ("2024-05-01T10:00:00.500000Z", "1.5", "A", "ADA")
    broken = ("no time", "1.5", "a", "ada")
    too_few = ("2024-05-01T10:00:00.500000Z", "1.5")
    db.ingest(batch(entries(one, broken, too_few)))
    describe(db, {"at": "timestamp with time zone", "rate": "numeric", "name": "text", "user": "citext"})
    db.ingest(batch(entries(other, different, ("no time", "1.50", "a", "Ada"), first=10)))
    found = {tuple(pks): key for pks, key in db.rows("SELECT record_pks, record_key FROM audit_logs")}
    assert found[one] == found[other] == '["2024-05-01 10:00:00.5+00","1.5","a","ada"]'
    assert found[broken] == found["no time", "1.50", "a", "Ada"] == '["no time","1.5","a","ada"]', "each value for itself"
    assert found[too_few] == json.dumps(too_few, separators=(",", ":"))
    assert len(set(found.values())) == 4


def test_a_single_key_that_looks_like_an_array(db):
    describe(db, "citext")
    db.ingest(batch(entries('["A","b"]', '["a","B"]', "[", ("[A", "b"), first=0)))
    assert keys(db) == {'["A","b"]': '["a","b"]', '["a","B"]': '["a","b"]', "[": "[", '["[A","b"]': '["[A","b"]'}


def test_values_with_all_kinds_of_characters(db):
    describe(db, {"a": "citext", "b": "numeric"})
    values = ['quo"te', "back\\slash", "{}", "NULL", "null", "", "a,b", "\t\n", "é", "'; DROP TABLE x; --", "{\"a\"}"]
    db.ingest(batch(entries(*((value.upper(), "1.50") for value in values)) + entries(*((value, "1.5") for value in values), first=50)))
    assert db.value("SELECT count(*) FROM audit_logs") == 2 * len(values)
    found = {tuple(pks): key for pks, key in db.rows("SELECT record_pks, record_key FROM audit_logs")}
    for value in values:
        assert found[value.upper(), "1.50"] == found[value, "1.5"], value
    assert len(set(found.values())) == len({value.lower() for value in values})


def test_keys_too_long_to_be_kept_as_they_are(db):
    describe(db, "citext")
    db.ingest(batch(entries("A" * 3000, "a" * 3000, "A" * 1900, "a" * 1900)))
    found = keys(db)
    assert found["A" * 1900] == found["a" * 1900]
    assert all(key == id_ for id_, key in found.items() if id_.startswith("sha256:"))


def test_tables_without_a_key_and_empty_ones(db):
    describe(db, "numeric")
    db.ingest(batch([change(0, pks=[]), change(1, pks=[""]), change(2, pks=["1.50"])]))
    assert db.rows("SELECT record_id, record_key FROM audit_logs ORDER BY commit_idx") == [(None, None), ("", ""), ("1.50", "1.5")]


def test_the_new_entries_have_it_too(db):
    describe(db, "numeric")
    db.run("CREATE TABLE feed (id bigint, record_key text)")
    db.run("SELECT audit_create_projection('feed', 'SELECT id, record_key FROM audit_new_logs')")
    db.ingest(batch(entries("1.50", "1.5", "abc")))
    assert db.rows("SELECT * FROM feed ORDER BY id") == db.rows("SELECT id, record_key FROM audit_logs ORDER BY id")


# ---------------------------------------------------------------------------------------------------------- descriptions change


def test_a_later_description_with_other_types_spells_anew(db):
    spelled = ("1.5", "1.50", "1.50 ")
    db.ingest(batch(entries(*spelled)))
    for at, type_, different in [("2026-01-01", "numeric", 1), ("2026-01-02", "text", 3), ("2026-01-03", "character(6)", 2), ("2026-01-04", "numeric", 1), ("2026-01-05", "integer", 3)]:
        describe(db, type_, at=at)
        assert len(set(keys(db).values())) == different, type_
        db.ingest(batch(entries(*spelled, first=10 * int(at[-1]))))
        assert len(set(keys(db).values())) == different, type_
    describe(db, "numeric", at="2026-01-03 12:00")
    assert len(set(keys(db).values())) == 3, "an older description is not the latest"


def test_the_latest_description_counts_for_all_entries_of_a_record(db):
    db.ingest(batch(entries("1.5", time="2020-01-01T00:00:00.000000Z") + entries("1.50", time="2030-01-01T00:00:00.000000Z")))
    describe(db, "numeric", at="2025-01-01")
    assert set(keys(db).values()) == {"1.5"}


def test_a_key_of_other_columns(db):
    types = {"a": "numeric", "b": "citext"}
    db.ingest(batch(entries(("1.50", "X"), ("X", "1.50"), "1.50")))
    describe(db, types, keys=["a", "b"], at="2026-01-01")
    assert set(keys(db).values()) == {'["1.5","x"]', '["X","1.50"]', "1.50"}
    describe(db, types, keys=["b", "a"], at="2026-01-02")
    assert set(keys(db).values()) == {'["1.50","X"]', '["x","1.5"]', "1.50"}
    describe(db, types, keys=["a"], at="2026-01-03")
    assert set(keys(db).values()) == {'["1.50","X"]', '["X","1.50"]', "1.5"}


def test_other_tables_and_databases_are_untouched(db):
    db.ingest(batch(entries("1.50") + entries("1.50", table="lines") + entries("1.50", database="d2") + entries("1.50", table_schema="other")))
    describe(db, "numeric", table="lines")
    describe(db, "numeric")
    mine = "SELECT record_key FROM audit_logs WHERE database_id = 'd1' AND table_schema = 'public'"
    others = "SELECT record_key FROM audit_logs WHERE NOT (database_id = 'd1' AND table_schema = 'public')"
    assert db.rows(mine) == [("1.5",)] * 2 and db.rows(others) == [("1.50",)] * 2
    describe(db, "text", at="2026-02-01")
    assert keys(db, "lines") == {"1.50": "1.5"}
    assert db.value("SELECT record_key FROM audit_logs WHERE table_name = 'orders' AND database_id = 'd1' AND table_schema = 'public'") == "1.50"


def test_a_database_that_was_renamed_is_the_same(db):
    first, second = entries("1.50"), entries("1.5", first=5)
    second[0]["metadata"]["database"]["name"] = "renamed"
    db.ingest(batch(first))
    describe(db, "numeric")
    db.ingest(batch(second))
    describe(db, "text", at="2026-02-01")
    describe(db, "numeric", at="2026-03-01")
    assert set(keys(db).values()) == {"1.5"}


# ------------------------------------------------------------------------------------------------------------------ at once


@pytest.mark.parametrize("known", [False, True], ids=["a table never seen", "a table that is known"])
def test_an_ingest_that_is_open_when_the_table_is_described(db, known):
    if known:
        db.ingest(batch(entries("7")))
    relay = db.connect()
    run(relay, "BEGIN")
    db.ingest(batch(entries("1.50", "1.5", first=10)), relay)
    with waiting(db, "SELECT audit_describe_tables('d1', %s)", described("numeric")) as outcome:
        run(relay, "COMMIT")
    assert outcome == [None]
    assert {key for id_, key in keys(db).items() if id_ != "7"} == {"1.5"}


def test_an_ingest_that_waits_for_the_description_of_its_table(db):
    admin_ = db.connect()
    run(admin_, "BEGIN")
    run(admin_, "SELECT audit_describe_tables('d1', %s)", described("numeric"))
    with waiting(db, "SELECT audit_ingest(%s)", batch(entries("1.50"))) as outcome:
        run(admin_, "COMMIT")
    assert outcome == [None] and keys(db) == {"1.50": "1.5"}


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot_fails_rather_than_missing_the_description(db, level):
    db.ingest(batch(entries("7")))
    old = db.connect()
    run(old, f"BEGIN ISOLATION LEVEL {level}; SELECT FROM pg_class LIMIT 1")
    describe(db, "numeric")
    with pytest.raises(Exception) as raised:
        db.ingest(batch(entries("1.50", first=2)), old)
    assert raised.value.pgcode == "40001"


@pytest.mark.parametrize("seed", range(3))
def test_relays_and_descriptions_at_once_miss_none(db, seed):
    """Four relays with changes and backfills of tables never seen, and descriptions that come and change meanwhile."""
    chance = random.Random(seed)
    spelled = [("1.5", "1.50"), ("2", "2.000"), ("3e1", "30"), ("4.0", "4")]
    tables = [f"t{n}" for n in range(6)]
    messages = [entry for n, (table, pair, copy) in enumerate(itertools.product(tables, spelled, range(6))) for entry in entries(*pair, first=2 * n, table=table)]

    def relay(mine):
        connection = db.connect()
        for start in range(0, len(mine), 15):
            db.ingest(batch(mine[start:start + 15]), connection)

    def describing():
        connection = db.connect()
        for day, type_ in enumerate(["text", "numeric", "citext", "numeric"], 1):
            for table in chance.sample(tables, len(tables)):
                run(connection, "SELECT audit_describe_tables('d1', %s)", described(type_, table, at=f"2026-01-0{day}"))

    in_threads([describing] + [lambda mine=chance.sample(messages, len(messages)): relay(mine) for _ in range(4)])
    for table in tables:
        found = keys(db, table)
        assert len(found) == 8 and [found[one] == found[two] for one, two in spelled] == [True] * 4, (table, found)
        assert len(set(found.values())) == 4


def test_every_record_of_the_corpus_has_one_key(db):
    """By the columns of the rows themselves: changes and backfills of a record agree."""
    source = Database(f"{db.name}_source_{next(numbers)}")
    admin(f"CREATE DATABASE {source.name} TEMPLATE template0 ENCODING 'UTF8'")
    try:
        assert source.psql("-f", str(CORPUS / "schema.sql")).returncode == 0
        description = source.psql("-f", "sql/describe_source.sql").stdout
        messages = lines("messages.jsonl")
        random.Random(1).shuffle(messages)
        db.ingest(batch(messages[:200]))
        db.run("SELECT audit_describe_tables(%s, %s)", DATABASE_ID, description)
        db.ingest(batch(messages[200:]))
        stored = {(key, table, tuple(pks)): record_key for key, table, pks, record_key in db.rows("SELECT idempotency_key, table_name, record_pks, record_key FROM audit_logs")}
        by_record = {}
        described_ = {(t["table_schema"], t["table_name"]): t["key_columns"] for t in json.loads(description)["tables"]}
        for truth in map(json.loads, lines("source_rows.jsonl")):
            columns = described_.get((truth["schema"], truth["table"]))
            row = truth["old"] if truth["action"] == "delete" else truth["new"]
            if columns and "" not in truth["record_pks"]:  # of some deletes Sequin does not have the key
                record = (truth["schema"], truth["table"], *(row[name].lower() if "citext" in truth["types"][name] else row[name] for name in columns))
                by_record.setdefault(record, set()).add(stored[truth["idempotency_key"], truth["table"], tuple(truth["record_pks"])])
        assert len(by_record) > 60
        assert {record: found for record, found in by_record.items() if len(found) > 1} == {}
        assert len({(record[:2], *found) for record, found in by_record.items()}) == len(by_record), "and different records different ones"
    finally:
        admin(f"DROP DATABASE {source.name} WITH (FORCE)")
