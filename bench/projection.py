"""Ingest while one projection is active: the activity feed of docs/projections.md."""

import log
import messages
from harness import Row, at_most, check, execute, paired, ratios, seconds_of_calls, value
from settings import BATCH, MESSAGES, RUNS

ORDERS = """
DROP TABLE IF EXISTS activity_feed, orders CASCADE;
CREATE TABLE orders (
  id bigint PRIMARY KEY, customer_id uuid NOT NULL, status text NOT NULL, total numeric(12,2), placed_on date, email text, ship_to text,
  notes text, updated_at timestamptz, active boolean, score double precision)"""
FEED = """
CREATE TABLE activity_feed (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id uuid NOT NULL, actor text NOT NULL, description text NOT NULL, reason text,
  source text NOT NULL, request_id text, record_id text NOT NULL, commit_lsn bigint NOT NULL, created_at timestamptz NOT NULL);
CREATE INDEX ON activity_feed (user_id, created_at);
SELECT audit_create_projection('activity_feed', $$
  SELECT o.customer_id AS user_id, actor,
         format('%s %s order #%s', actor, verb, o.id)
           || CASE WHEN l.action = 'update' AND l.old_values ? 'status'
                   THEN format(': %s → %s', l.old_values ->> 'status', o.status) ELSE '' END AS description,
         l.metadata ->> 'reason' AS reason, coalesce(l.source, 'unknown') AS source, l.request_id, l.record_id, l.commit_lsn,
         l.commit_timestamp AS created_at
  FROM audit_new_logs AS l
  CROSS JOIN LATERAL audit_row(NULL::orders, coalesce(l.new_values, l.old_values), l.unknown_columns) AS o
  CROSS JOIN LATERAL (SELECT coalesce(l.username, l.annotations ->> 'actor', 'system') AS actor,
                             CASE l.action WHEN 'insert' THEN 'created' WHEN 'update' THEN 'updated' ELSE 'deleted' END AS verb) AS who
  WHERE l.table_name = 'orders' AND l.action IN ('insert', 'update', 'delete') AND o.customer_id IS NOT NULL
$$)"""


def measure():
    bodies = [(body,) for body in messages.bodies(MESSAGES, BATCH)]

    def ingest(feed):
        log.fresh()
        execute(ORDERS)
        if feed:
            execute(FEED)
        taken = seconds_of_calls(log.INGEST, bodies)
        log.holds(MESSAGES)
        if feed:
            check(value("SELECT count(*) FROM activity_feed"), MESSAGES, "rows of the activity feed")
        return taken

    taken = paired(RUNS, {"with": lambda: ingest(True), "without": lambda: ingest(False)})
    execute("DROP TABLE IF EXISTS activity_feed, orders CASCADE")
    return [Row("one activity feed/none", ratios(taken["with"], taken["without"]), at_most(1.5),
                "the documented projection active, a row of it a message", taken)]
