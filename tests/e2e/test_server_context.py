"""Who made a change, by the server's word: what it tells of sessions, settings that annotate, and what is attested."""

import os
import pathlib
import random
import subprocess

import psycopg2
import pytest
from capture_helpers import captured, paused, source, start  # noqa: F401 (fixtures)
from conftest import admin, in_threads, server, until
from fault_helpers import answers, peak_memory

SET = "SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', '{}')"


def told(db, columns="new_values ->> 'v', username, attested"):
    db.run("CALL audit_capture()")
    return db.rows(f"SELECT {columns} FROM audit_logs ORDER BY commit_lsn, commit_idx")


def session(db, *statements, **options):
    connection = db.connect(**options)
    connection.autocommit = True
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


def restart(db):
    server("stop")
    server("start")
    until(lambda: answers(db))


def messages(db, *statements):
    """How many logical messages the transactions have emitted."""
    db.run("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", db.name + "_seen")
    try:
        session(db, *statements)
        found = db.rows("SELECT data FROM pg_logical_slot_get_changes(%s, NULL, NULL) WHERE data LIKE 'message%%'", db.name + "_seen")
        return [line.split("prefix: ", 1)[1].split(",")[0] for (line,) in found]
    finally:
        db.run("SELECT pg_drop_replication_slot(%s)", db.name + "_seen")


CONTEXT = """new_values ->> 'v', server_context ->> 'session_user', server_context ->> 'current_user', server_context ->> 'application_name',
             (server_context ->> 'backend_start')::timestamptz < (server_context ->> 'transaction_start')::timestamptz,
             (server_context ->> 'transaction_start')::timestamptz < commit_timestamp"""


def test_a_change_that_nobody_annotates_tells_its_session(paused):
    role = paused.name + "_app"
    admin(f"CREATE ROLE {role}")
    try:
        paused.run(f"GRANT INSERT ON t TO {role}")
        session(paused, "INSERT INTO t VALUES (1, 'a')", f"SET ROLE {role}", "INSERT INTO t VALUES (2, 'b')", application_name="shop")
        assert told(paused, CONTEXT) == [("a", "postgres", "postgres", "shop", True, True), ("b", "postgres", role, "shop", True, True)]
        assert paused.value("SELECT count(*) FROM audit_cdc_internal.server_contexts") == 2
    finally:
        paused.run(f"DROP OWNED BY {role}")
        admin(f"DROP ROLE {role}")


def test_what_changes_of_a_session_is_told_anew(paused):
    role, another = paused.name + "_app", paused.name + "_other"
    admin(f"CREATE ROLE {role}")
    connection = paused.connect(application_name="shop")
    connection.autocommit = True
    run = connection.cursor().execute
    try:
        paused.run(f"GRANT INSERT ON t TO {role}")
        run(f"SET ROLE {role}")
        run("INSERT INTO t VALUES (1)")
        admin(f"ALTER ROLE {role} RENAME TO {another}")
        run("INSERT INTO t VALUES (2)")
        admin(f"ALTER ROLE {another} RENAME TO {role}")
        run("SET application_name = 'till'")
        run("INSERT INTO t VALUES (3)")
        run("SET audit_cdc.username = 'ada'")
        run("INSERT INTO t VALUES (4)")
        run("BEGIN; SET LOCAL audit_cdc.username = 'bob'; INSERT INTO t VALUES (5); COMMIT")
        run("RESET ROLE")
        run(f"BEGIN; ALTER ROLE {role} RENAME TO {another}; SET LOCAL ROLE {another}; INSERT INTO t VALUES (6); ROLLBACK")
        run(f"BEGIN; SET LOCAL ROLE {role}; INSERT INTO t VALUES (7); COMMIT")
        run("SET audit_cdc.server_context_fields = 'application_name'")
        run("INSERT INTO t VALUES (8)")
        columns = "new_values ->> 'id', server_context ->> 'current_user', server_context ->> 'application_name', username"
        assert told(paused, columns) == [
            ("1", role, "shop", None), ("2", another, "shop", None), ("3", role, "till", None), ("4", role, "till", "ada"),
            ("5", role, "till", "bob"), ("7", role, "till", "ada"), ("8", None, "till", "ada")]
    finally:
        connection.close()
        paused.run(f"DROP OWNED BY {role}")
        admin(f"DROP ROLE {role}")

def test_the_address_of_a_client(paused):
    # servers beside it have the same port
    address = f"127.0.{os.getpid() % 250}.{os.getpid() // 250 % 250 + 1}"
    admin(f"ALTER SYSTEM SET listen_addresses = '{address}'")
    restart(paused)
    session(paused, "INSERT INTO t VALUES (1, 'a')", host=address)
    session(paused, "INSERT INTO t VALUES (2, 'b')")
    assert told(paused, "server_context ->> 'client_address'") == [("127.0.0.1",), (None,)]


WRITES = {
    "insert": ("INSERT INTO t VALUES (9, 'a')", 1),
    "of several rows": ("INSERT INTO t SELECT n, 'a' FROM generate_series(10, 14) AS n", 1),
    "update": ("UPDATE t SET v = 'b' WHERE id = 1", 1),
    "delete": ("DELETE FROM t WHERE id = 1", 1),
    "returning": ("WITH gone AS (DELETE FROM t WHERE id = 1 RETURNING *) SELECT * FROM gone", 1),
    "secondary": ("WITH n AS (INSERT INTO t VALUES (9, 'a') RETURNING *) SELECT count(*) FROM t", 1),
    "upsert": ("INSERT INTO t VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET v = 'c'", 1),
    "merge": ("MERGE INTO t USING (VALUES (1)) AS n (id) ON t.id = n.id WHEN MATCHED THEN UPDATE SET v = 'd'", 1),
    "truncate": ("TRUNCATE t", 1),
    "in a function": ("DO $$ BEGIN FOR n IN 1..3 LOOP INSERT INTO t VALUES (20 + n, 'a'); END LOOP; END $$", 1),
    "prepared": ("PREPARE one AS INSERT INTO t VALUES (9, 'a'); EXECUTE one", 1),
    "in a table that is made": ("CREATE TABLE made AS SELECT 1 AS n", 1),
    "explained into a table": ("EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1 AS n", 1),
    "explained as if into a table": ("EXPLAIN CREATE TABLE made AS SELECT 1 AS n", 0),
    "through a root that is not logged": ("INSERT INTO hide VALUES (9, 'a')", 1),
    "from one partition to another": ("UPDATE mixed SET id = 2", 1),
    "nothing updated": ("UPDATE t SET v = 'b' WHERE id = 99", 0),
    "nothing inserted": ("INSERT INTO t SELECT n, 'a' FROM generate_series(1, 0) AS n", 0),
    "read": ("SELECT * FROM t", 0),
    "shown": ("EXPLAIN INSERT INTO t VALUES (9, 'a')", 0),
    "temporary": ("CREATE TEMPORARY TABLE x (id int); INSERT INTO x VALUES (1)", 0),
    "temporary, copied": ("CREATE TEMPORARY TABLE y AS SELECT 1 AS n", 0),
    "unlogged": ("INSERT INTO u VALUES (1)", 0),
    "locked": ("SELECT FROM t WHERE id = 1 FOR UPDATE", 0),
}


@pytest.mark.parametrize("statement, count", WRITES.values(), ids=WRITES)
def test_one_message_a_writing_transaction(paused, statement, count):
    session(paused, "CREATE UNLOGGED TABLE u (id int)", "INSERT INTO t VALUES (1, 'a')",
            "CREATE TABLE mixed (id int, v text) PARTITION BY LIST (id)", "CREATE UNLOGGED TABLE mixed_1 PARTITION OF mixed FOR VALUES IN (1)",
            "CREATE TABLE mixed_2 PARTITION OF mixed FOR VALUES IN (2)", "ALTER TABLE mixed_2 REPLICA IDENTITY FULL", "INSERT INTO mixed VALUES (1, 'a')")
    if "hide" in statement and paused.connect().server_version < 180000:
        session(paused, "CREATE UNLOGGED TABLE hide (id int NOT NULL, v text) PARTITION BY LIST (id)", "ALTER TABLE hide ATTACH PARTITION t DEFAULT")
    elif "hide" in statement:
        pytest.skip("from 18 on no root is unlogged")
    assert messages(paused, statement) == ["audit_cdc.sealed"] * count


def test_copy(paused, tmp_path):
    (tmp_path / "rows").write_text("1\ta\n2\tb\n")
    connection = paused.connect()
    with connection, connection.cursor() as cursor, open(tmp_path / "rows") as rows:
        cursor.copy_from(rows, "t")
    assert told(paused, "new_values ->> 'v', server_context ->> 'session_user'") == [("a", "postgres"), ("b", "postgres")]


def test_it_can_be_turned_off_and_narrowed(paused):
    session(paused, "SET audit_cdc.server_context = off", "INSERT INTO t VALUES (1, 'a')", "SET audit_cdc.server_context = on",
            "SET audit_cdc.server_context_fields = 'session_user'", "INSERT INTO t VALUES (2, 'b')",
            "SET audit_cdc.server_context_fields = ''", "INSERT INTO t VALUES (3, 'c')")
    assert told(paused, "server_context") == [(None,), ({"session_user": "postgres"},), ({},)]


def test_only_a_superuser_may_turn_it_off(paused):
    role = paused.name + "_eve"
    admin(f"CREATE ROLE {role} LOGIN")
    try:
        for statement in ["SET audit_cdc.server_context = off", "SET audit_cdc.server_context_fields = ''", "SELECT audit_rotate_secret()"]:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                session(paused, statement, user=role)
        session(paused, "SET audit_cdc.username = 'ada'", user=role)
    finally:
        admin(f"DROP ROLE {role}")


@pytest.mark.parametrize("name, value, detail", [
    ("metadata", "[1]", "It must be a JSON object that jsonb takes."),
    ("metadata", '{"a": "\\u0000"}', "It must be a JSON object that jsonb takes."),
    ("server_context_fields", "session_user, role",
     '"role" is none of session_user, current_user, application_name, client_address, backend_start, transaction_start.')])
def test_what_a_setting_cannot_be(paused, name, value, detail):
    with pytest.raises(psycopg2.errors.InvalidParameterValue) as refused:
        paused.run(f"SET audit_cdc.{name} = %s", value)
    assert refused.value.diag.message_detail == detail


def test_settings_annotate(paused):
    session(paused, "SET audit_cdc.username = 'ada'", "INSERT INTO t VALUES (1, 'a')", "RESET audit_cdc.username", "INSERT INTO t VALUES (2, 'b')",
            """BEGIN; SET LOCAL audit_cdc.username = 'bob'; SET LOCAL audit_cdc.source = 'web'; SET LOCAL audit_cdc.request_id = 'r1';
               SET LOCAL audit_cdc.metadata = '{"why": "refund"}'; INSERT INTO t VALUES (3, 'c'); COMMIT""", "INSERT INTO t VALUES (4, 'd')")
    assert told(paused, "username, source, request_id, metadata, attested") == [
        ("ada", None, None, None, True), (None,) * 5, ("bob", "web", "r1", {"why": "refund"}, True), (None,) * 5]


def test_settings_of_the_connection(paused):
    session(paused, "INSERT INTO t VALUES (1, 'a')", options="-c audit_cdc.username=ada")
    assert told(paused) == [("a", "ada", True)]


def test_a_setting_that_changes_within_a_transaction(paused):
    session(paused, "BEGIN", "SET LOCAL audit_cdc.username = 'ada'", "INSERT INTO t VALUES (1, 'a')", "SET LOCAL audit_cdc.username = 'bob'",
            "INSERT INTO t VALUES (2, 'b')", "SET LOCAL audit_cdc.username = ''", "INSERT INTO t VALUES (3, 'c')", "COMMIT")
    assert told(paused) == [("a", "ada", True), ("b", "bob", True), ("c", None, None)]


def test_a_call_wins_over_settings(paused):
    session(paused, "SET audit_cdc.username = 'ada'", "SET audit_cdc.source = 'web'", "BEGIN", "INSERT INTO t VALUES (1, 'a')",
            "SELECT audit_annotate(username => 'bob')", "INSERT INTO t VALUES (2, 'b')", "SET LOCAL audit_cdc.username = 'eve'",
            "INSERT INTO t VALUES (3, 'c')", "SELECT audit_annotate_clear()", "INSERT INTO t VALUES (4, 'd')", "COMMIT", "INSERT INTO t VALUES (5, 'e')")
    assert told(paused, "new_values ->> 'v', username, source, attested") == [
        ("a", "ada", "web", True), ("b", "bob", "web", True), ("c", "bob", "web", True), ("d", None, None, None), ("e", "ada", "web", True)]


def test_sequin_gets_what_settings_annotate(paused):
    """One message each, which comes before the change."""
    found = messages(paused, "SET audit_cdc.username = 'ada'", "INSERT INTO t VALUES (1, 'a')")
    assert found == ["audit_cdc.sealed", "sequin:transaction_annotations.set"]


FORGED = SET.replace("{}", '{"username": "eve"}')
CLEARED = "SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.clear', '')"


def test_what_is_forged_is_not_attested(paused):
    session(paused, "BEGIN", FORGED, "INSERT INTO t VALUES (1, 'a')", "COMMIT")
    assert told(paused) == [("a", "eve", False)]


def test_what_is_forged_takes_nothings_place(paused):
    session(paused, "BEGIN", "SELECT audit_annotate(username => 'ada')", "INSERT INTO t VALUES (1, 'a')", FORGED, "INSERT INTO t VALUES (2, 'b')",
            CLEARED, "INSERT INTO t VALUES (3, 'c')", "SELECT audit_annotate(request_id => 'r1')", "INSERT INTO t VALUES (4, 'd')", "COMMIT")
    assert told(paused, "new_values ->> 'v', username, request_id, attested, notes") == [
        ("a", "ada", None, True, None), ("b", "ada", None, True, {"contested": True}), ("c", "ada", None, True, {"contested": True}),
        ("d", "ada", "r1", True, {"contested": True})]


def test_a_setting_that_somebody_made_up_merges_with_nothing(paused):
    """Before, what was in force stood in a setting that anybody may set."""
    session(paused, "BEGIN", "SELECT set_config('audit_annotate.in_force', pg_current_xact_id() || ' {\"username\": \"eve\"}', true)",
            "SELECT audit_annotate(request_id => 'r1')", "INSERT INTO t VALUES (1, 'a')", "COMMIT")
    assert told(paused, "username, request_id, attested") == [(None, "r1", True)]


def sealed(db):
    """The message in which a transaction said who it was."""
    found = db.rows("SELECT data FROM pg_logical_slot_peek_changes(%s, NULL, NULL) WHERE data LIKE '%%audit_cdc.sealed%%'", db.name + "_seen")
    return found[-1][0].split("content:", 1)[1]


def test_what_is_replayed_in_another_transaction_counts_for_nothing(paused):
    db = paused
    db.run("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", db.name + "_seen")
    try:
        session(db, "BEGIN", "SELECT audit_annotate(username => 'ada')", "INSERT INTO t VALUES (1, 'a')", "COMMIT", application_name="shop")
        seal = sealed(db)
        replayed = f"SELECT pg_logical_emit_message(true, 'audit_cdc.sealed', '{seal}')"
        forged = replayed.replace("shop", "bank")
        ada = SET.replace("{}", '{"username": "ada"}')
        session(db, "SET audit_cdc.server_context = off", "BEGIN", replayed, ada, "INSERT INTO t VALUES (2, 'b')", "COMMIT",
                "BEGIN", forged, ada, "INSERT INTO t VALUES (3, 'c')", "COMMIT")
        assert told(db, "new_values ->> 'v', username, attested, server_context ->> 'application_name'") == [
            ("a", "ada", True, "shop"), ("b", "ada", False, None), ("c", "ada", False, None)]
    finally:
        db.run("SELECT pg_drop_replication_slot(%s)", db.name + "_seen")


def test_a_secret_that_is_replaced_has_sealed_what_came_before(paused):
    session(paused, "SET audit_cdc.username = 'ada'", "INSERT INTO t VALUES (1, 'a')", "SELECT audit_rotate_secret()", "INSERT INTO t VALUES (2, 'b')")
    restart(paused)
    session(paused, "SET audit_cdc.username = 'ada'", "INSERT INTO t VALUES (3, 'c')")
    assert told(paused) == [("a", "ada", True), ("b", "ada", True), ("c", "ada", True)]


def test_annotating_needs_no_right_to_emit(paused):
    role = paused.name + "_app"
    admin(f"CREATE ROLE {role} LOGIN")
    for (emitting,) in paused.rows("SELECT oid::regprocedure::text FROM pg_proc WHERE proname = 'pg_logical_emit_message'"):
        paused.run(f"REVOKE EXECUTE ON FUNCTION {emitting} FROM PUBLIC")
    try:
        paused.run(f"GRANT INSERT ON t TO {role}")
        session(paused, "BEGIN", "SELECT audit_annotate(username => 'ada')", "INSERT INTO t VALUES (1, 'a')", "SELECT audit_annotate_clear()",
                "INSERT INTO t VALUES (2, 'b')", "COMMIT", user=role)
        assert told(paused) == [("a", "ada", True), ("b", None, None)]
    finally:
        paused.run(f"DROP OWNED BY {role}")
        admin(f"DROP ROLE {role}")


def test_nobody_reads_the_secret(paused):
    """Neither a dump nor any table holds it."""
    file = pathlib.Path(os.environ["AUDIT_DATA"]) / "audit_cdc_secrets"
    assert file.stat().st_mode & 0o077 == 0
    secret = file.read_text().split()[1]
    session(paused, "INSERT INTO t VALUES (1, 'a')")
    told(paused)
    dump = subprocess.run(["pg_dump", paused.name], capture_output=True, text=True, check=True).stdout
    assert "server_contexts" in dump and secret not in dump


def test_a_message_of_one_delivered_says_nothing(paused):
    """A relay cannot attest."""
    body = """{"action":"insert","changes":null,"metadata":{"commit_idx":1,"commit_lsn":9,"commit_timestamp":"2026-03-01T00:00:00.000000Z",
        "database":{"id":"d","name":"n"},"idempotency_key":"OTox","record_pks":["1"],"table_name":"o","table_schema":"public",
        "transaction_annotations":{"username":"eve"},"attested":true,"server_context":{"session_user":"postgres"},"transaction_start":"5"},"record":{"id":1}}"""
    paused.ingest(body)
    assert paused.rows("SELECT username, attested, server_context FROM audit_logs") == [("eve", None, None)]


def test_a_prepared_transaction_and_savepoints(paused):
    session(paused, "SET audit_cdc.username = 'ada'", "BEGIN", "SAVEPOINT a", "INSERT INTO t VALUES (1, 'a')", "ROLLBACK TO a",
            "INSERT INTO t VALUES (2, 'b')", "RELEASE a", "SAVEPOINT b", "INSERT INTO t VALUES (3, 'c')", "RELEASE b", "INSERT INTO t VALUES (4, 'd')", "COMMIT")
    columns = "new_values ->> 'v', username, attested, server_context ->> 'session_user'"
    assert told(paused, columns) == [(v, "ada", True, "postgres") for v in "bcd"]


def random_session(db, number, random):
    """What a user means, and what it writes: annotated by calls, by settings or not at all, in savepoints that may be rolled back."""
    connection = db.connect()
    connection.autocommit = True
    meant = []
    with connection.cursor() as cursor:
        for transaction in range(12):
            user, call, open_savepoints, rows = None, None, [], []
            cursor.execute("BEGIN")
            for step in range(random.randrange(1, 12)):
                what = random.choice(["write", "write", "write", "call", "set", "begin", "release", "rollback"])
                name = f"u{number}_{transaction}_{step}"
                if what == "write":
                    key = f"{number}{transaction:02}{step:02}"
                    cursor.execute("INSERT INTO t VALUES (%s, %s)", (int(key), key))
                    rows.append((key, call or user))
                elif what == "call":
                    cursor.execute("SELECT audit_annotate(username => %s)", (name,))
                    call = name
                elif what == "set":
                    cursor.execute("SELECT set_config('audit_cdc.username', %s, true)", (name,))
                    user = name
                elif what == "begin":
                    cursor.execute(f"SAVEPOINT s{len(open_savepoints)}")
                    open_savepoints.append((user, call, len(rows)))
                elif open_savepoints:
                    before = open_savepoints.pop()
                    cursor.execute(f"{'RELEASE' if what == 'release' else 'ROLLBACK TO'} s{len(open_savepoints)}")
                    if what == "rollback":
                        user, call = before[:2]
                        del rows[before[2]:]
            cursor.execute("COMMIT")
            meant += rows
    connection.close()
    return meant


@pytest.mark.parametrize("seed", range(3))
def test_eight_users_at_once(paused, seed):
    """Never one user's name on another's change."""
    meant = []
    in_threads([lambda number=number: meant.extend(random_session(paused, number, random.Random(f"{seed} {number}"))) for number in range(1, 9)])
    assert sorted(told(paused)) == sorted((v, user, True if user else None) for v, user in meant)


def test_errors_keep_what_postgresql_says_of_them(paused):
    """Hooks that hand errors on must not make them anew."""
    with pytest.raises(psycopg2.errors.UniqueViolation) as raised:
        paused.run("DO $$ BEGIN INSERT INTO t VALUES (1, 'a'), (1, 'b'); END $$")
    diag = raised.value.diag
    assert (diag.table_name, diag.constraint_name, diag.source_function) == ("t", "t_pkey", "_bt_check_unique")
    assert "PL/pgSQL function inline_code_block" in diag.context
    paused.run("CREATE FUNCTION raising() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING TABLE = 'x', HINT = 'h'; END $$")
    with pytest.raises(psycopg2.errors.RaiseException) as raised:
        paused.run("INSERT INTO t SELECT 2, raising()")
    assert (raised.value.diag.table_name, raised.value.diag.message_hint) == ("x", "h") and "PL/pgSQL function raising()" in raised.value.diag.context


def test_calls_that_annotate_nothing_are_counted(captured):
    """Drivers hide the warning."""
    lost = "SELECT lost_annotations FROM audit_capture_status()"
    assert captured.value(lost) == 0
    session(captured, "SELECT audit_annotate(username => 'ada')", "INSERT INTO t VALUES (1, 'a')")
    assert captured.value(lost) == 1
    session(captured, "CREATE FUNCTION signed() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM audit_annotate('ada'); INSERT INTO t VALUES (2, 'b'); END $$",
            "SELECT signed()", "BEGIN", "SELECT audit_annotate(username => 'ada')", "SELECT 1", "COMMIT", "SELECT audit_annotate_clear()")
    assert captured.value(lost) == 1


def test_another_role_in_the_transaction_is_told(paused):
    role = paused.name + "_app"
    admin(f"CREATE ROLE {role}")
    try:
        paused.run(f"GRANT INSERT ON t TO {role}")
        session(paused, "BEGIN", "INSERT INTO t VALUES (1, 'a')", f"SET ROLE {role}", "INSERT INTO t VALUES (2, 'b')", "RESET ROLE",
                "INSERT INTO t VALUES (3, 'c')", f"SET SESSION AUTHORIZATION {role}", "INSERT INTO t VALUES (4, 'd')", "COMMIT")
        assert told(paused, "server_context ->> 'session_user', server_context ->> 'current_user'") == [
            ("postgres", "postgres"), ("postgres", role), ("postgres", "postgres"), (role, role)]
    finally:
        paused.run(f"DROP OWNED BY {role}")
        admin(f"DROP ROLE {role}")


def test_what_computes_a_row_does_not_sign_the_next(paused):
    session(paused, """CREATE TABLE notes (v text); CREATE FUNCTION note(n int) RETURNS int LANGUAGE plpgsql SET audit_cdc.username = 'import' AS
        $$ BEGIN INSERT INTO notes VALUES (n); RETURN n; END $$""", "BEGIN", "SET LOCAL audit_cdc.username = 'ada'",
            "INSERT INTO t SELECT note(n), 'row' FROM generate_series(1, 3) AS n", "COMMIT")
    assert told(paused, "table_name, username") == [("notes", "import"), ("t", "ada")] * 3


def test_a_setting_of_each_row(paused):
    session(paused, "INSERT INTO t SELECT n, set_config('audit_cdc.username', 'u' || n, false) FROM generate_series(1, 3) AS n")
    assert told(paused) == [(f"u{n}", f"u{n}", True) for n in range(1, 4)]


def test_a_setting_is_not_too_long(paused):
    for name in ["username", "source", "request_id", "metadata"]:
        with pytest.raises(psycopg2.errors.InvalidParameterValue) as refused:
            paused.run(f"SET audit_cdc.{name} = %s", "{" + " " * 10_000 + "}")
        assert refused.value.diag.message_detail == "It must not be longer than 10000 bytes."


def test_where_nothing_can_be_written_nothing_is_told(paused):
    assert messages(paused, "BEGIN READ ONLY", "SELECT audit_annotate(username => 'ada')", "COMMIT") == []


def test_a_damaged_secret_can_be_replaced(paused):
    file = pathlib.Path(os.environ["AUDIT_DATA"]) / "audit_cdc_secrets"
    before = file.read_text()
    server("stop")
    file.write_text("damaged")
    server("start")
    until(lambda: answers(paused))
    try:
        can_seal = "SELECT can_seal FROM audit_capture_status()"
        session(paused, "INSERT INTO t VALUES (1, 'a')")
        assert paused.value(can_seal) is False
        session(paused, "SELECT audit_rotate_secret()", "INSERT INTO t VALUES (2, 'b')")
        assert paused.value(can_seal) is True
        assert told(paused, "new_values ->> 'v', server_context IS NULL") == [("a", True), ("b", False)]
    finally:
        assert file.read_text() not in ("damaged", before)


def test_roles_that_change_at_each_row_take_no_memory(source):
    """Of a table that is not captured nothing is sent, so what is told of its rows is not needed."""
    role = source.name + "_app"
    admin(f"CREATE ROLE {role}")
    try:
        source.run(f"CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int); GRANT INSERT ON u TO {role}; CREATE PUBLICATION audited FOR TABLE t")
        admin("ALTER SYSTEM SET logical_decoding_work_mem = '64kB'")
        admin("SELECT pg_reload_conf()")
        start(source)
        session(source, "INSERT INTO t VALUES (1, 'a')")
        captured_so_far = "SELECT count(*) FROM audit_logs"
        until(lambda: source.value(captured_so_far) == 1)
        before = peak_memory(source.value("SELECT worker_pid FROM audit_capture_status()"))
        session(source, "BEGIN", f"INSERT INTO u SELECT i FROM generate_series(1, 100000) AS i WHERE set_config('role', CASE i % 2 WHEN 0 THEN '{role}' ELSE 'none' END, true) <> ''",
                "RESET ROLE", "INSERT INTO t VALUES (2, 'b')", "COMMIT")
        until(lambda: source.value(captured_so_far) == 2)
        assert peak_memory(source.value("SELECT worker_pid FROM audit_capture_status()")) < before + (10 << 20)
        assert source.rows("SELECT server_context ->> 'current_user' FROM audit_logs ORDER BY id") == [("postgres",)] * 2
    finally:
        source.run(f"DROP OWNED BY {role}")
        admin(f"DROP ROLE {role}")
