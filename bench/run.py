"""All measurements, and one table of them. Usage: make bench [QUICK=1] [ONLY=ingest,source] and what settings.py names."""

import importlib
import os
import sys
import time
import traceback

import harness
import log
import report

MEASUREMENTS = ["ingest", "connections", "batches", "memory", "growth", "source", "who", "capture", "projection", "reading", "retention", "masking", "months", "relay"]


def chosen():
    only = [name for name in os.environ.get("ONLY", "").split(",") if name]
    unknown = set(only) - set(MEASUREMENTS)
    if unknown:
        sys.exit(f"no measurement {', '.join(sorted(unknown))}: there are {', '.join(MEASUREMENTS)}")
    return [name for name in MEASUREMENTS if name in only or not only]


def main():
    harness.execute("ALTER SYSTEM SET autovacuum = off")  # it would disturb some runs and not others
    harness.execute("SELECT pg_reload_conf()")
    rows, failures = [], {}
    for name in chosen():
        start = time.perf_counter()
        print(f"==> {name}", flush=True)
        try:
            rows += importlib.import_module(name).measure()
            log.emptied()
        except Exception as error:
            traceback.print_exc()
            failures[name] = " ".join(f"{type(error).__name__}: {error}".split())
        harness.progress(f"{time.perf_counter() - start:.0f} s")
    report.report(rows, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
