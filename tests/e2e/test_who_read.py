"""Who read the log is told by pgAudit, as docs/operations.md sets it up: whoever reads, by whatever function, and nobody else."""

import os
import pathlib
import re

import psycopg2
import pytest
from chaos import Server
from conftest import TOP

pytestmark = pytest.mark.once
LIBRARY = pathlib.Path("/usr/lib/postgresql/15/lib/pgaudit.so")


@pytest.fixture
def watched(tmp_path):
    """Statements of roles, and which of them pgAudit has noted as reading."""
    if psycopg2.connect("").server_version >= 160000:
        pytest.skip("Debian 12 has pgAudit for PostgreSQL 15")
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)
    section = (TOP / "docs" / "operations.md").read_text().split("## Who read the log\n")[1].split("\n## ")[0]
    role, reviewer, settings = re.findall(r"^```(?:sql)?\n(.*?)^```", section, re.M | re.S)
    server = Server(tmp_path).make()
    with open(server.data / "postgresql.conf", "a") as file:
        # from where Debian puts it
        file.write("\n" + settings.replace("audit_cdc, pgaudit", f"audit_cdc, {LIBRARY.with_suffix('')}"))
    server.start()

    def run(sql, user="postgres"):
        connection = psycopg2.connect(dbname="postgres", host=str(tmp_path), user=user)
        connection.autocommit = True
        connection.cursor().execute(sql)
        connection.close()
    try:
        run("CREATE EXTENSION audit_cdc; CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION audited FOR TABLE t; CREATE ROLE app LOGIN; GRANT ALL ON t TO app")
        run("SELECT audit_capture_start('audited')")
        run(role + reviewer)
        yield run, lambda: re.findall(r"(\w+)@postgres .*AUDIT: \w+,\d+,\d+,(READ,SELECT|FUNCTION,EXECUTE),(.*)", (tmp_path / "log").read_text())
    finally:
        server.stop("immediate")


def test_each_reading_is_told_and_nothing_else(watched):
    run, told = watched
    run("SELECT audit_annotate(username => 'ada'); INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'b'", "app")
    run("CALL audit_capture()")
    run("""SELECT audit_ingest('{"data": [{"action": "insert", "record": {"id": 1}, "changes": null, "metadata": {"commit_lsn": 1, "commit_idx": 0,
           "commit_timestamp": "2026-03-01T09:00:00Z", "record_pks": ["1"], "table_schema": "public", "table_name": "orders", "database": {"id": "d1", "name": "shop"}}}]}')""")
    assert told() == []
    functions = ("audit_history('t', '1')", "audit_history(username => 'ada')", "audit_as_of('t')", "audit_undo_sql(table_name => 't', key => '1', at => '2000-01-01')")
    views = ("audit_logs", "audit_changes_by_user", "audit_changes_by_table", "audit_last_changes", "audit_deletions", "audit_rejects", "audit_operations")
    for what, kind in [*[(view, "READ,SELECT") for view in views], *[(function, "FUNCTION,EXECUTE") for function in functions]]:
        before = len(told())
        run(f"SELECT * FROM {what}", "reviewer")
        assert any(role == "reviewer" and is_kind == kind and what in text for role, is_kind, text in told()[before:]), what
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        run("SET pgaudit.log = 'none'", "reviewer")
