-- A function beside one of ours that has its name might be called in its place.
DO $$
DECLARE
  strangers text;
BEGIN
  SELECT string_agg(p.oid::regprocedure::text, ', ')
  INTO strangers
  FROM pg_proc AS p
  JOIN pg_roles AS r ON r.oid = p.proowner
  WHERE p.pronamespace = '@extschema@'::regnamespace
    AND NOT r.rolsuper
    AND r.rolname <> 'audit_cdc_worker'
    AND NOT EXISTS (
      SELECT FROM pg_depend AS d
      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    )
    AND p.proname IN (
      SELECT o.proname
      FROM pg_proc AS o
      JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = o.oid AND d.deptype = 'e'
      JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
      WHERE e.extname = 'audit_cdc' AND o.pronamespace = p.pronamespace
    );
  IF strangers IS NOT NULL THEN
    RAISE EXCEPTION 'schema "%" has functions of others with names of this extension''s', '@extschema@'
      USING ERRCODE = 'duplicate_function', DETAIL = strangers, HINT = 'Drop them, or install into another schema.';
  END IF;
END
$$;

-- Last: every object is there. Nobody gets anything but what stands here.
DO $do$
DECLARE
  one record;
  routine text;
  granted bigint;
BEGIN
  FOR one IN
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' AND e.extname = 'audit_cdc'
  LOOP
    PERFORM audit_cdc_internal.keep_private(one.classid, one.objid);
  END LOOP;

  FOR one IN
    SELECT c.oid::pg_catalog.regclass AS relation FROM pg_catalog.pg_class AS c
    WHERE c.relnamespace = 'audit_cdc_internal'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p')
  LOOP
    PERFORM audit_cdc_internal.keep_from_writers(one.relation);
  END LOOP;

  -- a name stands for all functions and procedures of the extension that are called so
  FOR one IN
    SELECT g.role, f.name, g.is_internal FROM (VALUES
      ('audit_cdc_ingest', false, ARRAY['audit_ingest']),
      ('audit_cdc_reader', false, ARRAY[
        'audit_status', 'audit_capture_status', 'audit_link_status', 'audit_cast', 'audit_row', 'audit_diff',
        'audit_diff_text', 'audit_as_of', 'audit_as_of_unknown', 'audit_table_diff', 'audit_history', 'audit_activity',
        'audit_changes_by_user', 'audit_changes_by_table',
        'audit_undo_sql', 'audit_redo_sql', 'audit_undo', 'audit_redo', 'audit_replay_sql',
        'audit_mark', 'audit_moment', 'audit_unannotated',
        'audit_create_projection', 'audit_alter_projection', 'audit_rebuild_projection', 'audit_retry_projection',
        'audit_disable_projection', 'audit_enable_projection', 'audit_drop_projection',
        'audit_create_history_projection', 'audit_create_activity']),
      -- views, and functions that run with the reader's rights, call them
      ('audit_cdc_reader', true, ARRAY[
        'lifted', 'masked_columns', 'columns_not_sent', 'old_columns_not_sent', 'new_log', 'filling', 'typed_value',
        'typed_row', 'told', 'told_as_of', 'plain_diff', 'node_to_read', 'connects', 'try_node',
        'plain', 'exact_texts', 'diff', 'keep_private', 'table_named', 'may_be_anothers', 'readable_as',
        'relation_of', 'columns_of', 'activity_rule', 'activity_told', 'diffs_together',
        'refuse_foreign_types', 'history_rule', 'create_history_table', 'rows_as_of', 'unknown_as_of', 'history',
        'or_here', 'one_log', 'meant', 'planned', 'step_lines', 'run_steps', 'run_planned', 'run_step', 'run_alone',
        'say_taken_back', 'check_constraints', 'changes_that_differ', 'is_run_as_owner',
        'parts_of_type', 'runs_strangers_code', 'is_referred_since', 'run_statement']),
      ('audit_cdc_admin', false, ARRAY[
        'audit_retry_rejects', 'audit_describe_tables', 'audit_pending_changes',
        'audit_capture_start', 'audit_capture', 'audit_capture_stop', 'audit_backfill',
        'audit_exclude_table', 'audit_include_table', 'audit_require_annotation', 'audit_allow_source',
        'audit_revoke_source', 'audit_link', 'audit_unlink',
         'audit_continue']),
      -- a procedure that commits cannot run with the rights of its owner: the admin calls what it calls
      ('audit_cdc_admin', true, ARRAY[
        'lock_capture', 'capture_pass', 'capture_pending', 'advance_capture', 'note_fault', 'begin_to_stop',
        'end_capture', 'capture_worker',
        'check_backfill', 'begin_backfill', 'backfill_stage', 'begin_table', 'backfill_batch', 'complete_backfill',
        'backfilled']),
      ('audit_cdc_keeper', false, ARRAY[
        'audit_set_retention', 'audit_drop_retention', 'audit_expired', 'audit_apply_retention', 'audit_hold',
        'audit_release', 'audit_archived', 'audit_archive_failed', 'audit_erase', 'audit_mask', 'audit_unmask',
        'audit_month_table', 'audit_move_month', 'audit_return_month', 'audit_take_over_months']),
      ('audit_cdc_keeper', true, ARRAY[
        'check_apply', 'set_horizons', 'partitions_to_clear', 'clear_partition', 'clear_rejects',
        'clear_unnamed', 'say_busy', 'say_elsewhere',
        'partitions_to_move', 'begin_move', 'move_batch', 'finish_move', 'say_month_busy',
        'is_seen_by_all', 'wait_for_snapshots', 'move_month', 'partitions_left', 'empty_left']),
      ('audit_cdc_worker', true, ARRAY[
        'ensure_partitions', 'keep_record_keys', 'next_number', 'renumber_log', 'record_key', 'key_text', 'typed_value',
        'note_captured', 'lifted', 'masked_columns', 'columns_not_sent', 'old_columns_not_sent', 'lock_capture',
        'forget_projecting_transactions', 'weaker_owners', 'note_gap', 'add_gap', 'note_truncated_partition',
        'settle_gaps', 'end_gaps', 'this_database', 'known_elsewhere', 'store_elsewhere',
        'entries_of_keys',
        -- audit_cdc.retention_at
        'set_horizons', 'partitions_to_clear', 'clear_partition', 'clear_rejects', 'clear_unnamed', 'say_elsewhere',
        'current_timeline', 'last_look', 'note_break', 'end_breaks', 'note_skipped', 'note_fault']),
      ('PUBLIC', false, ARRAY['audit_annotate', 'audit_annotate_clear', 'audit_merged_annotation',
        'audit_in_transaction_block', 'audit_annotation_in_force', 'audit_tell_annotation'])
    ) AS g(role, is_internal, names) CROSS JOIN LATERAL pg_catalog.unnest(g.names) AS f(name)
  LOOP
    granted := 0;
    FOR routine IN
      SELECT p.oid::pg_catalog.regprocedure::text
      FROM pg_catalog.pg_proc AS p
      JOIN pg_catalog.pg_depend AS d
        ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
      WHERE e.extname = 'audit_cdc'
        AND p.proname = one.name
        AND (p.pronamespace = 'audit_cdc_internal'::pg_catalog.regnamespace) = one.is_internal
    LOOP
      EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %s', routine, one.role);
      granted := granted + 1;
    END LOOP;
    IF granted = 0 THEN
      RAISE EXCEPTION 'no function % to be granted to %', one.name, one.role USING ERRCODE = 'undefined_function';
    END IF;
  END LOOP;
END
$do$;

GRANT USAGE ON SCHEMA @extschema@ TO PUBLIC; -- everybody may annotate
-- nothing in it is anybody's that is not granted above
GRANT USAGE ON SCHEMA audit_cdc_internal TO audit_cdc_reader, audit_cdc_admin, audit_cdc_keeper;
GRANT SELECT ON @extschema@.audit_logs, @extschema@.audit_new_logs, @extschema@.audit_rejects,
  @extschema@.audit_described_tables, @extschema@.audit_projections, @extschema@.audit_projection_failures,
  @extschema@.audit_projection_progress, @extschema@.audit_backfills, @extschema@.audit_last_changes,
  @extschema@.audit_deletions, @extschema@.audit_changes_by_user, @extschema@.audit_changes_by_table,
  @extschema@.audit_excluded_tables, @extschema@.audit_allowed_sources, @extschema@.audit_gaps,
  @extschema@.audit_operations, @extschema@.audit_retention_rules, @extschema@.audit_holds, @extschema@.audit_removed,
  @extschema@.audit_archives, @extschema@.audit_erasures,
  @extschema@.audit_masks, @extschema@.audit_all_logs, @extschema@.audit_links,
  @extschema@.audit_continuations, @extschema@.audit_marks, @extschema@.audit_schema_changes TO audit_cdc_reader;
GRANT USAGE ON TYPE @extschema@.audit_history_line TO audit_cdc_reader;

-- What capture and ingest may: with these rights the worker's role writes the log, and no others. The functions
-- that it owns run as it.
GRANT USAGE ON SCHEMA audit_cdc_internal TO audit_cdc_worker;
GRANT USAGE ON TYPE audit_cdc_internal.action TO audit_cdc_worker;
GRANT USAGE ON SEQUENCE audit_cdc_internal.log_id_seq TO audit_cdc_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA audit_cdc_internal TO audit_cdc_worker;
GRANT INSERT ON audit_cdc_internal.audited_tables, audit_cdc_internal.gaps, audit_cdc_internal.gap_ends,
  audit_cdc_internal.large_annotations, audit_cdc_internal.server_contexts, audit_cdc_internal.record_keys,
  audit_cdc_internal.rejects,
  audit_cdc_internal.projecting_transactions, audit_cdc_internal.schema_change_positions,
  audit_cdc_internal.tallies, audit_cdc_internal.unprojected, audit_cdc_internal.removals TO audit_cdc_worker;
GRANT UPDATE ON audit_cdc_internal.captures, audit_cdc_internal.removals, audit_cdc_internal.rejects,
  audit_cdc_internal.tallies,
  audit_cdc_internal.unprojected, audit_cdc_internal.ingest_reads TO audit_cdc_worker;
GRANT UPDATE (slow_since) ON audit_cdc_internal.projections TO audit_cdc_worker;
GRANT DELETE ON audit_cdc_internal.projecting_transactions, audit_cdc_internal.unprojected TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.is_captured() OWNER TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.capture_pass(integer, boolean) OWNER TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.advance_capture() OWNER TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.note_fault() OWNER TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.note_capture_error(text, text) OWNER TO audit_cdc_worker;
ALTER FUNCTION @extschema@.audit_ingest(text) OWNER TO audit_cdc_worker;
ALTER FUNCTION @extschema@.audit_ingest(text[]) OWNER TO audit_cdc_worker;
ALTER FUNCTION @extschema@.audit_ingest(jsonb) OWNER TO audit_cdc_worker;
ALTER FUNCTION @extschema@.audit_retry_rejects(bigint[]) OWNER TO audit_cdc_worker;

-- Functions that have more rights than their callers run under the settings of src/pg/pinned.rs. Those in C that write
-- see to it themselves.
DO $$
DECLARE
  pinned record;
BEGIN
  FOR pinned IN
    SELECT p.oid::pg_catalog.regprocedure AS function, s.name, s.value
    FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang AND (l.lanname <> 'c' OR p.provolatile <> 'v')
    JOIN pg_catalog.pg_depend AS d
      ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_catalog.pg_extension AS e
      ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
        AND e.oid = d.refobjid
        AND e.extname = 'audit_cdc'
    CROSS JOIN audit_cdc_internal.pinned_settings() AS s
    JOIN pg_catalog.pg_settings AS known ON known.name = s.name AND known.context = 'user'
    WHERE p.prosecdef AND s.name <> 'search_path' AND coalesce(p.proconfig::text, '') !~ (s.name || '=')
  LOOP
    EXECUTE pg_catalog.format('ALTER FUNCTION %s SET %I = %L', pinned.function, pinned.name, pinned.value);
  END LOOP;
END
$$;
