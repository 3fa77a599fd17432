"""audit-keeper: closed months as Parquet files. What it writes is what the log has, also after an erasure and a kill -9."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import boto3
import duckdb
import pytest
from conftest import TOP, batch, change, until
from relay_helpers import free_port

pytestmark = pytest.mark.once
PROGRAM = TOP / "target" / "debug" / "audit-keeper"
MONTHS = ["2025-11", "2026-01", "2026-02"]


def keeper(db, command, place, *arguments, start=False, **environment):
    address = f"postgres:///{db.name}?host={os.environ['PGHOST']}&port={os.environ['PGPORT']}"
    line = [PROGRAM, command, "--database", address, "--to", str(place), *arguments]
    if start:
        return subprocess.Popen(line, stderr=subprocess.PIPE)
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


def as_keeper(db):
    """No more rights than docs/archive.md asks for."""
    db.run("DO $$ BEGIN CREATE ROLE tested_keeper LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT audit_cdc_keeper TO tested_keeper")
    return {"PGUSER": "tested_keeper"}


def done(run):
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def fill(db, count=300):
    """Lives of records over three months: each entry tells its whole row."""
    chance, rows, messages = random.Random(3), {}, []
    for n in range(count):
        month, place = divmod(n * len(MONTHS), count)
        time = f"{MONTHS[month]}-{place * 28 // count + 1:02}T{n * 24 // count:02}:00:00.{n:06}Z"
        key = str(chance.randrange(20))
        who = {"username": chance.choice(["ada", "bob"]), "request_id": f"r{n}"}
        before, row = rows.get(key), {"id": int(key), "name": f"planted{n}", "price": chance.choice([1.5, None, 10 ** 20])}
        if before is None:
            messages.append(change(lsn=1000 + n, time=time, pks=(key,), record=row, annotations=who))
        elif chance.random() < 0.3:
            row = None
            messages.append(change(lsn=1000 + n, time=time, pks=(key,), record=before, action="delete", annotations=who))
        else:
            messages.append(change(lsn=1000 + n, time=time, pks=(key,), record=row, changes=before, action="update", annotations=who))
        rows[key] = row
    assert db.ingest(batch(messages))[1] == count


def everything(folder):
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def opened(folder):
    connection = duckdb.connect()
    connection.execute(f"SET VARIABLE archive = '{folder}'")
    connection.execute((TOP / "crates" / "keeper" / "sql" / "duckdb.sql").read_text())
    return connection


def test_what_is_archived_is_the_log(db, tmp_path):
    fill(db)
    told = done(keeper(db, "archive", tmp_path, **as_keeper(db)))
    assert [line.split(":")[0] for line in told.splitlines()] == MONTHS
    assert "archived already" in done(keeper(db, "archive", tmp_path))
    assert done(keeper(db, "verify", tmp_path, **as_keeper(db))).count("well") == 3
    there = opened(tmp_path)
    assert there.execute("SELECT count(*) FROM audit_archive").fetchone() == (300,)
    columns = "id, table_name, record_key, action, commit_lsn, username, request_id, idempotency_key"
    assert there.execute(f"SELECT {columns} FROM audit_archive ORDER BY id").fetchall() == db.rows(f"SELECT {columns.replace('action', 'action::text')} FROM audit_logs ORDER BY id")
    images = "old_values, new_values, annotations"
    told = [tuple(value and json.loads(value) for value in row) for row in there.execute(f"SELECT {images} FROM audit_archive ORDER BY id").fetchall()]
    assert told == [tuple(row) for row in db.rows(f"SELECT {images} FROM audit_logs ORDER BY id")]


def test_duckdb_answers_as_the_database(db, tmp_path):
    fill(db)
    done(keeper(db, "archive", tmp_path))
    there = opened(tmp_path)
    for moment in ("2025-11-14 00:00+00", "2026-01-20 12:00+00", "2026-02-28 23:59+00"):
        expected = sorted((row for (row,) in db.rows("SELECT audit_as_of('orders', %s)", moment)), key=lambda row: row["id"])
        found = [json.loads(row) for (row,) in there.execute("SELECT new_values FROM table_as_of('orders', ?::timestamptz)", [moment]).fetchall()]
        assert sorted(found, key=lambda row: row["id"]) == expected and expected
    lines = [(action, new and json.loads(new)) for action, new in there.execute("SELECT action, new_values FROM record_history('orders', '7')").fetchall()]
    assert lines == db.rows("SELECT action::text, new_values FROM audit_logs WHERE record_key = '7' ORDER BY commit_timestamp")
    assert there.execute("SELECT count(*) FROM user_changes('ada')").fetchone() == (db.value("SELECT count(*) FROM audit_logs WHERE username = 'ada'"),)


def test_a_key_that_changes_is_followed_by_duckdb(db, tmp_path):
    one, other = {"id": 1, "name": "one"}, {"id": 2, "name": "one"}
    at = [f"2026-01-0{day}T00:00:00Z" for day in range(1, 5)]
    assert db.ingest(batch([
        change(lsn=1, time=at[0], pks=("1",), record=one),
        change(lsn=2, time=at[1], pks=("2",), record=other, changes={"id": 1}, action="update"),
        change(lsn=3, time=at[2], pks=("1",), record=one),
        change(lsn=4, time=at[3], pks=("2",), record=other, action="delete")]))[1] == 4
    done(keeper(db, "archive", tmp_path))
    there = opened(tmp_path)
    for moment, expected in zip(at, [[one], [other], [one, other], [one]], strict=True):
        assert sorted((row for (row,) in db.rows("SELECT audit_as_of('orders', %s)", moment)), key=lambda row: row["id"]) == expected
        found = there.execute("SELECT new_values FROM table_as_of('orders', ?::timestamptz, key_column := 'id')", [moment]).fetchall()
        assert sorted((json.loads(row) for (row,) in found), key=lambda row: row["id"]) == expected


def test_an_erasure_reaches_the_archive(db, tmp_path):
    fill(db)
    done(keeper(db, "archive", tmp_path))
    db.rows("SELECT audit_erase('asked for', 'orders', '7')")
    gone = keeper(db, "verify", tmp_path)
    assert gone.returncode == 1 and "erase" in gone.stdout + gone.stderr
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    done(keeper(db, "archive", tmp_path))
    assert before and done(keeper(db, "verify", tmp_path)).count("well") == 3
    erased = [f"planted{n}" for (n,) in db.rows("SELECT commit_lsn - 1000 FROM audit_logs WHERE erased IS NOT NULL")]
    there = opened(tmp_path)
    texts = {text for row in there.execute("SELECT old_values, new_values FROM audit_archive").fetchall() for text in row if text}
    assert erased and not [name for name in erased if any(f'"{name}"' in text for text in texts)]
    assert there.execute("SELECT count(*) FROM audit_archive WHERE erased IS NOT NULL").fetchone() == (len(erased),)


def test_a_month_that_retention_has_removed_comes_back(db, tmp_path):
    fill(db)
    log = db.rows("SELECT id, old_values, new_values FROM audit_logs WHERE commit_timestamp < '2025-12-01' ORDER BY id")
    done(keeper(db, "archive", tmp_path))
    days = db.value("SELECT (now()::date - '2025-12-15'::date)")
    db.run("SELECT audit_set_retention(%s)", f"{days} days")
    db.rows("CALL audit_apply_retention()")
    assert db.value("SELECT count(*) FROM audit_logs WHERE commit_timestamp < '2025-12-01'") == 0
    done(keeper(db, "archive", tmp_path))  # what is gone from the log stays in the archive
    done(keeper(db, "restore", tmp_path, "--month", "2025-11"))
    assert db.rows("SELECT id, old_values, new_values FROM audit_archive.log_2025_11 ORDER BY id") == log
    assert keeper(db, "restore", tmp_path, "--month", "2025-11").returncode == 1
    assert "no month 2024-01" in keeper(db, "restore", tmp_path, "--month", "2024-01").stderr


def test_killed_it_goes_on(db, tmp_path):
    fill(db)
    for pause in (0.01, 0.02, 0.03, 0.05, 0.08):
        process = keeper(db, "archive", tmp_path, start=True)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for manifest in tmp_path.rglob("_manifest.json"):
            assert all((manifest.parent / file["name"]).exists() for file in json.loads(manifest.read_text())["files"])
    done(keeper(db, "archive", tmp_path))
    assert done(keeper(db, "verify", tmp_path)).count("well") == 3


def test_a_file_that_was_changed_is_noticed(db, tmp_path):
    fill(db)
    done(keeper(db, "archive", tmp_path))
    file = sorted(tmp_path.rglob("*.parquet"))[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = keeper(db, "verify", tmp_path)
    assert found.returncode == 1 and "2026-01" in found.stdout + found.stderr and found.stdout.count("well") == 2


def test_s3(db):
    fill(db)
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        aws = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_ENDPOINT": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true"}
        s3 = boto3.client("s3", endpoint_url=aws["AWS_ENDPOINT"], aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")

        def answers():
            try:
                return bool(s3.create_bucket(Bucket="archive"))
            except Exception:  # until it listens
                return False
        until(answers)
        done(keeper(db, "archive", "s3://archive/audit", **aws))
        assert done(keeper(db, "verify", "s3://archive/audit", **aws)).count("well") == 3
        names = [each["Key"] for each in s3.list_objects_v2(Bucket="archive")["Contents"]]
        assert sorted(name.split("/")[1] for name in names if name.endswith("parquet")) == [f"month={month}" for month in MONTHS]
    finally:
        server.kill()
        server.wait()


def test_duckdb_tells_a_truncate_from_what_follows_it_and_one_source_from_another(db, tmp_path):
    at, later = "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"
    one, two, other = {"id": 1, "name": "gone"}, {"id": 2, "name": "stays"}, {"id": 2, "name": "of another source"}
    assert db.ingest(batch([
        change(lsn=1, time="2026-01-01T00:00:00Z", pks=("1",), record=one),
        change(0, lsn=9, time=at, pks=(), action="truncate"),
        change(1, lsn=9, time=at, pks=("2",), record=two)]))[1] == 3
    elsewhere = change(lsn=20, time=later, pks=("2",), record=other)
    elsewhere["metadata"]["database"] = {"id": "other", "name": "other"}
    assert db.ingest(batch([elsewhere]))[1] == 1
    done(keeper(db, "archive", tmp_path))
    there = opened(tmp_path)
    source = db.value("SELECT database_id FROM audit_logs WHERE database_id <> 'other' LIMIT 1")
    for database, row in ((source, two), ("other", other)):
        found = there.execute("SELECT new_values FROM table_as_of('orders', ?::timestamptz, of_database := ?)", [later, database]).fetchall()
        assert [json.loads(values) for (values,) in found] == [row]
        assert there.execute("SELECT count(*) FROM record_history('orders', '2', of_database := ?)", [database]).fetchone() == (1,)
