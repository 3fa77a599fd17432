"""Capture of what is pending, beside ingest of the same as bodies, and beside Debian's wal2json, which an expert reads through SQL.

One workload (annotated transactions of 10 changes of REPLICA IDENTITY FULL rows) waits in a slot of capture and in one of wal2json. What either
takes is timed until a further look finds nothing. What one writes is WAL that the other would have to read, so each is timed where it goes
first. Then the other goes for the comparison of rows. That makes two workloads a run, in alternating order.
"""

import log
from harness import Row, at_least, at_most, check, execute, progress, ratios, seconds, seconds_of_calls, shown, value
from settings import BATCH, CHANGES, LONG_RUNS
from source import reconfigure

PASS = 20_000  # changes a transaction: audit_cdc.capture_max_changes, and what the expert reads at once
TRANSACTION = 10  # changes

WORKLOAD = """
DROP TABLE IF EXISTS orders; DROP PROCEDURE IF EXISTS work;
CREATE TABLE orders (
  id bigint PRIMARY KEY, customer_id uuid NOT NULL, status text NOT NULL, total numeric(12,2), placed_on date, email text, notes text,
  tags text[], details jsonb, active boolean, score double precision, updated_at timestamptz);
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE PROCEDURE work(transactions integer) LANGUAGE plpgsql AS $$
BEGIN
  FOR n IN 1..transactions LOOP
    PERFORM audit_annotate(username => 'u' || n % 50, request_id => 'req-' || n, source => 'web');
    INSERT INTO orders
      SELECT id, md5(id::text)::uuid, 'new', id % 100000 / 100.0, current_date, 'user' || id || '@example.org',
             'lorem ipsum dolor sit amet consectetur "' || md5(random()::text) || E'"\\n', ARRAY['vip', 'early adopter'],
             jsonb_build_object('carrier', 'post', 'steps', ARRAY[1, 2, 3], 'weight', 1.50), true, random(), clock_timestamp()
      FROM generate_series(n * 10, n * 10 + 4) AS id;
    UPDATE orders SET status = 'paid', total = total + 1.10, updated_at = clock_timestamp() WHERE id BETWEEN n * 10 AND n * 10 + 3;
    DELETE FROM orders WHERE id = n * 10 + 4;
    COMMIT;
  END LOOP;
END
$$"""

WAL2JSON = """pg_logical_slot_peek_changes('wal2json', NULL, %s, 'format-version', '2', 'include-xids', '1', 'include-timestamp', '1',
  'include-pk', '1', 'include-lsn', '1', 'include-types', '0', 'include-typmod', '0', 'add-tables', 'public.orders')"""
READS = {
    "plugin": "pg_logical_slot_peek_binary_changes('captured', NULL, NULL, 'publication', 'bench')",
    "messages": "audit_pending_changes() AS c(message), text(message) AS data",
    "wal2json": WAL2JSON % "NULL",
}

EXPERT = f"""
WITH stream AS MATERIALIZED (
  SELECT lsn, xid::text, data::jsonb AS m, n FROM {WAL2JSON} WITH ORDINALITY AS s(lsn, xid, data, n)
), transactions AS (
  SELECT xid, ((max(m ->> 'lsn') FILTER (WHERE m ->> 'action' = 'B'))::pg_lsn - '0/0')::bigint AS commit_lsn,
         (max(m ->> 'content') FILTER (WHERE m ->> 'prefix' = 'sequin:transaction_annotations.set'))::jsonb AS annotations
  FROM stream WHERE m ->> 'action' IN ('B', 'M') GROUP BY xid
), changes AS (
  SELECT *, row_number() OVER (PARTITION BY xid ORDER BY n) - 1 AS commit_idx FROM stream
  WHERE m ->> 'action' IN ('M', 'I', 'U', 'D') AND m ->> 'prefix' IS DISTINCT FROM 'audit_cdc.sealed' -- which takes no place
), images AS MATERIALIZED (
  SELECT c.*, t.commit_lsn, t.annotations, encode(format('%%s:%%s', t.commit_lsn, c.commit_idx)::bytea, 'base64') AS key,
         (SELECT jsonb_object_agg(v ->> 'name', v -> 'value') FROM jsonb_array_elements(m -> 'identity') AS v) AS before,
         (SELECT jsonb_object_agg(v ->> 'name', v -> 'value') FROM jsonb_array_elements(m -> 'columns') AS v) AS after
  FROM changes AS c JOIN transactions AS t USING (xid) WHERE m ->> 'action' <> 'M'
), added AS (
  INSERT INTO rival.log (commit_lsn, commit_timestamp, created_at, identity, audited_table, commit_idx, action, origin, replica_identity,
                         record_id, annotations, old_values, new_values, unknown_columns, unknown_old_columns)
  SELECT commit_lsn, (m ->> 'timestamp')::timestamptz, now(),
         md5(concat_ws(E'\\x01', t.database_id, m ->> 'schema', m ->> 'table', key))::uuid, t.id, commit_idx,
         (CASE m ->> 'action' WHEN 'I' THEN 'insert' WHEN 'U' THEN 'update' ELSE 'delete' END)::audit_cdc_internal.action, 'c', 'f',
         coalesce(after, before) ->> (m -> 'pk' -> 0 ->> 'name'), annotations,
         CASE WHEN after IS NULL THEN before
              WHEN before IS NOT NULL
              THEN (SELECT coalesce(jsonb_object_agg(k, v), '{{}}') FROM jsonb_each(before) AS o(k, v) WHERE v IS DISTINCT FROM after -> k) END,
         after, '{{}}', '{{}}'
  FROM images LEFT JOIN audit_cdc_internal.audited_tables AS t ON (t.table_schema, t.table_name) = (m ->> 'schema', m ->> 'table')
  ON CONFLICT DO NOTHING
)
SELECT count(*), max(lsn) FROM stream"""

# Each value as text: of times, json and arrays wal2json writes PostgreSQL's own.
COMPARED = """
SELECT commit_lsn, commit_timestamp, commit_idx, action, record_id, annotations, ARRAY(
  SELECT format('%s %s=%s', side, k, CASE k WHEN 'updated_at' THEN v::timestamptz::text WHEN 'tags' THEN translate(v, '{}[]" ', '') ELSE v END)
  FROM (SELECT 'old' AS side, * FROM jsonb_each_text(old_values) UNION ALL SELECT 'new', * FROM jsonb_each_text(new_values)) AS x(side, k, v)
  ORDER BY 1) FROM """


def fresh():
    """An empty log, and an empty copy of it for the expert; nothing is captured."""
    log.emptied()
    execute("CREATE PUBLICATION bench FOR TABLE orders; SELECT audit_cdc_internal.ensure_partitions(ARRAY[now()])")
    execute("""INSERT INTO audit_cdc_internal.audited_tables (database_id, database_name, table_schema, table_name)
               SELECT source ->> 'id', source ->> 'name', 'public', 'orders' FROM audit_cdc_internal.this_database() AS source""")
    log.copied()


def capture():
    execute("CALL audit_capture()")


def wal2json():
    """As capture does: stores so much a transaction and advances then, until nothing is pending."""
    count = PASS
    while count >= PASS:
        count, reached = execute(EXPERT, PASS).fetchone()
        if reached:
            execute("SELECT pg_replication_slot_advance('wal2json', %s)", reached)


def pending(with_wal2json):
    """CHANGES changes wait in the slots."""
    execute(WORKLOAD)
    fresh()
    execute("SELECT audit_capture_start('bench', 'captured')")
    if with_wal2json:
        execute("SELECT pg_create_logical_replication_slot('wal2json', 'wal2json')")
    execute("SET synchronous_commit = off")
    execute(f"CALL work({CHANGES // TRANSACTION})")
    execute("RESET synchronous_commit")
    execute("CHECKPOINT")


def same_rows(with_wal2json):
    log.holds(CHANGES)
    if with_wal2json:
        log.holds(CHANGES, "rival.log")
        different = value(f"SELECT count(*) FROM ({COMPARED} audit_cdc_internal.log EXCEPT {COMPARED} rival.log) AS different")
        check(different, 0, "rows that differ")


def ingest(changes):
    fresh()
    here = value("SELECT source ->> 'id' FROM audit_cdc_internal.this_database() AS source")
    changes = [message.replace(here, "elsewhere") for message in changes]  # of this server nobody may deliver any
    bodies = [(('{"data":[' + ",".join(changes[n:n + BATCH]) + "]}").encode(),) for n in range(0, CHANGES, BATCH)]
    taken = seconds_of_calls(log.INGEST, bodies)
    log.holds(CHANGES)
    return taken


def measure():
    with_wal2json = value("SELECT current_setting('server_version_num')::int / 10000") == 15  # Debian has it for its own PostgreSQL only
    if value("SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'"):
        reconfigure("output_plugin_libraries", "pgoutput, wal2json, audit_cdc")
    reconfigure("audit_cdc.capture_enabled", "off")
    reconfigure("audit_cdc.capture_max_changes", PASS)
    ways = [capture, wal2json] if with_wal2json else [capture]
    reads = [what for what in READS if with_wal2json or what != "wal2json"]
    taken = {what: [] for what in ("capture", "ingest", "wal2json", *(f"read as {what}" for what in reads))}
    for run in range(LONG_RUNS):
        for first in ways[::-1 if run % 2 else 1]:
            pending(with_wal2json)
            if first == capture:
                for what in reads:
                    taken[f"read as {what}"].append(seconds(execute, f"SELECT count(*), sum(length(data)) FROM {READS[what]}"))
                changes = [message for (message,) in execute("SELECT text(message) FROM audit_pending_changes() AS c(message)").fetchall()]
                check(len(changes), CHANGES, "messages of audit_pending_changes()")
            taken[first.__name__].append(seconds(first))
            for second in ways:
                if second != first:
                    second()
            same_rows(with_wal2json)
        taken["ingest"].append(ingest(changes))
        progress(f"run {run + 1} of {LONG_RUNS}: " + ", ".join(f"{what} {shown(times[-1])} s" for what, times in taken.items() if times))
    execute("DROP TABLE orders CASCADE; DROP PROCEDURE work")
    reconfigure("audit_cdc.capture_enabled", "on")

    def rate(name, what, goal, how):
        return Row(name, [CHANGES / one for one in taken[what]], goal, how, {what: taken[what]})

    waiting = f"{CHANGES:,} changes wait, {TRANSACTION} a transaction"
    rows = [Row("capture/ingest", ratios(taken["capture"], taken["ingest"]), at_most(1.2), f"{waiting}; the same as bodies of {BATCH:,}", taken),
            rate("capture, changes/s", "capture", at_least(50_000), waiting)]
    if with_wal2json:
        rows.append(Row("capture/wal2json and SQL", ratios(taken["capture"], taken["wal2json"]), None,
                        "set-based SQL over Debian's wal2json into a copy of the log", {what: taken[what] for what in ("capture", "wal2json")}))
    return rows + [rate(f"slot read as {what}, changes/s", f"read as {what}", None, "read only: nothing is stored") for what in reads]
