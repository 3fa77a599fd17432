"""Who may deliver audit_ingest's messages cannot pass for capture, nor for another source."""

import json

import psycopg2
import pytest
from capture_helpers import capture, captured, paused, source  # noqa: F401
from conftest import admin, batch, change, until
from projection_helpers import roles  # noqa: F401
from test_as_of import notices

HERE = "SELECT audit_cdc_internal.this_database() ->> 'id'"
ROLES = ("origin_relay", "origin_other_relay", "origin_group", "origin_admin")


@pytest.fixture
def relays(db):
    for role in ROLES:
        admin(f"DROP ROLE IF EXISTS {role}")
        admin(f"CREATE ROLE {role} LOGIN")
    admin("GRANT audit_cdc_ingest TO origin_relay, origin_other_relay, origin_group")
    admin("GRANT audit_cdc_admin TO origin_admin")
    admin("GRANT origin_group TO origin_relay, origin_other_relay")
    yield db
    for role in ROLES:
        admin(f"DROP ROLE {role}")


def rejects(db, columns="sqlstate, origin, delivered_by"):
    return db.rows(f"SELECT {columns} FROM audit_rejects WHERE stored_at IS NULL ORDER BY id")


def as_captured(db, message):
    """As this server's own capture would say it."""
    return {**message, "metadata": {**message["metadata"], "database": {"id": db.value(HERE), "name": db.name}}}


def test_nobody_delivers_changes_of_this_server(paused):  # noqa: F811
    here = paused.value(HERE)
    server = here.split(".")[0]
    bodies = [batch([change(n, database=id_)]) for n, id_ in enumerate((here, server + ".1", server + "."))]
    for body in bodies:
        assert paused.ingest(body) == (1, 0, 0, 1)
    assert set(rejects(paused, "sqlstate, origin, delivered_by, database_id")) == {
        ("42501", "ingest", "postgres", id_) for id_ in (here, server + ".1", server + ".")}
    assert "of this server" in rejects(paused, "reason")[0][0] and "audit_capture_start" in rejects(paused, "hint")[0][0]
    assert paused.rows("SELECT * FROM audit_retry_rejects()") == [(3, 0, 0, 3)], "an admin's retry does not let it in"
    assert paused.value("SELECT count(*) FROM audit_logs") == 0


def test_each_entry_says_how_it_came(paused):  # noqa: F811
    paused.run("INSERT INTO t VALUES (1, 'a')")
    capture(paused)
    paused.run("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    paused.run("CALL audit_backfill('t')")
    paused.ingest(batch([change(), change(None, lsn=None, action="read", key="r", pks=["2"])]))
    found = set(paused.rows("SELECT table_name, action, origin FROM audit_logs WHERE table_name <> 'u'"))
    assert found == {("t", "insert", "capture"), ("t", "read", "backfill"), ("t", "complete", "backfill"), ("orders", "insert", "ingest"), ("orders", "read", "ingest")}


def forged(db, text, image):
    """Puts into the log, as audit_ingest did before it knew origins, what looks like a captured change."""
    message = json.loads(text)
    meta = message["metadata"]
    db.run("SELECT audit_cdc_internal.ensure_partitions(ARRAY[%s::timestamptz])", meta["commit_timestamp"])
    db.run("INSERT INTO audit_cdc_internal.audited_tables (database_id, database_name, table_schema, table_name) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
           meta["database"]["id"], meta["database"]["name"], meta["table_schema"], meta["table_name"])
    db.run("""INSERT INTO audit_cdc_internal.log (commit_lsn, commit_idx, commit_timestamp, identity, audited_table, action, origin, replica_identity, record_id,
                                                 old_values, new_values, unknown_columns, unknown_old_columns)
              SELECT %s, %s, %s, gen_random_uuid(), id, 'update', 'i', 'f', %s, %s, %s, '{}', '{}' FROM audit_cdc_internal.audited_tables WHERE table_name = %s""",
           meta["commit_lsn"], meta["commit_idx"], meta["commit_timestamp"], meta["record_pks"][0], json.dumps(image), json.dumps(message["record"]), meta["table_name"])


def test_undo_does_not_believe_what_was_delivered(paused):  # noqa: F811
    """A log may hold a forged entry from before such messages were refused."""
    paused.run("INSERT INTO t VALUES (1, 'true')")
    capture(paused)
    lsn, time = paused.rows("SELECT commit_lsn, commit_timestamp::text FROM audit_logs")[0]
    message = as_captured(paused, change(0, lsn=lsn + 8, action="update", table="t", pks=["1"], record={"id": 1, "v": "true"}, time=time))
    forged(paused, json.dumps(message), {"v": "forged"})
    assert paused.value("SELECT count(*) FROM audit_logs WHERE origin = 'ingest'") == 1
    entry = paused.value("SELECT id FROM audit_logs WHERE origin = 'ingest'")
    assert paused.rows("SELECT * FROM audit_undo_sql(%s)", entry) == []
    paused.run(f"SELECT audit_undo({entry})")
    assert paused.rows("SELECT * FROM t") == [(1, "true")]
    assert paused.rows("SELECT action, new_row ->> 'v' FROM audit_history('t', '1')") == [("insert", "true")]
    assert paused.rows("SELECT audit_as_of('t') ->> 'v'") == [("true",)]
    assert "forged" not in "".join(statement for (statement,) in paused.rows("SELECT statement FROM audit_replay_sql('t')"))


def test_what_is_delivered_first_hides_no_captured_change(paused):  # noqa: F811
    paused.run("INSERT INTO t VALUES (1, 'true')")
    [(text,)] = paused.rows("SELECT c::text FROM audit_pending_changes() AS c")
    assert paused.ingest(batch([text.replace("true", "other")])) == (1, 0, 0, 1)
    assert capture(paused) == 1
    assert paused.rows("SELECT new_values ->> 'v', origin FROM audit_logs") == [("true", "capture")]
    assert [code for (code,) in rejects(paused, "sqlstate")] == ["42501"]


def test_a_relay_delivers_only_its_sources(relays):
    relays.run("SELECT audit_allow_source('origin_relay', 'd1'), audit_allow_source('origin_relay', 'd2')")
    relay, other = (relays.connect(user=role) for role in ROLES[:2])
    assert relays.ingest(batch([change(0, database="d1"), change(1, database="d2"), change(2, database="d3")]), relay) == (3, 2, 0, 1)
    assert relays.ingest(batch([change(3, database="d3")]), other) == (1, 1, 0, 0), "who is not bound"
    assert rejects(relays) == [("42501", "ingest", "origin_relay")]
    assert "\"d3\"" in rejects(relays, "reason")[0][0] and "audit_allow_source" in rejects(relays, "hint")[0][0]
    assert relays.rows("SELECT * FROM audit_retry_rejects()") == [(1, 0, 0, 1)], "as who delivered it"
    relays.run("SELECT audit_allow_source('origin_relay', 'd3')")
    assert relays.rows("SELECT * FROM audit_retry_rejects()", connection=relays.connect(user="origin_admin")) == [(1, 1, 0, 0)]
    assert relays.value("SELECT count(*) FROM audit_logs WHERE database_id = 'd3'") == 2


def test_set_role_does_not_unbind(relays):
    relays.run("SELECT audit_allow_source('origin_relay', 'd1')")
    relay = relays.connect(user="origin_relay")
    relay.cursor().execute("SET ROLE origin_group")
    assert relays.ingest(batch([change(database="d2")]), relay) == (1, 0, 0, 1)
    assert relays.ingest(batch([change(database="d1")]), relay) == (1, 1, 0, 0)


DELIVER = """CREATE TABLE own (id bigint); GRANT INSERT ON own TO PUBLIC;
    CREATE FUNCTION deliver() RETURNS trigger LANGUAGE plpgsql %s AS
    $$ BEGIN PERFORM audit_ingest(%s::text); PERFORM audit_ingest(%s::jsonb); PERFORM audit_ingest(ARRAY[%s]); RETURN NEW; END $$;
    CREATE TRIGGER deliver BEFORE INSERT ON own FOR EACH ROW EXECUTE FUNCTION deliver()"""


def delivers_elsewhere(connection, rights):
    with connection.cursor() as cursor:
        cursor.execute(DELIVER % (rights, *(f"'{batch([change(n, database='d3')])}'" for n in range(3))))


def test_a_relay_is_bound_also_where_others_fire_its_trigger(roles, db):
    relay = roles("audit_cdc_ingest")
    db.run(f"SELECT audit_allow_source('{relay}', 'd1'); GRANT CREATE ON SCHEMA public TO {relay}")
    delivers_elsewhere(db.connect(user=relay), "SECURITY DEFINER")
    for role in (roles(), "postgres"):
        db.rows("INSERT INTO own VALUES (1) RETURNING 1", connection=db.connect(user=role))
    assert set(rejects(db)) == {("42501", "ingest", relay)} and db.value("SELECT count(*) FROM audit_logs") == 0


def test_a_relay_is_bound_also_where_capture_fires_its_trigger(roles, captured):  # noqa: F811
    relay = roles("audit_cdc_ingest", "audit_cdc_reader")
    captured.run(f"SELECT audit_allow_source('{relay}', 'd1'); DROP PUBLICATION audited; CREATE PUBLICATION audited FOR TABLE t; GRANT CREATE ON SCHEMA public TO {relay}")
    session = captured.connect(user=relay)
    delivers_elsewhere(session, "")
    captured.rows("SELECT audit_create_projection('own', %s)", "SELECT id FROM audit_new_logs WHERE table_name = 't'", connection=session)
    captured.run("INSERT INTO t VALUES (1, 'a')")
    until(lambda: captured.value("SELECT count(*) FROM own") == 1)
    assert set(rejects(captured)) == {("42501", "ingest", relay)}
    assert captured.rows("SELECT DISTINCT table_name FROM audit_logs") == [("t",)]


def test_who_is_not_bound_lends_a_relay_nothing(roles, db):
    """A function of a role that is bound to no source delivers what its caller may."""
    relay = roles("audit_cdc_ingest")
    db.run(f"SELECT audit_allow_source('{relay}', 'd1')")
    db.run("CREATE FUNCTION d(body text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT inserted FROM audit_ingest(body)'")
    session = db.connect(user=relay)
    assert [db.value("SELECT d(%s)", batch([change(database=named)]), connection=session) for named in ("d1", "d2")] == [1, 0]


def test_members_are_bound_and_superusers_only_by_what_they_were_granted(relays):
    relays.run("SELECT audit_allow_source('origin_group', 'd1')")
    for role, counts in (("origin_relay", (1, 0, 0, 1)), ("origin_other_relay", (1, 0, 0, 1)), ("postgres", (1, 1, 0, 0))):
        assert relays.ingest(batch([change(database="d2")]), relays.connect(user=role)) == counts, role
    superuser = relays.connect()
    superuser.cursor().execute("SET ROLE origin_group")
    assert relays.ingest(batch([change(1, database="d2")]), superuser) == (1, 0, 0, 1), "who acts as a relay is bound as it is"


def test_one_relays_reject_is_not_anothers(relays):
    """What the one may not store, the other's retry stores, and the other way round nothing comes in."""
    relays.run("SELECT audit_allow_source('origin_relay', 'd1')")
    bad = batch([change(record={"a\0": "b"}, database="d2")])
    for role in ROLES[:2]:
        assert relays.ingest(bad, relays.connect(user=role)) == (1, 0, 0, 1)
    assert sorted(rejects(relays)) == [("22P05", "ingest", "origin_other_relay"), ("42501", "ingest", "origin_relay")]


def test_a_reject_of_a_role_that_is_gone_stays_out(db):
    admin("DROP ROLE IF EXISTS origin_gone")
    admin("CREATE ROLE origin_gone LOGIN IN ROLE audit_cdc_ingest")
    try:
        db.run("SELECT audit_allow_source('origin_gone', 'd1')")
        assert db.ingest(batch([change(database="d2")]), db.connect(user="origin_gone")) == (1, 0, 0, 1)
    finally:
        admin("DROP ROLE origin_gone")
    assert db.rows("SELECT * FROM audit_retry_rejects()") == [(1, 0, 0, 1)]


def test_allowing_and_revoking(relays):
    relays.run("SELECT audit_allow_source('origin_relay', 'd1'), audit_allow_source('origin_relay', 'd1'), audit_allow_source('origin_relay', 'd2')")
    assert relays.rows("SELECT * FROM audit_allowed_sources ORDER BY 2") == [("origin_relay", "d1"), ("origin_relay", "d2")]
    assert relays.rows("SELECT audit_revoke_source('origin_relay', 'd1'), audit_revoke_source('origin_relay', 'd1')") == [(True, False)]
    assert "bound to no source" in notices(relays, "SELECT audit_revoke_source('origin_relay', 'd2')")
    assert relays.ingest(batch([change(database="d9")]), relays.connect(user="origin_relay")) == (1, 1, 0, 0)
    for call, expected in (("NULL, 'd1'", "22004"), ("'origin_relay', NULL", "22004"), ("'no_such_role', 'd1'", "42704"),
                           ("'origin_relay', audit_cdc_internal.this_database() ->> 'id'", "22023")):
        with pytest.raises(psycopg2.Error) as raised:
            relays.run(f"SELECT audit_allow_source({call})")
        assert raised.value.pgcode == expected, call
    for role in ROLES[:3]:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            relays.rows("SELECT audit_allow_source('origin_relay', 'd1')", connection=relays.connect(user=role))


def test_a_reject_of_capture_becomes_an_entry_of_capture(paused):  # noqa: F811
    """The owner's constraint stands for whatever capture could not store at first."""
    paused.run("INSERT INTO t VALUES (1, 'a')")
    capture(paused)
    paused.run("ALTER TABLE audit_cdc_internal.log ADD CONSTRAINT narrow CHECK (record_id <> '7')")
    paused.run("INSERT INTO t VALUES (7, 'b')")
    assert capture(paused) == 0
    assert rejects(paused) == [("23514", "capture", None)]
    paused.run("ALTER TABLE audit_cdc_internal.log DROP CONSTRAINT narrow")
    assert paused.rows("SELECT * FROM audit_retry_rejects()") == [(1, 1, 0, 0)]
    assert paused.rows("SELECT record_id, origin FROM audit_logs ORDER BY id") == [("1", "capture"), ("7", "capture")]


def test_a_captured_position_is_settled(paused):  # noqa: F811
    """And one beyond is not, and says so."""
    paused.run("INSERT INTO t VALUES (1, 'a')")
    capture(paused)
    last = paused.value("SELECT '0/0'::pg_lsn + commit_lsn FROM audit_logs")
    assert "not settled" not in notices(paused, "SELECT audit_as_of('t', lsn => %s)", last)
    assert "not settled" in notices(paused, "SELECT audit_as_of('t', lsn => 'FFFFFFFF/0')")


def test_nobody_describes_what_is_captured(paused):
    """A false key would hide rows of the table from as-of and undo."""
    described = json.dumps({"described_at": "2020-01-01T00:00:00Z", "tables": [
        {"table_schema": "public", "table_name": "t", "replica_identity": "full", "key_columns": ["id"], "column_types": {"id": "citext"}}]})
    paused.run("INSERT INTO audit_cdc_internal.captured_databases (database_id, database_name) VALUES ('elsewhere', 'restored from')")
    for database in (paused.value(HERE), "elsewhere"):
        with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState):
            paused.run("SELECT audit_describe_tables(%s, %s)", database, described)
