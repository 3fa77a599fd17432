-- Every object of the extension, and who but its owner has which rights on it (* with grant option). A new object, or a new right, shows here.
\a
SET search_path = pg_catalog;
SELECT i.type, i.identity, coalesce(string_agg(g.rights, '; ' ORDER BY g.rights COLLATE "C"), '') AS rights
FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'audit_cdc' AND d.deptype = 'e'
CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS i
LEFT JOIN LATERAL (
  SELECT p.proacl, 'f'::"char", p.proowner FROM pg_proc AS p WHERE d.classid = 'pg_proc'::regclass AND p.oid = d.objid
  UNION ALL SELECT c.relacl, CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner FROM pg_class AS c WHERE d.classid = 'pg_class'::regclass AND c.oid = d.objid
  UNION ALL SELECT t.typacl, 'T', t.typowner FROM pg_type AS t WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid
  UNION ALL SELECT n.nspacl, 'n', n.nspowner FROM pg_namespace AS n WHERE d.classid = 'pg_namespace'::regclass AND n.oid = d.objid
) AS o(acl, letter, owner) ON true
LEFT JOIN LATERAL (
  SELECT concat(coalesce(r.rolname, 'PUBLIC'), ': ', string_agg(concat(a.privilege_type, CASE WHEN a.is_grantable THEN '*' END), ', ' ORDER BY a.privilege_type COLLATE "C")) AS rights
  FROM aclexplode(coalesce(o.acl, acldefault(o.letter, o.owner))) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
  WHERE a.grantee <> o.owner GROUP BY r.rolname
) AS g ON true
-- arrays and rows of tables have no rights of their own; whether they are members depends on the release
WHERE NOT EXISTS (SELECT FROM pg_type AS t WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid
                  AND (t.typcategory = 'A' OR t.typrelid IN (SELECT oid FROM pg_class WHERE relkind <> 'c')))
GROUP BY i.type, i.identity ORDER BY i.type COLLATE "C", i.identity COLLATE "C";
-- the same of columns
SELECT a.attrelid::regclass, a.attname, a.attacl FROM pg_attribute AS a JOIN pg_depend AS d ON d.objid = a.attrelid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'audit_cdc' WHERE a.attacl IS NOT NULL ORDER BY 1, 2;
-- which of them is in which other
SELECT m.rolname AS role, r.rolname AS member_of FROM pg_auth_members AS a JOIN pg_roles AS r ON r.oid = a.roleid JOIN pg_roles AS m ON m.oid = a.member
WHERE m.rolname LIKE 'audit\_cdc\_%' ORDER BY m.rolname COLLATE "C", r.rolname COLLATE "C";
RESET search_path;
\a
