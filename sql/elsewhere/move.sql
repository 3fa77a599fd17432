-- audit_move_month() and audit_return_month(): a month is copied, compared, and takes the place of the one before.

-- Where a month goes: beside it, under this name.
CREATE FUNCTION audit_cdc_internal.copy_of(name text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
  RETURN name || CASE WHEN audit_cdc_internal.is_elsewhere(name) THEN '_here' ELSE '_there' END;

-- Whoever may call the steps may call them in any order.
CREATE FUNCTION audit_cdc_internal.check_move(name text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'a month is moved under READ COMMITTED only'
      USING ERRCODE = 'active_sql_transaction', HINT = 'SET default_transaction_isolation = ''read committed''.';
  ELSIF audit_cdc_internal.is_partition(name) IS NOT TRUE THEN
    RAISE EXCEPTION 'the log has no such month' USING ERRCODE = 'undefined_table';
  END IF;
  PERFORM audit_cdc_internal.partitions_of_month(replace(substr(name, 5, 7), '_', '-'));
  PERFORM audit_cdc_internal.check_owner_of_month(name) WHERE audit_cdc_internal.stands_elsewhere(name);
END
$$;

-- Those that are not where they are to be. Null: here.
CREATE FUNCTION audit_cdc_internal.partitions_to_move(month text, server name) RETURNS text[]
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (
    SELECT FROM unnest(audit_cdc_internal.partitions_of_month(month)) AS p(name)
    JOIN pg_foreign_table AS t ON t.ftrelid = format('audit_cdc_internal.%I', p.name)::regclass
    JOIN pg_foreign_server AS s ON s.oid = t.ftserver
    WHERE s.srvname <> server) THEN
    RAISE EXCEPTION 'the month is on another server'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'CALL audit_return_month() first.';
  END IF;
  RETURN ARRAY(
    SELECT p.name
    FROM unnest(audit_cdc_internal.partitions_of_month(month)) AS p(name)
    WHERE audit_cdc_internal.is_elsewhere(p.name) = (server IS NULL)
    ORDER BY p.name);
END
$$;

CREATE FUNCTION audit_cdc_internal.bounds_of(name text, OUT first timestamptz, OUT until timestamptz)
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT d.day AT TIME ZONE 'UTC',
         (d.day + CASE WHEN length(name) > 11 THEN interval '1 day' ELSE '1 month' END) AT TIME ZONE 'UTC'
  FROM (SELECT to_date(substr(name, 5), 'YYYY_MM_DD')::timestamp AS day) AS d;
END;

-- The table here, for a month that comes back. Its bounds need not be looked for when it is attached.
CREATE FUNCTION audit_cdc_internal.make_copy_here(name text, copy text) RETURNS void
  LANGUAGE plpgsql VOLATILE
  SET search_path = pg_catalog, pg_temp
  SET DateStyle = 'ISO, YMD' SET TimeZone = 'UTC' -- the bounds are written as text
AS $$
BEGIN
  PERFORM audit_cdc_internal.drop_month(c.oid) -- of a return that did not end
  FROM pg_class AS c
  WHERE c.relname = copy AND c.relnamespace = 'audit_cdc_internal'::regnamespace;
  PERFORM audit_cdc_internal.make_partition(copy, name);
  EXECUTE (
    SELECT format('ALTER TABLE audit_cdc_internal.%I ADD CONSTRAINT bounds
                   CHECK (commit_timestamp >= %L AND commit_timestamp < %L)', copy, b.first, b.until)
    FROM audit_cdc_internal.bounds_of(name) AS b);
END
$$;

-- The table there, which must be empty.
CREATE FUNCTION audit_cdc_internal.make_copy_there(name text, copy text, server name, caller oid) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  is_used boolean;
BEGIN
  PERFORM audit_cdc_internal.check_server(server, caller);
  IF audit_cdc_internal.is_elsewhere(copy) THEN
    RAISE EXCEPTION 'a move of this month did not end'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'CALL audit_return_month() empties what it has left on the other server.';
  END IF;
  PERFORM audit_cdc_internal.add_foreign_table(copy, name, server);
  EXECUTE format('SELECT EXISTS (SELECT FROM audit_cdc_internal.%I)', copy) INTO is_used;
  IF is_used THEN
    RAISE EXCEPTION 'the table on server "%" is not empty', server
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Another log may have its month there.';
  END IF;
  -- a row may be left of a table that a superuser has dropped
  INSERT INTO audit_cdc_internal.months_elsewhere AS m (name, database_id)
  VALUES (make_copy_there.name, audit_cdc_internal.this_database() ->> 'id')
  ON CONFLICT ON CONSTRAINT months_elsewhere_pkey DO UPDATE SET database_id = excluded.database_id;
END
$$;

-- Makes the table into which it is copied. Gives the last number of an entry that all can see; null: others write.
CREATE FUNCTION audit_cdc_internal.start_move(name text, server name, caller oid) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  copy CONSTANT text := audit_cdc_internal.copy_of(name);
  last bigint;
BEGIN
  PERFORM audit_cdc_internal.check_move(name);
  PERFORM set_config('lock_timeout', '50ms', true);
  PERFORM audit_cdc_internal.lock_partitions();
  IF audit_cdc_internal.is_elsewhere(name) THEN
    PERFORM audit_cdc_internal.make_copy_here(name, copy);
  ELSE
    PERFORM audit_cdc_internal.make_copy_there(name, copy, server, caller);
  END IF;
  last := audit_cdc_internal.last_settled_number();
  UPDATE audit_cdc_internal.months_elsewhere AS m SET settled = last WHERE m.name = start_move.name;
  RETURN last;
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END
$$;

-- Copies the next entries after this time and identity. copied 0: there are no more.
CREATE FUNCTION audit_cdc_internal.move_batch(
    name text, INOUT commit_timestamp timestamptz, INOUT identity uuid, OUT copied bigint)
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  copy CONSTANT text := audit_cdc_internal.copy_of(name);
  last record;
BEGIN
  PERFORM audit_cdc_internal.check_move(name);
  EXECUTE format(
    'SELECT n.commit_timestamp, n.identity
     FROM (SELECT l.commit_timestamp, l.identity FROM ONLY audit_cdc_internal.%I AS l
           WHERE (l.commit_timestamp, l.identity) > ($1, $2)
           ORDER BY 1, 2 LIMIT 10000) AS n
     ORDER BY 1 DESC, 2 DESC LIMIT 1', name)
  INTO last USING commit_timestamp, identity;
  EXECUTE format(
    'INSERT INTO audit_cdc_internal.%I SELECT l.* FROM ONLY audit_cdc_internal.%I AS l
     WHERE (l.commit_timestamp, l.identity) > ($1, $2) AND (l.commit_timestamp, l.identity) <= ($3, $4)', copy, name)
  USING commit_timestamp, identity, last.commit_timestamp, last.identity;
  GET DIAGNOSTICS copied = ROW_COUNT;
  commit_timestamp := last.commit_timestamp;
  identity := last.identity;
END
$$;

-- Compares each value of each entry with these numbers. Gives how many entries there are.
CREATE FUNCTION audit_cdc_internal.compare_copy(name text, after bigint, until bigint) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  entries bigint;
  different bigint;
BEGIN
  EXECUTE format(
    'SELECT count(*), count(*) FILTER (WHERE m.entry IS DISTINCT FROM c.entry)
     FROM (SELECT l.commit_timestamp, l.identity, l::text AS entry FROM ONLY audit_cdc_internal.%I AS l
           WHERE l.id > $1 AND l.id <= $2) AS m
     FULL JOIN (SELECT l.commit_timestamp, l.identity, l::text AS entry FROM ONLY audit_cdc_internal.%I AS l
                WHERE l.id > $1 AND l.id <= $2) AS c USING (commit_timestamp, identity)',
    name, audit_cdc_internal.copy_of(name))
  INTO entries, different USING after, until;
  IF different > 0 THEN
    RAISE EXCEPTION 'the copy differs from the month in % entries', different
      USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'The month stays where it is.',
            HINT = 'CALL audit_return_month(), and move it again.';
  END IF;
  RETURN entries;
END
$$;

-- Takes the month away and attaches its copy. What came since the copy was begun goes along. Gives how much.
CREATE FUNCTION audit_cdc_internal.swap_month(name text, settled bigint) RETURNS bigint
  LANGUAGE plpgsql VOLATILE
  SET search_path = pg_catalog, pg_temp
  SET DateStyle = 'ISO, YMD' SET TimeZone = 'UTC' -- the bounds are written as text
AS $$
DECLARE
  copy CONSTANT text := audit_cdc_internal.copy_of(name);
  was_elsewhere CONSTANT boolean := audit_cdc_internal.is_elsewhere(name);
  late bigint;
BEGIN
  LOCK TABLE ONLY audit_cdc_internal.log IN ACCESS EXCLUSIVE MODE;
  EXECUTE format(
    'INSERT INTO audit_cdc_internal.%I SELECT l.* FROM ONLY audit_cdc_internal.%I AS l
     WHERE l.id > $1 AND (l.commit_timestamp, l.identity) NOT IN (
       SELECT c.commit_timestamp, c.identity FROM ONLY audit_cdc_internal.%1$I AS c WHERE c.id > $1)', copy, name)
  USING settled;
  late := audit_cdc_internal.compare_copy(name, settled, 9223372036854775807);
  IF was_elsewhere THEN
    -- its table is emptied once this is committed
    EXECUTE format('ALTER TABLE audit_cdc_internal.log DETACH PARTITION audit_cdc_internal.%I', name);
    EXECUTE format('ALTER FOREIGN TABLE audit_cdc_internal.%I RENAME TO %I', name, name || '_there');
  ELSE
    PERFORM audit_cdc_internal.drop_month(format('audit_cdc_internal.%I', name)::regclass);
  END IF;
  EXECUTE format('ALTER TABLE audit_cdc_internal.%I RENAME TO %I', copy, name);
  EXECUTE (
    SELECT format(
      'ALTER TABLE audit_cdc_internal.log ATTACH PARTITION audit_cdc_internal.%I FOR VALUES FROM (%L) TO (%L)', name,
      b.first, b.until)
    FROM audit_cdc_internal.bounds_of(name) AS b);
  IF was_elsewhere THEN
    EXECUTE format('ALTER TABLE audit_cdc_internal.%I DROP CONSTRAINT bounds', name);
  END IF;
  RETURN late;
END
$$;

-- Until the transaction ends nobody stores anything. It keeps nobody waiting behind it for long.
CREATE FUNCTION audit_cdc_internal.stop_writers() RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM set_config('lock_timeout', '50ms', true);
  FOR attempt IN 1..100 LOOP
    BEGIN
      LOCK TABLE ONLY audit_cdc_internal.log IN SHARE MODE;
      PERFORM set_config('lock_timeout', '0', true);
      RETURN;
    EXCEPTION WHEN lock_not_available THEN
      PERFORM pg_sleep(0.05);
    END;
  END LOOP;
  PERFORM audit_cdc_internal.say_month_busy();
END
$$;

-- Compares the copy, and puts it in the place of the month. Gives how many entries there are.
CREATE FUNCTION audit_cdc_internal.finish_move(name text) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  was_elsewhere CONSTANT boolean := audit_cdc_internal.is_elsewhere(name);
  settled bigint;
  entries bigint;
BEGIN
  PERFORM audit_cdc_internal.check_move(name);
  PERFORM audit_cdc_internal.lock_partitions(); -- nothing is erased or removed meanwhile
  PERFORM audit_cdc_internal.check_not_read(CASE WHEN was_elsewhere THEN name ELSE name || '_there' END);
  SELECT m.settled INTO STRICT settled FROM audit_cdc_internal.months_elsewhere AS m WHERE m.name = finish_move.name;
  IF was_elsewhere THEN
    -- all that is read there in this transaction is as of the first look: nobody may store after it
    PERFORM audit_cdc_internal.stop_writers();
  END IF;
  entries := audit_cdc_internal.compare_copy(name, 0, settled);
  PERFORM set_config('lock_timeout', '50ms', true);
  FOR attempt IN 1..100 LOOP
    BEGIN
      entries := entries + audit_cdc_internal.swap_month(name, settled);
      PERFORM audit_cdc_internal.note_operation(
        CASE WHEN was_elsewhere THEN 'audit_return_month' ELSE 'audit_move_month' END,
        jsonb_build_object('partition', name, 'server', (
          SELECT s.srvname
          FROM pg_foreign_table AS t
          JOIN pg_foreign_server AS s ON s.oid = t.ftserver
          WHERE t.ftrelid = format('audit_cdc_internal.%I', name)::regclass)),
        jsonb_build_object('entries', entries));
      PERFORM audit_cdc_internal.commit_to_disk(); -- before it is emptied there
      RETURN entries;
    EXCEPTION WHEN lock_not_available THEN
      PERFORM pg_sleep(0.05);
    END;
  END LOOP;
  PERFORM audit_cdc_internal.say_month_busy();
END
$$;

CREATE FUNCTION audit_cdc_internal.say_month_busy() RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'others use the audit log without a pause'
    USING ERRCODE = 'lock_not_available', DETAIL = 'The month stays where it is.', HINT = 'Try it again later.';
END
$$;

-- Would every transaction see what is committed since then?
CREATE FUNCTION audit_cdc_internal.is_seen_by_all(since xid8) RETURNS boolean
  LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT NOT EXISTS (
    SELECT FROM pg_stat_activity AS a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND age(a.backend_xmin) >= age(since::xid));
END;

-- A table that takes the place of another is there for all, its rows only for those whose snapshots are younger.
CREATE PROCEDURE audit_cdc_internal.wait_for_snapshots(since xid8)
  LANGUAGE plpgsql AS $$
DECLARE
  waits pg_catalog.int4 := 0;
BEGIN
  COMMIT;
  WHILE NOT audit_cdc_internal.is_seen_by_all(since) LOOP
    COMMIT;
    waits := waits OPERATOR(pg_catalog.+) 1;
    IF waits OPERATOR(pg_catalog.>) 200 THEN
      RAISE EXCEPTION 'a transaction that began before would not see the month'
        USING ERRCODE = 'object_in_use', DETAIL = 'The month stays where it is.',
              HINT = 'Call audit_return_month() again when that transaction has ended.';
    END IF;
    PERFORM pg_catalog.pg_sleep(0.05);
  END LOOP;
END
$$;

CREATE PROCEDURE audit_cdc_internal.move_month(month text, server name, INOUT entries bigint)
  LANGUAGE plpgsql AS $$
DECLARE
  partition pg_catalog.text;
  settled pg_catalog.int8;
  waits pg_catalog.int4;
  batch pg_catalog.record;
  copied pg_catalog.int8 := 0;
BEGIN
  entries := 0;
  FOREACH partition IN ARRAY audit_cdc_internal.partitions_to_move(month, server) LOOP
    waits := 0;
    LOOP
      settled := audit_cdc_internal.begin_move(partition, server);
      COMMIT;
      EXIT WHEN settled IS NOT NULL;
      waits := waits OPERATOR(pg_catalog.+) 1;
      PERFORM audit_cdc_internal.say_month_busy() WHERE waits OPERATOR(pg_catalog.>) 100;
      PERFORM pg_catalog.pg_sleep(0.05);
    END LOOP;
    SELECT pg_catalog.timestamptz '-infinity' AS commit_timestamp,
           pg_catalog.uuid '00000000-0000-0000-0000-000000000000' AS identity, 0 AS copied
    INTO batch;
    LOOP
      SELECT b.* INTO batch
      FROM audit_cdc_internal.move_batch(partition, batch.commit_timestamp, batch.identity) AS b;
      COMMIT;
      EXIT WHEN batch.copied OPERATOR(pg_catalog.=) 0;
      copied := copied OPERATOR(pg_catalog.+) batch.copied;
      RAISE NOTICE 'copied % entries so far, now of %', copied, partition;
    END LOOP;
    IF server IS NULL THEN
      CALL audit_cdc_internal.wait_for_snapshots(pg_catalog.pg_current_xact_id());
    END IF;
    entries := entries OPERATOR(pg_catalog.+) audit_cdc_internal.finish_move(partition);
    COMMIT;
  END LOOP;
  IF server IS NULL THEN
    FOREACH partition IN ARRAY audit_cdc_internal.partitions_left(month) LOOP
      PERFORM audit_cdc_internal.empty_left(partition);
      COMMIT;
    END LOOP;
  END IF;
END
$$;

CREATE PROCEDURE @extschema@.audit_move_month(month text, server name, INOUT entries bigint DEFAULT NULL)
  LANGUAGE plpgsql AS $$
BEGIN
  IF @extschema@.audit_in_transaction_block() THEN
    RAISE EXCEPTION 'audit_move_month() cannot run inside a transaction block'
      USING ERRCODE = 'active_sql_transaction', HINT = 'It commits in between.';
  END IF;
  IF server IS NULL THEN -- as which the month would come back
    RAISE EXCEPTION 'server must not be null' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  CALL audit_cdc_internal.move_month(month, server, entries);
END
$$;
COMMENT ON PROCEDURE @extschema@.audit_move_month(text, name, bigint) IS
  'Moves a month that is over, such as 2026-03, to a server of postgres_fdw, and gives how many entries that were. '
  'The tables of audit_month_table() must be there, and empty. Entries are copied, 10,000 in a transaction. Then each '
  'value is compared, and a foreign table takes the place of the month. It is read as before, also while it is copied. '
  'It waits for nobody longer than 50 ms at a time. The caller needs USAGE on the server, which a superuser owns. Days '
  'of a divided month are moved one by one; interrupted, it goes on with the next day. A month that is there already: '
  'nothing. Errors: 25001 (inside a transaction block, not READ COMMITTED), 22004 (null), 22023 (no month), 55000 '
  '(the month is not over, it is on another server, the table there is not empty, the copy differs), 42P01 (no such '
  'month), 42704 (no such server), 42809 (not of postgres_fdw), 42501 (no USAGE, or no superuser''s), 55P03 (others '
  'use the log without a pause), and those of the server.';

CREATE PROCEDURE @extschema@.audit_return_month(month text, INOUT entries bigint DEFAULT NULL)
  LANGUAGE plpgsql AS $$
BEGIN
  IF @extschema@.audit_in_transaction_block() THEN
    RAISE EXCEPTION 'audit_return_month() cannot run inside a transaction block'
      USING ERRCODE = 'active_sql_transaction', HINT = 'It commits in between.';
  END IF;
  CALL audit_cdc_internal.move_month(month, NULL, entries);
END
$$;
COMMENT ON PROCEDURE @extschema@.audit_return_month(text, bigint) IS
  'Brings a month back that audit_move_month() has moved, in the same way, and gives how many entries that were. Then '
  'its table on the other server is emptied. It waits 10 s for transactions that began before and would '
  'not see it, and then fails: call it again. Of a month that is here it empties what a move that did not end has left '
  'there. Errors: as of audit_move_month(), and 55006 (such a transaction goes on).';
