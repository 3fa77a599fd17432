-- Whose code would run with rights that they do not have when a table is written. An annotation chooses which tables
-- an undo of a request writes, and anybody may sign with any name.

-- Owners of what runs when a table, its partitions, or rows that refer to them are written.
CREATE FUNCTION audit_cdc_internal.code_owners(relation oid) RETURNS SETOF oid
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH RECURSIVE family AS (
    SELECT relation AS oid
    UNION
    SELECT m.oid
    FROM family AS f
    CROSS JOIN LATERAL (
      SELECT i.inhrelid AS oid FROM pg_inherits AS i WHERE i.inhparent = f.oid
      UNION ALL
      SELECT k.conrelid
      FROM pg_constraint AS k
      WHERE k.contype = 'f'
        AND k.confrelid = f.oid
        AND (k.confupdtype IN ('c', 'n', 'd') OR k.confdeltype IN ('c', 'n', 'd'))
    ) AS m
  ), code AS (
    SELECT t.tgrelid AS relation, 'pg_trigger'::regclass AS class, t.oid, true AS calls
    FROM pg_trigger AS t
    WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
    UNION ALL
    SELECT r.ev_class, 'pg_rewrite'::regclass, r.oid, true FROM pg_rewrite AS r
    UNION ALL
    SELECT p.polrelid, 'pg_policy'::regclass, p.oid, true FROM pg_policy AS p
    UNION ALL
    SELECT c.conrelid, 'pg_constraint'::regclass, c.oid, c.conbin::text LIKE '%{FUNCEXPR %'
    FROM pg_constraint AS c
    WHERE c.contype = 'c'
    UNION ALL
    SELECT d.adrelid, 'pg_attrdef'::regclass, d.oid, d.adbin::text LIKE '%{FUNCEXPR %'
    FROM pg_attrdef AS d
    JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    WHERE a.attgenerated <> ''
    UNION ALL
    SELECT i.indrelid, 'pg_class'::regclass, i.indexrelid,
           concat(i.indexprs::text, i.indpred::text) LIKE '%{FUNCEXPR %'
    FROM pg_index AS i
  )
  -- of a function that everybody has, whoever calls it there says with what
  SELECT r.relowner
  FROM family AS f
  JOIN pg_class AS r ON r.oid = f.oid
  WHERE EXISTS (SELECT FROM code AS c WHERE c.relation = f.oid AND c.calls)
  UNION
  SELECT p.proowner
  FROM family AS f
  JOIN code AS c ON c.relation = f.oid
  JOIN pg_depend AS d ON (d.classid, d.objid) = (c.class, c.oid) AND d.refclassid = 'pg_proc'::regclass
  JOIN pg_proc AS p ON p.oid = d.refobjid
  UNION
  SELECT t.typowner
  FROM family AS f
  JOIN pg_attribute AS a ON a.attrelid = f.oid AND NOT a.attisdropped
  JOIN pg_type AS t ON t.oid = a.atttypid AND t.typtype = 'd';
END;

-- With the rights of the caller, or of the table's owner where the statements of an undo run with those.
CREATE FUNCTION audit_cdc_internal.runs_strangers_code(relation oid) RETURNS boolean
  LANGUAGE plpgsql AS $$
DECLARE
  runner CONSTANT pg_catalog.oid := CASE
    WHEN audit_cdc_internal.is_run_as_owner(relation)
      THEN (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) relation)
    ELSE (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER)
  END;
BEGIN
  RETURN EXISTS (
    SELECT FROM audit_cdc_internal.code_owners(relation) AS o(id)
    WHERE NOT pg_catalog.pg_has_role(o.id, runner, 'USAGE')
  );
END
$$;
