-- Legal holds: what is under one is not removed.

CREATE SEQUENCE audit_cdc_internal.holds_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.holds (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('holds'),
  name text NOT NULL,
  reason text NOT NULL,
  database_id text,
  table_schema text,
  table_name text,
  record_id text,
  username text,
  request_id text,
  since timestamptz,
  until timestamptz,
  held_by name NOT NULL DEFAULT session_user,
  held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  released_reason text,
  released_by name,
  released_at timestamptz
);
CREATE UNIQUE INDEX holds_now ON audit_cdc_internal.holds (name) WHERE released_at IS NULL;
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.holds', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.holds_id_seq', '');

CREATE VIEW @extschema@.audit_holds AS
  SELECT name, reason, database_id, table_schema, table_name, record_id, username, request_id, since, until, held_by,
         held_at, released_reason, released_by, released_at
  FROM audit_cdc_internal.holds;
COMMENT ON VIEW @extschema@.audit_holds IS 'every legal hold, also those that were released';
COMMENT ON COLUMN @extschema@.audit_holds.name IS 'as given to audit_hold()';
COMMENT ON COLUMN @extschema@.audit_holds.reason IS 'as given to audit_hold()';
COMMENT ON COLUMN @extschema@.audit_holds.database_id IS 'of which database entries are held; null: of any';
COMMENT ON COLUMN @extschema@.audit_holds.table_schema IS 'of which schema; null: of any';
COMMENT ON COLUMN @extschema@.audit_holds.table_name IS 'of which table; null: of any';
COMMENT ON COLUMN @extschema@.audit_holds.record_id IS 'of which record, by record_id or record_key; null: of any';
COMMENT ON COLUMN @extschema@.audit_holds.username IS 'of which user; null: of any';
COMMENT ON COLUMN @extschema@.audit_holds.request_id IS 'of which request; null: of any';
COMMENT ON COLUMN @extschema@.audit_holds.since IS 'committed from then on; null: from the beginning';
COMMENT ON COLUMN @extschema@.audit_holds.until IS 'committed before; null: without end';
COMMENT ON COLUMN @extschema@.audit_holds.held_by IS 'who called audit_hold()';
COMMENT ON COLUMN @extschema@.audit_holds.held_at IS 'when';
COMMENT ON COLUMN @extschema@.audit_holds.released_reason IS 'as given to audit_release(); null: it holds';
COMMENT ON COLUMN @extschema@.audit_holds.released_by IS 'who called that; null: it holds';
COMMENT ON COLUMN @extschema@.audit_holds.released_at IS 'when; null: it holds';

CREATE FUNCTION audit_cdc_internal.check_hold(name text, reason text) RETURNS void
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF name IS NULL OR reason IS NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN name IS NULL THEN 'name' ELSE 'reason' END
      USING ERRCODE = 'null_value_not_allowed';
  ELSIF btrim(name) = '' OR btrim(reason) = '' THEN
    RAISE EXCEPTION '% must not be empty', CASE WHEN btrim(name) = '' THEN 'name' ELSE 'reason' END
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM audit_cdc_internal.refuse_long('name', name);
END
$$;

-- A removal that is under way holds the lock of the months. So a hold waits for its step, and the next sees the hold.
CREATE FUNCTION @extschema@.audit_hold(
    name text, reason text, database_id text DEFAULT NULL, table_schema text DEFAULT NULL,
    table_name text DEFAULT NULL, record_id text DEFAULT NULL, username text DEFAULT NULL,
    request_id text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.check_hold(name, reason);
  PERFORM audit_cdc_internal.lock_partitions();
  INSERT INTO audit_cdc_internal.holds
    (name, reason, database_id, table_schema, table_name, record_id, username, request_id, since, until)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);
  PERFORM audit_cdc_internal.note_operation(
    'audit_hold',
    jsonb_build_object(
      'name', name, 'database_id', database_id, 'table_schema', table_schema, 'table_name', table_name,
      'record_id', record_id, 'username', username, 'request_id', request_id, 'since', since, 'until', until),
    NULL, reason);
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.held_tables AS t WHERE t.name = audit_hold.name) THEN
    RAISE NOTICE 'the log has no entry of such a table yet';
  END IF;
EXCEPTION WHEN unique_violation THEN
  RAISE EXCEPTION 'there is a hold of this name'
    USING ERRCODE = 'duplicate_object', HINT = 'Take another name; audit_holds lists those that are taken.';
END
$$;
COMMENT ON FUNCTION @extschema@.audit_hold(
  text, text, text, text, text, text, text, text, timestamptz, timestamptz) IS
  'Holds entries: audit_apply_retention() leaves them until audit_release(). Held is what fits all that is given; null '
  'is not given, and nothing given holds the whole log. record_id: by record_id or record_key, so a record whose key '
  'changed needs a hold for each key. since, until: of the commit, without until itself. Errors: 22004 (null name or '
  'reason), 22023 (empty, or a name longer than 500 bytes), 42710 (a hold of this name is not released).';

CREATE FUNCTION @extschema@.audit_release(name text, reason text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.check_hold(name, reason);
  UPDATE audit_cdc_internal.holds AS h
  SET released_reason = audit_release.reason, released_by = session_user, released_at = clock_timestamp()
  WHERE h.name = audit_release.name AND h.released_at IS NULL;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'nothing is held under this name'
      USING ERRCODE = 'undefined_object', HINT = 'audit_holds lists what is held.';
  END IF;
  PERFORM audit_cdc_internal.note_operation('audit_release', jsonb_build_object('name', name), NULL, reason);
END
$$;
COMMENT ON FUNCTION @extschema@.audit_release(text, text) IS
  'Ends a hold. Nothing is removed until audit_apply_retention() runs. Errors: 22004 (null), 22023 (empty, or a name '
  'longer than 500 bytes), 42704 (nothing is held under this name).';

-- What is held now, with the numbers of the tables.
CREATE VIEW audit_cdc_internal.held_tables AS
  SELECT t.id AS audited_table, h.name, h.record_id, h.username, h.request_id, h.since, h.until
  FROM audit_cdc_internal.holds AS h
  JOIN audit_cdc_internal.audited_tables AS t
    ON coalesce(t.database_id = ANY (audit_cdc_internal.one_log(h.database_id)), true)
      AND coalesce(t.table_schema = h.table_schema, true)
      AND coalesce(t.table_name = h.table_name, true)
  WHERE h.released_at IS NULL;

CREATE VIEW audit_cdc_internal.with_holds AS
  SELECT coalesce(array_agg(DISTINCT h.audited_table), '{}') AS tables FROM audit_cdc_internal.held_tables AS h;

-- Which holds hold an entry?
CREATE FUNCTION audit_cdc_internal.holds_of(entry audit_cdc_internal.log) RETURNS SETOF text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT h.name
  FROM audit_cdc_internal.held_tables AS h
  WHERE h.audited_table = entry.audited_table
    AND (
      h.record_id IS NULL
      OR h.record_id = entry.record_id
      OR h.record_id = (
        SELECT k.record_key
        FROM audit_cdc_internal.record_keys AS k
        WHERE k.audited_table = entry.audited_table AND k.record_id = entry.record_id
      ))
    AND (h.username IS NULL OR h.username = audit_cdc_internal.lifted(entry.annotations, 'username'))
    AND (h.request_id IS NULL OR h.request_id = audit_cdc_internal.lifted(entry.annotations, 'request_id'))
    AND (h.since IS NULL OR entry.commit_timestamp >= h.since)
    AND (h.until IS NULL OR entry.commit_timestamp < h.until);
END;

CREATE FUNCTION audit_cdc_internal.is_held(entry audit_cdc_internal.log) RETURNS boolean
  LANGUAGE sql STABLE COST 1000
  RETURN EXISTS (SELECT FROM audit_cdc_internal.holds_of(entry));

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

-- Holds that may keep a message which was set aside.
CREATE FUNCTION audit_cdc_internal.holds_of_reject(reject audit_cdc_internal.rejects) RETURNS SETOF text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT h.name
  FROM audit_cdc_internal.holds AS h
  WHERE h.released_at IS NULL
    AND coalesce(reject.database_id = ANY (audit_cdc_internal.one_log(h.database_id)), true)
    AND coalesce(h.table_schema = reject.table_schema, true)
    AND coalesce(h.table_name = reject.table_name, true)
    AND (h.record_id IS NULL OR coalesce(h.record_id = audit_cdc_internal.told_key(reject.raw), true));
END;
