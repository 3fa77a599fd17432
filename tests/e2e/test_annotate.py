"""audit_annotate, of the extension and of the plain SQL file for sources: the same cases, by what reaches the WAL."""

import json

import psycopg2
import pytest
from conftest import TOP


@pytest.fixture(params=["extension", "plain file"])
def source(request, empty):
    empty.kind = request.param
    if request.param == "extension":
        empty.run("CREATE EXTENSION audit_cdc")
    else:
        loaded = empty.psql("-f", str(TOP / "sql/annotate.sql"))
        assert loaded.returncode == 0, loaded.stderr
    empty.run("CREATE TABLE t (id int)")
    empty.slot = empty.name
    empty.run("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", empty.slot)
    yield empty
    empty.run("SELECT pg_drop_replication_slot(%s)", empty.slot)


def sent(source):
    """The messages in the WAL, as Sequin would meet them: (set | clear, annotations). Of the plain file each comes twice."""
    found = []
    for (line,) in source.rows("SELECT data FROM pg_logical_slot_get_changes(%s, NULL, NULL)", source.slot):
        if line.startswith("message: transactional: 1 prefix: sequin:transaction_annotations."):
            name, content = line.split("transaction_annotations.", 1)[1].split(",", 1)
            content = content.split("content:", 1)[1]
            found.append((name, json.loads(content) if name == "set" else content))
    if source.kind == "extension":
        return found
    assert found[::2] == found[1::2]
    return found[::2]


def session(source, *statements):
    """Runs the statements on one connection; returns results and notices."""
    connection = source.connect()
    results = []
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
            results.append(cursor.fetchall()[0][0] if cursor.description else None)
    return results, connection.notices


def test_what_is_in_force_is_returned_and_sent(source):
    results, notices = session(source, "BEGIN", "SELECT audit_annotate(username => 'ada', request_id => 'r1')", "INSERT INTO t VALUES (1)", "COMMIT")
    assert results[1] == {"username": "ada", "request_id": "r1"} and not notices
    assert sent(source) == [("set", {"username": "ada", "request_id": "r1"})]


def test_calls_merge_key_by_key(source):
    results, _ = session(
        source, "BEGIN", """SELECT audit_annotate('ada', 'web', metadata => '{"a": 1, "deep": {"x": 1}}', extra => '{"tenant": 7}')""",
        """SELECT audit_annotate(source => 'api', metadata => '{"b": null, "deep": {"y": 2}}', extra => '{"team": [1]}')""", "COMMIT")
    expected = {"username": "ada", "source": "api", "metadata": {"a": 1, "b": None, "deep": {"y": 2}}, "tenant": 7, "team": [1]}
    assert results[2] == expected
    assert sent(source)[-1] == ("set", expected)


def test_a_rolled_back_savepoint_takes_its_part_along(source):
    results, _ = session(source, "BEGIN", "SELECT audit_annotate('ada')", "SAVEPOINT s", "SELECT audit_annotate(source => 'lost')",
                         "ROLLBACK TO s", "SELECT audit_annotate(request_id => 'r')", "SAVEPOINT s2", "SELECT audit_annotate_clear()",
                         "ROLLBACK TO s2", """SELECT audit_annotate(extra => '{"k": 1}')""", "SAVEPOINT s3",
                         "SELECT audit_annotate(source => 'kept')", "RELEASE s3", "SELECT audit_annotate(username => 'bob')", "COMMIT")
    assert results[-2] == {"username": "bob", "source": "kept", "request_id": "r", "k": 1}
    assert "lost" not in json.dumps(sent(source))


def test_clear(source):
    results, _ = session(source, "BEGIN", "SELECT audit_annotate('ada')", "SELECT audit_annotate_clear()", "SELECT audit_annotate(source => 'web')", "COMMIT")
    assert results[3] == {"source": "web"}
    assert sent(source) == [("set", {"username": "ada"}), ("clear", ""), ("set", {"source": "web"})]


def test_nothing_crosses_transactions(source):
    results, _ = session(source, "BEGIN", "SELECT audit_annotate('ada')", "COMMIT", "BEGIN", "SELECT audit_annotate(source => 'web')", "COMMIT",
                         "SET audit_annotate.in_force = '5 {\"username\": \"forged\"}'", "BEGIN", "SELECT audit_annotate(source => 'web')", "COMMIT",
                         "SET audit_annotate.in_force = 'not json'", "BEGIN", "SELECT audit_annotate(source => 'web')", "COMMIT")
    assert [results[4], results[8], results[12]] == [{"source": "web"}] * 3


def test_outside_a_transaction_block_it_warns(source):
    _, notices = session(source, "SELECT audit_annotate('ada')")
    assert len(notices) == 1 and "WARNING" in notices[0] and "outside a transaction block" in notices[0]


def test_inside_a_function_it_travels_with_what_that_does(source):
    _, notices = session(source, "DO $$ BEGIN PERFORM audit_annotate('ada'); INSERT INTO t VALUES (1); END $$",
                         "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM audit_annotate('bob'); END $$", "SELECT f()")
    assert not notices
    assert sent(source) == [("set", {"username": "ada"}), ("set", {"username": "bob"})]


def test_several_statements_in_one_query(source):
    if source.kind == "plain file":
        pytest.skip("SQL cannot see the transaction block of a query of several statements: best effort")
    _, notices = session(source, "SELECT audit_annotate('ada'); INSERT INTO t VALUES (1)")
    assert not notices


@pytest.mark.parametrize("arguments, message", [
    ("", "nothing to annotate"), ("NULL, NULL", "nothing to annotate"),
    ("metadata => '[1]'", "metadata is not a JSON object"), ("extra => '\"x\"'", "extra is not a JSON object"), ("extra => 'null'", "extra is not a JSON object"),
    ("""extra => '{"username": "eve"}'""", 'extra must not contain the key "username"'),
    ("""extra => '{"x": 1, "metadata": 1}'""", 'extra must not contain the key "metadata"'),
])
def test_errors(source, arguments, message):
    with pytest.raises(psycopg2.errors.InvalidParameterValue) as raised:
        session(source, "BEGIN", f"SELECT audit_annotate({arguments})")
    assert raised.value.diag.message_primary == message and raised.value.diag.message_hint


def test_every_role_may_annotate_whatever_its_search_path(source):
    source.run("DROP ROLE IF EXISTS app_of_test; CREATE ROLE app_of_test")
    schema = source.value("SELECT pronamespace::regnamespace::text FROM pg_proc WHERE proname = 'audit_annotate'")
    results, _ = session(source, "SET ROLE app_of_test", "SET search_path = pg_temp",
                         "CREATE TEMP TABLE pg_class (x int)", "BEGIN", f"SELECT {schema}.audit_annotate('ada')", f"SELECT {schema}.audit_annotate_clear()")
    assert results[4] == {"username": "ada"}
