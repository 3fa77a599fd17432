"""The messages that are timed: changes of a shop's orders as Sequin sends them, about 1 kB each, always the same.

Message n depends on n alone, so any part can be made at any time. Commits go on in order, one each 2.5 s: 20 million messages
last until February 2027. A transaction is five changes of five different orders: one that is new, and four older ones, mostly young. Every
fifth transaction deletes the oldest of its five. Half of the transactions are annotated.
"""

import base64

TRANSACTION = 5  # messages
EARLIER_ORDERS = 1_000_000  # there before the first message
DATABASE_ID = "3f6b7a52-5d1c-4c0e-9a51-0d9f3a1c0001"
MONTHS = [(11, 30, 2026), (12, 31, 2026), (1, 31, 2027), (2, 28, 2027), (3, 31, 2027)]
DAYS = [f"{year}-{month:02}-{day:02}" for month, days, year in MONTHS for day in range(1, days + 1)]

# How many transactions ago the order was new, of the second to the fifth message: ranges that do not overlap.
AGES = [(1, 999), (1_000, 9_999), (10_000, 99_999), (100_000, 999_999)]
STATUSES = ["new", "paid", "packed", "shipped", "delivered", "returned", "refunded"]

MESSAGE = (
    '{{"action":"{action}","changes":{changes},"metadata":{{"commit_idx":{idx},"commit_lsn":{lsn},"commit_timestamp":"{at}","consumer":{{"annotations":'
    '{{"team":"audit","tier":1}},"id":"7c9e6679-7425-40de-944b-e07fc1f90ae7","name":"audit_sink"}},"database":{{"annotations":{{"env":"bench"}},'
    '"database":"shop","hostname":"db.example","id":"' + DATABASE_ID + '","name":"shop"}},"database_name":"shop","enrichment":null,'
    '"idempotency_key":"{key}","record_pks":["{order}"],"table_name":"orders","table_schema":"public","transaction_annotations":{annotations}}},'
    '"record":{{"id":{order},"customer_id":"{order:08x}-0000-4000-8000-{order:012x}","status":"{status}","total":"{total}","placed_on":"2024-03-02",'
    '"email":"user{order}@example.org","ship_to":"(\\"{order} Analytical Way\\",London,W1,2020-01-01)",'
    '"notes":"lorem ipsum dolor sit amet consectetur {random:020}","updated_at":"{at}","active":true,"score":0.{fraction:016}}}}}')


def scattered(n):
    """A number below 2**64 that looks random (splitmix64)."""
    n = (n + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    n = (n ^ n >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    n = (n ^ n >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return n ^ n >> 31


def message(n):
    transaction, idx = divmod(n, TRANSACTION)
    random = scattered(n)
    lsn = 61_536_216 + transaction * 5_000
    day, second = divmod(transaction * 5 // 2, 86_400)
    total = f"{random % 1000}.{random // 1000 % 100:02}"
    status = random // 100_000 % 6
    order, action, changes = EARLIER_ORDERS + transaction, "insert", "null"
    if idx > 0:
        youngest, oldest = AGES[idx - 1]
        order -= youngest + random % (oldest - youngest + 1)
        action = "update"
        changes = f'{{"status":"{STATUSES[status]}","total":"1.10","updated_at":null}}'
    if idx == 4 and transaction % 5 == 0:
        action, changes = "delete", "null"
    return MESSAGE.format(
        action=action, changes=changes, idx=idx, lsn=lsn, order=order, random=random, fraction=random % 10**16, total=total,
        status=STATUSES[status + (action == "update")],
        at=f"{DAYS[day]}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{transaction % 1_000_000:06}Z",
        key=base64.b64encode(b"%d:%d" % (lsn, idx)).decode(),
        annotations=f'{{"username":"u{transaction % 50}","request_id":"req-{transaction}","source":"web"}}' if transaction % 2 else "null")


def body(first, last):
    """Of the messages from `first` up to, without, `last`."""
    return ('{"data":[' + ",".join(map(message, range(first, last))) + "]}").encode()


def bodies(count, size):
    return [body(first, min(first + size, count)) for first in range(0, count, size)]


def body_of(size):
    """One body of about so many bytes, and how many messages it has."""
    count = size // len(message(TRANSACTION - 1))
    return body(0, count), count
