-- Captured tables, and the publication that says which they are, as they are now.

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
