-- What people read. Names, lifted annotations and what is unknown are put together on reading, so that a description
-- that comes later explains entries that are there already. audit_new_logs is the same over the entries that are being
-- stored, for the rules of projections. The view entries also tells which of them may have changed a key; its images
-- are told (src/cast/told.rs): exact values stand in them.
DO $do$
DECLARE
  entries CONSTANT text := $view$
  SELECT l.id,
         t.database_id, t.database_name, t.table_schema, t.table_name,
         l.record_id,
         CASE WHEN l.record_pks IS NULL AND l.record_id IS NOT NULL THEN ARRAY[l.record_id] ELSE l.record_pks END
           AS record_pks,
         l.action::text AS action,
         l.commit_lsn, l.commit_idx, l.commit_timestamp,
         %s,
         audit_cdc_internal.lifted(l.annotations, 'username') AS username,
         audit_cdc_internal.lifted(l.annotations, 'source') AS source,
         audit_cdc_internal.lifted(l.annotations, 'request_id') AS request_id,
         nullif(a.annotations -> 'metadata', 'null') AS metadata,
         a.annotations,
         coalesce(l.idempotency_key, encode(format('%%s:%%s', l.commit_lsn, l.commit_idx)::bytea, 'base64'))
           AS idempotency_key,
         l.created_at,
         CASE l.replica_identity
           WHEN 'f' THEN 'full'
           WHEN 'd' THEN 'default'
           WHEN 'i' THEN 'index'
           WHEN 'n' THEN 'nothing'
           ELSE d.replica_identity
         END AS replica_identity,
         CASE
           WHEN l.unknown_columns IS NOT NULL THEN l.unknown_columns
           WHEN d.replica_identity IS NOT NULL THEN audit_cdc_internal.columns_not_sent(
             l.action::text, coalesce(l.new_values, l.old_values), l.notes, d.replica_identity, d.identity_columns,
             d.never_sent, d.null_in_reads)
         END AS unknown_columns,
         CASE
           WHEN l.action NOT IN ('update', 'delete') THEN '{}'
           WHEN l.unknown_old_columns IS NOT NULL THEN l.unknown_old_columns
           WHEN d.replica_identity IS NOT NULL THEN audit_cdc_internal.old_columns_not_sent(
             l.action::text, coalesce(l.new_values, l.old_values), l.notes, l.old_values, d.replica_identity,
             d.identity_columns, d.never_sent)
         END AS unknown_old_columns,
         coalesce(k.record_key, l.record_id) AS record_key,
         CASE l.origin WHEN 'c' THEN 'capture' WHEN 'b' THEN 'backfill' ELSE 'ingest' END AS origin,
         CASE WHEN l.notes ? 'erased' THEN nullif(l.notes - 'erased', '{}') ELSE l.notes END AS notes, l.exact_values,
         CASE WHEN l.server_context IS NOT NULL THEN (
           SELECT s.context || jsonb_strip_nulls(jsonb_build_object('transaction_start', l.transaction_start))
           FROM audit_cdc_internal.server_contexts AS s
           WHERE s.id = l.server_context)
         END AS server_context,
         l.attested%s, l.notes -> 'erased' AS erased
  FROM %s AS l
  CROSS JOIN LATERAL (
    SELECT CASE WHEN l.large_annotations IS NULL THEN l.annotations
                ELSE (
                  SELECT g.annotations
                  FROM audit_cdc_internal.large_annotations AS g
                  WHERE g.id = l.large_annotations)
           END AS annotations) AS a
  JOIN audit_cdc_internal.audited_tables AS t ON t.id = l.audited_table
  LEFT JOIN audit_cdc_internal.record_keys AS k ON k.audited_table = l.audited_table AND k.record_id = l.record_id
  LEFT JOIN @extschema@.audit_described_tables AS d
    ON (d.database_id, d.table_schema, d.table_name) = (t.database_id, t.table_schema, t.table_name)
   AND l.commit_timestamp >= d.valid_from AND l.commit_timestamp < d.valid_to
  $view$;
  images CONSTANT text := 'l.old_values, l.new_values';
  told CONSTANT text := $told$
         audit_cdc_internal.told_image(l.old_values, l.exact_values, 'old') AS old_values,
         audit_cdc_internal.told_image(l.new_values, l.exact_values, 'new') AS new_values$told$;
BEGIN
  EXECUTE 'CREATE VIEW @extschema@.audit_logs AS ' || format(entries, images, '', 'audit_cdc_internal.log');
  EXECUTE 'CREATE VIEW @extschema@.audit_new_logs AS '
          || format(entries, images, '', 'audit_cdc_internal.new_log()')
          || ' ORDER BY l.commit_timestamp, l.commit_lsn, l.commit_idx, l.id';
  EXECUTE 'CREATE VIEW audit_cdc_internal.entries AS '
    || format(entries, told, ', l.may_change_key', 'audit_cdc_internal.log');
END
$do$;

COMMENT ON VIEW @extschema@.audit_logs IS 'the audit log: one row a change, append-only';
COMMENT ON COLUMN @extschema@.audit_logs.id IS
  'number of the entry; grows, with gaps, in the order of storing, not of commits';
COMMENT ON COLUMN @extschema@.audit_logs.database_id IS
  'Sequin''s id of the source database; "unknown" from Sequin releases that did not send it';
COMMENT ON COLUMN @extschema@.audit_logs.database_name IS 'Sequin''s name for the source database; null if not sent';
COMMENT ON COLUMN @extschema@.audit_logs.table_schema IS 'schema of the table in the source';
COMMENT ON COLUMN @extschema@.audit_logs.table_name IS
  'name of the table in the source. Captured, a partition has its own name, or its root''s with '
  'publish_via_partition_root; Sequin sends that of its immediate parent';
COMMENT ON COLUMN @extschema@.audit_logs.record_id IS
  'the key as text: the value itself, for a composite key a JSON array of the values; null for a table without a '
  'key; "sha256:" and a digest for a key that is over 2,000 bytes or begins so itself';
COMMENT ON COLUMN @extschema@.audit_logs.record_key IS
  'record_id in one spelling, by the key''s types in the table''s latest description: the same for all entries of a '
  'record';
COMMENT ON COLUMN @extschema@.audit_logs.record_pks IS
  'the key''s values as sent, in column order; null if the message had none';
COMMENT ON COLUMN @extschema@.audit_logs.action IS
  'insert, update, delete, truncate, read (a backfill found the row so) or complete (all rows were read: records '
  'that it did not meet are gone)';
COMMENT ON COLUMN @extschema@.audit_logs.commit_lsn IS
  'LSN of the commit record as a 64-bit number. Of a row that a backfill of capture read: the position at which it '
  'was so. Of a read of Sequin''s null';
COMMENT ON COLUMN @extschema@.audit_logs.commit_idx IS
  'place in the transaction, from 0, with gaps; null for read and complete';
COMMENT ON COLUMN @extschema@.audit_logs.commit_timestamp IS
  'commit time in the source, to the microsecond; for read the time of reading';
COMMENT ON COLUMN @extschema@.audit_logs.old_values IS
  'update: previous values of the changed columns; delete: the old row; insert and read: null';
COMMENT ON COLUMN @extschema@.audit_logs.new_values IS 'the row after the change; delete: null';
COMMENT ON COLUMN @extschema@.audit_logs.username IS
  'annotations ->> ''username''; null if absent or over 2,000 bytes, as source and request_id';
COMMENT ON COLUMN @extschema@.audit_logs.source IS 'annotations ->> ''source'': from where the change was made';
COMMENT ON COLUMN @extschema@.audit_logs.request_id IS 'annotations ->> ''request_id''';
COMMENT ON COLUMN @extschema@.audit_logs.metadata IS 'annotations -> ''metadata''';
COMMENT ON COLUMN @extschema@.audit_logs.annotations IS
  'the transaction''s annotations, whole, whatever JSON value they are; null for none. What jsonb cannot hold is '
  'kept as text: {"unreadable": its first 2,000 bytes}, of a longer one with "bytes" (its length) and "sha256" of '
  'the whole';
COMMENT ON COLUMN @extschema@.audit_logs.idempotency_key IS
  'Sequin''s key; derived as Sequin does it where a release did not send it';
COMMENT ON COLUMN @extschema@.audit_logs.created_at IS 'when the storing transaction began';
COMMENT ON COLUMN @extschema@.audit_logs.replica_identity IS
  'of the table at commit time, as capture saw it or by the table''s description; null: not captured here, and not '
  'described then';
COMMENT ON COLUMN @extschema@.audit_logs.unknown_columns IS
  'columns whose value in new_values (delete: old_values) was not sent or is masked, whatever stands there; null: not '
  'captured here, and not described, so nobody can tell';
COMMENT ON COLUMN @extschema@.audit_logs.unknown_old_columns IS
  'columns whose value before the change was not sent or is masked; null: not captured here, and not described, so '
  'nobody can tell';
COMMENT ON COLUMN @extschema@.audit_logs.origin IS
  'how the entry came: capture (from this server''s WAL), backfill (capture read the row) or ingest (delivered to '
  'audit_ingest)';
COMMENT ON COLUMN @extschema@.audit_logs.exact_values IS
  'what the images do not hold of values, since jsonb does not: null, as nearly always, or {"new": {column: text}, '
  '"old": …}. JSON null as against NULL, \u0000 and numbers beyond numeric, how json is written. Where jsonb takes '
  'no such value, null stands in the image. audit_row(NULL::public.users, new_values, unknown_columns, exact_values -> '
  '''new'') reads both';
COMMENT ON COLUMN @extschema@.audit_logs.server_context IS
  'what the server knew of the session that made the change, by setting audit_cdc.server_context_fields: session_user '
  '(who logged in), current_user (with whose rights the change was made; SET ROLE and SECURITY DEFINER change it), '
  'role (as whom the session acted, where it is another), application_name (which the client chooses), client_address, '
  'backend_start, transaction_start. null: delivered to audit_ingest, or not told';
COMMENT ON COLUMN @extschema@.audit_logs.attested IS
  'whether annotations came by audit_annotate or settings, in the change''s own transaction: true; false: by a '
  'message that anybody may emit or repeat. null: there are none, or the change was delivered to audit_ingest';
COMMENT ON COLUMN @extschema@.audit_logs.notes IS
  'null, as nearly always, or an object. omitted, omitted_old: columns whose value (before the change) was too large '
  'to carry, with "bytes" and "sha256" of what was stored. row_filter: "left" or "entered", of an update after which '
  'the row is not or is one of those that the publication''s row filter lets through; what changes of it outside is '
  'not captured. contested: somebody else has tried to annotate where the server''s own code had. masked: '
  'by column, how it is masked, what stands for its values (new, old), and whether an update has changed it';
COMMENT ON COLUMN @extschema@.audit_logs.erased IS
  'null, as nearly always, or what audit_erase() has taken out of this entry. at, reason: when and why, the last time. '
  'columns: whose values are gone, and so count as not sent. changed: those of them that the update has changed. key: '
  'true where record_id is a pseudonym. annotations: true where username is one';

CREATE TRIGGER append_only INSTEAD OF UPDATE OR DELETE ON @extschema@.audit_logs
  FOR EACH ROW EXECUTE FUNCTION audit_cdc_internal.refuse_change();

COMMENT ON VIEW @extschema@.audit_new_logs IS
  'for the rule of a projection: the entries of audit_logs, but for those of action complete, that are being fed to '
  'it, in the order of commits; empty elsewhere. Its columns are those of audit_logs';
