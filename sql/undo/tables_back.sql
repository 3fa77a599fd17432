-- Whole tables back to a moment: what became of each record since, as one change.

-- Records that do not become the row before, and why. Where another row has taken the place since, what is not
-- published would be of the row that is there now. What is masked would stay as it is, though it has changed.
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
  IF EXISTS (
    SELECT FROM audit_cdc_internal.masks AS m
    WHERE m.table_schema = audited.table_schema AND m.table_name = audited.table_name
  ) THEN
    FOR record_id, doubt IN
      SELECT (e.event).record_key, audit_cdc_internal.masked_doubt(l.notes)
      FROM audit_cdc_internal.events_as_of(audited, at, lsn, NULL) AS e
      JOIN @extschema@.audit_logs AS l
        ON l.id = (e.event).id AND l.commit_timestamp = (e.event).commit_timestamp
      WHERE NOT e.is_past AND audit_cdc_internal.masked_doubt(l.notes) IS NOT NULL
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
  WITH changes AS (
    SELECT
      d.record_id, d.old_row, d.new_row, d.unknown_before, d.unknown_after,
      coalesce(d.doubt, CASE WHEN d.old_row IS NOT NULL AND d.new_row IS NOT NULL THEN r.doubt END) AS doubt,
      CASE WHEN d.old_row IS NULL THEN 'insert' WHEN d.new_row IS NULL THEN 'delete' ELSE 'update' END AS action,
      first_number + row_number() OVER (
        ORDER BY d.old_row IS NOT NULL AND d.new_row IS NULL DESC, d.old_row IS NULL, d.record_id DESC) AS number
    FROM audit_cdc_internal.differences(audited, at, lsn, NULL, NULL) AS d
    LEFT JOIN (
      SELECT s.record_id, min(s.doubt) AS doubt
      FROM audit_cdc_internal.replaced_since(audited, at, lsn) AS s
      GROUP BY s.record_id
    ) AS r ON r.record_id = d.record_id
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

CREATE FUNCTION audit_cdc_internal.tables_since(named audit_cdc_internal.named)
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  audited audit_cdc_internal.audited;
  seen audit_cdc_internal.audited[] := '{}';
  name text;
  one audit_cdc_internal.chosen;
  number bigint := 0;
BEGIN
  FOREACH name IN ARRAY named.tables LOOP
    audited := audit_cdc_internal.table_named(name, named.database_id, NULL);
    IF audited IS NULL THEN
      PERFORM audit_cdc_internal.warn_of_no_changes();
    ELSIF audited <> ALL (seen) THEN
      IF seen = '{}' THEN
        PERFORM audit_cdc_internal.say_if_unsettled(audited, named.at, named.lsn);
      END IF;
      seen := seen || audited;
      FOR one IN SELECT c.* FROM audit_cdc_internal.changes_since(audited, named.at, named.lsn, number) AS c LOOP
        number := number + 1;
        RETURN NEXT one;
      END LOOP;
    END IF;
  END LOOP;
END
$$;
