-- DDL in the log: its entries, where capture has found them, and what people read of both. sql/capture/ddl.sql makes
-- the entries.

-- An entry holds an object's state before and after a command. The last entry of an object is how it was seen last.
-- Nothing is ever updated, so that DDL under REPEATABLE READ meets no conflict here.
CREATE SEQUENCE audit_cdc_internal.schema_changes_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.schema_changes (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('schema_changes'), -- the first column: capture reads it
  database_id text NOT NULL, -- of which the objects are; a restored copy has another
  object_type text NOT NULL CHECK (object_type IN ('table', 'publication')),
  object oid NOT NULL,
  command_tag text NOT NULL,
  before jsonb, -- its state, as the views below have it; null: it was not there, or never published
  after jsonb, -- null: it is gone
  parent oid, -- of a partition
  published_as oid, -- under whose name changes of the table are logged: itself, or a root; null: they are not published
  lost_as oid, -- an unlogged or foreign partition: under whose name its changes would be logged
  identity_index oid,
  is_captured boolean NOT NULL, -- are there changes that carry its name?
  wanted jsonb, -- what is published of it while nothing is missing; null: nothing was ever captured
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  statement text,
  statement_length integer, -- of the whole, in characters
  user_name name NOT NULL,
  session_user_name name NOT NULL DEFAULT session_user,
  application_name text DEFAULT current_setting('application_name'),
  client_address inet DEFAULT inet_client_addr()
);
CREATE INDEX schema_changes_by_xid ON audit_cdc_internal.schema_changes (xid);
CREATE INDEX schema_changes_by_object ON audit_cdc_internal.schema_changes (object, id);
CREATE INDEX schema_changes_by_lost_name
  ON audit_cdc_internal.schema_changes ((before ->> 'name'), (before ->> 'schema'))
  WHERE after IS NULL OR before ->> 'name' <> after ->> 'name' OR before ->> 'schema' <> after ->> 'schema';
CREATE INDEX schema_changes_by_parent ON audit_cdc_internal.schema_changes (parent) WHERE parent IS NOT NULL;
CREATE INDEX schema_changes_by_index ON audit_cdc_internal.schema_changes (identity_index)
  WHERE identity_index IS NOT NULL;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.schema_changes
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.schema_changes ENABLE ALWAYS TRIGGER append_only;

-- Where capture has found an entry.
CREATE TABLE audit_cdc_internal.schema_change_positions (
  id bigint PRIMARY KEY, -- of schema_changes; no foreign key: a parallel restore loads tables in any order
  commit_lsn bigint NOT NULL,
  commit_idx bigint NOT NULL,
  commit_timestamp timestamptz NOT NULL,
  annotations jsonb, -- as in the log
  large_annotations uuid,
  -- other transactions that were open at the commit: what they had written, they wrote under the catalogs of before
  beside xid[] NOT NULL
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.schema_change_positions
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.schema_change_positions ENABLE ALWAYS TRIGGER append_only;

-- Of an object, as it was seen last.
CREATE FUNCTION audit_cdc_internal.last_schema(object_type text, object oid) RETURNS audit_cdc_internal.schema_changes
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
BEGIN
  RETURN (SELECT s FROM audit_cdc_internal.schema_changes AS s
          WHERE s.object = last_schema.object AND s.object_type = last_schema.object_type AND s.database_id = here
          ORDER BY s.id DESC LIMIT 1);
END
$$;

CREATE VIEW @extschema@.audit_schema_changes AS
  SELECT s.id, s.database_id, s.command_tag, s.object_type,
         coalesce(s.after, s.before) ->> 'schema' AS table_schema,
         CASE s.object_type WHEN 'table' THEN coalesce(s.after, s.before) ->> 'name' END AS table_name,
         CASE s.object_type WHEN 'publication' THEN coalesce(s.after, s.before) ->> 'name' END AS publication,
         s.before -> 'columns' AS columns_before, s.after -> 'columns' AS columns_after, s.before, s.after,
         s.statement, s.statement_length,
         s.user_name, s.session_user_name, s.application_name, s.client_address,
         audit_cdc_internal.lifted(p.annotations, 'username') AS username,
         audit_cdc_internal.lifted(p.annotations, 'source') AS source,
         audit_cdc_internal.lifted(p.annotations, 'request_id') AS request_id,
         nullif(a.annotations -> 'metadata', 'null') AS metadata, a.annotations,
         s.xid, s.recorded_at, p.commit_lsn, p.commit_idx, p.commit_timestamp
  FROM audit_cdc_internal.schema_changes AS s
  LEFT JOIN audit_cdc_internal.schema_change_positions AS p ON p.id = s.id
  CROSS JOIN LATERAL (
    SELECT CASE WHEN p.large_annotations IS NULL THEN p.annotations
                ELSE (SELECT g.annotations FROM audit_cdc_internal.large_annotations AS g
                      WHERE g.id = p.large_annotations)
           END AS annotations) AS a;
COMMENT ON VIEW @extschema@.audit_schema_changes IS
'DDL on captured tables, on tables that were captured, and on the captured publication; also what capture found when '
'it started';
COMMENT ON COLUMN @extschema@.audit_schema_changes.id IS
'number of the entry; grows, with gaps, in the order of commands';
COMMENT ON COLUMN @extschema@.audit_schema_changes.database_id IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_schema_changes.command_tag IS
'such as ALTER TABLE; audit_capture_start: so the object was when capture started';
COMMENT ON COLUMN @extschema@.audit_schema_changes.object_type IS 'table or publication';
COMMENT ON COLUMN @extschema@.audit_schema_changes.table_schema IS
'schema of the table, after the command if it is still there; of a publication null';
COMMENT ON COLUMN @extschema@.audit_schema_changes.table_name IS 'the table, by its own name; of a publication null';
COMMENT ON COLUMN @extschema@.audit_schema_changes.publication IS 'name of the publication; of a table null';
COMMENT ON COLUMN @extschema@.audit_schema_changes.columns_before IS
'the table''s columns before the command, in order: number, which a renamed column keeps, name, type, not_null, '
'generated; null: it was not there, or never captured';
COMMENT ON COLUMN @extschema@.audit_schema_changes.columns_after IS 'the same after the command; null: it is gone';
COMMENT ON COLUMN @extschema@.audit_schema_changes.before IS
'the object before: of a table its schema, name, kind, columns, key, replica_identity, persistence, parent (of a '
'partition) and what is published of it; null as columns_before';
COMMENT ON COLUMN @extschema@.audit_schema_changes.after IS 'the same after the command; null: it is gone';
COMMENT ON COLUMN @extschema@.audit_schema_changes.statement IS
'what the client sent, up to 10,000 characters: the command itself, or what called it';
COMMENT ON COLUMN @extschema@.audit_schema_changes.statement_length IS 'how many characters the whole statement had';
COMMENT ON COLUMN @extschema@.audit_schema_changes.user_name IS 'the role whose rights the command had';
COMMENT ON COLUMN @extschema@.audit_schema_changes.session_user_name IS 'the role that the session belonged to';
COMMENT ON COLUMN @extschema@.audit_schema_changes.application_name IS 'as the session named itself';
COMMENT ON COLUMN @extschema@.audit_schema_changes.client_address IS
'where the session came from; null: a socket of this machine';
COMMENT ON COLUMN @extschema@.audit_schema_changes.username IS
'annotations ->> ''username''; null if absent, over 2,000 bytes, or not captured yet';
COMMENT ON COLUMN @extschema@.audit_schema_changes.source IS 'annotations ->> ''source'', as username';
COMMENT ON COLUMN @extschema@.audit_schema_changes.request_id IS 'annotations ->> ''request_id'', as username';
COMMENT ON COLUMN @extschema@.audit_schema_changes.metadata IS 'annotations -> ''metadata''';
COMMENT ON COLUMN @extschema@.audit_schema_changes.annotations IS
'the transaction''s annotations where the command stood, as in audit_logs; null: none, or not captured yet';
COMMENT ON COLUMN @extschema@.audit_schema_changes.xid IS 'the transaction';
COMMENT ON COLUMN @extschema@.audit_schema_changes.recorded_at IS 'when the command ended, by the server''s clock';
COMMENT ON COLUMN @extschema@.audit_schema_changes.commit_lsn IS 'as in audit_logs; null: not captured yet';
COMMENT ON COLUMN @extschema@.audit_schema_changes.commit_idx IS
'place among the transaction''s changes, as in audit_logs; null: not captured yet';
COMMENT ON COLUMN @extschema@.audit_schema_changes.commit_timestamp IS 'as in audit_logs; null: not captured yet';

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.schema_changes', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.schema_changes_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.schema_change_positions', '');
