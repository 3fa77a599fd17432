-- What no comparison of the catalogs tells: roles belong to the whole server.

DO $$
DECLARE
  have_rights text;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = 'audit_cdc_keeper') THEN
    CREATE ROLE audit_cdc_keeper NOLOGIN;
  END IF;
  SELECT string_agg(format('%I is a member', m.rolname), ', ' ORDER BY m.rolname) INTO have_rights
  FROM pg_roles AS r
  JOIN pg_auth_members AS a ON a.roleid = r.oid
  JOIN pg_roles AS m ON m.oid = a.member
  WHERE r.rolname = 'audit_cdc_keeper';
  IF have_rights IS NOT NULL THEN
    RAISE WARNING 'role audit_cdc_keeper was here before, and others have its rights'
      USING DETAIL = have_rights || '.',
            HINT = 'So they have them in this database too. Revoke the role from whom you do not know.';
  END IF;
END
$$;
GRANT audit_cdc_reader TO audit_cdc_keeper;
