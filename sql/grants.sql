-- Last: every object is there. Nobody gets anything but what stands here.
REVOKE ALL ON SCHEMA audit_cdc_internal FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit_cdc_internal FROM PUBLIC;
REVOKE ALL ON TYPE audit_cdc_internal.action FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.audit_ingest(text), @extschema@.audit_ingest(text[]), @extschema@.audit_ingest(jsonb), @extschema@.audit_retry_rejects(bigint[]),
  @extschema@.audit_describe_tables(text, jsonb, timestamptz), @extschema@.audit_status(),
  @extschema@.audit_cast(anyelement, jsonb), @extschema@.audit_row(anyelement, jsonb, text[]),
  @extschema@.audit_create_projection(text, text, regclass, boolean), @extschema@.audit_alter_projection(text, text),
  @extschema@.audit_rebuild_projection(text), @extschema@.audit_retry_projection(text), @extschema@.audit_disable_projection(text),
  @extschema@.audit_enable_projection(text), @extschema@.audit_drop_projection(text),
  @extschema@.audit_create_history_table(text, text, text[], regtype[], integer[], text[], text[], text, text, text), @extschema@.audit_create_history(regclass, text, text),
  @extschema@.audit_create_history(text, text, text, text), @extschema@.audit_changes(name, name, integer),
  @extschema@.audit_capture_start(name, name), @extschema@.audit_capture_status() FROM PUBLIC;
REVOKE ALL ON FUNCTION
  @extschema@.audit_diff(jsonb, jsonb),
  @extschema@.audit_diff_text(jsonb),
  @extschema@.audit_diff_text(jsonb, jsonb),
  @extschema@.audit_as_of(regtype, timestamptz, pg_lsn, text, text, text), @extschema@.audit_as_of(anyelement, timestamptz, pg_lsn, text, text, text),
  @extschema@.audit_as_of(text, timestamptz, pg_lsn, text, text),
  @extschema@.audit_as_of_unknown(regtype, timestamptz, pg_lsn, text, text, text), @extschema@.audit_as_of_unknown(anyelement, timestamptz, pg_lsn, text, text, text),
  @extschema@.audit_as_of_unknown(text, timestamptz, pg_lsn, text, text),
  @extschema@.audit_history(text, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer),
  @extschema@.audit_history(regtype, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer, text), @extschema@.audit_history(anyelement, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer, text),
  @extschema@.audit_undo_sql(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text),
  @extschema@.audit_redo_sql(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text),
  @extschema@.audit_undo(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean),
  @extschema@.audit_redo(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean),
  @extschema@.audit_replay_sql(text, timestamptz, timestamptz, text),
  @extschema@.audit_create_activity(text, text[], text, text),
  @extschema@.audit_activity(regclass, text, text, text, text, text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.audit_exclude_table(regclass, text), @extschema@.audit_include_table(regclass, text) FROM PUBLIC;
REVOKE ALL ON PROCEDURE @extschema@.audit_capture(bigint), @extschema@.audit_capture_stop(boolean, bigint),
  @extschema@.audit_backfill(regclass, uuid, bigint, integer) FROM PUBLIC;
REVOKE ALL ON ALL PROCEDURES IN SCHEMA audit_cdc_internal FROM PUBLIC;

GRANT USAGE ON SCHEMA @extschema@ TO PUBLIC; -- everybody may annotate
GRANT EXECUTE ON FUNCTION @extschema@.audit_ingest(text), @extschema@.audit_ingest(text[]), @extschema@.audit_ingest(jsonb) TO audit_cdc_ingest;
GRANT SELECT ON @extschema@.audit_logs, @extschema@.audit_new_logs, @extschema@.audit_rejects, @extschema@.audit_described_tables,
  @extschema@.audit_projections, @extschema@.audit_projection_failures, @extschema@.audit_projection_progress TO audit_cdc_reader;
GRANT EXECUTE ON FUNCTION @extschema@.audit_status(), @extschema@.audit_cast(anyelement, jsonb),
  @extschema@.audit_row(anyelement, jsonb, text[]), @extschema@.audit_create_projection(text, text, regclass, boolean),
  @extschema@.audit_alter_projection(text, text), @extschema@.audit_rebuild_projection(text), @extschema@.audit_retry_projection(text),
  @extschema@.audit_disable_projection(text), @extschema@.audit_enable_projection(text), @extschema@.audit_drop_projection(text),
  @extschema@.audit_create_history_table(text, text, text[], regtype[], integer[], text[], text[], text, text, text), @extschema@.audit_create_history(regclass, text, text),
  @extschema@.audit_create_history(text, text, text, text) TO audit_cdc_reader;
GRANT EXECUTE ON FUNCTION
  @extschema@.audit_diff(jsonb, jsonb),
  @extschema@.audit_diff_text(jsonb),
  @extschema@.audit_diff_text(jsonb, jsonb),
  @extschema@.audit_as_of(regtype, timestamptz, pg_lsn, text, text, text), @extschema@.audit_as_of(anyelement, timestamptz, pg_lsn, text, text, text),
  @extschema@.audit_as_of(text, timestamptz, pg_lsn, text, text),
  @extschema@.audit_as_of_unknown(regtype, timestamptz, pg_lsn, text, text, text), @extschema@.audit_as_of_unknown(anyelement, timestamptz, pg_lsn, text, text, text),
  @extschema@.audit_as_of_unknown(text, timestamptz, pg_lsn, text, text),
  @extschema@.audit_history(text, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer),
  @extschema@.audit_history(regtype, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer, text), @extschema@.audit_history(anyelement, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer, text),
  @extschema@.audit_undo_sql(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text),
  @extschema@.audit_redo_sql(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text),
  @extschema@.audit_undo(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean),
  @extschema@.audit_redo(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean),
  @extschema@.audit_replay_sql(text, timestamptz, timestamptz, text),
  @extschema@.audit_create_activity(text, text[], text, text),
  @extschema@.audit_activity(regclass, text, text, text, text, text, integer) TO audit_cdc_reader;
GRANT SELECT ON @extschema@.audit_last_changes, @extschema@.audit_deletions, @extschema@.audit_changes_by_user, @extschema@.audit_changes_by_table TO audit_cdc_reader;
-- functions that run with the reader's rights call them
GRANT EXECUTE ON FUNCTION audit_cdc_internal.table_named(text, text, oid, text), audit_cdc_internal.relation_of(oid), audit_cdc_internal.columns_of(oid),
  audit_cdc_internal.rows_as_of(audit_cdc_internal.audited, text[], timestamptz, pg_lsn, text), audit_cdc_internal.unknown_as_of(audit_cdc_internal.audited, text[], timestamptz, pg_lsn, text),
  audit_cdc_internal.history(text, oid, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer),
  audit_cdc_internal.or_here(text), audit_cdc_internal.steps(boolean, bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text),
  audit_cdc_internal.is_run_as_owner(oid), audit_cdc_internal.run_statement(oid, text),
  audit_cdc_internal.run_steps(boolean, boolean, jsonb, bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text) TO audit_cdc_reader;
-- the views call them
GRANT EXECUTE ON FUNCTION audit_cdc_internal.lifted(jsonb, text), audit_cdc_internal.new_log(), audit_cdc_internal.filling() TO audit_cdc_reader;
GRANT EXECUTE ON FUNCTION @extschema@.audit_retry_rejects(bigint[]), @extschema@.audit_describe_tables(text, jsonb, timestamptz) TO audit_cdc_admin;
GRANT EXECUTE ON FUNCTION @extschema@.audit_changes(name, name, integer) TO audit_cdc_admin;
GRANT EXECUTE ON FUNCTION @extschema@.audit_capture_status() TO audit_cdc_reader;
GRANT EXECUTE ON FUNCTION @extschema@.audit_exclude_table(regclass, text), @extschema@.audit_include_table(regclass, text) TO audit_cdc_admin;
GRANT SELECT ON @extschema@.audit_excluded_tables TO audit_cdc_reader;
GRANT SELECT ON @extschema@.audit_backfills TO audit_cdc_reader;
-- a procedure that commits cannot run with the rights of its owner: the admin calls what it calls
GRANT USAGE ON SCHEMA audit_cdc_internal TO audit_cdc_reader, audit_cdc_admin;
GRANT EXECUTE ON FUNCTION @extschema@.audit_capture_start(name, name), audit_cdc_internal.lock_capture(),
  audit_cdc_internal.capture_pass(integer), audit_cdc_internal.advance_capture(), audit_cdc_internal.note_look(),
  audit_cdc_internal.begin_to_stop(), audit_cdc_internal.end_capture(), audit_cdc_internal.capture_worker(),
  audit_cdc_internal.begin_backfill(regclass, uuid), audit_cdc_internal.backfill_batch(uuid, oid, integer), audit_cdc_internal.backfilled(uuid) TO audit_cdc_admin;
GRANT EXECUTE ON PROCEDURE @extschema@.audit_capture(bigint), @extschema@.audit_capture_stop(boolean, bigint),
  @extschema@.audit_backfill(regclass, uuid, bigint, integer), audit_cdc_internal.capture_pending(bigint) TO audit_cdc_admin;

-- What capture and ingest may: with these rights the worker's role writes the log, and no others. The functions that it owns run as it.
GRANT USAGE ON SCHEMA @extschema@, audit_cdc_internal TO audit_cdc_worker;
GRANT USAGE ON TYPE audit_cdc_internal.action TO audit_cdc_worker;
GRANT USAGE ON SEQUENCE audit_cdc_internal.log_id_seq TO audit_cdc_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA audit_cdc_internal TO audit_cdc_worker;
GRANT INSERT ON audit_cdc_internal.audited_tables, audit_cdc_internal.large_annotations, audit_cdc_internal.record_keys, audit_cdc_internal.rejects,
  audit_cdc_internal.tallies, audit_cdc_internal.unprojected TO audit_cdc_worker;
GRANT UPDATE ON audit_cdc_internal.captures, audit_cdc_internal.rejects, audit_cdc_internal.tallies,
  audit_cdc_internal.unprojected, audit_cdc_internal.ingest_reads TO audit_cdc_worker;
GRANT DELETE ON audit_cdc_internal.unprojected TO audit_cdc_worker;
GRANT EXECUTE ON FUNCTION audit_cdc_internal.ensure_partitions(timestamptz[]),
  audit_cdc_internal.keep_record_keys(integer[], text[], text[], text[]), audit_cdc_internal.record_key(text, text[], text[]),
  audit_cdc_internal.key_text(text, text), audit_cdc_internal.note_captured(bigint, bigint, timestamptz),
  audit_cdc_internal.lifted(jsonb, text), audit_cdc_internal.lock_capture(),
  @extschema@.audit_cast(anyelement, jsonb) TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.is_captured() OWNER TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.capture_pass(integer) OWNER TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.advance_capture() OWNER TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.note_look() OWNER TO audit_cdc_worker;
ALTER FUNCTION audit_cdc_internal.note_capture_error(text, text) OWNER TO audit_cdc_worker;
ALTER FUNCTION @extschema@.audit_ingest(text) OWNER TO audit_cdc_worker;
ALTER FUNCTION @extschema@.audit_ingest(text[]) OWNER TO audit_cdc_worker;
ALTER FUNCTION @extschema@.audit_ingest(jsonb) OWNER TO audit_cdc_worker;
ALTER FUNCTION @extschema@.audit_retry_rejects(bigint[]) OWNER TO audit_cdc_worker;

-- Functions in SQL that have more rights than their callers run under the settings of src/pg/pinned.rs, those in C see to it themselves.
DO $$
DECLARE
  pinned record;
BEGIN
  FOR pinned IN
    SELECT p.oid::pg_catalog.regprocedure AS function, s.name, s.value
    FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang AND l.lanname <> 'c'
    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_catalog.pg_extension AS e ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
                                     AND e.oid = d.refobjid AND e.extname = 'audit_cdc'
    CROSS JOIN audit_cdc_internal.pinned_settings() AS s
    JOIN pg_catalog.pg_settings AS known ON known.name = s.name AND known.context = 'user'
    WHERE p.prosecdef AND s.name <> 'search_path'
      AND coalesce(p.proconfig::text, '') !~ (s.name || '=')
  LOOP
    EXECUTE pg_catalog.format('ALTER FUNCTION %s SET %I = %L', pinned.function, pinned.name, pinned.value);
  END LOOP;
END
$$;
