-- A table, or a record, as it was: audit_as_of() and audit_as_of_unknown(). What the log cannot know is said.

CREATE FUNCTION audit_cdc_internal.warn_of_no_changes() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE WARNING 'the log has no change of this table' USING HINT = 'audit_status() lists the tables that it has.';
END
$$;

CREATE FUNCTION audit_cdc_internal.can_be_answered(audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn)
  RETURNS boolean
  LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF at IS NOT NULL AND lsn IS NOT NULL THEN
    RAISE EXCEPTION 'at and lsn cannot both be given' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF audited IS NULL THEN
    PERFORM audit_cdc_internal.warn_of_no_changes();
  ELSE
    PERFORM audit_cdc_internal.say_doubts(audited, NULL, at, lsn, false);
  END IF;
  RETURN audited.database_id IS NOT NULL;
END
$$;

CREATE FUNCTION @extschema@.audit_as_of(
    table_name text, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    database_id text DEFAULT NULL)
  RETURNS SETOF jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT r
  FROM audit_cdc_internal.rows_as_of(
    audit_cdc_internal.table_named(table_name, database_id, NULL, key), '{}', at, lsn, key, false) AS r;
END;
COMMENT ON FUNCTION @extschema@.audit_as_of(text, timestamptz, pg_lsn, text, text) IS
  'The rows of a table as they were, as jsonb: an image a row, without the columns that are unknown. Typed rows have '
  'also what jsonb does not hold. table_name: with or without schema (users, public.users). Times, positions, key '
  'and database_id are those of audit_as_of() with a row type; null: not given. Errors: 22004 (no table named), '
  '22023 (both at and lsn, several tables of this name).';

CREATE FUNCTION @extschema@.audit_as_of(
    row_type regtype, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    table_name text DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS SETOF jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT r
  FROM audit_cdc_internal.rows_as_of(
    audit_cdc_internal.table_named(table_name, database_id, audit_cdc_internal.relation_of(row_type), key),
    audit_cdc_internal.columns_of(row_type), at, lsn, key, false) AS r;
END;
COMMENT ON FUNCTION @extschema@.audit_as_of(regtype, timestamptz, pg_lsn, text, text, text) IS
  'The same as jsonb, for the table that is called like a row type (''public.users''), or for table_name. Errors: '
  '42804 (not a row type), 22023 (both at and lsn, several tables of this name).';

-- May the log have rows of a table that only has its name, such as one that was dropped, or is of another database?
CREATE FUNCTION audit_cdc_internal.may_be_anothers(audited audit_cdc_internal.audited) RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  RETURN NOT audited.is_own OR EXISTS (SELECT FROM audit_cdc_internal.losses_of(audited));

-- The table. An error where its rows may be another's, and conditions of a stranger's types would see them.
CREATE FUNCTION audit_cdc_internal.readable_as(audited audit_cdc_internal.audited, row_type oid)
  RETURNS audit_cdc_internal.audited
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  relation CONSTANT oid := audit_cdc_internal.relation_of(row_type);
BEGIN
  -- nearly always all types are PostgreSQL's own
  IF NOT EXISTS (
    SELECT FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0 AND a.atttypid >= 16384) THEN
    RETURN audited;
  END IF;
  IF audited.database_id IS NOT NULL
    AND audit_cdc_internal.may_be_anothers(audited)
    AND EXISTS (
      WITH RECURSIVE used(type) AS (
        SELECT p FROM audit_cdc_internal.parts_of_type(row_type) AS p
        UNION
        SELECT p.type FROM used CROSS JOIN LATERAL audit_cdc_internal.parts_of_type(used.type) AS p(type)
      )
      SELECT
      FROM used
      JOIN pg_type AS t ON t.oid = used.type
      WHERE t.typtype IN ('d', 'c', 'r', 'm') AND NOT pg_has_role(t.typowner, current_user, 'USAGE')
    ) THEN
    RAISE EXCEPTION 'permission denied to show rows of another table to conditions of another role''s type'
      USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'The log may have rows of a table that only has the same name: it was dropped, renamed, or is of '
                     'another database.',
            HINT = 'Ask for jsonb rows, with the table''s name as text, or for a row type of your own.';
  END IF;
  RETURN audited;
END
$$;

-- The same rows, told: exact values stand in them (src/cast/told.rs). audit_as_of() makes rows of a type of them.
CREATE FUNCTION audit_cdc_internal.told_as_of(
    row_type regtype, at timestamptz, lsn pg_lsn, key text, table_name text, database_id text)
  RETURNS SETOF jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT r
  FROM audit_cdc_internal.rows_as_of(
    audit_cdc_internal.readable_as(
      audit_cdc_internal.table_named(table_name, database_id, audit_cdc_internal.relation_of(row_type), key), row_type),
    audit_cdc_internal.columns_of(row_type), at, lsn, key, true) AS r;
END;

COMMENT ON FUNCTION @extschema@.audit_as_of(anyelement, timestamptz, pg_lsn, text, text, text) IS
  'The rows of a table as they were. row_type: NULL::public.users, a table or composite type called like the audited '
  'table (or give table_name), with its columns. at: a commit time; lsn: a position; neither: the latest that the '
  'log holds; both: error 22023. key: only this record, as record_id in audit_logs. database_id: where the log has '
  'the table of several databases. A transaction is in it whole or not at all, as far as the log holds it; a NOTICE '
  'tells if the moment is not settled. Records of which the log cannot tell are left out, columns that it cannot '
  'tell are null, and a WARNING counts both; audit_as_of_unknown() lists them. Another WARNING tells if changes of '
  'the table are in audit_rejects. Errors: as audit_row, 22023 (several tables of this name), 42804 (not a row '
  'type), 22004 (no table named), 42501 (its rows may be of another table of this name, and a type of the row belongs '
  'to a role without the caller''s rights).';

CREATE FUNCTION @extschema@.audit_as_of_unknown(
    table_name text, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    database_id text DEFAULT NULL,
    OUT record_id text, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT u.*
  FROM audit_cdc_internal.unknown_as_of(
    audit_cdc_internal.table_named(table_name, database_id, NULL, key), '{}', at, lsn, key) AS u;
END;
COMMENT ON FUNCTION @extschema@.audit_as_of_unknown(text, timestamptz, pg_lsn, text, text) IS
  'The same for a table by its name, with or without schema. Errors: 22004 (no table named), 22023 (both at and lsn, '
  'several tables of this name).';

CREATE FUNCTION @extschema@.audit_as_of_unknown(
    row_type regtype, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    table_name text DEFAULT NULL, database_id text DEFAULT NULL,
    OUT record_id text, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT u.*
  FROM audit_cdc_internal.unknown_as_of(
    audit_cdc_internal.table_named(table_name, database_id, audit_cdc_internal.relation_of(row_type), key),
    audit_cdc_internal.columns_of(row_type), at, lsn, key) AS u;
END;
COMMENT ON FUNCTION @extschema@.audit_as_of_unknown(regtype, timestamptz, pg_lsn, text, text, text) IS
  'The same for the table that is called like a row type, or for table_name. Errors: 42804 (not a row type), 22023 '
  '(both at and lsn, several tables of this name).';

CREATE FUNCTION @extschema@.audit_as_of_unknown(
    row_type anyelement, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL, key text DEFAULT NULL,
    table_name text DEFAULT NULL, database_id text DEFAULT NULL,
    OUT record_id text, OUT known jsonb, OUT unknown_columns text[], OUT reason text)
  RETURNS SETOF record
  LANGUAGE sql STABLE AS $$
  SELECT * FROM @extschema@.audit_as_of_unknown(pg_catalog.pg_typeof($1), $2, $3, $4, $5, $6)
$$;
COMMENT ON FUNCTION @extschema@.audit_as_of_unknown(anyelement, timestamptz, pg_lsn, text, text, text) IS
  'What audit_as_of() with the same arguments cannot tell, one row a record. known: what is known of the row, if '
  'there is one; unknown_columns: the others, null where even the record''s existence is unknown; reason: why. '
  'Errors: 42804 (not a row type), 22023 (both at and lsn, several tables of this name).';
