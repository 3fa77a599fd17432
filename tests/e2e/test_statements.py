"""What the Rust code sends to PostgreSQL: each name in it is qualified, or PostgreSQL's own."""

import re

import psycopg2
import pytest
from conftest import TOP

LITERAL = r'"(?:[^"\\]|\\[\s\S])*"'
SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|LOCK|WITH|TRUNCATE|COPY|EXPLAIN|CREATE|ALTER|DROP|CALL|SET|DO|MERGE|VALUES|TABLE)\b(?! default_transaction_isolation|\s+ROLE to)")

# Put together when it runs; what runs in the place of a name is quoted, and its look-up is watched (src/pg/bound.rs).
MADE = {"DELETE FROM {table}", "SELECT FROM {table} LIMIT 1", "SELECT * FROM ({rule}\\n) AS rule", "EXPLAIN (VERBOSE, COSTS OFF) {}"}
# These run before any other statement could, or with the rights of the caller, whose names they are to mean.
NOT_SENT = {"CALL audit_capture_stop() first: it ends the capture and drops its slot.", "SET LOCAL search_path = @extschema@;", "SET LOCAL search_path = pg_catalog, pg_temp;"}


def sources():
    """Rust without comments, tests and the SQL of the install script."""
    for path in sorted(set((TOP / "src").rglob("*.rs")) - set((TOP / "src" / "tests").rglob("*.rs"))):
        text = path.read_text().split("#[cfg(test)]\nmod tests")[0]
        yield path.name, re.sub(r'r#"[\s\S]*?"#|^\s*//.*$', '""', text, flags=re.M)


def macros(text):
    """Of a file: name to parameter and body."""
    found = {}
    for name, parameter, body in re.findall(r"macro_rules! (\w+) \{\s*\((?:\$(\w+):literal)?\) => \{(.*?)\n    \};", text, re.S):
        found[name] = (parameter, body)
    return found


def expanded(text, known):
    """With macros replaced by what they stand for."""
    def replaced(match):
        parameter, body = known[match[1]]
        return body.replace(f"${parameter}", match[2]) if parameter else body
    before = None
    while known and before != text:
        before, text = text, re.sub(rf"\b({'|'.join(known)})!\(({LITERAL})?\)", replaced, text)
    return text


def types(text, given):
    """Of the parameters, as they are declared to PostgreSQL."""
    if re.fullmatch(r"[A-Z]+", given):
        given = re.search(rf"const {given}: [^=]*=\s*(&\[[^\]]*\])", text)[1]
    return [re.sub(r"(\w+?)ARRAY$", r"\1[]", name).replace("CHAR", '"char"') for name in re.findall(r"([A-Z0-9]+)OID\b", given)]


# statements of which PostgreSQL cannot tell the types by itself, by what they call
ASKED = {
    "table_named($1, $4, $2, $3)": ["text", "oid", "text", "text", "boolean", "text"],
    "only_table_named(string_to_array($1": ["text", "oid", "text", "text", "boolean", "text"],
    "record_lines($1, $2, true)": ["audit_cdc_internal.audited", "text", "text", "text", "bigint", "timestamptz", "timestamptz", "bigint[]", "boolean", "bigint"],
}


def parts():
    """What is put into statements, by its name."""
    for name, file in [("TOLD", "crates/core/src/question.rs"), ("SIGNED", "crates/core/src/question.rs"), ("UNDISTURBED", "src/history/told_tables.rs"), ("ABOUT", "src/history/asked.rs"), ("SINCE", "src/history/record_at.rs")]:
        yield f"{{{name}}}", re.search(rf"const {name}: &str =\s*({LITERAL})", (TOP / file).read_text())[1][1:-1]
    yield "{partition}", "audit_cdc_internal.log"


def statements():
    """Each with the types of its parameters; None: of what is not a Statement."""
    for name, text in sources():
        rest = text
        for match in re.finditer(rf"Statement::new\(\s*((?:concat!\((?:[^()]|\([^()]*\)|{LITERAL})*\)|{LITERAL}))\s*,\s*(&\[[^\]]*\]|[A-Z]+)", text):
            sql = "".join(literal[1:-1] for literal in re.findall(LITERAL, expanded(match[1], macros(text))))
            yield name, sql.replace('\\"', '"'), types(text, match[2])
            rest = rest.replace(match[0], "")
        rest = re.sub(r"macro_rules! .*?\n\}", "", rest, flags=re.S)
        for table in re.findall(r'undisturbed\("([^"]+)"\)', rest):
            rest = rest.replace("AND {}", "AND " + dict(parts())["{UNDISTURBED}"].replace("$1", table), 1)
        for part, sql in parts():
            rest = rest.replace(part, sql)
        for literal in re.findall(LITERAL, rest):
            if SQL.match(literal[1:]):
                of_a_table = ["audit_cdc_internal.audited"] if "($1)." in literal else None
                of_a_question = next((types_ for call, types_ in ASKED.items() if call in literal), None)
                yield name, literal[1:-1], of_a_question or of_a_table


def alone(connection, sql, types_):
    """Means the same whatever else there is: with nothing but PostgreSQL's own objects on the search_path. Functions and operators are never looked up in pg_temp."""
    sql = sql.replace('\\"', '"')  # as Rust reads the literal
    types_ = list(types_)
    with connection.cursor() as cursor:
        while True:
            cursor.execute("BEGIN; SET LOCAL search_path = pg_catalog, pg_temp")
            try:
                declared = f" ({', '.join(types_)})" if types_ else ""
                cursor.execute(sql if sql.startswith("LOCK ") else f"PREPARE p{declared} AS {sql}")
                return
            except psycopg2.errors.IndeterminateDatatype as error:
                # its statement shares the parameters of others, and has no use for this one
                number = int(re.search(r"parameter \$(\d+)", str(error))[1])
                types_ += ["unknown"] * (number - len(types_))
                types_[number - 1] = "text"
            finally:
                cursor.execute("ROLLBACK")


def test_every_statement_means_the_same_whatever_others_make(db):
    found = list(statements())
    assert len([name for name, sql, types_ in found if types_ is not None and "($1)." not in sql and not any(call in sql for call in ASKED)]) == sum(text.count("Statement::new(") for _, text in sources()), "all are understood"
    others = {sql for _, sql, types_ in found if types_ is None}
    assert MADE | NOT_SENT <= others
    with db.connect().cursor() as cursor:  # a catalog of Citus
        cursor.execute("SET allow_system_table_mods = on; CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod \"char\", repmodel \"char\")")
    for name, sql, types_ in found:
        if sql in MADE | NOT_SENT:
            continue
        connection = db.connect()
        try:
            alone(connection, sql, types_ or [])
        except psycopg2.Error as error:
            pytest.fail(f"{name}: {sql}: {error}")
        connection.cursor().execute("DEALLOCATE ALL")


@pytest.mark.parametrize("sql", ["SELECT FROM captures", "SELECT last_log_id()", "SELECT NULL::action", "SELECT audit_logs.id FROM audit_logs"])
def test_a_name_without_its_schema_would_be_found(db, sql):
    with pytest.raises(psycopg2.Error):
        alone(db.connect(), sql, [])
