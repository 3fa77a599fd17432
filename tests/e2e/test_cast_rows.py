"""audit_row: what it overlays, names and layouts of every kind, altered tables, parallel workers."""

import decimal
import json

import psycopg2
import pytest
from cast_helpers import identifier, types, users  # users is made of types


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
