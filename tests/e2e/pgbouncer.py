"""pgbouncer in transaction mode before the server of the tests: each transaction may have another connection."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import psycopg2
from conftest import TOP, until

PROGRAM = TOP / "target" / "pgbouncer" / "usr" / "sbin" / "pgbouncer"
SETTINGS = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {connections}
"""


@contextlib.contextmanager
def pgbouncer(database, *users, connections=3):
    """Gives the environment by which it is found."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="audit_pgbouncer."))
    folder.chmod(0o777)
    settings = SETTINGS.format(host=os.environ["PGHOST"], port=os.environ["PGPORT"], folder=folder, connections=connections)
    # it refuses to run as root
    (folder / "settings").write_text(settings + ("user = postgres\n" if os.getuid() == 0 else ""))
    (folder / "users").write_text("".join(f'"{user}" ""\n' for user in ("postgres", *users)))
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([PROGRAM, folder / "settings"], stdout=log, stderr=log)
    found = {"PGHOST": str(folder), "PGPORT": "6432", "PGUSER": "postgres", "PGDATABASE": database}
    try:
        until(lambda: process.poll() is not None or answers(found))
        assert process.poll() is None, (folder / "log").read_text()
        yield found
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def answers(found):
    try:
        psycopg2.connect(host=found["PGHOST"], port=found["PGPORT"], dbname=found["PGDATABASE"]).close()
        return True
    except psycopg2.OperationalError:
        return False
