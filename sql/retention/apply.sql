-- Removing what rules let go and no hold keeps. Whole months are dropped. Of others rows are removed in batches.

CREATE FUNCTION audit_cdc_internal.require_read_committed() RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'retention is applied under READ COMMITTED only'
      USING ERRCODE = 'active_sql_transaction', HINT = 'SET default_transaction_isolation = ''read committed''.';
  END IF;
END
$$;

-- From now on ingest stores nothing of these tables that is older. False: others write just now; ask again.
-- What comes late into a month that is still to be archived is stored: it belongs into the archive.
CREATE FUNCTION audit_cdc_internal.set_horizons() RETURNS boolean
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  expired CONSTANT audit_cdc_internal.expired[] := ARRAY(SELECT e FROM audit_cdc_internal.expired AS e);
  waiting CONSTANT date[] := ARRAY(SELECT DISTINCT e.month FROM unnest(expired) AS e WHERE e.unarchived > 0 ORDER BY 1);
  tables bigint;
BEGIN
  PERFORM audit_cdc_internal.require_read_committed();
  PERFORM set_config('lock_timeout', '50ms', true);
  LOCK TABLE ONLY audit_cdc_internal.log IN SHARE MODE; -- every ingest has ended, and the next sees this
  INSERT INTO audit_cdc_internal.horizons AS h
  SELECT c.audited_table,
         CASE WHEN audit_cdc_internal.archive_first() THEN least(c.cutoff, e.archived_until) ELSE c.cutoff END
  FROM audit_cdc_internal.cutoffs AS c
  JOIN (
    SELECT e.audited_table, (max(e.month) + interval '1 month') AT TIME ZONE 'UTC' AS archived_until
    FROM unnest(expired) AS e
    WHERE e.entries > 0
    GROUP BY e.audited_table
  ) AS e ON e.audited_table = c.audited_table
  ON CONFLICT (audited_table) DO UPDATE SET before = greatest(h.before, excluded.before);
  GET DIAGNOSTICS tables = ROW_COUNT;
  UPDATE audit_cdc_internal.ingest_reads SET changed_at = now();
  PERFORM audit_cdc_internal.say_unarchived(w.month) FROM unnest(waiting) AS w(month);
  PERFORM audit_cdc_internal.note_operation(
    'audit_apply_retention', '{}', jsonb_strip_nulls(jsonb_build_object(
      'tables', tables,
      'unarchived', (SELECT nullif(sum(e.unarchived), 0) FROM unnest(expired) AS e))))
  WHERE tables > 0 OR waiting <> '{}';
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END
$$;

-- Months and days that may have something to remove, the oldest first. Of months elsewhere nothing is removed.
CREATE FUNCTION audit_cdc_internal.partitions_to_clear() RETURNS text[]
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT coalesce(array_agg(p.name ORDER BY p.name), '{}')
  FROM (
    SELECT c.relname::text AS name, to_date(substr(c.relname, 5), 'YYYY_MM_DD') AS first
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit_cdc_internal.log'::regclass AND NOT audit_cdc_internal.stands_elsewhere(c.relname)
  ) AS p
  CROSS JOIN audit_cdc_internal.archived_months AS a
  WHERE p.first AT TIME ZONE 'UTC' < (SELECT max(h.before) FROM audit_cdc_internal.horizons AS h)
    AND coalesce(date_trunc('month', p.first::timestamp)::date = ANY (a.months), true);
END;

-- What a partition keeps: what the rules of now keep, what is not beyond the horizon of its table, or is held.
-- Otherwise, what may go.
CREATE FUNCTION audit_cdc_internal.rows_of(partition regclass, is_kept boolean, most integer) RETURNS tid[]
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rows tid[];
BEGIN
  EXECUTE format(
    'SELECT ARRAY(
       SELECT l.ctid
       FROM ONLY %s AS l
       LEFT JOIN audit_cdc_internal.horizons AS h ON h.audited_table = l.audited_table
       LEFT JOIN audit_cdc_internal.cutoffs AS c ON c.audited_table = l.audited_table
       CROSS JOIN audit_cdc_internal.with_holds AS w
       WHERE $1 = (
         coalesce(l.commit_timestamp < h.before AND l.commit_timestamp < c.cutoff, false) IS FALSE
         OR l.audited_table = ANY (w.tables) AND audit_cdc_internal.is_held(l::audit_cdc_internal.log))
       LIMIT $2)', partition)
  INTO rows USING is_kept, most;
  RETURN rows;
END
$$;

-- Removes up to so many entries of a partition, or all of it where it keeps nothing. removed null: others use it.
CREATE FUNCTION audit_cdc_internal.clear_partition(
    name text, batch_size integer, OUT removed bigint, OUT is_done boolean)
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  partition regclass;
  month date;
  is_over boolean;
  rows tid[] := '{}';
  is_whole boolean := false;
BEGIN
  removed := 0;
  is_done := true;
  PERFORM audit_cdc_internal.require_read_committed();
  PERFORM set_config('lock_timeout', '50ms', true);
  PERFORM audit_cdc_internal.lock_partitions(); -- nobody makes a month, or a hold, meanwhile
  IF audit_cdc_internal.is_partition(name) IS NOT TRUE OR audit_cdc_internal.stands_elsewhere(name) THEN
    RETURN;
  END IF;
  partition := format('audit_cdc_internal.%I', name)::regclass;
  month := to_date(substr(name, 5, 7), 'YYYY_MM');
  is_over := to_date(substr(name, 5), 'YYYY_MM_DD') + CASE WHEN length(name) > 11 THEN interval '1 day'
               ELSE interval '1 month' END < now() AT TIME ZONE 'UTC';
  IF is_over AND audit_cdc_internal.rows_of(partition, true, 1) = '{}' THEN
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE MODE', partition);
    is_whole := audit_cdc_internal.rows_of(partition, true, 1) = '{}';
  END IF;
  IF NOT is_whole THEN
    rows := audit_cdc_internal.rows_of(partition, false, batch_size);
  END IF;
  IF (is_whole OR rows <> '{}') AND audit_cdc_internal.waits_for_archive(month) THEN
    PERFORM audit_cdc_internal.say_unarchived(month); -- something came, or was erased, since the run has begun
    RETURN;
  ELSIF is_whole THEN
    removed := audit_cdc_internal.count_removed(partition, NULL, month);
    LOCK TABLE ONLY audit_cdc_internal.log IN ACCESS EXCLUSIVE MODE;
    PERFORM audit_cdc_internal.drop_month(partition);
  ELSIF rows <> '{}' THEN
    removed := audit_cdc_internal.count_removed(partition, rows, month);
    PERFORM audit_cdc_internal.remove_rows(rows, partition);
  END IF;
  is_done := cardinality(rows) < batch_size;
  IF removed > 0 THEN
    PERFORM audit_cdc_internal.note_operation(
      'audit_apply_retention', jsonb_build_object('month', month, 'partition', name, 'is_whole', is_whole),
      jsonb_build_object('entries', removed));
  END IF;
EXCEPTION WHEN lock_not_available THEN
  removed := NULL;
  is_done := false;
END
$$;

-- Rejects of tables follow, by the day on which they came last. A hold on a table that may be theirs keeps them.
CREATE FUNCTION audit_cdc_internal.clear_rejects() RETURNS bigint
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  removed bigint;
BEGIN
  PERFORM audit_cdc_internal.require_read_committed();
  PERFORM audit_cdc_internal.lock_partitions(); -- nobody makes a hold meanwhile
  DELETE FROM audit_cdc_internal.rejects AS r
  WHERE r.last_delivered_at < now() - (
      SELECT u.keep
      FROM audit_cdc_internal.retention_rules AS u
      WHERE (u.database_id IS NULL OR u.database_id = r.database_id)
        AND (u.table_schema IS NULL OR u.table_schema = r.table_schema)
        AND (u.table_name IS NULL OR u.table_name = r.table_name)
      ORDER BY u.table_name IS NULL, u.table_schema IS NULL, u.database_id IS NULL
      LIMIT 1
    )
    AND NOT EXISTS (SELECT FROM audit_cdc_internal.holds_of_reject(r));
  GET DIAGNOSTICS removed = ROW_COUNT;
  IF removed > 0 THEN
    PERFORM audit_cdc_internal.note_operation(
      'audit_apply_retention', '{}', jsonb_build_object('rejects', removed));
  END IF;
  RETURN removed;
END
$$;

-- What entries share is removed when none names it any more. The log is read for it without a lock, and once more under
-- the lock, only for what may be removed. Each of these removes up to so much. Null: others write just now.

-- A key that an open ingest has found there stays.
CREATE FUNCTION audit_cdc_internal.clear_record_keys() RETURNS bigint
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rows tid[];
  removed bigint;
BEGIN
  PERFORM audit_cdc_internal.require_read_committed();
  rows := ARRAY(
    SELECT k.ctid
    FROM audit_cdc_internal.record_keys AS k
    WHERE k.audited_table IN (SELECT h.audited_table FROM audit_cdc_internal.horizons AS h)
      AND NOT EXISTS (
        SELECT FROM audit_cdc_internal.log AS l
        WHERE l.record_id = k.record_id AND l.audited_table = k.audited_table
      )
    LIMIT 1000
  );
  IF rows = '{}' THEN
    RETURN 0;
  END IF;
  PERFORM set_config('lock_timeout', '50ms', true);
  LOCK TABLE ONLY audit_cdc_internal.log IN SHARE MODE;
  DELETE FROM audit_cdc_internal.record_keys AS k
  WHERE k.ctid = ANY (rows)
    AND NOT EXISTS (
      SELECT FROM audit_cdc_internal.log AS l
      WHERE l.record_id = k.record_id AND l.audited_table = k.audited_table
    );
  GET DIAGNOSTICS removed = ROW_COUNT;
  RETURN removed;
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END
$$;

-- The last number of an entry, when nobody was writing. The error gives the lock back.
CREATE FUNCTION audit_cdc_internal.last_settled_number() RETURNS bigint
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  last bigint;
BEGIN
  LOCK TABLE ONLY audit_cdc_internal.log IN SHARE MODE;
  SELECT coalesce(max(y.last_id), 0) INTO last FROM audit_cdc_internal.tallies AS y;
  RAISE EXCEPTION 'not to be seen' USING ERRCODE = 'UA001';
EXCEPTION WHEN SQLSTATE 'UA001' THEN
  RETURN last;
END
$$;

-- Large annotations and server contexts, of old entries only. DDL has annotations too.
CREATE FUNCTION audit_cdc_internal.clear_shared(shared regclass, named text, named_by_ddl text) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  unnamed uuid[];
  rows tid[];
  last bigint;
BEGIN
  PERFORM audit_cdc_internal.require_read_committed();
  PERFORM set_config('lock_timeout', '50ms', true);
  last := audit_cdc_internal.last_settled_number();
  EXECUTE format(
    'SELECT ARRAY(SELECT s.id FROM %s AS s
                  WHERE s.created_at < (SELECT max(h.before) FROM audit_cdc_internal.horizons AS h)
                    AND NOT EXISTS (SELECT FROM audit_cdc_internal.log AS l WHERE l.%I = s.id)
                    AND NOT EXISTS (%s)
                  LIMIT 1000)', shared, named, named_by_ddl)
  INTO unnamed;
  IF unnamed = '{}' THEN
    RETURN 0;
  END IF;
  LOCK TABLE ONLY audit_cdc_internal.log, audit_cdc_internal.schema_change_positions IN SHARE MODE;
  EXECUTE format(
    'SELECT ARRAY(SELECT s.ctid FROM %s AS s
                  WHERE s.id = ANY ($1)
                    AND NOT EXISTS (SELECT FROM audit_cdc_internal.log AS l WHERE l.id > $2 AND l.%I = s.id)
                    AND NOT EXISTS (%s))', shared, named, named_by_ddl)
  INTO rows USING unnamed, last;
  PERFORM audit_cdc_internal.remove_rows(rows, shared);
  RETURN cardinality(rows);
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END
$$;

CREATE FUNCTION audit_cdc_internal.clear_annotations() RETURNS bigint
  LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  RETURN audit_cdc_internal.clear_shared(
    'audit_cdc_internal.large_annotations', 'large_annotations',
    'SELECT FROM audit_cdc_internal.schema_change_positions AS p WHERE p.large_annotations = s.id');

CREATE FUNCTION audit_cdc_internal.clear_contexts() RETURNS bigint
  LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  RETURN audit_cdc_internal.clear_shared(
    'audit_cdc_internal.server_contexts', 'server_context', 'SELECT WHERE false');

-- Each in a transaction of its own, so that no lock is held while the log is read. Others than these: nothing.
CREATE FUNCTION audit_cdc_internal.clear_unnamed(kind text) RETURNS bigint
  LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  RETURN CASE kind WHEN 'record keys' THEN audit_cdc_internal.clear_record_keys()
                   WHEN 'annotations' THEN audit_cdc_internal.clear_annotations()
                   WHEN 'contexts' THEN audit_cdc_internal.clear_contexts() END;

CREATE FUNCTION audit_cdc_internal.check_apply(dry_run boolean, batch_size integer) RETURNS void
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF dry_run IS NULL OR batch_size IS NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN dry_run IS NULL THEN 'dry_run' ELSE 'batch_size' END
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF batch_size NOT BETWEEN 1 AND 100000 THEN
    RAISE EXCEPTION 'batch_size must be between 1 and 100000' USING ERRCODE = 'invalid_parameter_value';
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.say_busy(what text) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'others use what was to be removed: %', what
    USING ERRCODE = 'lock_not_available', DETAIL = 'They read or write the audit log without a pause.',
          HINT = 'Call audit_apply_retention() again: it goes on from there.';
END
$$;

CREATE PROCEDURE @extschema@.audit_apply_retention(
    dry_run boolean DEFAULT false, batch_size integer DEFAULT 10000, INOUT entries bigint DEFAULT NULL)
  LANGUAGE plpgsql AS $$
DECLARE
  one pg_catalog.record;
  partition pg_catalog.text;
  waits pg_catalog.int4 := 0;
  busy pg_catalog.text[] := '{}';
  kind pg_catalog.text;
BEGIN
  PERFORM audit_cdc_internal.check_apply(dry_run, batch_size);
  entries := 0;
  IF dry_run THEN
    FOR one IN SELECT e.* FROM @extschema@.audit_expired() AS e LOOP
      RAISE NOTICE '% %.%: % entries would go, % are held, % wait until they are archived', one.month,
        one.table_schema, one.table_name, one.entries, one.held, one.unarchived;
      entries := entries OPERATOR(pg_catalog.+) one.entries;
    END LOOP;
    RETURN;
  END IF;
  IF @extschema@.audit_in_transaction_block() THEN
    RAISE EXCEPTION 'audit_apply_retention() cannot run inside a transaction block'
      USING ERRCODE = 'active_sql_transaction', HINT = 'It commits in between.';
  END IF;
  WHILE NOT audit_cdc_internal.set_horizons() LOOP
    COMMIT;
    waits := waits OPERATOR(pg_catalog.+) 1;
    PERFORM audit_cdc_internal.say_busy('the whole log') WHERE waits OPERATOR(pg_catalog.>) 100;
    PERFORM pg_catalog.pg_sleep(0.05);
  END LOOP;
  COMMIT;
  FOREACH partition IN ARRAY audit_cdc_internal.partitions_to_clear() LOOP
    waits := 0;
    LOOP
      SELECT s.* INTO one FROM audit_cdc_internal.clear_partition(partition, batch_size) AS s;
      COMMIT;
      entries := entries OPERATOR(pg_catalog.+) coalesce(one.removed, 0);
      EXIT WHEN one.is_done;
      IF one.removed IS NULL THEN
        waits := waits OPERATOR(pg_catalog.+) 1;
        IF waits OPERATOR(pg_catalog.>) 100 THEN
          busy := pg_catalog.array_append(busy, partition);
          EXIT;
        END IF;
        PERFORM pg_catalog.pg_sleep(0.05);
      ELSE
        RAISE NOTICE 'removed % entries so far, now of %', entries, partition;
      END IF;
    END LOOP;
  END LOOP;
  PERFORM audit_cdc_internal.clear_rejects();
  COMMIT;
  FOREACH kind IN ARRAY ARRAY['record keys', 'annotations', 'contexts'] LOOP
    WHILE audit_cdc_internal.clear_unnamed(kind) OPERATOR(pg_catalog.>) 0 LOOP COMMIT; END LOOP;
    COMMIT;
  END LOOP;
  PERFORM audit_cdc_internal.say_busy(pg_catalog.array_to_string(busy, ', ')) WHERE busy OPERATOR(pg_catalog.<>) '{}';
  PERFORM audit_cdc_internal.say_elsewhere();
END
$$;
COMMENT ON PROCEDURE @extschema@.audit_apply_retention(boolean, integer, bigint) IS
  'Removes the entries that are older than the rules of audit_set_retention() keep, unless audit_hold() holds them, '
  'and tells how many. A month of which nothing is kept is dropped at once; of others rows are removed, batch_size '
  'of them in a transaction. Rejects that came last so long ago, keys, failures of projections and annotations of '
  'these entries follow. Counts stay in audit_removed. dry_run => true: removes nothing, and tells by notices what '
  'would go; audit_expired() tells it as rows. While audit_cdc.archive_first is on, entries stay until their month is '
  'archived; a NOTICE names the month. It waits for nobody longer than 50 ms at a time, and goes on where it was '
  'interrupted. Space within months comes back by VACUUM. Errors: 25001 (inside a transaction block), 22004 '
  '(null), 22023 (batch_size is not between 1 and 100,000), 55P03 (others use a month without a pause), 0A000 (what '
  'may go is in a month that audit_move_month() has moved; all else is removed).';
