-- A backfill from its beginning to its end: audit_backfill().

-- The tables that are still to be read; a partitioned table's partitions, unless they are captured as one. No
-- tables are given: those of a backfill that is there, or all.
CREATE FUNCTION audit_cdc_internal.begin_backfill(tables regclass[], backfill_id uuid) RETURNS oid[]
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_variable
DECLARE
  publication name := (SELECT c.publication FROM audit_cdc_internal.captures AS c);
  missing regclass;
  parts oid[];
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
  parts := ARRAY(SELECT b.relation FROM audit_cdc_internal.backfills AS b
                 WHERE b.backfill_id = begin_backfill.backfill_id AND b.finished_at IS NULL ORDER BY b.relation::text);
  PERFORM audit_cdc_internal.note_operation(
    'audit_backfill',
    jsonb_build_object('backfill_id', backfill_id, 'tables', parts::regclass[]));
  RETURN parts;
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

-- Transactions that have written to a table, or to its partitions. They may have done so before it was published: their
-- changes are not captured then. Who has no number yet has not written.
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

CREATE FUNCTION audit_cdc_internal.check_backfill(tables regclass[], batch_size integer) RETURNS void
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF batch_size IS NULL OR array_position(tables, NULL) IS NOT NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN batch_size IS NULL THEN 'batch_size' ELSE 'a table' END
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  IF batch_size NOT BETWEEN 1 AND 100000 THEN
    RAISE EXCEPTION 'batch_size must be between 1 and 100000' USING ERRCODE = 'invalid_parameter_value';
  END IF;
END
$$;

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
  is_new CONSTANT pg_catalog.bool := backfill_id IS NULL;
  told pg_catalog.int8 := 0;
BEGIN
  IF @extschema@.audit_in_transaction_block() THEN
    RAISE EXCEPTION 'audit_backfill() cannot run inside a transaction block' USING ERRCODE = 'active_sql_transaction',
      HINT = 'It commits in between.';
  END IF;
  PERFORM audit_cdc_internal.check_backfill(tables, batch_size);
  backfill_id := coalesce(backfill_id, pg_catalog.gen_random_uuid());
  parts := audit_cdc_internal.begin_backfill(
    CASE WHEN relation IS NULL THEN tables ELSE pg_catalog.array_append(tables, relation) END, backfill_id);
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
      PERFORM pg_catalog.pg_sleep(0.01) WHERE running IS NOT NULL;
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
