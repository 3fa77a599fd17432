"""audit_cast and audit_row: what Sequin carries comes back as PostgreSQL itself would write it."""

import collections
import contextlib
import datetime
import decimal
import difflib
import io
import ipaddress
import json
import os
import pathlib
import random
import re
import struct

import psycopg2
import pytest
from conftest import CORPUS, DATABASE_ID, Database, admin, batch, lines, numbers

REPORT = pathlib.Path(__file__).with_name("cast_report.txt")
SETTINGS = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c lc_monetary=C"
# a value as its type's output function writes it: a cast to text would strip char(n)
OUT = """CREATE FUNCTION written(v anyelement) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN RETURN CASE WHEN v IS DISTINCT FROM NULL THEN format('%s', v) END; END $$"""


class Session(Database):
    """All on one connection, with the settings under which the truth was written."""

    def connect(self, **options):
        if not hasattr(self, "connection"):
            self.connection = super().connect(options=SETTINGS, **options)
        return self.connection


@contextlib.contextmanager
def session():
    name = f"audit_{os.getpid()}_{next(numbers)}"
    admin(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    db = Session(name)
    db.run("CREATE EXTENSION audit_cdc")
    db.run(OUT)
    try:
        with contextlib.suppress(psycopg2.errors.FeatureNotSupported):
            db.has_xml = False
            db.run("SELECT xml '<a/>'")
            db.has_xml = True
        yield db
    finally:
        admin(f"DROP DATABASE {name} WITH (FORCE)")


def identifier(name):
    return '"' + name.replace('"', '""') + '"'


# ---------------------------------------------------------------------------------------------- the corpus, every column

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


# ------------------------------------------------------------------------------- any value of any type, encoded as section 6
# of the contract says: "wal" as a change carries it, "read" as a backfill does, "unix" with timestamp_format: unix_microsecond

class Token(str):
    """JSON as it stands."""


def dump(value):
    if isinstance(value, Token):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def as_string(text, how):
    return text


def as_token(text, how):
    return Token(text)


def as_bool(text, how):
    return text == "t"


def as_float8(text, how):
    if text.endswith("Infinity") and how == "read":
        return text.replace("Infinity", "inf")
    return text if text[-1] in "Ny" else Token(text)


def as_float4(text, how):
    widened = how == "read" and text[-1] not in "Ny"
    return Token(repr(struct.unpack("f", struct.pack("f", float(text)))[0])) if widened else as_float8(text, how)


def iso_year(year, era):
    year = 1 - int(year) if era else int(year)
    return f"{'-' if year < 0 else ''}{abs(year):04}"


def as_date(text, how):
    if how != "read" or text == "-infinity":  # which stops a backfill
        return text
    if text == "infinity":
        return "5881610-07-11"
    year, month, day, era = re.fullmatch(r"(\d+)-(\d\d)-(\d\d)( BC)?", text).groups()
    return f"{iso_year(year, era)}-{month}-{day}"


def days_since_1970(year, month, day):
    """Of the Gregorian calendar without end: a year begins in March, 400 of them have 146097 days."""
    year, month = (year - 1, month + 9) if month < 3 else (year, month - 3)
    return year * 365 + year // 4 - year // 100 + year // 400 + (month * 153 + 2) // 5 + day - 1 - 719468


def as_timestamp(text, how):
    if text.endswith("infinity"):
        return text.replace("infinity", "inf") if how == "read" else text
    year, month, day, hour, minute, second, fraction, zone, era = re.fullmatch(
        r"(\d+)-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d+))?(\+00)?( BC)?", text).groups()
    fraction = (fraction or "").ljust(6, "0")
    if how == "unix":
        days = days_since_1970(1 - int(year) if era else int(year), int(month), int(day))
        return Token((((days * 24 + int(hour)) * 60 + int(minute)) * 60 + int(second)) * 1000000 + int(fraction))
    if how == "wal" and (era or len(year) > 4):
        return text
    return f"{iso_year(year, era)}-{month}-{day}T{hour}:{minute}:{second}.{fraction}{'Z' if zone else ''}"


def as_time(text, how):
    """A change has no fraction, a backfill six digits (and no 24:00:00)."""
    if text == "24:00:00" or how == "wal" and "." not in text:
        return text
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.ljust(6, '0')}"


def as_timetz(text, how):
    """Without its offset, which is therefore UTC; where it is not, as PostgreSQL writes it."""
    return as_time(text[:-3], how) if re.search(r"\+00$", text) else text


def as_interval(text, how):
    found = {unit: int(amount) for amount, unit in re.findall(r"([+-]?\d+) (year|mon|day)", text)}
    sign, hours, minutes, seconds, fraction = (re.search(r"([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?$", text) or re.match(r"()()()()()", "")).groups()
    microseconds = ((int(hours or 0) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)) * 1000000 + int((fraction or "").ljust(6, "0"))
    return {"months": found.get("year", 0) * 12 + found.get("mon", 0), "days": found.get("day", 0),
            "microseconds": -microseconds if sign == "-" else microseconds}


def as_daterange(text, how):
    if how != "read" or "BC" in text or "infinity" in text:
        return text
    if text == "empty":
        return "(empty,empty)"
    low, high = text[1:-1].split(",")
    return f"{text[0]}{low or 'unbound'},{high or 'unbound'}{text[-1]}"


def as_hstore(text, how):
    unquoted = lambda quoted: re.sub(r"\\(.)", r"\1", quoted, flags=re.S)
    pairs = re.findall(r'"((?:[^"\\]|\\.)*)"=>(?:(NULL)|"((?:[^"\\]|\\.)*)")', text, flags=re.S)
    return {unquoted(key): None if null else unquoted(value) for key, null, value in pairs} if how == "read" else text


def as_integers(text, how):
    """Of a domain over integer[]."""
    return Token(text.replace("{", "[").replace("}", "]").replace("NULL", "null"))


def as_texts(text, how):
    """Of a one-dimensional array."""
    elements = re.findall(r'[{,](?:(NULL)|"((?:[^"\\]|\\.)*)"|([^,}]*))(?=[,}])', text, flags=re.S)
    return [None if null else re.sub(r"\\(.)", r"\1", quoted or plain, flags=re.S) for null, quoted, plain in elements]


def behind_two_domains(base):
    """A change carries the text; a backfill as the base type."""
    return lambda text, how: text if how == "wal" else base(text, how)


def as_json_behind_two_domains(text, how):
    return Token(text) if how == "read" and text[0] != '"' else text  # a JSON string in a string cannot be told from the other


def either(*makers):
    return lambda r: r.choice(makers)(r)


def one_of(*texts):
    return lambda r: r.choice(texts)


def whole(low, high):
    return lambda r: str(r.choice([low, high, r.randint(low, high), r.randint(low, high), max(low, min(high, round(r.gauss(0, 1000))))]))


def digits(r, least, most):
    return "".join(r.choices("0123456789", k=r.randint(least, most)))


def any_numeric(r):
    return r.choice(["", "-"]) + digits(r, 1, 45) + r.choice(["", "." + digits(r, 1, 40), "." + digits(r, 1, 3) + "000"])


def finite(format_):
    def make(r):
        value = r.choice([float(r.randint(-10**6, 10**6)), r.uniform(-1, 1), struct.unpack(format_, r.randbytes(struct.calcsize(format_)))[0]])
        value = struct.unpack(format_, struct.pack(format_, value))[0]
        return f"{value:.17g}" if value == value and value not in (0, float("inf"), float("-inf")) else "0"  # jsonb has no -0
    return make


NASTY = list("ab cZ019'\"\\,;:{}()[]<>=&|!%$_-+.\t\n\r\x01\x7féßЖ漢🦊‮") + ["NULL", "null", "\\x", "infinity", "''", "\\\\"]


def any_text(r, most=12, alphabet=NASTY):
    if r.random() < .1:
        return r.choice(["", "NULL", "null", " ", "{}", "[1]", "\\", '"', "unchanged toast"])
    return "".join(r.choices(alphabet, k=r.randint(0, most)))


def shorter(most, make=any_text):
    """Cut to so many characters."""
    return lambda r: make(r)[:most]


def any_label(r):
    return "".join(r.choices("abcXYZ0189_", k=r.randint(1, 8)))


def day(r, years):
    low, high = r.choice(years)
    year = r.randint(low, high)
    return f"{abs(year):04}-{r.randint(1, 12):02}-{r.randint(1, 28):02}", " BC" if year < 0 else ""


def clock(r):
    return f"{r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}" + r.choice(["", "", "." + digits(r, 1, 6), "." + digits(r, 6, 6)])


def any_date(r):
    return "".join(day(r, [(1900, 2100), (1, 9999), (10000, 5874897), (-4713, -1)]))


def any_stamp(r):
    date, era = day(r, [(1900, 2100), (1, 9999), (10000, 294276), (-4713, -1)])
    return f"{date} {clock(r)}{era}"


def near_stamp(r):
    return f"{day(r, [(1, 9998)])[0]} {clock(r)}"


def any_interval(r):
    months, days, microseconds = (r.choice([0, 0, r.randint(-30, 30), r.randint(-limit, limit)]) for limit in (2**31 - 1, 2**31 - 1, 2**63 - 1))
    return f"{months} mons {days} days {microseconds} us"


def json_value(r, depth=0):
    """Written as jsonb writes it."""
    kind = r.randint(0, 7 if depth < 3 else 5)
    if kind < 4:
        return [lambda: r.choice(["true", "false"] + ["null"] * (depth > 0)), lambda: whole(-2**63, 2**63)(r),
                lambda: digits(r, 1, 20).lstrip("0") + "7." + digits(r, 1, 20),
                lambda: r.choice(["0", "9007199254740993", "0.0000001", "1" + "0" * 300, "1.10", "-0.5"])][kind]()
    if kind < 6:
        return dump(any_text(r))
    if kind == 6:
        return "[" + ", ".join(json_value(r, depth + 1) for _ in range(r.randint(0, 4))) + "]"
    keys = sorted({any_text(r, 5).encode() for _ in range(r.randint(0, 4))}, key=lambda key: (len(key), key))
    return "{" + ", ".join(f"{dump(key.decode())}: {json_value(r, depth + 1)}" for key in keys) + "}"


def any_xml(r):
    content = any_text(r, 8, list("ab c'\"éß漢🦊\n;,{}\\") + ["&amp;", "&lt;"])
    return r.choice([content.replace('"', "'"), f"<r a=\"{content.replace(chr(34), '')}\">{content}<b/></r>"])


def lexeme(r):
    return "'" + (any_text(r, 6).strip() or "x").replace("\\", "\\\\").replace("'", "''") + "'"


def any_tsvector(r):
    return " ".join(lexeme(r) + r.choice(["", f":{r.randint(1, 16383)}{r.choice('ABCD')},{r.randint(1, 99)}"]) for _ in range(r.randint(0, 5)))


def any_tsquery(r, depth=0):
    if depth > 2 or r.random() < .4:
        return lexeme(r) + r.choice(["", "", ":*", ":AB"])
    return f"{r.choice(['', '!'])}({any_tsquery(r, depth + 1)} {r.choice(['&', '|', '<->', '<3>'])} {any_tsquery(r, depth + 1)})"


def any_network(r):
    family = r.choice([ipaddress.IPv4Network, ipaddress.IPv6Network])
    bits = 32 if family is ipaddress.IPv4Network else 128
    return family((r.getrandbits(bits), r.randint(0, bits)), strict=False)


def any_inet(r):
    network = any_network(r)
    return f"{network[r.randrange(network.num_addresses)]}{r.choice(['', f'/{network.prefixlen}'])}"


def hexes(count):
    return lambda r: ":".join(f"{r.randrange(256):02x}" for _ in range(count))


coordinate = finite("d")


def points(least, most, opening="(", closing=")"):
    return lambda r: opening + ",".join(f"({coordinate(r)},{coordinate(r)})" for _ in range(r.randint(least, most))) + closing


def int_bound(r):
    number = r.randint(-10**r.randint(1, 9), 10**r.randint(1, 9))
    return number, str(number)


def numeric_bound(r):
    number = r.randint(-10**12, 10**12)
    return number, f"{number}e-{3}"


def float_bound(r):
    text = coordinate(r)
    return float(text), text


def stamp_bound(r):
    if r.random() < .1:
        return r.choice([(float("-inf"), "-infinity"), (float("inf"), "infinity")])
    seconds = r.randint(0, 3652058 * 86400)
    return seconds, f"{datetime.datetime(1, 1, 1) + datetime.timedelta(seconds=seconds)}.{digits(r, 1, 6)}"


def date_bound(r):
    days = r.randint(0, 3652000)
    return days, str(datetime.date(1, 1, 1) + datetime.timedelta(days=days))


def text_bound(r):
    text = any_text(r)
    return text.encode(), '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def range_of(bound):
    def make(r):
        if r.random() < .1:
            return "empty"
        low, high = sorted((bound(r) for _ in range(2)), key=lambda pair: pair[0])
        return f"{r.choice('[(')}{r.choice([low[1]] * 5 + [''])},{r.choice([high[1]] * 5 + [''])}{r.choice('])')}"
    return make


def ranges_of(bound):
    return lambda r: "{" + ",".join(range_of(bound)(r) for _ in range(r.randint(0, 3))) + "}"


def any_snapshot(r):
    low = r.randint(3, 2**r.randint(3, 60))
    inside = sorted({low + r.randint(0, 1000) for _ in range(r.randint(0, 4))})
    return f"{low}:{low + 1001}:{','.join(map(str, inside))}"


def any_acl(r):
    privileges = "".join(letter + r.choice(["", "", "*"]) for letter in "arwdDxtXUCTc" if r.random() < .4)
    return f"{r.choice(['', 'postgres', 'audit_cdc_reader'])}={privileges}/{r.choice(['postgres', 'audit_cdc_admin'])}"


def any_hstore(r):
    quoted = lambda text: '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
    return ", ".join(f"{quoted(any_text(r, 5))}=>{r.choice(['NULL', quoted(any_text(r, 5))])}" for _ in range(r.randint(0, 4)))


def any_pair(r):
    quoted = lambda text: '"' + re.sub(r'(["\\])', r"\1\1", text) + '"'
    texts = literal([r.choice([None, any_text(r)]) for _ in range(r.randint(0, 3))])
    return f"({r.choice(['', whole(-9, 9)(r)])},{r.choice(['', quoted(any_text(r))])},{r.choice(['', quoted(texts)])},{day(r, [(1, 9999)])[0]})"


def any_integers(r):
    return "{" + ",".join(r.choice(["NULL", whole(-2**31, 2**31 - 1)(r)]) for _ in range(r.randint(0, 4))) + "}"


def some(make, least=0, most=4):
    return lambda r: " ".join(make(r) for _ in range(r.randint(least, most)))


unsigned32, reg = whole(0, 2**32 - 1), whole(3 * 10**9, 2**32 - 1)
infinities = one_of("infinity", "-infinity")
labels = one_of("sad", "very happy", "it's \"quoted\", ok", "NULL", "\\", "é{}", " ")

edge_stamp = either(*[any_stamp] * 5, infinities, one_of("4714-11-24 00:00:00 BC", "0001-12-31 23:59:59.999999 BC", "294276-12-31 23:59:59.999999"))


def any_timetz(r):
    return clock(r) + r.choice(["+00", "+00", f"{r.choice('+-')}{r.randint(0, 15):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}", "-12"])


def any_jsonpath(r):
    return r.choice(['$.a[*]?(@ > %d)', '$."k \\"e, y"[%d to last]', "strict $", "$.**.type()", '"lit \\\\ %d"', "$x + %d.5",
                     '$ ? (@.a like_regex "^%d\\\\d" flag "i")']).replace("%d", str(r.randint(0, 999)))


USER_TYPES = '''
CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION cube; CREATE EXTENSION seg;
CREATE TABLE "Quoted ""Table""" (id int);
CREATE TYPE feeling AS ENUM ('sad', 'very happy', E'it''s "quoted", ok', 'NULL', E'\\\\', 'é{}', ' ');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0); CREATE DOMAIN small_positive AS positive CHECK (VALUE < 1000000000);
CREATE DOMAIN price AS numeric(12,2); CREATE DOMAIN moment AS timestamptz; CREATE DOMAIN late_moment AS moment;
CREATE DOMAIN span AS interval; CREATE DOMAIN long_span AS span; CREATE DOMAIN flag AS boolean; CREATE DOMAIN sure_flag AS flag;
CREATE DOMAIN word AS text CHECK (length(VALUE) < 100); CREATE DOMAIN feeling_today AS feeling; CREATE DOMAIN raw AS bytea;
CREATE DOMAIN integers AS integer[]; CREATE DOMAIN some_integers AS integers;
CREATE DOMAIN doc AS jsonb; CREATE DOMAIN deep_doc AS doc; CREATE DOMAIN plain_doc AS json; CREATE DOMAIN deep_plain_doc AS plain_doc;
CREATE TYPE four AS (a int, b text, "c c" text[], d date); CREATE DOMAIN four_of AS four;
CREATE TYPE float_span AS RANGE (subtype = float8, multirange_type_name = float_spans);
CREATE TYPE text_span AS RANGE (subtype = text, collation = "C", multirange_type_name = text_spans);
'''

# type: a valid text
TYPES = {
    "bool": one_of("t", "f"), "int2": whole(-2**15, 2**15 - 1), "int4": whole(-2**31, 2**31 - 1), "int8": whole(-2**63, 2**63 - 1), "oid": unsigned32,
    "numeric": either(*[any_numeric] * 7, one_of("NaN", "Infinity", "-Infinity")),
    "float4": either(*[finite("f")] * 5, one_of("NaN", "Infinity", "-Infinity", "3.4028235e38", "1e-45")),
    "float8": either(*[finite("d")] * 5, one_of("NaN", "Infinity", "-Infinity", "1.7976931348623157e308", "5e-324", "1e20", "0.1")),
    "money": lambda r: f"{whole(-10**r.randint(1, 15), 10**15)(r)}.{digits(r, 2, 2)}", "text": any_text, "varchar": any_text, "bpchar": any_text,
    "name": shorter(15), "citext": any_text, '"char"': lambda r: r.choice(["", "a", " ", "\\", '"', "'", "{", ",", "\x01"]), "xml": any_xml,
    "bytea": lambda r: "\\x" + r.randbytes(r.randint(0, 20)).hex(), "uuid": lambda r: r.randbytes(16).hex(),
    '"bit"': lambda r: "".join(r.choices("01", k=r.randint(0, 40))), "varbit": lambda r: "".join(r.choices("01", k=r.randint(0, 40))),
    "date": either(*[any_date] * 5, infinities, one_of("4714-11-24 BC", "0001-01-01 BC", "5874897-12-31")), "timestamp": edge_stamp,
    "timestamptz": edge_stamp, "time": either(*[clock] * 5, one_of("24:00:00")), "timetz": any_timetz, "interval": any_interval, "json": json_value,
    "jsonb": json_value, "tsvector": any_tsvector, "tsquery": any_tsquery, "jsonpath": any_jsonpath, "inet": any_inet,
    "cidr": lambda r: str(any_network(r)), "macaddr": hexes(6), "macaddr8": hexes(8), "point": points(1, 1, "", ""), "lseg": points(2, 2, "[", "]"),
    "box": points(2, 2, "", ""), "path": either(points(1, 5, "[", "]"), points(1, 5)), "polygon": points(1, 5),
    "line": lambda r: f"{{{coordinate(r)},1,{coordinate(r)}}}",
    "circle": lambda r: f"<({coordinate(r)},{coordinate(r)}),{coordinate(r).lstrip('-')}>", "int4range": range_of(int_bound),
    "int8range": range_of(int_bound), "numrange": range_of(numeric_bound), "tsrange": range_of(stamp_bound), "tstzrange": range_of(stamp_bound),
    "daterange": range_of(date_bound), "int4multirange": ranges_of(int_bound), "int8multirange": ranges_of(int_bound),
    "nummultirange": ranges_of(numeric_bound), "tsmultirange": ranges_of(stamp_bound), "tstzmultirange": ranges_of(stamp_bound),
    "datemultirange": ranges_of(date_bound), "float_span": range_of(float_bound), "float_spans": ranges_of(float_bound),
    "text_span": range_of(text_bound), "text_spans": ranges_of(text_bound), "pg_lsn": lambda r: f"{r.getrandbits(32):X}/{r.getrandbits(32):X}",
    "xid": unsigned32, "cid": unsigned32, "xid8": whole(0, 2**64 - 1), "tid": lambda r: f"({r.getrandbits(32)},{r.getrandbits(16)})",
    "pg_snapshot": any_snapshot, "txid_snapshot": any_snapshot, "refcursor": any_text, "int2vector": some(whole(-2**15, 2**15 - 1)),
    "oidvector": some(unsigned32), "aclitem": any_acl, "regclass": either(reg, one_of("pg_class", "pg_catalog.pg_type", '"Quoted ""Table"""', "-")),
    "regproc": either(reg, one_of("now", "pg_catalog.version", "-")),
    "regprocedure": either(reg, one_of("abs(integer)", "now()", "pg_catalog.array_append(anycompatiblearray,anycompatible)", "-")),
    "regoper": either(reg, one_of("||/", "pg_catalog.|/", "0")), "regoperator": either(reg, one_of("+(integer,integer)", "-(NONE,numeric)", "0")),
    "regtype": either(reg, one_of("integer", "text[]", '"char"', "timestamp without time zone", "four", "-")),
    "regrole": either(reg, one_of("postgres", "audit_cdc_reader", "-")), "regnamespace": either(reg, one_of("public", "pg_catalog", "-")),
    "regconfig": either(reg, one_of("simple", "english", "-")), "regdictionary": either(reg, one_of("simple", "english_stem", "-")),
    "regcollation": either(reg, one_of('"C"', '"POSIX"', '"default"', "-")), "hstore": any_hstore,
    "ltree": lambda r: ".".join(any_label(r) for _ in range(r.randint(0, 5))),
    "cube": lambda r: f"({r.randint(-9, 9)},{coordinate(r)}),({coordinate(r)},{r.uniform(-1, 1)})",
    "seg": lambda r: f"{r.randint(-99, 0)} .. {r.randint(1, 99)}", "feeling": labels, "feeling_today": labels, "four": any_pair, "four_of": any_pair,
    "positive": whole(1, 2**31 - 1), "small_positive": whole(1, 999999999), "price": lambda r: f"{r.randint(-10**9, 10**9)}.{digits(r, 0, 5)}",
    "word": any_text, "raw": lambda r: "\\x" + r.randbytes(9).hex(), "moment": either(any_stamp, infinities),
    "late_moment": either(any_stamp, infinities), "span": any_interval, "long_span": any_interval, "flag": one_of("t", "f"),
    "sure_flag": one_of("t", "f"), "integers": any_integers, "some_integers": any_integers, "doc": json_value, "plain_doc": json_value,
    "deep_doc": json_value, "deep_plain_doc": json_value,
}
# and how it is encoded: the others as a JSON string of it
ENCODERS = {
    "bool": as_bool, "int2": as_token, "int4": as_token, "int8": as_token, "oid": as_token, "float4": as_float4, "float8": as_float8, "date": as_date,
    "timestamp": as_timestamp, "timestamptz": as_timestamp, "time": as_time, "timetz": as_timetz, "interval": as_interval, "json": as_token,
    "jsonb": as_token, "daterange": as_daterange, "hstore": as_hstore, "positive": as_token, "small_positive": behind_two_domains(as_token),
    "moment": as_timestamp, "late_moment": behind_two_domains(as_timestamp), "span": as_interval, "long_span": behind_two_domains(as_interval),
    "flag": as_bool, "sure_flag": behind_two_domains(as_bool), "integers": as_integers, "some_integers": behind_two_domains(as_integers),
    "doc": as_token, "plain_doc": as_token, "deep_doc": as_json_behind_two_domains, "deep_plain_doc": as_json_behind_two_domains,
}
# type of a column: (its type without modifier, a text that the modifier takes)
WITH_MODIFIER = {
    "numeric(10,2)": ("numeric", lambda r: f"{r.randint(-10**7, 10**7)}.{digits(r, 0, 6)}"),
    "numeric(6,-2)": ("numeric", lambda r: str(r.randint(-10**7, 10**7))), "varchar(20)": ("varchar", shorter(20)), "char(8)": ("bpchar", shorter(8)),
    "bit(5)": ('"bit"', lambda r: "".join(r.choices("01", k=5))),
    "bit varying(16)": ("varbit", lambda r: "".join(r.choices("01", k=r.randint(0, 16)))), "timestamp(3)": ("timestamp", near_stamp),
    "timestamp(0)": ("timestamp", near_stamp), "timestamptz(1)": ("timestamptz", near_stamp), "time(0)": ("time", clock),
    "timetz(2)": ("timetz", lambda r: clock(r) + "+00"), "interval(2)": ("interval", any_interval),
    "interval day to minute": ("interval", any_interval), "interval year to month": ("interval", any_interval),
}
# their input functions refuse every text
REFUSING = {"pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "gtsvector"}
# in an array of these an inner JSON array is a value, not a dimension: nothing in the JSON tells
ONE_DIMENSION = {"json", "jsonb", "doc", "plain_doc", "deep_doc", "deep_plain_doc", "integers", "some_integers"}
SEEDS, VALUES = range(4), 60


def encoder(type_):
    return ENCODERS.get(type_, as_string)


@pytest.fixture(scope="module")
def types():
    with session() as db:
        db.run(USER_TYPES)
        yield db


def literal(nested, delimiter=","):
    if nested is None:
        return "NULL"
    if isinstance(nested, list):
        return "{" + delimiter.join(literal(inner, delimiter) for inner in nested) + "}"
    return '"' + re.sub(r'(["\\])', r"\\\1", nested) + '"'


def copy(db, target, rows):
    """By the types' input functions: a cast from text is another function for some."""
    escapes = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
    field = lambda text: "\\N" if text is None else text.translate(escapes)
    with db.connect().cursor() as cursor:
        cursor.copy_expert(f"COPY {target} FROM STDIN", io.StringIO("".join("\t".join(map(field, row)) + "\n" for row in rows)))


def normalised(db, type_, texts):
    """As PostgreSQL writes what it read."""
    db.run(f"CREATE TEMP TABLE given (place serial, v {type_})")
    copy(db, "given (v)", ([text] for text in texts))
    result = [text for text, in db.rows("SELECT written(v) FROM given ORDER BY place")]
    db.run("DROP TABLE given")
    return result


def differences(db, type_, values, expected):
    found = [text for text, in db.rows(f"""SELECT written(audit_cast(NULL::{type_}, value::jsonb))
                                           FROM unnest(%s) WITH ORDINALITY AS _(value, place) ORDER BY place""", values)]
    assert len(found) == len(values) == len(expected) > 0
    return [difference for difference in zip(values, expected, found) if difference[1] != difference[2]]


def hows(r, count):
    return r.choices(["wal", "read", "unix"], k=count)


def present(db, type_):
    if type_ == "xml" and not db.has_xml:
        pytest.skip("this PostgreSQL is built without libxml: no value is valid")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("type_", TYPES)
def test_any_value(types, type_, seed):
    present(types, type_)
    r = random.Random(f"{type_} {seed}")
    make, encode = TYPES[type_], encoder(type_)
    texts = normalised(types, type_, [make(r) for _ in range(VALUES)])
    values = [dump(encode(text, how)) for text, how in zip(texts, hows(r, VALUES))]
    assert differences(types, type_, values, texts) == []


def nest(r, elements, dimensions):
    """Cuts into so many dimensions."""
    if dimensions < 2:
        return elements
    wide = [width for width in range(1, len(elements) + 1) if len(elements) % width == 0]
    width = r.choice(wide)
    return [nest(random.Random(width), elements[start:start + width], dimensions - 1) for start in range(0, len(elements), width)]


def deep(nested, encode):
    return [deep(inner, encode) for inner in nested] if isinstance(nested, list) else None if nested is None else encode(nested)


def split_wrongly(text):
    """What Sequin makes of box[]: it takes the comma for the delimiter."""
    return [None if piece == "NULL" else piece for piece in text[1:-1].split(",")] if len(text) > 2 else []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("type_", TYPES)
def test_any_array(types, type_, seed):
    """Of one, two and three dimensions, with nulls, and empty."""
    present(types, type_)
    r = random.Random(f"{type_} {seed}")
    make, encode = TYPES[type_], encoder(type_)
    elements = normalised(types, type_, [make(r) for _ in range(VALUES)])
    arrays, values = [], []
    for place in range(VALUES // 2):
        dimensions = 1 if type_ in ONE_DIMENSION else 1 + place % 3
        count = r.choice([4, 6, 12]) if dimensions > 1 else r.randint(0, 6)
        array = nest(r, [r.choice([None, *r.choices(elements, k=5)]) for _ in range(count)], dimensions)
        [how] = hows(r, 1)
        arrays.append(literal(array, ";" if type_ == "box" else ","))
        values.append(dump(deep(array, lambda text: encode(text, how))))
    expected = normalised(types, f"{type_}[]", arrays)
    if type_ == "box":
        values[::6] = [dump(split_wrongly(text)) for text in expected[::6]]
    assert differences(types, f"{type_}[]", values, expected) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_any_row(types, seed):
    """All types in one table, with modifiers, a dropped column before and between, a generated one, and names that need quotes."""
    r = random.Random(seed)
    columns = {type_: (type_, make, encoder(type_)) for type_, make in TYPES.items() if type_ != "xml" or types.has_xml}
    columns |= {type_: (base, make, encoder(base)) for type_, (base, make) in WITH_MODIFIER.items()}
    columns |= {f"{type_}[]": (f"{base}[]", lambda r, make=make: literal([make(r), None, make(r)]), as_texts)
                for type_, (base, make) in WITH_MODIFIER.items() if base not in ENCODERS}
    names = list(columns)
    r.shuffle(names)
    defined = [f"{identifier(name)} {name}" for name in names]
    types.run(f"""DROP TABLE IF EXISTS everything;
                  CREATE TABLE everything ("gone ""1" int, {', '.join(defined[:50])}, gone2 text NOT NULL, {', '.join(defined[50:])});
                  ALTER TABLE everything DROP "gone ""1", DROP gone2, ADD place serial,
                    ADD "made ""up" int8 GENERATED ALWAYS AS (int2::int8 * 2) STORED""")
    images, rows = [{} for _ in range(VALUES)], [[] for _ in range(VALUES)]
    for name in names:
        base, make, encode = columns[name]
        texts = normalised(types, base, [None if r.random() < .1 else make(r) for _ in range(VALUES)])
        for image, row, text, how in zip(images, rows, texts, hows(r, VALUES)):
            image[name] = None if text is None else encode(text, how)
            row.append(text)
    copy(types, f"everything ({', '.join(map(identifier, names))})", rows)
    values = ["{" + ",".join(f"{dump(name)}:{dump(value)}" for name, value in image.items()) + ',"gone2":"x","no column":{}}' for image in images]
    read = ", ".join(f"written((r).{identifier(name)})" for name in names)
    expected = types.rows(f"SELECT {read} FROM (SELECT e AS r FROM everything AS e ORDER BY place) AS _")
    found = types.rows(f"""SELECT {read}, (r)."made ""up" FROM (SELECT audit_row(NULL::everything, value::jsonb) AS r
                           FROM unnest(%s) WITH ORDINALITY AS _(value, place) ORDER BY place OFFSET 0) AS _""", values)
    wrong = [(name, value, want, have) for image, wanted, had in zip(images, expected, found)
             for name, value, want, have in zip(names, image.values(), wanted, had) if want != have]
    assert wrong == [] and len(found) == len(expected) == VALUES
    assert {row[-1] for row in found} == {None}, "a generated column is in no message"
    changed = {name for wanted, row in zip(expected, rows) for name, want, text in zip(names, wanted, row) if want != text}
    assert changed >= {"numeric(10,2)", "numeric(6,-2)", "char(8)", "timestamp(3)", "timestamp(0)", "timestamptz(1)", "time(0)", "timetz(2)", "interval(2)",
                       "interval day to minute", "interval year to month", "numeric(10,2)[]", "char(8)[]"}, "modifiers matter in these rows"
    assert types.value("SELECT count(*) FROM everything AS e WHERE written(e) IS DISTINCT FROM written(audit_row(e, '{}'))") == 0


def test_every_type_of_postgresql_is_among_these(types):
    listed = [type_ for type_ in TYPES if type_ != "xml"] + ["xml"]
    missing = {name for name, in types.rows("""
        SELECT typname FROM pg_type
        WHERE typnamespace = 'pg_catalog'::regnamespace AND (typtype = 'b' AND typinput <> 'array_in'::regproc OR typtype IN ('r', 'm'))
          AND oid <> ALL (%s::text[]::regtype[])""", listed)}
    assert missing == REFUSING
    for type_ in sorted(REFUSING):
        with pytest.raises(psycopg2.errors.InvalidCharacterValueForCast) as raised:
            types.value(f"SELECT audit_cast(NULL::{type_}, '\"x\"')::text")
        assert raised.value.diag.message_detail == "The type's input function failed with SQLSTATE 0A000.", type_


# ------------------------------------------------------------------------------------------------------------- value by value

# arrays reach the input function of a type that is no array as they stand: path, lseg, int4range, by_hand
@pytest.mark.parametrize("type_, value, expected", [
    ("interval", '{"months": 14, "days": 3, "microseconds": 14706789000}', "1 year 2 mons 3 days 04:05:06.789"),
    ("interval", '{"months": -14, "days": 3, "microseconds": -14706789000}', "-1 years -2 mons +3 days -04:05:06.789"),
    ("interval", '{"months": 0, "days": 0, "microseconds": 9223372036854775807}', "2562047788:00:54.775807"), ("interval", '"1 day"', "1 day"),
    ("int8", "9007199254740993", "9007199254740993"), ("int8", "-9223372036854775808", "-9223372036854775808"), ("int8", '"42"', "42"),
    ("numeric", '"123456789012345678901234567890.12345678901234567890"', "123456789012345678901234567890.12345678901234567890"),
    ("numeric", '"1.500"', "1.500"), ("numeric", "1.500", "1.500"),
    ("numeric", "12345678901234567890123456789.10", "12345678901234567890123456789.10"), ("float8", "-0.0", "0"), ("float8", '"-0"', "-0"),
    ("float4", "0.10000000149011612", "0.1"), ("float8", "1.0e20", "1e+20"), ("text", '"null"', "null"), ("text", "17", "17"),
    ("text", "true", "true"), ("text", '{"a": [1]}', '{"a": [1]}'), ("text", "null", None), ("int4", "null", None), ("bool", '"t"', "t"),
    ("bool", "false", "f"), ("money", '"-$1,234.56"', "-$1,234.56"), ("jsonb", '"unchanged"', '"unchanged"'), ("jsonb", "null", None),
    ("json", '"a \\" b"', '"a \\" b"'), ("jsonb", "1.10", "1.10"), ("deep_doc", '"{\\"a\\": 1}"', '{"a": 1}'), ("deep_doc", '"plain"', '"plain"'),
    ("deep_doc", '"\\"plain\\""', '"plain"'), ("deep_doc", '{"a": 1}', '{"a": 1}'),
    ("jsonb[]", '[[1], null, {"a": "NULL"}, "NULL"]', '{[1],NULL,"{\\"a\\": \\"NULL\\"}","\\"NULL\\""}'),
    ("text[]", '["NULL", null, "null", ""]', '{"NULL",NULL,"null",""}'), ("int4[]", "[]", "{}"), ("int4[]", '"{1,2}"', "{1,2}"),
    ("int4[]", '"[0:1]={1,2}"', "[0:1]={1,2}"),
    ("timestamptz[]", '["-0043-03-15T12:00:00.000000Z", "-inf", null]', '{"0044-03-15 12:00:00+00 BC",-infinity,NULL}'),
    ("box[]", '["(1", "1)", "(0", "0);(3", "3)", "(2", "2)"]', "{(1,1),(0,0);(3,3),(2,2)}"),
    ("box[]", '["NULL;(1", "1)", "(0", "0);NULL"]', "{NULL;(1,1),(0,0);NULL}"), ("box[]", '["(1,1),(0,0)", null]', "{(1,1),(0,0);NULL}"),
    ("date", '"5881610-07-11"', "infinity"), ("date", '"-0043-03-15"', "0044-03-15 BC"), ("date", '"0000-02-29"', "0001-02-29 BC"),
    ("date[]", '["-0043-03-15"]', '{"0044-03-15 BC"}'), ("timestamp", '"-inf"', "-infinity"), ("timestamptz", '"inf"', "infinity"),
    ("float8", '"-inf"', "-Infinity"), ("float4[]", '["inf", "NaN"]', "{Infinity,NaN}"), ("timetz", '"09:34:56.000000"', "09:34:56+00"),
    ("timetz", '"09:34:56-07:30"', "09:34:56-07:30"), ("daterange", '"[2024-01-01,unbound)"', "[2024-01-01,)"),
    ("daterange", '"(empty,empty)"', "empty"), ("daterange[]", '["(unbound,2024-01-01)"]', '{"(,2024-01-01)"}'),
    ("bytea", '"\\\\x41-"', "\\x5c7834312d"), ("bytea", '"\\\\x6162"', "\\x6162"), ("bytea", '"\\\\x"', "\\x"),
    ("bytea", '"a\\\\9é"', "\\x615c39c3a9"), ("bytea", '"a\\\\\\\\\\\\001"', "\\x615c01"),
    ("hstore", '{"a": "1", "b\\"": null, "NULL": "NULL", "": ""}', '""=>"", "a"=>"1", "b\\""=>NULL, "NULL"=>"NULL"'),
    ("hstore[]", '[{"a": null}, "\\"b\\"=>\\"2\\""]', '{"\\"a\\"=>NULL","\\"b\\"=>\\"2\\""}'), ("tsvector", "[]", ""),
    ("tsvector[]", '["\'a\':1", null]', '{\'a\':1,NULL}'), ("four", '"(1,\\"a \\"\\"b\\"\\"\\",,)"', '(1,"a ""b""",,)'),
    ("four[]", '["(1,\\",\\",{},)", null]', '{"(1,\\",\\",{},)",NULL}'), ("path", "[1, 2, 3, 4]", "[(1,2),(3,4)]"),
    ("lseg", "[1, 2, 3, 4]", "[(1,2),(3,4)]"), ("int4range", "[1, 2]", "[1,3)"), ("by_hand", "[1, 2.50]", "[1, 2.50]"),
    ("by_hand", '{"a": [1, null]}', '{"a": [1, null]}'), ("by_hand", '"[1,2]"', "[1,2]"), ("by_hand", "true", "true"), ("by_hand", "-1.0", "-1.0"),
])
def test_one_value(types, type_, value, expected):
    if type_ == "by_hand" and types.value("SELECT to_regtype('by_hand') IS NULL"):
        types.run("""SET client_min_messages = warning; CREATE TYPE by_hand;
                     CREATE FUNCTION by_hand_in(cstring) RETURNS by_hand LANGUAGE internal IMMUTABLE STRICT AS 'textin';
                     CREATE FUNCTION by_hand_out(by_hand) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
                     CREATE TYPE by_hand (INPUT = by_hand_in, OUTPUT = by_hand_out, LIKE = text); RESET client_min_messages""")
    assert types.value(f"SELECT written(audit_cast(NULL::{type_}, %s))", value) == expected


def test_infinite_intervals(types):
    if types.connect().server_version < 170000:
        pytest.skip("since PostgreSQL 17")
    found = types.rows("""SELECT audit_cast(NULL::interval, '"infinity"')::text, audit_cast(NULL::interval[], '["-infinity", null]')::text""")
    assert found == [("infinity", "{-infinity,NULL}")]


def test_a_type_of_an_extension_reads_arrays_as_they_stand(types):
    if not types.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"):
        pytest.skip("pgvector is not at hand")
    types.run("CREATE EXTENSION IF NOT EXISTS vector; CREATE TABLE vectors (v vector(3), bits bit(3))")
    assert types.value("SELECT audit_row(NULL::vectors, '{\"v\": [1, 2.5, -3e-1], \"bits\": \"101\"}')::text") == '("[1,2.5,-0.3]",101)'
    with pytest.raises(psycopg2.errors.DataError):
        types.value("SELECT audit_row(NULL::vectors, '{\"v\": [1, 2]}')::text")


def test_hstore_in_any_schema(types):
    types.run('CREATE SCHEMA "Other. Place"; ALTER EXTENSION hstore SET SCHEMA "Other. Place"')
    try:
        for path in ("public", '"Other. Place"'):
            types.run(f"SET search_path = {path}, public")
            assert types.value("""SELECT audit_cast(NULL::"Other. Place".hstore, '{"a": "1"}')::text""") == '"a"=>"1"'
    finally:
        types.run("SET search_path = public; ALTER EXTENSION hstore SET SCHEMA public")


MOMENTS = [  # (type, JSON, what it is in UTC)
    ("timestamp", "-210866803200000000", "4714-11-24 00:00:00 BC"), ("timestamp", "-62135596800000001", "0001-12-31 23:59:59.999999 BC"),
    ("timestamp", "-1", "1969-12-31 23:59:59.999999"), ("timestamp", "0", "1970-01-01 00:00:00"),
    ("timestamp", "951782400000000", "2000-02-29 00:00:00"), ("timestamp", "9223371331200000000", "294247-01-02 00:00:00"),
    ("timestamp", "9224318015999999999", "294276-12-31 23:59:59.999999"), ("timestamptz", "-210866803200000000", "4714-11-24 00:00:00+00 BC"),
    ("timestamptz", "1709210096789000", "2024-02-29 12:34:56.789+00"), ("timestamptz", "9224318015999999999", "294276-12-31 23:59:59.999999+00"),
    ("timestamptz[]", "[-1, null]", '{"1969-12-31 23:59:59.999999+00",NULL}'),
    ("timestamptz[]", '[["2024-03-04T05:06:07.000000Z"], ["inf"]]', '{{"2024-03-04 05:06:07+00"},{infinity}}'),
    ("timestamp", '"2024-03-04T05:06:07.000000"', "2024-03-04 05:06:07"), ("timestamp", '"0044-03-04 12:00:00 BC"', "0044-03-04 12:00:00 BC"),
    ("timestamp", '"12345-06-07 08:09:10"', "12345-06-07 08:09:10"), ("timestamptz", '"2024-03-31T02:30:00.000000Z"', "2024-03-31 02:30:00+00"),
    ("timestamptz", '"-0043-03-04T05:06:07.000000Z"', "0044-03-04 05:06:07+00 BC"),
    ("timestamptz", '"0044-03-04 12:00:00+00 BC"', "0044-03-04 12:00:00+00 BC"),
    ("timestamptz", '"10000-01-02 00:00:00+00"', "10000-01-02 00:00:00+00"), ("timestamptz", '"-inf"', "-infinity"),
    ("timestamptz", '"294276-12-31T23:59:59.999999Z"', "294276-12-31 23:59:59.999999+00"), ("date", '"2024-03-04"', "2024-03-04"),
    ("date", '"0044-03-04 BC"', "0044-03-04 BC"), ("date", '"-4712-03-04"', "4713-03-04 BC"), ("date", '"10000-01-02"', "10000-01-02"),
    ("date", '"5881610-07-11"', "infinity"), ("date", '"0000-03-04"', "0001-03-04 BC"), ("daterange", '"[2024-01-02,unbound)"', "[2024-01-02,)"),
    ("time", '"01:02:03.040000"', "01:02:03.04"), ("timetz", '"01:02:03.040000"', "01:02:03.04+00"),
    ("interval", '{"months": -14, "days": 3, "microseconds": -14706789000}', "-1 years -2 mons +3 days -04:05:06.789"),
    ("interval", '{"months": -1, "days": -1, "microseconds": -1}', "-1 mons -1 days -00:00:00.000001"),
    ("interval", '{"months": 1, "days": -1, "microseconds": 1}', "1 mon -1 days +00:00:00.000001"),
    ("interval", '{"months": -13, "days": 0, "microseconds": 0}', "-1 years -1 mons"),
    ("interval", '{"months": 0, "days": 0, "microseconds": -361800000000}', "-100:30:00"),
    ("interval", '{"months": 0, "days": 0, "microseconds": 0}', "00:00:00"),
    ("interval[]", '[{"months": -1, "days": 3, "microseconds": 0}, null]', '{"-1 mons +3 days",NULL}'),
]


@pytest.mark.parametrize("style, interval_style, zone", [
    ("ISO, DMY", "sql_standard", "America/New_York"), ("SQL, DMY", "iso_8601", "Asia/Kolkata"), ("German", "postgres_verbose", "Pacific/Auckland"),
    ("Postgres, YMD", "sql_standard", "Europe/Berlin"),
])
def test_no_setting_of_the_session_changes_a_value(types, style, interval_style, zone):
    columns = ", ".join(f"audit_cast(NULL::{type_}, '{value}') AS v{place}" for place, (type_, value, _) in enumerate(MOMENTS))
    types.run(f"SET DateStyle = '{style}'; SET IntervalStyle = {interval_style}; SET TimeZone = '{zone}'; CREATE TEMP TABLE moments AS SELECT {columns}")
    types.run("RESET DateStyle; RESET IntervalStyle; RESET TimeZone")
    [found] = types.rows("SELECT " + ", ".join(f"v{place}::text" for place in range(len(MOMENTS))) + " FROM moments")
    types.run("DROP TABLE moments")
    assert [(type_, value, text) for (type_, value, _), text in zip(MOMENTS, found)] == MOMENTS


# ------------------------------------------------------------------------------------------------------------------ whole rows

@pytest.fixture
def users(types):
    types.run("""DROP TABLE IF EXISTS users; CREATE TABLE users (id int8, "full name" varchar(20), gone int, price numeric(10,2), "Tags" text[]);
                 ALTER TABLE users DROP gone""")
    return types


def test_an_image_overlays_the_first_argument(users):
    over = lambda image: users.value("SELECT audit_row(ROW(7, 'Ada', 1.5, '{a}')::users, %s)::text", image)
    assert over('{"price": "2.345", "gone": 3, "other": {}}') == "(7,Ada,2.35,{a})"
    assert over('{"id": null}') == "(,Ada,1.50,{a})"
    assert over('{"full name": "unchanged_toast"}') == "(7,unchanged_toast,1.50,{a})"
    assert over("{}") == over(None) == "(7,Ada,1.50,{a})"
    assert users.rows("SELECT audit_row(NULL::users, NULL) IS NULL, audit_row(NULL::users, '{}')::text") == [(True, "(,,,)")]


def test_what_is_listed_as_unknown_is_null(users):
    image = """'{"id": 9007199254740993, "full name": "Ada", "price": "unchanged_toast", "Tags": ["x"]}'"""
    assert users.value(f"SELECT audit_row(NULL::users, {image}, '{{price,Tags,absent}}')::text") == "(9007199254740993,Ada,,)"
    assert users.value(f"SELECT audit_row(ROW(1, 'Bob', 5, '{{y}}')::users, '{{}}', '{{price,NULL}}')::text") == "(1,Bob,,{y})"
    assert users.value("""SELECT audit_row(NULL::users, image => '{"id": 1}', "unknown" => NULL)::text""") == "(1,,,)"


def test_values_of_the_first_argument_outlive_their_table(users):
    """Out of line and compressed ones, too, and rows from before a column was added."""
    users.run("""DROP TABLE IF EXISTS long_ones, kept; CREATE TABLE long_ones (id int, body text, packed text);
                 ALTER TABLE long_ones ALTER body SET STORAGE EXTERNAL;
                 INSERT INTO long_ones SELECT n, repeat(n::text || 'é', 20000), repeat('z', 100000) FROM generate_series(1, 3) AS n;
                 ALTER TABLE long_ones ADD more int DEFAULT 5;
                 CREATE TABLE kept AS SELECT (r).* FROM (SELECT audit_row(l, jsonb_build_object('id', l.id + 10)) AS r FROM long_ones AS l OFFSET 0) AS _;
                 TRUNCATE long_ones""")
    found = users.rows("SELECT id, body = repeat((id - 10)::text || 'é', 20000), packed = repeat('z', 100000), more FROM kept ORDER BY id")
    assert found == [(n, True, True, 5) for n in (11, 12, 13)]


def test_a_stored_row_of_fewer_columns(users):
    users.run("""DROP TYPE IF EXISTS growing CASCADE; DROP TABLE IF EXISTS grown; CREATE TYPE growing AS (a int, b text); CREATE TABLE grown (r growing);
                 INSERT INTO grown VALUES ('(1,x)'); ALTER TYPE growing ADD ATTRIBUTE c int""")
    assert users.rows("""SELECT audit_row(r, '{"b": "y"}')::text, audit_row(r, '{"c": 3}')::text FROM grown""") == [("(1,y,)", "(1,x,3)")]


def test_a_row_without_columns(users):
    users.run("DROP TABLE IF EXISTS nothing; CREATE TABLE nothing (gone int); ALTER TABLE nothing DROP gone")
    assert users.value("""SELECT audit_row(NULL::nothing, '{"gone": 1}')::text""") == "()"


def test_column_names_of_every_kind(users):
    names = ["select", "UPPER", "upper", 'quo"te', "back\\slash", "naïve – ключ", "a.b", " ", "x" * 63, "漢" * 21]
    users.run(f"DROP TABLE IF EXISTS names; CREATE TABLE names ({', '.join(identifier(name) + ' int' for name in names)})")
    image = json.dumps({name: place for place, name in enumerate(names)})
    assert users.value("SELECT audit_row(NULL::names, %s)::text", image) == f"({','.join(map(str, range(len(names))))})"
    assert users.value("SELECT audit_row(NULL::names, %s, %s)::text", image, names[:-1]) == "(" + "," * (len(names) - 1) + f"{len(names) - 1})"


def test_altered_tables_are_seen_at_once(users):
    """By a prepared statement, in one transaction, and by a function that keeps its plan."""
    users.run("DROP TABLE IF EXISTS evolves; CREATE TABLE evolves (a int, b numeric(4,1))")
    image = """'{"a": 1, "b": "2.55", "c": ["x"], "B": "2.50"}'"""
    alter = [f"ALTER TABLE evolves {change}" for change in ("ADD c text[]", "ALTER b TYPE numeric(6,3)", "ALTER a TYPE text", "DROP c", 'RENAME b TO "B"')]
    expected = ["(1,2.6)", "(1,2.6,{x})", "(1,2.550,{x})", "(1,2.550,{x})", "(1,2.550)", "(1,2.500)"]
    with users.connect().cursor() as cursor:
        cursor.execute(f"BEGIN; PREPARE cast_it AS SELECT audit_row(NULL::evolves, {image})::text; EXECUTE cast_it")
        found = cursor.fetchall()
        for statement in alter:
            cursor.execute(f"{statement}; EXECUTE cast_it")
            found += cursor.fetchall()
        cursor.execute("ROLLBACK; DEALLOCATE cast_it")
    assert [text for text, in found] == expected
    users.run(f"""CREATE OR REPLACE FUNCTION evolving(statements text[]) RETURNS text[] LANGUAGE plpgsql AS $$
                  DECLARE found text[]; statement text; place int := 0;
                  BEGIN
                    WHILE place <= cardinality(statements) LOOP
                      found := found || audit_row(NULL::evolves, {image})::text; place := place + 1;
                      IF place <= cardinality(statements) THEN EXECUTE statements[place]; END IF;
                    END LOOP;
                    RETURN found;
                  END $$""")
    assert users.value("SELECT evolving(%s)", alter) == expected
    assert users.value("SELECT audit_row(NULL::evolves, %s)::text", '{"a": "x", "B": "2"}') == "(x,2.000)"


def test_a_new_check_of_a_domain_is_seen_at_once(users):
    users.run("DROP DOMAIN IF EXISTS small CASCADE; CREATE DOMAIN small AS int")
    users.run("PREPARE cast_small AS SELECT audit_cast(NULL::small, '77')::text")
    assert users.value("EXECUTE cast_small") == "77"
    users.run("ALTER DOMAIN small ADD CHECK (VALUE < 10)")
    with pytest.raises(psycopg2.DataError):
        users.value("EXECUTE cast_small")
    users.run("DEALLOCATE cast_small")


def test_one_call_site_of_many_types(users):
    """In a polymorphic function each type is read by its own input function."""
    users.run("""CREATE OR REPLACE FUNCTION any_cast(kind anyelement, v jsonb) RETURNS anyelement LANGUAGE plpgsql AS $$
                 BEGIN RETURN audit_cast(kind, v); END $$""")
    assert users.rows("""SELECT any_cast(NULL::numeric, '"1.50"')::text, any_cast(NULL::date, '"-0043-03-15"')::text,
        any_cast(NULL::int[], '[1,null]')::text, any_cast(NULL::numeric, '"2.0"')::text""") == [("1.50", "0044-03-15 BC", "{1,NULL}", "2.0")]
    assert users.value("SELECT audit_cast(1.5, '\"7.0\"')::text") == "7.0", "the first argument's value does not matter"


def test_parallel_workers_cast_too(users):
    setting = "debug_parallel_query" if users.connect().server_version >= 160000 else "force_parallel_mode"
    users.run(f"""DROP TABLE IF EXISTS many;
                  CREATE TABLE many AS SELECT jsonb_build_object('id', n, 'price', n || '.25') AS image FROM generate_series(1, 5000) AS n;
                  SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET {setting} = on""")
    try:
        query = "SELECT sum((audit_row(NULL::users, image)).price), sum(audit_cast(NULL::int8, image -> 'id')) FROM many"
        assert "Gather" in str(users.rows(f"EXPLAIN {query}"))
        assert users.rows(query) == [(decimal.Decimal("12503750.00"), 12502500)]
    finally:
        users.run(f"RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET {setting}")


# -------------------------------------------------------------------------------------------------------------------- refusals

def refused(db, sql, *arguments):
    with pytest.raises(psycopg2.Error) as raised:
        db.rows(sql, *arguments)
    return raised.value.diag


@pytest.mark.parametrize("type_", ["jsonb", "json", "xml", "bytea", "tsvector", "int4", "integer[]", "text[]", "hstore", "four",
                                   "numeric(10,2)", "doc", "deep_doc", "timestamptz", "bit(5)", "point"])
def test_the_marker_of_an_unsent_value_is_no_value(types, type_):
    types.run(f'DROP TABLE IF EXISTS toasted; CREATE TABLE toasted (id int, "the column" {type_})')
    image = '{"id": 1, "the column": "unchanged_toast"}'
    diag = refused(types, "SELECT audit_row(NULL::toasted, %s)", image)
    full = types.value("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'toasted'::regclass AND attname = 'the column'")
    assert (diag.sqlstate, diag.message_primary) == ("22018", f'cannot cast column "the column" of toasted to type {full}')
    assert "marker" in diag.message_detail and "unknown" in diag.message_hint
    assert types.value("SELECT audit_row(NULL::toasted, %s, '{the column}')::text", image) == "(1,)"
    assert refused(types, f"SELECT audit_cast(NULL::{type_}, '\"unchanged_toast\"')").sqlstate == "22018"


@pytest.mark.parametrize("type_", ["text", "varchar", "varchar(40)", "citext", "name", "bpchar", "word"])
def test_in_a_text_the_marker_may_be_the_value(types, type_):
    types.run(f"DROP TABLE IF EXISTS toasted; CREATE TABLE toasted (v {type_})")
    assert types.value("""SELECT audit_row(NULL::toasted, '{"v": "unchanged_toast"}')::text""") == "(unchanged_toast)"


SECRETS = [  # (type, JSON, what must not be told, SQLSTATE)
    ("integer", '"secret77"', "secret", "22P02"), ("integer", "99999777777", "777", "22003"), ("smallint", "[77777]", "777", "22P02"),
    ("integer", '{"a": "secret77"}', "secret", "22P02"), ("numeric(5,2)", '"7777777.7"', "7777", "22003"),
    ("numeric", '"secret77"', "secret", "22P02"), ("double precision", '"1e777777"', "7777", "22003"), ("boolean", '"secret77"', "secret", "22P02"),
    ("character varying(3)", '"secret77"', "secret", "22001"), ("character(3)", '"secret77"', "secret", "22001"),
    ("bit(3)", '"0110011"', "0110011", "22026"), ("bit varying(3)", '"secret77"', "secret", "22001"), ("date", '"secret77"', "secret", "22007"),
    ("date", '"7777-77-77"', "7777", "22008"), ("timestamp with time zone", '"2024-01-01T00:00:00 Secret/City"', "Secret", "22023"),
    ("timestamp without time zone", "7777777777777777777777", "7777", "22"),
    ("interval", '{"months": "secret77", "days": 0, "microseconds": 0}', "secret", "22007"),
    ("interval", '{"months": 77777777777, "days": 0, "microseconds": 0}', "7777", "22"), ("time(0) without time zone", '"77:77"', "77:77", "22008"),
    ("uuid", '"secret77"', "secret", "22P02"), ("inet", '"secret77"', "secret", "22P02"), ("cidr", '"77.77.77.77/8"', "77.77", "22P02"),
    ("macaddr", '"secret77"', "secret", "22P02"), ("money", '"secret77"', "secret", "22P02"), ("point", '"secret77"', "secret", "22P02"),
    ("jsonpath", '"secret77 !"', "secret", "22018"), ("tsquery", '"secret77 &"', "secret", "22018"), ("tsvector", '"\'secret77"', "secret", "22018"),
    ("integer[]", '[1, "secret77"]', "secret", "22P02"), ("integer[]", "[[1], [7777, 8888]]", "7777", "22P02"),
    ("integer[]", '"{secret77"', "secret", "22P02"), ("timestamp with time zone[]", '["secret77"]', "secret", "22007"),
    ("int4range", '"[7777,77)"', "777", "22000"), ("int4range", '"secret77"', "secret", "22P02"), ("int4multirange", '"{[7777,77)}"', "777", "22000"),
    ("daterange", '"[secret77,)"', "secret", "22007"), ("feeling", '"secret77"', "secret", "22P02"), ("positive", "-777777", "777", "22018"),
    ("small_positive", '"secret77"', "secret", "22P02"), ("whispered", '"secret77"', "secret", "22018"),
    ("four", '"(secret77,,,)"', "secret", "22P02"), ("four", '"(1,,,secret77"', "secret", "22P02"), ("integers", '["secret77"]', "secret", "22P02"),
    ("hstore", '"secret77"', "secret", "22"), ("hstore", '["secret77"]', "secret", "22"), ("ltree", '"secret77 !"', "secret", "22018"),
    ("cube", '"secret77"', "secret", "22"), ("regclass", '"secret77"', "secret", "22018"), ("regtype", '"secret77"', "secret", "22018"),
    ("regrole", '"secret77"', "secret", "22018"), ("regprocedure", '"secret77(int)"', "secret", "22018"),
    ("aclitem", '"secret77=r/postgres"', "secret", "22018"), ("pg_lsn", '"secret77"', "secret", "22P02"), ("xml", '"<secret77"', "secret", "2200N"),
    ("raises_p0001", '"secret77"', "secret", "22018"), ("raises_ab123", '"secret77"', "secret", "22018"),
    ("raises_22p77", '"secret77"', "secret", "22"), ("divides", "777777", "777", "22012"),
]


@pytest.mark.parametrize("type_, value, secret, sqlstate", SECRETS)
def test_an_error_tells_where_and_never_what(types, type_, value, secret, sqlstate):
    present(types, type_)
    if types.value("SELECT to_regtype('whispered') IS NULL"):
        types.run("""CREATE DOMAIN whispered AS text CONSTRAINT "no secret" CHECK (VALUE NOT LIKE 'secret%');
                     CREATE FUNCTION raising(v text, code text) RETURNS boolean LANGUAGE plpgsql AS $$
                     BEGIN IF v IS NULL THEN RETURN true; END IF; RAISE EXCEPTION 'no % here', v
                       USING ERRCODE = code, DETAIL = v, HINT = v, COLUMN = v, CONSTRAINT = v, DATATYPE = v, TABLE = v, SCHEMA = v; END $$;
                     CREATE DOMAIN raises_p0001 AS text CHECK (raising(VALUE, 'P0001')); CREATE DOMAIN raises_ab123 AS text CHECK (raising(VALUE, 'AB123'));
                     CREATE DOMAIN raises_22p77 AS text CHECK (raising(VALUE, '22P77')); CREATE DOMAIN divides AS int CHECK (1 / (VALUE - 777777) > 0)""")
    types.run(f'DROP TABLE IF EXISTS vault; CREATE TABLE vault (id int, "the column" {type_})')
    calls = [("SELECT audit_row(NULL::vault, jsonb_build_object('id', 1, 'the column', current_setting('cast.value')::jsonb))",
              'column "the column" of vault')]
    if "(" not in type_:
        calls.append((f"SELECT audit_cast(NULL::{type_}, current_setting('cast.value')::jsonb)", "value"))
    for sql, place in calls:
        types.rows("SELECT set_config('cast.value', %s, false)", value)
        diag = refused(types, f"DO $$ BEGIN EXECUTE $_${sql}$_$; END $$")
        assert diag.message_primary == f"cannot cast {place} to type {type_}"
        assert diag.sqlstate.startswith(sqlstate) and diag.sqlstate.startswith("22")
        told = {name: getattr(diag, name) for name in dir(diag) if name[0] != "_" and isinstance(getattr(diag, name), str)}
        assert [name for name, text in told.items() if secret in text] == [], told
        assert "PL/pgSQL" in diag.context, "the context is shown, as ever"


def test_what_is_not_the_values_fault_is_said_as_it_is(types):
    """A cancelled cast is cancelled, not a bad value."""
    types.run("DROP DOMAIN IF EXISTS slow; CREATE DOMAIN slow AS int CHECK (VALUE IS NULL OR pg_sleep(VALUE) IS NOT NULL)")
    try:
        types.run("SET statement_timeout = 50")
        assert refused(types, "SELECT audit_cast(NULL::slow, '600')").sqlstate == "57014"
    finally:
        types.run("RESET statement_timeout")


@pytest.mark.parametrize("sql, sqlstate", [
    ("audit_row(1, '{}')", "42804"), ("audit_row('x'::text, '{}')", "42804"), ("audit_row(NULL::int[], '{}')", "42804"),
    ("audit_row(ROW(1, 2), '{}')", "42804"), ("audit_row(NULL::users[], '{}')", "42804"), ("audit_row(NULL::users, '[]')", "22023"),
    ("audit_row(NULL::users, '1')", "22023"), ("audit_row(NULL::users, 'null')", "22023"), ("audit_row(NULL::users, '\"secret\"')", "22023"),
])
def test_not_a_row_or_not_an_image(users, sql, sqlstate):
    diag = refused(users, f"SELECT {sql}")
    assert diag.sqlstate == sqlstate and "secret" not in diag.message_primary
    assert sqlstate == "22023" or "audit_row(NULL::" in diag.message_hint


def test_nesting_without_end_is_an_error_like_another(types):
    for type_ in ("int[]", "text[]", "box[]", "date[]", "int4", "date"):
        assert refused(types, f"SELECT audit_cast(NULL::{type_}, (repeat('[', 5000) || repeat(']', 5000))::jsonb)").sqlstate.startswith("22"), type_
    assert types.value("SELECT cardinality(audit_cast(NULL::int[], (SELECT jsonb_agg(n) FROM generate_series(1, 100000) AS n)))") == 100000


def test_only_readers_may_cast(users):
    users.run("DROP ROLE IF EXISTS nobody_of_test, reader_of_test; CREATE ROLE nobody_of_test; CREATE ROLE reader_of_test IN ROLE audit_cdc_reader")
    calls = ["""audit_cast(NULL::numeric, '"1.50"')::text""", """audit_row(NULL::users, '{"id": 1}')::text"""]
    try:
        users.run("SET ROLE nobody_of_test")
        assert [refused(users, f"SELECT {call}").sqlstate for call in calls] == ["42501"] * 2
        users.run("SET ROLE reader_of_test")
        assert [users.value(f"SELECT {call}") for call in calls] == ["1.50", "(1,,,)"]
    finally:
        users.run("RESET ROLE; DROP ROLE nobody_of_test, reader_of_test")
