-- Whose code would run with rights that they do not have when a table is written. An annotation chooses which tables
-- an undo of a request writes, and anybody may sign with any name. The Rust side (src/undo.rs) asks under locks.

-- The table, its partitions and heirs, and those whose rows go along by a foreign key.
CREATE FUNCTION audit_cdc_internal.written_along(relation oid) RETURNS oid[]
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
  )
  SELECT array_agg(f.oid) FROM family AS f;
END;

-- Does it call a function that may run other code, or tell of the session? The others are PostgreSQL's own.
CREATE FUNCTION audit_cdc_internal.calls_more(expression text) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN EXISTS (
    SELECT
    FROM regexp_matches(expression, '\{FUNCEXPR :funcid (\d+)', 'g') AS f(id)
    JOIN pg_proc AS p ON p.oid = f.id[1]::oid
    WHERE NOT (
      p.oid < 16384
      AND (p.provolatile = 'i'
           OR p.proname IN (
             'clock_timestamp', 'date', 'date_trunc', 'gen_random_uuid', 'nextval', 'now', 'random',
             'statement_timestamp', 'timestamp', 'timezone', 'transaction_timestamp', 'uuidv4', 'uuidv7'))));

-- What of a table may run when it is written. calls: whoever owns the table says with what a function is called.
CREATE FUNCTION audit_cdc_internal.code_of(relation oid, OUT class oid, OUT object oid, OUT calls boolean)
  RETURNS SETOF record
  LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT 'pg_trigger'::regclass, t.oid, true
  FROM pg_trigger AS t
  WHERE t.tgrelid = relation AND NOT t.tgisinternal AND t.tgenabled <> 'D'
  UNION ALL
  SELECT 'pg_rewrite'::regclass, r.oid, true FROM pg_rewrite AS r WHERE r.ev_class = relation
  UNION ALL
  SELECT 'pg_policy'::regclass, p.oid, true FROM pg_policy AS p WHERE p.polrelid = relation
  UNION ALL
  -- a foreign key compares by a cast where types of users are involved
  SELECT 'pg_constraint'::regclass, c.oid,
         CASE c.contype WHEN 'c' THEN c.conbin::text LIKE '%{FUNCEXPR %' ELSE EXISTS (
           SELECT FROM pg_attribute AS a
           WHERE a.atttypid >= 16384
             AND (a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
                  OR a.attrelid = c.confrelid AND a.attnum = ANY (c.confkey))) END
  FROM pg_constraint AS c
  WHERE c.conrelid = relation AND c.contype IN ('c', 'f')
  UNION ALL
  -- a default counts where an entry does not tell of its column
  SELECT 'pg_attrdef'::regclass, d.oid,
         CASE a.attgenerated WHEN '' THEN audit_cdc_internal.calls_more(d.adbin::text)
                             ELSE d.adbin::text LIKE '%{FUNCEXPR %' END
  FROM pg_attrdef AS d
  JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
  WHERE d.adrelid = relation
  UNION ALL
  SELECT 'pg_class'::regclass, i.indexrelid, concat(i.indexprs::text, i.indpred::text) LIKE '%{FUNCEXPR %'
  FROM pg_index AS i
  WHERE i.indrelid = relation
  UNION ALL
  -- its columns' types; whoever owns a partitioned table may attach others, with code of their own
  SELECT 'pg_class'::regclass, c.oid, c.relkind = 'p' FROM pg_class AS c WHERE c.oid = relation;
END;

-- Owners of all that.
CREATE FUNCTION audit_cdc_internal.code_owners(relation oid) RETURNS SETOF oid
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  WITH RECURSIVE code AS MATERIALIZED (
    SELECT r.oid AS relation, r.relowner, c.*
    FROM unnest(audit_cdc_internal.written_along(relation)) AS f(oid)
    JOIN pg_class AS r ON r.oid = f.oid
    CROSS JOIN LATERAL audit_cdc_internal.code_of(f.oid) AS c
  ), needed AS MATERIALIZED (
    SELECT c.relowner, d.refclassid AS class, d.refobjid AS object
    FROM code AS c
    JOIN pg_depend AS d ON (d.classid, d.objid) = (c.class, c.object)
    WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
  ), types AS (
    SELECT n.object AS oid FROM needed AS n WHERE n.class = 'pg_type'::regclass
    UNION
    SELECT part.oid
    FROM types AS t
    CROSS JOIN LATERAL audit_cdc_internal.parts_of_type(t.oid) AS part(oid)
  )
  SELECT c.relowner FROM code AS c WHERE c.calls
  UNION
  SELECT n.relowner FROM needed AS n WHERE n.class = 'pg_operator'::regclass
  UNION
  SELECT p.proowner
  FROM needed AS n
  LEFT JOIN pg_operator AS o ON n.class = 'pg_operator'::regclass AND o.oid = n.object
  JOIN pg_proc AS p ON p.oid = coalesce(o.oprcode::oid, n.object)
  WHERE n.class <> 'pg_type'::regclass
  UNION
  SELECT t.typowner
  FROM types AS u
  JOIN pg_type AS t ON t.oid = u.oid
  WHERE t.typtype IN ('d', 'c', 'r', 'm');
END;

CREATE FUNCTION audit_cdc_internal.has_strangers_code(relation oid, runner oid) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN EXISTS (
    SELECT FROM audit_cdc_internal.code_owners(relation) AS o(id) WHERE NOT pg_has_role(o.id, runner, 'USAGE'));

-- Does a table refer to this one whose rows would go along, and whose owner lacks the rights of this one's? One that
-- was not known when the statements were made.
CREATE FUNCTION audit_cdc_internal.strangers_refer(relation oid, known bigint[]) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN EXISTS (
    SELECT
    FROM pg_constraint AS k
    JOIN pg_class AS child ON child.oid = k.conrelid
    JOIN pg_class AS parent ON parent.oid = k.confrelid
    WHERE k.contype = 'f'
      AND k.confrelid = relation
      AND (k.confupdtype IN ('c', 'n', 'd') OR k.confdeltype IN ('c', 'n', 'd'))
      AND NOT pg_has_role(child.relowner, parent.relowner, 'USAGE')
      AND audit_cdc_internal.whole_constraint(k.oid) <> ALL (known));
