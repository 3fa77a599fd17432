"""audit-keeper, against who can write to its folder, and against another keeper."""

import json
import time

import pytest
from conftest import batch, change
from test_archive import as_keeper, done, fill, keeper, opened

pytestmark = pytest.mark.once


def entries(db, count=3, first=0, table="orders", month="2026-03"):
    messages = [change(lsn=first + n, time=f"{month}-{n % 28 + 1:02}T00:00:00Z", pks=(str(n % 5),), table=table, record={"id": n % 5, "name": f"{table}-{n}."})
                for n in range(count)]
    assert db.ingest(batch(messages))[1] == count


def manifest_of(place, month="2026-03"):
    return place / f"month={month}" / "_manifest.json"


def altered(place, **members):
    path = manifest_of(place)
    path.write_text(json.dumps({**json.loads(path.read_text()), **members}))


def test_a_column_of_a_manifest_is_a_name(db, tmp_path):
    entries(db)
    done(keeper(db, "archive", tmp_path))
    columns = json.loads(manifest_of(tmp_path).read_text())["columns"]
    sql = "COMMIT; CREATE TABLE public.planted(); COMMIT; BEGIN; CREATE TEMP TABLE y("
    for name in (f'id" bigint); {sql}"z', f"id' THEN 1 END) {sql}", 'id\\" bigint'):
        altered(tmp_path, columns=[{"name": name, "type": "bigint"}, *columns[1:]])
        entries(db, 1, first=900 + len(name))
        for command in (["restore", tmp_path, "--month", "2026-03"], ["verify", tmp_path], ["archive", tmp_path]):
            keeper(db, *command)
        assert db.value("SELECT to_regclass('public.planted')") is None
    altered(tmp_path, columns=[{"name": "id", "type": f"bigint); {sql}z bigint"}, *columns[1:]])
    assert keeper(db, "restore", tmp_path, "--month", "2026-03").returncode == 1
    assert db.value("SELECT to_regclass('public.planted')") is None


def test_one_keeper_at_a_time(db, tmp_path):
    fill(db, 30)
    holder = db.connect()
    holder.cursor().execute("BEGIN; LOCK TABLE audit_cdc_internal.archives IN ACCESS EXCLUSIVE MODE")
    first = keeper(db, "archive", tmp_path, start=True)
    while not (tmp_path / ".lock").exists():
        assert first.poll() is None
        time.sleep(0.001)
    time.sleep(0.1)
    second = keeper(db, "archive", tmp_path)
    assert second.returncode == 1 and f"another audit-keeper is writing to {tmp_path}" in second.stderr
    holder.cursor().execute("ROLLBACK")
    assert first.wait(60) == 0
    assert done(keeper(db, "verify", tmp_path, **as_keeper(db))).count("well") == 3
    first = keeper(db, "archive", tmp_path, start=True)
    first.kill()
    first.wait()
    done(keeper(db, "archive", tmp_path))  # a lock ends with who has it
    assert opened(tmp_path).execute("SELECT count(*) FROM audit_archive").fetchone() == (30,)
