-- Undo and redo: changes of the log as statements, in the right order, and run.
--
-- * Undo goes backwards through positions, redo forwards: so each statement meets the rows that the change left, or
--   found.
-- * But what a foreign key did by itself (ON DELETE CASCADE and its kin) stands after the change of the row that
--   was referred to: there the order is that in which no row refers to one that is not there.

CREATE TYPE audit_cdc_internal.chosen AS (
  change_id bigint,
  table_schema text,
  table_name text,
  record_id text,
  database_id text,
  action text,
  commit_lsn bigint, -- counted on from the databases before, as events have it
  commit_idx integer,
  commit_timestamp timestamptz,
  old_row jsonb,
  new_row jsonb,
  unknown_old_columns text[],
  unknown_columns text[],
  not_sent_before text[], -- of what was before it, the message itself had not these; null: nothing
  doubt text -- why it cannot be taken back or made again, whatever it says
);

-- As events() tells it.
CREATE FUNCTION audit_cdc_internal.not_sent_before(line @extschema@.audit_history_line) RETURNS text[]
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT CASE
    WHEN line.action <> 'update' OR l.unknown_old_columns IS NULL AND l.old_values <> '{}' THEN '{}'
    ELSE l.unknown_old_columns
  END
  FROM @extschema@.audit_logs AS l
  WHERE l.id = line.id AND l.commit_timestamp = line.commit_timestamp;
END;

-- Null: all of a row is in the log.
CREATE FUNCTION audit_cdc_internal.not_published(target audit_cdc_internal.target) RETURNS text
  LANGUAGE sql STABLE
  RETURN CASE
    WHEN (target).unpublished <> '{}'
      THEN format('values of %s unknown: they are not published', array_to_string((target).unpublished, ', '))
  END;

-- Why the log cannot tell a record's row at a moment, if what it has of the time after it begins with this change;
-- null: it can.
CREATE FUNCTION audit_cdc_internal.doubt_at(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn, first audit_cdc_internal.chosen)
  RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  was record;
BEGIN
  SELECT r.reason, r.is_alive
  INTO was
  FROM audit_cdc_internal.records_as_of(
    audited, at, lsn,
    CASE
      WHEN first.old_row ?& audited.key_columns THEN audit_cdc_internal.key_in(first.old_row, audited)
      ELSE first.record_id
    END) AS r;
  RETURN coalesce(
    was.reason,
    CASE
      WHEN was.is_alive IS DISTINCT FROM (first.old_row IS NOT NULL)
        THEN 'a gap: the change after that moment does not follow'
    END);
END
$$;

-- What became of a record between a moment and now, as one change: from the row before the first to that after the
-- last. Where one does not follow the other (keys that went from row to row), they stay as they are.
CREATE FUNCTION audit_cdc_internal.in_one(changes audit_cdc_internal.chosen[], doubt text)
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  first CONSTANT audit_cdc_internal.chosen := changes[1];
  last audit_cdc_internal.chosen := changes[cardinality(changes)];
BEGIN
  IF (
    SELECT bool_and(f.follows)
    FROM (
      SELECT c.place = 1 OR c.old_row IS NOT DISTINCT FROM lag(c.new_row) OVER (ORDER BY c.place) AS follows
      FROM unnest(changes) WITH ORDINALITY AS c(
        change_id, table_schema, table_name, record_id, database_id, action, commit_lsn, commit_idx,
        commit_timestamp, old_row, new_row, unknown_old_columns, unknown_columns, not_sent_before, doubt, place)
    ) AS f
  ) THEN
    last.old_row := first.old_row;
    -- what came to be known later may have been something else then
    last.unknown_old_columns := CASE
      WHEN first.old_row IS NULL THEN '{}'
      ELSE ARRAY(
        SELECT unnest(first.unknown_old_columns)
        UNION
        SELECT c
        FROM jsonb_object_keys(last.new_row) AS c
        WHERE NOT first.old_row ? c
        ORDER BY 1
      )
    END;
    last.doubt := doubt;
    last.action := CASE
      WHEN last.old_row IS NULL THEN 'insert'
      WHEN last.new_row IS NULL THEN 'delete'
      ELSE 'update'
    END;
    last.not_sent_before := CASE
      WHEN NOT EXISTS (SELECT FROM unnest(changes) AS c WHERE c.not_sent_before IS NULL)
        THEN ARRAY(SELECT DISTINCT u FROM unnest(changes) AS c, unnest(c.not_sent_before) AS u)
    END;
    IF last.old_row IS NOT NULL OR last.new_row IS NOT NULL THEN
      RETURN NEXT last;
    END IF;
  ELSE
    RETURN QUERY
    SELECT c.change_id, c.table_schema, c.table_name, c.record_id, c.database_id, c.action, c.commit_lsn,
           c.commit_idx, c.commit_timestamp, c.old_row, c.new_row, c.unknown_old_columns, c.unknown_columns,
           c.not_sent_before, in_one.doubt
    FROM unnest(changes) AS c;
  END IF;
END
$$;

-- The changes that are meant.
CREATE FUNCTION audit_cdc_internal.chosen(
    is_redo boolean, of_change bigint, of_table text, key text, at timestamptz, lsn pg_lsn, of_commit bigint,
    of_request text, of_user text, since timestamptz, until timestamptz, of_database text)
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  audited audit_cdc_internal.audited;
  moment record;
  changes audit_cdc_internal.chosen[];
  doubt text;
BEGIN
  IF key IS NOT NULL THEN
    IF of_table IS NULL OR (chosen.at IS NULL) = (chosen.lsn IS NULL) THEN
      RAISE EXCEPTION 'a record is taken back to a moment'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'With key, name table_name and either at or lsn.';
    END IF;
    audited := audit_cdc_internal.table_named(of_table, of_database, NULL, key);
    IF audited IS NULL THEN
      RETURN;
    END IF;
    SELECT m.last_lsn, m.last_commit, m.last_id
    INTO moment
    FROM audit_cdc_internal.moment(audited, chosen.at, chosen.lsn) AS m;
    changes := ARRAY(
      SELECT ROW(
        l.id, l.table_schema, l.table_name, l.record_id, l.database_id, l.action, p.position, l.commit_idx,
        l.commit_timestamp, l.old_row, l.new_row, l.unknown_old_columns, l.unknown_columns,
        audit_cdc_internal.not_sent_before(l), NULL)::audit_cdc_internal.chosen
      FROM audit_cdc_internal.record_lines(audited, key) AS l
      CROSS JOIN LATERAL (SELECT split_part(l.cursor, '.', 2)::bigint AS position) AS p
      WHERE l.commit_lsn IS NOT NULL
        AND p.position > coalesce(moment.last_lsn, 0)
        AND l.action <> 'read'
        -- otherwise from before the source was restored
        AND (
          moment.last_commit IS NULL
          OR l.id > moment.last_id
          OR l.commit_timestamp > moment.last_commit - audit_cdc_internal.overtaking())
        AND NOT (
          is_redo AND coalesce(l.metadata ?| '{undo,redo}', false)) -- what took them back is not made once more
      ORDER BY string_to_array(l.cursor, '.')::bigint[]
    );
    IF changes <> '{}' THEN
      doubt := audit_cdc_internal.doubt_at(audited, chosen.at, chosen.lsn, changes[1]);
      IF EXISTS (SELECT FROM unnest(changes) AS c WHERE c.new_row IS NULL) THEN
        -- the row that is there now is another one
        doubt := coalesce(doubt, audit_cdc_internal.not_published(audit_cdc_internal.target_of(audited)));
      END IF;
      IF EXISTS (SELECT FROM unnest(changes) AS c WHERE c.action = 'complete') THEN
        doubt := coalesce(doubt, 'a backfill did not meet it: how it ended is not in the log');
      END IF;
    END IF;
    RETURN QUERY SELECT o.* FROM audit_cdc_internal.in_one(changes, doubt) AS o;
  ELSE
    IF of_change IS NULL AND of_commit IS NULL AND of_request IS NULL AND of_user IS NULL THEN
      RAISE EXCEPTION 'no change, record, transaction, request or user is given'
        USING ERRCODE = 'null_value_not_allowed',
              HINT = 'Name a change, a table and a key with a moment, a commit_lsn, a request_id, or a username with '
                     'since and until.';
    END IF;
    IF of_user IS NOT NULL AND of_commit IS NULL AND of_request IS NULL AND (since IS NULL OR until IS NULL) THEN
      RAISE EXCEPTION 'a user''s changes are taken of a time range'
        USING ERRCODE = 'invalid_parameter_value', HINT = 'With username, give since and until.';
    END IF;
    RETURN QUERY
    SELECT l.id, l.table_schema, l.table_name, l.record_id, l.database_id, l.action,
           l.commit_lsn + coalesce(own.positions_before[array_position(own.ids, l.database_id)], 0), l.commit_idx,
           l.commit_timestamp, l.old_row, l.new_row, l.unknown_old_columns, l.unknown_columns,
           audit_cdc_internal.not_sent_before(l), NULL::text
    FROM audit_cdc_internal.own_databases() AS own,
      audit_cdc_internal.lines(
        of_change, of_table, of_user, of_request, of_commit, since, until, of_database, NULL, false, NULL) AS l
    WHERE l.action <> 'read';
  END IF;
END
$$;

-- The values of these columns of a row; null if it has not all of them.
CREATE FUNCTION audit_cdc_internal.values_of(image jsonb, relation oid, columns smallint[]) RETURNS jsonb
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT CASE
    WHEN bool_and(image -> a.attname::text <> 'null') AND count(image -> a.attname::text) = cardinality(columns)
      THEN jsonb_agg(image -> a.attname::text ORDER BY u.place)
  END
  FROM unnest(columns) WITH ORDINALITY AS u(number, place)
  JOIN pg_attribute AS a ON a.attrelid = relation AND a.attnum = u.number;
END;

CREATE TYPE audit_cdc_internal.wait AS (
  later bigint, earlier bigint, -- change_ids
  foreign_key oid,
  is_cascade boolean, -- it will have done the later one
  is_same_row boolean -- that whose key the earlier one changes: it refers to itself
);

-- Which change waits for which: a row for the one that it will refer to, a row that goes for those that refer to
-- it; and what ON UPDATE SET NULL or SET DEFAULT will do for its cause.
CREATE FUNCTION audit_cdc_internal.waits(changes audit_cdc_internal.chosen[], is_redo boolean)
  RETURNS SETOF audit_cdc_internal.wait
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH sides AS (
    SELECT c.change_id, c.commit_lsn, c.commit_idx,
           to_regclass(format('%I.%I', c.table_schema, c.table_name))::oid AS relation,
           CASE WHEN is_redo THEN c.old_row ELSE c.new_row END AS from_row,
           CASE WHEN is_redo THEN c.new_row ELSE c.old_row END AS to_row, c.new_row
    FROM unnest(changes) AS c
  ), children AS MATERIALIZED (
    SELECT
      k.oid AS foreign_key, s.change_id, s.commit_lsn, s.commit_idx,
      audit_cdc_internal.values_of(s.from_row, k.conrelid, k.conkey) AS from_values,
      audit_cdc_internal.values_of(s.to_row, k.conrelid, k.conkey) AS to_values,
      CASE
        WHEN k.conrelid = k.confrelid THEN audit_cdc_internal.values_of(s.new_row, k.confrelid, k.confkey)
      END AS own_key
    FROM sides AS s
    JOIN pg_constraint AS k ON k.conrelid = s.relation AND k.contype = 'f'
  ), parents AS MATERIALIZED (
    SELECT k.oid AS foreign_key, k.confupdtype, s.change_id, s.commit_lsn, s.commit_idx,
           audit_cdc_internal.values_of(s.from_row, k.confrelid, k.confkey) AS from_values,
           audit_cdc_internal.values_of(s.to_row, k.confrelid, k.confkey) AS to_values,
           audit_cdc_internal.values_of(s.new_row, k.confrelid, k.confkey) AS new_key, s.to_row IS NULL AS is_to_go
    FROM sides AS s
    JOIN pg_constraint AS k ON k.confrelid = s.relation AND k.contype = 'f'
  )
  SELECT c.change_id, p.change_id, c.foreign_key,
         coalesce(p.confupdtype = 'c' AND c.from_values = p.from_values, false),
         coalesce(c.own_key = p.new_key AND c.commit_idx > p.commit_idx, false)
  FROM children AS c
  JOIN parents AS p ON p.foreign_key = c.foreign_key AND p.commit_lsn = c.commit_lsn AND p.to_values = c.to_values
  WHERE p.change_id <> c.change_id AND p.from_values IS DISTINCT FROM p.to_values
  UNION ALL
  SELECT p.change_id, c.change_id, c.foreign_key, false, false
  FROM children AS c
  JOIN parents AS p
    ON p.foreign_key = c.foreign_key AND p.commit_lsn = c.commit_lsn AND p.from_values = c.from_values
  WHERE p.change_id <> c.change_id AND p.is_to_go AND c.to_values IS DISTINCT FROM p.from_values
  UNION ALL
  SELECT c.change_id, p.change_id, c.foreign_key, true, coalesce(c.own_key = p.new_key, false)
  FROM children AS c
  JOIN parents AS p
    ON p.foreign_key = c.foreign_key AND p.commit_lsn = c.commit_lsn AND p.from_values = c.from_values
  WHERE is_redo
    AND c.commit_idx > p.commit_idx
    AND p.from_values <> p.to_values
    AND (
      p.confupdtype = 'n' AND c.to_values IS NULL
      OR p.confupdtype = 'd' AND c.to_values IS DISTINCT FROM p.to_values);
END;

-- A row that refers to itself gets its new key, and what the foreign key makes of the rest, at once: of such
-- changes, the row before the first and after the last.
CREATE FUNCTION audit_cdc_internal.at_once(
    changes audit_cdc_internal.chosen[], waits audit_cdc_internal.wait[],
    OUT change_id bigint, OUT old_row jsonb, OUT new_row jsonb)
  RETURNS SETOF record
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH RECURSIVE own AS MATERIALIZED (
    SELECT w.earlier, c.change_id, c.commit_idx, c.old_row, c.new_row
    FROM unnest(waits) AS w
    JOIN unnest(changes) AS c ON c.change_id = w.later
    WHERE w.is_same_row
  ), one_row AS (
    SELECT c.change_id AS first, c.change_id, c.commit_idx, c.old_row, c.new_row
    FROM unnest(changes) AS c
    WHERE c.change_id IN (SELECT o.earlier FROM own AS o)
    UNION ALL
    SELECT r.first, n.change_id, n.commit_idx, r.old_row, n.new_row
    FROM one_row AS r
    CROSS JOIN LATERAL (
      SELECT o.*
      FROM own AS o
      WHERE o.earlier = r.first AND o.commit_idx > r.commit_idx AND o.old_row = r.new_row
      ORDER BY o.commit_idx
      LIMIT 1
    ) AS n
  )
  SELECT
    r.change_id, r.old_row,
    last_value(r.new_row) OVER (
      PARTITION BY r.first ORDER BY r.commit_idx ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
  FROM one_row AS r;
END;

-- In the order in which they are to be undone or redone.
CREATE FUNCTION audit_cdc_internal.in_order(
    changes audit_cdc_internal.chosen[], waits audit_cdc_internal.wait[], is_redo boolean)
  RETURNS SETOF audit_cdc_internal.chosen
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  direction CONSTANT integer := CASE WHEN is_redo THEN 1 ELSE -1 END;
BEGIN
  RETURN QUERY
  WITH RECURSIVE too_late AS (
    SELECT DISTINCT w.later, w.earlier
    FROM unnest(waits) AS w
    JOIN unnest(changes) AS l ON l.change_id = w.later
    JOIN unnest(changes) AS e ON e.change_id = w.earlier
    WHERE (e.commit_idx - l.commit_idx) * direction > 0
  ), delayed AS (
    SELECT w.later, w.earlier, 1 AS depth
    FROM too_late AS w
    UNION
    SELECT d.later, w.earlier, d.depth + 1
    FROM delayed AS d
    JOIN too_late AS w ON w.later = d.earlier
    WHERE d.depth < 100
  ), behind AS (
    SELECT d.later, max(d.depth) AS depth, max(e.commit_idx * direction) AS place
    FROM delayed AS d
    JOIN unnest(changes) AS e ON e.change_id = d.earlier
    GROUP BY d.later
  )
  SELECT c.*
  FROM unnest(changes) AS c
  LEFT JOIN behind AS b ON b.later = c.change_id
  ORDER BY c.commit_lsn * direction, coalesce(b.place, c.commit_idx * direction), coalesce(b.depth, 0),
    c.commit_idx * direction, c.change_id * direction;
END
$$;

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
  'row as the change found it. Of a record, what audit_undo() and audit_redo() did since is not made once more.';

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
  'The same for audit_redo_sql(). It also makes undone what audit_undo() did: name the changes that were undone.';
