"""Nothing lost: what cannot be taken is set aside, whole, and can be tried again."""

import json

import psycopg2
import pytest
from conftest import batch, change


def without(field, **fields):
    message = change(**fields)
    (message if field in message else message["metadata"]).pop(field)
    return message


BAD = {
    "no action": (without("action"), "2203A"), "no record": (without("record"), "2203A"), "no metadata": (without("metadata"), "2203A"),
    "no table": (without("table_name"), "2203A"), "no schema": (without("table_schema"), "2203A"),
    "no time": (without("commit_timestamp"), "2203A"), "no lsn": (without("commit_lsn"), "2203A"), "no idx": (without("commit_idx"), "2203A"),
    "unknown action": (change(action="upsert"), "22023"), "lsn as text": (change(lsn="5", key="k"), "22023"),
    "lsn beyond bigint": (change(lsn=2**63), "22003"), "idx beyond integer": (change(idx=2**31), "22003"),
    "no such day": (change(time="2026-02-30T00:00:00Z"), "22007"), "infinite time": (change(time="infinity"), "22007"),
    "a time before computers": (change(time="0044-03-15T00:00:00Z"), "22008"),
    "record as list": (change(record=[1]), "22023"), "keys as object": ({**change(), "metadata": {**change()["metadata"], "record_pks": {}}}, "22023"),
    "nul in a column's name": (change(record={"a\0": 1}), "22P05"), "nul in a name": (change(table="a\0"), "22P05"),
    "half a surrogate in a column's name": (change(record={"a\ud800": 1}), "22P02"), "a name without end": (change(table="t" * 5000), "54000"),
    "not an object": (7, "22023"), "null": ("null", "22023"), "a name that is empty": (change(table=""), "2203A"),
    "a key twice": (json.dumps(change()).replace('{"action"', '{"record": {"id": 9}, "action"'), "22030"),
    "a leap second": (change(time="2026-03-01T08:59:60.000000Z"), "22008"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_message_among_good_ones(db, name):
    bad, sqlstate = BAD[name]
    good = [change(n, lsn=5) for n in range(1, 8)]
    body = batch(good[:3] + [bad] + good[3:])
    assert db.ingest(body) == (8, 7, 0, 1)
    [(raw, code, reason, place, deliveries)] = db.rows("SELECT raw, sqlstate, reason, batch_position, deliveries FROM audit_rejects")
    assert raw == (bad if isinstance(bad, str) else json.dumps(bad))
    assert (code, place, deliveries) == (sqlstate, 4, 1), reason
    assert reason and reason[0].islower() or reason[0] == '"'
    assert db.ingest(body) == (8, 0, 7, 1)
    assert db.rows("SELECT deliveries, batch_position FROM audit_rejects") == [(2, 4)]


@pytest.mark.parametrize("body", ["", "no json", '{"data":[', "[1,]", "[]\ufeff", '{"a":"\x01"}'])
def test_a_broken_body_is_set_aside_whole(db, body):
    assert db.ingest(body) == (1, 0, 0, 1)
    assert db.rows("SELECT raw, sqlstate, batch_position FROM audit_rejects") == [(body, "22P02", None)]


def test_a_reject_names_its_table_where_it_can_be_read(db):
    db.ingest(batch([change(lsn="5", key="k"), without("table_name"), change(1, record={"a\0": 1})]))
    assert db.rows("SELECT database_id, table_schema, table_name FROM audit_rejects ORDER BY batch_position") == [
        ("d1", "public", "orders"), (None, None, None), ("d1", "public", "orders")]
    assert db.rows("SELECT table_name, rejects FROM audit_status()") == [("orders", 2), (None, 1)]


def test_many_poison_messages(db):
    messages = [change(n, record={"a\0" if n % 3 == 0 else "a": "x"}) for n in range(999)]
    assert db.ingest(batch(messages)) == (999, 666, 0, 333)


def test_annotations_that_are_no_object_are_kept_and_lift_nothing(db):
    for n, annotations in enumerate([[1, "username"], "username", 5, True, {"username": None, "metadata": None, "n": "x"}]):
        db.ingest(batch([change(n, annotations=annotations)]))
        assert db.rows("SELECT annotations, username, metadata FROM audit_logs WHERE commit_idx = %s", n) == [(annotations, None, None)]


def test_annotations_are_lifted(db):
    db.ingest(batch([change(annotations={"username": "ada", "source": "web", "request_id": 7, "metadata": {"why": 1.5}, "k": 0})]))
    assert db.rows("SELECT username, source, request_id, metadata, annotations ->> 'k' FROM audit_logs") == [
        ("ada", "web", "7", {"why": 1.5}, "0")]


def test_long_values_never_refuse_a_change(db):
    """Index entries are limited to about 2,700 bytes; incompressible text shows it."""
    import random
    long = "".join(chr(random.Random(1).randrange(0x4E00, 0x9FFF)) for _ in range(1)) + "".join(
        chr(random.Random(n).randrange(0x4E00, 0x9FFF)) for n in range(5000))
    assert db.ingest(batch([change(pks=[long], key=long, annotations={"username": long, "request_id": long})])) == (1, 1, 0, 0)
    [(record_id, pks, key, username, kept)] = db.rows("SELECT record_id, record_pks, idempotency_key, username, annotations ->> 'username' FROM audit_logs")
    assert (pks, key, username, kept) == ([long], long, None, long) and record_id.startswith("sha256:")


def test_a_fix_and_a_retry(db):
    """The fix: here a constraint of the owner's that was too narrow."""
    db.ingest(batch([change(0)]))
    db.run("ALTER TABLE audit_cdc_internal.log ADD CONSTRAINT narrow CHECK (commit_idx < 5)")
    assert db.ingest(batch([change(n) for n in range(8)])) == (8, 4, 1, 3)
    assert db.rows("SELECT * FROM audit_retry_rejects()") == [(3, 0, 0, 3)]
    assert db.rows("SELECT DISTINCT sqlstate, retries, stored_at FROM audit_rejects") == [("23514", 1, None)]
    db.run("ALTER TABLE audit_cdc_internal.log DROP CONSTRAINT narrow")
    [first] = db.rows("SELECT min(id) FROM audit_rejects")[0]
    assert db.rows("SELECT * FROM audit_retry_rejects(ARRAY[%s])", first) == [(1, 1, 0, 0)]
    assert db.value("SELECT count(*) FROM audit_rejects WHERE stored_at IS NULL") == 2
    assert db.rows("SELECT * FROM audit_retry_rejects()") == [(2, 2, 0, 0)]
    assert db.rows("SELECT * FROM audit_retry_rejects()") == [(0, 0, 0, 0)], "once each"
    assert db.value("SELECT count(*) FROM audit_logs") == 8
    assert db.rows("SELECT sum(rejects)::int, sum(conflicts)::int FROM audit_status()") == [(0, 0)]
    assert db.rows("SELECT sum(deliveries)::int FROM audit_rejects") == [(3,)], "a retry is no delivery"


def test_no_message_hides_behind_a_key_that_stands_twice(db):
    body = '{"data":%s,"data":[]}' % json.dumps([change()])
    assert db.ingest(body) == (1, 0, 0, 1)
    assert db.rows("SELECT raw, sqlstate, batch_position FROM audit_rejects") == [(body, "22030", None)]


def test_a_row_with_a_column_called_data_is_kept_whole(db):
    row = '{"data":[1,2],"id":5}'
    assert db.ingest(row) == (1, 0, 0, 1)
    assert db.rows("SELECT raw FROM audit_rejects") == [(row,)]


def test_retrying_what_is_not_there(db):
    assert db.rows("SELECT * FROM audit_retry_rejects(ARRAY[NULL, 77])") == [(0, 0, 0, 0)]


def test_an_element_that_is_a_list_stays_one_reject(db):
    db.ingest("[[1, 2]]")
    assert db.rows("SELECT received, rejected FROM audit_retry_rejects()") == [(1, 1)]
    assert db.rows("SELECT raw, retries, stored_at FROM audit_rejects") == [("[1, 2]", 1, None)]


def test_a_body_that_can_be_read_by_now(db):
    """As after a later release: its messages are taken, or set aside one by one."""
    db.ingest("broken")
    db.run("UPDATE audit_cdc_internal.rejects SET raw = %s", batch([change(), change(1, table="")]))
    assert db.rows("SELECT * FROM audit_retry_rejects()") == [(2, 1, 0, 1)]
    assert db.rows("SELECT batch_position, sqlstate, stored_at IS NOT NULL FROM audit_rejects ORDER BY id") == [(None, "22P02", True), (2, "2203A", False)]


def test_a_copy_of_what_was_refused(db):
    """Counted as what became of it; and a copy that can be stored is stored."""
    bad, good = change(record={"a\0": 1}), change(record={"a": "x"})
    assert db.ingest(batch([bad, bad, bad])) == (3, 0, 0, 3)
    assert db.rows("SELECT deliveries FROM audit_rejects") == [(3,)]
    assert db.ingest(batch([bad, good, bad, good])) == (4, 1, 1, 2)
    conflict = change(action="delete")
    assert db.ingest(batch([conflict, conflict, good])) == (3, 0, 1, 2)
    assert db.rows("SELECT deliveries FROM audit_rejects WHERE sqlstate = '23505'") == [(2,)]


def test_rows_with_a_column_called_data_stay_apart(db):
    rows = ['{"id":5,"data":{"action":"click"}}', '{"id":6,"data":{"action":"click"}}', '{"id":7,"data":[{"action":"click"}]}']
    assert db.ingest("[" + ",".join(rows) + "]") == (3, 0, 0, 3)
    assert db.ingest(rows[2]) == (1, 0, 0, 1)
    assert sorted(raw for (raw,) in db.rows("SELECT raw FROM audit_rejects")) == rows


def test_an_empty_list_as_a_message_stays_a_reject(db):
    db.ingest("[[1,2],[]]")
    assert db.rows("SELECT * FROM audit_retry_rejects()") == [(2, 0, 0, 2)]
    assert db.value("SELECT count(*) FROM audit_rejects WHERE stored_at IS NULL") == 2


def test_a_conflict_stays_open(db):
    db.ingest(batch([change(), change(action="delete")]))
    assert db.rows("SELECT * FROM audit_retry_rejects()") == [(1, 0, 0, 1)]
    assert db.rows("SELECT sqlstate, retries FROM audit_rejects WHERE stored_at IS NULL") == [("23505", 1)]


def test_spelling_does_not_make_another_reject(db):
    db.ingest('[{"action":"x","b":"é"}]')
    assert db.rows("SELECT * FROM audit_ingest(%s::jsonb)", '[{ "b": "\\u00e9", "action": "x"}]') == [(1, 0, 0, 1)]
    assert db.rows("SELECT deliveries FROM audit_rejects") == [(2,)]


def test_any_rejection_can_fail_the_whole_call(db):
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.on_reject = 'error'")
    with pytest.raises(psycopg2.Error) as raised:
        db.ingest(batch([change(), change(1, record={"secret\0": "hush"})]), connection)
    assert raised.value.pgcode == "22P05"
    assert "hush" not in str(raised.value) and "secret" not in str(raised.value)
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation):
        db.ingest("broken", connection)
    assert db.rows("SELECT (SELECT count(*) FROM audit_logs), (SELECT count(*) FROM audit_rejects)") == [(0, 0)]
    assert db.ingest(batch([change()]), connection) == (1, 1, 0, 0)


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "57014", "40001", "58030", "XX001"])
def test_what_must_be_an_error_stays_one(db, sqlstate):
    """A full disk and its like, as a trigger of the owner's: the caller must not acknowledge."""
    db.run(f"""CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF new.commit_idx = 7 THEN RAISE 'not a matter of data' USING ERRCODE = '{sqlstate}'; END IF; RETURN new; END $$;
               CREATE TRIGGER fail BEFORE INSERT ON audit_cdc_internal.log FOR EACH ROW EXECUTE FUNCTION fail()""")
    with pytest.raises(psycopg2.Error) as raised:
        db.ingest(batch([change(n, record={"a": "\0" if n == 3 else 1}) for n in range(10)]))
    assert raised.value.pgcode == sqlstate
    assert db.rows("SELECT (SELECT count(*) FROM audit_logs), (SELECT count(*) FROM audit_rejects)") == [(0, 0)]
    assert db.ingest(batch([change(1)])) == (1, 1, 0, 0)


def test_reasons_quote_no_value(db):
    for bad, _ in BAD.values():
        db.ingest(batch([bad]))
    db.run("ALTER TABLE audit_cdc_internal.log ADD CHECK (new_values ->> 'password' IS NULL)")
    db.ingest(batch([change(record={"password": "hunter2"})]))
    assert db.value("SELECT count(*) FROM audit_rejects WHERE reason ~ 'hunter2|44-03|upsert' OR hint ~ 'hunter2'") == 0


def test_null_and_literals(db):
    for sql in ("SELECT audit_ingest(NULL)", "SELECT audit_ingest(NULL::jsonb)"):
        with pytest.raises(psycopg2.errors.NullValueNotAllowed):
            db.run(sql)
    assert db.value("""SELECT audit_ingest('{"data":[]}')::text""") == "(0,0,0,0)"
    db.run("PREPARE untyped AS SELECT audit_ingest($1)")
