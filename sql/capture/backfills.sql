-- Backfill: the rows that are there now, as entries of action read. Here: how far each is, and what there is to read.

-- How far each table of a backfill is; in the transaction of its entries, so that none is read twice.
CREATE TABLE audit_cdc_internal.backfills (
  backfill_id uuid NOT NULL,
  relation regclass NOT NULL,
  after text[], -- primary key, in the order of its index, of the last row that was looked at
  next_block bigint NOT NULL DEFAULT 0, -- of a table without a primary key
  blocks bigint NOT NULL DEFAULT 0, -- that it had when it began
  rows_read bigint NOT NULL DEFAULT 0,
  rows_passed_over bigint NOT NULL DEFAULT 0,
  rows_expected bigint,
  started_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  began_lsn pg_lsn, -- all is read after it; null: it is to begin, or to begin again
  complete_lsn pg_lsn, -- all is read before it; null: there is more to read
  complete_at timestamptz, -- the time of complete_lsn
  restarts integer NOT NULL DEFAULT 0,
  writers xid[], -- for whom it waits, or has waited, before it begins; null: not looked yet
  capture_started_at timestamptz, -- of the capture that it began beside
  layout jsonb, -- of the table when it began
  storage jsonb, -- its files when it began
  PRIMARY KEY (backfill_id, relation)
);

CREATE VIEW @extschema@.audit_backfills AS
  SELECT backfill_id, relation AS table_name, rows_read, rows_passed_over, rows_expected, started_at, finished_at,
         began_lsn, complete_lsn, restarts
  FROM audit_cdc_internal.backfills;
COMMENT ON VIEW @extschema@.audit_backfills IS 'every table of every backfill, and how far it is';
COMMENT ON COLUMN @extschema@.audit_backfills.backfill_id IS 'as given to, or made by, audit_backfill()';
COMMENT ON COLUMN @extschema@.audit_backfills.table_name IS 'the table, or the partition';
COMMENT ON COLUMN @extschema@.audit_backfills.rows_read IS 'rows that are in the log as read';
COMMENT ON COLUMN @extschema@.audit_backfills.rows_passed_over IS
  'rows that were changed while their batch was read: the change tells what they are';
COMMENT ON COLUMN @extschema@.audit_backfills.rows_expected IS
  'an estimate made at the start; null: the table was never analyzed';
COMMENT ON COLUMN @extschema@.audit_backfills.started_at IS 'when it began';
COMMENT ON COLUMN @extschema@.audit_backfills.finished_at IS
  'null: it is running, or was interrupted and can be resumed';
COMMENT ON COLUMN @extschema@.audit_backfills.began_lsn IS
  'rows are read after this position; null: it waits for older transactions that have written to the table';
COMMENT ON COLUMN @extschema@.audit_backfills.complete_lsn IS 'all rows were read up to this position; null: not yet';
COMMENT ON COLUMN @extschema@.audit_backfills.restarts IS
  'how often it began again, since the table was rewritten or altered, or captured anew';

-- Tables as the captured publication has them, with their columns.
CREATE VIEW audit_cdc_internal.published_tables AS
  SELECT
    c.oid AS relation, n.nspname::text AS table_schema, c.relname::text AS table_name, c.relkind, c.relreplident,
    ARRAY(
      SELECT a.attname::text
      FROM pg_attribute AS a
      WHERE a.attrelid = c.oid
        AND a.attnum > 0
        AND NOT a.attisdropped
        AND (
          a.attname = ANY (t.attnames)
          OR a.attgenerated <> ''
            AND NOT EXISTS (
              SELECT FROM pg_attribute AS o
              WHERE o.attrelid = c.oid
                AND o.attnum > 0
                AND NOT o.attisdropped
                AND o.attgenerated = ''
                AND o.attname <> ALL (t.attnames)
            ))
      ORDER BY a.attnum
    ) AS columns,
    t.rowfilter
  FROM audit_cdc_internal.captures AS x
  JOIN pg_publication_tables AS t ON t.pubname = x.publication
  JOIN pg_namespace AS n ON n.nspname = t.schemaname
  JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
  WHERE t.schemaname <> 'audit_cdc_internal'
    AND c.oid NOT IN (SELECT relation FROM audit_cdc_internal.excluded_tables WHERE until_lsn IS NULL);

-- Names of what is captured of a table: itself, its partitions, or the root under whose name it is. Null: nothing.
CREATE FUNCTION audit_cdc_internal.captured_of(relation oid) RETURNS text LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT string_agg(format('%I.%I', t.table_schema, t.table_name), ', ' ORDER BY t.table_schema, t.table_name)
  FROM audit_cdc_internal.published_tables AS t
  WHERE t.relation IN (SELECT captured_of.relation UNION SELECT relid FROM pg_partition_tree(captured_of.relation)
                       UNION SELECT relid FROM pg_partition_ancestors(captured_of.relation));
END;

-- The primary key, in the order of its index, with the operators of that order.
CREATE FUNCTION audit_cdc_internal.key_order(
    relation oid,
    OUT columns text[], OUT types text[], OUT equals text[], OUT greater text[])
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT array_agg(a.attname::text ORDER BY k.place),
         array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.place),
         array_agg(format('OPERATOR(%I.%s)', en.nspname, e.oprname) ORDER BY k.place),
         array_agg(format('OPERATOR(%I.%s)', gn.nspname, g.oprname) ORDER BY k.place)
  FROM pg_index AS i
  CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS k(place)
  JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.place]
  JOIN pg_opclass AS o ON o.oid = i.indclass[k.place]
  -- as ORDER BY has it: WITHOUT OVERLAPS makes an index in which other operators stand
  JOIN pg_opclass AS c
    ON c.opcintype = o.opcintype
      AND c.opcdefault
      AND c.opcmethod = (SELECT m.oid FROM pg_am AS m WHERE m.amname = 'btree')
  JOIN pg_amop AS ea
    ON ea.amopfamily = c.opcfamily
      AND ea.amoplefttype = c.opcintype
      AND ea.amoprighttype = c.opcintype
      AND ea.amopstrategy = 3
  JOIN pg_operator AS e ON e.oid = ea.amopopr
  JOIN pg_namespace AS en ON en.oid = e.oprnamespace
  JOIN pg_amop AS ga
    ON ga.amopfamily = c.opcfamily
      AND ga.amoplefttype = c.opcintype
      AND ga.amoprighttype = c.opcintype
      AND ga.amopstrategy = 5
  JOIN pg_operator AS g ON g.oid = ga.amopopr
  JOIN pg_namespace AS gn ON gn.oid = g.oprnamespace
  WHERE i.indrelid = relation AND i.indisprimary;
END;

-- Rows of the table that come after a key, as a condition. A comparison of rows can use the whole index, one of
-- columns only its first.
CREATE FUNCTION audit_cdc_internal.comes_after(
    columns text[], types text[], equals text[], greater text[], after text[])
  RETURNS text
  LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
  condition text;
  value text;
BEGIN
  IF greater <@ ARRAY['OPERATOR(pg_catalog.>)'] THEN
    RETURN (
      SELECT format(
        'ROW(%s) OPERATOR(pg_catalog.>) ROW(%s)', string_agg(format('t.%I', c), ', ' ORDER BY place),
        string_agg(format('%L::%s', v, t), ', ' ORDER BY place))
      FROM unnest(columns, types, after) WITH ORDINALITY AS u(c, t, v, place)
    );
  END IF;
  FOR place IN REVERSE cardinality(columns)..1 LOOP
    value := format('%L::%s', after[place], types[place]);
    condition := CASE
      WHEN condition IS NULL THEN format('t.%I %s %s', columns[place], greater[place], value)
      ELSE format(
        '(t.%I %s %3$s OR t.%1$I %4$s %3$s AND %5$s)', columns[place], greater[place], value, equals[place],
        condition)
    END;
  END LOOP;
  RETURN condition;
END
$$;
