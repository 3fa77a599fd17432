-- What is asked of the log, as lines: one record from its beginning, or all entries that fit.

-- Did some update of the table take a row away from the key, or bring one to it? Where nobody can tell, yes.
CREATE FUNCTION audit_cdc_internal.is_rekeyed(audited audit_cdc_internal.audited, record text) RETURNS boolean
  LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM audit_cdc_internal.log AS l
    WHERE l.audited_table = ANY (audited.numbers)
      AND l.may_change_key
      AND (NOT audited.is_own OR l.origin <> 'i')
      AND (
        l.record_id = record
        OR record LIKE ANY ('{[%,sha256:%}') -- of several values, or a digest
        OR l.old_values IS NULL
        OR EXISTS (SELECT FROM jsonb_each_text(l.old_values) AS o WHERE o.value = record)));
END
$$;

-- Was the source restored, as entries of the record and updates that gave others another key tell together? Its life
-- notes it.
CREATE FUNCTION audit_cdc_internal.was_restored(audited audit_cdc_internal.audited, record text) RETURNS boolean
  LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (
    SELECT
    FROM (
      SELECT audit_cdc_internal.runs_backwards(
        e.commit_lsn, e.commit_timestamp, e.id, lag(e.commit_lsn) OVER place, lag(e.commit_timestamp) OVER place,
        lag(e.id) OVER place) AS runs_backwards
      FROM (
        SELECT l.id, l.commit_timestamp, l.commit_lsn
        FROM audit_cdc_internal.log AS l
        WHERE l.audited_table = ANY (audited.numbers)
          AND l.record_id = record
          AND (NOT audited.is_own OR l.origin <> 'i')
        UNION ALL
        SELECT l.id, l.commit_timestamp, l.commit_lsn
        FROM audit_cdc_internal.log AS l
        WHERE l.audited_table = ANY (audited.numbers)
          AND l.may_change_key
          AND (NOT audited.is_own OR l.origin <> 'i')
      ) AS e
      WINDOW place AS (ORDER BY e.commit_timestamp, e.commit_lsn, e.id)
    ) AS p
    WHERE p.runs_backwards
  );
END
$$;

-- The lines of a record each of whose entries tells its row, if nothing came between that names no record; else none.
CREATE FUNCTION audit_cdc_internal.told_lines(audited audit_cdc_internal.audited, record text)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  told audit_cdc_internal.told_table;
BEGIN
  IF cardinality(audited.databases) > 1 OR audited.key_types IS NOT NULL THEN
    RETURN; -- positions that count apart; keys that are spelled in several ways
  END IF;
  told := audit_cdc_internal.told_of(audited, true);
  IF told.first_rekeyed IS NOT NULL
    AND (audit_cdc_internal.is_rekeyed(audited, record) OR audit_cdc_internal.was_restored(audited, record)) THEN
    RETURN;
  END IF;
  RETURN QUERY
  WITH entries AS (
    SELECT
      l AS entry, lag(l) OVER place AS before, l.commit_timestamp, l.commit_lsn,
      coalesce(l.commit_idx, 2147483647) AS idx,
      lag(l.commit_lsn) OVER place AS lsn_before, lag(coalesce(l.commit_idx, 2147483647)) OVER place AS idx_before
    FROM audit_cdc_internal.log AS l
    WHERE l.record_id = record
      AND l.audited_table = ANY (audited.numbers)
      AND (NOT audited.is_own OR l.origin <> 'i')
    WINDOW place AS (ORDER BY l.commit_timestamp, l.commit_lsn, coalesce(l.commit_idx, 2147483647), l.id)
  ), judged AS (
    SELECT
      e.*,
      bool_and(
        audit_cdc_internal.tells_row(e.entry, told)
          AND e.commit_lsn IS NOT NULL
          AND coalesce((e.lsn_before, e.idx_before) < (e.commit_lsn, e.idx), e.before IS NULL)) OVER ()
        AND (told.last_break IS NULL OR told.last_break < min(e.commit_timestamp) OVER ()) AS are_told
    FROM entries AS e
  )
  SELECT o.*
  FROM judged AS e
  CROSS JOIN LATERAL audit_cdc_internal.told_line(
    e.entry, told.database_id, audited.table_schema, audited.table_name,
    CASE WHEN audit_cdc_internal.misses_change(e.entry, e.before) THEN 'the log misses a change before this one' END,
    format('1.%s.%s.%s', e.commit_lsn + audited.positions_before[1], e.idx, (e.entry).id)) AS o
  WHERE e.are_told;
END
$$;

-- The lines of a record, also under the keys that it had before and got later.
CREATE FUNCTION audit_cdc_internal.record_lines(audited audit_cdc_internal.audited, of_key text)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN QUERY
  SELECT l.* FROM audit_cdc_internal.told_lines(audited, audit_cdc_internal.as_record_id(of_key, audited)) AS l;
  IF NOT FOUND THEN
    RETURN QUERY SELECT l.* FROM audit_cdc_internal.lines_by_lives(audited, of_key) AS l;
  END IF;
END
$$;

-- Entries of the log that fit, of a table if wanted is not null.
CREATE FUNCTION audit_cdc_internal.lines(
    wanted audit_cdc_internal.audited, of_id bigint, of_user text, of_request text, of_commit bigint,
    since timestamptz, until timestamptz, of_database text, after bigint[], newest_first boolean, max_rows integer)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  after_time CONSTANT timestamptz := 'epoch'::timestamptz + after[1] * interval '1 microsecond';
  own CONSTANT text[] := (SELECT o.ids FROM audit_cdc_internal.own_databases() AS o);
  tables integer[] := wanted.numbers;
BEGIN
  IF tables IS NULL AND of_database IS NOT NULL THEN
    tables := ARRAY(
      SELECT t.id
      FROM audit_cdc_internal.databases_of(of_database) AS d
      JOIN audit_cdc_internal.audited_tables AS t ON t.database_id = ANY (d.ids)
    );
  END IF;
  RETURN QUERY
  SELECT l.*
  FROM audit_cdc_internal.page_of_lines(
    of_id, tables, of_user, of_request, of_commit,
    CASE WHEN newest_first THEN since ELSE greatest(since, after_time) END,
    CASE WHEN newest_first THEN least(until, after_time + interval '1 microsecond') ELSE until END,
    after, ARRAY(SELECT t.id FROM audit_cdc_internal.audited_tables AS t WHERE t.database_id = ANY (own)),
    of_database, max_rows, newest_first) AS l;
END
$$;

-- The same with the table's name. Nothing is a reading's doubt here.
CREATE FUNCTION audit_cdc_internal.lines(
    of_id bigint, of_table text, of_user text, of_request text, of_commit bigint, since timestamptz,
    until timestamptz, of_database text, after bigint[], newest_first boolean, max_rows integer)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted audit_cdc_internal.audited;
BEGIN
  IF of_table IS NOT NULL THEN
    wanted := audit_cdc_internal.table_named(of_table, of_database, NULL);
    IF wanted IS NULL THEN
      PERFORM audit_cdc_internal.warn_of_no_changes();
      RETURN;
    END IF;
  END IF;
  RETURN QUERY
  SELECT l.*
  FROM audit_cdc_internal.lines(
    wanted, of_id, of_user, of_request, of_commit, since, until, of_database, after, newest_first, max_rows) AS l;
END
$$;
