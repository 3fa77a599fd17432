-- A record's lines, from its beginning. Entries that fit: `src/history/asked.rs`.

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

-- The lines of a record, also under the keys that it had before and got later. is_plain: for who reads them.
CREATE FUNCTION audit_cdc_internal.record_lines(
    audited audit_cdc_internal.audited, of_key text, is_plain boolean DEFAULT false)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN QUERY
  SELECT l.*
  FROM audit_cdc_internal.told_lines(audited, audit_cdc_internal.as_record_id(of_key, audited), is_plain) AS l;
  IF NOT FOUND AND is_plain THEN
    RETURN QUERY
    SELECT p.*
    FROM audit_cdc_internal.lines_by_lives(audited, of_key) AS l
    CROSS JOIN LATERAL audit_cdc_internal.plain_line(l) AS p;
  ELSIF NOT FOUND THEN
    RETURN QUERY SELECT l.* FROM audit_cdc_internal.lines_by_lives(audited, of_key) AS l;
  END IF;
END
$$;
