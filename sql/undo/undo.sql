-- Undo and redo, run: audit_undo() and audit_redo().

-- What is said of a change that is not done; null: it is.
CREATE FUNCTION audit_cdc_internal.run_alone(relation oid, statement text, lock text) RETURNS text
  LANGUAGE plpgsql AS $$
DECLARE
  met pg_catalog.int8;
BEGIN
  IF lock IS NOT NULL THEN
    BEGIN -- who refers to the row just now is waited for, so that the statement sees it
      PERFORM audit_cdc_internal.run_statement(relation, lock);
    EXCEPTION WHEN insufficient_privilege THEN NULL; -- who may delete and not update
    END;
  END IF;
  met := audit_cdc_internal.run_statement(relation, statement);
  RETURN CASE
    WHEN met OPERATOR(pg_catalog.=) 0 THEN 'conflict: the row was changed since, or others refer to it'
  END;
EXCEPTION
  WHEN integrity_constraint_violation THEN
    RETURN pg_catalog.format('conflict: %s', SQLERRM);
  WHEN data_exception THEN
    RETURN pg_catalog.format('conflict: a value is none of its type any more (SQLSTATE %s)', SQLSTATE);
  WHEN OTHERS THEN -- without the statement, which holds the row's values
    RAISE EXCEPTION '%', SQLERRM USING ERRCODE = SQLSTATE;
END
$$;

-- The same for a step: of each of its changes. Where one of a set cannot be done, each is done by itself.
CREATE FUNCTION audit_cdc_internal.run_step(
    relation oid, statement text, lock text, alone text[], alone_locks text[])
  RETURNS text[]
  LANGUAGE plpgsql AS $$
DECLARE
  said pg_catalog.text[] := '{}';
BEGIN
  IF pg_catalog.cardinality(alone) OPERATOR(pg_catalog.=) 0 THEN
    RETURN ARRAY[audit_cdc_internal.run_alone(relation, statement, lock)];
  END IF;
  BEGIN
    IF lock IS NOT NULL THEN
      BEGIN
        PERFORM audit_cdc_internal.run_statement(relation, lock);
      EXCEPTION WHEN insufficient_privilege THEN NULL;
      END;
    END IF;
    IF audit_cdc_internal.run_statement(relation, statement)
      OPERATOR(pg_catalog.=) pg_catalog.cardinality(alone) THEN
      RETURN pg_catalog.array_fill(NULL::pg_catalog.text, ARRAY[pg_catalog.cardinality(alone)]);
    END IF;
    RAISE EXCEPTION 'not all rows' USING ERRCODE = 'ZA002'; -- takes back what was done
  EXCEPTION
    WHEN SQLSTATE 'ZA002' OR integrity_constraint_violation OR data_exception THEN NULL;
    WHEN OTHERS THEN
      RAISE EXCEPTION '%', SQLERRM USING ERRCODE = SQLSTATE;
  END;
  FOR place IN 1 .. pg_catalog.cardinality(alone) LOOP
    said := pg_catalog.array_append(
      said, audit_cdc_internal.run_alone(relation, alone[place], alone_locks[place]));
  END LOOP;
  RETURN said;
END
$$;

-- Ends what SET CONSTRAINTS ALL DEFERRED began: checks now, and defers those that wait by themselves, of which the
-- caller may say so.
CREATE FUNCTION audit_cdc_internal.check_constraints() RETURNS void
  LANGUAGE plpgsql AS $$
BEGIN
  SET CONSTRAINTS ALL IMMEDIATE;
  EXECUTE coalesce(
    (
      SELECT pg_catalog.format(
        'SET CONSTRAINTS %s DEFERRED',
        pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', n.nspname, c.conname), ', '))
      FROM pg_catalog.pg_constraint AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.connamespace
      WHERE c.condeferred
        AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
        AND NOT pg_catalog.pg_is_other_temp_schema(n.oid)
      HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0
    ),
    'SELECT');
END
$$;

CREATE TYPE audit_cdc_internal.outcome AS (
  step integer,
  change_id bigint,
  of_table text,
  record_id text,
  said text -- null: it is done
);

-- Runs the steps with the caller's rights, or the table's owner's where the caller has them all.
CREATE FUNCTION audit_cdc_internal.run_planned(
    is_redo boolean, named audit_cdc_internal.named, tables text[], changes text[])
  RETURNS SETOF audit_cdc_internal.outcome
  LANGUAGE plpgsql AS $$
DECLARE
  one pg_catalog.record;
  said pg_catalog.text[];
  checked_at_once pg_catalog.bool := false;
  -- the caller has said which tables are written
  are_named CONSTANT pg_catalog.bool :=
    coalesce(named.table_name, named.tables[1], named.change::pg_catalog.text) IS NOT NULL;
  trusted pg_catalog.oid[] := '{}';
  -- foreign keys that the statements reckon with
  known CONSTANT pg_catalog.int8[] := ARRAY(
    SELECT (k.it OPERATOR(pg_catalog.->>) 'id')::pg_catalog.int8
    FROM pg_catalog.unnest(tables) AS t(facts)
    CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(
      t.facts::pg_catalog.jsonb OPERATOR(pg_catalog.->) 'referred') AS k(it));
BEGIN
  SET CONSTRAINTS ALL DEFERRED;
  FOR one IN SELECT * FROM audit_cdc_internal.planned(is_redo, tables, changes) LOOP
    IF one.problem IS NOT NULL THEN
      said := ARRAY[one.problem];
    ELSIF NOT are_named
      AND one.relation OPERATOR(pg_catalog.<>) ALL (trusted)
      AND audit_cdc_internal.runs_strangers_code(one.relation) THEN
      said := ARRAY['its table runs code of a role without these rights: name the table'];
    ELSIF one.relation OPERATOR(pg_catalog.<>) ALL (trusted)
      AND audit_cdc_internal.is_referred_since(one.relation, known) THEN
      said := ARRAY['another role''s table has come to refer to its table meanwhile: try again'];
    ELSE
      trusted := pg_catalog.array_append(trusted, one.relation);
      IF NOT checked_at_once AND audit_cdc_internal.is_run_as_owner(one.relation) THEN
        SET CONSTRAINTS ALL IMMEDIATE; -- nothing of the owner's may wait for the end of the caller's transaction
        checked_at_once := true;
      END IF;
      said := audit_cdc_internal.run_step(one.relation, one.statement, one.lock, one.alone, one.alone_locks);
    END IF;
    IF pg_catalog.cardinality(said) OPERATOR(pg_catalog.=) 1 THEN -- a row that went to another partition is two
      said := pg_catalog.array_fill(said[1], ARRAY[pg_catalog.cardinality(one.change_ids)]);
    END IF;
    RETURN QUERY
    SELECT one.step, c.id, one.table_name, c.record_id, c.said
    FROM ROWS FROM (
      pg_catalog.unnest(one.change_ids), pg_catalog.unnest(one.record_ids), pg_catalog.unnest(said)) AS
      c(id, record_id, said);
  END LOOP;
  PERFORM audit_cdc_internal.check_constraints();
END
$$;

-- Tells what an undo or redo came to that was taken back.
CREATE FUNCTION audit_cdc_internal.say_taken_back(
    done text, outcomes audit_cdc_internal.outcome[], preview boolean, began timestamptz) RETURNS void
  LANGUAGE plpgsql AS $$
DECLARE
  changes CONSTANT pg_catalog.int4 := pg_catalog.cardinality(outcomes);
  conflicts CONSTANT pg_catalog.int8 := (SELECT pg_catalog.count(o.said) FROM pg_catalog.unnest(outcomes) AS o);
BEGIN
  IF preview THEN
    RAISE NOTICE 'a preview: % of % changes can be %', changes OPERATOR(pg_catalog.-) conflicts, changes, done
      USING DETAIL = pg_catalog.format(
        'It took %s ms, and was taken back.',
        pg_catalog.round(
          EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) began)
          OPERATOR(pg_catalog.*) 1000));
  ELSE
    RAISE WARNING 'nothing was %: % of % changes cannot be', done, conflicts, changes
      USING HINT = 'despite_conflicts => true does the others.';
  END IF;
END
$$;

-- All or, with despite_conflicts, those that can be.
CREATE FUNCTION audit_cdc_internal.run_steps(
    is_redo boolean, despite_conflicts boolean, named audit_cdc_internal.named, preview boolean)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, outcome text)
  LANGUAGE plpgsql SET extra_float_digits = 1 SET array_nulls = on AS $$
#variable_conflict use_variable
DECLARE
  call CONSTANT pg_catalog.text := CASE WHEN is_redo THEN 'redo' ELSE 'undo' END;
  done pg_catalog.text := CASE WHEN is_redo THEN 'redone' ELSE 'undone' END;
  meant pg_catalog.record;
  outcomes audit_cdc_internal.outcome[];
  others pg_catalog.int8[]; -- changes that are done, whose rows are not as they should be
  in_force CONSTANT pg_catalog.text := @extschema@.audit_annotation_in_force(); -- without ours
  began CONSTANT pg_catalog.timestamptz := pg_catalog.clock_timestamp();
BEGIN
  IF preview IS NULL THEN
    RAISE EXCEPTION 'preview must not be null' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  SELECT * INTO meant FROM audit_cdc_internal.meant(is_redo, named);
  IF pg_catalog.cardinality(meant.changes) OPERATOR(pg_catalog.=) 0 THEN
    RAISE NOTICE 'nothing is to be %', done
      USING HINT = 'Only changes that the log has are taken, no backfilled rows, and without database_id those of '
                   'this database.';
  END IF;
  BEGIN
    PERFORM @extschema@.audit_annotate(
      NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.text,
      pg_catalog.jsonb_build_object(
        call,
        pg_catalog.jsonb_strip_nulls(
          pg_catalog.to_jsonb(named) OPERATOR(pg_catalog.-) 'database_id'::pg_catalog.text)),
      NULL::pg_catalog.jsonb);
    outcomes := ARRAY(
      SELECT o FROM audit_cdc_internal.run_planned(is_redo, named, meant.tables, meant.changes) AS o
    );
    PERFORM @extschema@.audit_tell_annotation(in_force);
    others := audit_cdc_internal.changes_that_differ(
      is_redo, meant.tables, meant.changes,
      ARRAY(SELECT o.change_id FROM pg_catalog.unnest(outcomes) AS o WHERE o.said IS NULL));
    IF preview
      OR despite_conflicts IS NOT TRUE
        AND EXISTS (SELECT FROM pg_catalog.unnest(outcomes) AS o WHERE o.said IS NOT NULL) THEN
      RAISE EXCEPTION 'not to be done' USING ERRCODE = 'ZA001'; -- takes back what was done
    END IF;
  EXCEPTION WHEN SQLSTATE 'ZA001' THEN
    PERFORM audit_cdc_internal.say_taken_back(done, outcomes, preview, began);
    done := pg_catalog.concat('could be ', done);
  END;
  RETURN QUERY
  SELECT o.step, CASE WHEN o.change_id OPERATOR(pg_catalog.>) 0 THEN o.change_id END, o.of_table, o.record_id,
         coalesce(
           o.said,
           done OPERATOR(pg_catalog.||) CASE
             WHEN o.change_id OPERATOR(pg_catalog.=) ANY (others) THEN '; a trigger has made another row of it'
             ELSE ''
           END)
  FROM pg_catalog.unnest(outcomes) AS o;
END
$$;

-- What other databases say is not run on tables that happen to be called alike, unless the caller says so.
CREATE FUNCTION audit_cdc_internal.or_here(database_id text) RETURNS text
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  RETURN coalesce(database_id, audit_cdc_internal.this_database() ->> 'id');

CREATE FUNCTION @extschema@.audit_undo(
    change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL,
    lsn pg_lsn DEFAULT NULL, commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL,
    username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, despite_conflicts boolean DEFAULT false, preview boolean DEFAULT false,
    tables text[] DEFAULT NULL)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, outcome text)
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT o.*
  FROM audit_cdc_internal.run_steps(
    false, despite_conflicts,
    ROW($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, audit_cdc_internal.or_here(database_id), tables),
    preview) AS o;
END;

CREATE FUNCTION @extschema@.audit_redo(
    change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL,
    lsn pg_lsn DEFAULT NULL, commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL,
    username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, despite_conflicts boolean DEFAULT false, preview boolean DEFAULT false)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, outcome text)
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT o.*
  FROM audit_cdc_internal.run_steps(
    true, despite_conflicts,
    ROW($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, audit_cdc_internal.or_here(database_id), NULL),
    preview) AS o;
END;
COMMENT ON FUNCTION @extschema@.audit_undo(
  bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean, boolean,
  text[]) IS
  'Runs what audit_undo_sql() with the same arguments gives, where the tables live in this database, in the '
  'caller''s transaction and with the caller''s rights on the tables, and tells what became of each change. A caller '
  'who has all rights of a table''s owner, such as a superuser, runs the statements as that owner, in a '
  'security-restricted operation, with constraints checked at once: SET ROLE to the owner where deferred ones are '
  'needed. database_id: null for this database''s own changes, as captured; if the tables of another one live here, '
  'its id. Annotates it: metadata has {"undo": what was named}; after it the annotation from before it is in force '
  'again. Code of a role without the rights that it would run with, such as a trigger of a stranger''s table, is a '
  'problem, unless the table or the change was named. If any change cannot be undone (a problem, a row that was '
  'changed since, a violated constraint), nothing is done, with a WARNING, unless despite_conflicts is true. Where '
  'triggers have made other rows of it, the outcome and a WARNING say so. preview: all is tried and taken back, but '
  'for numbers that sequences have given out, and a NOTICE tells how many changes can be undone. Deferrable '
  'constraints are checked at the end. Errors: as audit_undo_sql(), 22004 (preview is null), those of the statements '
  '(42501, 42P01, …), and 40001 (a table or a schema was renamed meanwhile).';
COMMENT ON FUNCTION @extschema@.audit_redo(
  bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean,
  boolean) IS
  'The same for audit_redo_sql(). It also makes undone what audit_undo() did: name the changes that were undone. '
  'Errors: as audit_undo().';
