"""A value of any type as JSON, encoded as Sequin does; independent of the extension."""

import json
import re
import struct

# how: "wal" as a change carries it, "read" as a backfill does, "unix" with timestamp_format: unix_microsecond


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


# type: how it is encoded; the others as a JSON string of their text
ENCODERS = {
    "bool": as_bool, "int2": as_token, "int4": as_token, "int8": as_token, "oid": as_token, "float4": as_float4, "float8": as_float8, "date": as_date,
    "timestamp": as_timestamp, "timestamptz": as_timestamp, "time": as_time, "timetz": as_timetz, "interval": as_interval, "json": as_token,
    "jsonb": as_token, "daterange": as_daterange, "hstore": as_hstore, "positive": as_token, "small_positive": behind_two_domains(as_token),
    "moment": as_timestamp, "late_moment": behind_two_domains(as_timestamp), "span": as_interval, "long_span": behind_two_domains(as_interval),
    "flag": as_bool, "sure_flag": behind_two_domains(as_bool), "integers": as_integers, "some_integers": behind_two_domains(as_integers),
    "doc": as_token, "plain_doc": as_token, "deep_doc": as_json_behind_two_domains, "deep_plain_doc": as_json_behind_two_domains,
}


def encoder(type_):
    return ENCODERS.get(type_, as_string)
