-- The steps of undo and redo: each change as a statement, or why it cannot be.

-- A table that a foreign key would change along, and whose owner has not the rights of this one's: to look at its
-- rows would run that owner's code (types, casts, row security) with these rights.
CREATE FUNCTION audit_cdc_internal.stranger_along(target audit_cdc_internal.target, from_row jsonb, to_row jsonb)
  RETURNS text
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT min(c.conrelid::regclass::text)
  FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid JOIN pg_class AS t ON t.oid = c.confrelid
  WHERE c.contype = 'f' AND c.confrelid = target.relation AND from_row IS NOT NULL
    AND CASE WHEN to_row IS NULL THEN c.confdeltype IN ('c', 'n', 'd')
             ELSE c.confupdtype IN ('c', 'n', 'd') AND EXISTS (
               SELECT FROM pg_attribute AS a WHERE a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey)
                 AND from_row -> a.attname::text IS DISTINCT FROM to_row -> a.attname::text) END
    AND NOT pg_has_role(r.relowner, t.relowner, 'USAGE');
END;

CREATE FUNCTION audit_cdc_internal.why_not(
    change audit_cdc_internal.chosen, target audit_cdc_internal.target, is_redo boolean)
  RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  unknown text[] := CASE
    WHEN is_redo AND change.action = 'insert' THEN change.unknown_columns
    WHEN change.action IN ('update', 'delete') THEN change.unknown_old_columns
    ELSE '{}' END;
  from_row CONSTANT jsonb := CASE WHEN is_redo THEN change.old_row ELSE change.new_row END;
  to_row CONSTANT jsonb := CASE WHEN is_redo THEN change.new_row ELSE change.old_row END;
  gone text[];
  stranger text;
BEGIN
  IF change.action = 'truncate' THEN
    RETURN CASE
      WHEN is_redo THEN 'a truncate is not redone'
      ELSE 'a truncate is not undone: audit_as_of() gives the rows before it'
    END;
  END IF;
  IF change.action = 'complete' THEN
    RETURN 'a backfill did not meet it: how it ended is not in the log';
  END IF;
  IF change.table_schema IN ('pg_catalog', 'information_schema', 'pg_toast', 'audit_cdc_internal') THEN
    RETURN 'its table is one of the system';
  END IF;
  IF change.doubt IS NOT NULL THEN
    RETURN change.doubt;
  END IF;
  IF from_row IS NULL AND audit_cdc_internal.not_published(target) IS NOT NULL THEN
    RETURN audit_cdc_internal.not_published(target);
  END IF;
  IF change.old_row IS NOT NULL
      AND audit_cdc_internal.columns_in(target, change.old_row) = '{}'
      AND change.action = 'delete'
    OR change.new_row IS NOT NULL AND audit_cdc_internal.columns_in(target, change.new_row) = '{}' THEN
    RETURN 'nothing is known of the row';
  END IF;
  unknown := ARRAY(
    SELECT u
    FROM unnest(unknown) AS u
    WHERE u <> ALL (target.generated)
      AND (target.types = '{}' OR target.types ? u)
      -- what an update has not sent it has not changed
      AND (change.action <> 'update' OR change.new_row ? u)
  );
  IF unknown <> '{}' THEN
    RETURN format(
      '%s of %s unknown', CASE WHEN change.action = 'insert' THEN 'value' ELSE 'old value' END,
      array_to_string(unknown, ', '));
  END IF;
  IF change.action = 'update'
    AND change.record_id IS NOT NULL
    AND (change.not_sent_before && target.key_columns) IS NOT FALSE THEN
    RETURN 'old key unknown: it was not sent';
  END IF;
  gone := ARRAY(
    SELECT t.key
    FROM jsonb_each(to_row) AS t
    WHERE target.types <> '{}'
      AND NOT target.types ? t.key
      AND t.key <> ALL (target.generated)
      AND CASE WHEN from_row IS NULL THEN t.value <> 'null' ELSE from_row -> t.key IS DISTINCT FROM t.value END
    ORDER BY t.key
  );
  stranger := audit_cdc_internal.stranger_along(target, from_row, to_row);
  IF stranger IS NOT NULL THEN
    RETURN format('rows of %s may go along, and its owner lacks the rights of the table''s owner', stranger);
  END IF;
  IF gone <> '{}' THEN
    RETURN format('the table does not have %s any more', array_to_string(gone, ', '));
  END IF;
  RETURN NULL;
END
$$;

CREATE FUNCTION audit_cdc_internal.steps(
    is_redo boolean, of_change bigint, of_table text, key text, at timestamptz, lsn pg_lsn, of_commit bigint,
    of_request text, of_user text, since timestamptz, until timestamptz, of_database text,
    OUT step integer, OUT change_id bigint, OUT table_name text, OUT record_id text, OUT statement text,
    OUT problem text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
  changes CONSTANT audit_cdc_internal.chosen[] := ARRAY(
    SELECT c
    FROM audit_cdc_internal.chosen(
      is_redo, of_change, of_table, key, at, lsn, of_commit, of_request, of_user, since, until, of_database) AS c
  );
  waits CONSTANT audit_cdc_internal.wait[] := ARRAY(SELECT w FROM audit_cdc_internal.waits(changes, is_redo) AS w);
  here CONSTANT text := audit_cdc_internal.this_database() ->> 'id';
  own CONSTANT text[] := (SELECT o.ids FROM audit_cdc_internal.own_databases() AS o);
BEGIN
  -- a position is of one database, also where one goes on from another
  IF (
    SELECT count(DISTINCT CASE WHEN of_commit IS NULL AND c.database_id = ANY (own) THEN here ELSE c.database_id END)
    FROM unnest(changes) AS c
  ) > 1 THEN
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
  PERFORM audit_cdc_internal.say_doubts(
    CASE
      WHEN of_database IS NOT NULL THEN (SELECT d.ids FROM audit_cdc_internal.databases_of(of_database) AS d)
    END,
    CASE
      WHEN changes <> '{}'
        THEN ARRAY(SELECT DISTINCT format('%I.%I', c.table_schema, c.table_name) FROM unnest(changes) AS c)
      WHEN of_table IS NOT NULL
        THEN ARRAY(
          SELECT DISTINCT format('%I.%I', t.table_schema, t.table_name)
          FROM audit_cdc_internal.audited_tables AS t
          WHERE of_table IN (
            t.table_name, format('%s.%s', t.table_schema, t.table_name),
            format('%I.%I', t.table_schema, t.table_name))
        )
    END,
    of_database IS NULL OR of_database = here, NULL, NULL, NULL, false);
  PERFORM audit_cdc_internal.say_if_unsettled(audit_cdc_internal.any_table(of_database), until);
  RETURN QUERY
  WITH RECURSIVE targets AS MATERIALIZED (
    SELECT
      c.table_schema, c.table_name,
      audit_cdc_internal.target_of(
        audit_cdc_internal.table_named(
          format('%I.%I', c.table_schema, c.table_name), d.id, NULL, min(c.record_id))) AS target
    FROM unnest(changes) AS c
    CROSS JOIN LATERAL (SELECT CASE WHEN c.database_id = ANY (own) THEN here ELSE c.database_id END AS id) AS d
    GROUP BY c.table_schema, c.table_name, d.id
  ), ordered AS MATERIALIZED (
    SELECT row_number() OVER () AS place, c FROM audit_cdc_internal.in_order(changes, waits, is_redo) AS c
  ), to_do AS MATERIALIZED (
    SELECT d.place, (d.c).change_id, (d.c).record_id, t.target,
           audit_cdc_internal.why_not(d.c, t.target, is_redo) AS problem,
           CASE WHEN is_redo THEN r.old_row ELSE r.new_row END AS from_row,
           CASE WHEN is_redo THEN r.new_row ELSE r.old_row END AS to_row
    FROM ordered AS d
    JOIN targets AS t ON (t.table_schema, t.table_name) = ((d.c).table_schema, (d.c).table_name)
    LEFT JOIN audit_cdc_internal.at_once(changes, waits) AS o ON o.change_id = (d.c).change_id
    CROSS JOIN LATERAL (
      SELECT CASE WHEN o.change_id IS NULL THEN (d.c).old_row ELSE o.old_row END AS old_row,
             CASE WHEN o.change_id IS NULL THEN (d.c).new_row ELSE o.new_row END AS new_row
    ) AS r
  ), cascades AS MATERIALIZED (
    SELECT DISTINCT w.earlier, w.later, w.foreign_key
    FROM unnest(waits) AS w
    WHERE w.is_cascade AND NOT w.is_same_row
  ), meant AS ( -- the rows that a foreign key is to change along
    SELECT m.earlier, jsonb_object_agg(m.relation, m.rows) AS rows
    FROM (
      SELECT
        w.earlier, (t.target).relation,
        string_agg(
          DISTINCT audit_cdc_internal.is_row(
            t.target, t.from_row, audit_cdc_internal.columns_in(t.target, t.from_row)),
          ' OR ') AS rows
      FROM cascades AS w
      JOIN to_do AS t ON t.change_id = w.later
      WHERE t.problem IS NULL
      GROUP BY w.earlier, (t.target).relation
    ) AS m
    GROUP BY m.earlier
  ), numbers AS (
    SELECT n.earlier, jsonb_object_agg(n.foreign_key, n.number) AS numbers
    FROM (
      SELECT w.earlier, w.foreign_key, count(*) AS number
      FROM cascades AS w
      JOIN to_do AS t ON t.change_id = w.later
      WHERE (t.target).key_columns = '{}'
      GROUP BY w.earlier, w.foreign_key
    ) AS n
    GROUP BY n.earlier
  ), guards AS MATERIALIZED (
    SELECT t.change_id, audit_cdc_internal.referring(t.target, t.from_row, t.to_row, m.rows, n.numbers) AS guard
    FROM to_do AS t
    LEFT JOIN meant AS m ON m.earlier = t.change_id
    LEFT JOIN numbers AS n ON n.earlier = t.change_id
    WHERE t.problem IS NULL AND t.from_row IS NOT NULL
  ), reached AS ( -- what it changes along may take others along
    SELECT w.earlier AS change_id, w.later
    FROM cascades AS w
    UNION
    SELECT r.change_id, w.later
    FROM reached AS r
    JOIN cascades AS w ON w.earlier = r.later
  ), statements AS (
    SELECT
      t.*,
      CASE
        WHEN t.problem IS NULL
          THEN audit_cdc_internal.statement(
            t.target, t.from_row, t.to_row,
            t.change_id IN (SELECT w.later FROM unnest(waits) AS w WHERE w.is_cascade OR w.is_same_row),
            concat(
              g.guard,
              (
                SELECT string_agg(DISTINCT a.guard, '')
                FROM reached AS r
                JOIN guards AS a ON a.change_id = r.later
                WHERE r.change_id = t.change_id AND a.guard IS DISTINCT FROM g.guard
              )))
      END AS statement
    FROM to_do AS t
    LEFT JOIN guards AS g ON g.change_id = t.change_id
  )
  SELECT (row_number() OVER (ORDER BY s.place))::integer, s.change_id, (s.target).name, s.record_id, s.statement,
         s.problem
  FROM statements AS s
  WHERE s.problem IS NOT NULL
    OR s.statement IS NOT NULL -- otherwise it changed nothing
  ORDER BY s.place;
END
$$;

CREATE FUNCTION @extschema@.audit_undo_sql(
    change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL,
    lsn pg_lsn DEFAULT NULL, commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL,
    username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, statement text, problem text)
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT s.step, s.change_id, s.table_name, s.record_id, s.statement, s.problem
  FROM audit_cdc_internal.steps(false, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS s;
END;
COMMENT ON FUNCTION @extschema@.audit_undo_sql(
  bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text) IS
  'SQL that takes back changes of the log, in the order in which it is to be run. What: a change (id in audit_logs); '
  'a record (table_name, key) back to a moment (at or lsn), in one step; a transaction (commit_lsn); a request_id; a '
  'username''s changes from since up to, not including, until. What is given together must fit together; table_name '
  'and database_id narrow it down. Each statement changes nothing if the row is not as the change left it, or if '
  'rows that refer to it would be taken along, or changed, which are not of those changes. problem: why a change '
  'cannot be undone (unknown values, a gap before that moment, columns that the table does not have any more); '
  'statement is null then. Reads are passed over. Errors: 22004 (nothing is named), 22023 (a key without moment, a '
  'user without time range, changes of several databases, or from before and after a restore of the source).';

CREATE FUNCTION @extschema@.audit_redo_sql(
    change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL,
    lsn pg_lsn DEFAULT NULL, commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL,
    username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, statement text, problem text)
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT s.step, s.change_id, s.table_name, s.record_id, s.statement, s.problem
  FROM audit_cdc_internal.steps(true, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS s;
END;
COMMENT ON FUNCTION @extschema@.audit_redo_sql(
  bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text) IS
  'SQL that makes the same changes of the log once more, in their order: as audit_undo_sql(), each guarded by the '
  'row as the change found it. Of a record, what audit_undo() and audit_redo() did since is not made once more. '
  'Errors: as audit_undo_sql().';
