"""Whatever anybody passes to what they may call, the answer or the error is one that is meant: no XX000, no raw limit of PostgreSQL's."""

import itertools
import os
import random

import psycopg2
import pytest
from capture_helpers import capture, publish, setting, source, start, table, worker  # noqa: F401 (fixtures)
from conftest import DATABASE_ID, admin, batch, change, numbers, until
from projection_helpers import project, run

# Whoever a function is granted to. Nobody is the worker.
CALLED = """
SELECT p.oid::regprocedure::text, p.prokind, p.oid::regproc::text, a.grantee::regrole::text,
       p.proargtypes::regtype[]::text[], p.proargnames[:p.pronargs]
FROM pg_proc AS p
JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid AND e.extname = 'audit_cdc'
CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
WHERE a.grantee NOT IN (p.proowner, 'audit_cdc_worker'::regrole)
ORDER BY 1, 4"""
ATTRIBUTES = """
SELECT array_agg(format_type(a.atttypid, NULL) ORDER BY a.attnum) FROM pg_type AS t JOIN pg_attribute AS a ON a.attrelid = t.typrelid
WHERE t.oid = %s::regtype AND a.attnum > 0 AND NOT a.attisdropped"""

LONG = "current_setting('odd.long')"
NAMES = ["''", "' '", "'t'", "'public.t'", "'T'", "'no_such'", "'\"'", "'\"\"'", "'a.b.c.d'", "'a..b'", "'.'", "repeat('a', 70)", "repeat('ä', 40)", LONG, "repeat('a.', 500000)",
         "'\"' || repeat('b', 3000) || '\"'"]
TEXTS = [*NAMES, "'1'", "'%'", "E'\\x01'", "'🙂'", "'{}'", "'[1]'", "'{\"a\": 1}'", "'SELECT 1'", "'SELECT FROM t'", "'DELETE FROM t'", "';'", "'v'", "'id'", "'feed'",
         "'mark'", "'2026-01-01'", "'1.1.00000000000000000000000000000000'", "'9999999999999999.999999999999999999.00000000000000000000000000000000'", "'undone'", f"'{DATABASE_ID}'",
         "{here}"]
OIDS = ["0", "1", "4294967295", "'t'::regclass", "'feed'::regclass", "'pg_class'::regclass", "'pg_proc'::regclass", "'pg_type'::regclass", "'t_pkey'::regclass", "'audit_logs'::regclass",
        "'pg_namespace'::regclass", "'int4'::regtype", "'anyelement'::regtype", "'odd_domain'::regtype", "'t'::regtype", "'pg_catalog'::regnamespace", "'now'::regproc", "'odd'::regclass"]
DESCRIBED = ('{{"described_at": "2026-03-01", "tables": [{{"table_schema": "{0}", "table_name": "{0}", "replica_identity": "full", "key_columns": ["{0}"], "identity_columns": [], '
             '"column_types": {{"{0}": "{0}"}}, "never_sent": [], "null_in_reads": []}}]}}')
JSONB = ["'null'", "'true'", "'1'", "'1e400'", "'\"\"'", "'\"a\"'", "'[]'", "'[[1], null]'", "'{}'", "'{\"id\": 1, \"v\": null}'", "'{\"id\": {}, \"v\": []}'", "'{\"id\": \"x\"}'", "'{\"\": \"\"}'",
         f"jsonb_build_object('v', {LONG})", f"jsonb_build_object({LONG}, 1)", f"to_jsonb({LONG})", "repeat('[', 1000)::text || repeat(']', 1000)", "'{\"old\": 1, \"new\": 2}'", "'{\"v\": {\"old\": 1, \"new\": 2}}'",
         "'{\"v\": {\"old\": 1, \"new\": {\"exact\": 5}, \"exact\": 3}}'", "'{\"tables\": 1}'", *[f"'{DESCRIBED.format(name)}'" for name in ("x", "", "int)", "audit_id", "null")],
         f"replace('{DESCRIBED.format('x')}', '\"x\"', '\"' || {LONG} || '\"')", "'[{\"table_schema\": null}]'",
         "'{\"tables\": [{\"table_schema\": \"public\", \"table_name\": \"t\", \"columns\": [{\"name\": \"id\"}]}]}'", "'{\"username\": 1, \"annotations\": {\"a\": [1]}}'"]
VALUES = {
    "boolean": ["true", "false"],
    "integer": ["0", "1", "-1", "2147483647", "-2147483648"],
    "bigint": ["0", "1", "-1", "9223372036854775807", "-9223372036854775808"],
    "text": TEXTS,
    "name": ["''", "'t'", "'audited'", "'no_such'", "'postgres'", "'audit_cdc_reader'", "'\"'", "repeat('a', 63)", "' '", "'UPPER'"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'", "gen_random_uuid()"],
    "oid": OIDS, "regclass": [oid for oid in OIDS if "regtype" not in oid and "regproc" not in oid and "regnamespace" not in oid], "regtype": [oid for oid in OIDS if "regtype" in oid or "'" not in oid],
    "jsonb": JSONB,
    "timestamp with time zone": ["'infinity'", "'-infinity'", "'4714-11-24 BC'", "'294276-12-31 23:59:59.999999'", "now()", "'2026-03-01'"],
    "date": ["'infinity'", "'-infinity'", "'4714-11-24 BC'", "'5874897-12-31'", "current_date", "'2026-03-01'"],
    "interval": ["'0'", "'1 day'", "'-1 day'", "'178000000 years'", "'-178000000 years'", "'100 years'", "'1 microsecond'"],
    "xid8": ["'0'", "'3'", "'18446744073709551615'", "pg_current_xact_id()"],
    "pg_lsn": ["'0/0'", "'FFFFFFFF/FFFFFFFF'", "'7FFFFFFF/FFFFFFFF'", "'80000000/0'", "'0/1'", "pg_current_wal_lsn()"],
    "anyelement": ["NULL::t", "(1, 'a')::t", "1", "NULL::int", "'a'::text", "'{}'::int[]", "NULL::odd", "NULL::odd_domain", "(1, 2)", "'null'::jsonb", "NULL::audit_logs", "'1'::bytea", "NULL::void"],
    "anycompatiblenonarray": ["NULL", "1", "-1.5", "'NaN'::numeric", "true", "'a'::text", "''::text", "E'\\x01'::text", f"{LONG}", "gen_random_uuid()", "now()", "'{}'::jsonb", "NULL::t", "(1, 2)", "'1'::bytea", "'{1}'::int[]"],
}
# these take their type from what is passed
POLYMORPHIC = {"anyelement": "NULL::t", "anynonarray": "NULL::text", "anycompatiblenonarray": "NULL"}
VALUES["anynonarray"] = VALUES["anycompatiblenonarray"]
# by the names of parameters, so that an odd argument beside them reaches what it can reach
USUAL = {
    "table_name": "'t'", "table_schema": "'public'", "key": "'1'", "row_type": "'t'", "relation": "'t'::regclass", "source": "'t'", "feed": "'activity'", ("audit_create_activity", "feed"): "'other_activity'",
    "name": "'other'", "rule": "'SELECT id AS log_id FROM audit_new_logs'", "target": "'other'", "fill": "true", "reason": "'a reason'", "mark": "'mark'", "max_rows": "10",
    "history": "'of_t'", "schema": "'public'", ("create_history_table", "key"): "'{id}'", "names": "ARRAY['id', 'v']", "types": "'{int,text}'", "modifiers": "'{-1,-1}'", "type_names": "'{int,text}'",
    "columns": "ARRAY['id', 'v']", "image": "'{\"id\": 1, \"v\": \"a\"}'", "value": "'1'", "action": "'update'", "record_id": "'1'", "is_redo": "false", "preview": "false",
    "despite_conflicts": "true", "statement": "'SELECT 1 FROM t'", "alone": "'{SELECT 1 FROM t,SELECT 2 FROM t}'", "alone_locks": "'{}'", "tables": "NULL", "publication": "'audited'",
    "batch_size": "10", "role": "'audit_cdc_ingest'", "of_table": "'t'", "class": "'pg_class'::regclass", "object": "'t'::regclass", "newest_first": "false", "in_transaction_block": "true",
    **{(f"audit_{verb}_projection", "name"): "'mine'" for verb in ("alter", "rebuild", "retry", "disable", "enable", "drop")},
    **{(f"audit_{verb}_table", "relation"): "'own'" for verb in ("exclude", "include")},
    **{("audit_create_history_projection", name): f"'{value}'" for name, value in {"database_id": DATABASE_ID, "table_schema": "x", "table_name": "x"}.items()},
    "description": f"'{DESCRIBED.format('x')}'", "old": "'{\"a\": 1}'", "new": "'{\"a\": 2}'",
}


def arrays(of):
    return ["'{}'", "'{NULL}'", f"ARRAY[{of[0]}, NULL]", f"ARRAY[{', '.join(of[:3])}]", f"ARRAY[[{of[0]}, {of[1]}]]", f"ARRAY[{of[-1]}]", f"array_fill({of[1]}, ARRAY[2], ARRAY[5])",
            f"array_fill({of[0]}, ARRAY[100])", f"ARRAY[{of[min(13, len(of) - 1)]}]"]


class Pool:
    """What is passed as each type: SQL."""

    def __init__(self, db, here):
        self.db, self.here, self.known = db, here, {}

    def of(self, name):
        if name not in self.known:
            self.known[name] = VALUES[name] if name in POLYMORPHIC else [f"NULL::{name}", *self.made(name)]
        return self.known[name]

    def made(self, name):
        if name.endswith("[]"):
            return [f"({value})::{name}" for value in arrays([f"({value})" for value in self.of(name[:-2])[1:]] * 2)]
        if name in VALUES:
            return [f"({value.replace('{here}', repr(self.here))})::{name}" for value in VALUES[name]]
        attributes = self.db.value(ATTRIBUTES, name)
        assert attributes, f"there are no odd values of type {name}"
        rows = itertools.zip_longest(*[self.of(attribute) for attribute in attributes])
        nulls = [f"NULL::{attribute}" for attribute in attributes]
        return [f"ROW({', '.join(value or null for value, null in zip(row, nulls))})::{name}" for row in rows]


@pytest.fixture
def eventful(source):
    """A captured database in which a bit of everything has happened."""
    table(source)
    source.run("""CREATE DOMAIN odd_domain AS int CHECK (VALUE > 0);
                  CREATE TABLE odd (a odd_domain, b int[], c json, d numeric, e timestamptz, f t);
                  GRANT CREATE ON SCHEMA public TO PUBLIC""")
    publish(source, "TABLE t, odd")
    start(source)
    setting(enabled="off")
    until(lambda: worker(source, "state = 'idle'"))
    project(source)
    source.run("CREATE TABLE other (log_id bigint)")
    source.run("""SELECT audit_create_activity(), audit_mark('mark');
                  GRANT ALL ON t, odd, other, feed, activity TO PUBLIC;
                  INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'b'; INSERT INTO odd VALUES (1, '{1}', '{}', 1, now(), (1, 'a'))""")
    source.rows("SELECT audit_describe_tables(%s, %s)", DATABASE_ID, DESCRIBED.format("x"))
    source.ingest(batch([change(), change(1, database=DATABASE_ID), "no message"]))
    capture(source)
    return source


def calls(function, types, names, pool, chance):
    """Each value beside nulls, and beside what is usual; then some of all by chance."""
    values = [pool.of(name) for name in types]
    nulls = [POLYMORPHIC.get(name, f"NULL::{name}") for name in types]
    usual = [POLYMORPHIC[type_] if type_ in POLYMORPHIC else f"({USUAL.get((function, name), USUAL.get(name, 'NULL'))})::{type_}"
             for name, type_ in itertools.zip_longest(names, types)]
    yield usual
    for place, of_one in enumerate(values):
        for value in of_one:
            for others in (nulls, usual) if len(types) > 1 else ([None],):
                yield [value if n == place else other for n, other in enumerate(others)]
    for _ in range(20 * len(types)):
        yield [one if chance.random() < 0.5 else chance.choice(of_one) for one, of_one in zip(usual, values)]


def failure(session, statement, in_transaction):
    """What no caller is to see; None if there is none."""
    with session.cursor() as cursor:
        try:
            if in_transaction:
                cursor.execute("BEGIN")
            cursor.execute(statement)
        except psycopg2.Error as error:
            # 57014: statement_timeout, which is long
            if error.pgcode is None or error.pgcode[:2] in ("XX", "54", "57") or error.pgcode == "P0001":
                return error.pgcode, str(error).strip()[:600]
        finally:
            if in_transaction and not session.closed:
                cursor.execute("ROLLBACK")
    return None


@pytest.mark.once
def test_no_argument_is_too_odd(eventful):
    functions = [(*function, names or []) for *function, names in eventful.rows(CALLED)]
    assert {"audit_cdc_reader", "audit_cdc_admin", "audit_cdc_keeper", "audit_cdc_ingest", "-"} == {grantee for *_, grantee, _, _ in functions}
    pool, chance = Pool(eventful, eventful.value("SELECT audit_cdc_internal.this_database() ->> 'id'")), random.Random(1)
    sessions, made, found = {}, [], {}
    try:
        for *_, grantee, _, _ in functions:
            if grantee not in sessions:
                made.append(f"odd_{os.getpid()}_{next(numbers)}")
                admin(f"CREATE ROLE {made[-1]} LOGIN" + (f" IN ROLE {grantee}" if grantee != "-" else ""))
                sessions[grantee] = made[-1]
        eventful.run(f"ALTER ROLE {sessions['audit_cdc_admin']} REPLICATION")
        eventful.run("CREATE TABLE mine (log_id bigint); CREATE TABLE own (id int)")
        eventful.run(f"ALTER TABLE mine OWNER TO {sessions['audit_cdc_reader']}; ALTER TABLE own OWNER TO {sessions['audit_cdc_admin']}")
        run(eventful.connect(user=sessions["audit_cdc_reader"]), "SELECT audit_create_projection('mine', 'SELECT id AS log_id FROM audit_new_logs')")
        # these end the capture, whatever is rolled back
        ending = ("audit_cdc_internal.end_capture", "audit_capture_stop")
        for signature, kind, name, grantee, types, names in sorted(functions, key=lambda function: ending.index(function[2]) if function[2] in ending else -1):

            session = eventful.connect(user=sessions[grantee], options="-c statement_timeout=60s -c client_min_messages=error")
            # a megabyte that nothing compresses
            run(session, "SELECT set_config('odd.long', 'a' || string_agg(md5(n::text), ''), false) FROM generate_series(1, 31250) AS n")
            for arguments in calls(name.split(".")[-1], types, names, pool, chance):
                statement = f"{'CALL' if kind == 'p' else 'SELECT'} {name}({', '.join(arguments)})"
                if wrong := failure(session, statement, kind != "p"):
                    found.setdefault((signature, wrong), statement)
                    if session.closed:
                        break
            session.close()
    finally:
        for role in made:
            eventful.run(f"DROP OWNED BY {role}")
            admin(f"DROP ROLE {role}")
    for (signature, wrong), statement in found.items():
        print(signature, *wrong, statement[:600], sep="\n    ")
    assert not found
