-- What people read of gaps: audit_gaps.

-- Gaps of tables that were dropped since: nothing of them is there that could be missing.
CREATE VIEW audit_cdc_internal.gap_drops AS
  SELECT g.id AS gap_id, g.relation, coalesce(d.commit_timestamp, d.recorded_at) AS dropped_at, d.commit_lsn
  FROM audit_cdc_internal.gaps AS g
  CROSS JOIN LATERAL (
    SELECT s.recorded_at, p.commit_timestamp, p.commit_lsn
    FROM audit_cdc_internal.schema_changes AS s LEFT JOIN audit_cdc_internal.schema_change_positions AS p ON p.id = s.id
    WHERE s.object = g.relation AND s.object_type = 'table' AND s.database_id = g.database_id
      AND s.after IS NULL AND s.recorded_at >= g.noticed_at
    ORDER BY s.id LIMIT 1) AS d;

-- What is not noted yet is there without a number.
CREATE VIEW @extschema@.audit_gaps AS
  SELECT g.id AS gap_id, g.table_schema, g.table_name, g.reason, g.detail, g.from_lsn, g.from_time, e.to_lsn, e.to_time,
         g.noticed_at, coalesce(c.closed_at, d.dropped_at) IS NULL OR o.tables IS NOT NULL AS is_open,
         o.tables AS open_tables, c.closed_by, coalesce(c.closed_at, d.dropped_at) AS closed_at
  FROM (SELECT id, database_id, relation, table_schema, table_name, reason, detail, from_lsn, from_time, noticed_at
        FROM audit_cdc_internal.gaps
        UNION ALL
        SELECT NULL, h.database_id, NULL, NULL, NULL, f.reason, f.detail, f.read_to, f.read_to_time, clock_timestamp()
        FROM audit_cdc_internal.here AS h CROSS JOIN audit_cdc_internal.capture_faults AS f
        WHERE NOT EXISTS (SELECT FROM audit_cdc_internal.open_breaks)) AS g
  LEFT JOIN audit_cdc_internal.gap_ends AS e ON e.gap_id = g.id
  LEFT JOIN audit_cdc_internal.gap_drops AS d ON d.gap_id = g.id
  -- what a database had from before it went on elsewhere is closed with the gap of that
  CROSS JOIN LATERAL (SELECT max(s.id) AS id FROM audit_cdc_internal.gaps AS s
                      WHERE s.reason = 'continued' AND s.id > g.id AND s.database_id <> g.database_id) AS move
  -- here; null: not known, so all
  CROSS JOIN LATERAL (
    SELECT CASE WHEN g.relation IS NULL OR move.id IS NULL THEN g.relation
                ELSE to_regclass(quote_ident(g.table_schema) || '.' || quote_ident(g.table_name)) END AS relation) AS h
  CROSS JOIN LATERAL (
    SELECT array_agg(DISTINCT x.backfill_id) AS closed_by, max(x.closed_at) AS closed_at
    FROM audit_cdc_internal.gap_closings AS x
    WHERE x.gap_id = g.id OR x.gap_id = move.id AND x.relation = coalesce(h.relation, x.relation)) AS c
  CROSS JOIN LATERAL (
    SELECT array_agg(format('%I.%I', p.table_schema, p.table_name) ORDER BY p.table_schema, p.table_name) AS tables
    FROM audit_cdc_internal.published_tables AS p
    WHERE p.relation = coalesce(h.relation, p.relation)
      AND NOT EXISTS (SELECT FROM audit_cdc_internal.gap_closings AS x
                      WHERE x.gap_id IN (g.id, move.id) AND x.relation = p.relation)) AS o;
COMMENT ON VIEW @extschema@.audit_gaps IS
'every change that the log of this database may not have: between which positions, of which table, and why';
COMMENT ON COLUMN @extschema@.audit_gaps.gap_id IS 'number of the gap; null: it is not noted yet';
COMMENT ON COLUMN @extschema@.audit_gaps.table_schema IS
'schema of the table when the gap was noticed; null: all captured tables';
COMMENT ON COLUMN @extschema@.audit_gaps.table_name IS
'name of the table when the gap was noticed; null: all captured tables';
COMMENT ON COLUMN @extschema@.audit_gaps.reason IS 'why changes are missing, in one or two words';
COMMENT ON COLUMN @extschema@.audit_gaps.detail IS 'what is known besides; may be null';
COMMENT ON COLUMN @extschema@.audit_gaps.from_lsn IS 'what committed before this position is in the log';
COMMENT ON COLUMN @extschema@.audit_gaps.from_time IS 'what committed before this time is in the log; null: not known';
COMMENT ON COLUMN @extschema@.audit_gaps.to_lsn IS
'what commits from this position on is captured again; null: the gap goes on, or capture has not read its end yet';
COMMENT ON COLUMN @extschema@.audit_gaps.to_time IS 'when that was noted; null: as to_lsn';
COMMENT ON COLUMN @extschema@.audit_gaps.noticed_at IS 'when the gap was noticed';
COMMENT ON COLUMN @extschema@.audit_gaps.is_open IS
'true until audit_backfill() has read, after its end, each of its tables that is captured now, or its table is dropped';
COMMENT ON COLUMN @extschema@.audit_gaps.open_tables IS
'captured tables that audit_backfill() has not read since; null: none';
COMMENT ON COLUMN @extschema@.audit_gaps.closed_by IS 'backfills that closed it, as in audit_backfills; null: none';
COMMENT ON COLUMN @extschema@.audit_gaps.closed_at IS
'when the last of them was complete, or the table was dropped; null: neither';
