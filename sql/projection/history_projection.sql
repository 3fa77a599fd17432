-- The obvious projection: every change of one table as a typed row. Both functions run with the caller's rights.

-- The checks of these types, and of those that they are made of, would run with the caller's rights: their owners must
-- have them.
CREATE FUNCTION audit_cdc_internal.refuse_foreign_types(types regtype[]) RETURNS void
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

-- The rule that fills such a table. A star, so that a column that the table gains is filled by a rebuild.
CREATE FUNCTION audit_cdc_internal.history_rule(
    history text, database_id text, table_schema text, table_name text) RETURNS text
  LANGUAGE sql STABLE
  RETURN format(
    'SELECT r.*
FROM @extschema@.audit_new_logs AS l
CROSS JOIN LATERAL audit_cdc_internal.typed_row(NULL::%s,
  coalesce(l.new_values, l.old_values, ''{}'') || jsonb_build_object(
    ''audit_id'', l.id, ''audit_database_id'', l.database_id, ''audit_action'', l.action,
    ''audit_commit_lsn'', l.commit_lsn, ''audit_commit_idx'', l.commit_idx,
    ''audit_commit_timestamp'', l.commit_timestamp,
    ''audit_username'', l.username, ''audit_source'', l.source, ''audit_request_id'', l.request_id,
    ''audit_metadata'', l.metadata,
    ''audit_changed'', CASE l.action WHEN ''update'' THEN ARRAY(SELECT jsonb_object_keys(l.old_values)) END,
    ''audit_unknown'', l.unknown_columns),
  l.unknown_columns, l.exact_values -> CASE l.action WHEN ''delete'' THEN ''old'' ELSE ''new'' END) AS r
WHERE l.table_schema = %L AND l.table_name = %L',
    history, table_schema, table_name)
  || CASE
    WHEN database_id IS NULL THEN ''
    ELSE format(' AND l.database_id = ANY ((SELECT audit_cdc_internal.one_log(%L))::text[])', database_id)
  END;

-- names, types, modifiers and type_names: of the table's columns; a modifier is null where only the name tells it.
CREATE FUNCTION audit_cdc_internal.create_history_table(
    history text, schema text, names text[], types regtype[], modifiers integer[], type_names text[], key text[],
    database_id text, table_schema text, table_name text)
  RETURNS regclass LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  parts CONSTANT text[] := parse_ident(history);
  qualified CONSTANT text := CASE cardinality(parts) WHEN 1 THEN format('%I.%I', schema, parts[1])
                                                     ELSE format('%I.%I', parts[1], parts[2]) END;
  called text := parts[cardinality(parts)]::name;
BEGIN
  IF cardinality(parts) > 2 THEN
    RAISE EXCEPTION 'improper qualified name: %', history USING ERRCODE = 'invalid_name';
  END IF;
  PERFORM audit_cdc_internal.refuse_foreign_types(types);
  EXECUTE format(
    E'CREATE TABLE %s (
    audit_id bigint PRIMARY KEY, audit_database_id text NOT NULL, audit_action text NOT NULL,
    audit_commit_lsn bigint, audit_commit_idx integer, audit_commit_timestamp timestamptz NOT NULL,
    audit_username text, audit_source text, audit_request_id text, audit_metadata jsonb,
    audit_changed text[], audit_unknown text[],\n%s\n)',
    qualified,
    (
      -- a type is what to_regtype() or format_type() has taken for one, so that it can stand in a statement
      SELECT string_agg(
        format('%I %s', c.name, CASE
          WHEN c.modifier IS NOT NULL THEN format_type(c.type, c.modifier)
          WHEN to_regtype(c.type_name) = c.type THEN c.type_name
          ELSE format_type(c.type, NULL)
        END), E',\n' ORDER BY place)
      FROM unnest(names, types, modifiers, type_names) WITH ORDINALITY AS c(name, type, modifier, type_name, place)
    ));
  PERFORM audit_cdc_internal.keep_private('pg_class'::regclass, qualified::regclass);
  EXECUTE format(
    'COMMENT ON TABLE %s IS %L', qualified, format(
      'every change of %I.%I, filled by audit_cdc: the row after it, of a delete the row before it',
      table_schema, table_name));
  EXECUTE format(
    'COMMENT ON COLUMN %1$s.audit_id IS %2$L;
     COMMENT ON COLUMN %1$s.audit_changed IS %3$L;
     COMMENT ON COLUMN %1$s.audit_unknown IS %4$L',
    qualified, 'id in audit_logs, which explains the other columns that begin with audit_',
    'update: the columns whose old value was sent, with REPLICA IDENTITY FULL those that changed; null for other '
    'actions',
    'columns that were not sent and are null here; null: the table was not described, so nobody can tell');
  IF key <> '{}' THEN
    EXECUTE format(
      'CREATE INDEX ON %s (%s, audit_commit_timestamp)', qualified,
      (SELECT string_agg(quote_ident(k), ', ') FROM unnest(key) AS k));
  END IF;

  IF EXISTS (SELECT FROM @extschema@.audit_projections AS p WHERE p.name = called) THEN
    called := qualified::regclass;
  END IF;
  PERFORM @extschema@.audit_create_projection(
    called, audit_cdc_internal.history_rule(qualified, database_id, table_schema, table_name),
    qualified::regclass, true);
  RETURN qualified::regclass;
END
$$;
COMMENT ON FUNCTION audit_cdc_internal.create_history_table(
  text, text, text[], regtype[], integer[], text[], text[], text, text, text) IS
  'Serves audit_create_history_projection.';

CREATE FUNCTION @extschema@.audit_create_history_projection(
    source regclass, history text DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  called record;
  layout record;
BEGIN
  SELECT n.nspname::text, c.relname::text INTO called
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = source;
  SELECT
    pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) AS names,
    pg_catalog.array_agg(a.atttypid::pg_catalog.regtype ORDER BY a.attnum) AS types,
    pg_catalog.array_agg(a.atttypmod ORDER BY a.attnum) AS modifiers,
    coalesce(
      pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FILTER (
        WHERE EXISTS (
          SELECT FROM pg_catalog.pg_index AS i
          WHERE i.indrelid = source AND i.indisprimary AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
        )),
      '{}') AS key
  INTO layout
  FROM pg_catalog.pg_attribute AS a
  WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped;
  IF called IS NULL OR layout.names IS NULL THEN
    RAISE EXCEPTION 'source must be a table with columns' USING ERRCODE = 'undefined_table';
  END IF;
  RETURN audit_cdc_internal.create_history_table(
    coalesce(history, pg_catalog.format('%I', pg_catalog.concat(called.relname, '_history'))), called.nspname,
    layout.names, layout.types, layout.modifiers, NULL::text[], layout.key, database_id, called.nspname,
    called.relname);
END
$$;
COMMENT ON FUNCTION @extschema@.audit_create_history_projection(regclass, text, text) IS
  'Creates a table with every change of source as a typed row (its columns after those of the change, which begin '
  'with audit_), keeps it filled and fills it from the log. source: a table of this database that is called like the '
  'audited one and has its columns; it is not needed afterwards. history: its name, also qualified; null: the '
  'source''s with _history, in the same schema. database_id: only changes of that database; null: of all. Returns '
  'the table. Errors: as CREATE TABLE and audit_create_projection; 42P01 (source is null, or no table), 22023 and '
  '42602 (not a name), 42501 (types of its columns belong to roles that have not the caller''s rights).';

CREATE FUNCTION @extschema@.audit_create_history_projection(
    database_id text, table_schema text, table_name text, history text DEFAULT NULL)
  RETURNS regclass
  LANGUAGE plpgsql AS $$
DECLARE
  described @extschema@.audit_described_tables;
  layout pg_catalog.record;
BEGIN
  SELECT d.* INTO described FROM @extschema@.audit_described_tables AS d
  WHERE d.database_id OPERATOR(pg_catalog.=) audit_create_history_projection.database_id
    AND d.table_schema OPERATOR(pg_catalog.=) audit_create_history_projection.table_schema
    AND d.table_name OPERATOR(pg_catalog.=) audit_create_history_projection.table_name
  ORDER BY d.valid_from DESC LIMIT 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'table "%.%" of database "%" is not described', table_schema, table_name, database_id
      USING ERRCODE = 'undefined_object',
            HINT = 'audit_describe_tables() takes descriptions; or name a table of this database that has its columns.';
  END IF;
  SELECT
    pg_catalog.array_agg(c.key ORDER BY k.place, c.key) AS names,
    pg_catalog.array_agg(coalesce(pg_catalog.to_regtype(c.value), 'pg_catalog.text') ORDER BY k.place, c.key) AS types,
    pg_catalog.array_agg(c.value ORDER BY k.place, c.key) AS type_names,
    pg_catalog.string_agg(pg_catalog.format('%s %s', c.key, c.value), ', ' ORDER BY k.place, c.key) FILTER (
      WHERE pg_catalog.to_regtype(c.value) IS NULL) AS absent
  INTO layout
  FROM pg_catalog.jsonb_each_text(described.column_types) AS c
  LEFT JOIN pg_catalog.unnest(described.key_columns) WITH ORDINALITY AS k(name, place)
    ON k.name OPERATOR(pg_catalog.=) c.key;
  IF layout.absent IS NOT NULL THEN
    RAISE NOTICE 'types that this database does not have become text: %', layout.absent;
  END IF;
  RETURN audit_cdc_internal.create_history_table(
    coalesce(history, pg_catalog.format('%I', pg_catalog.concat(table_name, '_history'))),
    pg_catalog.current_schema()::pg_catalog.text, layout.names, layout.types, NULL::integer[], layout.type_names,
    described.key_columns, database_id, table_schema, table_name);
END
$$;
COMMENT ON FUNCTION @extschema@.audit_create_history_projection(text, text, text, text) IS
  'The same for a table by its latest description: key columns first, the others by name. Types that this database '
  'does not have become text, with a NOTICE. history: null: table_name with _history, in the current schema. Errors: '
  'also 42704 (not described).';
