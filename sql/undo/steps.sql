-- The steps of undo and redo: changes as statements, or why they cannot be. Rust decides it (crates/core/src/undo).

CREATE FUNCTION audit_cdc_internal.names_in(changes audit_cdc_internal.chosen[]) RETURNS text[]
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT array_agg(DISTINCT k.name)
  FROM unnest(changes) AS c
  CROSS JOIN LATERAL jsonb_object_keys(coalesce(c.old_row, '{}') || coalesce(c.new_row, '{}')) AS k(name);
END;

CREATE FUNCTION audit_cdc_internal.refuse_mixed(changes audit_cdc_internal.chosen[], databases text[]) RETURNS void
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF cardinality(databases) > 1 THEN
    RAISE EXCEPTION 'these are changes of several databases'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Name the database_id.';
  END IF;
  IF EXISTS (
    SELECT FROM (
      SELECT audit_cdc_internal.runs_backwards(
        c.commit_lsn, c.commit_timestamp, c.change_id, lag(c.commit_lsn) OVER place,
        lag(c.commit_timestamp) OVER place, lag(c.change_id) OVER place) AS runs_backwards
      FROM unnest(changes) AS c
      WINDOW place AS (ORDER BY c.commit_timestamp, c.commit_lsn, c.commit_idx, c.change_id)
    ) AS c
    WHERE c.runs_backwards
  ) THEN
    RAISE EXCEPTION 'these are changes from before and after the source was restored'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Take those after it, by time or one by one.';
  END IF;
END
$$;

CREATE FUNCTION audit_cdc_internal.say_doubts(changes audit_cdc_internal.chosen[], named audit_cdc_internal.named)
  RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM audit_cdc_internal.say_doubts(
    CASE
      WHEN named.database_id IS NOT NULL
        THEN (SELECT d.ids FROM audit_cdc_internal.databases_of(named.database_id) AS d)
    END,
    CASE
      WHEN changes <> '{}'
        THEN ARRAY(SELECT DISTINCT format('%I.%I', c.table_schema, c.table_name) FROM unnest(changes) AS c)
      WHEN named.table_name IS NOT NULL
        THEN ARRAY(
          SELECT DISTINCT format('%I.%I', t.table_schema, t.table_name)
          FROM audit_cdc_internal.audited_tables AS t
          WHERE named.table_name IN (
            t.table_name, format('%s.%s', t.table_schema, t.table_name),
            format('%I.%I', t.table_schema, t.table_name))
        )
    END,
    coalesce(named.database_id = audit_cdc_internal.this_database() ->> 'id', true), NULL, NULL, NULL, false);
  PERFORM audit_cdc_internal.say_if_unsettled(audit_cdc_internal.any_table(named.database_id), named.until);
END
$$;

-- Where a table last lost its name; null: it never did. What has the name now is another table.
CREATE FUNCTION audit_cdc_internal.last_loss(audited audit_cdc_internal.audited) RETURNS bigint[]
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT max(ARRAY[array_position(audited.databases, l.database_id), l.commit_lsn, l.commit_idx])
  FROM audit_cdc_internal.losses_of(audited) AS l;
END;

CREATE FUNCTION audit_cdc_internal.changes_named(is_redo boolean, named audit_cdc_internal.named)
  RETURNS audit_cdc_internal.chosen[]
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN CASE
    WHEN named.tables IS NOT NULL THEN ARRAY(SELECT t FROM audit_cdc_internal.tables_since(named) AS t)
    WHEN named.key IS NOT NULL THEN ARRAY(SELECT r FROM audit_cdc_internal.record_since(is_redo, named) AS r)
    ELSE ARRAY(
      SELECT c
      FROM audit_cdc_internal.chosen_lines(
        ARRAY(
          SELECT l
          FROM audit_cdc_internal.lines(
            named.change, named.table_name, named.username, named.request_id, named.commit_lsn, named.since,
            named.until, named.database_id, NULL, false, NULL) AS l
          WHERE l.action <> 'read'
        )) AS c
    )
  END;
END
$$;

-- The changes that are meant, and what of their tables matters, as planned() takes both. A position is of one
-- database, also where one goes on from another.
CREATE FUNCTION audit_cdc_internal.meant(
    is_redo boolean, named audit_cdc_internal.named, OUT tables text[], OUT changes text[])
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  own CONSTANT text[] := (SELECT o.ids FROM audit_cdc_internal.own_databases() AS o);
  chosen audit_cdc_internal.chosen[];
BEGIN
  PERFORM audit_cdc_internal.refuse_unfit(named);
  chosen := audit_cdc_internal.changes_named(is_redo, named);
  PERFORM audit_cdc_internal.refuse_mixed(
    chosen,
    ARRAY(
      SELECT DISTINCT CASE WHEN named.commit_lsn IS NULL AND c.database_id = ANY (own) THEN here ELSE c.database_id END
      FROM unnest(chosen) AS c
    ));
  PERFORM audit_cdc_internal.say_doubts(chosen, named);
  WITH facts AS MATERIALIZED (
    SELECT
      row_number() OVER () - 1 AS place, c.table_schema, c.table_name, c.id,
      a.databases, audit_cdc_internal.last_loss(a) AS last_loss,
      audit_cdc_internal.table_facts(
        a,
        CASE
          WHEN to_regclass(format('%I.%I', c.table_schema, c.table_name)) IS NULL
            THEN audit_cdc_internal.names_in(c.changes)
        END) AS facts
    FROM (
      SELECT c.table_schema, c.table_name, d.id, min(c.record_id) AS record_id, array_agg(c) AS changes
      FROM unnest(chosen) AS c
      CROSS JOIN LATERAL (SELECT CASE WHEN c.database_id = ANY (own) THEN here ELSE c.database_id END AS id) AS d
      GROUP BY c.table_schema, c.table_name, d.id
    ) AS c
    CROSS JOIN LATERAL audit_cdc_internal.table_named(
      format('%I.%I', c.table_schema, c.table_name), c.id, NULL, c.record_id) AS a
  )
  SELECT
    ARRAY(SELECT t.facts::text FROM facts AS t ORDER BY t.place),
    ARRAY(
      SELECT row_to_json(w)::text
      FROM (
        SELECT t.place AS "table", c.change_id, c.record_id, c.action, c.commit_lsn, c.commit_idx, c.old_row, c.new_row,
               c.unknown_old_columns, c.unknown_columns, c.not_sent_before,
               coalesce(c.doubt, CASE
                 WHEN c.commit_lsn > 0 -- it is not of a whole table
                   AND ARRAY[array_position(t.databases, c.database_id), c.commit_lsn, c.commit_idx] < t.last_loss
                   THEN 'its table was dropped or renamed since'
               END) AS doubt
        FROM unnest(chosen) AS c
        JOIN facts AS t
          ON (t.table_schema, t.table_name) = (c.table_schema, c.table_name)
          AND t.id = CASE WHEN c.database_id = ANY (own) THEN here ELSE c.database_id END
      ) AS w
    )
  INTO tables, changes;
END
$$;

-- A line a change. The statement of a set stands in its first line.
CREATE FUNCTION audit_cdc_internal.step_lines(
    step integer, table_name text, change_ids bigint[], record_ids text[], problem text, statement text, alone text[])
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, statement text, problem text)
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT $1, CASE WHEN c.id > 0 THEN c.id END, $2, c.record,
         CASE WHEN cardinality($7) > 0 THEN c.alone WHEN c.place = 1 THEN $6 END, $5
  FROM unnest($3, $4, $7) WITH ORDINALITY AS c(id, record, alone, place)
  ORDER BY c.place;
END;

CREATE FUNCTION @extschema@.audit_undo_sql(
    change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL,
    lsn pg_lsn DEFAULT NULL, commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL,
    username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, row_by_row boolean DEFAULT false, tables text[] DEFAULT NULL)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, statement text, problem text)
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.*
  FROM audit_cdc_internal.meant(false, ROW($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $13)) AS m
  CROSS JOIN LATERAL audit_cdc_internal.planned(false, m.tables, m.changes) AS s
  CROSS JOIN LATERAL audit_cdc_internal.step_lines(s.step, s.table_name, s.change_ids, s.record_ids, s.problem,
    s.statement, CASE WHEN row_by_row THEN s.alone END) AS l
  ORDER BY 1;
END;
COMMENT ON FUNCTION @extschema@.audit_undo_sql(
  bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean, text[]) IS
  'SQL that takes back changes of the log, in the order in which it is to be run. What: a change (id in audit_logs); '
  'a record (table_name, key) back to a moment (at or lsn), in one step; whole tables back to a moment; a transaction '
  '(commit_lsn); a request_id; a username''s changes from since up to, not including, until. What is given together '
  'must fit together; table_name and database_id narrow it down. A line a change; changes of one kind are one step, '
  'whose statement stands in its first line. row_by_row: each line has a statement of its own. A statement leaves '
  'alone each row that is not as the change left it, or if rows that refer to it would be taken along, or changed, '
  'which are not of those changes. problem: why a change cannot be undone (unknown values, a gap before that moment, '
  'columns that the table does not have any more); statement is null then. change_id: null for what became of a '
  'record since a moment, where whole tables are named. Reads are passed over. Errors: 22004 (nothing is named), 22023 '
  '(a key or tables without moment, a user without time range, changes of several databases, or from before and after '
  'a restore of the source).';

CREATE FUNCTION @extschema@.audit_redo_sql(
    change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL,
    lsn pg_lsn DEFAULT NULL, commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL,
    username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, row_by_row boolean DEFAULT false)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, statement text, problem text)
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.*
  FROM audit_cdc_internal.meant(true, ROW($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, NULL)) AS m
  CROSS JOIN LATERAL audit_cdc_internal.planned(true, m.tables, m.changes) AS s
  CROSS JOIN LATERAL audit_cdc_internal.step_lines(s.step, s.table_name, s.change_ids, s.record_ids, s.problem,
    s.statement, CASE WHEN row_by_row THEN s.alone END) AS l
  ORDER BY 1;
END;
COMMENT ON FUNCTION @extschema@.audit_redo_sql(
  bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean) IS
  'SQL that makes the same changes of the log once more, in their order: as audit_undo_sql(), each guarded by the '
  'row as the change found it. Of a record, what audit_undo() and audit_redo() did since is not made once more. '
  'Errors: as audit_undo_sql().';
