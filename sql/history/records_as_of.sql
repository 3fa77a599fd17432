-- One row for each record that the log knows of: as it was at a moment, or why nobody can tell.

-- Rows without key are told apart by what is in them: each change takes one away, brings one, or both.
CREATE FUNCTION audit_cdc_internal.keyless_rows(
    past audit_cdc_internal.event[], later audit_cdc_internal.event[], here integer,
    OUT record_id text, OUT is_alive boolean, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH events AS (
    SELECT e.*
    FROM (
      SELECT p.*, true AS is_past
      FROM unnest(past) AS p
      UNION ALL
      SELECT l.*, false
      FROM unnest(later) AS l
    ) AS e
    WHERE e.action NOT IN ('truncate', 'complete')
      AND e.run = here
      AND e.truncates = (SELECT coalesce(max(n.truncates), 0) FROM unnest(past) AS n)
  ), doubts AS (
    SELECT CASE
      WHEN EXISTS (
        SELECT FROM events AS e
        WHERE e.is_past
          AND e.action IN ('update', 'delete')
          AND (e.unknown_before IS NULL OR e.unknown_before <> '{}')
      )
        THEN 'without a key, a change whose old row was not sent may have been of it'
      WHEN (
        SELECT count(DISTINCT c.columns) > 1
        FROM events AS e
        CROSS JOIN LATERAL (VALUES (e.before), (e.after)) AS i(image)
        CROSS JOIN LATERAL (SELECT ARRAY(SELECT c FROM jsonb_object_keys(i.image) AS c ORDER BY c) AS columns) AS c
        WHERE e.is_past AND i.image IS NOT NULL
      )
        OR EXISTS (
          SELECT FROM events AS e
          CROSS JOIN LATERAL (VALUES (e.before), (e.after)) AS i(image)
          CROSS JOIN LATERAL jsonb_each(i.image) AS c
          WHERE e.is_past AND i.image IS NOT NULL AND jsonb_typeof(c.value) IN ('string', 'number', 'boolean')
          GROUP BY c.key
          HAVING count(DISTINCT jsonb_typeof(c.value)) > 1
        )
        THEN 'without a key, rows from before and after a change of the table''s columns cannot be told apart'
    END AS reason
  ), steps AS (
    SELECT x.image, x.number, x.is_read, x.unknown, x.is_past,
           sum(x.number) OVER (PARTITION BY x.image ORDER BY x.lsn, x.idx, x.id, x.number DESC) AS there
    FROM (
      SELECT e.after AS image, 1 AS number, e.action = 'read' AS is_read, e.unknown, e.is_past, e.lsn, e.idx, e.id
      FROM events AS e
      WHERE e.after IS NOT NULL
      UNION ALL
      SELECT e.before, -1, false, NULL, e.is_past, e.lsn, e.idx, e.id
      FROM events AS e
      WHERE e.before IS NOT NULL
    ) AS x
  ), counted AS (
    SELECT
      s.image,
      coalesce(sum(s.number) FILTER (WHERE s.is_past), 0) - least(min(s.there) FILTER (WHERE s.is_past), 0) AS number,
      -- were there before the log begins
      least(min(s.there) FILTER (WHERE s.is_past), 0) - least(min(s.there), 0) AS missed,
      bool_or(s.is_read) AS is_read, coalesce(max(s.unknown), '{}') AS unknown
    FROM steps AS s
    GROUP BY s.image
  )
  SELECT NULL, CASE WHEN d.reason IS NULL THEN true END, c.image, CASE WHEN d.reason IS NULL THEN c.unknown END,
         d.reason
  FROM counted AS c
  CROSS JOIN LATERAL generate_series(1, c.number)
  CROSS JOIN doubts AS d
  WHERE NOT c.is_read
  UNION ALL
  SELECT
    NULL, NULL, c.image, NULL,
    CASE
      WHEN c.is_read THEN 'without a key, a backfilled row cannot be told from others'
      ELSE 'the log has no insert of it up to then'
    END
  FROM counted AS c
  CROSS JOIN LATERAL generate_series(1, CASE WHEN c.is_read THEN 1 ELSE c.missed END)
  UNION ALL
  SELECT NULL, NULL, NULL, NULL, 'the source was restored since: positions ran backwards'
  FROM unnest(past) AS e
  WHERE e.run < here AND e.after IS NOT NULL;
END;

-- A stray is a change that does not tell its old key, where the log does not show that the row had the new one: any
-- row of the table may have been it. It leaves that in doubt for all rows of which no later change tells, so that
-- one stray makes others.
CREATE FUNCTION audit_cdc_internal.next_stray(last_stray bigint[], place bigint[], last_seen bigint[]) RETURNS bigint[]
  LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN CASE WHEN last_seen IS NULL OR last_seen < last_stray THEN place ELSE last_stray END;
END
$$;

-- Of places (run, lsn, idx) of changes that do not tell their old key, in order; last_seen: where the log shows
-- last before it that there is a row with the new one.
CREATE AGGREGATE audit_cdc_internal.last_stray(place bigint[], last_seen bigint[]) (
  SFUNC = audit_cdc_internal.next_stray, STYPE = bigint[]);

CREATE FUNCTION audit_cdc_internal.of_any_row(event audit_cdc_internal.event) RETURNS audit_cdc_internal.event
  LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  event.carried := '{}';
  RETURN event;
END
$$;

-- Was another column the key when the record was last changed? The key that the log has is in the row then, but not
-- where the key is now.
CREATE FUNCTION audit_cdc_internal.has_former_key(known jsonb, record_key text, audited audit_cdc_internal.audited)
  RETURNS boolean
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT known ?& audited.key_columns
      AND audit_cdc_internal.key_in(known, audited) <> record_key
      AND EXISTS (SELECT FROM jsonb_each_text(known) AS k WHERE k.value = record_key);
END;

-- Is a moment before the first gap in which a record may have ended whose last event is known? Where no gap was
-- noted, nobody can tell.
CREATE FUNCTION audit_cdc_internal.is_before_gap(
    audited audit_cdc_internal.audited, last_lsn bigint, at timestamptz, lsn pg_lsn)
  RETURNS boolean
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(
    (
      SELECT CASE WHEN lsn IS NOT NULL THEN lsn < g.from_lsn AND g.reason <> 'continued' ELSE at <= g.from_time END
      FROM audit_cdc_internal.gaps AS g
      LEFT JOIN audit_cdc_internal.gap_ends AS e ON e.gap_id = g.id
      WHERE g.database_id = audited.database_id
        AND (g.relation IS NULL OR (g.table_schema, g.table_name) = (audited.table_schema, audited.table_name))
        AND (
          e.to_lsn IS NULL
          OR e.to_lsn > '0/0'::pg_lsn + greatest(
            last_lsn - audited.positions_before[cardinality(audited.positions_before)], 0))
      ORDER BY g.from_lsn
      LIMIT 1
    ),
    false);
END;

-- One row for each record that the log knows of: as it was at the position.
CREATE FUNCTION audit_cdc_internal.records_as_of(
    audited audit_cdc_internal.audited, at_time timestamptz, at_lsn pg_lsn, of_key text,
    OUT record_id text, OUT is_alive boolean, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH events AS MATERIALIZED (
    SELECT e.event, (e.event).record_key, (e.event).run, (e.event).lsn, (e.event).idx, (e.event).commit_timestamp,
           (e.event).id, (e.event).action, (e.event).is_placed, (e.event).other_key, (e.event).truncates, e.is_past,
           e.here, ARRAY[(e.event).run, (e.event).lsn, (e.event).idx] AS place
    FROM audit_cdc_internal.events_as_of(audited, at_time, at_lsn, of_key) AS e
  ), untold AS (
    SELECT w.*
    FROM (
      SELECT
        s.id, s.place, s.is_past, s.action, s.record_key, s.other_key,
        CASE
          WHEN lag(s.action) OVER key NOT IN ('delete', 'moved', 'complete')
            AND lag(s.truncates) OVER key = s.truncates
            AND lag(s.run) OVER key = s.run
            THEN lag(s.place) OVER key
        END AS last_seen
      FROM events AS s
      WINDOW key AS (
        PARTITION BY s.record_key ORDER BY s.run, s.lsn, s.idx, s.commit_timestamp, s.id, s.action = 'moved' DESC)
    ) AS w
    WHERE w.action = 'update' AND w.other_key IS NULL AND w.record_key <> ''
      OR w.action = 'delete' AND coalesce(w.record_key, '') = ''
  ), strays AS (
    SELECT u.id, u.place, u.is_past
    FROM (
      SELECT
        u.*,
        audit_cdc_internal.last_stray(u.place, CASE WHEN u.action = 'update' THEN u.last_seen END) OVER (
          ORDER BY u.place, u.id) AS last_stray
      FROM untold AS u
    ) AS u
    WHERE u.last_stray = u.place
  ), doubt AS (
    SELECT max(s.place) FILTER (WHERE s.is_past) AS since, min(s.place) FILTER (WHERE NOT s.is_past) AS until
    FROM strays AS s
  ), past AS (
    SELECT
      s.record_key,
      audit_cdc_internal.state_after(
        CASE WHEN r.id IS NULL THEN s.event ELSE audit_cdc_internal.of_any_row(s.event) END ORDER BY s.run, s.lsn,
        s.idx, s.commit_timestamp, s.id, s.action = 'moved' DESC) AS state,
      max(s.place) AS last_place
    FROM events AS s
    LEFT JOIN strays AS r ON r.id = s.id
    WHERE s.is_past AND s.record_key IS NOT NULL
    GROUP BY s.record_key
  ), next AS (
    SELECT DISTINCT ON (s.record_key) s.record_key, s.event, s.run, s.truncates, s.place
    FROM events AS s
    WHERE NOT s.is_past AND s.record_key IS NOT NULL AND (s.is_placed OR s.action <> 'read')
    ORDER BY s.record_key, s.run, s.lsn, s.idx, s.id, s.action = 'moved' DESC
  ), first_reads AS (
    SELECT DISTINCT s.record_key
    FROM events AS s
    WHERE NOT s.is_past AND s.action = 'read' AND s.record_key IS NOT NULL
  ), table_now AS (
    SELECT coalesce(max(s.truncates) FILTER (WHERE s.is_past), 0) AS truncates, max(s.here) AS run FROM events AS s
  ), judged AS (
    SELECT
      coalesce(p.record_key, n.record_key, f.record_key) AS record_key, p.state AS state, n.event AS event,
      CASE
        WHEN (p.state).run < t.run THEN 'the source was restored since: positions ran backwards'
        WHEN (p.state).run IS NOT NULL
          AND (p.state).alive IS NULL
          AND (p.state).run = t.run
          AND (p.state).truncates = t.truncates
          THEN 'two rows had this key at a time'
        WHEN p.state IS NULL AND n.event IS NULL THEN 'only a later backfill tells of it'
        WHEN p.state IS NULL
          AND ((n.event).action = 'insert' OR (n.event).action = 'update' AND (n.event).other_key <> n.record_key)
          AND n.run = t.run
          AND n.truncates = t.truncates
          THEN CASE WHEN d.until < n.place THEN 'a change that does not tell its old key may have been of it' END
        WHEN p.state IS NULL THEN 'the log has no insert or backfill of it up to then'
        WHEN (p.state).truncates < t.truncates THEN NULL
        WHEN (n.event).id IS NOT NULL
          AND n.run = t.run
          AND n.truncates = t.truncates
          AND CASE
            WHEN (p.state).alive
              THEN (n.event).action = 'insert'
                OR (n.event).action = 'update' AND (n.event).other_key <> n.record_key
                OR (p.state).by_change
                  AND audit_cdc_internal.contradicts(
                    (p.state).known,
                    CASE (n.event).action WHEN 'read' THEN (n.event).after ELSE (n.event).before END)
            ELSE (n.event).action IN ('delete', 'moved', 'read')
              OR (n.event).action = 'update' AND (n.event).other_key = n.record_key
          END
          THEN 'a gap: its next change does not follow'
        WHEN (p.state).alive
          AND (n.event).action = 'complete'
          AND n.truncates = t.truncates
          AND NOT audit_cdc_internal.is_before_gap(audited, p.last_place[2], at_time, at_lsn)
          THEN 'a gap: a later backfill did not meet it'
        WHEN (p.state).alive AND (p.state).has_left AND (p.state).truncates = t.truncates
          THEN 'it left the rows that are published'
        WHEN (p.state).alive AND p.last_place < d.since
          THEN 'a change that does not tell its old key may have been of it'
        WHEN (p.state).alive
          AND (p.state).known ->> audited.key_columns[1] <> p.record_key
          AND audit_cdc_internal.has_former_key((p.state).known, p.record_key, audited)
          THEN 'the table has another key by now'
      END AS reason,
      (p.state).run IS NOT NULL AND (p.state).alive AND (p.state).truncates = t.truncates AS is_alive
    FROM past AS p
    FULL JOIN next AS n USING (record_key)
    FULL JOIN first_reads AS f USING (record_key)
    CROSS JOIN table_now AS t
    CROSS JOIN doubt AS d
    WHERE of_key IS NULL
      OR coalesce(p.record_key, n.record_key, f.record_key) = audit_cdc_internal.spelled(of_key, audited)
  )
  SELECT j.record_key, CASE WHEN j.reason IS NULL THEN coalesce(j.is_alive, false) END,
         CASE WHEN j.is_alive THEN (j.state).known END,
         CASE WHEN j.reason IS NULL AND j.is_alive THEN (j.state).unknown END, j.reason
  FROM judged AS j
  UNION ALL
  SELECT *
  FROM audit_cdc_internal.keyless_rows(
    ARRAY(
      SELECT e.event
      FROM events AS e
      WHERE e.is_past AND e.record_key IS NULL AND of_key IS NULL
    ),
    ARRAY(
      SELECT e.event
      FROM events AS e
      WHERE NOT e.is_past AND e.record_key IS NULL AND of_key IS NULL
    ),
    (SELECT max(e.here) FROM events AS e));
END
$$;
