-- The end of a backfill: what is in no entry since it began is gone from the table, and gaps before it are closed.

-- Gaps within the time since a position: after one that has ended, what was read before may not be so any more.
CREATE FUNCTION audit_cdc_internal.gaps_since(relation oid, lsn pg_lsn, OUT has_ended boolean, OUT is_open boolean)
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(bool_or(e.to_lsn > gaps_since.lsn), false), coalesce(bool_or(e.gap_id IS NULL), false)
  FROM audit_cdc_internal.gaps AS g LEFT JOIN audit_cdc_internal.gap_ends AS e ON e.gap_id = g.id
  WHERE g.database_id = audit_cdc_internal.this_database() ->> 'id'
    AND (g.relation IS NULL OR g.relation = gaps_since.relation
         OR g.relation IN (SELECT relid FROM pg_partition_tree(gaps_since.relation)));
END;

-- Did changes get lost since it began?
CREATE FUNCTION audit_cdc_internal.is_captured_anew(done audit_cdc_internal.backfills) RETURNS boolean
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT (done).capture_started_at IS DISTINCT FROM (SELECT c.started_at FROM audit_cdc_internal.captures AS c)
         OR (SELECT g.has_ended FROM audit_cdc_internal.gaps_since((done).relation, (done).began_lsn) AS g);
END;

-- Ends the backfill of a table, and returns the message of action complete. Null: there is none. So it is while a gap
-- goes on, since nobody tells what comes within it. So it is of a table without key, whose rows are no records.
CREATE FUNCTION audit_cdc_internal.completion(backfill_id uuid, relation oid) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
  done audit_cdc_internal.backfills;
BEGIN
  SELECT * INTO done FROM audit_cdc_internal.backfills AS b
  WHERE b.backfill_id = completion.backfill_id AND b.relation = completion.relation FOR UPDATE;
  IF done.complete_lsn IS NULL OR done.finished_at IS NOT NULL THEN
    RETURN NULL;
  END IF;
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.captures AS c JOIN pg_replication_slots AS s ON s.slot_name = c.slot
                 WHERE s.confirmed_flush_lsn >= done.complete_lsn) THEN
    RAISE EXCEPTION 'changes up to the end of the backfill are not captured yet'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'CALL audit_capture(), then resume the backfill.';
  END IF;
  IF audit_cdc_internal.is_captured_anew(done) THEN
    PERFORM audit_cdc_internal.begin_again(backfill_id, completion.relation);
    RETURN NULL;
  END IF;
  UPDATE audit_cdc_internal.backfills AS b SET finished_at = clock_timestamp(), after = NULL
  WHERE b.backfill_id = completion.backfill_id AND b.relation = completion.relation;
  PERFORM audit_cdc_internal.close_gaps(completion.relation, backfill_id, done.began_lsn, done.complete_lsn);
  PERFORM audit_cdc_internal.note_operation(
    'audit_backfill', jsonb_build_object('backfill_id', backfill_id, 'relation', completion.relation::regclass),
    jsonb_build_object(
      'rows_read', done.rows_read,
      'gaps_closed', (
        SELECT count(*)
        FROM audit_cdc_internal.gap_closings AS c
        WHERE c.backfill_id = completion.backfill_id AND c.relation = completion.relation
      )));
  IF done.layout -> 'key' -> 'columns' = 'null'
    OR (SELECT g.is_open FROM audit_cdc_internal.gaps_since(completion.relation, done.began_lsn) AS g) THEN
    RETURN NULL;
  END IF;
  RETURN jsonb_build_object(
    'action', 'complete', 'record', NULL, 'changes', NULL,
    'metadata', jsonb_build_object(
      'commit_lsn', (done.complete_lsn - '0/0')::bigint, 'commit_idx', NULL,
      'commit_timestamp', to_char(done.complete_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
      'database', audit_cdc_internal.this_database(),
      'idempotency_key', encode(convert_to(format('%s:complete', backfill_id), 'UTF8'), 'base64'),
      'table_schema', done.layout -> 'table_schema', 'table_name', done.layout -> 'table_name',
      'unknown_columns', '[]'::jsonb,
      'transaction_annotations', jsonb_build_object(
        'metadata', jsonb_build_object(
          'backfill_id', backfill_id, 'began_lsn', (done.began_lsn - '0/0')::bigint))));
END
$$;
