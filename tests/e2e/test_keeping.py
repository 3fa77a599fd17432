"""Retention, holds, erasures, masks and deliveries in any order, over twelve months, beside a model that knows no SQL."""

import random
import re

import psycopg2
import pytest
from conftest import batch, change
from test_retention import apply, at, keep, removed

pytestmark = pytest.mark.once
TABLES = "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p'"
NAMES = ("orders", "people")


class Entry:
    """What a message has brought, and what is left of it. States of a column: there, masked, gone."""

    def __init__(self, number, table, record, days):
        self.number, self.table, self.record, self.days = number, table, record, days
        self.states = {"name": "there", "email": "there"}
        self.is_erased = False

    def message(self):
        texts = {column: f"plant-{self.number}-{column}" for column in self.states}
        return change(lsn=1_000_000 + self.number, time=at(self.days), table=self.table, pks=(str(self.record),), record={"id": self.record, **texts})

    def plants(self):
        return {f"plant-{self.number}-{column}" for column, state in self.states.items() if state == "there"}


class Model:
    def __init__(self, db, chance):
        self.db, self.chance = db, chance
        self.sent, self.stored, self.holds, self.rules, self.horizons = [], [], {}, {}, {}
        self.masked, self.removed, self.erased = set(), 0, 0

    def is_held(self, entry):
        return any(table in (None, entry.table) and record in (None, entry.record) and not (record and entry.is_erased) for table, record in self.holds.values())

    def deliver(self):
        """New messages, and some that were delivered before, also those that are gone."""
        again = self.chance.sample(self.sent, min(len(self.sent), self.chance.randrange(6)))
        fresh = [Entry(len(self.sent) + n, self.chance.choice(NAMES), self.chance.randrange(1, 6), self.chance.randrange(1, 360) + 0.25) for n in range(self.chance.randrange(1, 12))]
        taken = [entry for entry in fresh if entry.days < self.horizons.get(entry.table, 1e9)]
        counts = self.db.ingest(batch([entry.message() for entry in fresh + again]))
        assert counts == (len(fresh) + len(again), len(taken), len(fresh) - len(taken) + len(again), 0)
        for entry in taken:
            for column in self.masked if entry.table == "people" else ():
                entry.states[column] = "masked"
        self.sent += fresh
        self.stored += taken

    def mask(self):
        column = self.chance.choice(("name", "email"))
        if column not in self.masked:
            self.db.run("SELECT audit_mask('public', 'people', %s)", [column])
            self.masked.add(column)

    def hold(self):
        name = str(self.chance.randrange(4))
        if name in self.holds:
            del self.holds[name]
            self.db.run("SELECT audit_release(%s, 'settled')", name)
        else:
            table = self.chance.choice((*NAMES, None))
            self.holds[name] = table, self.chance.choice((None, self.chance.randrange(1, 6))) if table else None
            table, record = self.holds[name]
            self.db.run("SELECT audit_hold(%s, 'a case', table_name => %s, record_id => %s)", name, table, record and str(record))

    def erase(self):
        table, record = self.chance.choice(NAMES), self.chance.randrange(1, 6)
        columns = self.chance.choice((None, ["email"], ["name", "email"]))
        found = [entry for entry in self.stored if (entry.table, entry.record, entry.is_erased) == (table, record, False)]
        losing = [entry for entry in found if columns is None or any(entry.states[column] != "gone" for column in columns)]
        call = "SELECT audit_erase('asked for', %s, %s, columns => %s)", table, str(record), columns
        try:
            self.db.rows(*call)
        except psycopg2.errors.ObjectNotInPrerequisiteState:
            assert any(map(self.is_held, losing))
            return
        except psycopg2.errors.UndefinedTable:
            assert not any(entry.table == table for entry in self.sent)
            return
        assert not any(map(self.is_held, losing))
        self.erased += len(losing)
        for entry in losing:
            entry.is_erased = columns is None
            entry.states |= dict.fromkeys(columns or entry.states, "gone")

    def retire(self):
        table, days = self.chance.choice(NAMES), self.chance.randrange(30, 360)
        keep(self.db, f"{days} days", table_name=table)
        self.rules[table] = days
        going = [entry for entry in self.stored if entry.days > self.rules.get(entry.table, 1e9) and not self.is_held(entry)]
        assert apply(self.db, f"batch_size => {self.chance.choice([1, 3, 1000])}") == len(going)
        for entry in going:
            self.horizons[entry.table] = min(self.horizons.get(entry.table, 1e9), self.rules[entry.table])
        self.removed += len(going)
        self.stored = [entry for entry in self.stored if entry not in going]

    def check(self):
        """What may be seen is seen, and nothing else, in any table."""
        there = set()
        for (table,) in self.db.rows(TABLES):
            for (text,) in self.db.rows(f"SELECT t::text FROM {table} AS t WHERE strpos(t::text, 'plant-') > 0"):
                there |= set(re.findall(r"plant-\d+-[a-z]+", text))
        assert there == set().union(*(entry.plants() for entry in self.stored))
        told = {lsn - 1_000_000: (table, record if record.startswith("erased:") is False else None) for lsn, table, record in self.db.rows("SELECT commit_lsn, table_name, record_id FROM audit_logs")}
        assert told == {entry.number: (entry.table, None if entry.is_erased else str(entry.record)) for entry in self.stored}
        counts = dict(self.db.rows("SELECT operation, sum((counts ->> 'entries')::int)::int FROM audit_operations WHERE counts ? 'entries' GROUP BY 1"))
        assert (counts.get("audit_apply_retention", 0), counts.get("audit_erase", 0)) == (self.removed, self.erased)
        assert (removed(self.db)[0] or 0, self.db.value("SELECT coalesce(sum(entries), 0)::int FROM audit_erasures")) == (self.removed, self.erased)


@pytest.mark.parametrize("seed", range(2))
def test_any_order(db, seed):
    model = Model(db, random.Random(seed))
    model.deliver()
    for _ in range(30):
        model.chance.choice((model.deliver, model.deliver, model.mask, model.hold, model.erase, model.erase, model.retire))()
        model.check()
    assert model.removed and model.erased and model.masked
    # the dead rows too are gone for good
    db.run("VACUUM FULL")
    model.check()
