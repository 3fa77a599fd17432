-- Undo and redo: in which order.
--
-- * Undo goes backwards through positions, redo forwards: each statement meets the rows that the change left or found.
-- * What a foreign key did by itself, such as ON DELETE CASCADE, was logged after the change of the row referred to.
--   There no row may refer to one that is not there.

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
