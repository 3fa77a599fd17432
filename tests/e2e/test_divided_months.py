"""A month that follows a large one is divided into days: smaller partitions, the same log."""

from datetime import datetime, timezone

import pytest
from conftest import batch, change, in_threads
from test_retention import apply, keep, removed

LARGE = 2_000  # so many entries make more than a megabyte
MONTHS = "SELECT array_agg(c.relname::text ORDER BY c.relname) FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit_cdc_internal.log'::regclass AND c.relname ~ '^log_20(11|12)'"


def entries(month, count, first=0, days=28):
    """They lie in all days of the month."""
    return [change(n, lsn=first + n + 1, time=f"{month}-{n % days + 1:02}T{n // days % 24:02}:30:00Z", pks=[str(n % 50)], record={"id": n % 50, "n": n, "text": "x" * 600}) for n in range(count)]


@pytest.fixture
def divided(db):
    """Its month 2011-12 is large, and 2012-01 divided."""
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.large_month = '1MB'")
    for first in range(0, LARGE, 500):
        assert db.ingest(batch(entries("2011-12", LARGE)[first:first + 500]), connection)[1] == 500
    assert db.ingest(batch(entries("2012-01", 100, LARGE)), connection) == (100, 100, 0, 0)
    return db


def days(month, count):
    return [f"log_{month}_{day:02}" for day in range(1, count + 1)]


def test_each_day_has_a_partition(divided):
    assert divided.value(MONTHS) == ["log_2011_12", *days("2012_01", 31)]
    # each entry in its own
    assert divided.rows("SELECT count(*) FROM audit_cdc_internal.log WHERE tableoid::regclass::text <> 'audit_cdc_internal.log_' || to_char(commit_timestamp AT TIME ZONE 'UTC', 'YYYY_MM_DD') AND commit_timestamp >= '2012-01-01Z'") == [(0,)]
    # who asks for one more month does not decide it: the size of those before does
    assert divided.ingest(batch([change(lsn=1, time="2012-03-05T00:00:00Z")])) == (1, 1, 0, 0)
    assert divided.value(MONTHS)[-1] == "log_2012_03"


def test_nothing_is_stored_twice(divided):
    connection = divided.connect()
    connection.cursor().execute("SET audit_cdc.large_month = 0")  # what is divided stays so
    body = batch(entries("2012-01", 200, LARGE))
    assert divided.ingest(body, connection) == (200, 100, 100, 0)
    assert divided.ingest(body, connection) == (200, 0, 200, 0)
    assert divided.value("SELECT count(*) FROM audit_logs WHERE commit_timestamp >= '2012-01-01Z'") == 200


def test_it_is_read_as_one(divided):
    assert divided.value("SELECT count(*) FROM audit_history('orders', '7') WHERE commit_timestamp >= '2012-01-01Z'") == 2
    assert divided.value("SELECT count(*) FROM audit_logs WHERE record_id = '7'") == LARGE / 50 + 2


def test_many_sessions_make_it_once(db):
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.large_month = '1MB'")
    for first in range(0, LARGE, 500):
        db.ingest(batch(entries("2011-12", LARGE)[first:first + 500]), connection)

    def ingest(number):
        one = db.connect()
        one.cursor().execute("SET audit_cdc.large_month = '1MB'")
        assert db.ingest(batch(entries("2012-01", 60, LARGE + 60 * number)), one)[1] == 60
    in_threads([lambda number=number: ingest(number) for number in range(4)])
    assert db.value(MONTHS) == ["log_2011_12", *days("2012_01", 31)]
    assert db.value("SELECT count(*) FROM audit_logs WHERE commit_timestamp >= '2012-01-01Z'") == 240


def test_retention_drops_days(divided):
    keep(divided, datetime.now(timezone.utc) - datetime(2012, 1, 11, 2, tzinfo=timezone.utc))
    gone = apply(divided)
    assert divided.value(MONTHS) == days("2012_01", 31)[10:]  # the rest of the eleventh day is younger
    assert removed(divided) == (gone, 0) and gone >= LARGE + sum(n % 28 < 10 for n in range(100))
    assert removed(divided, "count(DISTINCT month)") == (2,)
    # what comes again of a day that is gone counts, and is not stored
    assert divided.ingest(batch(entries("2012-01", 100, LARGE))) == (100, 0, 100, 0)
    assert divided.value(MONTHS) == days("2012_01", 31)[10:]
    # another table has no horizon: its day comes back, and only that
    assert divided.ingest(batch([change(lsn=9, time="2012-01-03T00:00:00Z", table="carts")])) == (1, 1, 0, 0)
    assert divided.value(MONTHS) == ["log_2012_01_03", *days("2012_01", 31)[10:]]


def test_the_months_to_come_are_divided_too(db):
    """The month before the present one was large: the present one is made of days, the next after it."""
    now = db.value("SELECT to_char(now() AT TIME ZONE 'UTC' - interval '1 month', 'YYYY-MM')")
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.large_month = '1MB'")
    for first in range(0, LARGE, 500):
        db.ingest(batch(entries(now, LARGE)[first:first + 500]), connection)
    present = db.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
    assert db.ingest(batch([change(lsn=1, time=present)]), connection) == (1, 1, 0, 0)
    parts = db.value("SELECT count(*) FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit_cdc_internal.log'::regclass AND left(c.relname, 12) = to_char(now() AT TIME ZONE 'UTC', '\"log_\"YYYY_MM\"_\"')")
    assert parts == db.value("SELECT extract(day FROM date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month - 1 day')::int")


def test_months_count_as_months(divided):
    connection = divided.connect()
    connection.cursor().execute("SET audit_cdc.max_months = 5")
    assert divided.ingest(batch([change(lsn=1, time=f"2013-0{month}-01T00:00:00Z") for month in (1, 2, 3, 4, 5, 6)]), connection) == (6, 3, 0, 3)
