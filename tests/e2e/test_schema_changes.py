"""DDL on captured tables is in the log, and what a command keeps from it is a gap."""

import subprocess

import pytest
from capture_helpers import capture, paused, publish, setting, source, start, stop, table, worker  # noqa: F401
from conftest import Database, admin, until
from projection_helpers import code, roles, run  # noqa: F401

NEW = "SELECT coalesce(max(id), 0) FROM audit_schema_changes"


def entries(db, since, columns="command_tag, table_name"):
    return db.rows(f"SELECT {columns} FROM audit_schema_changes WHERE id > %s ORDER BY id", since)


def noted(db, sql, columns="command_tag, table_name"):
    """Entries that a command makes."""
    since = db.value(NEW)
    db.run(sql)
    return entries(db, since, columns)


def gaps(db, columns="table_name, reason, to_lsn IS NOT NULL"):
    """What DDL ends has ended when capture has found its commit."""
    capture(db)
    return db.rows(f"SELECT {columns} FROM audit_gaps ORDER BY gap_id")


def names(columns):
    return [column["name"] for column in columns]


@pytest.mark.parametrize("sql, before, after", [
    ("ALTER TABLE t ADD COLUMN c numeric(5,2)", {"c": None}, {"c": "numeric(5,2)"}),
    ("ALTER TABLE t DROP COLUMN v", {"v": "text"}, {"v": None}),
    ("ALTER TABLE t RENAME v TO w", {"v": "text", "w": None}, {"v": None, "w": "text"}),
    ("ALTER TABLE t ALTER v TYPE int USING 1", {"v": "text"}, {"v": "integer"})])
def test_columns_and_types_before_and_after(paused, sql, before, after):
    [(tag, statement, was, now)] = noted(paused, sql, "command_tag, statement, columns_before, columns_after")
    assert (tag, statement) == ("ALTER TABLE", sql)
    for columns, expected in ((was, before), (now, after)):
        types = {column["name"]: column["type"] for column in columns}
        assert {name: types.get(name) for name in expected} == expected


@pytest.mark.parametrize("sql, path, before, after", [
    ("ALTER TABLE t RENAME TO u", "name", "t", "u"),
    ("ALTER INDEX t RENAME TO u", "name", "t", "u"),  # PostgreSQL renames tables so, too
    ("ALTER TABLE t SET SCHEMA elsewhere", "schema", "public", "elsewhere"),
    ("ALTER TABLE t REPLICA IDENTITY DEFAULT", "replica_identity", "full", "default"),
    ("ALTER TABLE t SET UNLOGGED", "persistence", "permanent", "unlogged"),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey", "key", ["id"], None)])
def test_what_else_a_table_has(paused, sql, path, before, after):
    paused.run("CREATE SCHEMA elsewhere")
    assert noted(paused, sql, f"command_tag, before -> '{path}', after -> '{path}'") == [(sql[:11], before, after)]


def test_tables_that_come_and_go(paused):
    since = paused.value(NEW)
    for sql in ("CREATE TABLE u (id int)", "CREATE TABLE v AS SELECT 1 AS id", "SELECT 1 AS id INTO w", "CREATE SCHEMA s CREATE TABLE x (id int)",
                "DROP TABLE u, v", "DROP SCHEMA s CASCADE", "CREATE TEMP TABLE y (id int)", "CREATE VIEW z AS SELECT 1", "CREATE UNLOGGED TABLE n (id int)"):
        paused.run(sql)
    assert entries(paused, since, "command_tag, table_name, before IS NULL, after IS NULL") == [
        ("CREATE TABLE", "u", True, False), ("CREATE TABLE AS", "v", True, False), ("SELECT INTO", "w", True, False), ("CREATE SCHEMA", "x", True, False),
        ("DROP TABLE", "u", False, True), ("DROP TABLE", "v", False, True), ("DROP SCHEMA", "x", False, True)]
    assert gaps(paused) == []


def test_what_reaches_a_table_from_elsewhere(paused):
    paused.run("CREATE TYPE mood AS (a int); CREATE TYPE level AS ENUM ('low'); CREATE SCHEMA s; CREATE TABLE s.u (id int, m mood, l level)")
    paused.run("ALTER TABLE s.u ALTER id SET NOT NULL; CREATE UNIQUE INDEX i ON s.u (id); ALTER TABLE s.u REPLICA IDENTITY USING INDEX i")
    assert noted(paused, "ALTER TYPE mood RENAME TO temper", "columns_before -> 1 ->> 'type', columns_after -> 1 ->> 'type'") == [("public.mood", "public.temper")]
    assert noted(paused, "DROP TYPE level CASCADE", "command_tag, jsonb_array_length(columns_after)") == [("DROP TYPE", 2)]
    assert noted(paused, "DROP INDEX s.i", "before -> 'identity_index', after -> 'identity_index'") == [(["id"], None)]
    assert noted(paused, "ALTER SCHEMA s RENAME TO r", "command_tag, before ->> 'schema', after ->> 'schema'") == [("ALTER SCHEMA", "s", "r")]


def test_what_is_not_captured_makes_no_entry(source):
    source.run("CREATE TABLE t (id int); ALTER TABLE t ADD c int; DROP TABLE t")
    table(source)
    publish(source, "TABLE t")
    assert source.value(NEW) == 0
    start(source)
    assert entries(source, 0, "command_tag, coalesce(table_name, publication)") == [("audit_capture_start", "audited"), ("audit_capture_start", "t")]
    assert noted(source, "CREATE TABLE u (id int); ALTER TABLE u ADD c int; DROP TABLE u") == []
    assert noted(source, "CREATE PUBLICATION other FOR ALL TABLES; DROP PUBLICATION other") == []
    stop(source)
    assert noted(source, "ALTER TABLE t ADD c int") == []
    source.run("SELECT audit_capture_start('audited')")
    assert entries(source, 2, "command_tag, table_name, jsonb_array_length(columns_after)") == [("audit_capture_start", "t", 3)]


def test_a_command_does_not_look_at_all_tables(paused):
    paused.run("CREATE DOMAIN name_of_ours AS text")
    paused.run("DO $$ BEGIN FOR n IN 1..1000 LOOP EXECUTE format('CREATE TABLE many_%s (id int PRIMARY KEY, name name_of_ours)', n); END LOOP; END $$; ANALYZE pg_class, pg_index, pg_depend")
    session = paused.connect()
    looked = "SELECT pg_stat_get_xact_tuples_returned('pg_class_oid_index'::regclass)"
    counts = []
    with session.cursor() as cursor:
        cursor.execute("ALTER TABLE many_1 ADD COLUMN v int")
        for number in range(2, 8):
            cursor.execute("BEGIN")
            before = paused.value(looked, connection=session)
            cursor.execute(f"ALTER TABLE many_{number} ADD COLUMN v int")
            counts.append(paused.value(looked, connection=session) - before)
            cursor.execute("COMMIT")
    # commands of other databases at the same time may make the session fill its caches anew, at some but not at each
    assert min(counts) < 200, counts
    assert paused.value("SELECT count(*) FROM audit_schema_changes WHERE command_tag = 'ALTER TABLE'") == 7


def test_what_is_rolled_back_is_not_there(paused):
    assert noted(paused, "BEGIN; SAVEPOINT s; ALTER TABLE t ADD c int; ROLLBACK TO s; ALTER TABLE t ADD d int; COMMIT",
                 "columns_after -> 2 ->> 'name'") == [("d",)]
    assert noted(paused, "BEGIN; ALTER PUBLICATION audited RENAME TO other; ROLLBACK") == [] and gaps(paused) == []


def test_partitions(paused):
    assert noted(paused, "CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT", "table_name, after ->> 'kind', after ->> 'parent'") \
        == [("p", "partitioned table", None), ("p1", "table", "public.p")]
    assert noted(paused, "ALTER TABLE p ADD c int", "table_name, jsonb_array_length(columns_after)") == [("p", 2), ("p1", 2)]
    parent = "table_name, before ->> 'parent', after ->> 'parent'"
    assert noted(paused, "ALTER TABLE p DETACH PARTITION p1", parent) == [("p", None, None), ("p1", "public.p", None)]
    assert noted(paused, "ALTER TABLE p ATTACH PARTITION p1 DEFAULT", parent) == [("p", None, None), ("p1", None, "public.p")]
    assert gaps(paused) == []  # each is captured under its own name, all the time


def test_who_and_what(roles, paused):
    role, owner = roles(), roles()
    paused.run(f"ALTER TABLE t OWNER TO {owner}; GRANT {owner} TO {role}; GRANT CREATE ON SCHEMA public TO {owner}")
    connection = paused.connect(user=role, application_name="a tool")
    run(connection, f"SET ROLE {owner}; SET search_path = ''; SET client_encoding = 'LATIN1'")
    since = paused.value(NEW)
    run(connection, "DO $$ BEGIN ALTER TABLE public.t ADD c int; END $$")
    run(connection, f"ALTER TABLE public.t ADD d int /*{'x' * 20000}*/")
    (first, second) = entries(paused, since, "user_name, session_user_name, application_name, client_address, statement, statement_length")
    assert first == (owner, role, "a tool", None, "DO $$ BEGIN ALTER TABLE public.t ADD c int; END $$", 50)
    assert len(second[4]) == 10000 and second[5] == 20035
    paused.run("ALTER TABLE t OWNER TO postgres")
    paused.run(f"REVOKE CREATE ON SCHEMA public FROM {owner}")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_the_latest_state_counts(paused, isolation):
    """Also where the transaction's own statements do not see it."""
    connection = paused.connect()
    run(connection, f"BEGIN ISOLATION LEVEL {isolation}")
    run(connection, "SELECT count(*) FROM pg_class")
    paused.run("ALTER TABLE t ADD b int")
    since = paused.value(NEW)
    run(connection, "ALTER TABLE t ADD c int")
    run(connection, "COMMIT")
    [(before, after)] = entries(paused, since, "columns_before, columns_after")
    assert (names(before), names(after)) == (["id", "v", "b"], ["id", "v", "b", "c"])


# --- what is missing then


AWAY_AND_BACK = {
    "publication": ("ALTER PUBLICATION audited DROP TABLE t", "ALTER PUBLICATION audited ADD TABLE t", "not published"),
    "publication dropped": ("DROP PUBLICATION audited", "CREATE PUBLICATION audited FOR TABLE t, p", "not published"),
    "publication renamed": ("ALTER PUBLICATION audited RENAME TO other; CREATE PUBLICATION audited", "DROP PUBLICATION audited; ALTER PUBLICATION other RENAME TO audited",
                            "not published"),
    "actions": ("ALTER PUBLICATION audited SET (publish = 'insert')", "ALTER PUBLICATION audited SET (publish = 'insert, update, delete, truncate')", "partly published"),
    "row filter": ("ALTER PUBLICATION audited SET TABLE t WHERE (id > 5), p", "ALTER PUBLICATION audited SET TABLE t, p", "partly published"),
    "columns": ("ALTER PUBLICATION audited SET TABLE t (id), p", "ALTER PUBLICATION audited SET TABLE t, p", "partly published"),
}


@pytest.mark.parametrize("away, back, reason", AWAY_AND_BACK.values(), ids=AWAY_AND_BACK)
def test_out_of_the_publication_and_back(source, away, back, reason):
    table(source)
    source.run("CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT")
    publish(source, "TABLE t, p")
    start(source)
    source.run(away)
    assert ("t", reason, False) in gaps(source) and {row[1] for row in gaps(source)} == {reason}
    [(from_lsn, noticed)] = gaps(source, "from_lsn, pg_current_wal_insert_lsn()")[:1]
    source.run("INSERT INTO t VALUES (1)")
    source.run(back)
    assert all(ended for (_, _, ended) in gaps(source))
    rows = gaps(source, "table_name, from_lsn < to_lsn, is_open, from_lsn")
    assert all(row[1:3] == (True, True) for row in rows) and rows[0][3] == from_lsn
    assert len(rows) == len({row[0] for row in rows})


def test_a_table_moves_out_of_a_published_schema(source):
    source.run("CREATE SCHEMA s; CREATE SCHEMA away")
    table(source, "s.t")
    publish(source, "TABLES IN SCHEMA s")
    start(source)
    source.run("ALTER TABLE s.t SET SCHEMA away")
    assert gaps(source) == [("t", "not published", False)]
    source.run("ALTER TABLE away.t SET SCHEMA s")
    assert gaps(source) == [("t", "not published", True)]
    source.run("CREATE TABLE away.u (id int); ALTER TABLE away.u SET SCHEMA s")  # was never captured
    assert len(gaps(source)) == 1


def test_unlogged_and_back(paused):
    paused.run("ALTER TABLE t SET UNLOGGED; INSERT INTO t VALUES (1)")
    assert gaps(paused) == [("t", "unlogged", False)]
    paused.run("ALTER TABLE t SET LOGGED")
    assert gaps(paused) == [("t", "unlogged", True)]


@pytest.mark.parametrize("sql, is_gap", [
    ("ALTER TABLE t ALTER v TYPE int USING 1", True), ("ALTER TABLE t ADD c float DEFAULT random()", True),
    ("ALTER TABLE t ADD c int DEFAULT 1", False), ("ALTER TABLE t ALTER v TYPE varchar", False),
    ("CLUSTER t USING t_pkey", False), ("VACUUM FULL t", False)])
def test_values_that_a_rewrite_changes(paused, sql, is_gap):
    paused.run("ALTER TABLE t ALTER v TYPE int USING 1")  # of no rows
    assert gaps(paused) == []
    paused.run("ALTER TABLE t ALTER v TYPE text USING 1; INSERT INTO t VALUES (1, 'a')")
    paused.run(sql)
    assert gaps(paused) == ([("t", "rewritten", True)] if is_gap else [])


REWRITTEN = "SELECT count(*), count(*) FILTER (WHERE is_open) FROM audit_gaps WHERE table_name = 't' AND reason = 'rewritten'"


def test_an_old_transaction_does_not_hide_a_rewrite_behind_anothers(paused):
    paused.run("INSERT INTO t VALUES (1, '7')")
    old = paused.connect()
    old.cursor().execute("BEGIN; SELECT now()")
    paused.run("ALTER TABLE t ALTER v TYPE int USING v::int")
    paused.run("CALL audit_backfill('t')")
    assert paused.rows(REWRITTEN) == [(1, 0)]
    old.cursor().execute("ALTER TABLE t ALTER v TYPE text USING 'forged'; COMMIT")
    assert paused.rows(REWRITTEN) == [(2, 1)]


def test_an_old_snapshot_does_not_hide_a_rewrite(paused):
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited; INSERT INTO t VALUES (1, '7')")
    old = paused.connect()
    old.cursor().execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    paused.run("CREATE TABLE w (id int PRIMARY KEY, v text); ALTER TABLE w REPLICA IDENTITY FULL; INSERT INTO w VALUES (1, '7')")
    paused.run("ALTER PUBLICATION audited ADD TABLE w")
    paused.run("CALL audit_backfill('w')")
    old.cursor().execute("ALTER TABLE w ALTER v TYPE int USING 8; COMMIT")
    assert gaps(paused, "table_name, reason, is_open")[-1] == ("w", "rewritten", True)


def test_a_table_that_is_altered_as_a_view(paused):
    [(tag, now)] = noted(paused, "ALTER VIEW t RENAME COLUMN v TO w", "command_tag, columns_after")
    assert tag == "ALTER VIEW" and names(now) == ["id", "w"]


def test_a_partition_leaves_and_comes_back(source):
    source.run("CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    publish(source, "TABLE p")
    start(source)
    source.run("INSERT INTO p VALUES (1); ALTER TABLE p DETACH PARTITION p1")
    assert gaps(source) == [("p1", "not published", False)]
    source.run("UPDATE p1 SET v = 'b'; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)")
    assert gaps(source) == [("p1", "not published", True)]


def test_a_partition_of_a_table_that_is_published_as_one(source):
    source.run("CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    source.run("CREATE PUBLICATION audited FOR TABLE p WITH (publish_via_partition_root)")
    start(source)
    source.run("INSERT INTO p VALUES (1); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)")
    assert gaps(source) == []
    source.run("ALTER TABLE p DETACH PARTITION p1")
    source.run("ALTER TABLE p ATTACH PARTITION p1 FOR VALUES FROM (0) TO (10)")
    source.run("DROP TABLE p1")
    assert gaps(source, "table_name, reason, detail, to_lsn IS NOT NULL") == [
        ("p", "partition detached", "p1", True), ("p", "partition attached", "p1", True), ("p", "partition detached", "p1", True)]


def test_what_is_excluded_is_no_gap_until_it_is_included(paused):
    paused.run("SELECT audit_exclude_table('t', 'a test')")
    paused.run("ALTER TABLE t SET UNLOGGED; ALTER TABLE t SET LOGGED; INSERT INTO t VALUES (1); ALTER TABLE t ALTER v TYPE int USING 1")
    assert gaps(paused) == []
    paused.run("SELECT audit_include_table('t', 'a test')")
    assert gaps(paused, "table_name, reason, from_lsn < to_lsn, is_open") == [("t", "excluded", True, True)]


# --- its place among the changes


def test_its_place_in_the_transaction(source):
    table(source)
    publish(source, "TABLE t")  # not the log's own tables
    start(source)
    setting(enabled="off")
    until(lambda: worker(source, "state = 'idle'"))
    since = source.value(NEW)
    source.run("BEGIN; INSERT INTO t VALUES (1); ALTER TABLE t ADD c int; INSERT INTO t VALUES (2); ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (3); COMMIT")
    source.run("BEGIN; ALTER TABLE u ADD d int; ROLLBACK")
    places = "commit_lsn, commit_idx, commit_timestamp"
    assert entries(source, since, places) == [(None, None, None)] * 2
    assert (capture(source), capture(source)) == (3, 0)
    order = source.rows(f"""
        SELECT name FROM (SELECT table_name || (new_values ->> 'id') AS name, {places} FROM audit_logs
                          UNION ALL SELECT command_tag, {places} FROM audit_schema_changes WHERE id > %s) AS a
        ORDER BY commit_lsn, commit_idx""", since)
    assert [name for (name,) in order] == ["t1", "ALTER TABLE", "t2", "ALTER TABLE", "u3"]
    assert source.value(f"SELECT count(DISTINCT (commit_lsn, commit_timestamp)) FROM (SELECT {places} FROM audit_logs UNION ALL "
                        f"SELECT {places} FROM audit_schema_changes WHERE id > %s) AS a", since) == 1


def test_who_and_why(paused):
    since = paused.value(NEW)
    paused.run("BEGIN; SELECT audit_annotate('ada', 'cli', 'r1', '{\"why\": \"a test\"}'); ALTER TABLE t ADD c int; SELECT audit_annotate_clear(); ALTER TABLE t ADD d int; COMMIT")
    paused.run("BEGIN; SELECT audit_annotate('ada', extra => jsonb_build_object('long', repeat('x', 100000))); ALTER TABLE t ADD e int; ALTER TABLE t ADD f int; COMMIT")
    paused.run("BEGIN; SELECT pg_logical_emit_message(true, 'sequin:transaction_annotations.set', '{\"x\": \"\\u0000\"}'); DROP TABLE t; COMMIT")
    capture(paused)
    one, none, large, again, bad = entries(paused, since, "username, source, request_id, metadata, annotations")
    assert one == ("ada", "cli", "r1", {"why": "a test"}, {"username": "ada", "source": "cli", "request_id": "r1", "metadata": {"why": "a test"}})
    assert none == (None, None, None, None, None)
    assert large == again and large[0] == "ada" and len(large[4]["long"]) == 100000
    assert list(bad[4]) == ["unreadable"]
    assert paused.value("SELECT count(*) FROM audit_cdc_internal.large_annotations") == 1


def as_of(db, **moment):
    named = "".join(f", {name} => %s" for name in moment)
    return sorted(row["id"] for (row,) in db.rows(f"SELECT audit_as_of('t'{named})", *moment.values()))


@pytest.mark.parametrize("drop", ["DROP TABLE t", "DROP SCHEMA s CASCADE", "BEGIN; INSERT INTO t VALUES (3); DROP TABLE t; COMMIT"])
def test_a_dropped_table_ends_its_records(paused, drop):
    if "SCHEMA" in drop:
        paused.run("DROP TABLE t; CREATE SCHEMA s")
        table(paused, "s.t")
    schema = "s" if "SCHEMA" in drop else "public"
    paused.run(f"INSERT INTO {schema}.t VALUES (1), (2)")
    capture(paused)
    assert as_of(paused) == [1, 2]
    [(before, lsn)] = paused.rows("SELECT clock_timestamp(), pg_current_wal_insert_lsn()")
    paused.run(drop)
    [(after,)] = paused.rows("SELECT clock_timestamp()")
    capture(paused)
    assert (as_of(paused, at=before), as_of(paused, lsn=lsn), as_of(paused), as_of(paused, at=after)) == ([1, 2], [1, 2], [], [])
    # what is made anew under its name is another table
    paused.run(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    table(paused, f"{schema}.t")
    paused.run(f"INSERT INTO {schema}.t VALUES (2, 'anew')")
    capture(paused)
    assert (as_of(paused, at=before), as_of(paused, at=after), as_of(paused)) == ([1, 2], [], [2])
    lines = paused.rows("SELECT action, id IS NULL, old_row ->> 'id' FROM audit_history('t', '2')")
    assert lines == [("insert", False, None), ("drop", True, "2"), ("insert", False, None)]
    assert paused.rows("SELECT * FROM audit_as_of_unknown('t')") == []


def test_a_table_that_gets_another_name(paused):
    paused.run("INSERT INTO t VALUES (1), (2)")
    [(before,)] = paused.rows("SELECT clock_timestamp()")
    paused.run("ALTER TABLE t RENAME TO u; UPDATE u SET v = 'b' WHERE id = 1; CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (3)")
    capture(paused)
    assert (as_of(paused, at=before), as_of(paused)) == ([1, 2], [3])
    assert paused.rows("SELECT action, table_name FROM audit_history('t', '2')") == [("insert", "t"), ("rename", "t")]
    assert gaps(paused, "table_name, reason, detail, to_lsn > from_lsn, is_open") == [("u", "renamed", "public.t", True, True)]
    paused.run("CALL audit_backfill('u')")
    capture(paused)
    assert sorted(row["id"] for (row,) in paused.rows("SELECT audit_as_of('u')")) == [1, 2]
    assert gaps(paused, "is_open") == [(False,)]


# --- nobody forges or stops it


def test_nobody_makes_an_entry(roles, paused):
    connection = paused.connect(user=roles("pg_write_all_data"))
    assert code(connection, "SELECT audit_cdc_internal.note_schema_change()") in ("0A000", "42501")
    assert code(paused.connect(), "SELECT audit_cdc_internal.note_schema_change()") in ("0A000", "39P03")
    assert code(connection, "SELECT audit_cdc_internal.record_schema_changes('x', 'x', '[]', '{}')") == "42501"
    for table_name in ("schema_changes", "schema_change_positions"):
        assert code(connection, f"INSERT INTO audit_cdc_internal.{table_name} DEFAULT VALUES") == "42501"
        assert code(paused.connect(), f"DELETE FROM audit_cdc_internal.{table_name}") == "55000"


def test_the_owner_of_the_database_cannot_stop_it(roles, paused):
    owner = roles()
    paused.run(f"ALTER DATABASE {paused.name} OWNER TO {owner}; GRANT ALL ON SCHEMA public TO {owner}")
    connection = paused.connect(user=owner)
    for trigger in ("audit_cdc_schema_changes", "audit_cdc_drops", "audit_cdc_rewrites"):
        assert code(connection, f"DROP EVENT TRIGGER {trigger}") == "42501"
        assert code(connection, f"ALTER EVENT TRIGGER {trigger} DISABLE") == "42501"
        assert code(paused.connect(), f"DROP EVENT TRIGGER {trigger}") == "2BP01"
    assert code(connection, "SET session_replication_role = replica") == "42501"
    paused.run("ALTER TABLE t ALTER v SET DEFAULT 'x'")
    assert noted(paused, "SET session_replication_role = replica; ALTER TABLE t ADD c int") == [("ALTER TABLE", "t")]
    run(connection, "CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 1/0 $$; SET search_path = public, pg_catalog")
    run(connection, "CREATE TABLE mine (id int); ALTER TABLE mine ADD c int; DROP TABLE mine")
    paused.run(f"ALTER DATABASE {paused.name} OWNER TO postgres; REASSIGN OWNED BY {owner} TO postgres; REVOKE ALL ON SCHEMA public FROM {owner}")


def test_entries_are_dumped_and_restored(paused, tmp_path):
    paused.run("ALTER TABLE t ADD c int; DROP TABLE t")
    every = "SELECT id, database_id, command_tag, table_name, before, after FROM audit_schema_changes ORDER BY id"
    dump, restored = str(tmp_path / "dump"), Database(paused.name + "_restored")
    subprocess.run(["pg_dump", "-Fc", "-f", dump, paused.name], check=True)
    admin(f"CREATE DATABASE {restored.name} TEMPLATE template0")
    try:
        subprocess.run(["pg_restore", "--exit-on-error", "-d", restored.name, dump], check=True)
        assert restored.rows(every) == paused.rows(every) and len(restored.rows(every)) == 4
    finally:
        admin(f"DROP DATABASE {restored.name} WITH (FORCE)")


def test_a_dump_is_restored_into_a_captured_database(paused, tmp_path):
    dump, other = str(tmp_path / "dump"), Database(paused.name + "_other")
    admin(f"CREATE DATABASE {other.name} TEMPLATE template0")
    try:
        other.run("CREATE TABLE u (id int PRIMARY KEY, v text); INSERT INTO u VALUES (1); CREATE PUBLICATION others FOR TABLE u")
        subprocess.run(["pg_dump", "-Fc", "-f", dump, other.name], check=True)
        since = paused.value(NEW)
        subprocess.run(["pg_restore", "--exit-on-error", "-d", paused.name, dump], check=True)
        assert ("CREATE TABLE", "u") in entries(paused, since)
    finally:
        admin(f"DROP DATABASE {other.name} WITH (FORCE)")
