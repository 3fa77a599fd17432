-- Backfill: the rows that are there now, as entries of action read. The Rust side stands in src/capture/backfill.rs.

-- How far each table of a backfill is; in the transaction of its entries, so that none is read twice.
CREATE TABLE audit_cdc_internal.backfills (
  backfill_id uuid NOT NULL,
  relation regclass NOT NULL,
  after text[], -- primary key, in the order of its index, of the last row that was looked at
  next_block bigint NOT NULL DEFAULT 0, -- of a table without a primary key
  blocks bigint NOT NULL, -- that it had at the start
  rows_read bigint NOT NULL DEFAULT 0,
  rows_passed_over bigint NOT NULL DEFAULT 0,
  rows_expected bigint,
  started_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  PRIMARY KEY (backfill_id, relation)
);

CREATE VIEW @extschema@.audit_backfills AS
  SELECT backfill_id, relation AS table_name, rows_read, rows_passed_over, rows_expected, started_at, finished_at
  FROM audit_cdc_internal.backfills;
COMMENT ON VIEW @extschema@.audit_backfills IS 'every table of every backfill, and how far it is';
COMMENT ON COLUMN @extschema@.audit_backfills.backfill_id IS 'as given to, or made by, audit_backfill()';
COMMENT ON COLUMN @extschema@.audit_backfills.table_name IS 'the table, or the partition';
COMMENT ON COLUMN @extschema@.audit_backfills.rows_read IS 'rows that are in the log as read';
COMMENT ON COLUMN @extschema@.audit_backfills.rows_passed_over IS 'rows that were changed while their batch was read: the change tells what they are';
COMMENT ON COLUMN @extschema@.audit_backfills.rows_expected IS 'an estimate made at the start; null: the table was never analyzed';
COMMENT ON COLUMN @extschema@.audit_backfills.started_at IS 'when it began';
COMMENT ON COLUMN @extschema@.audit_backfills.finished_at IS 'null: it is running, or was interrupted and can be resumed';

-- Tables as the captured publication has them, with their columns.
CREATE VIEW audit_cdc_internal.published_tables AS
  SELECT c.oid AS relation, n.nspname::text AS table_schema, c.relname::text AS table_name, c.relkind, c.relreplident,
         ARRAY(SELECT a.attname::text FROM pg_attribute AS a
               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                 AND (a.attname = ANY (t.attnames) OR a.attgenerated <> '' AND NOT EXISTS (
                   SELECT FROM pg_attribute AS o WHERE o.attrelid = c.oid AND o.attnum > 0 AND NOT o.attisdropped AND o.attgenerated = '' AND o.attname <> ALL (t.attnames)))
               ORDER BY a.attnum) AS columns,
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
CREATE FUNCTION audit_cdc_internal.key_order(relation oid, OUT columns text[], OUT types text[], OUT equals text[], OUT greater text[])
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT array_agg(a.attname::text ORDER BY k.place), array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.place),
         array_agg(format('OPERATOR(%I.%s)', en.nspname, e.oprname) ORDER BY k.place),
         array_agg(format('OPERATOR(%I.%s)', gn.nspname, g.oprname) ORDER BY k.place)
  FROM pg_index AS i
  CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS k(place)
  JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.place]
  JOIN pg_opclass AS c ON c.oid = i.indclass[k.place]
  JOIN pg_amop AS ea ON ea.amopfamily = c.opcfamily AND ea.amoplefttype = c.opcintype AND ea.amoprighttype = c.opcintype AND ea.amopstrategy = 3
  JOIN pg_operator AS e ON e.oid = ea.amopopr JOIN pg_namespace AS en ON en.oid = e.oprnamespace
  JOIN pg_amop AS ga ON ga.amopfamily = c.opcfamily AND ga.amoplefttype = c.opcintype AND ga.amoprighttype = c.opcintype AND ga.amopstrategy = 5
  JOIN pg_operator AS g ON g.oid = ga.amopopr JOIN pg_namespace AS gn ON gn.oid = g.oprnamespace
  WHERE i.indrelid = relation AND i.indisprimary;
END;

-- Rows of the table that come after a key, as a condition. A comparison of rows can use the whole index, one of columns only its first.
CREATE FUNCTION audit_cdc_internal.comes_after(columns text[], types text[], equals text[], greater text[], after text[]) RETURNS text
  LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
  condition text;
  value text;
BEGIN
  IF greater <@ ARRAY['OPERATOR(pg_catalog.>)'] THEN
    RETURN (SELECT format('ROW(%s) OPERATOR(pg_catalog.>) ROW(%s)', string_agg(format('t.%I', c), ', ' ORDER BY place), string_agg(format('%L::%s', v, t), ', ' ORDER BY place))
            FROM unnest(columns, types, after) WITH ORDINALITY AS u(c, t, v, place));
  END IF;
  FOR place IN REVERSE cardinality(columns)..1 LOOP
    value := format('%L::%s', after[place], types[place]);
    condition := CASE WHEN condition IS NULL THEN format('t.%I %s %s', columns[place], greater[place], value)
                      ELSE format('(t.%I %s %3$s OR t.%1$I %4$s %3$s AND %5$s)', columns[place], greater[place], value, equals[place], condition) END;
  END LOOP;
  RETURN condition;
END
$$;

-- What is to be read next; no row: the table is finished. The query gives xmin, ctid, the key in the order of its index, the columns.
CREATE FUNCTION audit_cdc_internal.next_batch(backfill_id uuid, relation oid, batch_size integer,
    OUT table_schema text, OUT table_name text, OUT replica_identity "char", OUT columns text[], OUT types oid[], OUT key_columns text[], OUT query text)
  RETURNS SETOF record LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
  done audit_cdc_internal.backfills;
  published audit_cdc_internal.published_tables;
  key record;
  source text;
BEGIN
  SELECT * INTO done FROM audit_cdc_internal.backfills AS b WHERE b.backfill_id = next_batch.backfill_id AND b.relation = next_batch.relation FOR UPDATE;
  IF done.finished_at IS NOT NULL OR NOT FOUND THEN
    RETURN;
  END IF;
  SELECT * INTO published FROM audit_cdc_internal.published_tables AS t WHERE t.relation = next_batch.relation;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'table "%" is not captured any more', next_batch.relation::regclass USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  table_schema := published.table_schema;
  table_name := published.table_name;
  replica_identity := published.relreplident;
  columns := published.columns;
  types := ARRAY(SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = next_batch.relation AND a.attname = ANY (published.columns) ORDER BY a.attnum);
  SELECT * INTO key FROM audit_cdc_internal.key_order(next_batch.relation);
  key_columns := ARRAY(SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = next_batch.relation AND a.attname = ANY (key.columns) ORDER BY a.attnum);
  source := (SELECT format('SELECT t.xmin, t.ctid, %s FROM %s %s AS t WHERE %s', string_agg(format('t.%I', c), ', ' ORDER BY place),
                           CASE WHEN published.relkind = 'p' THEN '' ELSE 'ONLY' END, next_batch.relation::regclass, coalesce('(' || published.rowfilter || ')', 'true'))
             FROM unnest(key.columns || published.columns) WITH ORDINALITY AS u(c, place));
  IF key.columns IS NULL THEN
    query := source || format(' AND t.ctid >= ''(%s,0)'' AND t.ctid < ''(%s,0)''', done.next_block, audit_cdc_internal.end_block(done.next_block, batch_size));
  ELSE
    query := source || coalesce(' AND ' || audit_cdc_internal.comes_after(key.columns, key.types, key.equals, key.greater, done.after), '')
             || format(' ORDER BY %s LIMIT %s', (SELECT string_agg(format('t.%I', c), ', ' ORDER BY place) FROM unnest(key.columns) WITH ORDINALITY AS u(c, place)), batch_size);
  END IF;
  RETURN NEXT;
END
$$;

-- A block holds some 50 rows of usual size, and at most 291.
CREATE FUNCTION audit_cdc_internal.end_block(next_block bigint, batch_size integer) RETURNS bigint LANGUAGE sql IMMUTABLE
  RETURN next_block + greatest(batch_size / 50, 1);

CREATE FUNCTION audit_cdc_internal.note_batch(backfill_id uuid, relation oid, batch_size integer, after text[], read bigint, passed_over bigint, is_last boolean) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  UPDATE audit_cdc_internal.backfills AS b
  SET after = coalesce(note_batch.after, b.after), rows_read = b.rows_read + read, rows_passed_over = b.rows_passed_over + passed_over,
      next_block = CASE WHEN is_last IS NULL THEN audit_cdc_internal.end_block(b.next_block, batch_size) ELSE b.next_block END,
      finished_at = CASE WHEN coalesce(is_last, audit_cdc_internal.end_block(b.next_block, batch_size) >= b.blocks) THEN clock_timestamp() END
  WHERE b.backfill_id = note_batch.backfill_id AND b.relation = note_batch.relation;
END;

-- The tables that are still to be read; a partitioned table's partitions, unless they are captured as one.
CREATE FUNCTION audit_cdc_internal.begin_backfill(relation regclass, backfill_id uuid) RETURNS oid[]
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_variable
DECLARE
  publication name := (SELECT c.publication FROM audit_cdc_internal.captures AS c);
BEGIN
  IF publication IS NULL THEN
    RAISE EXCEPTION 'nothing is captured in this database'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Start with audit_capture_start(publication): what changes meanwhile comes from there.';
  END IF;
  INSERT INTO audit_cdc_internal.backfills (backfill_id, relation, blocks, rows_expected)
  SELECT backfill_id, t.relation, pg_relation_size(t.relation) / current_setting('block_size')::bigint, nullif(c.reltuples, -1)
  FROM audit_cdc_internal.published_tables AS t JOIN pg_class AS c ON c.oid = t.relation
  WHERE t.relation = begin_backfill.relation OR t.relation IN (SELECT relid FROM pg_partition_tree(begin_backfill.relation))
  ON CONFLICT DO NOTHING;
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.backfills AS b WHERE b.backfill_id = begin_backfill.backfill_id
                   AND (b.relation = begin_backfill.relation OR b.relation IN (SELECT relid FROM pg_partition_tree(begin_backfill.relation)))) THEN
    RAISE EXCEPTION 'table "%" is not captured', relation
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = format('Publication "%s" does not have it, or it is excluded.', publication),
            HINT = format('ALTER PUBLICATION %I ADD TABLE %s; of a partitioned table, the name that its changes carry.', publication, relation);
  END IF;
  RETURN ARRAY(SELECT b.relation FROM audit_cdc_internal.backfills AS b
               WHERE b.backfill_id = begin_backfill.backfill_id AND b.finished_at IS NULL ORDER BY b.relation::text);
END
$$;

CREATE FUNCTION audit_cdc_internal.backfilled(backfill_id uuid) RETURNS bigint
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT coalesce(sum(b.rows_read), 0)::bigint FROM audit_cdc_internal.backfills AS b WHERE b.backfill_id = backfilled.backfill_id;
END;

CREATE PROCEDURE @extschema@.audit_backfill(relation regclass, INOUT backfill_id uuid DEFAULT NULL, INOUT rows_read bigint DEFAULT NULL, batch_size integer DEFAULT 1000)
  LANGUAGE plpgsql AS $$
DECLARE
  part pg_catalog.oid;
  parts pg_catalog.oid[];
  before pg_catalog.int8;
  is_new pg_catalog.bool;
  told pg_catalog.int8 := 0;
BEGIN
  IF @extschema@.audit_in_transaction_block() THEN
    RAISE EXCEPTION 'audit_backfill() cannot run inside a transaction block' USING ERRCODE = 'active_sql_transaction',
      HINT = 'It commits in between.';
  END IF;
  IF relation IS NULL OR batch_size IS NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN relation IS NULL THEN 'relation' ELSE 'batch_size' END USING ERRCODE = 'null_value_not_allowed';
  END IF;
  IF batch_size OPERATOR(pg_catalog.<) 1 OR batch_size OPERATOR(pg_catalog.>) 100000 THEN
    RAISE EXCEPTION 'batch_size must be between 1 and 100000' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  is_new := backfill_id IS NULL;
  backfill_id := coalesce(backfill_id, pg_catalog.gen_random_uuid());
  parts := audit_cdc_internal.begin_backfill(relation, backfill_id);
  before := audit_cdc_internal.backfilled(backfill_id);
  COMMIT;
  IF is_new THEN
    RAISE NOTICE 'backfill %', backfill_id USING HINT = pg_catalog.format('Interrupted, it is resumed by CALL audit_backfill(%L, %L).', relation, backfill_id);
  END IF;
  FOREACH part IN ARRAY parts LOOP
    WHILE audit_cdc_internal.backfill_batch(backfill_id, part, batch_size) LOOP
      rows_read := audit_cdc_internal.backfilled(backfill_id) OPERATOR(pg_catalog.-) before;
      COMMIT;
      IF rows_read OPERATOR(pg_catalog./) 100000 OPERATOR(pg_catalog.>) told THEN
        told := rows_read OPERATOR(pg_catalog./) 100000;
        RAISE NOTICE 'backfill %: % rows', backfill_id, rows_read;
      END IF;
    END LOOP;
    COMMIT;
  END LOOP;
  rows_read := audit_cdc_internal.backfilled(backfill_id) OPERATOR(pg_catalog.-) before;
END
$$;
COMMENT ON PROCEDURE @extschema@.audit_backfill(regclass, uuid, bigint, integer) IS
'Writes an entry of action read for each row that a captured table has now, and tells how many. backfill_id: null for a new backfill, whose id is told; a given id resumes that one where it was interrupted, and adds nothing if it is finished. Each entry is exact at its commit_lsn: what was committed up to there is in it, and later changes of the row come after it. Rows that change while their batch is read are passed over, since the change tells them. batch_size: rows in one transaction. Columns and row filter are those of the publication; a partition''s rows carry the name that its changes carry. It waits for nobody but commits that are under way, and locks nothing. Errors: 25001 (inside a transaction block, or not under READ COMMITTED), 22004 (null), 22023 (batch_size), 55000 (nothing is captured, or not this table), 55006 (the session has temporary objects).';
