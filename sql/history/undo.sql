-- Undo and redo: changes of the log as statements, in the right order, and run.
--
-- * Undo goes backwards through positions, redo forwards: so each statement meets the rows that the change left, or found.
-- * But what a foreign key did by itself (ON DELETE CASCADE and its kin) stands after the change of the row that was referred to: there the
--   order is that in which no row refers to one that is not there.

CREATE TYPE audit_cdc_internal.chosen AS (
  change_id bigint, table_schema text, table_name text, record_id text, database_id text, action text,
  commit_lsn bigint, commit_idx integer, old_row jsonb, new_row jsonb, unknown_old_columns text[], unknown_columns text[]
);

-- The changes that are meant.
CREATE FUNCTION audit_cdc_internal.chosen(of_change bigint, of_table text, key text, at timestamptz, lsn pg_lsn, of_commit bigint, of_request text, of_user text,
    since timestamptz, until timestamptz, of_database text) RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  audited audit_cdc_internal.audited;
  position bigint;
BEGIN
  IF key IS NOT NULL THEN
    IF of_table IS NULL OR (chosen.at IS NULL) = (chosen.lsn IS NULL) THEN
      RAISE EXCEPTION 'a record is taken back to a moment' USING ERRCODE = 'invalid_parameter_value', HINT = 'With key, name table_name and either at or lsn.';
    END IF;
    audited := audit_cdc_internal.table_named(of_table, of_database, NULL, key);
    IF audited IS NULL THEN
      RETURN;
    END IF;
    position := (SELECT m.last_lsn FROM audit_cdc_internal.moment(audited.database_id, chosen.at, chosen.lsn) AS m);
    RETURN QUERY SELECT l.id, l.table_schema, l.table_name, l.record_id, l.database_id, l.action, l.commit_lsn, l.commit_idx, l.old_row, l.new_row, l.unknown_old_columns, l.unknown_columns
    FROM audit_cdc_internal.record_lines(audited, key) AS l WHERE l.commit_lsn > coalesce(position, 0) AND l.action <> 'read';
  ELSE
    IF of_change IS NULL AND of_commit IS NULL AND of_request IS NULL AND of_user IS NULL THEN
      RAISE EXCEPTION 'no change, record, transaction, request or user is given' USING ERRCODE = 'null_value_not_allowed',
        HINT = 'Name a change, a table and a key with a moment, a commit_lsn, a request_id, or a username with since and until.';
    END IF;
    IF of_user IS NOT NULL AND of_commit IS NULL AND of_request IS NULL AND (since IS NULL OR until IS NULL) THEN
      RAISE EXCEPTION 'a user''s changes are taken of a time range' USING ERRCODE = 'invalid_parameter_value', HINT = 'With username, give since and until.';
    END IF;
    RETURN QUERY SELECT l.id, l.table_schema, l.table_name, l.record_id, l.database_id, l.action, l.commit_lsn, l.commit_idx, l.old_row, l.new_row, l.unknown_old_columns, l.unknown_columns
    FROM audit_cdc_internal.lines(of_change, of_table, of_user, of_request, of_commit, since, until, of_database, NULL, false, NULL) AS l WHERE l.action <> 'read';
  END IF;
END
$$;

-- The values of these columns of a row; null if it has not all of them.
CREATE FUNCTION audit_cdc_internal.values_of(image jsonb, relation oid, columns smallint[]) RETURNS jsonb
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT CASE WHEN bool_and(image -> a.attname::text <> 'null') AND count(image -> a.attname::text) = cardinality(columns) THEN jsonb_agg(image -> a.attname::text ORDER BY u.place) END
  FROM unnest(columns) WITH ORDINALITY AS u(number, place) JOIN pg_attribute AS a ON a.attrelid = relation AND a.attnum = u.number;
END;

-- Which change waits for which: a row for the one that it will refer to, a row that goes for those that refer to it. is_cascade: ON UPDATE CASCADE will
-- have done it.
CREATE FUNCTION audit_cdc_internal.waits(changes audit_cdc_internal.chosen[], is_redo boolean, OUT later bigint, OUT earlier bigint, OUT is_cascade boolean) RETURNS SETOF record
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH sides AS (
    SELECT c.change_id, c.commit_lsn, to_regclass(format('%I.%I', c.table_schema, c.table_name))::oid AS relation,
           CASE WHEN is_redo THEN c.old_row ELSE c.new_row END AS from_row, CASE WHEN is_redo THEN c.new_row ELSE c.old_row END AS to_row
    FROM unnest(changes) AS c
  ), children AS MATERIALIZED (
    SELECT k.oid AS foreign_key, s.change_id, s.commit_lsn, audit_cdc_internal.values_of(s.from_row, k.conrelid, k.conkey) AS from_values, audit_cdc_internal.values_of(s.to_row, k.conrelid, k.conkey) AS to_values
    FROM sides AS s JOIN pg_constraint AS k ON k.conrelid = s.relation AND k.contype = 'f'
  ), parents AS MATERIALIZED (
    SELECT k.oid AS foreign_key, s.change_id, s.commit_lsn, audit_cdc_internal.values_of(s.from_row, k.confrelid, k.confkey) AS from_values, audit_cdc_internal.values_of(s.to_row, k.confrelid, k.confkey) AS to_values,
           s.to_row IS NULL AS is_to_go
    FROM sides AS s JOIN pg_constraint AS k ON k.confrelid = s.relation AND k.contype = 'f'
  )
  SELECT c.change_id, p.change_id, coalesce(c.from_values = p.from_values, false) FROM children AS c
  JOIN parents AS p ON p.foreign_key = c.foreign_key AND p.commit_lsn = c.commit_lsn AND p.to_values = c.to_values
  WHERE p.change_id <> c.change_id AND p.from_values IS DISTINCT FROM p.to_values
  UNION
  SELECT p.change_id, c.change_id, false FROM children AS c
  JOIN parents AS p ON p.foreign_key = c.foreign_key AND p.commit_lsn = c.commit_lsn AND p.from_values = c.from_values
  WHERE p.change_id <> c.change_id AND p.is_to_go AND c.to_values IS DISTINCT FROM p.from_values;
END;

-- In the order in which they are to be undone or redone.
CREATE FUNCTION audit_cdc_internal.in_order(changes audit_cdc_internal.chosen[], is_redo boolean) RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  direction CONSTANT integer := CASE WHEN is_redo THEN 1 ELSE -1 END;
BEGIN
  RETURN QUERY
  WITH RECURSIVE waits AS (
    SELECT w.later, w.earlier FROM audit_cdc_internal.waits(changes, is_redo) AS w
    JOIN unnest(changes) AS l ON l.change_id = w.later JOIN unnest(changes) AS e ON e.change_id = w.earlier
    WHERE (e.commit_idx - l.commit_idx) * direction > 0 -- it would come too late
  ), delayed AS (
    SELECT w.later, w.earlier, 1 AS depth FROM waits AS w
    UNION
    SELECT d.later, w.earlier, d.depth + 1 FROM delayed AS d JOIN waits AS w ON w.later = d.earlier WHERE d.depth < 100
  ), behind AS (
    SELECT d.later, max(d.depth) AS depth, max(e.commit_idx * direction) AS place FROM delayed AS d JOIN unnest(changes) AS e ON e.change_id = d.earlier GROUP BY d.later
  )
  SELECT c.* FROM unnest(changes) AS c LEFT JOIN behind AS b ON b.later = c.change_id
  ORDER BY c.commit_lsn * direction, coalesce(b.place, c.commit_idx * direction), coalesce(b.depth, 0), c.commit_idx * direction, c.change_id * direction;
END
$$;

CREATE FUNCTION audit_cdc_internal.why_not(change audit_cdc_internal.chosen, target audit_cdc_internal.target, is_redo boolean) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  unknown text[] := CASE
    WHEN is_redo AND change.action = 'insert' THEN change.unknown_columns
    WHEN change.action IN ('update', 'delete') THEN change.unknown_old_columns
    ELSE '{}' END;
BEGIN
  IF change.action = 'truncate' THEN
    RETURN CASE WHEN is_redo THEN 'a truncate is not redone' ELSE 'a truncate is not undone: audit_as_of() gives the rows before it' END;
  END IF;
  IF change.table_schema IN ('pg_catalog', 'information_schema', 'pg_toast', 'audit_cdc_internal') THEN
    RETURN 'its table is one of the system';
  END IF;
  IF change.old_row IS NOT NULL AND audit_cdc_internal.columns_in(target, change.old_row) = '{}' AND change.action = 'delete'
     OR change.new_row IS NOT NULL AND audit_cdc_internal.columns_in(target, change.new_row) = '{}' THEN
    RETURN 'nothing is known of the row';
  END IF;
  unknown := ARRAY(SELECT u FROM unnest(unknown) AS u
                   WHERE u <> ALL (target.generated) AND (target.types = '{}' OR target.types ? u)
                     AND (change.action <> 'update' OR change.new_row ? u)); -- what an update has not sent it has not changed
  IF unknown <> '{}' THEN
    RETURN format('%s of %s unknown', CASE WHEN change.action = 'insert' THEN 'value' ELSE 'old value' END, array_to_string(unknown, ', '));
  END IF;
  RETURN NULL;
END
$$;

CREATE FUNCTION audit_cdc_internal.steps(is_redo boolean, of_change bigint, of_table text, key text, at timestamptz, lsn pg_lsn, of_commit bigint, of_request text, of_user text,
    since timestamptz, until timestamptz, of_database text,
    OUT step integer, OUT change_id bigint, OUT table_name text, OUT record_id text, OUT statement text, OUT problem text)
  RETURNS SETOF record LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_variable
DECLARE
  changes CONSTANT audit_cdc_internal.chosen[] := ARRAY(
    SELECT c FROM audit_cdc_internal.chosen(of_change, of_table, key, at, lsn, of_commit, of_request, of_user, since, until, of_database) AS c);
  cascades CONSTANT bigint[] := ARRAY(SELECT w.later FROM audit_cdc_internal.waits(changes, is_redo) AS w WHERE w.is_cascade);
  change audit_cdc_internal.chosen;
  audited audit_cdc_internal.audited;
  target audit_cdc_internal.target;
  from_row jsonb;
  to_row jsonb;
BEGIN
  IF (SELECT count(DISTINCT c.database_id) FROM unnest(changes) AS c) > 1 THEN
    RAISE EXCEPTION 'these are changes of several databases' USING ERRCODE = 'invalid_parameter_value', HINT = 'Name the database_id.';
  END IF;
  step := 0;
  FOR change IN SELECT * FROM audit_cdc_internal.in_order(changes, is_redo) LOOP
    IF (audited.table_schema, audited.table_name) IS DISTINCT FROM (change.table_schema, change.table_name) THEN
      audited := audit_cdc_internal.table_named(format('%I.%I', change.table_schema, change.table_name), change.database_id, NULL, change.record_id);
      target := audit_cdc_internal.target_of(audited);
    END IF;
    from_row := CASE WHEN is_redo THEN change.old_row ELSE change.new_row END;
    to_row := CASE WHEN is_redo THEN change.new_row ELSE change.old_row END;
    change_id := change.change_id;
    table_name := target.name;
    record_id := change.record_id;
    problem := audit_cdc_internal.why_not(change, target, is_redo);
    statement := CASE WHEN problem IS NULL THEN audit_cdc_internal.statement(target, from_row, to_row, change.change_id = ANY (cascades)) END;
    CONTINUE WHEN problem IS NULL AND statement IS NULL; -- it changed nothing
    step := step + 1;
    RETURN NEXT;
  END LOOP;
END
$$;

CREATE FUNCTION @extschema@.audit_undo_sql(change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL, username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, statement text, problem text) LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT s.step, s.change_id, s.table_name, s.record_id, s.statement, s.problem FROM audit_cdc_internal.steps(false, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS s;
END;
COMMENT ON FUNCTION @extschema@.audit_undo_sql(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text) IS
'SQL that takes back changes of the log, in the order in which it is to be run. What: a change (id in audit_logs); a record (table_name, key) back to a moment (at or lsn); a transaction (commit_lsn); a request_id; a username''s changes from since up to, not including, until. What is given together must fit together; table_name and database_id narrow it down. Each statement changes nothing if the row is not as the change left it, or if a delete would take rows along that refer to it. problem: why a change cannot be undone; statement is null then. Reads are passed over. Errors: 22004 (nothing is named), 22023 (a key without moment, a user without time range, changes of several databases).';

CREATE FUNCTION @extschema@.audit_redo_sql(change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL, username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, database_id text DEFAULT NULL)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, statement text, problem text) LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT s.step, s.change_id, s.table_name, s.record_id, s.statement, s.problem FROM audit_cdc_internal.steps(true, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS s;
END;
COMMENT ON FUNCTION @extschema@.audit_redo_sql(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text) IS
'SQL that makes the same changes of the log once more, in their order: as audit_undo_sql(), each guarded by the row as the change found it.';

-- Runs the steps with the caller's rights, all or, with despite_conflicts, those that can be.
CREATE FUNCTION audit_cdc_internal.run_steps(is_redo boolean, despite_conflicts boolean, what jsonb, of_change bigint, of_table text, of_key text, of_at timestamptz, of_lsn pg_lsn,
    of_commit bigint, of_request text, of_user text, of_since timestamptz, of_until timestamptz, of_database text)
  RETURNS TABLE (step integer, change_id bigint, of_table_name text, record_id text, outcome text) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
  call CONSTANT pg_catalog.text := CASE WHEN is_redo THEN 'redo' ELSE 'undo' END;
  done pg_catalog.text := CASE WHEN is_redo THEN 'redone' ELSE 'undone' END;
  one pg_catalog.record;
  said pg_catalog.text;
  count pg_catalog.int8;
  conflicts pg_catalog.int8 := 0;
  outcomes pg_catalog.jsonb[] := '{}';
BEGIN
  BEGIN
    PERFORM @extschema@.audit_annotate(metadata => pg_catalog.jsonb_build_object(call, what));
    SET CONSTRAINTS ALL DEFERRED;
    FOR one IN EXECUTE pg_catalog.format('SELECT * FROM @extschema@.%I($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)', pg_catalog.concat('audit_', call, '_sql'))
               USING of_change, of_table, of_key, of_at, of_lsn, of_commit, of_request, of_user, of_since, of_until, of_database
    LOOP
      said := one.problem;
      IF said IS NULL THEN
        BEGIN
          EXECUTE one.statement;
          GET DIAGNOSTICS count = ROW_COUNT;
          said := CASE WHEN count OPERATOR(pg_catalog.=) 0 THEN 'conflict: the row was changed since, or others refer to it' END;
        EXCEPTION
          WHEN integrity_constraint_violation THEN
            said := pg_catalog.format('conflict: %s', SQLERRM);
          WHEN OTHERS THEN -- without the statement, which holds the row's values
            RAISE EXCEPTION '%', SQLERRM USING ERRCODE = SQLSTATE;
        END;
      END IF;
      IF said IS NOT NULL THEN
        conflicts := conflicts OPERATOR(pg_catalog.+) 1;
      END IF;
      outcomes := pg_catalog.array_append(outcomes, pg_catalog.jsonb_build_object('step', one.step, 'change_id', one.change_id, 'of_table', one.of_table, 'record_id', one.record_id, 'said', said));
    END LOOP;
    IF outcomes OPERATOR(pg_catalog.=) '{}' THEN
      RAISE NOTICE 'nothing is to be %', done USING HINT = 'Without database_id, only changes of this database are taken.';
    END IF;
    SET CONSTRAINTS ALL IMMEDIATE;
    EXECUTE coalesce((SELECT pg_catalog.format('SET CONSTRAINTS %s DEFERRED', pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', n.nspname, c.conname), ', '))
                      FROM pg_catalog.pg_constraint AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.connamespace
                      WHERE c.condeferred HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0), 'SELECT');
    IF conflicts OPERATOR(pg_catalog.>) 0 AND despite_conflicts IS NOT TRUE THEN
      RAISE EXCEPTION 'conflicts' USING ERRCODE = 'ZA001'; -- takes back what was done
    END IF;
  EXCEPTION WHEN SQLSTATE 'ZA001' THEN
    RAISE WARNING 'nothing was %: % of % changes cannot be', done, conflicts, pg_catalog.cardinality(outcomes)
      USING HINT = 'despite_conflicts => true does the others.';
    done := pg_catalog.concat('could be ', done);
  END;
  RETURN QUERY
  SELECT (o OPERATOR(pg_catalog.->>) 'step')::pg_catalog.int4, (o OPERATOR(pg_catalog.->>) 'change_id')::pg_catalog.int8, o OPERATOR(pg_catalog.->>) 'of_table', o OPERATOR(pg_catalog.->>) 'record_id',
         coalesce(o OPERATOR(pg_catalog.->>) 'said', done)
  FROM pg_catalog.unnest(outcomes) AS o;
END
$$;

-- What other databases say is not run on tables that happen to be called alike, unless the caller says so.
CREATE FUNCTION audit_cdc_internal.or_here(database_id text) RETURNS text
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  RETURN coalesce(database_id, audit_cdc_internal.this_database() ->> 'id');

CREATE FUNCTION @extschema@.audit_undo(change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL, username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, database_id text DEFAULT NULL,
    despite_conflicts boolean DEFAULT false)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, outcome text) LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT o.* FROM audit_cdc_internal.run_steps(false, despite_conflicts, jsonb_strip_nulls(jsonb_build_object('change', change, 'table_name', table_name, 'key', key, 'at', at, 'lsn', lsn,
    'commit_lsn', commit_lsn, 'request_id', request_id, 'username', username, 'since', since, 'until', until)), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, audit_cdc_internal.or_here(database_id)) AS o;
END;

CREATE FUNCTION @extschema@.audit_redo(change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL, lsn pg_lsn DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL, username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, database_id text DEFAULT NULL,
    despite_conflicts boolean DEFAULT false)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, outcome text) LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT o.* FROM audit_cdc_internal.run_steps(true, despite_conflicts, jsonb_strip_nulls(jsonb_build_object('change', change, 'table_name', table_name, 'key', key, 'at', at, 'lsn', lsn,
    'commit_lsn', commit_lsn, 'request_id', request_id, 'username', username, 'since', since, 'until', until)), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, audit_cdc_internal.or_here(database_id)) AS o;
END;
COMMENT ON FUNCTION @extschema@.audit_undo(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean) IS
'Runs what audit_undo_sql() with the same arguments gives, where the tables live in this database, in the caller''s transaction and with the caller''s rights on the tables, and tells what became of each change. database_id: null for this database''s own changes, as captured; if the tables of another one live here, its id. Annotates it: metadata has {"undo": what was named}. If any change cannot be undone (a problem, a row that was changed since, a violated constraint), nothing is done, with a WARNING, unless despite_conflicts is true. Deferrable constraints are checked at the end. Errors: as audit_undo_sql(), and those of the statements (42501, 42P01, …).';
COMMENT ON FUNCTION @extschema@.audit_redo(bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean) IS
'The same for audit_redo_sql(). It also makes undone what audit_undo() did: name the changes that were undone.';
