"""Memory of the backend while it takes one large body."""

import statistics
import threading
import time

import log
import messages
from harness import Row, at_most, connected, paired
from settings import BODY_MB, RUNS


def status(pid, field):
    """Bytes, by the kernel."""
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def measure():
    body, count = messages.body_of(BODY_MB * 1_000_000)
    highs = []

    def peak():
        """The most anonymous memory that was seen, every two milliseconds; shared_buffers are not part of it."""
        log.fresh()
        with connected() as client:
            client.prepare(log.INGEST)
            # the first five executions are planned for their arguments, of which PostgreSQL makes one more copy
            for _ in range(5):
                client.call(messages.body(0, 0))
            pid, seen, done = client.libpq.backend_pid, [], threading.Event()

            def watch():
                while not done.is_set():
                    seen.append(status(pid, "RssAnon"))
                    time.sleep(0.002)

            watching = threading.Thread(target=watch)
            before = status(pid, "VmHWM"), status(pid, "RssAnon")
            watching.start()
            try:
                client.call(body)
            finally:
                done.set()
                watching.join()
            highs.append((before[0] / 1e6, status(pid, "VmHWM") / 1e6, before[1] / 1e6))
        log.holds(count)
        return max(seen) / len(body)

    taken = paired(RUNS, {"peak": peak})
    hwm_before, hwm, anon_before = map(statistics.median, zip(*highs))
    return [Row(f"peak memory, {BODY_MB} MB body/body", taken["peak"], at_most(4),
                f"RssAnon, {anon_before:.0f} MB before; VmHWM, with shared_buffers, {hwm_before:.0f} MB before and {hwm:,.0f} MB after",
                {"VmHWM before, VmHWM after, RssAnon before, MB": highs})]
