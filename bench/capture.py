"""Capture beside Debian's wal2json, which an expert reads through SQL; and beside pgbench, on the same cores.

Backlog: one workload (annotated transactions of 10 changes of REPLICA IDENTITY FULL rows) waits in a pgoutput and in a wal2json slot.
What either takes is timed until a further look finds nothing. What one writes is WAL that the other would have to read, so each is
timed where it goes first, and then the other goes for the comparison of rows: two workloads a run, in alternating order. Keeping
up: pgbench alone, with capture, and with a client that polls wal2json once a second.
Usage: make bench [RUNS=5] [CHANGES=200000] [SECONDS=30]
"""

import os
import re
import statistics
import subprocess
import threading
import time

import psycopg2

CHANGES = int(os.environ.get("CHANGES", 200_000)) // 10 * 10
RUNS = int(os.environ.get("RUNS", 5))
SECONDS = int(os.environ.get("SECONDS", 30))
BATCH = 1_000  # messages a call of audit_ingest
PASS = 20_000  # changes a transaction: audit_cdc.capture_max_changes, and what the expert reads at once
LAG = {"capture": "SELECT lag_seconds FROM audit_capture_status()",
       "wal2json": "SELECT extract(epoch FROM clock_timestamp() - max(commit_timestamp))::float FROM expert"}
STORED = {"capture": "audit_cdc_internal.log", "wal2json": "expert"}
TABLES = "pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers"

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

PGOUTPUT = "pg_logical_slot_peek_binary_changes('captured', NULL, NULL, 'proto_version', '1', 'publication_names', 'bench', 'messages', 'true')"
WAL2JSON = """pg_logical_slot_peek_changes('wal2json', NULL, %s, 'format-version', '2', 'include-xids', '1', 'include-timestamp', '1',
  'include-pk', '1', 'include-lsn', '1', 'include-types', '0', 'include-typmod', '0', 'add-tables', 'public.orders,public.pgbench_accounts,public.pgbench_branches,public.pgbench_history,public.pgbench_tellers')"""

EXPERT = f"""
WITH stream AS MATERIALIZED (
  SELECT lsn, xid::text, data::jsonb AS m, n FROM {WAL2JSON} WITH ORDINALITY AS s(lsn, xid, data, n)
), transactions AS (
  SELECT xid, ((max(m ->> 'lsn') FILTER (WHERE m ->> 'action' = 'B'))::pg_lsn - '0/0')::bigint AS commit_lsn,
         (max(m ->> 'content') FILTER (WHERE m ->> 'prefix' = 'sequin:transaction_annotations.set'))::jsonb AS annotations
  FROM stream WHERE m ->> 'action' IN ('B', 'M') GROUP BY xid
), changes AS (
  SELECT *, row_number() OVER (PARTITION BY xid ORDER BY n) - 1 AS commit_idx FROM stream WHERE m ->> 'action' IN ('M', 'I', 'U', 'D')
), images AS MATERIALIZED (
  SELECT c.*, t.commit_lsn, t.annotations, encode(format('%%s:%%s', t.commit_lsn, c.commit_idx)::bytea, 'base64') AS key,
         (SELECT jsonb_object_agg(v ->> 'name', v -> 'value') FROM jsonb_array_elements(m -> 'identity') AS v) AS before,
         (SELECT jsonb_object_agg(v ->> 'name', v -> 'value') FROM jsonb_array_elements(m -> 'columns') AS v) AS after
  FROM changes AS c JOIN transactions AS t USING (xid) WHERE m ->> 'action' <> 'M'
), added AS (
  INSERT INTO expert (id, commit_lsn, commit_timestamp, created_at, identity, audited_table, commit_idx, action, replica_identity,
                      idempotency_key, record_id, annotations, old_values, new_values, unknown_columns, unknown_old_columns)
  SELECT nextval('expert_id'), commit_lsn, (m ->> 'timestamp')::timestamptz, now(),
         md5(concat_ws(E'\\x01', t.database_id, m ->> 'schema', m ->> 'table', key))::uuid, t.id, commit_idx,
         (CASE m ->> 'action' WHEN 'I' THEN 'insert' WHEN 'U' THEN 'update' ELSE 'delete' END)::audit_cdc_internal.action, 'f', key,
         coalesce(after, before) ->> (m -> 'pk' -> 0 ->> 'name'), annotations,
         CASE WHEN after IS NULL THEN before
              WHEN before IS NOT NULL THEN (SELECT coalesce(jsonb_object_agg(k, v), '{{}}') FROM jsonb_each(before) AS o(k, v) WHERE v IS DISTINCT FROM after -> k) END,
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


def connected():
    connection = psycopg2.connect("")
    connection.autocommit = True
    return connection.cursor()


cursor = connected()


def value(sql, *arguments):
    cursor.execute(sql, arguments or None)
    return cursor.fetchone()[0]


def seconds(work, *arguments):
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def reconfigure(setting, to):
    cursor.execute(f"ALTER SYSTEM SET {setting} = {to}")
    cursor.execute("SELECT pg_reload_conf(), pg_sleep(0.2)")


def fresh(tables):
    """An empty log, and an empty copy of it for the expert; nothing is captured."""
    if value("SELECT count(*) FROM pg_extension WHERE extname = 'audit_cdc'") and value("SELECT count(*) FROM audit_capture_status()"):
        cursor.execute("CALL audit_capture_stop(discard_pending => true)")
    cursor.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    cursor.execute(f"""
        DROP EXTENSION IF EXISTS audit_cdc CASCADE; DROP TABLE IF EXISTS expert; DROP SEQUENCE IF EXISTS expert_id; DROP PUBLICATION IF EXISTS bench;
        CREATE EXTENSION audit_cdc; CREATE SEQUENCE expert_id; CREATE PUBLICATION bench FOR TABLE {tables};
        SELECT audit_cdc_internal.ensure_partitions(ARRAY[now()]);
        INSERT INTO audit_cdc_internal.audited_tables (database_id, database_name, table_schema, table_name)
          SELECT source ->> 'id', source ->> 'name', 'public', tablename
          FROM pg_publication_tables, audit_cdc_internal.this_database() AS source WHERE pubname = 'bench';
        CREATE TABLE expert (LIKE audit_cdc_internal.log) PARTITION BY RANGE (commit_timestamp);
        CREATE TABLE expert_all PARTITION OF expert DEFAULT""")
    cursor.execute("SELECT indexdef, tablename FROM pg_indexes WHERE schemaname = 'audit_cdc_internal' AND tablename LIKE 'log\\_%'")
    for definition, partition in cursor.fetchall():
        cursor.execute(definition.replace(f"audit_cdc_internal.{partition}", "expert_all").replace(partition, "expert_all"))
    cursor.execute("CHECKPOINT")


def start_capture():
    cursor.execute("SELECT audit_capture_start('bench', 'captured')")


def start_wal2json():
    cursor.execute("SELECT pg_create_logical_replication_slot('wal2json', 'wal2json')")


def capture():
    cursor.execute("CALL audit_capture()")


def wal2json(cursor=cursor):
    """As capture does: stores so much a transaction and advances then, until nothing is pending."""
    while True:
        cursor.execute(EXPERT, (PASS,))
        count, reached = cursor.fetchone()
        if reached:
            cursor.execute("SELECT pg_replication_slot_advance('wal2json', %s)", (reached,))
        if count < PASS:
            return


def ingest(bodies):
    for body in bodies:
        cursor.execute("SELECT audit_ingest(%s)", (body,))


def measure_backlog(run):
    for first, second in [(capture, wal2json), (wal2json, capture)][::1 if run % 2 else -1]:
        cursor.execute(WORKLOAD)
        fresh("orders")
        start_capture()
        start_wal2json()
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("CALL work(%s)", (CHANGES // 10,))
        cursor.execute("RESET synchronous_commit")
        cursor.execute("CHECKPOINT")
        if first == capture:
            for what, source in reads.items():
                times[what].append(seconds(cursor.execute, f"SELECT count(*), sum(length(data)) FROM {source}"))
                sizes[what] = cursor.fetchone()
            cursor.execute("SELECT text(message) FROM audit_changes() AS c(message)")
            messages = [message for (message,) in cursor.fetchall()]
        times[first.__name__].append(seconds(first))
        second()
        assert value("SELECT count(*) FROM audit_logs") == value("SELECT count(*) FROM expert") == CHANGES
        assert value(f"SELECT count(*) FROM ({COMPARED} audit_cdc_internal.log EXCEPT {COMPARED} expert) AS different") == 0
    fresh("orders")
    bodies = ['{"data":[' + ",".join(messages[n:n + BATCH]) + "]}" for n in range(0, CHANGES, BATCH)]
    times["ingest"].append(seconds(ingest, bodies))
    assert value("SELECT count(*) FROM audit_logs") == CHANGES


def measure_keeping_up(kind):
    """pgbench beside `kind`: transactions per second, the lag of each second, and the seconds from its end until all is stored."""
    subprocess.run(["pgbench", "-iqs", "10"], check=True, capture_output=True)
    fresh(TABLES)
    if kind != "alone":
        for table in TABLES.split(", "):
            cursor.execute(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
    if kind == "capture":
        reconfigure("audit_cdc.capture_enabled", "on")
        start_capture()
    if kind == "wal2json":
        start_wal2json()
    pgbench = subprocess.Popen(["pgbench", "-nc2", f"-T{SECONDS}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    polling = threading.Thread(target=poll, args=(pgbench,)) if kind == "wal2json" else None
    if polling:
        polling.start()
    lag = []
    time.sleep(1)
    while pgbench.poll() is None:
        if kind != "alone":
            lag.append(value(LAG[kind]) or 0)
        time.sleep(1)
    printed = pgbench.communicate()[0]
    start = time.perf_counter()
    if polling:
        polling.join()
        wal2json()
    if kind == "capture":
        capture()
    catching_up = time.perf_counter() - start
    transactions = int(re.search(r"actually processed: (\d+)", printed)[1])
    if kind != "alone":
        assert value(f"SELECT count(*) FROM {STORED[kind]}") == 4 * transactions
    reconfigure("audit_cdc.capture_enabled", "off")
    return float(re.search(r"tps = ([\d.]+)", printed)[1]), lag, catching_up


def poll(pgbench):
    own = connected()
    while pgbench.poll() is None:
        time.sleep(1)
        wal2json(own)


def shown(numbers):
    return " ".join(f"{number:.2f}" for number in numbers)


if value("SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'"):
    reconfigure("output_plugin_libraries", "pgoutput, wal2json")
reconfigure("autovacuum", "off")  # it would disturb some runs and not others
reconfigure("audit_cdc.capture_enabled", "off")
reconfigure("audit_cdc.capture_max_changes", PASS)

reads = {"pgoutput, only read": PGOUTPUT, "wal2json, only read": WAL2JSON % "NULL", "messages, only read": "audit_changes() AS c(message), text(message) AS data"}
times, sizes = {what: [] for what in (*reads, "capture", "wal2json", "ingest")}, {}
for run in range(RUNS):
    measure_backlog(run)
print(value("SELECT version()"))
print(f"{CHANGES} changes waiting, {PASS} a transaction, {RUNS} runs")
for what, runs in times.items():
    size = f"  {sizes[what][1] / CHANGES:.0f} bytes a change" if what in sizes else ""
    print(f"{what:20} median {statistics.median(runs):6.2f} s  {CHANGES / statistics.median(runs):8.0f} changes/s  runs {shown(runs)}{size}")
for one, two in (("capture", "ingest"), ("capture", "wal2json"), ("pgoutput, only read", "wal2json, only read")):
    print(f"{one} / {two}: {statistics.median(a / b for a, b in zip(times[one], times[two])):.2f}")

print(f"pgbench, 2 clients, 4 changes a transaction, {SECONDS} s, {RUNS} runs")
kinds = ["alone", "capture", "wal2json"]
kept = {kind: [] for kind in kinds}
for run in range(RUNS):
    for kind in kinds[::1 if run % 2 else -1]:
        kept[kind].append(measure_keeping_up(kind))
for kind, runs in kept.items():
    rates, lags, catching_up = zip(*runs)
    print(f"{kind:10} median {statistics.median(rates):6.0f} transactions/s  runs {' '.join(f'{rate:.0f}' for rate in rates)}")
    if kind != "alone":
        print(f"{'':10} / alone {statistics.median(a[0] / b[0] for a, b in zip(runs, kept['alone'])):.2f}  lag median "
              f"{statistics.median(sum(lags, [])):.2f} s, worst {shown(map(max, lags))} s  after the end {shown(catching_up)} s")
