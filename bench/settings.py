"""What may be set in the environment; QUICK=1 changes the defaults. `all` holds what is in force."""

import os

QUICK = os.environ.get("QUICK", "") not in ("", "0")
all = {"QUICK": int(QUICK)}


def number(name, full, quick):
    all[name] = int(os.environ.get(name) or (quick if QUICK else full))
    return all[name]


RUNS = number("RUNS", 5, 3)
LONG_RUNS = number("LONG_RUNS", 5, 2)  # of source and capture
MESSAGES = number("MESSAGES", 50_000, 10_000)
BATCH = number("BATCH", 1_000, 1_000)
BODY_MB = number("BODY_MB", 64, 64)  # of the one body whose memory is measured
GROWTH = number("GROWTH", 20_000_000, 100_000)  # rows to which the log grows; 20 million need 25 GB of disk
CHANGES = number("CHANGES", 200_000, 10_000)  # that wait for capture
SECONDS = number("SECONDS", 30, 3)  # of each pgbench
SCALE = number("SCALE", 10, 4)  # of pgbench
CLIENTS = number("CLIENTS", 2, 2)  # of pgbench
CONNECTIONS = number("CONNECTIONS", 2, 2)  # of the relay to the database
POSTERS = number("POSTERS", 8, 8)  # connections to the relay
READ_ENTRIES = number("READ_ENTRIES", 200_000, 200_000)  # of the table whose history is read and undone
WHO_ROUNDS = number("WHO_ROUNDS", 31, 3)
WHO_WAITS = number("WHO_WAITS", 0, 0)  # 1: its commits wait for the disk
WHO_ROWS = number("WHO_ROWS", 200_000, 20_000)  # of one statement
WHO_SECONDS = number("WHO_SECONDS", 2, 1)  # of each pgbench of a round
MONTH_ENTRIES = number("MONTH_ENTRIES", 1_000_000, 50_000)  # of the month that is removed
YEAR_ENTRIES = number("YEAR_ENTRIES", 1_000_000, 100_000)  # over twelve months
MONTH_QUESTIONS = number("MONTH_QUESTIONS", 100, 20)  # each asked with so many keys, before and after months are moved
