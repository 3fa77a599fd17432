-- What is to be known of a table before lines are told from its entries alone: `crates/core/src/lives/told.rs`.

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
