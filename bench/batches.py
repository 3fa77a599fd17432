"""Calls of 1 to 10,000 messages. A call of one stands beside a plain INSERT of one row, already typed, into a copy of the log."""

import log
import messages
from harness import Row, at_most, execute, paired, ratios, seconds_of_calls
from settings import MESSAGES, RUNS

# Messages a call, and what part of all messages is timed: small calls take long.
PARTS = {1: 10, 10: 2, 100: 1, 1_000: 1, 10_000: 1}
USUAL = 1_000
# "no cliff": from here on a larger call must not cost more a message
GOALS = {10_000: at_most(1.1)}


def rows_as_text(count):
    """The rows of exported(), each the arguments of an INSERT."""
    names = log.columns().split(", ")
    found = execute(f"SELECT {', '.join(f'{name}::text' for name in names)} FROM audit_cdc_internal.log ORDER BY id LIMIT {count}").fetchall()
    insert = f"INSERT INTO rival.log ({', '.join(names)}) VALUES ({', '.join(f'${n + 1}' for n in range(len(names)))})"
    return insert, [tuple(field and field.encode() for field in row) for row in found]


def measure():
    most = max(MESSAGES, max(PARTS))
    counts = {size: most // part for size, part in PARTS.items()}
    calls = {size: [(body,) for body in messages.bodies(count, size)] for size, count in counts.items()}
    log.fresh()
    seconds_of_calls(log.INGEST, calls[USUAL])
    insert, plain_rows = rows_as_text(counts[1])

    def ingest(size, **configuration):
        """Microseconds a message."""
        log.fresh()
        taken = seconds_of_calls(log.INGEST, calls[size], **configuration)
        log.holds(counts[size])
        return taken / counts[size] * 1e6

    def plain(**configuration):
        log.copied()
        taken = seconds_of_calls(insert, plain_rows, **configuration)
        log.holds(len(plain_rows), "rival.log")
        return taken / len(plain_rows) * 1e6

    kinds = {f"calls of {size}": lambda size=size: ingest(size) for size in PARTS}
    kinds |= {"INSERT": plain, "calls of 1, not synchronous": lambda: ingest(1, synchronous_commit="off"),
              "INSERT, not synchronous": lambda: plain(synchronous_commit="off")}
    taken = paired(RUNS, kinds)

    def row(name, one, other, goal, how):
        return Row(name, ratios(taken[one], taken[other]), goal, how, {f"{kind}, µs a message": taken[kind] for kind in (one, other)})

    rows = [row(f"batch of {size:,}/of {USUAL:,}, a message", f"calls of {size}", f"calls of {USUAL}", GOALS.get(size),
                f"{counts[size]:,} messages, each call a commit") for size in PARTS if size != USUAL]
    return rows + [
        row("batch of 1/INSERT", "calls of 1", "INSERT", at_most(1.3), "typed values, prepared, into a copy of the log; both wait for the disk"),
        row("batch of 1/INSERT, asynchronous", "calls of 1, not synchronous", "INSERT, not synchronous", None,
            "as before, with synchronous_commit = off"),
    ]
