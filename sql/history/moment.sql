-- What a moment is in the log, whether it is settled, and what was past then.

-- The position that a time, or an LSN of that database, stands for; without either, the last one. last_lsn is as
-- events have it. of_all: the furthest of all commits up to the time; otherwise that of the last one, whose second
-- need not be read.
CREATE FUNCTION audit_cdc_internal.moment(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn, of_all boolean DEFAULT true,
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
           min(l.commit_timestamp) FILTER (WHERE l.commit_lsn + n.before > last_lsn) INTO last_commit, next_commit
    FROM audit_cdc_internal.log AS l
    JOIN unnest(numbers, befores) AS n(number, before) ON n.number = l.audited_table
    WHERE NOT is_own OR l.origin <> 'i';
    is_settled := next_commit IS NOT NULL;
  ELSE
    at := coalesce(at, 'infinity');
    SELECT l.commit_timestamp, l.id, l.commit_lsn + befores[array_position(numbers, l.audited_table)]
    INTO last_commit, last_id, last_lsn FROM audit_cdc_internal.log AS l
    WHERE l.commit_timestamp <= at AND l.audited_table = ANY (numbers)
      AND (NOT is_own OR l.origin <> 'i') AND l.commit_lsn IS NOT NULL
    ORDER BY l.commit_timestamp DESC LIMIT 1;
    IF of_all AND at < 'infinity' THEN
      -- commits overtake each other: the furthest one
      last_lsn := (SELECT max(l.commit_lsn + n.before)
                   FROM audit_cdc_internal.log AS l
                   JOIN unnest(numbers, befores) AS n(number, before) ON n.number = l.audited_table
                   WHERE l.commit_timestamp <= last_commit
                     AND l.commit_timestamp > last_commit - audit_cdc_internal.overtaking()
                     AND (NOT is_own OR l.origin <> 'i'));
    END IF;
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
    WHEN is_own AND audited.database_id <> audit_cdc_internal.this_database() ->> 'id' THEN true -- goes on from it
    WHEN captured IS NOT NULL THEN is_settled OR coalesce(at <= captured, last_lsn <= captured_lsn, false)
    ELSE is_settled AND coalesce(last_commit < now() - interval '10 min', true)
  END;
END
$$;

-- The furthest position, from first_lsn on, of commits up to this one: they may overtake it. Null: none is so far.
CREATE FUNCTION audit_cdc_internal.furthest_lsn(
    audited audit_cdc_internal.audited, last_commit timestamptz, first_lsn bigint)
  RETURNS bigint
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
  SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  numbers integer[];
  befores bigint[]; -- what the positions of each count on from
  -- for the index: no position of the log is before this one
  least_lsn CONSTANT bigint := first_lsn - (SELECT max(b) FROM unnest(audited.positions_before) AS b);
BEGIN
  SELECT array_agg(t.id), array_agg(d.before) INTO numbers, befores
  FROM unnest(audited.databases, audited.positions_before) AS d(id, before)
  JOIN audit_cdc_internal.audited_tables AS t ON t.database_id = d.id;
  RETURN (
    SELECT max(l.commit_lsn + befores[array_position(numbers, l.audited_table)])
    FROM audit_cdc_internal.log AS l
    WHERE l.commit_timestamp <= last_commit
      AND l.commit_timestamp > last_commit - audit_cdc_internal.overtaking()
      -- the same for the index of positions
      AND l.commit_timestamp - '2000-01-01 00:00+00'::timestamptz
          <= last_commit - '2000-01-01 00:00+00'::timestamptz
      AND l.commit_lsn >= least_lsn
      AND l.commit_lsn + befores[array_position(numbers, l.audited_table)] >= first_lsn
      AND (NOT audited.is_own OR l.origin <> 'i')
  );
END
$$;

-- Of a time range's end, or of a moment.
CREATE FUNCTION audit_cdc_internal.say_if_unsettled(
    audited audit_cdc_internal.audited, until timestamptz, lsn pg_lsn DEFAULT NULL)
  RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  moment record;
BEGIN
  IF until IS NULL AND lsn IS NULL
    OR audited.table_name IS NULL
      AND NOT audited.is_named
      AND NOT EXISTS (SELECT FROM audit_cdc_internal.captures) THEN
    RETURN;
  END IF;
  SELECT * INTO moment FROM audit_cdc_internal.moment(audited, until, lsn);
  IF NOT moment.is_settled THEN
    PERFORM audit_cdc_internal.say_unsettled(audited.is_own, moment.last_commit);
  END IF;
END
$$;

-- Do changes of the table tell their old keys? Its description says so if it is FULL, what was captured of this record
-- if it is FULL or DEFAULT. Otherwise a change of any key may have been of it.
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

-- Planned once a session: over many months that takes longer than to read them.
CREATE FUNCTION audit_cdc_internal.events_of_records(audited audit_cdc_internal.audited, record_ids text[])
  RETURNS SETOF audit_cdc_internal.event
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN QUERY SELECT e.* FROM audit_cdc_internal.events(audited, record_ids) AS e;
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
  record_ids CONSTANT text[] := audit_cdc_internal.record_ids(audited, of_key)
    WHERE of_key IS NOT NULL AND audit_cdc_internal.tells_old_keys(audited, of_key); -- null: all are read
BEGIN
  SELECT * INTO moment FROM audit_cdc_internal.moment(audited, at_time, at_lsn);
  RETURN QUERY
  WITH events AS MATERIALIZED (
    SELECT e.e, (e.e).id, (e.e).run, (e.e).lsn, (e.e).commit_timestamp, (e.e).is_placed
    FROM (
      SELECT e FROM audit_cdc_internal.events(audited) AS e WHERE record_ids IS NULL
      UNION ALL
      SELECT e FROM audit_cdc_internal.events_of_records(audited, record_ids) AS e WHERE record_ids IS NOT NULL
    ) AS e
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
