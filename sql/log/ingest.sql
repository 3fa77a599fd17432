-- The Rust side of ingest stands in src/ingest; here what SQL says better.
CREATE FUNCTION @extschema@.audit_ingest(body jsonb)
  RETURNS TABLE (received bigint, inserted bigint, duplicates bigint, rejected bigint)
  LANGUAGE sql VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT * FROM @extschema@.audit_ingest($1::text);
END;

COMMENT ON FUNCTION @extschema@.audit_ingest(text) IS
  'Stores the changes of a body of Sequin messages, each exactly once. The body: {"data": […]}, a bare array, one '
  'message, or a Sequin Stream receive reply, as text (also with \u0000, also broken). Returns one row: received = '
  'inserted + duplicates + rejected. What cannot be taken is kept in audit_rejects; with audit_cdc.on_reject = error '
  'it fails the call with its SQLSTATE (22xxx, 23505, 42501, 54xxx). 42501: of this server''s own databases, or of a '
  'source that audit_allow_source() does not let the caller name. 54000: beyond audit_cdc.max_new_months, max_months '
  'or max_new_tables. After any error nothing of the call is stored. Errors: 22004 (null).';
COMMENT ON FUNCTION @extschema@.audit_ingest(jsonb) IS
  'As audit_ingest(text), for a body that is jsonb already, which cannot hold \u0000. Errors: as audit_ingest(text), '
  '22004 (null).';
COMMENT ON FUNCTION @extschema@.audit_ingest(text[]) IS
  'As audit_ingest(text), for several bodies in one call, such as the messages of a queue; a body that is no JSON '
  'spoils no other. batch_position of a reject counts through all of them. An empty array: nothing. Errors: 22004 '
  '(null, or a null among them), and as audit_ingest(text).';
COMMENT ON FUNCTION @extschema@.audit_retry_rejects(bigint[]) IS
  'Takes open rejects once more: those of ids, or all if null; null and numbers that are no open reject are passed '
  'over. What is in the log afterwards is marked with stored_at; what still cannot be taken stays open. Each is '
  'tried as who delivered it: its sources hold, whoever calls. The limits of one call hold for all of them. Returns '
  'one row of counts of messages, as audit_ingest. Errors: none of its own; what cannot be stored stays a reject, '
  'whatever audit_cdc.on_reject says.';
