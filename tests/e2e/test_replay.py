"""audit_replay_sql: the log as SQL gives the rows elsewhere."""

import random

import pytest
from capture_helpers import captured, publish, source, start, table  # noqa: F401 (fixtures)
from test_undo import SHOP, TABLES, shop, state, work  # noqa: F401 (fixtures)


@pytest.mark.parametrize("seed", range(20, 23))
def test_the_rows_of_all_tables_elsewhere(shop, seed):
    """Also of one whose key is GENERATED ALWAYS."""
    shop.run("INSERT INTO notes (body) VALUES ('{}'), ('[]')")
    shop.run("UPDATE notes SET body = '{\"seen\": true}'")
    rows = work(shop, random.Random(seed), 20)[-1][1]
    statements = [statement for name in TABLES for (statement,) in shop.rows("SELECT statement FROM audit_replay_sql(%s)", name)]
    shop.run("CREATE SCHEMA elsewhere; SET search_path = elsewhere;" + SHOP)
    shop.run("SET session_replication_role = replica;" + "".join(statements).replace("public.", "elsewhere."))
    assert {name: shop.rows(f"SELECT t::text FROM elsewhere.{name} AS t ORDER BY 1") for name in TABLES} == rows
