-- The common questions, for psql.

CREATE VIEW @extschema@.audit_last_changes AS
  SELECT
    l.commit_timestamp AS at, l.username AS who, l.source, l.action, l.table_schema, l.table_name,
    l.record_key AS record,
    CASE l.action
      WHEN 'update'
        THEN @extschema@.audit_diff_text(
          l.old_values,
          (
            SELECT jsonb_object_agg(n.key, n.value)
            FROM jsonb_each(l.new_values) AS n
            WHERE l.old_values ? n.key
          ))
    END AS change,
    l.metadata ->> 'reason' AS why, l.request_id, l.id
  FROM @extschema@.audit_logs AS l
  WHERE l.action NOT IN ('read', 'complete')
  ORDER BY l.commit_timestamp DESC, l.commit_lsn DESC, l.commit_idx DESC;
COMMENT ON VIEW @extschema@.audit_last_changes IS 'every change, the last one first, as people read it: take a LIMIT';

CREATE VIEW @extschema@.audit_deletions AS
  SELECT l.commit_timestamp AS at, l.username AS who, l.source, l.action, l.table_schema, l.table_name,
         l.record_key AS record, l.old_values - coalesce(l.unknown_columns, '{}') AS row,
         l.metadata ->> 'reason' AS why, l.request_id, l.id
  FROM @extschema@.audit_logs AS l
  WHERE l.action IN ('delete', 'truncate')
  ORDER BY l.commit_timestamp DESC, l.commit_lsn DESC, l.commit_idx DESC;
COMMENT ON VIEW @extschema@.audit_deletions IS
  'what was deleted or truncated, the last first, with what is known of the row';

CREATE VIEW @extschema@.audit_changes_by_user AS
  SELECT l.username AS who, l.table_schema, l.table_name, count(*) FILTER (WHERE l.action = 'insert') AS inserts,
         count(*) FILTER (WHERE l.action = 'update') AS updates,
         count(*) FILTER (WHERE l.action = 'delete') AS deletes,
         count(DISTINCT (l.database_id, l.commit_lsn)) AS transactions, min(l.commit_timestamp) AS first,
         max(l.commit_timestamp) AS last
  FROM @extschema@.audit_logs AS l
  WHERE l.action NOT IN ('read', 'complete')
  GROUP BY l.username, l.table_schema, l.table_name
  ORDER BY l.username, l.table_schema, l.table_name;
COMMENT ON VIEW @extschema@.audit_changes_by_user IS
  'how much each user changed in each table; who is null for changes that nobody signed';

CREATE VIEW @extschema@.audit_changes_by_table AS
  SELECT l.database_name AS database, l.table_schema, l.table_name,
         count(*) FILTER (WHERE l.action = 'insert') AS inserts,
         count(*) FILTER (WHERE l.action = 'update') AS updates,
         count(*) FILTER (WHERE l.action = 'delete') AS deletes,
         count(*) FILTER (WHERE l.action = 'truncate') AS truncates,
         count(*) FILTER (WHERE l.action = 'read') AS reads, count(DISTINCT l.record_key) AS records,
         count(DISTINCT l.username) AS users, max(l.commit_timestamp) AS last
  FROM @extschema@.audit_logs AS l
  GROUP BY l.database_name, l.table_schema, l.table_name
  ORDER BY l.database_name, l.table_schema, l.table_name;
COMMENT ON VIEW @extschema@.audit_changes_by_table IS 'how much was changed in each table';
