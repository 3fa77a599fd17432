"""audit_cdc.archive_first: retention leaves what is in no archive, whatever came, was erased or was killed meanwhile."""

import contextlib
import json
import shutil
import signal

import pytest
from capture_helpers import captured, source  # noqa: F401
from conftest import admin, batch, change, server_log, until
from test_archive import MONTHS, as_keeper, done, fill, keeper, opened
from test_divided_months import divided  # noqa: F401
from test_retention import apply, keep, refused, said
from test_retention_daily import apply_at, apply_soon

pytestmark = pytest.mark.once
WAIT = "wait until they are archived"


def archive_first(value):
    admin(f"ALTER SYSTEM SET audit_cdc.archive_first = {value}")
    admin("SELECT pg_reload_conf()")


@contextlib.contextmanager
def set_for(db):
    archive_first("on")
    until(lambda: db.value("SHOW audit_cdc.archive_first") == "on")
    try:
        yield
    finally:
        admin("ALTER SYSTEM RESET ALL")
        admin("SELECT pg_reload_conf()")


@pytest.fixture
def first(db):
    """A database with entries in three months, which may all go once they are archived."""
    fill(db)
    keep(db, "1 day", table_name="orders")
    with set_for(db):
        yield db


def archive(db, place):
    return done(keeper(db, "archive", place, **as_keeper(db)))


def verify(db, place):
    return keeper(db, "verify", place, **as_keeper(db))


def late(db, number=1, table="orders", month="2026-01"):
    assert db.ingest(batch([change(lsn=9000 + number, time=f"{month}-15T12:00:00Z", pks=(str(number),), table=table, record={"id": number})]))[1] == 1


def left(db):
    return dict(db.rows("SELECT to_char(commit_timestamp AT TIME ZONE 'UTC', 'YYYY-MM'), count(*) FROM audit_logs GROUP BY 1"))


def stale(db):
    return [month for (month,) in db.rows("SELECT to_char(month, 'YYYY-MM') FROM audit_archives WHERE is_stale ORDER BY 1")]


def failed(db):
    return [month for (month,) in db.rows("SELECT to_char(month, 'YYYY-MM') FROM audit_archives WHERE failed_at IS NOT NULL ORDER BY 1")]


def waiting(db):
    return dict(db.rows("SELECT to_char(month, 'YYYY-MM'), sum(unarchived)::int FROM audit_expired() WHERE unarchived > 0 GROUP BY 1"))


def noted(db, operation="audit_archived"):
    return db.rows("SELECT arguments ->> 'month', counts, reason FROM audit_operations WHERE operation = %s ORDER BY id", operation)


def test_nothing_goes_before_it_is_archived(first, tmp_path):
    assert waiting(first) == {month: 100 for month in MONTHS}
    assert first.value("SELECT sum(entries) FROM audit_expired()") == 0
    told = said(first, "CALL audit_apply_retention(dry_run => true)")
    assert told.count(f"public.orders: 0 entries would go, 0 are held, 100 {WAIT}") == 3
    told = said(first, "CALL audit_apply_retention()")
    assert [month for month in MONTHS if f"entries of {month} {WAIT}" in told] == MONTHS and "audit-keeper archive" in told
    assert left(first) == {month: 100 for month in MONTHS} and first.rows("SELECT * FROM audit_removed") == []
    late(first)  # what comes to such a month is stored, and not taken for removed
    archive(first, tmp_path)
    assert waiting(first) == {} and first.value("SELECT sum(entries) FROM audit_expired()") == 301
    assert WAIT not in said(first, "CALL audit_apply_retention()")
    assert left(first) == {} and opened(tmp_path).execute("SELECT count(*) FROM audit_archive").fetchone() == (301,)
    assert stale(first) == []


def test_what_is_archived_is_on_record_once(first, tmp_path):
    archive(first, tmp_path)
    columns = "to_char(month, 'YYYY-MM'), place, entries, archived_by, is_stale, failed_at"
    assert first.rows(f"SELECT {columns} FROM audit_archives ORDER BY 1") == [(month, str(tmp_path), 100, "tested_keeper", False, None) for month in MONTHS]
    assert [month for month, _, _ in noted(first)] == [f"{month}-01" for month in MONTHS]
    assert noted(first)[0][1] == {"entries": 100, "log_entries": 100, "removed": 0, "erasures": 0}
    archive(first, f"{tmp_path}/../{tmp_path.name}/")
    assert verify(first, tmp_path).returncode == 0
    assert len(noted(first)) == 3


def test_a_late_message_keeps_its_month(first, tmp_path):
    archive(first, tmp_path)
    late(first)
    assert stale(first) == ["2026-01"] and waiting(first) == {"2026-01": 101}
    told = said(first, "CALL audit_apply_retention()")
    assert f"entries of 2026-01 {WAIT}" in told and told.count(WAIT) == 1
    assert left(first) == {"2026-01": 101}
    archive(first, tmp_path)
    assert apply(first) == 101 and left(first) == {}
    assert opened(tmp_path).execute("SELECT count(*) FROM audit_archive").fetchone() == (301,)


def test_a_message_that_comes_while_the_run_goes_on(first, tmp_path):
    archive(first, tmp_path)
    clear = "SELECT removed, is_done FROM audit_cdc_internal.clear_partition('log_2026_01', 10)"
    assert first.value("SELECT audit_cdc_internal.set_horizons()") is True
    late(first, table="carts")  # so the month does not go as a whole
    assert first.rows(clear) == [(0, True)]
    archive(first, tmp_path)
    assert first.rows(clear) == [(10, False)]
    late(first, number=2, table="carts")
    assert first.rows(clear) == [(0, True)] and WAIT in said(first, clear)
    assert left(first)["2026-01"] == 92
    # of a month that goes as a whole too
    late(first, number=3, table="carts", month="2026-02")
    keep(first, "1 day")
    assert first.value("SELECT audit_cdc_internal.set_horizons()") is True
    assert first.rows("SELECT removed, is_done FROM audit_cdc_internal.clear_partition('log_2026_02', 10000)") == [(0, True)]
    assert left(first)["2026-02"] == 101


def test_a_rule_of_one_table_waits_too(first, tmp_path):
    for number in range(30):
        late(first, number, table="carts", month="2026-02")
    assert apply(first, "batch_size => 7") == 0
    archive(first, tmp_path)
    assert apply(first, "batch_size => 7") == 300 and left(first) == {"2026-02": 30}
    assert stale(first) == []  # retention removes, and nothing else
    late(first, number=40, table="carts", month="2026-02")
    keep(first, "1 day", table_name="carts")
    assert apply(first) == 0 and left(first) == {"2026-02": 31}
    archive(first, tmp_path)
    assert apply(first) == 31 and left(first) == {}
    assert opened(tmp_path).execute("SELECT count(*) FROM audit_archive").fetchone() == (331,)


def test_an_erasure_makes_an_archive_stale(first, tmp_path):
    archive(first, tmp_path)
    first.rows("SELECT audit_erase('asked for', 'orders', '7')")
    assert "2026-01" in stale(first)
    waits, expected = stale(first), 100 * (3 - len(stale(first)))
    assert apply(first) == expected and sorted(left(first)) == waits
    archive(first, tmp_path)
    assert stale(first) == [] and [counts["erasures"] for _, counts, _ in noted(first)] == [0, 0, 0] + [1] * len(waits)
    assert apply(first) == 300 - expected and left(first) == {}


def test_killed_before_it_is_on_record(first, tmp_path):
    holder = first.connect()
    holder.cursor().execute("BEGIN; LOCK TABLE audit_cdc_internal.archives IN EXCLUSIVE MODE")
    process = keeper(first, "archive", tmp_path, start=True)
    waits = "SELECT pid FROM pg_stat_activity WHERE application_name = 'audit-keeper' AND datname = current_database() AND wait_event_type = 'Lock'"
    (pid,) = until(lambda: first.rows(waits))[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    first.rows("SELECT pg_terminate_backend(%s, 10000)", pid)
    holder.cursor().execute("ROLLBACK")
    assert (tmp_path / "month=2025-11" / "_manifest.json").exists() and first.rows("SELECT * FROM audit_archives") == []
    assert apply(first) == 0
    assert "2025-11: archived already" in archive(first, tmp_path)
    assert apply(first) == 300


def test_a_month_that_verify_finds_damaged_is_not_archived(first, tmp_path):
    archive(first, tmp_path)
    file = tmp_path / "month=2026-01" / "log.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    shutil.rmtree(tmp_path / "month=2026-02")
    assert verify(first, tmp_path).returncode == 1
    assert failed(first) == ["2026-01", "2026-02"] and sorted(waiting(first)) == ["2026-01", "2026-02"]
    assert [(month, "bytes instead" in reason) for month, _, reason in noted(first, "audit_archive_failed")] == [("2026-02-01", False), ("2026-01-01", True)]
    assert apply(first) == 100
    archive(first, tmp_path)
    assert failed(first) == [] and verify(first, tmp_path).returncode == 0
    assert apply(first) == 200 and left(first) == {}


def test_damaged_and_partly_removed_it_needs_its_copy(first, tmp_path):
    late(first, table="carts", month="2026-02")
    archive(first, tmp_path)
    assert apply(first) == 300
    file = tmp_path / "month=2026-02" / "log.parquet"
    content = file.read_bytes()
    file.write_bytes(b"")
    assert verify(first, tmp_path).returncode == 1 and failed(first) == ["2026-02"]
    told = keeper(first, "archive", tmp_path, **as_keeper(first))
    assert told.returncode == 1 and "from a copy" in told.stderr and failed(first) == ["2026-02"]
    file.write_bytes(content)
    assert "verify has failed" in archive(first, tmp_path) and failed(first) == ["2026-02"]
    assert verify(first, tmp_path).returncode == 0 and failed(first) == []
    shutil.rmtree(tmp_path / "month=2025-11")  # on purpose: that is told once
    assert verify(first, tmp_path).returncode == 1 and verify(first, tmp_path).returncode == 0 and failed(first) == ["2025-11"]


def test_a_log_that_differs_does_not_replace_a_file(first, tmp_path):
    archive(first, tmp_path)
    file = tmp_path / "month=2026-02" / "log.parquet"
    content = file.read_bytes()
    first.run("SELECT audit_describe_tables('d1', %s)", json.dumps({"described_at": "2026-01-01 00:00+00", "tables": [{
        "table_schema": "public", "table_name": "orders", "replica_identity": "full", "key_columns": ["id"], "identity_columns": ["id"],
        "column_types": {"id": "integer", "name": "text"}, "never_sent": [], "null_in_reads": []}]}))
    assert (verify(first, tmp_path).returncode, failed(first), stale(first)) == (1, MONTHS[1:], [])  # it is of 2026
    assert "--compare" in archive(first, tmp_path) and file.read_bytes() == content
    assert apply(first) == 100
    done(keeper(first, "archive", tmp_path, "--compare", **as_keeper(first)))
    assert failed(first) == [] and apply(first) == 200


def test_days_wait_for_their_month(divided, tmp_path):  # noqa: F811
    keep(divided, "1 day")
    archive(divided, tmp_path)
    late(divided, month="2012-01")
    with set_for(divided):
        assert f"entries of 2012-01 {WAIT}" in said(divided, "CALL audit_apply_retention()")
        assert left(divided) == {"2012-01": 101}
        archive(divided, tmp_path)
        assert apply(divided) == 101 and stale(divided) == []
    assert divided.value("SELECT count(*) FROM pg_class WHERE relname ~ '^log_2012_01_..$'") == 0


def test_one_of_two_places_is_enough(first, tmp_path):
    for place in ("here", "there"):
        archive(first, tmp_path / place)
    assert first.value("SELECT count(*) FROM audit_archives") == 6
    (tmp_path / "here" / "month=2026-01" / "log.parquet").unlink()
    assert verify(first, tmp_path / "here").returncode == 1 and failed(first) == ["2026-01"]
    assert apply(first) == 300


def test_each_night(captured, tmp_path):  # noqa: F811
    archive_first("on")
    fill(captured)
    keep(captured, "1 day", table_name="orders")
    begin = server_log().stat().st_size
    apply_soon(captured)
    assert captured.rows("SELECT DISTINCT counts FROM audit_operations WHERE operation = 'audit_apply_retention'") == [({"tables": 0, "unarchived": 300},)]
    told = server_log().read_bytes()[begin:].decode(errors="replace")
    assert [month for month in MONTHS if f"entries of {month} {WAIT}" in told] == MONTHS
    gone = "SELECT count(*) = 0 FROM audit_logs WHERE table_name = 'orders'"
    assert captured.value(gone) is False
    archive(captured, tmp_path)
    for seconds in (2, 5, 10, 20):
        apply_at(captured, seconds)
        with contextlib.suppress(AssertionError):
            until(lambda: captured.value(gone), seconds + 5)
            break
    assert captured.value(gone) is True


def test_no_session_turns_it_off(first):
    assert refused(first, "SET audit_cdc.archive_first = off") == "55P02"
    assert refused(first, f"ALTER DATABASE {first.name} SET audit_cdc.archive_first = off") == "55P02"


def test_what_cannot_be_is_not_on_record(db):
    digest = "0" * 64

    def call(month="'2026-01-01'", place="'/a'", entries="1", digest=f"'{digest}'", seen="1, 0, 0"):
        return f"SELECT audit_archived({month}, {place}, {entries}, {digest}, {seen})"
    for arguments in ({"month": "NULL"}, {"place": "NULL"}, {"entries": "NULL"}, {"digest": "NULL"}, {"seen": "1, NULL, 0"}):
        assert refused(db, call(**arguments)) == "22004", arguments
    months = ["'2026-01-02'", "'infinity'", "'-infinity'", "date_trunc('month', now() AT TIME ZONE 'UTC')::date"]
    wrong = [{"month": month} for month in months] + [
        {"place": "' '"}, {"place": "repeat('x', 501)"}, {"entries": "-1"}, {"seen": "2, 0, 0"}, {"seen": "1, -1, 0"}, {"digest": "'abc'"}]
    for arguments in wrong:
        assert refused(db, call(**arguments)) == "22023", arguments
    assert refused(db, "SELECT audit_archive_failed('2026-01-02', '/a')") == "22023"
    assert db.value("SELECT audit_archive_failed('2026-01-01', '/a')") is False
    assert db.value(call()) is True and db.value(call()) is False
    assert db.value("SELECT audit_archive_failed('2026-01-01', '/a', 'burnt')") is True
    assert db.value("SELECT audit_archive_failed('2026-01-01', '/a')") is False
    assert db.value(call()) is True and [reason for _, _, reason in noted(db, "audit_archive_failed")] == ["burnt"]
    for role in ("audit_cdc_reader", "audit_cdc_admin"):
        assert refused(db, call(), role) == "42501"
        assert db.value("SELECT has_table_privilege(%s, 'audit_archives', 'SELECT')", role)
