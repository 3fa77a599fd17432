"""Two connections beside one: the same bodies, half to each. The two clients have the same cores as the server."""

import concurrent.futures

import log
import messages
from harness import Row, at_least, connected, paired, ratios, seconds, seconds_of_calls
from settings import BATCH, MESSAGES, RUNS


def measure():
    bodies = [(body,) for body in messages.bodies(MESSAGES, BATCH)]

    def one():
        log.fresh()
        taken = seconds_of_calls(log.INGEST, bodies)
        log.holds(MESSAGES)
        return taken

    def work(client, calls):
        for arguments in calls:
            client.call(*arguments)

    def two():
        log.fresh()
        with connected() as first, connected() as second, concurrent.futures.ThreadPoolExecutor(2) as pool:
            for client in (first, second):
                client.prepare(log.INGEST)
            taken = seconds(list, pool.map(work, (first, second), (bodies[0::2], bodies[1::2])))
        log.holds(MESSAGES)
        return taken

    taken = paired(RUNS, {"one": one, "two": two})
    return [Row("two connections, throughput/one", ratios(taken["one"], taken["two"]), at_least(1.8),
                "disjoint bodies; clients share the cores", taken)]
