-- What could not be taken: messages that are no entries, and why.

CREATE SEQUENCE audit_cdc_internal.rejects_id_seq CYCLE;
CREATE TABLE audit_cdc_internal.rejects (
  id bigint PRIMARY KEY DEFAULT audit_cdc_internal.next_number('rejects'),
  digest uuid NOT NULL UNIQUE,
  raw text NOT NULL,
  sqlstate text NOT NULL,
  reason text NOT NULL,
  hint text,
  batch_position integer,
  database_id text,
  table_schema text,
  table_name text,
  deliveries bigint NOT NULL,
  created_at timestamptz NOT NULL,
  last_delivered_at timestamptz NOT NULL,
  retries integer NOT NULL DEFAULT 0,
  last_retried_at timestamptz,
  stored_at timestamptz,
  origin "char" NOT NULL, -- as in the log
  delivered_by text,
  erased_at timestamptz, -- raw is gone: it cannot be tried again
  has_masks boolean NOT NULL DEFAULT false -- raw was written anew: what it says of masks is true
);
CREATE INDEX rejects_open ON audit_cdc_internal.rejects (id) WHERE stored_at IS NULL;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.rejects', '');
SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.rejects_id_seq', '');

CREATE VIEW @extschema@.audit_rejects AS
  SELECT id, raw, sqlstate, reason, hint, batch_position, database_id, table_schema, table_name,
         deliveries, created_at, last_delivered_at, retries, last_retried_at, stored_at,
         CASE origin WHEN 'c' THEN 'capture' WHEN 'b' THEN 'backfill' ELSE 'ingest' END AS origin, delivered_by,
         erased_at
  FROM audit_cdc_internal.rejects;
COMMENT ON VIEW @extschema@.audit_rejects IS
  'messages that could not be taken (dead letters), one row each, however often one role delivered it';
COMMENT ON COLUMN @extschema@.audit_rejects.id IS 'number of the reject, for audit_retry_rejects(ids)';
COMMENT ON COLUMN @extschema@.audit_rejects.raw IS 'the message as it came, or the whole body where that is no JSON';
COMMENT ON COLUMN @extschema@.audit_rejects.sqlstate IS
  'class 22: malformed; 23505: conflict, another change has this key and commit time; 54: beyond a limit of '
  'PostgreSQL or of audit_ingest; 42501: not of a source that its deliverer may name';
COMMENT ON COLUMN @extschema@.audit_rejects.reason IS 'what is wrong, without any value of the row';
COMMENT ON COLUMN @extschema@.audit_rejects.hint IS 'what may help; null if nothing is known to';
COMMENT ON COLUMN @extschema@.audit_rejects.batch_position IS 'place in its first batch, from 1; null for a whole body';
COMMENT ON COLUMN @extschema@.audit_rejects.database_id IS 'as in audit_logs; null where it could not be read';
COMMENT ON COLUMN @extschema@.audit_rejects.table_schema IS 'null where it could not be read';
COMMENT ON COLUMN @extschema@.audit_rejects.table_name IS 'null where it could not be read';
COMMENT ON COLUMN @extschema@.audit_rejects.deliveries IS 'how often it was delivered and rejected';
COMMENT ON COLUMN @extschema@.audit_rejects.created_at IS 'when it was set aside';
COMMENT ON COLUMN @extschema@.audit_rejects.last_delivered_at IS 'when it was rejected last on delivery';
COMMENT ON COLUMN @extschema@.audit_rejects.retries IS 'how often audit_retry_rejects tried it';
COMMENT ON COLUMN @extschema@.audit_rejects.last_retried_at IS 'when audit_retry_rejects tried it last; null: never';
COMMENT ON COLUMN @extschema@.audit_rejects.stored_at IS
  'when audit_retry_rejects found it in the log or put it there; null: still open';
COMMENT ON COLUMN @extschema@.audit_rejects.origin IS
  'how it came, as in audit_logs; audit_retry_rejects stores it as that';
COMMENT ON COLUMN @extschema@.audit_rejects.delivered_by IS
  'the role that delivered it, whose sources (audit_allowed_sources) hold for a retry too; null for capture';
COMMENT ON COLUMN @extschema@.audit_rejects.erased_at IS
  'when audit_erase() has taken its text out of raw; audit_retry_rejects does not try it again; null: it is there';
