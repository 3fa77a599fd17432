"""audit_ingest(text[]): the bodies of a queue in one call."""

import psycopg2
import pytest
from conftest import batch, change

FIRST, SECOND, THIRD = (change(n, record={"id": n}) for n in range(3))


def test_bodies_of_every_shape_in_one_call(db):
    import json
    bodies = [json.dumps(FIRST), batch([SECOND, FIRST]), json.dumps([THIRD])]
    assert db.rows("SELECT * FROM audit_ingest(%s::text[])", bodies) == [(4, 3, 1, 0)]
    assert db.rows("SELECT * FROM audit_ingest(%s::text[])", bodies) == [(4, 0, 4, 0)]


def test_a_body_that_is_no_json_spoils_no_other(db):
    bodies = [batch([FIRST, SECOND]), '{"broken', batch([{"id": 1}, THIRD])]
    assert db.rows("SELECT * FROM audit_ingest(%s::text[])", bodies) == [(5, 3, 0, 2)]
    assert db.rows("SELECT raw, batch_position FROM audit_rejects ORDER BY batch_position") == [('{"id": 1}', 3), ('{"broken', None)]


def test_an_untyped_parameter_is_still_text(db):
    assert db.psql(text=f"PREPARE p AS SELECT inserted FROM audit_ingest($1); EXECUTE p($b${batch([FIRST])}$b$)").stdout == "1\n"
    assert db.psql(text="SELECT received FROM audit_ingest('[]')").stdout == "0\n"


def test_empty_and_null(db):
    assert db.rows("SELECT * FROM audit_ingest('{}'::text[])") == [(0, 0, 0, 0)]
    for nothing in ("NULL::text[]", "ARRAY['[]', NULL]"):
        with pytest.raises(psycopg2.Error) as error:
            db.run(f"SELECT audit_ingest({nothing})")
        assert error.value.pgcode == "22004" and error.value.diag.message_primary == "body must not be null"


def test_on_reject_error_fails_the_whole_call(db):
    connection = db.connect()
    connection.cursor().execute("SET audit_cdc.on_reject = error")
    with pytest.raises(psycopg2.Error) as error:
        db.rows("SELECT * FROM audit_ingest(%s::text[])", [batch([FIRST]), '{"id": 1}'], connection=connection)
    assert error.value.pgcode == "2203A" and "Message 2" in error.value.diag.message_detail
    assert db.value("SELECT count(*) FROM audit_logs") == 0


def test_many_at_once_are_stored_as_one_by_one(db):
    """Many go by COPY, whose text format has characters of its own; one goes by INSERT."""
    import json
    odd = ["\\N", "\\.", "a\tb", "a\nb", "a\r\nb", "\\", "\\\\n", "ä€", "", " ", "\"{},"]
    many = [change(n, pks=(key,), key=f"k{n}", record={"id": key, "nested": [key, {key: key}]}) for n, key in enumerate(odd * 2)]
    spelled = [json.dumps(message, indent="\t").replace("\n", "\r\n") for message in many]
    entries = "SELECT to_jsonb(l) - '{id,created_at}'::text[] FROM audit_logs l ORDER BY commit_idx"
    connection = db.connect(client_encoding="LATIN1")
    assert db.rows("SELECT inserted FROM audit_ingest(convert_from(decode(%s, 'hex'), 'UTF8'))", batch(spelled).encode().hex(), connection=connection) == [(len(many),)]
    together = db.rows(entries)
    db.run("SELECT audit_allow_removal(); DROP EXTENSION audit_cdc CASCADE; CREATE EXTENSION audit_cdc")
    for message in spelled:
        db.ingest(message)
    assert together == db.rows(entries)
