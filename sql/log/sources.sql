-- Which source databases a role may deliver changes of. Those of this server's own nobody delivers: capture stores
-- them.

CREATE TABLE audit_cdc_internal.allowed_sources (
  role regrole NOT NULL,
  database_id text NOT NULL,
  PRIMARY KEY (role, database_id)
);
COMMENT ON TABLE audit_cdc_internal.allowed_sources IS
  'a role without any row here may deliver changes of every database but this server''s own';

-- What a role was bound to that was dropped is not dumped: elsewhere the number that it had is another role's.
SELECT pg_catalog.pg_extension_config_dump(
  'audit_cdc_internal.allowed_sources',
  'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) role)');

CREATE FUNCTION audit_cdc_internal.role_of_source(role name, database_id text) RETURNS regrole
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found CONSTANT oid := (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = role);
BEGIN
  IF role IS NULL OR database_id IS NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN role IS NULL THEN 'role' ELSE 'database_id' END
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  PERFORM audit_cdc_internal.refuse_long('database_id', database_id);
  IF found IS NULL THEN
    RAISE EXCEPTION 'role "%" does not exist', role USING ERRCODE = 'undefined_object';
  END IF;
  RETURN found;
END
$$;

CREATE FUNCTION @extschema@.audit_allow_source(role name, database_id text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bound CONSTANT regrole := audit_cdc_internal.role_of_source(role, database_id);
BEGIN
  IF starts_with(database_id, (SELECT s.system_identifier FROM pg_control_system() AS s)::text || '.') THEN
    RAISE EXCEPTION 'database_id is of this server' USING ERRCODE = 'invalid_parameter_value',
      HINT = 'audit_capture_start() captures a database of this server; nobody may deliver its changes.';
  END IF;
  IF EXISTS (
    SELECT FROM audit_cdc_internal.captured_databases AS c
    WHERE c.database_id = audit_allow_source.database_id
  ) THEN
    RAISE EXCEPTION 'database_id is of a database that was captured into this log'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Only capture may store changes of it.';
  END IF;
  INSERT INTO audit_cdc_internal.allowed_sources VALUES (bound, audit_allow_source.database_id) ON CONFLICT DO NOTHING;
  PERFORM audit_cdc_internal.note_operation(
    'audit_allow_source', jsonb_build_object('role', role, 'database_id', database_id));
END
$$;
COMMENT ON FUNCTION @extschema@.audit_allow_source(name, text) IS
  'Binds a role, and all that are members of it, to source databases: with audit_ingest it delivers changes of those '
  'that were named so, and of no others. database_id: as in audit_logs. A role of which none was named may deliver '
  'changes of any database but this server''s own. What else it delivers is rejected with 42501, and kept in '
  'audit_rejects. It holds for calls that begin later. The databases count of the role with whose rights it '
  'is called, such as the owner of a SECURITY DEFINER function; if it has none, those of the role of SET ROLE, or of '
  'who logged in. Errors: 22004 (null), 42704 (no such role), 22023 (a database of this server, '
  'one that was captured into this log where it was restored from, or longer than 500 bytes).';

CREATE FUNCTION @extschema@.audit_revoke_source(role name, database_id text) RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bound CONSTANT regrole := audit_cdc_internal.role_of_source(role, database_id);
BEGIN
  DELETE FROM audit_cdc_internal.allowed_sources AS a
  WHERE a.role = bound AND a.database_id = audit_revoke_source.database_id;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_revoke_source', jsonb_build_object('role', role, 'database_id', database_id));
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.allowed_sources AS a WHERE a.role = bound) THEN
    RAISE WARNING 'role "%" is bound to no source any more', role
      USING HINT = 'It may deliver changes of any database but this server''s own. REVOKE audit_cdc_ingest ends that.';
  END IF;
  RETURN true;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_revoke_source(name, text) IS
  'Takes back what audit_allow_source() with the same arguments allowed; false: it was not. A WARNING tells when it '
  'was the role''s last, after which any source is allowed again. Errors: 22004 (null), 22023 (longer '
  'than 500 bytes), 42704 (no such role).';

CREATE VIEW @extschema@.audit_allowed_sources AS
  SELECT pg_catalog.pg_get_userbyid(role) AS role, database_id FROM audit_cdc_internal.allowed_sources;
COMMENT ON VIEW @extschema@.audit_allowed_sources IS
  'which source databases roles are bound to; a role that is not here may deliver changes of any but this server''s '
  'own';
COMMENT ON COLUMN @extschema@.audit_allowed_sources.role IS 'the role; its members are bound too';
COMMENT ON COLUMN @extschema@.audit_allowed_sources.database_id IS 'as in audit_logs';
