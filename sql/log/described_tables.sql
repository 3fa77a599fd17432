-- What a source says of its tables (sql/describe_source.sql asks it), each with the time from which it holds.
CREATE TABLE audit_cdc_internal.described_tables (
  database_id text NOT NULL,
  table_schema text NOT NULL,
  table_name text NOT NULL,
  valid_from timestamptz NOT NULL,
  replica_identity text NOT NULL CHECK (replica_identity IN ('full', 'default', 'index', 'nothing')),
  key_columns text[] NOT NULL,
  identity_columns text[] NOT NULL,
  column_types jsonb NOT NULL,
  never_sent text[] NOT NULL,
  null_in_reads text[] NOT NULL,
  key_types text[], -- as audit_cdc_internal.spelled_types gives them
  confirmed_at timestamptz NOT NULL, -- the latest time at which the source said the same
  PRIMARY KEY (database_id, table_schema, table_name, valid_from)
);
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.described_tables', '');

CREATE FUNCTION audit_cdc_internal.latest_key_types(database_id text, table_schema text, table_name text) RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT d.key_types
  FROM audit_cdc_internal.described_tables AS d
  WHERE (d.database_id, d.table_schema, d.table_name)
      = (latest_key_types.database_id, latest_key_types.table_schema, latest_key_types.table_name)
  ORDER BY d.valid_from DESC
  LIMIT 1;
END;

CREATE VIEW @extschema@.audit_described_tables AS
  SELECT
    database_id, table_schema, table_name, valid_from,
    lead(valid_from, 1, 'infinity') OVER (PARTITION BY database_id, table_schema, table_name ORDER BY valid_from)
      AS valid_to,
    replica_identity, key_columns, identity_columns, column_types, never_sent, null_in_reads
  FROM audit_cdc_internal.described_tables;
COMMENT ON VIEW @extschema@.audit_described_tables IS
  'what sources said of their tables, each description with the time for which it holds';
COMMENT ON COLUMN @extschema@.audit_described_tables.database_id IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_described_tables.table_schema IS 'schema of the table in the source';
COMMENT ON COLUMN @extschema@.audit_described_tables.table_name IS
  'the table, or a parent under which its changes are reported';
COMMENT ON COLUMN @extschema@.audit_described_tables.valid_from IS 'commit time from which the description holds';
COMMENT ON COLUMN @extschema@.audit_described_tables.valid_to IS
  'commit time from which the next one holds; infinity for the last';
COMMENT ON COLUMN @extschema@.audit_described_tables.replica_identity IS
  'full, default, index or nothing; the weakest of all partitions';
COMMENT ON COLUMN @extschema@.audit_described_tables.key_columns IS 'primary key, in column order; empty for none';
COMMENT ON COLUMN @extschema@.audit_described_tables.identity_columns IS
  'columns that a delete carries where the identity is not full';
COMMENT ON COLUMN @extschema@.audit_described_tables.column_types IS 'column name to type, as format_type() writes it';
COMMENT ON COLUMN @extschema@.audit_described_tables.never_sent IS 'generated columns';
COMMENT ON COLUMN @extschema@.audit_described_tables.null_in_reads IS
  'columns whose type Sequin''s backfill sends as null (Sequin source, lib/sequin/runtime/table_reader.ex)';

-- Is it what describe_source.sql returns?
CREATE FUNCTION audit_cdc_internal.check_description(description jsonb) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF jsonb_typeof(description -> 'tables') IS DISTINCT FROM 'array'
    OR jsonb_typeof(description -> 'described_at') IS DISTINCT FROM 'string'
    OR jsonb_path_exists(
      description,
      '$.tables[*] ? (@.type() != "object" || @.table_schema.type() != "string" || @.table_name.type() != "string"
          || !exists(@.table_schema) || !exists(@.table_name)
          || !exists(@.replica_identity ? (@ == "full" || @ == "default" || @ == "index" || @ == "nothing"))
          || @.key_columns.type() != "array" || @.identity_columns.type() != "array"
          || @.column_types.type() != "object" || @.never_sent.type() != "array" || @.null_in_reads.type() != "array"
          || !exists(@.key_columns) || !exists(@.identity_columns) || !exists(@.column_types)
          || !exists(@.never_sent) || !exists(@.null_in_reads))')
    OR (
      SELECT count(*) > count(DISTINCT (t -> 'table_schema', t -> 'table_name'))
      FROM jsonb_array_elements(description -> 'tables') AS t
    ) THEN
    RAISE EXCEPTION 'description is not what describe_source.sql returns'
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Run describe_source.sql in the source database and pass its one value.';
  END IF;
  PERFORM audit_cdc_internal.refuse_long(n.name, t.it ->> n.name)
  FROM jsonb_array_elements(description -> 'tables') AS t(it), (VALUES ('table_schema'), ('table_name')) AS n(name);
END
$$;

-- Keeps what a source has said of a table, unless it had said the same. True: it is new or changed.
CREATE FUNCTION audit_cdc_internal.keep_description(said audit_cdc_internal.described_tables) RETURNS boolean
  LANGUAGE plpgsql AS $$
DECLARE
  before audit_cdc_internal.described_tables;
  types_before text[];
  types_now text[];
BEGIN
  SELECT k.* INTO before FROM audit_cdc_internal.described_tables AS k
  WHERE k.database_id = said.database_id AND k.table_schema = said.table_schema AND k.table_name = said.table_name
    AND k.valid_from <= said.valid_from
  ORDER BY k.valid_from DESC LIMIT 1;
  IF (before.replica_identity, before.key_columns, before.identity_columns, before.column_types,
      before.never_sent, before.null_in_reads)
    IS NOT DISTINCT FROM (said.replica_identity, said.key_columns, said.identity_columns, said.column_types,
                          said.never_sent, said.null_in_reads) THEN
    UPDATE audit_cdc_internal.described_tables AS k SET confirmed_at = greatest(k.confirmed_at, said.valid_from)
    WHERE (k.database_id, k.table_schema, k.table_name, k.valid_from)
        = (before.database_id, before.table_schema, before.table_name, before.valid_from);
    RETURN false;
  END IF;

  -- descriptions may come out of order: what was said again later holds again from then
  IF before.confirmed_at > said.valid_from THEN
    before.valid_from := before.confirmed_at;
    INSERT INTO audit_cdc_internal.described_tables SELECT before.* ON CONFLICT DO NOTHING;
  END IF;
  types_before := audit_cdc_internal.latest_key_types(said.database_id, said.table_schema, said.table_name);
  INSERT INTO audit_cdc_internal.described_tables SELECT said.*
  ON CONFLICT ON CONSTRAINT described_tables_pkey DO UPDATE
  SET replica_identity = excluded.replica_identity,
      key_columns = excluded.key_columns,
      identity_columns = excluded.identity_columns,
      column_types = excluded.column_types,
      never_sent = excluded.never_sent,
      null_in_reads = excluded.null_in_reads,
      key_types = excluded.key_types,
      confirmed_at = excluded.confirmed_at;
  types_now := audit_cdc_internal.latest_key_types(said.database_id, said.table_schema, said.table_name);
  IF types_now IS DISTINCT FROM types_before THEN
    PERFORM audit_cdc_internal.respell_record_keys(said.database_id, said.table_schema, said.table_name, types_now);
  END IF;
  RETURN true;
END
$$;

CREATE FUNCTION @extschema@.audit_describe_tables(
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
COMMENT ON FUNCTION @extschema@.audit_describe_tables(text, jsonb, timestamptz) IS
  'Keeps a source''s description of its tables and returns how many are new or changed. database_id: as in '
  'audit_logs. description: the value that describe_source.sql returns in the source. valid_from: from when it '
  'holds; null: from when it was made. Errors: 22004 (null), 55000 (this database, or another that was captured), '
  '22023 (not a description, or a name longer than 500 bytes), 22007 (described_at is no time), 22008 (the time is '
  'infinite). A NOTICE tells when the log has no entry of that database.';
