"""Ends of processes and servers that nobody wishes for."""

import os
import pathlib
import signal
import subprocess
import time

import psycopg2
from conftest import server, until


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def peak_memory(pid):
    """Peak resident memory of a process, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024


def kill(*pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def processes():
    """The postmaster, and its children."""
    with open(os.environ["AUDIT_DATA"] + "/postmaster.pid") as file:
        postmaster = int(file.readline())
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(postmaster)], capture_output=True, text=True).stdout.split()
    return [postmaster, *map(int, children)]


def start_after_crash():
    # the postmaster's number may live on in a zombie; a machine that crashed would have none
    for file in (os.environ["AUDIT_DATA"] + "/postmaster.pid", os.environ["PGHOST"] + "/.s.PGSQL.5432.lock"):
        pathlib.Path(file).unlink(missing_ok=True)
    server("start")


def kill_postmaster(meanwhile=lambda: None):
    """It and all of its backends, as a machine that crashes; then it is started again."""
    all_ = processes()
    kill(*all_)
    until(lambda: not any(map(alive, all_)))
    meanwhile()
    start_after_crash()


def stop_fast():
    """As an administrator or a package's update would. Returns how many seconds it took."""
    began = time.monotonic()
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    subprocess.run([*user, os.environ["AUDIT_BIN"] + "/pg_ctl", "-D", os.environ["AUDIT_DATA"], "-m", "fast", "-t", "60", "stop"],
                   check=True, capture_output=True, cwd="/")
    return time.monotonic() - began


def kill_backend(db, pid):
    """The server ends all others because of it, and begins anew."""
    witness = db.connect()
    kill(pid)
    until(lambda: not answers(db, witness))
    until(lambda: answers(db))


def answers(db, connection=None):
    try:
        return db.value("SELECT true", connection=connection)
    except psycopg2.Error:
        return False
