"""Flags, environment and file of audit-relay; what check finds; what is never shown."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest
from conftest import TOP, batch
from relay_helpers import SECRET, Relay, exactly, free_port, messages, post, role, run, stored, url

pytestmark = pytest.mark.once
SOURCES = ["webhook", "stream", "sqs", "kafka", "file"]


@pytest.mark.parametrize("source", SOURCES)
def test_help_names_flag_environment_and_meaning_of_every_option(source):
    done = run(source, "--help")
    assert done.returncode == 0
    flags = re.findall(r"^ +--([a-z-]+)", done.stdout, re.M)
    assert {"config", "database", "connections", "batch-messages", "batch-wait"} <= set(flags)
    for flag in flags:
        name = flag.replace("-", "_").upper()
        assert re.search(rf"\[env:\s+AUDIT_RELAY_({source.upper()}_)?{name}", done.stdout), flag


def test_the_file_goes_after_the_environment_and_that_after_flags(db, tmp_path):
    role(db)
    port = free_port()
    file = tmp_path / "relay.toml"
    file.write_text(f"""
        database = "postgres://nobody@localhost:1/nothing"
        connections = 3
        [webhook]
        listen = "127.0.0.1:{port}"
        secret = ["from-the-file", "another"]
        [kafka]
        brokers = "elsewhere:9092"
    """)
    check = run("check", "webhook", "--config", file)
    assert check.returncode == 1 and '"nothing" at localhost:1' in check.stdout
    with Relay(db, "webhook", AUDIT_RELAY_CONFIG=str(file), AUDIT_RELAY_WEBHOOK_SECRET="from-the-environment") as relay:
        relay.says(f"listening at 127.0.0.1:{port}")
        assert post(port, batch(messages(1)), secret="from-the-file") == 401
        assert post(port, batch(messages(1)), secret="from-the-environment") == 204
    assert stored(db) == 1
    assert run("check", "webhook", "--config", file, "--listen", "nonsense").returncode == 2


def test_no_secret_in_log_arguments_or_help(db, tmp_path):
    file = tmp_path / "relay.toml"
    file.write_text(f'database = "{url(db)}&password=hunter2"\nlog_level = "trace"\n[webhook]\nsecret = "hunter2"\n')
    port = free_port()
    with Relay(db, "webhook", "--config", file, "--listen", f"127.0.0.1:{port}", AUDIT_RELAY_WEBHOOK_SECRET="hunter2", AUDIT_RELAY_DATABASE=url(db) + "&password=hunter2") as relay:
        relay.says("listening")
        assert post(port, batch(messages(3)), secret="hunter2") == 204
        assert post(port, batch(messages(3)), secret="wrong") == 401
        arguments = pathlib.Path(f"/proc/{relay.process.pid}/cmdline").read_text()
        relay.stop()
        assert "hunter2" not in relay.log + arguments
        assert "lorem ipsum" not in relay.log, "a row's values are in the log"
    for command in (["webhook", "--config", file, "--help"], ["check", "webhook", "--config", file], ["webhook", "--secret", "hunter2"],
                    ["webhook", "--database", "postgres://relay:hunter2@localhost/x"], ["kafka", "--brokers", "x:1", "--topic", "x", "--property", "sasl.password=hunter2"]):
        done = run(*command, AUDIT_RELAY_STREAM_TOKEN="hunter2")
        assert "hunter2" not in done.stdout + done.stderr
        if "--config" not in command:
            assert done.returncode == 2 and "seen by everybody in ps" in done.stderr


@pytest.mark.parametrize("address, refusal", [
    ("postgres:///x?pasword=hunter2", 'an unknown parameter "pasword"'), ("relay:hunter2@host/audit", "no URL that begins with postgres://"),
    ("mysql://relay:hunter2@host/audit", "no URL that begins with postgres://"), ("host=x password=hunter2", "no URL that begins with postgres://")])
def test_an_address_that_is_not_understood_is_refused_and_not_shown(address, refusal):
    done = run("check", "file", "/dev/null", AUDIT_RELAY_DATABASE=address)
    assert done.returncode == 1 and refusal in done.stderr and "hunter2" not in done.stdout + done.stderr
    done = run("check", "file", "/dev/null", "--database", address)
    assert done.returncode == 2 and "seen by everybody in ps" in done.stderr and "hunter2" not in done.stdout + done.stderr


def test_misspelt_values_are_refused(db):
    assert "PGSSLMODE" in run("check", "file", "/dev/null", AUDIT_RELAY_DATABASE=url(db), PGSSLMODE="verify_full").stderr
    assert run("check", "file", "/dev/null", "--log-level", "verbose", AUDIT_RELAY_DATABASE=url(db)).returncode == 2
    assert "is the relay's own" in run("webhook", "--path", "/metrics", "--allow-anyone", AUDIT_RELAY_DATABASE=url(db)).stderr


def test_a_webhook_without_a_secret_does_not_start(db):
    done = run("webhook", AUDIT_RELAY_DATABASE=url(db))
    assert done.returncode == 1 and "AUDIT_RELAY_WEBHOOK_SECRET" in done.stderr
    port = free_port()
    with Relay(db, "webhook", "--allow-anyone", "--listen", f"127.0.0.1:{port}") as relay:
        relay.says("listening")
        assert post(port, batch(messages(1)), secret=None) == 204


def test_check_tells_what_is_missing(db):
    role(db)
    file = str(TOP / "README.md")
    found = lambda database: run("check", "file", file, AUDIT_RELAY_DATABASE=database)
    done = found(url(db))
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["ok      database", "ok      extension", "ok      role", "ok      source"]
    assert re.search(r"ok +extension: audit_cdc [0-9.]+ in schema public", done.stdout)
    db.run("REVOKE audit_cdc_ingest FROM tested_relay")
    assert "FAILED  role: the role may not call audit_ingest: GRANT audit_cdc_ingest TO it" in found(url(db)).stdout
    db.run(f"GRANT audit_cdc_ingest TO tested_relay; ALTER DATABASE {db.name} SET default_transaction_read_only = on")
    assert "FAILED  role: the database is read-only" in found(url(db)).stdout
    db.connect(options="-c default_transaction_read_only=off").cursor().execute(
        f"ALTER DATABASE {db.name} RESET default_transaction_read_only; ALTER EXTENSION audit_cdc DROP FUNCTION audit_ingest(text[]); DROP FUNCTION audit_ingest(text[])")
    assert "is older than this relay" in found(url(db)).stdout
    db.run("SELECT audit_allow_removal(); DROP EXTENSION audit_cdc")
    done = found(url(db))
    assert done.returncode == 1 and "FAILED  extension: the extension audit_cdc is not installed in this database" in done.stdout
    assert "FAILED  database" in found("postgres:///nowhere?host=" + os.environ["PGHOST"]).stdout
    assert "FAILED  source: cannot open /nowhere" in run("check", "file", "/nowhere", AUDIT_RELAY_DATABASE=url(db)).stdout


def test_check_takes_no_message_and_writes_nothing(db):
    role(db)
    before = db.value("SELECT pg_current_xact_id_if_assigned() IS NULL AND count(*) = 0 FROM audit_logs")
    assert before and run("check", "file", TOP / "README.md", AUDIT_RELAY_DATABASE=url(db)).returncode == 0
    assert db.value("SELECT (SELECT count(*) FROM audit_logs) + (SELECT count(*) FROM audit_rejects)") == 0


def test_the_extension_in_a_schema_of_its_own(empty):
    empty.run('CREATE SCHEMA "Audit log"; CREATE EXTENSION audit_cdc SCHEMA "Audit log"')
    role(empty)
    assert 'in schema "Audit log"' in run("check", "file", TOP / "README.md", AUDIT_RELAY_DATABASE=url(empty)).stdout
    done = run("file", "-", text="\n".join(messages(10)), AUDIT_RELAY_DATABASE=url(empty))
    assert done.returncode == 0, done.stderr
    assert empty.value('SELECT count(*) FROM "Audit log".audit_logs') == 10


def test_a_log_for_machines(db):
    done = run("file", "-", "--log-format", "json", text='{"id": 1}', AUDIT_RELAY_DATABASE=url(db, user="postgres"))
    assert done.returncode == 0
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"INFO", "WARN"} <= {entry["level"] for entry in entries} and any(entry["fields"].get("rejected") == 1 for entry in entries)


def test_the_database_by_libpq_variables(db):
    done = run("check", "file", TOP / "README.md", PGHOST=os.environ["PGHOST"], PGPORT=os.environ["PGPORT"], PGUSER="postgres", PGDATABASE=db.name)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def strict():
    """A server of its own that wants TLS and a password. Gives its port and the certificate to trust."""
    if "ssl" not in subprocess.run([f"{os.environ['AUDIT_BIN']}/pg_config", "--configure"], capture_output=True, text=True).stdout:
        pytest.skip("this PostgreSQL was built without TLS")
    folder, port = pathlib.Path(tempfile.mkdtemp()), free_port()
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    program = lambda name, *arguments: subprocess.run([*user, f"{os.environ['AUDIT_BIN']}/{name}", "-D", folder / "data", *arguments], check=True, capture_output=True, cwd="/")
    folder.chmod(0o755)
    (folder / "data").mkdir()
    if user:
        shutil.chown(folder / "data", "postgres")
    program("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
    subprocess.run(["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                    "-addext", "basicConstraints=critical,CA:false", "-keyout", folder / "data/server.key", "-out", folder / "data/server.crt"], check=True, capture_output=True)
    trusted = folder / "trusted.crt"
    shutil.copy(folder / "data/server.crt", trusted)
    for file in ("server.key", "server.crt"):
        shutil.chown(folder / "data" / file, (folder / "data").owner())
        (folder / "data" / file).chmod(0o600)
    (folder / "data/pg_hba.conf").write_text(f"local all postgres trust\nhostssl all relay all scram-sha-256\n")
    with (folder / "data/postgresql.conf").open("a") as settings:
        settings.write(f"ssl = on\nport = {port}\nlisten_addresses = 'localhost'\nunix_socket_directories = '{folder}/data'\n")
    program("pg_ctl", "-w", "-l", folder / "data/log", "start")
    sql = "CREATE EXTENSION audit_cdc; CREATE ROLE relay LOGIN PASSWORD 'hunter2'; GRANT audit_cdc_ingest TO relay"
    subprocess.run([*user, f"{os.environ['AUDIT_BIN']}/psql", "-Xq", "-h", folder / "data", "-p", str(port), "-U", "postgres", "-d", "postgres", "-c", sql], check=True, cwd="/")
    yield port, trusted
    program("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_tls_and_a_password_file(strict, tmp_path):
    port, trusted = strict
    passwords = tmp_path / "pgpass"
    passwords.write_text(f"localhost:{port}:*:relay:hunter2\n")
    passwords.chmod(0o600)
    address = f"postgres://relay@localhost:{port}/postgres"
    ask = lambda mode, **environment: run("file", "-", text=messages(1)[0], AUDIT_RELAY_DATABASE=f"{address}?sslmode={mode}", **environment)
    assert ask("verify-full", PGPASSFILE=str(passwords), PGSSLROOTCERT=str(trusted)).returncode == 0
    found = lambda mode, **environment: run("check", "file", TOP / "README.md", AUDIT_RELAY_DATABASE=f"{address}?sslmode={mode}", **environment).stdout
    assert "ok      role" in found("require", PGPASSFILE=str(passwords))
    assert "certificate" in found("verify-full", PGPASSFILE=str(passwords))
    assert "pg_hba.conf" in found("disable", PGPASSFILE=str(passwords))
    passwords.write_text(f"localhost:{port}:*:relay:wrong\n")
    assert "28P01" in found("require", PGPASSFILE=str(passwords))
