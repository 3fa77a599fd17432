-- A change as a statement, to be read before it is run: from one row to another, guarded by all that is known of
-- the first.

CREATE TYPE audit_cdc_internal.target AS (
  name text, -- quoted
  key_columns text[], -- empty: none is known
  types jsonb, -- column to type, as format_type() writes it; empty: not known
  generated text[], -- columns that nobody sets
  relation oid, -- null: it is not in this database
  table_name text, -- name without ONLY
  coarse text[], -- columns whose equality finds different values equal: by their collation, or numeric without a scale
  json_columns text[], -- json or jsonb, also as a domain
  required text[], -- columns that are never null
  older_values jsonb, -- column to what rows have that are older than it
  unpublished text[] -- columns that capture does not get
);

-- A type that a description names, as this server writes it: it comes from elsewhere, and will stand in a
-- statement. Null: this server does not know it.
CREATE FUNCTION audit_cdc_internal.type_here(type text) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN format_type(to_regtype(type), NULL);
EXCEPTION WHEN OTHERS THEN
  RETURN NULL;
END
$$;

CREATE FUNCTION audit_cdc_internal.is_json(type text) RETURNS boolean
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH RECURSIVE base AS (
    SELECT t.oid, t.typbasetype FROM pg_type AS t WHERE t.oid = to_regtype(type)
    UNION ALL
    SELECT t.oid, t.typbasetype FROM base AS b JOIN pg_type AS t ON t.oid = b.typbasetype
  )
  SELECT EXISTS (SELECT FROM base AS b WHERE b.oid IN ('json'::regtype, 'jsonb'::regtype));
END;

CREATE FUNCTION audit_cdc_internal.target_of(audited audit_cdc_internal.audited) RETURNS audit_cdc_internal.target
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target audit_cdc_internal.target;
BEGIN
  target.name := format('%I.%I', audited.table_schema, audited.table_name);
  target.table_name := target.name;
  target.key_columns := coalesce(audited.key_columns, '{}');
  target.relation := to_regclass(target.name);
  IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = target.relation AND c.relkind <> 'p' AND c.relhassubclass) THEN
    target.name := 'ONLY ' || target.name; -- its own rows, not those of tables that inherit from it
  END IF;
  IF target.relation IS NOT NULL THEN
    SELECT
      jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)),
      array_agg(a.attname) FILTER (WHERE a.attgenerated <> ''),
      array_agg(a.attname) FILTER (
        WHERE a.atttypid = 'numeric'::regtype AND a.atttypmod = -1
        OR EXISTS (SELECT FROM pg_collation AS c WHERE c.oid = a.attcollation AND NOT c.collisdeterministic)),
      array_agg(a.attname) FILTER (WHERE a.attnotnull),
      jsonb_object_agg(a.attname, (a.attmissingval::text::text[])[1]) FILTER (WHERE a.atthasmissing)
    INTO target.types, target.generated, target.coarse, target.required, target.older_values
    FROM pg_attribute AS a
    WHERE a.attrelid = target.relation AND a.attnum > 0 AND NOT a.attisdropped;
  ELSE
    SELECT
      (
        SELECT jsonb_object_agg(c.key, audit_cdc_internal.type_here(c.value))
        FROM jsonb_each_text(d.column_types) AS c
      ),
      d.never_sent, ARRAY(SELECT c.key FROM jsonb_each_text(d.column_types) AS c WHERE c.value = 'numeric')
    INTO target.types, target.generated, target.coarse
    FROM audit_cdc_internal.described_tables AS d
    WHERE d.database_id = ANY (audited.databases)
      AND (d.table_schema, d.table_name) = (audited.table_schema, audited.table_name)
    ORDER BY d.valid_from DESC
    LIMIT 1;
  END IF;
  SELECT ARRAY(
    SELECT t.key
    FROM jsonb_object_keys(target.types) AS t(key)
    WHERE t.key <> ALL (p.attnames) AND t.key <> ALL (coalesce(target.generated, '{}'))
    ORDER BY t.key
  )
  INTO target.unpublished
  FROM audit_cdc_internal.captures AS c
  JOIN pg_publication_tables AS p ON p.pubname = c.publication
  WHERE (p.schemaname, p.tablename) = (audited.table_schema, audited.table_name) AND audited.is_own;
  target.unpublished := coalesce(target.unpublished, '{}');
  target.types := coalesce(target.types, '{}');
  target.generated := coalesce(target.generated, '{}');
  target.coarse := coalesce(target.coarse, '{}');
  target.required := coalesce(target.required, '{}');
  target.older_values := coalesce(target.older_values, '{}');
  target.json_columns := ARRAY(
    SELECT t.key
    FROM jsonb_each_text(target.types) AS t
    WHERE audit_cdc_internal.is_json(t.value)
  );
  RETURN target;
END
$$;

-- A type that the server takes a literal for by itself, and whose equality is pg_catalog's own.
CREATE FUNCTION audit_cdc_internal.is_plain(type text) RETURNS boolean
  LANGUAGE sql IMMUTABLE
  RETURN type ~
    '^(smallint|integer|bigint|numeric|real|double precision|text|boolean|uuid|date|timestamp|jsonb|bytea)\M[^[]*$';

CREATE FUNCTION audit_cdc_internal.literal(value jsonb, type text) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT CASE
    WHEN value IS NULL OR value = 'null' THEN 'NULL'
    ELSE quote_literal(audit_cdc_internal.input_text(value, to_regtype(type)::oid))
      || CASE WHEN NOT audit_cdc_internal.is_plain(type) THEN '::' || type ELSE '' END
  END;
END;

-- A column's value, as it is to be written. What is never null, and null in JSON, is JSON's null.
CREATE FUNCTION audit_cdc_internal.value_in(target audit_cdc_internal.target, image jsonb, name text) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT CASE
    WHEN image -> name = 'null' AND name = ANY (target.json_columns) AND name = ANY (target.required)
      THEN format('%L::%s', 'null', target.types ->> name)
    ELSE audit_cdc_internal.literal(image -> name, target.types ->> name)
  END;
END;

-- "the column has this value"; by its text where the type may have no equality, also by it where it has one that
-- finds different values equal.
CREATE FUNCTION audit_cdc_internal.is_value(target audit_cdc_internal.target, image jsonb, name text) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT CASE
    WHEN v.literal = 'NULL' THEN format('%I IS NULL', name)
    WHEN v.type = 'json' THEN format('%I::jsonb::text = %L', name, v.value::text)
    WHEN v.type = 'jsonb' THEN format('%I::text = %L', name, v.value::text)
    -- of a type of users': by its output function, since they may have made the cast
    WHEN to_regtype(v.type)::oid >= 16384
      THEN format('pg_catalog.format(''%%s'', %I) = pg_catalog.format(''%%s'', %s)', name, v.literal)
    WHEN NOT audit_cdc_internal.is_plain(v.type) THEN v.is_text || format(' = %s::text', v.literal)
    WHEN name = ANY (target.coarse)
      THEN format('%I = %s AND ', name, v.literal) || v.is_text || format(' = %s::%s::text', v.literal, v.type)
    ELSE format('%I = %s', name, v.literal)
  END
  FROM (
    SELECT
      image -> name AS value, target.types ->> name AS type,
      audit_cdc_internal.value_in(target, image, name) AS literal,
      format('%I::text', name)
        || CASE
          WHEN name = ANY (target.coarse) AND target.types ->> name <> 'numeric' THEN ' COLLATE "C"'
          ELSE ''
        END AS is_text
  ) AS v;
END;

CREATE FUNCTION audit_cdc_internal.is_row(target audit_cdc_internal.target, image jsonb, columns text[]) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT string_agg(audit_cdc_internal.is_value(target, image, c), ' AND ' ORDER BY place)
  FROM unnest(columns) WITH ORDINALITY AS u(c, place) WHERE image ? c;
END;

-- "the columns of which the image does not know have nothing to lose", with AND before each: what a row has that is
-- older than they are.
CREATE FUNCTION audit_cdc_internal.is_older(target audit_cdc_internal.target, image jsonb) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(
    string_agg(
      CASE
        WHEN target.older_values ? t.key AND to_regtype(t.value)::oid >= 16384
          THEN format(
            ' AND (%1$I IS NULL OR pg_catalog.format(''%%s'', %1$I) = %2$L)', t.key, target.older_values ->> t.key)
        WHEN target.older_values ? t.key
          THEN format(
            ' AND (%1$I IS NULL OR %1$I::text COLLATE "C" = %2$L::%3$s::text)', t.key,
            target.older_values ->> t.key, t.value)
        ELSE format(' AND %I IS NULL', t.key)
      END,
      '' ORDER BY t.key COLLATE "C"),
    '')
  FROM jsonb_each_text(target.types) AS t
  WHERE NOT image ? t.key AND t.key <> ALL (target.generated);
END;

-- Columns of both image and table, the key first.
CREATE FUNCTION audit_cdc_internal.columns_in(target audit_cdc_internal.target, image jsonb) RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(array_agg(c ORDER BY array_position(target.key_columns, c), c COLLATE "C"), '{}')
  FROM jsonb_object_keys(image) AS c
  WHERE (target.types = '{}' OR target.types ? c) AND c <> ALL (target.generated);
END;

-- One of those rows; partitions number theirs each by itself.
CREATE FUNCTION audit_cdc_internal.one_of(target audit_cdc_internal.target, condition text) RETURNS text
  LANGUAGE sql IMMUTABLE
  RETURN format('(tableoid, ctid) = (SELECT tableoid, ctid FROM %s WHERE %s LIMIT 1)', (target).name, condition);

-- Null: there is nothing to do. from_row and to_row: null for no row. may_be_so: a foreign key may have done it
-- already. guard: further conditions.
CREATE FUNCTION audit_cdc_internal.statement(
    target audit_cdc_internal.target, from_row jsonb, to_row jsonb, may_be_so boolean, guard text DEFAULT '')
  RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  columns CONSTANT text[] := audit_cdc_internal.columns_in(target, coalesce(to_row, from_row));
  changed CONSTANT text[] := ARRAY(
    SELECT c
    FROM unnest(columns) WITH ORDINALITY AS u(c, place)
    WHERE (from_row -> c)::text <> (to_row -> c)::text
    ORDER BY place
  );
  has_key CONSTANT boolean := target.key_columns <> '{}'
    AND (from_row IS NULL OR from_row ?& target.key_columns)
    AND (to_row IS NULL OR to_row ?& target.key_columns);
  this_row text;
  that_row text;
BEGIN
  IF from_row IS NULL THEN
    RETURN format(
      'INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s', target.table_name,
      (SELECT string_agg(quote_ident(c), ', ' ORDER BY place) FROM unnest(columns) WITH ORDINALITY AS u(c, place)),
      (
        SELECT string_agg(audit_cdc_internal.value_in(target, to_row, c), ', ' ORDER BY place)
        FROM unnest(columns) WITH ORDINALITY AS u(c, place)
      ))
      || CASE
        WHEN has_key
          THEN format(
            ' WHERE NOT EXISTS (SELECT FROM %s WHERE %s)', target.name,
            audit_cdc_internal.is_row(target, to_row, target.key_columns))
        ELSE ''
      END || ';';
  ELSIF changed = '{}' AND to_row IS NOT NULL THEN
    RETURN NULL;
  END IF;
  this_row := audit_cdc_internal.is_row(target, from_row, audit_cdc_internal.columns_in(target, from_row))
              || CASE WHEN to_row IS NULL THEN audit_cdc_internal.is_older(target, from_row) ELSE '' END;
  that_row := audit_cdc_internal.is_row(
    target, to_row,
    CASE
      WHEN has_key
        THEN target.key_columns || ARRAY(SELECT c FROM unnest(changed) AS c WHERE c <> ALL (target.key_columns))
      ELSE columns
    END);
  IF NOT has_key THEN -- one of those that are equal
    that_row := format(
      'NOT EXISTS (SELECT FROM %s WHERE %s) AND %s', target.name, this_row,
      audit_cdc_internal.one_of(target, that_row));
    this_row := audit_cdc_internal.one_of(target, this_row);
  END IF;
  this_row := this_row || coalesce(guard, '');
  IF to_row IS NULL THEN
    RETURN format('DELETE FROM %s WHERE %s;', target.name, this_row);
  END IF;
  RETURN format(
    'UPDATE %s SET %s WHERE %s;', target.name,
    (
      SELECT string_agg(format('%I = %s', c, audit_cdc_internal.value_in(target, to_row, c)), ', ' ORDER BY place)
      FROM unnest(changed) WITH ORDINALITY AS u(c, place)
    ),
    this_row || CASE WHEN may_be_so THEN ' OR ' || that_row ELSE '' END);
END
$$;

-- That no row refers to this one which a delete, or another key, would take along, or change. But for those that
-- are meant: conditions by table; numbers: how many of them at most, by foreign key, where rows may be equal.
CREATE FUNCTION audit_cdc_internal.referring(
    target audit_cdc_internal.target, from_row jsonb, to_row jsonb, meant jsonb, numbers jsonb)
  RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT string_agg(
    format(
      ' AND NOT EXISTS (SELECT FROM %s AS r WHERE %s%s%s)', c.conrelid::regclass, k.refers,
      -- a row that refers to itself goes with it
      CASE
        WHEN c.conrelid = c.confrelid
          THEN ' AND (' || audit_cdc_internal.is_row(target, from_row, target.key_columns) || ') IS NOT TRUE'
      END,
      ' AND (' || (meant ->> c.conrelid::text) || ') IS NOT TRUE')
      || coalesce(
        format(' AND (SELECT count(*) FROM %s AS r WHERE %s) <= ', c.conrelid::regclass, k.refers)
          || (numbers ->> c.oid::text),
        ''),
    '' ORDER BY c.oid)
  FROM pg_constraint AS c
  CROSS JOIN LATERAL (
    SELECT
      string_agg(
        CASE
          WHEN o.oprnamespace = 'pg_catalog'::regnamespace
            THEN format(
              'r.%I %s %s', f.attname,
              CASE
                WHEN audit_cdc_internal.is_plain(format_type(f.atttypid, NULL)) AND f.atttypid = p.atttypid
                  THEN '='
                ELSE 'OPERATOR(pg_catalog.=)'
              END,
              v.value)
          ELSE format('%s OPERATOR(%s.%s) r.%I', v.value, o.oprnamespace::regnamespace, o.oprname, f.attname)
        END,
        ' AND ' ORDER BY u.place) AS refers,
      bool_or(to_row -> p.attname::text <> from_row -> p.attname::text) AS is_changed
    FROM unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY AS u(referring, referred, operator, place)
    JOIN pg_attribute AS f ON f.attrelid = c.conrelid AND f.attnum = u.referring
    JOIN pg_attribute AS p ON p.attrelid = c.confrelid AND p.attnum = u.referred
    JOIN pg_operator AS o ON o.oid = u.operator
    CROSS JOIN LATERAL (
      SELECT CASE
        WHEN from_row ? p.attname::text
          THEN audit_cdc_internal.literal(from_row -> p.attname::text, target.types ->> p.attname::text)
            || CASE
              WHEN f.atttypid <> p.atttypid AND audit_cdc_internal.is_plain(target.types ->> p.attname::text)
                THEN '::' || (target.types ->> p.attname::text)
              ELSE ''
            END
            || CASE
              WHEN f.attcollation <> p.attcollation AND p.attcollation <> 0
                THEN format(' COLLATE %s', p.attcollation::regcollation)
              ELSE ''
            END
        ELSE format('%s.%I', target.table_name, p.attname)
      END AS value
    ) AS v
  ) AS k
  WHERE c.contype = 'f'
    AND c.confrelid = target.relation
    -- a partition's is its parent's
    AND NOT EXISTS (SELECT FROM pg_constraint AS o WHERE o.oid = c.conparentid AND o.confrelid = c.confrelid)
    AND CASE
      WHEN to_row IS NULL THEN c.confdeltype IN ('c', 'n', 'd')
      ELSE c.confupdtype IN ('c', 'n', 'd') AND k.is_changed
    END;
END;
