-- Starting to capture: audit_capture_start().

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

-- What a projection fills must not be captured: it would feed itself.
CREATE FUNCTION audit_cdc_internal.refuse_targets() RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  targets text;
BEGIN
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
END
$$;

-- Published tables whose replica identity is not FULL; and those whose updates and deletes PostgreSQL refuses, since it
-- is missing or not published whole.
CREATE FUNCTION audit_cdc_internal.weakly_identified(publication name, OUT refused text, OUT partial text)
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT string_agg(t.name, ', ' ORDER BY t.name) FILTER (WHERE t.is_refused),
         string_agg(t.name, ', ' ORDER BY t.name) FILTER (WHERE NOT t.is_refused)
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
END;

-- What of the publication's tables the log will not have, or not know.
CREATE FUNCTION audit_cdc_internal.say_what_is_partial(publication name) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  refused text;
  missing text;
  partial text;
BEGIN
  SELECT w.refused, w.partial INTO refused, partial FROM audit_cdc_internal.weakly_identified(publication) AS w;
  IF refused IS NOT NULL
    AND (SELECT p.pubupdate OR p.pubdelete FROM pg_publication AS p WHERE p.pubname = publication) THEN
    RAISE WARNING
        'while they are published, PostgreSQL refuses UPDATE and DELETE of tables whose replica identity is missing '
        'or not published whole'
      USING DETAIL = refused,
            HINT = 'ALTER TABLE … REPLICA IDENTITY FULL (with all columns published), or give the table a '
                   'primary key.';
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
END
$$;

-- The name for a new slot; null: that of this database.
CREATE FUNCTION audit_cdc_internal.free_slot(slot name) RETURNS name
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  slot := coalesce(slot, format('audit_cdc_%s', (SELECT oid FROM pg_database WHERE datname = current_database())));
  IF EXISTS (SELECT FROM pg_replication_slots AS s WHERE s.slot_name = slot) THEN
    RAISE EXCEPTION 'replication slot "%" already exists', slot
      USING ERRCODE = 'duplicate_object',
            HINT = format(
              'If it is left from a capture whose extension was dropped: SELECT pg_drop_replication_slot(%L).',
              slot);
  END IF;
  RETURN slot;
END
$$;

-- A worker captures, or a WARNING says that none does. may_be_there: one that could not go on waits to be called.
CREATE FUNCTION audit_cdc_internal.have_worker(may_be_there boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT audit_cdc_internal.is_preloaded() THEN
    RAISE WARNING 'no worker captures: audit_cdc is not in shared_preload_libraries'
      USING HINT = 'Add it there and restart the server. Until then CALL audit_capture() captures what is pending.';
  ELSIF NOT (may_be_there AND audit_cdc_internal.call_capture_worker())
    AND NOT audit_cdc_internal.start_capture_worker() THEN
    RAISE WARNING 'no worker captures: all of max_worker_processes are in use'
      USING HINT = 'Raise it and restart the server. Until then CALL audit_capture() captures what is pending.';
  END IF;
END
$$;

-- A worker that ends over a stop is waited for, before the lock which it may need.
CREATE FUNCTION audit_cdc_internal.await_stopped_worker() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  FOR attempt IN 1..500 LOOP
    EXIT WHEN NOT EXISTS (SELECT FROM audit_cdc_internal.captures WHERE is_stopping)
      OR audit_cdc_internal.capture_worker() IS NULL;
    PERFORM pg_sleep(0.01);
  END LOOP;
END
$$;

-- A stop of this capture was begun and never ended: it goes on. Returns what it has read.
CREATE FUNCTION audit_cdc_internal.take_back_stop(publication name, slot name) RETURNS pg_lsn
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  resumed record;
BEGIN
  UPDATE audit_cdc_internal.captures AS c SET is_stopping = false, stopping_at = NULL
  WHERE c.is_stopping AND c.publication = take_back_stop.publication
    AND c.slot = coalesce(take_back_stop.slot, c.slot)
  RETURNING c.slot, c.read_to INTO resumed;
  IF resumed.slot IS NULL THEN
    RAISE EXCEPTION 'this database is captured already'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = (
              SELECT format('Publication "%s" is read from slot "%s".', c.publication, c.slot)
              FROM audit_cdc_internal.captures AS c
            ),
            HINT = 'Add tables with ALTER PUBLICATION, or CALL audit_capture_stop() first.';
  END IF;
  PERFORM audit_cdc_internal.note_operation(
    'audit_capture_start', jsonb_build_object('publication', publication, 'slot', resumed.slot));
  PERFORM audit_cdc_internal.have_worker(true);
  RETURN resumed.read_to;
END
$$;

CREATE FUNCTION @extschema@.audit_capture_start(publication name, slot name DEFAULT NULL) RETURNS pg_lsn
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  start_lsn pg_lsn;
  fault record; -- of a capture that cannot go on
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
  PERFORM audit_cdc_internal.await_stopped_worker();
  PERFORM audit_cdc_internal.lock_capture(); -- a worker waits for the end of this transaction
  SELECT * INTO fault FROM audit_cdc_internal.capture_faults;
  IF fault.reason IS NULL AND EXISTS (SELECT FROM audit_cdc_internal.captures) THEN
    RETURN audit_cdc_internal.take_back_stop(publication, slot);
  END IF;

  PERFORM pg_drop_replication_slot(fault.slot) WHERE fault.reason = 'slot lost';
  slot := audit_cdc_internal.free_slot(slot);
  start_lsn := audit_cdc_internal.new_slot(slot);
  PERFORM audit_cdc_internal.note_break(fault.reason, fault.read_to, fault.read_to_time, fault.detail)
  WHERE fault.reason IS NOT NULL;
  PERFORM audit_cdc_internal.note_restored() WHERE fault.reason IS NULL;
  DELETE FROM audit_cdc_internal.captures;
  DELETE FROM audit_cdc_internal.projecting_transactions;
  INSERT INTO audit_cdc_internal.captures (publication, slot, plugin, database_id, timeline, read_to)
  SELECT publication, slot, s.plugin, audit_cdc_internal.this_database() ->> 'id',
         audit_cdc_internal.current_timeline(), start_lsn
  FROM pg_replication_slots AS s WHERE s.slot_name = slot;
  PERFORM audit_cdc_internal.record_tables();
  PERFORM audit_cdc_internal.say_lost_masks();
  INSERT INTO audit_cdc_internal.captured_databases (database_id, database_name)
  SELECT d ->> 'id', d ->> 'name' FROM audit_cdc_internal.this_database() AS d ON CONFLICT DO NOTHING;
  PERFORM audit_cdc_internal.end_gaps(NULL, ARRAY['continued'], start_lsn);
  PERFORM audit_cdc_internal.end_breaks(start_lsn);
  PERFORM audit_cdc_internal.refuse_targets();
  PERFORM audit_cdc_internal.note_operation(
    'audit_capture_start', jsonb_build_object('publication', publication, 'slot', slot));
  PERFORM audit_cdc_internal.say_what_is_partial(publication);
  PERFORM audit_cdc_internal.have_worker(fault.reason IS NOT NULL);
  RETURN start_lsn;
END
$$;
COMMENT ON FUNCTION @extschema@.audit_capture_start(name, name) IS
  'Starts to capture the changes of a publication of this database from its own WAL, and returns the position from '
  'which on: a change that commits later is in the log soon. slot: name of the logical replication slot to be made; '
  'null: audit_cdc_ and the oid of the database. A background worker does it, also after a restart, if audit_cdc is '
  'in shared_preload_libraries; else a WARNING says so. Over a capture that cannot go on (its slot is gone or lost, '
  'the database is a copy) it begins anew; what is missing is in audit_gaps. Over a stop of the same capture that was '
  'begun and never ended it goes on, and nothing is missing. From PostgreSQL 17 on the setting '
  'audit_cdc.capture_failover tells whether a standby that copies slots copies this one. A NOTICE names tables that '
  'are not REPLICA IDENTITY FULL, a WARNING those that cannot be updated while they are published, another which '
  'kinds of changes the publication leaves out. Errors: 22004 (null), 55000 (settings of the server, captured '
  'already, a published table is the target of a projection and not excluded), 42704 (no such publication), 25001 '
  '(the transaction has written), 42710 (the slot exists), 53400 (max_replication_slots). After a rollback there is '
  'no slot.';
