"""Connections, timed calls, paired runs, and the rows of the table."""

import contextlib
import dataclasses
import statistics
import time

import psycopg
from psycopg import pq


class Client:
    """A connection whose statements are commits of their own. The timed ones are prepared, and take their arguments as parameters."""

    def __init__(self, address=""):
        self.connection = psycopg.connect(address, autocommit=True)
        self.libpq = self.connection.pgconn
        self.libpq.nonblocking = 0

    def execute(self, sql, *arguments):
        return self.connection.execute(sql, arguments or None)

    def value(self, sql, *arguments):
        return self.execute(sql, *arguments).fetchone()[0]

    def checked(self, result, expected=(pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)):
        if result.status not in expected:
            raise RuntimeError(result.error_message.decode() or f"status {result.status}")
        return result

    def prepare(self, sql):
        self.checked(self.libpq.prepare(b"timed", sql.encode()))

    def call(self, *arguments):
        return self.checked(self.libpq.exec_prepared(b"timed", arguments))

    def copy(self, sql, rows):
        self.checked(self.libpq.exec_(sql), (pq.ExecStatus.COPY_IN,))
        self.libpq.put_copy_data(rows)
        self.libpq.put_copy_end()
        self.checked(self.libpq.get_result())
        while self.libpq.get_result():
            pass


@contextlib.contextmanager
def connected(address="", **configuration):
    client = Client(address)
    with contextlib.closing(client.connection):
        for name, value in configuration.items():
            client.execute("SELECT set_config(%s, %s, false)", name, value)
        yield client


admin = Client()
execute, value = admin.execute, admin.value


def seconds(work, *arguments):
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def seconds_of_calls(sql, calls, **configuration):
    """Of one statement, called with each of `calls` (tuples of bytes) over a new connection."""
    with connected(**configuration) as client:
        client.prepare(sql)
        start = time.perf_counter()
        for arguments in calls:
            client.call(*arguments)
        return time.perf_counter() - start


def seconds_of_copies(sql, pieces):
    sql = sql.encode()
    with connected() as client:
        start = time.perf_counter()
        for rows in pieces:
            client.copy(sql, rows)
        return time.perf_counter() - start


def paired(runs, kinds):
    """Each run times all kinds, in alternating order. `kinds`: name and what returns its number (seconds, mostly)."""
    numbers = {kind: [] for kind in kinds}
    for run in range(runs):
        for kind in list(kinds)[::-1 if run % 2 else 1]:
            numbers[kind].append(kinds[kind]())
        progress(f"run {run + 1} of {runs}: " + ", ".join(f"{kind} {shown(taken[-1])}" for kind, taken in numbers.items()))
    return numbers


def ratios(some, others):
    return [one / other for one, other in zip(some, others, strict=True)]


def shown(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}" if number < 0.1 else f"{number:.2f}"


def progress(line):
    print("   ", line, flush=True)


@dataclasses.dataclass
class Row:
    """A line of the table. `goal`: ("≤" or "≥", number), or None where there is none."""

    name: str
    numbers: list
    goal: tuple | None
    how: str
    measured: dict = dataclasses.field(default_factory=dict)  # what the numbers come from, run by run

    @property
    def value(self):
        return statistics.median(self.numbers)

    @property
    def met(self):
        if self.goal is None:
            return None
        sign, bound = self.goal
        return self.value <= bound if sign == "≤" else self.value >= bound


def at_most(bound):
    return ("≤", bound)


def at_least(bound):
    return ("≥", bound)


def check(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}: {found}, expected {expected}")
