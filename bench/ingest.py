"""audit_ingest beside the set-based SQL that an expert would write for the same table and indexes.

Same rows, same server, same durability; batches of 1,000 messages of about 1 kB as text from a client, one connection; paired runs
in alternating order on fresh tables. Prints every run, medians and ratios. Usage: make bench [RUNS=5] [MESSAGES=50000]
"""

import os
import statistics
import time

import messages as made
import psycopg2

MESSAGES = int(os.environ.get("MESSAGES", 50_000))
RUNS = int(os.environ.get("RUNS", 5))
BATCH = 1_000

EXPERT = """
INSERT INTO expert (id, commit_lsn, commit_timestamp, created_at, identity, audited_table, commit_idx, action, idempotency_key,
                    record_id, annotations, old_values, new_values)
SELECT nextval('expert_id'), (meta ->> 'commit_lsn')::bigint, (meta ->> 'commit_timestamp')::timestamptz, now(),
       md5(concat_ws(E'\\x01', meta -> 'database' ->> 'id', meta ->> 'table_schema', meta ->> 'table_name', meta ->> 'idempotency_key'))::uuid,
       t.id, (meta ->> 'commit_idx')::int, (m ->> 'action')::audit_cdc_internal.action, meta ->> 'idempotency_key', meta -> 'record_pks' ->> 0,
       nullif(meta -> 'transaction_annotations', 'null'),
       CASE m ->> 'action' WHEN 'update' THEN m -> 'changes' WHEN 'delete' THEN m -> 'record' END,
       CASE WHEN m ->> 'action' <> 'delete' THEN m -> 'record' END
FROM jsonb_array_elements(%s::jsonb -> 'data') AS m CROSS JOIN LATERAL (SELECT m -> 'metadata' AS meta) AS x
LEFT JOIN audit_cdc_internal.audited_tables AS t
  ON (t.database_id, t.table_schema, t.table_name) = (meta -> 'database' ->> 'id', meta ->> 'table_schema', meta ->> 'table_name')
ON CONFLICT DO NOTHING"""
OURS = "SELECT audit_ingest(%s)"

messages = made.messages(MESSAGES)
bodies = made.bodies(messages, BATCH)
connection = psycopg2.connect("")
connection.autocommit = True
cursor = connection.cursor()


def fresh():
    cursor.execute(made.EMPTY_LOG)
    cursor.execute("""
        DROP TABLE IF EXISTS expert; DROP SEQUENCE IF EXISTS expert_id; CREATE SEQUENCE expert_id;
        CREATE TABLE expert (LIKE audit_cdc_internal.log) PARTITION BY RANGE (commit_timestamp);
        CREATE TABLE expert_2026_11 PARTITION OF expert FOR VALUES FROM ('2026-11-01 00:00+00') TO ('2026-12-01 00:00+00')""")
    cursor.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'log_2026_11'")
    for (definition,) in cursor.fetchall():
        cursor.execute(definition.replace("log_2026_11", "expert_2026_11").replace("audit_cdc_internal.expert_2026_11", "expert_2026_11"))
    cursor.execute("CHECKPOINT")


def seconds(sql):
    start = time.perf_counter()
    for body in bodies:
        cursor.execute(sql, (body,))
    return time.perf_counter() - start


times = {"ours": [], "expert": [], "ours, redelivered": [], "expert, redelivered": []}
for run in range(RUNS):
    fresh()
    for who, sql in [("ours", OURS), ("expert", EXPERT)][::1 if run % 2 else -1]:
        times[who].append(seconds(sql))
        cursor.execute("CHECKPOINT")
    times["ours, redelivered"].append(seconds(OURS))
    times["expert, redelivered"].append(seconds(EXPERT))
    cursor.execute("SELECT (SELECT count(*) FROM audit_logs), (SELECT count(*) FROM expert)")
    assert cursor.fetchone() == (MESSAGES, MESSAGES)

cursor.execute("SELECT version()")
print(cursor.fetchone()[0])
print(f"{MESSAGES} messages of {sum(map(len, messages)) // MESSAGES} bytes, batches of {BATCH}, {RUNS} runs")
for who, runs in times.items():
    print(f"{who:20} median {statistics.median(runs):6.2f} s  {MESSAGES / statistics.median(runs):8.0f} messages/s  runs {' '.join(f'{r:.2f}' for r in runs)}")
for one, two in (("ours", "expert"), ("ours, redelivered", "ours")):
    print(f"{one} / {two}: {statistics.median(a / b for a, b in zip(times[one], times[two])):.2f}")
