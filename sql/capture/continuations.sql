-- Going on from another database. After a restore, an upgrade or a move the database has another id, and its log holds
-- what the old one captured. Until an admin says that this is the same database, those entries are another's.

-- Every database that was captured into this log, here or where it was restored from. Nobody may deliver changes of
-- them.
CREATE TABLE audit_cdc_internal.captured_databases (
  database_id text PRIMARY KEY,
  database_name text NOT NULL,
  since timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE audit_cdc_internal.continued_databases (
  old_id text NOT NULL,
  new_id text NOT NULL, -- of this database at that time
  reason text NOT NULL,
  continued_by name NOT NULL,
  continued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_lsn bigint NOT NULL, -- of what the old one captured
  last_commit timestamptz NOT NULL,
  PRIMARY KEY (old_id, new_id)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.captured_databases
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.captured_databases ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.continued_databases
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.continued_databases ENABLE ALWAYS TRIGGER append_only;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.captured_databases', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.continued_databases', '');

CREATE VIEW @extschema@.audit_continuations AS
  SELECT old_id AS old_database_id, new_id AS new_database_id, reason, continued_by, continued_at,
         '0/0'::pg_lsn + last_lsn AS last_lsn, last_commit
  FROM audit_cdc_internal.continued_databases;
COMMENT ON VIEW @extschema@.audit_continuations IS
  'which database goes on from which, as audit_continue() was told; a row for each move';
COMMENT ON COLUMN @extschema@.audit_continuations.old_database_id IS 'database_id that it had, as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_continuations.new_database_id IS 'database_id of the database that goes on from it';
COMMENT ON COLUMN @extschema@.audit_continuations.reason IS 'as given to audit_continue()';
COMMENT ON COLUMN @extschema@.audit_continuations.continued_by IS 'who called it';
COMMENT ON COLUMN @extschema@.audit_continuations.continued_at IS 'when';
COMMENT ON COLUMN @extschema@.audit_continuations.last_lsn IS
  'position of the last change of the old one that the log had then';
COMMENT ON COLUMN @extschema@.audit_continuations.last_commit IS
  'the latest commit time of the old one that the log had then';

-- This database and all from which it goes on, the oldest first. Positions of two servers cannot be compared: those
-- of each database count on from the last one of the database before.
CREATE FUNCTION audit_cdc_internal.own_databases(OUT ids text[], OUT positions_before bigint[])
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
BEGIN
  IF NOT EXISTS (SELECT FROM audit_cdc_internal.continued_databases AS c WHERE c.new_id = here) THEN
    ids := ARRAY[here];
    positions_before := '{0}';
    RETURN;
  END IF;
  WITH RECURSIVE chain AS (
    SELECT here AS id, 0 AS depth, NULL::bigint AS last_lsn,
           NULL::timestamptz AS last_commit
    UNION ALL
    SELECT c.old_id, n.depth + 1, c.last_lsn, c.last_commit
    FROM chain AS n
    JOIN audit_cdc_internal.continued_databases AS c ON c.new_id = n.id
  ) CYCLE id SET is_cycle USING path, placed AS (
    SELECT c.id, max(c.depth) AS depth, max(c.last_lsn) AS last_lsn, max(c.last_commit) AS last_commit
    FROM chain AS c
    GROUP BY c.id
  ), summed AS (
    SELECT
      p.*, row_number() OVER place AS place,
      coalesce(sum(p.last_lsn) OVER (place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS before
    FROM placed AS p
    WINDOW place AS (ORDER BY p.depth DESC, p.last_commit, p.id)
  )
  SELECT array_agg(s.id ORDER BY s.place), array_agg(s.before ORDER BY s.place)
  INTO ids, positions_before
  FROM summed AS s;
END
$$;

-- What a database_id that somebody names stands for: this database's also for those from which it goes on, any
-- other for itself.
CREATE FUNCTION audit_cdc_internal.databases_of(
    database_id text,
    OUT ids text[], OUT positions_before bigint[], OUT is_own boolean)
  LANGUAGE plpgsql STABLE AS $$
DECLARE
  place integer;
BEGIN
  SELECT o.ids, o.positions_before INTO ids, positions_before FROM audit_cdc_internal.own_databases() AS o;
  place := array_position(ids, database_id);
  is_own := place IS NOT NULL;
  IF place IS DISTINCT FROM cardinality(ids) THEN
    ids := ARRAY[database_id];
    positions_before := ARRAY[coalesce(positions_before[place], 0)];
  END IF;
END
$$;

-- For rules of projections, which outlive a move: the ids of the log that a database_id is of.
CREATE FUNCTION audit_cdc_internal.one_log(database_id text) RETURNS text[]
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT CASE WHEN one_log.database_id = ANY (o.ids) THEN o.ids ELSE ARRAY[one_log.database_id] END
  FROM audit_cdc_internal.own_databases() AS o;
END;

-- Masks and rules of retention that name the other database are this one's too. Holds are by themselves.
CREATE FUNCTION audit_cdc_internal.keep_on(database_id text, here text) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.add_mask(jsonb_populate_record(m, jsonb_build_object(
    'database_id', here, 'reason', 'continued', 'relation_in', NULL, 'relation', NULL, 'column_number', NULL)))
  FROM audit_cdc_internal.masks AS m
  WHERE m.database_id = keep_on.database_id AND m.unmasked_at IS NULL;
  SELECT audit_cdc_internal.follow_masks(audit_cdc_internal.news_of_masks()::jsonb);
  UPDATE audit_cdc_internal.ingest_reads SET changed_at = now();
  INSERT INTO audit_cdc_internal.retention_rules (database_id, table_schema, table_name, keep)
  SELECT here, r.table_schema, r.table_name, r.keep
  FROM audit_cdc_internal.retention_rules AS r
  WHERE r.database_id = keep_on.database_id
  ON CONFLICT DO NOTHING;
END;

-- A database goes on from another once, and never in a circle.
CREATE FUNCTION audit_cdc_internal.check_continuation(database_id text, here text) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF database_id = ANY ((SELECT o.ids FROM audit_cdc_internal.own_databases() AS o)::text[]) THEN
    RAISE EXCEPTION '%', CASE WHEN database_id = here THEN 'a database cannot go on from itself'
                              ELSE 'this database goes on from that one already' END
      USING ERRCODE = 'duplicate_object', HINT = 'audit_continuations lists what goes on from what.';
  END IF;
  IF EXISTS (
    WITH RECURSIVE before AS (
      SELECT check_continuation.database_id AS id
      UNION
      SELECT c.old_id
      FROM before AS b
      JOIN audit_cdc_internal.continued_databases AS c ON c.new_id = b.id
    )
    SELECT FROM before AS b
    WHERE b.id = here
  ) THEN
    RAISE EXCEPTION 'that database goes on from this one' USING ERRCODE = 'invalid_parameter_value',
      HINT = 'audit_continuations lists what goes on from what.';
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_continue(database_id text, reason text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  reads_from pg_lsn;
  last record;
BEGIN
  IF database_id IS NULL OR reason IS NULL THEN
    RAISE EXCEPTION '% must not be null', CASE WHEN database_id IS NULL THEN 'database_id' ELSE 'reason' END
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  IF btrim(reason) = '' THEN
    RAISE EXCEPTION 'reason must not be empty' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM audit_cdc_internal.lock_capture();
  PERFORM audit_cdc_internal.check_continuation(database_id, here);
  SELECT max(l.commit_lsn) AS lsn, max(l.commit_timestamp) AS commit INTO last
  FROM audit_cdc_internal.log AS l
  WHERE l.origin <> 'i' AND l.audited_table IN (SELECT t.id FROM audit_cdc_internal.audited_tables AS t
                                                WHERE t.database_id = audit_continue.database_id);
  IF last.lsn IS NULL THEN
    RAISE EXCEPTION 'the log has nothing that database "%" captured', database_id
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = (
              SELECT coalesce('It has captured changes of ' || string_agg(c.database_id, ', ' ORDER BY c.since) || '.',
                              'It has captured changes of no other database.')
              FROM audit_cdc_internal.captured_databases AS c
              WHERE c.database_id <> here
            ),
            HINT = 'What was delivered by audit_ingest() cannot be gone on from.';
  END IF;
  INSERT INTO audit_cdc_internal.continued_databases (old_id, new_id, reason, continued_by, last_lsn, last_commit)
  VALUES (database_id, here, reason, session_user, last.lsn, last.commit);
  INSERT INTO audit_cdc_internal.captured_databases (database_id, database_name)
  SELECT audit_continue.database_id, coalesce(max(t.database_name), '') FROM audit_cdc_internal.audited_tables AS t
  WHERE t.database_id = audit_continue.database_id ON CONFLICT DO NOTHING;
  PERFORM audit_cdc_internal.keep_on(database_id, here);
  PERFORM audit_cdc_internal.note_gap(
    NULL, 'continued', '0/0'::pg_lsn + last.lsn, last.commit,
    format('goes on from database %s, whose last captured position this is', database_id));
  PERFORM audit_cdc_internal.note_operation(
    'audit_continue', jsonb_build_object('database_id', database_id), NULL, reason);
  SELECT s.confirmed_flush_lsn
  INTO reads_from
  FROM audit_cdc_internal.captures AS c
  JOIN pg_replication_slots AS s ON s.slot_name = c.slot AND s.database = current_database();
  IF FOUND THEN
    PERFORM audit_cdc_internal.end_gaps(NULL, ARRAY['continued'], reads_from);
  END IF;
  RAISE NOTICE 'what changed between the two captures is not in the log'
    USING DETAIL = format('The last captured commit of database %s is of %s.', database_id, last.commit),
          HINT = 'audit_gaps has it. audit_capture_start(), unless it is captured, and CALL audit_backfill() for each '
                 'table close it.';
END
$$;
COMMENT ON FUNCTION @extschema@.audit_continue(text, text) IS
  'Says that this database goes on from another, whose captured entries came into its log by a restore, an upgrade '
  'or a move. From then on both are one in history, as-of, undo, redo and replay: all entries of the older one come '
  'before those of this one. database_id: of the old one, as in audit_logs; if that one went on from others, they '
  'come along. Positions (lsn) are those of this database, unless the old one is named. What changed between the two '
  'captures is a gap (audit_gaps). It cannot be taken back; audit_continuations tells who called it, when and why. '
  'Errors: 22004 (null), 22023 (empty reason, nothing captured of that database, it goes on from this one), 42710 '
  '(already, or itself).';
