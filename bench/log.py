"""A fresh log, an identical copy of it for the rivals, and what the log holds as COPY wants it."""

import messages
from harness import admin, check, execute, value
from settings import BATCH

INGEST = "SELECT * FROM audit_ingest($1::text)"
ORDERS = f"""
INSERT INTO audit_cdc_internal.audited_tables (database_id, database_name, table_schema, table_name)
  VALUES ('{messages.DATABASE_ID}', 'shop', 'public', 'orders')"""

# The log's columns, partitions with their storage, and indexes; no trigger, since those of the log are not for inserts.
PARTITIONS = """
SELECT c.oid, quote_ident(c.relname), pg_get_expr(c.relpartbound, c.oid), coalesce('WITH (' || array_to_string(c.reloptions, ', ') || ')', '')
FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid WHERE inhparent = 'audit_cdc_internal.log'::regclass ORDER BY c.relname"""
INDEXES = "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s ORDER BY indexrelid"


def emptied():
    """No slot, no capture, nothing of earlier measurements, and an empty log."""
    if value("SELECT to_regprocedure('audit_capture_status()') IS NOT NULL") and value("SELECT count(*) FROM audit_capture_status()"):
        execute("CALL audit_capture_stop(discard_pending => true)")
    execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    if value("SELECT to_regprocedure('audit_allow_removal()') IS NOT NULL"):
        execute("SELECT audit_allow_removal(); DROP EXTENSION audit_cdc CASCADE")
    execute("DROP SCHEMA IF EXISTS rival CASCADE; DROP PUBLICATION IF EXISTS bench")
    execute("CREATE EXTENSION audit_cdc")


def fresh():
    """As after the first message: partition and table are there."""
    emptied()
    fill_first(execute)


def fill_first(execute):
    execute(f"SELECT audit_cdc_internal.ensure_partitions(ARRAY['{messages.DAYS[0]}'::timestamptz])")
    execute(ORDERS)
    execute("CHECKPOINT")


def copied():
    """rival.log, empty, with the log's partitions and indexes."""
    execute("DROP SCHEMA IF EXISTS rival CASCADE; CREATE SCHEMA rival")
    execute("CREATE TABLE rival.log (LIKE audit_cdc_internal.log INCLUDING ALL) PARTITION BY RANGE (commit_timestamp)")
    for partition, name, bounds, options in execute(PARTITIONS).fetchall():
        execute(f"CREATE TABLE rival.{name} (LIKE audit_cdc_internal.{name} INCLUDING ALL EXCLUDING INDEXES) {options}")
        for (definition,) in execute(INDEXES, partition).fetchall():
            execute(definition.replace(f" ON audit_cdc_internal.{name} ", f" ON rival.{name} "))
        execute(f"ALTER TABLE rival.log ATTACH PARTITION rival.{name} {bounds}")
    check(shape("rival"), shape("audit_cdc_internal"), "indexes of the copy")
    execute("CHECKPOINT")


def shape(schema):
    return execute(
        """SELECT tablename, replace(indexdef, schemaname || '.' || tablename, tablename) FROM pg_indexes
           WHERE schemaname = %s AND tablename LIKE 'log\\_%%' ORDER BY 1, 2""", schema).fetchall()


def holds(count, table="audit_cdc_internal.log"):
    check(value(f"SELECT count(*) FROM {table}"), count, f"rows of {table}")
    check(value("SELECT count(*) FROM audit_rejects"), 0, "rejects")


def columns():
    return value("SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
                 "WHERE attrelid = 'audit_cdc_internal.log'::regclass AND attnum > 0 AND NOT attisdropped")


def exported(size=BATCH):
    """The log's rows in its order, in the text format of COPY, so many a piece."""
    sql = f"COPY (SELECT {columns()} FROM audit_cdc_internal.log ORDER BY id) TO STDOUT"
    with admin.connection.cursor() as cursor, cursor.copy(sql) as rows:
        lines = [bytes(line) for line in rows]
    return [b"".join(lines[n:n + size]) for n in range(0, len(lines), size)]


def size(*tables):
    """Bytes, with indexes and TOAST, of tables and their partitions."""
    sql = "SELECT sum(pg_total_relation_size(coalesce(relid, t))) FROM unnest(%s::regclass[]) AS t LEFT JOIN pg_partition_tree(t) ON true"
    return int(value(sql, list(tables)))
