-- What the log tells of the day in the shop, for scripts/demo.
-- What the log tells of the day in the shop, for scripts/demo.
\pset footer off
\pset linestyle unicode
CREATE TEMP VIEW changes AS
  SELECT l.*, to_char(commit_timestamp, 'HH24:MI:SS.MS') AS "when",
         coalesce(username || ', ' || source, 'role ' || (server_context ->> 'session_user')) AS "who, from",
         concat_ws(' ', action, table_name, array_to_string(record_pks, '/')) AS change, d.difference AS "old → new",
         coalesce(metadata ->> 'reason', '?') AS why
  FROM audit_logs AS l CROSS JOIN LATERAL (
    SELECT string_agg(
      CASE action
        WHEN 'update'
          THEN format('%s: ', key) || concat_ws(' → ', old_values ->> key, coalesce(new_values ->> key, 'null'))
        ELSE format('%s: %s', key, coalesce(new_values, old_values) ->> key)
      END, ', ' ORDER BY key)
    FROM jsonb_object_keys(coalesce(old_values, new_values)) AS key
    WHERE action = 'update' OR key IN ('status', 'total', 'sku', 'quantity', 'items')) AS d (difference);

\echo
\echo :bold'Who changed what, when, from where and why: audit_logs, one line a change':plain
SELECT CASE WHEN first THEN "when" END AS "when", CASE WHEN first THEN "who, from" END AS "who, from",
       change, "old → new", CASE WHEN first THEN why END AS why
FROM (
  SELECT *, commit_idx = min(commit_idx) OVER (PARTITION BY commit_lsn) AS first
  FROM changes
  WHERE source IS DISTINCT FROM 'import') AS c
ORDER BY commit_lsn, commit_idx;

\echo :bold'The life of order 1001, row by row; the discount that was rolled back is not in it':plain
SELECT "when", "who, from", o.status, o.total, o.ship_to, o.tracking, why
FROM changes, audit_row(NULL::orders, new_values) AS o
WHERE table_name = 'orders' AND record_id = '1001' ORDER BY commit_lsn, commit_idx;

\echo :bold'An activity feed: a table of the shop''s own, filled by a rule as changes are captured':plain
SELECT c.name AS customer, f.description, f.reason
FROM activity_feed AS f
JOIN customers AS c ON c.id = f.customer_id
ORDER BY f.id;

\echo :bold'What the hand grinder cost: products_history, every change as a typed row':plain
SELECT to_char(audit_commit_timestamp, 'HH24:MI:SS.MS') AS "when", name, price,
       price - lag(price) OVER (ORDER BY audit_commit_lsn) AS difference, tags,
       audit_username AS who, audit_metadata ->> 'reason' AS why
FROM products_history WHERE sku = 'GRINDER' ORDER BY audit_commit_lsn;

\echo :bold'What nobody signed: a change without an annotation, and what the server knows of it':plain
SELECT "when", c.name AS customer, "old → new", server_context ->> 'session_user' AS role,
       server_context ->> 'application_name' AS program
FROM changes JOIN customers AS c ON c.id::text = record_id
WHERE annotations IS NULL;

\echo :bold'How capture is doing: audit_capture_status()':plain
SELECT publication, slot, CASE WHEN worker_pid IS NULL THEN 'none' ELSE 'running' END AS worker, changes, lag_seconds,
       pg_size_pretty(retained_bytes) AS retained, last_error
FROM audit_capture_status();

\echo :bold'The log is append-only, for the superuser too':plain
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
\set ECHO queries
DELETE FROM audit_logs;
