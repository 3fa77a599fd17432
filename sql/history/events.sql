-- The log read as the lives of records: what audit_history, audit_as_of, audit_undo_sql and audit_replay_sql stand on.
--
-- * An event is a change with its place in the order of its database, and with what it tells of its row before and after, without what is
--   unknown. An update that gives another key is an event of both: `moved` for the old one.
-- * The order is (run, lsn, idx). A read of Sequin's has only its time: it stands after the last commit not later than it.
-- * A run ends where positions run backwards: what committed later, and came later, has a lower position. The source was
--   restored then, and what it has of the run before nobody can tell. Clocks that are set, and commits that overtake each other
--   by less than a second, end no run.

CREATE TYPE audit_cdc_internal.event AS (
  id bigint, -- in audit_logs
  run integer,
  lsn bigint,
  idx integer,
  is_placed boolean, -- false: a read without position of its own
  truncates integer, -- how often the table was truncated up to here
  commit_timestamp timestamptz,
  action text, -- as in audit_logs, or moved
  record_id text,
  record_key text, -- null: a truncate, or a table without key
  other_key text, -- update: record_key before it, null if unknown; moved: after it
  before jsonb, -- what is known of the row before; null: there was none
  after jsonb, -- what is known of the row after
  unknown_before text[], -- null: whatever is not in before
  unknown text[], -- columns that are not in after although the table has them
  carried text[], -- those of them that the change left as they were
  changed jsonb, -- old_values of an update
  username text,
  source text,
  request_id text,
  metadata jsonb
);

CREATE FUNCTION audit_cdc_internal.marked_unchanged(image jsonb) RETURNS text[]
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN ARRAY(SELECT c.key FROM jsonb_each(image) AS c WHERE c.value = '"unchanged_toast"');

CREATE FUNCTION audit_cdc_internal.null_columns(image jsonb) RETURNS text[]
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN ARRAY(SELECT c.key FROM jsonb_each(image) AS c WHERE c.value = 'null');

-- record_key before an update that may have changed it.
CREATE FUNCTION audit_cdc_internal.key_before(old_values jsonb, new_values jsonb, record_pks text[], record_key text, audited audit_cdc_internal.audited) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT CASE
    WHEN audited.key_columns IS NULL THEN
      -- nothing that was changed is in the key now
      CASE WHEN NOT EXISTS (SELECT FROM jsonb_each_text(new_values) AS n WHERE old_values ? n.key AND n.value = ANY (record_pks)) THEN record_key END
    WHEN NOT old_values ?| audited.key_columns THEN record_key
    WHEN cardinality(k.pks) = 1 THEN audit_cdc_internal.record_key(k.pks[1], NULL, audited.key_types)
    ELSE audit_cdc_internal.record_key(array_to_json(k.pks)::text, k.pks, audited.key_types)
  END
  FROM (SELECT ARRAY(SELECT coalesce(old_values ->> c, new_values ->> c) FROM unnest(audited.key_columns) WITH ORDINALITY AS u(c, place) ORDER BY place) AS pks) AS k;
END;

-- Of a table, in order; with record_ids those of these records, the truncates, and what moved away from any key; also the entry without key that has the id lone.
CREATE FUNCTION audit_cdc_internal.events(audited audit_cdc_internal.audited, record_ids text[] DEFAULT NULL, lone bigint DEFAULT NULL) RETURNS SETOF audit_cdc_internal.event
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_custom_plan AS $$
BEGIN
  RETURN QUERY
  WITH entries AS (
    SELECT l.* FROM @extschema@.audit_logs AS l
    WHERE (l.database_id, l.table_schema, l.table_name) = (audited.database_id, audited.table_schema, audited.table_name)
      AND (record_ids IS NULL OR l.record_id = ANY (record_ids))
    UNION ALL
    SELECT l.* FROM @extschema@.audit_logs AS l
    WHERE (l.database_id, l.table_schema, l.table_name) = (audited.database_id, audited.table_schema, audited.table_name)
      AND record_ids IS NOT NULL AND l.record_id IS NULL AND (l.action = 'truncate' OR l.id = lone)
    UNION ALL
    SELECT l.* FROM audit_cdc_internal.rekeyed AS l
    WHERE (l.database_id, l.table_schema, l.table_name) = (audited.database_id, audited.table_schema, audited.table_name)
      AND record_ids IS NOT NULL AND l.record_id <> ALL (record_ids)
  ), told AS (
    SELECT l.*, CASE WHEN audited.key_types IS NULL THEN l.record_key
                     ELSE audit_cdc_internal.record_key(l.record_id, CASE WHEN cardinality(l.record_pks) > 1 THEN l.record_pks END, audited.key_types) END AS key_now,
           -- of a table that is not described: old values are sent with FULL only
           coalesce(l.unknown_columns, CASE l.action
             WHEN 'update' THEN CASE WHEN l.old_values = '{}' THEN audit_cdc_internal.marked_unchanged(l.new_values) ELSE '{}' END
             WHEN 'read' THEN audit_cdc_internal.null_columns(l.new_values)
             WHEN 'delete' THEN audit_cdc_internal.null_columns(l.old_values)
             ELSE '{}' END) AS not_sent,
           CASE WHEN l.action = 'update' AND l.unknown_old_columns IS NULL AND l.old_values <> '{}' THEN '{}' ELSE l.unknown_old_columns END AS not_sent_before
    FROM entries AS l
  ), known AS (
    SELECT t.*, CASE WHEN t.action = 'update' AND t.not_sent <> '{}'
                     THEN ARRAY(SELECT m FROM unnest(audit_cdc_internal.marked_unchanged(t.new_values)) AS m WHERE m = ANY (t.not_sent)) ELSE '{}' END AS left_as_they_were,
           CASE t.action WHEN 'update' THEN CASE WHEN t.not_sent_before IS NULL THEN '{}' ELSE (t.new_values - t.not_sent || t.old_values) - t.not_sent_before END
                         WHEN 'delete' THEN t.old_values - t.not_sent END AS row_before,
           CASE WHEN t.action = 'update' THEN
             CASE WHEN t.not_sent_before IS NULL OR t.not_sent_before && coalesce(audited.key_columns, '{}') THEN NULL
                  ELSE audit_cdc_internal.key_before(t.old_values, t.new_values, t.record_pks, t.key_now, audited) END
           END AS key_before,
           t.commit_lsn < lag(t.commit_lsn) OVER change AND t.commit_timestamp > lag(t.commit_timestamp) OVER change + interval '1 s'
             AND t.id > lag(t.id) OVER change AS runs_backwards
    FROM told AS t
    WINDOW change AS (PARTITION BY t.commit_lsn IS NULL ORDER BY t.commit_timestamp, t.commit_lsn, t.commit_idx, t.id)
  ), runs AS (
    SELECT k.*, 1 + count(*) FILTER (WHERE k.runs_backwards) OVER (ORDER BY k.commit_timestamp, k.commit_lsn, k.commit_idx, k.id) AS run FROM known AS k
  ), placed AS (
    SELECT r.*, coalesce(r.commit_lsn, max(r.commit_lsn) OVER (PARTITION BY r.run ORDER BY r.commit_timestamp RANGE UNBOUNDED PRECEDING), 0) AS lsn,
           coalesce(CASE WHEN r.action <> 'read' THEN r.commit_idx END, 2147483647) AS idx
    FROM runs AS r
  ), counted AS (
    SELECT p.*, count(*) FILTER (WHERE p.action = 'truncate') OVER (ORDER BY p.run, p.lsn, p.idx, p.commit_timestamp, p.id) AS truncates FROM placed AS p
  )
  SELECT c.id, c.run::integer, c.lsn, c.idx, c.commit_lsn IS NOT NULL, c.truncates::integer, c.commit_timestamp, e.action, c.record_id, e.key, e.other_key,
         c.row_before, c.new_values - c.not_sent, CASE WHEN c.action = 'delete' THEN c.not_sent ELSE c.not_sent_before END, c.not_sent, c.left_as_they_were, c.old_values,
         c.username, c.source, c.request_id, c.metadata
  FROM counted AS c
  CROSS JOIN LATERAL (SELECT c.action, CASE WHEN c.action <> 'truncate' THEN c.key_now END AS key, c.key_before AS other_key
                      UNION ALL SELECT 'moved', c.key_before, c.key_now WHERE c.key_before <> c.key_now) AS e
  ORDER BY c.run, c.lsn, c.idx, c.commit_timestamp, c.id, e.action = 'moved' DESC;
END
$$;

-- What is known of a record at a position: the events of its key up to there, in order.
CREATE TYPE audit_cdc_internal.state AS (
  alive boolean, -- null: unknown
  known jsonb,
  unknown text[],
  by_change boolean, -- false: only reads without position tell of it
  run integer,
  truncates integer,
  event_id bigint -- the last one
);

-- Does what is known of a row contradict what a change says that it was? A column may have got another type meanwhile.
CREATE FUNCTION audit_cdc_internal.contradicts(known jsonb, before jsonb) RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN EXISTS (SELECT FROM jsonb_each(before) AS b WHERE known ? b.key AND known -> b.key <> b.value AND known ->> b.key IS DISTINCT FROM before ->> b.key);

CREATE FUNCTION audit_cdc_internal.next_state(state audit_cdc_internal.state, event audit_cdc_internal.event) RETURNS audit_cdc_internal.state
  LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  alive boolean := state.alive;
  known jsonb := CASE WHEN state.alive THEN state.known ELSE '{}' END;
  filled jsonb;
BEGIN
  IF state.run <> event.run THEN
    state := NULL;
    alive := NULL;
    known := '{}';
  ELSIF state.truncates < event.truncates THEN
    alive := false;
    known := '{}';
    state.by_change := true;
  ELSIF state.by_change AND audit_cdc_internal.contradicts(known, event.before) THEN
    known := '{}'; -- the log misses a change
  END IF;
  CASE
    WHEN event.action IN ('delete', 'moved', 'truncate') THEN
      RETURN ROW(false, NULL, '{}', true, event.run, event.truncates, event.id)::audit_cdc_internal.state;
    WHEN event.action = 'read' AND NOT event.is_placed AND state.by_change THEN
      -- fills only what no change says
      IF alive THEN
        filled := event.after - ARRAY(SELECT jsonb_object_keys(known));
        state.known := known || filled;
        state.unknown := ARRAY(SELECT u FROM unnest(state.unknown) AS u WHERE NOT filled ? u);
      ELSE
        state.alive := alive;
      END IF;
      state.truncates := event.truncates;
      RETURN state;
    ELSE
      filled := (SELECT coalesce(jsonb_object_agg(c, known -> c), '{}') FROM unnest(CASE event.action WHEN 'read' THEN event.unknown ELSE event.carried END) AS c WHERE known ? c);
      RETURN ROW(true, event.after || filled, ARRAY(SELECT u FROM unnest(event.unknown) AS u WHERE NOT filled ? u), event.is_placed,
                 event.run, event.truncates, event.id)::audit_cdc_internal.state;
  END CASE;
END
$$;

CREATE AGGREGATE audit_cdc_internal.state_after(audit_cdc_internal.event) (SFUNC = audit_cdc_internal.next_state, STYPE = audit_cdc_internal.state);
