"""What was measured, on what: as a table, as CSV and as JSON."""

import csv
import json
import os
import platform
import re
import subprocess

import settings
from harness import execute, shown, value

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(TOP, "target", "bench")
HEAD = ["name", "value", "range", "goal", "met", "how"]
# Not what initdb's template only repeats
CHANGED = """
SELECT name, current_setting(name) FROM pg_settings
WHERE source IN ('configuration file', 'command line', 'environment variable', 'global', 'database', 'user')
  AND setting IS DISTINCT FROM boot_val ORDER BY name"""


def read(path, pattern):
    with open(path) as file:
        return re.search(pattern, file.read())[1]


def surroundings():
    def git(*arguments):
        return subprocess.run(["git", "-c", "safe.directory=*", "-C", TOP, *arguments], capture_output=True, text=True).stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    cpu, kilobytes = read("/proc/cpuinfo", r"model name\s*: (.*)"), read("/proc/meminfo", r"MemTotal:\s+(\d+)")
    version = value("SELECT default_version FROM pg_available_extensions WHERE name = 'audit_cdc'")
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores, {int(kilobytes) / 2**20:.1f} GiB",
        "kernel": platform.release(),
        "postgresql": value("SELECT version()"),
        "audit_cdc": f"{version}, commit {git('rev-parse', '--short', 'HEAD') or 'unknown'}{changed}",
        "server": dict(execute(CHANGED).fetchall()),
        "suite": settings.all,
    }


def cells(row):
    return [row.name, shown(row.value), f"{shown(min(row.numbers))} to {shown(max(row.numbers))}",
            f"{row.goal[0]} {row.goal[1]:,}" if row.goal else "", {True: "yes", False: "no", None: ""}[row.met], row.how]


def table(rows, failures):
    lines = [HEAD, *map(cells, rows), *([name, "failed", "", "", "no", reason] for name, reason in failures.items())]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEAD) - 1)] + [3]
    for line in [lines[0], ["-" * width for width in widths], *lines[1:]]:
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"


def write(about, rows, failures):
    os.makedirs(FOLDER, exist_ok=True)
    with open(os.path.join(FOLDER, "latest.csv"), "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["name", "median", "min", "max", "goal", "met", "how"])
        for row in rows:
            out.writerow([row.name, row.value, min(row.numbers), max(row.numbers), *cells(row)[3:]])
        out.writerows([name, "failed", "", "", "", "no", reason] for name, reason in failures.items())
    with open(os.path.join(FOLDER, "latest.json"), "w") as file:
        measured = [{"name": row.name, "median": row.value, "numbers": row.numbers, "goal": row.goal, "met": row.met, "how": row.how,
                     "measured": row.measured} for row in rows]
        json.dump({**about, "rows": measured, "failures": failures}, file, indent=1, ensure_ascii=False)


def report(rows, failures):
    about = surroundings()
    write(about, rows, failures)
    print()
    for name, what in about.items():
        print(f"{name}: {', '.join(f'{key} = {value}' for key, value in what.items()) if isinstance(what, dict) else what}")
    print()
    print("\n".join(table(rows, failures)))
    print(f"\nAlso in {FOLDER}: latest.csv, and latest.json with every run.")
