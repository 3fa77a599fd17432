"""Two connections beside one, and two databases: the same bodies, half to each. The two clients have the same cores as the server."""

import concurrent.futures
import contextlib

import log
import messages
from harness import Row, at_least, check, connected, execute, paired, ratios, seconds, seconds_of_calls
from settings import BATCH, MESSAGES, RUNS

OTHER = "audit_other"


def together(addresses, bodies):
    """Seconds of two clients, of which each has half of the bodies."""
    def work(client, calls):
        for arguments in calls:
            client.call(*arguments)

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for address in addresses]
        for client in clients:
            client.prepare(log.INGEST)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return seconds(list, pool.map(work, clients, (bodies[0::2], bodies[1::2])))


def measure():
    bodies = [(body,) for body in messages.bodies(MESSAGES, BATCH)]

    def one():
        log.fresh()
        taken = seconds_of_calls(log.INGEST, bodies)
        log.holds(MESSAGES)
        return taken

    def two():
        log.fresh()
        taken = together(["", ""], bodies)
        log.holds(MESSAGES)
        return taken

    def two_databases():
        log.fresh()
        execute(f"DROP DATABASE IF EXISTS {OTHER}")
        execute(f"CREATE DATABASE {OTHER}")
        with connected(f"dbname={OTHER}") as other:
            other.execute("CREATE EXTENSION audit_cdc")
            log.fill_first(other.execute)
        taken = together(["", f"dbname={OTHER}"], bodies)
        with connected(f"dbname={OTHER}") as other:
            stored = [client("SELECT count(*) FROM audit_cdc_internal.log").fetchone()[0] for client in (execute, other.execute)]
        check(sum(stored), MESSAGES, "entries of both")
        execute(f"DROP DATABASE {OTHER}")
        return taken

    taken = paired(RUNS, {"one": one, "two": two, "two databases": two_databases})
    return [
        Row("two connections, throughput/one", ratios(taken["one"], taken["two"]), at_least(1.8), "disjoint bodies; clients share the cores", taken),
        Row("two databases, throughput/one", ratios(taken["one"], taken["two databases"]), at_least(1.8), "as before, a log each", taken)]
