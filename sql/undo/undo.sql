-- Undo and redo, run: audit_undo() and audit_redo().

-- Runs the steps with the caller's rights, or the table's owner's where the caller has them all; all or, with
-- despite_conflicts, those that can be.
CREATE FUNCTION audit_cdc_internal.run_steps(
    is_redo boolean, despite_conflicts boolean, what jsonb, of_change bigint, of_table text, of_key text,
    of_at timestamptz, of_lsn pg_lsn, of_commit bigint, of_request text, of_user text, of_since timestamptz,
    of_until timestamptz, of_database text)
  RETURNS TABLE (step integer, change_id bigint, of_table_name text, record_id text, outcome text)
  LANGUAGE plpgsql SET extra_float_digits = 1 SET array_nulls = on AS $$
#variable_conflict use_variable
DECLARE
  call CONSTANT pg_catalog.text := CASE WHEN is_redo THEN 'redo' ELSE 'undo' END;
  done pg_catalog.text := CASE WHEN is_redo THEN 'redone' ELSE 'undone' END;
  one pg_catalog.record;
  said pg_catalog.text;
  relation pg_catalog.oid;
  checked_at_once pg_catalog.bool := false;
  count pg_catalog.int8;
  conflicts pg_catalog.int8 := 0;
  outcomes pg_catalog.jsonb[] := '{}';
  in_force pg_catalog.jsonb; -- without ours
  others pg_catalog.jsonb; -- of its members, those without a parameter of their own
BEGIN
  BEGIN
    in_force := @extschema@.audit_annotate(
        NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.text,
        pg_catalog.jsonb_build_object(call, what), NULL::pg_catalog.jsonb)
      OPERATOR(pg_catalog.#-) ARRAY['metadata', call];
    SET CONSTRAINTS ALL DEFERRED;
    FOR one IN EXECUTE pg_catalog.format(
      'SELECT * FROM @extschema@.%I($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)',
      pg_catalog.concat('audit_', call, '_sql'))
      USING of_change, of_table, of_key, of_at, of_lsn, of_commit, of_request, of_user, of_since, of_until,
        of_database
    LOOP
      said := one.problem;
      IF said IS NULL THEN
        BEGIN
          relation := pg_catalog.to_regclass(pg_catalog.regexp_replace(one.of_table, '^ONLY ', ''));
          IF NOT checked_at_once AND audit_cdc_internal.is_run_as_owner(relation) THEN
            SET CONSTRAINTS ALL IMMEDIATE; -- nothing of the owner's may wait for the end of the caller's transaction
            checked_at_once := true;
          END IF;
          IF pg_catalog.starts_with(one.statement, 'DELETE FROM ') THEN
            BEGIN -- who refers to the row just now is waited for, so that the statement sees it
              PERFORM audit_cdc_internal.run_statement(
                relation,
                pg_catalog.concat(
                  'SELECT',
                  pg_catalog.substr(one.statement, 7, pg_catalog.length(one.statement) OPERATOR(pg_catalog.-) 7),
                  ' FOR UPDATE'));
            EXCEPTION WHEN insufficient_privilege THEN NULL; -- who may delete and not update
            END;
          END IF;
          count := audit_cdc_internal.run_statement(relation, one.statement);
          said := CASE
            WHEN count OPERATOR(pg_catalog.=) 0 THEN 'conflict: the row was changed since, or others refer to it'
          END;
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
      outcomes := pg_catalog.array_append(
        outcomes,
        pg_catalog.jsonb_build_object(
          'step', one.step, 'change_id', one.change_id, 'of_table', one.of_table, 'record_id', one.record_id,
          'said', said));
    END LOOP;
    -- what comes later in the transaction is not of the undo
    PERFORM @extschema@.audit_annotate_clear();
    IF in_force OPERATOR(pg_catalog.<>) '{"metadata": {}}' THEN
      others := in_force OPERATOR(pg_catalog.-) ARRAY['username', 'source', 'request_id', 'metadata'];
      PERFORM @extschema@.audit_annotate(
        in_force OPERATOR(pg_catalog.->>) 'username', in_force OPERATOR(pg_catalog.->>) 'source',
        in_force OPERATOR(pg_catalog.->>) 'request_id',
        CASE
          WHEN in_force OPERATOR(pg_catalog.->) 'metadata' OPERATOR(pg_catalog.<>) '{}'::pg_catalog.jsonb
            THEN in_force OPERATOR(pg_catalog.->) 'metadata'
        END,
        CASE WHEN others OPERATOR(pg_catalog.<>) '{}'::pg_catalog.jsonb THEN others END);
    END IF;
    IF outcomes OPERATOR(pg_catalog.=) '{}' THEN
      RAISE NOTICE 'nothing is to be %', done
        USING HINT = 'Only changes that the log has are taken, no backfilled rows, and without database_id those of '
                     'this database.';
    END IF;
    SET CONSTRAINTS ALL IMMEDIATE;
    EXECUTE coalesce(
      (
        SELECT pg_catalog.format(
          'SET CONSTRAINTS %s DEFERRED',
          pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', n.nspname, c.conname), ', '))
        FROM pg_catalog.pg_constraint AS c
        JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.connamespace
        WHERE c.condeferred
        HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0
      ),
      'SELECT');
    IF conflicts OPERATOR(pg_catalog.>) 0 AND despite_conflicts IS NOT TRUE THEN
      RAISE EXCEPTION 'conflicts' USING ERRCODE = 'ZA001'; -- takes back what was done
    END IF;
  EXCEPTION WHEN SQLSTATE 'ZA001' THEN
    RAISE WARNING 'nothing was %: % of % changes cannot be', done, conflicts, pg_catalog.cardinality(outcomes)
      USING HINT = 'despite_conflicts => true does the others.';
    done := pg_catalog.concat('could be ', done);
  END;
  RETURN QUERY
  SELECT (o OPERATOR(pg_catalog.->>) 'step')::pg_catalog.int4,
         (o OPERATOR(pg_catalog.->>) 'change_id')::pg_catalog.int8, o OPERATOR(pg_catalog.->>) 'of_table',
         o OPERATOR(pg_catalog.->>) 'record_id', coalesce(o OPERATOR(pg_catalog.->>) 'said', done)
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
    database_id text DEFAULT NULL, despite_conflicts boolean DEFAULT false)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, outcome text)
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT o.*
  FROM audit_cdc_internal.run_steps(
    false, despite_conflicts,
    jsonb_strip_nulls(
      jsonb_build_object(
        'change', change, 'table_name', table_name, 'key', key, 'at', at, 'lsn', lsn, 'commit_lsn', commit_lsn,
        'request_id', request_id, 'username', username, 'since', since, 'until', until)),
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, audit_cdc_internal.or_here(database_id)) AS o;
END;

CREATE FUNCTION @extschema@.audit_redo(
    change bigint DEFAULT NULL, table_name text DEFAULT NULL, key text DEFAULT NULL, at timestamptz DEFAULT NULL,
    lsn pg_lsn DEFAULT NULL, commit_lsn bigint DEFAULT NULL, request_id text DEFAULT NULL,
    username text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, despite_conflicts boolean DEFAULT false)
  RETURNS TABLE (step integer, change_id bigint, of_table text, record_id text, outcome text)
  LANGUAGE sql VOLATILE
BEGIN ATOMIC
  SELECT o.*
  FROM audit_cdc_internal.run_steps(
    true, despite_conflicts,
    jsonb_strip_nulls(
      jsonb_build_object(
        'change', change, 'table_name', table_name, 'key', key, 'at', at, 'lsn', lsn, 'commit_lsn', commit_lsn,
        'request_id', request_id, 'username', username, 'since', since, 'until', until)),
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, audit_cdc_internal.or_here(database_id)) AS o;
END;
COMMENT ON FUNCTION @extschema@.audit_undo(
  bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean) IS
  'Runs what audit_undo_sql() with the same arguments gives, where the tables live in this database, in the '
  'caller''s transaction and with the caller''s rights on the tables, and tells what became of each change. A caller '
  'who has all rights of a table''s owner, such as a superuser, runs the statements as that owner, in a '
  'security-restricted operation, with constraints checked at once: SET ROLE to the owner where deferred ones are '
  'needed. database_id: null for this database''s own changes, as captured; if the tables of another one live here, '
  'its id. Annotates it: metadata has {"undo": what was named}; after it the annotation from before it is in force '
  'again. If any change cannot be undone (a problem, a row that was changed since, a violated constraint), nothing '
  'is done, with a WARNING, unless despite_conflicts is true. Deferrable constraints are checked at the end. Errors: '
  'as audit_undo_sql(), those of the statements (42501, 42P01, …), and 40001 (a table or a schema was renamed '
  'meanwhile).';
COMMENT ON FUNCTION @extschema@.audit_redo(
  bigint, text, text, timestamptz, pg_lsn, bigint, text, text, timestamptz, timestamptz, text, boolean) IS
  'The same for audit_redo_sql(). It also makes undone what audit_undo() did: name the changes that were undone. '
  'Errors: as audit_undo().';
