-- What of captured tables, and of the publication, is another than it was seen last. sql/capture/ddl.sql notes it.

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
  SELECT array_agg(DISTINCT c.relation) FROM uses AS u
  CROSS JOIN LATERAL (
    SELECT c.oid AS relation FROM pg_depend AS d
    JOIN pg_class AS c ON c.oid = d.objid AND c.relkind IN ('r', 'p')
    WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid = u.type
      AND d.classid = 'pg_class'::regclass AND d.objsubid > 0
    OFFSET 0 -- type by type: otherwise all columns of all types may be read
  ) AS c;
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

-- Tables with their children, and those that were their children; everything: and all that are captured or were.
CREATE FUNCTION audit_cdc_internal.family_of(everything boolean, tables oid[]) RETURNS SETOF oid
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
BEGIN
  RETURN QUERY
  WITH RECURSIVE family AS (
    SELECT unnest(tables) AS relation
    UNION SELECT s.relation FROM audit_cdc_internal.table_states AS s
    WHERE everything AND coalesce(s.published_as, s.lost_as) IS NOT NULL
    UNION SELECT s.object FROM audit_cdc_internal.schema_changes AS s
    WHERE everything AND s.object_type = 'table' AND s.database_id = here
    UNION
    SELECT m.relation FROM family AS f CROSS JOIN LATERAL (
      SELECT i.inhrelid AS relation FROM pg_inherits AS i WHERE i.inhparent = f.relation
      UNION ALL SELECT s.object FROM audit_cdc_internal.schema_changes AS s
      WHERE s.parent = f.relation AND s.database_id = here) AS m
  )
  SELECT f.relation FROM family AS f;
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
    WITH compared AS (
      SELECT f.relation AS object, b.after AS before, n.state AS now, b.parent AS parent_before, n.parent,
             b.published_as AS published_before, n.published_as, b.lost_as AS lost_before, n.lost_as, n.identity_index,
             coalesce(b.is_captured, false) AS was_captured, coalesce(n.is_captured, false) AS is_captured, b.wanted,
             f.relation = ANY (revalued) AS is_revalued
      FROM audit_cdc_internal.family_of(everything, tables || gone) AS f(relation)
      LEFT JOIN LATERAL (SELECT * FROM audit_cdc_internal.schema_changes AS s
                         WHERE s.object = f.relation AND s.object_type = 'table' AND s.database_id = here
                         ORDER BY s.id DESC LIMIT 1) AS b ON true
      -- none: it is gone, or no table any more. One by one: PostgreSQL 18 would look at all tables, and join then
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

-- What C asks when a command has run. First the tables that it may have changed, in rising order; null: none.
CREATE FUNCTION audit_cdc_internal.touched_tables(event text, tag text, alters_types boolean) RETURNS oid[]
  LANGUAGE plpgsql STABLE
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
  AS $$
DECLARE
  touched record;
BEGIN
  SELECT * INTO touched FROM audit_cdc_internal.touched(event, tag, alters_types);
  IF touched.everything OR touched.tables IS NOT NULL OR touched.gone IS NOT NULL THEN
    RETURN ARRAY(
      SELECT DISTINCT f
      FROM audit_cdc_internal.family_of(coalesce(touched.everything, false), touched.tables || touched.gone) AS f
      ORDER BY f
    );
  END IF;
  RETURN NULL;
END
$$;

-- Then, when nobody else notes something of them, what is another; null: nothing is.
CREATE FUNCTION audit_cdc_internal.differences_after(event text, tag text, alters_types boolean) RETURNS text
  LANGUAGE plpgsql STABLE SET jit = off AS $$
DECLARE
  touched record;
BEGIN
  SELECT * INTO touched FROM audit_cdc_internal.touched(event, tag, alters_types);
  RETURN audit_cdc_internal.schema_differences(
    coalesce(touched.everything, false), touched.tables, touched.named, touched.gone, touched.revalued)::text;
END
$$;

CREATE FUNCTION audit_cdc_internal.differences_at_start() RETURNS text
  LANGUAGE sql STABLE SET jit = off
BEGIN ATOMIC
  SELECT audit_cdc_internal.schema_differences(true, NULL, NULL, NULL, NULL)::text;
END;
