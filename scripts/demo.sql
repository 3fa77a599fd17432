\pset null ·
\pset footer off
\pset title 'Who changed what, when and why: an order''s life'
SELECT to_char(commit_timestamp, 'HH24:MI:SS.MS') AS "when",
       coalesce(username, annotations ->> 'actor') AS who, source AS "from", request_id AS request,
       action, table_name AS "table", record_id AS record,
       CASE action
         WHEN 'update' THEN (SELECT string_agg(format('%s: %s → %s', key, coalesce(value, 'null'), coalesce(new_values ->> key, 'null')), ', ' ORDER BY key)
                             FROM jsonb_each_text(old_values) WHERE key <> 'updated_at')
         WHEN 'insert' THEN (SELECT string_agg(format('%s=%s', key, coalesce(value, 'null')), ', ' ORDER BY key)
                             FROM jsonb_each_text(new_values) WHERE key IN ('status', 'total', 'sku', 'qty'))
       END AS what
FROM audit_logs
WHERE table_name IN ('orders', 'order_lines') AND action <> 'read'
ORDER BY commit_lsn, commit_idx;

\pset title 'What one request did, from the annotations that the app gave (its app says "actor" instead of username)'
SELECT request_id AS request, annotations ->> 'actor' AS who, annotations #>> '{meta,ip}' AS ip,
       string_agg(action || ' ' || table_name, ', ' ORDER BY commit_idx) AS changes
FROM audit_logs WHERE request_id IS NOT NULL
GROUP BY 1, 2, 3, commit_lsn ORDER BY commit_lsn;

\pset title 'What a message does not know stays unknown: deletes without REPLICA IDENTITY FULL'
SELECT table_name AS "table", replica_identity, record_id AS record, old_values, unknown_columns
FROM audit_logs WHERE action = 'delete' AND table_name IN ('ri_full', 'ri_default', 'ri_index')
ORDER BY commit_lsn, commit_idx;

\pset title 'Filled meanwhile: the activity feed of the audit guide, typed'
SELECT right(user_id::text, 4) AS "user …", description, source AS "from", request_id AS request, metadata ->> 'total' AS total
FROM guide.activity_feed ORDER BY commit_lsn, id;

\pset title 'Its compliance log, by category and operation'
SELECT data_category, operation_type, user_id, count(*) AS entries, count(DISTINCT record_id) AS people
FROM guide.compliance_log GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

\pset title 'A typed history, made from the description of the source: audit_create_history()'
SELECT audit_create_history('3f6b7a52-5d1c-4c0e-9a51-0d9f3a1c0001', 'public', 'order_lines') AS made \gset
SELECT audit_action AS action, audit_changed AS changed, order_id, line_no, sku, qty, unit_price, qty * unit_price AS amount
FROM :made ORDER BY order_id, line_no, audit_commit_lsn, audit_commit_idx;

\pset title 'What keeps the tables filled: audit_projections'
SELECT name, target, rule_owner, enabled, waiting, failures FROM audit_projections ORDER BY name;

\pset title 'Set aside, nothing lost: audit_rejects'
SELECT sqlstate, reason, count(*) AS messages, sum(deliveries) AS deliveries, left(min(raw), 32) || '…' AS "raw, begins"
FROM audit_rejects GROUP BY 1, 2 ORDER BY 3 DESC;

\pset title 'What an operator looks at first: audit_status()'
SELECT table_schema AS schema, table_name AS "table", rows, to_char(last_commit, 'HH24:MI:SS') AS last_commit, rejects, conflicts, described
FROM audit_status() ORDER BY rejects DESC, rows DESC LIMIT 8;

\echo 'The log is append-only, also for the superuser. DELETE FROM audit_logs is answered by'
\set ON_ERROR_STOP off
\set SHOW_CONTEXT never
DELETE FROM audit_logs;
