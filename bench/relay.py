"""audit-relay's webhook beside what a shell script would do (one psql a body) and what the database alone reaches (direct connections).

The same messages in bodies of 1,000, 100, 10 and 1. All run on the same cores: server, relay and the client that posts. `direct` hands over one
body a call, and so does psql; the relay may put bodies that wait at the same time into one call. Its settings may be given as AUDIT_RELAY_….
"""

import concurrent.futures
import contextlib
import os
import re
import select
import socket
import statistics
import subprocess
import tempfile
import time

import log
import messages
from harness import Row, at_least, check, connected, paired, ratios, seconds
from settings import CONNECTIONS, MESSAGES, POSTERS, QUICK, RUNS

# messages a body: what part of MESSAGES direct and relay take, and psql, which needs some milliseconds a body
PARTS = {1_000: (1, 1), 1: (5, 250)} if QUICK else {1_000: (1, 1), 100: (1, 5), 10: (2, 25), 1: (5, 250)}
SECRET = "benchmark"
EMPTY_BODY = b'{"data":[]}'


def with_psql(bodies):
    """Seconds, as all of these. The body comes from standard input, since an argument may not be so long."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("\\set body `cat`\n" + log.INGEST.replace("$1", ":'body'") + ";\n")
        script.flush()
        start = time.perf_counter()
        for body in bodies:
            subprocess.run(["psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-f", script.name], input=body, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


def direct(bodies):
    """A prepared statement on each connection; the client's only work meanwhile is to send."""
    calls = iter(bodies)

    def work(client):
        for body in calls:
            client.call(body)

    with contextlib.ExitStack() as open_connections, concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
        clients = [open_connections.enter_context(connected()) for _ in range(CONNECTIONS)]
        for client in clients:
            client.prepare(log.INGEST)
            client.call(EMPTY_BODY)
        return seconds(list, pool.map(work, clients))


def request(body):
    return b"POST / HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        SECRET.encode(), len(body), body)


def post(sockets, requests):
    """Each connection sends its next request when the last one was answered; all must be answered with 204."""
    requests, waiting, polled = iter(requests), 0, select.epoll()
    for own in sockets.values():
        polled.register(own, select.EPOLLIN)

    def send_next(own):
        following = next(requests, None)
        if following:
            own.sendall(following)
        return 1 if following else 0

    for own in sockets.values():
        waiting += send_next(own)
    while waiting:
        for number, _ in polled.poll():
            reply = sockets[number].recv(4096)
            check((reply[:13], reply[-4:]), (b"HTTP/1.1 204 ", b"\r\n\r\n"), f"answer {reply}")
            waiting += send_next(sockets[number]) - 1


def get(port, path):
    with socket.create_connection(("127.0.0.1", port)) as own:
        own.sendall(f"GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: own.recv(65536), b"")).decode()


def calls(port):
    return int(re.search(r'^audit_relay_calls_total\{outcome="stored"\} (\d+)', get(port, "/metrics"), re.M)[1])


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running_relay():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [os.environ["AUDIT_RELAY"], "webhook", "--listen", f"127.0.0.1:{port}", "--connections", str(CONNECTIONS), "--log-level", "warn"],
        env={**os.environ, "AUDIT_RELAY_WEBHOOK_SECRET": SECRET}, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                if " 200 " in get(port, "/readyz"):
                    break
            check(process.poll() is None and time.monotonic() < until, True, "the relay starts")
            time.sleep(0.02)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(30)


def relay(bodies, cpu, shared):
    """Seconds; to `cpu` it adds its CPU seconds, to `shared` the bodies a call."""
    requests = [request(body) for body in bodies]
    with running_relay() as (pid, port), contextlib.ExitStack() as open_sockets:
        sockets = {}
        for _ in range(POSTERS):
            own = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[own.fileno()] = own
        post(sockets, [request(EMPTY_BODY)] * 5 * POSTERS)  # so that it has its connections, too
        cpu_before, calls_before = cpu_seconds(pid), calls(port)
        start = time.perf_counter()
        post(sockets, requests)
        taken = time.perf_counter() - start
        cpu.append(cpu_seconds(pid) - cpu_before)
        shared.append(len(bodies) / (calls(port) - calls_before))
    return taken


def measure_bodies_of(size, part, part_of_psql):
    count, fewer = MESSAGES // part, MESSAGES // part_of_psql
    bodies, cpu, shared = messages.bodies(count, size), [], []

    def microseconds(kind, count, *arguments):
        log.fresh()
        taken = kind(*arguments)
        log.holds(count)
        return taken / count * 1e6

    taken = paired(RUNS, {
        "psql": lambda: microseconds(with_psql, fewer, messages.bodies(fewer, size)),
        "direct": lambda: microseconds(direct, count, bodies),
        "relay": lambda: microseconds(relay, count, bodies, cpu, shared)})
    measured = {f"{kind}, µs a message": times for kind, times in taken.items()} | {"relay's CPU seconds": cpu, "bodies a call": shared}
    how = (f"throughput; {1e6 / statistics.median(taken['relay']):,.0f} messages/s, {statistics.median(shared):.1f} bodies a call, "
           f"{statistics.median(cpu) / count * 1e6:.0f} s of CPU a million")
    return [Row(f"relay/direct, bodies of {size:,}", ratios(taken["direct"], taken["relay"]), at_least(0.75), how, measured),
            Row(f"relay/psql, bodies of {size:,}", ratios(taken["psql"], taken["relay"]), None, "throughput; one psql a body", measured)]


def measure():
    return [row for size, parts in PARTS.items() for row in measure_bodies_of(size, *parts)]
