-- Where gaps end: at the commit of the DDL that ended them, which capture finds.

-- Capture ends the gaps whose ending it has found. What others had written by then, it misses: it waits for them. Where
-- somebody took the commit from the slot, it is before what was just written.
CREATE FUNCTION audit_cdc_internal.settle_gaps() RETURNS void
  LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  INSERT INTO audit_cdc_internal.gap_ends (gap_id, to_lsn, to_time)
  SELECT u.id, greatest(x.to_lsn, u.from_lsn), clock_timestamp()
  FROM audit_cdc_internal.unsettled_gaps AS u
  LEFT JOIN LATERAL (
    SELECT o.* FROM audit_cdc_internal.schema_changes AS s
    JOIN audit_cdc_internal.schema_change_positions AS o ON o.id = s.id
    WHERE s.xid = u.xid AND s.database_id = u.database_id LIMIT 1) AS p ON true
  CROSS JOIN LATERAL (SELECT '0/0'::pg_lsn + p.commit_lsn + 1 AS lsn) AS committed
  CROSS JOIN LATERAL (SELECT CASE
    WHEN p.beside = '{}' THEN committed.lsn
    WHEN p.beside && audit_cdc_internal.writers_of(u.relation) THEN NULL
    -- when a backfill began, those who had written before had ended
    WHEN p.id IS NOT NULL THEN least(pg_current_wal_insert_lsn(), (
      SELECT min(b.began_lsn) FROM audit_cdc_internal.backfills AS b
      WHERE b.relation = u.relation AND b.began_lsn > committed.lsn))
    WHEN EXISTS (SELECT FROM audit_cdc_internal.gaps AS g JOIN audit_cdc_internal.gap_ends AS e ON e.gap_id = g.id
                 WHERE g.relation IS NULL AND g.database_id = audit_cdc_internal.this_database() ->> 'id'
                   AND e.to_lsn > u.at_lsn)
      THEN pg_current_wal_insert_lsn() END AS to_lsn) AS x
  WHERE x.to_lsn IS NOT NULL
  ON CONFLICT DO NOTHING;
END;
