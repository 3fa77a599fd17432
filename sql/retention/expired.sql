-- What retention would remove now, and what keeps the rest.

-- By month and table: expired entries that may go, that are held, and that wait until they are archived.
CREATE VIEW audit_cdc_internal.expired AS
  SELECT e.month, e.audited_table, count(*) FILTER (WHERE NOT e.is_held AND e.is_archived) AS entries,
         count(*) FILTER (WHERE e.is_held) AS held,
         coalesce(sum(e.bytes) FILTER (WHERE NOT e.is_held AND e.is_archived), 0)::bigint AS bytes,
         min(e.commit_timestamp) AS oldest, max(e.commit_timestamp) AS newest,
         count(*) FILTER (WHERE NOT e.is_held AND NOT e.is_archived) AS unarchived
  FROM (
    SELECT l.audited_table, l.commit_timestamp, m.month,
           l.audited_table = ANY (w.tables) AND audit_cdc_internal.is_held(l) AS is_held,
           coalesce(m.month = ANY (a.months), true) AS is_archived,
           150 + coalesce(pg_column_size(l.old_values), 0) + coalesce(pg_column_size(l.new_values), 0)
             + coalesce(pg_column_size(l.annotations), 0) AS bytes
    FROM audit_cdc_internal.log AS l
    JOIN audit_cdc_internal.cutoffs AS c ON c.audited_table = l.audited_table
    CROSS JOIN LATERAL (SELECT date_trunc('month', l.commit_timestamp AT TIME ZONE 'UTC')::date AS month) AS m
    CROSS JOIN audit_cdc_internal.with_holds AS w
    CROSS JOIN audit_cdc_internal.archived_months AS a
    WHERE l.commit_timestamp < c.cutoff
      AND l.commit_timestamp < (SELECT max(m.cutoff) FROM audit_cdc_internal.cutoffs AS m)
    OFFSET 0 -- each entry is looked at once
  ) AS e
  GROUP BY e.month, e.audited_table;

CREATE FUNCTION @extschema@.audit_expired(
    OUT month date, OUT database_id text, OUT table_schema text, OUT table_name text, OUT entries bigint,
    OUT held bigint, OUT bytes bigint, OUT oldest timestamptz, OUT newest timestamptz, OUT holds text[],
    OUT unarchived bigint)
  RETURNS SETOF record
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT e.month, t.database_id, t.table_schema, t.table_name, e.entries, e.held, e.bytes, e.oldest, e.newest,
         (SELECT array_agg(DISTINCT h.name) FROM audit_cdc_internal.held_tables AS h WHERE h.audited_table = t.id),
         e.unarchived
  FROM audit_cdc_internal.expired AS e
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = e.audited_table
  ORDER BY 1, 2, 3, 4;
END;
COMMENT ON FUNCTION @extschema@.audit_expired() IS
  'What audit_apply_retention() would remove now, by month and table. entries: how many would go. held: how many are '
  'expired, but stay under a hold. bytes: about what the entries take, without indexes. oldest, newest: of all that '
  'are expired. holds: names of holds on the table; null: none. unarchived: how many others stay until their month is '
  'archived, by audit_cdc.archive_first. It reads the expired months whole. Errors: none.';
