"""What it costs to tell who made a change: pgbench's TPS with the server's context, with annotations by settings, and where they are required.

Nobody reads the WAL, and commits do not wait for the disk, so that the cost shows: WHO_WAITS=1 lets them. The rounds are short and many: other work disturbs each alike.
It disturbs TPS more than the CPU time of the sessions, which the kernel adds to that of the postmaster when they end.
"""

import os
import pathlib
import time

from harness import Row, at_least, check, connected, execute, paired, ratios, value
from settings import CLIENTS, SCALE, WHO_ROUNDS, WHO_ROWS, WHO_SECONDS, WHO_WAITS
from source import TABLES, TRANSACTION, made_tables, pgbench

COMMIT = {"synchronous_commit": "on" if WHO_WAITS else "off"}
SIGNED = {"audit_cdc.username": "ada", "audit_cdc.source": "web", "audit_cdc.request_id": "req-4711"}
WAYS = {"off": {"audit_cdc.server_context": "off"}, "context": {}, "settings": SIGNED, "required": SIGNED}


def require(tables, fields):
    for table in tables:
        execute(f"SELECT audit_require_annotation('{table}', '{fields}')")


def cpu_of_ended():
    """Seconds of the sessions that have ended."""
    postmaster = value("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
    fields = pathlib.Path(f"/proc/{postmaster}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")  # cutime, cstime


def rate(way, microseconds):
    """To `microseconds` it adds the CPU time of a transaction."""
    require(TABLES, "{username}" if way == "required" else "{}")
    execute("VACUUM pgbench_branches, pgbench_tellers")
    options = " ".join(f"-c {name}={setting}" for name, setting in {**COMMIT, **WAYS[way]}.items())
    before = cpu_of_ended()
    transactions, a_second = pgbench(TRANSACTION.format(annotate=""), WHO_SECONDS, options)
    check(transactions > 0, True, "transactions of pgbench")
    time.sleep(0.1)  # the last one ends
    microseconds.append((cpu_of_ended() - before) * 1_000_000 / transactions)
    return a_second


def bulk_seconds(work, is_required):
    """Of many rows in one statement, into a table that is new."""
    execute("DROP TABLE IF EXISTS bulk; CREATE TABLE bulk (id int PRIMARY KEY, v text)")
    if work == "UPDATE":
        execute(f"INSERT INTO bulk SELECT n, 'a value of some bytes' FROM generate_series(1, {WHO_ROWS}) AS n")
    require(["bulk"], "{username}" if is_required else "{}")
    execute("CHECKPOINT")
    rows = "".join(f"{n}\ta value of some bytes\n" for n in range(WHO_ROWS)).encode()
    with connected(**COMMIT, **SIGNED) as client:
        start = time.perf_counter()
        if work == "COPY":
            client.copy(b"COPY bulk FROM STDIN", rows)
        else:
            client.execute("UPDATE bulk SET v = 'another value'")
        taken = time.perf_counter() - start
    check(value("SELECT count(*) FROM bulk"), WHO_ROWS, "rows")
    return taken


def measure():
    made_tables(SCALE)
    cpu = {way: [] for way in WAYS}
    taken = paired(WHO_ROUNDS, {way: lambda way=way: rate(way, cpu[way]) for way in WAYS})
    bulk = {work: paired(min(WHO_ROUNDS, 7), {"free": lambda work=work: bulk_seconds(work, False), "required": lambda work=work: bulk_seconds(work, True)})
            for work in ("COPY", "UPDATE")}
    execute(f"DROP TABLE bulk, {', '.join(TABLES)} CASCADE")

    def both(way, beside, goal, how):
        for what, numbers, bound in (("TPS", taken, goal), ("CPU", cpu, None)):
            measured = {f"{kind}, {what}": numbers[kind] for kind in (way, beside)}
            yield Row(f"who {what}, {way}/{beside}", ratios(numbers[way], numbers[beside]), bound, f"{how}; pgbench, {CLIENTS} clients, {WHO_SECONDS} s", measured)

    return [
        *both("context", "off", at_least(0.98), "audit_cdc.server_context on, beside off"),
        *both("settings", "off", at_least(0.98), "and a username, a source and a request by settings"),
        *both("required", "settings", None, "audit_require_annotation on all four tables: a trigger a row"),
        *(Row(f"who, {work} of {WHO_ROWS:,} rows, required/free", ratios(found["required"], found["free"]), None, "one statement, annotated by settings; the table has one index",
              {f"{kind}, s": found[kind] for kind in found}) for work, found in bulk.items()),
    ]
