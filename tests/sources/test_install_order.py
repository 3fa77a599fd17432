"""pgrx puts SQL files in any order that `requires` of src/schema.rs allows: what PostgreSQL looks up at once comes before, in each of them."""

import re

from sources import TOP, named

SCHEMA = (TOP / "src" / "schema.rs").read_text()
FILES = re.compile(r'extension_sql(?:_file)?!\(\s*"([^"]*)",\s*name = "(\w+)",\s*(?:requires = \[([^\]]*)\]|(bootstrap|finalize))')
NAMED = re.compile(r"(?:audit_cdc_internal|@extschema@)\.(\w+)")
MADE = re.compile(r"CREATE (?:OR REPLACE |UNIQUE )?(?:FUNCTION|PROCEDURE|TABLE|VIEW|SEQUENCE|TYPE|DOMAIN|AGGREGATE) (?:audit_cdc_internal|@extschema@)\.(\w+)")
# bodies of plpgsql are only read when they run; a block runs at once
LATER = re.compile(r"(DO )?\$(\w*)\$(.*?)\$\2\$", re.DOTALL)


def read_at_once(sql):
    without_bodies = LATER.sub(lambda found: found[3] if found[1] else "", re.sub(r"--.*", "", sql))
    return re.sub(r"'(?:[^']|'')*'(::reg)?", lambda found: found[0] if found[1] else "", without_bodies)


def pieces():
    """Of each file: its path, and what it requires."""
    found = {name: (path, re.findall(r"\w+", requires)) for path, name, requires, _ in FILES.findall(SCHEMA)}
    assert len(found) == len(re.findall(r"^extension_sql", SCHEMA, re.MULTILINE))
    return found


def rust_functions():
    """By the name that `requires` has: the name that SQL has."""
    found = {}
    for path in named(".rs", "src"):
        for attribute, function in re.findall(r"#\[pg_extern\((.*?)\)\]\s*(?:pub )?(?:unsafe )?fn (\w+)", path.read_text(), re.DOTALL):
            for made in MADE.findall(attribute):
                found.setdefault(function, set()).add(made)
    return found


def before(name, files, known):
    """All that comes before a file in each order."""
    if name not in known:
        known[name] = set()
        for required in files[name][1]:
            known[name] |= {required} | (before(required, files, known) if required in files else set())
    return known[name]


def test_what_is_looked_up_at_once_comes_before():
    files, functions, known = pieces(), rust_functions(), {}
    assert len(functions) > 60
    texts = {name: (TOP / "src" / path).resolve().read_text() for name, (path, _) in files.items() if path.endswith(".sql")}
    makers = {}
    for maker, all_ in [*((name, MADE.findall(text)) for name, text in texts.items()), *functions.items()]:
        for made in all_:
            makers.setdefault(made, set()).add(maker)  # of overloads some
    missing = []
    for name in texts.keys() - {"grants"}:  # which comes last
        there = before(name, files, known) | {name, "install"}
        missing += [f"{name} requires {' or '.join(makers[used])}, for {used}" for used in set(NAMED.findall(read_at_once(texts[name])))
                    if used in makers and not makers[used] & there]
    assert not missing, "\n".join(sorted(missing))
