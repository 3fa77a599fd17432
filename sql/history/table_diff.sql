-- What became of a table between two moments: audit_table_diff(). An undo of whole tables begins with the same.

-- Of rows without a key it only counts how many are equal. Where the log cannot tell some of them, none is told.
CREATE FUNCTION audit_cdc_internal.keyless_differences(
    rows_before jsonb[], rows_after jsonb[], doubts text[],
    OUT record_id text, OUT old_row jsonb, OUT new_row jsonb, OUT unknown_before text[], OUT unknown_after text[],
    OUT doubt text)
  RETURNS SETOF record
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  SELECT NULL, CASE WHEN n.number > 0 THEN n.image END, CASE WHEN n.number < 0 THEN n.image END, '{}'::text[],
         '{}'::text[], NULL
  FROM (
    SELECT s.image, sum(s.one) AS number
    FROM (
      SELECT image, 1 AS one FROM unnest(rows_before) AS image
      UNION ALL
      SELECT image, -1 FROM unnest(rows_after) AS image
    ) AS s
    WHERE doubts = '{}'
    GROUP BY s.image
  ) AS n
  CROSS JOIN LATERAL generate_series(1, abs(n.number))
  UNION ALL
  SELECT NULL, NULL, NULL, '{}', '{}', d FROM unnest(doubts) AS d;
END;

-- The records whose row is another at the second moment than at the first, and those of which the log cannot tell.
CREATE FUNCTION audit_cdc_internal.differences(
    audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn, until timestamptz, until_lsn pg_lsn,
    OUT record_id text, OUT old_row jsonb, OUT new_row jsonb, OUT unknown_before text[], OUT unknown_after text[],
    OUT doubt text)
  RETURNS SETOF record
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off
BEGIN ATOMIC
  WITH before AS MATERIALIZED (
    SELECT * FROM audit_cdc_internal.records_as_of(audited, at, lsn, NULL)
  ), after AS MATERIALIZED (
    SELECT * FROM audit_cdc_internal.records_as_of(audited, until, until_lsn, NULL)
  ), records AS (
    SELECT
      coalesce(b.record_id, a.record_id) AS record_id, CASE WHEN b.is_alive THEN b.known END AS old_row,
      CASE WHEN a.is_alive THEN a.known END AS new_row, coalesce(b.unknown_columns, '{}') AS unknown_before,
      coalesce(a.unknown_columns, '{}') AS unknown_after, coalesce(b.reason, a.reason) AS doubt
    FROM (SELECT * FROM before WHERE record_id IS NOT NULL) AS b
    FULL JOIN (SELECT * FROM after WHERE record_id IS NOT NULL) AS a ON a.record_id = b.record_id
    UNION ALL
    SELECT k.*
    FROM audit_cdc_internal.keyless_differences(
      ARRAY(SELECT b.known FROM before AS b WHERE b.record_id IS NULL AND b.is_alive),
      ARRAY(SELECT a.known FROM after AS a WHERE a.record_id IS NULL AND a.is_alive),
      ARRAY(
        SELECT b.reason FROM before AS b WHERE b.record_id IS NULL AND b.reason IS NOT NULL
        UNION
        SELECT a.reason FROM after AS a WHERE a.record_id IS NULL AND a.reason IS NOT NULL
      )) AS k
  )
  SELECT * FROM records AS r WHERE r.old_row IS DISTINCT FROM r.new_row OR r.doubt IS NOT NULL;
END;

-- Of each record, by its key in the log: how many changes were between two positions, and where the last one stands.
-- Its id is at the end. Without key: those that emptied the table.
CREATE FUNCTION audit_cdc_internal.changes_between(
    audited audit_cdc_internal.audited, first_lsn bigint, last_lsn bigint,
    OUT record_key text, OUT number bigint, OUT last_place bigint[])
  RETURNS SETOF record
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH changes AS (
    SELECT
      e.*, e.commit_lsn + audited.positions_before[array_position(audited.databases, e.database_id)] AS lsn,
      CASE
        WHEN audited.key_types IS NULL THEN e.record_key
        ELSE audit_cdc_internal.record_key(
          e.record_id, CASE WHEN cardinality(e.record_pks) > 1 THEN e.record_pks END, audited.key_types)
      END AS key_now
    FROM audit_cdc_internal.entries AS e
    WHERE e.database_id = ANY (audited.databases)
      AND (e.table_schema, e.table_name) = (audited.table_schema, audited.table_name)
      AND (e.action IN ('insert', 'update', 'delete') AND e.record_id IS NOT NULL OR e.action = 'truncate')
      AND (NOT audited.is_own OR e.origin <> 'ingest') -- whatever was delivered as this database's is forged
  )
  SELECT k.key, count(*), max(ARRAY[c.lsn, c.commit_idx, c.id])
  FROM changes AS c
  CROSS JOIN LATERAL (
    SELECT c.key_now AS key
    UNION
    SELECT audit_cdc_internal.key_before(c.old_values, c.new_values, c.record_pks, c.key_now, audited)
    WHERE c.may_change_key AND c.action = 'update'
  ) AS k
  WHERE c.lsn > first_lsn AND c.lsn <= last_lsn
  GROUP BY k.key;
END;

-- The position that a moment stands for. Says so if others may still arrive before it.
CREATE FUNCTION audit_cdc_internal.position_at(audited audit_cdc_internal.audited, at timestamptz, lsn pg_lsn)
  RETURNS bigint
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  moment CONSTANT record := audit_cdc_internal.moment(audited, at, lsn);
BEGIN
  IF NOT moment.is_settled THEN
    PERFORM audit_cdc_internal.say_unsettled(audited.is_own, moment.last_commit);
  END IF;
  RETURN coalesce(moment.last_lsn, -1);
END
$$;

CREATE FUNCTION @extschema@.audit_table_diff(
    table_name text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, since_lsn pg_lsn DEFAULT NULL,
    until_lsn pg_lsn DEFAULT NULL, database_id text DEFAULT NULL,
    OUT record_id text, OUT difference text, OUT old_row jsonb, OUT new_row jsonb, OUT changed jsonb,
    OUT unknown_columns text[], OUT changes bigint, OUT last_change bigint, OUT username text, OUT request_id text,
    OUT commit_timestamp timestamptz, OUT note text)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
  audited CONSTANT audit_cdc_internal.audited := audit_cdc_internal.table_named(table_name, database_id, NULL);
  first_lsn bigint;
  last_lsn bigint;
BEGIN
  IF (since IS NULL) = (since_lsn IS NULL) THEN
    RAISE EXCEPTION 'a table is compared from one moment on'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Name either since or since_lsn.';
  ELSIF until IS NOT NULL AND until_lsn IS NOT NULL THEN
    RAISE EXCEPTION 'until and until_lsn cannot both be given' USING ERRCODE = 'invalid_parameter_value';
  ELSIF audited IS NULL THEN
    PERFORM audit_cdc_internal.warn_of_no_changes();
    RETURN;
  END IF;
  PERFORM audit_cdc_internal.say_doubts(audited, NULL, until, until_lsn, false);
  first_lsn := audit_cdc_internal.position_at(audited, since, since_lsn);
  last_lsn := audit_cdc_internal.position_at(audited, until, until_lsn);
  RETURN QUERY
  WITH changes AS MATERIALIZED (
    SELECT * FROM audit_cdc_internal.changes_between(audited, first_lsn, last_lsn)
  )
  SELECT
    d.record_id,
    CASE
      WHEN d.doubt IS NOT NULL OR h.is_hidden THEN 'unknown'
      WHEN d.old_row IS NULL THEN 'added'
      WHEN d.new_row IS NULL THEN 'removed'
      ELSE 'changed'
    END,
    audit_cdc_internal.plain(d.old_row), audit_cdc_internal.plain(d.new_row),
    audit_cdc_internal.plain_diff(w.changed), u.unknown_columns, coalesce(c.number, 0), l.id, l.username, l.request_id,
    l.commit_timestamp, coalesce(d.doubt, CASE WHEN h.is_hidden THEN 'columns that were not sent' END)
  FROM audit_cdc_internal.differences(audited, since, since_lsn, until, until_lsn) AS d
  CROSS JOIN LATERAL (
    SELECT ARRAY(SELECT unnest(d.unknown_before || d.unknown_after) EXCEPT SELECT NULL ORDER BY 1) AS unknown_columns
  ) AS u
  CROSS JOIN LATERAL (
    SELECT CASE
      WHEN d.doubt IS NULL
        THEN audit_cdc_internal.diff(d.old_row - u.unknown_columns, d.new_row - u.unknown_columns)
    END AS changed
  ) AS w
  CROSS JOIN LATERAL (
    SELECT coalesce(d.old_row IS NOT NULL AND d.new_row IS NOT NULL AND w.changed = '{}', false) AS is_hidden
  ) AS h
  LEFT JOIN changes AS c ON c.record_key = d.record_id
  LEFT JOIN changes AS t ON t.record_key IS NULL AND d.record_id IS NOT NULL AND d.new_row IS NULL
  LEFT JOIN @extschema@.audit_logs AS l ON l.id = (greatest(c.last_place, t.last_place))[3]
  ORDER BY d.record_id COLLATE "C";
END
$$;
COMMENT ON FUNCTION @extschema@.audit_table_diff(text, timestamptz, timestamptz, pg_lsn, pg_lsn, text) IS
  'What differs in a table between two moments, a row a record. table_name: with or without schema. since or '
  'since_lsn: the first moment, a commit time or a position; until or until_lsn: the second one, null: the latest '
  'that the log holds. database_id: where the log has the table of several databases. difference: added, removed, '
  'changed, or unknown, where note tells why. old_row, new_row: the row then, null where there was none. changed: '
  'audit_diff() of the columns that are known of both. unknown_columns: the others. changes: how many changes of it '
  'lie between, last_change: the id of the last one in audit_logs; username, request_id and commit_timestamp are '
  'those of that one. A TRUNCATE is the last change of a row that it took. Rows of a table without key have no '
  'record_id, and nobody can tell who changed them. What changed and changed back is not listed. Errors: 22004 (no '
  'table named), 22023 (no first moment, two of one kind, several tables of this name).';
