"""The shops of examples/, each a program that is asked over HTTP, and what eight users do there at once."""

import contextlib
import json
import os
import random
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request

import pytest
from capture_helpers import capture, source, worker  # noqa: F401 (fixture)
from conftest import TOP, in_threads, until
from relay_helpers import free_port

PYTHON = {"PYTHONPATH": str(TOP / "target" / "frameworks" / "python"), "PYTHONDONTWRITEBYTECODE": "1"}
USERS = ("ada", "alan", "barbara", "edsger", "grace", "linus", "margaret", None)
TAKEN = 1  # the number of an order that is there already: who adds it again fails after having signed
SIGNED = "SELECT new_values ->> 'note', username, source, request_id, attested, table_name, action FROM audit_logs WHERE new_values ->> 'note' <> '' ORDER BY commit_lsn, commit_idx"


class Shop:
    """A program of an example, which listens at PORT and finds its database by PGHOST and the like."""

    def __init__(self, folder, *command, **environment):
        self.folder, self.command, self.environment = TOP / "examples" / folder, command, environment

    @contextlib.contextmanager
    def open(self, database):
        """Gives its port."""
        port = free_port()
        environment = {**os.environ, **self.environment, **database, "PORT": str(port)}
        command = [str(word).replace("PORT", str(port)) for word in self.command]
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            try:
                until(lambda: process.poll() is not None or listens(port))
                yield port
            except BaseException:
                said.seek(0)
                print(said.read())
                raise
            finally:
                process.kill()
                process.wait()


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def ask(port, method, path, user, request_id, **asked):
    """The status of the answer."""
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id, **({"X-User": user} if user else {})}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(asked).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code


def requests_of(user, number, seed):
    """(method, path, what, succeeds): orders of the user's own numbers, changes of them, and some that fail."""
    chosen = random.Random(f"{seed} {user}")
    own = []
    for n in range(12):
        kind = chosen.choice(["add", "add", "change", "fail"])
        if kind == "add" or not own:
            own.append(1000 * number + n)
            yield "POST", "/orders", {"id": own[-1]}, True
        elif kind == "change":
            yield "PUT", f"/orders/{chosen.choice(own)}", {}, True
        else:
            yield "POST", "/orders", {"id": TAKEN}, False


def eight_users_at_once(port, seed):
    """Each request writes into its rows who asked, and in which request. Gives what the log must show, in any order."""
    expected = []

    def be(user, number):
        for n, (method, path, asked, succeeds) in enumerate(requests_of(user, number, seed)):
            request_id = f"{user}-{n}"
            note = f"{user} {request_id}"
            status = ask(port, method, path, user, request_id, note=note, **asked)
            assert status < 300 if succeeds else status == 500, (status, method, path, note)
            if succeeds:
                tables = [("orders", "insert"), ("order_events", "insert")] if method == "POST" else [("orders", "update")]
                expected.extend((note, user, "web", request_id, True, *change) for change in tables)

    in_threads([lambda user=user, number=number: be(user, number) for number, user in enumerate(USERS, 1)])
    return expected


def is_signed(db, shop, database, seed):
    """And where a signature is required, none is missing when the change is made."""
    db.rows("SELECT audit_require_annotation(name, '{source,request_id}') FROM unnest('{orders,order_events}'::regclass[]) AS name")
    with shop.open(database) as port:
        expected = eight_users_at_once(port, seed)
    capture(db)
    found = db.rows(SIGNED)
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert len({user for _, user, *_ in found}) == len(USERS)


def directly(db):
    return {"PGDATABASE": db.name}


@pytest.fixture
def shop_database(source):  # noqa: F811
    """Captured, with the tables of a shop and an order that is there already."""
    made = source.psql("-f", str(TOP / "examples" / "shop.sql"))
    assert made.returncode == 0, made.stderr
    until(lambda: worker(source))
    source.run(f"INSERT INTO orders VALUES ({TAKEN}, '')")
    capture(source)
    return source
