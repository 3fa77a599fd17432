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
  IF relation IS NULL AND audited.is_own THEN
    relation := to_regclass(format('%I.%I', audited.table_schema, audited.table_name));
  END IF;
  SELECT
    array_agg(a.attname::text ORDER BY a.attnum),
    CASE
      WHEN bool_or(audit_cdc_internal.is_spelled(format_type(a.atttypid, a.atttypmod)))
        THEN array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
    END
  INTO columns, types
  FROM pg_index AS i
  JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
  WHERE i.indrelid = relation AND i.indisprimary
  HAVING count(*) > 0;
  IF columns IS NULL THEN
    columns := coalesce(
      CASE
        WHEN of_record IS NOT NULL THEN audit_cdc_internal.inferred_key(audited.numbers, of_record, audited.is_own)
      END,
      audit_cdc_internal.inferred_key(audited.numbers, NULL, audited.is_own));
  END IF;
END
$$;

-- name: as in SQL, with or without schema; null: that of relation. Null if the log has no change of it. of_record:
-- a key that is asked for.
CREATE FUNCTION audit_cdc_internal.table_named(name text, database_id text, relation oid, of_record text DEFAULT NULL)
  RETURNS audit_cdc_internal.audited
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  parts text[];
  found audit_cdc_internal.audited;
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  wanted_id CONSTANT text := coalesce(database_id, here);
  wanted text[];
  positions_before bigint[];
  is_own boolean;
  is_here boolean;
  many integer;
  described text;
  names text[];
BEGIN
  SELECT d.ids, d.positions_before, d.is_own
  INTO wanted, positions_before, is_own
  FROM audit_cdc_internal.databases_of(wanted_id) AS d;
  IF name IS NULL THEN
    parts := (
      SELECT ARRAY[n.nspname, c.relname]
      FROM pg_class AS c
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE c.oid = relation
    );
  ELSE
    BEGIN
      parts := parse_ident(name);
    EXCEPTION WHEN invalid_parameter_value THEN
      parts := ARRAY[name]; -- a name that SQL would want in quotes
    END;
  END IF;
  IF parts IS NULL THEN
    RAISE EXCEPTION 'table_name must not be null' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  SELECT
    max(g.database_id), max(g.table_schema), max(g.table_name), max(g.numbers), count(*),
    bool_or(g.database_id = here),
    string_agg(
      format('%I.%I of database_id %s', g.table_schema, g.table_name, g.database_id), ', ' ORDER BY g.table_schema,
      g.table_name, g.database_id),
    array_agg(format('%I.%I', g.table_schema, g.table_name))
  INTO found.database_id, found.table_schema, found.table_name, found.numbers, many, is_here, described, names
  FROM (
    SELECT n.database_id, t.table_schema, t.table_name, array_agg(t.id) AS numbers, m.is_parsed,
           bool_or(m.is_parsed) OVER () AS any_is
    FROM audit_cdc_internal.audited_tables AS t
    CROSS JOIN LATERAL (
      SELECT CASE
        WHEN t.database_id = ANY (wanted) THEN coalesce(table_named.database_id, here)
        ELSE t.database_id
      END
    ) AS n(database_id)
    CROSS JOIN LATERAL (
      SELECT t.table_name = parts[cardinality(parts)]
          AND (cardinality(parts) = 1 OR t.table_schema = parts[cardinality(parts) - 1])
    ) AS m(is_parsed)
    WHERE (table_named.database_id IS NULL OR t.database_id = ANY (wanted))
      AND (m.is_parsed OR t.table_name = table_named.name)
    GROUP BY n.database_id, t.table_schema, t.table_name, m.is_parsed
  ) AS g
  WHERE g.is_parsed OR NOT g.any_is; -- a name that SQL reads otherwise is only meant if no other is
  IF many = 0 THEN
    RETURN NULL;
  ELSIF many > 1 THEN
    IF table_named.database_id IS NULL AND relation IS NOT NULL AND is_here THEN -- a row type is of this database
      found := audit_cdc_internal.table_named(name, here, relation, of_record);
      found.is_named := false;
      RETURN found;
    END IF;
    RAISE EXCEPTION 'the log has several tables of this name'
      USING ERRCODE = 'invalid_parameter_value', DETAIL = format('They are %s.', described),
            HINT = concat(
              'Name the schema with it, or its database_id.',
              (
                SELECT format(
                  ' If this database goes on from %s: audit_continue(%1$L, reason).',
                  string_agg(s.database_id, ', '))
                FROM audit_cdc_internal.other_captured(names) AS s
                HAVING count(*) = 1
              ));
  END IF;
  IF found.database_id = wanted_id THEN
    found.databases := wanted;
    found.positions_before := positions_before;
    found.is_own := is_own;
  ELSE
    SELECT d.ids, d.positions_before, d.is_own INTO found.databases, found.positions_before, found.is_own
    FROM audit_cdc_internal.databases_of(found.database_id) AS d;
  END IF;
  found.is_named := table_named.database_id IS NOT NULL;
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
