-- What a reading of a table at a moment needs to know of its log. What becomes of it is told in Rust (src/history).

-- Why rows without key cannot be told apart; null: they can. In mixed_columns JSON is of several types anyway: of json,
-- or of numbers that may be NaN.
CREATE FUNCTION audit_cdc_internal.keyless_doubt(past audit_cdc_internal.event[], mixed_columns text[]) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT CASE
    WHEN EXISTS (
      SELECT FROM unnest(past) AS e
      WHERE e.action IN ('update', 'delete')
        AND (e.unknown_before IS NULL OR e.unknown_before <> '{}')
    )
      THEN 'without a key, a change whose old row was not sent may have been of it'
    WHEN (
      SELECT count(DISTINCT c.columns) > 1
      FROM unnest(past) AS e
      CROSS JOIN LATERAL (VALUES (e.before), (e.after)) AS i(image)
      CROSS JOIN LATERAL (SELECT ARRAY(SELECT c FROM jsonb_object_keys(i.image) AS c ORDER BY c) AS columns) AS c
      WHERE i.image IS NOT NULL
    )
      OR EXISTS (
        SELECT FROM unnest(past) AS e
        CROSS JOIN LATERAL (VALUES (e.before), (e.after)) AS i(image)
        CROSS JOIN LATERAL jsonb_each(i.image) AS c
        WHERE i.image IS NOT NULL
          AND jsonb_typeof(c.value) IN ('string', 'number', 'boolean')
          AND c.key <> ALL (mixed_columns)
        GROUP BY c.key
        HAVING count(DISTINCT jsonb_typeof(c.value)) > 1
      )
      THEN 'without a key, rows from before and after a change of the table''s columns cannot be told apart'
  END;
END;

-- Rows without key are told apart by what is in them: each change takes one away, brings one, or both.
CREATE FUNCTION audit_cdc_internal.keyless_rows(
    past audit_cdc_internal.event[], later audit_cdc_internal.event[], here integer, mixed_columns text[],
    OUT is_alive boolean, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH events AS (
    SELECT e.*
    FROM (
      SELECT p.*, p AS event, true AS is_past
      FROM unnest(past) AS p
      UNION ALL
      SELECT l.*, l, false
      FROM unnest(later) AS l
    ) AS e
    WHERE e.action NOT IN ('truncate', 'complete')
      AND e.run = here
      AND e.truncates = (SELECT coalesce(max(n.truncates), 0) FROM unnest(past) AS n)
  ), doubts AS (
    SELECT audit_cdc_internal.keyless_doubt(array_agg(e.event), mixed_columns) AS reason
    FROM events AS e WHERE e.is_past
  ), steps AS (
    SELECT x.image, x.number, x.is_read, x.unknown, x.is_past,
           sum(x.number) OVER (PARTITION BY x.image ORDER BY x.lsn, x.idx, x.id, x.number DESC) AS there
    FROM (
      SELECT e.after AS image, 1 AS number, e.action = 'read' AS is_read, e.unknown, e.is_past, e.lsn, e.idx, e.id
      FROM events AS e WHERE e.after IS NOT NULL
      UNION ALL
      SELECT e.before, -1, false, NULL, e.is_past, e.lsn, e.idx, e.id
      FROM events AS e WHERE e.before IS NOT NULL
    ) AS x
  ), counted AS (
    SELECT
      s.image,
      coalesce(sum(s.number) FILTER (WHERE s.is_past), 0) - least(min(s.there) FILTER (WHERE s.is_past), 0) AS number,
      -- were there before the log begins
      least(min(s.there) FILTER (WHERE s.is_past), 0) - least(min(s.there), 0) AS missed,
      bool_or(s.is_read) AS is_read, coalesce(max(s.unknown), '{}') AS unknown
    FROM steps AS s GROUP BY s.image
  )
  SELECT CASE WHEN d.reason IS NULL THEN true END, c.image, CASE WHEN d.reason IS NULL THEN c.unknown END,
         d.reason
  FROM counted AS c
  CROSS JOIN LATERAL generate_series(1, c.number)
  CROSS JOIN doubts AS d
  WHERE NOT c.is_read
  UNION ALL
  SELECT
    NULL, c.image, NULL,
    CASE
      WHEN c.is_read THEN 'without a key, a backfilled row cannot be told from others'
      ELSE 'the log has no insert of it up to then'
    END
  FROM counted AS c
  CROSS JOIN LATERAL generate_series(1, CASE WHEN c.is_read THEN 1 ELSE c.missed END)
  UNION ALL
  SELECT NULL, NULL, NULL, 'the source was restored since: positions ran backwards'
  FROM unnest(past) AS e
  WHERE e.run < here AND e.after IS NOT NULL;
END;

-- A stray is a change that does not tell its old key, where the log does not show that the row had the new one. Any
-- row of the table may have been it. It leaves that in doubt for all rows of which no later change tells, so that
-- one stray makes others.
CREATE FUNCTION audit_cdc_internal.next_stray(last_stray bigint[], place bigint[], last_seen bigint[]) RETURNS bigint[]
  LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN CASE WHEN last_seen IS NULL OR last_seen < last_stray THEN place ELSE last_stray END;
END
$$;

-- Of places (run, lsn, idx) of changes that do not tell their old key, in order. last_seen: where the log shows
-- last before it that there is a row with the new one.
CREATE AGGREGATE audit_cdc_internal.last_stray(place bigint[], last_seen bigint[]) (
  SFUNC = audit_cdc_internal.next_stray, STYPE = bigint[]);

-- Does an entry leave something to others, or to a description of the table? That is where it stands, what is unknown
-- of its row, or which key the row had before.
CREATE FUNCTION audit_cdc_internal.needs_more(
    commit_lsn bigint, action audit_cdc_internal.action, record_id text, unknown_columns text[],
    unknown_old_columns text[], key_columns text[])
  RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN commit_lsn IS NULL
    OR action <> 'truncate'
      AND action <> 'complete'
      AND (
        record_id IS NULL
        OR unknown_columns IS NULL
        OR action = 'update' AND (unknown_old_columns IS NULL OR unknown_old_columns && key_columns));

-- Does a higher number always stand at a higher position? Then no source was restored.
CREATE AGGREGATE audit_cdc_internal.is_in_order(id bigint, lsn bigint) (
  SFUNC = audit_cdc_internal.next_in_order, STYPE = internal, FINALFUNC = audit_cdc_internal.was_in_order);

-- The log's rows of a table, with their positions and rows as events have them: images are told. record_ids: those of
-- these records, those of no record, and those that may have given a row another key; null: all.
CREATE FUNCTION audit_cdc_internal.log_of(
    numbers integer[], positions_before bigint[], record_ids text[], is_own boolean)
  RETURNS TABLE (
    id bigint, commit_timestamp timestamptz, commit_lsn bigint, lsn bigint, idx integer,
    action audit_cdc_internal.action, record_id text, record_pks text[], old_values jsonb, new_values jsonb,
    after jsonb, unknown_columns text[], carried text[], unknown_old_columns text[], may_change_key boolean,
    has_left boolean, annotations jsonb)
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.id, l.commit_timestamp, l.commit_lsn,
         l.commit_lsn + positions_before[array_position(numbers, l.audited_table)],
         CASE WHEN l.action <> 'read' THEN coalesce(l.commit_idx, 2147483647) ELSE 2147483647 END, l.action,
         l.record_id, coalesce(l.record_pks, ARRAY[l.record_id]), i.old_values, i.new_values,
         CASE WHEN l.unknown_columns = '{}' THEN i.new_values ELSE i.new_values - l.unknown_columns END,
         l.unknown_columns,
         CASE
           WHEN l.action = 'update' AND l.unknown_columns <> '{}'
             THEN ARRAY(SELECT c FROM unnest(l.unknown_columns) AS c WHERE l.new_values -> c = '"unchanged_toast"')
           ELSE '{}'
         END,
         l.unknown_old_columns, l.may_change_key,
         l.action = 'update' AND coalesce(l.notes ->> 'row_filter' = 'left', false), l.annotations
  FROM (
    SELECT * FROM audit_cdc_internal.log AS l WHERE l.audited_table = ANY (numbers) AND record_ids IS NULL
    UNION ALL
    SELECT *
    FROM audit_cdc_internal.log AS l
    WHERE l.audited_table = ANY (numbers) AND record_ids IS NOT NULL AND l.record_id = ANY (record_ids)
    UNION ALL
    SELECT *
    FROM audit_cdc_internal.log AS l
    WHERE l.audited_table = ANY (numbers) AND record_ids IS NOT NULL AND l.record_id IS NULL
    UNION ALL
    SELECT *
    FROM audit_cdc_internal.log AS l
    WHERE l.audited_table = ANY (numbers)
      AND record_ids IS NOT NULL
      AND l.may_change_key
      AND l.record_id <> ALL (record_ids)
  ) AS l
  CROSS JOIN LATERAL (
    SELECT audit_cdc_internal.told_image(l.old_values, l.exact_values, 'old') AS old_values,
           audit_cdc_internal.told_image(l.new_values, l.exact_values, 'new') AS new_values
  ) AS i
  WHERE NOT is_own OR l.origin <> 'i'; -- whatever was delivered as this database's is forged
END;

-- What entries of a table, or of records, tell together. are_plain: each says by itself where it stands and what it
-- tells. next_lsn: the first one behind the moment's last commit that may stand before another one up to then.
CREATE FUNCTION audit_cdc_internal.entries_at(
    audited audit_cdc_internal.audited, numbers integer[], positions_before bigint[], record_ids text[], at_lsn pg_lsn,
    last_lsn bigint, last_id bigint, last_commit timestamptz,
    OUT are_plain boolean, OUT are_in_order boolean, OUT may_move boolean, OUT next_lsn bigint)
  LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_variable
DECLARE
  overtaking CONSTANT interval := audit_cdc_internal.overtaking();
BEGIN
  SELECT
    NOT coalesce(
      bool_or(
        audit_cdc_internal.needs_more(
          l.commit_lsn, l.action, l.record_id, l.unknown_columns, l.unknown_old_columns, audited.key_columns)
        OR l.may_change_key IS TRUE
          AND audit_cdc_internal.key_before(l.old_values, l.new_values, l.record_pks, l.record_id, audited) IS NULL
        -- the moment may be in a run that another table has begun
        OR at_lsn IS NULL
          AND l.lsn > last_lsn
          AND l.id < last_id
          AND l.commit_timestamp < last_commit - overtaking),
      false),
    audit_cdc_internal.is_in_order(l.id, l.lsn), coalesce(bool_or(l.may_change_key), false),
    min(l.lsn) FILTER (WHERE l.lsn > last_lsn AND l.commit_timestamp < last_commit + overtaking)
  INTO are_plain, are_in_order, may_move, next_lsn
  FROM audit_cdc_internal.log_of(numbers, positions_before, record_ids, audited.is_own) AS l;
END
$$;

-- Does the log's own order tell one run, although numbers do not grow with positions?
CREATE FUNCTION audit_cdc_internal.is_one_run(
    numbers integer[], positions_before bigint[], record_ids text[], is_own boolean)
  RETURNS boolean
  LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
BEGIN
  RETURN NOT EXISTS (
    SELECT
    FROM (
      SELECT audit_cdc_internal.runs_backwards(
        l.lsn, l.commit_timestamp, l.id, lag(l.lsn) OVER place, lag(l.commit_timestamp) OVER place,
        lag(l.id) OVER place) AS runs_backwards
      FROM audit_cdc_internal.log_of(numbers, positions_before, record_ids, is_own) AS l
      WINDOW place AS (ORDER BY l.commit_timestamp, l.lsn, l.idx, l.id)
    ) AS r
    WHERE r.runs_backwards
  );
END
$$;

-- How a table, or one record of it, is read as of a moment. is_plain: each entry says by itself where it stands and
-- what it tells, and there is one run. Then the log's own order is that of the events. Otherwise general_events() puts
-- them in order.
CREATE FUNCTION audit_cdc_internal.reading_as_of(
    audited audit_cdc_internal.audited, at_time timestamptz, at_lsn pg_lsn, of_key text, says_unsettled boolean,
    OUT key_columns text[], OUT is_plain boolean, OUT numbers integer[], OUT positions_before bigint[],
    OUT record_ids text[],
    OUT is_own boolean, OUT is_latest boolean, OUT last_lsn bigint, OUT may_move boolean, OUT spelled text)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_variable
DECLARE
  moment record;
  entries record;
BEGIN
  IF of_key IS NOT NULL AND audit_cdc_internal.tells_old_keys(audited, of_key) THEN
    record_ids := audit_cdc_internal.record_ids(audited, of_key);
  END IF;
  SELECT * INTO moment FROM audit_cdc_internal.moment(audited, at_time, at_lsn, record_ids IS NULL);
  IF says_unsettled AND NOT moment.is_settled THEN
    PERFORM audit_cdc_internal.say_unsettled(audited.is_own, moment.last_commit);
  END IF;
  key_columns := audited.key_columns;
  is_own := audited.is_own;
  is_latest := at_time IS NULL AND at_lsn IS NULL;
  spelled := audit_cdc_internal.spelled(of_key, audited);
  SELECT array_agg(t.id), array_agg(d.before)
  INTO numbers, positions_before
  FROM unnest(audited.databases, audited.positions_before) AS d(id, before)
  JOIN audit_cdc_internal.audited_tables AS t ON t.database_id = d.id
  WHERE (t.table_schema, t.table_name) = (audited.table_schema, audited.table_name);
  IF audited.key_types IS NOT NULL
    OR EXISTS (SELECT FROM audit_cdc_internal.losses_of(audited))
    OR EXISTS (SELECT FROM audit_cdc_internal.record_keys AS k WHERE k.audited_table = ANY (numbers)) THEN
    is_plain := false;
    RETURN;
  END IF;
  SELECT e.* INTO entries
  FROM audit_cdc_internal.entries_at(
    audited, numbers, positions_before, record_ids, at_lsn, moment.last_lsn, moment.last_id, moment.last_commit) AS e;
  is_plain := entries.are_plain
    AND (entries.are_in_order OR audit_cdc_internal.is_one_run(numbers, positions_before, record_ids, is_own));
  may_move := entries.may_move;
  last_lsn := moment.last_lsn;
  IF at_time IS NOT NULL AND record_ids IS NOT NULL AND entries.next_lsn IS NOT NULL THEN
    last_lsn := coalesce(
      audit_cdc_internal.furthest_lsn(audited, moment.last_commit, entries.next_lsn), moment.last_lsn);
  END IF;
END
$$;

-- The events of a table, or of one key, a record after the other, and with each: is it past at the moment? Which run
-- is the moment in, and how often was the table emptied up to then? Which strays are next to it?
CREATE FUNCTION audit_cdc_internal.general_events(
    audited audit_cdc_internal.audited, at_time timestamptz, at_lsn pg_lsn, of_key text,
    OUT event audit_cdc_internal.event, OUT is_past boolean, OUT is_stray boolean, OUT here integer,
    OUT truncates integer, OUT last_stray bigint[], OUT next_stray bigint[])
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH events AS MATERIALIZED (
    SELECT e.event, (e.event).record_key, (e.event).run, (e.event).lsn, (e.event).idx, (e.event).commit_timestamp,
           (e.event).id, (e.event).action, (e.event).other_key, (e.event).truncates, e.is_past, e.here,
           ARRAY[(e.event).run, (e.event).lsn, (e.event).idx] AS place
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
  ), now AS (
    SELECT coalesce(max(s.truncates) FILTER (WHERE s.is_past), 0) AS truncates, max(s.here) AS run
    FROM events AS s
  ), doubt AS (
    SELECT max(s.place) FILTER (WHERE s.is_past) AS since, min(s.place) FILTER (WHERE NOT s.is_past) AS until
    FROM strays AS s
  )
  SELECT s.event, s.is_past, s.id IN (SELECT r.id FROM strays AS r), n.run, n.truncates, d.since, d.until
  FROM events AS s
  CROSS JOIN now AS n
  CROSS JOIN doubt AS d
  WHERE s.record_key IS NULL AND of_key IS NULL
    OR s.record_key IS NOT NULL AND (of_key IS NULL OR s.record_key = audit_cdc_internal.spelled(of_key, audited))
  ORDER BY s.record_key COLLATE "C", s.run, s.lsn, s.idx, s.commit_timestamp, s.id, s.action = 'moved' DESC;
END
$$;

-- The rows of a table without key.
CREATE FUNCTION audit_cdc_internal.keyless_rows_as_of(
    audited audit_cdc_internal.audited, at_time timestamptz, at_lsn pg_lsn,
    OUT is_alive boolean, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH events AS MATERIALIZED (
    SELECT e.event, e.is_past, e.here
    FROM audit_cdc_internal.general_events(audited, at_time, at_lsn, NULL) AS e
    WHERE (e.event).record_key IS NULL
  )
  SELECT k.is_alive, k.known, k.unknown_columns, k.reason
  FROM audit_cdc_internal.keyless_rows(
    ARRAY(SELECT e.event FROM events AS e WHERE e.is_past),
    ARRAY(SELECT e.event FROM events AS e WHERE NOT e.is_past),
    (SELECT max(e.here) FROM events AS e),
    ARRAY(
      SELECT c ->> 'name'
      FROM jsonb_array_elements(audit_cdc_internal.table_facts(audited) -> 'columns') AS c
      WHERE (c ->> 'is_json')::boolean OR c ->> 'type' IN ('real', 'double precision')
    )) AS k;
END
$$;

-- Gaps in which a record of the table may have ended, the first one first: until which position, and is the moment
-- before it? Where no gap was noted, nobody can tell.
CREATE FUNCTION audit_cdc_internal.gaps_as_of(
    audited audit_cdc_internal.audited, at_time timestamptz, at_lsn pg_lsn, OUT up_to bigint, OUT is_before boolean)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT
    (e.to_lsn - '0/0'::pg_lsn)::bigint + audited.positions_before[cardinality(audited.positions_before)],
    coalesce(
      CASE
        WHEN at_lsn IS NOT NULL THEN at_lsn < g.from_lsn AND g.reason <> 'continued'
        ELSE at_time <= g.from_time
      END,
      false)
  FROM audit_cdc_internal.gaps AS g
  LEFT JOIN audit_cdc_internal.gap_ends AS e ON e.gap_id = g.id
  WHERE g.database_id = audited.database_id
    AND (g.relation IS NULL OR (g.table_schema, g.table_name) = (audited.table_schema, audited.table_name))
  ORDER BY g.from_lsn;
END;
