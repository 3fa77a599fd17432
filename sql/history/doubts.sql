-- What a reading of the log cannot know: changes that were never captured, not yet, or set aside. So are entries of
-- what may be the same database. Each reading says it once, with what to do.

CREATE TYPE audit_cdc_internal.doubt AS (
  is_warning boolean, -- false: a notice
  message text,
  detail text,
  hint text
);

-- Databases that were captured into this log, from which this one does not go on. names: of tables, as %I.%I; null:
-- any.
CREATE FUNCTION audit_cdc_internal.other_captured(names text[], OUT database_id text, OUT described text)
  RETURNS SETOF record LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT c.database_id, format('%s (%s), captured since %s', c.database_id, c.database_name, c.since)
  FROM audit_cdc_internal.captured_databases AS c, audit_cdc_internal.own_databases() AS o
  WHERE c.database_id <> ALL (o.ids)
    AND EXISTS (SELECT FROM audit_cdc_internal.audited_tables AS t
                WHERE t.database_id = c.database_id
                  AND (names IS NULL OR format('%I.%I', t.table_schema, t.table_name) = ANY (names)))
  ORDER BY c.since DESC, c.database_id;
END;

-- Gaps that concern a reading. is_open: what the rows are is in doubt, until a backfill of each table that is complete
-- before the moment that is asked for. Otherwise, of a time range: what happened within is unknown, though a backfill
-- told what came of it.
CREATE FUNCTION audit_cdc_internal.gaps_of(
    databases text[], names text[], since timestamptz, until timestamptz, until_position bigint, is_range boolean,
    OUT gap_id bigint, OUT is_open boolean, OUT described text) RETURNS SETOF record LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH placed AS (
    SELECT g.*, e.to_time, o.ids[cardinality(o.ids)] AS here,
           d.before + CASE g.reason WHEN 'continued' THEN 0 ELSE g.from_lsn - '0/0' END AS from_position
    FROM audit_cdc_internal.own_databases() AS o
    CROSS JOIN LATERAL unnest(o.ids, o.positions_before) AS d(id, before)
    JOIN audit_cdc_internal.gaps AS g ON g.database_id = d.id
    LEFT JOIN audit_cdc_internal.gap_ends AS e ON e.gap_id = g.id
    WHERE databases IS NULL OR d.id = ANY (databases)
    UNION ALL
    -- why capture cannot go on, before anybody has noted it
    SELECT NULL, h.database_id, NULL, NULL, NULL, f.reason, f.read_to, f.read_to_time, NULL, NULL, f.detail, NULL,
           NULL, h.database_id, d.before + (f.read_to - '0/0')
    FROM audit_cdc_internal.capture_faults AS f, audit_cdc_internal.here AS h, audit_cdc_internal.own_databases() AS o
    CROSS JOIN LATERAL unnest(o.ids, o.positions_before) AS d(id, before)
    WHERE d.id = h.database_id AND (databases IS NULL OR d.id = ANY (databases))
      AND NOT EXISTS (SELECT FROM audit_cdc_internal.open_breaks)
  ), closings AS (
    SELECT c.gap_id, c.relation, c.closed_at, g.reason, g.database_id,
           c.complete_lsn - '0/0' + d.before AS complete_position
    FROM audit_cdc_internal.own_databases() AS o
    CROSS JOIN LATERAL unnest(o.ids, o.positions_before) AS d(id, before)
    JOIN audit_cdc_internal.gaps AS g ON g.database_id = d.id
    JOIN audit_cdc_internal.gap_closings AS c ON c.gap_id = g.id
    UNION ALL
    SELECT g.id, g.relation, x.dropped_at, g.reason, g.database_id, x.commit_lsn + d.before
    FROM audit_cdc_internal.own_databases() AS o
    CROSS JOIN LATERAL unnest(o.ids, o.positions_before) AS d(id, before)
    JOIN audit_cdc_internal.gaps AS g ON g.database_id = d.id
    JOIN audit_cdc_internal.gap_drops AS x ON x.gap_id = g.id)
  SELECT p.id, bool_or(NOT s.is_closed),
         format('%s (%s)%s is from %s to %s.', coalesce('Gap ' || p.id, 'A gap that is not noted yet'), p.reason,
                ' of ' || quote_ident(p.table_schema) || '.' || quote_ident(p.table_name),
                coalesce(p.from_time::text, p.from_lsn::text), coalesce(p.to_time::text, 'now'))
  FROM placed AS p
  CROSS JOIN LATERAL (SELECT n.name, to_regclass(n.name)::oid AS relation
                      FROM unnest(coalesce(names, ARRAY[NULL])) AS n(name)) AS n
  CROSS JOIN LATERAL (
    -- a gap from before the database went on from another is closed by what closes the gap of that
    SELECT CASE WHEN p.id IS NULL THEN false
                WHEN n.name IS NULL
                  THEN NOT EXISTS (SELECT FROM @extschema@.audit_gaps AS v WHERE v.gap_id = p.id AND v.is_open)
                ELSE EXISTS (SELECT FROM closings AS c
                             WHERE (c.gap_id = p.id AND c.relation IN (n.relation, p.relation)
                                    OR p.database_id <> p.here AND c.database_id = p.here AND c.reason = 'continued'
                                       AND c.relation = n.relation)
                               AND (is_range OR (until IS NULL OR c.closed_at <= until)
                                    AND (until_position IS NULL OR c.complete_position <= until_position)))
           END AS is_closed) AS s
  WHERE (n.name IS NULL OR p.relation IS NULL OR p.relation = n.relation AND p.database_id = p.here
         OR quote_ident(p.table_schema) || '.' || quote_ident(p.table_name) = n.name)
    AND (until IS NULL OR p.from_time IS NULL OR p.from_time <= until)
    AND (until_position IS NULL OR p.from_position <= until_position)
    AND (since IS NULL OR p.to_time IS NULL OR p.to_time > since)
    AND (is_range OR NOT s.is_closed)
  GROUP BY p.id, p.reason, p.table_schema, p.table_name, p.from_time, p.from_lsn, p.to_time;
END;

-- What they make doubtful.
CREATE FUNCTION audit_cdc_internal.gap_doubts(
    databases text[], names text[], since timestamptz, until timestamptz, until_position bigint, is_range boolean)
  RETURNS SETOF audit_cdc_internal.doubt LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH gaps AS (
    SELECT g.*, row_number() OVER (PARTITION BY g.is_open ORDER BY g.gap_id DESC) AS place
    FROM audit_cdc_internal.gaps_of(databases, names, since, until, until_position, is_range) AS g
  ), few AS (
    SELECT g.is_open, concat(string_agg(g.described, ' ' ORDER BY g.gap_id) FILTER (WHERE g.place <= 3),
                             CASE WHEN count(*) > 3 THEN format(' There are %s more.', count(*) - 3) END) AS described
    FROM gaps AS g GROUP BY g.is_open
  )
  SELECT true, concat('the log may miss changes', CASE cardinality(names) WHEN 1 THEN ' of this table' END),
         f.described, 'audit_gaps lists them. Once a gap has ended, CALL audit_backfill() of the table makes the log '
                      'right from then on.'
  FROM few AS f WHERE f.is_open
  UNION ALL
  SELECT false, 'what happened within a gap of the log is unknown', f.described,
         'audit_gaps lists them. A backfill told what came of it.'
  FROM few AS f WHERE NOT f.is_open;
END;

-- Values that were erased count as not sent.
CREATE FUNCTION audit_cdc_internal.erasure_doubts(databases text[], names text[])
  RETURNS SETOF audit_cdc_internal.doubt LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT false, concat('values', CASE cardinality(names) WHEN 1 THEN ' of this table' END, ' were erased'),
         format(
           'They are unknown in the answer. %s entries, up to %s, have lost some.', sum(e.entries), max(e.newest)),
         'audit_erasures tells why, and erased of audit_logs of which entries.'
  FROM audit_cdc_internal.erasures AS e
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = e.audited_table
  WHERE (databases IS NULL OR t.database_id = ANY (databases))
    AND (names IS NULL OR quote_ident(t.table_schema) || '.' || quote_ident(t.table_name) = ANY (names))
  HAVING count(*) > 0;
END;

-- What was erased, and what retention has removed. Removal leaves no doubt of rows once a later backfill was complete.
CREATE FUNCTION audit_cdc_internal.removal_doubts(
    databases text[], names text[], since timestamptz, until timestamptz, is_range boolean)
  RETURNS SETOF audit_cdc_internal.doubt LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT true, concat('entries', CASE cardinality(names) WHEN 1 THEN ' of this table' END,
                      ' were removed by retention, and are not in the answer'),
         format('%s entries that committed before %s are gone.', sum(r.entries), max(h.before)),
         'audit_removed has the counts. Records that did not change since then are not known here. Of a captured table '
         'CALL audit_backfill() logs its rows anew.'
  FROM audit_cdc_internal.horizons AS h
  JOIN audit_cdc_internal.removals AS r ON r.audited_table = h.audited_table AND r.entries > 0
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = h.audited_table
  WHERE (databases IS NULL OR t.database_id = ANY (databases))
    AND (names IS NULL OR quote_ident(t.table_schema) || '.' || quote_ident(t.table_name) = ANY (names))
    AND (since IS NULL OR since < h.before)
    AND (
      is_range
      OR NOT EXISTS (
        SELECT FROM audit_cdc_internal.log AS l
        WHERE l.record_id IS NULL
          AND l.audited_table = h.audited_table
          AND l.action = 'complete'
          AND l.origin <> 'i'
          AND (until IS NULL OR l.commit_timestamp <= until)
          -- what it has read first must be there too
          AND l.annotations -> 'metadata' ->> 'backfill_id' IN (
            SELECT b.backfill_id::text
            FROM audit_cdc_internal.backfills AS b
            WHERE b.started_at >= h.before
          )
      ))
  HAVING count(*) > 0
  UNION ALL
  SELECT d.* FROM audit_cdc_internal.erasure_doubts(databases, names) AS d;
END;

-- databases: whose entries are read, with those they go on from; null: of any. names: of the tables, as %I.%I; null: of
-- all. since, until, until_position (as events have it): null is no bound. is_range: what happened is asked for, not
-- only what came of it.
CREATE FUNCTION audit_cdc_internal.doubts(databases text[], names text[], say_others boolean, since timestamptz,
    until timestamptz, until_position bigint, is_range boolean)
  RETURNS SETOF audit_cdc_internal.doubt LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  of_this CONSTANT text := CASE cardinality(names) WHEN 1 THEN ' of this table' END;
  own CONSTANT text[] := (SELECT o.ids FROM audit_cdc_internal.own_databases() AS o);
BEGIN
  IF EXISTS (SELECT FROM audit_cdc_internal.gaps) OR EXISTS (SELECT FROM audit_cdc_internal.capture_faults) THEN
    RETURN QUERY
    SELECT d.*
    FROM audit_cdc_internal.gap_doubts(databases, names, since, until, until_position, is_range) AS d;
  END IF;
  IF EXISTS (
    SELECT FROM audit_cdc_internal.rejects AS r
    WHERE r.stored_at IS NULL
      AND r.table_name IS NOT NULL
      AND (names IS NULL OR quote_ident(r.table_schema) || '.' || quote_ident(r.table_name) = ANY (names))
      AND (databases IS NULL OR r.database_id IS NULL OR r.database_id = ANY (databases))
      -- whoever may deliver could say so of this database
      AND NOT (
        r.origin = 'i'
        AND (coalesce(r.database_id = ANY (own), false) OR coalesce(databases <@ own, false)))
  ) THEN
    RETURN QUERY
    SELECT true, concat('changes', of_this, ' were set aside, and are not in the answer'), NULL,
           'audit_rejects has them; audit_retry_rejects() tries to store them.';
  END IF;
  RETURN QUERY
  SELECT d.* FROM audit_cdc_internal.removal_doubts(databases, names, since, until, is_range) AS d;
  IF (databases IS NULL OR own[cardinality(own)] = ANY (databases))
    AND EXISTS (
      SELECT FROM unnest(names) AS n(name)
      JOIN audit_cdc_internal.schema_changes AS s ON s.object = to_regclass(n.name)::oid
      WHERE s.published_as IS NOT NULL AND NOT s.is_captured
    ) THEN
    RETURN QUERY
    SELECT true, 'changes of this table are logged under another name',
           CASE
             WHEN s.published_as <> s.object
               THEN format('That is %s, of which it is a partition.', s.published_as::regclass)
             ELSE 'Those are the names of its partitions.'
           END,
           'Ask for that one.'
    FROM unnest(names) AS n(name)
    CROSS JOIN LATERAL audit_cdc_internal.last_schema('table', to_regclass(n.name)::oid) AS s
    WHERE s.published_as IS NOT NULL AND NOT s.is_captured;
  END IF;
  IF say_others
    AND EXISTS (SELECT FROM audit_cdc_internal.captured_databases AS c WHERE c.database_id <> ALL (own)) THEN
    RETURN QUERY
    SELECT true, concat('the log has entries', of_this, ' that another database captured'),
           format('That is %s.', string_agg(c.described, '; ')),
           format('If this database goes on from it, say so: audit_continue(%L, reason). To read that one alone, name '
                  'its database_id.', min(c.database_id) FILTER (WHERE c.ordinality = 1))
    FROM audit_cdc_internal.other_captured(names) WITH ORDINALITY AS c
    HAVING count(*) > 0;
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.say_unsettled(is_own boolean, last_commit timestamptz) RETURNS void
  LANGUAGE plpgsql AS $$
BEGIN
  RAISE NOTICE 'this moment is not settled yet'
    USING DETAIL = format('The last commit in the log up to it is of %s; others may still arrive.',
                          coalesce(last_commit::text, 'never')),
          HINT = CASE WHEN is_own THEN 'CALL audit_capture() captures what is pending, if no worker does.'
                      ELSE 'Ask again later.' END;
END
$$;

-- A row if there is anything at all that casts doubt on a reading. Mostly there is not, and then nothing else is asked.
-- A set, so that it becomes part of the statement that asks. here: this database.
CREATE FUNCTION audit_cdc_internal.signs_of_doubt(names text[], here text) RETURNS SETOF boolean
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT true
  WHERE EXISTS (SELECT FROM audit_cdc_internal.gaps)
    OR EXISTS (SELECT FROM audit_cdc_internal.horizons)
    OR EXISTS (SELECT FROM audit_cdc_internal.erasures)
    OR EXISTS (SELECT FROM audit_cdc_internal.rejects AS r WHERE r.stored_at IS NULL)
    OR EXISTS (SELECT FROM audit_cdc_internal.captured_databases AS c WHERE c.database_id <> here)
    OR EXISTS (
      SELECT FROM unnest(names) AS n(name)
      JOIN audit_cdc_internal.schema_changes AS s ON s.object = to_regclass(n.name)::oid
      WHERE s.published_as IS NOT NULL AND NOT s.is_captured
    )
    OR EXISTS (
      SELECT FROM audit_cdc_internal.captures AS c
      WHERE c.database_id <> here
        OR NOT EXISTS (
          SELECT FROM pg_get_replication_slots() AS s
          WHERE s.slot_name = c.slot
            AND s.plugin = c.plugin
            AND s.datoid::text = split_part(here, '.', 2)
            AND s.wal_status IN ('reserved', 'extended')
        )
    );
END;

CREATE FUNCTION audit_cdc_internal.say_doubts(databases text[], names text[], say_others boolean, since timestamptz,
    until timestamptz, until_position bigint, is_range boolean)
  RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  one audit_cdc_internal.doubt;
BEGIN
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.signs_of_doubt(names, here)) THEN
    RETURN;
  END IF;
  FOR one IN SELECT *
             FROM audit_cdc_internal.doubts(databases, names, say_others, since, until, until_position, is_range) LOOP
    -- RAISE takes no null for a DETAIL; a notice has one always
    IF one.is_warning AND one.detail IS NULL THEN
      RAISE WARNING '%', one.message USING HINT = one.hint;
    ELSIF one.is_warning THEN
      RAISE WARNING '%', one.message USING DETAIL = one.detail, HINT = one.hint;
    ELSE
      RAISE NOTICE '%', one.message USING DETAIL = one.detail, HINT = one.hint;
    END IF;
  END LOOP;
END
$$;

-- All tables of a database; null: of any, which counts as this one where one is needed.
CREATE FUNCTION audit_cdc_internal.any_table(database_id text) RETURNS audit_cdc_internal.audited
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  audited audit_cdc_internal.audited;
BEGIN
  audited.database_id := coalesce(database_id, audit_cdc_internal.this_database() ->> 'id');
  SELECT d.ids, d.positions_before, d.is_own
  INTO audited.databases, audited.positions_before, audited.is_own
  FROM audit_cdc_internal.databases_of(audited.database_id) AS d;
  audited.is_named := database_id IS NOT NULL;
  RETURN audited;
END
$$;

-- Of one table, or of any, up to a moment or through a time range.
CREATE FUNCTION audit_cdc_internal.say_doubts(
    audited audit_cdc_internal.audited, since timestamptz, until timestamptz, lsn pg_lsn, is_range boolean)
  RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM audit_cdc_internal.say_doubts(
    CASE WHEN audited.table_name IS NOT NULL OR audited.is_named THEN audited.databases END,
    CASE WHEN audited.table_name IS NOT NULL THEN ARRAY[format('%I.%I', audited.table_schema, audited.table_name)] END,
    NOT audited.is_named OR audited.database_id = audit_cdc_internal.this_database() ->> 'id', since, until,
    least(lsn - '0/0' + audited.positions_before[cardinality(audited.positions_before)], 9223372036854775807)::bigint,
    is_range);
END
$$;
