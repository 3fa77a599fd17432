"""Each transaction of an engine begins with a signature; an ASGI middleware knows whose."""

from contextlib import contextmanager
from contextvars import ContextVar
from uuid import uuid4

from sqlalchemy import event, text

SIGN = text("""SELECT set_config('audit_cdc.username', :username, true), set_config('audit_cdc.source', :source, true),
                      set_config('audit_cdc.request_id', :request_id, true)""")
current = ContextVar("signature", default=None)


def sign_transactions(engine):
    @event.listens_for(engine, "begin")
    def sign(connection):
        if current.get():
            connection.execute(SIGN, current.get())


@contextmanager
def signed(username=None, source=None, request_id=None):
    token = current.set({"username": username, "source": source, "request_id": request_id})
    try:
        yield
    finally:
        current.reset(token)


class AuditMiddleware:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = {name.decode().lower(): value.decode() for name, value in scope.get("headers", ())}
        with signed(headers.get("x-user"), "web", headers.get("x-request-id") or str(uuid4())):
            await self.app(scope, receive, send)
