"""The pages are true: their SQL runs, in order, and gives the output that stands below it. Each page is a test, in a database of its own."""

import os
import re
import subprocess

import pytest
from capture_helpers import stop
from conftest import TOP, Database, admin, batch, server
from relay_helpers import Relay, free_port, messages, post, role, run, stored, url

PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]
# what a page needs and its reader has stands in a comment of the page: <!-- sql … -->
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|^<!-- (sql)\n(.*?)^-->$", re.M | re.S)


def name(page):
    return str(page.relative_to(TOP))


def blocks(page):
    """(language, text) of every block of code, in order."""
    return [(m[1] if m[3] is None else m[3], m[2] if m[3] is None else m[4]) for m in BLOCK.finditer(page.read_text())]


def all_blocks():
    return [block for page in PAGES for block in blocks(page)]


def table(text):
    """The cells of psql's output, without its spacing."""
    return [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.strip() and not re.match(r"^[-+\s]+$|^\(\d+ rows?\)$", line)]


def is_alike(found, shown):
    """… stands for what differs from run to run."""
    return len(found) == len(shown) and all(re.fullmatch(".*".join(map(re.escape, s.split("…"))), f) for f, s in zip(found, shown, strict=True))


def shown_below(page_blocks, n):
    """The output that stands below a block, or nothing."""
    kind, text = page_blocks[n + 1] if n + 1 < len(page_blocks) else ("sql", "")
    return text if kind == "" and re.search(r"^-+[-+]*$|^(ERROR|WARNING|NOTICE): ", text, re.M) else None


def psql(db, text, fails=False):
    stops = "0" if fails else "1"
    return db.psql("-v", f"ON_ERROR_STOP={stops}", "-P", "format=aligned", "-P", "tuples_only=off", text=text)


def check(db, text, shown):
    done = psql(db, text, fails=shown is not None and shown.startswith("ERROR: "))
    if shown is None:
        assert done.returncode == 0, done.stderr
    elif re.match(r"(ERROR|WARNING|NOTICE): ", shown):
        said = [re.sub(r"\s+", " ", line) for line in done.stderr.splitlines()]
        assert [line for line in shown.splitlines() if re.sub(r"\s+", " ", line) not in said] == [], done.stderr
    else:
        assert done.returncode == 0, done.stderr
        expected = table(shown)
        found = table(done.stdout)[-len(expected):]
        assert len(found) == len(expected) and all(map(is_alike, found, expected)), f"{done.stdout}\ninstead of\n{shown}"


def in_a_database_of_its_own(text):
    admin("CREATE DATABASE docs_beside TEMPLATE template0 ENCODING 'UTF8'")
    try:
        done = psql(Database("docs_beside"), text)
        assert done.returncode == 0, done.stderr
    finally:
        admin("DROP DATABASE docs_beside WITH (FORCE)")


@pytest.fixture
def reader(empty):
    """A database that leaves no slot and no role behind."""
    roles = []
    yield empty, roles
    server("start")
    if empty.value("SELECT to_regclass('audit_logs') IS NOT NULL"):
        stop(empty, discard=True)
    for role in roles:
        empty.run(f"DROP OWNED BY {role} CASCADE")
        admin(f"DROP ROLE {role}")


@pytest.mark.parametrize("page", [page for page in PAGES if any(kind == "sql" for kind, _ in blocks(page))], ids=name)
def test_sql_and_its_output(reader, page):
    db, roles = reader
    found = blocks(page)
    if not any(kind == "sql" and re.search(r"^CREATE EXTENSION audit_cdc;", text, re.M) for kind, text in found):
        db.run("CREATE EXTENSION audit_cdc")
    for n, (kind, text) in enumerate(found):
        if kind != "sql":
            continue
        if "CREATE SCHEMA audit;" in text:  # the other way to install
            in_a_database_of_its_own(text)
            continue
        roles += re.findall(r"CREATE ROLE (\w+)", text)
        check(db, text, shown_below(found, n))


def test_queries_within_the_text(db):
    queries = {query for page in PAGES for query in re.findall(r"`(SELECT [^`…]* FROM [^`…]*)`", page.read_text())}
    assert len(queries) >= 5
    for query in queries:
        db.rows(query)


def test_outputs_are_shown_and_compared():
    assert sum(shown_below(found, n) is not None for found in map(blocks, PAGES) for n, (kind, _) in enumerate(found) if kind == "sql") >= 25


def test_describing_a_source(db):
    [script] = [text for kind, text in all_blocks() if kind == "sh" and "describe_source.sql" in text]
    db.run("CREATE TABLE a (id int PRIMARY KEY)")  # any database is a source; here the same
    environment = {**os.environ, "SOURCE": db.name, "AUDIT": db.name, "DATABASE_ID": "d1"}
    done = subprocess.run(["bash", "-ec", script], cwd=TOP, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert db.rows("SELECT table_name, replica_identity, key_columns FROM audit_described_tables WHERE database_id = 'd1' AND table_schema = 'public'") == [("a", "default", ["id"])]


def test_annotating_where_the_extension_is_not(empty):
    [script] = [text for kind, text in all_blocks() if kind == "sh" and "annotate.sql" in text]
    done = subprocess.run(["bash", "-ec", script], cwd=TOP, env={**os.environ, "SOURCE": empty.name}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert empty.value("SELECT audit_annotate(username => 'ada')") == {"username": "ada"}


def test_commands_exist():
    makefile = (TOP / "Makefile").read_text()
    scripts = "".join(text for kind, text in all_blocks() if kind == "sh")
    commands = re.findall(r"make (\w+)", scripts)
    assert {"demo", "test", "install"} <= set(commands)
    assert all(re.search(rf"^{command}:", makefile, re.M) for command in commands)
    files = re.findall(r"(?:--path|-m 644|-f) ([\w/@.-]+)", scripts)
    assert len(files) >= 3 and [file for file in files if not (TOP / file).exists()] == []


def test_every_function_column_and_setting_is_documented(db):
    names = db.rows("""SELECT DISTINCT p.proname FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
                       WHERE d.deptype = 'e' AND p.pronamespace = 'public'::regnamespace AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'audit_cdc')
                         AND p.proname NOT IN ('audit_annotation_in_force', 'audit_in_transaction_block', 'audit_merged_annotation', 'audit_tell_annotation')
                       UNION SELECT attname FROM pg_attribute WHERE attrelid = 'audit_logs'::regclass AND attnum > 0""")
    connection = db.connect()
    connection.cursor().execute("LOAD 'audit_cdc'")
    settings = db.rows("SELECT name FROM pg_settings WHERE name LIKE 'audit_cdc.%'", connection=connection)
    assert settings
    names += settings
    by_hand = "".join(page.read_text() for page in PAGES if page.name != "reference.md")
    assert [name for (name,) in names if name not in by_hand] == []


def test_the_relay_as_configured_here_and_as_systemd_starts_it(db, tmp_path):
    """Only the addresses are others; they come from the environment, which goes before the file."""
    [configuration] = [text for kind, text in all_blocks() if kind == "toml" and "[sqs]" in text]
    [shown] = [text for kind, text in all_blocks() if kind == "" and text.startswith("ok      database")]
    (tmp_path / "audit-relay.toml").write_text(configuration)
    secret = re.search(r'Authorization: Bearer ([^"]+)"', configuration)[1]
    unit = (TOP / "crates" / "relay" / "audit-relay@.service").read_text()
    words = re.search(r"^ExecStart=(.*)$", unit, re.M)[1].replace("%i", "webhook").replace("%d", str(tmp_path)).split()
    assert words[0] == "/usr/local/bin/audit-relay"
    port = free_port()
    with Relay(db, *words[1:], AUDIT_RELAY_WEBHOOK_LISTEN=f"127.0.0.1:{port}", unset=["AUDIT_RELAY_WEBHOOK_SECRET"]) as relay:
        relay.says("listening")
        assert post(port, batch(messages(3)), secret=secret) == 204
        environment = {"AUDIT_RELAY_DATABASE": relay.environment["AUDIT_RELAY_DATABASE"], "AUDIT_RELAY_WEBHOOK_LISTEN": f"127.0.0.1:{free_port()}"}
        found = run("check", *words[1:], **environment)
        assert found.returncode == 0
        assert [line.split(":")[0] for line in found.stdout.splitlines()] == [line.split(":")[0] for line in shown.splitlines()]
    assert stored(db) == 3
    (tmp_path / "audit-relay@webhook.service").write_text(unit.replace(words[0], "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "audit-relay@webhook.service"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_relay_of_several_databases_as_configured_here(db, tmp_path):
    """But for their addresses."""
    [configuration] = [text for kind, text in all_blocks() if kind == "toml" and "[database." in text]
    role(db)
    (tmp_path / "audit-relay.toml").write_text(re.sub("postgres://[^\"]+", url(db), configuration))
    found = run("check", "webhook", "--config", tmp_path / "audit-relay.toml", AUDIT_RELAY_WEBHOOK_LISTEN=f"127.0.0.1:{free_port()}")
    assert found.returncode == 0 and "[database.eu] takes 1f0c" in found.stdout and "[database.us] takes billing, and what names no source" in found.stdout


def test_every_option_of_the_relay_that_is_named_here_exists():
    page = (TOP / "docs" / "sequin.md").read_text()
    section = page[page.index("## Run the relay"):page.index("## PostgREST instead")]
    options = {name for source in ("webhook", "stream", "sqs", "kafka", "file") for name in re.findall(r"--([a-z-]+)", run(source, "--help").stdout)}
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", section)) - {"audit_ingest", "last_arrival"}
    assert {"batch_messages", "batch_bytes", "call_timeout", "stop_timeout"} <= named
    assert [name for name in named if name.replace("_", "-") not in options and not name.startswith("audit_relay_")] == []
