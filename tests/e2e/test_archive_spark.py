"""An archive of audit-keeper is read with Spark by the SQL that comes with it, and gives what the database gives."""

import json

import pytest
from conftest import TOP, batch, change
from pyspark.sql import SparkSession
from test_archive import done, fill, keeper

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def spark():
    settings = {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2", "spark.driver.host": "127.0.0.1", "spark.sql.session.timeZone": "UTC",
                "spark.sql.catalogImplementation": "in-memory"}
    session = SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture
def queries(db, spark, tmp_path):
    """By what they answer, of the archive of a log."""
    def of_archive():
        done(keeper(db, "archive", tmp_path))
        script = (TOP / "crates" / "keeper" / "sql" / "spark.sql").read_text().replace("/srv/archive", str(tmp_path))
        view, record, user, as_of = [part for part in script.split(";") if part.strip()]
        spark.sql(view)

        def ask(query, **values):
            return [tuple(row) for row in spark.sql(query, args=values).collect()]
        return {"record": lambda **values: ask(record, **values), "user": lambda **values: ask(user, **values), "as of": lambda **values: ask(as_of, **values)}
    return of_archive


def test_spark_answers_as_the_database(db, queries):
    fill(db)
    ask = queries()
    for moment in ("2025-11-14 00:00:00+00", "2026-01-20 12:00:00+00", "2026-02-28 23:59:00+00"):
        expected = sorted((row for (row,) in db.rows("SELECT audit_as_of('orders', %s)", moment)), key=lambda row: row["id"])
        found = [json.loads(row) for _, row in ask["as of"](of_database="d1", of_table="orders", moment=moment)]
        assert sorted(found, key=lambda row: row["id"]) == expected and expected
    record = [(action, name, new and json.loads(new)) for _, action, name, _, _, _, new in ask["record"](of_database="d1", of_table="orders", of_key="7")]
    assert record == db.rows("SELECT action::text, username, new_values FROM audit_logs WHERE record_key = '7' ORDER BY commit_timestamp") and record
    user = [(key, request) for _, _, key, _, request, _, _ in ask["user"](who="ada")]
    assert user == db.rows("SELECT record_key, request_id FROM audit_logs WHERE username = 'ada' ORDER BY commit_timestamp DESC") and user


def test_tables_of_one_name_are_told_apart(db, queries):
    at = [f"2026-01-0{day}T00:00:00.000000Z" for day in range(1, 4)]
    assert db.ingest(batch([
        change(lsn=1, time=at[0], record={"id": 1}),
        change(lsn=2, time=at[1], record={"id": 1, "of": "d2"}, database="d2"),
        change(lsn=3, time=at[2], record={"id": 1}, action="delete")]))[1] == 3
    ask = queries()
    end = "2026-01-31 00:00:00+00"
    assert ask["as of"](of_database="d1", of_table="orders", moment=end) == []
    assert ask["as of"](of_database="d1", of_table="orders", moment="2026-01-02 00:00:00+00") == [("1", '{"id": 1}')]
    assert ask["as of"](of_database="d2", of_table="orders", moment=end) == [("1", '{"id": 1, "of": "d2"}')]
    assert [action for _, action, *_ in ask["record"](of_database="d1", of_table="orders", of_key="1")] == ["insert", "delete"]
