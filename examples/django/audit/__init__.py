"""Who makes the changes of this task or thread, and the middleware that says so for a request."""

from contextlib import contextmanager
from contextvars import ContextVar
from uuid import uuid4

current = ContextVar("signature", default=None)


@contextmanager
def signed(username=None, source=None, request_id=None):
    token = current.set((username, source, request_id))
    try:
        yield
    finally:
        current.reset(token)


class AuditMiddleware:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        request_id = request.headers.get("X-Request-Id") or str(uuid4())
        with signed(request.user.get_username() or None, "web", request_id):
            return self.get_response(request)
