"""What the catalogs say of the extension in a database, in words that do not depend on numbers."""

# those of the extension
MEMBERS = """
    WITH members AS (SELECT d.classid, d.objid FROM pg_depend AS d JOIN pg_extension AS x ON x.oid = d.refobjid
                     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND x.extname = 'audit_cdc')"""
# rights that nobody has named are those of PostgreSQL's default
ACL = "ARRAY(SELECT a::text FROM unnest(coalesce({}, acldefault({}, {}))) AS a ORDER BY 1)"
KIND = """CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char" """

QUERIES = {
    "the extension": """
        SELECT x.extversion, x.extrelocatable, x.extnamespace::regnamespace::text, x.extowner::regrole::text, obj_description(x.oid, 'pg_extension'),
               ARRAY(SELECT concat(c.it::regclass, ' ', c.condition) FROM unnest(x.extconfig, x.extcondition) AS c(it, condition) ORDER BY 1)
        FROM pg_extension AS x WHERE x.extname = 'audit_cdc'""",
    "members": MEMBERS + "SELECT pg_describe_object(classid, objid, 0) FROM members",
    # of months nobody asks: they are data
    "dependencies": MEMBERS + """
        SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), d.deptype::text
        FROM pg_depend AS d JOIN members AS m ON (m.classid, m.objid) IN ((d.classid, d.objid), (d.refclassid, d.refobjid))
        WHERE pg_describe_object(d.classid, d.objid, d.objsubid) !~ '^toast|log_2\\d{3}|stock|activity' AND d.classid NOT IN ('pg_rewrite'::regclass, 'pg_default_acl'::regclass)""",
    "functions": MEMBERS + f"""
        SELECT p.oid::regprocedure::text, CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) END, p.proowner::regrole::text, {ACL.format("p.proacl", "'f'", "p.proowner")},
               obj_description(p.oid, 'pg_proc'), p.proconfig, p.probin, p.prosrc, pg_get_function_result(p.oid), a.aggtransfn::text, a.aggfinalfn::text, a.agginitval
        FROM pg_proc AS p JOIN members AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid LEFT JOIN pg_aggregate AS a ON a.aggfnoid = p.oid""",
    "relations": MEMBERS + f"""
        SELECT c.oid::regclass::text, c.relkind::text, c.relowner::regrole::text, {ACL.format("c.relacl", KIND, "c.relowner")}, obj_description(c.oid, 'pg_class'), c.reloptions, c.relpersistence::text,
               c.relreplident::text, c.relrowsecurity, CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END, to_jsonb(s) - 'seqrelid' - 'seqtypid', s.seqtypid::regtype::text
        FROM pg_class AS c JOIN members AS m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid LEFT JOIN pg_sequence AS s ON s.seqrelid = c.oid""",
    "columns": MEMBERS + f"""
        SELECT a.attrelid::regclass::text, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(f.adbin, f.adrelid), a.attidentity::text,
               a.attgenerated::text, a.attstorage::text, a.attcompression::text, a.attcollation::regcollation::text, a.attacl, col_description(a.attrelid, a.attnum)
        FROM pg_attribute AS a LEFT JOIN pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum LEFT JOIN pg_type AS t ON t.typrelid = a.attrelid
        JOIN members AS m ON (m.classid, m.objid) IN (('pg_class'::regclass, a.attrelid), ('pg_type'::regclass, t.oid)) WHERE a.attnum > 0""",
    "constraints": MEMBERS + """
        SELECT k.conrelid::regclass::text, k.conname, pg_get_constraintdef(k.oid), k.convalidated FROM pg_constraint AS k
        JOIN members AS m ON (m.classid, m.objid) IN (('pg_class'::regclass, k.conrelid), ('pg_type'::regclass, k.contypid))""",
    "indexes": MEMBERS + """
        SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), i.indisvalid FROM pg_index AS i
        JOIN members AS m ON m.classid = 'pg_class'::regclass AND m.objid = i.indrelid""",
    "triggers": MEMBERS + """
        SELECT pg_get_triggerdef(t.oid), t.tgenabled::text, obj_description(t.oid, 'pg_trigger') FROM pg_trigger AS t
        JOIN members AS m ON m.classid = 'pg_class'::regclass AND m.objid = t.tgrelid WHERE NOT t.tgisinternal""",
    "event triggers": """
        SELECT e.evtname, e.evtevent, e.evtowner::regrole::text, e.evtfoid::regprocedure::text, e.evtenabled::text, e.evttags, obj_description(e.oid, 'pg_event_trigger')
        FROM pg_event_trigger AS e""",
    "types": MEMBERS + f"""
        SELECT t.oid::regtype::text, t.typtype::text, t.typowner::regrole::text, {ACL.format("t.typacl", "'T'", "t.typowner")}, obj_description(t.oid, 'pg_type'), t.typdefault, t.typbasetype::regtype::text,
               ARRAY(SELECT e.enumlabel FROM pg_enum AS e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
        FROM pg_type AS t JOIN members AS m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid""",
    # pg_dump tells what is another than these; those of the owner alone are the default
    "rights as they were made": MEMBERS + """
        SELECT pg_describe_object(i.classoid, i.objoid, i.objsubid), i.privtype::text, ARRAY(SELECT a::text FROM unnest(i.initprivs) AS a ORDER BY 1)
        FROM pg_init_privs AS i JOIN members AS m ON (m.classid, m.objid) = (i.classoid, i.objoid) WHERE cardinality(i.initprivs) > 1""",
    "schemas": f"""
        SELECT n.nspname, n.nspowner::regrole::text, {ACL.format("n.nspacl", "'n'", "n.nspowner")}, obj_description(n.oid, 'pg_namespace') FROM pg_namespace AS n WHERE n.nspname = 'audit_cdc_internal'""",
}


def catalogs(db):
    return {what: sorted(map(repr, db.rows(query))) for what, query in QUERIES.items()}


def difference(one, other):
    """What only one of both has: as pytest would show it, but not all that is equal."""
    found = {}
    for what in QUERIES:
        less, more = set(one[what]) - set(other[what]), set(other[what]) - set(one[what])
        if less or more:
            found[what] = sorted(less), sorted(more)
    return found
