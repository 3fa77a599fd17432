-- Backfill: the rows that are there now, as entries of action read. The Rust side stands in src/capture/backfill.rs.

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
  JOIN pg_opclass AS c ON c.oid = i.indclass[k.place]
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

-- What a backfill relies on while it reads: names, columns, key and filter.
CREATE FUNCTION audit_cdc_internal.layout_of(published audit_cdc_internal.published_tables) RETURNS jsonb
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT to_jsonb(published) - 'relreplident' || jsonb_build_object('key', to_jsonb(k), 'types', (
           SELECT jsonb_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) FROM pg_attribute AS a
           WHERE a.attrelid = (published).relation AND a.attname = ANY ((published).columns)))
  FROM audit_cdc_internal.key_order((published).relation) AS k;
END;

-- The files in which the rows stand: VACUUM FULL, CLUSTER, TRUNCATE and rewrites make others.
CREATE FUNCTION audit_cdc_internal.storage_of(relation oid) RETURNS jsonb LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT coalesce(jsonb_object_agg(p.part, pg_relation_filenode(p.part)), '{}')
  FROM (SELECT storage_of.relation AS part UNION SELECT relid FROM pg_partition_tree(storage_of.relation)) AS p
  JOIN pg_class AS c ON c.oid = p.part WHERE c.relkind = 'r';
END;

-- Rows are where they were. A partition that came without rows changes nothing.
CREATE FUNCTION audit_cdc_internal.is_same_storage(before jsonb, now jsonb) RETURNS boolean LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT now @> before
      AND NOT EXISTS (
        SELECT FROM jsonb_object_keys(now) AS part
        WHERE NOT before ? part AND pg_relation_size(part::oid) > 0
      );
END;

-- What is to be read next; no row: nothing, or it is to begin again. The caller has locked the table. The query
-- gives xmin, the row's place, the key in the order of its index, the columns.
CREATE FUNCTION audit_cdc_internal.next_batch(
    backfill_id uuid, relation oid, batch_size integer,
    OUT table_schema text, OUT table_name text, OUT replica_identity "char", OUT columns text[], OUT types oid[],
    OUT key_columns text[], OUT query text, OUT restarts integer)
  RETURNS SETOF record
  LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
  done audit_cdc_internal.backfills;
  published audit_cdc_internal.published_tables;
  key record;
  source text;
  storage CONSTANT jsonb := audit_cdc_internal.storage_of(next_batch.relation);
BEGIN
  SELECT *
  INTO done
  FROM audit_cdc_internal.backfills AS b
  WHERE b.backfill_id = next_batch.backfill_id AND b.relation = next_batch.relation
  FOR UPDATE;
  IF done.began_lsn IS NULL OR done.complete_lsn IS NOT NULL THEN
    RETURN;
  END IF;
  SELECT * INTO published FROM audit_cdc_internal.published_tables AS t WHERE t.relation = next_batch.relation;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'table "%" is not captured any more', next_batch.relation::regclass
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  IF done.layout IS DISTINCT FROM audit_cdc_internal.layout_of(published)
    OR NOT audit_cdc_internal.is_same_storage(done.storage, storage)
    OR audit_cdc_internal.is_captured_anew(done) THEN
    PERFORM audit_cdc_internal.begin_again(backfill_id, next_batch.relation);
    RETURN;
  END IF;
  UPDATE audit_cdc_internal.backfills AS b SET storage = storage
  WHERE b.backfill_id = next_batch.backfill_id AND b.relation = next_batch.relation AND b.storage <> storage;
  restarts := done.restarts;
  table_schema := published.table_schema;
  table_name := published.table_name;
  replica_identity := published.relreplident;
  columns := published.columns;
  types := ARRAY(
    SELECT a.atttypid
    FROM pg_attribute AS a
    WHERE a.attrelid = next_batch.relation AND a.attname = ANY (published.columns)
    ORDER BY a.attnum
  );
  SELECT * INTO key FROM audit_cdc_internal.key_order(next_batch.relation);
  key_columns := ARRAY(
    SELECT a.attname
    FROM pg_attribute AS a
    WHERE a.attrelid = next_batch.relation AND a.attname = ANY (key.columns)
    ORDER BY a.attnum
  );
  source := (
    SELECT format(
      'SELECT t.xmin, %s, %s FROM %s %s AS t WHERE %s',
      CASE WHEN published.relkind = 'p' THEN 'pg_catalog.concat(t.tableoid, t.ctid)' ELSE 't.ctid' END,
      string_agg(format('t.%I', c), ', ' ORDER BY place), CASE WHEN published.relkind = 'p' THEN '' ELSE 'ONLY' END,
      next_batch.relation::regclass, coalesce('(' || published.rowfilter || ')', 'true'))
    FROM unnest(key.columns || published.columns) WITH ORDINALITY AS u(c, place)
  );
  IF key.columns IS NULL THEN
    query := source
      || format(
        ' AND t.ctid >= ''(%s,0)'' AND t.ctid < ''(%s,0)''', done.next_block,
        audit_cdc_internal.end_block(done.next_block, batch_size));
  ELSE
    query := source
      || coalesce(
        ' AND ' || audit_cdc_internal.comes_after(key.columns, key.types, key.equals, key.greater, done.after), '')
      || format(
        ' ORDER BY %s LIMIT %s',
        (
          SELECT string_agg(format('t.%I', c), ', ' ORDER BY place)
          FROM unnest(key.columns) WITH ORDINALITY AS u(c, place)
        ),
        batch_size);
  END IF;
  RETURN NEXT;
END
$$;

-- A block holds some 50 rows of usual size, and at most 291.
CREATE FUNCTION audit_cdc_internal.end_block(next_block bigint, batch_size integer) RETURNS bigint
  LANGUAGE sql IMMUTABLE
  RETURN next_block + greatest(batch_size / 50, 1);

CREATE FUNCTION audit_cdc_internal.note_batch(
    backfill_id uuid, relation oid, batch_size integer, after text[], read bigint, passed_over bigint,
    is_last boolean)
  RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  UPDATE audit_cdc_internal.backfills AS b
  SET after = coalesce(note_batch.after, b.after), rows_read = b.rows_read + read,
    rows_passed_over = b.rows_passed_over + passed_over,
    next_block = CASE WHEN is_last IS NULL THEN e.block ELSE b.next_block END,
    -- as for rows that are read: just before what is committed from now on
    complete_lsn = CASE WHEN coalesce(is_last, e.block >= b.blocks) THEN pg_current_wal_insert_lsn() - 1 END,
    complete_at = CASE WHEN coalesce(is_last, e.block >= b.blocks) THEN clock_timestamp() END
  FROM (
    SELECT o.backfill_id, o.relation, audit_cdc_internal.end_block(o.next_block, batch_size) AS block
    FROM audit_cdc_internal.backfills AS o
  ) AS e
  WHERE b.backfill_id = note_batch.backfill_id
    AND b.relation = note_batch.relation
    AND (e.backfill_id, e.relation) = (b.backfill_id, b.relation);
END;

-- The tables that are still to be read; a partitioned table's partitions, unless they are captured as one. No
-- tables are given: those of a backfill that is there, or all.
CREATE FUNCTION audit_cdc_internal.begin_backfill(tables regclass[], backfill_id uuid) RETURNS oid[]
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_variable
DECLARE
  publication name := (SELECT c.publication FROM audit_cdc_internal.captures AS c);
  missing regclass;
BEGIN
  IF publication IS NULL THEN
    RAISE EXCEPTION 'nothing is captured in this database'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Start with audit_capture_start(publication): what changes meanwhile comes from there.';
  END IF;
  INSERT INTO audit_cdc_internal.backfills (backfill_id, relation, rows_expected)
  SELECT backfill_id, t.relation, nullif(c.reltuples, -1)
  FROM audit_cdc_internal.published_tables AS t
  JOIN pg_class AS c ON c.oid = t.relation
  WHERE CASE
    WHEN tables IS NULL
      THEN NOT EXISTS (
        SELECT FROM audit_cdc_internal.backfills AS b
        WHERE b.backfill_id = begin_backfill.backfill_id
      )
    ELSE EXISTS (
      SELECT FROM unnest(tables) AS u
      WHERE t.relation = u OR t.relation IN (SELECT relid FROM pg_partition_tree(u))
    )
  END
  ON CONFLICT DO NOTHING;
  SELECT u INTO missing FROM unnest(tables) AS u
  WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.backfills AS b WHERE b.backfill_id = begin_backfill.backfill_id
                      AND (b.relation = u OR b.relation IN (SELECT relid FROM pg_partition_tree(u))))
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'table "%" is not captured', missing
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = format('Publication "%s" does not have it, or it is excluded.', publication),
            HINT = format(
              'ALTER PUBLICATION %I ADD TABLE %s; of a partitioned table, the name that its changes carry.',
              publication, missing);
  END IF;
  RETURN ARRAY(SELECT b.relation FROM audit_cdc_internal.backfills AS b
               WHERE b.backfill_id = begin_backfill.backfill_id AND b.finished_at IS NULL ORDER BY b.relation::text);
END
$$;

-- What is to be done next: begin, read or complete; null: nothing.
CREATE FUNCTION audit_cdc_internal.backfill_stage(backfill_id uuid, relation oid) RETURNS text
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT CASE
    WHEN b.finished_at IS NOT NULL THEN NULL
    WHEN b.began_lsn IS NULL THEN 'begin'
    WHEN b.complete_lsn IS NULL THEN 'read'
    ELSE 'complete'
  END
  FROM audit_cdc_internal.backfills AS b
  WHERE b.backfill_id = backfill_stage.backfill_id AND b.relation = backfill_stage.relation;
END;

-- Transactions that have written to a table, or to its partitions, and may have done so before it was published:
-- their changes are not captured then. Who has no number yet has not written.
CREATE FUNCTION audit_cdc_internal.writers_of(relation oid) RETURNS xid[] LANGUAGE sql VOLATILE
BEGIN ATOMIC
  WITH locks AS MATERIALIZED (
    SELECT k.* FROM pg_locks AS k WHERE k.granted
  )
  SELECT coalesce(array_agg(x.transactionid), '{}')
  FROM locks AS x
  WHERE x.locktype = 'transactionid'
    AND x.mode = 'ExclusiveLock'
    AND EXISTS (
      SELECT FROM locks AS l
      WHERE l.virtualtransaction = x.virtualtransaction
        AND l.locktype = 'relation'
        AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
        AND (
          l.relation = writers_of.relation
          OR l.relation IN (SELECT relid FROM pg_partition_tree(writers_of.relation)))
    );
END;

-- Those that still run, as people name them; null: none.
CREATE FUNCTION audit_cdc_internal.running_of(transactions xid[]) RETURNS text LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT string_agg(DISTINCT coalesce(format('pid %s', l.pid), format('prepared transaction %L', p.gid)), ', ')
  FROM pg_locks AS l
  LEFT JOIN pg_prepared_xacts AS p ON p.transaction = l.transactionid
  WHERE l.locktype = 'transactionid'
    AND l.mode = 'ExclusiveLock'
    AND l.granted
    AND l.transactionid = ANY (transactions);
END;

-- Begins, when all of them have ended: from this position on every change is captured. Until then it tells who
-- still runs.
CREATE FUNCTION audit_cdc_internal.begin_table(backfill_id uuid, relation oid) RETURNS text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  writers xid[];
  running text;
BEGIN
  SELECT b.writers
  INTO writers
  FROM audit_cdc_internal.backfills AS b
  WHERE b.backfill_id = begin_table.backfill_id AND b.relation = begin_table.relation AND b.began_lsn IS NULL
  FOR UPDATE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  IF writers IS NULL THEN
    -- twice: while a transaction is being prepared, its locks are not all in one place
    writers := audit_cdc_internal.writers_of(relation);
    writers := writers || audit_cdc_internal.writers_of(relation);
  END IF;
  running := audit_cdc_internal.running_of(writers);
  UPDATE audit_cdc_internal.backfills AS b SET writers = writers
  WHERE b.backfill_id = begin_table.backfill_id AND b.relation = begin_table.relation AND b.writers IS NULL;
  IF running IS NOT NULL THEN
    RETURN running;
  END IF;
  UPDATE audit_cdc_internal.backfills AS b
  SET began_lsn = pg_current_wal_insert_lsn() - 1, after = NULL, next_block = 0, complete_lsn = NULL,
    complete_at = NULL,
    blocks = (
      SELECT coalesce(max(pg_relation_size(part::oid)), 0)
      FROM jsonb_object_keys(audit_cdc_internal.storage_of(b.relation)) AS part
    ) / current_setting('block_size')::bigint,
    capture_started_at = (SELECT c.started_at FROM audit_cdc_internal.captures AS c),
    layout = (
      SELECT audit_cdc_internal.layout_of(t)
      FROM audit_cdc_internal.published_tables AS t
      WHERE t.relation = b.relation
    ),
    storage = audit_cdc_internal.storage_of(b.relation)
  WHERE b.backfill_id = begin_table.backfill_id AND b.relation = begin_table.relation;
  RETURN NULL;
END
$$;

CREATE FUNCTION audit_cdc_internal.begin_again(backfill_id uuid, relation oid) RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
  UPDATE audit_cdc_internal.backfills AS b SET began_lsn = NULL, writers = NULL, restarts = b.restarts + 1
  WHERE b.backfill_id = begin_again.backfill_id AND b.relation = begin_again.relation;
END;

CREATE FUNCTION audit_cdc_internal.backfilled(backfill_id uuid) RETURNS bigint
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT coalesce(sum(b.rows_read), 0)::bigint
  FROM audit_cdc_internal.backfills AS b
  WHERE b.backfill_id = backfilled.backfill_id;
END;

CREATE PROCEDURE @extschema@.audit_backfill(relation regclass DEFAULT NULL, INOUT backfill_id uuid DEFAULT NULL,
    INOUT rows_read bigint DEFAULT NULL, batch_size integer DEFAULT 1000, tables regclass[] DEFAULT NULL)
  LANGUAGE plpgsql AS $$
DECLARE
  part pg_catalog.oid;
  parts pg_catalog.oid[];
  stage pg_catalog.text;
  running pg_catalog.text;
  looks pg_catalog.int4 := 0;
  captured pg_catalog.int8;
  before pg_catalog.int8;
  is_new pg_catalog.bool;
  told pg_catalog.int8 := 0;
BEGIN
  IF @extschema@.audit_in_transaction_block() THEN
    RAISE EXCEPTION 'audit_backfill() cannot run inside a transaction block' USING ERRCODE = 'active_sql_transaction',
      HINT = 'It commits in between.';
  END IF;
  IF batch_size IS NULL OR pg_catalog.array_position(tables, NULL) IS NOT NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN batch_size IS NULL THEN 'batch_size' ELSE 'a table' END
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  IF batch_size OPERATOR(pg_catalog.<) 1 OR batch_size OPERATOR(pg_catalog.>) 100000 THEN
    RAISE EXCEPTION 'batch_size must be between 1 and 100000' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  is_new := backfill_id IS NULL;
  backfill_id := coalesce(backfill_id, pg_catalog.gen_random_uuid());
  IF relation IS NOT NULL THEN
    tables := pg_catalog.array_append(tables, relation);
  END IF;
  parts := audit_cdc_internal.begin_backfill(tables, backfill_id);
  before := audit_cdc_internal.backfilled(backfill_id);
  COMMIT;
  IF is_new THEN
    RAISE NOTICE 'backfill %', backfill_id
      USING HINT = pg_catalog.format(
        'Interrupted, it is resumed by CALL audit_backfill(backfill_id => %L).', backfill_id);
  END IF;
  FOREACH part IN ARRAY parts LOOP
    LOOP
      stage := audit_cdc_internal.backfill_stage(backfill_id, part);
      EXIT WHEN stage IS NULL;
      IF stage OPERATOR(pg_catalog.=) 'begin' THEN
        running := audit_cdc_internal.begin_table(backfill_id, part);
        looks := CASE WHEN running IS NULL THEN 0 ELSE looks OPERATOR(pg_catalog.+) 1 END;
        IF looks OPERATOR(pg_catalog.=) 100 THEN
          RAISE NOTICE 'the backfill of table "%" waits for transactions that have written to it',
              part::pg_catalog.regclass
            USING DETAIL = pg_catalog.format('Running: %s.', running);
        END IF;
      ELSIF stage OPERATOR(pg_catalog.=) 'read' THEN
        PERFORM audit_cdc_internal.backfill_batch(backfill_id, part, batch_size);
      ELSE
        -- what changed meanwhile is in the log before it is said to be complete
        CALL audit_cdc_internal.capture_pending(captured);
        PERFORM audit_cdc_internal.complete_backfill(backfill_id, part);
      END IF;
      rows_read := audit_cdc_internal.backfilled(backfill_id) OPERATOR(pg_catalog.-) before;
      COMMIT;
      IF running IS NOT NULL THEN
        PERFORM pg_catalog.pg_sleep(0.01);
      END IF;
      IF rows_read OPERATOR(pg_catalog./) 100000 OPERATOR(pg_catalog.>) told THEN
        told := rows_read OPERATOR(pg_catalog./) 100000;
        RAISE NOTICE 'backfill %: % rows', backfill_id, rows_read;
      END IF;
    END LOOP;
  END LOOP;
  rows_read := audit_cdc_internal.backfilled(backfill_id) OPERATOR(pg_catalog.-) before;
END
$$;
COMMENT ON PROCEDURE @extschema@.audit_backfill(regclass, uuid, bigint, integer, regclass[]) IS
  'Writes an entry of action read for each row that captured tables have now, and tells how many. relation, tables: '
  'one or several; neither: all captured tables. backfill_id: null for a new backfill, whose id is told; a given id '
  'resumes that one where it was interrupted (without a table, all of its tables), and adds nothing if it is '
  'finished. batch_size: rows in one transaction. Each entry is exact at its commit_lsn: what was committed up to '
  'there is in it, and later changes of the row come after it. Rows that change while their batch is read are passed '
  'over, since the change tells them. Columns and row filter are those of the publication; a partition''s rows carry '
  'the name that its changes carry. First it waits for transactions that have written to the table, since what they '
  'wrote before it was published is not captured; a NOTICE names them if that lasts. A table that is rewritten or '
  'altered meanwhile is read again from its beginning. At the end it captures what is pending. Then an entry of '
  'action complete says that records of which nothing is told since it began are gone, and gaps (audit_gaps) that '
  'had ended before it began are closed. There is no such entry for a table without primary key, nor while a gap '
  'goes on. It locks no rows, and tables only against DDL, batch by batch. Errors: 25001 (inside a transaction '
  'block, or not under READ COMMITTED), 22004 (a null in tables, batch_size), 22023 (batch_size), 55000 (nothing is '
  'captured, or not this table), 55006 (the session has temporary objects), 40001 (a table or a schema was renamed '
  'meanwhile), and those of reading the slot.';
