"""What `make package` makes, of what was built for the tests: unpacked over a bare PostgreSQL it is all that is needed."""

import json
import re
import subprocess
import zipfile

import psycopg2
import pytest
from chaos import Server
from conftest import TOP

pytestmark = pytest.mark.once
VERSION = re.search(r'^version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.M)[1]


def bash(command):
    return subprocess.run(["bash", "-c", f"source scripts/packages.sh; {command}"], cwd=TOP, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def folder(tmp_path):
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    return tmp_path


def unpacked(package, into):
    subprocess.run(["dpkg-deb", "-x", package, into], check=True)
    return dict(line.split(": ", 1) for line in subprocess.run(["dpkg-deb", "-f", package], check=True, capture_output=True, text=True).stdout.splitlines() if ": " in line)


def test_the_extension(folder):
    if psycopg2.connect("").server_version >= 160000:
        pytest.skip("Debian 12 has PostgreSQL 15")
    bash(f'package_extension 15 "{folder}/packages"')
    package, = (folder / "packages").iterdir()
    control = unpacked(package, folder / "unpacked")
    assert package.name == f"postgresql-15-audit-cdc_{VERSION}-1_{control['Architecture']}.deb"
    assert {"postgresql-15", "libc6"} <= set(re.findall(r"[\w.-]+(?=,| \(|$)", control["Depends"])), control
    # on a copy of PostgreSQL that has never seen it; as of a user's, its files may be read by all
    bash(f'cp -a "$SERVERS/postgresql-15" "{folder}/bare"')
    programs = folder / "bare/lib/postgresql/15/bin"
    subprocess.run(f'cp -r "{folder}/unpacked/usr/." "{folder}/bare/"', shell=True, check=True)
    (folder / "server").mkdir()
    (folder / "server").chmod(0o777)
    server = Server(folder / "server", programs).make().start()
    try:
        connection = psycopg2.connect(dbname="postgres", host=str(folder / "server"), user="postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION audit_cdc; CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION audited FOR TABLE t")
            cursor.execute("SELECT audit_capture_start('audited')")
            cursor.execute("INSERT INTO t VALUES (1)")
            cursor.execute("CALL audit_capture()")
            cursor.execute("SELECT table_name, action FROM audit_logs")
            assert cursor.fetchall() == [("t", "insert")]
            cursor.execute("SELECT count(*) FROM pg_available_extension_versions WHERE name = 'audit_cdc'")
            assert cursor.fetchone() == (1,)
            cursor.execute("SELECT path FROM pg_extension_update_paths('audit_cdc') WHERE source = '0.1.0' AND target = %s", (VERSION,))
            assert cursor.fetchone()[0].startswith("0.1.0--")
    finally:
        server.stop("immediate")


def test_the_relay(folder):
    bash(f'package_relay target/debug/audit-relay "{folder}/packages"')
    package, = (folder / "packages").iterdir()
    assert unpacked(package, folder / "unpacked")["Package"] == "audit-relay"
    program, unit = folder / "unpacked/usr/bin/audit-relay", folder / "unpacked/usr/lib/systemd/system/audit-relay@.service"
    assert subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout == f"audit-relay {VERSION}\n"
    assert re.search(r"^ExecStart=(\S+)", unit.read_text(), re.M)[1] == "/usr/bin/audit-relay"
    assert (folder / "unpacked/usr/share/doc/audit-relay/copyright").read_text() == (TOP / "LICENSE").read_text()


def test_the_keeper(folder):
    bash(f'package_keeper target/debug/audit-keeper "{folder}/packages"')
    package, = (folder / "packages").iterdir()
    assert unpacked(package, folder / "unpacked")["Package"] == "audit-keeper"
    program, sql = folder / "unpacked/usr/bin/audit-keeper", folder / "unpacked/usr/share/audit-keeper"
    assert subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout == f"audit-keeper {VERSION}\n"
    assert sorted(file.name for file in sql.iterdir()) == ["duckdb.sql", "spark.sql"]


def test_the_sources(folder):
    if not (TOP / ".git").exists():
        pytest.skip("it is made of a commit")
    bash(f'package_sources "{folder}/packages"')
    with zipfile.ZipFile(folder / "packages" / f"audit_cdc-{VERSION}.zip") as sources:
        names = sources.namelist()
        assert all(name.startswith(f"audit_cdc-{VERSION}/") for name in names)
        meta = json.loads(sources.read(f"audit_cdc-{VERSION}/META.json"))
        assert {f"audit_cdc-{VERSION}/{meta['provides']['audit_cdc'][what]}" for what in ("file", "docfile")} <= set(names)
    assert meta["version"] == meta["provides"]["audit_cdc"]["version"] == VERSION
    assert meta["name"] in meta["provides"] and meta["license"] == "postgresql"
