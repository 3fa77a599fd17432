-- What is done to the log: each call of a function that decides what it holds, or who may write to it.

CREATE SEQUENCE audit_cdc_internal.operations_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.operations (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('operations'),
  performed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  operation text NOT NULL,
  arguments jsonb NOT NULL,
  counts jsonb,
  reason text,
  server_context jsonb NOT NULL
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.operations
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.operations ENABLE ALWAYS TRIGGER append_only;
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.operations', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.operations_id_seq', '');

-- Called in the transaction of what is done, so that neither is there without the other.
CREATE FUNCTION audit_cdc_internal.note_operation(
    operation text, arguments jsonb, counts jsonb DEFAULT NULL, reason text DEFAULT NULL) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  INSERT INTO audit_cdc_internal.operations (operation, arguments, counts, reason, server_context)
  VALUES (operation, jsonb_strip_nulls(arguments), counts, reason, audit_cdc_internal.server_context()::jsonb);
END;

CREATE VIEW @extschema@.audit_operations AS
  SELECT id, performed_at, operation, arguments, counts, reason, server_context FROM audit_cdc_internal.operations;
COMMENT ON VIEW @extschema@.audit_operations IS
  'every call of a function that decides what the log holds, how it is read, or who may write to it; append-only. What '
  'failed or was rolled back is not here';
COMMENT ON COLUMN @extschema@.audit_operations.id IS 'grows, with gaps';
COMMENT ON COLUMN @extschema@.audit_operations.performed_at IS 'when it was done';
COMMENT ON COLUMN @extschema@.audit_operations.operation IS
  'name of the function; ALTER EXTENSION: the extension was updated. audit_capture_stop leaves a line when it begins, '
  'and one with counts when it has ended';
COMMENT ON COLUMN @extschema@.audit_operations.arguments IS
  'what it was given, by the names of its parameters; without those that are null';
COMMENT ON COLUMN @extschema@.audit_operations.counts IS 'how much it did; null: it counts nothing';
COMMENT ON COLUMN @extschema@.audit_operations.reason IS 'as given to it; null: it takes none';
COMMENT ON COLUMN @extschema@.audit_operations.server_context IS
  'who did it, as the server knows: session_user, current_user (SET ROLE changes it, functions do not), '
  'application_name, client_address, backend_start';
