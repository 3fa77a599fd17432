-- What of a table decides how its changes are taken back, as Rust reads it (crates/core/src/undo/table.rs).

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

CREATE FUNCTION audit_cdc_internal.is_json(type oid) RETURNS boolean
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH RECURSIVE base AS (
    SELECT t.oid, t.typbasetype FROM pg_type AS t WHERE t.oid = type
    UNION ALL
    SELECT t.oid, t.typbasetype FROM base AS b JOIN pg_type AS t ON t.oid = b.typbasetype
  )
  SELECT EXISTS (SELECT FROM base AS b WHERE b.oid IN ('json'::regtype, 'jsonb'::regtype));
END;

-- A type that the server takes a literal for by itself, and whose equality is pg_catalog's own.
CREATE FUNCTION audit_cdc_internal.is_plain(type text) RETURNS boolean
  LANGUAGE sql IMMUTABLE
  RETURN coalesce(
    type ~
      '^(smallint|integer|bigint|numeric|real|double precision|text|boolean|uuid|date|timestamp|jsonb|bytea)\M[^[]*$',
    true);

-- Which different values of a type its equality finds equal.
CREATE FUNCTION audit_cdc_internal.equality(type oid, of_collation oid) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT CASE
    WHEN t.oid = 'numeric'::regtype THEN 'scale'
    WHEN EXISTS (SELECT FROM pg_collation AS c WHERE c.oid = of_collation AND NOT c.collisdeterministic)
      THEN 'collation'
    WHEN t.typname = 'citext' THEN 'case'
    WHEN t.typtype = 'e' THEN 'none'
    WHEN t.oid < 16384 AND t.typcategory IN ('S', 'B', 'D') THEN 'none'
    WHEN t.oid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype, 'uuid'::regtype) THEN 'none'
    ELSE 'unknown'
  END
  FROM pg_type AS t
  WHERE t.oid = type;
END;

-- A column as Rust reads it. type: as format_type() writes it; null: not known.
CREATE FUNCTION audit_cdc_internal.column_fact(name text, type text, type_oid oid) RETURNS jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT jsonb_build_object(
    'name', name, 'quoted', quote_ident(name), 'type', type, 'type_oid', coalesce(type_oid, 0)::bigint,
    'is_plain', audit_cdc_internal.is_plain(type), 'is_users', coalesce(type_oid >= 16384, false),
    'is_json', audit_cdc_internal.is_json(type_oid), 'is_generated', false, 'is_always', false,
    'is_required', false, 'is_published', true, 'has_older', false, 'older', NULL,
    'equality', coalesce(audit_cdc_internal.equality(type_oid, 0), 'none'));
END;

-- Those of a table in this database. unpublished: of those that capture does not get.
CREATE FUNCTION audit_cdc_internal.column_facts(relation oid, published text[]) RETURNS jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(
    jsonb_agg(
      audit_cdc_internal.column_fact(a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid)
      || jsonb_build_object(
        'is_generated', a.attgenerated <> '', 'is_always', a.attidentity = 'a', 'is_required', a.attnotnull,
        'is_published', published IS NULL OR a.attgenerated <> '' OR a.attname::text = ANY (published),
        'has_older', a.atthasmissing, 'older', (a.attmissingval::text::text[])[1],
        'equality', audit_cdc_internal.equality(a.atttypid, a.attcollation))),
    '[]')
  FROM pg_attribute AS a
  WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped;
END;

-- Those of a table elsewhere, as it was described; of one that was not, only how the names of its columns are quoted.
CREATE FUNCTION audit_cdc_internal.described_column_facts(audited audit_cdc_internal.audited, names text[])
  RETURNS jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH described AS MATERIALIZED (
    SELECT d.*
    FROM audit_cdc_internal.described_tables AS d
    WHERE d.database_id = ANY (audited.databases)
      AND (d.table_schema, d.table_name) = (audited.table_schema, audited.table_name)
    ORDER BY d.valid_from DESC
    LIMIT 1
  )
  SELECT coalesce(jsonb_agg(f.fact), '[]')
  FROM (
    SELECT
      audit_cdc_internal.column_fact(c.key, t.type, to_regtype(t.type)::oid)
      || jsonb_build_object('is_generated', c.key = ANY (d.never_sent))
      -- with a scale, a number has one spelling
      || CASE WHEN t.type = 'numeric' AND c.value <> t.type THEN '{"equality": "none"}'::jsonb ELSE '{}' END AS fact
    FROM described AS d
    CROSS JOIN LATERAL jsonb_each_text(d.column_types) AS c
    CROSS JOIN LATERAL (SELECT audit_cdc_internal.type_here(c.value) AS type) AS t
    UNION ALL
    SELECT audit_cdc_internal.column_fact(n, NULL, NULL) || '{"is_generated": true}'
    FROM described AS d
    CROSS JOIN LATERAL unnest(d.never_sent) AS n
    WHERE NOT d.column_types ? n
    UNION ALL
    SELECT audit_cdc_internal.column_fact(n, NULL, NULL)
    FROM unnest(names) AS n
    WHERE NOT EXISTS (SELECT FROM described AS d WHERE d.column_types <> '{}')
  ) AS f;
END;

-- Have no two rows one key of these columns, also in the middle of a transaction?
CREATE FUNCTION audit_cdc_internal.is_unique_key(relation oid, key_columns text[]) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN EXISTS (
    SELECT FROM pg_index AS i
    WHERE i.indrelid = relation
      AND (i.indisprimary OR i.indisreplident)
      AND i.indimmediate
      AND key_columns @> ARRAY(
        SELECT a.attname::text
        FROM unnest(i.indkey[0:i.indnkeyatts - 1]) AS k(number)
        JOIN pg_attribute AS a ON a.attrelid = relation AND a.attnum = k.number
      )
  );

-- Columns of unique indexes other than the primary key's; null: what is unique is more than columns.
CREATE FUNCTION audit_cdc_internal.unique_facts(relation oid) RETURNS jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(
    jsonb_agg(
      CASE
        WHEN i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL AND NOT i.indnullsnotdistinct
          THEN (
            SELECT jsonb_agg(a.attname ORDER BY k.place)
            FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(number, place)
            JOIN pg_attribute AS a ON a.attrelid = relation AND a.attnum = k.number
          )
      END),
    '[]')
  FROM pg_index AS i
  WHERE i.indrelid = relation AND NOT i.indisprimary AND (i.indisunique OR i.indisexclusion);
END;

-- Does code of users' run when the table, or a partition of it, is written?
CREATE FUNCTION audit_cdc_internal.has_triggers(relation oid) RETURNS boolean
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH parts AS MATERIALIZED (
    SELECT relation AS oid
    UNION
    SELECT p.relid FROM pg_partition_tree(relation::regclass) AS p
  )
  SELECT EXISTS (
      SELECT FROM pg_trigger AS t JOIN parts AS p ON p.oid = t.tgrelid WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
    )
    OR EXISTS (SELECT FROM pg_rewrite AS r JOIN parts AS p ON p.oid = r.ev_class);
END;

-- The constraint that it is a partition's copy of.
CREATE FUNCTION audit_cdc_internal.whole_constraint(part oid) RETURNS oid
  LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH RECURSIVE up AS (
    SELECT c.oid, c.conparentid FROM pg_constraint AS c WHERE c.oid = part
    UNION ALL
    SELECT c.oid, c.conparentid FROM up AS u JOIN pg_constraint AS c ON c.oid = u.conparentid
  )
  SELECT u.oid FROM up AS u WHERE u.conparentid = 0;
END;

CREATE FUNCTION audit_cdc_internal.whole_table(part oid) RETURNS oid
  LANGUAGE sql STABLE
  RETURN coalesce(pg_partition_root(part::regclass)::oid, part);

-- Foreign keys of the table (of_parent: to the table), each once for all partitions of either side.
CREATE FUNCTION audit_cdc_internal.foreign_key_facts(relation oid, of_parent boolean) RETURNS jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(
    jsonb_agg(
      jsonb_build_object(
        'id', k.oid::bigint, 'child_root', audit_cdc_internal.whole_table(k.conrelid)::bigint,
        'child_name', k.conrelid::regclass::text,
        'parent_root', audit_cdc_internal.whole_table(k.confrelid)::bigint, 'on_update', k.confupdtype,
        'on_delete', k.confdeltype, 'is_strangers', NOT pg_has_role(r.relowner, t.relowner, 'USAGE'))
      || c.columns),
    '[]')
  FROM pg_constraint AS k
  JOIN pg_class AS r ON r.oid = k.conrelid
  JOIN pg_class AS t ON t.oid = k.confrelid
  CROSS JOIN LATERAL (
    SELECT jsonb_build_object(
      'child_columns', jsonb_agg(f.attname ORDER BY u.place),
      'child_quoted', jsonb_agg(quote_ident(f.attname) ORDER BY u.place),
      'parent_columns', jsonb_agg(p.attname ORDER BY u.place),
      'parent_quoted', jsonb_agg(quote_ident(p.attname) ORDER BY u.place),
      'operators', jsonb_agg(
        CASE
          WHEN o.oprnamespace = 'pg_catalog'::regnamespace
            AND audit_cdc_internal.is_plain(format_type(f.atttypid, NULL))
            AND f.atttypid = p.atttypid
            THEN '='
          ELSE format('OPERATOR(%s.%s)', o.oprnamespace::regnamespace, o.oprname)
        END
        ORDER BY u.place),
      'collations', jsonb_agg(
        CASE
          WHEN f.attcollation <> p.attcollation AND p.attcollation <> 0
            THEN format(' COLLATE %s', p.attcollation::regcollation)
          ELSE ''
        END
        ORDER BY u.place)) AS columns
    FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY AS u(referring, referred, operator, place)
    JOIN pg_attribute AS f ON f.attrelid = k.conrelid AND f.attnum = u.referring
    JOIN pg_attribute AS p ON p.attrelid = k.confrelid AND p.attnum = u.referred
    JOIN pg_operator AS o ON o.oid = u.operator
  ) AS c
  WHERE k.oid IN (
    SELECT audit_cdc_internal.whole_constraint(part.oid)
    FROM pg_constraint AS part
    WHERE part.contype = 'f' AND relation = CASE WHEN of_parent THEN part.confrelid ELSE part.conrelid END
  );
END;

-- names: columns of the changes, for a table of which nothing else is known.
CREATE FUNCTION audit_cdc_internal.table_facts(audited audit_cdc_internal.audited, names text[] DEFAULT '{}')
  RETURNS jsonb
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  name CONSTANT text := format('%I.%I', audited.table_schema, audited.table_name);
  relation CONSTANT oid := to_regclass(name);
  columns jsonb;
  published text[];
BEGIN
  IF relation IS NULL THEN
    columns := audit_cdc_internal.described_column_facts(audited, names);
  ELSE
    SELECT p.attnames::text[]
    INTO published
    FROM audit_cdc_internal.captures AS c
    JOIN pg_publication_tables AS p ON p.pubname = c.publication
    WHERE (p.schemaname, p.tablename) = (audited.table_schema, audited.table_name) AND audited.is_own;
    columns := audit_cdc_internal.column_facts(relation, published);
  END IF;
  RETURN jsonb_build_object(
    'name', name,
    'own_rows', CASE
      -- its own rows, not those of tables that inherit from it
      WHEN EXISTS (SELECT FROM pg_class AS c WHERE c.oid = relation AND c.relkind <> 'p' AND c.relhassubclass)
        THEN 'ONLY ' || name
      ELSE name
    END,
    'relation', coalesce(relation, 0)::bigint,
    'root', coalesce(audit_cdc_internal.whole_table(relation), 0)::bigint,
    'root_name', coalesce(audit_cdc_internal.whole_table(relation)::regclass::text, name),
    'key', coalesce(audited.key_columns, '{}'),
    'is_key_unique', relation IS NULL OR audit_cdc_internal.is_unique_key(relation, audited.key_columns),
    'columns', columns,
    'is_exact', audited.is_own,
    'is_open', NOT jsonb_path_exists(columns, '$[*] ? (@.type != null)'),
    'unique', audit_cdc_internal.unique_facts(relation),
    'has_triggers', audit_cdc_internal.has_triggers(audit_cdc_internal.whole_table(relation)),
    'is_of_system', audited.table_schema IN ('pg_catalog', 'information_schema', 'pg_toast', 'audit_cdc_internal'),
    'refers', audit_cdc_internal.foreign_key_facts(relation, false),
    'referred', audit_cdc_internal.foreign_key_facts(relation, true));
END
$$;
