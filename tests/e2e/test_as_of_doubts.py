"""audit_as_of where changes do not tell their old key: what it shows was there, and what it does not show is unknown."""

import random

import pytest
from capture_helpers import captured, publish, source, start, table  # noqa: F401 (fixtures)
from conftest import batch, change
from projection_helpers import run
from test_as_of import T, as_of, at, describe, notices

DOUBT = "a change that does not tell its old key may have been of it"


def test_keys_that_are_swapped_within_a_transaction(db):
    """By way of 9; TOAST stays with its row."""
    describe(db, "default")
    row = lambda v: {"v": v, "big": "unchanged_toast"}
    db.ingest(batch([at(1, 0, "insert", 1, row={"v": "a", "big": "A"}), at(1, 1, "insert", 2, row={"v": "b", "big": "B"}),
                     *(at(2, place, id_=id_, changes={}, row=row(v)) for place, (id_, v) in enumerate([(9, "a"), (1, "b"), (2, "a")]))]))
    rows, unknown = as_of(db, 2)
    assert unknown == {"1": DOUBT, "9": DOUBT, "2": "columns that were not sent"} and rows == {2: {"v": "a"}}


def test_one_stray_makes_others(db):
    describe(db, "default")
    db.ingest(batch([at(1, 0, "insert", 1, row={"v": "a"}), at(1, 1, "insert", 2, row={"v": "b"}), at(3, id_=9, changes={}, row={"v": "c"}), at(4, id_=2, changes={}, row={"v": "d"}),
                     at(5, id_=2, changes={}, row={"v": "e"})]))
    assert as_of(db, 4) == ({2: {"v": "d"}}, {"1": DOUBT, "9": DOUBT}), "2 may have been 1, or 9"
    assert as_of(db, 5) == ({2: {"v": "e"}}, {"1": DOUBT, "9": DOUBT}), "2 was 2"


def test_a_record_may_have_been_there_before_the_log_begins(db):
    """3 became 9, and there is another 3."""
    describe(db, "default")
    db.ingest(batch([at(1, 0, "insert", 1), at(2, id_=9, changes={}), at(3, action="insert", id_=3)]))
    assert as_of(db, 1)[1] == {"3": DOUBT, "9": "the log has no insert or backfill of it up to then"} and as_of(db, 2)[1] == {"1": DOUBT}
    assert as_of(db, 3)[0].keys() == {3, 9}


class Orders:
    """A table whose changes are sent without their old values, from some moment on."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.rows, self.messages, self.states = {}, [], []

    def send(self, action, id_, row, big_is_sent=True):
        image = row if action == "insert" or big_is_sent else {**row, "big": "unchanged_toast"}
        self.messages.append(at(self.second, len(self.messages), action, id_, changes={}, row=image))

    def step(self):
        dice = self.dice
        id_, other = dice.randint(1, 6), dice.randint(1, 6)
        row = {"v": str(dice.randint(0, 3)), "big": str(dice.randint(0, 3))}
        if id_ not in self.rows:
            self.rows[id_] = row
            self.send("insert", id_, row)
        elif (what := dice.random()) < 0.2:
            self.send("delete", id_, dict.fromkeys(self.rows.pop(id_)))
        elif what < 0.5 and other not in self.rows:
            self.move(id_, other)
        elif what < 0.7 and id_ != other and other in self.rows and 7 not in self.rows:
            for old, new in ((id_, 7), (other, id_), (7, other)):
                self.move(old, new)
        else:
            toast = dice.random() < 0.5
            self.rows[id_] = {**row, "big": self.rows[id_]["big"]} if toast else row
            self.send("update", id_, self.rows[id_], not toast)

    def move(self, old, new):
        self.rows[new] = self.rows.pop(old)
        self.send("update", new, self.rows[new], self.dice.random() < 0.5)

    def run(self, seconds):
        for self.second in range(1, seconds + 1):
            for _ in range(self.dice.randint(1, 3)):
                self.step()
            self.states.append((self.second, dict(self.rows)))
        return self


def holds(rows, unknown, truth, known_ids):
    """Nothing is shown that was not there, and nothing was there that is neither shown nor said to be unknown."""
    for id_, row in rows.items():
        if truth.get(id_) is None or any(truth[id_][column] != value for column, value in row.items()):
            return False
    return all(id_ in rows or str(id_) in unknown or id_ not in known_ids for id_ in truth)


@pytest.mark.once
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("described", [True, False])
def test_whatever_happens_without_old_keys_is_never_told_wrongly(db, seed, described):
    if described:
        describe(db, "default", column_types={"id": "integer", "v": "text", "big": "text"})
    orders = Orders(seed).run(25)
    lost = orders.dice.choice([0, 0, 5, 20])  # where the log begins
    messages = orders.messages[lost:]
    db.ingest(batch(orders.dice.sample(messages, len(messages))))
    known = {message["record"]["id"] for message in messages}
    told = 0
    for second, truth in orders.states:
        if second * 1000 >= messages[0]["metadata"]["commit_lsn"]:
            rows, unknown = as_of(db, second)
            assert holds(rows, unknown, truth, known), (second, rows, unknown, truth)
            told += len(rows)
            id_ = orders.dice.choice(sorted(known))
            assert as_of(db, second, key=str(id_)) == ({id_: rows[id_]} if id_ in rows else {}, {str(id_): unknown[str(id_)]} if str(id_) in unknown else {})
    assert told > 0


@pytest.mark.once
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("identity", ["USING INDEX tickets_seat", "DEFAULT", "FULL"])
def test_what_capture_says_of_the_old_row_is_enough(source, seed, identity):
    """Rows that were there before capture, keys that move, under any replica identity."""
    dice = random.Random(seed)
    source.run(f"CREATE TABLE tickets (id int PRIMARY KEY, seat int NOT NULL, v text); CREATE UNIQUE INDEX tickets_seat ON tickets (seat); ALTER TABLE tickets REPLICA IDENTITY {identity};"
               "INSERT INTO tickets SELECT n, n, 'early' FROM generate_series(1, 3) AS n")
    publish(source, "TABLE tickets")
    start(source)
    states = []
    for _ in range(25):
        n, m = dice.randint(1, 6), dice.randint(1, 6)
        source.run(dice.choice([
            f"INSERT INTO tickets VALUES ({n}, {m}, 'new') ON CONFLICT DO NOTHING",
            f"UPDATE tickets SET id = {m} WHERE id = {n} AND NOT EXISTS (SELECT FROM tickets WHERE id = {m})",
            f"UPDATE tickets SET seat = {m} WHERE id = {n} AND NOT EXISTS (SELECT FROM tickets WHERE seat = {m})",
            f"UPDATE tickets SET v = v || '{m}' WHERE id = {n}",
            f"DELETE FROM tickets WHERE id = {n} AND id > 1"]))
        source.run("CALL audit_capture()")
        states.append((source.value("SELECT max(commit_lsn) FROM audit_logs"), {id_: (seat, v) for id_, seat, v in source.rows("SELECT * FROM tickets")}))
    known = {int(id_) for (id_,) in source.rows("SELECT DISTINCT record_id FROM audit_logs WHERE record_id <> ''")}
    for lsn, truth in states:
        if lsn is not None:
            rows = {id_: (seat, v) for id_, seat, v in source.rows("SELECT * FROM audit_as_of(NULL::tickets, lsn => '0/0'::pg_lsn + %s)", lsn)}
            unknown = source.rows("SELECT record_id FROM audit_as_of_unknown(NULL::tickets, lsn => '0/0'::pg_lsn + %s)", lsn)
            unknown = {id_ for (id_,) in unknown}
            assert all(truth.get(id_) == row for id_, row in rows.items()), (lsn, rows, truth)
            assert all(id_ in rows or str(id_) in unknown or id_ not in known for id_ in truth), (lsn, rows, unknown, truth)


def test_a_key_that_got_another_name_or_another_column(source):
    source.run("CREATE TABLE tickets (id int PRIMARY KEY, code text NOT NULL UNIQUE, v text); ALTER TABLE tickets REPLICA IDENTITY FULL")
    publish(source, "TABLE tickets")
    start(source)
    for statement in ("INSERT INTO tickets VALUES (1, 'a', 'x'), (5, 'b', 'x')", "UPDATE tickets SET id = 2 WHERE id = 1", "ALTER TABLE tickets RENAME id TO nr", "UPDATE tickets SET v = 'y' WHERE nr = 2"):
        source.run(statement)
        source.run("CALL audit_capture()")
    assert source.rows("SELECT audit_as_of('tickets')") == [({"nr": 2, "code": "a", "v": "y"},)]
    assert source.rows("SELECT record_id, reason FROM audit_as_of_unknown('tickets') ORDER BY 1") == [("1", DOUBT), ("5", DOUBT)], "whether id was the key when it changed nobody can tell"
    source.run("ALTER TABLE tickets DROP CONSTRAINT tickets_pkey; ALTER TABLE tickets ADD PRIMARY KEY (code); UPDATE tickets SET v = 'z' WHERE code = 'a'")
    source.run("CALL audit_capture()")
    assert source.rows("SELECT audit_as_of('tickets')") == [({"nr": 2, "code": "a", "v": "z"},)]
    assert source.rows("SELECT record_id, reason FROM audit_as_of_unknown('tickets') ORDER BY 1") == [
        ("1", DOUBT), ("2", "the table has another key by now"), ("5", DOUBT)]


def test_two_rows_have_a_key_for_a_time_and_a_third_comes(db):
    """Its key is deferrable."""
    describe(db, "full")
    db.ingest(batch([at(1, 0, "insert", 2, row={"v": "a"}), at(1, 1, "insert", 4, row={"v": "b"}), at(1, 2, "insert", 5, row={"v": "c"}),
                     at(2, 0, id_=4, changes={"id": 2}, row={"v": "a"}), at(2, 1, id_=2, changes={"id": 4}, row={"v": "b"}),
                     at(3, 0, id_=4, changes={"id": 5}, row={"v": "c"}), at(3, 1, id_=5, changes={"id": 4}, row={"v": "a"})]))
    # FULL tells each time which of both went on
    assert as_of(db, 3) == ({2: {"v": "b"}, 4: {"v": "c"}, 5: {"v": "a"}}, {})


def test_rows_without_a_key_when_the_columns_change(source):
    source.run("CREATE TABLE t (a int, v text, c int); ALTER TABLE t REPLICA IDENTITY FULL")
    publish(source, "TABLE t")
    start(source)
    for statement in ("INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1)", "ALTER TABLE t DROP c", "DELETE FROM t WHERE a = 1"):
        source.run(statement)
    source.run("CALL audit_capture()")
    assert source.rows("SELECT audit_as_of('t')") == []
    assert {reason for (reason,) in source.rows("SELECT reason FROM audit_as_of_unknown('t')")} == {"without a key, rows from before and after a change of the table's columns cannot be told apart"}


def test_changes_that_were_set_aside_are_said_to_be_missing(db):
    db.ingest(batch([at(1, action="insert", row={"v": "a"})]))
    assert "set aside" not in notices(db, "SELECT audit_as_of('orders')")
    db.ingest(batch([at(2, changes={"v": "a"}, row={"v\x00": "b"})]))
    assert "changes of this table were set aside" in notices(db, "SELECT audit_as_of('orders')")


def test_the_history_says_where_it_takes_the_key_for_the_same(db):
    db.ingest(batch([at(1, action="insert", row={"v": "a"}), at(2, changes={}, row={"v": "b"}), at(3, changes={"v": "b"}, row={"v": "c"})]))
    assert db.rows("SELECT changed, note FROM audit_history('orders', '1')") == [
        ({"id": {"new": 1}, "v": {"new": "a"}}, None), ({"v": {"old": "a", "new": "b"}}, "the key before this change was not sent: old_row is the row that had this one"),
        ({"v": {"old": "b", "new": "c"}}, None)]
