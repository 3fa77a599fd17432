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
  cursor text,
  exact_values jsonb,
  server_context jsonb,
  attested boolean
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
COMMENT ON COLUMN @extschema@.audit_history_line.exact_values IS
  'as in audit_logs, for new_row and old_row; null, as nearly always: they hold everything';
COMMENT ON COLUMN @extschema@.audit_history_line.server_context IS
  'as in audit_logs; of action drop or rename session_user, application_name and client_address';
COMMENT ON COLUMN @extschema@.audit_history_line.attested IS
  'as in audit_logs; null for a line of action drop or rename';

-- Within the extension rows are told: exact values stand in them, and exact_values is null. For who reads lines they
-- stand beside.
CREATE FUNCTION audit_cdc_internal.plain_line(line @extschema@.audit_history_line)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT line.id, line.database_id, line.table_schema, line.table_name, line.record_id, line.action, line.commit_lsn,
         line.commit_idx, line.commit_timestamp, line.username, line.source, line.request_id, line.metadata,
         audit_cdc_internal.plain(line.old_row), audit_cdc_internal.plain(line.new_row),
         CASE WHEN e.texts IS NULL THEN line.changed ELSE audit_cdc_internal.plain_diff(line.changed) END,
         line.unknown_old_columns, line.unknown_columns, line.note, line.cursor, e.texts, line.server_context,
         line.attested
  FROM (
    SELECT nullif(
      jsonb_strip_nulls(
        jsonb_build_object(
          'old', audit_cdc_internal.exact_texts(line.old_row), 'new', audit_cdc_internal.exact_texts(line.new_row))),
      '{}') AS texts
  ) AS e;
END;

-- Who made an event, by the server's word.
CREATE FUNCTION audit_cdc_internal.server_word(
    e audit_cdc_internal.event, OUT server_context jsonb, OUT attested boolean)
  LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF e.id > 0 THEN
    SELECT
      s.context || jsonb_strip_nulls(jsonb_build_object('transaction_start', l.transaction_start)),
      l.attested
    INTO server_context, attested
    FROM audit_cdc_internal.log AS l
    LEFT JOIN audit_cdc_internal.server_contexts AS s ON s.id = l.server_context
    WHERE l.id = e.id AND l.commit_timestamp = e.commit_timestamp;
  ELSE
    SELECT jsonb_strip_nulls(
      jsonb_build_object(
        'session_user', s.session_user_name, 'application_name', s.application_name,
        'client_address', host(s.client_address)))
    INTO server_context
    FROM audit_cdc_internal.schema_changes AS s
    WHERE s.id = -e.id;
  END IF;
END
$$;

-- An event of a life, as a line.
CREATE FUNCTION audit_cdc_internal.line(
    audited audit_cdc_internal.audited, e audit_cdc_internal.event, old_row jsonb, new_row jsonb,
    unknown_old_columns text[], unknown_columns text[], note text)
  RETURNS @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT ROW(
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
    unknown_old_columns, unknown_columns, note,
    format('%s.%s.%s.%s', e.run, e.lsn, e.idx, e.id), NULL, w.server_context,
    w.attested)::@extschema@.audit_history_line
  FROM audit_cdc_internal.server_word(e) AS w;
END;

-- One entry as a line, with what its record's life tells.
CREATE FUNCTION audit_cdc_internal.line_of(
    audited audit_cdc_internal.audited, entry bigint, record_id text, cursor text)
  RETURNS @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off AS $$
DECLARE
  line @extschema@.audit_history_line;
BEGIN
  SELECT l.*
  INTO line
  FROM audit_cdc_internal.lives(audited, line_of.record_id, NULL) AS v
  CROSS JOIN LATERAL audit_cdc_internal.line(
    audited, v.event, v.old_row, v.new_row, v.unknown_old_columns, v.unknown_columns, v.note) AS l
  WHERE line_of.record_id IS NOT NULL AND (v.event).id = entry AND (v.event).action <> 'moved';
  IF line.id IS NULL THEN
    SELECT l.*
    INTO line
    FROM audit_cdc_internal.lives(audited, NULL, entry) AS v
    CROSS JOIN LATERAL audit_cdc_internal.line(
      audited, v.event, v.old_row, v.new_row, v.unknown_old_columns, v.unknown_columns, v.note) AS l;
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
      SELECT l.event AS e, l.old_row, l.new_row, l.unknown_old_columns, l.unknown_columns, l.note
      FROM (
        SELECT v.*, bool_or((v.event).id = anchors[place]) OVER (PARTITION BY v.life) AS is_wanted
        FROM audit_cdc_internal.lives(audited, keys[place], NULL) AS v
      ) AS l
      WHERE anchors[place] IS NULL OR l.is_wanted
    LOOP
      CONTINUE WHEN format('%s %s', (one.e).id, (one.e).action) = ANY (seen);
      seen := seen || format('%s %s', (one.e).id, (one.e).action);
      IF (one.e).action <> 'moved' THEN
        RETURN NEXT audit_cdc_internal.line(
          audited, one.e, one.old_row, one.new_row, one.unknown_old_columns, one.unknown_columns, one.note);
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
