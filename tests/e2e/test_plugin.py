"""The output plugin: each change as the catalogs were at its moment, whatever became of them since."""

import hashlib
import pathlib
import re
import threading

import psycopg2
import pytest
from capture_helpers import capture, logged, paused, publish, slot, source, start, status, table  # noqa: F401 (fixtures)
from conftest import admin, until
from projection_helpers import code, run

PENDING = "SELECT data FROM pg_logical_slot_peek_binary_changes((SELECT slot FROM audit_cdc_internal.captures), NULL, NULL, 'publication', 'audited')"


def sent(db):
    """Messages of the plugin, as it sends them."""
    return [bytes(data) for (data,) in db.rows(PENDING)]


def test_rows_of_schema_changes_are_told_by_their_number(paused):
    """Whatever the publication says; other tables of the log are never told."""
    paused.run("CREATE TABLE audit_cdc_internal.of_the_log (id bigint PRIMARY KEY)")
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")
    capture(paused)
    paused.run("""INSERT INTO t VALUES (1, 'a');
        INSERT INTO audit_cdc_internal.schema_changes (id, database_id, object_type, object, command_tag, is_captured, user_name) OVERRIDING SYSTEM VALUE
        VALUES (4711, 'd', 'table', 0, 'ALTER TABLE', false, 'postgres');
        INSERT INTO audit_cdc_internal.of_the_log VALUES (1); INSERT INTO t VALUES (2, 'b')""")
    kinds = [message[:1] for message in sent(paused)]
    assert kinds == [b"R", b"B", b"w", b"I", b"S", b"I", b"C"]
    place, number = 1, 4711
    assert sent(paused)[4] == b"S" + place.to_bytes(4, "big") + number.to_bytes(8, "big") + bytes(4)
    paused.run("DROP TABLE audit_cdc_internal.of_the_log")
    assert capture(paused) == 2
    assert paused.rows("SELECT commit_idx FROM audit_logs ORDER BY commit_idx") == [(0,), (3,)]


# ------------------------------------------------------------------------------------------------------------- the change's moment


def told(db, columns="action, table_name, record_pks, new_values", where="true"):
    return db.rows(f"SELECT {columns} FROM audit_logs WHERE {where} ORDER BY commit_lsn, commit_idx")


def test_two_columns_swap_their_names_in_one_transaction(paused):
    paused.run("CREATE TABLE k (a int PRIMARY KEY, b int); ALTER TABLE k REPLICA IDENTITY FULL")
    paused.run("""BEGIN; INSERT INTO k VALUES (1, 10); ALTER TABLE k RENAME a TO c; ALTER TABLE k RENAME b TO a; ALTER TABLE k RENAME c TO b;
        INSERT INTO k VALUES (2, 20); COMMIT; DROP TABLE k""")
    capture(paused)
    assert told(paused) == [("insert", "k", ["1"], {"a": 1, "b": 10}), ("insert", "k", ["2"], {"b": 2, "a": 20})]


def test_the_key_moves_to_another_column_in_one_transaction(paused):
    paused.run("CREATE TABLE k (a int NOT NULL, b int NOT NULL, CONSTRAINT key PRIMARY KEY (a)); ALTER TABLE k REPLICA IDENTITY FULL")
    paused.run("BEGIN; INSERT INTO k VALUES (1, 10); ALTER TABLE k DROP CONSTRAINT key, ADD PRIMARY KEY (b); INSERT INTO k VALUES (2, 20); COMMIT")
    capture(paused)
    assert told(paused, "record_pks") == [(["1"],), (["20"],)]


def test_names_before_a_rename_and_after_a_drop(paused):
    paused.run("CREATE SCHEMA app; CREATE TABLE app.k (id int PRIMARY KEY, v text); ALTER TABLE app.k REPLICA IDENTITY FULL")
    paused.run("INSERT INTO app.k VALUES (1, 'a'); ALTER TABLE app.k RENAME id TO number; ALTER TABLE app.k RENAME TO m; ALTER SCHEMA app RENAME TO other")
    paused.run("INSERT INTO other.m VALUES (2, 'b'); DROP SCHEMA other CASCADE")
    capture(paused)
    assert told(paused, "table_schema, table_name, record_pks, new_values") == [
        ("app", "k", ["1"], {"id": 1, "v": "a"}), ("other", "m", ["2"], {"number": 2, "v": "b"})]


def test_columns_that_a_key_only_includes(paused):
    paused.run("CREATE TABLE k (a int, b int, note text, PRIMARY KEY (b, a) INCLUDE (note)); ALTER TABLE k REPLICA IDENTITY FULL")
    paused.run("INSERT INTO k VALUES (1, 2, 'x'); UPDATE k SET note = 'y'")
    capture(paused)
    assert told(paused, "record_pks") == [(["1", "2"],), (["1", "2"],)]


def test_the_identity_of_the_partition_counts(paused):
    """It is not inherited: of what the partition did not log nothing is said."""
    paused.run("DROP PUBLICATION audited; CREATE TABLE p (v text, id int PRIMARY KEY) PARTITION BY LIST (id); ALTER TABLE p REPLICA IDENTITY FULL")
    paused.run("""CREATE TABLE p1 (gone int, id int NOT NULL, v text); ALTER TABLE p1 DROP gone; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
        CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2); ALTER TABLE p2 REPLICA IDENTITY FULL;
        CREATE PUBLICATION audited FOR TABLE p WITH (publish_via_partition_root)""")
    paused.run("INSERT INTO p (id, v) VALUES (1, 'a'), (2, 'b'); UPDATE p SET v = v || '!'; DELETE FROM p")
    capture(paused)
    assert told(paused, "action, table_name, record_id, replica_identity, old_values, new_values, unknown_columns, unknown_old_columns") == [
        ("insert", "p", "1", "default", None, {"v": "a", "id": 1}, [], []),
        ("insert", "p", "2", "full", None, {"v": "b", "id": 2}, [], []),
        ("update", "p", "1", "default", {}, {"v": "a!", "id": 1}, [], ["v"]),
        ("update", "p", "2", "full", {"v": "b"}, {"v": "b!", "id": 2}, [], []),
        ("delete", "p", "1", "default", {"v": None, "id": 1}, None, ["v"], ["v"]),
        ("delete", "p", "2", "full", {"v": "b!", "id": 2}, None, [], [])]


def test_a_root_is_renamed_while_changes_of_its_partitions_are_pending(paused):
    paused.run("""DROP PUBLICATION audited; CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE m PARTITION OF p FOR VALUES FROM (0) TO (9) PARTITION BY LIST (id);
        CREATE TABLE p1 PARTITION OF m FOR VALUES IN (1); CREATE PUBLICATION audited FOR ALL TABLES WITH (publish_via_partition_root)""")
    paused.run("INSERT INTO p VALUES (1, 'a'); ALTER TABLE p RENAME TO q; INSERT INTO q VALUES (1, 'b') ON CONFLICT (id) DO UPDATE SET v = 'b'")
    paused.run("ALTER TABLE q DETACH PARTITION m; DELETE FROM m; ALTER TABLE m DETACH PARTITION p1; INSERT INTO p1 VALUES (1, 'c'); TRUNCATE p1")
    capture(paused)
    assert told(paused, "action, table_name") == [("insert", "p"), ("update", "q"), ("delete", "m"), ("insert", "p1"), ("truncate", "p1")]


def test_what_is_published_is_that_of_the_moment(paused):
    paused.run("""DROP PUBLICATION audited; CREATE SCHEMA app; CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE app.w (id int PRIMARY KEY);
        CREATE PUBLICATION audited FOR TABLE t""")
    paused.run("""INSERT INTO u VALUES (1); INSERT INTO t VALUES (1); ALTER PUBLICATION audited SET TABLE u, TABLES IN SCHEMA app;
        INSERT INTO u VALUES (2); INSERT INTO t VALUES (2); INSERT INTO app.w VALUES (2); ALTER PUBLICATION audited SET (publish = 'delete'); INSERT INTO u VALUES (3); DELETE FROM u WHERE id = 2;
        ALTER PUBLICATION audited SET (publish = 'insert'); ALTER TABLE u SET SCHEMA app; ALTER PUBLICATION audited DROP TABLE app.u; INSERT INTO app.u VALUES (4);
        ALTER TABLE app.u SET SCHEMA public; INSERT INTO u VALUES (5)""")
    capture(paused)
    assert told(paused, "action, table_schema, table_name, record_id") == [
        ("insert", "public", "t", "1"), ("insert", "public", "u", "2"), ("insert", "app", "w", "2"), ("delete", "public", "u", "2"), ("insert", "app", "u", "4")]


@pytest.mark.parametrize("sql", ["DROP PUBLICATION audited", "ALTER PUBLICATION audited RENAME TO another"])
def test_a_publication_goes_while_changes_are_pending(paused, sql):
    """What came before is captured; what comes after is missing, and a gap says so."""
    paused.run(f"INSERT INTO t VALUES (1); BEGIN; INSERT INTO t VALUES (2); {sql}; COMMIT; CREATE TABLE other (); BEGIN; INSERT INTO t VALUES (3); COMMIT; INSERT INTO t VALUES (4)")
    capture(paused)
    assert logged(paused) == [1, 2]
    assert paused.rows("SELECT table_name, reason, to_lsn IS NULL, is_open FROM audit_gaps") == [("t", "not published", True, True)]
    assert status(paused, "last_error, last_error_sqlstate, open_gaps") == [('publication "audited" does not exist', "42704", 1)]
    assert code(paused.connect(), "SELECT audit_pending_changes()") == "42704"
    publish(paused)
    paused.run("INSERT INTO t VALUES (5)")
    capture(paused)
    assert logged(paused) == [1, 2, 5] and status(paused, "last_error, open_gaps") == [(None, 1)]


def test_a_row_filter_and_a_column_list_of_the_moment(paused):
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t WHERE (id % 2 = 1)")
    paused.run("""CREATE TABLE c (id int PRIMARY KEY, a text, secret text); INSERT INTO t SELECT generate_series(1, 4); ALTER PUBLICATION audited SET TABLE t WHERE (id > 6), c (id, a);
        INSERT INTO t SELECT generate_series(5, 8); INSERT INTO c VALUES (1, 'a', 's'); ALTER PUBLICATION audited SET TABLE c; INSERT INTO c VALUES (2, 'b', 'not secret')""")
    capture(paused)
    assert logged(paused) == [1, 3, 7, 8]
    assert told(paused, "new_values, unknown_columns", "table_name = 'c'") == [
        ({"id": 1, "a": "a"}, ["secret"]), ({"id": 2, "a": "b", "secret": "not secret"}, [])]


def test_a_row_filter_that_fails_leaves_nothing_out(paused):
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t WHERE (12 / id > 3)")
    paused.run("INSERT INTO t VALUES (0), (1), (6)")
    capture(paused)
    assert logged(paused) == [0, 1]


def test_a_row_filter_for_which_a_value_is_too_long(paused):
    """Who may write a row cannot stop capture with it."""
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t WHERE (to_tsvector('simple'::regconfig, v) @@ 'x'::tsquery)")
    paused.run("INSERT INTO t SELECT 1, string_agg(md5(n::text), ' ') FROM generate_series(1, 60000) AS n")
    paused.run("INSERT INTO t VALUES (2, 'x'), (3, 'y')")
    capture(paused)
    assert logged(paused) == [1, 2]


def test_a_row_filter_of_a_root_sees_its_columns(paused):
    paused.run("""DROP PUBLICATION audited; CREATE TABLE p (a int, b int, v text, PRIMARY KEY (a, b)) PARTITION BY LIST (a);
        CREATE TABLE p1 (v text, gone int, b int NOT NULL, a int NOT NULL); ALTER TABLE p1 DROP gone; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
        CREATE PUBLICATION audited FOR TABLE p (b, a) WHERE (a = 1 AND b > 5) WITH (publish_via_partition_root)""")
    paused.run("INSERT INTO p VALUES (1, 5, 'x'), (1, 6, 'y'); DELETE FROM p")
    capture(paused)
    assert told(paused, "action, table_name, record_pks, coalesce(new_values, old_values), unknown_columns") == [
        ("insert", "p", ["1", "6"], {"a": 1, "b": 6}, ["v"]), ("delete", "p", ["1", "6"], {"a": 1, "b": 6}, ["v"])]


def test_generated_columns(paused):
    """Of 18 on a publication may send them; until then they are unknown, whatever is known of them now."""
    paused.run("CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    paused.run("INSERT INTO g VALUES (1); ALTER TABLE g ALTER twice DROP EXPRESSION; INSERT INTO g VALUES (2, 5); ALTER TABLE g DROP twice; INSERT INTO g VALUES (3)")
    capture(paused)
    first = ({"id": 1, "twice": 2}, []) if paused.connect().server_version >= 180000 else ({"id": 1}, ["twice"])
    assert told(paused, "new_values, unknown_columns") == [first, ({"id": 2, "twice": 5}, []), ({"id": 3}, [])]


def test_a_column_that_was_added_has_the_value_that_its_rows_have(paused):
    paused.run("INSERT INTO t VALUES (1, 'a'); ALTER TABLE t ADD n int NOT NULL DEFAULT 7; UPDATE t SET v = 'b'; ALTER TABLE t ALTER n SET DEFAULT 8; DELETE FROM t")
    capture(paused)
    assert told(paused, "action, old_values, new_values, unknown_old_columns") == [
        ("insert", None, {"id": 1, "v": "a"}, []), ("update", {"v": "a"}, {"id": 1, "n": 7, "v": "b"}, []), ("delete", {"id": 1, "n": 7, "v": "b"}, None, [])]


def test_kinds_of_types_that_are_gone(paused):
    paused.run("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN settings AS jsonb; CREATE TABLE k (id int PRIMARY KEY, m mood, s settings, a settings[])")
    paused.run("""INSERT INTO k VALUES (1, 'ok', '{"a": [1]}', ARRAY['[2]'::jsonb::settings]); ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'; INSERT INTO k VALUES (2, 'fine', NULL, NULL);
        DROP TABLE k; DROP TYPE mood; DROP DOMAIN settings""")
    capture(paused)
    assert told(paused, "new_values") == [({"id": 1, "m": "ok", "s": {"a": [1]}, "a": [[2]]},), ({"id": 2, "m": "fine", "s": None, "a": None},)]


def test_places_depend_on_the_wal_alone(paused):
    """Not on what is published: each change and each message takes one."""
    paused.run("CREATE TABLE u (id int PRIMARY KEY); DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")
    paused.run("""BEGIN; INSERT INTO u VALUES (1), (2); SELECT pg_logical_emit_message(true, 'x', 'y'); INSERT INTO t VALUES (1); SELECT pg_logical_emit_message(false, 'x', 'y');
        TRUNCATE u; INSERT INTO t VALUES (2); COMMIT""")
    capture(paused)
    assert told(paused, "commit_idx") == [(3,), (5,)]


def test_temporary_tables_of_others_do_not_describe_anything_anew(paused):
    paused.run("INSERT INTO t VALUES (0)")
    connection = paused.connect()
    for n in range(1, 20):
        run(connection, f"CREATE TEMP TABLE scratch{n} (id int PRIMARY KEY); INSERT INTO scratch{n} VALUES (1); INSERT INTO t VALUES ({n})")
    run(connection, "ALTER TABLE t ADD w int; INSERT INTO t VALUES (20)")
    assert sum(message[:1] == b"R" for message in sent(paused)) == 2
    capture(paused)
    assert logged(paused) == list(range(21))


# ---------------------------------------------------------------------------------------------------------------------- large


@pytest.mark.once
def test_a_huge_message_of_somebody_else_is_passed_over(paused):
    paused.run("INSERT INTO t VALUES (1)")
    paused.run("SELECT pg_logical_emit_message(true, 'x', repeat('a', 600000000))")
    paused.run("INSERT INTO t VALUES (2)")
    capture(paused)
    assert logged(paused) == [1, 2]


def test_annotations_that_are_too_large_to_carry(paused):
    paused.run("""BEGIN; SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', '{"username": "ada", "blob": "' || repeat('a', 70000000) || '"}'); INSERT INTO t VALUES (1); COMMIT""")
    capture(paused)
    [(annotations,)] = told(paused, "annotations")
    content = b'{"username": "ada", "blob": "' + b"a" * 70_000_000 + b'"}'
    assert annotations == {"unreadable": content[:2000].decode(), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.once
def test_of_many_large_messages_few_are_in_memory(paused):
    """Of everybody's annotations, or of rows; of several transactions, since PostgreSQL itself holds many changes of one."""
    writer, session = paused.connect(), paused.connect()
    for _ in range(40):
        run(writer, """SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', '{"a": "' || repeat('x', 5000000) || '"}')""")
    run(writer, "INSERT INTO t VALUES (1)")
    run(session, "CALL audit_capture()")
    peak = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{session.info.backend_pid}/status").read_text())
    assert logged(paused) == [1] and int(peak[1]) < 200_000


def said(content):
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.once
@pytest.mark.parametrize("value, content", [
    ("repeat(chr(1), 180000000)", lambda: b"\x01" * 180_000_000),  # as JSON six times as long
    ("repeat('a', 600000000)::bytea", lambda: b"a" * 600_000_000)])  # its text is more than PostgreSQL can write
def test_a_value_that_is_too_large_to_carry(paused, value, content):
    kind = "bytea" if "bytea" in value else "text"
    paused.run(f"CREATE TABLE big (id int PRIMARY KEY, v {kind}, w text); ALTER TABLE big REPLICA IDENTITY FULL; ALTER TABLE big ALTER v SET STORAGE EXTERNAL")
    paused.run(f"INSERT INTO big VALUES (1, {value}, 'a')")
    paused.run("DELETE FROM big; INSERT INTO t VALUES (1)")
    capture(paused)
    omitted = said(content())
    assert told(paused, "action, old_values, new_values, unknown_columns, unknown_old_columns, notes", "table_name = 'big'") == [
        ("insert", None, {"id": 1, "v": None, "w": "a"}, ["v"], [], {"omitted": {"v": omitted}}),
        ("delete", {"id": 1, "v": None, "w": "a"}, None, ["v"], ["v"], {"omitted_old": {"v": omitted}})]
    assert logged(paused) == [1] and paused.rows("SELECT * FROM audit_rejects") == []


@pytest.mark.once
def test_of_a_row_that_is_too_large_the_largest_values_are_left_out(paused):
    paused.run("CREATE TABLE big (id int PRIMARY KEY, v text, w text, x text); ALTER TABLE big REPLICA IDENTITY FULL")
    paused.run("INSERT INTO big VALUES (1, repeat(chr(1), 20000000), repeat(chr(1), 30000000), 'x'); UPDATE big SET w = 'small', x = 'y'")
    capture(paused)
    w = said(b"\x01" * 30_000_000)
    assert told(paused, "action, length(new_values ->> 'v'), new_values ->> 'w', new_values ->> 'x', old_values, unknown_columns, unknown_old_columns, notes") == [
        ("insert", 20_000_000, None, "x", None, ["w"], [], {"omitted": {"w": w}}),
        ("update", 20_000_000, "small", "y", {"w": None, "x": "x"}, [], ["w"], {"omitted_old": {"w": w}})]


# ----------------------------------------------------------------------------------------------------------------- row filters


def test_an_update_across_a_row_filter_is_an_update(paused):
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t WHERE (v = 'in')")
    paused.run("INSERT INTO t VALUES (1, 'in'), (2, 'out'); UPDATE t SET v = 'out' WHERE id = 1; UPDATE t SET v = 'in' WHERE id = 2; UPDATE t SET v = v; UPDATE t SET v = 'out too' WHERE v = 'out'")
    capture(paused)
    assert told(paused, "action, record_id, old_values, new_values, notes") == [
        ("insert", "1", None, {"id": 1, "v": "in"}, None),
        ("update", "1", {"v": "in"}, {"id": 1, "v": "out"}, {"row_filter": "left"}),
        ("update", "2", {"v": "out"}, {"id": 2, "v": "in"}, {"row_filter": "entered"}),
        ("update", "2", {}, {"id": 2, "v": "in"}, None)]
    assert told(paused, "commit_idx, (SELECT notes FROM audit_new_logs) IS NULL")[0] == (0, True)


def test_what_has_left_the_filter_is_not_known_any_more(paused):
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t WHERE (v = 'in')")
    paused.run("INSERT INTO t VALUES (1, 'in'), (2, 'in'); UPDATE t SET v = 'out' WHERE id = 1")
    capture(paused)
    assert paused.rows("SELECT as_of.id FROM audit_as_of(NULL::t) AS as_of") == [(2,)]
    assert paused.rows("SELECT record_id, reason FROM audit_as_of_unknown(NULL::t)") == [("1", "it left the rows that are published")]
    paused.run("UPDATE t SET v = 'in' WHERE id = 1")
    capture(paused)
    assert paused.rows("SELECT as_of.id FROM audit_as_of(NULL::t) AS as_of ORDER BY 1") == [(1,), (2,)]


# --------------------------------------------------------------------------------------------------------------------- starting


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_start_while_others_change_tables(source, elsewhere):
    """It waits for the oldest transaction. One that changes tables meanwhile makes PostgreSQL open subtransactions in its midst."""
    table(source)
    publish(source)
    oldest, other = source.connect(), psycopg2.connect(dbname="postgres" if elsewhere else source.name)
    other.autocommit = True
    run(oldest, "BEGIN")
    run(oldest, "SELECT pg_current_xact_id()")
    starting = source.connect()
    works = threading.Thread(daemon=True, target=lambda: run(starting, "SELECT audit_capture_start('audited')"))
    works.start()
    until(lambda: source.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", starting.info.backend_pid))
    run(other, "BEGIN")
    run(other, "SELECT pg_current_xact_id()")
    run(oldest, "COMMIT")
    run(other, "CREATE TABLE scratch (id int)")
    run(other, "DROP TABLE scratch")
    run(other, "COMMIT")
    works.join(60)
    source.run("INSERT INTO t VALUES (1, 'a')")
    until(lambda: logged(source) == [1])


def test_a_start_that_waits_is_cancelled(source):
    table(source)
    publish(source)
    oldest = source.connect()
    run(oldest, "BEGIN")
    run(oldest, "SELECT pg_current_xact_id()")
    caught = "DO $$ BEGIN PERFORM audit_capture_start('audited'); EXCEPTION WHEN query_canceled THEN NULL; END $$"
    connection = source.connect(options="-c statement_timeout=500ms")
    assert code(connection, "SELECT audit_capture_start('audited')") == "57014"
    run(connection, caught)
    assert slot(source) == []
    run(oldest, "COMMIT")
    start(source)


def test_what_is_to_be_set_is_said_at_once(source):
    if source.value("SELECT current_setting('output_plugin_libraries', true)") is None:
        pytest.skip("this release has no output_plugin_libraries")
    publish(source)
    admin("ALTER SYSTEM SET output_plugin_libraries = 'pgoutput'")
    admin("SELECT pg_reload_conf()")
    until(lambda: source.value("SHOW output_plugin_libraries") == "pgoutput")
    with pytest.raises(Exception) as error:
        source.run("SELECT audit_capture_start('audited')")
    diagnostics = error.value.diag
    assert (error.value.pgcode, diagnostics.message_detail) == ("55000", "output_plugin_libraries does not name audit_cdc.")
    assert diagnostics.message_hint == "ALTER SYSTEM SET output_plugin_libraries = pgoutput, audit_cdc. Then SELECT pg_reload_conf()."
    assert slot(source) == []
    for name, is_enough in (("wal2json", False), ("audit_cdc", True)):
        admin(f"ALTER SYSTEM SET output_plugin_libraries = pgoutput, {name}")
        admin("SELECT pg_reload_conf()")
        until(lambda: source.value("SHOW output_plugin_libraries") == f"pgoutput, {name}")
        assert is_enough == (code(source.connect(), "SELECT audit_capture_start('audited')") is None)


def test_a_slot_of_another_plugin_is_refused(paused):
    paused.run("SELECT pg_create_logical_replication_slot('theirs_' || current_database(), 'pgoutput')")
    try:
        with pytest.raises(Exception) as error:
            paused.rows("SELECT audit_pending_changes(('theirs_' || current_database())::name, 'audited')")
        assert error.value.pgcode == "55000" and error.value.diag.message_detail == 'Its output plugin is "pgoutput".'
    finally:
        paused.run("SELECT pg_drop_replication_slot('theirs_' || current_database())")
