"""A year of which ten months are moved to another server and archived, while messages come late and twice, and a table is captured. Every
question is answered as before."""

import hashlib
import os
import pathlib
import random
import subprocess
import tempfile
import threading

import log
from harness import Client, Row, at_most, check, connected, execute, progress, seconds, value
from reading import year
from settings import MONTH_QUESTIONS, YEAR_ENTRIES

KEEPER = pathlib.Path(os.environ.get("AUDIT_KEEPER", "audit-keeper"))
MOVED = [f"2026-{month:02}" for month in range(1, 11)]
RECORDS = max(YEAR_ENTRIES // 10, 1)
# what is asked of the year, with a number of the call, and the goal in ms. By user each month there is fetched
QUESTIONS = {
    "a record's entries": ("SELECT * FROM audit_logs WHERE record_id = $1::text AND table_name = 'orders' AND database_id = 'year' ORDER BY id", 4),
    "a record's history": ("SELECT * FROM audit_history('public.orders', $1::text, database_id => 'year')", 4),
    "a record as of June": ("SELECT * FROM audit_as_of('public.orders', '2026-06-15Z', key => $1::text, database_id => 'year')", 4),
    "an hour of May": ("SELECT * FROM audit_logs WHERE commit_timestamp BETWEEN '2026-05-05 10:00Z' AND '2026-05-05 11:00Z' AND $1::text <> '' ORDER BY id", None),
    "a user's newest 50": ("SELECT * FROM audit_logs WHERE username = 'u' || $1::int % 50 ORDER BY commit_timestamp DESC, commit_lsn DESC, commit_idx DESC LIMIT 50", None),
}
LATE = """{{"data":[{{"action":"insert","record":{{"id":{n}}},"changes":null,"metadata":{{"table_schema":"public","table_name":"late","record_pks":["{n}"],
  "commit_lsn":{n},"commit_idx":0,"commit_timestamp":"2026-{month:02}-{day:02}T12:00:00Z","idempotency_key":"late-{n}","database":{{"id":"late","name":"shop"}},
  "transaction_annotations":null}}}}]}}"""


def answers(sql):
    """Milliseconds a call, and a digest of all that came."""
    some = [str(n * 7919 % RECORDS).encode() for n in range(MONTH_QUESTIONS)]
    found = hashlib.sha256()
    with connected() as client:
        client.prepare(sql)
        client.call(b"1")

        def ask():
            for key in some:
                result = client.call(key)
                found.update(repr([[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]).encode())
        return seconds(ask) / len(some) * 1e3, found.hexdigest()


class Meanwhile(threading.Thread):
    """Messages of all moved months, each delivered twice, and rows of a captured table."""

    def __init__(self):
        super().__init__()
        self.ends, self.sent, self.error = threading.Event(), 0, None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.ends.set()
        self.join()
        if self.error:
            raise self.error

    def run(self):
        chance = random.Random(1)
        try:
            with connected() as client:
                client.prepare(log.INGEST)
                while not self.ends.is_set():
                    n = self.sent + 1
                    body = LATE.format(n=n, month=chance.randrange(1, 11), day=chance.randrange(1, 29)).encode()
                    client.call(body)
                    client.call(body)
                    client.execute("INSERT INTO captured VALUES (%s)", n)
                    self.sent = n
        except Exception as error:
            self.error = error


def joined():
    """Another database of the same server."""
    execute("DROP DATABASE IF EXISTS months WITH (FORCE)")
    execute("CREATE DATABASE months TEMPLATE template0 ENCODING 'UTF8'")
    execute("CREATE EXTENSION IF NOT EXISTS postgres_fdw")
    execute("DROP SERVER IF EXISTS months CASCADE")
    execute(f"CREATE SERVER months FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{os.environ['PGHOST']}', port '{os.environ['PGPORT']}', dbname 'months')")
    execute(f"CREATE USER MAPPING FOR CURRENT_USER SERVER months OPTIONS (user '{os.environ['PGUSER']}')")
    return Client("dbname=months")


def move(there):
    for month in MOVED:
        there.execute(value("SELECT audit_month_table(%s)", month))
        taken = seconds(execute, f"CALL audit_move_month('{month}', 'months')")
        progress(f"{month} moved in {taken:.0f} s")
    there.execute("VACUUM ANALYZE")


def keeper(command, folder):
    address = f"postgres:///{value('SELECT current_database()')}?host={os.environ['PGHOST']}&port={os.environ['PGPORT']}"
    run = subprocess.run([KEEPER, command, "--database", address, "--to", folder], capture_output=True, text=True)
    check(run.returncode, 0, f"{command}: {run.stdout}{run.stderr}")


def archived(folder):
    """Bytes an entry."""
    progress(f"archived in {seconds(keeper, 'archive', folder):.0f} s")
    yield
    keeper("archive", folder)
    progress(f"verified in {seconds(keeper, 'verify', folder):.0f} s")
    files = [path.stat().st_size for path in pathlib.Path(folder).rglob("*.parquet")]
    yield sum(files) / value("SELECT sum(entries)::float FROM audit_archives")


def measure():
    year()
    execute("DROP TABLE IF EXISTS captured; CREATE TABLE captured (id bigint PRIMARY KEY)")
    execute("DROP PUBLICATION IF EXISTS bench; CREATE PUBLICATION bench FOR TABLE captured")
    execute("SELECT audit_capture_start('bench')")
    here = log.size("audit_cdc_internal.log") / YEAR_ENTRIES
    before = {name: answers(sql) for name, (sql, _) in QUESTIONS.items()}
    there = joined()
    with tempfile.TemporaryDirectory() as folder:
        archive = archived(folder)
        with Meanwhile() as meanwhile:
            taken = seconds(move, there)
            next(archive)
        size = next(archive)
    execute("CALL audit_capture()")
    for table, count in (("orders", YEAR_ENTRIES), ("late", meanwhile.sent), ("captured", meanwhile.sent)):
        check(value("SELECT count(*) FROM audit_logs WHERE table_name = %s", table), count, f"entries of {table}")
    check(value("SELECT count(*) FROM audit_rejects"), 0, "rejects")
    after = {name: answers(sql) for name, (sql, _) in QUESTIONS.items()}
    moved = YEAR_ENTRIES * len(MOVED) / 12
    how = f"{YEAR_ENTRIES:,} entries, ten of twelve months elsewhere; {meanwhile.sent:,} messages of them came meanwhile, each twice"
    rows = [Row("moving, µs an entry", [taken / moved * 1e6], None, how), Row("archive, bytes an entry", [size], at_most(75), f"in the log {here:.0f} with indexes")]
    for name, (_, goal) in QUESTIONS.items():
        check(after[name][1], before[name][1], name)
        rows.append(Row(f"{name}, ms", [after[name][0]], goal and at_most(goal), f"{before[name][0]:.3g} ms before"))
    there.connection.close()
    log.emptied()
    execute("DROP SERVER months CASCADE; DROP TABLE captured")
    execute("DROP DATABASE months WITH (FORCE)")
    return rows
