"""The output plugin: each change as the catalogs were at its moment, whatever became of them since."""

from capture_helpers import capture, logged, paused, publish, slot, source, start, status, table  # noqa: F401 (fixtures)
from projection_helpers import code

PENDING = "SELECT data FROM pg_logical_slot_peek_binary_changes((SELECT slot FROM audit_cdc_internal.captures), NULL, NULL, 'publication', 'audited')"


def sent(db):
    """Messages of the plugin, as it sends them."""
    return [bytes(data) for (data,) in db.rows(PENDING)]


def test_rows_of_schema_changes_are_told_by_their_number(paused):
    """Whatever the publication says; other tables of the log are never told."""
    paused.run("CREATE TABLE audit_cdc_internal.schema_changes (id bigint PRIMARY KEY, statement text)")
    paused.run("CREATE TABLE audit_cdc_internal.of_the_log (id bigint PRIMARY KEY)")
    paused.run("DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t")
    paused.run("""INSERT INTO t VALUES (1, 'a'); INSERT INTO audit_cdc_internal.schema_changes VALUES (4711, 'ALTER TABLE …');
        INSERT INTO audit_cdc_internal.of_the_log VALUES (1); INSERT INTO t VALUES (2, 'b'); UPDATE audit_cdc_internal.schema_changes SET statement = ''""")
    kinds = [message[:1] for message in sent(paused)]
    assert kinds == [b"R", b"B", b"I", b"S", b"I", b"C"]
    place, number = 1, 4711
    assert sent(paused)[3] == b"S" + place.to_bytes(4, "big") + number.to_bytes(8, "big")
    paused.run("DROP TABLE audit_cdc_internal.schema_changes, audit_cdc_internal.of_the_log")
    assert capture(paused) == 2
    assert paused.rows("SELECT commit_idx FROM audit_logs ORDER BY commit_idx") == [(0,), (3,)]
