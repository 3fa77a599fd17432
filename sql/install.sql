-- Names without a schema mean PostgreSQL's own, whatever others have made in the schema of the extension.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Before anything else: can the extension stand here?
DO $$
BEGIN
  IF pg_catalog.current_setting('server_encoding') OPERATOR(pg_catalog.<>) 'UTF8' THEN
    RAISE EXCEPTION 'audit_cdc needs a database with encoding UTF8'
      USING ERRCODE = 'feature_not_supported',
            HINT = 'Change messages are JSON, which is UTF-8. Create a database with ENCODING ''UTF8'' for the audit '
                   'log.';
  END IF;
  IF pg_catalog.to_regclass('@extschema@.audit_logs') IS NOT NULL THEN
    RAISE EXCEPTION 'relation "audit_logs" already exists in schema "%"', '@extschema@'
      USING ERRCODE = 'duplicate_table',
            HINT = 'Rename it (ALTER TABLE audit_logs RENAME TO …), or install beside it: CREATE SCHEMA audit; '
                   'CREATE EXTENSION audit_cdc SCHEMA audit;';
  END IF;
  -- who may make schemas may have made it; what is in it would stand beside objects of the extension
  IF pg_catalog.to_regnamespace('audit_cdc_internal') IS NOT NULL THEN
    RAISE EXCEPTION 'schema "audit_cdc_internal" exists already'
      USING ERRCODE = 'duplicate_schema',
            DETAIL = (
              SELECT pg_catalog.format(
                'The extension keeps its own objects in a schema of this name. This one belongs to %I.',
                pg_catalog.pg_get_userbyid(n.nspowner))
              FROM pg_catalog.pg_namespace AS n
              WHERE n.oid OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('audit_cdc_internal')
            ),
            HINT = 'Look at what is in it. Then drop it, or ALTER SCHEMA audit_cdc_internal RENAME TO …';
  END IF;
END
$$;

-- Roles belong to the whole cluster: another database may have made them already, and
-- DROP EXTENSION leaves them. Or somebody has who may make roles, and is in them.
DO $$
DECLARE
  role text;
  have_rights text;
BEGIN
  SELECT string_agg(h.who, ', ' ORDER BY h.who) INTO have_rights
  FROM pg_roles AS r
  LEFT JOIN pg_auth_members AS a ON a.roleid = r.oid
  LEFT JOIN pg_roles AS m ON m.oid = a.member
  CROSS JOIN LATERAL (
    SELECT format('%I may log in', r.rolname) WHERE r.rolcanlogin
    UNION
    SELECT format('%I is a member of %I', m.rolname, r.rolname)
    WHERE m.oid IS NOT NULL AND (m.rolname, r.rolname) <> ('audit_cdc_admin', 'audit_cdc_reader')
      AND (m.rolname, r.rolname) <> ('audit_cdc_keeper', 'audit_cdc_reader')
  ) AS h(who)
  WHERE r.rolname IN ('audit_cdc_ingest', 'audit_cdc_reader', 'audit_cdc_admin', 'audit_cdc_keeper');
  IF have_rights IS NOT NULL THEN
    RAISE WARNING 'roles of audit_cdc were here before, and others have their rights'
      USING DETAIL = have_rights || '.',
            HINT = 'So they have them in this database too. Revoke the roles from whom you do not know.';
  END IF;
  FOREACH role IN ARRAY ARRAY['audit_cdc_ingest', 'audit_cdc_reader', 'audit_cdc_admin', 'audit_cdc_keeper'] LOOP
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
      EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role);
    END IF;
  END LOOP;
END
$$;
GRANT audit_cdc_reader TO audit_cdc_admin, audit_cdc_keeper;

-- Capture and ingest work as a role of its own, which is no superuser: it writes the log and reads slots. Nobody is
-- to be a member of it.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'audit_cdc_worker') THEN
    CREATE ROLE audit_cdc_worker NOLOGIN REPLICATION;
  ELSIF EXISTS (SELECT FROM pg_catalog.pg_roles AS r
                WHERE r.rolname = 'audit_cdc_worker' AND (r.rolsuper OR r.rolcanlogin OR NOT r.rolreplication))
     OR EXISTS (SELECT FROM pg_catalog.pg_auth_members AS m JOIN pg_catalog.pg_roles AS r ON r.oid = m.roleid
                WHERE r.rolname = 'audit_cdc_worker') THEN
    RAISE EXCEPTION 'role "audit_cdc_worker" is not as this extension makes it'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'It must be NOLOGIN and REPLICATION, no superuser, and without members.',
            HINT = 'Find out who made it so, then revoke its members and ALTER ROLE audit_cdc_worker NOLOGIN '
                   'REPLICATION NOSUPERUSER.';
  END IF;
END
$$;

-- What users call and read lives in the schema of their choice; what the extension keeps lives here.
CREATE SCHEMA audit_cdc_internal;
