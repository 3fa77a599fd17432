-- Run in the SOURCE database, by any role that may connect; needs no extension, changes nothing.
-- Returns one jsonb value for audit_describe_tables(database_id, …) in the audit database.
-- Run it again after ALTER TABLE: a description holds from the moment it was made.
--
-- A partition is described under the name of each of its ancestors too. Sequin reports its changes under its parent, or
-- with publish_via_partition_root its root. There the weakest replica identity of all leaves counts.
WITH RECURSIVE family AS (
  SELECT c.oid AS root, c.oid AS member
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p')
    AND c.relpersistence = 'p'
    AND n.nspname !~ '^pg_'
    AND n.nspname <> 'information_schema'
  UNION ALL
  SELECT f.root, i.inhrelid
  FROM family AS f
  JOIN pg_catalog.pg_inherits AS i ON i.inhparent = f.member
), identity AS (
  SELECT
    f.root,
    CASE
      WHEN bool_and(c.relreplident = 'f') THEN 'full'
      WHEN bool_or(c.relreplident = 'd' OR c.relreplident = 'f') THEN 'default'
      WHEN bool_or(c.relreplident = 'i') THEN 'index'
      ELSE 'nothing'
    END AS replica_identity
  FROM family AS f
  JOIN pg_catalog.pg_class AS c ON c.oid = f.member
  WHERE c.relkind = 'r' OR NOT EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = c.oid)
  GROUP BY f.root
), columns AS (
  SELECT
    a.attrelid, a.attname::text AS name, a.attnum, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
    a.attgenerated <> '' AS never_sent,
    -- what Sequin's backfill can carry, by base type; of arrays, by element type
    NOT (
      e.typtype = 'b'
        AND e.oid = ANY ('{bool,int2,int4,int8,oid,numeric,float4,float8,text,varchar,name,bytea,uuid,date,time,timetz,
                           timestamp,timestamptz,interval,json,jsonb,tsvector}'::pg_catalog.regtype[])
      OR e.typname IN ('citext', 'hstore', 'vector')
      OR b.oid = e.oid AND (e.typtype = 'e' OR e.typname = 'daterange')) AS null_in_reads
  FROM pg_catalog.pg_attribute AS a
  JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
  JOIN pg_catalog.pg_type AS b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
  JOIN pg_catalog.pg_type AS e
    ON e.oid = CASE
      WHEN b.typcategory = 'A' AND b.typlen = -1 AND b.typname LIKE E'\\_%' THEN b.typelem
      ELSE b.oid
    END
  WHERE a.attnum > 0 AND NOT a.attisdropped
), keys AS (
  SELECT
    i.indrelid, i.indisprimary AS is_key,
    i.indisreplident OR (i.indisprimary AND c.relreplident = 'd') AS is_identity,
    ARRAY(
      SELECT k.name
      FROM columns AS k
      WHERE k.attrelid = i.indrelid AND k.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
      ORDER BY k.attnum
    ) AS names
  FROM pg_catalog.pg_index AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
  WHERE i.indisvalid AND (i.indisprimary OR i.indisreplident)
)
SELECT pg_catalog.jsonb_build_object(
  'described_at', pg_catalog.now(),
  'tables', coalesce(
    pg_catalog.jsonb_agg(
      pg_catalog.jsonb_build_object(
        'table_schema', n.nspname, 'table_name', c.relname, 'replica_identity', y.replica_identity,
        'key_columns', coalesce((SELECT k.names FROM keys AS k WHERE k.indrelid = c.oid AND k.is_key), '{}'),
        'identity_columns', CASE
          WHEN y.replica_identity = 'full'
            THEN ARRAY(SELECT k.name FROM columns AS k WHERE k.attrelid = c.oid ORDER BY k.attnum)
          -- what every leaf that is not FULL sends of a deleted row
          ELSE ARRAY(
            SELECT k.name
            FROM columns AS k
            WHERE k.attrelid = c.oid
              AND NOT EXISTS (
                SELECT FROM family AS f
                JOIN pg_catalog.pg_class AS m ON m.oid = f.member
                WHERE f.root = c.oid
                  AND m.relkind = 'r'
                  AND m.relreplident <> 'f'
                  AND NOT EXISTS (
                    SELECT FROM keys AS i
                    WHERE i.indrelid = m.oid AND i.is_identity AND k.name = ANY (i.names)
                  )
              )
            ORDER BY k.attnum
          )
        END,
        'column_types', coalesce(
          (
            SELECT pg_catalog.jsonb_object_agg(k.name, k.type)
            FROM columns AS k
            WHERE k.attrelid = c.oid
          ),
          '{}'),
        'never_sent', ARRAY(
          SELECT k.name
          FROM columns AS k
          WHERE k.attrelid = c.oid AND k.never_sent
          ORDER BY k.attnum
        ),
        'null_in_reads', ARRAY(
          SELECT k.name
          FROM columns AS k
          WHERE k.attrelid = c.oid AND k.null_in_reads
          ORDER BY k.attnum
        )) ORDER BY n.nspname,
      c.relname),
    '[]'))
FROM identity AS y
JOIN pg_catalog.pg_class AS c ON c.oid = y.root
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace;
