-- Where else an erased value may stand: rejects, holds and operations that name a key, tables that projections fill.

-- Texts that are erased, as JSON spells them. Short ones would be found everywhere.
CREATE FUNCTION audit_cdc_internal.erased_texts(wanted audit_cdc_internal.to_erase) RETURNS text[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(array_agg(DISTINCT btrim(t.value::text, '"')), '{}')
  FROM audit_cdc_internal.entries_to_erase(wanted) AS l
  CROSS JOIN LATERAL (VALUES (l.new_values), (l.old_values)) AS i(image)
  CROSS JOIN LATERAL jsonb_each(i.image) AS v
  CROSS JOIN LATERAL jsonb_path_query(v.value, 'strict $.**') AS t(value)
  WHERE (wanted.columns IS NULL OR v.key = ANY (wanted.columns))
    AND wanted.username IS NULL
    AND jsonb_typeof(t.value) = 'string'
    AND length(t.value::text) >= 6;
END;

-- The key that a message tells, as record_id has it; null: it tells none.
CREATE FUNCTION audit_cdc_internal.told_key(message text) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  pks CONSTANT text[] := ARRAY(
    SELECT k FROM json_array_elements_text(message::json -> 'metadata' -> 'record_pks') WITH ORDINALITY AS u(k, place)
    ORDER BY place);
BEGIN
  RETURN CASE cardinality(pks) WHEN 0 THEN NULL WHEN 1 THEN pks[1] ELSE array_to_json(pks)::text END;
EXCEPTION WHEN data_exception OR statement_too_complex THEN
  RETURN NULL;
END
$$;

-- Messages that were set aside: of such a record, or, where nobody can tell of which, with such a text.
CREATE FUNCTION audit_cdc_internal.rejects_to_erase(wanted audit_cdc_internal.to_erase, texts text[])
  RETURNS bigint[]
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(array_agg(r.id), '{}')
  FROM audit_cdc_internal.rejects AS r
  CROSS JOIN LATERAL (
    SELECT coalesce(
      (r.table_schema, r.table_name) = ((wanted.audited).table_schema, (wanted.audited).table_name)
        AND r.database_id = ANY ((wanted.audited).databases),
      true) AS may_be_of_table
  ) AS t
  WHERE r.erased_at IS NULL
    AND wanted.username IS NULL
    AND CASE
      WHEN r.table_name IS NOT NULL AND audit_cdc_internal.told_key(r.raw) IS NOT NULL
        THEN audit_cdc_internal.told_key(r.raw) = ANY (wanted.keys)
      ELSE EXISTS (SELECT FROM unnest(texts) AS u(text) WHERE position(u.text IN r.raw) > 0)
    END
    AND t.may_be_of_table;
END;

CREATE FUNCTION audit_cdc_internal.erase_rejects(ids bigint[]) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  UPDATE audit_cdc_internal.rejects SET raw = 'erased', erased_at = now() WHERE id = ANY (ids);
END;

-- Where a key stands beside names of its table. Where none is given, it may be of this one.
CREATE FUNCTION audit_cdc_internal.may_name(
    audited audit_cdc_internal.audited, database_id text, table_schema text, table_name text) RETURNS boolean
  LANGUAGE sql IMMUTABLE
  RETURN coalesce(may_name.database_id = ANY (audited.databases), true)
    AND coalesce(may_name.table_schema = audited.table_schema, true)
    AND coalesce(may_name.table_name = audited.table_name, true);

-- A key that goes is also in spellings, in holds that were released, in the record of operations, and of backfills.
CREATE FUNCTION audit_cdc_internal.erase_keys(
    audited audit_cdc_internal.audited, keys text[], pseudonym text) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  operations audit_cdc_internal.operations[];
  places tid[];
  one audit_cdc_internal.operations;
BEGIN
  DELETE FROM audit_cdc_internal.record_keys AS k
  WHERE k.audited_table = ANY (audited.numbers) AND (k.record_id = ANY (keys) OR k.record_key = ANY (keys));
  UPDATE audit_cdc_internal.holds AS h SET record_id = pseudonym
  WHERE h.record_id = ANY (keys)
    AND h.released_at IS NOT NULL
    AND audit_cdc_internal.may_name(audited, h.database_id, h.table_schema, h.table_name);
  UPDATE audit_cdc_internal.backfills SET after = NULL WHERE finished_at IS NOT NULL AND after && keys;
  SELECT coalesce(array_agg(o), '{}'), coalesce(array_agg(o.ctid), '{}')
  INTO operations, places
  FROM audit_cdc_internal.operations AS o
  WHERE o.arguments ->> 'record_id' = ANY (keys)
    AND audit_cdc_internal.may_name(
      audited, o.arguments ->> 'database_id', o.arguments ->> 'table_schema', o.arguments ->> 'table_name');
  PERFORM audit_cdc_internal.remove_rows(places, 'audit_cdc_internal.operations');
  FOREACH one IN ARRAY operations LOOP
    one.arguments := one.arguments || jsonb_build_object('record_id', pseudonym);
    INSERT INTO audit_cdc_internal.operations SELECT one.*;
  END LOOP;
END
$$;

-- Annotations of DDL name users too; username null: they stay. A large one goes with the last entry that named it.
CREATE FUNCTION audit_cdc_internal.erase_user_elsewhere(username text, pseudonym text, large uuid[]) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  positions audit_cdc_internal.schema_change_positions[];
  places tid[];
  one audit_cdc_internal.schema_change_positions;
BEGIN
  SELECT coalesce(array_agg(p), '{}'), coalesce(array_agg(p.ctid), '{}')
  INTO positions, places
  FROM audit_cdc_internal.schema_change_positions AS p
  WHERE audit_cdc_internal.lifted(p.annotations, 'username') = erase_user_elsewhere.username;
  PERFORM audit_cdc_internal.remove_rows(places, 'audit_cdc_internal.schema_change_positions');
  FOREACH one IN ARRAY positions LOOP
    large := large || one.large_annotations;
    one.annotations := audit_cdc_internal.without_user(one.annotations, pseudonym);
    one.large_annotations := NULL;
    INSERT INTO audit_cdc_internal.schema_change_positions SELECT one.*;
  END LOOP;
  PERFORM audit_cdc_internal.remove_rows(
    ARRAY(
      SELECT g.ctid FROM audit_cdc_internal.large_annotations AS g
      WHERE g.id = ANY (large)
        AND NOT EXISTS (SELECT FROM audit_cdc_internal.log AS l WHERE l.large_annotations = g.id)
        AND NOT EXISTS (
          SELECT FROM audit_cdc_internal.schema_change_positions AS p WHERE p.large_annotations = g.id)),
    'audit_cdc_internal.large_annotations');
END
$$;
