-- What the log does not have, and why. A gap is written once; where it ends, and which backfill closed it, are rows of
-- their own.
--
-- * A gap of one table has its relation; a gap of all captured tables has none.
-- * A break is a gap of all tables, between what was read of the slot and where it stands now. While a capture cannot
--   go on, its break is open; one at a time.
-- * It has ended when changes are captured again. It is closed when a backfill that began after its end is complete:
--   what the rows are now is in the log again. What happened to them within the gap stays unknown.

CREATE SEQUENCE audit_cdc_internal.gaps_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.gaps (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('gaps'),
  database_id text NOT NULL, -- of which the relations are; a restored copy has another
  relation oid,
  table_schema text,
  table_name text,
  reason text NOT NULL,
  from_lsn pg_lsn NOT NULL,
  from_time timestamptz,
  noticed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(), -- who noted it
  detail text,
  part oid, -- the partition whose changes are missing of the relation; null: its own are
  CHECK (num_nonnulls(relation, table_schema, table_name) IN (0, 3))
);
CREATE TABLE audit_cdc_internal.gap_ends (
  gap_id bigint PRIMARY KEY, -- no foreign key: a parallel restore loads tables in any order
  to_lsn pg_lsn NOT NULL,
  to_time timestamptz NOT NULL
);
-- DDL that ends gaps. What commits before its commit is still missing, and capture finds that: see settle_gaps().
CREATE SEQUENCE audit_cdc_internal.gap_ending_ddl_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.gap_ending_ddl (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('gap_ending_ddl'),
  database_id text NOT NULL,
  relation oid NOT NULL,
  part oid,
  reasons text[], -- null: all, of whatever part
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(), -- its transaction has entries in schema_changes
  at_lsn pg_lsn NOT NULL
);
CREATE INDEX gap_ending_ddl_by_relation ON audit_cdc_internal.gap_ending_ddl (relation, id);
CREATE TABLE audit_cdc_internal.gap_closings (
  gap_id bigint NOT NULL,
  relation oid NOT NULL,
  backfill_id uuid NOT NULL,
  complete_lsn pg_lsn NOT NULL,
  closed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (gap_id, relation)
);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.gaps
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.gaps ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.gap_ends
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.gap_ends ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.gap_ending_ddl
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.gap_ending_ddl ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.gap_closings
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.gap_closings ENABLE ALWAYS TRIGGER append_only;

-- This database as a source, as this_database() has it, for views that anybody reads.
CREATE VIEW audit_cdc_internal.here AS
  SELECT format('%s.%s', s.system_identifier, d.oid) AS database_id
  FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database();

CREATE FUNCTION audit_cdc_internal.add_gap(
    relation oid, reason text, from_lsn pg_lsn, from_time timestamptz, detail text, part oid) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  INSERT INTO audit_cdc_internal.gaps
    (database_id, relation, table_schema, table_name, reason, from_lsn, from_time, detail, part)
  SELECT audit_cdc_internal.this_database() ->> 'id', CASE WHEN i.names IS NOT NULL THEN add_gap.relation END,
         i.names[1], i.names[2], add_gap.reason, add_gap.from_lsn, add_gap.from_time, add_gap.detail, add_gap.part
  -- not of pg_class: an older snapshot may not see the table there
  FROM (SELECT parse_ident((pg_identify_object('pg_class'::regclass, add_gap.relation, 0)).identity) AS names) AS i;
END;

-- Of every gap the one that has not ended stays: the same reason is not noted twice.
CREATE FUNCTION audit_cdc_internal.note_gap(
    relation oid, reason text, from_lsn pg_lsn, from_time timestamptz DEFAULT NULL, detail text DEFAULT NULL)
  RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.add_gap(
    note_gap.relation, note_gap.reason, note_gap.from_lsn, note_gap.from_time, note_gap.detail, NULL)
  WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.gaps AS g
                    WHERE g.relation IS NOT DISTINCT FROM note_gap.relation AND g.reason = note_gap.reason
                      AND g.part IS NULL AND g.database_id = audit_cdc_internal.this_database() ->> 'id'
                      AND NOT EXISTS (SELECT FROM audit_cdc_internal.gap_ends AS e WHERE e.gap_id = g.id));
END;

-- From a position on, the changes of a table are captured again; relation null: of all tables.
CREATE FUNCTION audit_cdc_internal.end_gaps(relation oid, reasons text[], to_lsn pg_lsn) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  INSERT INTO audit_cdc_internal.gap_ends (gap_id, to_lsn, to_time)
  SELECT g.id, CASE g.reason WHEN 'continued' THEN end_gaps.to_lsn -- its from_lsn is of another server
                             ELSE greatest(end_gaps.to_lsn, g.from_lsn) END, clock_timestamp()
  FROM audit_cdc_internal.gaps AS g
  WHERE g.relation IS NOT DISTINCT FROM end_gaps.relation AND g.reason = ANY (end_gaps.reasons)
    AND g.database_id = audit_cdc_internal.this_database() ->> 'id'
  ON CONFLICT DO NOTHING;
END;

-- Gaps that DDL has ended and that have no end yet, each with the first ending that came after it.
CREATE VIEW audit_cdc_internal.unsettled_gaps AS
  SELECT g.id, g.relation, g.from_lsn, n.at_lsn, n.xid, n.database_id
  FROM audit_cdc_internal.gaps AS g
  CROSS JOIN LATERAL (
    SELECT o.* FROM audit_cdc_internal.gap_ending_ddl AS o
    WHERE o.relation = g.relation AND o.database_id = g.database_id AND o.at_lsn >= g.from_lsn
      AND (o.reasons IS NULL OR g.reason = ANY (o.reasons) AND o.part IS NOT DISTINCT FROM g.part)
    ORDER BY o.id LIMIT 1) AS n
  WHERE g.relation IS NOT NULL AND g.database_id = (SELECT h.database_id FROM audit_cdc_internal.here AS h)
    AND NOT EXISTS (SELECT FROM audit_cdc_internal.gap_ends AS e WHERE e.gap_id = g.id);

-- Which rows of a root went with a partition that was truncated, nobody tells. It may be found again.
CREATE FUNCTION audit_cdc_internal.note_truncated_partition(
    root oid, partition text, commit_lsn bigint, commit_time timestamptz) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  WITH noted AS (
    INSERT INTO audit_cdc_internal.gaps
      (database_id, relation, table_schema, table_name, reason, from_lsn, from_time, detail)
    SELECT h.id, root, n.nspname, c.relname, 'partition truncated', p.lsn, commit_time, partition
    FROM (SELECT audit_cdc_internal.this_database() ->> 'id' AS id) AS h
    CROSS JOIN (SELECT '0/0'::pg_lsn + commit_lsn AS lsn) AS p
    -- of one that was dropped since, its records have ended
    JOIN pg_class AS c ON c.oid = root JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.gaps AS g
                      WHERE g.relation = root AND g.reason = 'partition truncated' AND g.detail = partition
                        AND g.from_lsn = p.lsn AND g.database_id = h.id)
    RETURNING id, from_lsn
  )
  INSERT INTO audit_cdc_internal.gap_ends (gap_id, to_lsn, to_time)
  SELECT n.id, n.from_lsn + 1, clock_timestamp() FROM noted AS n;
END;

-- A backfill that began at a position, and is complete at another, closes what had ended before it began.
CREATE FUNCTION audit_cdc_internal.close_gaps(
    relation oid, backfill_id uuid, began_lsn pg_lsn, complete_lsn pg_lsn) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  INSERT INTO audit_cdc_internal.gap_closings (gap_id, relation, backfill_id, complete_lsn)
  SELECT g.id, close_gaps.relation, close_gaps.backfill_id, close_gaps.complete_lsn
  FROM audit_cdc_internal.gaps AS g JOIN audit_cdc_internal.gap_ends AS e ON e.gap_id = g.id
  WHERE coalesce(g.relation, close_gaps.relation) = close_gaps.relation AND e.to_lsn <= close_gaps.began_lsn
    AND g.database_id = audit_cdc_internal.this_database() ->> 'id'
  ON CONFLICT DO NOTHING;
END;

-- Why the capture cannot go on; no row: it can, or there is none. A standby captures nothing, and a slot is not missing
-- there.
CREATE VIEW audit_cdc_internal.capture_faults AS
  SELECT c.slot, f.reason, f.detail,
         CASE f.reason
           WHEN 'copied database' THEN 'this database is a copy, and its capture is the original''s'
           WHEN 'another system' THEN 'this server is another than the one whose capture this is'
           WHEN 'slot replaced'
             THEN format('replication slot "%s" is not the one that was made for the capture', c.slot)
           WHEN 'slot lost' THEN format('replication slot "%s" cannot be read any more', c.slot)
           ELSE format('replication slot "%s" does not exist', c.slot)
         END AS message,
         -- positions of another server mean nothing here
         CASE WHEN f.reason = 'another system' THEN '0/0' ELSE c.read_to END AS read_to, c.read_to_time
  FROM audit_cdc_internal.captures AS c
  CROSS JOIN audit_cdc_internal.here AS h
  LEFT JOIN pg_replication_slots AS s ON s.slot_name = c.slot
  CROSS JOIN LATERAL (SELECT to_jsonb(s) ->> 'invalidation_reason' AS invalidated) AS i -- from 17 on
  CROSS JOIN LATERAL (VALUES
    (1, split_part(c.database_id, '.', 1) <> split_part(h.database_id, '.', 1), 'another system',
        format('It was %s.', c.database_id)),
    (2, c.database_id <> h.database_id, 'copied database', format('It was %s.', c.database_id)),
    (3, s.slot_name IS NULL, CASE WHEN c.is_stopping THEN 'stopped' ELSE 'slot missing' END,
        format('It was "%s".', c.slot)),
    (4, (s.database, s.plugin) IS DISTINCT FROM (current_database(), c.plugin), 'slot replaced',
        format('It is of database "%s" and plugin "%s".', s.database, s.plugin)),
    (5, s.wal_status = 'lost' OR i.invalidated IS NOT NULL, 'slot lost',
        coalesce(i.invalidated, 'Its WAL was removed.'))
  ) AS f(place, is_so, reason, detail)
  WHERE f.is_so AND NOT pg_is_in_recovery()
  ORDER BY f.place LIMIT 1;

CREATE VIEW audit_cdc_internal.open_breaks AS
  SELECT g.id, g.reason FROM audit_cdc_internal.gaps AS g
  WHERE g.relation IS NULL AND g.database_id = (SELECT h.database_id FROM audit_cdc_internal.here AS h)
    AND g.reason IN ('slot advanced', 'slot missing', 'slot replaced', 'slot lost', 'copied database', 'another system',
                     'stopped', 'discarded', 'restored')
    AND NOT EXISTS (SELECT FROM audit_cdc_internal.gap_ends AS e WHERE e.gap_id = g.id);

-- A worker that found nothing to capture knows more than what is stored.
CREATE FUNCTION audit_cdc_internal.note_break(reason text, from_lsn pg_lsn, from_time timestamptz, detail text)
  RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.note_gap(NULL, note_break.reason, b.from_lsn, b.from_time,
           nullif(concat_ws(' ', note_break.detail, (
             SELECT format('The server is on timeline %s, and was on %s: it was promoted or restored.',
                           t.now, c.timeline)
             FROM audit_cdc_internal.captures AS c CROSS JOIN audit_cdc_internal.current_timeline() AS t(now)
             WHERE t.now <> c.timeline)), ''))
  FROM (SELECT greatest(note_break.from_lsn, look.looked_to) AS from_lsn,
               greatest(note_break.from_time, look.looked_at) AS from_time
        FROM (SELECT) AS one
        LEFT JOIN audit_cdc_internal.last_look() AS look ON note_break.reason <> 'another system') AS b
  WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.open_breaks);
END;

-- Of a database that was captured and is not, a break tells since when. Where none does, the log was restored from a
-- dump that was made while it was captured, and ends there.
CREATE FUNCTION audit_cdc_internal.note_restored() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
BEGIN
  IF EXISTS (SELECT FROM audit_cdc_internal.captured_databases AS c WHERE c.database_id = here)
     AND NOT EXISTS (SELECT FROM audit_cdc_internal.open_breaks) THEN
    PERFORM audit_cdc_internal.note_gap(
      NULL, 'restored', '0/0'::pg_lsn + coalesce(max(l.commit_lsn), 0), max(l.commit_timestamp))
    FROM audit_cdc_internal.log AS l
    WHERE l.origin <> 'i' AND l.audited_table IN (SELECT t.id FROM audit_cdc_internal.audited_tables AS t
                                                  WHERE t.database_id = here);
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.end_breaks(to_lsn pg_lsn) RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.end_gaps(
    NULL, ARRAY(SELECT b.reason FROM audit_cdc_internal.open_breaks AS b), end_breaks.to_lsn);
END;

-- The slot was read from a position on, and others had taken what was before.
CREATE FUNCTION audit_cdc_internal.note_skipped(from_lsn bigint, to_lsn bigint, from_time timestamptz) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.note_break(
    'slot advanced', '0/0'::pg_lsn + note_skipped.from_lsn, note_skipped.from_time, NULL);
  SELECT audit_cdc_internal.end_breaks('0/0'::pg_lsn + note_skipped.to_lsn);
END;

-- Who calls it has the lock of the capture, and commits before anything fails.
CREATE FUNCTION audit_cdc_internal.note_fault() RETURNS void
  LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT audit_cdc_internal.note_break(f.reason, f.read_to, f.read_to_time, f.detail)
  FROM audit_cdc_internal.capture_faults AS f;
END;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.gaps', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.gaps_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.gap_ends', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.gap_ending_ddl', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.gap_ending_ddl_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.gap_closings', '');
