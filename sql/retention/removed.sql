-- What retention has removed: remembered in counts, and never stored again.

-- Entries of a table that are older may be gone. It is set before any of them goes.
CREATE TABLE audit_cdc_internal.horizons (
  audited_table integer PRIMARY KEY,
  before timestamptz NOT NULL
);
CREATE TABLE audit_cdc_internal.removals (
  audited_table integer NOT NULL,
  month date NOT NULL,
  entries bigint NOT NULL,
  came_again bigint NOT NULL DEFAULT 0,
  oldest timestamptz,
  newest timestamptz,
  removed_at timestamptz,
  PRIMARY KEY (audited_table, month)
);
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.horizons', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.removals', '');

CREATE VIEW @extschema@.audit_removed AS
  SELECT t.database_id, t.table_schema, t.table_name, r.month, r.entries, r.oldest, r.newest, r.removed_at,
         r.came_again, h.before AS horizon
  FROM audit_cdc_internal.removals AS r
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = r.audited_table
  JOIN audit_cdc_internal.horizons AS h ON h.audited_table = r.audited_table;
COMMENT ON VIEW @extschema@.audit_removed IS 'what retention has removed, by table and month of the commits';
COMMENT ON COLUMN @extschema@.audit_removed.database_id IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_removed.table_schema IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_removed.table_name IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_removed.month IS 'its first day, in UTC';
COMMENT ON COLUMN @extschema@.audit_removed.entries IS 'how many were removed';
COMMENT ON COLUMN @extschema@.audit_removed.oldest IS 'the first commit of those; null: none was removed';
COMMENT ON COLUMN @extschema@.audit_removed.newest IS 'the last commit of those; null: none was removed';
COMMENT ON COLUMN @extschema@.audit_removed.removed_at IS 'when it was done last; null: none was removed';
COMMENT ON COLUMN @extschema@.audit_removed.came_again IS
  'messages of that month that were delivered after it had passed the horizon: counted as duplicates, not stored';
COMMENT ON COLUMN @extschema@.audit_removed.horizon IS
  'entries of the table that are older are gone, but for those that were held';

-- Counts rows of a partition that go, all of them for null, and removes what names them. Who calls removes the rows.
CREATE FUNCTION audit_cdc_internal.count_removed(partition regclass, rows tid[], month date) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  total bigint;
BEGIN
  EXECUTE format(
    'WITH gone AS (
       SELECT l.audited_table, count(*) AS entries, min(l.commit_timestamp) AS oldest, max(l.commit_timestamp) AS newest
       FROM ONLY %s AS l
       WHERE $1 IS NULL OR l.ctid = ANY ($1)
       GROUP BY l.audited_table
     ), counted AS (
       INSERT INTO audit_cdc_internal.removals AS r
       SELECT g.audited_table, $2, g.entries, 0, g.oldest, g.newest, now() FROM gone AS g
       ON CONFLICT (audited_table, month) DO UPDATE
       SET entries = r.entries + excluded.entries, oldest = least(r.oldest, excluded.oldest),
           newest = greatest(r.newest, excluded.newest), removed_at = excluded.removed_at
     ), tallied AS (
       INSERT INTO audit_cdc_internal.tallies (audited_table, stored, last_commit, last_arrival, last_id)
       SELECT g.audited_table, -g.entries, ''-infinity'', ''-infinity'', 0 FROM gone AS g
     ), failed AS (
       DELETE FROM audit_cdc_internal.unprojected AS u
       USING %1$s AS l
       WHERE u.log_id = l.id AND ($1 IS NULL OR l.ctid = ANY ($1))
     )
     SELECT coalesce(sum(g.entries), 0) FROM gone AS g', partition)
  INTO total USING rows, month;
  RETURN total;
END
$$;
