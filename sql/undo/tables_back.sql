-- Whole tables back to a moment: what became of each record since, as one change.

-- Of rows without a key it only counts how many are equal. Where the log cannot tell some of them, none is taken back:
-- what seems to be missing may be there.
CREATE FUNCTION audit_cdc_internal.keyless_changes_since(
    rows_before jsonb[], rows_after jsonb[], doubts text[], OUT record_id text, OUT old_row jsonb, OUT new_row jsonb,
    OUT unknown_before text[], OUT unknown_after text[], OUT doubt text)
  RETURNS SETOF record
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT NULL, CASE WHEN n.number > 0 THEN n.image END, CASE WHEN n.number < 0 THEN n.image END, '{}'::text[],
         '{}'::text[], NULL
  FROM (
    SELECT s.image, sum(s.one) AS number
    FROM (
      SELECT image, 1 AS one FROM unnest(rows_before) AS image
      UNION ALL
      SELECT image, -1 FROM unnest(rows_after) AS image
    ) AS s
    WHERE doubts = '{}'
    GROUP BY s.image
  ) AS n
  CROSS JOIN LATERAL generate_series(1, abs(n.number))
  UNION ALL
  SELECT NULL, NULL, NULL, '{}', '{}', d FROM unnest(doubts) AS d;
END;

-- Records of which another row has taken the place since, and why they do not become the row before. What is not
-- published would be of the row that is there now.
CREATE FUNCTION audit_cdc_internal.replaced_since(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn, OUT record_id text, OUT doubt text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  doubt := audit_cdc_internal.not_published(audit_cdc_internal.table_facts(audited));
  IF doubt IS NOT NULL THEN
    FOR record_id IN
      SELECT DISTINCT (e.event).record_key
      FROM audit_cdc_internal.events_as_of(audited, at, lsn, NULL) AS e
      WHERE NOT e.is_past
        AND ((e.event).action = 'insert'
          OR (e.event).action = 'update' AND (e.event).other_key <> (e.event).record_key)
    LOOP
      RETURN NEXT;
    END LOOP;
  END IF;
END
$$;

-- From the rows at the moment to those that are last in the log. first_number: how many changes there are already.
-- What came is undone first, and what is gone last, so that what is unique is free.
CREATE FUNCTION audit_cdc_internal.changes_since(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn, first_number bigint)
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
BEGIN ATOMIC
  WITH before AS MATERIALIZED (
    SELECT * FROM audit_cdc_internal.records_as_of(audited, at, lsn, NULL)
  ), after AS MATERIALIZED (
    SELECT * FROM audit_cdc_internal.records_as_of(audited, NULL, NULL, NULL)
  ), records AS (
    SELECT
      coalesce(b.record_id, a.record_id) AS record_id, CASE WHEN b.is_alive THEN b.known END AS old_row,
      CASE WHEN a.is_alive THEN a.known END AS new_row, coalesce(b.unknown_columns, '{}') AS unknown_before,
      coalesce(a.unknown_columns, '{}') AS unknown_after,
      coalesce(b.reason, a.reason, CASE WHEN b.is_alive THEN r.doubt END) AS doubt
    FROM (SELECT * FROM before WHERE record_id IS NOT NULL) AS b
    FULL JOIN (SELECT * FROM after WHERE record_id IS NOT NULL) AS a ON a.record_id = b.record_id
    LEFT JOIN audit_cdc_internal.replaced_since(audited, at, lsn) AS r ON r.record_id = b.record_id
    UNION ALL
    SELECT k.*
    FROM audit_cdc_internal.keyless_changes_since(
      ARRAY(SELECT b.known FROM before AS b WHERE b.record_id IS NULL AND b.is_alive),
      ARRAY(SELECT a.known FROM after AS a WHERE a.record_id IS NULL AND a.is_alive),
      ARRAY(
        SELECT b.reason FROM before AS b WHERE b.record_id IS NULL AND b.reason IS NOT NULL
        UNION
        SELECT a.reason FROM after AS a WHERE a.record_id IS NULL AND a.reason IS NOT NULL
      )) AS k
  ), changes AS (
    SELECT
      r.*,
      CASE WHEN r.old_row IS NULL THEN 'insert' WHEN r.new_row IS NULL THEN 'delete' ELSE 'update' END AS action,
      first_number + row_number() OVER (
        ORDER BY r.old_row IS NOT NULL AND r.new_row IS NULL DESC, r.old_row IS NULL, r.record_id DESC) AS number
    FROM records AS r
    WHERE r.old_row IS DISTINCT FROM r.new_row OR r.doubt IS NOT NULL
  )
  SELECT ROW(
    -c.number, audited.table_schema, audited.table_name, c.record_id, audited.database_id, c.action, 0, c.number,
    NULL, c.old_row, c.new_row,
    CASE
      -- what came to be known later may have been something else then
      WHEN c.old_row IS NOT NULL
        THEN ARRAY(
          SELECT unnest(c.unknown_before)
          UNION
          SELECT k FROM jsonb_object_keys(c.new_row) AS k WHERE NOT c.old_row ? k
          ORDER BY 1
        )
      ELSE '{}'
    END,
    c.unknown_after, '{}', c.doubt)::audit_cdc_internal.chosen
  FROM changes AS c;
END;

CREATE FUNCTION audit_cdc_internal.tables_since(
    tables text[], at timestamptz, lsn pg_lsn, of_database text)
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  audited audit_cdc_internal.audited;
  seen audit_cdc_internal.audited[] := '{}';
  name text;
  one audit_cdc_internal.chosen;
  number bigint := 0;
BEGIN
  IF (at IS NULL) = (lsn IS NULL) THEN
    RAISE EXCEPTION 'tables are taken back to a moment'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'With tables, name either at or lsn.';
  END IF;
  FOREACH name IN ARRAY tables LOOP
    audited := audit_cdc_internal.table_named(name, of_database, NULL);
    IF audited IS NULL THEN
      PERFORM audit_cdc_internal.warn_of_no_changes();
    ELSIF audited <> ALL (seen) THEN
      seen := seen || audited;
      FOR one IN SELECT c.* FROM audit_cdc_internal.changes_since(audited, at, lsn, number) AS c LOOP
        number := number + 1;
        RETURN NEXT one;
      END LOOP;
    END IF;
  END LOOP;
END
$$;
