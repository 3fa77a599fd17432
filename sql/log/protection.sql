-- What holds against those whom rights alone do not keep out: default privileges, pg_write_all_data, the owner of
-- the database.

-- Takes an object away from all but its owner, whatever default privileges gave.
CREATE FUNCTION audit_cdc_internal.keep_private(class oid, object oid) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  one record;
BEGIN
  FOR one IN
    SELECT DISTINCT o.kind, (pg_identify_object(class, object, 0)).identity,
                    coalesce(quote_ident(r.rolname), 'PUBLIC') AS grantee
    FROM (
      SELECT 'ROUTINE', p.proacl, 'f'::"char", p.proowner
      FROM pg_proc AS p
      WHERE class = 'pg_proc'::regclass AND p.oid = object
      UNION ALL
      SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.relacl,
             CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner
      FROM pg_class AS c
      WHERE class = 'pg_class'::regclass AND c.oid = object AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      UNION ALL
      SELECT 'TYPE', t.typacl, 'T', t.typowner
      FROM pg_type AS t
      WHERE class = 'pg_type'::regclass
        AND t.oid = object
        AND t.typtype <> 'p'
        AND NOT (t.typelem <> 0 AND t.typsubscript = 'array_subscript_handler'::regproc)
      UNION ALL
      SELECT 'SCHEMA', n.nspacl, 'n', n.nspowner
      FROM pg_namespace AS n
      WHERE class = 'pg_namespace'::regclass AND n.oid = object
    ) AS o(kind, acl, letter, owner)
    CROSS JOIN aclexplode(coalesce(o.acl, acldefault(o.letter, o.owner))) AS a
    LEFT JOIN pg_roles AS r ON r.oid = a.grantee
    WHERE a.grantee <> o.owner
  LOOP
    EXECUTE format('REVOKE ALL ON %s %s FROM %s CASCADE', one.kind, one.identity, one.grantee);
  END LOOP;
END
$$;

-- ALWAYS: also under session_replication_role = replica.
CREATE FUNCTION audit_cdc_internal.keep_from_writers(relation regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('CREATE TRIGGER own_writers_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s
                  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.own_writers_only()', relation);
  EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER own_writers_only', relation);
END
$$;

-- Each of these may reach the extension, its schema or its tables, by CASCADE too. What refuses is the library's
-- hook (src/pg/removal.rs).
CREATE EVENT TRIGGER audit_cdc_before_removal ON ddl_command_start WHEN TAG IN (
  'ALTER AGGREGATE', 'ALTER EXTENSION', 'ALTER FOREIGN TABLE', 'ALTER FUNCTION', 'ALTER PROCEDURE', 'ALTER ROUTINE',
  'ALTER SCHEMA', 'ALTER TABLE', 'CREATE AGGREGATE', 'CREATE FUNCTION', 'CREATE PROCEDURE', 'CREATE TYPE',
  'DROP DOMAIN', 'DROP EXTENSION', 'DROP FOREIGN DATA WRAPPER', 'DROP FOREIGN TABLE', 'DROP FUNCTION', 'DROP INDEX',
  'DROP LANGUAGE', 'DROP OPERATOR', 'DROP OPERATOR CLASS', 'DROP OPERATOR FAMILY', 'DROP OWNED', 'DROP PROCEDURE',
  'DROP ROUTINE', 'DROP SCHEMA', 'DROP SEQUENCE', 'DROP SERVER', 'DROP TABLE', 'DROP TYPE', 'DROP VIEW')
  EXECUTE FUNCTION audit_cdc_internal.before_removal();
ALTER EVENT TRIGGER audit_cdc_before_removal ENABLE ALWAYS;

COMMENT ON FUNCTION @extschema@.audit_rotate_secret() IS
  'Replaces the secret with which the server seals what it says of transactions. What was sealed before stays true. '
  'Of the standbys each needs a copy of the file audit_cdc_secrets of the data directory. Errors: 42501 for others '
  'than superusers, 55000 where the library is not preloaded, 58030 where the file cannot be written.';

COMMENT ON FUNCTION @extschema@.audit_allow_removal() IS
  'Allows, until the transaction ends, to drop the extension, its schema or parts of the log such as a month. '
  'Without it they are refused (55000), unless nothing was ever stored. While the database is captured, dropping the '
  'whole is refused all the same: CALL audit_capture_stop() first. Only for superusers. Errors: 42501 (not a '
  'superuser).';
