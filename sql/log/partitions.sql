-- Partitions are made aside and attached, which lets others go on writing to the log. Whoever makes one
-- holds a lock of ours, which no SQL can take, until its transaction ends. So nobody makes it twice.

-- By the catalogs as they are now: to_regclass() may remember that there was no such table.
CREATE FUNCTION audit_cdc_internal.is_partition(name text) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit_cdc_internal.log'::pg_catalog.regclass AND c.relname = name
      AND c.relnamespace = 'audit_cdc_internal'::pg_catalog.regnamespace);
END
$$;

-- A table like the log, with its indexes. `relation` is what it is called, `name` what its indexes are called after.
CREATE FUNCTION audit_cdc_internal.make_partition(relation text, name text) RETURNS void
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp
  SET default_tablespace = ''
  SET default_table_access_method = 'heap'
AS $$
BEGIN
  EXECUTE format('CREATE TABLE audit_cdc_internal.%I (LIKE audit_cdc_internal.log)', relation);
  -- each change once; a time range
  EXECUTE format('CREATE UNIQUE INDEX %I ON audit_cdc_internal.%I (commit_timestamp, identity)',
                 name || '_once', relation);
  -- one record's history
  EXECUTE format('CREATE INDEX %I ON audit_cdc_internal.%I (record_id, audited_table)',
                 name || '_record', relation);
  -- what one user did, and when
  EXECUTE format(
    'CREATE INDEX %I ON audit_cdc_internal.%I (audit_cdc_internal.lifted(annotations, ''username''), commit_timestamp)
                  WHERE audit_cdc_internal.lifted(annotations, ''username'') IS NOT NULL',
    name || '_username', relation);
  -- what one request did
  EXECUTE format('CREATE INDEX %I ON audit_cdc_internal.%I (audit_cdc_internal.lifted(annotations, ''request_id''))
                  WHERE audit_cdc_internal.lifted(annotations, ''request_id'') IS NOT NULL',
                 name || '_request', relation);
  -- where the rows of a table went that were given another key
  EXECUTE format('CREATE INDEX %I ON audit_cdc_internal.%I (audited_table, commit_timestamp) WHERE may_change_key',
                 name || '_rekeyed', relation);
  -- one entry, by its number; what one transaction did; which commits of a second went ahead of a position. Of times
  -- alone _once is better, which is asked for by the column itself
  EXECUTE format('CREATE INDEX %I ON audit_cdc_internal.%I
                  USING brin (id, commit_lsn, (commit_timestamp - ''2000-01-01 00:00+00''::timestamptz))
                  WITH (pages_per_range = 32)',
                 name || '_id', relation);
  EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.%I
                  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change()', relation);
  EXECUTE format('ALTER TABLE audit_cdc_internal.%I ENABLE ALWAYS TRIGGER append_only', relation);
  PERFORM audit_cdc_internal.keep_private('pg_class'::regclass, to_regclass(format('audit_cdc_internal.%I', relation)));
  PERFORM audit_cdc_internal.keep_from_writers(format('audit_cdc_internal.%I', relation)::regclass);
END
$$;

CREATE FUNCTION audit_cdc_internal.add_partition(name text, first timestamptz, width interval) RETURNS void
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp
  SET DateStyle = 'ISO, YMD' SET TimeZone = 'UTC' -- the bounds are written as text
AS $$
BEGIN
  PERFORM audit_cdc_internal.lock_partitions();
  IF audit_cdc_internal.is_partition(name) THEN
    RETURN;
  END IF;

  BEGIN
    PERFORM audit_cdc_internal.make_partition(name, name);
  EXCEPTION WHEN duplicate_table THEN
    -- made by another session, and a snapshot of REPEATABLE READ or above does not show it
    IF 'audit_cdc_internal.log'::regclass
      <> ALL (ARRAY(SELECT pg_partition_ancestors(('audit_cdc_internal.' || name)::regclass))) THEN
      RAISE;
    END IF;
    RETURN;
  END;
  EXECUTE format(
    'ALTER TABLE audit_cdc_internal.log ATTACH PARTITION audit_cdc_internal.%I FOR VALUES FROM (%L) TO (%L)', name,
    first, (first AT TIME ZONE 'UTC' + width) AT TIME ZONE 'UTC');
END
$$;

-- A month is divided into days if one of the two before it has become large. The next month is made ahead, when the
-- present one has just begun: so it is the one before that tells.
CREATE FUNCTION audit_cdc_internal.is_to_be_divided(month timestamptz) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT coalesce(bool_or(m.bytes >= s.large), false)
  FROM (SELECT pg_size_bytes(nullif(current_setting('audit_cdc.large_month', true), '0')) AS large) AS s
  CROSS JOIN LATERAL (
    SELECT sum(pg_total_relation_size(c.oid)) AS bytes
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit_cdc_internal.log'::regclass
      AND left(c.relname, 11) IN (to_char(month AT TIME ZONE 'UTC' - interval '1 month', '"log_"YYYY_MM'),
                                  to_char(month AT TIME ZONE 'UTC' - interval '2 months', '"log_"YYYY_MM'))
    GROUP BY left(c.relname, 11)
  ) AS m;
END;

-- Its days that are partitions.
CREATE FUNCTION audit_cdc_internal.has_days(month timestamptz) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit_cdc_internal.log'::regclass
      AND c.relname LIKE to_char(month AT TIME ZONE 'UTC', '"log\_"YYYY"\_"MM"\_%"'));
END
$$;

-- Of a month that is divided already only what is asked for: retention may have removed the others.
CREATE FUNCTION audit_cdc_internal.add_days(month timestamptz, asked timestamptz[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  day timestamp;
BEGIN
  FOR day IN
    SELECT d.day
    FROM generate_series(month AT TIME ZONE 'UTC', month AT TIME ZONE 'UTC' + interval '1 month - 1 day',
                         interval '1 day') AS d(day)
    WHERE NOT audit_cdc_internal.has_days(month)
       OR d.day = ANY (SELECT date_trunc('day', a.time AT TIME ZONE 'UTC') FROM unnest(asked) AS a(time))
    ORDER BY 1
  LOOP
    PERFORM audit_cdc_internal.add_partition(to_char(day, '"log_"YYYY_MM_DD'), day AT TIME ZONE 'UTC', '1 day');
  END LOOP;
END
$$;

-- Called for a batch that has months or days which are new. The capture worker's role does not own the log.
CREATE FUNCTION audit_cdc_internal.ensure_partitions(times timestamptz[]) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  month timestamptz;
  name text;
BEGIN
  FOR month IN SELECT DISTINCT date_trunc('month', t, 'UTC') AS first FROM unnest(times) AS t ORDER BY first LOOP
    name := to_char(month AT TIME ZONE 'UTC', '"log_"YYYY_MM');
    CONTINUE WHEN audit_cdc_internal.is_partition(name);
    PERFORM audit_cdc_internal.lock_partitions(); -- nobody decides otherwise meanwhile
    IF audit_cdc_internal.is_partition(name) THEN
      CONTINUE;
    ELSIF audit_cdc_internal.has_days(month) OR audit_cdc_internal.is_to_be_divided(month) THEN
      PERFORM audit_cdc_internal.add_days(month, times);
    ELSE
      PERFORM audit_cdc_internal.add_partition(name, month, '1 month');
    END IF;
  END LOOP;
END
$$;
