-- What people ask of the log: audit_history(), a record's life, and what a user, a request or a transaction did.

-- Where the line stands whose cursor this is.
CREATE FUNCTION audit_cdc_internal.cursor_place(after text) RETURNS bigint[]
  LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  place bigint[] := '{}';
BEGIN
  BEGIN
    place := string_to_array(after, '.')::bigint[];
  EXCEPTION WHEN invalid_text_representation OR numeric_value_out_of_range THEN
    NULL;
  END;
  IF cardinality(place) <> 4 OR place[1] NOT BETWEEN 0 AND 10000000000000000 THEN
    RAISE EXCEPTION 'after is not a cursor that audit_history() has given' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN place;
END
$$;

CREATE FUNCTION audit_cdc_internal.check_asked(is_asked boolean, newest_first boolean, max_rows integer) RETURNS void
  LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF NOT is_asked THEN
    RAISE EXCEPTION 'no record, user, request, transaction or time is given' USING ERRCODE = 'null_value_not_allowed',
      HINT = 'Name a table and a key, a username, a request_id, a commit_lsn or a time.';
  END IF;
  IF newest_first IS NULL OR max_rows < 0 THEN
    RAISE EXCEPTION '% must not be %', CASE WHEN newest_first IS NULL THEN 'newest_first' ELSE 'max_rows' END,
        CASE WHEN newest_first IS NULL THEN 'null' ELSE 'negative' END
      USING ERRCODE = CASE
        WHEN newest_first IS NULL THEN 'null_value_not_allowed'
        ELSE 'invalid_parameter_value'
      END;
  END IF;
END
$$;

-- What audit_history() gives, of either form.
CREATE FUNCTION audit_cdc_internal.history(
    of_table text, relation oid, key text, of_user text, of_request text, of_commit bigint, since timestamptz,
    until timestamptz, of_database text, after text, newest_first boolean, max_rows integer)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted CONSTANT audit_cdc_internal.audited := CASE
    WHEN of_table IS NOT NULL OR relation IS NOT NULL OR key IS NOT NULL
      THEN audit_cdc_internal.table_named(of_table, of_database, relation, key)
    ELSE audit_cdc_internal.any_table(of_database)
  END;
  after_place bigint[];
BEGIN
  PERFORM audit_cdc_internal.check_asked(
    num_nonnulls(of_table, relation, key, of_user, of_request, of_commit, since, until) > 0, newest_first, max_rows);
  IF after IS NOT NULL THEN
    after_place := audit_cdc_internal.cursor_place(after);
  END IF;
  IF wanted IS NULL THEN
    PERFORM audit_cdc_internal.warn_of_no_changes();
    RETURN;
  END IF;
  PERFORM audit_cdc_internal.say_doubts(wanted, since, until, NULL, true);
  IF until IS NOT NULL THEN
    PERFORM audit_cdc_internal.say_if_unsettled(wanted, until);
  END IF;
  IF key IS NULL THEN
    RETURN QUERY
    SELECT l.*
    FROM audit_cdc_internal.lines(
      wanted, NULL, of_user, of_request, of_commit, since, until,
      coalesce(of_database, CASE WHEN wanted.table_name IS NOT NULL THEN wanted.database_id END), after_place,
      newest_first, max_rows, true) AS l;
  ELSE
    RETURN QUERY
    SELECT l.*
    FROM audit_cdc_internal.record_lines(wanted, key, true) AS l
    CROSS JOIN LATERAL (SELECT string_to_array(l.cursor, '.')::bigint[] AS place) AS p
    WHERE (of_user IS NULL OR l.username = of_user)
      AND (of_request IS NULL OR l.request_id = of_request)
      AND (of_commit IS NULL OR l.commit_lsn = of_commit)
      AND (since IS NULL OR l.commit_timestamp >= since)
      AND (until IS NULL OR l.commit_timestamp < until)
      AND (after IS NULL OR CASE WHEN newest_first THEN p.place < after_place ELSE p.place > after_place END)
    ORDER BY CASE WHEN newest_first THEN NULL ELSE p.place END, p.place DESC
    LIMIT max_rows;
  END IF;
END
$$;

CREATE FUNCTION @extschema@.audit_history(
    table_name text DEFAULT NULL, key text DEFAULT NULL, username text DEFAULT NULL, request_id text DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, after text DEFAULT NULL, newest_first boolean DEFAULT false,
    max_rows integer DEFAULT NULL)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.* FROM audit_cdc_internal.history($1, NULL, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS l;
END;
COMMENT ON FUNCTION @extschema@.audit_history(
  text, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer) IS
  'Changes with the whole row before and after each. table_name (orders, public.orders) and key (as record_id in '
  'audit_logs): one record, from its beginning, also under the keys that it had before and got later, in the order '
  'of positions. Without key: what a user, a request or a transaction (commit_lsn) did, or what was committed from '
  'since up to, not including, until, also of one table, by time. All that is given must fit; null is not given. '
  'database_id: where the log has the table of several databases. Pages: max_rows lines, the next ones after the '
  'cursor of the last; newest_first: the other way round. old_row, new_row: rebuilt from what this and earlier '
  'changes say, without what is unknown, which unknown_old_columns and unknown_columns list. changed: audit_diff() '
  'of them, of an update only what both have. A line of action drop or rename, without id: so the table lost its '
  'name, and the record ended under it. note: what does not fit, such as a change that the log misses. Errors: 22004 '
  '(nothing is asked for), 22023 (several tables of this name, no such cursor, negative max_rows).';

CREATE FUNCTION @extschema@.audit_history(
    row_type regtype, key text DEFAULT NULL, username text DEFAULT NULL, request_id text DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, after text DEFAULT NULL, newest_first boolean DEFAULT false,
    max_rows integer DEFAULT NULL, table_name text DEFAULT NULL)
  RETURNS SETOF @extschema@.audit_history_line
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT l.*
  FROM audit_cdc_internal.history(
    $12, audit_cdc_internal.relation_of($1), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS l;
END;
COMMENT ON FUNCTION @extschema@.audit_history(
  regtype, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer, text) IS
  'The same for the table that is called like a row type, or for table_name. Errors: 42804 (not a row type), 22023 '
  '(several tables of this name, no such cursor, negative max_rows), 22004 (newest_first).';

-- The types' input functions run with the caller's rights.
CREATE FUNCTION @extschema@.audit_history(
    row_type anyelement, key text DEFAULT NULL, username text DEFAULT NULL, request_id text DEFAULT NULL,
    commit_lsn bigint DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
    database_id text DEFAULT NULL, after text DEFAULT NULL, newest_first boolean DEFAULT false,
    max_rows integer DEFAULT NULL, table_name text DEFAULT NULL,
    OUT change @extschema@.audit_history_line, OUT old_row anyelement, OUT new_row anyelement)
  RETURNS SETOF record
  LANGUAGE sql STABLE AS $$
  SELECT l,
         CASE WHEN l.old_row IS NOT NULL
           THEN audit_cdc_internal.typed_row($1, l.old_row, '{}', l.exact_values OPERATOR(pg_catalog.->) 'old') END,
         CASE WHEN l.new_row IS NOT NULL
           THEN audit_cdc_internal.typed_row($1, l.new_row, '{}', l.exact_values OPERATOR(pg_catalog.->) 'new') END
  FROM @extschema@.audit_history(pg_catalog.pg_typeof($1), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS l
$$;
COMMENT ON FUNCTION @extschema@.audit_history(
  anyelement, text, text, text, bigint, timestamptz, timestamptz, text, text, boolean, integer, text) IS
  'The same with typed rows: change is the line of audit_history(), old_row and new_row are rows of row_type '
  '(NULL::public.orders, which is called like the audited table, or give table_name), unknown columns null. Errors: '
  'also those of audit_row, 42804 (not a row type).';
