"""A log whose tables are not what CREATE EXTENSION made: nothing is stored where nobody reads it."""

from conftest import batch, change
from projection_helpers import code

INGEST = "SELECT audit_ingest('" + batch([change()]) + "')"


def test_a_distributed_log_is_refused(db):
    """As Citus notes it; it is not installed here."""
    with db.connect().cursor() as cursor:
        cursor.execute("SET allow_system_table_mods = on")
        cursor.execute("CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod \"char\", repmodel \"char\"); GRANT SELECT ON pg_catalog.pg_dist_partition TO PUBLIC")
    assert db.ingest(change_of(1)) == (1, 1, 0, 0)
    with db.connect().cursor() as cursor:
        cursor.execute("SET allow_system_table_mods = on")
        cursor.execute("INSERT INTO pg_catalog.pg_dist_partition VALUES ('audit_cdc_internal.log', 'n', 's')")  # known to Citus, and local
        assert db.ingest(change_of(2)) == (1, 1, 0, 0)
        cursor.execute("UPDATE pg_catalog.pg_dist_partition SET partmethod = 'h'")
    assert code(db.connect(), INGEST) == "0A000"
    assert db.value("SELECT count(*) FROM audit_logs") == 2


def test_a_foreign_month_that_was_not_moved_is_not_written(db):
    db.ingest(change_of(1))
    with db.connect().cursor() as cursor:
        cursor.execute("CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw; SELECT audit_cdc_internal.lock_partitions(); BEGIN; SELECT audit_allow_removal()")
        cursor.execute("ALTER TABLE audit_cdc_internal.log DETACH PARTITION audit_cdc_internal.log_2026_03; DROP TABLE audit_cdc_internal.log_2026_03")
        columns = db.value("SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'audit_cdc_internal.log'::regclass AND attnum > 0")
        cursor.execute(f"CREATE FOREIGN TABLE audit_cdc_internal.log_2026_03 ({columns}) SERVER files OPTIONS (filename '/dev/null')")
        cursor.execute("ALTER TABLE audit_cdc_internal.log ATTACH PARTITION audit_cdc_internal.log_2026_03 FOR VALUES FROM ('2026-03-01Z') TO ('2026-04-01Z'); COMMIT")
    assert db.ingest(change_of(1)) == (1, 0, 0, 1)
    assert db.rows("SELECT sqlstate, stored_at FROM audit_rejects") == [("55000", None)]
    assert db.value("SELECT count(*) FROM audit_logs") == 0


def test_a_month_of_another_access_method(db):
    """Rows go in, are found again, rewritten and removed by way of the access method that the table has."""
    db.ingest(change_of(1))
    db.run("CREATE ACCESS METHOD another TYPE TABLE HANDLER heap_tableam_handler; SELECT audit_allow_removal(); ALTER TABLE audit_cdc_internal.log_2026_03 SET ACCESS METHOD another")
    assert db.ingest(change_of(1)) == (1, 0, 1, 0)
    assert db.ingest(change_of(2)) == (1, 1, 0, 0)
    db.run("SELECT audit_erase('asked', 'orders', '1')")
    assert db.value("SELECT count(*) FROM audit_logs WHERE erased IS NOT NULL") == 2
    db.run("SELECT audit_hold('h', 'lawsuit', request_id => 'none'), audit_set_retention('1 month')")
    db.run("CALL audit_apply_retention()")
    assert db.value("SELECT count(*) FROM audit_logs") == 0


def change_of(number):
    return batch([change(lsn=number)])
