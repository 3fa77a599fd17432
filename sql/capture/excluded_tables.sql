-- Tables that capture leaves out: by somebody who owns them and is an admin, for a reason, on record.

-- Rows are never deleted. A change is left out if its commit is at or after from_lsn and before until_lsn.
-- Partitions have rows of their own: one that is attached later is captured until an admin excludes it too.
CREATE TABLE audit_cdc_internal.excluded_tables (
  relation oid NOT NULL,
  table_schema name NOT NULL,
  table_name name NOT NULL,
  reason text NOT NULL,
  excluded_by name NOT NULL,
  excluded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  from_lsn pg_lsn NOT NULL DEFAULT pg_current_wal_insert_lsn(),
  included_reason text,
  included_by name,
  included_at timestamptz,
  until_lsn pg_lsn,
  PRIMARY KEY (relation, from_lsn)
);
CREATE UNIQUE INDEX excluded_tables_now ON audit_cdc_internal.excluded_tables (relation) WHERE until_lsn IS NULL;

CREATE VIEW @extschema@.audit_excluded_tables AS
  SELECT relation::regclass AS relation, table_schema, table_name, reason, excluded_by, excluded_at, from_lsn,
         included_reason, included_by, included_at, until_lsn
  FROM audit_cdc_internal.excluded_tables;
COMMENT ON VIEW @extschema@.audit_excluded_tables IS
  'every table that capture leaves out or left out, and who decided that';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.relation IS 'the table; its number if it is gone';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.table_schema IS 'its schema when it was excluded';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.table_name IS 'its name when it was excluded';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.reason IS 'as given to audit_exclude_table()';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.excluded_by IS 'who called it';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.excluded_at IS 'when';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.from_lsn IS 'what commits from this position on is left out';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.included_reason IS
  'as given to audit_include_table(); null: it is excluded';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.included_by IS 'who called that; null: it is excluded';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.included_at IS 'when; null: it is excluded';
COMMENT ON COLUMN @extschema@.audit_excluded_tables.until_lsn IS
  'what commits from this position on is captured again; null: it is excluded';

COMMENT ON FUNCTION @extschema@.audit_exclude_table(regclass, text) IS
  'Leaves a table, and the partitions that it has now, out of capture: what commits from now on is not in the log. '
  'Called again, it takes in partitions that came since. reason is kept in audit_excluded_tables, with who called it '
  'and when. For members of audit_cdc_admin that own the table. Errors: 22004 (null), 22023 (empty reason), 42501 '
  '(not its owner and admin), 42809 (not a table), 42710 (all of it is excluded already), 25001 (above READ '
  'COMMITTED).';
COMMENT ON FUNCTION @extschema@.audit_include_table(regclass, text) IS
  'Ends what audit_exclude_table() began: what commits from now on is captured again, if the publication has the '
  'table. It waits for a pass of capture that is under way. For members of audit_cdc_admin that own the table. '
  'Errors: 22004 (null), 22023 (empty reason), 42501 (not its owner and admin), 42809 (not a table), 55000 (not '
  'excluded), 25001 (above READ COMMITTED).';
