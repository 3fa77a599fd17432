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
    database_id, table_schema, table_name, masked, masked_column, path, how, reason, relation_in, relation,
    column_number)
  VALUES (
    mask.database_id, mask.table_schema, mask.table_name, array_to_string(mask.masked_column || mask.path, '->'),
    mask.masked_column, mask.path, mask.how, mask.reason, mask.relation_in, mask.relation, mask.column_number)
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

-- What tables here lack: masks under their names of now. null: nothing.
CREATE FUNCTION audit_cdc_internal.lacking_masks() RETURNS jsonb LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT jsonb_agg(jsonb_build_object(
    'database_id', l.database_id, 'table_schema', l.schema, 'table_name', l.name, 'masked_column', l.column_now,
    'path', l.path, 'how', l.how, 'relation_in', l.here, 'relation', l.relid, 'column_number', a.attnum,
    'reason', CASE WHEN l.relid = l.relation THEN 'renamed' ELSE 'partition' END))
  FROM (
    SELECT m.*, f.relid, n.nspname::text AS schema, c.relname::text AS name
    FROM audit_cdc_internal.masks_here AS m
    CROSS JOIN LATERAL (
      SELECT m.relation_now
      UNION
      SELECT t.relid FROM pg_partition_tree(pg_partition_root(m.relation_now)) AS t
    ) AS f(relid)
    JOIN pg_class AS c ON c.oid = f.relid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE NOT m.is_former
  ) AS l
  LEFT JOIN pg_attribute AS a ON a.attrelid = l.relid AND a.attname = l.column_now AND NOT a.attisdropped
  WHERE NOT EXISTS (
    SELECT FROM audit_cdc_internal.masks AS m
    WHERE m.unmasked_at IS NULL
      AND m.database_id IS NOT DISTINCT FROM l.database_id
      AND (m.table_schema, m.table_name, m.masked_column, m.path) = (l.schema, l.name, l.column_now, l.path)
      AND audit_cdc_internal.leniency(m.how) <= audit_cdc_internal.leniency(l.how));
END;

-- Of which tables and columns here masks are, by their names, and which names are former ones. null: no news.
CREATE FUNCTION audit_cdc_internal.found_masks() RETURNS jsonb LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT jsonb_agg(jsonb_build_object(
    'id', m.id, 'relation_in', m.here, 'relation', f.relation, 'column_number', f.column_number,
    'is_former', f.is_former))
  FROM audit_cdc_internal.masks_here AS m
  LEFT JOIN LATERAL (
    SELECT r.relation::oid AS relation, a.attnum AS column_number
    FROM audit_cdc_internal.masked_relation(m.here, m.table_schema, m.table_name) AS r(relation)
    LEFT JOIN pg_attribute AS a ON a.attrelid = r.relation AND a.attname = m.masked_column AND NOT a.attisdropped
    WHERE r.relation IS NOT NULL
  ) AS named ON true
  CROSS JOIN LATERAL (
    SELECT coalesce(named.relation, m.relation_now) AS relation,
           CASE WHEN named.relation IS NULL OR named.relation = m.relation_now
             THEN coalesce(named.column_number, CASE WHEN m.relation_now IS NOT NULL THEN m.column_number END)
             ELSE named.column_number END AS column_number,
           named.column_number IS NULL AND (m.is_former OR coalesce(
             (m.schema_now, m.name_now, m.column_now) <> (m.table_schema, m.table_name, m.masked_column), false))
             AS is_former
  ) AS f
  WHERE (m.relation, m.column_number, m.is_former, m.relation_in)
        IS DISTINCT FROM (f.relation, f.column_number, f.is_former, m.here);
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
  SET relation_in = f.relation_in, relation = f.relation, column_number = f.column_number, is_former = f.is_former
  FROM jsonb_populate_recordset(NULL::audit_cdc_internal.masks, coalesce(news -> 'found', '[]')) AS f
  WHERE m.id = f.id;
END;

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
      HINT = 'Is the name spelled wrongly, or has the database another id? Then mask anew.';
  END IF;
END
$$;
