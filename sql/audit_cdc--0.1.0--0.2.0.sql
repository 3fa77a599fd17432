-- From 0.1.0 to 0.2.0. Made by scripts/update_script of statements in sql/ and src/: change them there, or what stands
-- in sql/update.
\echo Use "ALTER EXTENSION audit_cdc UPDATE TO '0.2.0'" to load this file. \quit

SET LOCAL search_path = pg_catalog, pg_temp;

LOCK TABLE audit_cdc_internal.log, audit_cdc_internal.rejects IN ACCESS EXCLUSIVE MODE;
DROP FUNCTION audit_cdc_internal.chosen_lines(@extschema@.audit_history_line[]);
DROP FUNCTION audit_cdc_internal.not_sent_before(@extschema@.audit_history_line[]);
DROP FUNCTION audit_cdc_internal.check_asked(boolean,boolean,integer);
DROP FUNCTION audit_cdc_internal.cursor_place(text);
DROP FUNCTION audit_cdc_internal.lines(audit_cdc_internal.audited,bigint,text,text,bigint,timestamp with time zone,
      timestamp with time zone,text,bigint[],boolean,integer,boolean);
DROP FUNCTION audit_cdc_internal.page_of_lines(bigint,integer[],text,text,bigint,timestamp with time zone,
      timestamp with time zone,bigint[],integer[],text,bigint,boolean,boolean);
DROP FUNCTION audit_cdc_internal.told_table(integer,text,text);
DROP FUNCTION audit_cdc_internal.told_of(audit_cdc_internal.audited,boolean);
DROP TYPE audit_cdc_internal.told_table;
DROP FUNCTION audit_cdc_internal.told_row(anyelement,jsonb);
DROP FUNCTION @extschema@.audit_capture_status();
DROP FUNCTION audit_cdc_internal.may_doubt(text[]);
DROP FUNCTION audit_cdc_internal.only_table_named(text[],text,oid,boolean);
DROP FUNCTION audit_cdc_internal.add_partition(text,timestamp with time zone);

CREATE FUNCTION audit_cdc_internal.archive_first() RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'archive_first_wrapper';

CREATE OR REPLACE FUNCTION @extschema@.audit_as_of(
    row_type anyelement, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    table_name text DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS SETOF anyelement
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'audit_as_of_wrapper';

CREATE OR REPLACE FUNCTION @extschema@.audit_ingest(text)
  RETURNS TABLE (received bigint, inserted bigint, duplicates bigint, rejected bigint)
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
  SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET jit = off
  AS 'MODULE_PATHNAME', 'audit_ingest_text_wrapper';

CREATE OR REPLACE FUNCTION @extschema@.audit_ingest(text[])
  RETURNS TABLE (received bigint, inserted bigint, duplicates bigint, rejected bigint)
  LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
  SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET jit = off
  AS 'MODULE_PATHNAME', 'audit_ingest_texts_wrapper';

CREATE FUNCTION @extschema@.audit_link(
    node text, server text DEFAULT NULL, schema text DEFAULT NULL)
  RETURNS void LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'audit_link_wrapper';

CREATE FUNCTION @extschema@.audit_unlink(node text) RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'audit_unlink_wrapper';

CREATE FUNCTION audit_cdc_internal.begin_move(name text, server text) RETURNS bigint
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'begin_move_wrapper';

CREATE FUNCTION audit_cdc_internal.can_seal() RETURNS boolean
  LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'can_seal_wrapper';

CREATE FUNCTION audit_cdc_internal.columns_not_sent(
    action text, image jsonb, notes jsonb, replica_identity text, identity_columns text[], never_sent text[],
    null_in_reads text[])
  RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'columns_not_sent_wrapper';

CREATE FUNCTION audit_cdc_internal.columns_not_told(
    action text, old jsonb, new jsonb, notes jsonb)
  RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'columns_not_told_wrapper';

CREATE OR REPLACE FUNCTION audit_cdc_internal.columns_of(row_type oid) RETURNS text[]
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'columns_of_wrapper';

CREATE FUNCTION audit_cdc_internal.commit_to_disk() RETURNS void
  LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'commit_to_disk_wrapper';

CREATE FUNCTION audit_cdc_internal.drop_month(partition regclass) RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'drop_month_wrapper';

CREATE OR REPLACE FUNCTION audit_cdc_internal.history(
    of_table text, relation oid, key text, of_user text, of_request text, of_commit bigint, since timestamptz,
    until timestamptz, of_database text, after text, newest_first boolean, max_rows integer)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  AS 'MODULE_PATHNAME', 'history_wrapper';

CREATE FUNCTION audit_cdc_internal.is_referred_since(relation oid, known bigint[]) RETURNS boolean
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'is_referred_since_wrapper';

CREATE OR REPLACE FUNCTION audit_cdc_internal.is_spelled(type text) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'is_spelled_wrapper';

CREATE FUNCTION audit_cdc_internal.kept_statement() RETURNS text
  LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kept_statement_wrapper';

CREATE OR REPLACE FUNCTION audit_cdc_internal.lines(
    of_id bigint, of_table text, of_user text, of_request text, of_commit bigint, since timestamptz,
    until timestamptz, of_database text, after bigint[], newest_first boolean, max_rows integer)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE c STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
  AS 'MODULE_PATHNAME', 'lines_wrapper';

CREATE FUNCTION audit_cdc_internal.lock_ddl() RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'lock_ddl_wrapper';

CREATE FUNCTION audit_cdc_internal.make_mask_secret() RETURNS boolean
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'make_mask_secret_wrapper';

CREATE FUNCTION audit_cdc_internal.masked_columns(notes jsonb)
  RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'masked_columns_wrapper';

CREATE FUNCTION audit_cdc_internal.node_to_read(node text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE COST 1 AS 'MODULE_PATHNAME', 'node_to_read_wrapper';

CREATE FUNCTION audit_cdc_internal.old_columns_not_sent(
    action text, image jsonb, notes jsonb, old jsonb, replica_identity text, identity_columns text[],
    never_sent text[])
  RETURNS text[]
  LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'old_columns_not_sent_wrapper';

CREATE OR REPLACE FUNCTION audit_cdc_internal.primary_key(
    relation oid, OUT columns text[], OUT types text[])
  RETURNS SETOF record
  LANGUAGE c STABLE ROWS 1 AS 'MODULE_PATHNAME', 'primary_key_wrapper';

CREATE OR REPLACE FUNCTION audit_cdc_internal.relation_of(row_type oid) RETURNS oid
  LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'relation_of_wrapper';

CREATE FUNCTION audit_cdc_internal.remove_rows(rows tid[], relation regclass) RETURNS void
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'remove_rows_wrapper';

CREATE OR REPLACE FUNCTION audit_cdc_internal.runs_strangers_code(relation oid) RETURNS boolean
  LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'runs_strangers_code_wrapper';

CREATE FUNCTION audit_cdc_internal.server_context() RETURNS json
  LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'server_context_wrapper';

SET LOCAL search_path = @extschema@;

COMMENT ON FUNCTION audit_annotate(text, text, text, jsonb, jsonb) IS
  'Annotates the later changes of this transaction and returns what is now in force. All parameters are optional: '
  'username (who), source (from where), request_id, metadata (an object: why and the like), extra (an object of '
  'further keys). Calls in one transaction merge key by key, metadata one level deep; null leaves a key as it is. '
  'Emits pg_logical_emit_message(true, ''sequin:transaction_annotations.set'', …) '
  '(https://sequinstream.com/docs/reference/annotations). Errors: 22023 for nothing at all, for metadata or extra '
  'that is no object, for a parameter''s name in extra; 42501 within a security-restricted operation, such as a '
  'projection''s rule. Warning 25P01 outside a transaction block.';

COMMENT ON FUNCTION audit_annotate_clear() IS
  'Ends the annotation: later changes of this transaction carry none, also not by settings. Emits '
  'pg_logical_emit_message(true, ''sequin:transaction_annotations.clear'', ''''). Errors: 42501 within a '
  'security-restricted operation.';

SET LOCAL search_path = pg_catalog, pg_temp;

COMMENT ON COLUMN audit_cdc_internal.log.notes IS
  'what else is to be known of the change, and what of it was erased; null, as nearly always: nothing';

CREATE OR REPLACE FUNCTION audit_cdc_internal.refuse_change() RETURNS trigger
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is append-only: % is refused', TG_OP
    USING ERRCODE = 'object_not_in_prerequisite_state',
          DETAIL = 'No statement changes or removes an entry of the log.';
END
$$;

CREATE SEQUENCE audit_cdc_internal.operations_id_seq CYCLE;

CREATE TABLE audit_cdc_internal.operations (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('operations'),
  performed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  operation text NOT NULL,
  arguments jsonb NOT NULL,
  counts jsonb,
  reason text,
  server_context jsonb NOT NULL
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.operations
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();

ALTER TABLE audit_cdc_internal.operations ENABLE ALWAYS TRIGGER append_only;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.operations', '');

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.operations_id_seq', '');

CREATE FUNCTION audit_cdc_internal.note_operation(
    operation text, arguments jsonb, counts jsonb DEFAULT NULL, reason text DEFAULT NULL) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  INSERT INTO audit_cdc_internal.operations (operation, arguments, counts, reason, server_context)
  VALUES (operation, jsonb_strip_nulls(arguments), counts, reason, audit_cdc_internal.server_context()::jsonb);
END;

CREATE VIEW @extschema@.audit_operations AS
  SELECT id, performed_at, operation, arguments, counts, reason, server_context FROM audit_cdc_internal.operations;

COMMENT ON VIEW @extschema@.audit_operations IS
  'every call of a function that decides what the log holds, how it is read, or who may write to it; append-only. What '
  'failed or was rolled back is not here';

COMMENT ON COLUMN @extschema@.audit_operations.id IS 'grows, with gaps';

COMMENT ON COLUMN @extschema@.audit_operations.performed_at IS 'when it was done';

COMMENT ON COLUMN @extschema@.audit_operations.operation IS
  'name of the function; ALTER EXTENSION: the extension was updated. audit_capture_stop leaves a line when it begins, '
  'and one with counts when it has ended';

COMMENT ON COLUMN @extschema@.audit_operations.arguments IS
  'what it was given, by the names of its parameters; without those that are null';

COMMENT ON COLUMN @extschema@.audit_operations.counts IS 'how much it did; null: it counts nothing';

COMMENT ON COLUMN @extschema@.audit_operations.reason IS 'as given to it; null: it takes none';

COMMENT ON COLUMN @extschema@.audit_operations.server_context IS
  'who did it, as the server knows: session_user, current_user (SET ROLE changes it, functions do not), '
  'application_name, client_address, backend_start';

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

CREATE FUNCTION audit_cdc_internal.has_days(month timestamptz) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit_cdc_internal.log'::regclass
      AND c.relname LIKE to_char(month AT TIME ZONE 'UTC', '"log\_"YYYY"\_"MM"\_%"'));
END
$$;

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

CREATE OR REPLACE FUNCTION audit_cdc_internal.ensure_partitions(times timestamptz[]) RETURNS void
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

ALTER TABLE audit_cdc_internal.rejects ADD COLUMN erased_at timestamp with time zone;

ALTER TABLE audit_cdc_internal.rejects ADD COLUMN has_masks boolean DEFAULT false NOT NULL;

CREATE OR REPLACE VIEW @extschema@.audit_rejects AS
  SELECT id, raw, sqlstate, reason, hint, batch_position, database_id, table_schema, table_name,
         deliveries, created_at, last_delivered_at, retries, last_retried_at, stored_at,
         CASE origin WHEN 'c' THEN 'capture' WHEN 'b' THEN 'backfill' ELSE 'ingest' END AS origin, delivered_by,
         erased_at
  FROM audit_cdc_internal.rejects;

COMMENT ON COLUMN @extschema@.audit_rejects.erased_at IS
  'when audit_erase() has taken its text out of raw; audit_retry_rejects does not try it again; null: it is there';

CREATE OR REPLACE FUNCTION @extschema@.audit_allow_source(role name, database_id text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bound CONSTANT regrole := audit_cdc_internal.role_of_source(role, database_id);
BEGIN
  IF starts_with(database_id, (SELECT s.system_identifier FROM pg_control_system() AS s)::text || '.') THEN
    RAISE EXCEPTION 'database_id is of this server' USING ERRCODE = 'invalid_parameter_value',
      HINT = 'audit_capture_start() captures a database of this server; nobody may deliver its changes.';
  END IF;
  IF EXISTS (
    SELECT FROM audit_cdc_internal.captured_databases AS c
    WHERE c.database_id = audit_allow_source.database_id
  ) THEN
    RAISE EXCEPTION 'database_id is of a database that was captured into this log'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Only capture may store changes of it.';
  END IF;
  INSERT INTO audit_cdc_internal.allowed_sources VALUES (bound, audit_allow_source.database_id) ON CONFLICT DO NOTHING;
  PERFORM audit_cdc_internal.note_operation(
    'audit_allow_source', jsonb_build_object('role', role, 'database_id', database_id));
END
$$;

COMMENT ON FUNCTION @extschema@.audit_allow_source(name, text) IS
  'Binds a role, and all that are members of it, to source databases: with audit_ingest it delivers changes of those '
  'that were named so, and of no others. database_id: as in audit_logs. A role of which none was named may deliver '
  'changes of any database but this server''s own. What else it delivers is rejected with 42501, and kept in '
  'audit_rejects. It holds for calls that begin later. The databases count of the role with whose rights it '
  'is called, such as the owner of a SECURITY DEFINER function; if it has none, those of the role of SET ROLE, or of '
  'who logged in. Errors: 22004 (null), 42704 (no such role), 22023 (a database of this server, '
  'one that was captured into this log where it was restored from, or longer than 500 bytes).';

CREATE OR REPLACE FUNCTION @extschema@.audit_revoke_source(role name, database_id text) RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bound CONSTANT regrole := audit_cdc_internal.role_of_source(role, database_id);
BEGIN
  DELETE FROM audit_cdc_internal.allowed_sources AS a
  WHERE a.role = bound AND a.database_id = audit_revoke_source.database_id;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_revoke_source', jsonb_build_object('role', role, 'database_id', database_id));
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.allowed_sources AS a WHERE a.role = bound) THEN
    RAISE WARNING 'role "%" is bound to no source any more', role
      USING HINT = 'It may deliver changes of any database but this server''s own. REVOKE audit_cdc_ingest ends that.';
  END IF;
  RETURN true;
END
$$;

CREATE FUNCTION audit_cdc_internal.parts_of_type(type oid) RETURNS SETOF oid
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT part.oid
  FROM pg_type AS t
  CROSS JOIN LATERAL (
    SELECT t.typelem AS oid
    UNION ALL
    SELECT t.typbasetype
    UNION ALL
    SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT r.rngsubtype FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
  ) AS part
  WHERE t.oid = type AND part.oid <> 0;
END;

CREATE OR REPLACE FUNCTION @extschema@.audit_describe_tables(
    database_id text, description jsonb, valid_from timestamptz DEFAULT NULL)
  RETURNS bigint
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  holds_from timestamptz;
  added bigint := 0;
  said audit_cdc_internal.described_tables;
BEGIN
  IF audit_describe_tables.database_id IS NULL OR description IS NULL THEN
    RAISE EXCEPTION '% must not be null',
        CASE WHEN audit_describe_tables.database_id IS NULL THEN 'database_id' ELSE 'description' END
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  PERFORM audit_cdc_internal.refuse_long('database_id', audit_describe_tables.database_id);
  -- what capture stores says it by itself; a false description would hide rows of it
  IF audit_describe_tables.database_id = audit_cdc_internal.this_database() ->> 'id'
    OR EXISTS (
      SELECT FROM audit_cdc_internal.captured_databases AS c
      WHERE c.database_id = audit_describe_tables.database_id
    ) THEN
    RAISE EXCEPTION 'tables that are captured cannot be described'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'A description is for tables whose changes Sequin sends.';
  END IF;
  PERFORM audit_cdc_internal.check_description(description);
  holds_from := coalesce(valid_from, (description ->> 'described_at')::timestamptz);
  IF NOT isfinite(holds_from) THEN
    RAISE EXCEPTION 'valid_from must be finite' USING ERRCODE = 'datetime_field_overflow';
  END IF;
  IF NOT EXISTS (
    SELECT FROM audit_cdc_internal.audited_tables AS t
    WHERE t.database_id = audit_describe_tables.database_id
  ) THEN
    RAISE NOTICE 'the log has no entry of database "%" yet', audit_describe_tables.database_id
      USING HINT = 'Its database_id is the one that audit_logs shows.';
  END IF;

  FOR said IN
    SELECT audit_describe_tables.database_id, t.table_schema, t.table_name, holds_from, t.replica_identity,
           t.key_columns, t.identity_columns, t.column_types, t.never_sent, t.null_in_reads,
           audit_cdc_internal.spelled_types(t.key_columns, t.column_types), holds_from
    FROM jsonb_populate_recordset(NULL::audit_cdc_internal.described_tables, description -> 'tables') AS t
  LOOP
    IF audit_cdc_internal.keep_description(said) THEN
      added := added + 1;
    END IF;
  END LOOP;
  PERFORM audit_cdc_internal.note_operation(
    'audit_describe_tables',
    jsonb_build_object('database_id', audit_describe_tables.database_id, 'valid_from', holds_from),
    jsonb_build_object('tables', jsonb_array_length(description -> 'tables'), 'changed', added));
  RETURN added;
END
$$;

CREATE FUNCTION audit_cdc_internal.masked_doubt(notes jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT format('value of %s masked', string_agg(c, ', ' ORDER BY c))
  FROM unnest(audit_cdc_internal.masked_columns(notes)) AS c
  WHERE notes -> 'masked' -> c -> 'changed' = 'true'
  HAVING count(*) > 0;
END;

DO $do$
DECLARE
  entries CONSTANT text := $view$
  SELECT l.id,
         t.database_id, t.database_name, t.table_schema, t.table_name,
         l.record_id,
         CASE WHEN l.record_pks IS NULL AND l.record_id IS NOT NULL THEN ARRAY[l.record_id] ELSE l.record_pks END
           AS record_pks,
         l.action::text AS action,
         l.commit_lsn, l.commit_idx, l.commit_timestamp,
         %s,
         audit_cdc_internal.lifted(l.annotations, 'username') AS username,
         audit_cdc_internal.lifted(l.annotations, 'source') AS source,
         audit_cdc_internal.lifted(l.annotations, 'request_id') AS request_id,
         nullif(a.annotations -> 'metadata', 'null') AS metadata,
         a.annotations,
         coalesce(l.idempotency_key, encode(format('%%s:%%s', l.commit_lsn, l.commit_idx)::bytea, 'base64'))
           AS idempotency_key,
         l.created_at,
         CASE l.replica_identity
           WHEN 'f' THEN 'full'
           WHEN 'd' THEN 'default'
           WHEN 'i' THEN 'index'
           WHEN 'n' THEN 'nothing'
           ELSE d.replica_identity
         END AS replica_identity,
         CASE
           WHEN l.unknown_columns IS NOT NULL THEN l.unknown_columns
           WHEN d.replica_identity IS NOT NULL THEN audit_cdc_internal.columns_not_sent(
             l.action::text, coalesce(l.new_values, l.old_values), l.notes, d.replica_identity, d.identity_columns,
             d.never_sent, d.null_in_reads)
         END AS unknown_columns,
         CASE
           WHEN l.action NOT IN ('update', 'delete') THEN '{}'
           WHEN l.unknown_old_columns IS NOT NULL THEN l.unknown_old_columns
           WHEN d.replica_identity IS NOT NULL THEN audit_cdc_internal.old_columns_not_sent(
             l.action::text, coalesce(l.new_values, l.old_values), l.notes, l.old_values, d.replica_identity,
             d.identity_columns, d.never_sent)
         END AS unknown_old_columns,
         coalesce(k.record_key, l.record_id) AS record_key,
         CASE l.origin WHEN 'c' THEN 'capture' WHEN 'b' THEN 'backfill' ELSE 'ingest' END AS origin,
         CASE WHEN l.notes ? 'erased' THEN nullif(l.notes - 'erased', '{}') ELSE l.notes END AS notes, l.exact_values,
         CASE WHEN l.server_context IS NOT NULL THEN (
           SELECT s.context || jsonb_strip_nulls(jsonb_build_object('transaction_start', l.transaction_start))
           FROM audit_cdc_internal.server_contexts AS s
           WHERE s.id = l.server_context)
         END AS server_context,
         l.attested%s, l.notes -> 'erased' AS erased
  FROM %s AS l
  CROSS JOIN LATERAL (
    SELECT CASE WHEN l.large_annotations IS NULL THEN l.annotations
                ELSE (
                  SELECT g.annotations
                  FROM audit_cdc_internal.large_annotations AS g
                  WHERE g.id = l.large_annotations)
           END AS annotations) AS a
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = l.audited_table
  LEFT JOIN audit_cdc_internal.record_keys AS k ON k.audited_table = l.audited_table AND k.record_id = l.record_id
  LEFT JOIN @extschema@.audit_described_tables AS d
    ON (d.database_id, d.table_schema, d.table_name) = (t.database_id, t.table_schema, t.table_name)
   AND l.commit_timestamp >= d.valid_from AND l.commit_timestamp < d.valid_to
  $view$;
  images CONSTANT text := 'l.old_values, l.new_values';
  told CONSTANT text := $told$
         audit_cdc_internal.told_image(l.old_values, l.exact_values, 'old') AS old_values,
         audit_cdc_internal.told_image(l.new_values, l.exact_values, 'new') AS new_values$told$;
BEGIN
  EXECUTE 'CREATE OR REPLACE VIEW @extschema@.audit_logs AS ' || format(entries, images, '', 'audit_cdc_internal.log');
  EXECUTE 'CREATE OR REPLACE VIEW @extschema@.audit_new_logs AS '
          || format(entries, images, '', 'audit_cdc_internal.new_log()')
          || ' ORDER BY l.commit_timestamp, l.commit_lsn, l.commit_idx, l.id';
  EXECUTE 'CREATE OR REPLACE VIEW audit_cdc_internal.entries AS '
    || format(entries, told, ', l.may_change_key', 'audit_cdc_internal.log');
END
$do$;

COMMENT ON COLUMN @extschema@.audit_logs.unknown_columns IS
  'columns whose value in new_values (delete: old_values) was not sent or is masked, whatever stands there; null: not '
  'captured here, and not described, so nobody can tell';

COMMENT ON COLUMN @extschema@.audit_logs.unknown_old_columns IS
  'columns whose value before the change was not sent or is masked; null: not captured here, and not described, so '
  'nobody can tell';

COMMENT ON COLUMN @extschema@.audit_logs.server_context IS
  'what the server knew of the session that made the change, by setting audit_cdc.server_context_fields: session_user '
  '(who logged in), current_user (with whose rights the change was made; SET ROLE and SECURITY DEFINER change it), '
  'role (as whom the session acted, where it is another), application_name (which the client chooses), client_address, '
  'backend_start, transaction_start. null: delivered to audit_ingest, or not told';

COMMENT ON COLUMN @extschema@.audit_logs.notes IS
  'null, as nearly always, or an object. omitted, omitted_old: columns whose value (before the change) was too large '
  'to carry, with "bytes" and "sha256" of what was stored. row_filter: "left" or "entered", of an update after which '
  'the row is not or is one of those that the publication''s row filter lets through; what changes of it outside is '
  'not captured. contested: somebody else has tried to annotate where the server''s own code had. masked: '
  'by column, how it is masked, what stands for its values (new, old), and whether an update has changed it';

COMMENT ON COLUMN @extschema@.audit_logs.erased IS
  'null, as nearly always, or what audit_erase() has taken out of this entry. at, reason: when and why, the last time. '
  'columns: whose values are gone, and so count as not sent. changed: those of them that the update has changed. key: '
  'true where record_id is a pseudonym. annotations: true where username is one';

CREATE TABLE audit_cdc_internal.links (
  node text PRIMARY KEY,
  linked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.links', '');

CREATE VIEW audit_cdc_internal.link_tables AS
  SELECT l.node, l.linked_at, c.oid AS relation
  FROM audit_cdc_internal.links AS l
  LEFT JOIN pg_class AS c ON c.relnamespace = 'audit_cdc_internal'::regnamespace AND c.relname = 'node_' || l.node
   AND c.relkind = 'f';

CREATE VIEW @extschema@.audit_links AS
  SELECT l.node, s.srvname AS server, (
           SELECT o.option_value FROM pg_options_to_table(f.ftoptions) AS o WHERE o.option_name = 'schema_name'
         ) AS schema,
         l.linked_at
  FROM audit_cdc_internal.link_tables AS l
  LEFT JOIN pg_foreign_table AS f ON f.ftrelid = l.relation
  LEFT JOIN pg_foreign_server AS s ON s.oid = f.ftserver;

COMMENT ON VIEW @extschema@.audit_links IS 'other audit databases that audit_all_logs shows';

COMMENT ON COLUMN @extschema@.audit_links.node IS 'as given to audit_link()';

COMMENT ON COLUMN @extschema@.audit_links.server IS 'the foreign server by which it is read';

COMMENT ON COLUMN @extschema@.audit_links.schema IS 'the schema of audit_cdc there';

COMMENT ON COLUMN @extschema@.audit_links.linked_at IS 'when it was linked';

CREATE FUNCTION audit_cdc_internal.add_columns(relation regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  columns CONSTANT text := (
    SELECT string_agg(format('ADD COLUMN %I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '
                      ORDER BY a.attnum)
    FROM pg_attribute AS a
    WHERE a.attrelid = '@extschema@.audit_logs'::regclass AND a.attnum > 0
      AND NOT EXISTS (SELECT FROM pg_attribute AS n WHERE n.attrelid = relation AND n.attname = a.attname)
  );
BEGIN
  IF columns IS NOT NULL THEN
    EXECUTE format('ALTER FOREIGN TABLE %s %s', relation, columns);
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.try_node(node text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('SELECT * FROM audit_cdc_internal.%I WHERE commit_timestamp = ''-infinity''', 'node_' || node);
END
$$;

CREATE FUNCTION audit_cdc_internal.connects(node text) RETURNS boolean
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  message text;
  detail text;
BEGIN
  PERFORM audit_cdc_internal.try_node(node);
  RETURN true;
EXCEPTION
  WHEN connection_exception THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RAISE WARNING 'node "%" is left out', node
      USING ERRCODE = SQLSTATE, DETAIL = concat_ws(': ', message, nullif(detail, ''));
    RETURN false;
  WHEN OTHERS THEN
    RETURN true;
END
$$;

CREATE FUNCTION audit_cdc_internal.show_all_logs() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  logs text := 'SELECT ''here''::text AS node, l.* FROM @extschema@.audit_logs AS l';
  link record;
BEGIN
  -- A part of a union is not asked for an order. Without one of its own all of it would be sorted for a page.
  IF EXISTS (SELECT FROM audit_cdc_internal.links) THEN
    logs := format('(%s ORDER BY l.commit_timestamp DESC)', logs);
  END IF;
  FOR link IN SELECT l.node, l.relation::regclass AS relation FROM audit_cdc_internal.link_tables AS l ORDER BY 1 LOOP
    IF link.relation IS NULL THEN
      RAISE EXCEPTION 'node "%" has no foreign table', link.node
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call audit_unlink() for it, and link it anew.';
    END IF;
    PERFORM audit_cdc_internal.add_columns(link.relation);
    -- A foreign table counts as tiny, and all of it would be fetched, to be sorted here. ANALYZE would read the whole
    -- log of the node. With more rows than these a query would be compiled first, which takes longer than the answer.
    UPDATE pg_class SET reltuples = 1e5, relpages = 1 WHERE oid = link.relation AND reltuples < 0;
    logs := logs || format(' UNION ALL SELECT %L::text, l.* FROM %s AS l', link.node, link.relation);
  END LOOP;
  EXECUTE format(
    'CREATE OR REPLACE VIEW @extschema@.audit_all_logs WITH (security_invoker = true) AS
     SELECT l.* FROM (%s) AS l WHERE l.node = audit_cdc_internal.node_to_read(l.node)', logs);
END
$$;

DO $do$
BEGIN
  EXECUTE 'CREATE OR REPLACE VIEW @extschema@.audit_all_logs AS
           SELECT ''here''::text AS node, l.* FROM @extschema@.audit_logs AS l';
  PERFORM audit_cdc_internal.show_all_logs();
END
$do$;

COMMENT ON VIEW @extschema@.audit_all_logs IS
  'audit_logs of this database and of all nodes that audit_link() has named. Each is read with the rights that the '
  'reader has there. One that is away is an error (08001), or is left out with a WARNING: setting '
  'audit_cdc.skip_missing_nodes. The other columns are those of audit_logs';

COMMENT ON COLUMN @extschema@.audit_all_logs.node IS
  'where the entry stands: "here", or a node of audit_links. id is unique within a node only';

CREATE FUNCTION audit_cdc_internal.links_changed() RETURNS trigger
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.show_all_logs();
  RETURN NULL;
END
$$;

CREATE TRIGGER links_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.links
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.links_changed();

ALTER TABLE audit_cdc_internal.links ENABLE ALWAYS TRIGGER links_changed;

CREATE FUNCTION audit_cdc_internal.check_link_server(server oid, schema text, caller oid) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  name CONSTANT text := (SELECT s.srvname FROM pg_foreign_server AS s WHERE s.oid = server);
  owner CONSTANT oid := (SELECT s.srvowner FROM pg_foreign_server AS s WHERE s.oid = server);
BEGIN
  IF NOT has_server_privilege(caller, server, 'USAGE') THEN
    RAISE EXCEPTION 'permission denied for foreign server %', name USING ERRCODE = 'insufficient_privilege';
  ELSIF NOT pg_has_role(caller, owner, 'USAGE') AND quote_ident(schema) <> (
    SELECT c.relnamespace::regnamespace::text FROM pg_class AS c WHERE c.oid = '@extschema@.audit_logs'::regclass
  ) THEN
    RAISE EXCEPTION 'must be owner of foreign server % to link another schema than that of audit_cdc here', name
      USING ERRCODE = 'insufficient_privilege';
  ELSIF NOT EXISTS (
    SELECT FROM pg_foreign_server AS s
    JOIN pg_depend AS d ON d.classid = 'pg_foreign_data_wrapper'::regclass AND d.objid = s.srvfdw AND d.deptype = 'e'
    JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
    WHERE s.oid = server AND e.extname = 'postgres_fdw'
  ) THEN
    RAISE EXCEPTION 'server "%" is not one of postgres_fdw', name USING ERRCODE = 'wrong_object_type';
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.link(node text, server text, schema text, caller oid) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  relation CONSTANT text := format('audit_cdc_internal.%I', 'node_' || node);
  known CONSTANT oid := (SELECT s.oid FROM pg_foreign_server AS s WHERE s.srvname = server);
BEGIN
  IF node IN ('', 'here') OR octet_length(node) > 58 THEN
    RAISE EXCEPTION 'node must not be empty, "here" or longer than 58 bytes'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF known IS NULL THEN
    RAISE EXCEPTION 'server "%" does not exist', server
      USING ERRCODE = 'undefined_object',
            HINT = 'A superuser makes it: CREATE EXTENSION postgres_fdw; CREATE SERVER … FOREIGN DATA WRAPPER '
                   'postgres_fdw OPTIONS (…).';
  END IF;
  PERFORM audit_cdc_internal.check_link_server(known, schema, caller);
  LOCK TABLE audit_cdc_internal.links IN SHARE ROW EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM audit_cdc_internal.links AS l WHERE l.node = link.node) THEN
    RAISE EXCEPTION 'node "%" is linked already', node USING ERRCODE = 'duplicate_object';
  END IF;
  EXECUTE format(
    'CREATE FOREIGN TABLE %s () SERVER %I OPTIONS (schema_name %L, table_name ''audit_logs'', async_capable ''true'', '
    'updatable ''false'')', relation, server, schema);
  -- another server may have got that name meanwhile
  PERFORM audit_cdc_internal.check_link_server(f.ftserver, schema, caller) FROM pg_foreign_table AS f
  WHERE f.ftrelid = relation::regclass;
  PERFORM audit_cdc_internal.keep_private('pg_class'::regclass, relation::regclass);
  EXECUTE format('GRANT SELECT ON %s TO audit_cdc_reader', relation);
  INSERT INTO audit_cdc_internal.links (node) VALUES (node);
  PERFORM audit_cdc_internal.note_operation(
    'audit_link', jsonb_build_object('node', node, 'server', server, 'schema', schema));
END
$$;

CREATE FUNCTION audit_cdc_internal.unlink(node text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  LOCK TABLE audit_cdc_internal.links IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM audit_cdc_internal.links AS l WHERE l.node = unlink.node;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'node "%" is not linked', node USING ERRCODE = 'undefined_object';
  END IF;
  EXECUTE format('DROP FOREIGN TABLE IF EXISTS audit_cdc_internal.%I', 'node_' || node);
  PERFORM audit_cdc_internal.note_operation('audit_unlink', jsonb_build_object('node', node));
END
$$;

COMMENT ON FUNCTION @extschema@.audit_link(text, text, text) IS
  'Shows the log of another audit database in audit_all_logs, under the name node. server: a foreign server of '
  'postgres_fdw on which the caller has USAGE; null: the one that is called as the node. schema: that of audit_cdc '
  'there, which only the server''s owner may name; null: as here. Nothing is connected yet. Errors: 22004 (node is '
  'null), 22023 (node is empty, "here" or longer than 58 bytes), 25001 (the isolation level is above READ COMMITTED), '
  '42501 (no USAGE on the server, or another schema and not its owner), 42704 (no such server), 42710 (the node is '
  'linked already), 42809 (the server is not of postgres_fdw).';

COMMENT ON FUNCTION @extschema@.audit_unlink(text) IS
  'Takes a node out of audit_all_logs; what it has stays there. Errors: 22004 (node is null), 25001 (the isolation '
  'level is above READ COMMITTED), 2BP01 (a view of yours reads the node''s foreign table), 42704 (no such node).';

CREATE FUNCTION @extschema@.audit_link_status() RETURNS TABLE (node text, error_code text, reason text)
  LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  FOR node IN SELECT l.node FROM @extschema@.audit_links AS l ORDER BY 1 LOOP
    error_code := NULL;
    reason := NULL;
    BEGIN
      PERFORM audit_cdc_internal.try_node(node);
    EXCEPTION WHEN OTHERS THEN
      GET STACKED DIAGNOSTICS error_code = RETURNED_SQLSTATE, reason = MESSAGE_TEXT;
    END;
    RETURN NEXT;
  END LOOP;
END
$$;

COMMENT ON FUNCTION @extschema@.audit_link_status() IS
  'Asks each node for all columns, with the caller''s rights there, and tells which fails. error_code, reason: the '
  'SQLSTATE and the message of the error; null: the caller can read it. Errors: none.';

CREATE OR REPLACE FUNCTION @extschema@.audit_unannotated(since timestamptz, fields text[] DEFAULT '{}')
  RETURNS SETOF @extschema@.audit_logs LANGUAGE sql STABLE
  BEGIN ATOMIC
    SELECT l.*
    FROM @extschema@.audit_logs AS l
    WHERE l.commit_timestamp >= since
      AND l.action IN ('insert', 'update', 'delete', 'truncate')
      AND (l.annotations IS NULL OR l.attested IS FALSE
           OR EXISTS (SELECT FROM unnest(fields) AS f (field) WHERE coalesce(l.annotations ->> f.field, '') = ''))
    ORDER BY l.commit_timestamp DESC, l.id DESC;
  END;

CREATE OR REPLACE FUNCTION @extschema@.audit_ingest(body jsonb)
  RETURNS TABLE (received bigint, inserted bigint, duplicates bigint, rejected bigint)
  LANGUAGE sql VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT * FROM @extschema@.audit_ingest($1::text);
END;

DROP EVENT TRIGGER audit_cdc_before_removal;

CREATE EVENT TRIGGER audit_cdc_before_removal ON ddl_command_start WHEN TAG IN (
  'ALTER AGGREGATE', 'ALTER EXTENSION', 'ALTER FOREIGN TABLE', 'ALTER FUNCTION', 'ALTER PROCEDURE', 'ALTER ROUTINE',
  'ALTER SCHEMA', 'ALTER TABLE', 'CREATE AGGREGATE', 'CREATE FUNCTION', 'CREATE PROCEDURE', 'CREATE TYPE',
  'DROP DOMAIN', 'DROP EXTENSION', 'DROP FOREIGN DATA WRAPPER', 'DROP FOREIGN TABLE', 'DROP FUNCTION', 'DROP INDEX',
  'DROP LANGUAGE', 'DROP OPERATOR', 'DROP OPERATOR CLASS', 'DROP OPERATOR FAMILY', 'DROP OWNED', 'DROP PROCEDURE',
  'DROP ROUTINE', 'DROP SCHEMA', 'DROP SEQUENCE', 'DROP SERVER', 'DROP TABLE', 'DROP TYPE', 'DROP VIEW')
  EXECUTE FUNCTION audit_cdc_internal.before_removal();

ALTER EVENT TRIGGER audit_cdc_before_removal ENABLE ALWAYS;

CREATE SEQUENCE audit_cdc_internal.masks_id_seq CYCLE;

CREATE TABLE audit_cdc_internal.masks (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('masks'),
  database_id text, -- null: any
  table_schema text NOT NULL,
  table_name text NOT NULL,
  masked text NOT NULL, -- a column, or column->member
  masked_column text NOT NULL,
  path text[] NOT NULL, -- to the member; empty: the whole column
  how text NOT NULL CHECK (how IN ('omit', 'hash', 'partial')),
  reason text,
  masked_by name NOT NULL DEFAULT session_user,
  masked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  unmasked_reason text,
  unmasked_by name,
  unmasked_at timestamptz, -- null: it is set
  relation_in text, -- the id of the database in which the next two are
  relation oid, -- null: there is no such table there
  root oid, -- of the partitions that it was one of; null: of none
  column_number smallint, -- null: the table has no such column
  is_former boolean NOT NULL DEFAULT false -- the table or the column has another name now, and a mask by it
);

CREATE UNIQUE INDEX masks_now ON audit_cdc_internal.masks (database_id, table_schema, table_name, masked_column, path)
  NULLS NOT DISTINCT WHERE unmasked_at IS NULL;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.masks', '');

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.masks_id_seq', '');

CREATE VIEW @extschema@.audit_masks AS
  SELECT database_id, table_schema, table_name, masked, how, reason, masked_by, masked_at, unmasked_reason, unmasked_by,
         unmasked_at
  FROM audit_cdc_internal.masks;

COMMENT ON VIEW @extschema@.audit_masks IS 'which values are masked before anything is stored, also masks that ended';

COMMENT ON COLUMN @extschema@.audit_masks.database_id IS 'as in audit_logs; null: of any database';

COMMENT ON COLUMN @extschema@.audit_masks.table_schema IS 'as in audit_logs';

COMMENT ON COLUMN @extschema@.audit_masks.table_name IS 'as in audit_logs';

COMMENT ON COLUMN @extschema@.audit_masks.masked IS 'a column, or a member of a json column: column->member';

COMMENT ON COLUMN @extschema@.audit_masks.how IS 'omit, hash or partial, as given to audit_mask()';

COMMENT ON COLUMN @extschema@.audit_masks.reason IS
  'as given to audit_mask(); of a mask that follows a table or column: "renamed" or "partition"';

COMMENT ON COLUMN @extschema@.audit_masks.masked_by IS 'who called that, or whose command the mask follows';

COMMENT ON COLUMN @extschema@.audit_masks.masked_at IS 'when';

COMMENT ON COLUMN @extschema@.audit_masks.unmasked_reason IS 'as given to audit_unmask(); null: it is set';

COMMENT ON COLUMN @extschema@.audit_masks.unmasked_by IS 'who called that, or replaced the mask; null: it is set';

COMMENT ON COLUMN @extschema@.audit_masks.unmasked_at IS 'when; null: it is set';

CREATE FUNCTION audit_cdc_internal.settle_masks() RETURNS void
  LANGUAGE plpgsql AS $$
BEGIN
  LOCK TABLE ONLY audit_cdc_internal.log IN SHARE MODE;
  UPDATE audit_cdc_internal.ingest_reads SET changed_at = now();
END
$$;

CREATE FUNCTION audit_cdc_internal.check_mask(table_schema text, table_name text, columns text[], how text)
  RETURNS void
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  missing CONSTANT text := CASE
    WHEN table_schema IS NULL THEN 'table_schema'
    WHEN table_name IS NULL THEN 'table_name'
    WHEN columns IS NULL THEN 'columns'
    WHEN how IS NULL THEN 'how'
  END;
BEGIN
  IF missing IS NOT NULL OR array_position(columns, NULL) IS NOT NULL THEN
    RAISE EXCEPTION '% must not %', coalesce(missing, 'columns'),
        CASE WHEN missing IS NULL THEN 'hold null' ELSE 'be null' END
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF how NOT IN ('omit', 'hash', 'partial') THEN
    RAISE EXCEPTION 'how must be omit, hash or partial' USING ERRCODE = 'invalid_parameter_value';
  ELSIF columns = '{}' OR '' = ANY (columns) OR EXISTS (
    SELECT FROM unnest(columns) AS c, unnest(string_to_array(c, '->')) AS name
    WHERE name = '' OR position('->' IN c) > 0 AND (left(name, 1) = '>' OR name ~ '^''.*''$')
  ) THEN
    RAISE EXCEPTION 'columns must be names of columns, or column->member'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Names of members stand without quotes.';
  END IF;
  PERFORM audit_cdc_internal.refuse_long('table_schema', table_schema);
  PERFORM audit_cdc_internal.refuse_long('table_name', table_name);
  PERFORM audit_cdc_internal.refuse_long('columns', c) FROM unnest(columns) AS c;
END
$$;

CREATE FUNCTION audit_cdc_internal.masked_relation(database_id text, table_schema text, table_name text)
  RETURNS regclass LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT c.oid::regclass
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE n.nspname = masked_relation.table_schema
    AND c.relname = masked_relation.table_name
    AND c.relkind IN ('r', 'p', 'f')
    AND coalesce(masked_relation.database_id = audit_cdc_internal.this_database() ->> 'id', true);
END;

CREATE VIEW audit_cdc_internal.partition_families AS
  WITH RECURSIVE members AS (
    SELECT c.oid AS root, c.oid AS member
    FROM pg_class AS c
    WHERE c.relkind = 'p' AND NOT c.relispartition
    UNION ALL
    SELECT m.root, i.inhrelid
    FROM members AS m
    JOIN pg_inherits AS i ON i.inhparent = m.member
  )
  SELECT m.root, m.member FROM members AS m;

CREATE FUNCTION audit_cdc_internal.masked_names(
    database_id text, table_schema text, table_name text, OUT schema text, OUT name text)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT masked_names.table_schema, masked_names.table_name
  UNION
  SELECT n.nspname, c.relname
  FROM audit_cdc_internal.partition_families AS f
  JOIN audit_cdc_internal.partition_families AS m ON m.root = f.root
  JOIN pg_class AS c ON c.oid = m.member
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE f.member = audit_cdc_internal.masked_relation(database_id, table_schema, table_name);
END;

CREATE FUNCTION audit_cdc_internal.masks_set(database_id text, table_schema text, table_name text)
  RETURNS SETOF audit_cdc_internal.masks
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT m.*
  FROM audit_cdc_internal.masks AS m
  WHERE m.unmasked_at IS NULL
    AND m.database_id IS NOT DISTINCT FROM masks_set.database_id
    AND ((m.table_schema, m.table_name) IN (
        SELECT n.schema, n.name
        FROM audit_cdc_internal.masked_names(masks_set.database_id, masks_set.table_schema, masks_set.table_name) AS n)
      OR m.relation_in = audit_cdc_internal.this_database() ->> 'id' AND m.root = (
        SELECT f.root
        FROM audit_cdc_internal.partition_families AS f
        WHERE f.member = audit_cdc_internal.masked_relation(
          masks_set.database_id, masks_set.table_schema, masks_set.table_name)));
END;

CREATE FUNCTION audit_cdc_internal.masked_column(known text[], masked text) RETURNS text
  LANGUAGE sql IMMUTABLE
  RETURN CASE WHEN masked = ANY (known) THEN masked ELSE split_part(masked, '->', 1) END;

CREATE FUNCTION audit_cdc_internal.masked_path(known text[], masked text) RETURNS text[]
  LANGUAGE sql IMMUTABLE
  RETURN CASE WHEN masked = ANY (known) THEN '{}' ELSE (string_to_array(masked, '->'))[2:] END;

CREATE FUNCTION audit_cdc_internal.described_columns(
    database_id text, table_schema text, table_name text, OUT name text, OUT type text)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT DISTINCT t.key, t.value
  FROM audit_cdc_internal.described_tables AS d
  CROSS JOIN LATERAL jsonb_each_text(d.column_types) AS t
  WHERE d.table_schema = described_columns.table_schema
    AND d.table_name = described_columns.table_name
    AND coalesce(d.database_id = described_columns.database_id, true);
END;

CREATE FUNCTION audit_cdc_internal.known_columns(database_id text, table_schema text, table_name text) RETURNS text[]
  LANGUAGE sql STABLE
  RETURN ARRAY(
    SELECT a.attname::text
    FROM pg_attribute AS a
    WHERE a.attrelid = audit_cdc_internal.masked_relation(
        known_columns.database_id, known_columns.table_schema, known_columns.table_name)
      AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT d.name
    FROM audit_cdc_internal.described_columns(
      known_columns.database_id, known_columns.table_schema, known_columns.table_name) AS d
  );

CREATE FUNCTION audit_cdc_internal.refuse_masked_key(
    database_id text, table_schema text, table_name text, columns text[]) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  keys text[];
BEGIN
  keys := ARRAY(
    SELECT a.attname::text
    FROM pg_index AS i
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = audit_cdc_internal.masked_relation(database_id, table_schema, table_name) AND i.indisprimary
    UNION
    SELECT unnest(d.key_columns)
    FROM (
      SELECT DISTINCT ON (d.database_id) d.key_columns
      FROM audit_cdc_internal.described_tables AS d
      WHERE d.table_schema = table_schema
        AND d.table_name = table_name
        AND coalesce(d.database_id = database_id, true)
      ORDER BY d.database_id, d.valid_from DESC
    ) AS d
  );
  IF EXISTS (SELECT FROM unnest(columns) AS c WHERE split_part(c, '->', 1) = ANY (keys)) THEN
    RAISE EXCEPTION 'a column of the primary key cannot be masked'
      USING ERRCODE = 'feature_not_supported',
            DETAIL = format('The key of the table: %s.', array_to_string(keys, ', ')),
            HINT = 'The log finds a record by its key. Give the table a key that tells nothing.';
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.say_unknown_columns(
    database_id text, table_schema text, table_name text, columns text[]) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  relation CONSTANT regclass := audit_cdc_internal.masked_relation(database_id, table_schema, table_name);
  known CONSTANT text[] := audit_cdc_internal.known_columns(database_id, table_schema, table_name);
  strange text;
BEGIN
  IF known = '{}' THEN
    RAISE NOTICE 'nobody has described such a table: no name of a column is checked';
    RETURN;
  END IF;
  SELECT string_agg(format('"%s"', c), ', ')
  INTO strange
  FROM unnest(columns) AS c
  WHERE audit_cdc_internal.masked_column(known, c) <> ALL (known);
  IF strange IS NOT NULL THEN
    RAISE NOTICE 'the table has no column %', strange
      USING HINT = 'Names are as PostgreSQL keeps them, case included.';
  END IF;
  SELECT string_agg(format('"%s"', t.name), ', ' ORDER BY t.name)
  INTO strange
  FROM (
    SELECT a.attname::text AS name, format_type(a.atttypid, NULL) AS type
    FROM pg_attribute AS a
    WHERE a.attrelid = relation AND a.attnum > 0
    UNION
    SELECT d.name, d.type
    FROM audit_cdc_internal.described_columns(database_id, table_schema, table_name) AS d
  ) AS t
  WHERE t.type NOT IN ('json', 'jsonb', 'json[]', 'jsonb[]')
    AND EXISTS (
      SELECT FROM unnest(columns) AS c
      WHERE audit_cdc_internal.masked_column(known, c) = t.name
        AND audit_cdc_internal.masked_path(known, c) <> '{}');
  IF strange IS NOT NULL THEN
    RAISE NOTICE 'members are masked of json columns only: nothing is kept of texts in %', strange;
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.leniency(how text) RETURNS integer
  LANGUAGE sql IMMUTABLE
  RETURN array_position(ARRAY['omit', 'hash', 'partial'], how);

CREATE FUNCTION audit_cdc_internal.add_mask(mask audit_cdc_internal.masks) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  INSERT INTO audit_cdc_internal.masks AS there (
    database_id, table_schema, table_name, masked, masked_column, path, how, reason, relation_in, relation, root,
    column_number, is_former)
  VALUES (
    mask.database_id, mask.table_schema, mask.table_name, array_to_string(mask.masked_column || mask.path, '->'),
    mask.masked_column, mask.path, mask.how, mask.reason, mask.relation_in, mask.relation, mask.root,
    mask.column_number, coalesce(mask.is_former, false))
  ON CONFLICT (database_id, table_schema, table_name, masked_column, path) WHERE unmasked_at IS NULL
  DO UPDATE SET how = excluded.how, reason = excluded.reason
  WHERE audit_cdc_internal.leniency(there.how) > audit_cdc_internal.leniency(excluded.how);
END;

CREATE VIEW audit_cdc_internal.masks_here AS
  SELECT m.*, h.id AS here, c.oid AS relation_now, n.nspname::text AS schema_now, c.relname::text AS name_now,
         coalesce(a.attname::text, m.masked_column) AS column_now
  FROM audit_cdc_internal.masks AS m
  CROSS JOIN (SELECT audit_cdc_internal.this_database() ->> 'id' AS id) AS h
  LEFT JOIN pg_class AS c ON c.oid = m.relation AND m.relation_in = h.id
  LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = m.column_number AND NOT a.attisdropped
  WHERE m.unmasked_at IS NULL AND coalesce(m.database_id = h.id, true);

CREATE FUNCTION audit_cdc_internal.lacking_masks() RETURNS jsonb LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH families AS MATERIALIZED (
    SELECT f.root, f.member FROM audit_cdc_internal.partition_families AS f
  ), masked AS MATERIALIZED (
    SELECT DISTINCT ON (coalesce(f.root, m.relation_now), m.database_id, m.column_now, m.path)
           coalesce(f.root, m.relation_now) AS root, m.relation_now AS relation, m.here, m.database_id, m.column_now,
           m.path, m.how
    FROM audit_cdc_internal.masks_here AS m
    LEFT JOIN families AS f ON f.member = m.relation_now
    WHERE m.relation_now IS NOT NULL AND NOT m.is_former
    ORDER BY coalesce(f.root, m.relation_now), m.database_id, m.column_now, m.path,
             audit_cdc_internal.leniency(m.how)
  ), wanted AS (
    SELECT m.*, coalesce(f.member, m.root) AS member, f.root AS family, n.nspname::text AS schema,
           c.relname::text AS name
    FROM masked AS m
    LEFT JOIN families AS f ON f.root = m.root
    JOIN pg_class AS c ON c.oid = coalesce(f.member, m.root)
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
  )
  SELECT jsonb_agg(jsonb_build_object(
    'database_id', w.database_id, 'table_schema', w.schema, 'table_name', w.name, 'masked_column', w.column_now,
    'path', w.path, 'how', w.how, 'relation_in', w.here, 'relation', w.member, 'root', w.family,
    'column_number', (SELECT a.attnum FROM pg_attribute AS a
                      WHERE a.attrelid = w.member AND a.attname = w.column_now AND NOT a.attisdropped),
    'reason', CASE WHEN w.member = w.relation THEN 'renamed' ELSE 'partition' END))
  FROM wanted AS w
  LEFT JOIN audit_cdc_internal.masks AS m
    ON m.unmasked_at IS NULL
    AND m.database_id IS NOT DISTINCT FROM w.database_id
    AND (m.table_schema, m.table_name, m.masked_column, m.path) = (w.schema, w.name, w.column_now, w.path)
    AND audit_cdc_internal.leniency(m.how) <= audit_cdc_internal.leniency(w.how)
  WHERE m.id IS NULL;
END;

CREATE FUNCTION audit_cdc_internal.found_masks() RETURNS jsonb LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH families AS MATERIALIZED (
    SELECT f.root, f.member FROM audit_cdc_internal.partition_families AS f
  ), named AS (
    SELECT m.*, c.oid AS named, a.attnum AS number
    FROM audit_cdc_internal.masks_here AS m
    LEFT JOIN pg_namespace AS n ON n.nspname = m.table_schema
    LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = m.table_name AND c.relkind IN ('r', 'p', 'f')
    LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = m.masked_column AND NOT a.attisdropped
  ), found AS (
    SELECT m.id, m.here, coalesce(m.named, m.relation_now) AS relation,
           CASE WHEN coalesce(m.named = m.relation_now, m.named IS NULL)
             THEN coalesce(m.number, CASE WHEN m.relation_now IS NOT NULL THEN m.column_number END)
             ELSE m.number END AS column_number,
           m.number IS NULL AND (m.is_former OR coalesce(
             (m.schema_now, m.name_now, m.column_now) <> (m.table_schema, m.table_name, m.masked_column), false))
             AS is_former,
           m.relation AS relation_before, m.column_number AS number_before, m.is_former AS former_before,
           m.relation_in AS in_before, m.root AS root_before
    FROM named AS m
  )
  SELECT jsonb_agg(jsonb_build_object(
    'id', m.id, 'relation_in', m.here, 'relation', m.relation, 'root', r.root,
    'column_number', m.column_number, 'is_former', m.is_former))
  FROM found AS m
  LEFT JOIN families AS f ON f.member = m.relation
  -- of a table that is gone it tells whose masks are to end with it
  CROSS JOIN LATERAL (SELECT CASE WHEN m.relation IS NULL THEN m.root_before ELSE f.root END AS root) AS r
  WHERE (m.relation_before, m.number_before, m.former_before, m.in_before, m.root_before)
        IS DISTINCT FROM (m.relation, m.column_number, m.is_former, m.here, r.root);
END;

CREATE FUNCTION audit_cdc_internal.news_of_masks() RETURNS text LANGUAGE sql STABLE
  RETURN nullif(jsonb_strip_nulls(jsonb_build_object(
    'lacking', audit_cdc_internal.lacking_masks(), 'found', audit_cdc_internal.found_masks())), '{}')::text;

CREATE FUNCTION audit_cdc_internal.follow_masks(news jsonb) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.add_mask(m)
  FROM jsonb_populate_recordset(NULL::audit_cdc_internal.masks, coalesce(news -> 'lacking', '[]')) AS m;
  UPDATE audit_cdc_internal.masks AS m
  SET relation_in = f.relation_in, relation = f.relation, root = f.root, column_number = f.column_number,
      is_former = f.is_former
  FROM jsonb_populate_recordset(NULL::audit_cdc_internal.masks, coalesce(news -> 'found', '[]')) AS f
  WHERE m.id = f.id;
END;

CREATE FUNCTION audit_cdc_internal.mask_former_names() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.add_mask(jsonb_populate_record(NULL::audit_cdc_internal.masks, jsonb_build_object(
    'database_id', m.database_id, 'table_schema', s.before ->> 'schema', 'table_name', s.before ->> 'name',
    'masked_column', coalesce(f.name, m.masked_column), 'path', m.path, 'how', m.how, 'reason', 'former name',
    'relation_in', m.here, 'relation', m.relation_now, 'root', m.root, 'column_number', m.column_number,
    'is_former', true)))
  FROM audit_cdc_internal.masks_here AS m
  JOIN audit_cdc_internal.schema_changes AS s
    ON s.object = m.relation_now AND s.object_type = 'table' AND s.database_id = m.here AND s.before IS NOT NULL
  LEFT JOIN LATERAL (
    SELECT c.it ->> 'name' AS name
    FROM jsonb_array_elements(s.before -> 'columns') AS c(it)
    WHERE (c.it ->> 'number')::integer = m.column_number
  ) AS f ON true
  WHERE NOT m.is_former
    AND s.id > coalesce((
      SELECT max(a.id) FROM audit_cdc_internal.schema_changes AS a WHERE a.command_tag = 'audit_capture_start'), 0)
    AND NOT EXISTS (SELECT FROM audit_cdc_internal.schema_change_positions AS p WHERE p.id = s.id)
    AND (s.before ->> 'schema', s.before ->> 'name', coalesce(f.name, m.masked_column))
        <> (m.table_schema, m.table_name, m.masked_column);
END
$$;

CREATE FUNCTION audit_cdc_internal.has_masks_here() RETURNS boolean
  LANGUAGE sql STABLE
  RETURN EXISTS (
    SELECT FROM audit_cdc_internal.masks AS m
    WHERE m.unmasked_at IS NULL AND coalesce(m.database_id = audit_cdc_internal.this_database() ->> 'id', true)
  );

CREATE FUNCTION audit_cdc_internal.say_lost_masks() RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  lost CONSTANT text := (
    SELECT string_agg(format('%I.%I %s', m.table_schema, m.table_name, m.masked), ', ' ORDER BY m.id)
    FROM audit_cdc_internal.masks AS m
    WHERE m.unmasked_at IS NULL AND NOT m.is_former
      AND CASE
        -- of a database of which this one may be a copy
        WHEN m.database_id <> here
          THEN m.database_id <> ALL (audit_cdc_internal.one_log(here))
            AND (m.database_id = m.relation_in
              OR m.database_id IN (SELECT c.database_id FROM audit_cdc_internal.captured_databases AS c))
        -- a mask of any database may be meant for what others deliver
        ELSE (
          m.database_id IS NOT NULL OR NOT EXISTS (
            SELECT FROM audit_cdc_internal.audited_tables AS t
            WHERE (t.table_schema, t.table_name) = (m.table_schema, m.table_name) AND t.database_id <> here))
          AND NOT EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = audit_cdc_internal.masked_relation(here, m.table_schema, m.table_name)
              AND a.attname = m.masked_column AND NOT a.attisdropped)
      END);
BEGIN
  IF lost IS NOT NULL THEN
    RAISE WARNING 'masks name what is not in this database' USING DETAIL = lost || '.',
      HINT = 'Is the name spelled wrongly, or has the database another id? Then mask anew.';
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_mask(
    table_schema text, table_name text, columns text[], how text DEFAULT 'omit', database_id text DEFAULT NULL,
    reason text DEFAULT NULL)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  has_new_secret boolean;
  known text[];
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'audit_mask() must run in READ COMMITTED'
      USING ERRCODE = 'active_sql_transaction', HINT = 'SET default_transaction_isolation = ''read committed''.';
  END IF;
  PERFORM audit_cdc_internal.check_mask(table_schema, table_name, columns, how);
  PERFORM audit_cdc_internal.lock_ddl(); -- who gives it another name now has ended
  PERFORM audit_cdc_internal.refuse_long('database_id', database_id);
  PERFORM audit_cdc_internal.refuse_masked_key(database_id, table_schema, table_name, columns);
  PERFORM audit_cdc_internal.say_unknown_columns(database_id, table_schema, table_name, columns);
  known := audit_cdc_internal.known_columns(database_id, table_schema, table_name);
  PERFORM audit_cdc_internal.settle_masks();
  has_new_secret := audit_cdc_internal.make_mask_secret();
  UPDATE audit_cdc_internal.masks AS m
  SET unmasked_at = clock_timestamp(), unmasked_by = session_user, unmasked_reason = reason
  FROM audit_cdc_internal.masks_set(database_id, table_schema, table_name) AS s
  WHERE m.id = s.id AND m.masked = ANY (columns) AND m.how <> how;
  INSERT INTO audit_cdc_internal.masks (
    database_id, table_schema, table_name, masked, masked_column, path, how, reason)
  SELECT DISTINCT database_id, n.schema, n.name, c, audit_cdc_internal.masked_column(known, c),
         audit_cdc_internal.masked_path(known, c), how, reason
  FROM audit_cdc_internal.masked_names(database_id, table_schema, table_name) AS n, unnest(columns) AS c
  ON CONFLICT DO NOTHING;
  PERFORM audit_cdc_internal.follow_masks(audit_cdc_internal.news_of_masks()::jsonb);
  PERFORM audit_cdc_internal.mask_former_names();
  PERFORM audit_cdc_internal.note_operation(
    'audit_mask',
    jsonb_build_object(
      'database_id', database_id, 'table_schema', table_schema, 'table_name', table_name, 'columns', columns,
      'how', how),
    CASE WHEN has_new_secret THEN jsonb_build_object('secrets', 1) END, reason);
END
$$;

COMMENT ON FUNCTION @extschema@.audit_mask(text, text, text[], text, text, text) IS
  'Masks values before anything is stored, from here on: in images, exact values, rejects, whatever way they come. '
  'columns: names of columns, or column->member for members of json columns, through arrays too. how: omit, nothing is '
  'kept; hash, a keyed hash of the value; partial, the last 4 characters of at least 12. A masked column counts as '
  'unknown, and stands in notes -> ''masked''. Of a partition the whole family is masked. database_id: null for any. '
  'reason: for audit_operations; null for none. It waits for transactions that store. It replaces a mask of the same. '
  'Of several masks of a column the one that keeps least counts. A NOTICE tells of columns that nobody knows. Errors: '
  '22004 (null), 22023 (another how, no column, a name longer than 500 bytes), 25001 (REPEATABLE READ or above), 0A000 '
  '(a column of the primary key), 58030 (the secret of masks cannot be read or written).';

CREATE FUNCTION @extschema@.audit_unmask(
    table_schema text, table_name text, columns text[] DEFAULT NULL, database_id text DEFAULT NULL,
    reason text DEFAULT NULL)
  RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  PERFORM audit_cdc_internal.check_mask(table_schema, table_name, coalesce(columns, '{any}'), 'omit');
  PERFORM audit_cdc_internal.settle_masks();
  UPDATE audit_cdc_internal.masks AS m
  SET unmasked_at = clock_timestamp(), unmasked_by = session_user, unmasked_reason = reason
  FROM audit_cdc_internal.masks_set(database_id, table_schema, table_name) AS s
  WHERE m.id = s.id AND coalesce(m.masked = ANY (columns), true);
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_unmask',
    jsonb_build_object(
      'database_id', database_id, 'table_schema', table_schema, 'table_name', table_name, 'columns', columns),
    NULL, reason);
  RETURN true;
END
$$;

COMMENT ON FUNCTION @extschema@.audit_unmask(text, text, text[], text, text) IS
  'Ends masks that audit_mask() has set with the same names and database_id; columns: null for all of the table. '
  'Returns whether there was one. What was masked stays masked. reason: for audit_operations; null for none. It waits '
  'for transactions that store. Errors: 22004 (null name), 22023 (no column, or a name longer than 500 bytes).';

CREATE TABLE audit_cdc_internal.retention_rules (
  database_id text,
  table_schema text,
  table_name text,
  keep interval, -- null: for ever
  UNIQUE NULLS NOT DISTINCT (database_id, table_schema, table_name)
);

ALTER TABLE audit_cdc_internal.retention_rules REPLICA IDENTITY FULL;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.retention_rules', '');

CREATE VIEW @extschema@.audit_retention_rules AS
  SELECT database_id, table_schema, table_name, keep FROM audit_cdc_internal.retention_rules;

COMMENT ON VIEW @extschema@.audit_retention_rules IS
  'how long entries are kept. Of the rules that fit a table, one that names a table wins, then one that names a '
  'schema, then one that names a database. What no rule fits is kept for ever';

COMMENT ON COLUMN @extschema@.audit_retention_rules.database_id IS 'as in audit_logs; null: of any database';

COMMENT ON COLUMN @extschema@.audit_retention_rules.table_schema IS 'null: of any schema';

COMMENT ON COLUMN @extschema@.audit_retention_rules.table_name IS 'null: of any table';

COMMENT ON COLUMN @extschema@.audit_retention_rules.keep IS 'since the commit of the change; null: for ever';

CREATE FUNCTION audit_cdc_internal.check_retention(
    keep interval, database_id text, table_schema text, table_name text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.refuse_long('database_id', check_retention.database_id);
  PERFORM audit_cdc_internal.refuse_long('table_schema', check_retention.table_schema);
  PERFORM audit_cdc_internal.refuse_long('table_name', check_retention.table_name);
  -- an interval compares by months of 30 days, but counts back by the calendar
  IF keep < interval '1 day' OR keep > interval '1000 years' OR now() - keep > now() - interval '1 day' THEN
    RAISE EXCEPTION 'keep must be between 1 day and 1000 years'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Null keeps entries for ever.';
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_set_retention(
    keep interval, database_id text DEFAULT NULL, table_schema text DEFAULT NULL, table_name text DEFAULT NULL,
    reason text DEFAULT NULL)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  PERFORM audit_cdc_internal.check_retention(keep, database_id, table_schema, table_name);
  INSERT INTO audit_cdc_internal.retention_rules AS r VALUES (database_id, table_schema, table_name, keep)
  ON CONFLICT ON CONSTRAINT retention_rules_database_id_table_schema_table_name_key
  DO UPDATE SET keep = excluded.keep;
  PERFORM audit_cdc_internal.note_operation(
    'audit_set_retention',
    jsonb_build_object(
      'keep', coalesce(keep::text, 'for ever'), 'database_id', database_id, 'table_schema', table_schema,
      'table_name', table_name),
    NULL, reason);
  IF NOT EXISTS (
    SELECT FROM audit_cdc_internal.audited_tables AS t
    WHERE coalesce(t.database_id = audit_set_retention.database_id, true)
      AND coalesce(t.table_schema = audit_set_retention.table_schema, true)
      AND coalesce(t.table_name = audit_set_retention.table_name, true)
  ) THEN
    RAISE NOTICE 'the log has no entry of such a table yet';
  END IF;
END
$$;

COMMENT ON FUNCTION @extschema@.audit_set_retention(interval, text, text, text, text) IS
  'Says how long entries are kept, of all tables or of those that are named: null names any. keep: since the commit '
  'of the change; null: for ever. It replaces a rule that names the same. Nothing is removed until '
  'audit_apply_retention() runs. reason: for audit_operations; null for none. A NOTICE tells that the log has no entry '
  'of such a table. Errors: 22023 (keep is under 1 day or over 1,000 years, or a name is longer than 500 bytes).';

CREATE FUNCTION @extschema@.audit_drop_retention(
    database_id text DEFAULT NULL, table_schema text DEFAULT NULL, table_name text DEFAULT NULL,
    reason text DEFAULT NULL)
  RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  DELETE FROM audit_cdc_internal.retention_rules AS r
  WHERE (r.database_id, r.table_schema, r.table_name)
    IS NOT DISTINCT FROM (database_id, table_schema, table_name);
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_drop_retention',
    jsonb_build_object('database_id', database_id, 'table_schema', table_schema, 'table_name', table_name), NULL,
    reason);
  RETURN true;
END
$$;

COMMENT ON FUNCTION @extschema@.audit_drop_retention(text, text, text, text) IS
  'Removes the rule of audit_set_retention() that names the same; false: there was none. reason: for audit_operations; '
  'null for none. Errors: none.';

CREATE VIEW audit_cdc_internal.cutoffs AS
  SELECT t.id AS audited_table, CASE WHEN r.keep IS NOT NULL THEN least(now() - r.keep, now() - interval '1 day') END
         AS cutoff
  FROM audit_cdc_internal.audited_tables AS t
  LEFT JOIN LATERAL (
    SELECT r.keep
    FROM audit_cdc_internal.retention_rules AS r
    WHERE coalesce(r.database_id = t.database_id, true)
      AND coalesce(r.table_schema = t.table_schema, true)
      AND coalesce(r.table_name = t.table_name, true)
    ORDER BY r.table_name IS NULL, r.table_schema IS NULL, r.database_id IS NULL
    LIMIT 1
  ) AS r ON true;

CREATE FUNCTION audit_cdc_internal.is_elsewhere(name text) RETURNS boolean
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM pg_class AS c
    WHERE c.relname = name AND c.relnamespace = 'audit_cdc_internal'::regnamespace AND c.relkind = 'f');
END
$$;

CREATE FUNCTION audit_cdc_internal.stands_elsewhere(name text) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
  RETURN audit_cdc_internal.is_elsewhere(name) OR audit_cdc_internal.is_elsewhere(name || '_there');

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

CREATE FUNCTION audit_cdc_internal.partitions_left(month text) RETURNS text[]
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN ARRAY(
    SELECT p.name
    FROM unnest(audit_cdc_internal.partitions_of_month(month)) AS p(name)
    WHERE NOT audit_cdc_internal.is_elsewhere(p.name) AND audit_cdc_internal.is_elsewhere(p.name || '_there')
    ORDER BY p.name);
END
$$;

CREATE FUNCTION audit_cdc_internal.empty_left(name text) RETURNS void
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  copy CONSTANT text := name || '_there';
BEGIN
  IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
    RAISE EXCEPTION 'a table elsewhere is emptied in a transaction of its own' USING ERRCODE = 'active_sql_transaction';
  END IF;
  PERFORM audit_cdc_internal.check_move(name);
  PERFORM audit_cdc_internal.lock_partitions();
  IF NOT audit_cdc_internal.is_elsewhere(name) AND audit_cdc_internal.is_elsewhere(copy) THEN
    EXECUTE format('ALTER FOREIGN TABLE audit_cdc_internal.%I OPTIONS (SET truncatable ''true'')', copy);
    EXECUTE format('TRUNCATE audit_cdc_internal.%I', copy);
    PERFORM audit_cdc_internal.drop_month(format('audit_cdc_internal.%I', copy)::regclass);
    DELETE FROM audit_cdc_internal.months_elsewhere AS m WHERE m.name = empty_left.name;
  END IF;
END
$$;

CREATE SEQUENCE audit_cdc_internal.erasures_id_seq CYCLE;

CREATE TABLE audit_cdc_internal.erasures (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('erasures'),
  audited_table integer NOT NULL,
  columns text[], -- null: all
  pseudonym text, -- in place of the record's key, or of the name of who made the changes
  entries bigint NOT NULL,
  oldest timestamptz NOT NULL,
  newest timestamptz NOT NULL,
  reason text NOT NULL,
  erased_by text NOT NULL DEFAULT session_user,
  erased_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.erasures
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();

ALTER TABLE audit_cdc_internal.erasures ENABLE ALWAYS TRIGGER append_only;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.erasures', '');

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.erasures_id_seq', '');

CREATE VIEW @extschema@.audit_erasures AS
  SELECT e.id, e.erased_at, e.erased_by, e.reason, t.database_id, t.table_schema, t.table_name, e.columns, e.pseudonym,
         e.entries, e.oldest, e.newest
  FROM audit_cdc_internal.erasures AS e
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = e.audited_table;

COMMENT ON VIEW @extschema@.audit_erasures IS
  'what audit_erase() has taken out of the log, by call and table; append-only. erased of audit_logs tells of which '
  'entries';

COMMENT ON COLUMN @extschema@.audit_erasures.id IS 'grows, with gaps';

COMMENT ON COLUMN @extschema@.audit_erasures.erased_at IS 'when';

COMMENT ON COLUMN @extschema@.audit_erasures.erased_by IS 'who called audit_erase()';

COMMENT ON COLUMN @extschema@.audit_erasures.reason IS 'as given to it';

COMMENT ON COLUMN @extschema@.audit_erasures.database_id IS 'as in audit_logs';

COMMENT ON COLUMN @extschema@.audit_erasures.table_schema IS 'as in audit_logs';

COMMENT ON COLUMN @extschema@.audit_erasures.table_name IS 'as in audit_logs';

COMMENT ON COLUMN @extschema@.audit_erasures.columns IS
  'whose values are gone; null: all columns, or for a user the annotations';

COMMENT ON COLUMN @extschema@.audit_erasures.pseudonym IS
  'what stands in place of the key or of the username; null: both stayed';

COMMENT ON COLUMN @extschema@.audit_erasures.entries IS 'how many entries lost values';

COMMENT ON COLUMN @extschema@.audit_erasures.oldest IS 'the first commit of those';

COMMENT ON COLUMN @extschema@.audit_erasures.newest IS 'the last commit of those';

CREATE FUNCTION audit_cdc_internal.changed_keys(
    audited audit_cdc_internal.audited, OUT one text, OUT other text) RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT p.one, p.other
  FROM (
    SELECT coalesce(k.record_key, l.record_id) AS key_now, l.record_id,
           audit_cdc_internal.key_before(
             audit_cdc_internal.told_image(l.old_values, l.exact_values, 'old'),
             audit_cdc_internal.told_image(l.new_values, l.exact_values, 'new'),
             coalesce(l.record_pks, ARRAY[l.record_id]), coalesce(k.record_key, l.record_id), audited) AS key_before
    FROM audit_cdc_internal.log AS l
    LEFT JOIN audit_cdc_internal.record_keys AS k ON k.audited_table = l.audited_table AND k.record_id = l.record_id
    WHERE l.audited_table = ANY (audited.numbers) AND l.may_change_key
  ) AS u
  CROSS JOIN LATERAL (
    VALUES (u.record_id, u.key_before), (u.key_before, u.record_id), (u.record_id, u.key_now), (u.key_now, u.record_id)
  ) AS p(one, other)
  WHERE p.one <> p.other
  UNION
  SELECT p.one, p.other
  FROM audit_cdc_internal.record_keys AS k
  CROSS JOIN LATERAL (VALUES (k.record_id, k.record_key), (k.record_key, k.record_id)) AS p(one, other)
  WHERE k.audited_table = ANY (audited.numbers);
END;

CREATE TYPE audit_cdc_internal.to_erase AS (
  audited audit_cdc_internal.audited, -- null: of a user, in all tables
  numbers integer[], -- of audited_tables; null: all
  keys text[], -- in all spellings, of records
  holding jsonb,
  username text,
  columns text[], -- null: all
  is_key_erased boolean
);

CREATE FUNCTION audit_cdc_internal.keys_of_records(audited audit_cdc_internal.audited, record_ids text[])
  RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH RECURSIVE links AS MATERIALIZED (
    SELECT c.one, c.other FROM audit_cdc_internal.changed_keys(audited) AS c
  ), found(key) AS (
    SELECT unnest(keys_of_records.record_ids)
    UNION
    SELECT n.other
    FROM found AS f
    JOIN links AS n ON n.one = f.key
  )
  SELECT coalesce(array_agg(f.key), '{}') FROM found AS f;
END;

CREATE FUNCTION audit_cdc_internal.records_holding(numbers integer[], holding jsonb) RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(array_agg(DISTINCT l.record_id), '{}')
  FROM audit_cdc_internal.log AS l
  WHERE l.audited_table = ANY (numbers)
    AND l.record_id IS NOT NULL
    AND (l.new_values @> holding OR l.old_values @> holding);
END;

CREATE FUNCTION audit_cdc_internal.noted_values(notes jsonb, OUT name text, OUT of_columns jsonb)
  RETURNS SETOF record
  LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
  SELECT n.key, n.value
  FROM jsonb_each(notes) AS n
  WHERE n.key IN ('omitted', 'omitted_old', 'masked') AND jsonb_typeof(n.value) = 'object';
END;

CREATE FUNCTION audit_cdc_internal.has_columns(entry audit_cdc_internal.log, columns text[]) RETURNS boolean
  LANGUAGE sql IMMUTABLE
  RETURN coalesce(entry.new_values ?| columns, false)
    OR coalesce(entry.old_values ?| columns, false)
    OR coalesce(entry.exact_values -> 'new' ?| columns, false)
    OR coalesce(entry.exact_values -> 'old' ?| columns, false)
    OR EXISTS (SELECT FROM audit_cdc_internal.noted_values(entry.notes) AS n WHERE n.of_columns ?| columns);

CREATE FUNCTION audit_cdc_internal.entries_to_erase(wanted audit_cdc_internal.to_erase)
  RETURNS SETOF audit_cdc_internal.log
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT *
  FROM audit_cdc_internal.log AS l
  WHERE l.audited_table = ANY (wanted.numbers)
    AND l.record_id = ANY (wanted.keys)
    AND (wanted.columns IS NULL OR wanted.is_key_erased OR audit_cdc_internal.has_columns(l, wanted.columns))
  UNION ALL
  SELECT *
  FROM audit_cdc_internal.log AS l
  WHERE l.audited_table = ANY (wanted.numbers)
    AND l.record_id IS NULL
    AND (l.new_values @> wanted.holding OR l.old_values @> wanted.holding)
    AND (wanted.columns IS NULL OR audit_cdc_internal.has_columns(l, wanted.columns))
  UNION ALL
  SELECT *
  FROM audit_cdc_internal.log AS l
  WHERE audit_cdc_internal.lifted(l.annotations, 'username') = wanted.username
    AND (wanted.numbers IS NULL OR l.audited_table = ANY (wanted.numbers));
END;

CREATE FUNCTION audit_cdc_internal.is_in_key(entry audit_cdc_internal.log, columns text[], key_columns text[])
  RETURNS boolean
  LANGUAGE sql IMMUTABLE
  RETURN entry.record_id IS NOT NULL
    AND (
      columns IS NULL
      OR coalesce(columns && key_columns, false)
      OR EXISTS (
        SELECT FROM unnest(columns) AS c
        CROSS JOIN LATERAL (VALUES (entry.new_values ->> c), (entry.old_values ->> c)) AS v(value)
        WHERE v.value = ANY (coalesce(entry.record_pks, ARRAY[entry.record_id]))
      ));

CREATE FUNCTION audit_cdc_internal.without_texts(exact_values jsonb, columns text[]) RETURNS jsonb
  LANGUAGE sql IMMUTABLE
  RETURN (
    SELECT nullif(jsonb_object_agg(e.key, e.value - columns), '{}')
    FROM jsonb_each(exact_values) AS e
    WHERE e.value - columns <> '{}'
  );

CREATE FUNCTION audit_cdc_internal.own_notes(entry audit_cdc_internal.log) RETURNS jsonb
  LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
  SELECT CASE WHEN (entry).origin <> 'i' THEN (entry).notes ELSE (
    SELECT jsonb_object_agg(n.key, n.value)
    FROM jsonb_each((entry).notes) AS n
    WHERE n.key = 'erased'
       OR n.key = 'contested' AND jsonb_typeof(n.value) = 'boolean'
       OR n.key = 'row_filter' AND n.value IN ('"entered"', '"left"')
       OR n.key IN (SELECT v.name FROM audit_cdc_internal.noted_values((entry).notes) AS v)
  ) END;
END;

CREATE FUNCTION audit_cdc_internal.without_notes(notes jsonb, columns text[]) RETURNS jsonb
  LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
  SELECT nullif(
    notes - array_agg(v.name)
      || coalesce(jsonb_object_agg(v.name, v.of_columns - columns) FILTER (WHERE v.of_columns - columns <> '{}'), '{}'),
    '{}')
  FROM audit_cdc_internal.noted_values(notes) AS v
  HAVING count(*) > 0
  UNION ALL
  SELECT notes
  WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.noted_values(notes));
END;

CREATE FUNCTION audit_cdc_internal.noted(notes jsonb, columns text[], changed text[], more jsonb, reason text)
  RETURNS jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(notes, '{}')
    || jsonb_build_object('erased', e.before || more || jsonb_build_object(
      'at', now(), 'reason', reason, 'columns', to_jsonb(ARRAY(
        SELECT unnest(columns) AS c UNION SELECT jsonb_array_elements_text(e.before -> 'columns') ORDER BY c)),
      'changed', to_jsonb(ARRAY(
        SELECT unnest(changed) AS c UNION SELECT jsonb_array_elements_text(e.before -> 'changed') ORDER BY c))))
  FROM (SELECT coalesce(notes -> 'erased', '{}') AS before) AS e;
END;

CREATE FUNCTION audit_cdc_internal.not_sent(entry audit_cdc_internal.log, OUT columns text[], OUT old_columns text[])
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT
    coalesce(
      l.unknown_columns,
      ARRAY(
        SELECT v.key
        FROM jsonb_each(coalesce(entry.new_values, entry.old_values)) AS v
        WHERE entry.action = 'update' AND entry.old_values = '{}' AND v.value = '"unchanged_toast"'
          OR entry.action IN ('read', 'delete') AND v.value = 'null'
      )),
    coalesce(
      l.unknown_old_columns,
      CASE WHEN entry.action = 'update' AND entry.old_values <> '{}' THEN '{}'::text[] END)
  FROM @extschema@.audit_logs AS l
  WHERE l.id = entry.id AND l.commit_timestamp = entry.commit_timestamp;
END;

CREATE FUNCTION audit_cdc_internal.without_values(
    entry audit_cdc_internal.log, columns text[], key_columns text[], pseudonym text, reason text)
  RETURNS audit_cdc_internal.log
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  gone CONSTANT text[] := ARRAY(
    SELECT c
    FROM (
      SELECT jsonb_object_keys(coalesce(entry.new_values, '{}') || coalesce(entry.old_values, '{}')) AS c
      UNION
      SELECT jsonb_object_keys(v.of_columns) FROM audit_cdc_internal.noted_values(entry.notes) AS v
      UNION
      SELECT jsonb_object_keys(e.value) FROM jsonb_each(entry.exact_values) AS e WHERE jsonb_typeof(e.value) = 'object'
    ) AS there
    WHERE columns IS NULL OR c = ANY (columns)
    ORDER BY c);
  changed CONSTANT text[] := ARRAY(
    SELECT c FROM unnest(gone) AS c
    WHERE entry.action = 'update' AND entry.old_values -> c <> entry.new_values -> c);
  not_sent record;
BEGIN
  IF gone = '{}' AND pseudonym IS NULL THEN
    RETURN entry;
  END IF;
  SELECT n.columns, n.old_columns INTO not_sent FROM audit_cdc_internal.not_sent(entry) AS n;
  entry.unknown_columns := ARRAY(SELECT unnest(not_sent.columns || gone) AS c GROUP BY c ORDER BY c);
  IF entry.action IN ('update', 'delete') AND not_sent.old_columns IS NOT NULL THEN
    entry.unknown_old_columns := ARRAY(
      SELECT c FROM unnest(not_sent.old_columns || gone) AS c
      -- a record under a pseudonym keeps it: its key is the same before
      WHERE pseudonym IS NULL OR c <> ALL (coalesce(key_columns, '{}')) GROUP BY c ORDER BY c);
  END IF;
  entry.new_values := entry.new_values - gone;
  entry.old_values := entry.old_values - gone;
  entry.exact_values := audit_cdc_internal.without_texts(entry.exact_values, gone);
  entry.notes := audit_cdc_internal.without_notes(audit_cdc_internal.own_notes(entry), gone);
  IF pseudonym IS NOT NULL THEN
    entry.record_id := pseudonym;
    entry.record_pks := NULL;
    entry.may_change_key := NULL;
    entry.idempotency_key := CASE WHEN entry.idempotency_key IS NOT NULL THEN 'erased' END;
  END IF;
  entry.notes := audit_cdc_internal.noted(
    entry.notes, gone, changed, CASE WHEN pseudonym IS NULL THEN '{}' ELSE '{"key": true}' END::jsonb, reason);
  RETURN entry;
END
$$;

CREATE FUNCTION audit_cdc_internal.without_user(annotations jsonb, pseudonym text) RETURNS jsonb
  LANGUAGE sql IMMUTABLE
  RETURN jsonb_build_object('username', pseudonym)
    || coalesce(
      (
        SELECT jsonb_object_agg(a.key, a.value)
        FROM jsonb_each(annotations) AS a
        WHERE a.key IN ('source', 'request_id')
      ),
      '{}');

CREATE FUNCTION audit_cdc_internal.without_annotations(entry audit_cdc_internal.log, pseudonym text, reason text)
  RETURNS audit_cdc_internal.log
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  entry.annotations := audit_cdc_internal.without_user(entry.annotations, pseudonym);
  entry.large_annotations := NULL;
  entry.notes := audit_cdc_internal.noted(entry.notes, '{}', '{}', '{"annotations": true}', reason);
  RETURN entry;
END
$$;

CREATE TABLE audit_cdc_internal.horizons (
  audited_table integer PRIMARY KEY,
  before timestamptz NOT NULL
);

CREATE TABLE audit_cdc_internal.removals (
  audited_table integer NOT NULL,
  month date NOT NULL,
  entries bigint NOT NULL,
  came_again bigint NOT NULL DEFAULT 0,
  oldest timestamptz,
  newest timestamptz,
  removed_at timestamptz,
  PRIMARY KEY (audited_table, month)
);

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.horizons', '');

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.removals', '');

CREATE VIEW @extschema@.audit_removed AS
  SELECT t.database_id, t.table_schema, t.table_name, r.month, r.entries, r.oldest, r.newest, r.removed_at,
         r.came_again, h.before AS horizon
  FROM audit_cdc_internal.removals AS r
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = r.audited_table
  JOIN audit_cdc_internal.horizons AS h ON h.audited_table = r.audited_table;

COMMENT ON VIEW @extschema@.audit_removed IS 'what retention has removed, by table and month of the commits';

COMMENT ON COLUMN @extschema@.audit_removed.database_id IS 'as in audit_logs';

COMMENT ON COLUMN @extschema@.audit_removed.table_schema IS 'as in audit_logs';

COMMENT ON COLUMN @extschema@.audit_removed.table_name IS 'as in audit_logs';

COMMENT ON COLUMN @extschema@.audit_removed.month IS 'its first day, in UTC';

COMMENT ON COLUMN @extschema@.audit_removed.entries IS 'how many were removed';

COMMENT ON COLUMN @extschema@.audit_removed.oldest IS 'the first commit of those; null: none was removed';

COMMENT ON COLUMN @extschema@.audit_removed.newest IS 'the last commit of those; null: none was removed';

COMMENT ON COLUMN @extschema@.audit_removed.removed_at IS 'when it was done last; null: none was removed';

COMMENT ON COLUMN @extschema@.audit_removed.came_again IS
  'messages of that month that were delivered after it had passed the horizon: counted as duplicates, not stored';

COMMENT ON COLUMN @extschema@.audit_removed.horizon IS
  'entries of the table that are older are gone, but for those that were held';

CREATE FUNCTION audit_cdc_internal.count_removed(partition regclass, rows tid[], month date) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  total bigint;
BEGIN
  EXECUTE format(
    'WITH gone AS (
       SELECT l.audited_table, count(*) AS entries, min(l.commit_timestamp) AS oldest, max(l.commit_timestamp) AS newest
       FROM ONLY %s AS l
       WHERE $1 IS NULL OR l.ctid = ANY ($1)
       GROUP BY l.audited_table
     ), counted AS (
       INSERT INTO audit_cdc_internal.removals AS r
       SELECT g.audited_table, $2, g.entries, 0, g.oldest, g.newest, now() FROM gone AS g
       ON CONFLICT (audited_table, month) DO UPDATE
       SET entries = r.entries + excluded.entries, oldest = least(r.oldest, excluded.oldest),
           newest = greatest(r.newest, excluded.newest), removed_at = excluded.removed_at
     ), tallied AS (
       INSERT INTO audit_cdc_internal.tallies (audited_table, stored, last_commit, last_arrival, last_id)
       SELECT g.audited_table, -g.entries, ''-infinity'', ''-infinity'', 0 FROM gone AS g
     ), failed AS (
       DELETE FROM audit_cdc_internal.unprojected AS u
       USING %1$s AS l
       WHERE u.log_id = l.id AND ($1 IS NULL OR l.ctid = ANY ($1))
     )
     SELECT coalesce(sum(g.entries), 0) FROM gone AS g', partition)
  INTO total USING rows, month;
  RETURN total;
END
$$;

CREATE TABLE audit_cdc_internal.archives (
  month date,
  place text,
  entries bigint NOT NULL,
  digest text NOT NULL,
  -- as the keeper has seen the month: entries in the log, entries that retention had removed, and erasures
  log_entries bigint NOT NULL,
  removed bigint NOT NULL,
  erasures bigint NOT NULL,
  archived_at timestamptz NOT NULL,
  archived_by text NOT NULL,
  failed_at timestamptz, -- null: it was verified last, or never
  PRIMARY KEY (month, place)
);

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.archives', '');

CREATE VIEW audit_cdc_internal.archive_states AS
  SELECT a.month, a.place, a.entries, a.digest, a.archived_at, a.archived_by, a.failed_at,
         (
           SELECT count(*) + (
               SELECT coalesce(sum(r.entries), 0) FROM audit_cdc_internal.removals AS r WHERE r.month = a.month
             ) <> a.log_entries + a.removed
             OR count(*) > 0 AND (
               SELECT count(*)
               FROM audit_cdc_internal.erasures AS e
               WHERE e.newest >= a.month::timestamp AT TIME ZONE 'UTC'
                 AND e.oldest < (a.month + interval '1 month') AT TIME ZONE 'UTC'
             ) <> a.erasures
           FROM audit_cdc_internal.log AS l
           WHERE l.commit_timestamp >= a.month::timestamp AT TIME ZONE 'UTC'
             AND l.commit_timestamp < (a.month + interval '1 month') AT TIME ZONE 'UTC'
         ) AS is_stale
  FROM audit_cdc_internal.archives AS a;

CREATE VIEW @extschema@.audit_archives AS
  SELECT month, place, entries, digest, archived_at, archived_by, is_stale, failed_at
  FROM audit_cdc_internal.archive_states;

COMMENT ON VIEW @extschema@.audit_archives IS 'months that audit-keeper has archived, by place';

COMMENT ON COLUMN @extschema@.audit_archives.month IS 'its first day, in UTC';

COMMENT ON COLUMN @extschema@.audit_archives.place IS 'the folder, or s3://bucket/prefix';

COMMENT ON COLUMN @extschema@.audit_archives.entries IS 'how many are in the archive';

COMMENT ON COLUMN @extschema@.audit_archives.digest IS 'of all of them, as the manifest has it: SHA-256 in hex';

COMMENT ON COLUMN @extschema@.audit_archives.archived_at IS 'when that came on record';

COMMENT ON COLUMN @extschema@.audit_archives.archived_by IS 'who called audit_archived()';

COMMENT ON COLUMN @extschema@.audit_archives.is_stale IS
  'whether entries came, were erased, or were lost since. It counts the month, so leave it out if you do not need it';

COMMENT ON COLUMN @extschema@.audit_archives.failed_at IS
  'when audit-keeper verify has found that the archive is not as it should be; null: it has not, or it is well again';

CREATE VIEW audit_cdc_internal.archived_months AS
  SELECT CASE WHEN audit_cdc_internal.archive_first() THEN ARRAY(
    SELECT DISTINCT s.month
    FROM audit_cdc_internal.archive_states AS s
    WHERE s.month::timestamp AT TIME ZONE 'UTC' < (SELECT max(c.cutoff) FROM audit_cdc_internal.cutoffs AS c)
      AND s.failed_at IS NULL
      AND NOT s.is_stale
  ) END AS months;

CREATE FUNCTION audit_cdc_internal.waits_for_archive(month date) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN audit_cdc_internal.archive_first()
    AND NOT EXISTS (
      SELECT FROM audit_cdc_internal.archive_states AS s
      WHERE s.month = waits_for_archive.month AND s.failed_at IS NULL AND NOT s.is_stale
    );

CREATE FUNCTION audit_cdc_internal.say_unarchived(month date) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  message CONSTANT text := format('entries of %s wait until they are archived', to_char(month, 'YYYY-MM'));
BEGIN
  RAISE LOG '%', message;
  RAISE NOTICE '%', message
    USING HINT = 'Call audit-keeper archive. It archives months that are over.';
END
$$;

CREATE FUNCTION audit_cdc_internal.check_archive(month date, place text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF month IS NULL OR place IS NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN month IS NULL THEN 'month' ELSE 'place' END
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF btrim(place) = '' THEN
    RAISE EXCEPTION 'place must not be empty' USING ERRCODE = 'invalid_parameter_value';
  ELSIF NOT isfinite(month) OR month >= now() OR extract(day FROM month) <> 1
      OR month > (now() AT TIME ZONE 'UTC') - interval '1 month' THEN
    RAISE EXCEPTION 'month must be the first day of a month that is over' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM audit_cdc_internal.refuse_long('place', place);
END
$$;

CREATE FUNCTION audit_cdc_internal.check_archived(
    entries bigint, digest text, log_entries bigint, removed bigint, erasures bigint) RETURNS void
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF entries IS NULL OR digest IS NULL OR log_entries IS NULL OR removed IS NULL OR erasures IS NULL THEN
    RAISE EXCEPTION 'counts and digest must not be null' USING ERRCODE = 'null_value_not_allowed';
  ELSIF least(entries, log_entries, removed, erasures) < 0 OR log_entries > entries THEN
    RAISE EXCEPTION 'counts must not be negative, and log_entries not more than entries'
      USING ERRCODE = 'invalid_parameter_value';
  ELSIF digest !~ '^[0-9a-f]{64}$' THEN
    RAISE EXCEPTION 'digest must be a SHA-256 in hex' USING ERRCODE = 'invalid_parameter_value';
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_archived(
    month date, place text, entries bigint, digest text, log_entries bigint, removed bigint, erasures bigint)
  RETURNS boolean
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  PERFORM audit_cdc_internal.check_archive(month, place);
  PERFORM audit_cdc_internal.check_archived(entries, digest, log_entries, removed, erasures);
  INSERT INTO audit_cdc_internal.archives AS a
  VALUES (month, place, entries, digest, log_entries, removed, erasures, clock_timestamp(), session_user)
  ON CONFLICT ON CONSTRAINT archives_pkey DO UPDATE
  SET entries = excluded.entries, digest = excluded.digest, log_entries = excluded.log_entries,
      removed = excluded.removed, erasures = excluded.erasures, archived_at = excluded.archived_at,
      archived_by = excluded.archived_by, failed_at = NULL
  WHERE a.failed_at IS NOT NULL
     OR (a.entries, a.digest, a.log_entries, a.removed, a.erasures)
       <> (excluded.entries, excluded.digest, excluded.log_entries, excluded.removed, excluded.erasures);
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_archived', jsonb_build_object('month', month, 'place', place, 'digest', digest),
    jsonb_build_object('entries', entries, 'log_entries', log_entries, 'removed', removed, 'erasures', erasures));
  RETURN true;
END
$$;

COMMENT ON FUNCTION @extschema@.audit_archived(date, text, bigint, text, bigint, bigint, bigint) IS
  'Puts on record that a month is archived; audit-keeper calls it. month: its first day, in UTC. place: where the '
  'archive is, a folder or s3://bucket/prefix. entries, digest: how many the archive has, and their SHA-256 in hex. '
  'log_entries, removed, erasures: what the database had of the month when it was read. These are entries in the log, '
  'entries that retention had removed, and erasures that had reached it. It replaces what is on record of the month '
  'in this place. False: that is on record already. Errors: 22004 (null), 22023 (the month is not over, place is '
  'empty or longer than 500 bytes, or counts or digest cannot be).';

CREATE FUNCTION @extschema@.audit_archive_failed(month date, place text, reason text DEFAULT NULL) RETURNS boolean
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.check_archive(month, place);
  UPDATE audit_cdc_internal.archives AS a
  SET failed_at = clock_timestamp()
  WHERE a.month = audit_archive_failed.month AND a.place = audit_archive_failed.place AND a.failed_at IS NULL;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_archive_failed', jsonb_build_object('month', month, 'place', place), NULL, reason);
  RETURN true;
END
$$;

COMMENT ON FUNCTION @extschema@.audit_archive_failed(date, text, text) IS
  'Puts on record that an archived month is not as it should be; audit-keeper verify calls it. Until '
  'audit_archived() it does not count as archived in this place. month, place: as given to that. reason: for '
  'audit_operations; null for none. False: the month is not on record in this place, or has failed already. '
  'Errors: 22004 (null), 22023 (the month is not over, or place is empty or longer than 500 bytes).';

CREATE OR REPLACE FUNCTION audit_cdc_internal.refuse_foreign_types(types regtype[]) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  foreign_types text;
BEGIN
  foreign_types := (
    WITH RECURSIVE used(type) AS (
      SELECT u.type::oid
      FROM unnest(types) AS u(type)
      UNION
      SELECT part.oid
      FROM used
      CROSS JOIN LATERAL audit_cdc_internal.parts_of_type(used.type) AS part(oid)
    )
    SELECT string_agg(t.oid::regtype::text, ', ' ORDER BY t.oid::regtype::text)
    FROM used
    JOIN pg_type AS t ON t.oid = used.type
    WHERE t.typtype IN ('d', 'r') AND NOT pg_has_role(t.typowner, current_user, 'USAGE')
  );
  IF foreign_types IS NOT NULL THEN
    RAISE EXCEPTION 'types of the columns belong to roles that have not your rights'
      USING ERRCODE = 'insufficient_privilege',
            DETAIL = format('Their checks would run with your rights: %s.', foreign_types),
            HINT = 'SET ROLE to their owner.';
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.await_stopped_worker() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  FOR attempt IN 1..500 LOOP
    EXIT WHEN NOT EXISTS (SELECT FROM audit_cdc_internal.captures WHERE is_stopping)
      OR audit_cdc_internal.capture_worker() IS NULL;
    PERFORM pg_sleep(0.01);
  END LOOP;
END
$$;

CREATE FUNCTION audit_cdc_internal.take_back_stop(publication name, slot name) RETURNS pg_lsn
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  resumed record;
BEGIN
  UPDATE audit_cdc_internal.captures AS c SET is_stopping = false, stopping_at = NULL
  WHERE c.is_stopping AND c.publication = take_back_stop.publication
    AND c.slot = coalesce(take_back_stop.slot, c.slot)
  RETURNING c.slot, c.read_to INTO resumed;
  IF resumed.slot IS NULL THEN
    RAISE EXCEPTION 'this database is captured already'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = (
              SELECT format('Publication "%s" is read from slot "%s".', c.publication, c.slot)
              FROM audit_cdc_internal.captures AS c
            ),
            HINT = 'Add tables with ALTER PUBLICATION, or CALL audit_capture_stop() first.';
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_capture_start', jsonb_build_object('publication', publication, 'slot', resumed.slot));
  PERFORM audit_cdc_internal.have_worker(true);
  RETURN resumed.read_to;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.audit_capture_start(publication name, slot name DEFAULT NULL) RETURNS pg_lsn
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  start_lsn pg_lsn;
  fault record; -- of a capture that cannot go on
BEGIN
  IF publication IS NULL THEN
    RAISE EXCEPTION 'publication must not be null' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  PERFORM audit_cdc_internal.require_settings();
  IF NOT EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = publication) THEN
    RAISE EXCEPTION 'publication "%" does not exist', publication
      USING ERRCODE = 'undefined_object',
            HINT = format(
              'CREATE PUBLICATION %I FOR TABLE …, or FOR TABLES IN SCHEMA …, tells what is captured.',
              publication);
  END IF;
  IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
    RAISE EXCEPTION 'capture cannot start in a transaction that has written'
      USING ERRCODE = 'active_sql_transaction',
            HINT = 'Call audit_capture_start() first in its transaction, or by itself.';
  END IF;
  PERFORM audit_cdc_internal.await_stopped_worker();
  PERFORM audit_cdc_internal.lock_capture(); -- a worker waits for the end of this transaction
  SELECT * INTO fault FROM audit_cdc_internal.capture_faults;
  IF fault.reason IS NULL AND EXISTS (SELECT FROM audit_cdc_internal.captures) THEN
    RETURN audit_cdc_internal.take_back_stop(publication, slot);
  END IF;

  PERFORM pg_drop_replication_slot(fault.slot) WHERE fault.reason = 'slot lost';
  slot := audit_cdc_internal.free_slot(slot);
  start_lsn := audit_cdc_internal.new_slot(slot);
  PERFORM audit_cdc_internal.note_break(fault.reason, fault.read_to, fault.read_to_time, fault.detail)
  WHERE fault.reason IS NOT NULL;
  PERFORM audit_cdc_internal.note_restored() WHERE fault.reason IS NULL;
  DELETE FROM audit_cdc_internal.captures;
  DELETE FROM audit_cdc_internal.projecting_transactions;
  INSERT INTO audit_cdc_internal.captures (publication, slot, plugin, database_id, timeline, read_to)
  SELECT publication, slot, s.plugin, audit_cdc_internal.this_database() ->> 'id',
         audit_cdc_internal.current_timeline(), start_lsn
  FROM pg_replication_slots AS s WHERE s.slot_name = slot;
  PERFORM audit_cdc_internal.record_tables();
  PERFORM audit_cdc_internal.say_lost_masks();
  INSERT INTO audit_cdc_internal.captured_databases (database_id, database_name)
  SELECT d ->> 'id', d ->> 'name' FROM audit_cdc_internal.this_database() AS d ON CONFLICT DO NOTHING;
  PERFORM audit_cdc_internal.end_gaps(NULL, ARRAY['continued'], start_lsn);
  PERFORM audit_cdc_internal.end_breaks(start_lsn);
  PERFORM audit_cdc_internal.refuse_targets();
  PERFORM audit_cdc_internal.note_operation(
    'audit_capture_start', jsonb_build_object('publication', publication, 'slot', slot));
  PERFORM audit_cdc_internal.say_what_is_partial(publication);
  PERFORM audit_cdc_internal.have_worker(fault.reason IS NOT NULL);
  RETURN start_lsn;
END
$$;

COMMENT ON FUNCTION @extschema@.audit_capture_start(name, name) IS
  'Starts to capture the changes of a publication of this database from its own WAL, and returns the position from '
  'which on: a change that commits later is in the log soon. slot: name of the logical replication slot to be made; '
  'null: audit_cdc_ and the oid of the database. A background worker does it, also after a restart, if audit_cdc is '
  'in shared_preload_libraries; else a WARNING says so. Over a capture that cannot go on (its slot is gone or lost, '
  'the database is a copy) it begins anew; what is missing is in audit_gaps. Over a stop of the same capture that was '
  'begun and never ended it goes on, and nothing is missing. From PostgreSQL 17 on the setting '
  'audit_cdc.capture_failover tells whether a standby that copies slots copies this one. A NOTICE names tables that '
  'are not REPLICA IDENTITY FULL, a WARNING those that cannot be updated while they are published, another which '
  'kinds of changes the publication leaves out. Errors: 22004 (null), 55000 (settings of the server, captured '
  'already, a published table is the target of a projection and not excluded), 42704 (no such publication), 25001 '
  '(the transaction has written), 42710 (the slot exists), 53400 (max_replication_slots). After a rollback there is '
  'no slot.';

CREATE OR REPLACE FUNCTION audit_cdc_internal.begin_to_stop() RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.note_fault();
  -- the end may never come
  PERFORM audit_cdc_internal.note_operation(
    'audit_capture_stop', jsonb_build_object('publication', c.publication, 'slot', c.slot))
  FROM audit_cdc_internal.captures AS c;
  UPDATE audit_cdc_internal.captures SET is_stopping = true, stopping_at = pg_current_wal_flush_lsn();
  IF NOT FOUND THEN
    RAISE EXCEPTION 'nothing is captured in this database' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN NOT EXISTS (SELECT FROM audit_cdc_internal.capture_faults AS f WHERE f.reason <> 'slot lost');
END
$$;

CREATE OR REPLACE FUNCTION audit_cdc_internal.end_capture() RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM audit_cdc_internal.captures AS c WHERE NOT c.is_stopping) THEN
    RAISE EXCEPTION 'nobody has begun to stop the capture, or it was started again'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'CALL audit_capture_stop().';
  END IF;
  PERFORM audit_cdc_internal.note_break(
    CASE WHEN c.read_to >= c.stopping_at THEN 'stopped' ELSE 'discarded' END, c.read_to, c.read_to_time, NULL)
  FROM audit_cdc_internal.captures AS c;
  PERFORM audit_cdc_internal.note_operation(
    'audit_capture_stop',
    jsonb_build_object('discard_pending', c.read_to < c.stopping_at, 'publication', c.publication, 'slot', c.slot),
    jsonb_build_object('captured', c.changes))
  FROM audit_cdc_internal.captures AS c;
  PERFORM pg_drop_replication_slot(s.slot_name)
  FROM audit_cdc_internal.captures AS c JOIN pg_replication_slots AS s ON s.slot_name = c.slot
  WHERE c.database_id = audit_cdc_internal.this_database() ->> 'id'
    AND s.database = current_database() AND s.plugin = c.plugin;
  DELETE FROM audit_cdc_internal.captures;
  DELETE FROM audit_cdc_internal.projecting_transactions;
END
$$;

COMMENT ON PROCEDURE @extschema@.audit_capture_stop(boolean, bigint) IS
  'Captures what is committed now, ends the capture and drops its slot; tells how many changes were new. Later '
  'changes are in nobody''s hands until the next start: audit_gaps has a row of that. discard_pending => true: what '
  'is pending is not captured, for a slot that cannot be read any more. In a copy of a captured database it ends the '
  'capture of the copy, and leaves the original''s slot alone. Errors: 25001 (inside a transaction block), 55000 '
  '(nothing is captured, started again meanwhile, the slot cannot be read, on a standby), and those of reading the '
  'slot. Interrupted, it can be called again, or audit_capture_start() goes on.';

CREATE OR REPLACE FUNCTION audit_cdc_internal.begin_backfill(tables regclass[], backfill_id uuid) RETURNS oid[]
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_variable
DECLARE
  publication name := (SELECT c.publication FROM audit_cdc_internal.captures AS c);
  missing regclass;
  parts oid[];
BEGIN
  IF publication IS NULL THEN
    RAISE EXCEPTION 'nothing is captured in this database'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Start with audit_capture_start(publication): what changes meanwhile comes from there.';
  END IF;
  INSERT INTO audit_cdc_internal.backfills (backfill_id, relation, rows_expected)
  SELECT backfill_id, t.relation, nullif(c.reltuples, -1)
  FROM audit_cdc_internal.published_tables AS t
  JOIN pg_class AS c ON c.oid = t.relation
  WHERE CASE
    WHEN tables IS NULL
      THEN NOT EXISTS (
        SELECT FROM audit_cdc_internal.backfills AS b
        WHERE b.backfill_id = begin_backfill.backfill_id
      )
    ELSE EXISTS (
      SELECT FROM unnest(tables) AS u
      WHERE t.relation = u OR t.relation IN (SELECT relid FROM pg_partition_tree(u))
    )
  END
  ON CONFLICT DO NOTHING;
  SELECT u INTO missing FROM unnest(tables) AS u
  WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.backfills AS b WHERE b.backfill_id = begin_backfill.backfill_id
                      AND (b.relation = u OR b.relation IN (SELECT relid FROM pg_partition_tree(u))))
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'table "%" is not captured', missing
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = format('Publication "%s" does not have it, or it is excluded.', publication),
            HINT = format(
              'ALTER PUBLICATION %I ADD TABLE %s; of a partitioned table, the name that its changes carry.',
              publication, missing);
  END IF;
  parts := ARRAY(SELECT b.relation FROM audit_cdc_internal.backfills AS b
                 WHERE b.backfill_id = begin_backfill.backfill_id AND b.finished_at IS NULL ORDER BY b.relation::text);
  PERFORM audit_cdc_internal.note_operation(
    'audit_backfill',
    jsonb_build_object('backfill_id', backfill_id, 'tables', parts::regclass[]));
  RETURN parts;
END
$$;

CREATE OR REPLACE FUNCTION audit_cdc_internal.completion(backfill_id uuid, relation oid) RETURNS text
      LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
  done audit_cdc_internal.backfills;
BEGIN
  SELECT * INTO done FROM audit_cdc_internal.backfills AS b
  WHERE b.backfill_id = completion.backfill_id AND b.relation = completion.relation FOR UPDATE;
  IF done.complete_lsn IS NULL OR done.finished_at IS NOT NULL THEN
    RETURN NULL;
  END IF;
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.captures AS c JOIN pg_replication_slots AS s ON s.slot_name = c.slot
                 WHERE s.confirmed_flush_lsn >= done.complete_lsn) THEN
    RAISE EXCEPTION 'changes up to the end of the backfill are not captured yet'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'CALL audit_capture(), then resume the backfill.';
  END IF;
  IF audit_cdc_internal.is_captured_anew(done) THEN
    PERFORM audit_cdc_internal.begin_again(backfill_id, completion.relation);
    RETURN NULL;
  END IF;
  UPDATE audit_cdc_internal.backfills AS b SET finished_at = clock_timestamp(), after = NULL
  WHERE b.backfill_id = completion.backfill_id AND b.relation = completion.relation;
  PERFORM audit_cdc_internal.close_gaps(completion.relation, backfill_id, done.began_lsn, done.complete_lsn);
  PERFORM audit_cdc_internal.note_operation(
    'audit_backfill', jsonb_build_object('backfill_id', backfill_id, 'relation', completion.relation::regclass),
    jsonb_build_object(
      'rows_read', done.rows_read,
      'gaps_closed', (
        SELECT count(*)
        FROM audit_cdc_internal.gap_closings AS c
        WHERE c.backfill_id = completion.backfill_id AND c.relation = completion.relation
      )));
  IF done.layout -> 'key' -> 'columns' = 'null'
    OR (SELECT g.is_open FROM audit_cdc_internal.gaps_since(completion.relation, done.began_lsn) AS g) THEN
    RETURN NULL;
  END IF;
  RETURN jsonb_build_object(
    'action', 'complete', 'record', NULL, 'changes', NULL,
    'metadata', jsonb_build_object(
      'commit_lsn', (done.complete_lsn - '0/0')::bigint, 'commit_idx', NULL,
      'commit_timestamp', to_char(done.complete_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
      'database', audit_cdc_internal.this_database(),
      'idempotency_key', encode(convert_to(format('%s:complete', backfill_id), 'UTF8'), 'base64'),
      'table_schema', done.layout -> 'table_schema', 'table_name', done.layout -> 'table_name',
      'unknown_columns', '[]'::jsonb,
      'transaction_annotations', jsonb_build_object(
        'metadata', jsonb_build_object(
          'backfill_id', backfill_id, 'began_lsn', (done.began_lsn - '0/0')::bigint))));
END
$$;

CREATE FUNCTION audit_cdc_internal.keep_on(database_id text, here text) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.add_mask(jsonb_populate_record(m, jsonb_build_object(
    'database_id', here, 'reason', 'continued', 'relation_in', NULL, 'relation', NULL, 'column_number', NULL)))
  FROM audit_cdc_internal.masks AS m
  WHERE m.database_id = keep_on.database_id AND m.unmasked_at IS NULL;
  SELECT audit_cdc_internal.follow_masks(audit_cdc_internal.news_of_masks()::jsonb);
  UPDATE audit_cdc_internal.ingest_reads SET changed_at = now();
  INSERT INTO audit_cdc_internal.retention_rules (database_id, table_schema, table_name, keep)
  SELECT here, r.table_schema, r.table_name, r.keep
  FROM audit_cdc_internal.retention_rules AS r
  WHERE r.database_id = keep_on.database_id
  ON CONFLICT DO NOTHING;
END;

CREATE OR REPLACE FUNCTION @extschema@.audit_continue(database_id text, reason text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  reads_from pg_lsn;
  last record;
BEGIN
  IF database_id IS NULL OR reason IS NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN database_id IS NULL THEN 'database_id' ELSE 'reason' END
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  IF btrim(reason) = '' THEN
    RAISE EXCEPTION 'reason must not be empty' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM audit_cdc_internal.lock_capture();
  PERFORM audit_cdc_internal.check_continuation(database_id, here);
  SELECT max(l.commit_lsn) AS lsn, max(l.commit_timestamp) AS commit INTO last
  FROM audit_cdc_internal.log AS l
  WHERE l.origin <> 'i' AND l.audited_table IN (SELECT t.id FROM audit_cdc_internal.audited_tables AS t
                                                WHERE t.database_id = audit_continue.database_id);
  IF last.lsn IS NULL THEN
    RAISE EXCEPTION 'the log has nothing that database "%" captured', database_id
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = (
              SELECT coalesce('It has captured changes of ' || string_agg(c.database_id, ', ' ORDER BY c.since) || '.',
                              'It has captured changes of no other database.')
              FROM audit_cdc_internal.captured_databases AS c
              WHERE c.database_id <> here
            ),
            HINT = 'What was delivered by audit_ingest() cannot be gone on from.';
  END IF;
  INSERT INTO audit_cdc_internal.continued_databases (old_id, new_id, reason, continued_by, last_lsn, last_commit)
  VALUES (database_id, here, reason, session_user, last.lsn, last.commit);
  INSERT INTO audit_cdc_internal.captured_databases (database_id, database_name)
  SELECT audit_continue.database_id, coalesce(max(t.database_name), '') FROM audit_cdc_internal.audited_tables AS t
  WHERE t.database_id = audit_continue.database_id ON CONFLICT DO NOTHING;
  PERFORM audit_cdc_internal.keep_on(database_id, here);
  PERFORM audit_cdc_internal.note_gap(
    NULL, 'continued', '0/0'::pg_lsn + last.lsn, last.commit,
    format('goes on from database %s, whose last captured position this is', database_id));
  PERFORM audit_cdc_internal.note_operation(
    'audit_continue', jsonb_build_object('database_id', database_id), NULL, reason);
  SELECT s.confirmed_flush_lsn
  INTO reads_from
  FROM audit_cdc_internal.captures AS c
  JOIN pg_replication_slots AS s ON s.slot_name = c.slot AND s.database = current_database();
  IF FOUND THEN
    PERFORM audit_cdc_internal.end_gaps(NULL, ARRAY['continued'], reads_from);
  END IF;
  RAISE NOTICE 'what changed between the two captures is not in the log'
    USING DETAIL = format('The last captured commit of database %s is of %s.', database_id, last.commit),
          HINT = 'audit_gaps has it. audit_capture_start(), unless it is captured, and CALL audit_backfill() for each '
                 'table close it.';
END
$$;

CREATE SEQUENCE audit_cdc_internal.holds_id_seq CYCLE;

CREATE TABLE audit_cdc_internal.holds (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('holds'),
  name text NOT NULL,
  reason text NOT NULL,
  database_id text,
  table_schema text,
  table_name text,
  record_id text,
  username text,
  request_id text,
  since timestamptz,
  until timestamptz,
  held_by name NOT NULL DEFAULT session_user,
  held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  released_reason text,
  released_by name,
  released_at timestamptz
);

CREATE UNIQUE INDEX holds_now ON audit_cdc_internal.holds (name) WHERE released_at IS NULL;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.holds', '');

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.holds_id_seq', '');

CREATE VIEW @extschema@.audit_holds AS
  SELECT name, reason, database_id, table_schema, table_name, record_id, username, request_id, since, until, held_by,
         held_at, released_reason, released_by, released_at
  FROM audit_cdc_internal.holds;

COMMENT ON VIEW @extschema@.audit_holds IS 'every legal hold, also those that were released';

COMMENT ON COLUMN @extschema@.audit_holds.name IS 'as given to audit_hold()';

COMMENT ON COLUMN @extschema@.audit_holds.reason IS 'as given to audit_hold()';

COMMENT ON COLUMN @extschema@.audit_holds.database_id IS 'of which database entries are held; null: of any';

COMMENT ON COLUMN @extschema@.audit_holds.table_schema IS 'of which schema; null: of any';

COMMENT ON COLUMN @extschema@.audit_holds.table_name IS 'of which table; null: of any';

COMMENT ON COLUMN @extschema@.audit_holds.record_id IS 'of which record, by record_id or record_key; null: of any';

COMMENT ON COLUMN @extschema@.audit_holds.username IS 'of which user; null: of any';

COMMENT ON COLUMN @extschema@.audit_holds.request_id IS 'of which request; null: of any';

COMMENT ON COLUMN @extschema@.audit_holds.since IS 'committed from then on; null: from the beginning';

COMMENT ON COLUMN @extschema@.audit_holds.until IS 'committed before; null: without end';

COMMENT ON COLUMN @extschema@.audit_holds.held_by IS 'who called audit_hold()';

COMMENT ON COLUMN @extschema@.audit_holds.held_at IS 'when';

COMMENT ON COLUMN @extschema@.audit_holds.released_reason IS 'as given to audit_release(); null: it holds';

COMMENT ON COLUMN @extschema@.audit_holds.released_by IS 'who called that; null: it holds';

COMMENT ON COLUMN @extschema@.audit_holds.released_at IS 'when; null: it holds';

CREATE FUNCTION audit_cdc_internal.check_hold(name text, reason text) RETURNS void
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF name IS NULL OR reason IS NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN name IS NULL THEN 'name' ELSE 'reason' END
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF btrim(name) = '' OR btrim(reason) = '' THEN
    RAISE EXCEPTION '% must not be empty', CASE WHEN btrim(name) = '' THEN 'name' ELSE 'reason' END
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM audit_cdc_internal.refuse_long('name', name);
END
$$;

CREATE FUNCTION @extschema@.audit_hold(
    name text, reason text, database_id text DEFAULT NULL, table_schema text DEFAULT NULL,
    table_name text DEFAULT NULL, record_id text DEFAULT NULL, username text DEFAULT NULL,
    request_id text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.check_hold(name, reason);
  PERFORM audit_cdc_internal.lock_partitions();
  INSERT INTO audit_cdc_internal.holds
    (name, reason, database_id, table_schema, table_name, record_id, username, request_id, since, until)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);
  PERFORM audit_cdc_internal.note_operation(
    'audit_hold',
    jsonb_build_object(
      'name', name, 'database_id', database_id, 'table_schema', table_schema, 'table_name', table_name,
      'record_id', record_id, 'username', username, 'request_id', request_id, 'since', since, 'until', until),
    NULL, reason);
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.held_tables AS t WHERE t.name = audit_hold.name) THEN
    RAISE NOTICE 'the log has no entry of such a table yet';
  END IF;
EXCEPTION WHEN unique_violation THEN
  RAISE EXCEPTION 'there is a hold of this name'
    USING ERRCODE = 'duplicate_object', HINT = 'Take another name; audit_holds lists those that are taken.';
END
$$;

COMMENT ON FUNCTION @extschema@.audit_hold(
  text, text, text, text, text, text, text, text, timestamptz, timestamptz) IS
  'Holds entries: audit_apply_retention() leaves them until audit_release(). Held is what fits all that is given; null '
  'is not given, and nothing given holds the whole log. record_id: by record_id or record_key, so a record whose key '
  'changed needs a hold for each key. since, until: of the commit, without until itself. Errors: 22004 (null name or '
  'reason), 22023 (empty, or a name longer than 500 bytes), 42710 (a hold of this name is not released).';

CREATE FUNCTION @extschema@.audit_release(name text, reason text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.check_hold(name, reason);
  UPDATE audit_cdc_internal.holds AS h
  SET released_reason = audit_release.reason, released_by = session_user, released_at = clock_timestamp()
  WHERE h.name = audit_release.name AND h.released_at IS NULL;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'nothing is held under this name'
      USING ERRCODE = 'undefined_object', HINT = 'audit_holds lists what is held.';
  END IF;
  PERFORM audit_cdc_internal.note_operation('audit_release', jsonb_build_object('name', name), NULL, reason);
END
$$;

COMMENT ON FUNCTION @extschema@.audit_release(text, text) IS
  'Ends a hold. Nothing is removed until audit_apply_retention() runs. Errors: 22004 (null), 22023 (empty, or a name '
  'longer than 500 bytes), 42704 (nothing is held under this name).';

CREATE VIEW audit_cdc_internal.held_tables AS
  SELECT t.id AS audited_table, h.name, h.record_id, h.username, h.request_id, h.since, h.until
  FROM audit_cdc_internal.holds AS h
  JOIN audit_cdc_internal.audited_tables AS t
    ON coalesce(t.database_id = ANY (audit_cdc_internal.one_log(h.database_id)), true)
      AND coalesce(t.table_schema = h.table_schema, true)
      AND coalesce(t.table_name = h.table_name, true)
  WHERE h.released_at IS NULL;

CREATE VIEW audit_cdc_internal.with_holds AS
  SELECT coalesce(array_agg(DISTINCT h.audited_table), '{}') AS tables FROM audit_cdc_internal.held_tables AS h;

CREATE FUNCTION audit_cdc_internal.holds_of(entry audit_cdc_internal.log) RETURNS SETOF text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT h.name
  FROM audit_cdc_internal.held_tables AS h
  WHERE h.audited_table = entry.audited_table
    AND (
      h.record_id IS NULL
      OR h.record_id = entry.record_id
      OR h.record_id = (
        SELECT k.record_key
        FROM audit_cdc_internal.record_keys AS k
        WHERE k.audited_table = entry.audited_table AND k.record_id = entry.record_id
      ))
    AND (h.username IS NULL OR h.username = audit_cdc_internal.lifted(entry.annotations, 'username'))
    AND (h.request_id IS NULL OR h.request_id = audit_cdc_internal.lifted(entry.annotations, 'request_id'))
    AND (h.since IS NULL OR entry.commit_timestamp >= h.since)
    AND (h.until IS NULL OR entry.commit_timestamp < h.until);
END;

CREATE FUNCTION audit_cdc_internal.is_held(entry audit_cdc_internal.log) RETURNS boolean
  LANGUAGE sql STABLE COST 1000
  RETURN EXISTS (SELECT FROM audit_cdc_internal.holds_of(entry));

CREATE FUNCTION audit_cdc_internal.told_key(message text) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  pks CONSTANT text[] := ARRAY(
    SELECT k FROM json_array_elements_text(message::json -> 'metadata' -> 'record_pks') WITH ORDINALITY AS u(k, place)
    ORDER BY place);
BEGIN
  RETURN CASE cardinality(pks) WHEN 0 THEN NULL WHEN 1 THEN pks[1] ELSE array_to_json(pks)::text END;
EXCEPTION WHEN data_exception OR statement_too_complex THEN
  RETURN NULL;
END
$$;

CREATE FUNCTION audit_cdc_internal.holds_of_reject(reject audit_cdc_internal.rejects) RETURNS SETOF text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT h.name
  FROM audit_cdc_internal.holds AS h
  WHERE h.released_at IS NULL
    AND coalesce(reject.database_id = ANY (audit_cdc_internal.one_log(h.database_id)), true)
    AND coalesce(h.table_schema = reject.table_schema, true)
    AND coalesce(h.table_name = reject.table_name, true)
    AND (h.record_id IS NULL OR coalesce(h.record_id = audit_cdc_internal.told_key(reject.raw), true));
END;

CREATE VIEW audit_cdc_internal.expired AS
  SELECT e.month, e.audited_table, count(*) FILTER (WHERE NOT e.is_held AND e.is_archived) AS entries,
         count(*) FILTER (WHERE e.is_held) AS held,
         coalesce(sum(e.bytes) FILTER (WHERE NOT e.is_held AND e.is_archived), 0)::bigint AS bytes,
         min(e.commit_timestamp) AS oldest, max(e.commit_timestamp) AS newest,
         count(*) FILTER (WHERE NOT e.is_held AND NOT e.is_archived) AS unarchived
  FROM (
    SELECT l.audited_table, l.commit_timestamp, m.month,
           l.audited_table = ANY (w.tables) AND audit_cdc_internal.is_held(l) AS is_held,
           coalesce(m.month = ANY (a.months), true) AS is_archived,
           150 + coalesce(pg_column_size(l.old_values), 0) + coalesce(pg_column_size(l.new_values), 0)
             + coalesce(pg_column_size(l.annotations), 0) AS bytes
    FROM audit_cdc_internal.log AS l
    JOIN audit_cdc_internal.cutoffs AS c ON c.audited_table = l.audited_table
    CROSS JOIN LATERAL (SELECT date_trunc('month', l.commit_timestamp AT TIME ZONE 'UTC')::date AS month) AS m
    CROSS JOIN audit_cdc_internal.with_holds AS w
    CROSS JOIN audit_cdc_internal.archived_months AS a
    WHERE l.commit_timestamp < c.cutoff
      AND l.commit_timestamp < (SELECT max(m.cutoff) FROM audit_cdc_internal.cutoffs AS m)
    OFFSET 0 -- each entry is looked at once
  ) AS e
  GROUP BY e.month, e.audited_table;

CREATE FUNCTION @extschema@.audit_expired(
    OUT month date, OUT database_id text, OUT table_schema text, OUT table_name text, OUT entries bigint,
    OUT held bigint, OUT bytes bigint, OUT oldest timestamptz, OUT newest timestamptz, OUT holds text[],
    OUT unarchived bigint)
  RETURNS SETOF record
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT e.month, t.database_id, t.table_schema, t.table_name, e.entries, e.held, e.bytes, e.oldest, e.newest,
         (SELECT array_agg(DISTINCT h.name) FROM audit_cdc_internal.held_tables AS h WHERE h.audited_table = t.id),
         e.unarchived
  FROM audit_cdc_internal.expired AS e
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = e.audited_table
  ORDER BY 1, 2, 3, 4;
END;

COMMENT ON FUNCTION @extschema@.audit_expired() IS
  'What audit_apply_retention() would remove now, by month and table. entries: how many would go. held: how many are '
  'expired, but stay under a hold. bytes: about what the entries take, without indexes. oldest, newest: of all that '
  'are expired. holds: names of holds on the table; null: none. unarchived: how many others stay until their month is '
  'archived, by audit_cdc.archive_first. It reads the expired months whole. Errors: none.';

CREATE FUNCTION audit_cdc_internal.require_read_committed() RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'retention is applied under READ COMMITTED only'
      USING ERRCODE = 'active_sql_transaction', HINT = 'SET default_transaction_isolation = ''read committed''.';
  END IF;
END
$$;

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

CREATE FUNCTION audit_cdc_internal.copy_of(name text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
  RETURN name || CASE WHEN audit_cdc_internal.is_elsewhere(name) THEN '_here' ELSE '_there' END;

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

CREATE FUNCTION audit_cdc_internal.is_seen_by_all(since xid8) RETURNS boolean
  LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT NOT EXISTS (
    SELECT FROM pg_stat_activity AS a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND age(a.backend_xmin) >= age(since::xid));
END;

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

CREATE FUNCTION audit_cdc_internal.erased_texts(wanted audit_cdc_internal.to_erase) RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(array_agg(DISTINCT btrim(t.value::text, '"')), '{}')
  FROM audit_cdc_internal.entries_to_erase(wanted) AS l
  CROSS JOIN LATERAL (VALUES (l.new_values), (l.old_values)) AS i(image)
  CROSS JOIN LATERAL jsonb_each(i.image) AS v
  CROSS JOIN LATERAL jsonb_path_query(v.value, 'strict $.**') AS t(value)
  WHERE (wanted.columns IS NULL OR v.key = ANY (wanted.columns))
    AND wanted.username IS NULL
    AND jsonb_typeof(t.value) = 'string'
    AND length(t.value::text) >= 6;
END;

CREATE FUNCTION audit_cdc_internal.rejects_to_erase(wanted audit_cdc_internal.to_erase, texts text[])
  RETURNS bigint[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(array_agg(r.id), '{}')
  FROM audit_cdc_internal.rejects AS r
  CROSS JOIN LATERAL (
    SELECT coalesce(
      (r.table_schema, r.table_name) = ((wanted.audited).table_schema, (wanted.audited).table_name)
        AND r.database_id = ANY ((wanted.audited).databases),
      true) AS may_be_of_table
  ) AS t
  WHERE r.erased_at IS NULL
    AND wanted.username IS NULL
    AND CASE
      WHEN r.table_name IS NOT NULL AND audit_cdc_internal.told_key(r.raw) IS NOT NULL
        THEN audit_cdc_internal.told_key(r.raw) = ANY (wanted.keys)
      ELSE EXISTS (SELECT FROM unnest(texts) AS u(text) WHERE position(u.text IN r.raw) > 0)
    END
    AND t.may_be_of_table;
END;

CREATE FUNCTION audit_cdc_internal.erase_rejects(ids bigint[]) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  UPDATE audit_cdc_internal.rejects SET raw = 'erased', erased_at = now() WHERE id = ANY (ids);
END;

CREATE FUNCTION audit_cdc_internal.may_name(
    audited audit_cdc_internal.audited, database_id text, table_schema text, table_name text) RETURNS boolean
  LANGUAGE sql IMMUTABLE
  RETURN coalesce(may_name.database_id = ANY (audited.databases), true)
    AND coalesce(may_name.table_schema = audited.table_schema, true)
    AND coalesce(may_name.table_name = audited.table_name, true);

CREATE FUNCTION audit_cdc_internal.erase_argument(
    argument text, gone text[], pseudonym text, audited audit_cdc_internal.audited) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  operations audit_cdc_internal.operations[];
  places tid[];
  one audit_cdc_internal.operations;
BEGIN
  SELECT coalesce(array_agg(o), '{}'), coalesce(array_agg(o.ctid), '{}')
  INTO operations, places
  FROM audit_cdc_internal.operations AS o
  WHERE o.arguments ->> argument = ANY (gone)
    AND audit_cdc_internal.may_name(
      audited, o.arguments ->> 'database_id', o.arguments ->> 'table_schema', o.arguments ->> 'table_name');
  PERFORM audit_cdc_internal.remove_rows(places, 'audit_cdc_internal.operations');
  FOREACH one IN ARRAY operations LOOP
    one.arguments := one.arguments || jsonb_build_object(argument, pseudonym);
    INSERT INTO audit_cdc_internal.operations SELECT one.*;
  END LOOP;
END
$$;

CREATE FUNCTION audit_cdc_internal.erase_keys(
    audited audit_cdc_internal.audited, keys text[], pseudonym text) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  DELETE FROM audit_cdc_internal.record_keys AS k
  WHERE k.audited_table = ANY (audited.numbers) AND (k.record_id = ANY (keys) OR k.record_key = ANY (keys));
  UPDATE audit_cdc_internal.holds AS h SET record_id = pseudonym
  WHERE h.record_id = ANY (keys)
    AND h.released_at IS NOT NULL
    AND audit_cdc_internal.may_name(audited, h.database_id, h.table_schema, h.table_name);
  UPDATE audit_cdc_internal.backfills SET after = NULL WHERE finished_at IS NOT NULL AND after && keys;
  SELECT audit_cdc_internal.erase_argument('record_id', keys, pseudonym, audited);
END;

CREATE FUNCTION audit_cdc_internal.ddl_to_erase(wanted audit_cdc_internal.to_erase)
  RETURNS SETOF audit_cdc_internal.schema_change_positions
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT *
  FROM audit_cdc_internal.schema_change_positions AS p
  WHERE wanted.numbers IS NULL AND audit_cdc_internal.lifted(p.annotations, 'username') = wanted.username;
END;

CREATE FUNCTION audit_cdc_internal.holds_of_ddl(ddl audit_cdc_internal.schema_change_positions) RETURNS SETOF text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT h.name
  FROM audit_cdc_internal.holds AS h
  WHERE h.released_at IS NULL
    AND h.record_id IS NULL
    AND (h.username IS NULL OR h.username = audit_cdc_internal.lifted(ddl.annotations, 'username'))
    AND (h.request_id IS NULL OR h.request_id = audit_cdc_internal.lifted(ddl.annotations, 'request_id'))
    AND (h.since IS NULL OR ddl.commit_timestamp >= h.since)
    AND (h.until IS NULL OR ddl.commit_timestamp < h.until);
END;

CREATE FUNCTION audit_cdc_internal.told_user(message text) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN message::json #>> '{metadata,transaction_annotations,username}';
EXCEPTION WHEN data_exception OR statement_too_complex THEN
  RETURN NULL;
END
$$;

CREATE FUNCTION audit_cdc_internal.erase_user_elsewhere(
    wanted audit_cdc_internal.to_erase, pseudonym text, large uuid[]) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ddl audit_cdc_internal.schema_change_positions[] := ARRAY(
    SELECT d FROM audit_cdc_internal.ddl_to_erase(wanted) AS d);
  one audit_cdc_internal.schema_change_positions;
BEGIN
  PERFORM audit_cdc_internal.remove_rows(
    ARRAY(
      SELECT p.ctid FROM audit_cdc_internal.schema_change_positions AS p
      WHERE p.id = ANY (ARRAY(SELECT d.id FROM unnest(ddl) AS d))),
    'audit_cdc_internal.schema_change_positions');
  FOREACH one IN ARRAY ddl LOOP
    large := large || one.large_annotations;
    one.annotations := audit_cdc_internal.without_user(one.annotations, pseudonym);
    one.large_annotations := NULL;
    INSERT INTO audit_cdc_internal.schema_change_positions SELECT one.*;
  END LOOP;
  IF wanted.numbers IS NULL THEN
    UPDATE audit_cdc_internal.holds AS h SET username = pseudonym
    WHERE h.username = wanted.username AND h.released_at IS NOT NULL;
    PERFORM audit_cdc_internal.erase_argument('username', ARRAY[wanted.username], pseudonym, NULL);
  END IF;
  PERFORM audit_cdc_internal.remove_rows(
    ARRAY(
      SELECT g.ctid FROM audit_cdc_internal.large_annotations AS g
      WHERE g.id = ANY (large)
        AND NOT EXISTS (SELECT FROM audit_cdc_internal.log AS l WHERE l.large_annotations = g.id)
        AND NOT EXISTS (
          SELECT FROM audit_cdc_internal.schema_change_positions AS p WHERE p.large_annotations = g.id)),
    'audit_cdc_internal.large_annotations');
END
$$;

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

CREATE OR REPLACE FUNCTION audit_cdc_internal.tables_with(types oid[]) RETURNS oid[] LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH RECURSIVE uses AS (
    SELECT unnest(types) AS type
    UNION
    SELECT m.type FROM uses AS u
    JOIN pg_depend AS d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = u.type
    CROSS JOIN LATERAL (
      SELECT d.objid AS type WHERE d.classid = 'pg_type'::regclass
      UNION ALL SELECT c.reltype FROM pg_class AS c
      WHERE d.classid = 'pg_class'::regclass AND c.oid = d.objid AND d.objsubid > 0) AS m
  )
  SELECT array_agg(DISTINCT c.relation) FROM uses AS u
  CROSS JOIN LATERAL (
    SELECT c.oid AS relation FROM pg_depend AS d
    JOIN pg_class AS c ON c.oid = d.objid AND c.relkind IN ('r', 'p')
    WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = u.type
      AND d.classid = 'pg_class'::regclass AND d.objsubid > 0
    OFFSET 0 -- type by type: otherwise all columns of all types may be read
  ) AS c;
END;

CREATE OR REPLACE FUNCTION audit_cdc_internal.record_schema_changes(
    tag text, user_name name, differences jsonb, excluded oid[]) RETURNS void
  LANGUAGE plpgsql SET jit = off AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  is_start CONSTANT boolean := tag = 'audit_capture_start';
  whole CONSTANT text := audit_cdc_internal.kept_statement(); -- null: masks keep it from the log
  one record;
BEGIN
  INSERT INTO audit_cdc_internal.schema_changes (database_id, object_type, object, command_tag, before, after, parent,
    published_as, lost_as, identity_index, is_captured, wanted, statement, statement_length, user_name)
  SELECT here, d.object_type, d.object, tag, d.before, d.after, d.parent,
         d.published_as, d.lost_as, d.identity_index, d.is_captured,
         audit_cdc_internal.wanted_of(d.after, d.is_captured, d.wanted, is_start),
         left(whole, 10000), length(whole), record_schema_changes.user_name
  FROM audit_cdc_internal.as_differences(differences) AS d;

  FOR one IN SELECT * FROM audit_cdc_internal.as_differences(differences) AS d WHERE d.object_type = 'table' LOOP
    PERFORM audit_cdc_internal.note_lack(
      one.object, CASE WHEN one.lost_as <> one.object THEN one.after ->> 'name' ELSE tag END,
      one.lost_as, audit_cdc_internal.lack_of(one.after, one.published_as, one.lost_as,
        audit_cdc_internal.wanted_of(one.after, one.is_captured, one.wanted, is_start)),
      one.lost_before, audit_cdc_internal.lack_of(one.before, one.published_before, one.lost_before, one.wanted),
      excluded);
    -- of what is gone nothing can be missing
    IF one.after IS NULL THEN
      PERFORM audit_cdc_internal.note_gap_ending_ddl(one.object, NULL, NULL);
    END IF;
    CONTINUE WHEN is_start;
    -- under its new name the log has no beginning of its rows; so it is where its changes had another table's name
    IF one.is_captured AND (one.has_rows OR one.after ->> 'kind' = 'partitioned table')
       AND (one.was_captured AND (one.before ->> 'schema' <> one.after ->> 'schema'
                                  OR one.before ->> 'name' <> one.after ->> 'name')
            OR NOT one.was_captured AND one.wanted IS NOT NULL AND one.published_before IS NOT NULL) THEN
      PERFORM audit_cdc_internal.note_silent_change(
        one.object, 'renamed', format('%I.%I', one.before ->> 'schema', one.before ->> 'name'), excluded);
    END IF;
    IF one.is_revalued AND one.has_rows AND one.published_as IS NOT NULL THEN
      PERFORM audit_cdc_internal.note_silent_change(one.published_as, 'rewritten', left(whole, 1000), excluded);
    END IF;
    -- what is captured under the name of its root came into that table with its rows, or went out of it
    IF coalesce(one.has_rows, true) AND coalesce(one.published_as, one.lost_as)
                                        IS DISTINCT FROM coalesce(one.published_before, one.lost_before) THEN
      PERFORM audit_cdc_internal.note_silent_change(
        r.relation, r.reason, coalesce(one.after, one.before) ->> 'name', excluded)
      FROM (VALUES (one.published_as, 'partition attached'),
                   (one.published_before, 'partition detached')) AS r(relation, reason)
      WHERE r.relation <> one.object AND (audit_cdc_internal.last_schema('table', r.relation)).is_captured
        AND NOT EXISTS (SELECT FROM audit_cdc_internal.as_differences(differences) AS d
                        WHERE d.object = r.relation AND d.object_type = 'table' AND NOT d.was_captured);
    END IF;
  END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION audit_cdc_internal.record_rewrite(published_as oid, excluded oid[]) RETURNS void
      LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.note_silent_change(
    published_as, 'rewritten', left(audit_cdc_internal.kept_statement(), 1000), excluded);
END;

CREATE FUNCTION @extschema@.audit_capture_status(
    OUT publication name, OUT slot name, OUT worker_pid integer, OUT lag_bytes bigint,
    OUT lag_seconds double precision, OUT last_commit timestamptz, OUT last_commit_lsn pg_lsn, OUT changes bigint,
    OUT changes_per_second double precision, OUT retained_bytes bigint, OUT started_at timestamptz,
    OUT last_error text, OUT last_error_sqlstate text, OUT last_error_at timestamptz, OUT open_gaps bigint,
    OUT lost_annotations bigint, OUT can_seal boolean)
  RETURNS SETOF record
  LANGUAGE sql VOLATILE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT c.publication, c.slot, w.pid, l.bytes,
         CASE WHEN fault.reason IS NOT NULL THEN 'Infinity'
              WHEN pg_is_in_recovery() THEN NULL
              WHEN l.bytes = 0 OR w.pid IS NOT NULL AND NOT look.is_behind THEN 0
              ELSE greatest(0, extract(epoch FROM clock_timestamp()
                                                  - greatest(c.read_to_time, look.looked_at, look.behind_since)))
         END::double precision,
         c.last_commit, c.last_commit_lsn, c.changes,
         CASE WHEN c.rate_since > clock_timestamp() - interval '5 s' THEN c.rate
              ELSE c.rate_changes / extract(epoch FROM clock_timestamp() - c.rate_since) END,
         pg_wal_lsn_diff(f.lsn, s.restart_lsn)::bigint, c.started_at,
         CASE WHEN fault.reason IS NOT NULL THEN fault.message
              WHEN p.oid IS NULL THEN format('publication "%s" does not exist', c.publication)
              WHEN unnoted.at IS NOT NULL THEN 'the failure could not be noted: the log of the server tells it'
              ELSE c.last_error END,
         CASE WHEN fault.reason IS NOT NULL THEN '55000'
              WHEN p.oid IS NULL THEN '42704'
              WHEN unnoted.at IS NOT NULL THEN unnoted.failure ELSE c.last_error_sqlstate END,
         coalesce(unnoted.at, c.last_error_at),
         (SELECT count(*) FROM @extschema@.audit_gaps AS g WHERE g.is_open),
         audit_cdc_internal.lost_annotations(), audit_cdc_internal.can_seal()
  FROM audit_cdc_internal.captures AS c
  LEFT JOIN audit_cdc_internal.capture_faults AS fault ON true
  LEFT JOIN pg_publication AS p ON p.pubname = c.publication
  CROSS JOIN audit_cdc_internal.last_look() AS look
  CROSS JOIN LATERAL (SELECT audit_cdc_internal.capture_worker() AS pid) AS w
  CROSS JOIN LATERAL (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                  ELSE pg_current_wal_flush_lsn() END AS lsn) AS f
  LEFT JOIN pg_replication_slots AS s ON s.slot_name = c.slot AND fault.reason IS NULL
  CROSS JOIN LATERAL (SELECT greatest(pg_wal_lsn_diff(f.lsn, greatest(c.read_to, look.looked_to)), 0)::bigint AS bytes
                      WHERE fault.reason IS NULL UNION ALL SELECT NULL WHERE fault.reason IS NOT NULL) AS l
  LEFT JOIN LATERAL (SELECT f.failed_at AS at, f.failure FROM audit_cdc_internal.last_failure() AS f
                     WHERE f.failed_at > coalesce(c.last_error_at, '-infinity')) AS unnoted ON true;
END;

COMMENT ON FUNCTION @extschema@.audit_capture_status() IS
  'The capture of this database, one row; none: nothing is captured. worker_pid: null without a worker. lag_bytes: '
  'WAL, of all databases, that was not looked through yet; null: capture cannot go on. lag_seconds: so old is at '
  'most what is committed and not captured, also during a long pass, a wait or a failure; Infinity: capture cannot '
  'go on, and last_error tells why; null on a standby, where it is not known. last_commit: of the last captured '
  'transaction. changes: captured since started_at; changes_per_second: in the last seconds. retained_bytes: WAL '
  'that the server keeps for the slot. last_error: that there is no such publication, or the last failure of a '
  'worker, with its SQLSTATE and time; it tries again. open_gaps: rows of audit_gaps that no backfill has closed. '
  'lost_annotations: so many calls of audit_annotate annotated nothing, since each was a transaction of its own; '
  'counted since the server or capture started, null without a worker. can_seal: whether the server can seal what '
  'it says of transactions; false: no annotation is attested meanwhile, and the log of the server tells why; null on '
  'a standby, and where the library is not preloaded. It works on a standby. Errors: none.';

CREATE OR REPLACE FUNCTION audit_cdc_internal.inferred_key(numbers integer[], of_record text, is_own boolean)
      RETURNS text[]
  LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan SET jit = off AS $$
BEGIN
  RETURN (
    WITH entries AS (
      SELECT coalesce(l.new_values, l.old_values) AS image, coalesce(l.record_pks, ARRAY[l.record_id]) AS pks
      FROM audit_cdc_internal.log AS l
      WHERE l.audited_table = ANY (numbers)
        AND l.record_id IS NOT NULL
        AND (of_record IS NULL OR l.record_id = of_record)
        AND l.action <> 'read'
        AND (l.notes ? 'erased') IS NOT TRUE
        AND (NOT is_own OR l.origin <> 'i')
      LIMIT 50
    ), fitting AS (
      SELECT k.place, i.key
      FROM entries AS e, unnest(e.pks) WITH ORDINALITY AS k(value, place), jsonb_each_text(e.image) AS i
      WHERE i.value = k.value
      GROUP BY k.place, i.key
      HAVING count(*) = (SELECT count(*) FROM entries)
    ), columns AS (
      SELECT place, min(key) AS key FROM fitting GROUP BY place HAVING count(*) = 1
    )
    SELECT array_agg(key ORDER BY place)
    FROM columns
    HAVING count(*) = (SELECT max(cardinality(pks)) FROM entries) AND count(*) = count(DISTINCT key)
  );
END
$$;

CREATE FUNCTION audit_cdc_internal.only_table_named(parts text[], here text, relation oid, is_named boolean)
  RETURNS SETOF audit_cdc_internal.audited
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT here, t.table_schema, t.table_name, t.numbers, k.columns, k.types, ARRAY[here], '{0}'::bigint[], true, is_named
  FROM (
    SELECT min(t.table_schema) AS table_schema, min(t.table_name) AS table_name, array_agg(t.id) AS numbers
    FROM audit_cdc_internal.audited_tables AS t
    WHERE t.table_name = parts[cardinality(parts)]
      AND (cardinality(parts) = 1 OR t.table_schema = parts[cardinality(parts) - 1])
    HAVING min(t.table_schema) = max(t.table_schema) AND bool_and(t.database_id = here)
  ) AS t
  CROSS JOIN LATERAL audit_cdc_internal.primary_key(
    coalesce(relation, to_regclass(format('%I.%I', t.table_schema, t.table_name)))) AS k
  WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.continued_databases AS c WHERE c.new_id = here)
    AND NOT EXISTS (
      SELECT FROM audit_cdc_internal.described_tables AS d
      WHERE (d.database_id, d.table_schema, d.table_name) = (here, t.table_schema, t.table_name));
END;

CREATE OR REPLACE FUNCTION audit_cdc_internal.table_named(name text, database_id text, relation oid,
      of_record text DEFAULT NULL)
  RETURNS audit_cdc_internal.audited
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  parts CONSTANT text[] := CASE
    WHEN name ~ '^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$' THEN string_to_array(name, '.')
    ELSE audit_cdc_internal.name_parts(name, relation)
  END;
  found audit_cdc_internal.audited;
  many integer;
BEGIN
  IF coalesce(database_id, here) = here THEN
    SELECT o.*
    INTO found
    FROM audit_cdc_internal.only_table_named(parts, here, relation, database_id IS NOT NULL) AS o;
    IF found.key_columns IS NOT NULL THEN
      RETURN found;
    END IF;
  END IF;
  SELECT max(t.database_id), max(t.table_schema), max(t.table_name), max(t.numbers), count(*)
  INTO found.database_id, found.table_schema, found.table_name, found.numbers, many
  FROM audit_cdc_internal.tables_named(parts, name, table_named.database_id, here) AS t;
  IF many = 0 THEN
    RETURN NULL;
  ELSIF many > 1 THEN
    -- a row type is of this database
    IF database_id IS NULL
      AND relation IS NOT NULL
      AND EXISTS (
        SELECT FROM audit_cdc_internal.tables_named(parts, name, NULL, here) AS t WHERE t.database_id = here) THEN
      found := audit_cdc_internal.table_named(name, here, relation, of_record);
      found.is_named := false;
      RETURN found;
    END IF;
    PERFORM audit_cdc_internal.refuse_several_tables(parts, name, database_id, here);
  END IF;
  SELECT d.ids, d.positions_before, d.is_own
  INTO found.databases, found.positions_before, found.is_own
  FROM audit_cdc_internal.databases_of(found.database_id) AS d;
  found.is_named := database_id IS NOT NULL;
  SELECT k.columns, k.types
  INTO found.key_columns, found.key_types
  FROM audit_cdc_internal.key_of(found, relation, of_record) AS k;
  RETURN found;
END
$$;

CREATE FUNCTION audit_cdc_internal.erasure_doubts(databases text[], names text[])
  RETURNS SETOF audit_cdc_internal.doubt LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT false, concat('values', CASE cardinality(names) WHEN 1 THEN ' of this table' END, ' were erased'),
         format(
           'They are unknown in the answer. %s entries, up to %s, have lost some.', sum(e.entries), max(e.newest)),
         'audit_erasures tells why, and erased of audit_logs of which entries.'
  FROM audit_cdc_internal.erasures AS e
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = e.audited_table
  WHERE (databases IS NULL OR t.database_id = ANY (databases))
    AND (names IS NULL OR quote_ident(t.table_schema) || '.' || quote_ident(t.table_name) = ANY (names))
  HAVING count(*) > 0;
END;

CREATE FUNCTION audit_cdc_internal.removal_doubts(
    databases text[], names text[], since timestamptz, until timestamptz, is_range boolean)
  RETURNS SETOF audit_cdc_internal.doubt LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT true, concat('entries', CASE cardinality(names) WHEN 1 THEN ' of this table' END,
                      ' were removed by retention, and are not in the answer'),
         format('%s entries that committed before %s are gone.', sum(r.entries), max(h.before)),
         'audit_removed has the counts. Records that did not change since then are not known here. Of a captured table '
         'CALL audit_backfill() logs its rows anew.'
  FROM audit_cdc_internal.horizons AS h
  JOIN audit_cdc_internal.removals AS r ON r.audited_table = h.audited_table AND r.entries > 0
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = h.audited_table
  WHERE (databases IS NULL OR t.database_id = ANY (databases))
    AND (names IS NULL OR quote_ident(t.table_schema) || '.' || quote_ident(t.table_name) = ANY (names))
    AND (since IS NULL OR since < h.before)
    AND (
      is_range
      OR NOT EXISTS (
        SELECT FROM audit_cdc_internal.log AS l
        WHERE l.record_id IS NULL
          AND l.audited_table = h.audited_table
          AND l.action = 'complete'
          AND l.origin <> 'i'
          AND (until IS NULL OR l.commit_timestamp <= until)
          -- what it has read first must be there too
          AND l.annotations -> 'metadata' ->> 'backfill_id' IN (
            SELECT b.backfill_id::text
            FROM audit_cdc_internal.backfills AS b
            WHERE b.started_at >= h.before
          )
      ))
  HAVING count(*) > 0
  UNION ALL
  SELECT d.* FROM audit_cdc_internal.erasure_doubts(databases, names) AS d;
END;

CREATE OR REPLACE FUNCTION audit_cdc_internal.doubts(databases text[], names text[], say_others boolean,
      since timestamptz,
    until timestamptz, until_position bigint, is_range boolean)
  RETURNS SETOF audit_cdc_internal.doubt LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  of_this CONSTANT text := CASE cardinality(names) WHEN 1 THEN ' of this table' END;
  own CONSTANT text[] := (SELECT o.ids FROM audit_cdc_internal.own_databases() AS o);
BEGIN
  IF EXISTS (SELECT FROM audit_cdc_internal.gaps) OR EXISTS (SELECT FROM audit_cdc_internal.capture_faults) THEN
    RETURN QUERY
    SELECT d.*
    FROM audit_cdc_internal.gap_doubts(databases, names, since, until, until_position, is_range) AS d;
  END IF;
  IF EXISTS (
    SELECT FROM audit_cdc_internal.rejects AS r
    WHERE r.stored_at IS NULL
      AND r.table_name IS NOT NULL
      AND (names IS NULL OR quote_ident(r.table_schema) || '.' || quote_ident(r.table_name) = ANY (names))
      AND (databases IS NULL OR r.database_id IS NULL OR r.database_id = ANY (databases))
      -- whoever may deliver could say so of this database
      AND NOT (
        r.origin = 'i'
        AND (coalesce(r.database_id = ANY (own), false) OR coalesce(databases <@ own, false)))
  ) THEN
    RETURN QUERY
    SELECT true, concat('changes', of_this, ' were set aside, and are not in the answer'), NULL,
           'audit_rejects has them; audit_retry_rejects() tries to store them.';
  END IF;
  RETURN QUERY
  SELECT d.* FROM audit_cdc_internal.removal_doubts(databases, names, since, until, is_range) AS d;
  IF (databases IS NULL OR own[cardinality(own)] = ANY (databases))
    AND EXISTS (
      SELECT FROM unnest(names) AS n(name)
      JOIN audit_cdc_internal.schema_changes AS s ON s.object = to_regclass(n.name)::oid
      WHERE s.published_as IS NOT NULL AND NOT s.is_captured
    ) THEN
    RETURN QUERY
    SELECT true, 'changes of this table are logged under another name',
           CASE
             WHEN s.published_as <> s.object
               THEN format('That is %s, of which it is a partition.', s.published_as::regclass)
             ELSE 'Those are the names of its partitions.'
           END,
           'Ask for that one.'
    FROM unnest(names) AS n(name)
    CROSS JOIN LATERAL audit_cdc_internal.last_schema('table', to_regclass(n.name)::oid) AS s
    WHERE s.published_as IS NOT NULL AND NOT s.is_captured;
  END IF;
  IF say_others
    AND EXISTS (SELECT FROM audit_cdc_internal.captured_databases AS c WHERE c.database_id <> ALL (own)) THEN
    RETURN QUERY
    SELECT true, concat('the log has entries', of_this, ' that another database captured'),
           format('That is %s.', string_agg(c.described, '; ')),
           format('If this database goes on from it, say so: audit_continue(%L, reason). To read that one alone, name '
                  'its database_id.', min(c.database_id) FILTER (WHERE c.ordinality = 1))
    FROM audit_cdc_internal.other_captured(names) WITH ORDINALITY AS c
    HAVING count(*) > 0;
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.signs_of_doubt(names text[], here text) RETURNS SETOF boolean
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT true
  WHERE EXISTS (SELECT FROM audit_cdc_internal.gaps)
    OR EXISTS (SELECT FROM audit_cdc_internal.horizons)
    OR EXISTS (SELECT FROM audit_cdc_internal.erasures)
    OR EXISTS (SELECT FROM audit_cdc_internal.rejects AS r WHERE r.stored_at IS NULL)
    OR EXISTS (SELECT FROM audit_cdc_internal.captured_databases AS c WHERE c.database_id <> here)
    OR EXISTS (
      SELECT FROM unnest(names) AS n(name)
      JOIN audit_cdc_internal.schema_changes AS s ON s.object = to_regclass(n.name)::oid
      WHERE s.published_as IS NOT NULL AND NOT s.is_captured
    )
    OR EXISTS (
      SELECT FROM audit_cdc_internal.captures AS c
      WHERE c.database_id <> here
        OR NOT EXISTS (
          SELECT FROM pg_get_replication_slots() AS s
          WHERE s.slot_name = c.slot
            AND s.plugin = c.plugin
            AND s.datoid::text = split_part(here, '.', 2)
            AND s.wal_status IN ('reserved', 'extended')
        )
    );
END;

CREATE OR REPLACE FUNCTION audit_cdc_internal.say_doubts(databases text[], names text[], say_others boolean,
      since timestamptz,
    until timestamptz, until_position bigint, is_range boolean)
  RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  one audit_cdc_internal.doubt;
BEGIN
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.signs_of_doubt(names, here)) THEN
    RETURN;
  END IF;
  FOR one IN SELECT *
             FROM audit_cdc_internal.doubts(databases, names, say_others, since, until, until_position, is_range) LOOP
    -- RAISE takes no null for a DETAIL; a notice has one always
    IF one.is_warning AND one.detail IS NULL THEN
      RAISE WARNING '%', one.message USING HINT = one.hint;
    ELSIF one.is_warning THEN
      RAISE WARNING '%', one.message USING DETAIL = one.detail, HINT = one.hint;
    ELSE
      RAISE NOTICE '%', one.message USING DETAIL = one.detail, HINT = one.hint;
    END IF;
  END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION audit_cdc_internal.losses_of(audited audit_cdc_internal.audited)
  RETURNS SETOF audit_cdc_internal.entries
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT r.*
  FROM audit_cdc_internal.schema_changes AS s
  JOIN audit_cdc_internal.schema_change_positions AS p ON p.id = s.id
  CROSS JOIN LATERAL jsonb_populate_record(
    NULL::audit_cdc_internal.entries,
    jsonb_build_object(
      'id', -s.id, 'database_id', s.database_id, 'table_schema', s.before -> 'schema',
      'table_name', s.before -> 'name', 'action', 'truncate', 'commit_lsn', p.commit_lsn,
      'commit_idx', p.commit_idx, 'commit_timestamp', p.commit_timestamp,
      'username', audit_cdc_internal.lifted(p.annotations, 'username'),
      'source', audit_cdc_internal.lifted(p.annotations, 'source'),
      'request_id', audit_cdc_internal.lifted(p.annotations, 'request_id'),
      'metadata', p.annotations -> 'metadata')) AS r
  WHERE s.object_type = 'table'
    AND s.database_id = ANY (audited.databases)
    AND (
      s.after IS NULL
      OR s.before ->> 'name' <> s.after ->> 'name'
      OR s.before ->> 'schema' <> s.after ->> 'schema')
    AND s.before ->> 'schema' = audited.table_schema
    AND s.before ->> 'name' = audited.table_name;
END;

CREATE FUNCTION audit_cdc_internal.entries_of(
    audited audit_cdc_internal.audited, record_ids text[], lone bigint, was_lost boolean)
  RETURNS SETOF audit_cdc_internal.entries
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT u.*
  FROM (
    SELECT l.*
    FROM audit_cdc_internal.entries AS l
    WHERE l.database_id = ANY (audited.databases)
      AND (l.table_schema, l.table_name) = (audited.table_schema, audited.table_name)
      AND record_ids IS NULL
    UNION ALL
    SELECT l.*
    FROM audit_cdc_internal.entries AS l
    WHERE l.database_id = ANY (audited.databases)
      AND (l.table_schema, l.table_name) = (audited.table_schema, audited.table_name)
      AND l.record_id = ANY (record_ids)
    UNION ALL
    SELECT l.*
    FROM audit_cdc_internal.entries AS l
    WHERE l.database_id = ANY (audited.databases)
      AND (l.table_schema, l.table_name) = (audited.table_schema, audited.table_name)
      AND record_ids IS NOT NULL
      AND l.record_id IS NULL
      AND (l.action IN ('truncate', 'complete') OR l.id = lone)
    UNION ALL
    SELECT l.*
    FROM audit_cdc_internal.entries AS l
    WHERE l.database_id = ANY (audited.databases)
      AND (l.table_schema, l.table_name) = (audited.table_schema, audited.table_name)
      AND record_ids IS NOT NULL
      AND l.record_id <> ALL (record_ids)
      AND l.may_change_key
  ) AS u
  WHERE NOT audited.is_own
    OR u.origin <> 'ingest' -- whatever was delivered as this database's is forged
  UNION ALL
  SELECT d.*
  FROM audit_cdc_internal.losses_of(audited) AS d
  WHERE was_lost; -- false: left out of the plan
END;

CREATE FUNCTION audit_cdc_internal.places_of(
    audited audit_cdc_internal.audited, record_ids text[], lone bigint, was_lost boolean)
  RETURNS TABLE (id bigint, run integer, lsn bigint, idx integer, truncates integer)
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH positioned AS NOT MATERIALIZED (
    SELECT e.id, e.commit_timestamp, e.commit_idx, e.action,
           e.commit_lsn + audited.positions_before[array_position(audited.databases, e.database_id)] AS commit_lsn
    FROM audit_cdc_internal.entries_of(audited, record_ids, lone, was_lost) AS e
  ), changes AS (
    SELECT
      e.id, e.commit_timestamp, e.commit_lsn, CASE WHEN e.action <> 'read' THEN e.commit_idx END AS commit_idx,
      e.action = 'truncate' AS truncates,
      audit_cdc_internal.runs_backwards(
        e.commit_lsn, e.commit_timestamp, e.id, lag(e.commit_lsn) OVER place, lag(e.commit_timestamp) OVER place,
        lag(e.id) OVER place) AS runs_backwards
    FROM positioned AS e
    WINDOW place AS (
      PARTITION BY e.commit_lsn IS NULL ORDER BY e.commit_timestamp, e.commit_lsn, e.commit_idx, e.id)
  ), clock AS NOT MATERIALIZED (
    SELECT count(*) FILTER (WHERE w.is_restored) > count(*) FILTER (WHERE w.is_set_back) AS explains
    FROM (
      SELECT
        audit_cdc_internal.runs_backwards(
          p.commit_lsn, p.commit_timestamp, p.id, lag(p.commit_lsn) OVER by_time,
          lag(p.commit_timestamp) OVER by_time, lag(p.id) OVER by_time) AS is_restored,
        p.commit_timestamp < lag(p.commit_timestamp) OVER by_position - audit_cdc_internal.overtaking() AS is_set_back
      FROM positioned AS p
      WHERE p.commit_lsn IS NOT NULL
      WINDOW by_time AS (ORDER BY p.commit_timestamp, p.commit_lsn, p.commit_idx, p.id),
        by_position AS (ORDER BY p.commit_lsn, p.commit_idx, p.id)
    ) AS w
  ), runs AS (
    SELECT
      c.*,
      1 + count(*) FILTER (WHERE c.runs_backwards AND NOT (SELECT k.explains FROM clock AS k)) OVER (
        ORDER BY c.commit_timestamp, c.commit_lsn, c.commit_idx, c.id) AS run
    FROM changes AS c
  ), placed AS (
    SELECT
      r.id, r.truncates, r.commit_timestamp, r.run,
      coalesce(
        r.commit_lsn,
        max(r.commit_lsn) OVER (PARTITION BY r.run ORDER BY r.commit_timestamp RANGE UNBOUNDED PRECEDING), 0) AS lsn,
      coalesce(r.commit_idx, 2147483647) AS idx
    FROM runs AS r
  )
  SELECT p.id, p.run::integer, p.lsn, p.idx,
         (count(*) FILTER (WHERE p.truncates) OVER (ORDER BY p.run, p.lsn, p.idx, p.commit_timestamp, p.id))::integer
  FROM placed AS p;
END;

CREATE FUNCTION audit_cdc_internal.events_of(
    audited audit_cdc_internal.audited, record_ids text[], lone bigint, was_lost boolean)
  RETURNS SETOF audit_cdc_internal.event
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH told AS (
    SELECT
      l.*, p.run, p.lsn, p.idx, p.truncates,
      CASE
        WHEN audited.key_types IS NULL THEN l.record_key
        ELSE audit_cdc_internal.record_key(
          l.record_id, CASE WHEN cardinality(l.record_pks) > 1 THEN l.record_pks END, audited.key_types)
      END AS key_now,
      coalesce(
        l.unknown_columns, audit_cdc_internal.columns_not_told(l.action, l.old_values, l.new_values, l.notes)
      ) AS not_sent,
      CASE WHEN l.action = 'update' AND l.unknown_old_columns IS NULL AND l.old_values <> '{}'
             THEN audit_cdc_internal.masked_columns(l.notes)
           ELSE l.unknown_old_columns END AS not_sent_before
    FROM audit_cdc_internal.entries_of(audited, record_ids, lone, was_lost) AS l
    JOIN audit_cdc_internal.places_of(audited, record_ids, lone, was_lost) AS p ON p.id = l.id
    OFFSET 0 -- each value is worked out once
  ), known AS (
    SELECT
      t.*,
      CASE
        WHEN t.action = 'update' AND t.not_sent <> '{}'
          THEN ARRAY(SELECT m FROM unnest(t.not_sent) AS m WHERE t.new_values -> m = '"unchanged_toast"')
        ELSE '{}'
      END AS left_as_they_were,
      CASE
        WHEN t.action = 'update'
          THEN CASE WHEN t.not_sent_before IS NULL THEN '{}'
                    ELSE (t.new_values - t.not_sent || t.old_values) - t.not_sent_before END
        WHEN t.action = 'delete' THEN t.old_values - t.not_sent
      END AS row_before,
      CASE
        WHEN t.action <> 'update' OR t.not_sent_before IS NULL
          OR t.not_sent_before && coalesce(audited.key_columns, '{}') THEN NULL
        WHEN t.may_change_key IS NOT TRUE THEN t.key_now
        ELSE audit_cdc_internal.key_before(t.old_values, t.new_values, t.record_pks, t.key_now, audited)
      END AS key_before
    FROM told AS t
    OFFSET 0
  )
  SELECT k.id, k.run, k.lsn, k.idx, k.commit_lsn IS NOT NULL, k.truncates, k.commit_timestamp, e.action,
         k.record_id, e.key, e.other_key, k.row_before, k.new_values - k.not_sent,
         CASE WHEN k.action = 'delete' THEN k.not_sent ELSE k.not_sent_before END, k.not_sent, k.left_as_they_were,
         k.old_values, k.username, k.source, k.request_id, k.metadata, k.database_id, k.commit_lsn,
         e.action = 'update' AND coalesce(k.notes ->> 'row_filter' = 'left', false)
  FROM known AS k
  CROSS JOIN LATERAL (
    SELECT k.action, CASE WHEN k.action NOT IN ('truncate', 'complete') THEN k.key_now END AS key,
           k.key_before AS other_key
    UNION ALL
    SELECT 'moved', k.key_before, k.key_now
    WHERE k.key_before <> k.key_now
  ) AS e;
END;

CREATE OR REPLACE FUNCTION audit_cdc_internal.events(
    audited audit_cdc_internal.audited, record_ids text[] DEFAULT NULL, lone bigint DEFAULT NULL,
    with_ends boolean DEFAULT true)
  RETURNS SETOF audit_cdc_internal.event
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  was_lost CONSTANT boolean := EXISTS (SELECT FROM audit_cdc_internal.losses_of(audited));
BEGIN
  IF with_ends
    AND EXISTS (
      SELECT FROM audit_cdc_internal.log AS l
      WHERE l.audited_table = ANY (audited.numbers)
        AND l.record_id IS NULL
        AND l.action = 'complete'
        AND (NOT audited.is_own OR l.origin <> 'i')
    ) THEN
    RETURN QUERY SELECT e.* FROM audit_cdc_internal.events_and_ends(audited, record_ids, lone) AS e;
    RETURN;
  END IF;
  RETURN QUERY
  SELECT e.*
  FROM audit_cdc_internal.events_of(audited, record_ids, lone, was_lost) AS e
  ORDER BY e.run, e.lsn, e.idx, e.commit_timestamp, e.id, e.action = 'moved' DESC;
END
$$;

CREATE FUNCTION audit_cdc_internal.events_of_records(audited audit_cdc_internal.audited, record_ids text[])
  RETURNS SETOF audit_cdc_internal.event
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  RETURN QUERY SELECT e.* FROM audit_cdc_internal.events(audited, record_ids) AS e;
END
$$;

CREATE OR REPLACE FUNCTION audit_cdc_internal.events_as_of(
    audited audit_cdc_internal.audited, at_time timestamptz, at_lsn pg_lsn, of_key text,
    OUT event audit_cdc_internal.event, OUT is_past boolean, OUT here integer)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  moment record;
  record_ids CONSTANT text[] := audit_cdc_internal.record_ids(audited, of_key)
    WHERE of_key IS NOT NULL AND audit_cdc_internal.tells_old_keys(audited, of_key); -- null: all are read
BEGIN
  SELECT * INTO moment FROM audit_cdc_internal.moment(audited, at_time, at_lsn);
  RETURN QUERY
  WITH events AS MATERIALIZED (
    SELECT e.e, (e.e).id, (e.e).run, (e.e).lsn, (e.e).commit_timestamp, (e.e).is_placed
    FROM (
      SELECT e FROM audit_cdc_internal.events(audited) AS e WHERE record_ids IS NULL
      UNION ALL
      SELECT e FROM audit_cdc_internal.events_of_records(audited, record_ids) AS e WHERE record_ids IS NOT NULL
    ) AS e
  ), runs AS (
    SELECT max(e.run) FILTER (WHERE at_lsn IS NOT NULL OR e.commit_timestamp <= coalesce(at_time, 'infinity')) AS run
    FROM events AS e
  ), moments AS (
    -- positions may have run backwards somewhere else in the database: what committed, and came, later has none as high
    SELECT coalesce(r.run, 1) + CASE
      WHEN NOT EXISTS (SELECT FROM events AS e WHERE e.id = moment.last_id)
        AND EXISTS (
          SELECT FROM events AS e
          WHERE at_lsn IS NULL
            AND e.is_placed
            AND e.run = r.run
            AND e.lsn > moment.last_lsn
            AND e.commit_timestamp < moment.last_commit - audit_cdc_internal.overtaking()
            AND e.id < moment.last_id
        )
        THEN 1
      ELSE 0
    END AS run
    FROM runs AS r
  )
  SELECT
    e.e,
    CASE
      WHEN e.is_placed
        THEN coalesce(
          e.run < m.run
            OR e.run = m.run
              AND (
                at_time IS NULL AND at_lsn IS NULL
                OR e.lsn <= moment.last_lsn
                OR e.id < 0 AND at_lsn IS NULL AND e.commit_timestamp <= at_time),
          false)
      ELSE at_time IS NULL AND at_lsn IS NULL
        OR coalesce(e.commit_timestamp <= at_time, false)
        OR moment.last_commit IS NOT NULL AND e.commit_timestamp < coalesce(moment.next_commit, 'infinity')
    END,
    m.run
  FROM events AS e, moments AS m;
END
$$;

CREATE FUNCTION audit_cdc_internal.may_be_anothers(audited audit_cdc_internal.audited) RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  RETURN NOT audited.is_own OR EXISTS (SELECT FROM audit_cdc_internal.losses_of(audited));

CREATE FUNCTION audit_cdc_internal.readable_as(audited audit_cdc_internal.audited, row_type oid)
  RETURNS audit_cdc_internal.audited
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  relation CONSTANT oid := audit_cdc_internal.relation_of(row_type);
BEGIN
  -- nearly always all types are PostgreSQL's own
  IF NOT EXISTS (
    SELECT FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0 AND a.atttypid >= 16384) THEN
    RETURN audited;
  END IF;
  IF audited.database_id IS NOT NULL
    AND audit_cdc_internal.may_be_anothers(audited)
    AND EXISTS (
      WITH RECURSIVE used(type) AS (
        SELECT p FROM audit_cdc_internal.parts_of_type(row_type) AS p
        UNION
        SELECT p.type FROM used CROSS JOIN LATERAL audit_cdc_internal.parts_of_type(used.type) AS p(type)
      )
      SELECT
      FROM used
      JOIN pg_type AS t ON t.oid = used.type
      WHERE t.typtype IN ('d', 'c', 'r', 'm') AND NOT pg_has_role(t.typowner, current_user, 'USAGE')
    ) THEN
    RAISE EXCEPTION 'permission denied to show rows of another table to conditions of another role''s type'
      USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'The log may have rows of a table that only has the same name: it was dropped, renamed, or is of '
                     'another database.',
            HINT = 'Ask for jsonb rows, with the table''s name as text, or for a row type of your own.';
  END IF;
  RETURN audited;
END
$$;

CREATE OR REPLACE FUNCTION audit_cdc_internal.told_as_of(
    row_type regtype, at timestamptz, lsn pg_lsn, key text, table_name text, database_id text)
  RETURNS SETOF jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT r
  FROM audit_cdc_internal.rows_as_of(
    audit_cdc_internal.readable_as(
      audit_cdc_internal.table_named(table_name, database_id, audit_cdc_internal.relation_of(row_type), key), row_type),
    audit_cdc_internal.columns_of(row_type), at, lsn, key, true) AS r;
END;

COMMENT ON FUNCTION @extschema@.audit_as_of(anyelement, timestamptz, pg_lsn, text, text, text) IS
  'The rows of a table as they were. row_type: NULL::public.users, a table or composite type called like the audited '
  'table (or give table_name), with its columns. at: a commit time; lsn: a position; neither: the latest that the '
  'log holds; both: error 22023. key: only this record, as record_id in audit_logs. database_id: where the log has '
  'the table of several databases. A transaction is in it whole or not at all, as far as the log holds it; a NOTICE '
  'tells if the moment is not settled. Records of which the log cannot tell are left out, columns that it cannot '
  'tell are null, and a WARNING counts both; audit_as_of_unknown() lists them. Another WARNING tells if changes of '
  'the table are in audit_rejects. Errors: as audit_row, 22023 (several tables of this name), 42804 (not a row '
  'type), 22004 (no table named), 42501 (its rows may be of another table of this name, and a type of the row belongs '
  'to a role without the caller''s rights).';

CREATE OR REPLACE FUNCTION audit_cdc_internal.changes_between(
    audited audit_cdc_internal.audited, first_lsn bigint, last_lsn bigint,
    OUT record_key text, OUT number bigint, OUT last_place bigint[])
  RETURNS SETOF record
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH changes AS (
    SELECT
      e.*, e.commit_lsn + audited.positions_before[array_position(audited.databases, e.database_id)] AS lsn,
      CASE
        WHEN audited.key_types IS NULL THEN e.record_key
        ELSE audit_cdc_internal.record_key(
          e.record_id, CASE WHEN cardinality(e.record_pks) > 1 THEN e.record_pks END, audited.key_types)
      END AS key_now
    FROM audit_cdc_internal.entries AS e
    WHERE e.database_id = ANY (audited.databases)
      AND (e.table_schema, e.table_name) = (audited.table_schema, audited.table_name)
      AND (e.action IN ('insert', 'update', 'delete') AND e.record_id IS NOT NULL OR e.action = 'truncate')
      AND (NOT audited.is_own OR e.origin <> 'ingest') -- whatever was delivered as this database's is forged
  )
  SELECT k.key, count(*), max(ARRAY[c.lsn, c.commit_idx, c.id])
  FROM changes AS c
  CROSS JOIN LATERAL (
    SELECT c.key_now AS key
    UNION
    SELECT audit_cdc_internal.key_before(c.old_values, c.new_values, c.record_pks, c.key_now, audited)
    WHERE c.may_change_key AND c.action = 'update'
  ) AS k
  WHERE c.lsn > first_lsn AND c.lsn <= last_lsn
  GROUP BY k.key;
END;

ALTER TYPE @extschema@.audit_history_line ADD ATTRIBUTE server_context jsonb;

ALTER TYPE @extschema@.audit_history_line ADD ATTRIBUTE attested boolean;

COMMENT ON COLUMN @extschema@.audit_history_line.server_context IS
  'as in audit_logs; of action drop or rename session_user, application_name and client_address';

COMMENT ON COLUMN @extschema@.audit_history_line.attested IS
  'as in audit_logs; null for a line of action drop or rename';

CREATE OR REPLACE FUNCTION audit_cdc_internal.plain_line(line @extschema@.audit_history_line)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT line.id, line.database_id, line.table_schema, line.table_name, line.record_id, line.action, line.commit_lsn,
         line.commit_idx, line.commit_timestamp, line.username, line.source, line.request_id, line.metadata,
         audit_cdc_internal.plain(line.old_row), audit_cdc_internal.plain(line.new_row),
         CASE WHEN e.texts IS NULL THEN line.changed ELSE audit_cdc_internal.plain_diff(line.changed) END,
         line.unknown_old_columns, line.unknown_columns, line.note, line.cursor, e.texts, line.server_context,
         line.attested
  FROM (
    SELECT nullif(
      jsonb_strip_nulls(
        jsonb_build_object(
          'old', audit_cdc_internal.exact_texts(line.old_row), 'new', audit_cdc_internal.exact_texts(line.new_row))),
      '{}') AS texts
  ) AS e;
END;

CREATE FUNCTION audit_cdc_internal.server_word(
    e audit_cdc_internal.event, OUT server_context jsonb, OUT attested boolean)
  LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF e.id > 0 THEN
    SELECT
      s.context || jsonb_strip_nulls(jsonb_build_object('transaction_start', l.transaction_start)),
      l.attested
    INTO server_context, attested
    FROM audit_cdc_internal.log AS l
    LEFT JOIN audit_cdc_internal.server_contexts AS s ON s.id = l.server_context
    WHERE l.id = e.id AND l.commit_timestamp = e.commit_timestamp;
  ELSE
    SELECT jsonb_strip_nulls(
      jsonb_build_object(
        'session_user', s.session_user_name, 'application_name', s.application_name,
        'client_address', host(s.client_address)))
    INTO server_context
    FROM audit_cdc_internal.schema_changes AS s
    WHERE s.id = -e.id;
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION audit_cdc_internal.line(
    audited audit_cdc_internal.audited, e audit_cdc_internal.event, old_row jsonb, new_row jsonb,
    unknown_old_columns text[], unknown_columns text[], note text)
  RETURNS @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT ROW(
    CASE WHEN e.id > 0 THEN e.id END, e.database_id, audited.table_schema, audited.table_name, e.record_id,
    CASE
      WHEN e.id > 0 THEN e.action
      WHEN EXISTS (
        SELECT FROM audit_cdc_internal.schema_changes AS s
        WHERE s.id = -e.id AND s.after IS NULL
      )
        THEN 'drop'
      ELSE 'rename'
    END,
    e.commit_lsn, CASE WHEN e.idx < 2147483647 THEN e.idx END, e.commit_timestamp, e.username, e.source,
    e.request_id, e.metadata, old_row, new_row,
    CASE
      WHEN e.action = 'update'
        THEN (
          SELECT coalesce(jsonb_object_agg(d.key, d.value), '{}')
          FROM jsonb_each(audit_cdc_internal.diff(old_row, new_row)) AS d
          WHERE d.value ?& ARRAY['old', 'new']
        )
      WHEN e.action <> 'read' THEN audit_cdc_internal.diff(old_row, new_row)
    END,
    unknown_old_columns, unknown_columns, note,
    format('%s.%s.%s.%s', e.run, e.lsn, e.idx, e.id), NULL, w.server_context,
    w.attested)::@extschema@.audit_history_line
  FROM audit_cdc_internal.server_word(e) AS w;
END;

CREATE FUNCTION audit_cdc_internal.told_of(
    audited audit_cdc_internal.audited, has_keys boolean,
    OUT is_described boolean,
    OUT told_from timestamptz, -- from when descriptions say that whole rows are sent; null: they do not
    OUT first_break timestamptz, -- when something that names no record came between
    OUT last_break timestamptz,
    OUT first_rekeyed timestamptz, -- when an update may have given another key
    OUT last_rekeyed timestamptz)
  LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  SELECT
    count(*) > 0,
    CASE WHEN bool_and(d.replica_identity = 'full' AND d.never_sent = '{}') THEN min(d.valid_from) END
  INTO is_described, told_from
  FROM audit_cdc_internal.described_tables AS d
  WHERE d.database_id = ANY (audited.databases)
    AND (d.table_schema, d.table_name) = (audited.table_schema, audited.table_name);
  IF NOT has_keys THEN
    RETURN;
  END IF;
  SELECT min(b.commit_timestamp), max(b.commit_timestamp)
  INTO first_break, last_break
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
  SELECT min(r.first), max(r.last)
  INTO first_rekeyed, last_rekeyed
  FROM unnest(audited.numbers) AS n(number)
  CROSS JOIN LATERAL (
    SELECT
      (
        SELECT l.commit_timestamp
        FROM audit_cdc_internal.log AS l
        WHERE l.audited_table = n.number AND l.may_change_key
        ORDER BY l.commit_timestamp
        LIMIT 1
      ) AS first,
      (
        SELECT l.commit_timestamp
        FROM audit_cdc_internal.log AS l
        WHERE l.audited_table = n.number AND l.may_change_key
        ORDER BY l.commit_timestamp DESC
        LIMIT 1
      ) AS last
  ) AS r;
END
$$;

CREATE OR REPLACE FUNCTION @extschema@.audit_history(
    table_name text DEFAULT NULL, key text DEFAULT NULL, username text DEFAULT NULL, request_id text DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, after text DEFAULT NULL, newest_first boolean DEFAULT false,
    max_rows integer DEFAULT NULL)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.* FROM audit_cdc_internal.history($1, NULL, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS l;
END;

CREATE OR REPLACE FUNCTION @extschema@.audit_history(
    row_type regtype, key text DEFAULT NULL, username text DEFAULT NULL, request_id text DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, after text DEFAULT NULL, newest_first boolean DEFAULT false,
    max_rows integer DEFAULT NULL, table_name text DEFAULT NULL)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.*
  FROM audit_cdc_internal.history(
    $12, audit_cdc_internal.relation_of($1), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS l;
END;

CREATE OR REPLACE VIEW @extschema@.audit_last_changes AS
  SELECT
    l.commit_timestamp AS at, l.username AS who, l.source, l.action, l.table_schema, l.table_name,
    l.record_key AS record,
    CASE l.action
      WHEN 'update'
        THEN @extschema@.audit_diff_text(
          @extschema@.audit_diff(
            l.old_values,
            (
              SELECT jsonb_object_agg(n.key, n.value)
              FROM jsonb_each(l.new_values) AS n
              WHERE l.old_values ? n.key
            ),
            l.exact_values -> 'old', l.exact_values -> 'new'))
    END AS change,
    l.metadata ->> 'reason' AS why, l.request_id, l.id, l.server_context ->> 'session_user' AS role,
    l.server_context ->> 'application_name' AS program
  FROM @extschema@.audit_logs AS l
  WHERE l.action NOT IN ('read', 'complete')
  ORDER BY l.commit_timestamp DESC, l.commit_lsn DESC, l.commit_idx DESC;

COMMENT ON COLUMN @extschema@.audit_last_changes.role IS
  'session_user of server_context: who logged in, by the server''s word; null: not told';

COMMENT ON COLUMN @extschema@.audit_last_changes.program IS
  'application_name of server_context: as the client named itself; null: not told';

CREATE OR REPLACE VIEW @extschema@.audit_deletions AS
  SELECT l.commit_timestamp AS at, l.username AS who, l.source, l.action, l.table_schema, l.table_name,
         l.record_key AS record, l.old_values - coalesce(l.unknown_columns, '{}') AS row,
         l.metadata ->> 'reason' AS why, l.request_id, l.id, l.server_context ->> 'session_user' AS role,
         l.server_context ->> 'application_name' AS program
  FROM @extschema@.audit_logs AS l
  WHERE l.action IN ('delete', 'truncate')
  ORDER BY l.commit_timestamp DESC, l.commit_lsn DESC, l.commit_idx DESC;

COMMENT ON COLUMN @extschema@.audit_deletions.role IS 'as in audit_last_changes';

COMMENT ON COLUMN @extschema@.audit_deletions.program IS 'as in audit_last_changes';

COMMENT ON FUNCTION @extschema@.audit_changes_by_user(timestamptz, timestamptz) IS
  'The view of this name, of what was committed from since up to, not including, until: it reads no more. What nobody '
  'signed is one line a table. Null: without that bound. Errors: none.';

CREATE OR REPLACE VIEW @extschema@.audit_changes_by_user AS
  SELECT t.username AS who, t.table_schema, t.table_name, sum(t.inserts)::bigint AS inserts,
         sum(t.updates)::bigint AS updates, sum(t.deletes)::bigint AS deletes, count(*) AS transactions,
         min(t.first) AS first, max(t.last) AS last, t.role
  FROM (
    SELECT u.username, a.table_schema, a.table_name, count(*) FILTER (WHERE l.action = 'insert') AS inserts,
           count(*) FILTER (WHERE l.action = 'update') AS updates,
           count(*) FILTER (WHERE l.action = 'delete') AS deletes, min(l.commit_timestamp) AS first,
           max(l.commit_timestamp) AS last, CASE WHEN u.username IS NULL THEN s.context ->> 'session_user' END AS role
    FROM audit_cdc_internal.log AS l
    CROSS JOIN LATERAL audit_cdc_internal.lifted(l.annotations, 'username') AS u(username)
    JOIN audit_cdc_internal.audited_tables AS a ON a.id = l.audited_table
    LEFT JOIN audit_cdc_internal.server_contexts AS s ON s.id = l.server_context
    WHERE l.action NOT IN ('read', 'complete')
    GROUP BY u.username, a.table_schema, a.table_name, a.database_id, l.commit_lsn, role
  ) AS t
  GROUP BY t.username, t.table_schema, t.table_name, t.role
  ORDER BY t.username, t.table_schema, t.table_name, t.role;

COMMENT ON VIEW @extschema@.audit_changes_by_user IS
  'how much each user changed in each table, and each role without saying for whom: then who is null';

COMMENT ON COLUMN @extschema@.audit_changes_by_user.role IS
  'of changes that nobody signed, session_user of server_context; null: somebody signed, or not told';

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

CREATE OR REPLACE FUNCTION audit_cdc_internal.in_one(changes audit_cdc_internal.chosen[], doubt text)
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

CREATE OR REPLACE FUNCTION audit_cdc_internal.replaced_since(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn, OUT record_id text, OUT doubt text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  doubt := audit_cdc_internal.not_published(audit_cdc_internal.table_facts(audited));
  IF doubt IS NOT NULL THEN
    FOR record_id IN
      SELECT DISTINCT (e.event).record_key
      FROM audit_cdc_internal.events_as_of(audited, at, lsn, NULL) AS e
      WHERE NOT e.is_past
        AND ((e.event).action = 'insert'
          OR (e.event).action = 'update' AND (e.event).other_key <> (e.event).record_key)
    LOOP
      RETURN NEXT;
    END LOOP;
  END IF;
  IF EXISTS (
    SELECT FROM audit_cdc_internal.masks AS m
    WHERE m.table_schema = audited.table_schema AND m.table_name = audited.table_name
  ) THEN
    FOR record_id, doubt IN
      SELECT (e.event).record_key, audit_cdc_internal.masked_doubt(l.notes)
      FROM audit_cdc_internal.events_as_of(audited, at, lsn, NULL) AS e
      JOIN @extschema@.audit_logs AS l
        ON l.id = (e.event).id AND l.commit_timestamp = (e.event).commit_timestamp
      WHERE NOT e.is_past AND audit_cdc_internal.masked_doubt(l.notes) IS NOT NULL
    LOOP
      RETURN NEXT;
    END LOOP;
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION audit_cdc_internal.changes_since(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn, first_number bigint)
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
BEGIN ATOMIC
  WITH changes AS (
    SELECT
      d.record_id, d.old_row, d.new_row, d.unknown_before, d.unknown_after,
      coalesce(d.doubt, CASE WHEN d.old_row IS NOT NULL AND d.new_row IS NOT NULL THEN r.doubt END) AS doubt,
      CASE WHEN d.old_row IS NULL THEN 'insert' WHEN d.new_row IS NULL THEN 'delete' ELSE 'update' END AS action,
      first_number + row_number() OVER (
        ORDER BY d.old_row IS NOT NULL AND d.new_row IS NULL DESC, d.old_row IS NULL, d.record_id DESC) AS number
    FROM audit_cdc_internal.differences(audited, at, lsn, NULL, NULL) AS d
    LEFT JOIN (
      SELECT s.record_id, min(s.doubt) AS doubt
      FROM audit_cdc_internal.replaced_since(audited, at, lsn) AS s
      GROUP BY s.record_id
    ) AS r ON r.record_id = d.record_id
  )
  SELECT ROW(
    -c.number, audited.table_schema, audited.table_name, c.record_id, audited.database_id, c.action, 0, c.number,
    NULL, c.old_row, c.new_row,
    CASE
      -- what came to be known later may have been something else then
      WHEN c.old_row IS NOT NULL
        THEN ARRAY(
          SELECT unnest(c.unknown_before)
          UNION
          SELECT k FROM jsonb_object_keys(c.new_row) AS k WHERE NOT c.old_row ? k
          ORDER BY 1
        )
      ELSE '{}'
    END,
    c.unknown_after, '{}', c.doubt)::audit_cdc_internal.chosen
  FROM changes AS c;
END;

CREATE OR REPLACE FUNCTION audit_cdc_internal.last_loss(audited audit_cdc_internal.audited) RETURNS bigint[]
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT max(ARRAY[array_position(audited.databases, l.database_id), l.commit_lsn, l.commit_idx])
  FROM audit_cdc_internal.losses_of(audited) AS l;
END;

CREATE FUNCTION audit_cdc_internal.written_along(relation oid) RETURNS oid[]
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH RECURSIVE family AS (
    SELECT relation AS oid
    UNION
    SELECT m.oid
    FROM family AS f
    CROSS JOIN LATERAL (
      SELECT i.inhrelid AS oid FROM pg_inherits AS i WHERE i.inhparent = f.oid
      UNION ALL
      SELECT k.conrelid
      FROM pg_constraint AS k
      WHERE k.contype = 'f'
        AND k.confrelid = f.oid
        AND (k.confupdtype IN ('c', 'n', 'd') OR k.confdeltype IN ('c', 'n', 'd'))
    ) AS m
  )
  SELECT array_agg(f.oid) FROM family AS f;
END;

CREATE FUNCTION audit_cdc_internal.calls_more(expression text) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN EXISTS (
    SELECT
    FROM regexp_matches(expression, '\{FUNCEXPR :funcid (\d+)', 'g') AS f(id)
    JOIN pg_proc AS p ON p.oid = f.id[1]::oid
    WHERE NOT (
      p.oid < 16384
      AND (p.provolatile = 'i'
           OR p.proname IN (
             'clock_timestamp', 'date', 'date_trunc', 'gen_random_uuid', 'nextval', 'now', 'random',
             'statement_timestamp', 'timestamp', 'timezone', 'transaction_timestamp', 'uuidv4', 'uuidv7'))));

CREATE FUNCTION audit_cdc_internal.code_of(relation oid, OUT class oid, OUT object oid, OUT calls boolean)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT 'pg_trigger'::regclass, t.oid, true
  FROM pg_trigger AS t
  WHERE t.tgrelid = relation AND NOT t.tgisinternal AND t.tgenabled <> 'D'
  UNION ALL
  SELECT 'pg_rewrite'::regclass, r.oid, true FROM pg_rewrite AS r WHERE r.ev_class = relation
  UNION ALL
  SELECT 'pg_policy'::regclass, p.oid, true FROM pg_policy AS p WHERE p.polrelid = relation
  UNION ALL
  -- a foreign key compares by a cast where types of users are involved
  SELECT 'pg_constraint'::regclass, c.oid,
         CASE c.contype WHEN 'c' THEN c.conbin::text LIKE '%{FUNCEXPR %' ELSE EXISTS (
           SELECT FROM pg_attribute AS a
           WHERE a.atttypid >= 16384
             AND (a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
                  OR a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey))) END
  FROM pg_constraint AS c
  WHERE c.conrelid = relation AND c.contype IN ('c', 'f')
  UNION ALL
  -- a default counts where an entry does not tell of its column
  SELECT 'pg_attrdef'::regclass, d.oid,
         CASE a.attgenerated WHEN '' THEN audit_cdc_internal.calls_more(d.adbin::text)
                             ELSE d.adbin::text LIKE '%{FUNCEXPR %' END
  FROM pg_attrdef AS d
  JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
  WHERE d.adrelid = relation
  UNION ALL
  SELECT 'pg_class'::regclass, i.indexrelid, concat(i.indexprs::text, i.indpred::text) LIKE '%{FUNCEXPR %'
  FROM pg_index AS i
  WHERE i.indrelid = relation
  UNION ALL
  -- its columns' types; whoever owns a partitioned table may attach others, with code of their own
  SELECT 'pg_class'::regclass, c.oid, c.relkind = 'p' FROM pg_class AS c WHERE c.oid = relation;
END;

CREATE OR REPLACE FUNCTION audit_cdc_internal.code_owners(relation oid) RETURNS SETOF oid
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH RECURSIVE code AS MATERIALIZED (
    SELECT r.oid AS relation, r.relowner, c.*
    FROM unnest(audit_cdc_internal.written_along(relation)) AS f(oid)
    JOIN pg_class AS r ON r.oid = f.oid
    CROSS JOIN LATERAL audit_cdc_internal.code_of(f.oid) AS c
  ), needed AS MATERIALIZED (
    SELECT c.relowner, d.refclassid AS class, d.refobjid AS object
    FROM code AS c
    JOIN pg_depend AS d ON (d.classid, d.objid) = (c.class, c.object)
    WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
  ), types AS (
    SELECT n.object AS oid FROM needed AS n WHERE n.class = 'pg_type'::regclass
    UNION
    SELECT part.oid
    FROM types AS t
    CROSS JOIN LATERAL audit_cdc_internal.parts_of_type(t.oid) AS part(oid)
  )
  SELECT c.relowner FROM code AS c WHERE c.calls
  UNION
  SELECT n.relowner FROM needed AS n WHERE n.class = 'pg_operator'::regclass
  UNION
  SELECT p.proowner
  FROM needed AS n
  LEFT JOIN pg_operator AS o ON n.class = 'pg_operator'::regclass AND o.oid = n.object
  JOIN pg_proc AS p ON p.oid = coalesce(o.oprcode::oid, n.object)
  WHERE n.class <> 'pg_type'::regclass
  UNION
  SELECT t.typowner
  FROM types AS u
  JOIN pg_type AS t ON t.oid = u.oid
  WHERE t.typtype IN ('d', 'c', 'r', 'm');
END;

CREATE FUNCTION audit_cdc_internal.has_strangers_code(relation oid, runner oid) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN EXISTS (
    SELECT FROM audit_cdc_internal.code_owners(relation) AS o(id) WHERE NOT pg_has_role(o.id, runner, 'USAGE'));

CREATE FUNCTION audit_cdc_internal.strangers_refer(relation oid, known bigint[]) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN EXISTS (
    SELECT
    FROM pg_constraint AS k
    JOIN pg_class AS child ON child.oid = k.conrelid
    JOIN pg_class AS parent ON parent.oid = k.confrelid
    WHERE k.contype = 'f'
      AND k.confrelid = relation
      AND (k.confupdtype IN ('c', 'n', 'd') OR k.confdeltype IN ('c', 'n', 'd'))
      AND NOT pg_has_role(child.relowner, parent.relowner, 'USAGE')
      AND audit_cdc_internal.whole_constraint(k.oid) <> ALL (known));

CREATE OR REPLACE FUNCTION audit_cdc_internal.run_planned(
    is_redo boolean, named audit_cdc_internal.named, tables text[], changes text[])
  RETURNS SETOF audit_cdc_internal.outcome
  LANGUAGE plpgsql AS $$
DECLARE
  one pg_catalog.record;
  said pg_catalog.text[];
  checked_at_once pg_catalog.bool := false;
  -- the caller has said which tables are written
  are_named CONSTANT pg_catalog.bool :=
    coalesce(named.table_name, named.tables[1], named.change::pg_catalog.text) IS NOT NULL;
  trusted pg_catalog.oid[] := '{}';
  -- foreign keys that the statements reckon with
  known CONSTANT pg_catalog.int8[] := ARRAY(
    SELECT (k.it OPERATOR(pg_catalog.->>) 'id')::pg_catalog.int8
    FROM pg_catalog.unnest(tables) AS t(facts)
    CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(
      t.facts::pg_catalog.jsonb OPERATOR(pg_catalog.->) 'referred') AS k(it));
BEGIN
  SET CONSTRAINTS ALL DEFERRED;
  FOR one IN SELECT * FROM audit_cdc_internal.planned(is_redo, tables, changes) LOOP
    IF one.problem IS NOT NULL THEN
      said := ARRAY[one.problem];
    ELSIF NOT are_named
      AND one.relation OPERATOR(pg_catalog.<>) ALL (trusted)
      AND audit_cdc_internal.runs_strangers_code(one.relation) THEN
      said := ARRAY['its table runs code of a role without these rights: name the table'];
    ELSIF one.relation OPERATOR(pg_catalog.<>) ALL (trusted)
      AND audit_cdc_internal.is_referred_since(one.relation, known) THEN
      said := ARRAY['another role''s table has come to refer to its table meanwhile: try again'];
    ELSE
      trusted := pg_catalog.array_append(trusted, one.relation);
      IF NOT checked_at_once AND audit_cdc_internal.is_run_as_owner(one.relation) THEN
        SET CONSTRAINTS ALL IMMEDIATE; -- nothing of the owner's may wait for the end of the caller's transaction
        checked_at_once := true;
      END IF;
      said := audit_cdc_internal.run_step(one.relation, one.statement, one.lock, one.alone, one.alone_locks);
    END IF;
    IF pg_catalog.cardinality(said) OPERATOR(pg_catalog.=) 1 THEN -- a row that went to another partition is two
      said := pg_catalog.array_fill(said[1], ARRAY[pg_catalog.cardinality(one.change_ids)]);
    END IF;
    RETURN QUERY
    SELECT one.step, c.id, one.table_name, c.record_id, c.said
    FROM ROWS FROM (
      pg_catalog.unnest(one.change_ids), pg_catalog.unnest(one.record_ids), pg_catalog.unnest(said)) AS
      c(id, record_id, said);
  END LOOP;
  PERFORM audit_cdc_internal.check_constraints();
END
$$;

-- What no comparison of the catalogs tells: roles belong to the whole server.

DO $$
DECLARE
  have_rights text;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'audit_cdc_keeper') THEN
    CREATE ROLE audit_cdc_keeper NOLOGIN;
  END IF;
  SELECT string_agg(format('%I is a member', m.rolname), ', ' ORDER BY m.rolname) INTO have_rights
  FROM pg_roles AS r
  JOIN pg_auth_members AS a ON a.roleid = r.oid
  JOIN pg_roles AS m ON m.oid = a.member
  WHERE r.rolname = 'audit_cdc_keeper';
  IF have_rights IS NOT NULL THEN
    RAISE WARNING 'role audit_cdc_keeper was here before, and others have its rights'
      USING DETAIL = have_rights || '.',
            HINT = 'So they have them in this database too. Revoke the role from whom you do not know.';
  END IF;
END
$$;
GRANT audit_cdc_reader TO audit_cdc_keeper;

-- Nobody gets anything but what stands here.
SELECT audit_cdc_internal.keep_private('pg_proc'::regclass, o.it)
  FROM unnest(ARRAY[
    '@extschema@.audit_archive_failed(date,text,text)',
    '@extschema@.audit_archived(date,text,bigint,text,bigint,bigint,bigint)',
    '@extschema@.audit_capture_status()',
    '@extschema@.audit_drop_retention(text,text,text,text)',
    '@extschema@.audit_erase(text,text,text,jsonb,text,text[],text,boolean)',
    '@extschema@.audit_expired()',
    '@extschema@.audit_hold(text,text,text,text,text,text,text,text,timestamp with time zone,timestamp with time zone)',
    '@extschema@.audit_link(text,text,text)',
    '@extschema@.audit_link_status()',
    '@extschema@.audit_mask(text,text,text[],text,text,text)',
    '@extschema@.audit_month_table(text)',
    '@extschema@.audit_release(text,text)',
    '@extschema@.audit_set_retention(interval,text,text,text,text)',
    '@extschema@.audit_take_over_months(text)',
    '@extschema@.audit_unlink(text)',
    '@extschema@.audit_unmask(text,text,text[],text,text)',
    'audit_cdc_internal.add_columns(regclass)',
    'audit_cdc_internal.add_days(timestamp with time zone,timestamp with time zone[])',
    'audit_cdc_internal.add_foreign_table(text,text,name)',
    'audit_cdc_internal.add_mask(audit_cdc_internal.masks)',
    'audit_cdc_internal.add_partition(text,timestamp with time zone,interval)',
    'audit_cdc_internal.archive_first()',
    'audit_cdc_internal.await_stopped_worker()',
    'audit_cdc_internal.begin_move(text,text)',
    'audit_cdc_internal.bounds_of(text)',
    'audit_cdc_internal.calls_more(text)',
    'audit_cdc_internal.can_seal()',
    'audit_cdc_internal.changed_keys(audit_cdc_internal.audited)',
    'audit_cdc_internal.check_apply(boolean,integer)',
    'audit_cdc_internal.check_archive(date,text)',
    'audit_cdc_internal.check_archived(bigint,text,bigint,bigint,bigint)',
    'audit_cdc_internal.check_erase(text,text,text,jsonb,text,text[])',
    'audit_cdc_internal.check_hold(text,text)',
    'audit_cdc_internal.check_link_server(oid,text,oid)',
    'audit_cdc_internal.check_mask(text,text,text[],text)',
    'audit_cdc_internal.check_move(text)',
    'audit_cdc_internal.check_not_read(text)',
    'audit_cdc_internal.check_owner_of_month(text)',
    'audit_cdc_internal.check_retention(interval,text,text,text)',
    'audit_cdc_internal.check_server(name,oid)',
    'audit_cdc_internal.chosen_lines(@extschema@.audit_history_line[])',
    'audit_cdc_internal.clear_annotations()',
    'audit_cdc_internal.clear_contexts()',
    'audit_cdc_internal.clear_partition(text,integer)',
    'audit_cdc_internal.clear_record_keys()',
    'audit_cdc_internal.clear_rejects()',
    'audit_cdc_internal.clear_shared(regclass,text,text)',
    'audit_cdc_internal.clear_unnamed(text)',
    'audit_cdc_internal.code_of(oid)',
    'audit_cdc_internal.columns_not_sent(text,jsonb,jsonb,text,text[],text[],text[])',
    'audit_cdc_internal.columns_not_told(text,jsonb,jsonb,jsonb)',
    'audit_cdc_internal.columns_of_log(boolean)',
    'audit_cdc_internal.commit_to_disk()',
    'audit_cdc_internal.compare_copy(text,bigint,bigint)',
    'audit_cdc_internal.connects(text)',
    'audit_cdc_internal.copy_of(text)',
    'audit_cdc_internal.count_removed(regclass,tid[],date)',
    'audit_cdc_internal.ddl_to_erase(audit_cdc_internal.to_erase)',
    'audit_cdc_internal.described_columns(text,text,text)',
    'audit_cdc_internal.drop_month(regclass)',
    'audit_cdc_internal.empty_left(text)',
    'audit_cdc_internal.entries_of(audit_cdc_internal.audited,text[],bigint,boolean)',
    'audit_cdc_internal.entries_of_keys(timestamp with time zone[],uuid[])',
    'audit_cdc_internal.entries_to_erase(audit_cdc_internal.to_erase)',
    'audit_cdc_internal.erase_argument(text,text[],text,audit_cdc_internal.audited)',
    'audit_cdc_internal.erase_each(audit_cdc_internal.to_erase,text)',
    'audit_cdc_internal.erase_found(audit_cdc_internal.to_erase,text)',
    'audit_cdc_internal.erase_keys(audit_cdc_internal.audited,text[],text)',
    'audit_cdc_internal.erase_rejects(bigint[])',
    'audit_cdc_internal.erase_statistics(oid[],text[],text[])',
    'audit_cdc_internal.erase_user_elsewhere(audit_cdc_internal.to_erase,text,uuid[])',
    'audit_cdc_internal.erased_texts(audit_cdc_internal.to_erase)',
    'audit_cdc_internal.erasure_doubts(text[],text[])',
    'audit_cdc_internal.erasure_lines(audit_cdc_internal.to_erase,bigint[])',
    'audit_cdc_internal.events_of(audit_cdc_internal.audited,text[],bigint,boolean)',
    'audit_cdc_internal.events_of_records(audit_cdc_internal.audited,text[])',
    'audit_cdc_internal.find_to_erase(text,text,jsonb,text,text[],text)',
    'audit_cdc_internal.finish_move(text)',
    'audit_cdc_internal.follow_masks(jsonb)',
    'audit_cdc_internal.found_masks()',
    'audit_cdc_internal.has_columns(audit_cdc_internal.log,text[])',
    'audit_cdc_internal.has_days(timestamp with time zone)',
    'audit_cdc_internal.has_masks_here()',
    'audit_cdc_internal.has_strangers_code(oid,oid)',
    'audit_cdc_internal.held_of_erasure(audit_cdc_internal.to_erase,bigint[])',
    'audit_cdc_internal.holds_of(audit_cdc_internal.log)',
    'audit_cdc_internal.holds_of_ddl(audit_cdc_internal.schema_change_positions)',
    'audit_cdc_internal.holds_of_reject(audit_cdc_internal.rejects)',
    'audit_cdc_internal.is_elsewhere(text)',
    'audit_cdc_internal.is_held(audit_cdc_internal.log)',
    'audit_cdc_internal.is_in_key(audit_cdc_internal.log,text[],text[])',
    'audit_cdc_internal.is_referred_since(oid,bigint[])',
    'audit_cdc_internal.is_seen_by_all(xid8)',
    'audit_cdc_internal.is_to_be_divided(timestamp with time zone)',
    'audit_cdc_internal.keep_on(text,text)',
    'audit_cdc_internal.kept_statement()',
    'audit_cdc_internal.keys_of_records(audit_cdc_internal.audited,text[])',
    'audit_cdc_internal.known_columns(text,text,text)',
    'audit_cdc_internal.known_elsewhere(text,timestamp with time zone[],uuid[])',
    'audit_cdc_internal.lacking_masks()',
    'audit_cdc_internal.last_settled_number()',
    'audit_cdc_internal.leniency(text)',
    'audit_cdc_internal.link(text,text,text,oid)',
    'audit_cdc_internal.links_changed()',
    'audit_cdc_internal.lock_ddl()',
    'audit_cdc_internal.make_copy_here(text,text)',
    'audit_cdc_internal.make_copy_there(text,text,name,oid)',
    'audit_cdc_internal.make_mask_secret()',
    'audit_cdc_internal.make_partition(text,text)',
    'audit_cdc_internal.mask_former_names()',
    'audit_cdc_internal.masked_column(text[],text)',
    'audit_cdc_internal.masked_columns(jsonb)',
    'audit_cdc_internal.masked_doubt(jsonb)',
    'audit_cdc_internal.masked_names(text,text,text)',
    'audit_cdc_internal.masked_path(text[],text)',
    'audit_cdc_internal.masked_relation(text,text,text)',
    'audit_cdc_internal.masks_set(text,text,text)',
    'audit_cdc_internal.may_be_anothers(audit_cdc_internal.audited)',
    'audit_cdc_internal.may_name(audit_cdc_internal.audited,text,text,text)',
    'audit_cdc_internal.move_batch(text,timestamp with time zone,uuid)',
    'audit_cdc_internal.news_of_masks()',
    'audit_cdc_internal.node_to_read(text)',
    'audit_cdc_internal.not_sent(audit_cdc_internal.log)',
    'audit_cdc_internal.not_sent_before(@extschema@.audit_history_line[])',
    'audit_cdc_internal.note_operation(text,jsonb,jsonb,text)',
    'audit_cdc_internal.noted(jsonb,text[],text[],jsonb,text)',
    'audit_cdc_internal.noted_values(jsonb)',
    'audit_cdc_internal.old_columns_not_sent(text,jsonb,jsonb,jsonb,text,text[],text[])',
    'audit_cdc_internal.only_table_named(text[],text,oid,boolean)',
    'audit_cdc_internal.own_notes(audit_cdc_internal.log)',
    'audit_cdc_internal.partitions_left(text)',
    'audit_cdc_internal.partitions_of_month(text)',
    'audit_cdc_internal.partitions_to_clear()',
    'audit_cdc_internal.partitions_to_move(text,name)',
    'audit_cdc_internal.parts_of_type(oid)',
    'audit_cdc_internal.parts_to_erase(audit_cdc_internal.to_erase)',
    'audit_cdc_internal.places_of(audit_cdc_internal.audited,text[],bigint,boolean)',
    'audit_cdc_internal.readable_as(audit_cdc_internal.audited,oid)',
    'audit_cdc_internal.records_holding(integer[],jsonb)',
    'audit_cdc_internal.refuse_elsewhere(text[],text)',
    'audit_cdc_internal.refuse_held(bigint)',
    'audit_cdc_internal.refuse_masked_key(text,text,text,text[])',
    'audit_cdc_internal.rejects_to_erase(audit_cdc_internal.to_erase,text[])',
    'audit_cdc_internal.removal_doubts(text[],text[],timestamp with time zone,timestamp with time zone,boolean)',
    'audit_cdc_internal.remove_rows(tid[],regclass)',
    'audit_cdc_internal.require_read_committed()',
    'audit_cdc_internal.rewrite_entries(regclass,bigint[],audit_cdc_internal.to_erase,text,text)',
    'audit_cdc_internal.rows_of(regclass,boolean,integer)',
    'audit_cdc_internal.say_busy(text)',
    'audit_cdc_internal.say_elsewhere()',
    'audit_cdc_internal.say_lost_masks()',
    'audit_cdc_internal.say_month_busy()',
    'audit_cdc_internal.say_not_found(audit_cdc_internal.to_erase,boolean)',
    'audit_cdc_internal.say_unarchived(date)',
    'audit_cdc_internal.say_unknown_columns(text,text,text,text[])',
    'audit_cdc_internal.server_context()',
    'audit_cdc_internal.server_word(audit_cdc_internal.event)',
    'audit_cdc_internal.set_horizons()',
    'audit_cdc_internal.settle_masks()',
    'audit_cdc_internal.show_all_logs()',
    'audit_cdc_internal.signs_of_doubt(text[],text)',
    'audit_cdc_internal.stands_elsewhere(text)',
    'audit_cdc_internal.start_move(text,name,oid)',
    'audit_cdc_internal.stop_writers()',
    'audit_cdc_internal.store_elsewhere(text)',
    'audit_cdc_internal.strangers_refer(oid,bigint[])',
    'audit_cdc_internal.swap_month(text,bigint)',
    'audit_cdc_internal.take_back_stop(name,name)',
    'audit_cdc_internal.told_key(text)',
    'audit_cdc_internal.told_of(audit_cdc_internal.audited,boolean)',
    'audit_cdc_internal.told_user(text)',
    'audit_cdc_internal.try_node(text)',
    'audit_cdc_internal.unlink(text)',
    'audit_cdc_internal.waits_for_archive(date)',
    'audit_cdc_internal.with_statistics(oid[],text[],text[])',
    'audit_cdc_internal.without_annotations(audit_cdc_internal.log,text,text)',
    'audit_cdc_internal.without_notes(jsonb,text[])',
    'audit_cdc_internal.without_texts(jsonb,text[])',
    'audit_cdc_internal.without_user(jsonb,text)',
    'audit_cdc_internal.without_values(audit_cdc_internal.log,text[],text[],text,text)',
    'audit_cdc_internal.written_along(oid)',
    '@extschema@.audit_apply_retention(boolean,integer,bigint)',
    '@extschema@.audit_move_month(text,name,bigint)',
    '@extschema@.audit_return_month(text,bigint)',
    'audit_cdc_internal.move_month(text,name,bigint)',
    'audit_cdc_internal.wait_for_snapshots(xid8)']::regprocedure[]) AS o(it);
SELECT audit_cdc_internal.keep_private('pg_class'::regclass, o.it)
  FROM unnest(ARRAY[
    'audit_cdc_internal.erasures_id_seq',
    'audit_cdc_internal.holds_id_seq',
    'audit_cdc_internal.masks_id_seq',
    'audit_cdc_internal.operations_id_seq',
    'audit_cdc_internal.archives',
    'audit_cdc_internal.erasures',
    'audit_cdc_internal.holds',
    'audit_cdc_internal.horizons',
    'audit_cdc_internal.links',
    'audit_cdc_internal.masks',
    'audit_cdc_internal.months_elsewhere',
    'audit_cdc_internal.operations',
    'audit_cdc_internal.removals',
    'audit_cdc_internal.retention_rules',
    '@extschema@.audit_all_logs',
    '@extschema@.audit_archives',
    '@extschema@.audit_erasures',
    '@extschema@.audit_holds',
    '@extschema@.audit_links',
    '@extschema@.audit_masks',
    '@extschema@.audit_operations',
    '@extschema@.audit_removed',
    '@extschema@.audit_retention_rules',
    'audit_cdc_internal.archive_states',
    'audit_cdc_internal.archived_months',
    'audit_cdc_internal.cutoffs',
    'audit_cdc_internal.expired',
    'audit_cdc_internal.held_tables',
    'audit_cdc_internal.link_tables',
    'audit_cdc_internal.masks_here',
    'audit_cdc_internal.partition_families',
    'audit_cdc_internal.with_holds']::regclass[]) AS o(it);
SELECT audit_cdc_internal.keep_private('pg_type'::regclass, o.it)
  FROM unnest(ARRAY[
    'audit_cdc_internal.to_erase']::regtype[]) AS o(it);
-- To newer versions of PostgreSQL their row types are members too.
SELECT audit_cdc_internal.keep_private('pg_type'::regclass, c.reltype)
  FROM pg_class AS c
  JOIN pg_depend AS d ON d.classid = 'pg_type'::regclass AND d.objid = c.reltype AND d.deptype = 'e'
  WHERE c.oid = ANY (ARRAY[
    'audit_cdc_internal.erasures_id_seq',
    'audit_cdc_internal.holds_id_seq',
    'audit_cdc_internal.masks_id_seq',
    'audit_cdc_internal.operations_id_seq',
    'audit_cdc_internal.archives',
    'audit_cdc_internal.erasures',
    'audit_cdc_internal.holds',
    'audit_cdc_internal.horizons',
    'audit_cdc_internal.links',
    'audit_cdc_internal.masks',
    'audit_cdc_internal.months_elsewhere',
    'audit_cdc_internal.operations',
    'audit_cdc_internal.removals',
    'audit_cdc_internal.retention_rules',
    '@extschema@.audit_all_logs',
    '@extschema@.audit_archives',
    '@extschema@.audit_erasures',
    '@extschema@.audit_holds',
    '@extschema@.audit_links',
    '@extschema@.audit_masks',
    '@extschema@.audit_operations',
    '@extschema@.audit_removed',
    '@extschema@.audit_retention_rules',
    'audit_cdc_internal.archive_states',
    'audit_cdc_internal.archived_months',
    'audit_cdc_internal.cutoffs',
    'audit_cdc_internal.expired',
    'audit_cdc_internal.held_tables',
    'audit_cdc_internal.link_tables',
    'audit_cdc_internal.masks_here',
    'audit_cdc_internal.partition_families',
    'audit_cdc_internal.with_holds']::regclass[]);
SELECT audit_cdc_internal.keep_from_writers(o.it)
  FROM unnest(ARRAY[
    'audit_cdc_internal.archives',
    'audit_cdc_internal.erasures',
    'audit_cdc_internal.holds',
    'audit_cdc_internal.horizons',
    'audit_cdc_internal.links',
    'audit_cdc_internal.masks',
    'audit_cdc_internal.months_elsewhere',
    'audit_cdc_internal.operations',
    'audit_cdc_internal.removals',
    'audit_cdc_internal.retention_rules']::regclass[]) AS o(it);
GRANT EXECUTE ON ROUTINE @extschema@.audit_archive_failed(date,text,text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_archived(date,text,bigint,text,bigint,bigint,bigint) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_capture_status() TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE @extschema@.audit_drop_retention(text,text,text,text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_erase(text,text,text,jsonb,text,text[],text,boolean) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_expired() TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_hold(text,text,text,text,text,text,text,text,timestamp with time zone,
      timestamp with time zone) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_link(text,text,text) TO audit_cdc_admin;
GRANT EXECUTE ON ROUTINE @extschema@.audit_link_status() TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE @extschema@.audit_mask(text,text,text[],text,text,text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_month_table(text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_release(text,text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_set_retention(interval,text,text,text,text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_take_over_months(text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_unlink(text) TO audit_cdc_admin;
GRANT EXECUTE ON ROUTINE @extschema@.audit_unmask(text,text,text[],text,text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.begin_move(text,text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.check_apply(boolean,integer) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.clear_partition(text,integer) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.clear_partition(text,integer) TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.clear_rejects() TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.clear_rejects() TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.clear_unnamed(text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.clear_unnamed(text) TO audit_cdc_worker;
REVOKE EXECUTE ON ROUTINE audit_cdc_internal.code_owners(oid) FROM audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.columns_not_sent(text,jsonb,jsonb,text,text[],text[],text[])
      TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.columns_not_sent(text,jsonb,jsonb,text,text[],text[],text[])
      TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.connects(text) TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.empty_left(text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.entries_of_keys(timestamp with time zone[],uuid[]) TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.finish_move(text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.is_referred_since(oid,bigint[]) TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.is_seen_by_all(xid8) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.known_elsewhere(text,timestamp with time zone[],uuid[]) TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.masked_columns(jsonb) TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.masked_columns(jsonb) TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.may_be_anothers(audit_cdc_internal.audited) TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.move_batch(text,timestamp with time zone,uuid) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.node_to_read(text) TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.old_columns_not_sent(text,jsonb,jsonb,jsonb,text,text[],text[])
      TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.old_columns_not_sent(text,jsonb,jsonb,jsonb,text,text[],text[])
      TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.partitions_left(text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.partitions_to_clear() TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.partitions_to_clear() TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.partitions_to_move(text,name) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.parts_of_type(oid) TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.readable_as(audit_cdc_internal.audited,oid) TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.say_busy(text) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.say_elsewhere() TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.say_elsewhere() TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.say_month_busy() TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.set_horizons() TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.set_horizons() TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.store_elsewhere(text) TO audit_cdc_worker;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.try_node(text) TO audit_cdc_reader;
GRANT EXECUTE ON ROUTINE @extschema@.audit_apply_retention(boolean,integer,bigint) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_move_month(text,name,bigint) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE @extschema@.audit_return_month(text,bigint) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.move_month(text,name,bigint) TO audit_cdc_keeper;
GRANT EXECUTE ON ROUTINE audit_cdc_internal.wait_for_snapshots(xid8) TO audit_cdc_keeper;
GRANT USAGE ON SCHEMA audit_cdc_internal TO audit_cdc_keeper;
GRANT SELECT ON TABLE audit_cdc_internal.archives TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.erasures TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.holds TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.horizons TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.links TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.masks TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.months_elsewhere TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.operations TO audit_cdc_worker;
GRANT INSERT ON TABLE audit_cdc_internal.removals TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.removals TO audit_cdc_worker;
GRANT UPDATE ON TABLE audit_cdc_internal.removals TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.retention_rules TO audit_cdc_worker;
GRANT SELECT ON TABLE @extschema@.audit_all_logs TO audit_cdc_reader;
GRANT SELECT ON TABLE @extschema@.audit_archives TO audit_cdc_reader;
GRANT SELECT ON TABLE @extschema@.audit_erasures TO audit_cdc_reader;
GRANT SELECT ON TABLE @extschema@.audit_holds TO audit_cdc_reader;
GRANT SELECT ON TABLE @extschema@.audit_links TO audit_cdc_reader;
GRANT SELECT ON TABLE @extschema@.audit_masks TO audit_cdc_reader;
GRANT SELECT ON TABLE @extschema@.audit_operations TO audit_cdc_reader;
GRANT SELECT ON TABLE @extschema@.audit_removed TO audit_cdc_reader;
GRANT SELECT ON TABLE @extschema@.audit_retention_rules TO audit_cdc_reader;
GRANT SELECT ON TABLE audit_cdc_internal.archive_states TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.archived_months TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.cutoffs TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.expired TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.held_tables TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.link_tables TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.masks_here TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.partition_families TO audit_cdc_worker;
GRANT SELECT ON TABLE audit_cdc_internal.with_holds TO audit_cdc_worker;
DO $$
DECLARE
  strangers text;
BEGIN
  SELECT string_agg(p.oid::regprocedure::text, ', ')
  INTO strangers
  FROM pg_proc AS p
  JOIN pg_roles AS r ON r.oid = p.proowner
  WHERE p.pronamespace = '@extschema@'::regnamespace
    AND NOT r.rolsuper
    AND r.rolname <> 'audit_cdc_worker'
    AND NOT EXISTS (
      SELECT FROM pg_depend AS d
      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    )
    AND p.proname IN (
      SELECT o.proname
      FROM pg_proc AS o
      JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = o.oid AND d.deptype = 'e'
      JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
      WHERE e.extname = 'audit_cdc' AND o.pronamespace = p.pronamespace
    );
  IF strangers IS NOT NULL THEN
    RAISE EXCEPTION 'schema "%" has functions of others with names of this extension''s', '@extschema@'
      USING ERRCODE = 'duplicate_function', DETAIL = strangers, HINT = 'Drop them, or install into another schema.';
  END IF;
END
$$;
DO $$
DECLARE
  pinned record;
BEGIN
  FOR pinned IN
    SELECT p.oid::pg_catalog.regprocedure AS function, s.name, s.value
    FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang AND (l.lanname <> 'c' OR p.provolatile <> 'v')
    JOIN pg_catalog.pg_depend AS d
      ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_catalog.pg_extension AS e
      ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
        AND e.oid = d.refobjid
        AND e.extname = 'audit_cdc'
    CROSS JOIN audit_cdc_internal.pinned_settings() AS s
    JOIN pg_catalog.pg_settings AS known ON known.name = s.name AND known.context = 'user'
    WHERE p.prosecdef AND s.name <> 'search_path' AND coalesce(p.proconfig::text, '') !~ (s.name || '=')
  LOOP
    EXECUTE pg_catalog.format('ALTER FUNCTION %s SET %I = %L', pinned.function, pinned.name, pinned.value);
  END LOOP;
END
$$;

SELECT audit_cdc_internal.note_operation(
  'ALTER EXTENSION', jsonb_build_object('from', '0.1.0', 'to', '0.2.0'));
