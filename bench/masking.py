"""What masks cost: audit_ingest with masks on columns of the table, and where only another table has one, beside a log without any."""

import log
import messages
from harness import Row, check, execute, paired, ratios, seconds_of_calls, value
from settings import BATCH, MESSAGES, RUNS

WAYS = {"none": [], "of another table": [("carts", "email", "omit")], "omit": [("orders", "email", "omit")],
        "hash": [("orders", "email", "hash")], "three": [("orders", "email", "hash"), ("orders", "notes", "omit"), ("orders", "ship_to", "partial")]}


def measure():
    bodies = [(body,) for body in messages.bodies(MESSAGES, BATCH)]

    def ingest(masks):
        log.fresh()
        for table, column, how in masks:
            execute(f"SELECT audit_mask('public', '{table}', '{{{column}}}', '{how}')")
        taken = seconds_of_calls(log.INGEST, bodies)
        log.holds(MESSAGES)
        is_masked = any(table == "orders" for table, _, _ in masks)
        check(value("SELECT bool_or(new_values ? 'email') FROM audit_cdc_internal.log"), not is_masked, "an address in the log")
        return taken

    taken = paired(RUNS, {way: lambda masks=masks: ingest(masks) for way, masks in WAYS.items()})
    return [Row(f"masks, {way}/none", ratios(taken[way], taken["none"]), None, f"{MESSAGES:,} messages, {BATCH:,} a call", {"with": taken[way], "none": taken["none"]})
            for way in WAYS if way != "none"]
