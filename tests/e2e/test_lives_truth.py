"""The corpus beside its true rows: as-of at every commit, replay, undo and redo of every change give what was there, or say unknown."""

import collections
import json

import pytest
from cast_helpers import identifier, session
from conftest import CORPUS, DATABASE_ID, batch, lines

TRUTH = [json.loads(line) for line in lines("source_rows.jsonl")]
CHANGES = [truth for truth in TRUTH if truth["action"] != "read"]
TRUNCATED = {("public", "nopk_full"), ("public", "nopk_default")}
RENAMED = {("public", "evolved"): ("public", "evolving")}
Row = collections.namedtuple("Row", "values marks")


def table_of(truth):
    return truth["schema"], truth["table"]


def qualified(table):
    return ".".join(map(identifier, table))


TABLES = sorted({table_of(truth) for truth in CHANGES})
FULL = {table for table in TABLES if {truth["replica_identity"] for truth in CHANGES if table_of(truth) == table} == {"full"}}


def states():
    """(table, lsn of each commit that changed it, its rows then, its columns and their types then), up to the first TRUNCATE."""
    rows = collections.defaultdict(list)
    found = []
    truncated = set()
    for n, truth in enumerate(CHANGES):
        table = table_of(truth)
        if table in TRUNCATED and "truncate" in json.dumps(truth["new"]):
            truncated.add(table)  # the transaction that truncates it begins with this row
        if table in truncated:
            continue
        if table in RENAMED and RENAMED[table] in rows:
            rows[table] = rows.pop(RENAMED[table])
        if truth["old"] is not None:
            [place, *_] = [place for place, row in enumerate(rows[table]) if all(row.values[c] == v for c, v in truth["old"].items() if c in row.values)]
            del rows[table][place]
        if truth["new"] is not None:
            rows[table].append(Row(truth["new"], truth.get("new_not_exact") or {}))
        if n + 1 == len(CHANGES) or all(later["commit_lsn"] != truth["commit_lsn"] or table_of(later) != table for later in CHANGES[n + 1:]):
            found.append((table, truth["commit_lsn"], list(rows[table]), truth["types"]))
    return found


STATES = states()


@pytest.fixture(scope="module", params=["described", "not described"])
def source(request):
    with session() as db:
        loaded = db.psql("-f", str(CORPUS / "schema.sql"))
        assert loaded.returncode == 0, loaded.stderr
        assert db.ingest(batch(lines("messages.jsonl"))) == (411, 411, 0, 0)
        db.is_described = request.param == "described"
        if db.is_described:
            db.run("SELECT audit_describe_tables(%s, %s, '2026-11-22 21:00+00')", DATABASE_ID, db.psql("-f", "sql/describe_source.sql").stdout)
        db.run("CREATE SCHEMA truth")
        db.layouts = {}
        yield db


def layout(db, types):
    key = tuple(sorted(types.items()))
    if key not in db.layouts:
        db.layouts[key] = f"truth.t{len(db.layouts)}"
        columns = (f"{identifier(name)} {type_ if db.has_xml or type_ != 'xml' else 'text'}" for name, type_ in types.items())
        db.run(f"CREATE TYPE {db.layouts[key]} AS ({', '.join(columns)})")
    return db.layouts[key]


def same(column, one, two, types):
    if one == two or {one, two} == {"0", "-0"} or "xml" in types[column]:
        return True
    return types[column] == "json" and None not in (one, two) and json.loads(one) == json.loads(two)


def is_truth(found, row, types):
    """All that is known of a row, but for what its message had lost already."""
    return all(same(column, value, row.values.get(column), types) for column, value in found.items() if column not in row.marks)


def rows_as_of(db, table, lsn, types):
    """Each row: what is known of it, as text."""
    names = list(types)
    shown = ", ".join(f"written(r.{identifier(name)})" for name in names)
    rows = db.rows(f"""SELECT image, {shown} FROM audit_as_of(%s, lsn => '0/0'::pg_lsn + %s) AS image, audit_row(NULL::{layout(db, types)}, image) AS r""", qualified(table), lsn)
    return [{name: text for name, text in zip(names, texts) if name in image} for image, *texts in rows]


def matched(found, truth, types, table=None):
    """How many of what was found is true, each of another row."""
    left = list(truth)
    for row in found:
        fitting = next((place for place, true in enumerate(left) if is_truth(row, true, types)), None)
        assert fitting is not None, (table, row, [true.values for true in left])
        del left[fitting]
    return len(truth) - len(left)


def test_as_of_at_every_commit_is_true_or_unknown(source):
    exact = 0
    for table, lsn, truth, types in STATES:
        found = rows_as_of(source, table, lsn, types)
        unknown = source.rows("SELECT reason FROM audit_as_of_unknown(%s, lsn => '0/0'::pg_lsn + %s) WHERE unknown_columns IS NULL", qualified(table), lsn)
        assert matched(found, truth, types, (table, lsn)) == len(found), (table, lsn)
        assert len(found) <= len(truth) <= len(found) + len(unknown), (table, lsn, truth, found, unknown)
        if table in FULL and (source.is_described or table not in TRUNCATED):  # without key or description, the nulls of a deleted row may be unknown
            assert len(found) == len(truth) and not unknown, (table, lsn, unknown)
            assert all({c for c in true.values if c not in true.marks} <= set(row) for row, true in zip(found, truth)), (table, lsn)
            exact += 1
    expected = [table for table, *_ in STATES if table in FULL and (source.is_described or table not in TRUNCATED)]
    assert exact == len(expected) > 50 and {table for table, *_ in STATES} == set(TABLES)


def test_as_of_between_two_commits_is_the_first(source):
    for table, lsn, truth, types in STATES:
        assert rows_as_of(source, table, lsn, types) == rows_as_of(source, table, lsn + 1, types)


def test_typed_rows_are_the_same(source):
    """But for the sign of a zero, which jsonb does not hold."""
    unsigned = lambda rows: sorted((["0" if value == "-0" else value for value in row] for row in rows), key=repr)
    last = {table: (lsn, types) for table, lsn, _, types in STATES}
    for table, (lsn, types) in last.items():
        shown = ", ".join(f"written(r.{identifier(name)})" for name in types)
        typed = source.rows(f"SELECT {shown} FROM audit_as_of(NULL::{layout(source, types)}, lsn => '0/0'::pg_lsn + %s, table_name => %s) AS r", lsn, qualified(table))
        as_json = [tuple(row.get(name) for name in types) for row in rows_as_of(source, table, lsn, types)]
        assert unsigned(typed) == unsigned(as_json), table


def columns_now(db, table):
    return dict(db.rows("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped", qualified(table)))


def is_to_be_had(db, table, types):
    """The table of the source is still so here, and the server reads its types."""
    return types == columns_now(db, table) and (db.has_xml or "xml" not in types.values())


def rows_of(db, table, types):
    return [dict(zip(types, row)) for row in db.rows(f"SELECT {', '.join(f'written({identifier(name)})' for name in types)} FROM {qualified(table)}")]


def test_replay_gives_the_rows(source):
    """In the source's own schema, as it was before any change of it."""
    replayed = 0
    source.run("SET session_replication_role = replica")
    for table in FULL:
        mine = [(lsn, truth, types) for name, lsn, truth, types in STATES if name == table]
        if not mine or not all(is_to_be_had(source, table, types) for *_, types in mine):
            continue
        lsn, truth, types = mine[-1]
        end = source.value("SELECT max(commit_timestamp) + interval '1 us' FROM audit_logs WHERE commit_lsn = %s", lsn)
        source.run(f"TRUNCATE {qualified(table)} CASCADE")
        for (statement,) in source.rows("SELECT statement FROM audit_replay_sql(%s, until => %s)", qualified(table), end):
            source.connect().cursor().execute(statement)
        found = rows_of(source, table, types)
        assert matched(found, truth, types) == len(truth) == len(found), table
        replayed += 1
        source.run(f"TRUNCATE {qualified(table)} CASCADE")
    source.run("RESET session_replication_role")
    assert replayed > 15


def insert(db, table, row, types):
    names = [name for name in row]
    db.run(f"INSERT INTO {qualified(table)} ({', '.join(map(identifier, names))}) OVERRIDING SYSTEM VALUE SELECT {', '.join(f'CAST(%s AS {types[name]})' for name in names)}",
           *(row[name] for name in names))


def is_undone(db, truth, change, call, done, expected):
    """Either it is as it was, or it is said why it cannot be, and nothing happened."""
    table, types = table_of(truth), truth["types"]
    before = rows_of(db, table, types)
    [outcome] = [outcome for (outcome,) in db.rows(f"SELECT outcome FROM audit_{call}(change => %s, database_id => %s)", change, DATABASE_ID)] or [done]
    found = rows_of(db, table, types)
    if outcome != done:
        assert "unknown" in outcome and found == before, (truth, outcome)
        return False
    assert len(found) == (expected is not None), (truth, found)
    assert expected is None or is_truth(found[0], Row(expected, {}), types), (truth, found)
    return True


@pytest.mark.once
def test_undo_and_redo_of_every_change(source):
    """But for those that lost values on their way."""
    ids = {(key, table, tuple(pks)): id_ for id_, key, table, pks in source.rows("SELECT id, idempotency_key, table_name, record_pks FROM audit_logs")}
    taken = collections.Counter()
    source.run("SET session_replication_role = replica")
    for truth in CHANGES:
        table, types = table_of(truth), truth["types"]
        lost = {*(truth.get("old_not_exact") or {}).values(), *(truth.get("new_not_exact") or {}).values()} - {"not_carried"}
        if lost or not is_to_be_had(source, table, types) or truth["leaf"] != truth["table"]:
            continue
        change = ids[truth["idempotency_key"], truth["table"], tuple(truth["record_pks"])]
        source.run(f"TRUNCATE {qualified(table)} CASCADE")
        if truth["new"] is not None:
            insert(source, table, truth["new"], types)
        kind = truth["action"], truth["replica_identity"] == "full"
        if is_undone(source, truth, change, "undo", "undone", truth["old"]):
            taken[kind, "undone"] += 1
            assert is_undone(source, truth, change, "redo", "redone", truth["new"]), truth
        else:
            taken[kind, "unknown"] += 1
            # of a table that is not described, a null of a deleted row may be one or unknown
            assert not kind[1] or not source.is_described and (None in truth["old"].values() or truth["old"] == truth["new"]), truth
        source.run(f"TRUNCATE {qualified(table)} CASCADE")
    source.run("RESET session_replication_role")
    assert min(taken[(action, True), "undone"] for action in ("insert", "update", "delete")) >= 10, taken
    assert taken[("update", False), "unknown"] + taken[("delete", False), "unknown"] > 5 and taken[("delete", False), "undone"] > 5, taken
