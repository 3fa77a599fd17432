-- The log read as the lives of records: what audit_history, audit_as_of, audit_undo_sql and audit_replay_sql stand
-- on.
--
-- * An event is a change with its place in the order of its database, and with what it tells of its row before and
--   after. What is unknown is left out. An update that gives another key is an event of both: `moved` for the old one.
--   Where a table is dropped or gets another name, there is a truncate: whatever has the name later is another
--   table.
-- * The order is (run, lsn, idx). A read of Sequin's has only its time: it stands after the last commit not later
--   than it.
-- * A run ends where positions run backwards: what committed later, and came later, has no higher position. The
--   source was restored then, and what it has of the run before nobody can tell. Commits may overtake each other by
--   less than a second: that ends no run. Nor do clocks that are set back. Where fewer of these explain what came in
--   any order, no source was restored.
-- * `complete` says that a backfill has met every row there is. Each record of which nothing is told since it began
--   ends there, by an event of its own.

CREATE TYPE audit_cdc_internal.event AS (
  id bigint, -- in audit_logs; below zero: that in audit_schema_changes of a table that lost the name
  run integer,
  lsn bigint,
  idx integer,
  is_placed boolean, -- false: a read without position of its own
  truncates integer, -- how often the table was truncated up to here
  commit_timestamp timestamptz,
  action text, -- as in audit_logs, or moved; complete: it had ended before
  record_id text,
  record_key text, -- null: a truncate, a whole table's complete, or a table without key
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
  metadata jsonb,
  database_id text,
  commit_lsn bigint, -- as in audit_logs; lsn counts on from the databases before
  has_left boolean -- by it the row left those that a row filter publishes: later changes of it are not captured
);

-- record_key as the values of a row give it.
CREATE FUNCTION audit_cdc_internal.key_in(image jsonb, audited audit_cdc_internal.audited) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT CASE cardinality(k.pks)
    WHEN 1 THEN audit_cdc_internal.record_key(k.pks[1], NULL, audited.key_types)
    ELSE audit_cdc_internal.record_key(array_to_json(k.pks)::text, k.pks, audited.key_types)
  END
  FROM (
    SELECT ARRAY(
      SELECT coalesce(image -> c -> '' ->> 0, image ->> c) -- exactly, where it is told so
      FROM unnest(audited.key_columns) WITH ORDINALITY AS u(c, place)
      ORDER BY place
    ) AS pks
  ) AS k;
END;

-- record_key before an update that may have changed it; null: unknown.
CREATE FUNCTION audit_cdc_internal.key_before(
    old_values jsonb, new_values jsonb, record_pks text[], record_key text, audited audit_cdc_internal.audited)
  RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT CASE
    WHEN audited.key_columns IS NULL OR NOT new_values ?& audited.key_columns
      THEN
        -- nobody can tell the key's columns, or they were others then: nothing that was changed is in the key now
        CASE
          WHEN NOT EXISTS (
            SELECT FROM jsonb_each_text(new_values) AS n
            WHERE old_values ? n.key AND n.value = ANY (record_pks)
          )
            THEN record_key
        END
    -- where the row spells the key otherwise, also the old one would be found under another name
    WHEN audit_cdc_internal.key_in(new_values, audited) = record_key
      THEN audit_cdc_internal.key_in(new_values || old_values, audited)
  END;
END;

-- When tables lost this name, as entries that truncate them.
CREATE FUNCTION audit_cdc_internal.losses_of(audited audit_cdc_internal.audited)
  RETURNS SETOF audit_cdc_internal.entries
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT r.*
  FROM audit_cdc_internal.schema_changes AS s
  JOIN audit_cdc_internal.schema_change_positions AS p ON p.id = s.id
  CROSS JOIN LATERAL jsonb_populate_record(
    NULL::audit_cdc_internal.entries,
    jsonb_build_object(
      'id', -s.id, 'database_id', s.database_id, 'table_schema', s.before -> 'schema',
      'table_name', s.before -> 'name', 'action', 'truncate', 'commit_lsn', p.commit_lsn,
      'commit_idx', p.commit_idx, 'commit_timestamp', p.commit_timestamp,
      'username', audit_cdc_internal.lifted(p.annotations, 'username'),
      'source', audit_cdc_internal.lifted(p.annotations, 'source'),
      'request_id', audit_cdc_internal.lifted(p.annotations, 'request_id'),
      'metadata', p.annotations -> 'metadata')) AS r
  WHERE s.object_type = 'table'
    AND s.database_id = ANY (audited.databases)
    AND (
      s.after IS NULL
      OR s.before ->> 'name' <> s.after ->> 'name'
      OR s.before ->> 'schema' <> s.after ->> 'schema')
    AND s.before ->> 'schema' = audited.table_schema
    AND s.before ->> 'name' = audited.table_name;
END;

-- Entries from which the events of a table are made. With record_ids: those of these records, the truncates, and what
-- moved away from any key. Also the entry without key that has the id lone.
CREATE FUNCTION audit_cdc_internal.entries_of(
    audited audit_cdc_internal.audited, record_ids text[], lone bigint, was_lost boolean)
  RETURNS SETOF audit_cdc_internal.entries
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT u.*
  FROM (
    SELECT l.*
    FROM audit_cdc_internal.entries AS l
    WHERE l.database_id = ANY (audited.databases)
      AND (l.table_schema, l.table_name) = (audited.table_schema, audited.table_name)
      AND record_ids IS NULL
    UNION ALL
    SELECT l.*
    FROM audit_cdc_internal.entries AS l
    WHERE l.database_id = ANY (audited.databases)
      AND (l.table_schema, l.table_name) = (audited.table_schema, audited.table_name)
      AND l.record_id = ANY (record_ids)
    UNION ALL
    SELECT l.*
    FROM audit_cdc_internal.entries AS l
    WHERE l.database_id = ANY (audited.databases)
      AND (l.table_schema, l.table_name) = (audited.table_schema, audited.table_name)
      AND record_ids IS NOT NULL
      AND l.record_id IS NULL
      AND (l.action IN ('truncate', 'complete') OR l.id = lone)
    UNION ALL
    SELECT l.*
    FROM audit_cdc_internal.entries AS l
    WHERE l.database_id = ANY (audited.databases)
      AND (l.table_schema, l.table_name) = (audited.table_schema, audited.table_name)
      AND record_ids IS NOT NULL
      AND l.record_id <> ALL (record_ids)
      AND l.may_change_key
  ) AS u
  WHERE NOT audited.is_own
    OR u.origin <> 'ingest' -- whatever was delivered as this database's is forged
  UNION ALL
  SELECT d.*
  FROM audit_cdc_internal.losses_of(audited) AS d
  WHERE was_lost; -- false: left out of the plan
END;

-- Where each of them stands.
CREATE FUNCTION audit_cdc_internal.places_of(
    audited audit_cdc_internal.audited, record_ids text[], lone bigint, was_lost boolean)
  RETURNS TABLE (id bigint, run integer, lsn bigint, idx integer, truncates integer)
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH positioned AS NOT MATERIALIZED (
    SELECT e.id, e.commit_timestamp, e.commit_idx, e.action,
           e.commit_lsn + audited.positions_before[array_position(audited.databases, e.database_id)] AS commit_lsn
    FROM audit_cdc_internal.entries_of(audited, record_ids, lone, was_lost) AS e
  ), changes AS (
    SELECT
      e.id, e.commit_timestamp, e.commit_lsn, CASE WHEN e.action <> 'read' THEN e.commit_idx END AS commit_idx,
      e.action = 'truncate' AS truncates,
      audit_cdc_internal.runs_backwards(
        e.commit_lsn, e.commit_timestamp, e.id, lag(e.commit_lsn) OVER place, lag(e.commit_timestamp) OVER place,
        lag(e.id) OVER place) AS runs_backwards
    FROM positioned AS e
    WINDOW place AS (
      PARTITION BY e.commit_lsn IS NULL ORDER BY e.commit_timestamp, e.commit_lsn, e.commit_idx, e.id)
  ), clock AS NOT MATERIALIZED (
    SELECT count(*) FILTER (WHERE w.is_restored) > count(*) FILTER (WHERE w.is_set_back) AS explains
    FROM (
      SELECT
        audit_cdc_internal.runs_backwards(
          p.commit_lsn, p.commit_timestamp, p.id, lag(p.commit_lsn) OVER by_time,
          lag(p.commit_timestamp) OVER by_time, lag(p.id) OVER by_time) AS is_restored,
        p.commit_timestamp < lag(p.commit_timestamp) OVER by_position - audit_cdc_internal.overtaking() AS is_set_back
      FROM positioned AS p
      WHERE p.commit_lsn IS NOT NULL
      WINDOW by_time AS (ORDER BY p.commit_timestamp, p.commit_lsn, p.commit_idx, p.id),
        by_position AS (ORDER BY p.commit_lsn, p.commit_idx, p.id)
    ) AS w
  ), runs AS (
    SELECT
      c.*,
      1 + count(*) FILTER (WHERE c.runs_backwards AND NOT (SELECT k.explains FROM clock AS k)) OVER (
        ORDER BY c.commit_timestamp, c.commit_lsn, c.commit_idx, c.id) AS run
    FROM changes AS c
  ), placed AS (
    SELECT
      r.id, r.truncates, r.commit_timestamp, r.run,
      coalesce(
        r.commit_lsn,
        max(r.commit_lsn) OVER (PARTITION BY r.run ORDER BY r.commit_timestamp RANGE UNBOUNDED PRECEDING), 0) AS lsn,
      coalesce(r.commit_idx, 2147483647) AS idx
    FROM runs AS r
  )
  SELECT p.id, p.run::integer, p.lsn, p.idx,
         (count(*) FILTER (WHERE p.truncates) OVER (ORDER BY p.run, p.lsn, p.idx, p.commit_timestamp, p.id))::integer
  FROM placed AS p;
END;

-- Events, but for the ends that complete backfills tell.
CREATE FUNCTION audit_cdc_internal.events_of(
    audited audit_cdc_internal.audited, record_ids text[], lone bigint, was_lost boolean)
  RETURNS SETOF audit_cdc_internal.event
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH told AS (
    SELECT
      l.*, p.run, p.lsn, p.idx, p.truncates,
      CASE
        WHEN audited.key_types IS NULL THEN l.record_key
        ELSE audit_cdc_internal.record_key(
          l.record_id, CASE WHEN cardinality(l.record_pks) > 1 THEN l.record_pks END, audited.key_types)
      END AS key_now,
      coalesce(
        l.unknown_columns, audit_cdc_internal.columns_not_told(l.action, l.old_values, l.new_values, l.notes)
      ) AS not_sent,
      CASE WHEN l.action = 'update' AND l.unknown_old_columns IS NULL AND l.old_values <> '{}'
             THEN audit_cdc_internal.masked_columns(l.notes)
           ELSE l.unknown_old_columns END AS not_sent_before
    FROM audit_cdc_internal.entries_of(audited, record_ids, lone, was_lost) AS l
    JOIN audit_cdc_internal.places_of(audited, record_ids, lone, was_lost) AS p ON p.id = l.id
    OFFSET 0 -- each value is worked out once
  ), known AS (
    SELECT
      t.*,
      CASE
        WHEN t.action = 'update' AND t.not_sent <> '{}'
          THEN ARRAY(SELECT m FROM unnest(t.not_sent) AS m WHERE t.new_values -> m = '"unchanged_toast"')
        ELSE '{}'
      END AS left_as_they_were,
      CASE
        WHEN t.action = 'update'
          THEN CASE WHEN t.not_sent_before IS NULL THEN '{}'
                    ELSE (t.new_values - t.not_sent || t.old_values) - t.not_sent_before END
        WHEN t.action = 'delete' THEN t.old_values - t.not_sent
      END AS row_before,
      CASE
        WHEN t.action <> 'update' OR t.not_sent_before IS NULL
          OR t.not_sent_before && coalesce(audited.key_columns, '{}') THEN NULL
        WHEN t.may_change_key IS NOT TRUE THEN t.key_now
        ELSE audit_cdc_internal.key_before(t.old_values, t.new_values, t.record_pks, t.key_now, audited)
      END AS key_before
    FROM told AS t
    OFFSET 0
  )
  SELECT k.id, k.run, k.lsn, k.idx, k.commit_lsn IS NOT NULL, k.truncates, k.commit_timestamp, e.action,
         k.record_id, e.key, e.other_key, k.row_before, k.new_values - k.not_sent,
         CASE WHEN k.action = 'delete' THEN k.not_sent ELSE k.not_sent_before END, k.not_sent, k.left_as_they_were,
         k.old_values, k.username, k.source, k.request_id, k.metadata, k.database_id, k.commit_lsn,
         e.action = 'update' AND coalesce(k.notes ->> 'row_filter' = 'left', false)
  FROM known AS k
  CROSS JOIN LATERAL (
    SELECT k.action, CASE WHEN k.action NOT IN ('truncate', 'complete') THEN k.key_now END AS key,
           k.key_before AS other_key
    UNION ALL
    SELECT 'moved', k.key_before, k.key_now
    WHERE k.key_before <> k.key_now
  ) AS e;
END;

-- Of a table, in order; record_ids and lone as of entries_of(). The caller plans it by plan_cache_mode: a table's
-- as a custom plan, those of records as a generic one.
CREATE FUNCTION audit_cdc_internal.events(
    audited audit_cdc_internal.audited, record_ids text[] DEFAULT NULL, lone bigint DEFAULT NULL,
    with_ends boolean DEFAULT true)
  RETURNS SETOF audit_cdc_internal.event
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  was_lost CONSTANT boolean := EXISTS (SELECT FROM audit_cdc_internal.losses_of(audited));
BEGIN
  IF with_ends
    AND EXISTS (
      SELECT FROM audit_cdc_internal.log AS l
      WHERE l.audited_table = ANY (audited.numbers)
        AND l.record_id IS NULL
        AND l.action = 'complete'
        AND (NOT audited.is_own OR l.origin <> 'i')
    ) THEN
    RETURN QUERY SELECT e.* FROM audit_cdc_internal.events_and_ends(audited, record_ids, lone) AS e;
    RETURN;
  END IF;
  RETURN QUERY
  SELECT e.*
  FROM audit_cdc_internal.events_of(audited, record_ids, lone, was_lost) AS e
  ORDER BY e.run, e.lsn, e.idx, e.commit_timestamp, e.id, e.action = 'moved' DESC;
END
$$;

-- The same where backfills are complete: a record ends at the first that began after its last event, and was
-- complete before its next.
CREATE FUNCTION audit_cdc_internal.events_and_ends(audited audit_cdc_internal.audited, record_ids text[], lone bigint)
  RETURNS SETOF audit_cdc_internal.event LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH events AS MATERIALIZED (
    SELECT
      e.*, e AS event, e.action = 'moved' AS is_moved,
      lead(ARRAY[e.run, e.lsn, e.idx]) OVER (
        PARTITION BY e.record_key ORDER BY e.run, e.lsn, e.idx, e.commit_timestamp, e.id,
        e.action = 'moved' DESC) AS next_place
    FROM audit_cdc_internal.events(audited, record_ids, lone, false) AS e
  ), completes AS MATERIALIZED (
    SELECT
      c.event, ARRAY[c.run, c.lsn, c.idx] AS place, c.truncates,
      CASE
        WHEN jsonb_typeof(c.metadata -> 'began_lsn') = 'number'
          THEN ARRAY[
            c.run, least(greatest((c.metadata -> 'began_lsn')::numeric + c.lsn - c.commit_lsn, 0), c.lsn)::bigint]
      END AS began
    FROM events AS c
    WHERE c.action = 'complete'
  ), ends AS (
    SELECT ROW(
      (c.event).id, (c.event).run, (c.event).lsn, (c.event).idx, true, c.truncates, (c.event).commit_timestamp,
      'complete', e.record_id, e.record_key, NULL,
      (
        SELECT jsonb_object_agg(k, e.after -> k)
        FROM unnest(audited.key_columns) AS k
        WHERE e.after ? k
      ),
      NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, (c.event).metadata, (c.event).database_id,
      (c.event).commit_lsn, false)::audit_cdc_internal.event AS event
    FROM events AS e
    CROSS JOIN LATERAL (
      SELECT c.*
      FROM completes AS c
      WHERE ARRAY[e.run, e.lsn] < c.began
        AND c.truncates = e.truncates
        AND (e.next_place IS NULL OR c.place < e.next_place)
      ORDER BY c.place
      LIMIT 1
    ) AS c
    WHERE e.record_key IS NOT NULL AND e.action NOT IN ('delete', 'moved')
  )
  SELECT (u.event).*
  FROM (SELECT e.event FROM events AS e UNION ALL SELECT e.event FROM ends AS e) AS u
  ORDER BY (u.event).run, (u.event).lsn, (u.event).idx, (u.event).commit_timestamp, (u.event).id,
    (u.event).action = 'moved' DESC;
END;
