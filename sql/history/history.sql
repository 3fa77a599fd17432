-- What people ask of the log: audit_history(), a record's life, and what a user, a request or a transaction did.

CREATE FUNCTION @extschema@.audit_history(
    table_name text DEFAULT NULL, key text DEFAULT NULL, username text DEFAULT NULL, request_id text DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, after text DEFAULT NULL, newest_first boolean DEFAULT false,
    max_rows integer DEFAULT NULL)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.* FROM audit_cdc_internal.history($1, NULL, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS l;
END;
COMMENT ON FUNCTION @extschema@.audit_history(
  text, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer) IS
  'Changes with the whole row before and after each. table_name (orders, public.orders) and key (as record_id in '
  'audit_logs): one record, from its beginning, also under the keys that it had before and got later, in the order '
  'of positions. Without key: what a user, a request or a transaction (commit_lsn) did, or what was committed from '
  'since up to, not including, until, also of one table, by time. All that is given must fit; null is not given. '
  'database_id: where the log has the table of several databases. Pages: max_rows lines, the next ones after the '
  'cursor of the last; newest_first: the other way round. old_row, new_row: rebuilt from what this and earlier '
  'changes say, without what is unknown, which unknown_old_columns and unknown_columns list. changed: audit_diff() '
  'of them, of an update only what both have. A line of action drop or rename, without id: so the table lost its '
  'name, and the record ended under it. note: what does not fit, such as a change that the log misses. Errors: 22004 '
  '(nothing is asked for), 22023 (several tables of this name, no such cursor, negative max_rows).';

CREATE FUNCTION @extschema@.audit_history(
    row_type regtype, key text DEFAULT NULL, username text DEFAULT NULL, request_id text DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, after text DEFAULT NULL, newest_first boolean DEFAULT false,
    max_rows integer DEFAULT NULL, table_name text DEFAULT NULL)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.*
  FROM audit_cdc_internal.history(
    $12, audit_cdc_internal.relation_of($1), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS l;
END;
COMMENT ON FUNCTION @extschema@.audit_history(
  regtype, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer, text) IS
  'The same for the table that is called like a row type, or for table_name. Errors: 42804 (not a row type), 22023 '
  '(several tables of this name, no such cursor, negative max_rows), 22004 (newest_first).';

-- The types' input functions run with the caller's rights.
CREATE FUNCTION @extschema@.audit_history(
    row_type anyelement, key text DEFAULT NULL, username text DEFAULT NULL, request_id text DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, after text DEFAULT NULL, newest_first boolean DEFAULT false,
    max_rows integer DEFAULT NULL, table_name text DEFAULT NULL,
    OUT change @extschema@.audit_history_line, OUT old_row anyelement, OUT new_row anyelement)
  RETURNS SETOF record
  LANGUAGE sql STABLE AS $$
  SELECT l,
         CASE WHEN l.old_row IS NOT NULL
           THEN audit_cdc_internal.typed_row($1, l.old_row, '{}', l.exact_values OPERATOR(pg_catalog.->) 'old') END,
         CASE WHEN l.new_row IS NOT NULL
           THEN audit_cdc_internal.typed_row($1, l.new_row, '{}', l.exact_values OPERATOR(pg_catalog.->) 'new') END
  FROM @extschema@.audit_history(pg_catalog.pg_typeof($1), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS l
$$;
COMMENT ON FUNCTION @extschema@.audit_history(
  anyelement, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer, text) IS
  'The same with typed rows: change is the line of audit_history(), old_row and new_row are rows of row_type '
  '(NULL::public.orders, which is called like the audited table, or give table_name), unknown columns null. Errors: '
  'also those of audit_row, 42804 (not a row type).';
