"""audit-keeper, against who can write to its folder, and against another keeper."""

import hashlib
import json
import shutil
import time

import pytest
from conftest import batch, change
from test_archive import MONTHS, as_keeper, done, fill, keeper, opened
from test_archive_again import in_archive, removed

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


def rewritten(db, place):
    """A month of which retention has removed a part is written anew. Its folder before that, and after it."""
    entries(db, 20)
    entries(db, 20, first=1000, table="sessions")
    done(keeper(db, "archive", place))
    removed(db, "sessions")
    entries(db, 5, first=500)
    before = {file.name: file.read_bytes() for file in manifest_of(place).parent.iterdir()}
    done(keeper(db, "archive", place))
    return before, {file.name: file.read_bytes() for file in manifest_of(place).parent.iterdir()}


def is_whole(db, place, count):
    done(keeper(db, "archive", place))
    assert in_archive(place) == [(count,)] and f"well, {count} entries" in done(keeper(db, "verify", place))
    assert sorted(file.name for file in manifest_of(place).parent.iterdir()) == ["_manifest.json", "log.parquet"]


def test_killed_between_file_and_manifest(db, tmp_path):
    """At each step the folder is as a run that is killed there leaves it."""
    before, after = rewritten(db, tmp_path)
    folder = manifest_of(tmp_path).parent
    following = {"_manifest.next.json": after["_manifest.json"]}
    for left in ({**before, **following}, {**after, **following, "_manifest.json": before["_manifest.json"]}, {**after, **following}):
        shutil.rmtree(folder)
        folder.mkdir()
        for name, content in left.items():
            (folder / name).write_bytes(content)
        count = 40 if left["log.parquet"] == before["log.parquet"] else 45
        assert in_archive(tmp_path) == [(count,)]
        assert ("well, 45 entries" in keeper(db, "verify", tmp_path).stdout) == (count == 45)
        is_whole(db, tmp_path, 45)


def test_killed_while_a_month_is_merged(db, tmp_path):
    rewritten(db, tmp_path)
    file, count = manifest_of(tmp_path).with_name("log.parquet"), 45
    for attempt in range(10):
        entries(db, 1, first=2000 + attempt)
        number, count = file.stat().st_ino, count + 1
        process = keeper(db, "archive", tmp_path, start=True)
        while process.poll() is None and file.stat().st_ino == number:
            pass
        process.kill()
        process.wait()
    is_whole(db, tmp_path, count)


def test_a_file_without_a_manifest_is_not_overwritten(db, tmp_path):
    before, after = rewritten(db, tmp_path)
    manifest_of(tmp_path).unlink()
    told = keeper(db, "archive", tmp_path, **as_keeper(db))
    assert told.returncode == 1 and "2026-03" in told.stderr and "not overwritten" in told.stderr
    assert manifest_of(tmp_path).with_name("log.parquet").read_bytes() == after["log.parquet"]
    manifest_of(tmp_path).write_bytes(after["_manifest.json"])
    is_whole(db, tmp_path, 45)


def test_what_the_log_has_lost_stays_although_as_much_has_come(db, tmp_path):
    entries(db, 10)
    done(keeper(db, "archive", tmp_path))
    content = manifest_of(tmp_path).with_name("log.parquet").read_bytes()
    db.run("BEGIN; SELECT audit_allow_removal(); DROP TABLE audit_cdc_internal.log_2026_03; COMMIT")
    entries(db, 12, first=700)
    for arguments in ([], ["--compare"]):
        told = keeper(db, "archive", tmp_path, *arguments)
        assert told.returncode == 1 and "2026-03: the log has lost 10 entries" in told.stderr
        assert manifest_of(tmp_path).with_name("log.parquet").read_bytes() == content


def test_a_file_that_is_missing_or_short_is_not_archived(db, tmp_path):
    fill(db, 30)
    done(keeper(db, "archive", tmp_path))
    one, other, third = (tmp_path / f"month={month}" / "log.parquet" for month in MONTHS)
    content = third.read_bytes()
    one.unlink()
    other.write_bytes(other.read_bytes()[:-1])
    told = done(keeper(db, "archive", tmp_path))
    assert [line.partition(": ")[0] for line in told.splitlines() if "already" in line] == ["2026-02"]
    assert in_archive(tmp_path) == [(30,)] and done(keeper(db, "verify", tmp_path)).count("well") == 3
    assert third.read_bytes() == content
    entries(db, 1, table="carts", month="2026-02")
    done(keeper(db, "archive", tmp_path))
    removed(db, "orders")
    third.unlink()
    told = keeper(db, "archive", tmp_path)
    assert told.returncode == 1 and "2026-02: files are damaged" in told.stderr and not third.exists()


def test_another_server_is_accepted_once(db, tmp_path):
    fill(db, 30)
    done(keeper(db, "archive", tmp_path))
    for month in MONTHS:
        path = manifest_of(tmp_path, month)
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "server": {**manifest["server"], "system_identifier": "1"}}))
    told = keeper(db, "archive", tmp_path)
    assert told.returncode == 1 and "--accept-server" in told.stderr
    done(keeper(db, "archive", tmp_path, "--accept-server"))
    done(keeper(db, "archive", tmp_path))
    assert done(keeper(db, "verify", tmp_path)).count("well") == 3


def test_an_erasure_does_not_reach_a_month_that_is_gone(db, tmp_path):
    entries(db, 10, table="sessions", month="2026-01")
    for month in ("2025-12", "2026-02"):
        entries(db, 10, first=100 if month < "2026" else 200, month=month)
    done(keeper(db, "archive", tmp_path))
    removed(db, "sessions")
    db.rows("SELECT audit_erase('asked for', 'orders', '3')")
    told = keeper(db, "verify", tmp_path).stdout
    assert "2026-01: well" in told and told.count("entries were erased since") == 2
    done(keeper(db, "archive", tmp_path))
    assert done(keeper(db, "verify", tmp_path)).count("well") == 3


def test_a_manifest_that_cannot_be_read_is_named(db, tmp_path):
    fill(db, 30)
    done(keeper(db, "archive", tmp_path))
    for content in ("{", "{}", manifest_of(tmp_path, MONTHS[1]).read_text()):
        manifest_of(tmp_path, MONTHS[0]).write_text(content)
        entries(db, 1, first=900 + len(content), month=MONTHS[2])
        for command in ("verify", "archive", "verify"):
            told = keeper(db, command, tmp_path)
            assert told.returncode == 1 and "2025-11: _manifest.json" in told.stdout + told.stderr
        assert told.stdout.count("well") == 2 and in_archive(tmp_path)[0][0] > 30
    (tmp_path / "month=2999-01").mkdir()
    manifest_of(tmp_path, "2999-01").write_text("{")
    told = keeper(db, "verify", tmp_path)
    assert told.returncode == 1 and "2999-01" in told.stdout and told.stdout.count("well") == 2


def test_a_file_that_was_replaced_together_with_its_sum_is_noticed(db, tmp_path):
    entries(db)
    done(keeper(db, "archive", tmp_path))
    file = manifest_of(tmp_path).with_name("log.parquet")
    there = opened(tmp_path)
    there.execute(f"COPY (SELECT * REPLACE (replace(new_values, 'orders', 'forged') AS new_values) FROM read_parquet('{file}', hive_partitioning = false)) TO '{tmp_path}/forged' (FORMAT parquet, COMPRESSION zstd)")
    (tmp_path / "forged").rename(file)
    content = file.read_bytes()
    altered(tmp_path, files=[{"name": file.name, "bytes": len(content), "entries": 3, "sha256": hashlib.sha256(content).hexdigest()}])
    told = keeper(db, "verify", tmp_path)
    assert told.returncode == 1 and "2026-03: " in told.stdout and "well" not in told.stdout and "altered" not in told.stdout
