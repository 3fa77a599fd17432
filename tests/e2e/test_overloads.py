"""Who may create functions in the extension's schema cannot slip one in: what runs with more rights than its caller never calls it."""

import json
import os

import pytest
from capture_helpers import capture, publish, source, start, table
from conftest import admin, batch, change, numbers
from projection_helpers import run

# what the owner of the database can add beside a function of ours: the same name for arguments that fit its calls better
TYPES = ["numeric", "boolean", "real", "double precision", "timestamptz", "timestamp", "timetz", "time", "date", "interval", "text"]
OVERLOADS = [
    *(("audit_cast", f"{type_}, jsonb", type_) for type_ in TYPES), ("audit_row", "t, jsonb", "t"), ("audit_row", "t, jsonb, text[]", "t"),
    ("audit_row", "t_history, jsonb, text[]", "t_history"), ("audit_diff", "old json, new json", "jsonb"), ("audit_diff", "VARIADIC jsonb[]", "jsonb"),
    ("audit_diff_text", "json", "text"), ("audit_ingest", "varchar", "bigint"),
    ("audit_annotate", "metadata jsonb", "jsonb"), ("audit_in_transaction_block", "VARIADIC text[]", "boolean"),
    ("audit_create_projection", "text, text, regclass", "bigint"), ("audit_as_of", "regtype, timestamptz, pg_lsn, text, text, varchar", "jsonb"),
    ("audit_history", "regtype, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer, varchar", "jsonb"),
    # and beside functions and operators of PostgreSQL
    ("format", "text, VARIADIC text[]", "text"), ("array_position", "text[], text", "integer"), ("concat", "text, text", "text"), ("to_jsonb", "text", "jsonb"),
    ("encode", "text, text", "text"), ("trim_scale", "integer", "numeric"),
]
SPELLED = {"numeric": "1.50", "numeric(9,2)": "2.0", "boolean": "true", "real": "1.5", "double precision": "1.50", "timestamp with time zone": "2024-05-01T10:00:00.500000Z",
           "timestamp without time zone": "2024-05-01T10:00:00.500000", "time with time zone": "10:00:00.50+00", "time without time zone": "10:00:00.50", "date": "2024-05-01",
           "interval": "1 day 00:00:00", "character(4)": "a   ", "citext": "AbC"}


def trap(db, owner):
    """Each overload notes who ran it. A superuser lets it in: the owner alone is refused (test_rights_of_code)."""
    session = db.connect(user=owner)
    let_in = db.connect()
    run(session, "CREATE SCHEMA lair; CREATE TABLE lair.loot (who text, what text); GRANT USAGE ON SCHEMA lair TO PUBLIC; GRANT ALL ON lair.loot TO PUBLIC")
    for name, arguments, result in OVERLOADS:
        declared = f"public.{name}({arguments})".replace("'", "''")
        run(let_in, f"""CREATE FUNCTION public.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS $$
                        BEGIN INSERT INTO lair.loot VALUES (current_user, '{declared}'); RETURN NULL; END $$""")
        run(let_in, f"ALTER FUNCTION public.{name}({arguments}) OWNER TO {owner}")
    return session


@pytest.fixture
def dbo(source):
    name = f"overloads_trap_{os.getpid()}_{next(numbers)}"
    admin(f"CREATE ROLE {name} LOGIN")
    admin(f"ALTER DATABASE {source.name} OWNER TO {name}")
    yield name
    admin(f"ALTER DATABASE {source.name} OWNER TO postgres")
    source.run(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}")
    admin(f"DROP ROLE {name}")


def described(db, types):
    return db.run("SELECT audit_describe_tables('d1', %s)", json.dumps({"described_at": "2026-02-01", "tables": [
        {"table_schema": "public", "table_name": f"k{n}", "replica_identity": "full", "key_columns": ["id"], "identity_columns": ["id"],
         "column_types": {"id": type_}, "never_sent": [], "null_in_reads": []} for n, type_ in enumerate(types)]}))


def test_an_overload_is_never_called(source, dbo):
    source.run("CREATE EXTENSION citext")
    table(source)
    source.run("CREATE TABLE amounts (id numeric PRIMARY KEY, at timestamptz); ALTER TABLE amounts REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 'there'); CREATE TABLE t_history ()")
    trap(source, dbo)
    source.run("DROP TABLE t_history CASCADE")
    # keys of each spelled type: described before they come, and after
    described(source, SPELLED)
    messages = [change(n, table=f"k{n}", pks=[value], record={"id": value}) for n, value in enumerate(SPELLED.values())]
    assert source.ingest(batch(messages)) == (len(SPELLED), len(SPELLED), 0, 0)
    source.run("SELECT audit_ingest(%s::jsonb), audit_ingest(ARRAY[%s])", batch(messages), batch([change(100)]))
    described(source, list(SPELLED)[1:] + ["numeric"])
    # capture, backfill, projections
    publish(source, "TABLE t, amounts")
    start(source)
    source.run("SELECT audit_create_history_projection('t'); SELECT audit_create_activity()")
    source.run("CALL audit_backfill('t')")
    source.run("INSERT INTO amounts VALUES (1.50, now()); UPDATE amounts SET id = 1.5, at = NULL; INSERT INTO t VALUES (2, 'b'); UPDATE t SET v = 'c' WHERE id = 2; DELETE FROM t WHERE id = 1")
    capture(source)
    assert source.value("SELECT count(*) FROM t_history") == 4
    # questions
    last = source.value("SELECT max(id) FROM audit_logs WHERE table_name = 't' AND action = 'update'")
    for question in ("SELECT * FROM audit_history('t', '2')", "SELECT * FROM audit_history(since => '2020-01-01')", "SELECT * FROM audit_history(NULL::t, '2')",
                     "SELECT * FROM audit_as_of('t')", "SELECT * FROM audit_as_of(NULL::t)", "SELECT * FROM audit_as_of_unknown(NULL::t)", "SELECT * FROM audit_history('amounts', '1.5')",
                     f"SELECT * FROM audit_undo_sql({last})", f"SELECT * FROM audit_undo(change => {last}::bigint)", "SELECT * FROM audit_last_changes", "SELECT * FROM audit_status()",
                     "SELECT * FROM audit_capture_status()", "SELECT * FROM audit_rejects", "SELECT audit_rebuild_projection('t_history')", "SELECT audit_retry_rejects(NULL)"):
        source.rows(question)
    assert source.value("SELECT v FROM t WHERE id = 2") == "b"
    assert source.rows("SELECT DISTINCT who, what FROM lair.loot") == []
    source.rows("SELECT public.audit_cast(NULL::numeric, to_jsonb(1))")  # the trap does work
    assert source.rows("SELECT DISTINCT who, what FROM lair.loot") == [("postgres", "public.audit_cast(numeric, jsonb)")]


def test_what_was_there_before_the_extension_is_not_bound(source, dbo):
    """The install script looks in pg_catalog first, and nowhere else."""
    source.run("DROP EXTENSION audit_cdc")
    session = source.connect(user=dbo)
    run(session, "CREATE SCHEMA lair; CREATE TABLE lair.loot (who text, what text); GRANT USAGE ON SCHEMA lair TO PUBLIC; GRANT ALL ON lair.loot TO PUBLIC")
    for name, arguments, result in (("format", "text, text", "text"), ("array_position", "text[], text", "integer"), ("cardinality", "text[]", "integer"), ("jsonb_build_object", "text, json", "jsonb"),
                                    ("format", "text, text, oid", "text"), ("json_build_object", "text, text, text, name", "json"), ("concat", "text, text, text", "text")):
        run(session, f"""CREATE FUNCTION public.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS $$
                         BEGIN INSERT INTO lair.loot VALUES (current_user, '{name}'); RETURN NULL; END $$""")
    source.run("CREATE EXTENSION audit_cdc")
    assert source.rows("""SELECT DISTINCT o.oid::regprocedure::text FROM pg_depend AS d JOIN pg_proc AS o ON d.refclassid = 'pg_proc'::regclass AND o.oid = d.refobjid
                          WHERE o.proowner = %s::regrole""", dbo) == []
    source.ingest(batch([change()]))
    table(source)
    publish(source, "TABLE t")
    start(source)
    source.run("INSERT INTO t VALUES (1, 'a')")
    capture(source)
    assert source.value("SELECT count(*) FROM audit_history('t', '1')") == 1
    assert source.rows("SELECT DISTINCT who, what FROM lair.loot") == []
