-- DDL in the log: what was done to captured tables, and to the publication that says which they are, in the command's
-- transaction. The Rust side stands in src/capture/schema_changes.rs: event triggers that the extension owns.
--
-- * The INSERT of an entry is decoded, whatever is published. So capture learns at which place of which transaction it
--   stands, and what was annotated there.
-- * What the publication leaves out that it did not leave out before is a gap.

-- Where capture has found an entry.
CREATE TABLE audit_cdc_internal.schema_change_positions (
  id bigint PRIMARY KEY, -- of schema_changes; no foreign key: a parallel restore loads tables in any order
  commit_lsn bigint NOT NULL,
  commit_idx bigint NOT NULL,
  commit_timestamp timestamptz NOT NULL,
  annotations jsonb, -- as in the log
  large_annotations uuid
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cdc_internal.schema_change_positions
  FOR EACH STATEMENT EXECUTE FUNCTION audit_cdc_internal.refuse_change();
ALTER TABLE audit_cdc_internal.schema_change_positions ENABLE ALWAYS TRIGGER append_only;

-- Is all that is wanted published?
CREATE FUNCTION audit_cdc_internal.covers(published jsonb, wanted jsonb) RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN wanted IS NULL OR coalesce((published -> 'actions') @> (wanted -> 'actions')
    AND (NOT published ? 'where' OR published -> 'where' = wanted -> 'where')
    AND (NOT published ? 'column_numbers' OR (published -> 'column_numbers') @> (wanted -> 'column_numbers')), false);

CREATE FUNCTION audit_cdc_internal.is_excluded(relation oid) RETURNS boolean LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT EXISTS (SELECT FROM audit_cdc_internal.excluded_tables AS e
                 WHERE e.relation = is_excluded.relation AND e.until_lsn IS NULL);
END;

-- Are changes of a table missing from here on, or no longer? Its last entry tells.
CREATE FUNCTION audit_cdc_internal.settle_gap(relation oid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  reasons CONSTANT text[] := '{unlogged,not published,partly published}';
  at CONSTANT pg_lsn := pg_current_wal_insert_lsn();
  last CONSTANT audit_cdc_internal.schema_changes := audit_cdc_internal.last_schema('table', relation);
  reason text;
BEGIN
  reason := CASE WHEN last.after IS NULL OR last.wanted IS NULL
                   OR last.is_captured AND audit_cdc_internal.covers(last.after -> 'published', last.wanted) THEN NULL
                 WHEN last.after ->> 'persistence' = 'unlogged' THEN 'unlogged'
                 WHEN last.is_captured THEN 'partly published'
                 ELSE 'not published' END;
  IF reason IS NOT NULL AND NOT audit_cdc_internal.is_excluded(relation) THEN
    PERFORM audit_cdc_internal.note_gap(relation, reason, at, clock_timestamp(), last.command_tag);
  END IF;
  IF reason IS NOT NULL OR last.is_captured OR last.after IS NULL THEN
    PERFORM audit_cdc_internal.end_gaps(relation, array_remove(reasons, reason), at);
  END IF;
END
$$;

-- Rows came, went or became others without a change of theirs. Once a transaction: it holds the table's lock.
CREATE FUNCTION audit_cdc_internal.note_silent_change(relation oid, reason text, detail text) RETURNS void
  LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
  at CONSTANT pg_lsn := pg_current_wal_insert_lsn();
BEGIN
  IF NOT audit_cdc_internal.is_excluded(relation) AND NOT EXISTS (
      SELECT FROM audit_cdc_internal.gaps AS g
      WHERE g.relation = relation AND g.reason = reason AND g.xid = pg_current_xact_id()
        AND g.database_id = audit_cdc_internal.this_database() ->> 'id') THEN
    PERFORM audit_cdc_internal.note_gap(relation, reason, at, clock_timestamp(), detail);
    PERFORM audit_cdc_internal.end_gaps(relation, ARRAY[reason], at);
  END IF;
END
$$;

-- What was left out by an admin's will is missing all the same.
CREATE FUNCTION audit_cdc_internal.note_exclusion(
    relation oid, from_lsn pg_lsn, until_lsn pg_lsn, excluded_at timestamptz) RETURNS void
  LANGUAGE plpgsql AS $$
BEGIN
  IF (audit_cdc_internal.last_schema('table', relation)).wanted IS NOT NULL THEN
    PERFORM audit_cdc_internal.note_gap(relation, 'excluded', from_lsn, excluded_at);
    PERFORM audit_cdc_internal.end_gaps(relation, '{excluded}', until_lsn);
    PERFORM audit_cdc_internal.settle_gap(relation);
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.record_schema_changes(tag text, user_name name, differences jsonb) RETURNS void
  LANGUAGE plpgsql SET jit = off AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  is_start CONSTANT boolean := tag = 'audit_capture_start';
  whole CONSTANT text := current_query();
  one record;
BEGIN
  INSERT INTO audit_cdc_internal.schema_changes (database_id, object_type, object, command_tag, before, after, parent,
    published_as, identity_index, is_captured, wanted, statement, statement_length, user_name)
  SELECT here, d.object_type, d.object, tag, d.before, d.after, d.parent,
         d.published_as, d.identity_index, d.is_captured,
         CASE WHEN d.after IS NULL OR is_start AND NOT d.is_captured THEN NULL
              WHEN d.is_captured AND (is_start OR audit_cdc_internal.covers(d.after -> 'published', d.wanted))
                THEN d.after -> 'published'
              ELSE d.wanted END,
         left(whole, 10000), length(whole), record_schema_changes.user_name
  FROM audit_cdc_internal.as_differences(differences) AS d;

  FOR one IN SELECT * FROM audit_cdc_internal.as_differences(differences) AS d WHERE d.object_type = 'table' LOOP
    IF one.before IS NOT NULL THEN
      PERFORM audit_cdc_internal.settle_gap(one.object);
    END IF;
    -- under its new name the log has no beginning of its rows
    IF one.was_captured AND one.is_captured AND (one.has_rows OR one.after ->> 'kind' = 'partitioned table')
       AND (one.before ->> 'schema' <> one.after ->> 'schema' OR one.before ->> 'name' <> one.after ->> 'name')
       AND NOT is_start THEN
      PERFORM audit_cdc_internal.note_silent_change(
        one.object, 'renamed', format('%I.%I', one.before ->> 'schema', one.before ->> 'name'));
    END IF;
    -- what is captured under the name of its root came into that table with its rows, or went out of it
    IF one.published_as IS DISTINCT FROM one.published_before AND coalesce(one.has_rows, true) AND NOT is_start THEN
      PERFORM audit_cdc_internal.note_silent_change(r.relation, r.reason, coalesce(one.after, one.before) ->> 'name')
      FROM (VALUES (one.published_as, 'partition attached'),
                   (one.published_before, 'partition detached')) AS r(relation, reason)
      WHERE r.relation <> one.object AND (audit_cdc_internal.last_schema('table', r.relation)).is_captured
        AND NOT EXISTS (SELECT FROM audit_cdc_internal.as_differences(differences) AS d
                        WHERE d.object = r.relation AND d.object_type = 'table' AND NOT d.was_captured);
    END IF;
  END LOOP;
END
$$;

-- ALTER TABLE is about to write a table anew: decoding sees none of its new values. Reasons are as PostgreSQL has them
-- (PostgreSQL source, event_trigger.h): 2, a column with a default that is worked out for each row; 4, another type.
CREATE FUNCTION audit_cdc_internal.rewritten() RETURNS oid LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT (audit_cdc_internal.last_schema('table', r.relation)).published_as
  FROM (SELECT pg_event_trigger_table_rewrite_oid() AS relation, pg_event_trigger_table_rewrite_reason() AS reason) AS r
  WHERE r.reason & 6 <> 0 AND pg_relation_size(r.relation) > 0;
END;

CREATE FUNCTION audit_cdc_internal.record_rewrite(published_as oid) RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.note_silent_change(published_as, 'rewritten', left(current_query(), 1000));
END;

-- Tables as they are when capture starts.
CREATE FUNCTION audit_cdc_internal.record_tables() RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.record_schema_changes('audit_capture_start', session_user, d.differences)
  FROM audit_cdc_internal.schema_differences(true, NULL, NULL, NULL) AS d(differences)
  WHERE d.differences IS NOT NULL;
END;

CREATE VIEW @extschema@.audit_schema_changes AS
  SELECT s.id, s.database_id, s.command_tag, s.object_type,
         coalesce(s.after, s.before) ->> 'schema' AS table_schema,
         CASE s.object_type WHEN 'table' THEN coalesce(s.after, s.before) ->> 'name' END AS table_name,
         CASE s.object_type WHEN 'publication' THEN coalesce(s.after, s.before) ->> 'name' END AS publication,
         s.before -> 'columns' AS columns_before, s.after -> 'columns' AS columns_after, s.before, s.after,
         s.statement, s.statement_length,
         s.user_name, s.session_user_name, s.application_name, s.client_address,
         audit_cdc_internal.lifted(p.annotations, 'username') AS username,
         audit_cdc_internal.lifted(p.annotations, 'source') AS source,
         audit_cdc_internal.lifted(p.annotations, 'request_id') AS request_id,
         nullif(a.annotations -> 'metadata', 'null') AS metadata, a.annotations,
         s.xid, s.recorded_at, p.commit_lsn, p.commit_idx, p.commit_timestamp
  FROM audit_cdc_internal.schema_changes AS s
  LEFT JOIN audit_cdc_internal.schema_change_positions AS p ON p.id = s.id
  CROSS JOIN LATERAL (
    SELECT CASE WHEN p.large_annotations IS NULL THEN p.annotations
                ELSE (SELECT g.annotations FROM audit_cdc_internal.large_annotations AS g
                      WHERE g.id = p.large_annotations)
           END AS annotations) AS a;
COMMENT ON VIEW @extschema@.audit_schema_changes IS 'DDL on captured tables, on tables that were captured, and on the captured publication; also what capture found when it started';
COMMENT ON COLUMN @extschema@.audit_schema_changes.id IS 'number of the entry; grows, with gaps, in the order of commands';
COMMENT ON COLUMN @extschema@.audit_schema_changes.database_id IS 'as in audit_logs';
COMMENT ON COLUMN @extschema@.audit_schema_changes.command_tag IS 'such as ALTER TABLE; audit_capture_start: so the object was when capture started';
COMMENT ON COLUMN @extschema@.audit_schema_changes.object_type IS 'table or publication';
COMMENT ON COLUMN @extschema@.audit_schema_changes.table_schema IS 'schema of the table, after the command if it is still there; of a publication null';
COMMENT ON COLUMN @extschema@.audit_schema_changes.table_name IS 'the table, by its own name; of a publication null';
COMMENT ON COLUMN @extschema@.audit_schema_changes.publication IS 'name of the publication; of a table null';
COMMENT ON COLUMN @extschema@.audit_schema_changes.columns_before IS 'the table''s columns before the command, in order: number, which a renamed column keeps, name, type, not_null, generated; null: it was not there, or never captured';
COMMENT ON COLUMN @extschema@.audit_schema_changes.columns_after IS 'the same after the command; null: it is gone';
COMMENT ON COLUMN @extschema@.audit_schema_changes.before IS 'the object before: of a table its schema, name, kind, columns, key, replica_identity, persistence, parent (of a partition) and what is published of it; null as columns_before';
COMMENT ON COLUMN @extschema@.audit_schema_changes.after IS 'the same after the command; null: it is gone';
COMMENT ON COLUMN @extschema@.audit_schema_changes.statement IS 'what the client sent, up to 10,000 characters: the command itself, or what called it';
COMMENT ON COLUMN @extschema@.audit_schema_changes.statement_length IS 'how many characters the whole statement had';
COMMENT ON COLUMN @extschema@.audit_schema_changes.user_name IS 'the role whose rights the command had';
COMMENT ON COLUMN @extschema@.audit_schema_changes.session_user_name IS 'the role that the session belonged to';
COMMENT ON COLUMN @extschema@.audit_schema_changes.application_name IS 'as the session named itself';
COMMENT ON COLUMN @extschema@.audit_schema_changes.client_address IS 'where the session came from; null: a socket of this machine';
COMMENT ON COLUMN @extschema@.audit_schema_changes.username IS 'annotations ->> ''username''; null if absent, over 2,000 bytes, or not captured yet';
COMMENT ON COLUMN @extschema@.audit_schema_changes.source IS 'annotations ->> ''source'', as username';
COMMENT ON COLUMN @extschema@.audit_schema_changes.request_id IS 'annotations ->> ''request_id'', as username';
COMMENT ON COLUMN @extschema@.audit_schema_changes.metadata IS 'annotations -> ''metadata''';
COMMENT ON COLUMN @extschema@.audit_schema_changes.annotations IS 'the transaction''s annotations where the command stood, as in audit_logs; null: none, or not captured yet';
COMMENT ON COLUMN @extschema@.audit_schema_changes.xid IS 'the transaction';
COMMENT ON COLUMN @extschema@.audit_schema_changes.recorded_at IS 'when the command ended, by the server''s clock';
COMMENT ON COLUMN @extschema@.audit_schema_changes.commit_lsn IS 'as in audit_logs; null: not captured yet';
COMMENT ON COLUMN @extschema@.audit_schema_changes.commit_idx IS 'place among the transaction''s changes, as in audit_logs; null: not captured yet';
COMMENT ON COLUMN @extschema@.audit_schema_changes.commit_timestamp IS 'as in audit_logs; null: not captured yet';

CREATE EVENT TRIGGER audit_cdc_schema_changes ON ddl_command_end
  -- PostgreSQL takes ALTER VIEW and its like for tables too
  WHEN TAG IN ('ALTER DOMAIN', 'ALTER EXTENSION', 'ALTER FOREIGN TABLE', 'ALTER INDEX', 'ALTER MATERIALIZED VIEW',
               'ALTER PUBLICATION', 'ALTER SCHEMA', 'ALTER SEQUENCE', 'ALTER TABLE', 'ALTER TYPE', 'ALTER VIEW',
                'CREATE PUBLICATION', 'CREATE SCHEMA', 'CREATE TABLE', 'CREATE TABLE AS',
               'SELECT INTO')
  EXECUTE FUNCTION audit_cdc_internal.note_schema_change();
ALTER EVENT TRIGGER audit_cdc_schema_changes ENABLE ALWAYS;
CREATE EVENT TRIGGER audit_cdc_drops ON sql_drop
  EXECUTE FUNCTION audit_cdc_internal.note_schema_change();
ALTER EVENT TRIGGER audit_cdc_drops ENABLE ALWAYS;
CREATE EVENT TRIGGER audit_cdc_rewrites ON table_rewrite
  EXECUTE FUNCTION audit_cdc_internal.note_schema_change();
ALTER EVENT TRIGGER audit_cdc_rewrites ENABLE ALWAYS;

SELECT pg_catalog.pg_extension_config_dump('audit_cdc_internal.schema_change_positions', '');
