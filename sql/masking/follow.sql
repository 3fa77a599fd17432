-- Masks follow what DDL of this database makes of a table: another name of it or of a column, or another family of
-- partitions. Whoever writes in REPEATABLE READ has an old snapshot: C asks what is to be done, as all others see it.

CREATE FUNCTION audit_cdc_internal.leniency(how text) RETURNS integer
  LANGUAGE sql IMMUTABLE
  RETURN array_position(ARRAY['omit', 'hash', 'partial'], how);

-- Of two masks the one that keeps less.
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

-- Masks that may be of tables here, with the names that their tables and columns have now. A mask whose table has not
-- been found yet has none.
CREATE VIEW audit_cdc_internal.masks_here AS
  SELECT m.*, h.id AS here, c.oid AS relation_now, n.nspname::text AS schema_now, c.relname::text AS name_now,
         coalesce(a.attname::text, m.masked_column) AS column_now
  FROM audit_cdc_internal.masks AS m
  CROSS JOIN (SELECT audit_cdc_internal.this_database() ->> 'id' AS id) AS h
  LEFT JOIN pg_class AS c ON c.oid = m.relation AND m.relation_in = h.id
  LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = m.column_number AND NOT a.attisdropped
  WHERE m.unmasked_at IS NULL AND coalesce(m.database_id = h.id, true);

-- What tables here lack: masks under their names of now. Of a family all have what one has. null: nothing.
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

-- Of which tables and columns here masks are, by their names, and which names are former ones. null: no news.
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

-- What follow_masks() has to do; null: nothing.
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

-- What is committed and not captured yet may come under names that tables and columns had before.
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

-- Masks of this database that name what is not here, and never was.
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
