-- Undo and redo: which changes of the log are meant.

-- What names them, as audit_undo() and its kin take it.
CREATE TYPE audit_cdc_internal.named AS (
  change bigint,
  table_name text,
  key text,
  at timestamptz,
  lsn pg_lsn,
  commit_lsn bigint,
  request_id text,
  username text,
  since timestamptz,
  until timestamptz,
  database_id text,
  tables text[]
);

CREATE FUNCTION audit_cdc_internal.refuse_unfit(named audit_cdc_internal.named) RETURNS void
  LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  has_one_moment CONSTANT boolean := (named.at IS NULL) <> (named.lsn IS NULL);
BEGIN
  IF named.tables IS NOT NULL THEN
    IF NOT has_one_moment
      OR num_nonnulls(
        named.change, named.table_name, named.key, named.commit_lsn, named.request_id, named.username, named.since,
        named.until) > 0 THEN
      RAISE EXCEPTION 'tables are named with a moment only'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'With tables, name either at or lsn.';
    END IF;
  ELSIF named.key IS NOT NULL THEN
    IF named.table_name IS NULL OR NOT has_one_moment THEN
      RAISE EXCEPTION 'a record is taken back to a moment'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'With key, name table_name and either at or lsn.';
    END IF;
  ELSIF num_nonnulls(named.change, named.commit_lsn, named.request_id, named.username) = 0 THEN
    RAISE EXCEPTION 'no change, record, transaction, request or user is given'
      USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Name a change, a table and a key with a moment, tables with a moment, a commit_lsn, a '
                   'request_id, or a username with since and until.';
  ELSIF named.username IS NOT NULL
    AND num_nonnulls(named.commit_lsn, named.request_id) = 0
    AND num_nulls(named.since, named.until) > 0 THEN
    RAISE EXCEPTION 'a user''s changes are taken of a time range'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'With username, give since and until.';
  END IF;
END
$$;

CREATE TYPE audit_cdc_internal.chosen AS (
  change_id bigint,
  table_schema text,
  table_name text,
  record_id text,
  database_id text,
  action text,
  commit_lsn bigint, -- counted on from the databases before, as events have it
  commit_idx integer,
  commit_timestamp timestamptz,
  old_row jsonb,
  new_row jsonb,
  unknown_old_columns text[],
  unknown_columns text[],
  not_sent_before text[], -- of what was before it, the message itself had not these; null: nothing
  doubt text -- why it cannot be taken back or made again, whatever it says
);

-- As events() tells it, of updates. A transaction's entries have one time, so that they are looked up at once.
CREATE FUNCTION audit_cdc_internal.not_sent_before(
    lines @extschema@.audit_history_line[], OUT id bigint, OUT not_sent text[], OUT doubt text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
  ids bigint[];
  first timestamptz;
  last timestamptz;
BEGIN
  SELECT array_agg(l.id), min(l.commit_timestamp), max(l.commit_timestamp)
  INTO ids, first, last
  FROM unnest(lines) AS l
  WHERE l.action = 'update';
  RETURN QUERY
  SELECT
    e.id,
    CASE
      WHEN e.unknown_old_columns IS NULL AND e.old_values <> '{}' THEN audit_cdc_internal.masked_columns(e.notes)
      ELSE e.unknown_old_columns
    END,
    audit_cdc_internal.masked_doubt(e.notes)
  FROM @extschema@.audit_logs AS e
  WHERE e.id = ANY (ids) AND e.commit_timestamp BETWEEN first AND last;
END
$$;

-- Lines of history as changes, in their order.
CREATE FUNCTION audit_cdc_internal.chosen_lines(lines @extschema@.audit_history_line[])
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT ROW(
    l.id, l.table_schema, l.table_name, l.record_id, l.database_id, l.action,
    l.commit_lsn + coalesce(own.positions_before[array_position(own.ids, l.database_id)], 0), l.commit_idx,
    l.commit_timestamp, l.old_row, l.new_row, l.unknown_old_columns, l.unknown_columns,
    CASE WHEN l.action = 'update' THEN n.not_sent ELSE '{}' END, n.doubt)::audit_cdc_internal.chosen
  FROM audit_cdc_internal.own_databases() AS own
  CROSS JOIN unnest(lines) WITH ORDINALITY AS l
  LEFT JOIN audit_cdc_internal.not_sent_before(lines) AS n ON n.id = l.id
  ORDER BY l.ordinality;
END;

-- Null: all of a row is in the log.
CREATE FUNCTION audit_cdc_internal.not_published(facts jsonb) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT format('values of %s unknown: they are not published', string_agg(c ->> 'name', ', ' ORDER BY c ->> 'name'))
  FROM jsonb_array_elements(facts -> 'columns') AS c
  WHERE NOT (c ->> 'is_published')::boolean
  HAVING count(*) > 0;
END;

-- Why what became of a record since a moment cannot be taken back or made again in one; null: it can.
CREATE FUNCTION audit_cdc_internal.doubt_since(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn, changes audit_cdc_internal.chosen[])
  RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  first CONSTANT audit_cdc_internal.chosen := changes[1];
  was record;
BEGIN
  SELECT r.reason, r.is_alive
  INTO was
  FROM audit_cdc_internal.records_as_of(
    audited, at, lsn,
    CASE
      WHEN first.old_row ?& audited.key_columns THEN audit_cdc_internal.key_in(first.old_row, audited)
      ELSE first.record_id
    END) AS r;
  RETURN coalesce(
    was.reason,
    CASE
      WHEN was.is_alive IS DISTINCT FROM (first.old_row IS NOT NULL)
        THEN 'a gap: the change after that moment does not follow'
      -- the row that is there now is another one
      WHEN EXISTS (SELECT FROM unnest(changes) AS c WHERE c.new_row IS NULL)
        THEN audit_cdc_internal.not_published(audit_cdc_internal.table_facts(audited))
    END,
    CASE
      WHEN EXISTS (SELECT FROM unnest(changes) AS c WHERE c.action = 'complete')
        THEN 'a backfill did not meet it: how it ended is not in the log'
    END);
END
$$;

-- What became of a record between a moment and now, as one change: from the row before the first to that after the
-- last. Where one does not follow the other (keys that went from row to row), they stay as they are.
CREATE FUNCTION audit_cdc_internal.in_one(changes audit_cdc_internal.chosen[], doubt text)
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  first CONSTANT audit_cdc_internal.chosen := changes[1];
  last audit_cdc_internal.chosen := changes[cardinality(changes)];
BEGIN
  IF (
    SELECT bool_and(
      p.place = 1
      -- what the table does not have any more is not in the row before either
      OR p.old_row IS NOT DISTINCT FROM
        p.last_row - ARRAY(SELECT k FROM jsonb_object_keys(p.last_row) AS k WHERE NOT p.new_row ? k))
    FROM (
      SELECT c.place, c.old_row, c.new_row, lag(c.new_row) OVER (ORDER BY c.place) AS last_row
      FROM unnest(changes) WITH ORDINALITY AS c(
        change_id, table_schema, table_name, record_id, database_id, action, commit_lsn, commit_idx,
        commit_timestamp, old_row, new_row, unknown_old_columns, unknown_columns, not_sent_before, doubt, place)
    ) AS p
  ) THEN
    last.old_row := first.old_row;
    -- what came to be known later may have been something else then
    last.unknown_old_columns := CASE
      WHEN first.old_row IS NULL THEN '{}'
      ELSE ARRAY(
        SELECT unnest(first.unknown_old_columns)
        UNION
        SELECT c
        FROM jsonb_object_keys(last.new_row) AS c
        WHERE NOT first.old_row ? c
        ORDER BY 1
      )
    END;
    last.doubt := coalesce(doubt, (SELECT min(c.doubt) FROM unnest(changes) AS c));
    last.action := CASE
      WHEN last.old_row IS NULL THEN 'insert'
      WHEN last.new_row IS NULL THEN 'delete'
      ELSE 'update'
    END;
    last.not_sent_before := CASE
      WHEN NOT EXISTS (SELECT FROM unnest(changes) AS c WHERE c.not_sent_before IS NULL)
        THEN ARRAY(SELECT DISTINCT u FROM unnest(changes) AS c, unnest(c.not_sent_before) AS u)
    END;
    IF last.old_row IS NOT NULL OR last.new_row IS NOT NULL THEN
      RETURN NEXT last;
    END IF;
  ELSE
    RETURN QUERY
    SELECT c.change_id, c.table_schema, c.table_name, c.record_id, c.database_id, c.action, c.commit_lsn,
           c.commit_idx, c.commit_timestamp, c.old_row, c.new_row, c.unknown_old_columns, c.unknown_columns,
           c.not_sent_before, coalesce(in_one.doubt, c.doubt)
    FROM unnest(changes) AS c;
  END IF;
END
$$;

-- What became of a record since a moment. What took changes back is not made once more.
CREATE FUNCTION audit_cdc_internal.record_since(is_redo boolean, named audit_cdc_internal.named)
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  audited CONSTANT audit_cdc_internal.audited :=
    audit_cdc_internal.table_named(named.table_name, named.database_id, NULL, named.key);
  moment record;
  lines @extschema@.audit_history_line[];
  changes audit_cdc_internal.chosen[];
BEGIN
  IF audited IS NULL THEN
    RETURN;
  END IF;
  PERFORM audit_cdc_internal.say_if_unsettled(audited, named.at, named.lsn);
  SELECT m.last_lsn, m.last_commit, m.last_id
  INTO moment
  FROM audit_cdc_internal.moment(audited, named.at, named.lsn) AS m;
  lines := ARRAY(
    SELECT l
    FROM audit_cdc_internal.record_lines(audited, named.key) AS l
    WHERE l.commit_lsn IS NOT NULL
      AND split_part(l.cursor, '.', 2)::bigint > coalesce(moment.last_lsn, 0)
      AND l.action <> 'read'
      -- otherwise from before the source was restored
      AND (
        moment.last_commit IS NULL
        OR l.id > moment.last_id
        OR l.commit_timestamp > moment.last_commit - audit_cdc_internal.overtaking())
      AND NOT (is_redo AND coalesce(l.metadata ?| '{undo,redo}', false))
    ORDER BY string_to_array(l.cursor, '.')::bigint[]
  );
  changes := ARRAY(SELECT c FROM audit_cdc_internal.chosen_lines(lines) AS c);
  IF changes <> '{}' THEN
    RETURN QUERY
    SELECT o.*
    FROM audit_cdc_internal.in_one(
      changes, audit_cdc_internal.doubt_since(audited, named.at, named.lsn, changes)) AS o;
  END IF;
END
$$;
