"""audit_create_history_projection: every change of a table as a typed row."""

import json
import os

import pytest
from conftest import CORPUS, DATABASE_ID, Database, admin, batch, change, lines, numbers
from projection_helpers import code, log_ids, roles, run, state

SETTINGS = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c lc_monetary=C"  # of the corpus
OUT = """CREATE FUNCTION shown(v anyelement) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN RETURN CASE WHEN v IS DISTINCT FROM NULL THEN format('%s', v) END; END $$"""  # a cast would strip char(n)
TRUTH = [json.loads(line) for line in lines("source_rows.jsonl")]
OWN = ["audit_id", "audit_database_id", "audit_action", "audit_commit_lsn", "audit_commit_idx", "audit_commit_timestamp", "audit_username", "audit_source", "audit_request_id",
       "audit_metadata", "audit_changed", "audit_unknown"]


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def columns(db, table):
    return dict(db.rows("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum", table))


@pytest.fixture(scope="module")
def corpus():
    """The log of the whole corpus beside the tables of its source, described."""
    db = Database(f"audit_{os.getpid()}_{next(numbers)}")
    admin(f"CREATE DATABASE {db.name} TEMPLATE template0 ENCODING 'UTF8'")
    db.run("CREATE EXTENSION audit_cdc; " + OUT)
    assert db.psql("-f", str(CORPUS / "schema.sql")).returncode == 0
    db.ingest(batch(lines("messages.jsonl")))
    db.run("SELECT audit_describe_tables(%s, %s, '2026-11-22 21:00+00')", DATABASE_ID, db.psql("-f", "sql/describe_source.sql").stdout)
    db.has_xml = code(db.connect(), "SELECT xml '<a/>'") is None
    yield db
    admin(f"DROP DATABASE {db.name} WITH (FORCE)")


def equal(db, type_, one, two):
    """The log keeps jsonb: spacing of json and the sign of a zero are gone."""
    if "json" in type_:
        return db.value(f"SELECT %s::{type_} = %s::{type_}".replace(type_, "jsonb[]" if type_.endswith("[]") else "jsonb"), one, two)
    return {one, two} == {"0", "-0"}


def as_in_the_source(db, history, truths):
    """Every row of history is the true row after the change, of a delete the one before; returns what is unknown, by mark."""
    names = list(truths[0]["types"])
    found = {row[0]: row[1:] for row in db.rows(f"""
        SELECT audit_id, audit_action, audit_commit_lsn, audit_commit_idx, audit_unknown, {', '.join(f'shown({quoted(name)})' for name in names)} FROM {history}""",
                                                connection=db.connect(options=SETTINGS))}
    ids = {(key, tuple(pks), table): id_ for id_, key, pks, table in db.rows("SELECT id, idempotency_key, record_pks, table_name FROM audit_logs")}
    marks = []
    assert len(found) == len({ids[t["idempotency_key"], tuple(t["record_pks"]), t["table"]] for t in truths})
    for truth in truths:
        action, lsn, idx, unknown, *row = found[ids[truth["idempotency_key"], tuple(truth["record_pks"]), truth["table"]]]
        assert (action, lsn, idx) == (truth["action"], truth["commit_lsn"], truth["commit_idx"])
        side = "old" if action == "delete" else "new"
        marked = truth.get(f"{side}_not_exact") or {}
        for name, value in zip(names, row):
            mark = marked.get(name)
            if mark in ("not_carried", "unchanged_toast", "null_in_read", "absent"):
                assert value is None and name in unknown, (truth["n"], name)
                marks.append(mark)
            elif mark is None:
                assert value == truth[side][name] or equal(db, truth["types"][name], value, truth[side][name]), (truth["n"], name, value)
    return marks


@pytest.mark.parametrize("how", ["by its table", "by its description"])
def test_every_table_of_the_corpus_row_by_row(corpus, how):
    by_table = {}
    for truth in TRUTH:
        by_table.setdefault((truth["schema"], truth["table"]), []).append(truth)
    marks, compared = [], 0
    for (schema, table), truths in by_table.items():
        source = f"{quoted(schema)}.{quoted(table)}"
        has_it = corpus.value("SELECT to_regclass(%s) IS NOT NULL", source)
        layout = columns(corpus, source) if has_it else None
        if not has_it or any(truth["types"] != layout for truth in truths) or ("xml" in layout.values() and not corpus.has_xml):
            continue  # its columns changed on the way, or this server reads no xml
        if how == "by its table":
            history = corpus.value("SELECT audit_create_history_projection(%s, %s)::text", source, quoted(table + " row by row"))
            assert list(columns(corpus, history).items())[len(OWN):] == list(layout.items())
        else:
            history = corpus.value("SELECT audit_create_history_projection(%s, %s, %s, %s)::text", DATABASE_ID, schema, table, quoted(table + " by description"))
            assert {name: type_ for name, type_ in columns(corpus, history).items() if name not in OWN} == layout
        assert corpus.rows("SELECT log_id, reason FROM audit_projection_failures WHERE projection = (SELECT name FROM audit_projections WHERE target = %s::regclass)", history) == []
        marks += as_in_the_source(corpus, history, truths)
        compared += len(truths)
    assert compared > 330 and set(marks) == {"not_carried", "unchanged_toast", "null_in_read", "absent"}


def test_what_is_beside_the_row(corpus):
    history = corpus.value("SELECT audit_create_history_projection('customers', 'beside')::text")
    assert list(columns(corpus, history))[:len(OWN)] == OWN
    assert corpus.rows(f"SELECT {', '.join(OWN)} FROM {history} ORDER BY audit_id") == corpus.rows("""
        SELECT id, database_id, action, commit_lsn, commit_idx, commit_timestamp, username, source, request_id, metadata,
               CASE action WHEN 'update' THEN ARRAY(SELECT jsonb_object_keys(old_values)) END, unknown_columns
        FROM audit_logs WHERE table_name = 'customers' ORDER BY id""")
    assert corpus.value(f"SELECT count(*) FROM {history} WHERE cardinality(audit_changed) > 0") > 0
    corpus.ingest(batch([change(0, table="customers", database=DATABASE_ID, record={}, annotations={"username": "ada", "source": "shop", "request_id": "r1", "metadata": {"a": [1]}})]))
    assert corpus.rows(f"SELECT audit_username, audit_source, audit_request_id, audit_metadata FROM {history} WHERE audit_username IS NOT NULL") == [("ada", "shop", "r1", {"a": [1]})]


def test_names_to_be_quoted(corpus):
    history = corpus.value("SELECT audit_create_history_projection('\"Sales Ops\".\"Order Items\"')::text")
    assert history == '"Sales Ops"."Order Items_history"'
    assert corpus.rows(f'SELECT "Id", "unit price"::text, "a.b", "select", "naïve – ключ", "quo""te", "back\\slash", "UPPER", "upper", state::text FROM {history} ORDER BY audit_commit_idx DESC LIMIT 1') == [
        (1, "9.90", "DOT", None, "ключ", 'Q"Q', "C:\\dir", 10, 20, "Paid")]
    for name, called in (("plain", '"Sales Ops".plain'), ("public.named", "named"), ('"Of Mine"', '"Sales Ops"."Of Mine"'), ('public."Of; Mine"', '"Of; Mine"')):
        assert corpus.value("SELECT audit_create_history_projection('\"Sales Ops\".\"Order Items\"', %s)::text", name) == called
        assert corpus.value(f"SELECT count(*) FROM {called}") == 4


@pytest.mark.parametrize("table, key", [("orders", ["id"]), ("order_lines", None), ("pk_composite", None), ("pk_mixed", None), ('"Sales Ops"."Order Items"', ["Id"]), ("nopk_full", [])])
def test_the_key_is_indexed(corpus, table, key):
    key = key if key is not None else [name for (name,) in corpus.rows(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey) WHERE indisprimary AND indrelid = %s::regclass", table)]
    history = corpus.value("SELECT audit_create_history_projection(%s, %s)::text", table, f"public.indexed_{next(numbers)}")
    indexes = [names for (names,) in corpus.rows("""
        SELECT array_agg(attname::text ORDER BY place) FROM pg_index, unnest(indkey) WITH ORDINALITY AS u(n, place), pg_attribute
        WHERE indrelid = %s::regclass AND attrelid = indrelid AND attnum = u.n GROUP BY indexrelid""", history)]
    assert ["audit_id"] in indexes
    others = [names for names in indexes if names != ["audit_id"]]
    assert [(set(names[:-1]), names[-1]) for names in others] == ([(set(key), "audit_commit_timestamp")] if key else [])


def history_of(db, source="orders", *arguments):
    return db.value(f"SELECT audit_create_history_projection(%s::regclass{', %s' * len(arguments)})::text", source, *arguments)


ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, note varchar(10), total numeric(10,2))"


def order(n, action="insert", note="a", total="1.50", **fields):
    return change(n, action=action, record={"id": 1, "note": note, "total": total}, changes={} if action == "update" else None, **fields)


def test_filled_and_kept_filled(db):
    db.run(ORDERS)
    db.ingest(batch([order(0), order(1, "update", "b")]))
    assert history_of(db) == "orders_history"
    db.ingest(batch([order(1, "update", "b"), order(2, "delete", "c"), order(3, table="other"), order(4, schema="x", table_schema="x")]))
    rows = "SELECT audit_action, id, note, total::text, audit_unknown FROM orders_history ORDER BY audit_commit_idx"
    expected = [("insert", 1, "a", "1.50", None), ("update", 1, "b", "1.50", None), ("delete", 1, "c", "1.50", None)]
    assert db.rows(rows) == expected
    db.run("SELECT audit_rebuild_projection('orders_history')")
    assert db.rows(rows) == expected
    assert db.rows("SELECT name, target::text, failures FROM audit_projections") == [("orders_history", "orders_history", 0)]


def test_of_one_database_or_of_all(db):
    db.run(ORDERS)
    db.ingest(batch([order(0), order(0, database="d2"), order(0, database="d'3")]))
    for n, (database, expected) in enumerate([(None, 3), ("d2", 1), ("d'3", 1), ("absent", 0)]):
        table = history_of(db, "orders", f"h{n}", database)
        assert db.value(f"SELECT count(*) FROM {table}") == expected


def described(columns_, **fields):
    return json.dumps({"described_at": "2026-01-01", "tables": [{
        "table_schema": "public", "table_name": "orders", "replica_identity": "default", "key_columns": ["id"], "identity_columns": ["id"],
        "column_types": columns_, "never_sent": [], "null_in_reads": [], **fields}]})


def test_what_was_not_sent_is_null_and_listed(db):
    db.run(ORDERS)
    db.run("SELECT audit_describe_tables('d1', %s)", described({"id": "integer", "note": "character varying(10)", "total": "numeric(10,2)"}, null_in_reads=["total"]))
    db.ingest(batch([order(0, "update", "unchanged_toast"), order(1, "delete", None, None),
                     change(None, lsn=None, action="read", key="r", record={"id": 1, "note": "a", "total": None})]))
    for table in (history_of(db), db.value("SELECT audit_create_history_projection('d1', 'public', 'orders', 'by_description')::text")):
        assert db.rows(f"SELECT audit_action, id, note, total, audit_unknown FROM {table} ORDER BY audit_commit_idx") == [
            ("update", 1, None, 1.5, ["note"]), ("delete", 1, None, None, ["note", "total"]), ("read", 1, "a", None, ["total"])]


def test_types_that_are_missing_here_become_text(db):
    db.run("CREATE SCHEMA app; CREATE TYPE app.\"Order State\" AS ENUM ('New')")
    types = {"id": "integer", "mood": "mood", "state": 'app."Order State"', "gone": 'app."No State"', "spot": "geometry(Point,4326)", "tags": "citext[]", "at": "timestamp(3) with time zone",
             "code": "character(4)", "odd": "absent.thing(1,2)[]"}
    db.run("SELECT audit_describe_tables('d1', %s)", described(types))
    record = {"id": 1, "mood": "sad", "state": "New", "gone": "Old", "spot": "0101", "tags": ["a", "b"], "at": "2024-05-01T10:00:00.5Z", "code": "ab", "odd": {"x": 1}}
    db.ingest(batch([change(0, record=record)]))
    session = db.connect()
    assert run(session, "SELECT audit_create_history_projection('d1', 'public', 'orders')::text") == [("orders_history",)]
    [notice] = [notice for notice in session.notices if "become text" in notice]
    for name in ("mood mood", 'gone app."No State"', "spot geometry(Point,4326)", "tags citext[]", "odd absent.thing(1,2)[]"):
        assert name in notice
    assert list(columns(db, "orders_history").items())[len(OWN):] == [
        ("id", "integer"), ("at", "timestamp(3) with time zone"), ("code", "character(4)"), ("gone", "text"), ("mood", "text"), ("odd", "text"), ("spot", "text"),
        ("state", 'app."Order State"'), ("tags", "text")]
    assert state(db, "orders_history") == (True, 0, 0), db.rows("SELECT reason FROM audit_projection_failures")
    assert db.rows("SELECT mood, gone, spot, state::text FROM orders_history") == [("sad", "Old", "0101", "New")]
    assert json.loads(db.value("SELECT tags FROM orders_history")) == ["a", "b"] and json.loads(db.value("SELECT odd FROM orders_history")) == {"x": 1}


def test_a_description_that_looks_like_sql(db):
    """Who describes a source is not who makes a history of it."""
    db.run("CREATE TABLE innocent ()")
    for n, type_ in enumerate(["int); DROP TABLE innocent; --", "int DEFAULT evil()", "int -- ", "int /*", "int CHECK (evil())", "SETOF int", "int, x int", "", "???", "-", "%s %I", "int\n"]):
        for column in ("x", 'x" int); DROP TABLE innocent; --', "a'b", "%I %1$s"):
            db.run("SELECT audit_describe_tables('d1', %s, %s)", described({"id": "integer", column: type_}), f"2026-02-0{1 + n % 9}")
            session = db.connect()
            run(session, "BEGIN")
            if code(session, "SELECT audit_create_history_projection('d1', 'public', 'orders')") is None:
                assert list(columns_in(session)) == OWN + ["id", column]
            run(session, "ROLLBACK")
    assert db.value("SELECT to_regclass('innocent')") == "innocent"


def columns_in(session):
    return [name for (name,) in run(session, "SELECT attname FROM pg_attribute WHERE attrelid = 'orders_history'::regclass AND attnum > 0 ORDER BY attnum")]


def test_altering_the_source_afterwards_is_not_hindered(db):
    db.run("CREATE TYPE kind AS ENUM ('a'); " + ORDERS + "; ALTER TABLE orders ADD kind kind")
    history_of(db)
    for n, ddl in enumerate(["ALTER TABLE orders ADD more int", "ALTER TABLE orders DROP note", "ALTER TABLE orders ALTER total TYPE text", "ALTER TABLE orders RENAME id TO nr",
                             "ALTER TABLE orders DROP CONSTRAINT orders_pkey", "ALTER TYPE kind ADD VALUE 'b'", "ALTER TABLE orders RENAME TO was", "DROP TABLE was"]):
        db.run(ddl)
        db.ingest(batch([order(n)]))
        assert db.value("SELECT count(*) FROM orders_history") == n + 1
    assert state(db, "orders_history") == (True, 0, 0)


def test_a_column_that_the_history_gains_is_filled_by_a_rebuild(db):
    db.run(ORDERS)
    history_of(db)
    db.ingest(batch([change(0, record={"id": 1, "more": 7})]))
    db.run("ALTER TABLE orders_history ADD more int")
    db.ingest(batch([change(1, record={"id": 1, "more": 8})]))
    db.run("SELECT audit_rebuild_projection('orders_history')")
    db.ingest(batch([change(2, record={"id": 1, "more": 9})]))
    assert db.rows("SELECT more FROM orders_history ORDER BY audit_commit_idx") == [(7,), (8,), (9,)]
    db.run("ALTER TABLE orders_history DROP more")
    db.ingest(batch([change(3, record={"id": 1, "more": 10})]))
    db.run("SELECT audit_rebuild_projection('orders_history')")
    assert db.value("SELECT count(*) FROM orders_history") == 4 and state(db, "orders_history") == (True, 0, 0)


def test_columns_of_the_change_are_not_those_of_the_row(db):
    """Neither is a row's column taken for them, nor a name for a mark."""
    db.run(ORDERS)
    history_of(db)
    db.run("SELECT audit_describe_tables('d1', %s)", described({"id": "integer", "note": "text"}))
    names = {"username": "unchanged_toast", "source": "", "request_id": "null", "metadata": {"a": "unchanged_toast", "n": 1e300}}
    record = {"id": 1, "note": "unchanged_toast", "audit_username": "eve", "audit_id": -1, "audit_action": "none", "audit_unknown": ["id"]}
    db.ingest(batch([change(0, action="update", record=record, changes={"note": "a"}, annotations=names)]))
    assert db.rows("SELECT audit_id > 0, audit_action, audit_username, audit_source, audit_request_id, audit_metadata, audit_changed, audit_unknown, note FROM orders_history") == [
        (True, "update", "unchanged_toast", "", "null", {"a": "unchanged_toast", "n": 10 ** 300}, ["note"], ["note"], None)]


def test_rights(roles, db):
    reader = roles("audit_cdc_reader")
    db.run(ORDERS)
    db.run("SELECT audit_describe_tables('d1', %s)", described({"id": "integer"}))
    session = db.connect(user=reader)
    calls = ["audit_create_history_projection('orders')", "audit_create_history_projection('d1', 'public', 'orders', 'other')"]
    for call in calls:
        assert code(session, f"SELECT {call}") == "42501"
    db.run(f"GRANT CREATE ON SCHEMA public TO {reader}")
    db.ingest(batch([order(0)]))
    for call in calls:
        assert code(session, f"SELECT {call}") is None
    assert db.rows("SELECT tableowner FROM pg_tables WHERE tablename IN ('orders_history', 'other')") == [(reader,)] * 2
    db.ingest(batch([order(1)]))
    for table in ("orders_history", "other"):
        assert [id_ for (id_,) in run(session, f"SELECT audit_id FROM {table} ORDER BY 1")] == log_ids(db)


def test_what_is_refused(db):
    db.run(ORDERS + "; CREATE TABLE clash (audit_id int); CREATE TABLE nothing (); CREATE TABLE taken (x int)")
    db.run("SELECT audit_describe_tables('d1', %s)", described({"id": "integer"}))
    for call, expected in [("'orders', 'taken'", "42P07"), ("'clash'", "42701"), ("'nothing'", "42P01"), ("'absent'", "42P01"), ("NULL::regclass", "42P01"), ("0", "42P01"),
                           ("'orders', 'a b'", "22023"), ("'orders', 'absent.h'", "3F000"),
                           ("'d1', 'public', 'absent'", "42704"), ("'d2', 'public', 'orders'", "42704"), ("NULL, 'public', 'orders'", "42704"), ("'d1', NULL, 'orders'", "42704")]:
        assert code(db.connect(), f"SELECT audit_create_history_projection({call})") == expected, call
    assert code(db.connect(), "SELECT audit_create_history_projection('orders', 'public.too.many')") is not None
    assert db.rows("SELECT * FROM audit_projections") == []
    db.run("SELECT audit_create_history_projection('orders')")
    assert code(db.connect(), "SELECT audit_create_history_projection('orders', 'public.again')") is None, "as often as one likes"


def test_tables_of_one_name_in_two_schemas(db):
    db.run(ORDERS + "; CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY, note text)")
    for source in ("orders", "shop.orders"):
        assert history_of(db, source) == source + "_history"
    db.ingest(batch([order(0), order(1, table_schema="shop")]))
    assert db.value("SELECT count(*) FROM orders_history") == db.value("SELECT count(*) FROM shop.orders_history") == 1


def test_a_row_that_does_not_fit_is_listed(db):
    db.run(ORDERS)
    history_of(db)
    db.ingest(batch([order(0), order(1, note="much too long for ten"), order(2, total="abc"), order(3)]))
    assert db.value("SELECT count(*) FROM orders_history") == 2
    assert sorted(db.rows("SELECT sqlstate FROM audit_projection_failures")) == [("22001",), ("22P02",)]
