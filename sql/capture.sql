-- Capture: the log fills itself from this server's own WAL. The Rust side stands in src/capture.
--
-- * A slot is read without consuming it, what it holds is stored and committed, and only then it is advanced.
--   Advancing survives a rollback, so the two are never in one transaction. Each of the two holds the lock of the
--   capture; who comes in between stores nothing twice.
-- * What has been read, and from which slot, is stored with the entries (read_to). The slot is never advanced
--   beyond it: where it stands further, somebody else has moved it, and what was in between is a gap (gaps.sql).
-- * One capture a database: two publications may give one position to different changes.

CREATE TABLE audit_cdc_internal.captures (
  is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  publication name NOT NULL,
  slot name NOT NULL,
  plugin name NOT NULL, -- of the slot
  database_id text NOT NULL, -- whose capture it is: a copy of the database has the row too
  timeline integer NOT NULL, -- of the server, when it was read last
  read_to pg_lsn NOT NULL, -- what committed before is in the log
  read_to_time timestamptz NOT NULL DEFAULT now(), -- so is what committed before this time
  started_at timestamptz NOT NULL DEFAULT now(),
  is_stopping boolean NOT NULL DEFAULT false,
  changes bigint NOT NULL DEFAULT 0,
  last_commit_lsn pg_lsn,
  last_commit timestamptz,
  rate double precision NOT NULL DEFAULT 0, -- changes per second, up to rate_since
  rate_since timestamptz NOT NULL DEFAULT now(),
  rate_changes bigint NOT NULL DEFAULT 0, -- since then
  last_error text,
  last_error_sqlstate text,
  last_error_at timestamptz
);

-- Captured transactions in which rules of projections ran: what they changed afterwards must not be fed to
-- projections again.
CREATE TABLE audit_cdc_internal.projecting_transactions (xid xid8 PRIMARY KEY);

-- A complete pass has read what was committed when it began.
CREATE FUNCTION audit_cdc_internal.forget_projecting_transactions(oldest bigint) RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
  DELETE FROM audit_cdc_internal.projecting_transactions WHERE xid < oldest::text::xid8;
END;

-- As a source among others. A physical copy of the server has the same id.
CREATE FUNCTION audit_cdc_internal.this_database() RETURNS json LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT json_build_object('id', format('%s.%s', s.system_identifier, d.oid), 'name', d.datname)
  FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database();
END;

-- With which names of WAL files begin; not to be asked during recovery.
CREATE FUNCTION audit_cdc_internal.current_timeline() RETURNS integer LANGUAGE sql STABLE
  RETURN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer;

-- A pass has read up to a position, and stored so many changes that are new. Times that are null are not known.
CREATE FUNCTION audit_cdc_internal.note_captured(
    captured bigint, lsn bigint, last_commit timestamptz, read_to bigint, read_to_time timestamptz) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  UPDATE audit_cdc_internal.captures AS c
  SET changes = c.changes + note_captured.captured,
    last_commit_lsn = coalesce('0/0'::pg_lsn + note_captured.lsn, c.last_commit_lsn),
    last_commit = coalesce(note_captured.last_commit, c.last_commit),
    read_to = greatest('0/0'::pg_lsn + note_captured.read_to, c.read_to),
    read_to_time = coalesce(note_captured.read_to_time, c.read_to_time),
    timeline = audit_cdc_internal.current_timeline(),
    rate = CASE WHEN n.seconds > 5 THEN (c.rate_changes + note_captured.captured) / n.seconds ELSE c.rate END,
    rate_since = CASE WHEN n.seconds > 5 THEN clock_timestamp() ELSE c.rate_since END,
    rate_changes = CASE WHEN n.seconds > 5 THEN 0 ELSE c.rate_changes + note_captured.captured END
  FROM (
    SELECT extract(epoch FROM clock_timestamp() - rate_since)::double precision AS seconds
    FROM audit_cdc_internal.captures
  ) AS n;
END;

-- Of a worker; it may be that the slot is not there any more.
CREATE FUNCTION audit_cdc_internal.note_capture_error(sqlstate text, message text) RETURNS void
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  PERFORM audit_cdc_internal.lock_capture();
  UPDATE audit_cdc_internal.captures
  SET last_error = message, last_error_sqlstate = sqlstate, last_error_at = clock_timestamp();
  PERFORM audit_cdc_internal.note_fault();
END
$$;

-- Asked by the worker before each look. Until its transaction ends nobody else reads or moves the slot.
CREATE FUNCTION audit_cdc_internal.is_captured() RETURNS boolean
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.lock_capture();
  RETURN EXISTS (SELECT FROM audit_cdc_internal.captures WHERE NOT is_stopping);
END
$$;

-- The worker of this database; null: none.
CREATE FUNCTION audit_cdc_internal.capture_worker() RETURNS integer
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_stat_clear_snapshot();
  RETURN (
    SELECT max(pid)
    FROM pg_stat_activity
    WHERE backend_type = 'audit_cdc capture' AND datname = current_database()
  );
END
$$;

-- An error that names all that is to be set. Only newer minor releases have output_plugin_libraries; without a
-- worker capture works.
CREATE FUNCTION audit_cdc_internal.require_settings() RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE
  plugins CONSTANT text := current_setting('output_plugin_libraries', true);
  has_wal CONSTANT boolean := current_setting('wal_level') = 'logical';
  has_plugin CONSTANT boolean := plugins IS NULL
    OR EXISTS (SELECT FROM string_to_table(plugins, ',') AS named(plugin) WHERE btrim(plugin, ' "') = 'audit_cdc');
  has_worker CONSTANT boolean := audit_cdc_internal.is_preloaded();
BEGIN
  IF has_wal AND has_plugin THEN
    RETURN;
  END IF;
  RAISE EXCEPTION 'capture needs other settings of the server'
    USING ERRCODE = 'object_not_in_prerequisite_state',
          DETAIL = concat_ws(
            ' ', CASE WHEN NOT has_wal THEN format('wal_level is %s.', current_setting('wal_level')) END,
            CASE WHEN NOT has_plugin THEN 'output_plugin_libraries does not name audit_cdc.' END,
            CASE
              WHEN NOT has_worker
                THEN 'shared_preload_libraries does not name audit_cdc, so no worker would capture.'
            END),
          HINT = concat_ws(
            ' ', CASE WHEN NOT has_wal THEN 'ALTER SYSTEM SET wal_level = logical.' END,
            CASE
              WHEN NOT has_plugin
                THEN format(
                  'ALTER SYSTEM SET output_plugin_libraries = %s.',
                  concat_ws(', ', nullif(plugins, ''), 'audit_cdc'))
            END,
            CASE
              WHEN NOT has_worker
                THEN format(
                  'ALTER SYSTEM SET shared_preload_libraries = %s.',
                  concat_ws(', ', nullif(current_setting('shared_preload_libraries'), ''), 'audit_cdc'))
            END,
            CASE
              WHEN has_wal AND has_worker THEN 'Then SELECT pg_reload_conf().'
              ELSE 'Then restart the server.'
            END);
END
$$;

CREATE FUNCTION @extschema@.audit_capture_start(publication name, slot name DEFAULT NULL) RETURNS pg_lsn
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  start_lsn pg_lsn;
  fault record; -- of a capture that cannot go on
  targets text;
  refused text;
  missing text;
  partial text;
BEGIN
  IF publication IS NULL THEN
    RAISE EXCEPTION 'publication must not be null' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  PERFORM audit_cdc_internal.require_settings();
  IF NOT EXISTS (SELECT FROM pg_publication AS p WHERE p.pubname = publication) THEN
    RAISE EXCEPTION 'publication "%" does not exist', publication
      USING ERRCODE = 'undefined_object',
            HINT = format(
              'CREATE PUBLICATION %I FOR TABLE …, or FOR TABLES IN SCHEMA …, tells what is captured.',
              publication);
  END IF;
  IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
    RAISE EXCEPTION 'capture cannot start in a transaction that has written'
      USING ERRCODE = 'active_sql_transaction',
            HINT = 'Call audit_capture_start() first in its transaction, or by itself.';
  END IF;
  PERFORM audit_cdc_internal.lock_capture(); -- a worker waits for the end of this transaction
  SELECT * INTO fault FROM audit_cdc_internal.capture_faults;
  IF fault.reason IS NULL AND EXISTS (SELECT FROM audit_cdc_internal.captures) THEN
    RAISE EXCEPTION 'this database is captured already'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = (
              SELECT format('Publication "%s" is read from slot "%s".', c.publication, c.slot)
              FROM audit_cdc_internal.captures AS c
            ),
            HINT = 'Add tables with ALTER PUBLICATION, or CALL audit_capture_stop() first.';
  END IF;

  IF fault.reason = 'slot lost' THEN
    PERFORM pg_drop_replication_slot(fault.slot);
  END IF;
  slot := coalesce(slot, format('audit_cdc_%s', (SELECT oid FROM pg_database WHERE datname = current_database())));
  IF EXISTS (SELECT FROM pg_replication_slots AS s WHERE s.slot_name = slot) THEN
    RAISE EXCEPTION 'replication slot "%" already exists', slot
      USING ERRCODE = 'duplicate_object',
            HINT = format(
              'If it is left from a capture whose extension was dropped: SELECT pg_drop_replication_slot(%L).',
              slot);
  END IF;
  start_lsn := audit_cdc_internal.new_slot(slot);
  PERFORM audit_cdc_internal.note_break(fault.reason, fault.read_to, fault.read_to_time, fault.detail)
  WHERE fault.reason IS NOT NULL;
  DELETE FROM audit_cdc_internal.captures;
  DELETE FROM audit_cdc_internal.projecting_transactions;
  INSERT INTO audit_cdc_internal.captures (publication, slot, plugin, database_id, timeline, read_to)
  SELECT publication, slot, s.plugin, audit_cdc_internal.this_database() ->> 'id',
         audit_cdc_internal.current_timeline(), start_lsn
  FROM pg_replication_slots AS s WHERE s.slot_name = slot;
  PERFORM audit_cdc_internal.record_tables();
  INSERT INTO audit_cdc_internal.captured_databases (database_id, database_name)
  SELECT d ->> 'id', d ->> 'name' FROM audit_cdc_internal.this_database() AS d ON CONFLICT DO NOTHING;
  PERFORM audit_cdc_internal.end_gaps(NULL, ARRAY['continued'], start_lsn);
  PERFORM audit_cdc_internal.end_breaks(start_lsn);
  targets := (
    SELECT string_agg(format('%s (projection "%s")', t.captured, p.name), ', ' ORDER BY p.name)
    FROM audit_cdc_internal.projections AS p
    CROSS JOIN LATERAL audit_cdc_internal.captured_of(p.target) AS t(captured)
    WHERE t.captured IS NOT NULL
  );
  IF targets IS NOT NULL THEN
    RAISE EXCEPTION 'tables that are filled from the log cannot be captured'
      USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = targets,
            HINT = 'Call audit_exclude_table() for each, or take it out of the publication.';
  END IF;

  SELECT string_agg(t.name, ', ' ORDER BY t.name) FILTER (WHERE t.is_refused),
         string_agg(t.name, ', ' ORDER BY t.name) FILTER (WHERE NOT t.is_refused)
  INTO refused, partial
  FROM (
    SELECT
      format('%I.%I', t.schemaname, t.tablename) AS name,
      CASE c.relreplident
        WHEN 'f'
          THEN EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = c.oid
              AND a.attnum > 0
              AND NOT a.attisdropped
              AND a.attgenerated = ''
              AND a.attname <> ALL (t.attnames)
          )
        ELSE NOT EXISTS (
          SELECT FROM pg_index AS i
          WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END
        )
      END AS is_refused,
      c.relreplident
    FROM pg_publication_tables AS t
    JOIN pg_namespace AS n ON n.nspname = t.schemaname
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
    WHERE t.pubname = publication
      AND t.schemaname <> 'audit_cdc_internal'
      AND c.relkind = 'r'
      AND c.oid NOT IN (SELECT relation FROM audit_cdc_internal.excluded_tables WHERE until_lsn IS NULL)
  ) AS t
  WHERE t.is_refused OR t.relreplident <> 'f';
  IF refused IS NOT NULL
    AND (SELECT p.pubupdate OR p.pubdelete FROM pg_publication AS p WHERE p.pubname = publication) THEN
    RAISE WARNING
        'while they are published, PostgreSQL refuses UPDATE and DELETE of tables whose replica identity is missing '
        'or not published whole'
      USING DETAIL = refused,
            HINT = 'ALTER TABLE … REPLICA IDENTITY FULL (with all columns published), or give the table a primary key.';
  END IF;
  missing := (
    SELECT string_agg(o.name, ', ')
    FROM pg_publication AS p
    CROSS JOIN LATERAL (
      VALUES ('INSERT', p.pubinsert), ('UPDATE', p.pubupdate), ('DELETE', p.pubdelete), ('TRUNCATE', p.pubtruncate)
    ) AS o(name, is_published)
    WHERE p.pubname = publication AND NOT o.is_published
  );
  IF missing IS NOT NULL THEN
    RAISE WARNING 'not all changes are published, and the log will have the others only'
      USING DETAIL = format('Not published: %s.', missing),
            HINT = 'ALTER PUBLICATION … SET (publish = ''insert, update, delete, truncate'').';
  END IF;
  IF partial IS NOT NULL THEN
    RAISE NOTICE 'old values will be unknown of tables that are not REPLICA IDENTITY FULL'
      USING DETAIL = partial,
            HINT = 'ALTER TABLE … REPLICA IDENTITY FULL, for each whose old values and deleted rows are to be in the '
                   'log.';
  END IF;
  IF NOT audit_cdc_internal.is_preloaded() THEN
    RAISE WARNING 'no worker captures: audit_cdc is not in shared_preload_libraries'
      USING HINT = 'Add it there and restart the server. Until then CALL audit_capture() captures what is pending.';
  ELSIF NOT (fault.reason IS NOT NULL AND audit_cdc_internal.call_capture_worker())
    AND NOT audit_cdc_internal.start_capture_worker() THEN
    RAISE WARNING 'no worker captures: all of max_worker_processes are in use'
      USING HINT = 'Raise it and restart the server. Until then CALL audit_capture() captures what is pending.';
  END IF;
  RETURN start_lsn;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_capture_start(name, name) IS
  'Starts to capture the changes of a publication of this database from its own WAL, and returns the position from '
  'which on: a change that commits later is in the log soon. slot: name of the logical replication slot to be made; '
  'null: audit_cdc_ and the oid of the database. A background worker does it, also after a restart, if audit_cdc is '
  'in shared_preload_libraries; else a WARNING says so. Over a capture that cannot go on (its slot is gone or lost, '
  'the database is a copy) it begins anew; what is missing is in audit_gaps. From PostgreSQL 17 on the setting '
  'audit_cdc.capture_failover tells whether a standby that copies slots copies this one. A NOTICE names tables that '
  'are not REPLICA IDENTITY FULL, a WARNING those that cannot be updated while they are published, another which '
  'kinds of changes the publication leaves out. Errors: 22004 (null), 55000 (settings of the server, captured '
  'already, a published table is the target of a projection and not excluded), 42704 (no such publication), 25001 '
  '(the transaction has written), 42710 (the slot exists), 53400 (max_replication_slots). After a rollback there is '
  'no slot.';

-- What is committed now. Commits.
CREATE PROCEDURE audit_cdc_internal.capture_pending(INOUT captured bigint)
  LANGUAGE plpgsql AS $$
DECLARE
  pending_to pg_catalog.pg_lsn;
  pass pg_catalog.record;
BEGIN
  captured := 0;
  PERFORM audit_cdc_internal.lock_capture();
  PERFORM audit_cdc_internal.note_fault();
  COMMIT;
  pending_to := pg_catalog.pg_current_wal_insert_lsn();
  LOOP
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
  UPDATE audit_cdc_internal.captures SET is_stopping = true;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'nothing is captured in this database' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN NOT EXISTS (SELECT FROM audit_cdc_internal.capture_faults AS f WHERE f.reason <> 'slot lost');
END
$$;

-- The slot first: without it the capture can still be stopped, without the capture nobody would drop it. What a
-- copy of the database finds under that name is the original's.
CREATE FUNCTION audit_cdc_internal.end_capture(discarded boolean) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.note_break(
    CASE WHEN discarded THEN 'discarded' ELSE 'stopped' END, c.read_to, c.read_to_time, NULL)
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
  PERFORM audit_cdc_internal.lock_capture();
  has_slot := audit_cdc_internal.begin_to_stop();
  COMMIT;
  captured := 0;
  IF has_slot AND discard_pending IS NOT TRUE THEN
    CALL audit_cdc_internal.capture_pending(captured);
  END IF;
  PERFORM audit_cdc_internal.lock_capture();
  PERFORM audit_cdc_internal.end_capture(has_slot AND discard_pending IS TRUE);
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
  '(nothing is captured, the slot cannot be read, on a standby), and those of reading the slot. Interrupted, it can '
  'be called again.';

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
