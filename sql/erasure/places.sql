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

-- In the record of operations a pseudonym takes the place of a key, or of a user.
CREATE FUNCTION audit_cdc_internal.erase_argument(
    argument text, gone text[], pseudonym text, audited audit_cdc_internal.audited) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  operations audit_cdc_internal.operations[];
  places tid[];
  one audit_cdc_internal.operations;
BEGIN
  SELECT coalesce(array_agg(o), '{}'), coalesce(array_agg(o.ctid), '{}')
  INTO operations, places
  FROM audit_cdc_internal.operations AS o
  WHERE o.arguments ->> argument = ANY (gone)
    AND audit_cdc_internal.may_name(
      audited, o.arguments ->> 'database_id', o.arguments ->> 'table_schema', o.arguments ->> 'table_name');
  PERFORM audit_cdc_internal.remove_rows(places, 'audit_cdc_internal.operations');
  FOREACH one IN ARRAY operations LOOP
    one.arguments := one.arguments || jsonb_build_object(argument, pseudonym);
    INSERT INTO audit_cdc_internal.operations SELECT one.*;
  END LOOP;
END
$$;

-- A key that goes is also in spellings, in holds that were released, in the record of operations, and of backfills.
CREATE FUNCTION audit_cdc_internal.erase_keys(
    audited audit_cdc_internal.audited, keys text[], pseudonym text) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  DELETE FROM audit_cdc_internal.record_keys AS k
  WHERE k.audited_table = ANY (audited.numbers) AND (k.record_id = ANY (keys) OR k.record_key = ANY (keys));
  UPDATE audit_cdc_internal.holds AS h SET record_id = pseudonym
  WHERE h.record_id = ANY (keys)
    AND h.released_at IS NOT NULL
    AND audit_cdc_internal.may_name(audited, h.database_id, h.table_schema, h.table_name);
  UPDATE audit_cdc_internal.backfills SET after = NULL WHERE finished_at IS NOT NULL AND after && keys;
  SELECT audit_cdc_internal.erase_argument('record_id', keys, pseudonym, audited);
END;

-- DDL is of no table: its annotations go where a user is erased in all of them.
CREATE FUNCTION audit_cdc_internal.ddl_to_erase(wanted audit_cdc_internal.to_erase)
  RETURNS SETOF audit_cdc_internal.schema_change_positions
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT *
  FROM audit_cdc_internal.schema_change_positions AS p
  WHERE wanted.numbers IS NULL AND audit_cdc_internal.lifted(p.annotations, 'username') = wanted.username;
END;

-- A hold on one record keeps no DDL.
CREATE FUNCTION audit_cdc_internal.holds_of_ddl(ddl audit_cdc_internal.schema_change_positions) RETURNS SETOF text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT h.name
  FROM audit_cdc_internal.holds AS h
  WHERE h.released_at IS NULL
    AND h.record_id IS NULL
    AND (h.username IS NULL OR h.username = audit_cdc_internal.lifted(ddl.annotations, 'username'))
    AND (h.request_id IS NULL OR h.request_id = audit_cdc_internal.lifted(ddl.annotations, 'request_id'))
    AND (h.since IS NULL OR ddl.commit_timestamp >= h.since)
    AND (h.until IS NULL OR ddl.commit_timestamp < h.until);
END;

-- Who a message says that made the change; null: it says none.
CREATE FUNCTION audit_cdc_internal.told_user(message text) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN message::json #>> '{metadata,transaction_annotations,username}';
EXCEPTION WHEN data_exception OR statement_too_complex THEN
  RETURN NULL;
END
$$;

-- Annotations of DDL name users too, and so do holds and the record of operations. A large annotation goes with the
-- last that named it.
CREATE FUNCTION audit_cdc_internal.erase_user_elsewhere(
    wanted audit_cdc_internal.to_erase, pseudonym text, large uuid[]) RETURNS void
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  ddl audit_cdc_internal.schema_change_positions[] := ARRAY(
    SELECT d FROM audit_cdc_internal.ddl_to_erase(wanted) AS d);
  one audit_cdc_internal.schema_change_positions;
BEGIN
  PERFORM audit_cdc_internal.remove_rows(
    ARRAY(
      SELECT p.ctid FROM audit_cdc_internal.schema_change_positions AS p
      WHERE p.id = ANY (ARRAY(SELECT d.id FROM unnest(ddl) AS d))),
    'audit_cdc_internal.schema_change_positions');
  FOREACH one IN ARRAY ddl LOOP
    large := large || one.large_annotations;
    one.annotations := audit_cdc_internal.without_user(one.annotations, pseudonym);
    one.large_annotations := NULL;
    INSERT INTO audit_cdc_internal.schema_change_positions SELECT one.*;
  END LOOP;
  IF wanted.numbers IS NULL THEN
    UPDATE audit_cdc_internal.holds AS h SET username = pseudonym
    WHERE h.username = wanted.username AND h.released_at IS NOT NULL;
    PERFORM audit_cdc_internal.erase_argument('username', ARRAY[wanted.username], pseudonym, NULL);
  END IF;
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
