-- audit_erase(): values of a record, or who a user was, are taken out of every place. All of it or nothing.

CREATE FUNCTION audit_cdc_internal.check_erase(
    reason text, table_name text, record_id text, holding jsonb, username text, columns text[]) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'values can be erased under READ COMMITTED only'
      USING ERRCODE = 'active_sql_transaction', HINT = 'SET default_transaction_isolation = ''read committed''.';
  ELSIF reason IS NULL THEN
    RAISE EXCEPTION 'reason must not be null' USING ERRCODE = 'null_value_not_allowed';
  ELSIF btrim(reason) = '' THEN
    RAISE EXCEPTION 'reason must not be empty' USING ERRCODE = 'invalid_parameter_value';
  ELSIF num_nonnulls(record_id, holding, username) <> 1 THEN
    RAISE EXCEPTION 'one of record_id, holding and username must be given' USING ERRCODE = 'invalid_parameter_value';
  ELSIF username IS NULL AND table_name IS NULL THEN
    RAISE EXCEPTION 'table_name must not be null'
      USING ERRCODE = 'null_value_not_allowed', HINT = 'Only a user can be erased in all tables at once.';
  ELSIF jsonb_typeof(holding) <> 'object' OR holding = '{}' AND columns IS NULL THEN
    RAISE EXCEPTION 'holding must be a JSON object of columns and their values'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Where columns are given, {} stands for all records.';
  ELSIF columns = '{}' OR array_position(columns, NULL) > 0 OR array_ndims(columns) > 1 THEN
    RAISE EXCEPTION 'columns must be names of columns'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Null erases the values of all columns.';
  ELSIF columns IS NOT NULL AND username IS NOT NULL THEN
    RAISE EXCEPTION 'columns cannot be given with username'
      USING ERRCODE = 'invalid_parameter_value', DETAIL = 'Of a user annotations are erased.';
  END IF;
END
$$;

-- What holds keep is not erased, and then nothing is.
CREATE FUNCTION audit_cdc_internal.refuse_held(entries bigint) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF entries > 0 THEN
    RAISE EXCEPTION 'a legal hold keeps what is to be erased'
      USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Nothing was erased.',
            HINT = 'A dry run lists the holds; audit_release() ends one.';
  END IF;
END
$$;

-- Rewrites entries of one partition. They keep their numbers, times and identities: what comes again is known.
CREATE FUNCTION audit_cdc_internal.rewrite_entries(
    partition regclass, ids bigint[], wanted audit_cdc_internal.to_erase, pseudonym text, reason text) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rows audit_cdc_internal.log[];
  places tid[];
BEGIN
  EXECUTE format(
    'SELECT array_agg(w.entry), array_agg(l.ctid)
     FROM ONLY %s AS l
     CROSS JOIN LATERAL (
       SELECT CASE WHEN $1
         THEN audit_cdc_internal.without_annotations(l::audit_cdc_internal.log, $2, $3)
         ELSE audit_cdc_internal.without_values(
           l::audit_cdc_internal.log, $4, $5, CASE WHEN $6 AND l.record_id IS NOT NULL THEN $2 END, $3)
       END AS entry) AS w
     WHERE l.id = ANY ($7)', partition)
  INTO rows, places
  USING wanted.username IS NOT NULL, pseudonym, reason, wanted.columns, (wanted.audited).key_columns,
        wanted.is_key_erased, ids;
  PERFORM audit_cdc_internal.remove_rows(places, partition);
  INSERT INTO audit_cdc_internal.log SELECT r.* FROM unnest(rows) AS r;
  -- an error of a rule may quote a value
  UPDATE audit_cdc_internal.unprojected AS u SET reason = 'erased'
  WHERE wanted.username IS NULL AND u.log_id = ANY (ids) AND u.reason IS NOT NULL;
END
$$;

-- Tables of which the planner has noted such values: partitions that lost some, and others with such a text. Keys and
-- names count only as whole values.
CREATE FUNCTION audit_cdc_internal.with_statistics(changed oid[], texts text[], names text[]) RETURNS regclass[]
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  signs CONSTANT text := '{}[]()",\: ';
  commas CONSTANT text := repeat(',', length(signs));
BEGIN
  RETURN ARRAY(
    SELECT DISTINCT coalesce(i.indrelid, s.starelid)::regclass -- of an index: by its table
    FROM pg_statistic AS s
    JOIN pg_class AS c ON c.oid = s.starelid
    LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
    CROSS JOIN LATERAL (SELECT s::text AS noted, translate(s::text, signs, commas) AS values) AS n
    WHERE c.relnamespace = 'audit_cdc_internal'::regnamespace
      AND (
        coalesce(i.indrelid, c.oid) = ANY (changed)
        OR cardinality(texts) > 1000 -- to look for all of them would take longer
        OR EXISTS (SELECT FROM unnest(texts) AS u(text) WHERE position(u.text IN n.noted) > 0)
        OR EXISTS (
          SELECT FROM unnest(names) AS u(name)
          WHERE position(',' || translate(u.name, signs, commas) || ',' IN n.values) > 0)));
END
$$;

-- It is gathered anew. Of the whole log it comes with that of each partition.
CREATE FUNCTION audit_cdc_internal.erase_statistics(changed oid[], texts text[], names text[]) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  log CONSTANT regclass := 'audit_cdc_internal.log';
  relations CONSTANT regclass[] := audit_cdc_internal.with_statistics(changed || log::oid, texts, names);
  relation regclass;
BEGIN
  FOREACH relation IN ARRAY relations LOOP
    CONTINUE WHEN log = ANY (relations)
      AND EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = relation AND i.inhparent = log);
    EXECUTE format('ANALYZE %s', relation);
  END LOOP;
END
$$;

-- Entries of one table and partition, so many at a time.
CREATE FUNCTION audit_cdc_internal.parts_to_erase(
    wanted audit_cdc_internal.to_erase, OUT partition regclass, OUT audited_table integer, OUT ids bigint[],
    OUT held bigint, OUT oldest timestamptz, OUT newest timestamptz, OUT large uuid[])
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT n.partition, n.audited_table, array_agg(n.id), count(*) FILTER (WHERE n.is_held), min(n.commit_timestamp),
         max(n.commit_timestamp), array_agg(DISTINCT n.large_annotations)
  FROM (
    SELECT l.tableoid::regclass AS partition, l.id, l.audited_table, l.commit_timestamp, l.large_annotations,
           audit_cdc_internal.is_held(e) AS is_held,
           row_number() OVER (PARTITION BY l.tableoid, l.audited_table) / 1000 AS batch
    FROM audit_cdc_internal.entries_to_erase(wanted) AS e
    JOIN audit_cdc_internal.log AS l ON l.id = e.id AND l.commit_timestamp = e.commit_timestamp
  ) AS n
  GROUP BY n.partition, n.audited_table, n.batch;
END;

-- Of one record, of records whose keys stay, or of a user. What they share elsewhere goes too. Entries that come
-- meanwhile stay as they are. Gives how many were erased.
CREATE FUNCTION audit_cdc_internal.erase_found(wanted audit_cdc_internal.to_erase, reason text) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  pseudonym CONSTANT text := 'erased:' || gen_random_uuid();
  parts CONSTANT jsonb := (
    SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.partition), '[]')
    FROM audit_cdc_internal.parts_to_erase(wanted) AS p);
  part record;
BEGIN
  FOR part IN SELECT p.* FROM jsonb_to_recordset(parts) AS p(partition regclass, ids bigint[], held bigint) LOOP
    PERFORM audit_cdc_internal.refuse_held(part.held);
    PERFORM audit_cdc_internal.rewrite_entries(part.partition, part.ids, wanted, pseudonym, reason);
  END LOOP;
  IF wanted.is_key_erased THEN
    PERFORM audit_cdc_internal.erase_keys(wanted.audited, wanted.keys, pseudonym);
  END IF;
  IF wanted.username IS NOT NULL THEN
    PERFORM audit_cdc_internal.erase_user_elsewhere(
      wanted, pseudonym, ARRAY(SELECT unnest(p.large) FROM jsonb_to_recordset(parts) AS p(large uuid[])));
  END IF;
  INSERT INTO audit_cdc_internal.erasures (audited_table, columns, pseudonym, entries, oldest, newest, reason)
  SELECT p.audited_table, wanted.columns,
         CASE WHEN wanted.is_key_erased OR wanted.username IS NOT NULL THEN pseudonym END,
         sum(cardinality(p.ids)), min(p.oldest), max(p.newest), erase_found.reason
  FROM jsonb_to_recordset(parts) AS p(audited_table integer, ids bigint[], oldest timestamptz, newest timestamptz)
  GROUP BY p.audited_table;
  RETURN (SELECT coalesce(sum(cardinality(p.ids)), 0) FROM jsonb_to_recordset(parts) AS p(ids bigint[]));
END
$$;

-- Each record under a pseudonym of its own.
CREATE FUNCTION audit_cdc_internal.erase_each(wanted audit_cdc_internal.to_erase, reason text) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  one audit_cdc_internal.to_erase := wanted;
  rest text[] := wanted.keys;
  total bigint;
BEGIN
  IF wanted.is_key_erased IS NOT TRUE THEN
    RETURN audit_cdc_internal.erase_found(wanted, reason);
  END IF;
  -- entries without a key have none to lose
  one.keys := '{}';
  one.is_key_erased := false;
  total := audit_cdc_internal.erase_found(one, reason);
  one.holding := NULL;
  one.is_key_erased := true;
  WHILE rest <> '{}' LOOP
    one.keys := audit_cdc_internal.keys_of_records(wanted.audited, rest[1:1]);
    total := total + audit_cdc_internal.erase_found(one, reason);
    rest := ARRAY(SELECT unnest(rest) EXCEPT SELECT unnest(one.keys));
  END LOOP;
  RETURN total;
END
$$;

CREATE FUNCTION audit_cdc_internal.find_to_erase(
    table_name text, record_id text, holding jsonb, username text, columns text[], database_id text)
  RETURNS audit_cdc_internal.to_erase
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted audit_cdc_internal.to_erase;
BEGIN
  wanted.holding := holding;
  wanted.username := username;
  wanted.columns := columns;
  wanted.is_key_erased := false;
  IF table_name IS NOT NULL THEN
    wanted.audited := audit_cdc_internal.table_named(table_name, database_id, NULL, record_id);
    wanted.numbers := (wanted.audited).numbers;
    IF wanted.numbers IS NULL THEN
      RAISE EXCEPTION 'the log has no entry of this table' USING ERRCODE = 'undefined_table';
    END IF;
  ELSIF database_id IS NOT NULL THEN
    wanted.numbers := ARRAY(
      SELECT t.id FROM audit_cdc_internal.audited_tables AS t WHERE t.database_id = find_to_erase.database_id);
  END IF;
  IF username IS NULL THEN
    wanted.keys := audit_cdc_internal.keys_of_records(
      wanted.audited,
      CASE WHEN record_id IS NULL THEN audit_cdc_internal.records_holding(wanted.numbers, holding)
           ELSE audit_cdc_internal.record_ids(wanted.audited, record_id) END);
    wanted.is_key_erased := coalesce(
      (
        SELECT bool_or(audit_cdc_internal.is_in_key(e, columns, (wanted.audited).key_columns))
        FROM audit_cdc_internal.entries_to_erase(wanted) AS e
      ),
      false);
  END IF;
  RETURN wanted;
END
$$;

-- How much of it each hold keeps.
CREATE FUNCTION audit_cdc_internal.held_of_erasure(
    wanted audit_cdc_internal.to_erase, rejects bigint[], OUT name text, OUT count bigint) RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT h.name, count(*)
  FROM audit_cdc_internal.entries_to_erase(wanted) AS e
  CROSS JOIN LATERAL audit_cdc_internal.holds_of(e) AS h(name)
  GROUP BY h.name
  UNION ALL
  SELECT h.name, count(*)
  FROM audit_cdc_internal.rejects AS r
  CROSS JOIN LATERAL audit_cdc_internal.holds_of_reject(r) AS h(name)
  WHERE r.id = ANY (held_of_erasure.rejects)
  GROUP BY h.name
  UNION ALL
  SELECT h.name, count(*)
  FROM audit_cdc_internal.ddl_to_erase(wanted) AS d
  CROSS JOIN LATERAL audit_cdc_internal.holds_of_ddl(d) AS h(name)
  GROUP BY h.name;
END;

-- Who has mistyped a name is not to believe that it is done.
CREATE FUNCTION audit_cdc_internal.say_not_found(wanted audit_cdc_internal.to_erase, is_anything boolean) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  all_columns audit_cdc_internal.to_erase := wanted;
  missing text;
BEGIN
  IF NOT is_anything THEN
    RAISE NOTICE 'the log holds nothing that is to be erased'
      USING HINT = 'Look whether names, key and values are spelled as audit_logs has them.';
  END IF;
  all_columns.columns := NULL;
  FOR missing IN
    SELECT c FROM unnest(wanted.columns) AS c
    WHERE NOT EXISTS (
      SELECT FROM audit_cdc_internal.entries_to_erase(all_columns) AS e
      WHERE audit_cdc_internal.has_columns(e, ARRAY[c]))
  LOOP
    RAISE NOTICE 'no entry that was found has a value of the column "%"', missing
      USING HINT = 'Whole columns are erased, also of json.';
  END LOOP;
END
$$;

-- What goes where, and what stays for the caller to do.
CREATE FUNCTION audit_cdc_internal.erasure_lines(
    wanted audit_cdc_internal.to_erase, rejects bigint[],
    OUT place text, OUT name text, OUT count bigint, OUT note text)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT 'entries', format('%I.%I of %s', t.table_schema, t.table_name, t.database_id), count(*),
         CASE WHEN wanted.is_key_erased THEN 'their key becomes a pseudonym' END
  FROM audit_cdc_internal.entries_to_erase(wanted) AS e
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = e.audited_table
  GROUP BY t.database_id, t.table_schema, t.table_name
  UNION ALL
  SELECT 'key', e.record_id, count(*), format('from %s to %s', min(e.commit_timestamp), max(e.commit_timestamp))
  FROM audit_cdc_internal.entries_to_erase(wanted) AS e
  WHERE cardinality(wanted.keys) BETWEEN 2 AND 100 AND wanted.holding IS NULL
  GROUP BY e.record_id
  UNION ALL
  SELECT 'schema changes', NULL, count(*), NULL
  FROM audit_cdc_internal.ddl_to_erase(wanted)
  HAVING count(*) > 0
  UNION ALL
  SELECT 'held', h.name, sum(h.count), 'nothing is erased until audit_release()'
  FROM audit_cdc_internal.held_of_erasure(wanted, rejects) AS h
  GROUP BY h.name
  UNION ALL
  SELECT 'rejects', NULL, cardinality(rejects), NULL
  WHERE rejects <> '{}'
  UNION ALL
  SELECT 'rejects', NULL, count(*), 'not erased: audit_retry_rejects(), then erase again'
  FROM audit_cdc_internal.rejects AS r
  WHERE audit_cdc_internal.told_user(r.raw) = wanted.username
  HAVING count(*) > 0
  UNION ALL
  SELECT 'projection', p.name, NULL, format('not erased: SELECT audit_rebuild_projection(%L)', p.name)
  FROM audit_cdc_internal.projections AS p
  WHERE EXISTS (SELECT FROM audit_cdc_internal.entries_to_erase(wanted));
END;

CREATE FUNCTION @extschema@.audit_erase(
    reason text, table_name text DEFAULT NULL, record_id text DEFAULT NULL, holding jsonb DEFAULT NULL,
    username text DEFAULT NULL, columns text[] DEFAULT NULL, database_id text DEFAULT NULL,
    dry_run boolean DEFAULT false, OUT place text, OUT name text, OUT count bigint, OUT note text)
  RETURNS SETOF record
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted audit_cdc_internal.to_erase;
  texts text[];
  rejects bigint[];
  changed oid[];
  ddl bigint;
  erased bigint;
BEGIN
  PERFORM audit_cdc_internal.check_erase(reason, table_name, record_id, holding, username, columns);
  IF dry_run IS NOT TRUE THEN
    PERFORM audit_cdc_internal.lock_partitions(); -- nobody removes a month, or makes a hold, meanwhile
  END IF;
  wanted := audit_cdc_internal.find_to_erase(table_name, record_id, holding, username, columns, database_id);
  texts := audit_cdc_internal.erased_texts(wanted);
  rejects := audit_cdc_internal.rejects_to_erase(wanted, texts);
  RETURN QUERY SELECT l.* FROM audit_cdc_internal.erasure_lines(wanted, rejects) AS l;
  PERFORM audit_cdc_internal.say_not_found(wanted, FOUND);
  IF dry_run IS TRUE THEN
    RETURN;
  END IF;
  PERFORM audit_cdc_internal.refuse_held(
    (SELECT count(*) FROM audit_cdc_internal.held_of_erasure(wanted, rejects)));
  changed := ARRAY(SELECT p.partition FROM audit_cdc_internal.parts_to_erase(wanted) AS p);
  PERFORM audit_cdc_internal.refuse_elsewhere(
    ARRAY(SELECT c.relname FROM pg_class AS c WHERE c.oid = ANY (changed)), 'Nothing was erased.');
  ddl := (SELECT count(*) FROM audit_cdc_internal.ddl_to_erase(wanted));
  erased := audit_cdc_internal.erase_each(wanted, reason);
  PERFORM audit_cdc_internal.erase_rejects(rejects);
  PERFORM audit_cdc_internal.erase_statistics(
    changed, texts, CASE WHEN wanted.is_key_erased THEN wanted.keys WHEN username IS NOT NULL THEN ARRAY[username] END);
  PERFORM audit_cdc_internal.note_operation(
    'audit_erase', jsonb_build_object('table_name', table_name, 'database_id', database_id, 'columns', columns),
    jsonb_strip_nulls(jsonb_build_object(
      'entries', erased, 'rejects', cardinality(rejects), 'schema_changes', nullif(ddl, 0))), reason);
END
$$;
COMMENT ON FUNCTION @extschema@.audit_erase(text, text, text, jsonb, text, text[], text, boolean) IS
  'Takes values out of the log for good; the entries stay. One of three is given. record_id: of a record of '
  'table_name, as audit_history() takes it, under all its keys. holding: of the records of table_name that have ever '
  'had these values, as {"column": value}, or for {} of all. username: who made changes, in their annotations, of all '
  'tables or of table_name. columns: whose values go; null: of all. Where the key goes, a pseudonym takes its place. '
  'dry_run: true only tells. Gives what is erased where, and what the caller is to do: place is entries, key, schema '
  'changes, held, rejects or projection. Notices tell of what is not found. reason: for audit_erasures. Errors: 22004 '
  '(null reason or table_name), 22023 (an argument that does not fit), 25001 (not READ COMMITTED), 42P01 (the log has '
  'no such table), 55000 (a hold keeps some of it), 0A000 (some of it is in a month that audit_move_month() moved).';
