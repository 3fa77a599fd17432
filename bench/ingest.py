"""audit_ingest beside COPY of the same rows, an expert's SQL and the guide's table; redelivery; and what a change takes on disk."""

import guide
import log
import messages
from harness import Row, at_most, check, execute, paired, ratios, seconds_of_calls, seconds_of_copies, value
from settings import BATCH, MESSAGES, RUNS

EXPERT = """
INSERT INTO rival.log (commit_lsn, commit_timestamp, created_at, identity, audited_table, commit_idx, action, record_id, origin, annotations, old_values, new_values)
SELECT (meta ->> 'commit_lsn')::bigint, (meta ->> 'commit_timestamp')::timestamptz, now(),
       md5(concat_ws(E'\\x01', meta -> 'database' ->> 'id', meta ->> 'table_schema', meta ->> 'table_name', meta ->> 'idempotency_key'))::uuid,
       t.id, (meta ->> 'commit_idx')::int, (m ->> 'action')::audit_cdc_internal.action, meta -> 'record_pks' ->> 0, 'i',
       nullif(meta -> 'transaction_annotations', 'null'),
       CASE m ->> 'action' WHEN 'update' THEN m -> 'changes' WHEN 'delete' THEN m -> 'record' END,
       CASE WHEN m ->> 'action' <> 'delete' THEN m -> 'record' END
FROM jsonb_array_elements($1::jsonb -> 'data') AS m CROSS JOIN LATERAL (SELECT m -> 'metadata' AS meta) AS x
LEFT JOIN audit_cdc_internal.audited_tables AS t
  ON (t.database_id, t.table_schema, t.table_name) = (meta -> 'database' ->> 'id', meta ->> 'table_schema', meta ->> 'table_name')
ON CONFLICT DO NOTHING"""
# What says the same, however it is written
COMPARED = "SELECT commit_lsn, commit_timestamp, audited_table, commit_idx, action, record_id, annotations, old_values, new_values FROM "


def same_rows(bodies):
    """Do the rivals store what audit_ingest stores?"""
    log.fresh()
    seconds_of_calls(log.INGEST, bodies)
    log.copied()
    seconds_of_calls(EXPERT, bodies)
    log.holds(BATCH)
    log.holds(BATCH, "rival.log")
    check(value(f"SELECT count(*) FROM ({COMPARED} audit_cdc_internal.log EXCEPT {COMPARED} rival.log) AS different"), 0, "rows that differ")


def measure():
    bodies = [(body,) for body in messages.bodies(MESSAGES, BATCH)]
    same_rows(bodies[:1])
    log.fresh()
    seconds_of_calls(log.INGEST, bodies)
    pieces, into = log.exported(), f"COPY rival.log ({log.columns()}) FROM STDIN"
    again, sizes, guide_sizes = [], [], []

    def ours():
        log.fresh()
        taken = seconds_of_calls(log.INGEST, bodies)
        log.holds(MESSAGES)
        sizes.append(log.size("audit_cdc_internal.log", "audit_cdc_internal.audited_tables", "audit_cdc_internal.tallies") / MESSAGES)
        execute("CHECKPOINT")
        again.append(seconds_of_calls(log.INGEST, bodies))
        log.holds(MESSAGES)
        return taken

    def limit():
        log.copied()
        taken = seconds_of_copies(into, pieces)
        log.holds(MESSAGES, "rival.log")
        return taken

    def expert():
        log.copied()
        taken = seconds_of_calls(EXPERT, bodies)
        log.holds(MESSAGES, "rival.log")
        return taken

    def guide_set_based():
        guide.fresh()
        taken = seconds_of_calls(guide.SET_BASED, bodies)
        guide.holds(MESSAGES)
        guide_sizes.append(log.size("guide.audit_logs") / MESSAGES)
        return taken

    upserts = guide.arguments(MESSAGES // 10)

    def guide_as_documented():
        """Seconds, as if it were all messages."""
        guide.fresh()
        taken = seconds_of_calls(guide.UPSERT, upserts)
        guide.holds(len(upserts))
        return taken * MESSAGES / len(upserts)

    taken = paired(RUNS, {"ours": ours, "limit": limit, "expert": expert, "guide (b)": guide_set_based, "guide (a)": guide_as_documented})

    def row(rival, goal, how):
        return Row(f"ingest/{rival}", ratios(taken["ours"], taken[rival]), at_most(goal), how, {"ours": taken["ours"], rival: taken[rival]})

    return [
        row("limit", 1.0, "COPY of the same rows, extracted and typed, into a copy of the log"),
        row("expert", 0.5, "INSERT … SELECT … FROM jsonb_array_elements … ON CONFLICT DO NOTHING into a copy of the log"),
        row("guide (b)", 0.45, "set-based upsert into the guide's table, six indexes"),
        row("guide (a)", 0.04, f"one upsert a message, as documented; {len(upserts):,} messages, scaled"),
        Row("redelivery/first", ratios(again, taken["ours"]), at_most(0.3), "all bodies once more", {"redelivery": again, "first": taken["ours"]}),
        Row("bytes a change, log/guide", ratios(sizes, guide_sizes), at_most(1.0),
            f"with indexes: {sizes[-1]:,.0f} against {guide_sizes[-1]:,.0f}", {"log": sizes, "guide": guide_sizes}),
    ]
