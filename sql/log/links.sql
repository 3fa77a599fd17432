-- Other audit databases, read together with this one. Of each node there is a foreign table, which nothing but
-- postgres_fdw reads, with the rights of the reader's own user mapping.

CREATE TABLE audit_cdc_internal.links (
  node text PRIMARY KEY,
  linked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.links', '');

CREATE VIEW audit_cdc_internal.link_tables AS
  SELECT l.node, l.linked_at, c.oid AS relation
  FROM audit_cdc_internal.links AS l
  LEFT JOIN pg_class AS c ON c.relnamespace = 'audit_cdc_internal'::regnamespace AND c.relname = 'node_' || l.node
   AND c.relkind = 'f';

CREATE VIEW @extschema@.audit_links AS
  SELECT l.node, s.srvname AS server, (
           SELECT o.option_value FROM pg_options_to_table(f.ftoptions) AS o WHERE o.option_name = 'schema_name'
         ) AS schema,
         l.linked_at
  FROM audit_cdc_internal.link_tables AS l
  LEFT JOIN pg_foreign_table AS f ON f.ftrelid = l.relation
  LEFT JOIN pg_foreign_server AS s ON s.oid = f.ftserver;
COMMENT ON VIEW @extschema@.audit_links IS 'other audit databases that audit_all_logs shows';
COMMENT ON COLUMN @extschema@.audit_links.node IS 'as given to audit_link()';
COMMENT ON COLUMN @extschema@.audit_links.server IS 'the foreign server by which it is read';
COMMENT ON COLUMN @extschema@.audit_links.schema IS 'the schema of audit_cdc there';
COMMENT ON COLUMN @extschema@.audit_links.linked_at IS 'when it was linked';

-- Columns that audit_logs has, and the foreign table does not: of a new one all, after an update of the extension some.
CREATE FUNCTION audit_cdc_internal.add_columns(relation regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  columns CONSTANT text := (
    SELECT string_agg(format('ADD COLUMN %I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '
                      ORDER BY a.attnum)
    FROM pg_attribute AS a
    WHERE a.attrelid = '@extschema@.audit_logs'::regclass AND a.attnum > 0
      AND NOT EXISTS (SELECT FROM pg_attribute AS n WHERE n.attrelid = relation AND n.attname = a.attname)
  );
BEGIN
  IF columns IS NOT NULL THEN
    EXECUTE format('ALTER FOREIGN TABLE %s %s', relation, columns);
  END IF;
END
$$;

-- Each column is asked for, and no month is read.
CREATE FUNCTION audit_cdc_internal.try_node(node text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('SELECT * FROM audit_cdc_internal.%I WHERE commit_timestamp = ''-infinity''', 'node_' || node);
END
$$;

-- For audit_cdc_internal.node_to_read(). Whatever else fails, who reads the node will see.
CREATE FUNCTION audit_cdc_internal.connects(node text) RETURNS boolean
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  message text;
  detail text;
BEGIN
  PERFORM audit_cdc_internal.try_node(node);
  RETURN true;
EXCEPTION
  WHEN connection_exception THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RAISE WARNING 'node "%" is left out', node
      USING ERRCODE = SQLSTATE, DETAIL = concat_ws(': ', message, nullif(detail, ''));
    RETURN false;
  WHEN OTHERS THEN
    RETURN true;
END
$$;

-- Makes audit_all_logs anew. A constant stands for each node, so that the planner leaves out those that are not meant.
-- The condition is an equation of the node: the planner looks at such after all conditions of the query. So a node
-- that is not meant is not connected.
CREATE FUNCTION audit_cdc_internal.show_all_logs() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  logs text := 'SELECT ''here''::text AS node, l.* FROM @extschema@.audit_logs AS l';
  link record;
BEGIN
  -- A part of a union is not asked for an order. Without one of its own all of it would be sorted for a page.
  IF EXISTS (SELECT FROM audit_cdc_internal.links) THEN
    logs := format('(%s ORDER BY l.commit_timestamp DESC)', logs);
  END IF;
  FOR link IN SELECT l.node, l.relation::regclass AS relation FROM audit_cdc_internal.link_tables AS l ORDER BY 1 LOOP
    IF link.relation IS NULL THEN
      RAISE EXCEPTION 'node "%" has no foreign table', link.node
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call audit_unlink() for it, and link it anew.';
    END IF;
    PERFORM audit_cdc_internal.add_columns(link.relation);
    -- A foreign table counts as tiny, and all of it would be fetched, to be sorted here. ANALYZE would read the whole
    -- log of the node. With more rows than these a query would be compiled first, which takes longer than the answer.
    UPDATE pg_class SET reltuples = 1e5, relpages = 1 WHERE oid = link.relation AND reltuples < 0;
    logs := logs || format(' UNION ALL SELECT %L::text, l.* FROM %s AS l', link.node, link.relation);
  END LOOP;
  EXECUTE format(
    'CREATE OR REPLACE VIEW @extschema@.audit_all_logs WITH (security_invoker = true) AS
     SELECT l.* FROM (%s) AS l WHERE l.node = audit_cdc_internal.node_to_read(l.node)', logs);
END
$$;

-- An update of the extension that makes this view anew shows the nodes again.
DO $do$
BEGIN
  EXECUTE 'CREATE VIEW @extschema@.audit_all_logs AS
           SELECT ''here''::text AS node, l.* FROM @extschema@.audit_logs AS l';
  PERFORM audit_cdc_internal.show_all_logs();
END
$do$;
COMMENT ON VIEW @extschema@.audit_all_logs IS
  'audit_logs of this database and of all nodes that audit_link() has named. Each is read with the rights that the '
  'reader has there. One that is away is an error (08001), or is left out with a WARNING: setting '
  'audit_cdc.skip_missing_nodes. The other columns are those of audit_logs';
COMMENT ON COLUMN @extschema@.audit_all_logs.node IS
  'where the entry stands: "here", or a node of audit_links. id is unique within a node only';

-- A restore brings the links after the foreign tables.
CREATE FUNCTION audit_cdc_internal.links_changed() RETURNS trigger
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.show_all_logs();
  RETURN NULL;
END
$$;
CREATE TRIGGER links_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.links
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.links_changed();
ALTER TABLE audit_cdc_internal.links ENABLE ALWAYS TRIGGER links_changed;

-- What another schema there calls audit_logs may run code of its owner's with the rights of each reader.
CREATE FUNCTION audit_cdc_internal.check_link_server(server oid, schema text, caller oid) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  name CONSTANT text := (SELECT s.srvname FROM pg_foreign_server AS s WHERE s.oid = server);
  owner CONSTANT oid := (SELECT s.srvowner FROM pg_foreign_server AS s WHERE s.oid = server);
BEGIN
  IF NOT has_server_privilege(caller, server, 'USAGE') THEN
    RAISE EXCEPTION 'permission denied for foreign server %', name USING ERRCODE = 'insufficient_privilege';
  ELSIF NOT pg_has_role(caller, owner, 'USAGE') AND quote_ident(schema) <> (
    SELECT c.relnamespace::regnamespace::text FROM pg_class AS c WHERE c.oid = '@extschema@.audit_logs'::regclass
  ) THEN
    RAISE EXCEPTION 'must be owner of foreign server % to link another schema than that of audit_cdc here', name
      USING ERRCODE = 'insufficient_privilege';
  ELSIF NOT EXISTS (
    SELECT FROM pg_foreign_server AS s
    JOIN pg_depend AS d ON d.classid = 'pg_foreign_data_wrapper'::regclass AND d.objid = s.srvfdw AND d.deptype = 'e'
    JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
    WHERE s.oid = server AND e.extname = 'postgres_fdw'
  ) THEN
    RAISE EXCEPTION 'server "%" is not one of postgres_fdw', name USING ERRCODE = 'wrong_object_type';
  END IF;
END
$$;

-- These two run with the rights of the extension's owner, after src/links.rs has asked who calls.
CREATE FUNCTION audit_cdc_internal.link(node text, server text, schema text, caller oid) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  relation CONSTANT text := format('audit_cdc_internal.%I', 'node_' || node);
  known CONSTANT oid := (SELECT s.oid FROM pg_foreign_server AS s WHERE s.srvname = server);
BEGIN
  IF node IN ('', 'here') OR octet_length(node) > 58 THEN
    RAISE EXCEPTION 'node must not be empty, "here" or longer than 58 bytes'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF known IS NULL THEN
    RAISE EXCEPTION 'server "%" does not exist', server
      USING ERRCODE = 'undefined_object',
            HINT = 'A superuser makes it: CREATE EXTENSION postgres_fdw; CREATE SERVER … FOREIGN DATA WRAPPER '
                   'postgres_fdw OPTIONS (…).';
  END IF;
  PERFORM audit_cdc_internal.check_link_server(known, schema, caller);
  LOCK TABLE audit_cdc_internal.links IN SHARE ROW EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM audit_cdc_internal.links AS l WHERE l.node = link.node) THEN
    RAISE EXCEPTION 'node "%" is linked already', node USING ERRCODE = 'duplicate_object';
  END IF;
  EXECUTE format(
    'CREATE FOREIGN TABLE %s () SERVER %I OPTIONS (schema_name %L, table_name ''audit_logs'', async_capable ''true'', '
    'updatable ''false'')', relation, server, schema);
  -- another server may have got that name meanwhile
  PERFORM audit_cdc_internal.check_link_server(f.ftserver, schema, caller) FROM pg_foreign_table AS f
  WHERE f.ftrelid = relation::regclass;
  PERFORM audit_cdc_internal.keep_private('pg_class'::regclass, relation::regclass);
  EXECUTE format('GRANT SELECT ON %s TO audit_cdc_reader', relation);
  INSERT INTO audit_cdc_internal.links (node) VALUES (node);
  PERFORM audit_cdc_internal.note_operation(
    'audit_link', jsonb_build_object('node', node, 'server', server, 'schema', schema));
END
$$;

CREATE FUNCTION audit_cdc_internal.unlink(node text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  LOCK TABLE audit_cdc_internal.links IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM audit_cdc_internal.links AS l WHERE l.node = unlink.node;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'node "%" is not linked', node USING ERRCODE = 'undefined_object';
  END IF;
  EXECUTE format('DROP FOREIGN TABLE IF EXISTS audit_cdc_internal.%I', 'node_' || node);
  PERFORM audit_cdc_internal.note_operation('audit_unlink', jsonb_build_object('node', node));
END
$$;

COMMENT ON FUNCTION @extschema@.audit_link(text, text, text) IS
  'Shows the log of another audit database in audit_all_logs, under the name node. server: a foreign server of '
  'postgres_fdw on which the caller has USAGE; null: the one that is called as the node. schema: that of audit_cdc '
  'there, which only the server''s owner may name; null: as here. Nothing is connected yet. Errors: 22004 (node is '
  'null), 22023 (node is empty, "here" or longer than 58 bytes), 25001 (the isolation level is above READ COMMITTED), '
  '42501 (no USAGE on the server, or another schema and not its owner), 42704 (no such server), 42710 (the node is '
  'linked already), 42809 (the server is not of postgres_fdw).';
COMMENT ON FUNCTION @extschema@.audit_unlink(text) IS
  'Takes a node out of audit_all_logs; what it has stays there. Errors: 22004 (node is null), 25001 (the isolation '
  'level is above READ COMMITTED), 2BP01 (a view of yours reads the node''s foreign table), 42704 (no such node).';

-- One after the other, since an error of one must not keep the others from being asked.
CREATE FUNCTION @extschema@.audit_link_status() RETURNS TABLE (node text, error_code text, reason text)
  LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  FOR node IN SELECT l.node FROM @extschema@.audit_links AS l ORDER BY 1 LOOP
    error_code := NULL;
    reason := NULL;
    BEGIN
      PERFORM audit_cdc_internal.try_node(node);
    EXCEPTION WHEN OTHERS THEN
      GET STACKED DIAGNOSTICS error_code = RETURNED_SQLSTATE, reason = MESSAGE_TEXT;
    END;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_link_status() IS
  'Asks each node for all columns, with the caller''s rights there, and tells which fails. error_code, reason: the '
  'SQLSTATE and the message of the error; null: the caller can read it. Errors: none.';
