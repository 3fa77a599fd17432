"""What PostgreSQL gathers of the log's values tells them to nobody who may not read it."""

import pytest
from conftest import batch, change
from projection_helpers import code, project, roles, run  # noqa: F401

LEAK = """CREATE FUNCTION leak(value text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS $$
          BEGIN RAISE NOTICE 'seen: %', value; RETURN true; END $$"""


@pytest.fixture
def analyzed(db):
    project(db)
    db.ingest(batch([change(n, record={"id": n, "value": f"secret {n % 3}"}, annotations={"username": ("ada", "bob")[n % 2]}) for n in range(200)]))
    db.run("CREATE STATISTICS public.together ON table_schema, table_name FROM audit_cdc_internal.audited_tables; ANALYZE")
    assert db.value("SELECT count(*) FROM pg_stats WHERE schemaname = 'audit_cdc_internal' AND concat(most_common_vals, histogram_bounds) ~ 'secret'") > 0
    return db


@pytest.mark.parametrize("groups", [(), ("audit_cdc_ingest",), ("audit_cdc_reader",), ("audit_cdc_admin",)])
def test_statistics_of_internal_tables(roles, analyzed, groups):  # noqa: F811
    """Readers read views; the tables behind them, and what was gathered of those, are nobody's."""
    session = analyzed.connect(user=roles(*groups))
    for view in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"):
        assert run(session, f"SELECT * FROM {view} WHERE schemaname = 'audit_cdc_internal' OR tablename ~ '^audit'") == [], view
    assert run(session, "SELECT last_value FROM pg_sequences WHERE schemaname = 'audit_cdc_internal' AND last_value IS NOT NULL") == []
    assert code(session, "SELECT * FROM pg_statistic") == code(session, "SELECT * FROM audit_cdc_internal.log") == "42501"
    assert run(session, "SELECT * FROM pg_stats WHERE schemaname = 'public' AND tablename = 'feed'") == [], "of a target its owner"


def test_plans_are_for_readers(roles, analyzed):  # noqa: F811
    stranger = analyzed.connect(user=roles())
    for view in ("audit_logs", "audit_rejects", "audit_schema_changes", "audit_gaps"):
        assert code(stranger, f"EXPLAIN SELECT * FROM {view}") == "42501", view
    for call in ("audit_history('orders')", "audit_as_of('orders')", "audit_status()"):
        assert code(stranger, f"EXPLAIN SELECT {call}") == "42501", call


@pytest.mark.parametrize("options, seen", [("", {"a", "b"}), ("WITH (security_barrier)", {"a"})])
def test_a_view_for_who_may_see_some_rows(roles, analyzed, options, seen):  # noqa: F811
    """As docs/projections.md says: without a barrier, a function in WHERE is shown the other rows too."""
    analyzed.ingest(batch([change(1000 + n, table=table, record={"id": 1, "table": table}) for n, table in enumerate("ab")]))
    analyzed.run(f"CREATE VIEW mine {options} AS SELECT record_id, new_values FROM audit_logs WHERE table_name = 'a'")
    role = roles()
    analyzed.run(f"GRANT SELECT ON mine TO {role}; GRANT CREATE ON SCHEMA public TO {role}")
    session = analyzed.connect(user=role)
    try:
        run(session, LEAK)
        assert run(session, "SELECT count(*) FROM mine WHERE leak(new_values ->> 'table')") == [(1,)]
        assert {table for table in "ab" if f"seen: {table}" in "".join(session.notices)} == seen
    finally:
        analyzed.run(f"DROP OWNED BY {role}")
