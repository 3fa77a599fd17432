"""The shops of examples/ for Node: the log tells who, from where and in which request, also when eight users ask at once."""

import shutil

import pytest
from capture_helpers import source  # noqa: F401 (fixture)
from conftest import TOP
from example_helpers import Shop, directly, is_signed, shop_database  # noqa: F401 (fixture)
from pgbouncer import pgbouncer

pytestmark = pytest.mark.once

PACKAGES = TOP / "target" / "frameworks" / "node"


@pytest.fixture(params=["node-postgres", "drizzle", "prisma"])
def shop(request, tmp_path):
    """A copy of it, beside the packages: Node looks for them in the folders above the program."""
    folder = tmp_path / request.param
    shutil.copytree(TOP / "examples" / request.param, folder)
    (tmp_path / "node_modules").symlink_to(PACKAGES / "node_modules")
    return Shop(folder, PACKAGES / "bin" / "node", "app.mjs")


def test_nobody_signs_for_another(shop_database, shop):  # noqa: F811
    is_signed(shop_database, shop, directly(shop_database), seed=1)


def test_nobody_signs_for_another_behind_pgbouncer(shop_database, shop):  # noqa: F811
    with pgbouncer(shop_database.name) as database:
        is_signed(shop_database, shop, database, seed=2)
