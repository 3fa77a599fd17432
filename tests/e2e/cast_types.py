"""Every type and how a random valid text of it is made."""

import datetime
import ipaddress
import re
import struct

from cast_encoders import dump


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


def literal(nested, delimiter=","):
    if nested is None:
        return "NULL"
    if isinstance(nested, list):
        return "{" + delimiter.join(literal(inner, delimiter) for inner in nested) + "}"
    return '"' + re.sub(r'(["\\])', r"\\\1", nested) + '"'


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
