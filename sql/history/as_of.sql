-- A table, or a record, as it was. What the log cannot know is said, never made up.

-- The position that a time, or an LSN of that database, stands for; without either, the last one. last_lsn is as
-- events have it.
CREATE FUNCTION audit_cdc_internal.moment(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn,
    OUT last_lsn bigint, OUT last_commit timestamptz, OUT last_id bigint, OUT next_commit timestamptz,
    OUT is_settled boolean)
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_variable
DECLARE
  is_own CONSTANT boolean := audited.is_own;
  position_before CONSTANT bigint := audited.positions_before[cardinality(audited.positions_before)];
  numbers integer[];
  befores bigint[]; -- what the positions of each count on from
  captured timestamptz;
  captured_lsn bigint;
BEGIN
  SELECT array_agg(t.id), array_agg(d.before) INTO numbers, befores
  FROM unnest(audited.databases, audited.positions_before) AS d(id, before)
  JOIN audit_cdc_internal.audited_tables AS t ON t.database_id = d.id;
  IF lsn IS NOT NULL THEN
    last_lsn := least(lsn - '0/0' + position_before, 9223372036854775807);
    SELECT max(l.commit_timestamp) FILTER (WHERE l.commit_lsn + n.before <= last_lsn),
           min(l.commit_timestamp) FILTER (WHERE l.commit_lsn + n.before > last_lsn)
    INTO last_commit, next_commit
    FROM audit_cdc_internal.log AS l
    JOIN unnest(numbers, befores) AS n(number, before) ON n.number = l.audited_table
    WHERE NOT is_own OR l.origin <> 'i';
    is_settled := next_commit IS NOT NULL;
  ELSE
    at := coalesce(at, 'infinity');
    SELECT l.commit_timestamp, l.id INTO last_commit, last_id FROM audit_cdc_internal.log AS l
    WHERE l.commit_timestamp <= at AND l.audited_table = ANY (numbers)
      AND (NOT is_own OR l.origin <> 'i') AND l.commit_lsn IS NOT NULL
    ORDER BY l.commit_timestamp DESC LIMIT 1;
    -- commits overtake each other: the furthest one
    last_lsn := (
      SELECT max(l.commit_lsn + n.before)
      FROM audit_cdc_internal.log AS l
      JOIN unnest(numbers, befores) AS n(number, before) ON n.number = l.audited_table
      WHERE l.commit_timestamp <= last_commit
        AND l.commit_timestamp > last_commit - audit_cdc_internal.overtaking()
        AND (NOT is_own OR l.origin <> 'i')
    );
    next_commit := (SELECT l.commit_timestamp FROM audit_cdc_internal.log AS l
                    WHERE l.commit_timestamp > at AND l.audited_table = ANY (numbers)
                      AND (NOT is_own OR l.origin <> 'i') AND l.commit_lsn IS NOT NULL
                    ORDER BY l.commit_timestamp LIMIT 1);
    is_settled := at = 'infinity' OR next_commit IS NOT NULL;
  END IF;
  SELECT greatest(c.last_commit, c.read_to_time), c.last_commit_lsn - '0/0' + position_before
  INTO captured, captured_lsn
  FROM audit_cdc_internal.captures AS c
  WHERE is_own;
  -- Sequin may deliver for the second time 10 minutes later (its longest wait), and sends no end mark of a transaction
  is_settled := CASE
    WHEN is_own AND audited.database_id <> audit_cdc_internal.this_database() ->> 'id'
      THEN true -- what this database goes on from
    WHEN captured IS NOT NULL THEN is_settled OR coalesce(at <= captured, last_lsn <= captured_lsn, false)
    ELSE is_settled AND coalesce(last_commit < now() - interval '10 min', true)
  END;
END
$$;

-- Of a time range's end.
CREATE FUNCTION audit_cdc_internal.say_if_unsettled(audited audit_cdc_internal.audited, until timestamptz) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  moment record;
BEGIN
  IF until IS NULL
    OR audited.table_name IS NULL
      AND NOT audited.is_named
      AND NOT EXISTS (SELECT FROM audit_cdc_internal.captures) THEN
    RETURN;
  END IF;
  SELECT * INTO moment FROM audit_cdc_internal.moment(audited, until, NULL);
  IF NOT moment.is_settled THEN
    PERFORM audit_cdc_internal.say_unsettled(audited.is_own, moment.last_commit);
  END IF;
END
$$;

-- Do changes of the table tell their old keys, as far as its description (FULL), or what was captured of this
-- record (FULL or DEFAULT), says? Otherwise a change of any key may have been of it.
CREATE FUNCTION audit_cdc_internal.tells_old_keys(audited audit_cdc_internal.audited, of_key text) RETURNS boolean
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
  SET jit = off AS $$
DECLARE
  ids CONSTANT text[] := audit_cdc_internal.record_ids(audited, of_key);
BEGIN
  RETURN coalesce(
    (
      SELECT bool_and(d.replica_identity = 'full')
      FROM audit_cdc_internal.described_tables AS d
      WHERE d.database_id = ANY (audited.databases)
        AND (d.table_schema, d.table_name) = (audited.table_schema, audited.table_name)
    ),
    (
      SELECT bool_and(coalesce(l.replica_identity IN ('f', 'd'), false))
      FROM audit_cdc_internal.log AS l
      WHERE l.audited_table = ANY (audited.numbers)
        AND l.record_id = ANY (ids)
        AND (NOT audited.is_own OR l.origin <> 'i')
    ),
    false);
END
$$;

-- The events of a table, or of one key, with what is past at a moment; here: the run that the moment is in.
CREATE FUNCTION audit_cdc_internal.events_as_of(
    audited audit_cdc_internal.audited, at_time timestamptz, at_lsn pg_lsn, of_key text,
    OUT event audit_cdc_internal.event, OUT is_past boolean, OUT here integer)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  moment record;
BEGIN
  SELECT * INTO moment FROM audit_cdc_internal.moment(audited, at_time, at_lsn);
  IF NOT moment.is_settled THEN
    PERFORM audit_cdc_internal.say_unsettled(audited.is_own, moment.last_commit);
  END IF;
  RETURN QUERY
  WITH events AS MATERIALIZED (
    SELECT e, e.id, e.run, e.lsn, e.commit_timestamp, e.is_placed
    FROM audit_cdc_internal.events(
      audited,
      CASE
        WHEN of_key IS NOT NULL AND audit_cdc_internal.tells_old_keys(audited, of_key)
          THEN audit_cdc_internal.record_ids(audited, of_key)
      END) AS e
  ), runs AS (
    SELECT max(e.run) FILTER (WHERE at_lsn IS NOT NULL OR e.commit_timestamp <= coalesce(at_time, 'infinity')) AS run
    FROM events AS e
  ), moments AS (
    -- positions may have run backwards somewhere else in the database: what committed, and came, later has none as high
    SELECT coalesce(r.run, 1) + CASE
      WHEN NOT EXISTS (SELECT FROM events AS e WHERE e.id = moment.last_id)
        AND EXISTS (
          SELECT FROM events AS e
          WHERE at_lsn IS NULL
            AND e.is_placed
            AND e.run = r.run
            AND e.lsn > moment.last_lsn
            AND e.commit_timestamp < moment.last_commit - audit_cdc_internal.overtaking()
            AND e.id < moment.last_id
        )
        THEN 1
      ELSE 0
    END AS run
    FROM runs AS r
  )
  SELECT
    e.e,
    CASE
      WHEN e.is_placed
        THEN coalesce(
          e.run < m.run
            OR e.run = m.run
              AND (
                at_time IS NULL AND at_lsn IS NULL
                OR e.lsn <= moment.last_lsn
                OR e.id < 0 AND at_lsn IS NULL AND e.commit_timestamp <= at_time),
          false)
      ELSE at_time IS NULL AND at_lsn IS NULL
        OR coalesce(e.commit_timestamp <= at_time, false)
        OR moment.last_commit IS NOT NULL AND e.commit_timestamp < coalesce(moment.next_commit, 'infinity')
    END,
    m.run
  FROM events AS e, moments AS m;
END
$$;

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

-- What is not known of them, as a WARNING.
CREATE FUNCTION audit_cdc_internal.warn_of_unknown(reasons jsonb, partial bigint, partial_columns text[]) RETURNS void
  LANGUAGE plpgsql AS $$
DECLARE
  unknown CONSTANT bigint := (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(reasons));
BEGIN
  IF unknown > 0 OR partial > 0 THEN
    RAISE WARNING 'records that the log cannot tell: %; rows with unknown columns, which are null here: %', unknown,
        partial
      USING DETAIL = concat_ws(
        ' ',
        (
          SELECT string_agg(
            format('%s%s (%s).', upper(left(key, 1)), substr(key, 2), value), ' ' ORDER BY value::bigint DESC, key)
          FROM jsonb_each_text(reasons)
        ),
        CASE WHEN partial > 0 THEN format('Unknown columns: %s.', array_to_string(partial_columns, ', ')) END),
            HINT = 'audit_as_of_unknown() lists them one by one.';
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.warn_of_no_changes() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE WARNING 'the log has no change of this table' USING HINT = 'audit_status() lists the tables that it has.';
END
$$;

CREATE FUNCTION audit_cdc_internal.can_be_answered(audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn)
  RETURNS boolean
  LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF at IS NOT NULL AND lsn IS NOT NULL THEN
    RAISE EXCEPTION 'at and lsn cannot both be given' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF audited IS NULL THEN
    PERFORM audit_cdc_internal.warn_of_no_changes();
  ELSE
    PERFORM audit_cdc_internal.say_doubts(audited, NULL, at, lsn, false);
  END IF;
  RETURN audited.database_id IS NOT NULL;
END
$$;

CREATE FUNCTION audit_cdc_internal.missing(columns text[], image jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE
  RETURN CASE
    WHEN image ?& columns THEN '{}'
    ELSE ARRAY(
      SELECT c
      FROM unnest(columns) WITH ORDINALITY AS u(c, place)
      WHERE NOT image ? c
      ORDER BY place
    )
  END;
CREATE FUNCTION audit_cdc_internal.united(one text[], two text[]) RETURNS text[] LANGUAGE sql IMMUTABLE
  RETURN CASE WHEN two <@ one THEN one ELSE ARRAY(SELECT DISTINCT c FROM unnest(one || two) AS c ORDER BY c) END;

CREATE FUNCTION audit_cdc_internal.columns_of(row_type oid) RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT array_agg(a.attname::text ORDER BY a.attnum)
  FROM pg_attribute AS a
  JOIN pg_type AS t ON t.typrelid = a.attrelid
  WHERE t.oid = row_type AND a.attnum > 0 AND NOT a.attisdropped;
END;

CREATE FUNCTION audit_cdc_internal.relation_of(row_type oid) RETURNS oid
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  relation oid := (SELECT nullif(t.typrelid, 0) FROM pg_type AS t WHERE t.oid = row_type);
BEGIN
  IF relation IS NULL THEN
    RAISE EXCEPTION 'first argument must be of a row type'
      USING ERRCODE = 'datatype_mismatch', HINT = 'Name a table: NULL::public.users.';
  END IF;
  RETURN relation;
END
$$;

-- What is known of the rows, each with the columns that it should have; the rest as a WARNING.
CREATE FUNCTION audit_cdc_internal.rows_as_of(
    audited audit_cdc_internal.audited, columns text[], at timestamptz, lsn pg_lsn, key text)
  RETURNS SETOF jsonb
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  one record;
  reasons jsonb := '{}';
  partial bigint := 0;
  partial_columns text[] := '{}';
BEGIN
  IF NOT audit_cdc_internal.can_be_answered(audited, at, lsn) THEN
    RETURN;
  END IF;
  FOR one IN SELECT * FROM audit_cdc_internal.records_as_of(audited, at, lsn, key) LOOP
    IF one.reason IS NOT NULL THEN
      reasons := jsonb_set(reasons, ARRAY[one.reason], to_jsonb(coalesce((reasons ->> one.reason)::bigint, 0) + 1));
    ELSIF one.is_alive THEN
      IF one.unknown_columns <> '{}' OR NOT one.known ?& columns THEN
        partial := partial + 1;
        partial_columns := audit_cdc_internal.united(
          partial_columns,
          audit_cdc_internal.united(one.unknown_columns, audit_cdc_internal.missing(columns, one.known)));
      END IF;
      RETURN NEXT one.known;
    END IF;
  END LOOP;
  PERFORM audit_cdc_internal.warn_of_unknown(reasons, partial, partial_columns);
END
$$;

CREATE FUNCTION audit_cdc_internal.unknown_as_of(
    audited audit_cdc_internal.audited, columns text[], at timestamptz, lsn pg_lsn, key text,
    OUT record_id text, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF audit_cdc_internal.can_be_answered(audited, at, lsn) THEN
    RETURN QUERY
    SELECT r.record_id, r.known, m.missing, coalesce(r.reason, 'columns that were not sent')
    FROM audit_cdc_internal.records_as_of(audited, at, lsn, key) AS r
    CROSS JOIN LATERAL (
      SELECT CASE
        WHEN r.reason IS NULL
          THEN audit_cdc_internal.united(r.unknown_columns, audit_cdc_internal.missing(columns, r.known))
      END AS missing
    ) AS m
    WHERE r.reason IS NOT NULL OR r.is_alive AND m.missing <> '{}'
    ORDER BY 1;
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_as_of(
    table_name text, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    database_id text DEFAULT NULL)
  RETURNS SETOF jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT r
  FROM audit_cdc_internal.rows_as_of(
    audit_cdc_internal.table_named(table_name, database_id, NULL, key), '{}', at, lsn, key) AS r;
END;
COMMENT ON FUNCTION @extschema@.audit_as_of(text, timestamptz, pg_lsn, text, text) IS
  'The same as jsonb, for a table by its name (users, public.users): an image a row, without the columns that are '
  'unknown.';

CREATE FUNCTION @extschema@.audit_as_of(
    row_type regtype, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    table_name text DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS SETOF jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT r
  FROM audit_cdc_internal.rows_as_of(
    audit_cdc_internal.table_named(table_name, database_id, audit_cdc_internal.relation_of(row_type), key),
    audit_cdc_internal.columns_of(row_type), at, lsn, key) AS r;
END;
COMMENT ON FUNCTION @extschema@.audit_as_of(regtype, timestamptz, pg_lsn, text, text, text) IS
  'The same as jsonb, for a row type.';

-- The types' input functions run with the caller's rights.
CREATE FUNCTION @extschema@.audit_as_of(
    row_type anyelement, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    table_name text DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS SETOF anyelement
  LANGUAGE sql STABLE AS $$
  SELECT audit_cdc_internal.typed_row($1, r)
  FROM @extschema@.audit_as_of(pg_catalog.pg_typeof($1), $2, $3, $4, $5, $6) AS r
$$;
COMMENT ON FUNCTION @extschema@.audit_as_of(anyelement, timestamptz, pg_lsn, text, text, text) IS
  'The rows of a table as they were. row_type: NULL::public.users, a table or composite type called like the audited '
  'table (or give table_name), with its columns. at: a commit time; lsn: a position; neither: the latest that the '
  'log holds; both: error 22023. key: only this record, as record_id in audit_logs. database_id: where the log has '
  'the table of several databases. A transaction is in it whole or not at all, as far as the log holds it; a NOTICE '
  'tells if the moment is not settled. Records of which the log cannot tell are left out, columns that it cannot '
  'tell are null, and a WARNING counts both; audit_as_of_unknown() lists them. Another WARNING tells if changes of '
  'the table are in audit_rejects. Errors: as audit_row, 22023 (several tables of this name), 42804 (not a row '
  'type), 22004 (no table named).';

CREATE FUNCTION @extschema@.audit_as_of_unknown(
    table_name text, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    database_id text DEFAULT NULL,
    OUT record_id text, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT u.*
  FROM audit_cdc_internal.unknown_as_of(
    audit_cdc_internal.table_named(table_name, database_id, NULL, key), '{}', at, lsn, key) AS u;
END;
COMMENT ON FUNCTION @extschema@.audit_as_of_unknown(text, timestamptz, pg_lsn, text, text) IS
  'The same for a table by its name.';

CREATE FUNCTION @extschema@.audit_as_of_unknown(
    row_type regtype, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    table_name text DEFAULT NULL, database_id text DEFAULT NULL,
    OUT record_id text, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT u.*
  FROM audit_cdc_internal.unknown_as_of(
    audit_cdc_internal.table_named(table_name, database_id, audit_cdc_internal.relation_of(row_type), key),
    audit_cdc_internal.columns_of(row_type), at, lsn, key) AS u;
END;
COMMENT ON FUNCTION @extschema@.audit_as_of_unknown(regtype, timestamptz, pg_lsn, text, text, text) IS
  'The same for a row type.';

CREATE FUNCTION @extschema@.audit_as_of_unknown(
    row_type anyelement, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    table_name text DEFAULT NULL, database_id text DEFAULT NULL,
    OUT record_id text, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE sql STABLE AS $$
  SELECT * FROM @extschema@.audit_as_of_unknown(pg_catalog.pg_typeof($1), $2, $3, $4, $5, $6)
$$;
COMMENT ON FUNCTION @extschema@.audit_as_of_unknown(anyelement, timestamptz, pg_lsn, text, text, text) IS
  'What audit_as_of() with the same arguments cannot tell, one row a record. known: what is known of the row, if '
  'there is one; unknown_columns: the others, null where even the record''s existence is unknown; reason: why.';
