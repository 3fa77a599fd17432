-- Entries that tell their whole rows, as those of REPLICA IDENTITY FULL do: their lines need no record's life.
--
-- * Such an entry's row after it is new_values, and the row before it that with old_values laid over.
-- * Whether the log misses a change before it tells the entry before it of its record. So that must be told too, stand
--   before it by position as it does by time, and nothing may have come between that names no record: a truncate, a
--   complete backfill, a change of names, or an update that gave another key.

-- What is to be known of an entry's table.
CREATE TYPE audit_cdc_internal.told_table AS (
  number integer, -- in audited_tables
  database_id text,
  audited audit_cdc_internal.audited,
  is_described boolean,
  told_from timestamptz, -- from when descriptions say that whole rows are sent; null: they do not
  first_break timestamptz, -- when something that names no record came between
  last_break timestamptz,
  first_rekeyed timestamptz, -- when an update may have given another key
  last_rekeyed timestamptz
);

CREATE FUNCTION audit_cdc_internal.told_of(audited audit_cdc_internal.audited, has_keys boolean)
  RETURNS audit_cdc_internal.told_table
  LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  told audit_cdc_internal.told_table;
  number integer;
  time timestamptz;
BEGIN
  told.database_id := audited.database_id;
  told.audited := audited;
  SELECT
    count(*) > 0,
    CASE WHEN bool_and(d.replica_identity = 'full' AND d.never_sent = '{}') THEN min(d.valid_from) END
  INTO told.is_described, told.told_from
  FROM audit_cdc_internal.described_tables AS d
  WHERE d.database_id = ANY (audited.databases)
    AND (d.table_schema, d.table_name) = (audited.table_schema, audited.table_name);
  IF NOT has_keys THEN
    RETURN told;
  END IF;
  SELECT min(b.commit_timestamp), max(b.commit_timestamp)
  INTO told.first_break, told.last_break
  FROM (
    SELECT l.commit_timestamp
    FROM audit_cdc_internal.log AS l
    WHERE l.audited_table = ANY (audited.numbers)
      AND l.record_id IS NULL
      AND l.action IN ('truncate', 'complete')
      AND (NOT audited.is_own OR l.origin <> 'i')
    UNION ALL
    SELECT d.commit_timestamp FROM audit_cdc_internal.losses_of(audited) AS d
  ) AS b;
  FOREACH number IN ARRAY audited.numbers LOOP
    time := (
      SELECT l.commit_timestamp
      FROM audit_cdc_internal.log AS l
      WHERE l.audited_table = number AND l.may_change_key
      ORDER BY l.commit_timestamp
      LIMIT 1
    );
    IF time IS NOT NULL THEN
      told.first_rekeyed := least(told.first_rekeyed, time);
      told.last_rekeyed := greatest(told.last_rekeyed, (
        SELECT l.commit_timestamp
        FROM audit_cdc_internal.log AS l
        WHERE l.audited_table = number AND l.may_change_key
        ORDER BY l.commit_timestamp DESC
        LIMIT 1
      ));
    END IF;
  END LOOP;
  RETURN told;
END
$$;

-- The same by its number. named: the database_id that was asked for, if any was; record: one that lines are wanted of,
-- null if none has a key.
CREATE FUNCTION audit_cdc_internal.told_table(number integer, named text, record text)
  RETURNS audit_cdc_internal.told_table
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  told audit_cdc_internal.told_table;
  entry audit_cdc_internal.audited_tables;
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
BEGIN
  SELECT t.* INTO entry FROM audit_cdc_internal.audited_tables AS t WHERE t.id = number;
  told := audit_cdc_internal.told_of(
    audit_cdc_internal.table_named(
      format('%I.%I', entry.table_schema, entry.table_name),
      CASE
        WHEN coalesce(named, here) = here
          AND entry.database_id = ANY ((SELECT o.ids FROM audit_cdc_internal.own_databases() AS o)::text[])
          THEN here
        ELSE entry.database_id
      END, NULL, record),
    record IS NOT NULL);
  told.number := number;
  told.database_id := entry.database_id;
  RETURN told;
END
$$;

-- Does it tell the whole row, before it and after it?
CREATE FUNCTION audit_cdc_internal.tells_row(entry audit_cdc_internal.log, told audit_cdc_internal.told_table)
  RETURNS boolean LANGUAGE sql IMMUTABLE
  RETURN CASE
    WHEN entry.action = 'update' AND entry.old_values IS NULL THEN false
    WHEN entry.unknown_columns IS NOT NULL
      THEN entry.unknown_columns = '{}'
        AND entry.action IN ('insert', 'update', 'delete', 'read')
        AND (entry.action <> 'update' OR entry.unknown_old_columns = '{}')
    WHEN told.is_described
      THEN entry.action IN ('insert', 'update', 'delete')
        AND coalesce(entry.commit_timestamp >= told.told_from, false)
    -- old values are sent with FULL only, and what was not sent of a deleted row is null
    ELSE entry.action = 'insert'
      OR entry.action = 'update' AND entry.old_values <> '{}'
      OR entry.action = 'delete' AND NOT jsonb_path_exists(entry.old_values, '$.* ? (@ == null)')
  END;

-- Does what is known of a row contradict what a change says that it was? A column may have got another type meanwhile.
CREATE FUNCTION audit_cdc_internal.contradicts(known jsonb, before jsonb) RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN EXISTS (
    SELECT FROM jsonb_each(before) AS b
    WHERE known ? b.key AND known -> b.key <> b.value AND known ->> b.key IS DISTINCT FROM before ->> b.key
  );

-- Does it not follow the entry before it of its record? Both tell their rows.
CREATE FUNCTION audit_cdc_internal.misses_change(entry audit_cdc_internal.log, before audit_cdc_internal.log)
  RETURNS boolean LANGUAGE sql IMMUTABLE
  RETURN CASE entry.action
    WHEN 'insert' THEN before.action <> 'delete'
    WHEN 'read'
      THEN before.action <> 'delete'
        AND before.new_values || entry.new_values <> before.new_values
        AND audit_cdc_internal.contradicts(before.new_values, entry.new_values)
    WHEN 'update'
      THEN before.action = 'delete'
        OR before.new_values || entry.new_values || entry.old_values <> before.new_values
          AND audit_cdc_internal.contradicts(before.new_values, entry.new_values || entry.old_values)
    ELSE before.action = 'delete'
      OR before.new_values || entry.old_values <> before.new_values
        AND audit_cdc_internal.contradicts(before.new_values, entry.old_values)
  END;

-- Is the line of an entry the same without its record's life? before: the entry before it by time. Where a change seems
-- to be missed, the life decides: a clock may have been set back.
CREATE FUNCTION audit_cdc_internal.needs_no_life(
    entry audit_cdc_internal.log, before audit_cdc_internal.log, told audit_cdc_internal.told_table)
  RETURNS boolean LANGUAGE sql IMMUTABLE
  RETURN coalesce(
    audit_cdc_internal.tells_row(entry, told)
      AND entry.may_change_key IS NOT TRUE
      AND CASE
        WHEN entry.record_id IS NULL THEN true
        WHEN (told.audited).key_types IS NOT NULL OR entry.commit_lsn IS NULL THEN false -- spellings; a time only
        WHEN before.id IS NULL
          THEN cardinality((told.audited).databases) = 1
            AND (told.first_break IS NULL OR entry.commit_timestamp < told.first_break)
            AND (told.first_rekeyed IS NULL OR entry.commit_timestamp < told.first_rekeyed)
        ELSE before.audited_table = entry.audited_table
          AND audit_cdc_internal.tells_row(before, told)
          AND (before.commit_lsn, coalesce(before.commit_idx, 2147483647))
            < (entry.commit_lsn, coalesce(entry.commit_idx, 2147483647))
          AND (
            told.first_break IS NULL
            OR before.commit_timestamp > told.last_break
            OR entry.commit_timestamp < told.first_break)
          AND (
            told.first_rekeyed IS NULL
            OR before.commit_timestamp > told.last_rekeyed
            OR entry.commit_timestamp < told.first_rekeyed)
          AND NOT audit_cdc_internal.misses_change(entry, before)
      END,
    false);

-- The line of an entry that tells its row.
CREATE FUNCTION audit_cdc_internal.told_line(
    entry audit_cdc_internal.log, database_id text, table_schema text, table_name text, note text, cursor text)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT
    entry.id, database_id, table_schema, table_name, entry.record_id, entry.action::text, entry.commit_lsn,
    CASE WHEN entry.action <> 'read' THEN entry.commit_idx END, entry.commit_timestamp,
    audit_cdc_internal.lifted(entry.annotations, 'username'), audit_cdc_internal.lifted(entry.annotations, 'source'),
    audit_cdc_internal.lifted(entry.annotations, 'request_id'),
    nullif(
      CASE
        WHEN entry.large_annotations IS NULL THEN entry.annotations -> 'metadata'
        ELSE (
          SELECT g.annotations -> 'metadata'
          FROM audit_cdc_internal.large_annotations AS g
          WHERE g.id = entry.large_annotations
        )
      END,
      'null'),
    CASE entry.action WHEN 'update' THEN entry.new_values || entry.old_values WHEN 'delete' THEN entry.old_values END,
    CASE WHEN entry.action <> 'delete' THEN entry.new_values END,
    CASE entry.action
      WHEN 'update'
        THEN (
          SELECT coalesce(jsonb_object_agg(o.key, jsonb_build_object('old', o.value, 'new', n.value)), '{}')
          FROM jsonb_each(entry.old_values) AS o
          CROSS JOIN LATERAL (SELECT entry.new_values -> o.key AS value) AS n
          WHERE n.value <> o.value
        )
      WHEN 'insert'
        THEN (
          SELECT coalesce(jsonb_object_agg(n.key, jsonb_build_object('new', n.value)), '{}')
          FROM jsonb_each(entry.new_values) AS n
        )
      WHEN 'delete'
        THEN (
          SELECT coalesce(jsonb_object_agg(o.key, jsonb_build_object('old', o.value)), '{}')
          FROM jsonb_each(entry.old_values) AS o
        )
    END,
    '{}'::text[], '{}'::text[], note, cursor;
END;
