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
  audit_cdc_internal.run_steps(boolean, boolean, jsonb, bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text) TO audit_cdc_reader;
-- the views call them
GRANT EXECUTE ON FUNCTION audit_cdc_internal.lifted(jsonb, text), audit_cdc_internal.new_log(), audit_cdc_internal.filling() TO audit_cdc_reader;
GRANT EXECUTE ON FUNCTION @extschema@.audit_retry_rejects(bigint[]), @extschema@.audit_describe_tables(text, jsonb, timestamptz) TO audit_cdc_admin;
GRANT EXECUTE ON FUNCTION @extschema@.audit_changes(name, name, integer) TO audit_cdc_admin;
GRANT EXECUTE ON FUNCTION @extschema@.audit_capture_status() TO audit_cdc_reader;
GRANT SELECT ON @extschema@.audit_backfills TO audit_cdc_reader;
-- a procedure that commits cannot run with the rights of its owner: the admin calls what it calls
GRANT USAGE ON SCHEMA audit_cdc_internal TO audit_cdc_admin;
GRANT EXECUTE ON FUNCTION @extschema@.audit_capture_start(name, name), audit_cdc_internal.lock_capture(),
  audit_cdc_internal.capture_pass(integer), audit_cdc_internal.advance_capture(pg_lsn), audit_cdc_internal.note_look(timestamptz),
  audit_cdc_internal.begin_to_stop(), audit_cdc_internal.end_capture(), audit_cdc_internal.capture_worker(),
  audit_cdc_internal.begin_backfill(regclass, uuid), audit_cdc_internal.backfill_batch(uuid, oid, integer), audit_cdc_internal.backfilled(uuid) TO audit_cdc_admin;
GRANT EXECUTE ON PROCEDURE @extschema@.audit_capture(bigint), @extschema@.audit_capture_stop(boolean, bigint),
  @extschema@.audit_backfill(regclass, uuid, bigint, integer), audit_cdc_internal.capture_pending(bigint) TO audit_cdc_admin;
