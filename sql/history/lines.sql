-- Changes as lines, each with the row before and after it, as the lives of records tell them.

CREATE TYPE @extschema@.audit_history_line AS (
  id bigint,
  database_id text,
  table_schema text,
  table_name text,
  record_id text,
  action text,
  commit_lsn bigint,
  commit_idx integer,
  commit_timestamp timestamptz,
  username text,
  source text,
  request_id text,
  metadata jsonb,
  old_row jsonb,
  new_row jsonb,
  changed jsonb,
  unknown_old_columns text[],
  unknown_columns text[],
  note text,
  cursor text
);
COMMENT ON TYPE @extschema@.audit_history_line IS
  'a change as audit_history() tells it, with the whole row before and after it';
COMMENT ON COLUMN @extschema@.audit_history_line.id IS
  'number of the entry in audit_logs; null for a line of action drop or rename';
COMMENT ON COLUMN @extschema@.audit_history_line.database_id IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.table_schema IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.table_name IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.record_id IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.action IS
  'as in audit_logs; drop or rename: so the table lost its name';
COMMENT ON COLUMN @extschema@.audit_history_line.commit_lsn IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.commit_idx IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.commit_timestamp IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.username IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.source IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.request_id IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.metadata IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_history_line.old_row IS
  'the row before, as far as the log knows it; null: there was none';
COMMENT ON COLUMN @extschema@.audit_history_line.new_row IS
  'the row after, as far as the log knows it; null: there is none';
COMMENT ON COLUMN @extschema@.audit_history_line.changed IS
  'audit_diff() of both, of an update only of columns that both have; null for read';
COMMENT ON COLUMN @extschema@.audit_history_line.unknown_old_columns IS
  'columns of the row before whose value the log does not know';
COMMENT ON COLUMN @extschema@.audit_history_line.unknown_columns IS
  'columns of the row after whose value the log does not know';
COMMENT ON COLUMN @extschema@.audit_history_line.note IS
  'what does not fit, such as a change that the log misses; null: nothing';
COMMENT ON COLUMN @extschema@.audit_history_line.cursor IS
  'for the parameter after: the next page begins behind this line';

-- An event with the states of its key before and after it, as a line.
CREATE FUNCTION audit_cdc_internal.line(
    audited audit_cdc_internal.audited, e audit_cdc_internal.event, before audit_cdc_internal.state,
    after audit_cdc_internal.state)
  RETURNS @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  -- of the same life, and not contradicted
  follows CONSTANT boolean := before.alive
    AND before.run = e.run
    AND before.truncates = e.truncates - (e.action = 'truncate')::integer;
  is_gap CONSTANT boolean := CASE e.action
    WHEN 'insert' THEN follows
    WHEN 'read'
      THEN follows AND e.is_placed AND before.by_change AND audit_cdc_internal.contradicts(before.known, e.after)
    WHEN 'truncate' THEN false
    WHEN 'complete' THEN false
    ELSE coalesce(
      before.alive IS NOT TRUE AND before.run = e.run AND (e.action = 'delete' OR e.other_key = e.record_key),
      false)
      OR coalesce(follows AND before.by_change AND audit_cdc_internal.contradicts(before.known, e.before), false)
  END;
  old_row jsonb := CASE
    WHEN e.action IN ('update', 'delete', 'truncate', 'complete')
      THEN CASE WHEN follows AND is_gap IS NOT TRUE THEN before.known ELSE '{}' END || coalesce(e.before, '{}')
  END;
  new_row jsonb := CASE
    WHEN e.action IN ('insert', 'update', 'read')
      THEN CASE WHEN is_gap OR after.alive IS NULL THEN e.after ELSE after.known END
  END;
  columns text[] := ARRAY(
    SELECT jsonb_object_keys(coalesce(e.after, '{}'))
    UNION
    SELECT unnest(coalesce(e.unknown, '{}'))
  );
BEGIN
  RETURN ROW(
    CASE WHEN e.id > 0 THEN e.id END, e.database_id, audited.table_schema, audited.table_name, e.record_id,
    CASE
      WHEN e.id > 0 THEN e.action
      WHEN EXISTS (
        SELECT FROM audit_cdc_internal.schema_changes AS s
        WHERE s.id = -e.id AND s.after IS NULL
      )
        THEN 'drop'
      ELSE 'rename'
    END,
    e.commit_lsn, CASE WHEN e.idx < 2147483647 THEN e.idx END, e.commit_timestamp, e.username, e.source,
    e.request_id, e.metadata, old_row, new_row,
    CASE
      WHEN e.action = 'update'
        THEN (
          SELECT coalesce(jsonb_object_agg(d.key, d.value), '{}')
          FROM jsonb_each(audit_cdc_internal.diff(old_row, new_row)) AS d
          WHERE d.value ?& ARRAY['old', 'new']
        )
      WHEN e.action <> 'read' THEN audit_cdc_internal.diff(old_row, new_row)
    END,
    CASE
      WHEN e.action IN ('update', 'delete', 'truncate', 'complete')
        THEN ARRAY(
          SELECT c
          FROM unnest(
            columns
            || coalesce(
              CASE WHEN e.action IN ('truncate', 'complete') THEN before.unknown ELSE e.unknown_before END,
              '{}')) AS c
          WHERE NOT old_row ? c
          GROUP BY c
          ORDER BY c
        )
      ELSE '{}'
    END,
    CASE
      WHEN new_row IS NULL THEN '{}'
      ELSE ARRAY(SELECT c FROM unnest(e.unknown) AS c WHERE NOT new_row ? c ORDER BY c)
    END,
    CASE
      WHEN is_gap THEN 'the log misses a change before this one'
      WHEN e.action = 'complete' THEN 'gone: a backfill did not meet it, and the log does not tell how it ended'
      WHEN before.run < e.run THEN 'the source was restored before this one: positions ran backwards'
      WHEN e.action = 'update' AND e.other_key IS NULL AND before.alive IS NOT TRUE
        THEN 'the key before this change is unknown'
      WHEN e.action = 'update' AND e.other_key IS NULL AND e.record_key <> ''
        THEN 'the key before this change was not sent: old_row is the row that had this one'
      WHEN e.other_key <> e.record_key THEN format('key before: %s', e.other_key)
    END,
    format('%s.%s.%s.%s', e.run, e.lsn, e.idx, e.id))::@extschema@.audit_history_line;
END
$$;

-- The lives of one key: each from an insert, or the arrival of a row, to its end.
CREATE FUNCTION audit_cdc_internal.lives(
    audited audit_cdc_internal.audited, key text,
    OUT life bigint, OUT event audit_cdc_internal.event, OUT before audit_cdc_internal.state,
    OUT after audit_cdc_internal.state)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT
    count(*) FILTER (WHERE s.begins) OVER (
      ORDER BY (s.event).run, (s.event).lsn, (s.event).idx, (s.event).commit_timestamp, (s.event).id,
      (s.event).action = 'moved' DESC),
    s.event, s.before, s.after
  FROM (
    SELECT
      w.event, w.before, w.after,
      w.before IS NULL
        OR (w.event).action = 'insert'
        OR (w.event).action = 'update' AND (w.event).other_key <> (w.event).record_key
        OR (w.before).alive IS FALSE
        OR (w.before).run < (w.event).run AS begins
    FROM (
      SELECT e AS event, lag(a.state) OVER place AS before, a.state AS after
      FROM (
        SELECT
          e,
          audit_cdc_internal.state_after(e) OVER (
            ORDER BY e.run, e.lsn, e.idx, e.commit_timestamp, e.id, e.action = 'moved' DESC) AS state
        FROM audit_cdc_internal.events(audited, audit_cdc_internal.record_ids(audited, key)) AS e
        WHERE e.record_key = audit_cdc_internal.spelled(key, audited) OR e.action = 'truncate'
      ) AS a
      WINDOW place AS (ORDER BY (e).run, (e).lsn, (e).idx, (e).commit_timestamp, (e).id, (e).action = 'moved' DESC)
    ) AS w
    WHERE (w.event).action <> 'truncate' OR (w.before).alive
  ) AS s;
END;

-- One entry as a line, with what its record's life tells.
CREATE FUNCTION audit_cdc_internal.line_of(
    audited audit_cdc_internal.audited, entry audit_cdc_internal.log, cursor text)
  RETURNS @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off AS $$
DECLARE
  line @extschema@.audit_history_line;
BEGIN
  IF entry.record_id IS NOT NULL THEN
    SELECT l.*
    INTO line
    FROM audit_cdc_internal.lives(audited, entry.record_id) AS v
    CROSS JOIN LATERAL audit_cdc_internal.line(audited, v.event, v.before, v.after) AS l
    WHERE (v.event).id = entry.id AND (v.event).action <> 'moved';
  END IF;
  IF line.id IS NULL THEN
    SELECT l.*
    INTO line
    FROM audit_cdc_internal.events(audited, '{}', entry.id) AS e
    CROSS JOIN LATERAL audit_cdc_internal.line(audited, e, NULL, NULL) AS l
    WHERE e.id = entry.id;
  END IF;
  line.cursor := line_of.cursor;
  RETURN line;
END
$$;

-- The lines of a record, also under the keys that it had before and got later.
CREATE FUNCTION audit_cdc_internal.lines_by_lives(audited audit_cdc_internal.audited, of_key text)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off AS $$
DECLARE
  keys text[] := ARRAY[audit_cdc_internal.as_record_id(of_key, audited)];
  anchors bigint[] := ARRAY[NULL::bigint]; -- an event of the life that is wanted; null: all
  seen text[] := '{}';
  place integer := 1;
  one record;
BEGIN
  WHILE place <= cardinality(keys) LOOP
    FOR one IN
      SELECT l.event AS e, l.before, l.after
      FROM (
        SELECT v.*, bool_or((v.event).id = anchors[place]) OVER (PARTITION BY v.life) AS is_wanted
        FROM audit_cdc_internal.lives(audited, keys[place]) AS v
      ) AS l
      WHERE anchors[place] IS NULL OR l.is_wanted
    LOOP
      CONTINUE WHEN format('%s %s', (one.e).id, (one.e).action) = ANY (seen);
      seen := seen || format('%s %s', (one.e).id, (one.e).action);
      IF (one.e).action <> 'moved' THEN
        RETURN NEXT audit_cdc_internal.line(audited, one.e, one.before, one.after);
      END IF;
      IF (one.e).other_key <> keys[place] THEN
        keys := keys || (one.e).other_key;
        anchors := anchors || (one.e).id;
      END IF;
    END LOOP;
    place := place + 1;
  END LOOP;
END
$$;
