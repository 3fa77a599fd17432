"""A physical copy of the throwaway server, which follows it."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import psycopg2
from conftest import Database
from relay_helpers import free_port


class Standby(Database):
    """The same database on a server of its own."""

    def __init__(self, name, folder, port):
        super().__init__(name)
        self.folder, self.port = folder, port

    def connect(self, **options):
        return super().connect(host=str(self.folder), port=self.port, user="postgres", **options)

    def run_as_postgres(self, program, *words):
        user = "postgres" if os.getuid() == 0 else None
        return subprocess.run([f"{os.environ['AUDIT_BIN']}/{program}", *words], check=True, capture_output=True, user=user, cwd="/")

    def control(self, *words):
        self.run_as_postgres("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), *words)

    def promote(self):
        self.control("promote")


@contextlib.contextmanager
def standby(db, slot=None):
    """slot: of the primary, which makes it; then it copies logical slots, from PostgreSQL 17 on."""
    # beside the server's own data: other runs of pytest close the folders that pytest gives
    folder = pathlib.Path(tempfile.mkdtemp(prefix="standby.", dir=pathlib.Path(os.environ["AUDIT_DATA"]).parent))
    folder.chmod(0o777)
    copy = Standby(db.name, folder, free_port())
    primary = f"host={os.environ['PGHOST']} port={os.environ['PGPORT']} user=postgres dbname=postgres"
    copy.run_as_postgres("pg_basebackup", "-d", primary, "-D", str(folder / "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync",
                         *(["-C", "-S", slot] if slot else []))
    copies = "-c hot_standby_feedback=on -c sync_replication_slots=on" if slot else ""
    try:
        copy.control("-o", f"-c port={copy.port} -c unix_socket_directories={folder} -c hot_standby=on {copies}", "start")
        yield copy
    finally:
        with contextlib.suppress(subprocess.CalledProcessError, psycopg2.Error):
            copy.control("-m", "immediate", "stop")
        shutil.rmtree(folder)
