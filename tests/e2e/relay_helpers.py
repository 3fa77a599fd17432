"""A relay as a user would run it: the program, its environment, its signals; and a wire that can be cut."""

import contextlib
import http.client
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import psycopg2
from conftest import TOP, change, until
from fault_helpers import kill_postmaster

PROGRAM = pathlib.Path(os.environ.get("AUDIT_RELAY", TOP / "target" / "debug" / "audit-relay"))
SECRET = "a-secret-of-the-tests"
# below those that the system gives to who connects; each worker of xdist begins elsewhere
ports = itertools.islice(itertools.cycle(range(10_000, 30_000)), os.getpid() * 64 % 20_000, None)


def free_port():
    """One that nobody listens on, and that nobody else is given meanwhile."""
    for port in ports:
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("127.0.0.1", port))
            return port


def messages(count, first=0, text="lorem ipsum " * 20):
    """Messages as JSON texts, each another change."""
    return [json.dumps(change(n % 100, lsn=5_000_000 + n // 100 * 64, time=f"2026-03-0{1 + n % 5}T00:00:00.000000Z",
                              pks=(str(n),), record={"id": n, "text": text})) for n in range(first, first + count)]


def stored(db):
    try:
        return db.value("SELECT count(*)::int FROM audit_logs")
    except psycopg2.Error:
        return -1


def exactly(db, count):
    """Every message of messages(count) once in the log, and nothing else."""
    assert db.value("SELECT count(*)::int FROM audit_logs") == count
    assert db.value("SELECT count(DISTINCT record_id)::int FROM audit_logs") == count
    assert db.value("SELECT count(*)::int FROM audit_logs WHERE new_values ->> 'id' = record_id") == count
    assert db.value("SELECT count(*)::int FROM audit_rejects") == 0


def role(db, name="tested_relay"):
    """A role that may do what a relay may, and no more; dropped with the fixture."""
    db.run(f"DO $$ BEGIN CREATE ROLE {name} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT audit_cdc_ingest TO {name}")
    return name


def url(db, host=None, port=None, user="tested_relay"):
    return f"postgres:///{db.name}?user={user}&host={host or os.environ['PGHOST']}&port={port or os.environ['PGPORT']}"


class Relay:
    """A process of audit-relay. Its log is in `log`."""

    def __init__(self, db, *arguments, database=None, unset=(), **environment):
        role(db)
        self.arguments = [str(PROGRAM), *map(str, arguments)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "AUDIT_RELAY_"))}
        self.environment = {**kept, "AUDIT_RELAY_DATABASE": database or url(db), "AUDIT_RELAY_WEBHOOK_SECRET": SECRET,
                            **environment}
        for name in unset:
            del self.environment[name]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.arguments, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        self.lines = []
        self.reader = threading.Thread(target=lambda out=self.process.stdout: self.lines.extend(out), daemon=True)
        self.reader.start()

    @property
    def log(self):
        return "".join(self.lines)

    def says(self, text):
        # the reader ends with the output: a process that has ended may have said more than was read
        until(lambda: text in self.log or not self.reader.is_alive())
        assert text in self.log, self.log

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.kill()
        self.start()

    def asked_to_stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.says("stopping")

    def ended(self):
        """Its exit status."""
        status = self.process.wait(60)
        self.reader.join(10)
        return status

    def stop(self):
        self.asked_to_stop()
        return self.ended()

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        if self.process.poll() is None:
            self.kill()
        self.reader.join(10)
        if failed:
            print(self.log)
        assert "panicked" not in self.log, self.log


def run(*arguments, text=None, **environment):
    """A relay that ends by itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "AUDIT_RELAY_"))}
    return subprocess.run([str(PROGRAM), *map(str, arguments)], env={**kept, **environment}, input=text, text=True, capture_output=True, timeout=120)


def request(port, method="POST", path="/", body=b"", headers=None, secret=SECRET, timeout=60):
    """(status, headers, text)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        sent = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"} if secret else {}
        connection.request(method, path, body=body, headers={**sent, **(headers or {})})
        reply = connection.getresponse()
        return reply.status, dict((name.lower(), value) for name, value in reply.getheaders()), reply.read().decode()
    finally:
        connection.close()


def post(port, body, **options):
    """As Sequin: a status, or None if no answer came."""
    try:
        return request(port, body=body if isinstance(body, bytes) else body.encode(), **options)[0]
    except OSError:
        return None
    except http.client.HTTPException:
        return None


def metric(port, name):
    text = request(port, "GET", "/metrics", secret=None)[2]
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"audit_relay_{name}"))


class Wire:
    """A TCP way to another place, that can be cut or frozen. address: host and port, or the path of a socket."""

    def __init__(self, address):
        self.address, self.pairs, self.frozen = address, [], threading.Event()
        self.port = 0
        self.up()

    def up(self):
        self.server = socket.create_server(("127.0.0.1", self.port))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, args=(self.server,), daemon=True).start()

    def accept(self, server):
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                try:
                    if isinstance(self.address, str):
                        far = socket.socket(socket.AF_UNIX)
                        far.connect(self.address)
                    else:
                        far = socket.create_connection(self.address)
                except OSError:
                    near.close()
                    continue
                self.pairs.append((near, far))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self.pump, args=(one, other), daemon=True).start()

    def pump(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                while self.frozen.is_set():
                    time.sleep(0.01)
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """Everything that is connected now, without a word."""
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def down(self):
        """From now on connections are refused."""
        self.server.shutdown(socket.SHUT_RDWR)  # which wakes accept
        self.server.close()
        self.cut()


FAULTS = ["kill a relay", "cut connections", "kill the database"]


def strike(fault, relay, wire):
    if fault == "kill a relay":
        relay.restart()
    elif fault == "cut connections":
        until(wire.cut)  # something was connected
    else:
        kill_postmaster()


@contextlib.contextmanager
def wire_to_database():
    wire = Wire(f"{os.environ['PGHOST']}/.s.PGSQL.{os.environ['PGPORT']}")
    try:
        yield wire
    finally:
        wire.frozen.clear()
        wire.down()
