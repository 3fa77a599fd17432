-- What was erased: its values are gone from the log, but not that they were there.

CREATE SEQUENCE audit_cdc_internal.erasures_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.erasures (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('erasures'),
  audited_table integer NOT NULL,
  columns text[], -- null: all
  pseudonym text, -- in place of the record's key, or of the name of who made the changes
  entries bigint NOT NULL,
  oldest timestamptz NOT NULL,
  newest timestamptz NOT NULL,
  reason text NOT NULL,
  erased_by text NOT NULL DEFAULT session_user,
  erased_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.erasures
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.erasures ENABLE ALWAYS TRIGGER append_only;
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.erasures', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.erasures_id_seq', '');

CREATE VIEW @extschema@.audit_erasures AS
  SELECT e.id, e.erased_at, e.erased_by, e.reason, t.database_id, t.table_schema, t.table_name, e.columns, e.pseudonym,
         e.entries, e.oldest, e.newest
  FROM audit_cdc_internal.erasures AS e
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = e.audited_table;
COMMENT ON VIEW @extschema@.audit_erasures IS
  'what audit_erase() has taken out of the log, by call and table; append-only. erased of audit_logs tells of which '
  'entries';
COMMENT ON COLUMN @extschema@.audit_erasures.id IS 'grows, with gaps';
COMMENT ON COLUMN @extschema@.audit_erasures.erased_at IS 'when';
COMMENT ON COLUMN @extschema@.audit_erasures.erased_by IS 'who called audit_erase()';
COMMENT ON COLUMN @extschema@.audit_erasures.reason IS 'as given to it';
COMMENT ON COLUMN @extschema@.audit_erasures.database_id IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_erasures.table_schema IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_erasures.table_name IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_erasures.columns IS
  'whose values are gone; null: all columns, or for a user the annotations';
COMMENT ON COLUMN @extschema@.audit_erasures.pseudonym IS
  'what stands in place of the key or of the username; null: both stayed';
COMMENT ON COLUMN @extschema@.audit_erasures.entries IS 'how many entries lost values';
COMMENT ON COLUMN @extschema@.audit_erasures.oldest IS 'the first commit of those';
COMMENT ON COLUMN @extschema@.audit_erasures.newest IS 'the last commit of those';
