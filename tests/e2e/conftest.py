"""End-to-end tests: a real server (found through PGHOST; of each xdist worker one), the authentic corpus, real faults."""

import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import threading
import time

import psycopg2
import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
CORPUS = TOP / "tests" / "corpus"
DATABASE_ID = "3f6b7a52-5d1c-4c0e-9a51-0d9f3a1c0001"
numbers = itertools.count(1)


def pytest_configure(config):
    """Under xdist each worker starts a server of its own, of the programs in AUDIT_BIN, beside the others in AUDIT_SERVERS."""
    config.addinivalue_line("markers", "once: it shows the same with each version of PostgreSQL")
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        folder = pathlib.Path(os.environ["AUDIT_SERVERS"]) / worker
        subprocess.run([TOP / "scripts" / "server", "new", folder], check=True)
        os.environ |= {"AUDIT_DATA": f"{folder}/data", "PGHOST": f"{folder}/socket", "PGPORT": "5432", "PGUSER": "postgres", "PGDATABASE": "postgres"}


# the longest files first: then no worker is alone with one in the end
LONGEST = ["test_as_of_doubts", "test_plugin", "test_limits", "test_capture_faults", "test_lives_truth", "test_undo", "test_relay_kafka", "test_relay_sqs",
           "test_undo_keys", "test_edited_dump", "test_odd_arguments", "test_examples_python", "test_large_annotations", "test_backfill_gaps", "test_chaos", "test_schema_changes"]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def server_log():
    return pathlib.Path(os.environ.get("AUDIT_DATA", "")) / "log"


def pytest_runtest_setup(item):
    # a test may need no server
    item.log_began = server_log().stat().st_size if server_log().is_file() else 0


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """The end of what the server said meanwhile belongs to a failure."""
    report = (yield).get_result()
    if report.failed and server_log().is_file():
        with open(server_log(), "rb") as log:
            log.seek(max(item.log_began, server_log().stat().st_size - 20_000))
            report.sections.append(("the server's log meanwhile", log.read().decode(errors="replace")))


def lines(name):
    return (CORPUS / name).read_text().rstrip("\n").split("\n")


def batch(messages):
    """A webhook body of messages (texts or objects)."""
    return '{"data":[' + ",".join(m if isinstance(m, str) else json.dumps(m) for m in messages) + "]}"


def change(idx=0, lsn=61536216, action="insert", key=None, table="orders", time="2026-03-01T09:00:00.000000Z",
           pks=("1",), record=None, changes=None, database="d1", annotations=None, **metadata):
    """One message, as Sequin sends it."""
    import base64
    return {
        "action": action, "changes": changes, "record": record if record is not None else {"id": 1},
        "metadata": {
            "commit_lsn": lsn, "commit_idx": idx, "commit_timestamp": time,
            "idempotency_key": key or base64.b64encode(f"{lsn}:{idx}".encode()).decode(),
            "record_pks": list(pks), "table_schema": "public", "table_name": table,
            "database": {"id": database, "name": "shop"}, "transaction_annotations": annotations, **metadata,
        },
    }


class Database:
    """A fresh database with the extension."""

    def __init__(self, name):
        self.name = name

    def connect(self, **options):
        connection = psycopg2.connect(dbname=self.name, **options)
        connection.autocommit = True
        return connection

    def rows(self, sql, *arguments, connection=None):
        with (connection or self.connect()).cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return cursor.fetchall()

    def value(self, sql, *arguments, connection=None):
        return self.rows(sql, *arguments, connection=connection)[0][0]

    def run(self, sql, *arguments):
        with self.connect().cursor() as cursor:
            cursor.execute(sql, arguments or None)

    def ingest(self, body, connection=None):
        """(received, inserted, duplicates, rejected), and that they add up."""
        counts = self.rows("SELECT * FROM audit_ingest(%s)", body, connection=connection)[0]
        assert counts[0] == sum(counts[1:]), counts
        return counts

    def psql(self, *arguments, text=None):
        return subprocess.run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.name, *arguments],
                              input=text, text=True, capture_output=True, cwd=TOP)


def admin(sql):
    connection = psycopg2.connect(dbname="postgres")
    connection.autocommit = True
    connection.cursor().execute(sql)
    connection.close()


def fresh(template):
    name = f"audit_{os.getpid()}_{next(numbers)}"
    admin(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'")
    yield Database(name)
    server("start")
    admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty():
    """A fresh database without the extension."""
    yield from fresh("template0")


@pytest.fixture
def db(template):
    """A fresh database with the extension."""
    yield from fresh(template)


@pytest.fixture(scope="session")
def template():
    """A copy of it is there in a fraction of the time that CREATE EXTENSION takes."""
    name = f"audit_template_{os.getpid()}"
    admin(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    connection = Database(name).connect()
    connection.cursor().execute("CREATE EXTENSION audit_cdc")
    connection.close()
    admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    yield name
    server("start")
    admin(f"DROP DATABASE {name}")


def server(action):
    """start or stop (at once, as a crash would) the throwaway server."""
    if action == "start" and (pathlib.Path(os.environ["AUDIT_DATA"]) / "postmaster.pid").exists():
        return
    subprocess.run([TOP / "scripts" / "server", action], check=True)


@contextlib.contextmanager
def server_away():
    server("stop")
    try:
        yield
    finally:
        server("start")


def in_threads(works):
    """Runs all of works at once; the first error of any is raised here."""
    errors = []
    start = threading.Barrier(len(works))

    def guarded(work):
        try:
            start.wait()
            work()
        except BaseException as error:  # handed to the caller below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def until(condition, seconds=60):
    """Polls; gives what it found. The end of patience only turns a hang into a failure."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found
