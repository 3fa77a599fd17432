-- One record, one key. A change and a backfill may spell the same key differently ("10:00:00.5+00",
-- "10:00:00.500000Z"), and only its types tell that it is the same. Kept here are keys whose spelling is not
-- PostgreSQL's own, of tables whose latest description gives such types.

CREATE TABLE audit_cdc_internal.record_keys (
  audited_table integer NOT NULL,
  record_id text NOT NULL,
  record_key text NOT NULL,
  PRIMARY KEY (audited_table, record_id)
);
CREATE INDEX ON audit_cdc_internal.record_keys (record_key, audited_table);
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.record_keys', '');

-- Types of the key columns, in their order; null if their text is the same wherever it comes from.
CREATE FUNCTION audit_cdc_internal.spelled_types(key_columns text[], column_types jsonb) RETURNS text[]
  LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
  SELECT array_agg(column_types ->> c ORDER BY place)
  FROM unnest(key_columns) WITH ORDINALITY AS u(c, place)
  HAVING bool_or(audit_cdc_internal.is_spelled(column_types ->> c));
END;

-- One value in PostgreSQL's own spelling; equal values of types with several spellings (numeric, citext) in one.
-- What the type does not take stays as it is.
CREATE FUNCTION audit_cdc_internal.key_text(value text, type text) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
  SET IntervalStyle = 'postgres' SET extra_float_digits = 1 AS $$
DECLARE
  sent CONSTANT jsonb := to_jsonb(value);
BEGIN
  RETURN CASE
    WHEN type ~ '^numeric\M' THEN trim_scale(audit_cdc_internal.typed_value(NULL::numeric, sent))::text
    WHEN type = 'boolean' THEN audit_cdc_internal.typed_value(NULL::boolean, sent)::text
    WHEN type = 'real' THEN (audit_cdc_internal.typed_value(NULL::real, sent) + 0::real)::text
    WHEN type = 'double precision' THEN (audit_cdc_internal.typed_value(NULL::double precision, sent) + 0)::text
    WHEN type ~ '^timestamp.* with time zone$' THEN audit_cdc_internal.typed_value(NULL::timestamptz, sent)::text
    WHEN type ~ '^timestamp' THEN audit_cdc_internal.typed_value(NULL::timestamp, sent)::text
    WHEN type ~ '^time.* with time zone$' THEN audit_cdc_internal.typed_value(NULL::timetz, sent)::text
    WHEN type ~ '^time' THEN audit_cdc_internal.typed_value(NULL::time, sent)::text
    WHEN type = 'date' THEN audit_cdc_internal.typed_value(NULL::date, sent)::text
    WHEN type ~ '^interval\M' THEN audit_cdc_internal.typed_value(NULL::interval, sent)::text
    WHEN type ~ '^character\M' THEN rtrim(value, ' ')
    WHEN type ~ '^(.*\.)?citext$' THEN lower(value)
    ELSE value
  END;
EXCEPTION WHEN data_exception THEN
  RETURN value;
END
$$;

-- In the form of record_id.
CREATE FUNCTION audit_cdc_internal.record_key(record_id text, record_pks text[], types text[]) RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT CASE
    WHEN cardinality(types) = 1 AND record_pks IS NULL THEN audit_cdc_internal.key_text(record_id, types[1])
    WHEN cardinality(types) = cardinality(record_pks) AND record_id LIKE '[%'
      THEN (SELECT array_to_json(array_agg(audit_cdc_internal.key_text(v, t) ORDER BY place))::text
            FROM unnest(record_pks, types) WITH ORDINALITY AS u(v, t, place))
    ELSE record_id
  END;
END;

-- Called for every batch that holds such keys, within audit_ingest's search_path. Always in one order.
CREATE FUNCTION audit_cdc_internal.keep_record_keys(
    audited_tables integer[], record_ids text[], pks text[], types text[])
  RETURNS void
  LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO audit_cdc_internal.record_keys
  SELECT DISTINCT ON (n.audited_table, n.record_id) n.audited_table, n.record_id, k.record_key
  FROM unnest(audited_tables, record_ids, pks, types) AS n(audited_table, record_id, pks, types)
  CROSS JOIN LATERAL audit_cdc_internal.record_key(n.record_id, n.pks::text[], n.types::text[]) AS k(record_key)
  WHERE k.record_key <> n.record_id
  ORDER BY n.audited_table, n.record_id
  ON CONFLICT DO NOTHING;
END
$$;

-- After a description that gives other types. Nothing is stored until the caller's transaction ends.
CREATE FUNCTION audit_cdc_internal.respell_record_keys(
    database_id text, table_schema text, table_name text, types text[])
  RETURNS void
  LANGUAGE plpgsql AS $$
DECLARE
  numbers integer[];
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'types of a key can be described under READ COMMITTED only'
      USING ERRCODE = 'active_sql_transaction', DETAIL = 'Entries that came meanwhile would be missed.';
  END IF;
  LOCK TABLE ONLY audit_cdc_internal.log IN SHARE MODE;
  UPDATE audit_cdc_internal.ingest_reads SET changed_at = now();
  numbers := ARRAY(
    SELECT t.id FROM audit_cdc_internal.audited_tables AS t
    WHERE (t.database_id, t.table_schema, t.table_name)
        = (respell_record_keys.database_id, respell_record_keys.table_schema, respell_record_keys.table_name));
  DELETE FROM audit_cdc_internal.record_keys WHERE audited_table = ANY (numbers);
  IF types IS NOT NULL THEN
    INSERT INTO audit_cdc_internal.record_keys
    SELECT r.audited_table, r.record_id, k.record_key
    FROM (SELECT DISTINCT ON (l.audited_table, l.record_id) l.audited_table, l.record_id, l.record_pks
          FROM audit_cdc_internal.log AS l WHERE l.audited_table = ANY (numbers) AND l.record_id IS NOT NULL) AS r
    CROSS JOIN LATERAL audit_cdc_internal.record_key(r.record_id, r.record_pks, types) AS k(record_key)
    WHERE k.record_key <> r.record_id;
  END IF;
END
$$;
