"""audit_cast: any value, array and row of any type comes back, by chance and value by value, under any settings."""

import io
import random

import psycopg2
import pytest
from cast_encoders import ENCODERS, as_texts, dump, encoder
from cast_helpers import identifier, present, types
from cast_types import TYPES, WITH_MODIFIER, literal

# their input functions refuse every text
REFUSING = {"pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "gtsvector"}
# in an array of these an inner JSON array is a value, not a dimension: nothing in the JSON tells
ONE_DIMENSION = {"json", "jsonb", "doc", "plain_doc", "deep_doc", "deep_plain_doc", "integers", "some_integers"}
SEEDS, VALUES = range(4), 60


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
