"""Undo and redo, where the tables live in the captured database itself."""

import random

import pytest
from capture_helpers import captured, publish, source, start, table  # noqa: F401 (fixtures)
from conftest import admin, batch, change
from projection_helpers import code, run

SHOP = """
CREATE TABLE customers (id int PRIMARY KEY, email text UNIQUE, credit numeric(8,2) NOT NULL DEFAULT 0);
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE, status text, tags text[], at timestamptz);
CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, about int REFERENCES orders ON DELETE SET NULL ON UPDATE CASCADE, body jsonb, words int GENERATED ALWAYS AS (1 + 1) STORED);
CREATE TABLE folders (id int PRIMARY KEY, parent int REFERENCES folders ON DELETE CASCADE ON UPDATE CASCADE, name text);
CREATE TABLE lines (nr int, place int, sku text, PRIMARY KEY (nr, place));
CREATE TABLE labels (id int PRIMARY KEY, nr int, place int, FOREIGN KEY (nr, place) REFERENCES lines ON DELETE SET NULL ON UPDATE SET NULL);
CREATE TABLE plain (a int, b text);
"""
TABLES = ("customers", "orders", "notes", "folders", "lines", "labels", "plain")


@pytest.fixture
def shop(source):
    source.run(SHOP + "".join(f"ALTER TABLE {name} REPLICA IDENTITY FULL;" for name in TABLES))
    publish(source, "TABLES IN SCHEMA public")
    start(source)
    return source


def state(db):
    return {name: db.rows(f"SELECT t::text FROM {name} AS t ORDER BY 1") for name in TABLES}


def statement(dice):
    n, m = dice.randint(1, 6), dice.randint(1, 6)
    return dice.choice([
        f"INSERT INTO customers VALUES ({n}, 'c{m}@example', {dice.randint(0, 99)}.50)",
        f"UPDATE customers SET email = 'c{m}@example' WHERE id = {n}",
        f"UPDATE customers SET credit = credit + 1",
        f"UPDATE customers SET id = {m} WHERE id = {n}",
        f"DELETE FROM customers WHERE id = {n}",
        f"INSERT INTO orders VALUES ({n}, {m}, 'new', ARRAY['a,b', NULL, '{n}'], '2026-01-0{n} 10:00:00.5+02')",
        f"UPDATE orders SET id = {m}, status = 'moved' WHERE id = {n}",
        f"UPDATE orders SET customer = {m}, tags = NULL WHERE id = {n}",
        f"DELETE FROM orders WHERE id = {n}",
        f"INSERT INTO notes (about, body) VALUES ({n}, '{{\"n\": {m}.10, \"q\": \"it''s\\\\n\"}}')",
        f"UPDATE notes SET body = body || '{{\"seen\": true}}'",
        f"DELETE FROM notes WHERE about = {n}",
        f"INSERT INTO folders VALUES ({n}, {dice.choice([m, 'NULL'])}, 'f{n}')",
        f"UPDATE folders SET id = {m} WHERE id = {n}",
        f"DELETE FROM folders WHERE id = {n}",
        f"INSERT INTO lines VALUES ({n}, {m}, 'sku')",
        f"UPDATE lines SET nr = {m}, sku = sku || '{n}' WHERE place = {n}",
        f"DELETE FROM lines WHERE nr = {n}",
        f"INSERT INTO labels SELECT {n}, nr, place FROM lines ORDER BY (place + {m}) % 6, nr LIMIT 1",
        f"DELETE FROM labels WHERE id = {n}",
        f"INSERT INTO plain VALUES ({n % 2}, 'x'), ({n % 2}, 'x')",
        f"UPDATE plain SET b = 'y' WHERE ctid = (SELECT min(ctid) FROM plain WHERE a = {n % 2})",
        f"DELETE FROM plain WHERE ctid = (SELECT min(ctid) FROM plain WHERE a = {n % 2})",
    ])


def work(db, dice, transactions, statement=statement):
    """Random transactions; the state after each that committed anything, with its commit_lsn."""
    states = [(0, state(db))]
    while len(states) <= transactions:
        session = db.connect()
        try:
            run(session, "BEGIN; SELECT audit_annotate(username => 'ada')")
            for _ in range(dice.randint(1, 5)):
                run(session, "SAVEPOINT s")
                if code(session, statement(dice)) is None:
                    run(session, "RELEASE s")
                else:
                    run(session, "ROLLBACK TO s")
            run(session, "COMMIT")
        finally:
            session.close()
        db.run("CALL audit_capture()")
        last = db.value("SELECT max(commit_lsn) FROM audit_logs") or 0
        if last > states[-1][0]:
            states.append((last, state(db)))
    return states


def undone(db, call="undo", **what):
    named = ", ".join(f"{name} => %s" for name in what)
    outcomes = [outcome for (outcome,) in db.rows(f"SELECT outcome FROM audit_{call}({named})", *what.values())]
    db.run("CALL audit_capture()")
    return outcomes


@pytest.mark.once
@pytest.mark.parametrize("seed", range(6))
def test_undoing_any_suffix_of_transactions_gives_back_the_state_before_it(shop, seed):
    """One by one, and all in one call; and the undo is undone, and redone."""
    dice = random.Random(seed)
    states = work(shop, dice, 16)
    place = len(states) - 1
    for lsn, _ in reversed(states[1:]):
        outcomes = undone(shop, commit_lsn=lsn)
        assert set(outcomes) <= {"undone"}, (seed, place, outcomes)  # none where nothing was changed
        place -= 1
        assert state(shop) == states[place][1], (seed, place)
    for lsn, rows in states[1:]:
        assert set(undone(shop, "redo", commit_lsn=lsn)) <= {"redone"}, (seed, lsn)
        assert state(shop) == rows, (seed, lsn)


@pytest.mark.once
@pytest.mark.parametrize("seed", range(10, 14))
def test_undoing_a_users_suffix_at_once(shop, seed):
    dice = random.Random(seed)
    states = work(shop, dice, 12)
    place = dice.randrange(len(states) - 1)
    since = shop.value("SELECT min(commit_timestamp) FROM audit_logs WHERE commit_lsn > %s", states[place][0])
    outcomes = undone(shop, username="ada", since=since, until="infinity")
    assert set(outcomes) == {"undone"}, (seed, place, outcomes)
    assert state(shop) == states[place][1]
    [(lsn, what)] = shop.rows("SELECT DISTINCT commit_lsn, metadata -> 'undo' ->> 'username' FROM audit_logs WHERE commit_lsn > %s", states[-1][0])
    assert what == "ada", "audited as what it is"
    assert set(undone(shop, commit_lsn=lsn)) == {"undone"}
    assert state(shop) == states[-1][1]


def committed(db, *statements):
    """The commit_lsn."""
    db.run("; ".join(("BEGIN", *statements, "COMMIT")).replace("%", "%%"))
    db.run("CALL audit_capture()")
    return db.value("SELECT max(commit_lsn) FROM audit_logs")


def test_as_of_is_what_was_there(shop):
    states = work(shop, random.Random(99), 14)
    for lsn, rows in states:
        for name in TABLES:
            found = shop.rows(f"SELECT t::text FROM audit_as_of(NULL::{name}, lsn => '0/0'::pg_lsn + %s) AS t ORDER BY 1", lsn)
            if name == "notes" and shop.connect().server_version < 180000:  # a generated column is not in the WAL
                found, rows_ = [(text.rsplit(",", 1)[0],) for (text,) in found], [(text.rsplit(",", 1)[0],) for (text,) in rows[name]]
            else:
                rows_ = rows[name]
            assert found == rows_, (lsn, name)


def test_a_conflict_stops_all_unless_told_to_go_on(shop):
    committed(shop, "INSERT INTO customers VALUES (1, 'a', 1), (2, 'b', 2)")
    lsn = committed(shop, "UPDATE customers SET credit = 10 WHERE id = 1", "UPDATE customers SET credit = 20 WHERE id = 2")
    committed(shop, "UPDATE customers SET credit = 11 WHERE id = 1")
    before = state(shop)
    session = shop.connect()
    outcomes = run(session, "SELECT record_id, outcome FROM audit_undo(commit_lsn => %s)", lsn)
    assert outcomes == [("2", "could be undone"), ("1", "conflict: the row was changed since, or others refer to it")]
    assert "nothing was undone: 1 of 2 changes cannot be" in "".join(session.notices)
    assert state(shop) == before
    committed(shop, "SELECT 1")
    assert shop.value("SELECT count(*) FROM audit_logs WHERE metadata ? 'undo'") == 0
    assert undone(shop, commit_lsn=lsn, despite_conflicts=True) == ["undone", "conflict: the row was changed since, or others refer to it"]
    assert shop.rows("SELECT id, credit::int FROM customers ORDER BY id") == [(1, 11), (2, 2)]


def test_rows_that_came_since_are_not_taken_along(shop):
    lsn = committed(shop, "INSERT INTO customers VALUES (1, 'a', 1)")
    committed(shop, "INSERT INTO orders VALUES (1, 1, 'new')")
    assert undone(shop, commit_lsn=lsn) == ["conflict: the row was changed since, or others refer to it"]
    assert shop.value("SELECT count(*) FROM orders") == 1


def test_a_unique_value_that_was_taken_since(shop):
    committed(shop, "INSERT INTO customers VALUES (1, 'a', 1)")
    lsn = committed(shop, "DELETE FROM customers WHERE id = 1")
    committed(shop, "INSERT INTO customers VALUES (2, 'a', 2)")
    [outcome] = undone(shop, commit_lsn=lsn)
    assert outcome.startswith("conflict: duplicate key value") and shop.value("SELECT count(*) FROM customers") == 1


def test_a_record_back_to_a_moment(shop):
    first = committed(shop, "INSERT INTO customers VALUES (1, 'a', 1)")
    for statement_ in ("UPDATE customers SET credit = 2 WHERE id = 1", "UPDATE customers SET id = 7 WHERE id = 1", "UPDATE customers SET email = 'z', credit = 3 WHERE id = 7", "INSERT INTO customers VALUES (1, 'b', 0)"):
        committed(shop, statement_)
    moment = shop.value("SELECT commit_timestamp FROM audit_logs WHERE commit_lsn = %s", first)
    committed(shop, "DELETE FROM customers WHERE id = 1")
    assert undone(shop, table_name="customers", key="7", at=moment) == ["undone"], "in one step"
    assert shop.rows("SELECT id, email, credit::int FROM customers") == [(1, "a", 1)]
    assert undone(shop, "redo", table_name="customers", key="7", at=moment) == ["redone"]
    assert shop.rows("SELECT id, email, credit::int FROM customers") == [(7, "z", 3)]


def test_a_record_back_to_a_moment_whatever_happened_meanwhile(shop):
    """It was deleted, came back, and others refer to it."""
    first = committed(shop, "INSERT INTO customers VALUES (1, 'a', 1)")
    for statement_ in ("DELETE FROM customers", "INSERT INTO customers VALUES (1, 'b', 2)", "INSERT INTO orders VALUES (1, 1, 'new')", "UPDATE customers SET credit = 3"):
        committed(shop, statement_)
    back = {"table_name": "customers", "key": "1", "lsn": shop.value("SELECT ('0/0'::pg_lsn + %s)::text", first)}
    assert undone(shop, **back) == ["undone"] and shop.rows("SELECT * FROM customers") == shop.rows("SELECT 1, 'a', 1.00")
    assert undone(shop, **back) == [] and undone(shop, "redo", **back) == ["redone"]
    assert shop.rows("SELECT email, credit::int FROM customers") == [("b", 3)] and shop.value("SELECT count(*) FROM orders") == 1


def test_a_column_that_is_gone(shop):
    lsn = committed(shop, "INSERT INTO customers VALUES (1, 'a', 1), (2, NULL, 2)")
    changed = committed(shop, "UPDATE customers SET email = 'b' WHERE id = 1")
    deleted = committed(shop, "DELETE FROM customers")
    shop.run("ALTER TABLE customers RENAME email TO mail")
    assert shop.rows("SELECT record_id, problem FROM audit_undo_sql(commit_lsn => %s)", deleted) == [("1", "the table does not have email any more"), ("2", None)]
    assert shop.rows("SELECT problem FROM audit_undo_sql(commit_lsn => %s)", changed) == [("the table does not have email any more",)]
    assert [problem for (problem,) in shop.rows("SELECT problem FROM audit_undo_sql(commit_lsn => %s)", lsn)] == [None, None]


def test_one_change_and_a_request(shop):
    committed(shop, "INSERT INTO customers VALUES (1, 'a', 1)")
    committed(shop, "SELECT audit_annotate(request_id => 'r1')", "UPDATE customers SET credit = 2", "INSERT INTO customers VALUES (2, 'b', 0)")
    id_ = shop.value("SELECT id FROM audit_logs WHERE action = 'update'")
    assert undone(shop, change=id_) == ["undone"] and shop.value("SELECT credit::int FROM customers WHERE id = 1") == 1
    assert undone(shop, "redo", change=id_) == ["redone"]
    assert undone(shop, request_id="r1") == ["undone", "undone"]
    assert shop.rows("SELECT id, credit::int FROM customers") == [(1, 1)]


def test_sql_to_review(shop):
    committed(shop, "INSERT INTO customers VALUES (1, 'it''s', 1)", "INSERT INTO orders VALUES (5, 1, 'new')")
    lsn = committed(shop, "UPDATE orders SET status = 'paid' WHERE id = 5", "DELETE FROM customers WHERE id = 1")
    rows = shop.rows("SELECT step, of_table, record_id, statement, problem FROM audit_undo_sql(commit_lsn => %s)", lsn)
    assert rows == [
        (1, "public.customers", "1", "INSERT INTO public.customers (id, credit, email) OVERRIDING SYSTEM VALUE SELECT '1', '1.00', 'it''s' WHERE NOT EXISTS (SELECT FROM public.customers WHERE id = '1');", None),
        (2, "public.orders", "5", "INSERT INTO public.orders (id, at, customer, status, tags) OVERRIDING SYSTEM VALUE SELECT '5', NULL, '1', 'paid', NULL WHERE NOT EXISTS (SELECT FROM public.orders WHERE id = '5');", None),
        (3, "public.orders", "5", "UPDATE public.orders SET status = 'new' WHERE id = '5' AND at IS NULL AND customer = '1' AND status = 'paid' AND tags IS NULL;", None)]
    for *_, statement_, _ in rows:
        shop.run(statement_)
    assert shop.rows("SELECT status FROM orders") == [("new",)]


def test_changes_of_another_database_are_not_run_unless_told_to(shop):
    """Whoever fills another source may call its tables as he likes."""
    message = change(0, lsn=10 ** 14, action="delete", table="plain", pks=[], record={"a": 666, "b": "evil"}, database="d9", annotations={"request_id": "r9"})
    system = change(1, lsn=10 ** 14, action="delete", table="pg_authid", table_schema="pg_catalog", pks=["1"], record={"oid": 1, "rolname": "evil"}, database="d9", annotations={"request_id": "r9"})
    shop.ingest(batch([message, system]))
    assert undone(shop, request_id="r9") == []
    assert shop.value("SELECT count(*) FROM plain") == 0
    assert sorted(undone(shop, request_id="r9", database_id="d9", despite_conflicts=True)) == ["its table is one of the system", "undone"]
    assert shop.rows("SELECT * FROM plain") == [(666, "evil")]


def test_types_of_a_description_do_not_become_sql(db):
    import json
    db.run("SELECT audit_describe_tables('d1', %s)", json.dumps({"described_at": "2026-01-01 00:00+00", "tables": [{
        "table_schema": "public", "table_name": "orders", "replica_identity": "full", "key_columns": ["id"], "identity_columns": ["id"],
        "column_types": {"id": "integer", "m": "mood --", "n": "int; DROP TABLE x; --", "d": "numeric(4,2)"}, "never_sent": [], "null_in_reads": []}]}))
    db.ingest(batch([change(0, lsn=5000, action="update", record={"id": 1, "m": "b", "n": 2, "d": "1.50"}, changes={"m": "a"})]))
    assert db.rows("SELECT statement FROM audit_undo_sql(commit_lsn => 5000)") == [("UPDATE public.orders SET m = 'a' WHERE id = '1' AND d = '1.50' AND m = 'b' AND n = '2';",)]


def test_a_statement_that_fails_shows_no_values(shop):
    lsn = committed(shop, "INSERT INTO customers VALUES (1, 'secret@example', 1)")
    admin("DROP ROLE IF EXISTS clerk")
    admin("CREATE ROLE clerk LOGIN IN ROLE audit_cdc_reader")
    try:
        with pytest.raises(Exception) as raised:
            run(shop.connect(user="clerk"), "SELECT audit_undo(commit_lsn => %s)", lsn)
        assert raised.value.pgcode == "42501" and "secret" not in str(raised.value)
    finally:
        admin("DROP ROLE clerk")


def test_null_does_not_mean_despite_conflicts(shop):
    lsn = committed(shop, "INSERT INTO customers VALUES (1, 'a', 1), (2, 'b', 2)")
    committed(shop, "UPDATE customers SET credit = 5 WHERE id = 1")
    assert undone(shop, commit_lsn=lsn, despite_conflicts=None)[0] == "could be undone" and shop.value("SELECT count(*) FROM customers") == 2


def test_it_runs_with_the_callers_rights(shop):
    lsn = committed(shop, "INSERT INTO customers VALUES (1, 'a', 1)")
    admin("DROP ROLE IF EXISTS clerk")
    admin("CREATE ROLE clerk LOGIN IN ROLE audit_cdc_reader")
    try:
        clerk = shop.connect(user="clerk")
        assert code(clerk, f"SELECT audit_undo(commit_lsn => {lsn})") == "42501"
        shop.run("GRANT SELECT, DELETE ON customers TO clerk; ALTER TABLE customers ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON customers TO clerk USING (id > 1)")
        assert code(clerk, f"SELECT audit_undo(commit_lsn => {lsn})") == "42501", "the tables that refer to it are not theirs to read"
        shop.run("GRANT SELECT ON orders TO clerk")
        assert run(clerk, "SELECT outcome FROM audit_undo(commit_lsn => %s)", lsn) == [("conflict: the row was changed since, or others refer to it",)]
        shop.run("DROP POLICY p ON customers; CREATE POLICY p ON customers TO clerk USING (true)")
        assert run(clerk, "SELECT outcome FROM audit_undo(commit_lsn => %s)", lsn) == [("undone",)]
    finally:
        shop.run("DROP OWNED BY clerk; DROP ROLE clerk")


def test_what_cannot_be(shop):
    shop.run("ALTER TABLE customers REPLICA IDENTITY DEFAULT")
    committed(shop, "INSERT INTO customers VALUES (1, 'a', 1)")
    lsn = committed(shop, "UPDATE customers SET credit = 2")
    assert undone(shop, commit_lsn=lsn) == ["undone"], "what was before is in the log"
    committed(shop, "TRUNCATE plain")
    shop.run("ALTER TABLE lines REPLICA IDENTITY DEFAULT; ALTER PUBLICATION audited SET TABLES IN SCHEMA public")
    truncate = shop.value("SELECT id FROM audit_logs WHERE action = 'truncate'")
    assert undone(shop, change=truncate) == ["a truncate is not undone: audit_as_of() gives the rows before it"]
    message = change(0, lsn=10 ** 15, action="delete", table="elsewhere", record={"id": 1, "v": None}, database="d9")
    shop.ingest(batch([message, change(1, lsn=10 ** 15, action="update", table="elsewhere", record={"id": 2, "v": "b"}, changes={}, database="d9", pks=["2"])]))
    problems = shop.rows("SELECT statement, problem FROM audit_undo_sql(commit_lsn => %s, database_id => 'd9')", 10 ** 15)
    assert problems == [(None, "old value of id, v unknown"), (None, "old value of v unknown")]
    for call, expected in [("", "22004"), ("key => '1'", "22023"), ("table_name => 'customers', key => '1'", "22023"), ("username => 'ada'", "22023"),
                           ("table_name => 'customers', key => '1', at => now(), lsn => '0/1'", "22023")]:
        assert code(shop.connect(), f"SELECT audit_undo({call})") == expected, call
    assert undone(shop, commit_lsn=1) == []
