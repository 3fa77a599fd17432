"""Reading the log, beside what an expert writes by hand: history, as-of and undo of a captured FULL table, and a year in months.

The expert knows that each entry tells its whole row, and that nothing is missing: he asks the log by its indexes. Both sides are prepared, and run on
entries that were read before.
"""

import json

import log
from harness import Row, at_most, check, connected, execute, paired, progress, ratios, seconds, value
from settings import READ_ENTRIES, RUNS, YEAR_ENTRIES
from source import reconfigure

RECORDS = READ_ENTRIES // 5  # each is inserted and changed four times
TRANSACTION = 200  # changes; a request each
UNDONE = 4_000  # changes of one more request, which is undone
MONTHS = 12

# Each round is a fifth of the entries.
WORKLOAD = """
DROP TABLE IF EXISTS orders; DROP PROCEDURE IF EXISTS work;
CREATE TABLE orders (
  id bigint PRIMARY KEY, customer_id uuid NOT NULL, status text NOT NULL, total numeric(12,2), placed_on date, email text, notes text,
  active boolean, updated_at timestamptz);
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE PROCEDURE work(records integer, per_transaction integer) LANGUAGE plpgsql AS $$
BEGIN
  FOR round IN 0..4 LOOP
    FOR n IN 0..records / per_transaction - 1 LOOP
      PERFORM audit_annotate(username => 'u' || n % 50, request_id => format('req-%s-%s', round, n), source => 'web');
      IF round = 0 THEN
        INSERT INTO orders
          SELECT id, md5(id::text)::uuid, 'new', id % 100000 / 100.0, current_date, 'user' || id || '@example.org',
                 'lorem ipsum dolor sit amet consectetur ' || id, true, clock_timestamp()
          FROM generate_series(n * per_transaction + 1, (n + 1) * per_transaction) AS id;
      ELSE
        UPDATE orders SET status = 'status ' || round, total = total + 1.10, updated_at = clock_timestamp()
        WHERE id BETWEEN n * per_transaction + 1 AND (n + 1) * per_transaction;
      END IF;
      COMMIT;
    END LOOP;
  END LOOP;
END
$$"""

LINE = """commit_timestamp, action, annotations, CASE WHEN action = 'update' THEN new_values || old_values ELSE old_values END AS old_row,
  new_values AS new_row"""
LOG = "FROM audit_cdc_internal.log WHERE"
NEWEST = "ORDER BY commit_timestamp DESC, commit_lsn DESC, commit_idx DESC LIMIT 50"
ORDERS = "(SELECT id FROM audit_cdc_internal.audited_tables WHERE table_name = 'orders')"
# what is asked, with parameters: of us, and by hand
QUESTIONS = {
    "history of one record": ("SELECT * FROM audit_history('orders', $1)",
                              f"SELECT {LINE} {LOG} record_id = $1 AND audited_table = {ORDERS} ORDER BY commit_lsn, commit_idx", 2),
    "a user's newest 50": ("SELECT * FROM audit_history(username => $1, newest_first => true, max_rows => 50)",
                           f"SELECT {LINE} {LOG} audit_cdc_internal.lifted(annotations, 'username') = $1 {NEWEST}", 2),
    "a request's 200": ("SELECT * FROM audit_history(request_id => $1)",
                        f"""SELECT {LINE} {LOG} audit_cdc_internal.lifted(annotations, 'request_id') = $1
                            ORDER BY commit_timestamp, commit_lsn, commit_idx""", 2),
    "record as of a moment": ("SELECT * FROM audit_as_of(NULL::orders, $2::timestamptz, key => $1)",
                              f"""SELECT (r).* FROM (SELECT audit_row(NULL::orders, new_values) AS r {LOG} record_id = $1 AND audited_table = {ORDERS}
                                  AND commit_timestamp <= $2 ORDER BY commit_lsn DESC, commit_idx DESC LIMIT 1) AS s""", 3),
    "table as of a moment": ("SELECT * FROM audit_as_of(NULL::orders, $1::timestamptz)",
                             f"""SELECT (r).* FROM (SELECT DISTINCT ON (record_id) audit_row(NULL::orders, new_values) AS r {LOG}
                                 audited_table = {ORDERS} AND commit_timestamp <= $1 ORDER BY record_id, commit_lsn DESC, commit_idx DESC) AS s""", 1.5),
}
UNDO = ("SELECT * FROM audit_undo(request_id => 'undone')",
        f"""UPDATE orders SET (status, total, updated_at) = (o.status, o.total, o.updated_at)
            FROM (SELECT (audit_row(NULL::orders, new_values || old_values)).* {LOG} audit_cdc_internal.lifted(annotations, 'request_id') = 'undone') AS o
            WHERE orders.id = o.id""")
# of a year in months: whole views and time ranges, beside the same from the log by its index of time
YEAR = {
    "the last hour": ("SELECT * FROM audit_history(since => '2026-12-28 22:00Z')", f"SELECT {LINE} {LOG} commit_timestamp >= '2026-12-28 22:00Z'", 2),
    "the last day": ("SELECT * FROM audit_history(since => '2026-12-27 23:00Z')", f"SELECT {LINE} {LOG} commit_timestamp >= '2026-12-27 23:00Z'", 2),
    "audit_logs, newest 50": (f"SELECT * FROM audit_logs {NEWEST}", f"SELECT {LINE} FROM audit_cdc_internal.log {NEWEST}", 3),
    "audit_last_changes, 50": ("SELECT * FROM audit_last_changes LIMIT 50", f"SELECT {LINE} FROM audit_cdc_internal.log {NEWEST}", 3),
    "audit_changes_by_user of a day": (
        "SELECT * FROM audit_changes_by_user(since => '2026-12-27 23:00Z')",
        f"""SELECT audit_cdc_internal.lifted(annotations, 'username'), audited_table, count(*), count(DISTINCT commit_lsn), max(commit_timestamp)
            {LOG} commit_timestamp >= '2026-12-27 23:00Z' GROUP BY 1, 2""", 3),
}


def read(sql, calls):
    """Seconds, and how many rows came."""
    rows = 0

    def work():
        nonlocal rows
        rows = sum(client.call(*arguments).ntuples for arguments in calls)

    with connected() as client:
        client.prepare(sql)
        for _ in range(6):  # planned for good
            client.call(*calls[0])
        return seconds(work), rows


def compared(question, calls, runs=RUNS):
    """Milliseconds a call, ours and the expert's."""
    ours, rival = question[:2]
    check(read(ours, calls)[1], read(rival, calls)[1], f"rows of {ours}")
    return paired(runs, {who: lambda sql=sql: read(sql, calls)[0] / len(calls) * 1e3 for who, sql in (("ours", ours), ("by hand", rival))})


def row(name, taken, goal, how):
    return Row(f"{name}/by hand", ratios(taken["ours"], taken["by hand"]), at_most(goal),
               f"{how}; {sorted(taken['ours'])[len(taken['ours']) // 2]:.3g} ms", taken)


def captured():
    """READ_ENTRIES changes, and those of one more request; the moment that is asked for is before the last two rounds."""
    log.emptied()
    execute(WORKLOAD)
    execute("CREATE PUBLICATION bench FOR TABLE orders")
    execute("SELECT audit_capture_start('bench')")
    execute("SET synchronous_commit = off")
    execute("CALL work(%s, %s)", RECORDS, TRANSACTION)
    execute("BEGIN")
    execute("SELECT audit_annotate(username => 'eve', request_id => 'undone')")
    execute("UPDATE orders SET status = 'undone', total = 0, updated_at = clock_timestamp() WHERE id <= %s", UNDONE)
    execute("COMMIT")
    execute("RESET synchronous_commit")
    execute("CALL audit_capture()")
    log.holds(READ_ENTRIES + min(UNDONE, RECORDS))
    execute("VACUUM ANALYZE audit_cdc_internal.log")
    return value("SELECT max(commit_timestamp)::text FROM audit_logs WHERE request_id LIKE 'req-2-%%'").encode()


def undone(sql):
    """Milliseconds; it is rolled back."""
    execute("BEGIN")
    taken = seconds(execute, sql)
    execute("ROLLBACK")
    return taken * 1e3


def of_a_table(moment):
    some = [str(1 + n * 7919 % RECORDS).encode() for n in range(100)]
    calls = {
        "history of one record": [(key,) for key in some],
        "a user's newest 50": [(b"u%d" % (n % 50),) for n in range(20)],
        "a request's 200": [(b"req-3-%d" % (n * 7 % (RECORDS // TRANSACTION)),) for n in range(10)],
        "record as of a moment": [(key, moment) for key in some[:10]],
        "table as of a moment": [(moment,)],
    }
    for name, question in QUESTIONS.items():
        progress(name)
        yield row(name, compared(question, calls[name]), question[2], f"{READ_ENTRIES:,} entries of a captured FULL table, each call prepared")
    progress("undo")
    taken = paired(min(RUNS, 3), {"ours": lambda: undone(UNDO[0]), "by hand": lambda: undone(UNDO[1])})
    yield row(f"undo of {UNDONE:,} changes", taken, 6, "one request; by hand one UPDATE of the rows")


def year():
    """YEAR_ENTRIES of one described FULL table, delivered in the order of their commits, over twelve months: 336 days of as many."""
    log.emptied()
    columns = {name: "text" for name in ("id", "status", "email", "notes", "total")}
    execute("SELECT audit_describe_tables('year', %s::jsonb, '2025-01-01')", json.dumps({"described_at": "2026-01-01T00:00:00Z", "tables": [
        {"table_schema": "public", "table_name": "orders", "replica_identity": "full", "key_columns": ["id"], "identity_columns": ["id"],
         "column_types": columns, "never_sent": [], "null_in_reads": []}]}))
    records = max(YEAR_ENTRIES // 10, 1)
    with connected() as client:
        client.prepare(log.INGEST)
        for first in range(0, YEAR_ENTRIES, 1_000):
            client.call(('{"data":[' + ",".join(delivered(n, records) for n in range(first, first + 1_000)) + "]}").encode())
    log.holds(YEAR_ENTRIES)
    execute("VACUUM ANALYZE audit_cdc_internal.log")


def delivered(n, records):
    transaction, idx = divmod(n, 5)
    second = transaction * 5 * 336 * 86_400 // YEAR_ENTRIES
    month, day = divmod(second // 86_400, 28)
    now, before = n // records, n // records - 1
    image = {"id": str(n % records), "status": f"s{now}", "email": f"user{n % records}@example.org", "notes": "lorem ipsum dolor sit amet " * 3, "total": f"{n % records % 999}.10"}
    return json.dumps({"action": "update" if now else "insert", "record": image, "changes": {"status": f"s{before}"} if now else None, "metadata": {
        "table_schema": "public", "table_name": "orders", "record_pks": [image["id"]], "commit_lsn": 1_000_000 + transaction * 1_000, "commit_idx": idx,
        "commit_timestamp": f"2026-{month + 1:02}-{day + 1:02}T{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}.{transaction % 1_000_000:06}Z",
        "idempotency_key": f"{n}", "database": {"id": "year", "name": "shop"},
        "transaction_annotations": {"username": f"u{transaction % 50}", "request_id": f"req-{transaction}"}}})


def of_a_year():
    for name, question in YEAR.items():
        progress(name)
        yield row(name, compared(question, [()]), question[2], f"{YEAR_ENTRIES:,} delivered entries in {MONTHS} months")


def measure():
    reconfigure("audit_cdc.capture_enabled", "off")
    rows = list(of_a_table(captured()))
    execute("CALL audit_capture_stop(discard_pending => true)")
    execute("DROP TABLE orders CASCADE; DROP PROCEDURE work")
    reconfigure("audit_cdc.capture_enabled", "on")
    year()
    return rows + list(of_a_year())
