"""The whole corpus, every column: audit_row makes of its messages the rows as PostgreSQL itself wrote them."""

import collections
import decimal
import difflib
import json
import os
import pathlib

import pytest
from cast_helpers import identifier, session
from conftest import CORPUS, DATABASE_ID, batch, lines

REPORT = pathlib.Path(__file__).with_name("cast_report.txt")
TRUTH = [json.loads(line) for line in lines("source_rows.jsonl")]
MARKS = collections.Counter(mark for truth in TRUTH for side in ("old", "new") for mark in (truth.get(f"{side}_not_exact") or {}).values())
Cast = collections.namedtuple("Cast", "n action type side column mark truth found unknown")


def sides(truth):
    return [side for side in ("new", "old") if truth[side] is not None]


@pytest.fixture(scope="module")
def source():
    """A log of the whole corpus beside the tables of its source, described; truth.t0, t1 …: a row type for each layout."""
    with session() as db:
        loaded = db.psql("-f", str(CORPUS / "schema.sql"))
        assert loaded.returncode == 0, loaded.stderr
        assert db.ingest(batch(lines("messages.jsonl"))) == (411, 411, 0, 0)
        description = db.psql("-f", "sql/describe_source.sql").stdout
        assert db.value("SELECT audit_describe_tables(%s, %s, '2026-11-22 21:00+00')", DATABASE_ID, description) >= 40
        db.run("CREATE SCHEMA truth")
        db.layouts = {}
        for truth in TRUTH:
            key = tuple(sorted(truth["types"].items()))
            if key not in db.layouts:
                db.layouts[key] = f"truth.t{len(db.layouts)}"
                # a server without libxml reads no xml: the images of its tables are not what this is about
                columns = (f"{identifier(name)} {type_ if db.has_xml or type_ != 'xml' else 'text'}" for name, type_ in truth["types"].items())
                db.run(f"CREATE TYPE {db.layouts[key]} AS ({', '.join(columns)})")
        yield db


def layout(db, truth):
    return db.layouts[tuple(sorted(truth["types"].items()))]


def columns_of(truth, row="r"):
    return ", ".join(f"written(({row}).{identifier(name)})" for name in truth["types"])


@pytest.fixture(scope="module")
def casts(source):
    """Every column of both sides of every entry, cast as whole images."""
    ids = {(key, table, tuple(pks)): rest for key, table, pks, *rest in source.rows(
        "SELECT idempotency_key, table_name, record_pks, id, unknown_columns, unknown_old_columns FROM audit_logs")}
    logged = {truth["n"]: ids[truth["idempotency_key"], truth["table"], tuple(truth["record_pks"])] for truth in TRUTH}
    assert len(source.layouts) == 35 and len({entry[0] for entry in logged.values()}) == 411
    found = []
    by_layout = collections.defaultdict(list)
    for truth in TRUTH:
        by_layout[layout(source, truth)].append(truth)
    for type_, truths in by_layout.items():
        rows = {(id_, side): row for id_, side, *row in source.rows(f"""
            WITH entries AS (SELECT * FROM audit_logs WHERE id = ANY (%s)),
            news AS (SELECT *, audit_row(NULL::{type_}, new_values, unknown_columns) AS new FROM entries WHERE action <> 'delete'),
            images (id, side, r) AS MATERIALIZED (
              SELECT id, 'new', new FROM news
              UNION ALL SELECT id, 'old', audit_row(NULL::{type_}, old_values, unknown_columns) FROM entries WHERE action = 'delete'
              UNION ALL SELECT id, 'old', audit_row(new, old_values, unknown_old_columns) FROM news WHERE action = 'update'
              UNION ALL SELECT id, 'overlaid', audit_row(new, old_values) FROM news WHERE action = 'update')
            SELECT id, side, {columns_of(truths[0])} FROM images""", [logged[truth["n"]][0] for truth in truths])}
        for truth in truths:
            id_, unknown, unknown_old = logged[truth["n"]]
            shown = [("new", "new", unknown)] if truth["action"] in ("insert", "read") else [("old", "old", unknown)]
            if truth["action"] == "update":
                shown = [("new", "new", unknown), ("old", "old", unknown_old), ("overlaid", "old", ())]
            for image, side, listed in shown:
                marks = truth.get(f"{side}_not_exact") or {}
                found += [Cast(truth["n"], truth["action"], truth["types"][column], image, column, marks.get(column), truth[side][column], text,
                               column in (listed or ())) for column, text in zip(truths[0]["types"], rows[id_, image])]
    return found


def differs(cast):
    """But for the sign of a zero and the spelling of a json value, which jsonb, as which the log keeps images, does not keep."""
    if cast.type in ("real", "double precision"):
        return cast.found != cast.truth and (cast.truth, cast.found) != ("-0", "0")
    if cast.type == "json" and None not in (cast.truth, cast.found):
        return json.loads(cast.truth, parse_float=decimal.Decimal) != json.loads(cast.found, parse_float=decimal.Decimal)
    return cast.truth != cast.found


def test_what_is_not_marked_is_exact_in_every_column(casts):
    compared = [cast for cast in casts if cast.mark is None and cast.side in ("new", "overlaid" if cast.action == "update" else "old")]
    assert [cast for cast in compared if differs(cast)] == []
    assert collections.Counter(cast.type for cast in compared if cast.truth != cast.found) == {"real": 2, "double precision": 2, "json": 4}
    assert len(compared) == sum(len(truth[side]) for truth in TRUTH for side in sides(truth)) - sum(MARKS.values())


def test_an_unknown_column_is_null_and_no_other_is_lost(casts):
    """An old row of another identity than FULL: its columns may be those of the new row, but nobody knows."""
    listed = [cast for cast in casts if cast.unknown]
    assert {cast.found for cast in listed} == {None} and len(listed) > 200
    assert [cast for cast in casts if cast.mark is None and not cast.unknown and differs(cast)] == []


def outcome(cast, equal):
    if cast.unknown or cast.truth == cast.found:
        return "unknown" if cast.unknown else "exact"
    if cast.found is None:
        return "null"
    return "equal" if equal else "other value"


def test_what_is_marked_comes_back_as_reported(source, casts):
    """tests/e2e/cast_report.txt; ACCEPT=1 writes it anew."""
    marked = [cast for cast in casts if cast.mark and cast.side != "overlaid"]
    assert collections.Counter(cast.mark for cast in marked) == MARKS
    same = {False: lambda one, two: source.value("SELECT %s::jsonb = %s::jsonb", one, two),
            True: lambda one, two: source.value("SELECT %s::jsonb[] = %s::jsonb[]", one, two)}
    lines_ = collections.Counter()
    for cast in marked:
        is_json = None not in (cast.truth, cast.found) and cast.type.removesuffix("[]") in ("json", "jsonb", "doc")
        equal = is_json and same[cast.type.endswith("[]")](cast.truth, cast.found)
        lines_[cast.mark, cast.type, "read" if cast.action == "read" else "change", outcome(cast, equal)] += 1
    report = "".join(f"{mark:<16} {type_:<32} {kind:<8} {how:<12} {count:>3}\n" for (mark, type_, kind, how), count in sorted(lines_.items()))
    if os.environ.get("ACCEPT"):
        REPORT.write_text(report)
    accepted = REPORT.read_text()
    assert report == accepted, "\n".join(difflib.unified_diff(accepted.splitlines(), report.splitlines(), "accepted", "found", lineterm=""))
    assert {how for mark, *_, how in lines_ if mark == "uncastable"} == {"exact"}
    assert {how for mark, *_, how in lines_ if mark == "json_equal"} <= {"exact", "equal"}
    assert {how for mark, *_, how in lines_ if mark in ("not_carried", "unchanged_toast", "null_in_read", "absent")} == {"unknown"}


def test_timestamps_as_integers_are_the_same_timestamps(source):
    known = {(truth["idempotency_key"], truth["table"], tuple(truth["record_pks"])): truth for truth in TRUTH}
    compared = collections.Counter()
    for message in map(json.loads, lines("variants/timestamp_format_unix_microsecond.jsonl")):
        meta = message["metadata"]
        truth = known[meta["idempotency_key"], meta["table_name"], tuple(meta["record_pks"])]
        for side in sides(truth):
            row = f"audit_row(NULL::{layout(source, truth)}, %(record)s, %(unknown)s)"
            if message["action"] == "update" and side == "old":
                row = f"audit_row({row}, %(changes)s, %(unknown)s)"
            marked = truth.get(f"{side}_not_exact") or {}
            with source.connect().cursor() as cursor:
                cursor.execute(f"SELECT {columns_of(truth)} FROM (SELECT {row} AS r OFFSET 0) AS _", {
                    "record": json.dumps(message["record"]), "changes": json.dumps(message["changes"]), "unknown": list(marked)})
                found = dict(zip(truth["types"], cursor.fetchone()))
            for column, type_ in truth["types"].items():
                if column not in marked:
                    assert found[column] == truth[side][column], (truth["n"], side, column)
                    image = {**message["record"], **(message["changes"] or {})} if side == "old" else message["record"]
                    compared[type_.startswith("timestamp") and isinstance(image[column], int)] += 1
    assert compared[True] > 100 and compared[False] > 300
