"""What people ask is answered by an index, also with a year of months: the shape of plans, not their time."""

import re

import pytest
from capture_helpers import capture, paused, source  # noqa: F401 (fixtures)
from conftest import batch, change
from projection_helpers import run
from test_as_of import describe

MONTHS = 12
NEWEST = "SELECT id FROM audit_logs ORDER BY commit_timestamp DESC, commit_lsn DESC, commit_idx DESC LIMIT 50"


@pytest.fixture
def year(db):
    """Each month 200 changes of 200 records, each signed and of a request of its own."""
    describe(db, "full")
    for month in range(MONTHS):
        lsn = 10 ** 6 * (month + 1)
        db.ingest(batch([change(0, lsn=lsn + n, action="update" if month else "insert", time=f"2026-{month + 1:02}-10T09:{n // 60:02}:{n % 60:02}Z", pks=[str(n)],
                                record={"id": n, "v": month}, changes={"v": month - 1} if month else None,
                                annotations={"username": f"u{n % 50}", "request_id": f"r{month}-{n}"}) for n in range(200)]))
    db.run("ANALYZE audit_cdc_internal.log")
    return db


def plans(db, sql):
    """Of all that it runs, and how many rows came."""
    session = db.connect()
    run(session, "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; SET auto_explain.log_level = notice; "
                 "SET auto_explain.log_analyze = on; SET enable_seqscan = off")
    session.notices = []
    count = len(run(session, sql))
    return "".join(session.notices), count


def used(plan):
    return {kind for kind, rest in re.findall(r"(?:using|on) log_\d+_\d+_(\w+)([^\n]*)", plan) if "never executed" not in rest}


def read_whole(plan):
    return [scan for scan in re.findall(r"Seq Scan on log_\w+.*", plan) if "never executed" not in scan]


@pytest.mark.parametrize("question, index, expected", [
    ("'orders', '17'", "record", MONTHS),
    ("username => 'u3', newest_first => true, max_rows => 5", "username", 5),
    ("request_id => 'r7-30'", "request", 1),
    ("commit_lsn => 8000030", "id", 1),
    ("since => '2026-12-10 09:03Z'", "once", 20),
    ("table_name => 'orders', since => '2026-12-10 09:03Z', newest_first => true, max_rows => 10", "once", 10),
    ("username => 'u3', since => '2026-11-01'", "username", 8),
])
def test_history(year, question, index, expected):
    plan, count = plans(year, f"SELECT * FROM audit_history({question})")
    assert count == expected
    assert index in used(plan) and read_whole(plan) == []


def rows_read(plan):
    """Rows of the log that were looked at, taken or not."""
    scans = re.findall(r"Scan[^\n]* on log_\d[^\n]*actual time=\S+ rows=([\d.]+) loops=(\d+)\)((?:\n(?! *->)[^\n]*)*)", plan)
    return sum((float(rows) + sum(map(int, re.findall(r"Rows Removed by [^:]*: (\d+)", rest)))) * int(loops) for rows, loops, rest in scans)


def test_a_record_as_of_a_busy_second(paused):  # noqa: F811
    """Its next change came within a second: what else did is not read."""
    paused.run("CREATE TABLE u (id int PRIMARY KEY, v int); ALTER TABLE u REPLICA IDENTITY FULL")
    session = paused.connect(options="-c synchronous_commit=off")
    run(session, """DO $$ BEGIN FOR n IN 1..5000 LOOP INSERT INTO u VALUES (n, 0); COMMIT; END LOOP;
                             FOR n IN 1..5000 LOOP UPDATE u SET v = 1 WHERE id = n; COMMIT; END LOOP; END $$""")
    capture(paused)
    paused.run("VACUUM ANALYZE audit_cdc_internal.log")
    moment = paused.value("SELECT commit_timestamp::text FROM audit_logs WHERE table_name = 'u' AND record_id = '1' AND action = 'update'")
    plan, count = plans(paused, f"SELECT * FROM audit_as_of('u', '{moment}', key => '500')")
    assert count == 1 and 0 < rows_read(plan) < 2_000
    assert "reading_as_of" not in plan, "its own entries tell it"


def test_a_page_reads_no_other(year):
    """The next page begins at its cursor, and older months are not looked at."""
    cursor = year.value("SELECT min(cursor) FROM (SELECT cursor FROM audit_history(username => 'u3', newest_first => true, max_rows => 4)) AS page")
    plan, count = plans(year, f"SELECT * FROM audit_history(username => 'u3', after => '{cursor}', newest_first => true, max_rows => 4)")
    assert count == 4
    assert "username" in used(plan)
    assert not re.findall(r"using log_2026_0[1-9]_username(?![^\n]*never executed)", plan)


def test_the_newest_of_the_log(year):
    plan, count = plans(year, NEWEST)
    assert count == 50 and used(plan) >= {"once"} and read_whole(plan) == []
    assert "Incremental Sort" in plan and re.search(r"using log_2026_01_once[^\n]*never executed", plan)


@pytest.mark.parametrize("call", ["audit_changes_by_user(since => '2026-12-10 09:03Z')", "audit_changes_by_table(since => '2026-12-10 09:03Z', until => '2027-01-01')"])
def test_counts_of_a_time_range(year, call):
    plan, count = plans(year, f"SELECT * FROM {call}")
    assert count > 0 and "log_2026_12_once" in plan and "log_2026_11" not in plan


def test_counts(year):
    assert year.rows("SELECT inserts, updates, deletes, transactions, first, last FROM audit_changes_by_user(since => '2026-12-01') WHERE who = 'u3'") == \
        year.rows("SELECT 0::bigint, count(*), 0::bigint, count(*), min(commit_timestamp), max(commit_timestamp) FROM audit_logs WHERE username = 'u3' AND commit_timestamp >= '2026-12-01'")
    assert year.rows("SELECT who, table_schema, table_name, inserts, updates, deletes, transactions, first, last FROM audit_changes_by_user") == year.rows("SELECT * FROM audit_changes_by_user()")
    assert year.rows("SELECT reads, records, users FROM audit_changes_by_table(until => '2026-02-01')") == [(0, 200, 50)]
