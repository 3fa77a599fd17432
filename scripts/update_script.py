"""The script that updates the extension's SQL from one version to the next, of their install scripts and their catalogs.

Statements are those of the new install script, as they stand there: what is new, and what was changed. The catalogs of
both versions tell what has to be dropped, what depends on it, which columns came, and who may do what. What no
comparison can tell stands in sql/update, and is put in before the rights."""

import pathlib
import re
import sys
from collections import defaultdict

import psycopg2

TOP = pathlib.Path(__file__).resolve().parents[1]
WIDEST = 120
# the schema of the extension in both databases
SCHEMA = "audit_cdc_extschema"
PINNED = "SET LOCAL search_path = pg_catalog, pg_temp;"

OBJECTS = """
SELECT d.classid::regclass::text, d.objid, o.type, replace(o.identity, %(schema)s, '@extschema@'),
       concat_ws('.', o.schema, coalesce(p.proname, o.name)) AS name,
       CASE WHEN p.oid IS NOT NULL THEN concat_ws(' ', p.prokind, p.proretset, pg_get_function_identity_arguments(p.oid), '->', pg_get_function_result(p.oid)) END,
       coalesce(pg_get_userbyid(coalesce(p.proowner, c.relowner)), '') = 'audit_cdc_worker',
       CASE WHEN p.oid IS NOT NULL THEN pg_get_function_sqlbody(p.oid) WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END,
       ARRAY(SELECT concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod)
                              || CASE WHEN c.relkind = 'r' OR c.relkind = 'p' THEN concat(' DEFAULT ' || pg_get_expr(f.adbin, f.adrelid), CASE WHEN a.attnotnull THEN ' NOT NULL' END) ELSE '' END)
             FROM pg_attribute AS a LEFT JOIN pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
             WHERE a.attrelid = coalesce(nullif(t.typrelid, 0), c.oid) AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IS DISTINCT FROM 'i' ORDER BY a.attnum)
FROM pg_depend AS d
JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid AND e.extname = 'audit_cdc' AND d.deptype = 'e'
CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS o
LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
LEFT JOIN pg_type AS t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
-- rows of tables and arrays go with what they are of
WHERE t.oid IS NULL OR NOT EXISTS (SELECT FROM pg_class AS r WHERE r.oid = t.typrelid AND r.relkind <> 'c') AND t.typelem = 0
ORDER BY d.objid"""

# who names whom: views by their rules, others by the types of rows, defaults by their tables
DEPENDS = """
SELECT DISTINCT coalesce(r.ev_class, f.adrelid, d.objid), coalesce(nullif(t.typrelid, 0), nullif(t.typelem, 0), d.refobjid)
FROM pg_depend AS d
LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
LEFT JOIN pg_attrdef AS f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
LEFT JOIN pg_type AS t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
WHERE d.deptype IN ('n', 'a') AND d.refobjid >= 16384"""

RIGHTS = """
SELECT o.classid, o.objid, coalesce(quote_ident(g.rolname), 'PUBLIC'), a.privilege_type, o.part
FROM (SELECT 'pg_proc' AS classid, oid AS objid, proacl AS acl, proowner AS owner, NULL AS part FROM pg_proc
      UNION ALL SELECT 'pg_class', oid, relacl, relowner, NULL FROM pg_class
      UNION ALL SELECT 'pg_class', a.attrelid, a.attacl, c.relowner, quote_ident(a.attname) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
      UNION ALL SELECT 'pg_type', oid, typacl, typowner, NULL FROM pg_type
      UNION ALL SELECT 'pg_namespace', oid, nspacl, nspowner, NULL FROM pg_namespace) AS o
CROSS JOIN LATERAL aclexplode(o.acl) AS a LEFT JOIN pg_roles AS g ON g.oid = a.grantee
WHERE a.grantee <> o.owner
ORDER BY 1, 2, 3, 4, 5"""

ROUTINES = "function", "procedure", "aggregate"
MADE = re.compile(r"CREATE (?:OR REPLACE )?(?:UNIQUE )?(FUNCTION|PROCEDURE|AGGREGATE|VIEW|TABLE|SEQUENCE|TYPE|INDEX|TRIGGER|EVENT TRIGGER) ([@\w.]+)")


def statements(script):
    """Each without the comments before it, with the search_path that it needs. What names schemas stands under any in the script."""
    token = re.compile(r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"[^"]*"|(\$\w*\$).*?\1|;|\bBEGIN ATOMIC\b.*?\n *END;|[^;'"$/B-]+|.""", re.S)
    path, text = "", ""
    for match in token.finditer(script):
        part = match[0]
        if not text.strip() and part.startswith(("--", "/*")):
            continue
        text += part
        if part == ";" or part.startswith("BEGIN ATOMIC"):
            statement, text = text.strip(), ""
            if statement.startswith("SET LOCAL search_path"):
                path = statement
            about = re.match(r"(?:CREATE (?:OR REPLACE )?|COMMENT ON )[A-Z]+ ([@\w.]+)", statement)
            yield statement, path if about and "." not in about[1] else PINNED


def parts(script):
    """What pgrx has put together, in an order of its own: name, what is required before, and the text."""
    names = dict(re.findall(r"(?m)^-- src/schema.rs:(\d+)()", script))
    declared = (TOP / "src" / "schema.rs").read_text().split("\n")
    for line in names:
        names[line] = re.search(r'name = "(\w+)"', "\n".join(declared[int(line) - 1:]))[1]
    for text in script.split("/* <begin connected objects> */")[1:]:
        declared_at, function = re.search(r"(?m)^-- src/schema.rs:(\d+)", text), re.search(r"(?m)^-- audit_cdc::(?:\w+::)*(\w+)$", text)
        required = re.search(r"(?m)^-- requires:\n((?:--   .*\n)+)", text)
        if declared_at or function:
            place = (1, int(declared_at[1])) if declared_at else (0, function[1])
            yield names[declared_at[1]] if declared_at else function[1], place, set(re.findall(r"--   (?:\w+::)*(\w+)", required[1]) if required else []), text


def in_order(found):
    """The same order whenever the script is made: as soon as they may, functions in Rust come by name, others as src/schema.rs has them."""
    waiting, names, placed = sorted(found, key=lambda part: part[1]), {part[0] for part in found}, []
    first = [part for part in waiting if "\n-- bootstrap" in part[3]]
    last = [part for part in waiting if "\n-- finalize" in part[3]]
    waiting = [part for part in waiting if part not in first + last]
    done = {part[0] for part in first}
    while waiting:
        part = next(part for part in waiting if part[2] & names <= done)
        waiting.remove(part)
        done.add(part[0])
        placed.append(part)
    return first + placed + last


class Version:
    def __init__(self, scripts, version):
        script = (pathlib.Path(scripts) / f"audit_cdc--{version}.sql").read_text()
        self.statements = list(statements(script))
        self.script = script
        connection = psycopg2.connect(dbname=f"audit_{version}")
        cursor = connection.cursor()
        self.objects, self.by_oid, self.named = {}, {}, defaultdict(list)
        cursor.execute(OBJECTS, {"schema": SCHEMA})
        for catalog, oid, kind, identity, name, signature, is_workers, meaning, columns in cursor.fetchall():
            one = Object(catalog, oid, kind, identity, name.replace(SCHEMA, "@extschema@"), signature, is_workers, meaning, [column.replace(SCHEMA, "@extschema@") for column in columns])
            self.objects[one.key] = self.by_oid[oid] = one
            self.named[one.kind in ROUTINES, one.name].append(one)
        cursor.execute(DEPENDS)
        self.dependents = defaultdict(set)
        for by, on in cursor.fetchall():
            if by in self.by_oid and on in self.by_oid and by != on:
                self.dependents[self.by_oid[on].key].add(self.by_oid[by].key)
        cursor.execute(RIGHTS)
        self.rights = defaultdict(set)
        for _, oid, role, right, part in cursor.fetchall():
            if oid in self.by_oid:
                self.rights[self.by_oid[oid].key].add((role, right, part))
        connection.close()
        self.texts = {statement for statement, _ in self.statements}

    def makes(self):
        """Statements in order, each with the key of what it makes, or None. The catalogs know overloads in the order in which they were made."""
        seen, made = defaultdict(int), {}
        for statement, path in self.statements:
            match = MADE.match(statement)
            if not match or match[1] in ("INDEX", "TRIGGER"):
                made[statement] = path, None
                continue
            name = match[2] if "." in match[2] or match[1] == "EVENT TRIGGER" else f"@extschema@.{match[2]}"
            kind = match[1].lower() in ROUTINES, name
            seen[kind] += "OR REPLACE" not in match[0]
            if not 0 < seen[kind] <= len(self.named[kind]):
                sys.exit(f"who has made {name}? {[one.identity for one in self.named[kind]]}")
            made[statement] = path, self.named[kind][seen[kind] - 1].key
        for _, _, _, text in in_order(list(parts(self.script))):
            for statement, _ in statements(text):
                yield statement, *made[statement]


class Object:
    def __init__(self, catalog, oid, kind, identity, name, signature, is_workers, meaning, columns):
        self.catalog, self.oid, self.kind, self.identity, self.name = catalog, oid, kind, identity, name
        self.signature, self.is_workers, self.meaning, self.columns = signature, is_workers, meaning, columns
        self.key = kind, identity


def printed(identity):
    """It stands under a search_path that begins with pg_catalog."""
    return identity.replace("pg_catalog.", "")


def wrapped(statement):
    """Lines that are too wide go on in the next one, after a comma or before a word of SQL."""
    return "\n".join(line if len(line) <= WIDEST else folded(line) for line in statement.split("\n"))


def folded(line):
    lines = [""]
    for part in re.split(r"(?<=,)|(?= (?:RETURNS|LANGUAGE|FROM|TO) )", line):
        if len(lines[-1]) + len(part) > WIDEST:
            lines.append("      ")
            part = part.lstrip()
        lines[-1] += part
    return "\n".join(lines)


def begins_with(new, old):
    return new[:len(old)] == old


def to_be_dropped(old, new):
    """What is gone, what cannot be replaced in place, and all that names it."""
    dropped = {key for key, one in old.objects.items() if key not in new.objects or one.signature != new.objects[key].signature
               or one.kind in ("view", "type") and not begins_with(new.objects[key].columns, one.columns)}
    ahead = list(dropped)
    while ahead:
        for key in old.dependents[ahead.pop()] - dropped:
            dropped.add(key)
            ahead.append(key)
    if tables := [key for key in dropped if key[0] in ("table", "sequence")]:
        sys.exit(f"these cannot be dropped, for they hold what the log knows: {tables}")
    if views := [key for key in dropped & set(new.objects) if key[0] == "view" and key[1].startswith("@extschema@")]:
        sys.exit(f"people have made views of these: their columns may only be added, and come last: {views}")
    order = []

    def drop(key):
        if key in order:
            return
        for dependent in sorted(old.dependents[key], key=lambda it: old.objects[it].oid, reverse=True):
            drop(dependent)
        order.append(key)
    for key in sorted(dropped, key=lambda it: old.objects[it].oid, reverse=True):
        drop(key)
    return order


def replaced(statement):
    return wrapped(re.sub(r"^CREATE (?:OR REPLACE )?", "CREATE OR REPLACE ", statement))


def added_columns(old, new):
    kind = "TYPE" if new.kind == "type" else "TABLE"
    if not begins_with(new.columns, old.columns):
        sys.exit(f"{new.identity}: columns may only be added, and come last\n{old.columns}\n{new.columns}")
    for column in new.columns[len(old.columns):]:
        yield f"ALTER {kind} {new.identity} ADD {'ATTRIBUTE' if kind == 'TYPE' else 'COLUMN'} {column};"


def changes(old, new, dropped):
    """Statements of the new script that are not in the old one, with their search_path, and those of what comes anew."""
    by_blocks = set(new.objects) - {key for _, _, key in new.makes()}
    fresh_names = {new.objects[key].name for key in new.objects if key not in old.objects or key in dropped}
    for statement, path, key in new.makes():
        is_old = statement in old.texts
        if statement.startswith("DO"):
            # such a block may put views together
            views = [key for key in by_blocks if f"CREATE VIEW {key[1]} " in statement]
            if any(key not in old.objects or key in dropped or old.objects[key].meaning != new.objects[key].meaning for key in views):
                yield statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW"), PINNED
            continue
        if re.match(r"(GRANT|REVOKE|SET|CREATE SCHEMA)\b|ALTER \w+ \S+ OWNER", statement):
            continue
        if key is None:
            about = re.match(r"COMMENT ON \w+ ([@\w.]+?)(?:\.(\w+))?(?: IS|\()", statement)
            names = {".".join(filter(None, about.groups())), about[1]} if about else set()
            names |= {f"@extschema@.{name}" for name in names if "." not in name}
            if is_old and not names & fresh_names:
                continue
            if trigger := re.match(r"CREATE TRIGGER (\w+) .*? ON ([@\w.]+)", statement, re.S):
                if re.search(rf"CREATE TRIGGER {trigger[1]} [^;]* ON {re.escape(trigger[2])}\s", "\n".join(old.texts)):
                    yield f"DROP TRIGGER {trigger[1]} ON {trigger[2]};", path
            yield statement, path
        elif key not in old.objects or key in dropped:
            yield statement, path
        # a star means more where a table has got columns
        elif is_old and old.objects[key].meaning == new.objects[key].meaning:
            continue
        elif key[0] in ROUTINES or key[0] == "view":
            yield replaced(statement), path
        elif key[0] == "event trigger":
            yield f"DROP EVENT TRIGGER {key[1]};", path
            yield statement, path
            # the new one is not as the old one was made
            yield from ((said, PINNED) for said, _ in new.statements if said.startswith(f"ALTER EVENT TRIGGER {key[1]} ") and said in old.texts)
        else:
            added = list(added_columns(old.objects[key], new.objects[key]))
            if not added:
                print(f"{key[1]} is made by another statement: if more than a comment in it is another, sql/update needs it", file=sys.stderr)
            for alteration in added:
                yield alteration, path


def regclass_list(identities, cast):
    return "ARRAY[\n    " + ",\n    ".join(f"'{printed(identity)}'" for identity in identities) + f"]::{cast}[]"


def kept_private(old, new, dropped):
    fresh = [one for key, one in sorted(new.objects.items()) if (key not in old.objects or key in dropped) and one.catalog in ("pg_proc", "pg_class", "pg_type")]
    for catalog, cast in (("pg_proc", "regprocedure"), ("pg_class", "regclass"), ("pg_type", "regtype")):
        if ones := [one.identity for one in fresh if one.catalog == catalog]:
            yield (f"SELECT audit_cdc_internal.keep_private('{catalog}'::regclass, o.it)\n"
                   f"  FROM unnest({regclass_list(ones, cast)}) AS o(it);")
    if relations := [one.identity for one in fresh if one.catalog == "pg_class"]:
        yield ("-- To newer versions of PostgreSQL their row types are members too.\n"
               "SELECT audit_cdc_internal.keep_private('pg_type'::regclass, c.reltype)\n"
               "  FROM pg_class AS c\n"
               "  JOIN pg_depend AS d ON d.classid = 'pg_type'::regclass AND d.objid = c.reltype AND d.deptype = 'e'\n"
               f"  WHERE c.oid = ANY ({regclass_list(relations, 'regclass')});")
    if tables := [one.identity for one in fresh if one.kind == "table"]:
        yield f"SELECT audit_cdc_internal.keep_from_writers(o.it)\n  FROM unnest({regclass_list(tables, 'regclass')}) AS o(it);"


def rights(old, new, dropped):
    for key, one in sorted(new.objects.items()):
        what = {"pg_proc": "ROUTINE", "pg_type": "TYPE", "pg_namespace": "SCHEMA"}.get(one.catalog, "SEQUENCE" if one.kind == "sequence" else "TABLE")
        before = set() if key in dropped else old.rights[key]
        for verb, preposition, those in (("REVOKE", "FROM", before - new.rights[key]), ("GRANT", "TO", new.rights[key] - before)):
            for role, right, part in sorted(those, key=str):
                yield f"{verb} {right}{f' ({part})' if part else ''} ON {what} {printed(one.identity)} {preposition} {role};"
        if one.is_workers and (key in dropped or key not in old.objects or not old.objects[key].is_workers):
            yield f"ALTER ROUTINE {printed(one.identity)} OWNER TO audit_cdc_worker;"


def blocks(new):
    """Blocks of the install script that look at everything, each time anew: names of strangers, and the settings of what has rights."""
    for about in ("strangers text", "pinned_settings()"):
        yield [statement for statement, _ in new.statements if statement.startswith("DO") and about in statement][-1]


def main(scripts, old_version, new_version):
    old, new = Version(scripts, old_version), Version(scripts, new_version)
    print(f"-- From {old_version} to {new_version}. Made by scripts/update_script of statements in sql/ and src/: change them there, or what stands")
    print(f"-- in sql/update.\n\\echo Use \"ALTER EXTENSION audit_cdc UPDATE TO '{new_version}'\" to load this file. \\quit\n\n{PINNED}\n")
    order = to_be_dropped(old, new)
    dropped, now = set(order), PINNED
    all_changes = list(changes(old, new, dropped))
    if altered := {match[1]: None for statement, _ in all_changes if (match := re.match(r"ALTER TABLE ([@\w.]+) ADD COLUMN", statement))}:
        # first what others lock first
        tables = {"audit_cdc_internal.log": None} | altered
        print(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE;")
    for kind, identity in order:
        print(wrapped(f"DROP {kind.upper()} {printed(identity)};"))
    for statement, needed in all_changes:
        if needed != now:
            print(f"\n{needed}")
            now = needed
        print(f"\n{statement}")
    if now != PINNED:
        print(f"\n{PINNED}")
    by_hand = TOP / "sql" / "update" / f"{old_version}--{new_version}.sql"
    if by_hand.exists():
        print(f"\n{by_hand.read_text().strip()}")
    print("\n-- Nobody gets anything but what stands here.")
    for statement in [*kept_private(old, new, dropped), *rights(old, new, dropped)]:
        print(wrapped(statement))
    for statement in blocks(new):
        print(statement)
    print(f"\nSELECT audit_cdc_internal.note_operation(\n  'ALTER EXTENSION', jsonb_build_object('from', '{old_version}', 'to', '{new_version}'));")


main(*sys.argv[1:])
