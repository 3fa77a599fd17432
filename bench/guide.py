"""The table that Sequin's audit guide documents, with its six indexes, and how it is filled.

The guide upserts on (commit_lsn, record_id). That holds one change of a record a transaction, and refuses a batch that has two. The messages
here have none such, so it stores them all. Its record_id is a uuid: the order's customer_id, which is made of the order's number.
"""

import json

import messages
from harness import check, execute, value

TABLE = """
DROP SCHEMA IF EXISTS guide CASCADE; CREATE SCHEMA guide;
CREATE TABLE guide.audit_logs (
  id serial PRIMARY KEY, table_name text NOT NULL, record_id uuid NOT NULL, commit_lsn bigint NOT NULL, action text NOT NULL,
  old_values jsonb, new_values jsonb, created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp,
  username text, source text, request_id text, metadata jsonb);
CREATE UNIQUE INDEX ON guide.audit_logs (commit_lsn, record_id);
CREATE INDEX ON guide.audit_logs (table_name, record_id);
CREATE INDEX ON guide.audit_logs (created_at);
CREATE INDEX ON guide.audit_logs (username);
CREATE INDEX ON guide.audit_logs (request_id)"""

COLUMNS = "record_id, commit_lsn, table_name, action, old_values, new_values, username, source, request_id, metadata"
ON_CONFLICT = "ON CONFLICT (commit_lsn, record_id) DO UPDATE SET " + ", ".join(
    f"{column} = excluded.{column}" for column in (COLUMNS + ", updated_at").split(", "))
UPSERT = f"INSERT INTO guide.audit_logs ({COLUMNS}, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now()) {ON_CONFLICT}"
SET_BASED = f"""
INSERT INTO guide.audit_logs ({COLUMNS}, updated_at)
SELECT (m -> 'record' ->> 'customer_id')::uuid, (meta ->> 'commit_lsn')::bigint, meta ->> 'table_name', m ->> 'action',
       m -> 'changes', m -> 'record', who ->> 'username', who ->> 'source', who ->> 'request_id', who -> 'metadata', now()
FROM jsonb_array_elements($1::jsonb -> 'data') AS m CROSS JOIN LATERAL (SELECT m -> 'metadata' AS meta) AS x
CROSS JOIN LATERAL (SELECT meta -> 'transaction_annotations' AS who) AS y {ON_CONFLICT}"""


def fresh():
    execute(TABLE)
    execute("CHECKPOINT")


def holds(count):
    check(value("SELECT count(*) FROM guide.audit_logs"), count, "rows of the guide's table")


def arguments(count):
    """Of UPSERT, for the first messages: what the client has taken out of them before the time runs."""
    def text(part):
        return None if part is None else str(part).encode()

    def of(message):
        meta, record = message["metadata"], message["record"]
        who = meta["transaction_annotations"] or {}
        changes = message["changes"] and json.dumps(message["changes"])
        return tuple(map(text, (record["customer_id"], meta["commit_lsn"], meta["table_name"], message["action"], changes, json.dumps(record),
                                who.get("username"), who.get("source"), who.get("request_id"), None)))

    return [of(json.loads(messages.message(n))) for n in range(count)]
