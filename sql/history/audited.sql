-- Which audited table is meant, and what its key is.

CREATE TYPE audit_cdc_internal.audited AS (
  database_id text,
  table_schema text,
  table_name text,
  numbers integer[], -- in audited_tables
  key_columns text[], -- in the order of record_pks; null: nobody can tell
  key_types text[], -- as spelled_types() gives them
  databases text[], -- database_id, and those from which this database goes on, the oldest first
  positions_before bigint[], -- of each of them: what its positions count on from
  is_own boolean, -- it is of this database: only what capture stored is believed
  is_named boolean -- the caller gave its database_id
);

-- Commits overtake each other, and clocks are set, by less than this.
CREATE FUNCTION audit_cdc_internal.overtaking() RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN interval '1 s';

-- Was the source restored between a change and the next one by time? A commit that is later, and came later, has no
-- higher position then.
CREATE FUNCTION audit_cdc_internal.runs_backwards(lsn bigint, committed timestamptz, id bigint,
    lsn_before bigint, committed_before timestamptz, id_before bigint) RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN lsn <= lsn_before AND committed > committed_before + audit_cdc_internal.overtaking() AND id > id_before;

-- Columns whose values are the key's in each of some entries, of one record if it is named; null where that leaves
-- a choice.
CREATE FUNCTION audit_cdc_internal.inferred_key(numbers integer[], of_record text, is_own boolean) RETURNS text[]
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

CREATE FUNCTION audit_cdc_internal.key_of(
    audited audit_cdc_internal.audited, relation oid, of_record text,
    OUT columns text[], OUT types text[])
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  described audit_cdc_internal.described_tables;
BEGIN
  SELECT d.*
  INTO described
  FROM audit_cdc_internal.described_tables AS d
  WHERE d.database_id = ANY (audited.databases)
    AND (d.table_schema, d.table_name) = (audited.table_schema, audited.table_name)
  ORDER BY d.valid_from DESC
  LIMIT 1;
  IF FOUND THEN
    columns := described.key_columns;
    types := described.key_types;
    RETURN;
  END IF;
  SELECT k.columns, k.types
  INTO columns, types
  FROM audit_cdc_internal.primary_key(
    CASE
      WHEN relation IS NULL AND audited.is_own
        THEN to_regclass(format('%I.%I', audited.table_schema, audited.table_name))
      ELSE relation
    END) AS k;
  IF columns IS NULL THEN
    columns := coalesce(
      CASE
        WHEN of_record IS NOT NULL THEN audit_cdc_internal.inferred_key(audited.numbers, of_record, audited.is_own)
      END,
      audit_cdc_internal.inferred_key(audited.numbers, NULL, audited.is_own));
  END IF;
END
$$;

-- A name as in SQL, with or without schema; null: that of relation.
CREATE FUNCTION audit_cdc_internal.name_parts(name text, relation oid) RETURNS text[]
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  parts text[];
BEGIN
  IF name IS NOT NULL THEN
    BEGIN
      RETURN parse_ident(name);
    EXCEPTION WHEN invalid_parameter_value THEN
      RETURN ARRAY[name]; -- one that SQL would want in quotes
    END;
  END IF;
  SELECT ARRAY[n.nspname, c.relname]
  INTO parts
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.oid = relation;
  IF parts IS NULL THEN
    RAISE EXCEPTION 'table_name must not be null' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  RETURN parts;
END
$$;

-- A captured table of this database, if the log has no other of this name, and nothing was described. No row: ask on.
-- A set, so that it becomes part of the statement that asks.
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

-- Those that the log has by this name. A name that SQL reads otherwise is only meant if no other is.
CREATE FUNCTION audit_cdc_internal.tables_named(
    parts text[], name text, of_database text, here text,
    OUT database_id text, OUT table_schema text, OUT table_name text, OUT numbers integer[])
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT g.database_id, g.table_schema, g.table_name, g.numbers
  FROM (
    SELECT n.database_id, t.table_schema, t.table_name, array_agg(t.id) AS numbers, m.is_parsed,
           bool_or(m.is_parsed) OVER () AS any_is
    FROM audit_cdc_internal.databases_of(coalesce(of_database, here)) AS wanted
    CROSS JOIN audit_cdc_internal.audited_tables AS t
    CROSS JOIN LATERAL (
      SELECT CASE WHEN t.database_id = ANY (wanted.ids) THEN coalesce(of_database, here) ELSE t.database_id END
    ) AS n(database_id)
    CROSS JOIN LATERAL (
      SELECT t.table_name = parts[cardinality(parts)]
          AND (cardinality(parts) = 1 OR t.table_schema = parts[cardinality(parts) - 1])
    ) AS m(is_parsed)
    WHERE (of_database IS NULL OR t.database_id = ANY (wanted.ids)) AND (m.is_parsed OR t.table_name = name)
    GROUP BY n.database_id, t.table_schema, t.table_name, m.is_parsed
  ) AS g
  WHERE g.is_parsed OR NOT g.any_is;
END;

CREATE FUNCTION audit_cdc_internal.refuse_several_tables(parts text[], name text, database_id text, here text)
  RETURNS void
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  described text;
  names text[];
BEGIN
  SELECT
    string_agg(
      format('%I.%I of database_id %s', t.table_schema, t.table_name, t.database_id), ', ' ORDER BY t.table_schema,
      t.table_name, t.database_id),
    array_agg(format('%I.%I', t.table_schema, t.table_name))
  INTO described, names
  FROM audit_cdc_internal.tables_named(parts, name, database_id, here) AS t;
  RAISE EXCEPTION 'the log has several tables of this name'
    USING ERRCODE = 'invalid_parameter_value', DETAIL = format('They are %s.', described),
          HINT = concat(
            'Name the schema with it, or its database_id.',
            (
              SELECT format(
                ' If this database goes on from %s: audit_continue(%1$L, reason).', string_agg(s.database_id, ', '))
              FROM audit_cdc_internal.other_captured(names) AS s
              HAVING count(*) = 1
            ));
END
$$;

-- name: as in SQL, with or without schema; null: that of relation. Null if the log has no change of it. of_record:
-- a key that is asked for.
CREATE FUNCTION audit_cdc_internal.table_named(name text, database_id text, relation oid, of_record text DEFAULT NULL)
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

-- A key as somebody may write it, as record_id has it: a composite one as a JSON array of texts.
CREATE FUNCTION audit_cdc_internal.as_record_id(key text, audited audit_cdc_internal.audited) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF cardinality(audited.key_columns) > 1 AND key LIKE '[%' THEN
    RETURN array_to_json(
      ARRAY(
        SELECT k
        FROM jsonb_array_elements_text(key::jsonb) WITH ORDINALITY AS u(k, place)
        ORDER BY place
      ));
  END IF;
  RETURN key;
EXCEPTION WHEN data_exception THEN
  RETURN key;
END
$$;

-- The spellings of a record's key that the log has.
CREATE FUNCTION audit_cdc_internal.record_ids(audited audit_cdc_internal.audited, record_key text) RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT array_agg(DISTINCT id)
  FROM audit_cdc_internal.as_record_id(record_ids.record_key, audited) AS w(wanted)
  CROSS JOIN LATERAL (
    SELECT w.wanted AS id
    UNION ALL
    SELECT k.record_id
    FROM audit_cdc_internal.record_keys AS k
    WHERE k.audited_table = ANY (audited.numbers)
      AND k.record_key = coalesce(
        (
          SELECT o.record_key
          FROM audit_cdc_internal.record_keys AS o
          WHERE o.audited_table = ANY (audited.numbers) AND o.record_id = w.wanted
          LIMIT 1
        ),
        w.wanted)
    UNION ALL
    SELECT o.record_key
    FROM audit_cdc_internal.record_keys AS o
    WHERE o.audited_table = ANY (audited.numbers) AND o.record_id = w.wanted
  ) AS spellings;
END;

-- A key as events have it.
CREATE FUNCTION audit_cdc_internal.spelled(of_key text, audited audit_cdc_internal.audited) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  key CONSTANT text := audit_cdc_internal.as_record_id(of_key, audited);
BEGIN
  RETURN CASE
    WHEN audited.key_types IS NULL THEN key
    WHEN cardinality(audited.key_types) = 1 THEN audit_cdc_internal.record_key(key, NULL, audited.key_types)
    ELSE audit_cdc_internal.record_key(key, ARRAY(SELECT jsonb_array_elements_text(key::jsonb)), audited.key_types)
  END;
EXCEPTION WHEN data_exception THEN
  RETURN key;
END
$$;
