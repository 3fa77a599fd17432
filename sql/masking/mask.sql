-- Masks are set and ended.

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
  FROM audit_cdc_internal.masked_names(database_id, table_schema, table_name) AS n
  WHERE m.unmasked_at IS NULL
    AND m.database_id IS NOT DISTINCT FROM database_id
    AND (m.table_schema, m.table_name) = (n.schema, n.name)
    AND m.masked = ANY (columns)
    AND m.how <> how;
  INSERT INTO audit_cdc_internal.masks (
    database_id, table_schema, table_name, masked, masked_column, path, how, reason)
  SELECT DISTINCT database_id, n.schema, n.name, c, audit_cdc_internal.masked_column(known, c),
         audit_cdc_internal.masked_path(known, c), how, reason
  FROM audit_cdc_internal.masked_names(database_id, table_schema, table_name) AS n, unnest(columns) AS c
  ON CONFLICT DO NOTHING;
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
  'A NOTICE tells of columns that nobody knows. Errors: 22004 (null), 22023 (another how, no column, a name longer '
  'than 500 bytes), 0A000 (a column of the primary key), 58030 (the secret of masks cannot be read or written).';

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
  FROM audit_cdc_internal.masked_names(database_id, table_schema, table_name) AS n
  WHERE m.unmasked_at IS NULL
    AND m.database_id IS NOT DISTINCT FROM database_id
    AND (m.table_schema, m.table_name) = (n.schema, n.name)
    AND coalesce(m.masked = ANY (columns), true);
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

CREATE FUNCTION audit_cdc_internal.leniency(how text) RETURNS integer
  LANGUAGE sql IMMUTABLE
  RETURN array_position(ARRAY['omit', 'hash', 'partial'], how);

-- Masks of this database that name what is not here. A table may have got another name while nothing was captured. Or
-- the database has another id.
CREATE FUNCTION audit_cdc_internal.say_lost_masks() RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  lost CONSTANT text := (
    SELECT string_agg(format('%I.%I %s', m.table_schema, m.table_name, m.masked), ', ' ORDER BY m.id)
    FROM audit_cdc_internal.masks AS m
    WHERE m.unmasked_at IS NULL
      AND CASE
        WHEN m.database_id <> here
          THEN m.database_id <> ALL (audit_cdc_internal.one_log(here))
            AND m.database_id IN (SELECT c.database_id FROM audit_cdc_internal.captured_databases AS c)
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
      HINT = 'Were tables or columns given other names, or the database another id? Then mask them anew.';
  END IF;
END
$$;

-- Masks follow what DDL of this database makes of a table: another name of it or of a column, or a new partition.
CREATE FUNCTION audit_cdc_internal.masks_follow(before jsonb, after jsonb, parent oid) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  WITH masks AS MATERIALIZED (
    SELECT m.*
    FROM audit_cdc_internal.masks AS m
    WHERE m.unmasked_at IS NULL AND coalesce(m.database_id = audit_cdc_internal.this_database() ->> 'id', true)
  ), renamed AS (
    SELECT b.it ->> 'name' AS old_name, a.it ->> 'name' AS new_name
    FROM jsonb_array_elements(masks_follow.before -> 'columns') AS b(it)
    JOIN jsonb_array_elements(masks_follow.after -> 'columns') AS a(it) ON a.it -> 'number' = b.it -> 'number'
    WHERE a.it -> 'name' <> b.it -> 'name'
  ), following AS (
    SELECT m.database_id, m.how, 'renamed' AS reason,
           coalesce(r.new_name, m.masked_column) AS masked_column, m.path
    FROM masks AS m
    LEFT JOIN renamed AS r ON r.old_name = m.masked_column
    WHERE m.table_schema = masks_follow.before ->> 'schema' AND m.table_name = masks_follow.before ->> 'name'
    UNION ALL
    SELECT m.database_id, m.how, 'partition', m.masked_column, m.path
    FROM masks AS m
    JOIN pg_class AS c ON c.oid = masks_follow.parent AND c.relname = m.table_name
    JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = m.table_schema
  )
  INSERT INTO audit_cdc_internal.masks AS there (
    database_id, table_schema, table_name, masked, masked_column, path, how, reason)
  SELECT DISTINCT ON (f.database_id, f.masked_column, f.path)
         f.database_id, masks_follow.after ->> 'schema', masks_follow.after ->> 'name',
         array_to_string(f.masked_column || f.path, '->'), f.masked_column, f.path, f.how, f.reason
  FROM following AS f
  WHERE masks_follow.after IS NOT NULL
  ORDER BY f.database_id, f.masked_column, f.path, audit_cdc_internal.leniency(f.how)
  -- of two masks the one that keeps less
  ON CONFLICT (database_id, table_schema, table_name, masked_column, path) WHERE unmasked_at IS NULL
  DO UPDATE SET how = excluded.how, reason = excluded.reason
  WHERE audit_cdc_internal.leniency(there.how) > audit_cdc_internal.leniency(excluded.how);
END;

-- What the client sent, as far as it may be kept: nobody can tell which values stand in it.
CREATE FUNCTION audit_cdc_internal.kept_statement() RETURNS text
  LANGUAGE sql STABLE
  RETURN CASE
    WHEN NOT EXISTS (
      SELECT FROM audit_cdc_internal.masks AS m
      WHERE m.unmasked_at IS NULL AND coalesce(m.database_id = audit_cdc_internal.this_database() ->> 'id', true)
    )
      THEN current_query()
  END;
