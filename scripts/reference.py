"""docs/reference.md, made from the COMMENTs of a database in which the extension was created."""

import re

import psycopg2
import psycopg2.errorcodes

HEAD = """# Reference

Made by `scripts/reference` from the COMMENTs in the extension: change them there. Functions, views and types live in the schema of the
extension. The other pages tell what to use when: see [all pages](../README.md#all-pages).

- [Functions and procedures](#functions-and-procedures)
- [Views](#views)
- [Types](#types)
- [Settings](#settings)
- [Roles](#roles)
- [Errors](#errors)
"""

MEMBERS = """
  FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
  WHERE d.deptype = 'e' AND e.extname = 'audit_cdc' AND d.classid = '{}'::regclass"""

FUNCTIONS = """
SELECT p.proname, p.prokind = 'p', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), obj_description(p.oid, 'pg_proc'),
       ARRAY(SELECT coalesce(r.rolname, 'everybody') FROM aclexplode(p.proacl) AS a LEFT JOIN pg_roles AS r ON r.oid = a.grantee
             WHERE a.grantee <> p.proowner AND r.rolname IS DISTINCT FROM 'audit_cdc_worker' ORDER BY 1)
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.oid IN (SELECT d.objid""" + MEMBERS.format("pg_proc") + """) AND n.nspname <> 'audit_cdc_internal'
ORDER BY p.proname, pg_get_function_identity_arguments(p.oid) COLLATE "C" """

RELATIONS = """
SELECT c.relname, obj_description(c.oid, 'pg_class'),
       ARRAY(SELECT json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'comment', col_description(c.oid, a.attnum))
             FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE (c.oid IN (SELECT d.objid""" + MEMBERS.format("pg_class") + """) OR c.reltype IN (SELECT d.objid""" + MEMBERS.format("pg_type") + """))
  AND n.nspname <> 'audit_cdc_internal' AND c.relkind = %s
ORDER BY c.relname"""

SETTINGS = """
SELECT name, concat_ws(' ', boot_val, unit),
       CASE context WHEN 'sighup' THEN 'reload' WHEN 'superuser' THEN 'a superuser' WHEN 'user' THEN 'everybody' ELSE context END,
       coalesce(array_to_string(enumvals, ', '), concat_ws(' to ', min_val, max_val)), short_desc, extra_desc
FROM pg_settings WHERE name LIKE %s ORDER BY name"""

# the roles, and whose member each is
ROLES = """
SELECT r.rolname, ARRAY(SELECT m.rolname FROM pg_auth_members AS a JOIN pg_roles AS m ON m.oid = a.roleid WHERE a.member = r.oid ORDER BY 1),
       ARRAY(SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace CROSS JOIN LATERAL aclexplode(c.relacl) AS a
             WHERE a.grantee = r.oid AND n.nspname <> 'audit_cdc_internal' AND c.relkind = 'v' ORDER BY 1)
FROM pg_roles AS r WHERE r.rolname IN ('audit_cdc_ingest', 'audit_cdc_reader', 'audit_cdc_admin', 'audit_cdc_keeper', 'audit_cdc_worker') ORDER BY r.rolname"""

# what no right says
ROLE_NOTES = {
    "audit_cdc_keeper": "Says how long entries are kept and what is held, and removes what is older.",
    "audit_cdc_admin": "Runs capture, describes sources, names what relays may deliver.",
    "audit_cdc_ingest": "For relays.",
    "audit_cdc_reader": "Reads the whole log, whatever grants and row security say of the tables. It creates projections and changes its own. "
                        "`audit_undo` and `audit_redo` need its own rights on the tables.",
    "audit_cdc_worker": "Capture and ingest work with its rights. Nobody is a member of it.",
}


def text(comment):
    """As Markdown."""
    return " ".join((comment or "").replace("&", "&amp;").replace("<", "&lt;").split())


def cell(comment):
    return text(comment).replace("|", "\\|")


def condition(code):
    try:
        return psycopg2.errorcodes.lookup(code).lower()
    except KeyError:
        return None


def raised(comment):
    """SQLSTATEs that a COMMENT names."""
    return {code for code in re.findall(r"\b[0-9][0-9A-Z]{4}\b|\b[0-9A-Z]{2}[0-9P][0-9A-Z]{2}\b", comment or "") if re.search(r"\d", code) and condition(code)}


def names_of(arguments, result):
    """What a description may tell of by name: parameters, and columns of the result."""
    return set(re.findall(r"(?:^|[,(] ?)(?:(?:IN|OUT|INOUT|VARIADIC) )?(\w+) ", f"{arguments}, {result or ''}"))


def described(comment, names):
    """Paragraphs of a description; sentences such as "key: only this record." become a list."""
    before, items, after = [], [], []
    comment = re.sub(r"; (?=(\w+): )", lambda found: ". " if found[1] in names else "; ", comment)
    for sentence in re.split(r"(?<=\.) (?=[\w\"])", comment.strip()):
        told = re.match(r"(\w+(?: \([^()]*\))?(?:(?:, | and )\w+(?: \([^()]*\))?)*): (.*)", sentence, re.S)
        named = re.findall(r"\w+", re.sub(r" \([^()]*\)| and ", " ", told[1])) if told else []
        if named and names.issuperset(named):
            parts = re.sub(r"\b(\w+)(?= \(|,|$| and )(?![^()]*\))", r"`\1`", told[1])
            items.append(f"- {parts}: {told[2]}")
        elif items and not after and re.match(r"(It|They|Its|Then) ", sentence):
            items[-1] += f" {sentence}"
        else:
            (after if items else before).append(sentence)
    return [" ".join(before), "\n".join(items), " ".join(after)]


def functions(rows):
    yield "## Functions and procedures\n"
    last = None
    for name, is_procedure, arguments, result, comment, roles in rows:
        if name != last:
            yield f"### {name}\n"
        last = name
        arguments = re.sub(r"NULL::[a-z_ ]+(\[\])?", "NULL", arguments)
        called = f"{name}({arguments})" if len(arguments) < 90 else f"{name}(\n    " + ",\n    ".join(re.split(r", (?=\w+ |OUT |INOUT )", arguments)) + ")"
        yield f"```text\n{'CALL ' if is_procedure else ''}{called}{'' if is_procedure else f' → {result}'}\n```\n"
        description, _, errors = text(comment).partition("Errors: ")
        yield from (f"{part}\n" for part in described(description, names_of(arguments, result)) if part)
        if errors:
            yield f"Errors: {errors}\n"
        yield f"May be called by: {', '.join(f'`{role}`' if role != 'everybody' else role for role in roles) or 'superusers'}.\n"


def relations(title, rows):
    yield f"## {title}\n"
    for name, comment, columns in rows:
        yield f"### {name}\n"
        if comment:
            yield f"{text(comment[:1].upper() + comment[1:])}.\n"
        yield "| column | type | |\n|-|-|-|"
        for column in columns:
            yield f"| `{column['name']}` | {column['type']} | {cell(column['comment'])} |"
        yield ""


def settings(rows):
    yield "## Settings\n"
    yield "| setting | default | range | set by | what it does |\n|-|-|-|-|-|"
    for name, default, by, values, short, long in rows:
        default = re.sub(r"000 ms$", " s", default)
        yield f"| `{name}` | {default} | {cell(values)} | {by} | {cell(short)} {cell(long)} |"
    yield "\n*reload*: `ALTER SYSTEM SET …`, then `SELECT pg_reload_conf()`.\n"


def roles(rows, callable_by):
    yield "## Roles\n"
    yield "The extension makes them for the whole server, without LOGIN. Grant them to yours. `DROP EXTENSION` leaves them.\n"
    for name, member_of, views in rows:
        yield f"### {name}\n"
        yield ROLE_NOTES.get(name, "") + "\n"
        if member_of:
            yield f"- has all that {', '.join(f'`{role}`' for role in member_of)} may"
        if names := sorted(callable_by.get(name, ())):
            yield f"- calls {', '.join(f'`{n}`' for n in names)}"
        if views:
            yield f"- reads {', '.join(f'`{v}`' for v in views)}"
        yield ""
    yield "### Everybody\n"
    yield f"- calls {', '.join(f'`{n}`' for n in sorted(callable_by.get('everybody', ())))}\n"


def errors(rows):
    yield "## Errors\n"
    yield "SQLSTATEs that the descriptions above name. Messages never contain values of rows.\n"
    yield "| SQLSTATE | condition | named by |\n|-|-|-|"
    by_code = {}
    for name, _, _, _, comment, _ in rows:
        for code in raised(comment):
            by_code.setdefault(code, set()).add(name)
    for code in sorted(by_code):
        yield f"| {code} | {condition(code)} | {', '.join(f'`{name}`' for name in sorted(by_code[code]))} |"


def reference(connection):
    def fetch(sql, *arguments):
        with connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return cursor.fetchall()

    fetch("LOAD 'audit_cdc'; SELECT 1")
    # types without their schema, whatever the database's settings
    fetch("SET search_path = public; SELECT 1")
    found = fetch(FUNCTIONS)
    callable_by = {}
    for name, _, _, _, _, called_by in found:
        for role in called_by:
            callable_by.setdefault(role, set()).add(name)
    parts = [HEAD, *functions(found), *relations("Views", fetch(RELATIONS, "v")), *relations("Types", fetch(RELATIONS, "c")),
             *settings(fetch(SETTINGS, "audit_cdc.%")), *roles(fetch(ROLES), callable_by), *errors(found)]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    with psycopg2.connect("") as connected:
        print(reference(connected), end="")
