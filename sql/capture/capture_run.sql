-- Capturing what is pending, and the end of it: audit_capture() and audit_capture_stop().

-- What is committed now. Commits. Each transaction waits for who has the slot, and must see then what that one did.
CREATE PROCEDURE audit_cdc_internal.capture_pending(INOUT captured bigint)
  LANGUAGE plpgsql AS $$
DECLARE
  pending_to pg_catalog.pg_lsn;
  pass pg_catalog.record;
BEGIN
  captured := 0;
  COMMIT;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  PERFORM audit_cdc_internal.lock_capture();
  PERFORM audit_cdc_internal.note_fault();
  COMMIT;
  pending_to := pg_catalog.pg_current_wal_insert_lsn();
  LOOP
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    PERFORM audit_cdc_internal.lock_capture();
    SELECT * INTO pass
    FROM audit_cdc_internal.capture_pass(pg_catalog.current_setting('audit_cdc.capture_max_changes')::integer, true);
    captured := captured OPERATOR(pg_catalog.+) pass.captured;
    COMMIT;
    PERFORM audit_cdc_internal.advance_capture();
    COMMIT;
    EXIT WHEN pass.is_complete OR pass.reached OPERATOR(pg_catalog.>=) pending_to;
  END LOOP;
END
$$;

CREATE PROCEDURE @extschema@.audit_capture(INOUT captured bigint DEFAULT NULL)
  LANGUAGE plpgsql AS $$
BEGIN
  IF @extschema@.audit_in_transaction_block() THEN
    RAISE EXCEPTION 'audit_capture() cannot run inside a transaction block' USING ERRCODE = 'active_sql_transaction',
      HINT = 'It commits in between.';
  END IF;
  CALL audit_cdc_internal.capture_pending(captured);
END
$$;
COMMENT ON PROCEDURE @extschema@.audit_capture(bigint) IS
  'Captures what is committed now and not captured yet, and tells how many changes are new in the log. It waits '
  'while a worker or another session does the same. It commits in between, so that the slot is advanced after what '
  'it held is stored. Errors: 25001 (inside a transaction block), 55000 (nothing is captured, capture cannot go on, '
  'on a standby), and those of reading the slot.';

-- True: its slot is to be read first. Without it what is missing is noted here.
CREATE FUNCTION audit_cdc_internal.begin_to_stop() RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.note_fault();
  -- the end may never come
  PERFORM audit_cdc_internal.note_operation(
    'audit_capture_stop', jsonb_build_object('publication', c.publication, 'slot', c.slot))
  FROM audit_cdc_internal.captures AS c;
  UPDATE audit_cdc_internal.captures SET is_stopping = true, stopping_at = pg_current_wal_flush_lsn();
  IF NOT FOUND THEN
    RAISE EXCEPTION 'nothing is captured in this database' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN NOT EXISTS (SELECT FROM audit_cdc_internal.capture_faults AS f WHERE f.reason <> 'slot lost');
END
$$;

-- The slot first: without it the capture can still be stopped, without the capture nobody would drop it. What a
-- copy of the database finds under that name is the original's.
CREATE FUNCTION audit_cdc_internal.end_capture() RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM audit_cdc_internal.captures AS c WHERE NOT c.is_stopping) THEN
    RAISE EXCEPTION 'nobody has begun to stop the capture, or it was started again'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'CALL audit_capture_stop().';
  END IF;
  PERFORM audit_cdc_internal.note_break(
    CASE WHEN c.read_to >= c.stopping_at THEN 'stopped' ELSE 'discarded' END, c.read_to, c.read_to_time, NULL)
  FROM audit_cdc_internal.captures AS c;
  PERFORM audit_cdc_internal.note_operation(
    'audit_capture_stop',
    jsonb_build_object('discard_pending', c.read_to < c.stopping_at, 'publication', c.publication, 'slot', c.slot),
    jsonb_build_object('captured', c.changes))
  FROM audit_cdc_internal.captures AS c;
  PERFORM pg_drop_replication_slot(s.slot_name)
  FROM audit_cdc_internal.captures AS c JOIN pg_replication_slots AS s ON s.slot_name = c.slot
  WHERE c.database_id = audit_cdc_internal.this_database() ->> 'id'
    AND s.database = current_database() AND s.plugin = c.plugin;
  DELETE FROM audit_cdc_internal.captures;
  DELETE FROM audit_cdc_internal.projecting_transactions;
END
$$;

CREATE PROCEDURE @extschema@.audit_capture_stop(
    discard_pending boolean DEFAULT false, INOUT captured bigint DEFAULT NULL)
  LANGUAGE plpgsql AS $$
DECLARE
  has_slot pg_catalog.bool;
BEGIN
  IF @extschema@.audit_in_transaction_block() THEN
    RAISE EXCEPTION 'audit_capture_stop() cannot run inside a transaction block'
      USING ERRCODE = 'active_sql_transaction', HINT = 'It commits in between.';
  END IF;
  COMMIT;
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  PERFORM audit_cdc_internal.lock_capture();
  has_slot := audit_cdc_internal.begin_to_stop();
  COMMIT;
  captured := 0;
  IF has_slot AND discard_pending IS NOT TRUE THEN
    CALL audit_cdc_internal.capture_pending(captured);
  END IF;
  COMMIT; -- even an IF may need a snapshot, and then it is too late
  SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
  PERFORM audit_cdc_internal.lock_capture();
  PERFORM audit_cdc_internal.end_capture();
  COMMIT;
  FOR attempt IN 1..500 LOOP
    EXIT WHEN audit_cdc_internal.capture_worker() IS NULL;
    PERFORM pg_catalog.pg_sleep(0.01);
  END LOOP;
END
$$;
COMMENT ON PROCEDURE @extschema@.audit_capture_stop(boolean, bigint) IS
  'Captures what is committed now, ends the capture and drops its slot; tells how many changes were new. Later '
  'changes are in nobody''s hands until the next start: audit_gaps has a row of that. discard_pending => true: what '
  'is pending is not captured, for a slot that cannot be read any more. In a copy of a captured database it ends the '
  'capture of the copy, and leaves the original''s slot alone. Errors: 25001 (inside a transaction block), 55000 '
  '(nothing is captured, started again meanwhile, the slot cannot be read, on a standby), and those of reading the '
  'slot. Interrupted, it can be called again, or audit_capture_start() goes on.';

COMMENT ON FUNCTION @extschema@.audit_pending_changes(name, name, integer) IS
  'Committed changes that a logical slot of this database, made with the output plugin audit_cdc, holds for a '
  'publication, as messages in Sequin''s form and in the order of commits, without consuming them. Null for slot or '
  'publication: those that are captured. upto_nchanges: stop after the transaction in which so many are reached; '
  'null: all. Where Sequin loses something, nothing is lost: times have their fractions and offsets, intervals and '
  'json numbers are exact, an update of the key has the old key in changes, TRUNCATE is a message of its own, and '
  'metadata has replica_identity, unknown_columns and unknown_old_columns. Tables of the log and excluded tables are '
  'left out. It needs what pg_logical_slot_peek_binary_changes() needs: wal_level = logical and the attribute '
  'REPLICATION. Errors: its own; 55000 (null, and nothing is captured; another output plugin), 42704 (no such '
  'publication), 08P01 (not understood).';
