"""What examples/django promises beyond requests: each way in which Django writes is signed, and only within `signed`."""

import json
import os
import subprocess
import sys

import pytest
from capture_helpers import capture, source  # noqa: F401 (fixture)
from conftest import TOP
from example_helpers import PYTHON, directly, shop_database  # noqa: F401 (fixture)

pytestmark = pytest.mark.once

PROGRAM = """
import json, os, sys
import django
django.setup()
from django.db import IntegrityError, connection, transaction
from audit import signed
from shop.models import Order, OrderEvent

def add(id, note):
    return Order.objects.create(id=id, note=note)

def autocommit(note):
    order = add(6, note)
    order.note += " changed"
    order.save()
    Order.objects.bulk_create([Order(id=2, note=note), Order(id=3, note=note)])
    list(Order.objects.iterator())
    with connection.cursor() as cursor:
        cursor.execute("WITH gone AS (DELETE FROM orders WHERE id = 3 RETURNING id) SELECT * FROM gone")
        assert cursor.fetchall() == [(3,)]
        cursor.executemany("INSERT INTO orders VALUES (%s, %s)", [(4, note), (5, note)])

def twice(note):
    @transaction.atomic
    def again(id):
        add(id, note)
    again(10)
    again(11)

def after_a_rollback(note):
    try:
        with transaction.atomic():
            add(20, note)
            add(20, note)
    except IntegrityError:
        pass
    with transaction.atomic():
        add(21, note)

def after_a_savepoint(note):
    with transaction.atomic():
        try:
            with transaction.atomic():
                add(30, note)
                add(30, note)
        except IntegrityError:
            pass
        add(31, note)

def by_hand(note):
    transaction.set_autocommit(False)
    add(40, note)
    transaction.commit()
    add(41, note)
    transaction.rollback()
    add(42, note)
    transaction.commit()
    transaction.set_autocommit(True)

def after_reading(note):
    with transaction.atomic():
        order = Order.objects.select_for_update().get(id=6)
        order.delete()

def on_commit(note):
    with transaction.atomic():
        add(50, note)
        transaction.on_commit(lambda: add(51, note))

for work in (autocommit, twice, after_a_rollback, after_a_savepoint, by_hand, after_reading, on_commit):
    with signed("billing", "cron", work.__name__):
        work(work.__name__)
add(60, "nobody")
with transaction.atomic():
    with signed("billing", request_id="outer"):
        add(70, "outer")
        try:
            with transaction.atomic():
                with signed("other", request_id="inner"):
                    add(71, "rolled back")
                    add(71, "rolled back")
        except IntegrityError:
            pass
        with signed("other", request_id="inner"):
            add(72, "inner")
        add(73, "outer")
    add(74, "nobody")
with signed("billing", request_id="inside"):
    try:
        with signed("other", request_id="other"):
            add(61, "other")
            raise KeyError
    except KeyError:
        add(62, "inside")
"""


def test_each_way_to_write_is_signed(shop_database):  # noqa: F811
    environment = {**os.environ, **PYTHON, **directly(shop_database), "DJANGO_SETTINGS_MODULE": "shop.settings"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=TOP / "examples" / "django", env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    capture(shop_database)
    found = shop_database.rows("""SELECT request_id, username, source, json_agg(coalesce(new_values, old_values) -> 'id' ORDER BY commit_lsn, commit_idx)::text
                                  FROM audit_logs WHERE record_id <> '1' GROUP BY 1, 2, 3""")
    assert {(name, user, source): json.loads(ids) for name, user, source, ids in found} == {
        (None, None, None): [60, 74],
        ("outer", "billing", None): [70, 73],
        ("inner", "other", None): [72],
        ("autocommit", "billing", "cron"): [6, 6, 2, 3, 3, 4, 5],
        ("twice", "billing", "cron"): [10, 11],
        ("after_a_rollback", "billing", "cron"): [21],
        ("after_a_savepoint", "billing", "cron"): [31],
        ("by_hand", "billing", "cron"): [40, 42],
        ("after_reading", "billing", "cron"): [6],
        ("on_commit", "billing", "cron"): [50, 51],
        ("other", "other", None): [61],
        ("inside", "billing", None): [62],
    }
