"""Does removing a month stall who ingests? Small calls go on meanwhile; the longest of them is looked at."""

import threading
import time

import log
import messages
from harness import Row, at_most, check, connected, execute, progress, value
from settings import BATCH, MONTH_ENTRIES

CALLS_BEFORE = 2_000


def of_the_past(body):
    return body.replace(b'"2026-11-', b'"2004-11-')


def fill():
    log.fresh()
    with connected() as client:
        client.prepare(log.INGEST)
        for first in range(0, MONTH_ENTRIES, BATCH):
            client.call(of_the_past(messages.body(first, first + BATCH)))
    log.holds(MONTH_ENTRIES)
    execute("SELECT audit_set_retention('10 years')")
    execute("CHECKPOINT")


def timed(client, n):
    start = time.perf_counter()
    client.call(messages.body(n, n + 1))
    return (time.perf_counter() - start) * 1e3


def measure():
    fill()
    removing = threading.Thread(target=execute, args=["CALL audit_apply_retention()"])
    with connected() as client:
        client.prepare(log.INGEST)
        before = [timed(client, MONTH_ENTRIES + n) for n in range(CALLS_BEFORE)]
        start, meanwhile = time.perf_counter(), []
        removing.start()
        while removing.is_alive():
            meanwhile.append(timed(client, MONTH_ENTRIES + CALLS_BEFORE + len(meanwhile)))
    progress(f"{MONTH_ENTRIES:,} entries went in {time.perf_counter() - start:.1f} s, beside {len(meanwhile)} calls")
    check(value("SELECT sum(entries) FROM audit_removed"), MONTH_ENTRIES, "removed")
    log.holds(CALLS_BEFORE + len(meanwhile))
    return [Row(f"longest call, ms, while a month of {MONTH_ENTRIES:,} goes", [max(meanwhile)], at_most(100),
                f"one message a call; before, the longest of {CALLS_BEFORE:,} took {max(before):.0f} ms", {"before": before, "meanwhile": meanwhile})]
