-- Months elsewhere: a month that is over stands on another server, in a table of its schema audit_cdc_months. A foreign
-- table of postgres_fdw is its partition here. What holds of a month here is said of a day, where it is divided.

CREATE FUNCTION audit_cdc_internal.is_elsewhere(name text) RETURNS boolean
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM pg_class AS c
    WHERE c.relname = name AND c.relnamespace = 'audit_cdc_internal'::regnamespace AND c.relkind = 'f');
END
$$;

-- Is something of it elsewhere? It may also be what a move that did not end has left there.
CREATE FUNCTION audit_cdc_internal.stands_elsewhere(name text) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
  RETURN audit_cdc_internal.is_elsewhere(name) OR audit_cdc_internal.is_elsewhere(name || '_there');

-- Whose a table elsewhere is. A copy of this database reads it, and must not write to it. `settled` is the last number
-- of an entry that all could see when the move was begun, or the return.
CREATE TABLE audit_cdc_internal.months_elsewhere (
  name text PRIMARY KEY,
  database_id text NOT NULL,
  settled bigint NOT NULL DEFAULT 0
);
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.months_elsewhere', '');

CREATE FUNCTION audit_cdc_internal.check_owner_of_month(name text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM audit_cdc_internal.months_elsewhere AS m
    WHERE m.name = check_owner_of_month.name AND m.database_id = audit_cdc_internal.this_database() ->> 'id') THEN
    RAISE EXCEPTION 'the month is on another server, and belongs to another database'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'This database is a copy of that one, or was restored from it.',
            HINT = 'If that one is gone for good, SELECT audit_take_over_months().';
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_take_over_months(reason text) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  taken bigint;
BEGIN
  IF reason IS NULL THEN
    RAISE EXCEPTION 'reason must not be null' USING ERRCODE = 'null_value_not_allowed';
  ELSIF btrim(reason) = '' THEN
    RAISE EXCEPTION 'reason must not be empty' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  UPDATE audit_cdc_internal.months_elsewhere AS m SET database_id = here WHERE m.database_id <> here;
  GET DIAGNOSTICS taken = ROW_COUNT;
  IF taken > 0 THEN
    PERFORM audit_cdc_internal.note_operation(
      'audit_take_over_months', '{}', jsonb_build_object('partitions', taken), reason);
  END IF;
  RETURN taken;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_take_over_months(text) IS
  'Says that months on other servers belong to this database from now on, and no more to the one of which it is a '
  'copy. Gives how many months and days that were; 0: all of them were its own. Until then what comes late of these '
  'months is set aside, and they do not come back. The other database must be gone for good: nothing keeps two from '
  'writing to the same tables. Errors: 22004 (null), 22023 (empty reason).';

-- The month, or its days. Those that are over, and stand elsewhere or here.
CREATE FUNCTION audit_cdc_internal.partitions_of_month(month text) RETURNS text[]
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  names CONSTANT text[] := ARRAY(
    SELECT c.relname
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit_cdc_internal.log'::regclass AND left(c.relname, 11) = 'log_' || replace(month, '-', '_')
    ORDER BY c.relname
  );
BEGIN
  IF month IS NULL THEN
    RAISE EXCEPTION 'month must not be null' USING ERRCODE = 'null_value_not_allowed';
  ELSIF month !~ '^[0-9]{4}-(0[1-9]|1[0-2])$' THEN
    RAISE EXCEPTION 'month must be a year and a month'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Such as 2026-03.';
  ELSIF month >= to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM') THEN
    RAISE EXCEPTION 'the month is not over'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'A month ends by the clock of UTC.';
  ELSIF names = '{}' THEN
    RAISE EXCEPTION 'the log has no such month' USING ERRCODE = 'undefined_table';
  END IF;
  RETURN names;
END
$$;

-- Columns of the log as text: for its table elsewhere, or for the foreign table. Types of ours are only here.
CREATE FUNCTION audit_cdc_internal.columns_of_log(is_there boolean) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT string_agg(
    format('%I %s%s', a.attname,
           CASE WHEN is_there AND a.atttypid = 'audit_cdc_internal.action'::regtype THEN 'text'
                ELSE format_type(a.atttypid, a.atttypmod) END,
           CASE WHEN a.attnotnull THEN ' NOT NULL' END),
    ', ' ORDER BY a.attnum)
  FROM pg_attribute AS a
  WHERE a.attrelid = 'audit_cdc_internal.log'::regclass AND a.attnum > 0 AND NOT a.attisdropped;
END;

CREATE FUNCTION @extschema@.audit_month_table(month text) RETURNS text
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN E'CREATE SCHEMA IF NOT EXISTS audit_cdc_months;\n' || (
    SELECT string_agg(
      format(
        E'CREATE TABLE audit_cdc_months.%1$I (%2$s);\n'
        'CREATE UNIQUE INDEX ON audit_cdc_months.%1$I (commit_timestamp, identity);\n'
        'CREATE INDEX ON audit_cdc_months.%1$I (record_id, audited_table);\n'
        'CREATE INDEX ON audit_cdc_months.%1$I (audited_table, commit_timestamp) WHERE may_change_key;\n'
        'CREATE INDEX ON audit_cdc_months.%1$I USING brin (id, commit_lsn);',
        p.name, audit_cdc_internal.columns_of_log(true)),
      E'\n' ORDER BY p.name)
    FROM unnest(audit_cdc_internal.partitions_of_month(month)) AS p(name)
  );
END
$$;
COMMENT ON FUNCTION @extschema@.audit_month_table(text) IS
  'Statements that make the tables which audit_move_month() needs on the other server, for a month such as 2026-03, or '
  'for each of its days. Run them there as the role that the user mapping names. It needs no extension there. '
  'Errors: 22004 (null), 22023 (no month), 55000 (the month is not over), 42P01 (the log has no such month).';

-- Who owns a server says where it is, and who logs in there.
CREATE FUNCTION audit_cdc_internal.check_server(server name, caller oid) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found record;
BEGIN
  SELECT s.oid, f.fdwname, r.rolsuper INTO found
  FROM pg_foreign_server AS s
  JOIN pg_foreign_data_wrapper AS f ON f.oid = s.srvfdw
  JOIN pg_roles AS r ON r.oid = s.srvowner
  WHERE s.srvname = server;
  IF found.oid IS NULL THEN
    RAISE EXCEPTION 'server "%" does not exist', server USING ERRCODE = 'undefined_object';
  ELSIF NOT has_server_privilege(caller, found.oid, 'USAGE') THEN
    RAISE EXCEPTION 'permission denied for foreign server %', server USING ERRCODE = 'insufficient_privilege';
  ELSIF found.fdwname <> 'postgres_fdw' THEN
    RAISE EXCEPTION 'server "%" is not of postgres_fdw', server USING ERRCODE = 'wrong_object_type';
  ELSIF NOT found.rolsuper THEN
    RAISE EXCEPTION 'server "%" does not belong to a superuser', server
      USING ERRCODE = 'insufficient_privilege', DETAIL = 'Its owner could put another log in the place of this one.',
            HINT = 'ALTER SERVER … OWNER TO the owner of the extension.';
  END IF;
END
$$;

-- All that a transaction reads there is as of its first look, also after a rollback to a savepoint. So it must not have
-- looked yet. Who owns the schema of postgres_fdw may have put functions beside its own.
CREATE FUNCTION audit_cdc_internal.check_not_read(name text) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  server CONSTANT text := (
    SELECT s.srvname
    FROM pg_foreign_table AS t
    JOIN pg_foreign_server AS s ON s.oid = t.ftserver
    WHERE t.ftrelid = format('audit_cdc_internal.%I', name)::regclass
  );
  call text;
  is_open boolean;
BEGIN
  FOR call IN
    SELECT CASE WHEN p.proname = 'postgres_fdw_disconnect' THEN format('%s(%L::text)', p.oid::regproc, server)
                ELSE format('%L IN (SELECT c.server_name FROM %s(%s) AS c)', server, p.oid::regproc,
                            CASE WHEN p.pronargs > 0 THEN 'false' END) END
    FROM pg_proc AS p
    JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
    WHERE e.extname = 'postgres_fdw' AND p.proname IN ('postgres_fdw_disconnect', 'postgres_fdw_get_connections')
    ORDER BY p.proname
  LOOP
    EXECUTE 'SELECT ' || call INTO is_open;
  END LOOP;
  IF is_open IS NOT FALSE THEN
    RAISE EXCEPTION 'this transaction has read of server "%" before', server
      USING ERRCODE = 'active_sql_transaction', HINT = 'CALL audit_move_month() or audit_return_month().';
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.add_foreign_table(name text, there text, server name) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format(
    'CREATE FOREIGN TABLE audit_cdc_internal.%I (%s) SERVER %I
     OPTIONS (schema_name ''audit_cdc_months'', table_name %L, fetch_size ''1000'', batch_size ''100'',
              truncatable ''false'')',
    name, audit_cdc_internal.columns_of_log(false), server, there);
  PERFORM audit_cdc_internal.keep_private('pg_class'::regclass, format('audit_cdc_internal.%I', name)::regclass);
  -- no trigger of PostgreSQL 15 sees TRUNCATE of a foreign table: its option refuses it
  EXECUTE format('CREATE TRIGGER own_writers_only BEFORE INSERT OR UPDATE OR DELETE ON audit_cdc_internal.%I
                  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.own_writers_only()', name);
  EXECUTE format('ALTER FOREIGN TABLE audit_cdc_internal.%I ENABLE ALWAYS TRIGGER own_writers_only', name);
  EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_cdc_internal.%I
                  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change()', name);
  EXECUTE format('ALTER FOREIGN TABLE audit_cdc_internal.%I ENABLE ALWAYS TRIGGER append_only', name);
END
$$;

-- What a month elsewhere has of these keys, for ingest. `place` is that of a key, from 1.
CREATE FUNCTION audit_cdc_internal.known_elsewhere(
    name text, times timestamptz[], identities uuid[], OUT place bigint, OUT action text, OUT commit_lsn bigint,
    OUT commit_idx integer, OUT record_id text, OUT record_pks text[], OUT is_erased boolean)
  RETURNS SETOF record
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  table_number integer;
BEGIN
  FOR table_number, place, action, commit_lsn, commit_idx, record_id, record_pks, is_erased IN EXECUTE format(
    'SELECT l.audited_table, k.place, l.action::text, l.commit_lsn, l.commit_idx, l.record_id, l.record_pks,
            coalesce(l.notes ? ''erased'', false)
     FROM audit_cdc_internal.%I AS l
     JOIN unnest($1, $2) WITH ORDINALITY AS k(commit_timestamp, identity, place) USING (commit_timestamp, identity)
     WHERE l.commit_timestamp = ANY ($1) AND l.identity = ANY ($2)', name)
  USING times, identities LOOP
    IF NOT EXISTS (SELECT FROM audit_cdc_internal.audited_tables AS t WHERE t.id = table_number) THEN
      RAISE EXCEPTION 'an entry on another server is of a table that this log does not know'
        USING ERRCODE = 'foreign_key_violation', SCHEMA = 'audit_cdc_months', TABLE = name,
              DETAIL = 'This server has ended after the other one had stored it, and before its own commit.',
              HINT = 'Delete this entry there, and call audit_retry_rejects().';
    END IF;
    RETURN NEXT;
  END LOOP;
END
$$;

-- What new_log() returns goes there. Gives how many.
CREATE FUNCTION audit_cdc_internal.store_elsewhere(name text) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  stored bigint;
BEGIN
  PERFORM audit_cdc_internal.check_owner_of_month(name);
  EXECUTE format('INSERT INTO audit_cdc_internal.%I SELECT n.* FROM audit_cdc_internal.new_log() AS n', name);
  GET DIAGNOSTICS stored = ROW_COUNT;
  RETURN stored;
END
$$;

-- Entries by their keys. It opens their own months only, so that no other has to be there.
CREATE FUNCTION audit_cdc_internal.entries_of_keys(times timestamptz[], identities uuid[])
  RETURNS SETOF audit_cdc_internal.log
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- each time it is planned for these times
  RETURN QUERY EXECUTE
    'SELECT l.*
     FROM audit_cdc_internal.log AS l
     JOIN unnest($1, $2) AS k(commit_timestamp, identity)
       ON k.commit_timestamp = l.commit_timestamp AND k.identity = l.identity
     WHERE l.commit_timestamp = ANY ($1)'
  USING times, identities;
END
$$;

-- Retention and erasure work on months that are here.
CREATE FUNCTION audit_cdc_internal.refuse_elsewhere(partitions text[], done text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  there CONSTANT text[] := ARRAY(
    SELECT DISTINCT to_char(to_date(substr(p.name, 5, 7), 'YYYY_MM'), 'YYYY-MM')
    FROM unnest(partitions) AS p(name)
    WHERE audit_cdc_internal.stands_elsewhere(p.name)
    ORDER BY 1
  );
BEGIN
  IF there <> '{}' THEN
    RAISE EXCEPTION 'months that are elsewhere hold what is to go: %', array_to_string(there, ', ')
      USING ERRCODE = 'feature_not_supported', DETAIL = done,
            HINT = 'CALL audit_return_month() first. It also empties what a move that did not end has left.';
  END IF;
END
$$;

-- An error if something that may go is in a month elsewhere.
CREATE FUNCTION audit_cdc_internal.say_elsewhere() RETURNS void
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.refuse_elsewhere(
    ARRAY(
      SELECT c.relname
      FROM pg_inherits AS i
      JOIN pg_class AS c ON c.oid = i.inhrelid
      WHERE i.inhparent = 'audit_cdc_internal.log'::regclass
        AND audit_cdc_internal.stands_elsewhere(c.relname)
        AND to_date(substr(c.relname, 5), 'YYYY_MM_DD') AT TIME ZONE 'UTC'
              < (SELECT max(h.before) FROM audit_cdc_internal.horizons AS h)
        AND audit_cdc_internal.rows_of(c.oid, false, 1) <> '{}'
    ),
    'What may go of months that are here was removed.');
END
$$;
