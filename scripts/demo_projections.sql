-- The tables of Sequin's audit guide, as projections. Mended where the guide is unsound: its unique (commit_lsn, record_id)
-- would refuse the second change of a row in one transaction, so the log's id takes its place.
SET client_min_messages = warning;
CREATE SCHEMA guide;

CREATE TABLE guide.audit_logs (
  id serial PRIMARY KEY, log_id bigint NOT NULL UNIQUE,
  table_name text NOT NULL, record_id uuid NOT NULL, commit_lsn bigint NOT NULL, action text NOT NULL,
  old_values jsonb, new_values jsonb, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz,
  username text, source text, request_id text, metadata jsonb);
SELECT audit_create_projection('guide_audit_logs', target => 'guide.audit_logs', rule => $$
  SELECT id AS log_id, table_name, record_id::uuid AS record_id, commit_lsn, action, old_values, new_values, username, source, request_id, metadata
  FROM audit_new_logs WHERE table_name IN ('customers', 'pk_uuid') AND action <> 'read'
$$);

CREATE TABLE guide.activity_feed (
  id serial PRIMARY KEY, log_id bigint NOT NULL UNIQUE,
  record_id text NOT NULL, commit_lsn bigint NOT NULL, action text NOT NULL, description text NOT NULL, user_id uuid NOT NULL,
  actor text NOT NULL, source text NOT NULL, request_id text, reason text, metadata jsonb, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON guide.activity_feed (user_id, created_at);
CREATE INDEX ON guide.activity_feed (actor, created_at);
SELECT audit_create_projection('activity_feed', target => 'guide.activity_feed', rule => $$
  SELECT l.id AS log_id, l.record_id, l.commit_lsn, l.action,
         format('%s %s order #%s', who.actor, CASE l.action WHEN 'insert' THEN 'created' WHEN 'update' THEN 'updated' ELSE 'deleted' END, o.image ->> 'id')
           || CASE WHEN l.action = 'update' AND l.old_values ? 'status'
                   THEN format(': %s → %s', l.old_values ->> 'status', o.image ->> 'status') ELSE '' END AS description,
         audit_cast(NULL::uuid, o.image -> 'customer_id') AS user_id,
         who.actor, coalesce(l.source, 'unknown') AS source, l.request_id, l.metadata ->> 'reason' AS reason, o.image AS metadata
  FROM audit_new_logs AS l
  CROSS JOIN LATERAL (SELECT coalesce(l.new_values, l.old_values) AS image) AS o
  CROSS JOIN LATERAL (SELECT coalesce(l.username, l.annotations ->> 'actor', 'system') AS actor) AS who
  WHERE l.table_name = 'orders' AND l.action <> 'read'
$$);

CREATE TABLE guide.compliance_log (
  log_id bigint PRIMARY KEY,
  record_id uuid NOT NULL, commit_lsn bigint NOT NULL, "timestamp" timestamptz NOT NULL, data_category text NOT NULL,
  operation_type text NOT NULL, user_id text NOT NULL, purpose text, lawful_basis text, system_source text);
SELECT audit_create_projection('compliance_log', target => 'guide.compliance_log', rule => $$
  SELECT id AS log_id, record_id::uuid AS record_id, commit_lsn, commit_timestamp AS "timestamp",
         CASE WHEN action <> 'update' OR old_values ?| ARRAY['name', 'email'] THEN 'identity'
              WHEN old_values ? 'balance' THEN 'financial' ELSE 'other' END AS data_category,
         action AS operation_type, coalesce(username, annotations ->> 'actor', 'system') AS user_id,
         metadata ->> 'reason' AS purpose, metadata ->> 'lawful_basis' AS lawful_basis, source AS system_source
  FROM audit_new_logs WHERE table_name = 'customers' AND action <> 'read'
$$);
