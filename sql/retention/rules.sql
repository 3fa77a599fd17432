-- How long entries are kept. Without a rule they are kept for ever.

CREATE TABLE audit_cdc_internal.retention_rules (
  database_id text,
  table_schema text,
  table_name text,
  keep interval, -- null: for ever
  UNIQUE NULLS NOT DISTINCT (database_id, table_schema, table_name)
);
ALTER TABLE audit_cdc_internal.retention_rules REPLICA IDENTITY FULL; -- a publication FOR ALL TABLES wants a key
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.retention_rules', '');

CREATE VIEW @extschema@.audit_retention_rules AS
  SELECT database_id, table_schema, table_name, keep FROM audit_cdc_internal.retention_rules;
COMMENT ON VIEW @extschema@.audit_retention_rules IS
  'how long entries are kept. Of the rules that fit a table, one that names a table wins, then one that names a '
  'schema, then one that names a database. What no rule fits is kept for ever';
COMMENT ON COLUMN @extschema@.audit_retention_rules.database_id IS 'as in audit_logs; null: of any database';
COMMENT ON COLUMN @extschema@.audit_retention_rules.table_schema IS 'null: of any schema';
COMMENT ON COLUMN @extschema@.audit_retention_rules.table_name IS 'null: of any table';
COMMENT ON COLUMN @extschema@.audit_retention_rules.keep IS 'since the commit of the change; null: for ever';

CREATE FUNCTION audit_cdc_internal.check_retention(
    keep interval, database_id text, table_schema text, table_name text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.refuse_long('database_id', check_retention.database_id);
  PERFORM audit_cdc_internal.refuse_long('table_schema', check_retention.table_schema);
  PERFORM audit_cdc_internal.refuse_long('table_name', check_retention.table_name);
  -- an interval compares by months of 30 days, but counts back by the calendar
  IF keep < interval '1 day' OR keep > interval '1000 years' OR now() - keep > now() - interval '1 day' THEN
    RAISE EXCEPTION 'keep must be between 1 day and 1000 years'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Null keeps entries for ever.';
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_set_retention(
    keep interval, database_id text DEFAULT NULL, table_schema text DEFAULT NULL, table_name text DEFAULT NULL,
    reason text DEFAULT NULL)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  PERFORM audit_cdc_internal.check_retention(keep, database_id, table_schema, table_name);
  INSERT INTO audit_cdc_internal.retention_rules AS r VALUES (database_id, table_schema, table_name, keep)
  ON CONFLICT ON CONSTRAINT retention_rules_database_id_table_schema_table_name_key
  DO UPDATE SET keep = excluded.keep;
  PERFORM audit_cdc_internal.note_operation(
    'audit_set_retention',
    jsonb_build_object(
      'keep', coalesce(keep::text, 'for ever'), 'database_id', database_id, 'table_schema', table_schema,
      'table_name', table_name),
    NULL, reason);
  IF NOT EXISTS (
    SELECT FROM audit_cdc_internal.audited_tables AS t
    WHERE coalesce(t.database_id = audit_set_retention.database_id, true)
      AND coalesce(t.table_schema = audit_set_retention.table_schema, true)
      AND coalesce(t.table_name = audit_set_retention.table_name, true)
  ) THEN
    RAISE NOTICE 'the log has no entry of such a table yet';
  END IF;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_set_retention(interval, text, text, text, text) IS
  'Says how long entries are kept, of all tables or of those that are named: null names any. keep: since the commit '
  'of the change; null: for ever. It replaces a rule that names the same. Nothing is removed until '
  'audit_apply_retention() runs. reason: for audit_operations; null for none. A NOTICE tells that the log has no entry '
  'of such a table. Errors: 22023 (keep is under 1 day or over 1,000 years, or a name is longer than 500 bytes).';

CREATE FUNCTION @extschema@.audit_drop_retention(
    database_id text DEFAULT NULL, table_schema text DEFAULT NULL, table_name text DEFAULT NULL,
    reason text DEFAULT NULL)
  RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  DELETE FROM audit_cdc_internal.retention_rules AS r
  WHERE (r.database_id, r.table_schema, r.table_name)
    IS NOT DISTINCT FROM (database_id, table_schema, table_name);
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_drop_retention',
    jsonb_build_object('database_id', database_id, 'table_schema', table_schema, 'table_name', table_name), NULL,
    reason);
  RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_drop_retention(text, text, text, text) IS
  'Removes the rule of audit_set_retention() that names the same; false: there was none. reason: for audit_operations; '
  'null for none. Errors: none.';

-- Up to when entries of each table may go; null: none may.
CREATE VIEW audit_cdc_internal.cutoffs AS
  SELECT t.id AS audited_table, CASE WHEN r.keep IS NOT NULL THEN least(now() - r.keep, now() - interval '1 day') END
         AS cutoff
  FROM audit_cdc_internal.audited_tables AS t
  LEFT JOIN LATERAL (
    SELECT r.keep
    FROM audit_cdc_internal.retention_rules AS r
    WHERE coalesce(r.database_id = t.database_id, true)
      AND coalesce(r.table_schema = t.table_schema, true)
      AND coalesce(r.table_name = t.table_name, true)
    ORDER BY r.table_name IS NULL, r.table_schema IS NULL, r.database_id IS NULL
    LIMIT 1
  ) AS r ON true;
