"""Transactions of a psycopg pool, signed by who makes them."""

from contextlib import contextmanager
from contextvars import ContextVar

SIGN = """SELECT set_config('audit_cdc.username', %s::text, true), set_config('audit_cdc.source', %s::text, true),
                 set_config('audit_cdc.request_id', %s::text, true)"""
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
