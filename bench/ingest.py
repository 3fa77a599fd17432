"""audit_ingest beside the set-based SQL that an expert would write for the same table and indexes.

Same rows, same server, same durability; batches of 1,000 messages of about 1 kB as text from a client, one connection; paired runs
in alternating order on fresh tables. Prints every run, medians and ratios. Usage: make bench [RUNS=5] [MESSAGES=50000]
"""

import base64
import json
import os
import random
import statistics
import time

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


def message(n, chance):
    lsn, idx, record = 61536216 + n // 5 * 200, n % 5, chance.randrange(MESSAGES // 3)
    return json.dumps({
        "action": "update", "changes": {"status": "old", "total": "1.10", "updated_at": None},
        "metadata": {
            "commit_idx": idx, "commit_lsn": lsn, "commit_timestamp": f"2026-11-{1 + n * 28 // MESSAGES:02}T{n // 18000 % 24:02}:{n // 300 % 60:02}:{n // 5 % 60:02}.{n // 5:06}Z",
            "consumer": {"annotations": {"team": "audit", "tier": 1}, "id": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "name": "audit_sink"},
            "database": {"annotations": {"env": "bench"}, "database": "shop", "hostname": "db.example", "id": "3f6b7a52-5d1c-4c0e-9a51-0d9f3a1c0001", "name": "shop"},
            "database_name": "shop", "enrichment": None, "idempotency_key": base64.b64encode(f"{lsn}:{idx}".encode()).decode(),
            "record_pks": [str(record)], "table_name": "orders", "table_schema": "public",
            "transaction_annotations": {"username": f"u{n % 50}", "request_id": f"req-{n // 5}", "source": "web"} if n % 2 else None},
        "record": {
            "id": record, "customer_id": f"{record:08x}-0000-4000-8000-{record:012x}", "status": chance.choice(["new", "paid", "shipped"]),
            "total": f"{chance.randrange(1000)}.{chance.randrange(100):02}", "placed_on": "2024-03-02", "email": f"user{record}@example.org",
            "ship_to": f'("{record} Analytical Way",London,W1,2020-01-01)', "notes": f"lorem ipsum dolor sit amet consectetur {chance.randrange(10**9)}",
            "updated_at": "2024-03-02T10:11:12.123456", "active": True, "score": chance.random()}}, separators=(",", ":"))


chance = random.Random(1)
messages = [message(n, chance) for n in range(MESSAGES)]
bodies = ['{"data":[' + ",".join(messages[n:n + BATCH]) + "]}" for n in range(0, MESSAGES, BATCH)]
connection = psycopg2.connect("")
connection.autocommit = True
cursor = connection.cursor()


def fresh():
    cursor.execute("""
        DROP EXTENSION IF EXISTS audit_cdc CASCADE; DROP TABLE IF EXISTS expert; DROP SEQUENCE IF EXISTS expert_id;
        CREATE EXTENSION audit_cdc; CREATE SEQUENCE expert_id;
        SELECT audit_cdc_internal.ensure_partitions(ARRAY['2026-11-05 00:00+00'::timestamptz]);
        INSERT INTO audit_cdc_internal.audited_tables (database_id, database_name, table_schema, table_name)
          VALUES ('3f6b7a52-5d1c-4c0e-9a51-0d9f3a1c0001', 'shop', 'public', 'orders');
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
