"""What the tests of audit_cast and audit_row share: a database on one connection, its types and a table."""

import contextlib
import os

import psycopg2
import pytest
from cast_types import USER_TYPES
from conftest import Database, admin, numbers

SETTINGS = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c bytea_output=hex -c lc_monetary=C"
# a value as its type's output function writes it: a cast to text would strip char(n)
OUT = """CREATE FUNCTION written(v anyelement) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN RETURN CASE WHEN v IS DISTINCT FROM NULL THEN format('%s', v) END; END $$"""


class Session(Database):
    """All on one connection, with the settings under which the truth was written."""

    def connect(self, **options):
        if not hasattr(self, "connection"):
            self.connection = super().connect(options=SETTINGS, **options)
        return self.connection


@contextlib.contextmanager
def session():
    name = f"audit_{os.getpid()}_{next(numbers)}"
    admin(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    db = Session(name)
    db.run("CREATE EXTENSION audit_cdc")
    db.run(OUT)
    try:
        with contextlib.suppress(psycopg2.errors.FeatureNotSupported):
            db.has_xml = False
            db.run("SELECT xml '<a/>'")
            db.has_xml = True
        yield db
    finally:
        admin(f"DROP DATABASE {name} WITH (FORCE)")


def identifier(name):
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture(scope="module")
def types():
    with session() as db:
        db.run(USER_TYPES)
        yield db


@pytest.fixture
def users(types):
    types.run("""DROP TABLE IF EXISTS users; CREATE TABLE users (id int8, "full name" varchar(20), gone int, price numeric(10,2), "Tags" text[]);
                 ALTER TABLE users DROP gone""")
    return types


def present(db, type_):
    if type_ == "xml" and not db.has_xml:
        pytest.skip("this PostgreSQL is built without libxml: no value is valid")
