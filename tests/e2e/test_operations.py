"""audit_operations: what is done to the log is on record, with who did it, in the same transaction."""

import psycopg2
import pytest
from capture_helpers import source, table  # noqa: F401
from conftest import batch, change
from test_capture import begin

RULE = "SELECT id, username FROM audit_new_logs"
ID = "00000000-0000-4000-8000-000000000022"


def operations(db, columns="operation, arguments, counts, reason"):
    return db.rows(f"SELECT {columns} FROM audit_operations ORDER BY id")


def named(db):
    return [name for (name,) in operations(db, "operation")]


CALLS = {
    "audit_describe_tables": ["""SELECT audit_describe_tables('elsewhere', '{"described_at": "2026-01-01", "tables": []}')"""],
    "audit_allow_source": ["SELECT audit_allow_source('postgres', 'elsewhere')"],
    "audit_revoke_source": ["SELECT audit_revoke_source('postgres', 'elsewhere')"],
    "audit_exclude_table": ["SELECT audit_exclude_table('u', 'too large')"],
    "audit_include_table": ["SELECT audit_include_table('u', 'small now')"],
    "audit_require_annotation": ["SELECT audit_require_annotation('u', '{request_id}')"],
    "audit_create_projection": ["CREATE TABLE p (id bigint, username text)", f"SELECT audit_create_projection('p', '{RULE}', fill => false)"],
    "audit_alter_projection": [f"SELECT audit_alter_projection('p', '{RULE} WHERE true')"],
    "audit_rebuild_projection": ["SELECT audit_rebuild_projection('p')"],
    "audit_retry_projection": ["SELECT audit_retry_projection('p')"],
    "audit_disable_projection": ["SELECT audit_disable_projection('p')"],
    "audit_enable_projection": ["SELECT audit_enable_projection('p')"],
    "audit_drop_projection": ["SELECT audit_drop_projection('p')"],
    "audit_allow_removal": ["SELECT audit_allow_removal()"],
    "audit_rotate_secret": ["SELECT audit_rotate_secret()"],
    "audit_retry_rejects": ["SELECT audit_ingest('no json')", "SELECT audit_retry_rejects()"],
    "audit_erase": [f"SELECT audit_ingest('{batch([change()])}')", "SELECT audit_erase('asked for', 'orders', '1')"],
    "audit_set_retention": ["SELECT audit_set_retention('1 year')"],
    "audit_hold": ["SELECT audit_hold('h', 'lawsuit', table_name => 'u')"],
    "audit_release": ["SELECT audit_release('h', 'settled')"],
    "audit_apply_retention": [f"SELECT audit_ingest('{batch([change(time='2020-01-01T00:00:00Z')])}')", "CALL audit_apply_retention()"],
    "audit_archived": [f"SELECT audit_archived('2026-01-01', '/a', 1, '{'0' * 64}', 1, 0, 0)"],
    "audit_archive_failed": ["SELECT audit_archive_failed('2026-01-01', '/a', 'burnt')"],
    "audit_mask": ["SELECT audit_mask('public', 'u', '{v}')"],
    "audit_unmask": ["SELECT audit_unmask('public', 'u')"],
    "audit_link": ["CREATE EXTENSION postgres_fdw; CREATE SERVER eu FOREIGN DATA WRAPPER postgres_fdw", "SELECT audit_link('eu')"],
    "audit_unlink": ["SELECT audit_unlink('eu')"],
    "audit_drop_retention": ["SELECT audit_drop_retention()"],
    "audit_backfill": [f"CALL audit_backfill('t', backfill_id => '{ID}')"],
    "audit_capture_stop": ["CALL audit_capture_stop()"],
}


def test_each_operation_leaves_a_line(source):
    table(source)
    table(source, "u")
    begin(source, "TABLE t")
    assert named(source) == ["audit_capture_start"]
    for operation, statements in CALLS.items():
        before = len(named(source))
        for statement in statements:
            source.run(statement)
        added = named(source)[before:]
        assert added and set(added) == {operation}, (operation, added)


def test_no_function_of_admins_is_missing(source):
    """What an admin may call and is no reading: each is called above, or in tests of its own."""
    writing = {name for (name,) in source.rows("""
        SELECT DISTINCT p.proname FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'audit_cdc'
        WHERE p.proname LIKE 'audit%' AND p.provolatile = 'v' AND NOT has_function_privilege('audit_cdc_ingest', p.oid, 'EXECUTE')""")}
    not_of_the_log = {"audit_undo", "audit_redo", "audit_undo_sql", "audit_redo_sql", "audit_replay_sql"}  # they change users' tables, which is in the log
    reading = {"audit_capture_status", "audit_pending_changes", "audit_capture"}
    through_another = {"audit_create_activity", "audit_create_history_projection"}  # audit_create_projection has the line
    on_record_elsewhere = {"audit_mark"}  # audit_marks
    of_their_own = {"audit_capture_start", "audit_continue", "audit_move_month", "audit_return_month", "audit_take_over_months"}
    assert writing - not_of_the_log - reading - through_another - on_record_elsewhere == {*CALLS, *of_their_own}


def test_it_says_what_was_given_and_how_much_was_done(source):
    table(source)
    source.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    begin(source, "TABLE t")
    source.run("SELECT audit_exclude_table('t', 'too large'); SELECT audit_include_table('t', 'small now')")
    source.run(f"CALL audit_backfill('t', backfill_id => '{ID}')")
    assert operations(source)[1:] == [
        ("audit_exclude_table", {"relation": "public.t"}, None, "too large"),
        ("audit_include_table", {"relation": "public.t"}, None, "small now"),
        ("audit_backfill", {"backfill_id": ID, "tables": ["public.t"]}, None, None),
        ("audit_backfill", {"backfill_id": ID, "relation": "public.t"}, {"rows_read": 2, "gaps_closed": 1}, None)]


def test_it_says_who(db):
    """Also what a function that runs as its owner does; and no setting hides it."""
    connection = db.connect()
    connection.cursor().execute("SET application_name = 'night shift'; SET audit_cdc.server_context = off; SET audit_cdc.server_context_fields = ''; SET ROLE audit_cdc_admin")
    connection.cursor().execute("SELECT audit_allow_source('audit_cdc_ingest', 'elsewhere')")
    (who,) = operations(db, "server_context")[-1]
    assert who["application_name"] == "night shift" and "backend_start" in who
    assert (who["session_user"], who["current_user"]) == db.rows("SELECT session_user::text, current_user::text", connection=connection)[0]
    assert who["current_user"] == "audit_cdc_admin" != who["session_user"]


def test_what_is_rolled_back_left_nothing_to_tell(db):
    connection = db.connect()
    connection.autocommit = False
    connection.cursor().execute("SELECT audit_allow_source('postgres', 'elsewhere')")
    connection.rollback()
    assert operations(db) == [] == db.rows("SELECT FROM audit_allowed_sources")


@pytest.mark.parametrize("statement", ["UPDATE audit_cdc_internal.operations SET reason = 'x'", "DELETE FROM audit_cdc_internal.operations",
                                       "TRUNCATE audit_cdc_internal.operations"])
def test_nobody_changes_it(db, statement):
    db.run("SELECT audit_allow_source('postgres', 'elsewhere')")
    before = operations(db, "*")
    with pytest.raises(psycopg2.Error) as refused:
        db.run(f"SET session_replication_role = replica; {statement}")
    assert refused.value.pgcode == "55000"
    assert operations(db, "*") == before
