"""The Python shops of examples/: the log tells who, from where and in which request, also when eight users ask at once."""

import sys

import pytest
from capture_helpers import source  # noqa: F401 (fixture)
from example_helpers import PYTHON, Shop, directly, is_signed, shop_database  # noqa: F401 (fixture)
from pgbouncer import pgbouncer

pytestmark = pytest.mark.once

UVICORN = (sys.executable, "-m", "uvicorn", "--port", "PORT", "--log-level", "warning")
DJANGO = (sys.executable, "manage.py", "runserver", "--noreload", "--skip-checks", "127.0.0.1:PORT")
SHOPS = {
    "django": Shop("django", *DJANGO, **PYTHON),
    "django, ATOMIC_REQUESTS": Shop("django", *DJANGO, **PYTHON, ATOMIC_REQUESTS="yes"),
    "django, ASGI": Shop("django", *UVICORN, "--lifespan", "off", "shop.asgi:application", **PYTHON, ATOMIC_REQUESTS="yes"),
    "psycopg": Shop("psycopg", sys.executable, "app.py", **PYTHON),
    "fastapi": Shop("fastapi", *UVICORN, "app:app", **PYTHON),
    "sqlalchemy": Shop("sqlalchemy", *UVICORN, "sync_app:app", **PYTHON),
    "sqlalchemy, async": Shop("sqlalchemy", *UVICORN, "async_app:app", **PYTHON),
}


@pytest.mark.parametrize("shop", SHOPS.values(), ids=SHOPS)
def test_nobody_signs_for_another(shop_database, shop):  # noqa: F811
    is_signed(shop_database, shop, directly(shop_database), seed=1)


@pytest.mark.parametrize("shop", SHOPS.values(), ids=SHOPS)
def test_nobody_signs_for_another_behind_pgbouncer(shop_database, shop):  # noqa: F811
    with pgbouncer(shop_database.name) as database:
        is_signed(shop_database, shop, database, seed=2)
