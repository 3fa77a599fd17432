-- Captured tables, and the publication that says which they are: as they are now, as they were seen last, and what is
-- another. sql/capture/schema_changes.sql notes it.

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

-- In the order of the index; null: there is no such index.
CREATE FUNCTION audit_cdc_internal.index_columns(index oid) RETURNS jsonb LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT jsonb_agg(a.attname ORDER BY k.place)
  FROM pg_index AS i CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS k(place)
  JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.place]
  WHERE i.indexrelid = index_columns.index;
END;

CREATE FUNCTION audit_cdc_internal.published_actions(publication pg_publication) RETURNS jsonb LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(jsonb_agg(o.name), '[]')
  FROM (VALUES ('insert', publication.pubinsert), ('update', publication.pubupdate), ('delete', publication.pubdelete),
               ('truncate', publication.pubtruncate)) AS o(name, is_published)
  WHERE o.is_published;
END;

-- Numbers of the generated columns that are sent: those of the list, without a list what the publication says (from 18
-- on).
CREATE FUNCTION audit_cdc_internal.sent_generated(publication pg_publication, relation oid, list smallint[])
  RETURNS jsonb LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT jsonb_agg(a.attnum ORDER BY a.attnum) FROM pg_attribute AS a
  WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = 's'
    AND CASE WHEN list IS NULL THEN to_jsonb(publication) ->> 'pubgencols' = 's' ELSE a.attnum = ANY (list) END;
END;

-- Every table as it is now, and what the captured publication has of it. Whoever asks for few tables waits for few.
CREATE VIEW audit_cdc_internal.table_states AS
  SELECT c.oid AS relation, i.inhparent AS parent, x.indexrelid AS identity_index, w.published_as, w.lost_as,
         coalesce(w.published_as = c.oid AND (c.relkind = 'r' OR p.pubviaroot), false) AS is_captured,
         jsonb_strip_nulls(jsonb_build_object(
           'schema', n.nspname, 'name', c.relname,
           'kind', CASE c.relkind WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table' ELSE 'table' END,
           'persistence', CASE c.relpersistence WHEN 'u' THEN 'unlogged' ELSE 'permanent' END,
           'replica_identity', CASE c.relreplident WHEN 'f' THEN 'full' WHEN 'd' THEN 'default' WHEN 'i' THEN 'index'
                                                   ELSE 'nothing' END,
           'key', audit_cdc_internal.index_columns(k.indexrelid),
           'identity_index', CASE WHEN c.relreplident = 'i' THEN audit_cdc_internal.index_columns(x.indexrelid) END,
           'columns', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                                'number', a.attnum, 'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
                                'not_null', a.attnotnull, 'generated', a.attgenerated <> '') ORDER BY a.attnum), '[]')
                       FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
           'published', CASE WHEN w.published_as IS NOT NULL THEN jsonb_build_object(
                          'actions', audit_cdc_internal.published_actions(p),
                          'where', pg_get_expr(r.prqual, r.prrelid),
                          'column_numbers', to_jsonb(r.prattrs::smallint[]),
                          'generated_numbers',
                          audit_cdc_internal.sent_generated(p, w.published_as, r.prattrs::smallint[]))
                        END)) AS state
  FROM pg_class AS c
  JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_inherits AS i ON c.relispartition AND i.inhrelid = c.oid
  LEFT JOIN pg_index AS k ON k.indrelid = c.oid AND k.indisprimary
  LEFT JOIN pg_index AS x ON x.indrelid = c.oid AND x.indisreplident
  LEFT JOIN (audit_cdc_internal.captures AS o JOIN pg_publication AS p ON p.pubname = o.publication) ON true
  -- of it and its ancestors the topmost that the publication names, itself or its schema
  LEFT JOIN LATERAL (
    SELECT t.relation
    FROM (SELECT c.oid AS relation, 0 AS place
          UNION ALL SELECT u.relid, u.place FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS u(relid, place)
          WHERE u.relid <> c.oid) AS t
    JOIN pg_class AS tc ON tc.oid = t.relation
    WHERE p.puballtables
       OR EXISTS (SELECT FROM pg_publication_rel AS m WHERE m.prpubid = p.oid AND m.prrelid = t.relation)
       OR EXISTS (SELECT FROM pg_publication_namespace AS m WHERE m.pnpubid = p.oid AND m.pnnspid = tc.relnamespace)
    ORDER BY t.place DESC LIMIT 1) AS top ON p.oid IS NOT NULL
  CROSS JOIN LATERAL (
    SELECT CASE WHEN l.is_logged THEN l.named_as END AS published_as,
           CASE WHEN NOT l.is_logged AND top.relation <> c.oid AND c.relkind <> 'p' THEN l.named_as END AS lost_as
    FROM (SELECT c.relpersistence = 'p' AND c.relkind <> 'f' AS is_logged,
                 CASE WHEN p.pubviaroot THEN top.relation
                      WHEN top.relation IS NOT NULL THEN c.oid END AS named_as) AS l) AS w
  -- what is published by its schema is published whole
  LEFT JOIN pg_publication_rel AS r ON r.prpubid = p.oid AND r.prrelid = w.published_as
    AND NOT EXISTS (SELECT FROM pg_publication_namespace AS m JOIN pg_class AS tc ON tc.oid = w.published_as
                    WHERE m.pnpubid = p.oid AND m.pnnspid = tc.relnamespace)
  WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'audit_cdc_internal');

-- Publications that are captured, or were. Which tables they name, their tables' own states tell.
CREATE VIEW audit_cdc_internal.publication_states AS
  SELECT p.oid AS publication,
         jsonb_build_object(
           'name', p.pubname, 'all_tables', p.puballtables, 'via_partition_root', p.pubviaroot,
           'actions', audit_cdc_internal.published_actions(p),
           'schemas', (SELECT coalesce(jsonb_agg(n.nspname ORDER BY n.nspname), '[]')
                       FROM pg_publication_namespace AS m JOIN pg_namespace AS n ON n.oid = m.pnnspid
                       WHERE m.pnpubid = p.oid)) AS state
  FROM pg_publication AS p
  WHERE p.pubname = (SELECT c.publication FROM audit_cdc_internal.captures AS c)
     OR EXISTS (SELECT FROM audit_cdc_internal.schema_changes AS s
                WHERE s.object = p.oid AND s.object_type = 'publication'
                  AND s.database_id = audit_cdc_internal.this_database() ->> 'id');

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

-- Tables with columns of these types, or of types that are made of them. Only what is not PostgreSQL's own is found.
CREATE FUNCTION audit_cdc_internal.tables_with(types oid[]) RETURNS oid[] LANGUAGE sql STABLE
BEGIN ATOMIC
  WITH RECURSIVE uses AS (
    SELECT unnest(types) AS type
    UNION
    SELECT m.type FROM uses AS u
    JOIN pg_depend AS d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = u.type
    CROSS JOIN LATERAL (
      SELECT d.objid AS type WHERE d.classid = 'pg_type'::regclass
      UNION ALL SELECT c.reltype FROM pg_class AS c
      WHERE d.classid = 'pg_class'::regclass AND c.oid = d.objid AND d.objsubid > 0) AS m
  )
  SELECT array_agg(DISTINCT c.oid) FROM uses AS u
  JOIN pg_depend AS d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = u.type
    AND d.classid = 'pg_class'::regclass AND d.objsubid > 0
  JOIN pg_class AS c ON c.oid = d.objid AND c.relkind IN ('r', 'p');
END;

-- Which objects a command may have changed. It runs within an event trigger. revalued: tables whose rows say something
-- else, by what became of a type of theirs (alters_types).
CREATE FUNCTION audit_cdc_internal.touched(event text, tag text, alters_types boolean,
    OUT everything boolean, OUT tables oid[], OUT named oid[], OUT gone oid[], OUT revalued oid[])
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  types oid[];
BEGIN
  IF event = 'ddl_command_end' THEN
    SELECT array_agg(c.objid) FILTER (WHERE c.classid = 'pg_class'::regclass),
           array_agg(c.objid) FILTER (WHERE c.classid = 'pg_type'::regclass),
           array_agg(coalesce(r.prrelid, w.ev_class)) FILTER (WHERE r.oid IS NOT NULL OR w.oid IS NOT NULL),
           tag IN ('ALTER SCHEMA', 'ALTER EXTENSION') OR bool_or(c.classid = 'pg_publication_namespace'::regclass)
             OR bool_or(c.classid = 'pg_publication'::regclass
                        AND EXISTS (SELECT FROM audit_cdc_internal.publication_states AS s
                                    WHERE s.publication = c.objid))
      INTO named, types, tables, everything
    FROM pg_event_trigger_ddl_commands() AS c
    LEFT JOIN pg_publication_rel AS r ON c.classid = 'pg_publication_rel'::regclass AND r.oid = c.objid
    -- on PostgreSQL 15 a rule makes a view of a table
    LEFT JOIN pg_rewrite AS w ON c.classid = 'pg_rewrite'::regclass AND w.oid = c.objid AND w.rulename = '_RETURN'
    WHERE coalesce(c.schema_name, '') NOT IN ('pg_temp', 'audit_cdc_internal') OR r.oid IS NOT NULL;
    tables := tables || named;
    IF types IS NOT NULL THEN
      tables := tables || ARRAY(
        SELECT a.attrelid FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE (t.oid = ANY (types) OR t.typelem = ANY (types)) AND a.attnum > 0 AND NOT a.attisdropped
          AND EXISTS (SELECT FROM audit_cdc_internal.schema_changes AS s WHERE s.object = a.attrelid)
        UNION SELECT c.oid FROM pg_class AS c WHERE c.reloftype = ANY (types));
    END IF;
    IF alters_types THEN
      revalued := audit_cdc_internal.tables_with(
        types || ARRAY(SELECT c.reltype FROM pg_class AS c WHERE c.oid = ANY (named) AND c.reltype <> 0));
      tables := tables || revalued;
    END IF;
  ELSE
    SELECT bool_or(d.object_type = 'publication namespace' OR d.object_type = 'publication'
                     AND (audit_cdc_internal.last_schema('publication', d.objid)).after IS NOT NULL),
           array_agg(d.objid) FILTER (WHERE d.object_type IN ('table', 'foreign table')),
           -- ALTER TABLE is looked at when it ends
           array_agg(r.relation) FILTER (WHERE r.relation IS NOT NULL AND tag <> 'ALTER TABLE')
      INTO everything, gone, tables
    FROM pg_event_trigger_dropped_objects() AS d
    LEFT JOIN LATERAL (
      SELECT to_regclass(format('%I.%I', d.address_names[1], d.address_names[2])) AS relation
      WHERE d.object_type IN ('table column', 'table constraint', 'publication relation')
      UNION SELECT s.object FROM audit_cdc_internal.schema_changes AS s
      WHERE d.object_type = 'index' AND s.identity_index = d.objid) AS r ON true
    WHERE NOT d.is_temporary AND coalesce(d.schema_name, '') <> 'audit_cdc_internal';
  END IF;
END
$$;

-- What is another than it was seen last, as an array of objects; null: nothing. Tables that are named or revalued are
-- in it also if they are the same, if they are captured or were.
CREATE FUNCTION audit_cdc_internal.schema_differences(
    everything boolean, tables oid[], named oid[], gone oid[], revalued oid[])
  RETURNS jsonb LANGUAGE plpgsql STABLE
  -- planned once a session, to look up what it is asked for
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
  AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
BEGIN
  RETURN (
    WITH RECURSIVE family AS (
      SELECT unnest(tables || gone) AS relation
      UNION SELECT s.relation FROM audit_cdc_internal.table_states AS s
      WHERE everything AND coalesce(s.published_as, s.lost_as) IS NOT NULL
      UNION SELECT s.object FROM audit_cdc_internal.schema_changes AS s
      WHERE everything AND s.object_type = 'table' AND s.database_id = here
      UNION
      -- children, and those that were
      SELECT m.relation FROM family AS f CROSS JOIN LATERAL (
        SELECT i.inhrelid AS relation FROM pg_inherits AS i WHERE i.inhparent = f.relation
        UNION ALL SELECT s.object FROM audit_cdc_internal.schema_changes AS s
        WHERE s.parent = f.relation AND s.database_id = here) AS m
    ), compared AS (
      SELECT f.relation AS object, b.after AS before, n.state AS now, b.parent AS parent_before, n.parent,
             b.published_as AS published_before, n.published_as, b.lost_as AS lost_before, n.lost_as, n.identity_index,
             coalesce(b.is_captured, false) AS was_captured, coalesce(n.is_captured, false) AS is_captured, b.wanted,
             f.relation = ANY (revalued) AS is_revalued
      FROM family AS f
      LEFT JOIN LATERAL (SELECT * FROM audit_cdc_internal.schema_changes AS s
                         WHERE s.object = f.relation AND s.object_type = 'table' AND s.database_id = here
                         ORDER BY s.id DESC LIMIT 1) AS b ON true
      -- none: it is gone, or no table any more
      -- one by one: PostgreSQL 18 would look at all tables, and join then
      LEFT JOIN LATERAL (SELECT * FROM audit_cdc_internal.table_states AS s
                         WHERE s.relation = f.relation OFFSET 0) AS n ON true
    ), differing AS (
      SELECT 'table' AS object_type, c.object, c.before,
             c.now || jsonb_strip_nulls(jsonb_build_object('parent', c.parent::regclass::text)) AS after,
             c.parent, c.published_as, c.published_before, c.lost_as, c.lost_before, c.identity_index, c.is_captured,
             c.was_captured, c.wanted,
             -- it locks the table: only asked where it matters
             CASE WHEN c.now ->> 'name' <> c.before ->> 'name' OR c.now ->> 'schema' <> c.before ->> 'schema'
                    OR c.published_as <> c.object OR c.published_before <> c.object
                    OR c.now -> 'columns' <> c.before -> 'columns' OR c.is_revalued
                  THEN c.now ->> 'kind' = 'table' AND pg_relation_size(c.object) > 0 END AS has_rows,
             -- rows say something else: a column has the name that another one had
             c.is_revalued OR c.now -> 'columns' <> c.before -> 'columns' AND EXISTS (
               SELECT FROM jsonb_to_recordset(c.now -> 'columns') AS n(name text, number integer)
               WHERE NOT EXISTS (SELECT FROM jsonb_to_recordset(c.before -> 'columns') AS o(name text, number integer)
                                 WHERE (o.name, o.number) = (n.name, n.number))
                 AND EXISTS (SELECT FROM audit_cdc_internal.schema_changes AS s
                             CROSS JOIN jsonb_to_recordset(s.after -> 'columns') AS o(name text, number integer)
                             WHERE s.object = c.object AND s.object_type = 'table' AND s.database_id = here
                               AND o.name = n.name AND o.number <> n.number)) AS is_revalued
      FROM compared AS c
      WHERE CASE WHEN c.before IS NULL THEN coalesce(c.published_as, c.lost_as) IS NOT NULL
                 ELSE c.now IS DISTINCT FROM c.before - 'parent' OR c.parent IS DISTINCT FROM c.parent_before
                   OR c.published_as IS DISTINCT FROM c.published_before OR c.lost_as IS DISTINCT FROM c.lost_before
                   OR c.is_captured <> c.was_captured OR c.object = ANY (named) OR c.is_revalued END
      UNION ALL
      SELECT 'publication', coalesce(n.publication, b.object), b.after, n.state,
             NULL, NULL, NULL, NULL, NULL, NULL, false, false, NULL, NULL, false
      FROM audit_cdc_internal.publication_states AS n
      FULL JOIN (SELECT DISTINCT ON (s.object) s.object, s.after FROM audit_cdc_internal.schema_changes AS s
                 WHERE s.object_type = 'publication' AND s.database_id = here
                 ORDER BY s.object, s.id DESC) AS b ON b.object = n.publication
      WHERE everything AND n.state IS DISTINCT FROM b.after
    )
    SELECT jsonb_agg(to_jsonb(d) ORDER BY d.object_type, d.after -> 'schema', d.after -> 'name', d.object)
    FROM differing AS d);
END
$$;

-- The same as rows.
CREATE FUNCTION audit_cdc_internal.as_differences(differences jsonb,
    OUT object_type text, OUT object oid, OUT before jsonb, OUT after jsonb, OUT parent oid,
    OUT published_as oid, OUT published_before oid, OUT lost_as oid, OUT lost_before oid, OUT identity_index oid,
    OUT is_captured boolean, OUT was_captured boolean, OUT wanted jsonb, OUT has_rows boolean, OUT is_revalued boolean)
  RETURNS SETOF record LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT d.* FROM jsonb_to_recordset(differences)
    AS d(object_type text, object oid, before jsonb, after jsonb, parent oid,
         published_as oid, published_before oid, lost_as oid, lost_before oid, identity_index oid, is_captured boolean,
         was_captured boolean, wanted jsonb, has_rows boolean, is_revalued boolean);
END;

-- What C asks when a command has run; null: nothing is another.
CREATE FUNCTION audit_cdc_internal.differences_after(event text, tag text, alters_types boolean) RETURNS text
  LANGUAGE plpgsql STABLE SET jit = off AS $$
DECLARE
  touched record;
BEGIN
  SELECT * INTO touched FROM audit_cdc_internal.touched(event, tag, alters_types);
  IF touched.everything OR touched.tables IS NOT NULL OR touched.gone IS NOT NULL THEN
    RETURN audit_cdc_internal.schema_differences(
      coalesce(touched.everything, false), touched.tables, touched.named, touched.gone, touched.revalued)::text;
  END IF;
  RETURN NULL;
END
$$;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.schema_changes', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.schema_changes_id_seq', '');
