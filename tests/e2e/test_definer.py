"""By the catalogs: code that runs with more rights than its caller depends on no name that somebody else can make."""

import re

MEMBERS = """
SELECT n.nspname, p.proname, p.prosecdef, coalesce(p.proconfig, '{}') AS settings, l.lanname, p.prosqlbody IS NOT NULL AS is_bound, p.prosrc,
       p.oid::regprocedure::text AS signature, p.prorettype::regtype::text AS result
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace JOIN pg_language AS l ON l.oid = p.prolang
JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'audit_cdc'"""

# Of audit_cdc_internal, what a role may call, and why that is harmless by itself.
GRANTED = {
    "lifted": "a pure function of its arguments",
    "diff": "a pure function of its arguments",
    "typed_value": "audit_cast",
    "typed_row": "audit_row",
    "keep_private": "runs with the caller's rights: revokes what the caller could revoke",
    "new_log": "empty outside of a rule; in a rule the entries that its owner may read",
    "filling": "numbers of what is being filled, shown by audit_projection_progress",
    "activity_rule": "a pure function of its arguments",
    "plain": "a pure function of its arguments",
    "plain_diff": "a pure function of its arguments",
    "told": "a pure function of its arguments",
    "exact_texts": "a pure function of its arguments",
    "told_as_of": "what audit_as_of() gives",
    "activity_told": "a pure function of its arguments",
    "diffs_together": "a pure function of its arguments",
    "history_rule": "a pure function of its arguments",
    "refuse_foreign_types": "runs with the caller's rights, on the catalogs",
    "create_history_table": "runs with the caller's rights: what audit_create_history_projection() does",
    "table_named": "names and keys of audited tables, which the reader reads in audit_logs",
    "may_be_anothers": "whether a table was dropped or renamed, which audit_schema_changes shows",
    "readable_as": "runs with the caller's rights, on the catalogs",
    "relation_of": "runs with the caller's rights, on the catalogs",
    "columns_of": "runs with the caller's rights, on the catalogs",
    "rows_as_of": "what audit_as_of() gives",
    "unknown_as_of": "what audit_as_of_unknown() gives",
    "history": "what audit_history() gives",
    "or_here": "the id of this database, as in audit_logs",
    "one_log": "ids that audit_continuations shows",
    "meant": "what audit_undo_sql() gives",
    "planned": "a pure function of its arguments, and of how types are written",
    "step_lines": "a pure function of its arguments",
    "run_step": "runs with the caller's rights",
    "run_alone": "runs with the caller's rights",
    "check_constraints": "runs with the caller's rights: checks what is deferred",
    "changes_that_differ": "runs with the caller's rights",
    "run_steps": "runs with the caller's rights",
    "run_planned": "runs with the caller's rights",
    "say_taken_back": "tells what it is given",
    "is_run_as_owner": "whether the caller has the rights of a table's owner",
    "parts_of_type": "reads the catalogs",
    "runs_strangers_code": "reads the catalogs; of a table that the caller may write, it keeps others from changing it",
    "is_referred_since": "reads the catalogs; of a table that the caller may write, it keeps others from changing it",
    "run_statement": "runs with the caller's rights, or those of a role whose rights the caller has",
    "masked_columns": "a pure function of its argument",
    "columns_not_sent": "a pure function of its arguments",
    "old_columns_not_sent": "a pure function of its arguments",
    "node_to_read": "what it is given, if the caller can read that node",
    "try_node": "runs with the caller's rights: what audit_link_status() does",
    "connects": "runs with the caller's rights: what audit_link_status() tells",
    "lock_capture": "a lock that audit_capture() takes; an admin's",
    "capture_pass": "what audit_capture() does, without advancing the slot",
    "capture_pending": "what audit_capture() does",
    "advance_capture": "lets go of what this session's last committed pass has read, and of nothing else",
    "note_fault": "a gap, if the slot of the capture is not there or not to be read",
    "begin_to_stop": "what audit_capture_stop() begins with",
    "end_capture": "what audit_capture_stop(discard_pending => true) does; what is not read then is said to be discarded",
    "capture_worker": "a process number that audit_capture_status() shows",
    "check_backfill": "a pure function of its arguments",
    "begin_backfill": "what audit_backfill() does",
    "backfill_stage": "what audit_backfill() does next",
    "begin_table": "what audit_backfill() does, after it has waited for who has written to the table",
    "backfill_batch": "what audit_backfill() does",
    "complete_backfill": "what audit_backfill() does, once all is read and captured",
    "backfilled": "a number that audit_backfills shows",
    "check_apply": "a pure function of its arguments",
    "set_horizons": "what audit_apply_retention() begins with: by the rules, and only of tables with something to remove",
    "partitions_to_clear": "months and days that audit_removed and the log show",
    "clear_partition": "what audit_apply_retention() does: removes what is beyond the horizon, and not held",
    "clear_rejects": "what audit_apply_retention() does",
    "clear_unnamed": "what audit_apply_retention() does",
    "say_busy": "raises what it is given",
    "say_elsewhere": "which months audit_apply_retention() cannot clear",
    "partitions_to_move": "months and days that the log shows",
    "begin_move": "what audit_move_month() begins with: an empty table beside the month, on a server that the caller may use",
    "move_batch": "what audit_move_month() does: copies into that table",
    "finish_move": "what audit_move_month() does, once each value of the copy is the same",
    "say_month_busy": "raises an error",
    "is_seen_by_all": "whether some snapshot is older than a transaction",
    "wait_for_snapshots": "runs with the caller's rights: waits",
    "partitions_left": "months and days that the log shows",
    "empty_left": "what audit_return_month() ends with: empties what is not of the log, on a server that the month was on",
    "move_month": "runs with the caller's rights: what audit_move_month() does",
}


def members(db):
    with db.connect().cursor() as cursor:
        cursor.execute(MEMBERS)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor.fetchall()]


def called(body, functions):
    """Functions of the extension's that a body names."""
    return {name for name in re.findall(r"audit_cdc_internal\.(\w+)\s*\(", body) if name in functions}


def test_definers_pin_their_search_path(db):
    definers = [function for function in members(db) if function["prosecdef"]]
    assert len(definers) > 20
    for function in definers:
        assert "search_path=pg_catalog, pg_temp" in function["settings"], function["signature"]


def test_what_a_definer_runs_calls_nothing_in_the_schema_of_the_extension(db):
    functions = members(db)
    internal = {function["proname"] for function in functions if function["nspname"] == "audit_cdc_internal"}
    bodies = [function for function in functions if not function["is_bound"] and function["lanname"] != "c"]
    reached = {function["proname"] for function in functions if function["prosecdef"]}
    # what C calls is in nobody's body: every function that nobody is granted runs within ours
    reached |= internal - GRANTED.keys()
    while True:
        more = {name for function in bodies if function["proname"] in reached for name in called(function["prosrc"], internal)}
        if more <= reached:
            break
        reached |= more
    checked = [function for function in bodies if function["proname"] in reached]
    assert len(checked) > 20
    for function in checked:
        # relations and types of ours keep their names; functions have overloads
        assert not re.search(r"\bpublic\s*\.\s*\w+\s*\(", function["prosrc"]), function["signature"]


def test_what_the_schema_of_the_extension_offers_is_called_by_exact_types(db):
    """Such bodies are read when they run, and run with the caller's rights. Each call of ours is on this list, where overloads cannot fit better."""
    calls = {(function["proname"], name) for function in members(db) if not function["is_bound"] and function["lanname"] != "c"
             for name in re.findall(r"\bpublic\.(\w+)\s*\(", function["prosrc"])}
    assert calls == {
        ("create_history_table", "audit_create_projection"),
        ("audit_create_activity", "audit_create_projection"), ("audit_activity", "audit_diff_text"),
        ("audit_as_of_unknown", "audit_as_of_unknown"), ("audit_history", "audit_history"),
        ("audit_annotate", "audit_annotate"), ("run_steps", "audit_annotate"), ("run_steps", "audit_annotation_in_force"), ("run_steps", "audit_tell_annotation"),
        ("audit_capture", "audit_in_transaction_block"), ("audit_capture_stop", "audit_in_transaction_block"), ("audit_backfill", "audit_in_transaction_block"),
        ("audit_apply_retention", "audit_in_transaction_block"), ("audit_apply_retention", "audit_expired"),
        ("audit_move_month", "audit_in_transaction_block"), ("audit_return_month", "audit_in_transaction_block")}


def test_what_roles_may_call_inside_is_known(db):
    granted = {name for (name,) in db.rows(f"""
        SELECT m.proname FROM ({MEMBERS}) AS m JOIN pg_proc AS p ON p.oid = m.signature::regprocedure
        CROSS JOIN LATERAL aclexplode(p.proacl) AS a WHERE m.nspname = 'audit_cdc_internal' AND a.grantee NOT IN (p.proowner, 'audit_cdc_worker'::regrole)""")}
    assert granted == GRANTED.keys()


def test_every_statement_of_the_install_script_meant_postgresql(db):
    """Bound bodies and views depend on members and on pg_catalog only."""
    assert db.rows("""
        SELECT DISTINCT p.oid::regprocedure::text FROM pg_depend AS d JOIN pg_proc AS p ON d.refclassid = 'pg_proc'::regclass AND p.oid = d.refobjid
        JOIN pg_depend AS m ON (m.classid, m.objid) = (d.classid, d.objid) AND m.deptype = 'e'
        WHERE p.pronamespace <> 'pg_catalog'::regnamespace
          AND NOT EXISTS (SELECT FROM pg_depend AS x WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid AND x.deptype = 'e')""") == []


def test_bodies_without_a_pinned_path_name_their_operators(db):
    """What people call runs under their search_path, which the database's owner may set for a superuser too. The rest runs within what pins it."""
    called_by_people = {signature for signature, in db.rows("""SELECT p.oid::regprocedure::text FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
        WHERE a.grantee NOT IN (p.proowner, 'audit_cdc_worker'::regrole)""")}
    bodies = [function for function in members(db) if function["signature"] in called_by_people and not function["is_bound"] and function["lanname"] != "c"
              and not any(setting.startswith("search_path=") for setting in function["settings"])]
    assert len(bodies) > 5
    found = set()
    for function in bodies:
        body = re.sub(r"--[^\n]*|'(?:[^']|'')*'|OPERATOR\(pg_catalog\.[^)]*\)", " ", function["prosrc"])
        body = re.sub(r":=|=>|::|\.\.|\b(?:ERRCODE|DETAIL|HINT)\s*=", " ", body)
        found |= {(function["signature"], word) for word in re.findall(r"[<>=+*/~^|-]+|\b(?:nullif|like|between|similar|distinct from)\b|\bIN\s*\(", body, re.I) if word not in ("*", "-")}
        found |= {(function["signature"], word) for word in re.findall(
            r"(?:::\s*|^\s+\w+ (?:CONSTANT )?)(record|text|jsonb?|oid|name|reg\w+|timestamptz|pg_lsn|uuid)\b", re.sub("=>|:=", " ", function["prosrc"]), re.M)}
    assert found == set()
