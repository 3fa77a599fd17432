"""audit-relay beside what a shell script would do (one psql a body) and beside what the database alone reaches (direct connections).

The same messages in bodies of 1,000, 100, 10 and 1, each measurement on an empty log, paired runs in alternating order. All run on the
same cores: server, relay and the client that posts. `direct` hands over one body a call; so does psql; the relay may put bodies that wait
at the same time into one call. Settings of the relay may be given as AUDIT_RELAY_….
Usage: make bench [RUNS=5] [MESSAGES=50000] [CONNECTIONS=2] [CLIENTS=8]
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

import messages as made
import psycopg2

MESSAGES = int(os.environ.get("MESSAGES", 50_000))
RUNS = int(os.environ.get("RUNS", 5))
CONNECTIONS = int(os.environ.get("CONNECTIONS", 2))  # to the database
CLIENTS = int(os.environ.get("CLIENTS", 8))  # connections to the relay
PROGRAM = os.environ["AUDIT_RELAY"]
# messages a body: what part of MESSAGES direct and relay take, and psql, which needs some milliseconds a body
PARTS = {1_000: (1, 1), 100: (1, 5), 10: (2, 25), 1: (5, 250)}
SECRET = "benchmark"
CALL = "SELECT * FROM audit_ingest({})"
EMPTY_BODY = '{"data":[]}'

connection = psycopg2.connect("")
connection.autocommit = True
cursor = connection.cursor()


def value(sql):
    cursor.execute(sql)
    return cursor.fetchone()[0]


def fresh():
    cursor.execute(made.EMPTY_LOG)
    cursor.execute("CHECKPOINT")


def all_in_the_log(count):
    assert value("SELECT count(*) FROM audit_logs") == count and value("SELECT count(*) FROM audit_rejects") == 0


def with_psql(bodies):
    """Seconds, as all of these. The body comes from standard input, since an argument may not be so long."""
    bodies = [body.encode() for body in bodies]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write("\\set body `cat`\n" + CALL.format(":'body'") + ";\n")
        script.flush()
        start = time.perf_counter()
        for body in bodies:
            subprocess.run(["psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-f", script.name], input=body, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


def direct(bodies):
    """A prepared statement on each connection; the client's only work meanwhile is to send."""
    calls = iter([cursor.mogrify("EXECUTE ingest(%s)", (body,)) for body in bodies])

    def work(own):
        for call in calls:
            own.execute(call)

    with contextlib.ExitStack() as open_connections, concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
        cursors = []
        for _ in range(CONNECTIONS):
            own = open_connections.enter_context(contextlib.closing(psycopg2.connect("")))
            own.autocommit = True
            cursors.append(own.cursor())
            cursors[-1].execute(f"PREPARE ingest(text) AS {CALL.format('$1')}")
            cursors[-1].execute("EXECUTE ingest(%s)", (EMPTY_BODY,))
        start = time.perf_counter()
        list(pool.map(work, cursors))
        return time.perf_counter() - start


def request(body):
    body = body.encode()
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
            assert reply.startswith(b"HTTP/1.1 204 ") and reply.endswith(b"\r\n\r\n"), reply
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
        [PROGRAM, "webhook", "--listen", f"127.0.0.1:{port}", "--connections", str(CONNECTIONS), "--log-level", "warn"],
        env={**os.environ, "AUDIT_RELAY_WEBHOOK_SECRET": SECRET}, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                if " 200 " in get(port, "/readyz"):
                    break
            assert process.poll() is None and time.monotonic() < until, "the relay does not start"
            time.sleep(0.02)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(30)


def relay(bodies):
    requests = [request(body) for body in bodies]
    with running_relay() as (pid, port), contextlib.ExitStack() as open_sockets:
        sockets = {}
        for _ in range(CLIENTS):
            own = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[own.fileno()] = own
        post(sockets, [request(EMPTY_BODY)] * 5 * CLIENTS)  # so that it has its connections, too
        cpu_before, calls_before = cpu_seconds(pid), calls(port)
        start = time.perf_counter()
        post(sockets, requests)
        taken = time.perf_counter() - start
        cpu.append(cpu_seconds(pid) - cpu_before)
        shared.append(len(bodies) / (calls(port) - calls_before))
    return taken


def median_and_range(numbers):
    return f"{statistics.median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


def rate(messages_a_second, size):
    return f"{statistics.median(messages_a_second):,.0f} ({statistics.median(messages_a_second) / size:,.0f})"


cursor.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")  # what other timings left would keep WAL
cursor.execute("ALTER SYSTEM SET autovacuum = off")  # it would disturb some runs and not others
cursor.execute("SELECT pg_reload_conf()")

messages = made.messages(MESSAGES)
kinds = [with_psql, direct, relay]
rows = []
for size, (part, part_of_psql) in PARTS.items():
    rates = {kind: [] for kind in kinds}
    bodies = made.bodies(messages[:MESSAGES // part], size)
    fewer = made.bodies(messages[:MESSAGES // part_of_psql], size)
    cpu, shared = [], []  # of relay()
    for run in range(RUNS):
        for kind in kinds[::1 if run % 2 else -1]:
            count = MESSAGES // (part_of_psql if kind == with_psql else part)
            fresh()
            rates[kind].append(count / kind(fewer if kind == with_psql else bodies))
            all_in_the_log(count)
    ratios = [[a / b for a, b in zip(rates[relay], rates[other])] for other in (direct, with_psql)]
    rows.append([f"{size:,}", *(rate(rates[kind], size) for kind in kinds), *map(median_and_range, ratios),
                 f"{statistics.median(shared):.1f}", f"{statistics.median(cpu) / (MESSAGES // part) * 1e6:.0f}"])

print(value("SELECT version()"))
print(f"{os.cpu_count()} cores, {CONNECTIONS} connections to the database, {CLIENTS} to the relay, messages of "
      f"{sum(map(len, messages)) // MESSAGES} bytes, up to {MESSAGES} a run, {RUNS} runs, medians")
print("messages/s, and in parentheses requests/s; ratios of paired runs, with their range")
head = ["messages a body", "psql", "direct", "relay", "relay / direct", "relay / psql", "bodies a call", "relay's CPU seconds a million"]
widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
for row in [head, ["-" * width for width in widths], *rows]:
    print("| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths)) + " |")
