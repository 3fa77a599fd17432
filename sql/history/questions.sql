-- The common questions, for psql.

CREATE VIEW @extschema@.audit_last_changes AS
  SELECT
    l.commit_timestamp AS at, l.username AS who, l.source, l.action, l.table_schema, l.table_name,
    l.record_key AS record,
    CASE l.action
      WHEN 'update'
        THEN @extschema@.audit_diff_text(
          @extschema@.audit_diff(
            l.old_values,
            (
              SELECT jsonb_object_agg(n.key, n.value)
              FROM jsonb_each(l.new_values) AS n
              WHERE l.old_values ? n.key
            ),
            l.exact_values -> 'old', l.exact_values -> 'new'))
    END AS change,
    l.metadata ->> 'reason' AS why, l.request_id, l.id, l.server_context ->> 'session_user' AS role,
    l.server_context ->> 'application_name' AS program
  FROM @extschema@.audit_logs AS l
  WHERE l.action NOT IN ('read', 'complete')
  ORDER BY l.commit_timestamp DESC, l.commit_lsn DESC, l.commit_idx DESC;
COMMENT ON VIEW @extschema@.audit_last_changes IS 'every change, the last one first, as people read it: take a LIMIT';
COMMENT ON COLUMN @extschema@.audit_last_changes.at IS 'commit time in the source';
COMMENT ON COLUMN @extschema@.audit_last_changes.who IS 'username of the annotations; null: nobody signed the change';
COMMENT ON COLUMN @extschema@.audit_last_changes.source IS
  'source of the annotations: from where it was made; null: not said';
COMMENT ON COLUMN @extschema@.audit_last_changes.action IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_last_changes.table_schema IS 'schema of the table in the source';
COMMENT ON COLUMN @extschema@.audit_last_changes.table_name IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_last_changes.record IS
  'record_key of audit_logs; null for a table without a key, and for a truncate';
COMMENT ON COLUMN @extschema@.audit_last_changes.change IS
  'update: what changed, as audit_diff_text() says it, of columns whose old value is known; null for other actions';
COMMENT ON COLUMN @extschema@.audit_last_changes.why IS 'reason in the metadata of the annotations; null: not said';
COMMENT ON COLUMN @extschema@.audit_last_changes.request_id IS 'as in audit_logs; null: not said';
COMMENT ON COLUMN @extschema@.audit_last_changes.id IS 'number of the entry in audit_logs, for audit_undo()';
COMMENT ON COLUMN @extschema@.audit_last_changes.role IS
  'session_user of server_context: who logged in, by the server''s word; null: not told';
COMMENT ON COLUMN @extschema@.audit_last_changes.program IS
  'application_name of server_context: as the client named itself; null: not told';

CREATE VIEW @extschema@.audit_deletions AS
  SELECT l.commit_timestamp AS at, l.username AS who, l.source, l.action, l.table_schema, l.table_name,
         l.record_key AS record, l.old_values - coalesce(l.unknown_columns, '{}') AS row,
         l.metadata ->> 'reason' AS why, l.request_id, l.id, l.server_context ->> 'session_user' AS role,
         l.server_context ->> 'application_name' AS program
  FROM @extschema@.audit_logs AS l
  WHERE l.action IN ('delete', 'truncate')
  ORDER BY l.commit_timestamp DESC, l.commit_lsn DESC, l.commit_idx DESC;
COMMENT ON VIEW @extschema@.audit_deletions IS
  'what was deleted or truncated, the last first, with what is known of the row';
COMMENT ON COLUMN @extschema@.audit_deletions.at IS 'commit time in the source';
COMMENT ON COLUMN @extschema@.audit_deletions.who IS 'username of the annotations; null: nobody signed the change';
COMMENT ON COLUMN @extschema@.audit_deletions.source IS
  'source of the annotations: from where it was made; null: not said';
COMMENT ON COLUMN @extschema@.audit_deletions.action IS 'delete or truncate';
COMMENT ON COLUMN @extschema@.audit_deletions.table_schema IS 'schema of the table in the source';
COMMENT ON COLUMN @extschema@.audit_deletions.table_name IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_deletions.record IS
  'record_key of audit_logs; null for a table without a key, and for a truncate';
COMMENT ON COLUMN @extschema@.audit_deletions.row IS 'the row as far as the log knows it; null for a truncate';
COMMENT ON COLUMN @extschema@.audit_deletions.why IS 'reason in the metadata of the annotations; null: not said';
COMMENT ON COLUMN @extschema@.audit_deletions.request_id IS 'as in audit_logs; null: not said';
COMMENT ON COLUMN @extschema@.audit_deletions.id IS 'number of the entry in audit_logs, for audit_undo()';
COMMENT ON COLUMN @extschema@.audit_deletions.role IS 'as in audit_last_changes';
COMMENT ON COLUMN @extschema@.audit_deletions.program IS 'as in audit_last_changes';

CREATE FUNCTION @extschema@.audit_changes_by_user(
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    OUT who text, OUT table_schema text, OUT table_name text, OUT inserts bigint, OUT updates bigint,
    OUT deletes bigint, OUT transactions bigint, OUT first timestamptz, OUT last timestamptz)
  RETURNS SETOF record LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT t.username, t.table_schema, t.table_name, sum(t.inserts)::bigint, sum(t.updates)::bigint,
         sum(t.deletes)::bigint, count(*), min(t.first), max(t.last)
  FROM (
    SELECT l.username, l.table_schema, l.table_name, count(*) FILTER (WHERE l.action = 'insert') AS inserts,
           count(*) FILTER (WHERE l.action = 'update') AS updates,
           count(*) FILTER (WHERE l.action = 'delete') AS deletes, min(l.commit_timestamp) AS first,
           max(l.commit_timestamp) AS last
    FROM @extschema@.audit_logs AS l
    WHERE l.action NOT IN ('read', 'complete')
      AND (since IS NULL OR l.commit_timestamp >= since)
      AND (until IS NULL OR l.commit_timestamp < until)
    GROUP BY l.username, l.table_schema, l.table_name, l.database_id, l.commit_lsn
  ) AS t
  GROUP BY t.username, t.table_schema, t.table_name
  ORDER BY t.username, t.table_schema, t.table_name;
END;
COMMENT ON FUNCTION @extschema@.audit_changes_by_user(timestamptz, timestamptz) IS
  'The view of this name, of what was committed from since up to, not including, until: it reads no more. What nobody '
  'signed is one line a table. Null: without that bound. Errors: none.';

CREATE VIEW @extschema@.audit_changes_by_user AS
  SELECT t.username AS who, t.table_schema, t.table_name, sum(t.inserts)::bigint AS inserts,
         sum(t.updates)::bigint AS updates, sum(t.deletes)::bigint AS deletes, count(*) AS transactions,
         min(t.first) AS first, max(t.last) AS last, t.role
  FROM (
    SELECT u.username, a.table_schema, a.table_name, count(*) FILTER (WHERE l.action = 'insert') AS inserts,
           count(*) FILTER (WHERE l.action = 'update') AS updates,
           count(*) FILTER (WHERE l.action = 'delete') AS deletes, min(l.commit_timestamp) AS first,
           max(l.commit_timestamp) AS last, CASE WHEN u.username IS NULL THEN s.context ->> 'session_user' END AS role
    FROM audit_cdc_internal.log AS l
    CROSS JOIN LATERAL audit_cdc_internal.lifted(l.annotations, 'username') AS u(username)
    JOIN audit_cdc_internal.audited_tables AS a ON a.id = l.audited_table
    LEFT JOIN audit_cdc_internal.server_contexts AS s ON s.id = l.server_context
    WHERE l.action NOT IN ('read', 'complete')
    GROUP BY u.username, a.table_schema, a.table_name, a.database_id, l.commit_lsn, role
  ) AS t
  GROUP BY t.username, t.table_schema, t.table_name, t.role
  ORDER BY t.username, t.table_schema, t.table_name, t.role;
COMMENT ON VIEW @extschema@.audit_changes_by_user IS
  'how much each user changed in each table, and each role without saying for whom: then who is null';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.who IS
  'username of the annotations; null: nobody signed the change';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.table_schema IS 'schema of the table in the source';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.table_name IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.inserts IS 'how many rows were inserted';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.updates IS 'how many were updated';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.deletes IS 'how many were deleted';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.transactions IS 'in how many transactions';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.first IS 'commit time of the first change';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.last IS 'commit time of the last one';
COMMENT ON COLUMN @extschema@.audit_changes_by_user.role IS
  'of changes that nobody signed, session_user of server_context; null: somebody signed, or not told';

CREATE FUNCTION @extschema@.audit_changes_by_table(
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    OUT database text, OUT table_schema text, OUT table_name text, OUT inserts bigint, OUT updates bigint,
    OUT deletes bigint, OUT truncates bigint, OUT reads bigint, OUT records bigint, OUT users bigint,
    OUT last timestamptz)
  RETURNS SETOF record LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.database_name, l.table_schema, l.table_name, count(*) FILTER (WHERE l.action = 'insert'),
         count(*) FILTER (WHERE l.action = 'update'), count(*) FILTER (WHERE l.action = 'delete'),
         count(*) FILTER (WHERE l.action = 'truncate'), count(*) FILTER (WHERE l.action = 'read'),
         count(DISTINCT l.record_key), count(DISTINCT l.username), max(l.commit_timestamp)
  FROM @extschema@.audit_logs AS l
  WHERE (since IS NULL OR l.commit_timestamp >= since) AND (until IS NULL OR l.commit_timestamp < until)
  GROUP BY l.database_name, l.table_schema, l.table_name
  ORDER BY l.database_name, l.table_schema, l.table_name;
END;
COMMENT ON FUNCTION @extschema@.audit_changes_by_table(timestamptz, timestamptz) IS
  'The view of this name, of what was committed from since up to, not including, until: it reads no more. Null: '
  'without that bound. Errors: none.';

CREATE VIEW @extschema@.audit_changes_by_table AS
  SELECT c.* FROM @extschema@.audit_changes_by_table() AS c;
COMMENT ON VIEW @extschema@.audit_changes_by_table IS 'how much was changed in each table';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.database IS
  'database_name of audit_logs; null if it was not sent';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.table_schema IS 'schema of the table in the source';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.table_name IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.inserts IS 'how many rows were inserted';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.updates IS 'how many were updated';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.deletes IS 'how many were deleted';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.truncates IS 'how often it was truncated';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.reads IS 'how many rows backfills have read';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.records IS
  'of how many records, by key, the log has entries; 0 for a table without a key';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.users IS 'how many users signed changes';
COMMENT ON COLUMN @extschema@.audit_changes_by_table.last IS 'commit time of the last entry';
