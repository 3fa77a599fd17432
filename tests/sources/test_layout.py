"""How sources are laid out: lines fit, files say what they are for, public objects say what they do. No server is needed."""

import re

from sources import SOURCES, TOP, name, named

WIDEST_RUST = int(re.search(r"max_width = (\d+)", (TOP / "rustfmt.toml").read_text())[1])
WIDEST_SQL = 120
LONGEST_ROUTINE = 60
# how each kind of file begins, after the line that names its interpreter
BEGINS = {".rs": "//! ", ".sql": "-- ", ".py": '"""', ".sh": "# ", "": "# "}


def too_wide(paths, widest):
    return [f"{name(path)}:{number}: {len(line)} columns" for path in paths
            for number, line in enumerate(path.read_text().split("\n"), 1)
            # a message as it is sent stands in one literal
            if len(line) > widest and not re.match(r'\s*(const \w+: &str = )?r#"\{', line)]


def test_lines_of_sql_fit():
    made = sorted((TOP / "sql").glob("audit_cdc--*.sql"))
    assert made and too_wide([*named(".sql", "sql", "scripts"), *made], WIDEST_SQL) == []


def test_lines_of_rust_fit():
    """rustfmt leaves comments, literals and what stands in macros as they are."""
    assert too_wide(named(".rs", "src", "crates"), WIDEST_RUST) == []


def test_every_source_begins_with_what_it_is_for():
    scripts = [path for path in SOURCES if path.relative_to(TOP).parts[0] == "scripts" and path.suffix in ("", ".sh")]
    assert scripts
    wrong = []
    for path in [*named(".rs", "src", "crates"), *named(".sql", "sql", "scripts"), *named(".py", "bench", "tests"), *scripts]:
        lines = path.read_text().split("\n")
        lines = lines[1:] if lines[0].startswith("#!") else lines
        begins = BEGINS[path.suffix] if not lines[0].startswith('"""') else '"""'
        if not lines[0].startswith(begins) or len(lines[0]) < len(begins) + 10:
            wrong.append(f"{name(path)}: {lines[0][:60]}")
    assert wrong == []


def test_files_of_sql_do_one_thing():
    assert [f"{name(path)}: {len(path.read_text().splitlines())} lines" for path in named(".sql", "sql")
            if len(path.read_text().splitlines()) > 400] == []


def routines(text):
    """Name and number of lines of each function and procedure."""
    lines, found = text.split("\n"), []
    for start, line in enumerate(lines):
        if not (begins := re.match(r"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE) ([@.\w]+)", line)):
            continue
        end, ends = start, r".*;$"
        while not re.search(ends, lines[end]):
            if opens := re.search(r"^BEGIN ATOMIC$|\bAS (\$\w*\$)$", lines[end]):
                ends = rf"^{re.escape(opens[1])};$" if opens[1] else r"^END;$"
            end += 1
        found.append((begins[1], end - start + 1))
    return found


def test_functions_of_sql_fit_on_a_page():
    """What is longer is two functions, or Rust."""
    found = [(name(path), *routine) for path in named(".sql", "sql") for routine in routines(path.read_text())]
    assert len(found) > 90
    assert [routine for routine in found if routine[2] > LONGEST_ROUTINE] == []


def test_lines_of_a_routine_are_counted():
    text = ("CREATE FUNCTION a() RETURNS text LANGUAGE sql RETURN 'a;b';\n\nCREATE FUNCTION @extschema@.b(c text)\n  LANGUAGE sql\nBEGIN ATOMIC\n"
            "  SELECT 1;\nEND;\nCREATE PROCEDURE x.d() LANGUAGE plpgsql AS $$\nBEGIN\n  e;\nEND\n$$;\n")
    assert routines(text) == [("a", 1), ("@extschema@.b", 5), ("x.d", 5)]


def test_every_public_object_has_a_comment():
    """As many as there are objects: a function's overloads have one each."""
    texts = [path.read_text() for path in [*named(".sql", "sql"), *named(".rs", "src")]]
    made, said = {}, {}
    for text in texts:
        for name in re.findall(r"CREATE (?:FUNCTION|PROCEDURE|VIEW|TYPE|AGGREGATE|TABLE) @extschema@\.(\w+)", text):
            made[name] = made.get(name, 0) + 1
        for name in re.findall(r"COMMENT ON (?:FUNCTION|PROCEDURE|VIEW|TYPE|AGGREGATE|TABLE) @extschema@\.(\w+)", text):
            said[name] = said.get(name, 0) + 1
    assert len(made) > 40
    assert {name: (count, said.get(name, 0)) for name, count in made.items() if said.get(name, 0) < count} == {}


def test_a_comment_stands_in_the_file_of_its_object():
    """But for functions in C, whose COMMENTs stand in the SQL of their feature."""
    wrong = []
    for path in named(".sql", "sql"):
        text = path.read_text()
        made = set(re.findall(r"CREATE (?:FUNCTION|PROCEDURE|VIEW|TYPE|TABLE) ([@\w]+\.\w+)", text))
        elsewhere = {name for name in re.findall(r"COMMENT ON (?:FUNCTION|PROCEDURE|VIEW|TYPE|TABLE) ([@\w]+\.\w+)", text)} - made
        in_sql = {name for other in named(".sql", "sql") if other != path for name in
                  re.findall(r"CREATE (?:FUNCTION|PROCEDURE|VIEW|TYPE|TABLE) ([@\w]+\.\w+)", other.read_text())}
        wrong += [f"{name(path)}: {name}" for name in elsewhere & in_sql]
    assert wrong == []


def test_comments_of_functions_name_their_errors():
    """Also where there are none: who calls a function wants to know."""
    told = [(name, text) for path in named(".sql", "sql") for name, text in re.findall(
        r"COMMENT ON (?:FUNCTION|PROCEDURE) (@extschema@\.\w+\([^()]*\)) IS((?:\s*'(?:[^']|'')*')+);", path.read_text())]
    assert len(told) > 40
    assert [name for name, text in told if "Errors:" not in re.sub(r"'\s*'", "", text)] == []


def test_functions_in_rust_say_themselves_what_null_does():
    """Of a null that it cannot pass on, pgrx raises XX000: in arguments of functions that are not STRICT, and in arrays of any."""
    functions = [found for path in named(".rs", "src") for found in re.findall(
        r'#\[pg_extern\(\s*sql = r#"(.*?)"#.*?\]\s*(?:pub )?fn (\w+)\s*\(([^)]*)\)', re.sub(r"(?m)^\s*//.*", "", path.read_text()), re.S)]
    assert len(functions) > 40
    for sql, function, arguments in functions:
        types = re.findall(r":\s*([^,:]+(?:<[^:]*>)?)", arguments.replace("pg_sys::", ""))
        assert not [one for one in types if re.search(r"Vec<(?!Option)", one)], function
        assert "STRICT" in sql or not [one for one in types if not one.startswith(("Option<", "FunctionCallInfo"))], (function, types)


def test_sql_is_made_under_the_pinned_search_path():
    """Only annotate.sql is not: what may come in any order comes between its settings by chance."""
    required = {}
    for made in re.findall(r"extension_sql(?:_file)?!\((.*?)\);\n", (TOP / "src/schema.rs").read_text(), re.S):
        names = re.search(r"requires = \[(.*?)\]", made, re.S)
        required[re.search(r'name = "(\w+)"', made)[1]] = re.findall(r'"(\w+)"', names[1]) if names else []
    assert len(required) > 40

    def comes_after(name):
        return name == "annotate_ends" or any(map(comes_after, required[name]))
    # the last one is made last
    assert [name for name in required if not comes_after(name)] == ["install", "annotate_begins", "annotate", "grants"]
