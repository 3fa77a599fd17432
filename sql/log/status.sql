-- How the log is filled, table by table.

CREATE FUNCTION @extschema@.audit_status(
    OUT database_id text, OUT database_name text, OUT table_schema text, OUT table_name text,
    OUT last_commit timestamptz, OUT last_arrival timestamptz, OUT rows bigint,
    OUT rejects bigint, OUT conflicts bigint, OUT described boolean)
  RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH stored AS (
    SELECT t.database_id, max(t.database_name) AS database_name, t.table_schema, t.table_name,
           max(y.last_commit) AS last_commit, max(y.last_arrival) AS last_arrival, sum(y.stored)::bigint AS rows
    FROM audit_cdc_internal.tallies AS y
    JOIN audit_cdc_internal.audited_tables AS t ON t.id = y.audited_table
    GROUP BY t.database_id, t.table_schema, t.table_name
  ), rejected AS (
    SELECT r.database_id, r.table_schema, r.table_name, count(*) FILTER (WHERE r.sqlstate <> '23505') AS rejects,
           count(*) FILTER (WHERE r.sqlstate = '23505') AS conflicts
    FROM audit_cdc_internal.rejects AS r
    WHERE r.stored_at IS NULL
    GROUP BY r.database_id, r.table_schema, r.table_name
  )
  SELECT
    coalesce(s.database_id, r.database_id), s.database_name, coalesce(s.table_schema, r.table_schema),
    coalesce(s.table_name, r.table_name), s.last_commit, s.last_arrival, coalesce(s.rows, 0),
    coalesce(r.rejects, 0), coalesce(r.conflicts, 0),
    EXISTS (
      SELECT FROM audit_cdc_internal.described_tables AS d
      WHERE d.database_id = coalesce(s.database_id, r.database_id)
        AND d.table_schema = coalesce(s.table_schema, r.table_schema)
        AND d.table_name = coalesce(s.table_name, r.table_name)
    )
  FROM stored AS s
  FULL JOIN rejected AS r USING (database_id, table_schema, table_name)
  ORDER BY 1, 3, 4;
END;
COMMENT ON FUNCTION @extschema@.audit_status() IS
  'One row for each source table: last commit in the source, last arrival here (both null where no entry is), how '
  'many entries the log has, open rejects, open conflicts, and whether the table was ever described. Names are null '
  'for rejects that could not be understood. Errors: none.';
