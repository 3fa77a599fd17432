"""What audit_cast and audit_row refuse: by which SQLSTATE, to whom, and without telling a value."""

import psycopg2
import pytest
from cast_helpers import present, types, users


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
