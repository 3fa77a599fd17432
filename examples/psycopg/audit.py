"""Transactions of a psycopg pool, signed by who makes them."""

from contextlib import contextmanager
from contextvars import ContextVar

SIGN = "SELECT audit_annotate(username => %s, source => %s, request_id => %s)"
current = ContextVar("signature")


@contextmanager
def signed(username=None, source=None, request_id=None):
    token = current.set((username, source, request_id))
    try:
        yield
    finally:
        current.reset(token)


@contextmanager
def transaction(pool):
    with pool.connection() as connection, connection.transaction():
        connection.execute(SIGN, current.get())
        yield connection
