"""README.md is true: its SQL runs, in order, and gives the output that stands below it."""

import os
import re
import subprocess

from conftest import TOP, batch
from relay_helpers import Relay, free_port, messages, post, run, stored

README = (TOP / "README.md").read_text()
BLOCKS = re.findall(r"^```(sql|sh|)\n(.*?)^```$", README, re.M | re.S)


def table(text):
    """The cells of psql's output, without its spacing."""
    return [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.strip() and not re.match(r"^[-+\s]+$|^\(\d+ rows?\)$", line)]


def test_sql_and_its_output(empty):
    examples = 0
    for n, (kind, text) in enumerate(BLOCKS):
        if kind != "sql":
            continue
        if "CREATE SCHEMA audit;" in text:  # the other way to install: in a database of its own
            text = "BEGIN; SELECT audit_allow_removal(); DROP EXTENSION audit_cdc CASCADE; COMMIT; " + text + "DROP EXTENSION audit_cdc CASCADE; CREATE EXTENSION audit_cdc;" + BLOCKS[0][1].split(";", 1)[1]
            assert empty.psql(text=text).returncode == 0
            continue
        if "CREATE ROLE relay" in text:
            text = "BEGIN; " + text + " ROLLBACK;"  # roles outlive the test's database
        done = empty.psql("-P", "format=aligned", "-P", "tuples_only=off", text=text)
        assert done.returncode == 0, done.stderr
        follows = BLOCKS[n + 1] if n + 1 < len(BLOCKS) else None
        if follows and follows[0] == "" and "---" in follows[1]:
            shown = table(follows[1])
            assert table(done.stdout)[-len(shown):] == shown
            examples += 1
    assert examples >= 6


def test_describing_a_source(db):
    [script] = [text for kind, text in BLOCKS if kind == "sh" and "describe_source.sql" in text]
    db.run("CREATE TABLE a (id int PRIMARY KEY)")  # any database is a source; here the same
    environment = {**os.environ, "SOURCE": db.name, "AUDIT": db.name, "DATABASE_ID": "d1"}
    done = subprocess.run(["bash", "-ec", script], cwd=TOP, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert db.rows("SELECT table_name, replica_identity, key_columns FROM audit_described_tables WHERE database_id = 'd1' AND table_schema = 'public'") == [("a", "default", ["id"])]


def test_commands_exist():
    makefile = (TOP / "Makefile").read_text()
    commands = re.findall(r"make (\w+)", "".join(text for kind, text in BLOCKS if kind == "sh"))
    assert {"demo", "test", "install"} <= set(commands)
    assert all(re.search(rf"^{command}:", makefile, re.M) for command in commands)


def test_every_function_column_and_setting_is_documented(db):
    names = db.rows("""SELECT DISTINCT p.proname FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
                       WHERE d.deptype = 'e' AND p.pronamespace = 'public'::regnamespace AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'audit_cdc')
                         AND p.proname NOT IN ('audit_set_annotation', 'audit_in_transaction_block')
                       UNION SELECT attname FROM pg_attribute WHERE attrelid = 'audit_logs'::regclass AND attnum > 0""")
    connection = db.connect()
    connection.cursor().execute("LOAD 'audit_cdc'")
    settings = db.rows("SELECT name FROM pg_settings WHERE name LIKE 'audit_cdc.%'", connection=connection)
    assert settings
    names += settings
    assert [name for (name,) in names if name not in README] == []


def test_the_relay_as_configured_here_and_as_systemd_starts_it(db, tmp_path):
    """Only the addresses are others; they come from the environment, which goes before the file."""
    [configuration] = re.findall(r"^```toml\n(.*?)^```$", README, re.M | re.S)
    [shown] = [text for kind, text in BLOCKS if kind == "" and text.startswith("ok      database")]
    (tmp_path / "audit-relay.toml").write_text(configuration)
    secret = re.search(r'Authorization: Bearer ([^"]+)"', configuration)[1]
    unit = (TOP / "relay" / "audit-relay@.service").read_text()
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


def test_every_option_of_the_relay_that_is_named_here_exists():
    section = README[README.index("## The relay"):README.index("### PostgREST")]
    options = {name for source in ("webhook", "stream", "sqs", "kafka", "file") for name in re.findall(r"--([a-z-]+)", run(source, "--help").stdout)}
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", section)) - {"audit_ingest", "audit_rejects"}
    assert {"batch_messages", "batch_bytes", "call_timeout", "stop_timeout"} <= named
    assert [name for name in named if name.replace("_", "-") not in options and not name.startswith("audit_relay_")] == []
