"""The shops of examples/ in Rust: the log tells who, from where and in which request, also when eight users ask at once."""

import pytest
from capture_helpers import source  # noqa: F401 (fixture)
from conftest import TOP
from example_helpers import Shop, directly, is_signed, shop_database  # noqa: F401 (fixture)
from pgbouncer import pgbouncer

pytestmark = pytest.mark.once

SHOPS = [Shop("rust", TOP / "target" / "debug" / f"shop-{name}") for name in ("sqlx", "tokio-postgres")]


@pytest.mark.parametrize("shop", SHOPS, ids=["sqlx", "tokio-postgres"])
def test_nobody_signs_for_another(shop_database, shop):  # noqa: F811
    is_signed(shop_database, shop, directly(shop_database), seed=1)


@pytest.mark.parametrize("shop", SHOPS, ids=["sqlx", "tokio-postgres"])
def test_nobody_signs_for_another_behind_pgbouncer(shop_database, shop):  # noqa: F811
    with pgbouncer(shop_database.name) as database:
        is_signed(shop_database, shop, database, seed=2)
