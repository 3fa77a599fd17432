"""Does the log stay as fast as it was? It grows month by month; then one record's history is read out of all that."""

import json
import time

import log
import messages
from harness import Row, at_most, check, connected, execute, progress, ratios, seconds
from settings import BATCH, GROWTH, RUNS

STEP = max(GROWTH // 20 // BATCH, 1) * BATCH
RECORDS = 500  # whose history is read in a run
# the documented way to one record's history, and the least that finds its entries
HISTORY = """SELECT commit_timestamp, action, username, old_values, new_values FROM audit_logs
             WHERE table_name = 'orders' AND record_id = $1 ORDER BY commit_lsn, commit_idx"""
LOOKUP = """SELECT commit_timestamp, action, annotations, old_values, new_values FROM audit_cdc_internal.log
            WHERE record_id = $1 AND audited_table = (SELECT id FROM audit_cdc_internal.audited_tables)"""


def grow():
    """Seconds of each step; bodies are made between the calls, and each step starts after a checkpoint."""
    log.fresh()
    steps = []
    with connected() as client:
        client.prepare(log.INGEST)
        for first in range(0, GROWTH, STEP):
            execute("CHECKPOINT")
            steps.append(sum(seconds(client.call, messages.body(n, n + BATCH)) for n in range(first, first + STEP, BATCH)))
            progress(f"{first + STEP:,} rows: the last {STEP:,} in {steps[-1]:.2f} s")
    log.holds(STEP * len(steps))
    return steps


def some_records(run):
    """Of changes all over the log."""
    numbers = (messages.scattered(run * RECORDS + n) % GROWTH for n in range(RECORDS))
    return [json.loads(messages.message(n))["metadata"]["record_pks"][0].encode() for n in numbers]


def histories():
    """Milliseconds a record, by the documented way and by the bare lookup, of entries that were read just before."""
    execute("ANALYZE audit_cdc_internal.log")
    taken = {HISTORY: [], LOOKUP: []}
    for run in range(RUNS):
        records = some_records(run)
        entries = {read(LOOKUP, records)[1]}
        for sql in list(taken)[::-1 if run % 2 else 1]:
            lasted, count = read(sql, records)
            taken[sql].append(lasted / RECORDS * 1e3)
            entries.add(count)
        check(len(entries) == 1 and min(entries) >= RECORDS, True, f"the same entries by both ways, one or more a record, not {entries}")
        progress(f"run {run + 1} of {RUNS}: history {taken[HISTORY][-1]:.3f} ms, lookup {taken[LOOKUP][-1]:.3f} ms")
    return taken[HISTORY], taken[LOOKUP]


def read(sql, records):
    """Seconds, and how many entries were found."""
    with connected() as client:
        client.prepare(sql)
        start = time.perf_counter()
        entries = sum(client.call(record).ntuples for record in records)
        return time.perf_counter() - start, entries


def measure():
    steps = grow()
    history, lookup = histories()
    large = GROWTH >= 20_000_000  # what the goals are for
    return [
        Row(f"last {STEP:,} of {GROWTH:,} rows/first", [steps[-1] / steps[0]], at_most(1.15) if large else None,
            "one pass; only calls are timed, a checkpoint before each part" + ("" if large else "; goal only for 20 million"), {"seconds": steps}),
        Row(f"one record's history among {GROWTH:,}/lookup", ratios(history, lookup), at_most(1.5) if large else None,
            "the documented query beside SELECT … FROM the log by its index; cached, prepared", {"history, ms": history, "lookup, ms": lookup}),
    ]
