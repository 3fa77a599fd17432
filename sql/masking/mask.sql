-- Masks are set and ended.

CREATE FUNCTION @extschema@.audit_mask(
    table_schema text, table_name text, columns text[], how text DEFAULT 'omit', database_id text DEFAULT NULL,
    reason text DEFAULT NULL)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  has_new_secret boolean;
  known text[];
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'audit_mask() must run in READ COMMITTED'
      USING ERRCODE = 'active_sql_transaction', HINT = 'SET default_transaction_isolation = ''read committed''.';
  END IF;
  PERFORM audit_cdc_internal.check_mask(table_schema, table_name, columns, how);
  PERFORM audit_cdc_internal.lock_ddl(); -- who gives it another name now has ended
  PERFORM audit_cdc_internal.refuse_long('database_id', database_id);
  PERFORM audit_cdc_internal.refuse_masked_key(database_id, table_schema, table_name, columns);
  PERFORM audit_cdc_internal.say_unknown_columns(database_id, table_schema, table_name, columns);
  known := audit_cdc_internal.known_columns(database_id, table_schema, table_name);
  PERFORM audit_cdc_internal.settle_masks();
  has_new_secret := audit_cdc_internal.make_mask_secret();
  UPDATE audit_cdc_internal.masks AS m
  SET unmasked_at = clock_timestamp(), unmasked_by = session_user, unmasked_reason = reason
  FROM audit_cdc_internal.masks_set(database_id, table_schema, table_name) AS s
  WHERE m.id = s.id AND m.masked = ANY (columns) AND m.how <> how;
  INSERT INTO audit_cdc_internal.masks (
    database_id, table_schema, table_name, masked, masked_column, path, how, reason)
  SELECT DISTINCT database_id, n.schema, n.name, c, audit_cdc_internal.masked_column(known, c),
         audit_cdc_internal.masked_path(known, c), how, reason
  FROM audit_cdc_internal.masked_names(database_id, table_schema, table_name) AS n, unnest(columns) AS c
  ON CONFLICT DO NOTHING;
  PERFORM audit_cdc_internal.follow_masks(audit_cdc_internal.news_of_masks()::jsonb);
  PERFORM audit_cdc_internal.mask_former_names();
  PERFORM audit_cdc_internal.note_operation(
    'audit_mask',
    jsonb_build_object(
      'database_id', database_id, 'table_schema', table_schema, 'table_name', table_name, 'columns', columns,
      'how', how),
    CASE WHEN has_new_secret THEN jsonb_build_object('secrets', 1) END, reason);
END
$$;
COMMENT ON FUNCTION @extschema@.audit_mask(text, text, text[], text, text, text) IS
  'Masks values before anything is stored, from here on: in images, exact values, rejects, whatever way they come. '
  'columns: names of columns, or column->member for members of json columns, through arrays too. how: omit, nothing is '
  'kept; hash, a keyed hash of the value; partial, the last 4 characters of at least 12. A masked column counts as '
  'unknown, and stands in notes -> ''masked''. Of a partition the whole family is masked. database_id: null for any. '
  'reason: for audit_operations; null for none. It waits for transactions that store. It replaces a mask of the same. '
  'Of several masks of a column the one that keeps least counts. A NOTICE tells of columns that nobody knows. Errors: '
  '22004 (null), 22023 (another how, no column, a name longer than 500 bytes), 25001 (REPEATABLE READ or above), 0A000 '
  '(a column of the primary key), 58030 (the secret of masks cannot be read or written).';

CREATE FUNCTION @extschema@.audit_unmask(
    table_schema text, table_name text, columns text[] DEFAULT NULL, database_id text DEFAULT NULL,
    reason text DEFAULT NULL)
  RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  PERFORM audit_cdc_internal.check_mask(table_schema, table_name, coalesce(columns, '{any}'), 'omit');
  PERFORM audit_cdc_internal.settle_masks();
  UPDATE audit_cdc_internal.masks AS m
  SET unmasked_at = clock_timestamp(), unmasked_by = session_user, unmasked_reason = reason
  FROM audit_cdc_internal.masks_set(database_id, table_schema, table_name) AS s
  WHERE m.id = s.id AND coalesce(m.masked = ANY (columns), true);
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_unmask',
    jsonb_build_object(
      'database_id', database_id, 'table_schema', table_schema, 'table_name', table_name, 'columns', columns),
    NULL, reason);
  RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_unmask(text, text, text[], text, text) IS
  'Ends masks that audit_mask() has set with the same names and database_id; columns: null for all of the table. '
  'Returns whether there was one. What was masked stays masked. reason: for audit_operations; null for none. It waits '
  'for transactions that store. Errors: 22004 (null name), 22023 (no column, or a name longer than 500 bytes).';
