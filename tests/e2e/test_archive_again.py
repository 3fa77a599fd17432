"""audit-keeper, called again: what came, was removed, erased or described since, and runs that were killed."""

import json
import signal
import time

import pytest
from conftest import batch, change
from test_archive import as_keeper, done, fill, keeper, opened

pytestmark = pytest.mark.once


def entries(db, table, count, first=0):
    messages = [change(lsn=first + n, time=f"2026-03-{n % 28 + 1:02}T00:00:00Z", pks=(str(n % 5),), table=table, record={"id": n % 5, "name": f"{table}-{n}."})
                for n in range(count)]
    assert db.ingest(batch(messages))[1] == count


def in_archive(folder, sql="SELECT count(*) FROM audit_archive"):
    return opened(folder).execute(sql).fetchall()


def removed(db, table):
    """All of it is gone from the log, by retention."""
    db.run("SELECT audit_set_retention('1 day', table_name => %s)", table)
    db.rows("CALL audit_apply_retention()")
    assert db.value("SELECT count(*) FROM audit_logs WHERE table_name = %s", table) == 0


def test_what_comes_late_is_archived_too(db, tmp_path):
    entries(db, "orders", 10)
    done(keeper(db, "archive", tmp_path))
    entries(db, "orders", 3, first=100)
    told = keeper(db, "verify", tmp_path)
    assert told.returncode == 1
    assert "2026-03: the archive has 10 entries, the log 13" in told.stdout and "2026-03: 3 entries are in the log only" in told.stdout
    done(keeper(db, "archive", tmp_path))
    assert in_archive(tmp_path) == [(13,)] and "well, 13 entries" in done(keeper(db, "verify", tmp_path))


def test_what_retention_has_removed_stays_when_a_month_is_written_anew(db, tmp_path):
    """Also where both a late message and an erasure reach the rest of the month."""
    entries(db, "orders", 20)
    entries(db, "sessions", 20, first=1000)
    rights = as_keeper(db)
    done(keeper(db, "archive", tmp_path, **rights))
    before = in_archive(tmp_path, "SELECT * FROM audit_archive WHERE table_name = 'sessions' ORDER BY id")
    removed(db, "sessions")
    assert "well, 40 entries" in done(keeper(db, "verify", tmp_path, **rights))
    assert "archived already" in done(keeper(db, "archive", tmp_path))
    entries(db, "orders", 5, first=500)
    db.rows("SELECT audit_erase('asked for', 'orders', '3')")
    told = keeper(db, "verify", tmp_path, **rights)
    assert told.returncode == 1 and "entries were erased since" in told.stdout and "5 entries are in the log only" in told.stdout
    done(keeper(db, "archive", tmp_path, **rights))
    assert "well, 45 entries" in done(keeper(db, "verify", tmp_path, **rights))
    assert in_archive(tmp_path, "SELECT * FROM audit_archive WHERE table_name = 'sessions' ORDER BY id") == before
    assert in_archive(tmp_path, "SELECT count(*) FROM audit_archive WHERE erased IS NOT NULL") == [(5,)]
    assert in_archive(tmp_path, "SELECT count(*) FROM audit_archive WHERE concat(old_values, new_values) LIKE '%orders-3.%'") == [(0,)]
    assert in_archive(tmp_path, "SELECT count(*) FROM audit_archive WHERE concat(old_values, new_values) LIKE '%orders-4.%'") == [(2,)]
    removed(db, "orders")
    assert "well, 45 entries, which retention has removed" in done(keeper(db, "verify", tmp_path))
    done(keeper(db, "restore", tmp_path, "--month", "2026-03"))
    assert db.value("SELECT count(*) FROM audit_archive.log_2026_03") == 45


def test_verify_names_what_differs(db, tmp_path):
    """A description that comes later tells more of entries. Nothing counts that, so only who compares sees it."""
    entries(db, "orders", 3)
    done(keeper(db, "archive", tmp_path))
    db.run("SELECT audit_describe_tables('d1', %s)", json.dumps({"described_at": "2026-01-01 00:00+00", "tables": [{
        "table_schema": "public", "table_name": "orders", "replica_identity": "full", "key_columns": ["id"], "identity_columns": ["id"],
        "column_types": {"id": "integer", "name": "text"}, "never_sent": [], "null_in_reads": []}]}))
    told = keeper(db, "verify", tmp_path)
    ids = [one for (one,) in db.rows("SELECT id FROM audit_logs ORDER BY id")]
    lines = [f"2026-03: entry {one} differs in replica_identity, unknown_columns" for one in ids]
    assert told.returncode == 1 and [line for line in told.stdout.splitlines() if "differs" in line] == lines
    done(keeper(db, "archive", tmp_path, "--compare"))
    assert "well, 3 entries" in done(keeper(db, "verify", tmp_path))


def test_what_a_superuser_has_dropped_is_told_and_stays_in_the_archive(db, tmp_path):
    entries(db, "orders", 10)
    done(keeper(db, "archive", tmp_path))
    db.run("BEGIN; SELECT audit_allow_removal(); DROP TABLE audit_cdc_internal.log_2026_03; COMMIT")
    assert "the archive has 10 entries, the log 0" in keeper(db, "verify", tmp_path).stdout
    done(keeper(db, "archive", tmp_path))  # no month, nothing to do
    entries(db, "orders", 2, first=700)
    told = keeper(db, "archive", tmp_path)
    assert told.returncode == 1 and "2026-03: the log has lost 8 entries" in told.stderr
    assert in_archive(tmp_path) == [(10,)]


def test_killed_while_it_writes_a_file(db, tmp_path):
    """What it leaves is no file of the archive, and the next run removes it."""
    fill(db, 3000)
    for _ in range(100):
        process = keeper(db, "archive", tmp_path, start=True)
        while process.poll() is None and not list(tmp_path.rglob("*.parquet#*")):
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if list(tmp_path.rglob("*.parquet#*")):
            break
    left, = tmp_path.rglob("*.parquet#*")
    assert not list(left.parent.glob("_manifest.json"))
    there = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    done(keeper(db, "archive", tmp_path))
    assert not list(tmp_path.rglob("*#*"))
    assert [file for file, time_ in there.items() if file.stat().st_mtime_ns != time_] == []
    assert done(keeper(db, "verify", tmp_path)).count("well") == 3 and in_archive(tmp_path) == [(3000,)]


def test_the_archive_of_another_database_is_refused(db, template, tmp_path):
    from conftest import fresh
    entries(db, "orders", 3)
    done(keeper(db, "archive", tmp_path))
    for other in fresh(template):
        entries(other, "orders", 3)
        told = keeper(other, "archive", tmp_path)
        assert told.returncode == 1 and "archive into another place, or say --accept-server" in told.stderr
        assert "of another server or database" in keeper(other, "verify", tmp_path).stdout
        done(keeper(other, "archive", tmp_path, "--accept-server"))


def test_months_divided_into_days_are_archived(db, tmp_path):
    large = [change(n, lsn=n + 1, time=f"2011-12-{n % 28 + 1:02}T00:30:00Z", pks=[str(n)], record={"id": n, "text": "x" * 600}) for n in range(2000)]
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.large_month = '1MB'")
    assert db.ingest(batch(large), connection)[1] == 2000
    assert db.ingest(batch([change(lsn=9000 + n, time=f"2012-01-{n + 1:02}T00:00:00Z", pks=[str(n)]) for n in range(20)]), connection)[1] == 20
    assert db.value("SELECT to_regclass('audit_cdc_internal.log_2012_01_07') IS NOT NULL")
    done(keeper(db, "archive", tmp_path))
    assert in_archive(tmp_path, "SELECT month, count(*) FROM audit_archive GROUP BY month ORDER BY month") == [("2011-12", 2000), ("2012-01", 20)]
    removed(db, "orders")
    assert done(keeper(db, "verify", tmp_path)).count("well") == 2


def test_until(db, tmp_path):
    fill(db, 30)
    done(keeper(db, "archive", tmp_path, "--until", "2026-01"))
    assert in_archive(tmp_path, "SELECT DISTINCT month FROM audit_archive ORDER BY month") == [("2025-11",), ("2026-01",)]
    assert "2026-02: not archived" in keeper(db, "verify", tmp_path).stdout
    assert "is not over yet" in keeper(db, "archive", tmp_path, "--until", "2999-01").stderr
    assert keeper(db, "archive", tmp_path, "--until", "2026-13").returncode == 2
