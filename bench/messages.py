"""The messages that are timed, always the same: updates of about 1 kB as Sequin sends them, five a transaction, half of them annotated."""

import base64
import json
import random

# As after the first messages: partition and table are there.
EMPTY_LOG = """
DROP EXTENSION IF EXISTS audit_cdc CASCADE; CREATE EXTENSION audit_cdc;
SELECT audit_cdc_internal.ensure_partitions(ARRAY['2026-11-05 00:00+00'::timestamptz]);
INSERT INTO audit_cdc_internal.audited_tables (database_id, database_name, table_schema, table_name)
  VALUES ('3f6b7a52-5d1c-4c0e-9a51-0d9f3a1c0001', 'shop', 'public', 'orders');"""


def message(n, count, chance):
    lsn, idx, record = 61536216 + n // 5 * 200, n % 5, chance.randrange(count // 3)
    return json.dumps({
        "action": "update", "changes": {"status": "old", "total": "1.10", "updated_at": None},
        "metadata": {
            "commit_idx": idx, "commit_lsn": lsn, "commit_timestamp": f"2026-11-{1 + n * 28 // count:02}T{n // 18000 % 24:02}:{n // 300 % 60:02}:{n // 5 % 60:02}.{n // 5:06}Z",
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


def messages(count):
    chance = random.Random(1)
    return [message(n, count, chance) for n in range(count)]


def bodies(messages, size):
    return ['{"data":[' + ",".join(messages[n:n + size]) + "]}" for n in range(0, len(messages), size)]
