"""audit_annotate takes who and which request as they are: texts, numbers, UUIDs, literals, parameters; named in any order, or left out."""

import itertools

import psycopg2
import pytest
from conftest import TOP

UUID = "00000000-0000-0000-0000-000000000001"
# how it is written, and what it says; $type is a parameter of a prepared statement, $ one whose type the server finds
VALUES = [
    (None, None), ("'ada'", "ada"), ("NULL", None), ("'ada'::text", "ada"), ("'ada'::varchar(9)", "ada"), ("'ada'::name", "ada"), ("'ada'::char(5)", "ada"),
    ("'ada'::label", "ada"), ("42", "42"), ("42::smallint", "42"), ("42::bigint", "42"), ("42.50", "42.50"), (f"'{UUID}'::uuid", UUID), ("'red'::color", "red"),
    ("NULL::int", None), ("NULL::uuid", None), ("NULL::text", None), ("$", "ada"), ("$text", "ada"), ("$int", "42"), ("$uuid", UUID)]


@pytest.fixture(params=["extension", "plain file"])
def annotating(request, empty):
    """In a schema whose name needs quotes, of which search_path need not know."""
    empty.run('CREATE SCHEMA "The Audit"')
    if request.param == "extension":
        empty.run('CREATE EXTENSION audit_cdc SCHEMA "The Audit"')
    else:
        made = empty.psql("-c", 'SET search_path = "The Audit"', "-f", str(TOP / "sql/annotate.sql"))
        assert made.returncode == 0, made.stderr
    empty.run("CREATE TYPE color AS ENUM ('red'); CREATE DOMAIN label AS text")
    connection = empty.connect()
    with connection.cursor() as cursor:
        yield cursor


def annotated(cursor, arguments):
    """What is in force after a call with {name: (how it is written, what it says)}."""
    types, values, written = [], [], []
    for name, (how, says) in arguments.items():
        if how.startswith("$"):
            types.append(how[1:] or "unknown")
            values.append(f"'{says}'")
            how = f"${len(types)}"
        written.append(f"{name} => {how}")
    call = f'SELECT "The Audit".audit_annotate({", ".join(written)})'
    try:
        if types:
            cursor.execute(f"PREPARE call({', '.join(types)}) AS {call}")
            call = f"EXECUTE call({', '.join(values)})"
        cursor.execute(f"BEGIN; {call}")
        return cursor.fetchone()[0]
    finally:
        cursor.execute("ROLLBACK; DEALLOCATE ALL")


def test_who_and_which_request_of_any_type(annotating):
    tried = 0
    for values in itertools.product(VALUES, VALUES, [(None, None), ("$", "web")]):
        given = dict(zip(("username", "request_id", "source"), values, strict=True))
        arguments = {name: value for name, value in given.items() if value[0]}
        says = {name: what for name, (_, what) in arguments.items() if what is not None}
        if says:
            assert annotated(annotating, arguments) == says, arguments
            tried += 1
    assert tried > 800


def test_nothing_is_still_nothing(annotating):
    for call in ("", "NULL", "username => NULL::int", "request_id => NULL::uuid, username => NULL::bigint"):
        with pytest.raises(psycopg2.errors.InvalidParameterValue, match="nothing to annotate"):
            annotating.execute(f'SELECT "The Audit".audit_annotate({call})')


def test_by_position_texts_are_as_they_were(annotating):
    for call in ("'ada', 'web', 'r1'", "'ada'::text, 'web', request_id => 'r1'", "'ada', 'web', 'r1', NULL, NULL"):
        annotating.execute(f'BEGIN; SELECT "The Audit".audit_annotate({call})')
        assert annotating.fetchone()[0] == {"username": "ada", "source": "web", "request_id": "r1"}
        annotating.execute("ROLLBACK")
    for call in ("42", "42, 'web'", f"'{UUID}'::uuid, 'web', 'r1'"):
        with pytest.raises(psycopg2.errors.AmbiguousFunction):
            annotating.execute(f'SELECT "The Audit".audit_annotate({call})')


def test_the_type_of_a_parameter_is_still_text(annotating):
    """Drivers ask for it, and encode what they are given so."""
    annotating.execute("""PREPARE call AS SELECT "The Audit".audit_annotate(username => $1, source => $2, request_id => $3, metadata => $4)""")
    annotating.execute("SELECT parameter_types::text FROM pg_prepared_statements WHERE name = 'call'")
    assert annotating.fetchone() == ("{text,text,text,jsonb}",)


def test_the_warning_outside_a_transaction_block(annotating):
    for call in ('SELECT "The Audit".audit_annotate(username => 42)', 'SELECT * FROM "The Audit".audit_annotate(username => 42, request_id => 7)'):
        del annotating.connection.notices[:]
        annotating.execute(call)
        assert "outside a transaction block" in "".join(annotating.connection.notices)
    del annotating.connection.notices[:]
    annotating.execute("""DO $$ BEGIN PERFORM "The Audit".audit_annotate(username => 42); END $$""")
    assert annotating.connection.notices == []


def test_a_callers_own_functions_and_operators_are_not_met(annotating):
    annotating.execute("""
        CREATE FUNCTION to_jsonb(integer) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"eve"'::jsonb $$;
        CREATE FUNCTION eve(jsonb, text[]) RETURNS text LANGUAGE sql AS $$ SELECT 'eve' $$;
        CREATE OPERATOR public.#>> (LEFTARG = jsonb, RIGHTARG = text[], FUNCTION = eve);
        SET search_path = public, pg_catalog""")
    assert annotated(annotating, {"username": ("42", "42")}) == {"username": "42"}
