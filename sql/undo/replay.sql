-- The log as SQL that rebuilds a table's rows elsewhere.

CREATE FUNCTION @extschema@.audit_replay_sql(
    table_name text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS TABLE (change_id bigint, statement text)
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  audited CONSTANT audit_cdc_internal.audited := audit_cdc_internal.table_named(table_name, database_id, NULL);
  facts jsonb;
BEGIN
  IF audited IS NULL THEN
    PERFORM audit_cdc_internal.warn_of_no_changes();
    RETURN;
  END IF;
  PERFORM audit_cdc_internal.say_doubts(audited, NULL, until, NULL, false);
  PERFORM audit_cdc_internal.say_if_unsettled(audited, until);
  facts := audit_cdc_internal.table_facts(
    audited,
    CASE
      WHEN to_regclass(format('%I.%I', audited.table_schema, audited.table_name)) IS NULL
        THEN ARRAY(
          SELECT DISTINCT jsonb_object_keys(coalesce(e.before, '{}') || coalesce(e.after, '{}'))
          FROM audit_cdc_internal.events(audited) AS e
        )
    END);
  RETURN QUERY
  SELECT
    e.id,
    CASE
      WHEN e.action = 'update' AND e.other_key IS NULL AND facts ->> 'key' <> '[]'
        THEN E'-- the key before is not known\n'
      ELSE ''
    END || r.statement
  FROM audit_cdc_internal.events(audited) WITH ORDINALITY AS e
  CROSS JOIN LATERAL audit_cdc_internal.replayed(
    facts::text, jsonb_build_object(
      'action', e.action, 'is_placed', e.is_placed, 'before', e.before, 'after', e.after)::text) WITH ORDINALITY AS
    r(statement, place)
  WHERE e.action <> 'moved'
    AND (since IS NULL OR e.commit_timestamp >= since)
    AND (until IS NULL OR e.commit_timestamp < until)
  ORDER BY e.ordinality, r.place;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_replay_sql(text, timestamptz, timestamptz, text) IS
  'SQL that rebuilds a table''s rows elsewhere, a statement a row, in the order of positions: run it there on an '
  'empty table with the same columns. since, until: only what was committed from then up to, not including, then; '
  'null: no bound. Generated columns are left to that table. Columns that were not sent stay as they are. Of a table '
  'whose types are not known here (it does not exist here, and is not described), values are written as they were '
  'sent. Errors: 22004 (no table named), 22023 (several tables of this name).';
