-- Which values are never stored. src/ingest/masks.rs puts masks on, crates/core/src/mask says what becomes of a value.

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

-- What ingest reads changes: every ingest has ended, and the next sees it.
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

-- The table here, if the mask is of this database; null: there is none.
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

-- Tables here that partitions make one, each with its root. PostgreSQL's functions for it would lock them all.
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

-- Under whose names changes of a table are told: it and, of a partition, its family.
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

-- Masks that are set of a table and its family, also of partitions that are gone.
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

-- Of a name that a table here or a description has, the column. Of others what stands before the first ->.
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

-- Columns of the table, as far as anybody knows them.
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

-- A record is found by its key, so no mask may change it.
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

-- A name that is spelled wrongly masks nothing.
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
