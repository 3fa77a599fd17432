"""audit_cdc.skip_missing_nodes: what audit_all_logs shows while a node is away."""

import contextlib

import pytest
from conftest import admin
from projection_helpers import code, roles, run  # noqa: F401 (fixture)
from test_links import ODD, error, eu, let, linked, nodes, plan, serve, us  # noqa: F401 (fixtures)

AWAY = 'could not connect to server "away"'
LEFT_OUT = f'WARNING:  node "away" is left out\nDETAIL:  {AWAY}: '
SKIP = "-c audit_cdc.skip_missing_nodes=on"
QUERY = "SELECT node, count(*) FROM audit_all_logs WHERE username = 'u1' GROUP BY node ORDER BY node"
ALL = [("eu", 2), ("here", 2), (ODD, 3)]


@pytest.fixture
def one_away(linked, eu):
    """Three that are there, and one that is not."""
    serve(linked, "away", eu, port=1)
    linked.run("SELECT audit_link('away')")
    return linked


@contextlib.contextmanager
def away(node):
    """It takes no connection, and loses those that it has."""
    admin(f"ALTER DATABASE {node.name} ALLOW_CONNECTIONS false")
    admin(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{node.name}'")
    try:
        yield
    finally:
        admin(f"ALTER DATABASE {node.name} ALLOW_CONNECTIONS true")


def warned(session):
    """Which nodes were left out since it was asked last."""
    told = [notice.split('"')[1::2] for notice in session.notices]
    session.notices.clear()
    return [told_[0] for told_ in told]


def test_it_is_left_out_with_a_warning(one_away):
    session = one_away.connect(options=SKIP)
    assert run(session, QUERY) == ALL
    (warning,) = session.notices
    assert warning.startswith(LEFT_OUT)
    session.notices.clear()
    run(session, "SET audit_cdc.skip_missing_nodes = off")
    assert error(one_away, QUERY, connection=session).diag.message_primary == AWAY and warned(session) == []


def test_what_goes_to_the_others_is_as_before(one_away):
    for skip in ("on", "off"):
        one_away.run(f"ALTER DATABASE {one_away.name} SET audit_cdc.skip_missing_nodes = {skip}")
        others = 2 if skip == "on" else 3
        filtered = plan(one_away, "SELECT node, id FROM audit_all_logs WHERE record_id = '1' AND username = 'u1'")
        assert filtered.count("Async Foreign Scan") == filtered.count("WHERE ((record_id = '1')) AND ((username = 'u1'))") == others
        ordered = plan(one_away, "SELECT node, id FROM audit_all_logs ORDER BY commit_timestamp DESC LIMIT 50")
        assert "Merge Append" in ordered and ordered.count("ORDER BY commit_timestamp DESC") == others
        assert "node_to_read" not in filtered + ordered


@pytest.mark.parametrize("query", [
    "SELECT count(*) FROM (VALUES ('eu'), ('away')) AS v(node) LEFT JOIN audit_all_logs AS l USING (node)",
    "SELECT count(*) FROM audit_all_logs AS a JOIN audit_all_logs AS b USING (node, id)",
    "SELECT EXISTS (SELECT FROM audit_all_logs AS l WHERE l.username = v.name) FROM (VALUES ('u1')) AS v(name)",
    "SELECT DISTINCT ON (node) node, id FROM audit_all_logs ORDER BY node, id",
    "WITH l AS MATERIALIZED (SELECT * FROM audit_all_logs) SELECT count(*) FROM l WHERE node = 'away'",
    "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM audit_all_logs",
    "CREATE TEMP TABLE copied AS SELECT * FROM audit_all_logs",
])
def test_it_is_left_out_of_whatever_asks(one_away, query):
    session = one_away.connect(options=SKIP)
    run(session, query)
    assert set(warned(session)) == {"away"}


def test_a_node_that_is_not_meant_is_not_connected(one_away):
    session = one_away.connect(options=SKIP)
    for condition in ("node = 'eu'", "node <> 'away'", "node IN ('here', 'eu') ORDER BY node", "node LIKE 'e%'", "node = ANY ('{eu,here}') AND username = 'u1'", "NOT node > 'a' OR node = 'here'"):
        assert run(session, f"SELECT node FROM audit_all_logs WHERE {condition}") is not None
        assert warned(session) == [], condition


def test_nothing_is_left_out_where_nobody_would_see_the_warning(one_away):
    """So the owner of the database cannot hide by settings that a node is missing."""
    one_away.run(f"ALTER DATABASE {one_away.name} SET client_min_messages = error")
    one_away.run(f"ALTER DATABASE {one_away.name} SET audit_cdc.skip_missing_nodes = on")
    session = one_away.connect()
    assert error(one_away, QUERY, connection=session).diag.message_primary == AWAY
    run(session, "SET client_min_messages = warning")
    assert run(session, QUERY) == ALL and warned(session) == ["away"]


def test_only_who_cannot_be_connected_is_left_out(roles, linked):
    """A node that refuses the reader is an error with the setting too."""
    reader, stranger = roles("audit_cdc_reader"), roles()
    session = linked.connect(user=reader, options=SKIP)
    assert error(linked, QUERY, connection=session).pgcode == "42704"  # no user mapping
    let(linked, reader, "eu")
    let(linked, reader, ODD, stranger)
    assert error(linked, QUERY, connection=session).pgcode == "42501" and warned(session) == []
    assert code(linked.connect(user=stranger), "SELECT audit_cdc_internal.connects('eu')") == "42501"


@pytest.mark.parametrize("asked", ["EXECUTE asked", "SELECT * FROM asked()"])
def test_no_plan_is_kept(linked, eu, asked):
    """Plans of prepared statements and functions follow the setting, and nodes that go and come back."""
    session = linked.connect(options=SKIP)
    run(session, f"PREPARE asked AS {QUERY}")
    linked.run(f"CREATE FUNCTION asked() RETURNS TABLE (node text, n bigint) LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY {QUERY}; END $$".replace("SELECT node", "SELECT l.node")
               .replace("BY node", "BY 1").replace("audit_all_logs", "audit_all_logs AS l"))
    without = [row for row in ALL if row[0] != "eu"]
    for _ in range(2):
        assert run(session, asked) == ALL and warned(session) == []
        with away(eu):
            assert run(session, asked) == without and warned(session) == ["eu"]
            assert run(session, asked) == without and warned(session) == ["eu"]
            run(session, "SET audit_cdc.skip_missing_nodes = off")
            assert code(session, asked) == "08001" and warned(session) == []
            run(session, "BEGIN; SET LOCAL audit_cdc.skip_missing_nodes = on")
            assert run(session, asked) == without and warned(session) == ["eu"]
            run(session, "SET LOCAL audit_cdc.skip_missing_nodes = off; SAVEPOINT s")
            assert code(session, asked) == "08001"
            run(session, "ROLLBACK TO s; SET LOCAL audit_cdc.skip_missing_nodes = on")
            assert run(session, asked) == without and warned(session) == ["eu"]
            run(session, "ROLLBACK")
            assert code(session, asked) == "08001" and warned(session) == []
            run(session, "SET audit_cdc.skip_missing_nodes = on")
        assert run(session, asked) == ALL and warned(session) == []


def test_a_connection_that_is_lost_in_a_transaction(linked, eu):
    session = linked.connect(options=SKIP)
    run(session, "BEGIN")
    assert run(session, QUERY) == ALL
    with away(eu):
        lost = code(session, QUERY)
    # by whatever it is noticed: it is not left out in silence
    assert lost is not None or warned(session) == ["eu"]
    run(session, "ROLLBACK")
    assert run(session, QUERY) == ALL
