-- A backfill reads a table batch by batch. The Rust side stands in src/capture/backfill.rs.

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

-- The rows of a batch: xmin, the row's place, the key in the order of its index, the columns.
CREATE FUNCTION audit_cdc_internal.batch_query(
    done audit_cdc_internal.backfills, published audit_cdc_internal.published_tables, batch_size integer,
    OUT key_columns text[], OUT query text)
  LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_variable
DECLARE
  key record;
BEGIN
  SELECT * INTO key FROM audit_cdc_internal.key_order(published.relation);
  key_columns := ARRAY(
    SELECT a.attname
    FROM pg_attribute AS a
    WHERE a.attrelid = published.relation AND a.attname = ANY (key.columns)
    ORDER BY a.attnum
  );
  query := (
    SELECT format(
      'SELECT t.xmin, %s, %s FROM %s %s AS t WHERE %s',
      CASE WHEN published.relkind = 'p' THEN 'pg_catalog.concat(t.tableoid, t.ctid)' ELSE 't.ctid' END,
      string_agg(format('t.%I', c), ', ' ORDER BY place), CASE WHEN published.relkind = 'p' THEN '' ELSE 'ONLY' END,
      published.relation::regclass, coalesce('(' || published.rowfilter || ')', 'true'))
    FROM unnest(key.columns || published.columns) WITH ORDINALITY AS u(c, place)
  );
  IF key.columns IS NULL THEN
    query := query
      || format(
        ' AND t.ctid >= ''(%s,0)'' AND t.ctid < ''(%s,0)''', done.next_block,
        audit_cdc_internal.end_block(done.next_block, batch_size));
  ELSE
    query := query
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
END
$$;

-- What is to be read next; no row: nothing, or it is to begin again. The caller has locked the table.
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
  SELECT q.key_columns, q.query INTO key_columns, query
  FROM audit_cdc_internal.batch_query(done, published, batch_size) AS q;
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
