-- DDL in the log: what was done to captured tables, and to the publication that says which they are, in the command's
-- transaction. The Rust side stands in src/capture/schema_changes.rs: event triggers that the extension owns.
--
-- * The INSERT of an entry is decoded, whatever is published. So capture learns at which place of which transaction it
--   stands, and what was annotated there.
-- * What the publication leaves out that it did not leave out before is a gap.

-- Is all that is wanted published? Columns that are gone are not wanted any more.
CREATE FUNCTION audit_cdc_internal.covers(state jsonb, wanted jsonb) RETURNS boolean
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT wanted IS NULL OR coalesce(
    (p -> 'actions') @> (wanted -> 'actions')
    AND (NOT p ? 'where' OR p -> 'where' = wanted -> 'where')
    AND (NOT p ? 'column_numbers' OR (p -> 'column_numbers') @> (wanted -> 'column_numbers'))
    AND coalesce(p -> 'generated_numbers', '[]') @> coalesce(
          (SELECT jsonb_agg(w.number) FROM jsonb_array_elements(wanted -> 'generated_numbers') AS w(number)
           WHERE EXISTS (SELECT FROM jsonb_array_elements(state -> 'columns') AS c(it)
                         WHERE c.it -> 'number' = w.number AND (c.it ->> 'generated')::boolean)), '[]'), false)
  FROM (SELECT state -> 'published' AS p) AS published;
END;

-- Why changes of a table, or of a partition, are missing while it is so; null: none are.
CREATE FUNCTION audit_cdc_internal.lack_of(state jsonb, published_as oid, lost_as oid, wanted jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE
    WHEN state IS NULL THEN NULL
    WHEN lost_as IS NOT NULL AND state ->> 'kind' = 'foreign table' THEN 'foreign'
    WHEN lost_as IS NOT NULL THEN 'unlogged'
    -- under whatever name
    WHEN wanted IS NULL OR published_as IS NOT NULL AND audit_cdc_internal.covers(state, wanted) THEN NULL
    WHEN state ->> 'persistence' = 'unlogged' THEN 'unlogged'
    WHEN published_as IS NOT NULL THEN 'partly published'
    ELSE 'not published' END;

-- What is excluded now. C asks, as all others see it, and hands it to those that write: the transaction's own
-- statements may have an older snapshot.
CREATE FUNCTION audit_cdc_internal.excluded_now() RETURNS oid[] LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT coalesce(array_agg(e.relation), '{}') FROM audit_cdc_internal.excluded_tables AS e WHERE e.until_lsn IS NULL;
END;

-- From the commit of this transaction on, gaps of a table are at their end. part: a partition whose changes were
-- missing; null: the table's own were. reasons null: all, of whatever part. Capture tells where that is.
CREATE FUNCTION audit_cdc_internal.note_gap_ending_ddl(relation oid, part oid, reasons text[]) RETURNS void
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  INSERT INTO audit_cdc_internal.gap_ending_ddl (database_id, relation, part, reasons, at_lsn)
  SELECT audit_cdc_internal.this_database() ->> 'id', relation, part, reasons, pg_current_wal_insert_lsn();
END;

-- A reason why changes are missing begins or ends, or becomes another one.
CREATE FUNCTION audit_cdc_internal.note_lack(
    object oid, detail text, lost_as oid, reason text, lost_before oid, reason_before text, excluded oid[])
  RETURNS void
  LANGUAGE plpgsql AS $$
DECLARE
  relation CONSTANT oid := coalesce(lost_as, object);
  relation_before CONSTANT oid := coalesce(lost_before, object);
BEGIN
  IF (relation, reason) IS NOT DISTINCT FROM (relation_before, reason_before) THEN
    RETURN;
  END IF;
  IF reason_before IS NOT NULL THEN
    PERFORM audit_cdc_internal.note_gap_ending_ddl(
      relation_before, nullif(object, relation_before), ARRAY[reason_before]);
  END IF;
  IF reason IS NOT NULL AND NOT ARRAY[relation, object] && excluded THEN
    PERFORM audit_cdc_internal.add_gap(
      relation, reason, pg_current_wal_insert_lsn(), clock_timestamp(), detail, nullif(object, relation));
  END IF;
END
$$;

-- Rows came, went or became others without a change of theirs. Once a transaction: it holds the table's lock.
CREATE FUNCTION audit_cdc_internal.note_silent_change(relation oid, reason text, detail text, excluded oid[])
  RETURNS void
  LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
  IF relation <> ALL (excluded) AND NOT EXISTS (
      SELECT FROM audit_cdc_internal.gaps AS g
      WHERE g.relation = relation AND g.reason = reason AND g.xid = pg_current_xact_id()
        AND g.database_id = audit_cdc_internal.this_database() ->> 'id') THEN
    PERFORM audit_cdc_internal.add_gap(relation, reason, pg_current_wal_insert_lsn(), clock_timestamp(), detail, NULL);
    PERFORM audit_cdc_internal.note_gap_ending_ddl(relation, NULL, ARRAY[reason]);
  END IF;
END
$$;

-- What was left out by an admin's will is missing all the same. So is what is missing now, of the table or of
-- partitions that are told under its name.
CREATE FUNCTION audit_cdc_internal.note_exclusion(
    relation oid, from_lsn pg_lsn, until_lsn pg_lsn, excluded_at timestamptz) RETURNS void
  LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
  IF (audit_cdc_internal.last_schema('table', relation)).wanted IS NOT NULL THEN
    PERFORM audit_cdc_internal.note_gap(relation, 'excluded', from_lsn, excluded_at);
    PERFORM audit_cdc_internal.end_gaps(relation, '{excluded}', until_lsn);
  END IF;
  PERFORM audit_cdc_internal.add_gap(l.named_as, l.reason, until_lsn, clock_timestamp(), l.detail, l.part)
  FROM (SELECT relation UNION SELECT t.relid FROM pg_partition_tree(relation) AS t) AS tree(member)
  CROSS JOIN LATERAL audit_cdc_internal.last_schema('table', tree.member) AS s
  CROSS JOIN LATERAL (
    SELECT coalesce(s.lost_as, tree.member) AS named_as,
           audit_cdc_internal.lack_of(s.after, s.published_as, s.lost_as, s.wanted) AS reason,
           CASE WHEN s.lost_as <> tree.member THEN tree.member END AS part,
           CASE WHEN s.lost_as <> tree.member THEN s.after ->> 'name' ELSE s.command_tag END AS detail) AS l
  WHERE l.reason IS NOT NULL AND relation IN (tree.member, l.named_as)
    AND NOT EXISTS (SELECT FROM audit_cdc_internal.gaps AS g
                    WHERE g.relation = l.named_as AND g.reason = l.reason AND g.part IS NOT DISTINCT FROM l.part
                      AND g.database_id = s.database_id
                      AND NOT EXISTS (SELECT FROM audit_cdc_internal.gap_ends AS e WHERE e.gap_id = g.id));
END
$$;

-- What is published of a table while nothing is missing, after a command.
CREATE FUNCTION audit_cdc_internal.wanted_of(state jsonb, is_captured boolean, wanted jsonb, is_start boolean)
  RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN CASE
    WHEN state IS NULL OR is_start AND NOT is_captured THEN NULL
    WHEN is_captured AND (is_start OR audit_cdc_internal.covers(state, wanted)) THEN state -> 'published'
    ELSE wanted END;

CREATE FUNCTION audit_cdc_internal.record_schema_changes(
    tag text, user_name name, differences jsonb, excluded oid[]) RETURNS void
  LANGUAGE plpgsql SET jit = off AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  is_start CONSTANT boolean := tag = 'audit_capture_start';
  whole CONSTANT text := audit_cdc_internal.kept_statement(); -- null: masks keep it from the log
  one record;
BEGIN
  INSERT INTO audit_cdc_internal.schema_changes (database_id, object_type, object, command_tag, before, after, parent,
    published_as, lost_as, identity_index, is_captured, wanted, statement, statement_length, user_name)
  SELECT here, d.object_type, d.object, tag, d.before, d.after, d.parent,
         d.published_as, d.lost_as, d.identity_index, d.is_captured,
         audit_cdc_internal.wanted_of(d.after, d.is_captured, d.wanted, is_start),
         left(whole, 10000), length(whole), record_schema_changes.user_name
  FROM audit_cdc_internal.as_differences(differences) AS d;

  FOR one IN SELECT * FROM audit_cdc_internal.as_differences(differences) AS d WHERE d.object_type = 'table' LOOP
    PERFORM audit_cdc_internal.note_lack(
      one.object, CASE WHEN one.lost_as <> one.object THEN one.after ->> 'name' ELSE tag END,
      one.lost_as, audit_cdc_internal.lack_of(one.after, one.published_as, one.lost_as,
        audit_cdc_internal.wanted_of(one.after, one.is_captured, one.wanted, is_start)),
      one.lost_before, audit_cdc_internal.lack_of(one.before, one.published_before, one.lost_before, one.wanted),
      excluded);
    -- of what is gone nothing can be missing
    IF one.after IS NULL THEN
      PERFORM audit_cdc_internal.note_gap_ending_ddl(one.object, NULL, NULL);
    END IF;
    CONTINUE WHEN is_start;
    -- under its new name the log has no beginning of its rows; so it is where its changes had another table's name
    IF one.is_captured AND (one.has_rows OR one.after ->> 'kind' = 'partitioned table')
       AND (one.was_captured AND (one.before ->> 'schema' <> one.after ->> 'schema'
                                  OR one.before ->> 'name' <> one.after ->> 'name')
            OR NOT one.was_captured AND one.wanted IS NOT NULL AND one.published_before IS NOT NULL) THEN
      PERFORM audit_cdc_internal.note_silent_change(
        one.object, 'renamed', format('%I.%I', one.before ->> 'schema', one.before ->> 'name'), excluded);
    END IF;
    IF one.is_revalued AND one.has_rows AND one.published_as IS NOT NULL THEN
      PERFORM audit_cdc_internal.note_silent_change(one.published_as, 'rewritten', left(whole, 1000), excluded);
    END IF;
    -- what is captured under the name of its root came into that table with its rows, or went out of it
    IF coalesce(one.has_rows, true) AND coalesce(one.published_as, one.lost_as)
                                        IS DISTINCT FROM coalesce(one.published_before, one.lost_before) THEN
      PERFORM audit_cdc_internal.note_silent_change(
        r.relation, r.reason, coalesce(one.after, one.before) ->> 'name', excluded)
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

CREATE FUNCTION audit_cdc_internal.record_rewrite(published_as oid, excluded oid[]) RETURNS void LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT audit_cdc_internal.note_silent_change(
    published_as, 'rewritten', left(audit_cdc_internal.kept_statement(), 1000), excluded);
END;

CREATE EVENT TRIGGER audit_cdc_schema_changes ON ddl_command_end
  -- PostgreSQL takes ALTER VIEW and its like for tables too
  WHEN TAG IN ('ALTER DOMAIN', 'ALTER EXTENSION', 'ALTER FOREIGN TABLE', 'ALTER INDEX', 'ALTER MATERIALIZED VIEW',
               'ALTER PUBLICATION', 'ALTER SCHEMA', 'ALTER SEQUENCE', 'ALTER TABLE', 'ALTER TYPE', 'ALTER VIEW',
               'CREATE FOREIGN TABLE', 'CREATE PUBLICATION', 'CREATE RULE', 'CREATE SCHEMA', 'CREATE TABLE',
               'CREATE TABLE AS', 'SELECT INTO')
  EXECUTE FUNCTION audit_cdc_internal.note_schema_change();
ALTER EVENT TRIGGER audit_cdc_schema_changes ENABLE ALWAYS;
CREATE EVENT TRIGGER audit_cdc_drops ON sql_drop
  EXECUTE FUNCTION audit_cdc_internal.note_schema_change();
ALTER EVENT TRIGGER audit_cdc_drops ENABLE ALWAYS;
CREATE EVENT TRIGGER audit_cdc_rewrites ON table_rewrite
  EXECUTE FUNCTION audit_cdc_internal.note_schema_change();
ALTER EVENT TRIGGER audit_cdc_rewrites ENABLE ALWAYS;
