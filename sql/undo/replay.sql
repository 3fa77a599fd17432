-- The log as SQL that rebuilds a table's rows elsewhere.

CREATE FUNCTION audit_cdc_internal.replayed(target audit_cdc_internal.target, e audit_cdc_internal.event)
  RETURNS SETOF text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  columns CONSTANT text[] := audit_cdc_internal.columns_in(target, coalesce(e.after, '{}'));
  key_before jsonb := CASE WHEN e.before ?& target.key_columns THEN e.before ELSE e.after END;
  that_row text;
  changes text;
BEGIN
  IF e.action = 'truncate' THEN
    RETURN NEXT format('TRUNCATE %s;', target.name);
    RETURN;
  ELSIF e.action IN ('delete', 'complete') THEN
    key_before := e.before;
  END IF;
  IF e.action = 'complete' AND (e.before ?& target.key_columns) IS NOT TRUE THEN -- the whole table's
    RETURN;
  END IF;
  IF target.key_columns <> '{}' THEN
    that_row := audit_cdc_internal.is_row(target, key_before, target.key_columns);
  ELSE -- one of those that are equal
    that_row := audit_cdc_internal.one_of(
      target, audit_cdc_internal.is_row(target, e.before, audit_cdc_internal.columns_in(target, e.before)));
  END IF;
  IF e.action IN ('delete', 'complete') THEN
    RETURN NEXT format('DELETE FROM %s WHERE %s;', target.name, that_row);
    RETURN;
  END IF;
  IF e.action = 'update' OR e.action = 'read' AND e.is_placed AND target.key_columns <> '{}' THEN
    -- a key that stays is not set: it may be GENERATED ALWAYS
    changes := (
      SELECT string_agg(
        format('%I = %s', c, audit_cdc_internal.literal(e.after -> c, target.types ->> c)), ', ' ORDER BY place)
      FROM unnest(columns) WITH ORDINALITY AS u(c, place)
      WHERE c <> ALL (target.key_columns) OR key_before -> c <> e.after -> c
    );
    IF changes IS NOT NULL THEN
      RETURN NEXT format('UPDATE %s SET %s WHERE %s;', target.name, changes, that_row);
    END IF;
  END IF;
  -- of an update too: the log may begin later than the row
  IF e.action <> 'update' OR target.key_columns <> '{}' THEN
    RETURN NEXT audit_cdc_internal.statement(target, NULL, e.after, false);
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_replay_sql(
    table_name text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS TABLE (change_id bigint, statement text)
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  audited CONSTANT audit_cdc_internal.audited := audit_cdc_internal.table_named(table_name, database_id, NULL);
  target audit_cdc_internal.target;
BEGIN
  IF audited IS NULL THEN
    PERFORM audit_cdc_internal.warn_of_no_changes();
    RETURN;
  END IF;
  PERFORM audit_cdc_internal.say_doubts(audited, NULL, until, NULL, false);
  PERFORM audit_cdc_internal.say_if_unsettled(audited, until);
  target := audit_cdc_internal.target_of(audited);
  RETURN QUERY
  SELECT
    e.id,
    CASE
      WHEN e.action = 'update' AND e.other_key IS NULL AND target.key_columns <> '{}'
        THEN E'-- the key before is not known\n'
      ELSE ''
    END || r.statement
  FROM audit_cdc_internal.events(audited) WITH ORDINALITY AS e
  CROSS JOIN LATERAL audit_cdc_internal.replayed(
    target,
    ROW(
      e.id, e.run, e.lsn, e.idx, e.is_placed, e.truncates, e.commit_timestamp, e.action, e.record_id, e.record_key,
      e.other_key, e.before, e.after, e.unknown_before, e.unknown, e.carried, e.changed, e.username, e.source,
      e.request_id, e.metadata, e.database_id, e.commit_lsn, e.has_left)::audit_cdc_internal.event) WITH ORDINALITY AS
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
