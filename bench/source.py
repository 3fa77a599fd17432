"""What auditing costs the source: pgbench's transactions a second, bare and with each way to audit its four tables.

All share the cores: pgbench, the server, and who reads the slot. Each way starts on new tables, and must have audited every change.
"""

import contextlib
import os
import re
import subprocess
import tempfile
import time

import log
from harness import Row, at_least, check, execute, paired, progress, ratios, seconds, value
from settings import CLIENTS, LONG_RUNS, SCALE, SECONDS

TABLES = ["pgbench_accounts", "pgbench_branches", "pgbench_history", "pgbench_tellers"]
ANNOTATE = "SELECT audit_annotate(username => 'u' || :client_id, request_id => 'req-' || :aid, source => 'web');\n"
# pgbench's own transaction, with a place for the annotation
TRANSACTION = r"""
\set aid random(1, 100000 * :scale)
\set bid random(1, 1 * :scale)
\set tid random(1, 10 * :scale)
\set delta random(-5000, 5000)
BEGIN;
{annotate}UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""
TRIGGER = """
DROP SCHEMA IF EXISTS plain CASCADE; CREATE SCHEMA plain;
CREATE TABLE plain.audit (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), who text NOT NULL DEFAULT current_user,
                          table_name text NOT NULL, action text NOT NULL, old_values jsonb, new_values jsonb);
CREATE FUNCTION plain.audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO plain.audit (table_name, action, old_values, new_values)
    VALUES (TG_TABLE_NAME, TG_OP, CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
  RETURN NULL;
END
$$"""


def reconfigure(setting, to):
    execute(f"ALTER SYSTEM SET {setting} = {to}")
    execute("SELECT pg_reload_conf(), pg_sleep(0.2)")


def wait_until(sql, what):
    until = time.monotonic() + 60
    while not value(sql):
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.01)


@contextlib.contextmanager
def bare():
    yield lambda transactions: None


@contextlib.contextmanager
def published():
    """Annotated, and whole rows in the WAL, which nobody reads."""
    for table in TABLES:
        execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
    execute(f"CREATE PUBLICATION bench FOR TABLE {', '.join(TABLES)}")
    yield lambda transactions: None


@contextlib.contextmanager
def captured(behind):
    """To `behind` it adds how many seconds capture needs after the end of pgbench."""
    with published():
        execute("SELECT audit_capture_start('bench')")

        def audited(transactions):
            behind.append(seconds(execute, "CALL audit_capture()"))
            log.holds(4 * transactions)
            check(value("SELECT count(*) FROM audit_logs WHERE username IS NULL"), 0, "changes without annotation")

        yield audited


@contextlib.contextmanager
def slot_read():
    """As Sequin reads: pgoutput over a replication connection, with messages, acknowledged every second."""
    with published():
        execute("SELECT pg_create_logical_replication_slot('sequin', 'pgoutput')")
        reader = subprocess.Popen(
            ["pg_recvlogical", "-d", value("SELECT current_database()"), "-S", "sequin", "--start", "-s", "1", "-F", "0", "-f", "/dev/null",
             "-o", "proto_version=1", "-o", "publication_names=bench", "-o", "messages=true"])
        try:
            wait_until("SELECT active FROM pg_replication_slots WHERE slot_name = 'sequin'", "the slot is not read")

            def audited(transactions):
                end = value("SELECT pg_current_wal_lsn()")
                confirmed = f"SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = 'sequin'"
                wait_until(confirmed, "the slot is not read to its end")
                read = value("SELECT total_txns FROM pg_stat_replication_slots WHERE slot_name = 'sequin'")
                check(read >= transactions, True, f"all transactions read, not {read}")

            yield audited
        finally:
            reader.terminate()
            reader.wait(30)
            wait_until("SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'sequin'", "the slot stays in use")


@contextlib.contextmanager
def triggers():
    execute(TRIGGER)
    for table in TABLES:
        execute(f"CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION plain.audit()")
    yield lambda transactions: check(value("SELECT count(*) FROM plain.audit"), 4 * transactions, "rows of the trigger's table")


@contextlib.contextmanager
def table_log():
    """Debian's table_log: an update is two rows of its log."""
    execute("DROP SCHEMA IF EXISTS logged CASCADE; CREATE SCHEMA logged; CREATE EXTENSION IF NOT EXISTS table_log")
    for table in TABLES:
        execute(f"SELECT table_log_init(5, 'public', '{table}', 'logged', '{table}')")
    union = " UNION ALL ".join(f"SELECT 1 FROM logged.{table}" for table in TABLES)
    yield lambda transactions: check(value(f"SELECT count(*) FROM ({union}) AS x"), 7 * transactions, "rows of table_log")


def made_tables(scale):
    subprocess.run(["pgbench", "-iqs", str(scale)], check=True, capture_output=True)


def pgbench(script, duration=SECONDS, options=""):
    """Transactions, and how many a second. `options` are of its sessions."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        command = ["pgbench", "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", str(CLIENTS), "-T", str(duration), "-s", str(SCALE), "-f", file.name]
        environment = {**os.environ, "PGOPTIONS": options}
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return int(re.search(r"actually processed: (\d+)", printed)[1]), float(re.search(r"tps = ([\d.]+)", printed)[1])


def measure():
    behind = []
    ways = {"bare": bare, "annotate": published, "capture": lambda: captured(behind), "slot": slot_read, "triggers": triggers}
    if value("SELECT count(*) FROM pg_available_extensions WHERE name = 'table_log'"):
        ways["table_log"] = table_log
    else:
        progress("table_log is not there for this PostgreSQL")

    def rate(way):
        log.emptied()
        made_tables(SCALE)
        with ways[way]() as audited:
            execute("CHECKPOINT")
            annotate = ANNOTATE if way in ("annotate", "capture", "slot") else ""
            transactions, a_second = pgbench(TRANSACTION.format(annotate=annotate))
            check(transactions > 0, True, "transactions of pgbench")
            audited(transactions)
        return a_second

    reconfigure("audit_cdc.capture_enabled", "on")
    taken = paired(LONG_RUNS, {way: lambda way=way: rate(way) for way in ways})
    execute(f"DROP SCHEMA IF EXISTS plain, logged CASCADE; DROP TABLE {', '.join(TABLES)} CASCADE; DROP EXTENSION IF EXISTS table_log")

    def row(way, goal, how):
        return Row(f"source TPS, {way}/bare", ratios(taken[way], taken["bare"]), goal, how, {f"{kind}, TPS": taken[kind] for kind in (way, "bare")})

    rows = [
        row("capture", at_least(0.97), f"FULL, audit_annotate; pgbench, {CLIENTS} clients, {SECONDS} s; the capture worker stores on the same cores"),
        row("slot", at_least(0.97), "FULL, audit_annotate; pg_recvlogical reads pgoutput as Sequin does, on the same cores, and stores nothing"),
        Row("capture behind after pgbench, s", behind, None, "CALL audit_capture() right after its end", {"seconds": behind}),
        row("annotate", None, "FULL, audit_annotate; nobody reads: what the transactions themselves pay"),
        row("triggers", None, "row triggers in PL/pgSQL, to_jsonb into one table"),
    ]
    return rows + ([row("table_log", None, "Debian's table_log, in C, a row or two a change into a table each")] if "table_log" in ways else [])
